"""The explorer without a browser: its server, its page, and what it and the library both state."""

import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY

from desi_fits_to_parquet.cli import main
from desi_fits_to_parquet.explorer.page import STATIC, write_page
from desi_fits_to_parquet.explorer.serve import make_server, page_address
from desi_fits_to_parquet.outcomes import OUTCOMES
from desi_fits_to_parquet.record.selection import ZWARN_BITS
from desi_fits_to_parquet.report.style import OUTCOME_STYLE

DATA = bytes(range(256)) * 4
SOURCES = REPOSITORY / "explorer/src"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A served results folder beside which lies a file that is nobody's business."""
    results = tmp_path_factory.mktemp("parent") / "results"
    (results / "catalog").mkdir(parents=True)
    (results / "catalog/data.parquet").write_bytes(DATA)
    (results.parent / "secret").write_text("not served")
    with make_server(results) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield page_address(server).removesuffix("/explorer/")
        server.shutdown()
        thread.join()


def get(address: str, wanted: str | None = None) -> tuple[int, str | None, bytes]:
    """Return status, Content-Range and body."""
    request = urllib.request.Request(address, headers={"Range": wanted} if wanted else {})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.headers["Content-Range"], answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Range"], b""


@pytest.mark.parametrize(
    ("wanted", "first", "end"),
    [("0-9", 0, 10), ("1000-", 1000, 1024), ("-24", 1000, 1024), ("1020-9999", 1020, 1024)],
)
def test_the_server_gives_ranges(address: str, wanted: str, first: int, end: int) -> None:
    answer = get(f"{address}/catalog/data.parquet", f"bytes={wanted}")
    assert answer == (206, f"bytes {first}-{end - 1}/1024", DATA[first:end])


@pytest.mark.parametrize("wanted", ["-5000", "0-"])
def test_a_range_of_more_than_there_is_is_the_whole(address: str, wanted: str) -> None:
    answer = get(f"{address}/catalog/data.parquet", f"bytes={wanted}")
    assert answer == (206, "bytes 0-1023/1024", DATA)


def test_a_range_beyond_the_end_is_refused(address: str) -> None:
    assert get(f"{address}/catalog/data.parquet", "bytes=1024-") == (416, "bytes */1024", b"")


@pytest.mark.parametrize("wanted", ["bytes=0-1,5-6", "bytes=-", "rows=0-1", "bytes=9-2"])
def test_what_is_no_single_range_is_not_taken_for_one(address: str, wanted: str) -> None:
    status, _, body = get(f"{address}/catalog/data.parquet", wanted)
    assert (status, body) in ((200, DATA), (416, b""))


def test_the_page_is_served_where_the_results_hold_none(address: str) -> None:
    page = (STATIC / "index.html").read_bytes()
    assert get(f"{address}/") == get(f"{address}/explorer/") == (200, None, page)


@pytest.mark.parametrize("path", ["/../secret", "/explorer/../../secret", "/%2e%2e/secret"])
def test_nothing_beside_the_results_is_served(address: str, path: str) -> None:
    assert get(address + path)[0] == 404


def test_no_folder_is_listed(address: str) -> None:
    assert get(f"{address}/catalog/")[0] == 404


def test_the_page_lies_beside_the_data(tmp_path: Path) -> None:
    write_page(tmp_path)
    written = {path.name: path.read_bytes() for path in (tmp_path / "explorer").iterdir()}
    assert written == {path.name: path.read_bytes() for path in STATIC.iterdir()}
    assert {"index.html", "explorer.js", "explorer.css", "LICENSES.txt"} == written.keys()


def test_the_page_loads_nothing_from_elsewhere() -> None:
    for path in (SOURCES / "index.html", SOURCES / "explorer.css"):
        assert "//" not in path.read_text().replace("</", "")


def test_each_package_in_the_page_has_its_licence() -> None:
    text = (STATIC / "LICENSES.txt").read_text()
    packages = json.loads((REPOSITORY / "explorer/package.json").read_text())["devDependencies"]
    for name in packages.keys() - {"esbuild"}:
        assert f"{name} {packages[name]} (MIT)" in text
    assert len(re.findall(r"^[\w-]+ [\d.]+ \(MIT\)$", text, re.M)) == 4
    assert text.count("Permission is hereby granted") == 4


def test_the_lock_of_the_page_names_no_registry() -> None:
    lock = (REPOSITORY / "explorer/package-lock.json").read_text()
    assert '"integrity"' in lock
    assert '"resolved"' not in lock


def test_the_page_and_the_library_use_the_same_words() -> None:
    words = json.loads((SOURCES / "words.json").read_text())
    assert words["zwarn"] == sorted(ZWARN_BITS, key=ZWARN_BITS.__getitem__)
    assert list(ZWARN_BITS.values()) == list(range(len(ZWARN_BITS)))
    assert list(words["outcomes"]) == list(OUTCOMES)
    assert words["outcomes"] == {name: style[0] for name, style in OUTCOME_STYLE.items()}


def test_serve_names_what_is_no_finished_results_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(tmp_path)]) == 1
    assert f"{tmp_path / 'collection.properties'} is not there" in capsys.readouterr().err


def test_serve_names_a_port_that_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "collection.properties").touch()
    with make_server(tmp_path) as other:
        assert main(["serve", str(tmp_path), "--port", str(other.server_port)]) == 1
    assert "choose another with --port" in capsys.readouterr().err
