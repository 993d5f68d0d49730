"""A final name must never hold half a file; the other bookkeeping must say what is wrong."""

import json
import logging
from pathlib import Path

import pytest

from desi_fits_to_parquet import tiles_csv
from desi_fits_to_parquet.files import (
    atomic_folder,
    atomic_path,
    read_json,
    write_atomically,
    write_json,
)
from desi_fits_to_parquet.outcomes import BadTile
from desi_fits_to_parquet.paths import fits_folder, parquet_folder
from desi_fits_to_parquet.run.job_log import job_log
from desi_fits_to_parquet.run.repair import remove_leftovers
from desi_fits_to_parquet.tile import FILE_KINDS, LAYOUTS, MAX_ORDER, Tile
from desi_fits_to_parquet.tiles_csv import (
    Source,
    list_tiles,
    pack_sources,
    read_sources,
    read_tiles,
    unpack_sources,
    write_tiles,
)


def test_failed_write_keeps_what_was_there_and_leaves_no_temporary_file(tmp_path: Path):
    path = tmp_path / "a" / "file"
    write_atomically(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_left_over_temporary_file_of_a_killed_process_is_overwritten(tmp_path: Path):
    path = tmp_path / "file"
    (tmp_path / ".file.part").write_text("longer than the new text")
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_gets_its_name_when_it_is_complete(tmp_path: Path):
    path, left = tmp_path / "a/folder", tmp_path / "a/.folder.part"
    left.mkdir(parents=True)
    (left / "of a killed process").touch()
    with pytest.raises(RuntimeError), atomic_folder(path) as temporary:
        temporary.mkdir()
        raise RuntimeError
    assert list(path.parent.iterdir()) == []
    with atomic_folder(path) as temporary:
        temporary.mkdir()
        (temporary / "file").touch()
        assert not path.exists()
    assert list(path.parent.rglob("*")) == [path, path / "file"]


def test_folders_that_a_killed_job_left_unfinished_go_when_a_run_begins(tmp_path: Path):
    tile = Tile("main", "dark", 17)
    write_tiles(tmp_path / "tiles.csv", {})
    for folder in (fits_folder(tmp_path, tile), parquet_folder(tmp_path, tile)):
        folder.mkdir(parents=True)
        folder.with_name(f".{folder.name}.part").mkdir()  # as `atomic_folder` names it
    remove_leftovers(tmp_path, [])
    assert list(tmp_path.rglob("*.part")) == []
    assert fits_folder(tmp_path, tile).exists()
    assert parquet_folder(tmp_path, tile).exists()


def test_json_refuses_nan_and_names_a_broken_file(tmp_path: Path):
    path = tmp_path / "marker.json"
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"z": float("nan")})
    assert not path.exists()
    path.write_text('{"survey": "ma')
    with pytest.raises(ValueError, match=r"marker\.json: not valid JSON"):
        read_json(path)


def test_job_log_is_json_lines_and_keeps_the_traceback_of_a_crash(tmp_path: Path):
    path = tmp_path / "logs" / "fuse.log"
    with pytest.raises(ZeroDivisionError), job_log(path, "fuse_tile", "main-dark-7") as log:
        log.info("done", extra={"figures": {"n_rows": 3}})
        logging.getLogger("desi_fits_to_parquet.fuse").warning("odd")
        1 / 0  # noqa: B018  (the crash)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["started", "done", "odd", "the job crashed"]
    assert lines[1]["figures"] == {"n_rows": 3}
    assert {line["tile"] for line in lines} == {"main-dark-7"}
    assert lines[3]["error"] == "ZeroDivisionError"


def test_bad_tile_takes_only_failed_outcomes_and_says_its_reason():
    assert "coadd.fits: cut" in str(BadTile("corrupt_source", "coadd.fits: cut"))
    with pytest.raises(ValueError, match="not a failed outcome"):
        BadTile("converted", "fine")


def test_names_of_a_tiles_files_are_those_of_the_archive():
    tile = Tile("main", "dark", 10016)
    assert tile.folder == "main/dark/100/10016"
    assert tile.file_name("coadd") == "coadd-main-dark-10016.fits"
    assert tile.file_name("rrdetails") == "rrdetails-main-dark-10016.h5"
    assert tile.file_name("spectra") == "spectra-main-dark-10016.fits.gz"
    assert tile.checksum_name("iron") == "redux_iron_healpix_main_dark_100_10016.sha256sum"
    assert Tile("sv3", "dark", 7).folder == "sv3/dark/0/7"


def test_list_of_tiles_survives_writing_and_does_not_depend_on_order(tmp_path: Path):
    source = Source(key="a/coadd.fits", size=5, etag="0f-2")
    tiles = {
        Tile("sv3", "dark", 9): {"coadd": source},
        Tile("main", "dark", 10): dict.fromkeys(FILE_KINDS, source),
        Tile("main", "dark", 9): {},
    }
    path = tmp_path / "tiles.csv"
    write_tiles(path, tiles)
    text = path.read_bytes()
    assert read_tiles(path) == tiles
    assert list(read_tiles(path)) == list_tiles(path) == sorted(tiles)
    write_tiles(path, dict(reversed(tiles.items())))
    assert path.read_bytes() == text


def test_facts_of_one_tile_are_read_alone_and_anew_when_the_list_has_changed(tmp_path: Path):
    tile, path = Tile("main", "dark", 10), tmp_path / "tiles.csv"
    source = Source(key="a/coadd.fits", size=5, etag="0f-2")
    write_tiles(path, {tile: {"coadd": source, "spectra": source}, Tile("cmx", "dark", 9): {}})
    found = read_sources(path, tile, {"coadd", "redrock"})
    assert found == {"coadd": source}
    assert unpack_sources(pack_sources(found)) == found
    changed = source | {"etag": "longer-than-before"}
    write_tiles(path, {tile: {"coadd": Source(**changed)}})
    assert read_sources(path, tile, {"coadd"}) == {"coadd": changed}
    with pytest.raises(KeyError):
        read_sources(path, Tile("cmx", "dark", 9), {"coadd"})


def test_list_of_tiles_that_was_cut_is_not_read_as_a_shorter_one(tmp_path: Path):
    path = tmp_path / "tiles.csv"
    source = Source(key="a/coadd.fits", size=5, etag="0f-2")
    write_tiles(path, {Tile("main", "dark", p): {"coadd": source} for p in (1, 2)})
    whole = path.read_bytes()
    for cut in (whole[:-1], whole[:-10], whole[: whole.index(b"main,dark,2")]):
        path.write_bytes(cut)
        with pytest.raises(ValueError, match=r"tiles\.csv: its checksum is not that in tiles\.csv"):
            list_tiles(path)
    path.write_bytes(whole)
    assert len(list_tiles(path)) == 2


def test_list_of_tiles_reads_at_every_moment_of_being_written_again(tmp_path, monkeypatch):
    path = tmp_path / "tiles.csv"
    source = Source(key="a/coadd.fits", size=5, etag="0f-2")
    write_tiles(path, {Tile("main", "dark", 1): {"coadd": source}})
    read = []

    def read_between(target: Path, data: bytes | str) -> None:
        read.append(len(list_tiles(path)))
        write_atomically(target, data)
        read.append(len(list_tiles(path)))

    monkeypatch.setattr(tiles_csv, "write_atomically", read_between)
    write_tiles(path, {Tile("main", "dark", p): {"coadd": source} for p in (1, 2)})
    assert read == [1, 1, 1, 2, 2, 2]


def test_uniqpix_number_and_place_are_one_another_for_every_order():
    layout = LAYOUTS["uniqpix"]
    for order in range(MAX_ORDER + 1):
        last = 12 * 4**order - 1
        for pixel in (0, last // 2, last):
            number = layout.number(order, pixel)
            assert number == pixel + 4 * (2**order) ** 2
            assert layout.place(number) == (order, pixel)
    for number in (-1, 0, 3, 16 * 4**MAX_ORDER):
        with pytest.raises(ValueError, match="no uniqpix"):
            layout.place(number)


def test_tile_of_another_order_overlaps_its_pixels_of_nside_64():
    assert Tile("main", "dark", 4 * 64**2 + 7, "uniqpix").overlaps({6, 7, 8}) == {7}
    assert Tile("main", "dark", 4 * 128**2 + 4 * 7 + 3, "uniqpix").overlaps({6, 7, 8}) == {7}
    assert Tile("main", "dark", 4 * 32**2 + 2, "uniqpix").overlaps(set(range(20))) == {8, 9, 10, 11}


def test_other_file_in_place_of_the_list_of_tiles_is_named(tmp_path: Path):
    path = tmp_path / "tiles.csv"
    path.write_text("healpix,coadd\n1,2\n")
    with pytest.raises(ValueError, match=r"tiles\.csv: not a list of tiles"):
        read_tiles(path)
