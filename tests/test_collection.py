"""The collection: a catalogue of all scalars, its index and margin, and the spectra beside it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import astropy.units as u
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits as astropy_fits
from astropy_healpix import HEALPix
from conftest import load_settings
from hats_trees import make_row, place, write_failed, write_tile

from desi_fits_to_parquet.collection import partition
from desi_fits_to_parquet.collection.build import ORDER, build_collection
from desi_fits_to_parquet.collection.fields import catalog_fields
from desi_fits_to_parquet.collection.margin import MARGIN_ARCSEC, find_margin
from desi_fits_to_parquet.collection.primary import find_primary
from desi_fits_to_parquet.paths import CATALOG, INDEX, MARGIN, parquet_folder
from desi_fits_to_parquet.readers import read_rows
from desi_fits_to_parquet.record.schema import HATS_INDEX, record_fields
from desi_fits_to_parquet.tile import Tile

DARK, BRIGHT = Tile("main", "dark", 10_000), Tile("main", "bright", 10_000)
NEXT, FAR = Tile("main", "dark", 10_001), Tile("sv3", "dark", 40_000)
FAILED, EMPTY = Tile("main", "dark", 10_002), Tile("main", "dark", 10_003)
TILES = [DARK, BRIGHT, NEXT, FAR, FAILED, EMPTY]


def write_run(results: Path, settings: Any) -> None:
    """Write tiles that overlap and tiles apart, one that failed and one without rows."""
    for k, tile in enumerate((DARK, BRIGHT, NEXT, FAR)):
        # the same targets in the dark and the bright programme
        first = 1000 * (0 if tile is BRIGHT else k)
        rows = [make_row(first + i, place(tile, (i * 37 % 20 + 0.5) / 20)) for i in range(20)]
        write_tile(results, tile, rows, settings)
    write_failed(results, FAILED)
    write_tile(results, EMPTY, [], settings)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("written")
    write_run(results, load_settings())
    return results


@pytest.fixture
def run(tmp_path: Path, written: Path) -> tuple[Path, list[Tile]]:
    """The results of a run before its collection is built, and its tiles."""
    results = tmp_path / "results"
    shutil.copytree(written, results)
    return results, TILES


def read_catalog(results: Path, name: str = CATALOG) -> pa.Table:
    paths = sorted((results / name).rglob("Npix=*.parquet"), key=lambda p: int(p.stem[5:]))
    return pa.concat_tables([pq.ParquetFile(path).read() for path in paths])


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.ParquetFile(path).read()), path)


def all_bytes(results: Path) -> dict[str, bytes]:
    """All that the collection wrote, by path below the results."""
    return {
        str(path.relative_to(results)): path.read_bytes()
        for path in sorted(results.rglob("*"))
        if path.is_file() and path.relative_to(results).parts[0] != "validated"
    }


def test_every_scalar_of_every_tile_stands_in_the_catalogue(run: Any, settings: Any) -> None:
    results, tiles = run
    figures = build_collection(results, tiles, settings)
    assert figures == {"rows": 80, "outside": 0, "partitions": 2, "written": 2}
    catalog = read_catalog(results)
    scalars = [f.name for f in record_fields(settings) if not pa.types.is_nested(f.type)]
    assert catalog.column_names == [*scalars, "file", "row", "file_size", "is_primary"]
    for row in catalog.to_pylist():
        path = results / row["file"]
        source = pq.ParquetFile(path).read(scalars).slice(row["row"], 1).to_pylist()[0]
        assert source == {name: row[name] for name in scalars}
        assert row["file_size"] == path.stat().st_size


def test_rows_are_sorted_by_position_and_lie_in_the_pixel_of_their_file(
    run: Any, settings: Any
) -> None:
    results, tiles = run
    build_collection(results, tiles, settings)
    for path in (results / CATALOG / "dataset").rglob("*.parquet"):
        position = pq.ParquetFile(path).read()[HATS_INDEX].to_numpy()
        assert (np.diff(position) >= 0).all()
        assert set(position >> 2 * (29 - ORDER)) == {int(path.stem[5:])}


def test_columns_of_the_catalogue_keep_unit_and_description(run: Any, settings: Any) -> None:
    results, tiles = run
    build_collection(results, tiles, settings)
    path = next((results / CATALOG / "dataset").rglob("*.parquet"))
    for there in (
        pq.read_schema(path),
        pq.read_schema(results / CATALOG / "dataset/_common_metadata"),
    ):
        for field in catalog_fields(settings):
            metadata = there.field(field.name).metadata
            assert metadata[b"description"].decode() == field.description
            assert metadata.get(b"unit", b"").decode() == field.unit


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        ([(True, 1.0), (True, 2.0)], 1),
        ([(False, 9.0), (True, 1.0)], 1),
        ([(False, 1.0), (False, 2.0)], 1),
        ([(True, 1.0), (True, 1.0)], 0),
        ([(True, np.nan), (True, 0.0)], 1),
        ([(False, np.nan), (False, np.nan)], 0),
    ],
)
def test_the_primary_has_no_warning_then_the_highest_quality(rows: Any, best: int) -> None:
    good, quality = np.array(rows).T
    flags = find_primary(np.full(2, 7), good.astype(bool), quality)
    assert np.flatnonzero(flags).tolist() == [best]


def test_a_target_in_several_programmes_has_one_primary_spectrum(run: Any, settings: Any) -> None:
    results, tiles = run
    at = place(DARK, 0.3)
    write_tile(results, DARK, [make_row(5, at, coadd_exptime=100.0)], settings)
    write_tile(results, BRIGHT, [make_row(5, at, coadd_exptime=900.0, zwarn=4)], settings)
    build_collection(results, tiles, settings)
    rows = read_catalog(results).filter(pa.compute.field("targetid") == 5).to_pylist()
    assert {row["program"]: row["is_primary"] for row in rows} == {"dark": True, "bright": False}


def test_a_target_in_two_partitions_has_one_primary_spectrum(run: Any, settings: Any) -> None:
    results, tiles = run
    write_tile(results, DARK, [make_row(5, place(DARK, 0.3), coadd_exptime=100.0)], settings)
    write_tile(results, FAR, [make_row(5, place(FAR, 0.3), coadd_exptime=900.0)], settings)
    build_collection(results, tiles, settings)
    rows = read_catalog(results).filter(pa.compute.field("targetid") == 5).to_pylist()
    assert {row["survey"]: row["is_primary"] for row in rows} == {"main": False, "sv3": True}
    # and it is told anew where only the other partition changes
    write_tile(results, FAR, [make_row(5, place(FAR, 0.3), coadd_exptime=9.0)], settings)
    build_collection(results, tiles, settings)
    rows = read_catalog(results).filter(pa.compute.field("targetid") == 5).to_pylist()
    assert {row["survey"]: row["is_primary"] for row in rows} == {"main": True, "sv3": False}


OUTSIDE = {
    "in a neighbour's pixel": lambda: place(NEXT, 0.5),
    "before all others": lambda: place(Tile("main", "dark", 8_192), 0.0),
    "after all others": lambda: place(Tile("main", "dark", 12_287), 0.9),
    "in another partition": lambda: place(FAR, 0.77),
    "where there is no tile": lambda: place(Tile("main", "dark", 20_000), 0.5),
}


@pytest.mark.parametrize(
    ("where", "group"),
    [*((where, 30) for where in OUTSIDE), ("in a neighbour's pixel", partition.ROW_GROUP)],
)
def test_a_row_outside_its_tile_stands_where_it_is(
    run: Any, settings: Any, where: str, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "ROW_GROUP", group)
    results, tiles = run
    lost = OUTSIDE[where]()
    rows = [make_row(77, lost), *(make_row(i, place(DARK, i / 40)) for i in range(39))]
    write_tile(results, DARK, rows, settings)
    for _ in range(2):
        figures = build_collection(results, tiles, settings)
        assert figures["rows"] == 100
        assert figures["outside"] == 1
        catalog = read_catalog(results)
        assert (np.diff(catalog[HATS_INDEX].to_numpy()) >= 0).all()
        (row,) = catalog.filter(pa.compute.field("targetid") == 77).to_pylist()
        assert (row[HATS_INDEX], row["healpix"]) == (lost, DARK.pixel)
    assert figures["written"] == 0
    # the tile is made again without that row: it goes from the other partition too
    write_tile(results, DARK, rows[1:], settings)
    figures = build_collection(results, tiles, settings)
    assert (figures["rows"], figures["outside"]) == (99, 0)
    fresh = results.with_name("fresh")
    shutil.copytree(results, fresh, ignore=shutil.ignore_patterns("catalog*"))
    build_collection(fresh, tiles, settings)
    assert all_bytes(results) == all_bytes(fresh)


def test_only_partitions_of_changed_tiles_are_written_again(run: Any, settings: Any) -> None:
    results, tiles = run
    build_collection(results, tiles, settings)
    before = all_bytes(results)
    assert build_collection(results, tiles, settings)["written"] == 0
    assert all_bytes(results) == before
    write_tile(results, FAR, [make_row(1, place(FAR, 0.1))], settings)
    figures = build_collection(results, tiles, settings)
    assert (figures["written"], figures["rows"]) == (1, 61)
    kept = f"{CATALOG}/dataset/Norder={ORDER}/Dir=0/Npix=9.parquet"
    assert all_bytes(results)[kept] == before[kept]


def test_the_same_tiles_give_the_same_bytes(
    run: Any, written: Path, settings: Any, tmp_path: Path
) -> None:
    results, tiles = run
    build_collection(results, tiles, settings)
    other = tmp_path / "elsewhere" / "results"
    shutil.copytree(written, other)
    # made step by step, and with the tiles in another order
    build_collection(other, tiles[:1], settings)
    build_collection(other, tiles[::-1], settings)
    assert all_bytes(other) == all_bytes(results)


def test_row_groups_part_between_pixels(
    run: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, tiles = run
    build_collection(results, tiles, settings)
    whole = read_catalog(results)
    monkeypatch.setattr(partition, "ROW_GROUP", 45)
    shutil.rmtree(results / CATALOG)
    build_collection(results, tiles, settings)
    path = results / CATALOG / f"dataset/Norder={ORDER}/Dir=0/Npix=9.parquet"
    groups = pq.ParquetFile(path).metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [40, 20]
    assert read_catalog(results).equals(whole)


def test_tiles_of_different_sizes_make_one_sorted_catalogue(tmp_path: Path, settings: Any) -> None:
    def tile(program: str, order: int, pixel: int) -> Tile:
        return Tile("main", program, pixel + (4 << 2 * order), "uniqpix")

    # a pixel of order 5, two of order 7 within it, and one that is larger than a partition
    tiles = [tile("dark", 5, 100), tile("bright", 7, 1600), tile("bright", 7, 1615)]
    tiles.append(tile("backup", 0, 11))
    for k, one in enumerate(tiles):
        rows = [make_row(100 * k + i, place(one, (i + 0.3) / 9)) for i in range(9)]
        write_tile(tmp_path, one, rows, settings)
    figures = build_collection(tmp_path, tiles, settings)
    assert (figures["rows"], figures["outside"]) == (36, 0)
    catalog = read_catalog(tmp_path)
    assert (np.diff(catalog[HATS_INDEX].to_numpy()) >= 0).all()
    assert sorted(catalog["targetid"].to_pylist()) == [
        100 * k + i for k in range(4) for i in range(9)
    ]
    assert build_collection(tmp_path, tiles, settings)["written"] == 0
    pixels = pd.read_csv(tmp_path / "parquet/main-bright/partition_info.csv")
    assert pixels.values.tolist() == [[7, 1600], [7, 1615]]


def test_a_partition_without_tiles_goes(run: Any, settings: Any) -> None:
    results, tiles = run
    build_collection(results, tiles, settings)
    build_collection(results, [tile for tile in tiles if tile is not FAR], settings)
    for name in (CATALOG, MARGIN):
        assert [p.name for p in (results / name).rglob("Npix*")] == ["Npix=9.parquet"]
        assert (results / name / "partition_info.csv").read_text() == f"Norder,Npix\n{ORDER},9\n"


def test_a_run_in_which_all_tiles_failed_has_an_empty_collection(
    tmp_path: Path, settings: Any
) -> None:
    write_failed(tmp_path, FAILED)
    assert build_collection(tmp_path, [FAILED], settings)["rows"] == 0
    assert (tmp_path / CATALOG / "partition_info.csv").read_text() == "Norder,Npix\n"


def test_margin_holds_what_is_near_a_partition_and_not_in_it() -> None:
    grid = HEALPix(nside=1 << 29, order="nested")
    rng = np.random.default_rng(4)
    # on both sides of edges and corners: positions around the corners of the partitions
    corners = HEALPix(nside=1 << ORDER, order="nested").boundaries_lonlat(np.arange(48), 15)
    lon, lat = (np.repeat(side.to_value(u.deg).ravel(), 3) for side in corners)
    distance, angle = rng.uniform(0, 20 / 3600, len(lon)), rng.uniform(0, 2 * np.pi, len(lon))
    around = SkyCoord(lon, lat, unit="deg").directional_offset_by(angle * u.rad, distance * u.deg)
    place_29 = grid.lonlat_to_healpix(around.ra, around.dec)
    own = place_29 >> 2 * (29 - ORDER)
    found = set()
    for pixel in range(48):
        rows = np.flatnonzero(own == pixel)
        near, pixels = find_margin(place_29[rows], ORDER)
        found |= set(zip(rows[near].tolist(), pixels.tolist(), strict=True))
    assert all(own[row] != pixel for row, pixel in found)
    # a position within the margin of a partition is there, one beyond twice the small pixels is not
    ring = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    for arcsec, there in ((MARGIN_ARCSEC, True), (30.0, False)):
        touched = set()
        for angle_of in ring:
            moved = around.directional_offset_by(angle_of * u.rad, arcsec * u.arcsec)
            pixels = grid.lonlat_to_healpix(moved.ra, moved.dec) >> 2 * (29 - ORDER)
            touched |= {(i, int(p)) for i, p in enumerate(pixels) if p != own[i]}
        assert touched
        assert touched <= found if there else found <= touched


def test_margin_files_hold_whole_rows_of_the_neighbour(tmp_path: Path, settings: Any) -> None:
    # the last position of one partition, and one far from its edge
    inner = Tile("main", "dark", 2000)
    edge = Tile("main", "dark", 1024)
    write_tile(tmp_path, inner, [make_row(1, place(inner, 0.5))], settings)
    write_tile(
        tmp_path, edge, [make_row(2, place(edge, 0.0)), make_row(3, place(edge, 0.7))], settings
    )
    other = Tile("main", "dark", 341)  # the tile at the edge of the partition before
    write_tile(tmp_path, other, [make_row(4, place(other, 0.1))], settings)
    build_collection(tmp_path, [inner, edge, other], settings)
    catalog = read_catalog(tmp_path)
    # the corner has three neighbours: in one of them there are rows
    files = {path.stem: pq.ParquetFile(path).read() for path in (tmp_path / MARGIN).rglob("Npix*")}
    assert {name: len(table) for name, table in files.items()} == {
        "Npix=0": 1, "Npix=1": 0, "Npix=22": 1, "Npix=23": 1
    }  # fmt: skip
    margin = files["Npix=0"]
    assert margin.equals(catalog.filter(pa.compute.field("targetid") == 2))
    assert margin.schema.equals(catalog.schema)


def test_the_index_tells_the_partitions_of_every_target(run: Any, settings: Any) -> None:
    results, tiles = run
    build_collection(results, tiles, settings)
    catalog = read_catalog(results)
    expected = {
        (targetid, ORDER, place_29 >> 2 * (29 - ORDER))
        for targetid, place_29 in zip(
            catalog["targetid"].to_pylist(), catalog[HATS_INDEX].to_pylist(), strict=True
        )
    }
    table = ds.parquet_dataset(results / INDEX / "dataset/_metadata").to_table()
    assert [tuple(row.values()) for row in table.to_pylist()] == sorted(expected)


def test_sky_maps_count_the_rows(run: Any, settings: Any) -> None:
    results, tiles = run
    build_collection(results, tiles, settings)
    for folder, counts in (
        (CATALOG, {10_000: 40, 10_001: 20, 40_000: 20}),
        ("parquet/main-dark", {10_000: 20, 10_001: 20}),
        ("parquet/sv3-dark", {40_000: 20}),
    ):
        with astropy_fits.open(results / folder / "skymap.fits", checksum=True) as hdus:
            values = hdus[1].data["VALUE"]
        assert {int(i): int(values[i]) for i in np.flatnonzero(values)} == counts
        assert len(values) == 12 * 64**2


def test_the_spectra_are_a_catalogue_of_the_tiles_with_a_parquet(run: Any, settings: Any) -> None:
    results, tiles = run
    build_collection(results, tiles, settings)
    folder = results / "parquet/main-dark"
    listed = pd.read_csv(folder / "partition_info.csv")
    assert listed.values.tolist() == [[6, 10_000], [6, 10_001], [6, 10_003]]
    # a folder without a file is no partition: it goes
    assert not parquet_folder(results, FAILED).exists()
    properties = dict(
        line.split("=", 1) for line in (folder / "hats.properties").read_text().splitlines()
    )
    assert properties["hats_npix_suffix"] == "/"
    assert properties["hats_nrows"] == "40"
    assert pq.read_schema(folder / "dataset/_common_metadata").names == [
        field.name for field in record_fields(settings)
    ]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "is not there: snakemake verify"),
        (lambda path: path.write_bytes(b"PAR1"), "cannot be read"),
        (lambda path: rewrite(path, lambda table: table.slice(3)), "17 rows, 20"),
        (
            lambda path: rewrite(path, lambda table: table.drop_columns(["z"])),
            "lacks z: other settings",
        ),
    ],
)
def test_a_tile_that_is_not_what_its_marker_says_ends_the_build_with_its_name(
    run: Any, settings: Any, damage: Callable[[Path], None], words: str
) -> None:
    results, tiles = run
    path = next((results / "parquet").rglob("main-dark-10001.parquet"))
    damage(path)
    with pytest.raises(ValueError, match=words) as raised:
        build_collection(results, tiles, settings)
    assert "main-dark-10001.parquet" in str(raised.value)


def test_a_build_that_ends_half_way_leaves_no_collection_and_is_made_good(
    run: Any, settings: Any
) -> None:
    results, tiles = run
    build_collection(results, tiles, settings)
    whole = all_bytes(results)
    path = next((results / "parquet").rglob("main-dark-10001.parquet"))
    kept = path.read_bytes()
    path.unlink()
    shutil.rmtree(results / CATALOG)
    with pytest.raises(ValueError, match="not there"):
        build_collection(results, tiles, settings)
    assert not (results / "collection.properties").exists()
    path.write_bytes(kept)
    build_collection(results, tiles, settings)
    assert all_bytes(results) == whole


def test_a_missing_marker_is_named(run: Any, settings: Any) -> None:
    results, tiles = run
    (results / "validated/main/dark/10001.json").unlink()
    with pytest.raises(ValueError, match=r"10001\.json is not there"):
        build_collection(results, tiles, settings)


def test_duckdb_pandas_pyarrow_and_polars_read_the_tree_with_one_glob(
    run: Any, settings: Any
) -> None:
    results, tiles = run
    build_collection(results, tiles, settings)
    for folder, n_rows in (("parquet", 80), ("catalog", 80), ("parquet/main-dark", 40)):
        glob = f"{results}/{folder}/**/*.parquet"
        found = {
            "duckdb": duckdb.sql(f"SELECT count(targetid) FROM '{glob}'").fetchone()[0],  # noqa: S608  (our own words)
            "polars": len(pl.scan_parquet(glob).select("targetid").collect()),
            "pandas": sum(
                len(pd.read_parquet(path)) for path in Path(results / folder).rglob("*.parquet")
            ),
        }
        assert found == dict.fromkeys(found, n_rows)
    for folder in ("parquet/main-dark/dataset", "catalog/dataset"):
        n_rows = 40 if "dark" in folder else 80
        assert len(pd.read_parquet(results / folder)) == n_rows
        assert pq.read_table(results / folder).num_rows == n_rows
        assert ds.dataset(results / folder).count_rows() == n_rows


def test_a_row_of_the_catalogue_leads_to_its_spectrum(run: Any, settings: Any) -> None:
    results, tiles = run
    build_collection(results, tiles, settings)
    found = duckdb.sql(
        f"SELECT targetid, file, row FROM '{results}/catalog/**/*.parquet'"  # noqa: S608  (our own words)
        " WHERE targetid IN (3005, 7, 3001, 2019, 8) AND program = 'dark'"
    ).fetchnumpy()
    table = read_rows(results, found["file"], found["row"], ["targetid", "flux"])
    assert table["targetid"].to_pylist() == found["targetid"].tolist()
    assert len(table) == 5
    file = pq.ParquetFile(results / found["file"][0]).read(["targetid", "flux"])
    assert table.slice(0, 1).to_pylist() == file.slice(int(found["row"][0]), 1).to_pylist()
    assert set(read_rows(results, found["file"], found["row"]).column_names) > {"rrdetails", "mask"}
    assert len(read_rows(results, [], [])) == 0


def test_a_row_that_is_not_there_is_no_other_row(run: Any) -> None:
    results, _ = run
    path = next((results / "parquet").rglob("main-dark-10001.parquet")).relative_to(results)
    for row in (20, -1):
        with pytest.raises(IndexError, match="has 20 rows"):
            read_rows(results, [str(path)] * 2, [3, row])
