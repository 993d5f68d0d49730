"""The resolution: widths of lines as desispec's matrices have them, and the matrices themselves."""

from math import erf
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from astropy.io import fits as astropy_fits
from fusion_tiles import TILE, changed, convert, converted, edit_fits, write_tile

from desi_fits_to_parquet.record.arms import combine, join_grids
from desi_fits_to_parquet.record.resolution import combine_widths, line_widths

F32 = npt.NDArray[np.float32]

REAL = "special/dark/272/27247/coadd-special-dark-27247.fits"

LSF = {"spectra": {"resolution": "lsf"}}

WAVES = (3600 + 0.8 * np.arange(40), 3624 + 0.8 * np.arange(60), 3664 + 0.8 * np.arange(30))
"""Three arms that overlap by 10 pixels each."""


def matrix(profile: npt.NDArray[np.float64]) -> F32:
    """Diagonals of a band matrix whose rows are these profiles, shape (npix, ndiagonal)."""
    npix, count = profile.shape
    diagonals = np.zeros((1, count, npix), np.float32)
    for i in range(npix):
        for k in range(count):  # element (i, j), of the diagonal j - i, the highest first
            j = i + count // 2 - k
            if 0 <= j < npix:
                diagonals[0, k, j] = profile[i, count // 2 - k + count // 2]
    return diagonals


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tile(tmp_path_factory.mktemp("tile"), n_targets=16, kinds=("coadd", "redrock"))


def test_the_width_of_a_gaussian_is_its_sigma_wherever_its_centre_is() -> None:
    sigma = np.linspace(0.7, 1.3, 50)
    shift = np.sin(np.arange(50)) / 3
    shift[[0, -1]] = 0  # where one neighbour stands for both
    offset = np.arange(-5, 6)
    profile = np.exp(-0.5 * ((offset - shift[:, None]) / sigma[:, None]) ** 2)
    widths = line_widths(matrix(profile / 3))  # however it is normed
    assert widths.shape == (1, 50)
    assert np.allclose(widths[0], 0.8 * sigma, rtol=1e-6)


def test_the_width_includes_that_of_the_pixel() -> None:
    sigma = np.linspace(0.75, 1.2, 40)
    below = [[erf(edge / (s * 2**0.5)) / 2 for edge in np.arange(-5.5, 6)] for s in sigma]
    profile = np.diff(below)
    expected = 0.8 * np.sqrt(sigma**2 + 1 / 12)
    assert np.allclose(line_widths(matrix(profile))[0], expected, rtol=5e-3)


def test_a_matrix_without_a_peak_has_no_width() -> None:
    resolution = matrix(np.ones((6, 1)) * [0.1, 0.5, 0.1])
    resolution[0, :, 2] = 0  # a dead column leaves its neighbours without one of theirs
    resolution[0, :, 4] = np.nan
    assert np.isnan(line_widths(resolution)[0]).tolist() == [False, *5 * [True]]
    assert np.isnan(line_widths(np.zeros((2, 11, 30), np.float32))).all()


def test_widths_are_joined_with_the_weights_of_the_flux() -> None:
    grid = join_grids(WAVES)
    rng = np.random.default_rng(3)
    widths = [rng.uniform(0.6, 0.8, (4, len(wave))).astype("f4") for wave in WAVES]
    ivar = [rng.uniform(1, 9, (4, len(wave))).astype("f4") for wave in WAVES]
    ivar[0][1, -10:] = 0  # another arm alone sees it
    ivar[0][2, -10:] = ivar[1][2, :10] = 0  # none does
    widths[0][3, -10:] = np.nan
    joined = combine_widths(grid, widths, ivar)
    both = slice(30, 40)
    assert np.array_equal(joined[:, :30], widths[0][:, :30])
    squares = [widths[0][:, -10:].astype("f8") ** 2, widths[1][:, :10].astype("f8") ** 2]
    mask = [np.zeros(w.shape, np.int32) for w in widths]
    flux = [w.astype("f8").astype("f4") ** 2 for w in widths]
    as_flux = combine(grid, flux, ivar, mask).flux[:, both]
    assert np.allclose(joined[0, both] ** 2, as_flux[0], rtol=1e-5)
    assert np.array_equal(joined[1, both], widths[1][1, :10])
    assert np.allclose(joined[2, both] ** 2, (squares[0] + squares[1])[2] / 2, rtol=1e-5)
    assert np.array_equal(joined[3, both], widths[1][3, :10])


def test_lsf_is_in_the_record_for_each_pixel_within_its_bits(
    folder: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    audited = changed(settings, **LSF, transfer={"audit_fraction": 1})
    _, marker, path = convert(TILE, folder, tmp_path / "out", audited)
    assert marker["outcome"] == "converted", marker["reason"]
    assert marker["second_reader"]
    assert 0 < marker["max_lsf_error_relative"] <= 2**-7
    table = pq.ParquetFile(path).read()
    lsf = np.array(table["lsf"].to_pylist())
    assert lsf.shape == np.array(table["flux"].to_pylist()).shape
    # the simulated arms: 0.81 to 1.11 pixels of 0.8 Angstrom
    assert 0.8 * 0.8 < lsf.min() < lsf.max() < 0.8 * 1.12
    fine = changed(audited, precision={"mode": "lossless"})
    _, exact, path = convert(TILE, folder, tmp_path / "exact", fine)
    assert exact["outcome"] == "converted", exact["reason"]
    assert exact["max_lsf_error_relative"] == 0
    whole = np.array(pq.ParquetFile(path).read()["lsf"].to_pylist())
    assert 0 < np.abs(lsf / whole - 1).max() <= 2**-7


@pytest.mark.parametrize("mode", ["bounded", "lossless"])
def test_the_diagonals_are_those_of_the_fits(
    folder: Path, settings: dict[str, Any], tmp_path: Path, mode: str
) -> None:
    apart = {"cameras": "separate", "resolution": "matrix"}
    asked = changed(settings, spectra=apart, precision={"mode": mode})
    table = converted(folder, tmp_path / "out", asked)
    with astropy_fits.open(folder / TILE.file_name("coadd")) as coadd:
        targetid = coadd["FIBERMAP"].data["TARGETID"].tolist()
        rows = [targetid.index(target) for target in table["targetid"].to_pylist()]
        for arm in "BRZ":
            expected = coadd[f"{arm}_RESOLUTION"].data[rows]
            found = np.array(table[f"{arm.lower()}_resolution"].to_pylist(), "f4")
            off = np.abs(found.reshape(expected.shape) - expected.astype("f8")).max()
            assert off == 0 if mode == "lossless" else 0 < off <= 2**-13


def four_diagonals(hdus: Any) -> None:
    hdus["R_RESOLUTION"].data = hdus["R_RESOLUTION"].data[:, :4]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda hdus: hdus.pop("R_RESOLUTION"), "R_RESOLUTION"),
        (four_diagonals, "HDU R_RESOLUTION has shape (8, 4, 2326), not (8, an odd number"),
    ],
    ids=["missing", "even"],
)
def test_a_coadd_without_the_resolution_that_is_asked_for_says_so(
    settings: dict[str, Any], tmp_path: Path, change: Any, words: str
) -> None:
    write_tile(tmp_path / "in", n_targets=8, kinds=("coadd", "redrock"))
    edit_fits(tmp_path / "in" / TILE.file_name("coadd"), change)
    _, marker, _ = convert(TILE, tmp_path / "in", tmp_path / "out", changed(settings, **LSF))
    assert marker["outcome"] == "corrupt_source"
    assert words in marker["reason"]
    _, marker, _ = convert(TILE, tmp_path / "in", tmp_path / "none", settings)
    assert marker["outcome"] == "converted"  # where it is not asked for, nobody looks at it


def test_lsf_takes_less_than_its_goal_of_1500_bytes_on_a_real_spectrum(
    settings: dict[str, Any], tmp_path: Path, real_data: Path
) -> None:
    """A file of this one target, relabelled so that it is selected."""
    tile = TILE._replace(survey="special", number=27247)
    folder = tmp_path / "in"
    folder.mkdir()
    for path in (real_data / tile.folder).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    edit_fits(folder / tile.file_name("redrock"), relabel)
    asked = changed(settings, **LSF, transfer={"audit_fraction": 1})
    _, marker, path = convert(tile, folder, tmp_path / "out", asked)
    assert marker["outcome"] == "converted", marker["reason"]
    group = pq.ParquetFile(path).metadata.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    size = {c.path_in_schema.split(".")[0]: c.total_compressed_size for c in columns}
    assert 1000 < size["lsf"] < 1500


def relabel(hdus: Any) -> None:
    hdus["REDSHIFTS"].data["SPECTYPE"][:] = "QSO"
    hdus["REDSHIFTS"].data["ZWARN"][:] = 0


@pytest.mark.reference
def test_widths_are_those_of_desispecs_matrix(real_data: Path) -> None:
    from desispec.resolution import Resolution

    with astropy_fits.open(real_data / REAL) as coadd:
        for arm in "BRZ":
            diagonals = np.asarray(coadd[f"{arm}_RESOLUTION"].data, np.float32)
            dense = Resolution(diagonals[0].astype("f8")).toarray()
            peak, after, before = (np.diag(dense, k) for k in (0, 1, -1))
            inner = slice(1, -1)
            expected = 0.8 / np.sqrt(np.log(peak[inner] ** 2 / (after[1:] * before[:-1])))
            assert np.allclose(line_widths(diagonals)[0, inner], expected, rtol=1e-6)


@pytest.mark.reference
def test_a_narrow_line_seen_through_desispecs_matrix_is_as_wide_as_lsf_says() -> None:
    from desispec.resolution import Resolution

    sigma = np.linspace(0.85, 1.15, 400)
    resolution = Resolution(sigma)  # in pixels, integrated over them
    lsf = line_widths(np.asarray(resolution.to_fits_array(), np.float32)[None])[0]
    pixel = np.arange(400)
    for centre in (50, 200, 350):
        line = np.exp(-0.5 * ((pixel - centre) / 2.5) ** 2)
        seen = resolution.dot(line)
        mean = (seen * pixel).sum() / seen.sum()
        width = np.sqrt((seen * (pixel - mean) ** 2).sum() / seen.sum())
        expected = np.hypot(2.5, lsf[centre] / 0.8)
        assert width == pytest.approx(expected, rel=0.01)
