"""An S3 service on this machine that holds a folder's files: for the demo and the tests.

The service is moto's, in a process of its own that ends with its parent, however that ends.
Unsigned requests are answered as the DESI archive answers them: listing, HEAD, GET, ranges,
If-Match.
"""

import argparse
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_REGION = "us-west-2"


@contextmanager
def serve_archive(folder: Path, bucket: str) -> Iterator[str]:
    """Serve a folder as a bucket of a local S3 service.

    Parameters
    ----------
    folder
        Each file below it becomes an object; its key is the path relative to the folder. Files
        whose name begins with a dot are left out.
    bucket
        Name of the bucket.

    Yields
    ------
    str
        URL of the service, for example `http://127.0.0.1:40123`; requests need no signature.

    Raises
    ------
    NotADirectoryError
        Where there is no such folder.
    RuntimeError
        Where the service does not start; its own message is on stderr.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: no folder to serve as an archive")
    command = [sys.executable, "-m", __name__, str(folder), bucket]
    # a session of its own: Ctrl-C stops the run first, the service after it
    with subprocess.Popen(  # noqa: S603  (our own module)
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdin is not None  # noqa: S101  (for the type checker)
        assert process.stdout is not None  # noqa: S101  (likewise)
        try:
            endpoint = process.stdout.readline().strip()
            if not endpoint:
                raise RuntimeError(
                    f"the local S3 service for {folder} did not start "
                    f"(exit code {process.wait()}); see its message above"
                )
            yield endpoint
        finally:
            process.kill()


def put_object(endpoint: str, bucket: str, key: str, path: Path) -> None:
    """Add or replace an object of a served archive by a file."""
    _request("PUT", endpoint, bucket, key, path.read_bytes())


def delete_object(endpoint: str, bucket: str, key: str) -> None:
    """Delete an object of a served archive."""
    _request("DELETE", endpoint, bucket, key)


def _request(method: str, endpoint: str, bucket: str, key: str, data: bytes | None = None) -> None:
    url = f"{endpoint}/{bucket}/{urllib.parse.quote(key)}"
    # without a content type urllib sends that of a form, whose body the service takes apart
    headers = {"x-amz-acl": "public-read", "Content-Type": "binary/octet-stream"}
    request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310  (local)
    with urllib.request.urlopen(request) as response:  # noqa: S310  (local)
        response.read()


def _serve(folder: Path, bucket: str) -> None:
    """Hold the files in memory, print the URL, serve until stdin is closed."""
    import gc
    import logging

    from moto.core.models import DEFAULT_ACCOUNT_ID
    from moto.s3.models import get_canned_acl, s3_backends
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request otherwise
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    backend.create_bucket(bucket, _REGION)
    readable = get_canned_acl("public-read")
    backend.put_bucket_acl(bucket, readable)
    gc.disable()  # searching a hundred thousand keys for garbage doubles the time to load them
    for path in sorted(folder.rglob("[!.]*")):
        if path.is_file():
            key = path.relative_to(folder).as_posix()
            # the object's own ACL: with a public bucket policy instead, HEAD is refused
            backend.put_object(bucket, key, path.read_bytes()).set_acl(readable)
    gc.freeze()
    gc.enable()
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    print(f"http://{host}:{port}", flush=True)  # noqa: T201  (the parent waits for it)
    # a parent that dies closes the pipe, also when it is killed
    sys.stdin.read()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve a folder as an S3 bucket until stdin ends.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("bucket")
    given = parser.parse_args()
    _serve(given.folder, given.bucket)
