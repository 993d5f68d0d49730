"""OpenStack Swift with its S3 interface, all in one process: `python swift_server.py FOLDER`.

Prints its URL when it answers, keeps everything below the folder, ends with its standard input.
Every request has to be signed with `KEY_ID` and `SECRET`.
"""

import eventlet

eventlet.monkey_patch()

import sys  # noqa: E402  (after the line above, which must come before all else)
from pathlib import Path  # noqa: E402

from eventlet import wsgi  # noqa: E402
from swift.common.http_protocol import SwiftHttpProtocol  # noqa: E402
from swift.common.ring import RingBuilder  # noqa: E402
from swift.common.storage_policy import reload_storage_policies  # noqa: E402
from swift.common.utils import NullLogger, set_swift_dir  # noqa: E402
from swift.common.wsgi import loadapp  # noqa: E402

KEY_ID, SECRET, REGION = "archive:keeper", "secret", "us-west-2"

SWIFT = """
[swift-hash]
swift_hash_path_suffix = archive
[storage-policy:0]
name = one
default = yes
"""

STORAGE = """
[DEFAULT]
swift_dir = {folder}
devices = {folder}
mount_check = false
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""

PROXY = """
[DEFAULT]
swift_dir = {folder}
[pipeline:main]
pipeline = catch_errors gatekeeper listing_formats s3api tempauth proxy-server
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
location = {region}
max_bucket_listing = 10
[filter:tempauth]
use = egg:swift#tempauth
user_{user} = {secret} .admin
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
"""


def serve(folder: Path) -> None:
    """Lay out one disk and its rings, start the four servers, wait for the end of the input."""
    (folder / "disk").mkdir(parents=True)
    (folder / "swift.conf").write_text(SWIFT)
    set_swift_dir(str(folder))
    reload_storage_policies()
    listening = {k: eventlet.listen(("127.0.0.1", 0)) for k in ("account", "container", "object")}
    for kind, socket in listening.items():
        builder = RingBuilder(part_power=4, replicas=1, min_part_hours=0)
        builder.add_dev(
            {"region": 1, "zone": 1, "weight": 1, "device": "disk",
             "ip": "127.0.0.1", "port": socket.getsockname()[1]}
        )  # fmt: skip
        builder.rebalance()
        builder.get_ring().save(str(folder / f"{kind}.ring.gz"))
        (folder / f"{kind}.conf").write_text(STORAGE.format(folder=folder, kind=kind))
    listening["proxy"] = eventlet.listen(("127.0.0.1", 0))
    user = KEY_ID.replace(":", "_")
    (folder / "proxy.conf").write_text(
        PROXY.format(folder=folder, region=REGION, user=user, secret=SECRET)
    )
    for kind, socket in listening.items():
        app = loadapp(str(folder / f"{kind}.conf"))
        eventlet.spawn(
            wsgi.server, socket, app, log=NullLogger(), protocol=SwiftHttpProtocol, max_size=64
        )
    print(f"http://127.0.0.1:{listening['proxy'].getsockname()[1]}", flush=True)
    eventlet.tpool.execute(sys.stdin.read)


if __name__ == "__main__":
    serve(Path(sys.argv[1]).resolve())
