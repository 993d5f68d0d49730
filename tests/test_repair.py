"""What is found damaged or stale in a results folder, and what of it is cleared."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from desi_fits_to_parquet.files import read_json, write_json
from desi_fits_to_parquet.paths import fits_folder, marker_path, parquet_folder, parquet_path
from desi_fits_to_parquet.records import PROVENANCE_KEY, tile_keys
from desi_fits_to_parquet.run.repair import clear_tile, find_damaged, find_failed, find_stale
from desi_fits_to_parquet.settings import settings_fingerprint
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.tiles_csv import Source, Sources, sources_version, write_tiles

TILES = [Tile("main", "dark", number) for number in (100, 101, 102)]
A, B, C = TILES

Results = Path


def sources_of(tile: Tile, etag: str = "e") -> Sources:
    return {
        kind: Source(key=f"p/{tile.file_name(kind)}", size=9, etag=etag)
        for kind in ("coadd", "redrock")
    }


def write_tile(results: Path, tile: Tile, settings: dict[str, Any], **changes: Any) -> None:
    """Write a Parquet with its marker."""
    folder = parquet_folder(results, tile)
    folder.mkdir(parents=True)
    provenance = json.dumps(dict(tile_keys(tile)))
    table = pa.table({"targetid": [tile.number]}, metadata={PROVENANCE_KEY: provenance})
    pq.write_table(table, parquet_path(tile, folder))
    data = parquet_path(tile, folder).read_bytes()
    marker = {
        **tile_keys(tile),
        "outcome": "converted",
        "reason": "",
        "bytes_parquet": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "settings_fingerprint": settings_fingerprint(settings),  # type: ignore[arg-type]
        "sources": sources_of(tile),
        "listed": sources_version(sources_of(tile)),
    }
    write_json(marker_path(results, tile), marker | changes)


@pytest.fixture
def results(tmp_path: Path, settings: dict[str, Any]) -> Results:
    """Three converted tiles."""
    folder = tmp_path / "results"
    for tile in TILES:
        write_tile(folder, tile, settings)
    write_tiles(folder / "tiles.csv", {tile: sources_of(tile) for tile in TILES})
    return folder


def change(results: Path, tile: Tile, **changes: Any) -> None:
    path = marker_path(results, tile)
    write_json(path, read_json(path) | changes)


def stale(results: Path, settings: dict[str, Any]) -> dict[Tile, str]:
    return dict(find_stale(results, settings))  # type: ignore[arg-type]


def damaged(results: Path) -> dict[Tile, str]:
    return dict(find_damaged(results, progress=False)[0])


def test_what_is_as_its_marker_says_is_neither_stale_nor_damaged(
    results: Results, settings: dict[str, Any]
) -> None:
    assert stale(results, settings) == {}
    assert find_damaged(results, progress=False) == ([], [])


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("selection", "spectypes", ["GALAXY"]),
        ("columns", "scores", True),
        ("spectra", "wavelength_range", [3600.0, 9000.0]),
        ("precision", "mode", "lossless"),
    ],
)
def test_other_content_settings_make_every_tile_stale(
    results: Results, settings: dict[str, Any], section: str, key: str, value: object
) -> None:
    assert settings[section][key] != value
    settings[section][key] = value
    assert stale(results, settings).keys() == set(TILES)


def test_other_ways_of_fetching_and_of_writing_a_number_make_nothing_stale(
    results: Results, settings: dict[str, Any]
) -> None:
    settings["transfer"]["mode"] = "files"
    settings["spectra"]["wavelength_range"] = [
        int(limit) for limit in settings["spectra"]["wavelength_range"]
    ]
    assert stale(results, settings) == {}


def test_another_output_version_and_a_marker_of_version_0_1_are_stale(
    results: Results, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = marker_path(results, A)
    marker = read_json(path)
    del marker["settings_fingerprint"], marker["listed"]
    write_json(path, marker)
    assert stale(results, settings).keys() == {A}
    monkeypatch.setattr("desi_fits_to_parquet.settings.OUTPUT_VERSION", 99)
    assert stale(results, settings).keys() == set(TILES)


def test_another_version_in_the_archive_is_stale_but_not_one_that_was_read_anew(
    results: Results, settings: dict[str, Any]
) -> None:
    """What was replaced while it was read has newer sources than the list that it was read by."""
    newer = sources_of(B, "newer")
    change(results, A, sources=sources_of(A, "newer"))
    assert stale(results, settings) == {}
    write_tiles(results / "tiles.csv", {A: sources_of(A, "newer"), B: newer, C: sources_of(C)})
    assert stale(results, settings) == {B: "its files in the archive are others"}


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(b"PAR1"), "has another size"),
    ],
)
def test_a_parquet_that_is_not_there_or_has_another_size_is_stale(
    results: Results, settings: dict[str, Any], damage: Callable[[Path], None], problem: str
) -> None:
    damage(parquet_path(B, parquet_folder(results, B)))
    found = stale(results, settings)
    assert found.keys() == {B}
    assert problem in found[B]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"survey": 1}', "\x00", "[" * 100_000]
)
def test_a_marker_that_cannot_be_read_is_stale_and_damage(
    results: Results, settings: dict[str, Any], text: str
) -> None:
    marker_path(results, B).write_text(text)
    assert stale(results, settings) == {B: "its marker cannot be read"}
    assert damaged(results) == {B: "its marker cannot be read"}
    assert find_failed(results) == []


@pytest.mark.parametrize(
    "changes",
    [{"outcome": "fine"}, {"bytes_parquet": "many"}, {"sha256": 5}, {"reason": None}],
)
def test_a_marker_with_values_of_another_kind_is_stale_and_damage(
    results: Results, settings: dict[str, Any], changes: dict[str, Any]
) -> None:
    change(results, B, **changes)
    assert stale(results, settings).keys() == damaged(results).keys() == {B}


@pytest.mark.parametrize("sources", [5, {"coadd": 5}, {"coadd": {}}, [1]])
def test_a_marker_whose_sources_are_none_is_stale(
    results: Results, settings: dict[str, Any], sources: object
) -> None:
    change(results, B, sources=sources, listed="another")
    assert stale(results, settings) == {B: "its marker cannot be read"}


def test_a_copied_marker_does_not_hide_a_destroyed_parquet(
    results: Results, settings: dict[str, Any]
) -> None:
    marker_path(results, B).write_bytes(marker_path(results, A).read_bytes())
    parquet_path(B, parquet_folder(results, B)).write_bytes(b"destroyed")
    expected = {B: f"its marker says that it is of {A.name}"}
    assert damaged(results) == stale(results, settings) == expected


def test_an_edited_marker_clears_its_own_tile_and_nothing_that_it_names(
    results: Results, tmp_path: Path
) -> None:
    for folder in ("victim", "results/parquet/victim-dark/dataset/Norder=6/Dir=0/Npix=5"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "precious").write_text("x")
    change(results, B, survey="../../victim", pixel=5)
    change(results, C, survey="victim", healpix=5, pixel=5)
    found = damaged(results)
    assert found.keys() == {B, C}
    for tile in found:
        clear_tile(results, tile)
        assert not marker_path(results, tile).exists()
        assert not parquet_folder(results, tile).exists()
    assert len(list(tmp_path.rglob("precious"))) == 2
    assert damaged(results) == {}
    assert parquet_folder(results, A).exists()


def test_a_valid_parquet_of_another_tile_is_named(results: Results) -> None:
    data = parquet_path(A, parquet_folder(results, A)).read_bytes()
    path = parquet_path(B, parquet_folder(results, B))
    path.write_bytes(data)
    change(results, B, sha256=hashlib.sha256(data).hexdigest(), bytes_parquet=len(data))
    assert damaged(results) == {B: f"{path.name} is the Parquet of {A.name}"}


@pytest.mark.parametrize("name", ["main/dark/x.json", "main/dark/0100.json", "other/dark/1.json",
                                  "main/noon/1.json", "main/dark/99999999.json"])  # fmt: skip
def test_a_file_in_the_place_of_a_marker_that_is_no_tiles_is_named_and_left(
    results: Results, name: str
) -> None:
    path = results / "validated" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(marker_path(results, A).read_bytes())
    assert find_damaged(results, progress=False) == ([], [path])


def test_a_link_in_the_place_of_a_tiles_folder_is_removed_and_not_what_it_leads_to(
    results: Results, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    clear_tile(results, B)
    for folder in (parquet_folder(results, B), fits_folder(results, B)):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(precious, target_is_directory=True)
    clear_tile(results, B)
    assert (precious / "file").exists()
    assert not parquet_folder(results, B).is_symlink()
