"""The readers that the files are made for: DuckDB, pyarrow, pandas, Polars, astropy."""

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from astropy.table import QTable, Table
from conftest import load_settings
from fusion_tiles import changed, converted, write_tile

from desi_fits_to_parquet.convert import to_astropy
from desi_fits_to_parquet.fuse.parquet import ROW_GROUP
from desi_fits_to_parquet.paths import parquet_folder
from desi_fits_to_parquet.readers import read_astropy
from desi_fits_to_parquet.tile import Tile

# two surveys and programs over one pixel number, and a tile without targets
TILES = (Tile("main", "dark", 17), Tile("main", "bright", 17), Tile("sv3", "dark", 17))

pytestmark = pytest.mark.filterwarnings("ignore::astropy.units.UnitsWarning")


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return load_settings()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, settings: dict[str, Any]) -> Path:
    """The folder `parquet` of a run over three tiles, one of them without targets."""
    root = tmp_path_factory.mktemp("run")
    for tile in TILES:
        folder = write_tile(root / "fits" / tile.name, tile)
        limits = [90, 91] if tile.program == "bright" else None
        converted(
            folder, parquet_folder(root, tile), changed(settings, selection={"z": limits}), tile
        )
    return root / "parquet"


def expected(tree: Path) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for path in tree.rglob("*.parquet"):
        with pq.ParquetFile(path) as parquet:
            rows += parquet.read(["survey", "program", "healpix", "targetid", "z"]).to_pylist()
    return sorted(tuple(row.values()) for row in rows)


def test_duckdb_reads_the_tree(tree: Path) -> None:
    glob = f"{tree}/**/*.parquet"
    for options in ("", ", hive_partitioning = true"):
        rows = duckdb.sql(
            f"SELECT survey, program, healpix, targetid, z FROM read_parquet('{glob}'{options})"  # noqa: S608  (our own words)
        ).fetchall()
        assert sorted(rows) == expected(tree)
    flux, fit = duckdb.sql(
        f"SELECT flux, rrdetails.chi2[1] FROM '{glob}' WHERE survey = 'sv3' AND z > 0 LIMIT 1"  # noqa: S608  (our own words)
    ).fetchone()
    assert len(flux) == 7751
    assert fit > 0


def test_pyarrow_reads_the_tree(tree: Path) -> None:
    for partitioning in (None, "hive"):
        table = ds.dataset(tree, partitioning=partitioning).to_table()
        columns = table.select(["survey", "program", "healpix", "targetid", "z"]).to_pylist()
        assert sorted(tuple(row.values()) for row in columns) == expected(tree)
    assert pq.read_table(tree).num_rows == len(expected(tree))


def test_pandas_reads_the_tree(tree: Path) -> None:
    frame = pd.read_parquet(tree)
    columns = frame[["survey", "program", "healpix", "targetid", "z"]]
    assert sorted(columns.itertuples(index=False, name=None)) == expected(tree)
    assert {len(flux) for flux in frame["flux"]} == {7751}


def test_polars_reads_the_tree(tree: Path) -> None:
    for source in (tree, f"{tree}/**/*.parquet"):
        frame = pl.scan_parquet(source).collect()
        columns = frame.select("survey", "program", "healpix", "targetid", "z")
        assert sorted(columns.rows()) == expected(tree)
    assert isinstance(frame.schema["rrdetails"], pl.Struct)


def test_astropy_shows_units_and_descriptions(
    tree: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    tile = TILES[0]
    folder = tree.parent / "fits" / tile.name
    simple = changed(settings, columns={"rrdetails": False})
    for limits in (None, [90, 91]):
        config = changed(simple, selection={"z": limits})
        written = converted(folder, tmp_path, config, tile)
        table = Table.read(tmp_path / f"{tile.name}.parquet", format="parquet.votable")
        assert table.colnames == written.column_names
        assert table["targetid"].tolist() == written["targetid"].to_pylist()
        assert table["flux"].unit.to_string() == "1e-17 erg / (Angstrom s cm2)"
        assert str(table["wavelength"].unit) == "Angstrom"
        assert str(table["target_ra"].unit) == "deg"
        assert table["flux_g"].unit.to("Jy") == pytest.approx(3.631e-6)
        assert table["flux_ivar_g"].unit.to("uJy-2") == pytest.approx(3.631**-2)
        assert table["z"].description == "Redshift of the best fit (redrock)"
        assert table["z"].meta["ucd"] == "src.redshift;meta.main"


def test_astropys_own_reader_has_no_place_for_structs(tree: Path) -> None:
    with pytest.raises(NotImplementedError, match="struct"):
        # when this no longer raises, docs/data-model.md says so
        Table.read(next(tree.rglob("main-dark-17.parquet")), format="parquet.votable")


@pytest.mark.filterwarnings("error")
def test_read_astropy_gives_a_table_to_compute_with_and_to_write_to_fits(
    tree: Path, tmp_path: Path
) -> None:
    path = next(tree.rglob("main-dark-17.parquet"))
    rows = pq.ParquetFile(path).read()
    table = read_astropy(path)
    assert set(rows.column_names) - set(table.colnames) == {"rrdetails"}
    flux = table["flux"]
    assert (flux.shape, flux.dtype) == ((len(rows), 7751), np.float32)
    np.testing.assert_array_equal(flux.value, np.stack(rows["flux"].to_numpy()))
    assert (flux * table["wavelength"]).unit.is_equivalent("erg / (s cm2)")
    assert table["mask"].dtype == np.int32
    assert table["z"].description == "Redshift of the best fit (redrock)"
    assert table["flux_ivar_g"].unit.is_equivalent("Jy-2")
    magnitudes = 22.5 - 2.5 * np.log10(rows["flux_r"].to_numpy())
    np.testing.assert_allclose(table["flux_r"].to_value("mag(AB)"), magnitudes, atol=1e-3)
    table.write(tmp_path / "table.fits")
    again = QTable.read(tmp_path / "table.fits")
    assert again["flux"].unit == flux.unit
    np.testing.assert_array_equal(again["flux"].value, flux.value)


@pytest.mark.filterwarnings("error")
def test_read_astropy_reads_a_folder_and_the_columns_asked_for(tree: Path) -> None:
    columns = ["survey", "program", "healpix", "targetid", "z"]
    for folder in (tree, tree.parent):
        table = read_astropy(folder, columns)
        assert table.colnames == columns
        assert sorted(table.as_array().tolist()) == expected(tree)
    assert len(read_astropy(tree)["flux"]) == len(expected(tree))
    empty = read_astropy(next(tree.rglob("main-bright-17.parquet")))
    assert (len(empty), empty["flux"].unit.is_equivalent("erg/(s cm2 AA)")) == (0, True)


def test_read_astropy_names_what_is_not_there(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no Parquet file"):
        read_astropy(tmp_path)
    for column in ("rrdetails", "fluxes"):
        with pytest.raises(ValueError, match=f"no column {column}"):
            read_astropy(tree, ["z", column])


def test_lists_of_unequal_length_end_in_masked_values() -> None:
    table = to_astropy(pa.table({"mjd": [[1.0, 2.0], [], [3.0]]}))
    assert table["mjd"].filled(0).tolist() == [[1, 2], [0, 0], [3, 0]]
    assert table["mjd"].mask.tolist() == [[False, False], [True, True], [False, True]]


def test_one_spectrum_is_found_without_reading_all(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    tile = TILES[0]
    everyone = changed(settings, selection={"spectypes": ["QSO", "GALAXY", "STAR"], "zwarn": None})
    folder = write_tile(tmp_path / "tile", tile, n_targets=200, kinds=("coadd", "redrock"))
    table = converted(folder, tmp_path, everyone, tile)
    path = tmp_path / f"{tile.name}.parquet"
    with pq.ParquetFile(path) as parquet:
        metadata = parquet.metadata
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        assert max(group.num_rows for group in groups) == ROW_GROUP
        names = [groups[0].column(i).path_in_schema for i in range(metadata.num_columns)]
        for name in ("_healpix_29", "targetid", "z", "target_ra", "target_dec"):
            for group in groups:
                assert group.column(names.index(name)).statistics.has_min_max
        assert groups[0].column(names.index("targetid")).bloom_filter_offset
        assert [by.column_index for by in groups[0].sorting_columns] == [
            names.index("_healpix_29"), names.index("targetid"),
        ]  # fmt: skip
        # the statistics leave one row group for a position
        index, wanted = table["_healpix_29"][130].as_py(), table["targetid"][130].as_py()
        statistics = [group.column(names.index("_healpix_29")).statistics for group in groups]
        holding = [i for i, there in enumerate(statistics) if there.min <= index <= there.max]
        assert len(holding) == 1
        assert metadata.row_group(holding[0]).total_byte_size < 0.25 * sum(
            group.total_byte_size for group in groups
        )
    row = pl.scan_parquet(path).filter(pl.col("targetid") == wanted).select("flux").collect()
    np.testing.assert_array_equal(row["flux"][0].to_numpy(), table["flux"][130].as_py())
