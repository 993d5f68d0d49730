"""The local S3 service: it answers unsigned requests as the archive does and leaves nothing."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import boto3
import obstore
import obstore.store
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from obstore.exceptions import PreconditionError

from desi_fits_to_parquet.simulate.serve import delete_object, put_object, serve_archive

BUCKET = "desidata"
MANY = 1100


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive")
    (path / "dr1/a").mkdir(parents=True)
    (path / "dr1/a/data.bin").write_bytes(bytes(range(256)) * 40)
    (path / "dr1/a/.hidden").write_text("not part of the archive")
    (path / "dr1/many").mkdir()
    for i in range(MANY):
        (path / f"dr1/many/{i:05d}.txt").write_text(str(i))
    return path


@pytest.fixture(scope="module")
def endpoint(folder: Path) -> Iterator[str]:
    with serve_archive(folder, BUCKET) as url:
        yield url


def status(url: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, headers=names, method=method)
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, response.read(), dict(response.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), dict(error.headers)


def test_unsigned_get_head_and_range_are_answered(endpoint: str) -> None:
    url = f"{endpoint}/{BUCKET}/dr1/a/data.bin"
    assert status(url)[:2] == (200, bytes(range(256)) * 40)
    code, data, headers = status(url, "HEAD")
    assert (code, data, headers["Content-Length"]) == (200, b"", "10240")
    code, data, headers = status(url, Range="bytes=10-19")
    assert (code, data) == (206, bytes(range(10, 20)))
    assert headers["content-range"] == "bytes 10-19/10240"
    assert status(f"{endpoint}/{BUCKET}/dr1/a/nothing.bin")[0] == 404


def test_hidden_files_are_not_served(endpoint: str) -> None:
    assert status(f"{endpoint}/{BUCKET}/dr1/a/.hidden")[0] == 404


def test_listing_goes_on_behind_a_thousand_keys(endpoint: str) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-west-2",
        config=Config(signature_version=UNSIGNED),
    )
    pages = list(
        client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="dr1/many/")
    )
    assert len(pages) == 2
    keys = [item["Key"] for page in pages for item in page["Contents"]]
    assert keys == [f"dr1/many/{i:05d}.txt" for i in range(MANY)]
    levels = client.list_objects_v2(Bucket=BUCKET, Prefix="dr1/", Delimiter="/")
    assert [level["Prefix"] for level in levels["CommonPrefixes"]] == ["dr1/a/", "dr1/many/"]


def test_if_match_refuses_an_object_that_was_replaced(endpoint: str, tmp_path: Path) -> None:
    store = obstore.store.S3Store(
        BUCKET,
        endpoint=endpoint,
        region="us-west-2",
        skip_signature=True,
        client_options={"allow_http": True},
    )
    file = tmp_path / "file"
    key = "dr1/with space/new+file.bin"
    for text in ("first", "other"):
        file.write_text(text)
        put_object(endpoint, BUCKET, key, file)
        tag = str(obstore.head(store, key)["e_tag"])
        if text == "first":
            first = tag
    assert tag != first
    options: obstore.GetOptions = {"range": (1, 3), "if_match": tag}
    assert bytes(obstore.get(store, key, options=options).bytes()) == b"th"
    with pytest.raises(PreconditionError):
        obstore.get(store, key, options={"range": (1, 3), "if_match": first})
    delete_object(endpoint, BUCKET, key)
    with pytest.raises(FileNotFoundError):
        obstore.head(store, key)


def test_foreign_credentials_and_profiles_are_not_needed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with serve_archive(folder / "dr1/a", "other") as url:
        assert status(f"{url}/other/data.bin", Range="bytes=0-0")[0] == 206


def test_service_that_cannot_start_says_so(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="did not start"),
        serve_archive(tmp_path, "x"),  # S3 wants three letters
    ):
        pass


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(NotADirectoryError, match="nowhere"),
        serve_archive(tmp_path / "nowhere", BUCKET),
    ):
        pass


def is_up(url: str) -> bool:
    try:
        urllib.request.urlopen(url)
    except urllib.error.HTTPError as error:
        error.close()
    except (urllib.error.URLError, ConnectionError):
        return False
    return True


def wait_until_down(url: str) -> bool:
    deadline = time.monotonic() + 20
    while is_up(url):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_service_ends_with_the_block_even_when_it_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), serve_archive(tmp_path, BUCKET) as url:
        assert is_up(url)
        raise KeyboardInterrupt
    assert not is_up(url)


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_service_ends_when_its_parent_is_killed(tmp_path: Path, signal_number: int) -> None:
    script = (
        "import sys, time; from pathlib import Path\n"
        "from desi_fits_to_parquet.simulate.serve import serve_archive\n"
        f"with serve_archive(Path({str(tmp_path)!r}), {BUCKET!r}) as url:\n"
        "    print(url, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        url = parent.stdout.readline().strip()
        assert is_up(url)
        os.kill(parent.pid, signal_number)
        assert wait_until_down(url)
