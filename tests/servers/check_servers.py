"""The workflow over S3 servers of other kinds: `make test-servers`. Not collected by `make test`.

s3rver answers unsigned requests and does not look at If-Match. Swift demands signatures, which it
checks, and looks at everything. Both list ten keys a page.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import boto3
import pytest
import yaml
from botocore.config import Config
from reader_trees import collect, simulate
from running import BUCKET, Work, checkout, write_tile

from desi_fits_to_parquet import open_catalog
from desi_fits_to_parquet.config import load_config
from desi_fits_to_parquet.publish.copy import publish
from desi_fits_to_parquet.simulate.serve import serve_archive
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.tiles_csv import write_tiles

HERE = Path(__file__).parent
REGION = "us-west-2"
TILES = [Tile("main", "dark", 100), Tile("main", "dark", 11223), Tile("sv3", "dark", 27257)]

pytestmark = pytest.mark.timeout(600)


class Server(NamedTuple):
    """How a server is started, and the keys with which its bucket is filled.

    `profile` is `archive.profile`: with it the workflow signs with these keys, otherwise not.
    """

    command: tuple[str, ...]
    key_id: str
    secret: str
    profile: str | None = None


SERVERS = {
    "s3rver": Server(
        # its tokens for the next page are made with DES
        ("node", "--openssl-legacy-provider", str(HERE / "s3rver.js")), "S3RVER", "S3RVER"
    ),
    "swift": Server(
        (sys.executable, str(HERE / "swift_server.py")), "archive:keeper", "secret", "keeper"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    for tile in TILES:
        write_tile(folder, tile)
    return folder


@contextmanager
def running(server: Server, archive: Path, folder: Path) -> Iterator[str]:
    """Start a server, fill its bucket with the files of the archive, and give its URL."""
    with subprocess.Popen(
        [*server.command, str(folder / "data")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        try:
            endpoint = process.stdout.readline().strip()
            assert endpoint, "it did not start: see its message above"
            client = boto3.client(
                "s3", endpoint_url=endpoint, region_name=REGION, aws_access_key_id=server.key_id,
                aws_secret_access_key=server.secret, config=Config(s3={"addressing_style": "path"}),
            )  # fmt: skip
            client.create_bucket(
                Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
            )
            for path in sorted(archive.rglob("*.*")):
                key = path.relative_to(archive).as_posix()
                client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
            yield endpoint
        finally:
            process.kill()


@pytest.fixture(scope="module", params=SERVERS)
def other(
    request: pytest.FixtureRequest, archive: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, str]]:
    server = SERVERS[request.param]
    with running(server, archive, tmp_path_factory.mktemp("server")) as endpoint:
        yield server, endpoint


def convert(work: Work, endpoint: str, mode: str, profile: str | None = None) -> None:
    """Convert all tiles; every byte of a source is compared with its sums (audit_fraction: 1)."""
    settings = {
        "archive": {"region": REGION, "profile": profile},
        "transfer": {"mode": mode, "audit_fraction": 1},
    }
    (work.folder / "servers.yaml").write_text(yaml.safe_dump(settings))
    work.run(endpoint, "tiles", "--configfile", "servers.yaml")


@pytest.fixture(scope="module")
def right(
    archive: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, str]]:
    """Checksums of the Parquet that come of the project's own server in a mode."""

    @cache
    def converted(mode: str) -> dict[str, str]:
        work = checkout(tmp_path_factory.mktemp("own"))
        with serve_archive(archive, BUCKET) as endpoint:
            convert(work, endpoint, mode)
        return work.parquet()

    return converted


def give_keys(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the profile `keeper` hold the server's keys."""
    keys = folder / "credentials"
    keys.write_text(
        f"[keeper]\naws_access_key_id = {server.key_id}\naws_secret_access_key = {server.secret}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "no-config"))


@pytest.mark.parametrize("mode", ["rows", "files"])
def test_another_server_gives_the_same_parquet(
    other: tuple[Server, str], mode: str, right: Callable[[str], dict[str, str]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    server, endpoint = other
    give_keys(server, tmp_path, monkeypatch)
    work = checkout(tmp_path / "work")
    convert(work, endpoint, mode, server.profile)
    markers = work.markers()
    assert {tile: markers[tile]["outcome"] for tile in TILES} == dict.fromkeys(TILES, "converted")
    assert work.parquet() == right(mode)
    assert work.leftovers() == []


def test_another_server_takes_the_collection_and_gives_it_to_readers(
    other: tuple[Server, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, endpoint = other
    give_keys(server, tmp_path, monkeypatch)
    tiles = [Tile("main", "dark", 10000)]
    settings = load_config(checkout(tmp_path / "work").folder / "config/schema.yaml")
    results = collect(simulate(tmp_path / "fits", tiles), tmp_path / "results", settings, tiles)
    write_tiles(results / "tiles.csv", {tile: {} for tile in tiles})
    place = f"s3://{BUCKET}/published/dr1"

    def send() -> tuple[int, ...]:
        return publish(results, place, profile="keeper", endpoint=endpoint, region=REGION)

    first = send()
    assert first[0] > 10
    assert send() == (0, first[0], 0, 0)
    (results / "catalog/partition_info.csv").write_text("other text\n")
    assert send()[:3] == (3, first[0] - 3, 0)
    (results / "catalog/partition_info.csv").write_text("Norder,Npix\n1,9\n")
    send()
    far = open_catalog(
        place, endpoint=endpoint, region=REGION, profile=server.profile, cache=tmp_path / "kept"
    )
    near = open_catalog(results)
    assert far.to_arrow() == near.to_arrow()
    assert (far.spectra().flux == near.spectra().flux).all()
