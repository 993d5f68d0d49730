"""`open_catalog`: the catalogue and its spectra as their users ask for them."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import astropy.units as u
import matplotlib as mpl
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import SkyCoord
from conftest import REPOSITORY, load_settings
from fusion_tiles import changed
from reader_trees import collect, simulate

from desi_fits_to_parquet import open_catalog
from desi_fits_to_parquet.lines import LINES
from desi_fits_to_parquet.reader import frame
from desi_fits_to_parquet.reader.catalog import Catalog
from desi_fits_to_parquet.readers import read_rows
from desi_fits_to_parquet.record.resolution import line_widths

mpl.use("agg")


@pytest.fixture(scope="module")
def everything() -> Any:
    selection = {"spectypes": ["QSO", "GALAXY", "STAR"], "zwarn": None}
    return changed(load_settings(), selection=selection)


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("fits"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, fits: Path, everything: Any) -> Path:
    return collect(fits, tmp_path_factory.mktemp("results"), everything)


@pytest.fixture(scope="module")
def catalog(results: Path) -> Catalog:
    return open_catalog(results)


@pytest.fixture(scope="module")
def rows(results: Path) -> list[dict[str, Any]]:
    """All rows of the tiles themselves."""
    columns = [
        "targetid",
        "survey",
        "program",
        "z",
        "spectype",
        "target_ra",
        "target_dec",
        "flux_r",
    ]
    paths = sorted((results / "parquet").rglob("*.parquet"))
    return [row for path in paths for row in pq.ParquetFile(path).read(columns).to_pylist()]


def pairs(table: Any) -> list[tuple[int, str]]:
    return sorted(zip(table["targetid"].to_pylist(), table["program"].to_pylist(), strict=True))


def pixels(results: Path, targetid: int, program: str) -> dict[str, Any]:
    """Return a spectrum as its tile's file has it."""
    for path in (results / "parquet").rglob(f"main-{program}-*.parquet"):
        table = pq.ParquetFile(path).read(["targetid", "wavelength", "flux", "ivar", "mask"])
        for row in table.to_pylist():
            if row["targetid"] == targetid:
                return {name: np.array(row[name]) for name in table.column_names}
    raise AssertionError(targetid)


def refusal(call: Callable[[], Any], kind: type[Exception] = ValueError) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_package_is_light_until_the_reader_is_asked_for() -> None:
    code = (
        "import sys, desi_fits_to_parquet as d; n = len(sys.modules); d.open_catalog;"
        "print({'numpy', 'pyarrow'} <= set(sys.modules),"
        " {'snakemake', 'astropy', 'pandas', 'matplotlib', 'boto3', 'obstore'} & set(sys.modules));"
        "print('numpy' in list(sys.modules)[:n])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(REPOSITORY / "src")},
    )
    assert done.stdout.split("\n")[:2] == ["True set()", "False"]


def test_a_condition_in_sql_leaves_the_rows_that_it_holds_for(catalog: Any, rows: Any) -> None:
    some = catalog.where("z > 0.5 and flux_r > 1 -- bright ones").where("spectype = 'QSO'")
    wanted = [r for r in rows if r["z"] > 0.5 and r["flux_r"] > 1 and r["spectype"] == "QSO"]
    assert len(some) == some.count() == len(wanted) > 0
    expected = sorted((r["targetid"], r["program"]) for r in wanted)
    assert pairs(some.to_arrow()) == expected
    assert len(catalog) == len(rows)
    assert len(catalog.where("redshift > 0.5 AND ra > 0 AND dec > -90")) == len(
        [r for r in rows if r["z"] > 0.5]
    )
    assert "where z > 0.5 and flux_r > 1" in repr(some)


def test_a_cone_holds_the_targets_within_its_radius(catalog: Any, rows: Any) -> None:
    here = SkyCoord([r["target_ra"] for r in rows] * u.deg, [r["target_dec"] for r in rows] * u.deg)
    centre = here[7]
    for radius in (1e-5, 0.05, 0.3, 5, 60, 180):
        wanted = sorted(
            (rows[i]["targetid"], rows[i]["program"])
            for i in np.flatnonzero(here.separation(centre) <= radius * u.deg)
        )
        for cone in (
            catalog.cone(ra=centre.ra.deg, dec=centre.dec.deg, radius=radius),
            catalog.cone(centre, radius=radius * u.deg),
            catalog.cone(centre.ra, centre.dec, (radius * u.deg).to(u.arcsec)),
            catalog.cone(centre.galactic, radius=radius),
        ):
            assert pairs(cone.to_arrow(["targetid", "program"])) == wanted
    # over the pole and over the meridian
    assert len(catalog.cone(0, 90, 90 - float(here.dec.min().deg) + 1e-6)) == len(rows)
    assert len(catalog.cone(359.9, 0, 180)) == len(rows)


def test_a_cone_at_a_pole_or_over_the_meridian_is_covered_by_its_pixels() -> None:
    from astropy_healpix import HEALPix

    from desi_fits_to_parquet.reader.sky import pixel_ranges

    grid, rng = HEALPix(nside=1 << 29, order="nested"), np.random.default_rng(3)
    for lon, lat, radius in ((0, 90, 0.7), (359.99, 0, 0.1), (10, -89.99, 3), (45, 41.8, 30)):
        centre = SkyCoord(lon * u.deg, lat * u.deg)
        there = centre.directional_offset_by(
            rng.uniform(0, 360, 500) * u.deg, radius * np.sqrt(rng.uniform(0, 1, 500)) * u.deg
        )
        ranges = np.array(pixel_ranges(lon, lat, radius))
        number = grid.lonlat_to_healpix(there.ra, there.dec)
        inside = (number[:, None] >= ranges[:, 0]) & (number[:, None] <= ranges[:, 1])
        assert inside.any(axis=1).all()
        assert len(ranges) < 300


def test_a_table_has_the_columns_asked_for_in_the_form_asked_for(catalog: Any, rows: Any) -> None:
    names = ["ra", "dec", "redshift", "targetid", "flux_r", "program"]
    arrow = catalog.to_arrow(names)
    assert arrow.column_names == names
    assert arrow.schema.field("ra").metadata[b"unit"] == b"deg"
    assert pairs(arrow) == sorted((r["targetid"], r["program"]) for r in rows)
    frame = catalog.to_pandas(names)
    assert list(frame.columns) == names
    assert catalog.to_polars(names).equals(pl.from_arrow(arrow))
    table = catalog.to_astropy(names)
    assert table["ra"].unit == u.deg
    np.testing.assert_allclose(table["flux_r"].to_value("uJy"), 3.631 * frame["flux_r"], rtol=1e-6)
    assert table["redshift"].description == "Redshift of the best fit (redrock)"
    assert table["targetid"].dtype == np.int64
    assert table["targetid"].tolist() == arrow["targetid"].to_pylist()
    every = catalog.to_astropy()
    assert every.colnames == catalog.columns
    masked = [name for name in every.colnames if arrow_nulls(catalog, name)]
    for name in masked:
        assert every[name].mask.all() == (arrow_nulls(catalog, name) == len(rows))
    assert masked
    assert catalog.describe().loc["ebv", "unit"] == "mag"


def arrow_nulls(catalog: Catalog, name: str) -> int:
    return int(catalog.to_arrow([name])[name].null_count)


def test_rows_come_in_the_order_of_the_sky_whatever_is_asked(catalog: Any) -> None:
    assert (np.diff(catalog.to_arrow()["_healpix_29"].to_numpy()) >= 0).all()
    some = catalog.where("z > 0.5")
    spectra = some.spectra()
    assert spectra.targetid.tolist() == some.to_arrow(["targetid"])["targetid"].to_pylist()
    first = catalog.head(3)
    assert (len(first), first.to_arrow()) == (3, catalog.to_arrow().slice(0, 3))
    ids = catalog.to_arrow(["targetid"])["targetid"].to_numpy()[[5, 2]]
    assert set(catalog.targets(ids).spectra().targetid) == set(ids)
    assert len(catalog.targets([])) == 0


def test_a_spectrum_is_that_of_its_row(catalog: Any, results: Path) -> None:
    spectra = catalog.where("spectype != 'STAR'").spectra(columns=["flux", "ivar", "flux_r"])
    assert spectra.flux.shape == spectra.ivar.shape == (len(spectra), len(spectra.wavelength))
    programs = spectra.table["program"].to_pylist()
    assert set(programs) == {"dark", "bright"}
    for i in range(0, len(spectra), 7):
        there = pixels(results, int(spectra.targetid[i]), programs[i])
        np.testing.assert_array_equal(spectra.wavelength, there["wavelength"])
        np.testing.assert_array_equal(spectra.flux[i], there["flux"])
        np.testing.assert_array_equal(spectra.ivar[i], there["ivar"])
        np.testing.assert_array_equal(spectra.mask[i], there["mask"])
        np.testing.assert_array_equal(spectra.good[i], there["ivar"] > 0)
        one = catalog.where("spectype != 'STAR'").spectra()[i]
        np.testing.assert_array_equal(one.flux, there["flux"])
        assert one.targetid == spectra.targetid[i]
        assert one.redshift == one.z == spectra.redshift[i]
        assert (one.ra, one.dec) == (spectra.ra[i], spectra.dec[i])
    assert "flux_r" in spectra.table.column_names
    assert catalog.spectra()[-1].targetid == catalog.spectra().targetid[-1]


def test_a_million_spectra_are_read_in_blocks(catalog: Any) -> None:
    spectra = catalog.spectra(columns=["flux"])
    blocks = list(spectra.blocks(7))
    assert [len(block) for block in blocks][:-1] == [7] * (len(blocks) - 1)
    assert all({*block._data} == {"flux"} for block in blocks)
    assert spectra._data == {}
    np.testing.assert_array_equal(np.concatenate([block.flux for block in blocks]), spectra.flux)
    assert [one.targetid for one in spectra] == spectra.targetid.tolist()
    part = spectra[10:2:-3]
    assert part.targetid.tolist() == spectra.targetid[10:2:-3].tolist()
    np.testing.assert_array_equal(part.ivar, spectra.ivar[10:2:-3])
    assert len(spectra[spectra.z > 0.5]) == np.count_nonzero(spectra.z > 0.5)
    assert list(catalog.where("z > 99").spectra().blocks()) == []


def test_nothing_is_read_before_it_is_asked_for(
    catalog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, tuple[str, ...]]] = []
    tree = catalog._collection.tree
    read = tree.read_rows

    def counted(files: Any, numbers: Any, sizes: Any, columns: Any) -> Any:
        asked.append((len(files), tuple(columns)))
        return read(files, numbers, sizes, columns)

    monkeypatch.setattr(tree, "read_rows", counted)
    assert len(catalog.spectra().wavelength) == 7751
    asked.clear()
    spectra = catalog.where("z > 0.1").spectra(columns=["flux", "ivar"])[3:9]
    assert asked == []
    assert spectra.flux.shape == spectra.ivar.shape
    assert asked == [(6, ("flux", "ivar"))]
    assert spectra.mask.shape == spectra.flux.shape
    assert asked[1:] == [(6, ("mask",))]


def test_specutils_gets_one_spectrum_with_units_inverse_variance_and_mask(catalog: Any) -> None:
    specutils = pytest.importorskip("specutils")
    spectra = catalog.where("spectype = 'QSO'").spectra()
    many = spectra.to_specutils()
    assert isinstance(many, specutils.Spectrum)
    assert many.shape == spectra.flux.shape
    np.testing.assert_array_equal(many.mask, ~spectra.good)
    assert many.uncertainty.uncertainty_type == "ivar"
    assert many.flux.unit.is_equivalent("erg s-1 cm-2 AA-1")
    np.testing.assert_allclose(
        many.flux.to_value("W m-2 nm-1"), 1e-19 * spectra.flux, rtol=1e-6
    )  # 1e-17 erg/(s cm2 Angstrom) is 1e-19 W/(m2 nm)
    assert many.uncertainty.unit == many.flux.unit**-2
    assert many.meta["targetid"].tolist() == spectra.targetid.tolist()
    one = spectra[0].to_specutils()
    np.testing.assert_array_equal(one.flux.value, spectra.flux[0])
    assert one.redshift.value == pytest.approx(spectra.z[0])
    assert one.spectral_axis.unit == u.AA


def test_tables_of_spectra_hold_pixels_with_their_units(catalog: Any) -> None:
    spectra = catalog.spectra(columns=["flux"])[:5]
    table = spectra.to_astropy()
    assert table["flux"].shape == spectra.flux.shape
    assert table["flux"].unit.is_equivalent("W m-2 nm-1")
    assert table.meta["wavelength"].unit == u.AA
    arrow = spectra.to_arrow()
    assert arrow["flux"].to_pylist() == spectra.flux.tolist()
    assert "ivar" not in arrow.column_names
    assert spectra.to_pandas()["wavelength"][4].tolist() == spectra.wavelength.tolist()
    assert spectra.to_polars()["flux"].dtype == pl.Array(pl.Float32, 7751)
    assert spectra[2].to_astropy()["ivar"].unit == table["ivar"].unit


def test_weight_and_lines_stay_what_they_are_in_the_rest_frame() -> None:
    wavelength = np.arange(3600, 9801, 0.8)
    z = np.array([0.0, 1.7, 3.2])
    ivar = np.full((3, len(wavelength)), 4, np.float32)
    ivar[:, 1000:1100] = 0
    line = 1500 * (1 + z)[:, None]
    flux = np.exp(-0.5 * ((wavelength - line) / 10) ** 2).astype(np.float32) + np.float32(1)
    flux[:, 1000:1100] = np.nan
    grid = np.arange(1000, 2500, 0.5)
    new_flux, new_ivar = frame.to_rest_frame(wavelength, flux, ivar, z, grid)
    for i in (1, 2):
        at = grid[np.argmax(new_flux[i] - (1 + z[i]))]
        assert abs(at - 1500) < 0.5
        inside = np.abs(grid - 1500) < 20
        area = np.sum(new_flux[i][inside] - (1 + z[i])) * 0.5
        assert area == pytest.approx(10 * np.sqrt(2 * np.pi), rel=1e-3)
        # the information within a range is that of the observed pixels in it
        there = (wavelength > 1450 * (1 + z[i])) & (wavelength < 1550 * (1 + z[i]))
        rest = (grid > 1450) & (grid < 1550)
        assert new_ivar[i][rest].sum() * (1 + z[i]) ** 2 == pytest.approx(
            ivar[i][there].sum(), rel=0.01
        )
        gap = (grid * (1 + z[i]) > wavelength[1001]) & (grid * (1 + z[i]) < wavelength[1098])
        assert gap.any()
        assert not new_ivar[i][gap].any()
    assert np.isfinite(new_flux).all()
    # at z = 0 on their own grid they are what they were
    same, weight = frame.to_rest_frame(wavelength, flux[:1], ivar[:1], z[:1], wavelength)
    np.testing.assert_allclose(same[ivar[:1] > 0], flux[:1][ivar[:1] > 0], rtol=1e-5)
    np.testing.assert_allclose(weight, ivar[:1], rtol=1e-5)


def test_a_stack_is_the_mean_by_weight_or_the_median_of_good_pixels(catalog: Any) -> None:
    spectra = catalog.where("spectype = 'QSO'").spectra()
    weight = np.where(spectra.good, spectra.ivar, 0).astype(float)
    mean = spectra.stack("mean")
    total = np.maximum(weight.sum(axis=0), 1e-9)
    expected = (weight * np.nan_to_num(spectra.flux)).sum(axis=0) / total
    np.testing.assert_allclose(mean.flux[mean.good], expected[mean.good], rtol=1e-5)
    np.testing.assert_allclose(mean.ivar, weight.sum(axis=0), rtol=1e-5)
    median = spectra.stack("median")
    flux = np.where(spectra.good, spectra.flux, np.nan)
    some = median.good
    np.testing.assert_allclose(median.flux[some], np.nanmedian(flux[:, some], axis=0))
    composite = spectra.rest_frame(np.arange(1000, 3000, 1.0)).stack(normalise=(2000, 2100))
    inside = (composite.wavelength > 2000) & (composite.wavelength < 2100) & composite.good
    assert np.median(composite.flux[inside]) == pytest.approx(1, abs=0.1)
    assert composite.to_astropy()["flux"].unit == u.dimensionless_unscaled
    assert "median" in repr(composite)
    assert "rest frame" in repr(composite)


def test_the_error_of_a_median_is_that_of_gaussian_values() -> None:
    rng = np.random.default_rng(1)
    sigma = np.tile([1.0, 2.0, 3.0], 33)[:, None]
    flux = rng.normal(0, 1, (99, 4000)) * sigma
    middle, ivar = frame.median(flux, np.broadcast_to(1 / sigma**2, flux.shape))
    assert np.std(middle) == pytest.approx(ivar[0] ** -0.5, rel=0.05)


def test_one_spectrum_in_its_rest_frame_keeps_its_pixels(catalog: Any) -> None:
    one = catalog.where("z > 0.5").spectra()[0]
    rest = one.rest_frame()
    np.testing.assert_allclose(rest.wavelength, one.wavelength / (1 + one.z))
    np.testing.assert_allclose(rest.flux, one.flux * (1 + one.z), rtol=1e-6)
    snr = one.flux * np.sqrt(one.ivar)
    np.testing.assert_allclose(rest.flux * np.sqrt(rest.ivar), snr, rtol=1e-5)
    assert rest.rest_frame() is rest


def test_a_plot_marks_the_lines_where_the_redshift_puts_them(catalog: Any) -> None:
    import matplotlib.pyplot as plt

    one = catalog.where("spectype = 'QSO' AND z BETWEEN 1 AND 2.5").spectra()[0]
    axes = one.plot(smooth=3)
    marks = {text.get_text(): text.xy[0] for text in axes.texts}
    inside = {
        name: rest * (1 + one.z)
        for name, rest in LINES["QSO"].items()
        if 3600 < rest * (1 + one.z) < 9800
    }
    assert marks == pytest.approx(inside)
    assert str(one.targetid) in axes.get_title(loc="left")
    assert "Å" in axes.get_xlabel()
    assert one.rest_frame().plot(axes).texts[-1].xy[0] == pytest.approx(
        LINES["QSO"][axes.texts[-1].get_text()]
    )
    assert not one.plot(lines=False).texts
    plt.close("all")


def test_separate_arms_are_joined_as_the_workflow_joins_them(
    tmp_path: Path, fits: Path, everything: Any, catalog: Any
) -> None:
    from reader_trees import TILES

    apart = changed(everything, spectra={"cameras": "separate"}, precision={"mode": "lossless"})
    whole = changed(
        everything, spectra={"wavelength_range": [3600, 9824]}, precision={"mode": "lossless"}
    )
    tiles = TILES[2:]
    separate = open_catalog(collect(fits, tmp_path / "apart", apart, tiles)).spectra()
    combined = open_catalog(collect(fits, tmp_path / "whole", whole, tiles)).spectra()
    np.testing.assert_array_equal(separate.wavelength, combined.wavelength)
    for name in ("flux", "ivar", "mask"):
        np.testing.assert_array_equal(getattr(separate, name), getattr(combined, name))
    arm = separate.arm("r")
    assert len(arm.wavelength) == 2326
    assert arm.flux.shape == arm.mask.shape == (len(separate), 2326)
    assert arm[0].wavelength[0] == arm.wavelength[0] > 5000
    assert separate[1].to_astropy()["flux"].unit is not None
    assert "no q" in refusal(lambda: separate.arm("q"))  # type: ignore[arg-type]
    assert "spectra.cameras: separate" in refusal(lambda: catalog.spectra().arm("b"))


def test_widths_of_lines_and_matrices_are_there_by_the_names_of_their_columns(
    tmp_path: Path, fits: Path, everything: Any, catalog: Any
) -> None:
    from reader_trees import TILES

    def made(name: str, **spectra: Any) -> Any:
        whole = {"wavelength_range": [3600, 9824], **spectra}
        settings = changed(everything, spectra=whole, precision={"mode": "lossless"})
        return open_catalog(collect(fits, tmp_path / name, settings, TILES[2:]))

    combined = made("a", resolution="lsf").spectra(columns=["flux", "lsf"])
    apart = made("b", resolution="lsf", cameras="separate").spectra(columns=["lsf"])
    matrices = made("c", resolution="matrix", cameras="separate").spectra()
    assert combined.lsf.shape == combined.flux.shape
    np.testing.assert_allclose(apart.lsf, combined.lsf, rtol=1e-6)
    blue = matrices.arm("b")
    assert blue.resolution.shape == (len(blue), 11, 2751)
    np.testing.assert_array_equal(line_widths(blue.resolution), apart.arm("b").lsf)
    one = combined[1]
    assert one.lsf is not None
    np.testing.assert_array_equal(one.lsf, combined.lsf[1])
    assert combined.to_astropy()["lsf"].unit == one.to_astropy()["lsf"].unit == u.AA
    assert blue[:2].resolution.shape == (2, 11, 2751)
    assert combined.to_pandas()["lsf"][0].shape == combined.wavelength.shape
    rest = combined.rest_frame()
    inside = np.isfinite(rest.lsf)
    assert inside.any(axis=1).all()
    observed = rest.lsf * (1 + rest.z[:, None])
    assert 0.65 < observed[inside].min() < observed[inside].max() < 0.9
    np.testing.assert_allclose(one.rest_frame().lsf, one.lsf / (1 + one.z), rtol=1e-6)
    assert "spectra.resolution: lsf" in refusal(lambda: catalog.spectra().lsf)
    assert "arm('b')" in refusal(lambda: matrices.resolution)
    assert "rest frame" in refusal(lambda: blue.rest_frame().resolution)


def test_what_is_not_there_is_said_in_a_sentence(
    catalog: Any, results: Path, tmp_path: Path
) -> None:
    assert "near to it: flux_r" in refusal(lambda: catalog.where("fluxr > 3"))
    assert "syntax error" in refusal(lambda: catalog.where("z >"))
    assert "near to it: target_ra" in refusal(lambda: catalog.to_pandas(["targetra"]))
    assert "has no column fluxx" in refusal(lambda: catalog.spectra(columns=["fluxx"]))
    assert "a list of names" in refusal(lambda: catalog.to_arrow("z"))
    assert "['flux']" in refusal(lambda: catalog.spectra(columns="flux"))
    assert "could not convert" in refusal(lambda: len(catalog.where("spectype::int > 3"))).lower()
    for call, words in (
        (lambda: catalog.cone(1, 2), "radius is missing"),
        (lambda: catalog.cone(1, 99, 1), "dec 99"),
        (lambda: catalog.cone(1, 9, -1), "radius -1"),
        (lambda: catalog.cone(1 * u.m, 9, 1), "no angle"),
        (lambda: catalog.targets([0.5]), "integers"),
        (lambda: catalog.head(3).where("z > 1"), "head"),
        (lambda: catalog.spectra().stack("mode"), "'median' and 'mean'"),
        (lambda: catalog.spectra().rest_frame([3, 2]), "rise"),
    ):
        assert words in refusal(call)
    empty = catalog.where("z > 99")
    assert len(empty) == len(empty.to_pandas()) == len(empty.to_astropy()) == 0
    for call in (
        lambda: empty.spectra().flux,
        lambda: empty.spectra().rest_frame(),
        lambda: empty.spectra().stack(),
    ):
        assert "no target" in refusal(call)
    assert "0 targets" in refusal(lambda: empty.spectra()[0], IndexError)
    assert "no such folder" in refusal(lambda: open_catalog(tmp_path / "no"), FileNotFoundError)
    assert "collection.properties is missing" in refusal(lambda: open_catalog(tmp_path))
    copy = tmp_path / "copy"
    shutil.copytree(results, copy)
    for path in (copy / "parquet").rglob("*.parquet"):
        path.unlink()
    assert "the catalogue names this file" in refusal(
        lambda: open_catalog(copy).spectra().flux, FileNotFoundError
    )
    next((copy / "catalog").rglob("Npix=*.parquet")).unlink()
    assert "not whole" in refusal(lambda: open_catalog(copy), FileNotFoundError)
    with pytest.raises(ValueError, match="no column q; it has survey"):
        read_rows(results, [str(next(results.rglob("main-*.parquet")))], [0], ["q"])


def test_help_tells_how_to_use_it() -> None:
    import inspect

    from desi_fits_to_parquet.reader.spectra import Spectra, Spectrum

    for kind in (Catalog, Spectra, Spectrum):
        for name, member in inspect.getmembers(kind):
            if not name.startswith("_"):
                assert inspect.getdoc(member), f"{kind.__name__}.{name}"
    assert "where(" in (open_catalog.__doc__ or "")
