"""Listing an archive: what is kept, what is left out, and what a listing that fails says."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fault_server
import pytest
from fault_server import Service, serve

from desi_fits_to_parquet.archive.errors import ArchiveUnreachable, NothingFound
from desi_fits_to_parquet.discover import discover_tiles, relist_tiles
from desi_fits_to_parquet.tile import FILE_KINDS, LAYOUTS, Tile, parse_key
from desi_fits_to_parquet.tiles_csv import Sources, read_pixels, read_tiles

PREFIX = "dr1/spectro/redux/iron"
ROOT = f"{PREFIX}/healpix/"


def keys_of(tile: Tile, *kinds: str) -> dict[str, bytes]:
    names = {kind: tile.file_name(kind) for kind in kinds or FILE_KINDS}
    if "sha256sum" in names:
        names["sha256sum"] = tile.checksum_name("iron")
    return {
        f"{ROOT}{tile.folder}/{name}": f"{tile.name} {kind}".encode()
        for kind, name in names.items()
    }


@pytest.fixture
def service() -> Iterator[Service]:
    objects = keys_of(Tile("main", "dark", 10000))
    for tile in (Tile("main", "bright", 10000), Tile("sv3", "dark", 10000)):
        objects |= keys_of(tile)
    objects |= keys_of(Tile("main", "dark", 7), "coadd")
    objects |= keys_of(Tile("main", "dark", 49151))
    for pixel in (100, 499, 512, 4999, 5000, 10099, 11000):
        objects |= keys_of(Tile("main", "dark", pixel), "coadd", "redrock")
    objects[f"{ROOT}main/dark/100/10000/logs/redrock-main-dark-10000.log"] = b"log"
    with serve(objects) as running:
        running.page = 7
        yield running


def discover(
    service: Service, settings: dict[str, Any], folder: Path, sample: int | None = None,
    **tiles: Any,
) -> dict[Tile, Sources]:  # fmt: skip
    archive = settings["archive"] | {"endpoint": service.endpoint}
    path = folder / "tiles.csv"
    count = discover_tiles(archive, settings["tiles"] | tiles, sample, path)
    found = read_tiles(path)
    assert len(found) == count
    return found


def test_every_file_of_a_tile_is_listed_with_key_size_and_etag(
    service: Service, settings: dict[str, Any], tmp_path: Path
) -> None:
    found = discover(service, settings, tmp_path)
    pixels = [7, 100, 499, 512, 4999, 5000, 10000, 10099, 11000, 49151]
    assert [tile.number for tile in found] == pixels
    sources = found[Tile("main", "dark", 10000)]
    assert set(sources) == set(FILE_KINDS)
    assert sources["coadd"]["key"] == f"{ROOT}main/dark/100/10000/coadd-main-dark-10000.fits"
    assert sources["coadd"]["size"] == len("main-dark-10000 coadd")
    assert len(sources["coadd"]["etag"]) == 32


def test_one_pixel_number_is_a_tile_of_its_own_in_each_survey_and_program(
    service: Service, settings: dict[str, Any], tmp_path: Path
) -> None:
    found = discover(
        service, settings, tmp_path, surveys=["sv3", "main"], programs=["bright", "dark"]
    )
    assert [tile for tile in found if tile.number == 10000] == [
        Tile("main", "bright", 10000),
        Tile("main", "dark", 10000),
        Tile("sv3", "dark", 10000),
    ]


def test_a_folder_without_a_required_file_is_kept(
    service: Service, settings: dict[str, Any], tmp_path: Path
) -> None:
    assert set(discover(service, settings, tmp_path)[Tile("main", "dark", 7)]) == {"coadd"}


def test_the_same_archive_gives_the_same_bytes(
    service: Service, settings: dict[str, Any], tmp_path: Path
) -> None:
    discover(service, settings, tmp_path / "a")
    discover(service, settings, tmp_path / "b")
    assert (tmp_path / "a/tiles.csv").read_bytes() == (tmp_path / "b/tiles.csv").read_bytes()


def test_pixels_are_chosen_by_list_and_by_file_and_absent_ones_are_named(
    service: Service, settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    by_list = discover(service, settings, tmp_path, healpix=[10000, 7, 12])
    assert [tile.number for tile in by_list] == [7, 10000]
    assert "not in the archive: '12'" in caplog.text
    (tmp_path / "pixels.txt").write_text("# mine\n10000\n\n7 # low\n")
    assert discover(service, settings, tmp_path, healpix=str(tmp_path / "pixels.txt")) == by_list


@pytest.mark.parametrize("line", ["ten", "-1", "49152", "1 2", "10000.0"])
def test_a_pixel_file_with_something_else_in_it_is_refused_with_its_line(
    tmp_path: Path, line: str
) -> None:
    (tmp_path / "pixels.txt").write_text(f"1\n{line}\n")
    with pytest.raises(ValueError, match=r"pixels\.txt, line 2"):
        read_pixels(str(tmp_path / "pixels.txt"))


def test_a_sample_is_reproducible_and_stable_when_the_archive_grows(
    service: Service, settings: dict[str, Any], tmp_path: Path
) -> None:
    first = set(discover(service, settings, tmp_path, sample=4))
    assert len(first) == 4
    assert set(discover(service, settings, tmp_path, sample=4)) == first
    service.objects |= keys_of(Tile("main", "dark", 20000), "coadd", "redrock")
    assert len(first & set(discover(service, settings, tmp_path, sample=4))) >= 3
    assert len(discover(service, settings, tmp_path, sample=1000)) == 11


HOSTILE = [
    f"{ROOT}main/dark/100/../../../etc/passwd",
    f"{ROOT}main/dark/100/10000/..",
    f"{ROOT}main/dark/100/10000/coadd;rm -rf.fits",
    f"{ROOT}main/dark/100/10000/coadd,main.fits",
    f"{ROOT}main/dark/100/10000/co\nadd.fits",
    f"{ROOT}main/dark/101/10000/coadd-main-dark-10000.fits",
    f"{ROOT}main/dark/100/010000/coadd-main-dark-10000.fits",
    f"{ROOT}main/dark/491/49152/coadd-main-dark-49152.fits",
    f"{ROOT}main/dark/100/x/coadd-main-dark-x.fits",
    f"{ROOT}main/dark/abc/10000/coadd-main-dark-10000.fits",
    f"{ROOT}main/dark/stray.fits",
    f"{ROOT}main/dark/100/stray.fits",
]


def test_odd_keys_are_left_out_named_and_change_nothing_else(
    service: Service, settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = discover(service, settings, tmp_path)
    service.objects |= dict.fromkeys(HOSTILE, b"x")
    service.objects[f"{ROOT}main9/dark/100/10000/coadd-main9-dark-10000.fits"] = b"x"
    caplog.clear()
    assert discover(service, settings, tmp_path) == before
    assert "'main9'" in caplog.text
    assert "passwd" in caplog.text
    assert f"{len(HOSTILE) - 10} more" in caplog.text
    assert "co\nadd" not in caplog.text, "a control character of a key reached the log"


@pytest.mark.parametrize("key", HOSTILE)
def test_a_hostile_key_is_no_tile(key: str) -> None:
    assert parse_key(key, PREFIX, LAYOUTS["healpix"]) is None


def test_a_tile_that_is_listed_anew_gets_no_file_with_an_odd_etag(
    service: Service, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = discover(service, settings, tmp_path)
    tile = Tile("main", "dark", 10000)
    odd = service.objects[before[tile]["emline"]["key"]]
    right = fault_server.etag
    monkeypatch.setattr(fault_server, "etag", lambda data: "a,b" if data == odd else right(data))
    archive = settings["archive"] | {"endpoint": service.endpoint}
    relist_tiles(archive, tmp_path / "tiles.csv", [tile])
    before[tile].pop("emline")
    assert read_tiles(tmp_path / "tiles.csv") == before


def test_a_bucket_in_another_region_is_named_with_it(
    service: Service, settings: dict[str, Any], tmp_path: Path
) -> None:
    service.choose = lambda asked: "moved"
    with pytest.raises(ArchiveUnreachable, match=r"in region eu-west-1, archive\.region says us-"):
        discover(service, settings, tmp_path)


@pytest.mark.parametrize("fault", ["slow_down", "html"])
def test_a_page_that_fails_once_loses_no_key(
    service: Service, settings: dict[str, Any], tmp_path: Path, fault: str
) -> None:
    expected = discover(service, settings, tmp_path)
    service.forget()
    service.choose = lambda asked: fault if asked.number in (2, 5, 9) else None
    assert discover(service, settings, tmp_path) == expected


def test_a_proxys_page_in_place_of_the_listing_is_no_empty_archive(
    service: Service, settings: dict[str, Any], tmp_path: Path
) -> None:
    service.choose = lambda asked: "html"
    with pytest.raises(ArchiveUnreachable, match="not a listing of S3") as caught:
        discover(service, settings, tmp_path)
    assert service.endpoint in str(caught.value)


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:9", "http://no-such-host.invalid", "http://127.0.0.1:9/"]
)
def test_an_archive_that_does_not_answer_is_one_line_with_its_address_within_seconds(
    settings: dict[str, Any], tmp_path: Path, endpoint: str
) -> None:
    begun = time.monotonic()
    with pytest.raises(ArchiveUnreachable) as caught:
        discover_tiles(
            settings["archive"] | {"endpoint": endpoint}, settings["tiles"], None, tmp_path / "t"
        )
    assert time.monotonic() - begun < 20
    assert f"{endpoint.rstrip('/')}/desidata" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "t").exists()


def test_a_missing_bucket_a_missing_prefix_and_an_empty_selection_are_told_apart(
    service: Service, settings: dict[str, Any], tmp_path: Path
) -> None:
    archive = settings["archive"] | {"endpoint": service.endpoint}
    with pytest.raises(ArchiveUnreachable, match=r"no such bucket: see archive\.bucket"):
        discover_tiles(archive | {"bucket": "nowhere"}, settings["tiles"], None, tmp_path / "t")
    with pytest.raises(NothingFound, match=r"no folder dr2/.*archive\.prefix"):
        discover_tiles(archive | {"prefix": "dr2"}, settings["tiles"], None, tmp_path / "t")
    with pytest.raises(NothingFound, match="programs backup"):
        discover(service, settings, tmp_path, programs=["backup"])
    with pytest.raises(NothingFound, match="section tiles"):
        discover(service, settings, tmp_path, healpix=[12])


def test_no_credentials_are_sent_and_a_profile_of_the_environment_is_not_needed(
    service: Service, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert discover(service, settings, tmp_path)
    assert not any("Authorization" in headers for headers in service.headers)


def test_progress_is_told_without_a_terminal(
    service: Service, settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    discover(service, settings, tmp_path)
    assert "10 tiles listed, 10 taken" in caplog.text


def uniqpix(order: int, pixel: int) -> Tile:
    return Tile("main", "dark", LAYOUTS["uniqpix"].number(order, pixel), "uniqpix")


def test_the_layout_is_found_by_the_folder_that_the_prefix_holds(
    service: Service, settings: dict[str, Any], tmp_path: Path
) -> None:
    tiles = [uniqpix(5, 2500), uniqpix(6, 10004), uniqpix(7, 40020), uniqpix(8, 786_431)]
    root = "dr3/spectro/redux/matterhorn/spectra/"
    for tile in tiles:
        for kind in ("coadd", "redrock", "hpixexp"):
            service.objects[f"{root}{tile.folder}/{tile.file_name(kind)}"] = b"x"
    service.objects[f"{root}main/dark/hpix2upix-main-dark.fits"] = b"x"
    new = settings | {"archive": settings["archive"] | {"prefix": "dr3/spectro/redux/matterhorn"}}
    found = discover(service, new, tmp_path)
    assert sorted(found) == sorted(tiles)
    sources = found[tiles[1]]
    assert sources["coadd"]["key"] == f"{root}main/dark/263/26388/coadd-main-dark-26388.fits"
    assert sources["hpixexp"]["key"].endswith("/pixexp-main-dark-26388.csv")
    assert [(tile.order, tile.pixel) for tile in tiles[:2]] == [(5, 2500), (6, 10004)]
    old = discover(service, settings, tmp_path)
    assert {tile.layout for tile in old} == {"healpix"}


def test_pixels_of_nside_64_choose_the_adaptive_tiles_that_overlap_them(
    service: Service, settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiles = [uniqpix(5, 2500), uniqpix(6, 10004), uniqpix(7, 40020)]
    for tile in tiles:
        key = f"dr3/x/spectra/{tile.folder}/{tile.file_name('coadd')}"
        service.objects[key] = b"x"
    new = settings | {"archive": settings["archive"] | {"prefix": "dr3/x"}}
    assert list(discover(service, new, tmp_path, healpix=[10001, 10005])) == [
        uniqpix(5, 2500), uniqpix(7, 40020),
    ]  # fmt: skip
    discover(service, new, tmp_path, healpix=[10004, 12])
    assert "not in the archive: '12'" in caplog.text


def test_two_layouts_below_one_prefix_have_to_be_told_apart(
    service: Service, settings: dict[str, Any], tmp_path: Path
) -> None:
    tile = uniqpix(6, 10000)
    service.objects[f"{PREFIX}/spectra/{tile.folder}/{tile.file_name('coadd')}"] = b"x"
    with pytest.raises(NothingFound, match=r"say with archive\.layout which of healpix, uniqpix"):
        discover(service, settings, tmp_path)
    new = settings | {"archive": settings["archive"] | {"layout": "uniqpix"}}
    assert list(discover(service, new, tmp_path)) == [tile]


def test_a_copy_in_a_folder_below_the_tiles_is_left_out_and_named(
    service: Service, settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = discover(service, settings, tmp_path)
    name = "coadd-main-dark-10000.fits"
    service.objects[f"{ROOT}main/dark/100/10000/old/{name}"] = b"another"
    service.objects[f"{ROOT}main/dark/100/10000/old/z/{name}"] = b"another"
    assert discover(service, settings, tmp_path) == before
    assert f"left out: {ROOT}main/dark/100/10000/old/{name}" in caplog.text
