"""Fetching tiles: outcomes under every fault of archive and network, in both modes."""

import copy
import hashlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import pytest
from conftest import load_settings
from fault_server import Asked, Service, etag, serve
from fusion_tiles import select
from simulated_archive import ROOT, checksum_list, key_of, list_sources, simulate_objects

from desi_fits_to_parquet.archive import link as archive_module
from desi_fits_to_parquet.download.tile import download_tile
from desi_fits_to_parquet.download.whole import find_wrong_sum, parse_checksums
from desi_fits_to_parquet.files import read_json
from desi_fits_to_parquet.formats.fits import open_fits
from desi_fits_to_parquet.outcomes import FAILED_OUTCOMES
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.tiles_csv import Source

TILE = Tile("main", "dark", 10000)
MODES = ("files", "rows")
USED = ("coadd", "redrock", "emline", "rrdetails")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "FIRST_PAUSE_S", 0.01)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("archive")
    return simulate_objects(TILE, folder, 8, quasar_share=0.3, scan_step=3)


@pytest.fixture
def service(objects: dict[str, bytes]) -> Iterator[Service]:
    with serve(dict(objects)) as running:
        yield running


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


Fetch = Callable[..., dict[str, Any]]


@pytest.fixture
def fetch(service: Service, settings: dict[str, Any], mode: str, tmp_path: Path) -> Fetch:
    """Fetch the tile as it is listed, or as `sources` say."""

    def run(sources: Any = None, folder: Path = tmp_path / "fits", **transfer: Any) -> Any:
        changed = copy.deepcopy(settings)
        changed["archive"]["endpoint"] = service.endpoint
        changed["transfer"] |= {"mode": mode, "attempts": 3, "timeout_s": 0.5, "audit_fraction": 0}
        changed["transfer"] |= transfer
        listed = list_sources(TILE, service.objects) if sources is None else sources
        record = download_tile(TILE, listed, changed, folder)
        assert read_json(folder / "download.json") == record
        names = {path.name for path in folder.iterdir()}
        if record["outcome"]:
            assert record["outcome"] in FAILED_OUTCOMES
            assert record["reason"]
            assert names == {"download.json"}, "data of a failed tile were left"
        assert not [name for name in names if name.endswith(".part")]
        return record

    return run


def read_folder(folder: Path) -> dict[str, Any]:
    """Read what was fetched; of rrdetails the fits of the selected targets, in either form."""
    content: dict[str, Any] = {p.name: p.read_bytes() for p in folder.glob("*.fits")}
    for path in folder.glob("*.h5"):
        settings = load_settings()
        selected = select(folder, settings).targetid
        with h5py.File(path) as details:
            content[path.name] = [details[f"zfit/{t}/zfit"][()].tobytes() for t in selected]
    return content


def flip(service: Service, kind: str, at: int) -> None:
    """Flip a bit of an object at rest; the archive's list of checksums keeps the right one."""
    data = bytearray(service.objects[key_of(TILE, kind)])
    data[at] ^= 4
    service.objects[key_of(TILE, kind)] = bytes(data)


def test_the_record_accounts_for_every_byte_and_request(
    fetch: Fetch, service: Service, mode: str
) -> None:
    record = fetch()
    assert (record["outcome"], record["reason"], record["mode"]) == (None, "", mode)
    assert record["n_targets"] == 8
    assert record["n_selected"] == (2 if mode == "rows" else None)
    assert record["requests"] == len(service.asked)
    sizes = {kind: len(service.objects[key_of(TILE, kind)]) for kind in USED}
    assert record["bytes_archive"] == sum(sizes.values())
    assert set(record["sources"]) == {*USED, "sha256sum"}
    fetched = {kind: source["bytes_fetched"] for kind, source in record["sources"].items()}
    assert record["bytes_fetched"] == sum(fetched.values())
    if mode == "files":
        assert {kind: fetched[kind] for kind in USED} == sizes
    for kind in USED:
        data = service.objects[key_of(TILE, kind)]
        assert record["sources"][kind]["sha256"] == hashlib.sha256(data).hexdigest()
        assert record["sources"][kind]["etag"] == etag(data)
    assert record["retries"] == record["throttled"] == 0
    assert record["seconds"] > 0


def test_whole_files_are_the_archives_bytes(fetch: Fetch, service: Service, tmp_path: Path) -> None:
    record = fetch()
    for kind, source in record["sources"].items():
        if source["verified"] == "sha256":
            path = tmp_path / "fits" / TILE.file_name(kind)
            assert path.read_bytes() == service.objects[key_of(TILE, kind)]
    assert record["sources"]["redrock"]["verified"] == "sha256"


@pytest.mark.parametrize("missing", ["coadd", "redrock"])
def test_a_missing_required_file_is_an_outcome_without_any_request(
    fetch: Fetch, service: Service, missing: str
) -> None:
    del service.objects[key_of(TILE, missing)]
    record = fetch()
    assert record["outcome"] == "missing_source"
    assert TILE.file_name(missing) in record["reason"]
    assert record["requests"] == len(service.asked) == 0


def test_missing_optional_files_are_no_failure(
    fetch: Fetch, service: Service, tmp_path: Path
) -> None:
    for kind in ("emline", "rrdetails"):
        del service.objects[key_of(TILE, kind)]
    assert fetch()["outcome"] is None
    names = {path.name for path in (tmp_path / "fits").iterdir()}
    assert names == {"download.json", TILE.file_name("coadd"), TILE.file_name("redrock")}


@pytest.mark.parametrize(
    "fault",
    ["slow_down", "error", "reset", "close", "stall", "long", "shifted", "html", "trailing"],
)
def test_a_fault_that_passes_leaves_no_trace_in_the_data(
    fetch: Fetch, service: Service, tmp_path: Path, fault: str
) -> None:
    fetch(folder=tmp_path / "clean")
    service.forget()
    rng = random.Random(fault)
    service.choose = lambda asked: fault if asked.number == 0 and rng.random() < 0.2 else None
    record = fetch(attempts=6)
    assert record["outcome"] is None, record["reason"]
    assert read_folder(tmp_path / "fits") == read_folder(tmp_path / "clean")


@pytest.mark.parametrize("fault", ["slow_down", "reset", "stall", "html", "forbidden"])
@pytest.mark.parametrize("kind", ["redrock", "coadd"])
def test_a_fault_that_stays_is_unreachable_with_a_sentence(
    fetch: Fetch, service: Service, fault: str, kind: str
) -> None:
    service.choose = lambda asked: fault if asked.kind == kind else None
    record = fetch(attempts=2)
    assert record["outcome"] == "unreachable"
    assert TILE.file_name(kind) in record["reason"]
    assert service.endpoint in record["reason"]
    assert record["retries"] > 0
    assert (record["throttled"] > 0) == (fault == "slow_down")


def test_a_service_that_is_gone_is_unreachable(fetch: Fetch, service: Service) -> None:
    service.endpoint = "http://127.0.0.1:9"
    assert fetch(attempts=2)["outcome"] == "unreachable"


def test_a_server_without_ranges_gives_whole_files(
    fetch: Fetch, service: Service, tmp_path: Path
) -> None:
    service.choose = lambda asked: "whole" if asked.start is not None else None
    record = fetch()
    assert record["outcome"] is None, record["reason"]
    path = tmp_path / "fits" / TILE.file_name("coadd")
    assert path.read_bytes() == service.objects[key_of(TILE, "coadd")]
    assert record["sources"]["coadd"]["verified"] == "sha256"


def test_an_object_replaced_while_it_is_read_is_read_anew(
    fetch: Fetch, service: Service, objects: dict[str, bytes], tmp_path: Path
) -> None:
    old = list_sources(TILE, service.objects)
    newer = bytearray(objects[key_of(TILE, "coadd")])
    newer[30 * 80 : 30 * 80 + 1] = b" "  # a blank behind the primary header's END
    service.objects[key_of(TILE, "coadd")] = bytes(newer)
    service.objects[key_of(TILE, "sha256sum")] = checksum_list(TILE, service.objects)
    record = fetch(sources=old)
    assert record["outcome"] is None, record["reason"]
    assert record["sources"]["coadd"]["etag"] == etag(bytes(newer))
    assert record["sources"]["coadd"]["etag"] != old["coadd"]["etag"]


@pytest.mark.parametrize("at", [1, 20, 60])
def test_two_versions_of_an_object_are_never_mixed_by_a_server_that_ignores_if_match(
    service: Service, fetch: Fetch, tmp_path: Path, at: int
) -> None:
    """The new coadd has the old one's size, targets and headers: nothing but its ETag tells."""
    service.objects.update(simulate_objects(TILE, tmp_path, 24, quasar_share=0.5, scan_step=100))
    key = key_of(TILE, "coadd")
    old, newer = dict(service.objects), dict(service.objects)
    (tmp_path / "coadd").write_bytes(old[key])
    data = bytearray(old[key])
    with open_fits(tmp_path / "coadd") as coadd:
        for arm in "BRZ":
            flux = coadd.hdus[f"{arm}_FLUX"]
            for byte in range(flux.data_start + 1, flux.data_start + flux.data_size, 4):
                data[byte] ^= 64
    newer[key] = bytes(data)
    newer[key_of(TILE, "sha256sum")] = checksum_list(TILE, newer)
    right = []
    for i, objects in enumerate((old, newer)):
        service.objects = dict(objects)
        fetch(folder=tmp_path / str(i))
        right.append(read_folder(tmp_path / str(i)))
    service.objects = dict(old)
    count = 0

    def choose(asked: Asked) -> str | None:
        nonlocal count
        count += asked.kind == "coadd"
        if count == at:
            service.objects.update(newer)
        return "unconditional" if asked.kind == "coadd" else None

    service.choose = choose
    record = fetch(sources=list_sources(TILE, old))
    assert record["outcome"] is None, record["reason"]
    assert read_folder(tmp_path / "fits") in right


@pytest.mark.parametrize(("fault", "word"), [("changed", "changed"), ("gone", "vanished")])
def test_an_object_that_keeps_changing_is_corrupt(
    fetch: Fetch, service: Service, fault: str, word: str
) -> None:
    service.choose = lambda asked: fault if asked.kind == "coadd" else None
    record = fetch()
    assert record["outcome"] == "corrupt_source"
    assert f"{word} while it was read" in record["reason"]
    assert sum(asked.kind == "list" for asked in service.asked) == 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("no_bucket", "status 404 NoSuchBucket"),
        ("no_range", "status 416 InvalidRange"),
        ("other_total", "bytes in all"),
        ("moved", "is in region eu-west-1, archive.region says us-west-2"),
    ],
)
@pytest.mark.parametrize("mode", ["rows"], indirect=True)  # small whole files have no range
def test_what_the_service_says_wrong_of_itself_is_unreachable_with_its_code(
    fetch: Fetch, service: Service, fault: str, words: str
) -> None:
    in_listing = "moved" if fault == "moved" else None
    service.choose = lambda asked: {"coadd": fault, "list": in_listing}.get(asked.kind)
    record = fetch(attempts=2)
    assert record["outcome"] == "unreachable"
    assert words in record["reason"]
    assert service.endpoint in record["reason"]


def test_a_required_file_that_vanished_is_missing_and_an_optional_one_is_not_missed(
    fetch: Fetch, service: Service
) -> None:
    old = list_sources(TILE, service.objects)
    del service.objects[key_of(TILE, "emline")]
    record = fetch(sources=old)
    assert record["outcome"] is None, record["reason"]
    assert "emline" not in record["sources"]
    del service.objects[key_of(TILE, "coadd")]
    assert fetch(sources=old)["outcome"] == "missing_source"


def test_a_listing_that_fails_after_a_change_is_unreachable_not_missing(
    fetch: Fetch, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    from desi_fits_to_parquet.archive import listing

    monkeypatch.setattr(listing, "PAGE_TRIES", 1)
    service.choose = lambda asked: {"coadd": "changed", "list": "html"}.get(asked.kind)
    assert fetch()["outcome"] == "unreachable"


@pytest.mark.parametrize("kind", ["redrock", "emline"])
def test_a_flipped_bit_in_a_small_file_is_corrupt(
    fetch: Fetch, service: Service, kind: str
) -> None:
    flip(service, kind, 20_000)
    record = fetch()
    assert record["outcome"] == "corrupt_source"
    for part in (TILE.file_name(kind), "sha256", "fetching it again"):
        assert part in record["reason"]
    assert sum(asked.kind == kind for asked in service.asked) == 2


def test_a_bit_flipped_on_the_way_is_mended_by_fetching_again(
    fetch: Fetch, service: Service
) -> None:
    service.choose = lambda asked: "flip" if asked.kind == "redrock" and asked.number == 0 else None
    assert fetch()["outcome"] is None


@pytest.mark.parametrize("where", ["PRIMARY", "FIBERMAP", "B_WAVELENGTH", "R_IVAR", "Z_MASK"])
def test_a_bit_flipped_in_a_header_or_table_of_the_coadd_is_corrupt_in_both_modes(
    fetch: Fetch, service: Service, tmp_path: Path, where: str
) -> None:
    (tmp_path / "coadd").write_bytes(service.objects[key_of(TILE, "coadd")])
    with open_fits(tmp_path / "coadd") as coadd:
        hdu = coadd.hdus[where]
    in_data = where in ("FIBERMAP", "B_WAVELENGTH")
    flip(service, "coadd", hdu.data_start + 100 if in_data else hdu.header_start + 8 * 80 + 40)
    record = fetch()
    assert record["outcome"] == "corrupt_source"
    assert "sha256" in record["reason"]


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_a_bit_flipped_in_a_fetched_row_is_found_by_files_mode_and_by_the_audit(
    fetch: Fetch, service: Service, mode: str, tmp_path: Path, fraction: float
) -> None:
    """Rows of images have no checksum of their own: the one limit of rows mode at rest."""
    fetch()
    with open_fits(tmp_path / "fits" / TILE.file_name("coadd")) as coadd:
        rows = str(coadd.hdus["PRIMARY"].header.get("SRCROWS", "0"))
    (tmp_path / "coadd").write_bytes(service.objects[key_of(TILE, "coadd")])
    with open_fits(tmp_path / "coadd") as coadd:
        row = int(rows.split(",")[0].split("-")[0])
        at = coadd.hdus["R_FLUX"].data_start + row * 4 * 2326 + 1001
    flip(service, "coadd", at)
    record = fetch(audit_fraction=fraction)
    if mode == "files" or fraction:
        assert record["outcome"] == "corrupt_source"
        assert "sha256" in record["reason"]
    else:
        assert record["outcome"] is None
    if mode == "rows" and fraction:
        assert record["audit"]["sha256_ok"] is False
        assert record["audit"]["rows_ok"] is True, "both readings saw the same flipped bit"
        assert "audit" in record["reason"]


@pytest.mark.parametrize("mode", ["rows"], indirect=True)  # the other one checks every byte
def test_rows_that_change_on_the_way_are_found_by_the_audit(fetch: Fetch, service: Service) -> None:
    sizes = (4 * 2751, 4 * 2326, 4 * 2881)

    def choose(asked: Asked) -> str | None:
        a_row = asked.start is not None and asked.stop - asked.start in sizes
        return "flip" if asked.kind == "coadd" and a_row else None

    service.choose = choose
    record = fetch(audit_fraction=1)
    assert record["outcome"] == "corrupt_source"
    assert record["audit"]["rows_ok"] is False
    assert record["audit"]["sha256_ok"] is True


def test_a_best_fit_that_is_not_redrocks_is_corrupt(
    fetch: Fetch, service: Service, tmp_path: Path
) -> None:
    key = key_of(TILE, "rrdetails")
    (tmp_path / "details.h5").write_bytes(service.objects[key])
    with h5py.File(tmp_path / "details.h5", "r+") as details:
        for table in details["zfit"].values():
            values = table["zfit"][()]
            values["z"] += 1e-9
            table["zfit"][...] = values
    service.objects[key] = (tmp_path / "details.h5").read_bytes()
    record = fetch()
    assert record["outcome"] == "corrupt_source"
    assert TILE.file_name("rrdetails") in record["reason"]


@pytest.mark.parametrize("state", ["missing", "empty", "garbage", "html"])
def test_without_the_list_of_checksums_a_tile_is_converted_and_says_what_was_checked(
    fetch: Fetch, service: Service, state: str
) -> None:
    key = key_of(TILE, "sha256sum")
    service.objects[key] = {"empty": b"", "garbage": b"\0\xff\n?", "html": b"<html></html>"}.get(
        state, b""
    )
    if state == "missing":
        del service.objects[key]
    record = fetch()
    assert record["outcome"] is None, record["reason"]
    assert record["sources"]["redrock"]["sha256"] is None
    assert record["sources"]["redrock"]["verified"] == "md5"


def test_without_the_list_a_bit_flipped_on_the_way_is_found_by_the_etag(
    fetch: Fetch, service: Service
) -> None:
    del service.objects[key_of(TILE, "sha256sum")]
    service.choose = lambda asked: "flip" if asked.kind == "redrock" else None
    record = fetch()
    assert record["outcome"] == "corrupt_source"
    assert "md5" in record["reason"]


@pytest.mark.parametrize("at", [1000, 5_000, 30_000])
def test_without_the_list_and_an_md5_a_flipped_bit_is_found_by_the_sums_of_fits(
    tmp_path: Path, objects: dict[str, bytes], at: int
) -> None:
    path = tmp_path / "redrock.fits"
    path.write_bytes(objects[key_of(TILE, "redrock")])
    assert find_wrong_sum(path) == ""
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(bytes(data))
    assert "HDU" in find_wrong_sum(path)


def test_a_list_that_says_another_sum_is_corrupt(fetch: Fetch, service: Service) -> None:
    key = key_of(TILE, "sha256sum")
    lines = service.objects[key].decode().splitlines()
    service.objects[key] = "\n".join(
        "0" * 64 + line[64:] if "redrock" in line else line for line in lines
    ).encode()
    record = fetch()
    assert record["outcome"] == "corrupt_source"
    assert "0" * 64 in record["reason"]


def test_checksum_lines_are_read_in_both_forms_and_others_are_left_out() -> None:
    text = f"{'A' * 64}  one.fits\n{'b' * 64} *two.fits\nnot a line\n{'c' * 63}  three\n"
    assert parse_checksums(text) == {"one.fits": "a" * 64, "two.fits": "b" * 64}


@pytest.mark.parametrize("cut", [0.3, 0.9, 0.99999])
def test_a_truncated_coadd_is_corrupt(fetch: Fetch, service: Service, cut: float) -> None:
    key = key_of(TILE, "coadd")
    service.objects[key] = service.objects[key][: int(len(service.objects[key]) * cut)]
    record = fetch()
    assert record["outcome"] == "corrupt_source"
    assert TILE.file_name("coadd") in record["reason"]


@pytest.mark.parametrize("mode", ["rows"], indirect=True)  # whole files are matched when fused
def test_a_coadd_of_other_targets_is_corrupt_in_rows_mode(
    fetch: Fetch, service: Service, tmp_path: Path
) -> None:
    other = simulate_objects(TILE, tmp_path / "other", 9, scan_step=50)
    service.objects[key_of(TILE, "coadd")] = other[key_of(TILE, "coadd")]
    record = fetch()
    assert record["outcome"] == "corrupt_source"
    assert "FIBERMAP has 9 rows" in record["reason"]


def test_the_limit_of_speed_holds_for_a_tile(fetch: Fetch, tmp_path: Path) -> None:
    size = fetch()["bytes_fetched"]
    slow = fetch(folder=tmp_path / "slow", limit_mb_s=size / 1e6)  # all of it in a second
    assert slow["bytes_fetched"] == size
    # nothing is waited for behind the last request, which asks for up to a sixth of the bytes
    assert slow["seconds"] > 0.8


def test_a_full_disk_is_a_crash_not_an_outcome_and_leaves_no_half_file(
    fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fetch()
    assert not list((tmp_path / "fits").glob("*.fits"))


def test_keys_are_those_of_the_listing(service: Service, fetch: Fetch) -> None:
    sources = list_sources(TILE, service.objects)
    assert isinstance(sources["coadd"], dict)
    assert sources["coadd"] == Source(
        key=f"{ROOT}main/dark/100/10000/coadd-main-dark-10000.fits",
        size=len(service.objects[key_of(TILE, "coadd")]),
        etag=etag(service.objects[key_of(TILE, "coadd")]),
    )
    fetch(sources=sources)
    assert {asked.key for asked in service.asked} <= set(service.objects)
