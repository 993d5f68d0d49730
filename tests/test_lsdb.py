"""The collection in LSDB and hats, as a user of LSDB opens it. `make test-lsdb` installs both."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import load_settings
from hats_trees import PIXELS, make_row, place, write_failed, write_tile

from desi_fits_to_parquet.collection.build import build_collection
from desi_fits_to_parquet.tile import Tile

pytestmark = [
    pytest.mark.lsdb,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    # the extension's partitions have no margin, and need none: equal targets have equal positions
    pytest.mark.filterwarnings("ignore:Right catalog does not have a margin cache:RuntimeWarning"),
]

DARK, BRIGHT = Tile("main", "dark", 1024), Tile("main", "bright", 1024)
ACROSS, FAR = Tile("main", "dark", 341), Tile("main", "dark", 40_000)
FAILED, EMPTY = Tile("main", "dark", 1030), Tile("main", "dark", 1031)
TILES = [DARK, BRIGHT, ACROSS, FAR, FAILED, EMPTY]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection of a few tiles; target 100 lies at the very edge of its partition."""
    import dask

    dask.config.set(scheduler="synchronous")
    settings: Any = load_settings()
    folder = tmp_path_factory.mktemp("results")
    for tile, first in ((DARK, 100), (BRIGHT, 100), (ACROSS, 200), (FAR, 300)):
        rows = [make_row(first + i, place(tile, (i + 0.37) / 31.4)) for i in range(1, 30)]
        rows.append(make_row(first, place(tile, 0 if first == 100 else 0.51)))
        write_tile(folder, tile, rows, settings)
    write_failed(folder, FAILED)
    write_tile(folder, EMPTY, [], settings)
    build_collection(folder, TILES, settings)
    return folder


@pytest.fixture(scope="module")
def catalog(results: Path) -> Any:
    import lsdb

    return lsdb.open_catalog(results)


def test_hats_finds_every_catalogue_valid(results: Path) -> None:
    from hats.io.validation import is_valid_catalog, is_valid_collection

    assert is_valid_collection(results, strict=True)
    for name in ("main-dark", "main-bright"):
        assert is_valid_catalog(results / "parquet" / name, strict=True)


def test_the_catalogue_opens_with_its_margin(catalog: Any) -> None:
    frame = catalog.compute()
    assert (len(frame), frame.index.name) == (120, "_healpix_29")
    assert catalog.margin is not None
    assert catalog.hc_structure.catalog_info.total_rows == 120
    assert {"targetid", "z", "is_primary", "file", "row"} <= set(frame.columns)


def test_all_columns_and_chosen_ones_are_read(results: Path) -> None:
    import lsdb

    path = next((results / "catalog").rglob("Npix*.parquet"))
    names = set(pq.read_schema(path).names)
    assert set(lsdb.open_catalog(results, columns="all").columns) | {"_healpix_29"} == names
    chosen = lsdb.open_catalog(results, columns=["targetid", "halpha_flux"]).compute()
    assert set(chosen.columns) == {"targetid", "halpha_flux", "target_ra", "target_dec"}


def test_a_cone_holds_what_is_in_it(catalog: Any) -> None:
    frame = catalog.compute()
    ra, dec = frame[frame["targetid"] == 315][["target_ra", "target_dec"]].iloc[0]
    found = catalog.cone_search(ra, dec, 1200).compute()
    x, y = (frame["target_ra"] - ra) * np.cos(np.radians(dec)), frame["target_dec"] - dec
    assert sorted(found["targetid"]) == sorted(frame["targetid"][np.hypot(x, y) < 1 / 3])
    assert 1 < len(found) < 30


def test_an_index_finds_targets_in_all_their_programmes(catalog: Any) -> None:
    found = catalog.id_search({"targetid": [105, 310]}).compute()
    assert sorted(zip(found["targetid"], found["program"], strict=True)) == [
        (105, "bright"), (105, "dark"), (310, "dark"),
    ]  # fmt: skip


def test_a_crossmatch_uses_the_margin(results: Path, catalog: Any) -> None:
    import lsdb

    frame = catalog.compute()
    at_edge = frame[(frame["targetid"] == 100) & (frame["program"] == "dark")].iloc[0]
    margin = catalog.margin.compute()
    assert set(margin["targetid"]) == {100}
    # a second catalogue: every third target, two arcseconds further south, beyond the edge
    other = frame[frame["program"] == "dark"].iloc[::3]
    other = pd.concat([other, frame[frame["targetid"] == 100].iloc[:1]])
    other = pd.DataFrame({
        "ra": other["target_ra"].to_numpy(float),
        "dec": other["target_dec"].to_numpy(float) - 2 / 3600,
        "name": other["targetid"].to_numpy(int),
    }).drop_duplicates("name")  # fmt: skip
    second = lsdb.from_dataframe(other, ra_column="ra", dec_column="dec", lowest_order=1)
    edge = other[other["name"] == 100].iloc[0]
    pixels = second.cone_search(edge["ra"], edge["dec"], 1).get_healpix_pixels()
    own = {int(at_edge.name) >> 2 * (29 - pixel.order) for pixel in pixels}
    assert own.isdisjoint({pixel.pixel for pixel in pixels}), "the shifted position left it"
    found = second.crossmatch(
        catalog, radius_arcsec=3, n_neighbors=5, suffixes=("", "_desi")
    ).compute()
    pairs = set(zip(found["name"], found["targetid_desi"], strict=True))
    assert pairs == {(name, name) for name in other["name"]}
    assert (found["_dist_arcsec"] < 2.001).all()


def test_the_spectra_open_and_nest(results: Path) -> None:
    import lsdb

    spectra = lsdb.open_catalog(
        results / "parquet/main-dark", columns=["targetid", "wavelength", "flux", "ivar", "mask"]
    )
    lists = ["wavelength", "flux", "ivar", "mask"]
    nested = spectra.nest_lists(list_columns=lists, name="spectrum").compute()
    assert len(nested) == 90
    row = nested[nested["targetid"] == 305].iloc[0]
    assert row["spectrum"].columns.tolist() == lists
    assert len(row["spectrum"]["flux"]) == PIXELS
    assert len(nested["spectrum.flux"]) == 90 * PIXELS


def test_every_column_of_the_spectra_is_read(results: Path) -> None:
    import lsdb

    frame = lsdb.open_catalog(results / "parquet/main-dark").compute()
    path = next((results / "parquet/main-dark").rglob("*.parquet"))
    assert set(frame.columns) | {"_healpix_29"} == set(pq.read_schema(path).names)


def test_spectra_come_along_where_the_search_comes_first(catalog: Any) -> None:
    found = catalog.id_search({"targetid": [105, 310]}).query("program == 'dark'")
    spectra = found.load_extension("main-dark", columns=["flux", "ivar"]).compute()
    assert sorted(spectra["targetid"]) == [105, 310]
    assert {len(flux) for flux in spectra["flux"]} == {PIXELS}


def test_a_search_after_the_extension_is_loaded_finds_nothing(catalog: Any) -> None:
    """A fault of LSDB 0.11.1: when this fails, docs/collection.md can say less."""
    loaded = catalog.load_extension("main-dark", columns=["flux"])
    assert len(loaded.id_search({"targetid": [105]}).compute()) == 0
