"""Combined arms: what desispec gives, on simulated and on real coadds."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fusion_tiles import TILE, write_tile

from desi_fits_to_parquet.formats.fits import open_fits
from desi_fits_to_parquet.formats.fits_images import read_image
from desi_fits_to_parquet.record.arms import CAMERAS, combine, cut_range, drop_masked, join_grids

Array = npt.NDArray[Any]

WAVES = [
    np.round(3600 + 0.8 * np.arange(2751), 1),
    np.round(5760 + 0.8 * np.arange(2326), 1),
    np.round(7520 + 0.8 * np.arange(2881), 1),
]


def draw_arms(n: int = 3) -> tuple[list[Array], list[Array], list[Array]]:
    """Arms with masked pixels of every kind: masked with and without weight, in overlaps too."""
    rng = np.random.default_rng(3)
    shapes = [(n, len(wave)) for wave in WAVES]
    flux = [rng.normal(0, 5, shape).astype(np.float32) for shape in shapes]
    ivar = [rng.exponential(1, shape).astype(np.float32) for shape in shapes]
    mask = [(rng.random(s) < 0.1).astype(np.int32) << rng.integers(0, 11, s) for s in shapes]
    for w, m in zip(ivar, mask, strict=True):
        w[rng.random(w.shape) < 0.05] = 0
        w[(m > 0) & (rng.random(m.shape) < 0.5)] = 0
    return flux, ivar, [m.astype(np.int32) for m in mask]


def read_arms(path: Path) -> tuple[list[Array], list[Array], list[Array], list[Array]]:
    """Wavelength, flux, ivar and mask of the arms of a coadd."""
    with open_fits(path) as fits:
        return tuple(
            [read_image(fits, f"{camera}_{quantity}") for camera in CAMERAS]
            for quantity in ("WAVELENGTH", "FLUX", "IVAR", "MASK")
        )


def assert_as_desispec(
    waves: Sequence[Array], flux: list[Array], ivar: list[Array], mask: list[Array]
) -> None:
    """Compare with desispec to the rounding of float32."""
    from desispec.coaddition import coadd_cameras
    from desispec.spectra import Spectra

    bands = [camera.lower() for camera in CAMERAS]

    def by_band(values: Sequence[Array]) -> dict[str, Array]:
        return dict(zip(bands, copy.deepcopy(list(values)), strict=True))

    reference = coadd_cameras(
        Spectra(bands, by_band(waves), by_band(flux), by_band(ivar), mask=by_band(mask))
    )
    ours = combine(join_grids(waves), flux, ivar, mask)
    band = reference.bands[0]
    assert np.array_equal(ours.wavelength, reference.wave[band])
    assert np.array_equal(ours.mask, reference.mask[band])
    np.testing.assert_allclose(ours.ivar, reference.ivar[band], rtol=2**-23)
    # a mean of values of both signs loses digits where desispec works in float32 itself
    weight = np.abs(reference.flux[band]).max()
    np.testing.assert_allclose(ours.flux, reference.flux[band], rtol=2**-22, atol=2**-23 * weight)


@pytest.mark.reference
def test_combined_arms_are_desispecs_where_pixels_are_masked() -> None:
    flux, ivar, mask = draw_arms()
    assert_as_desispec(WAVES, flux, ivar, mask)


@pytest.mark.reference
def test_combined_arms_are_desispecs_on_a_simulated_coadd(tmp_path: Path) -> None:
    write_tile(tmp_path, n_targets=8, kinds=("coadd",))
    assert_as_desispec(*read_arms(tmp_path / TILE.file_name("coadd")))


@pytest.mark.reference
def test_combined_arms_are_desispecs_on_a_real_coadd(real_data: Path) -> None:
    path = real_data / "special/dark/272/27247/coadd-special-dark-27247.fits"
    waves, flux, ivar, mask = read_arms(path)
    assert_as_desispec(waves, flux, ivar, mask)
    # it has no masked pixel: mask some, in the overlaps too, as DR1 does (with ivar kept)
    rng = np.random.default_rng(11)
    assert_as_desispec(
        waves, flux, ivar, [np.where(rng.random(m.shape) < 0.1, 2, m).astype("i4") for m in mask]
    )


def test_the_joined_grid_is_7781_increasing_pixels() -> None:
    grid = join_grids(WAVES)
    assert len(grid.wavelength) == 7781
    assert (np.diff(grid.wavelength) > 0).all()
    assert len(grid.shared) == 51 + 126
    assert grid.wavelength[[0, -1]].tolist() == [3600.0, 9824.0]


def test_overlap_is_the_weighted_mean() -> None:
    flux, ivar, mask = draw_arms(1)
    for i, (f, w) in enumerate(((2.0, 1.0), (6.0, 3.0))):
        flux[i][:], ivar[i][:], mask[i][:] = f, w, 0
    combined = combine(join_grids(WAVES), flux, ivar, mask)
    at = int(np.searchsorted(combined.wavelength, 5780 - 0.1))
    assert combined.flux[0, at] == 5.0
    assert combined.ivar[0, at] == 4.0


def test_masked_pixels_keep_their_bits_and_lose_their_weight_where_asked() -> None:
    flux, ivar, mask = draw_arms(1)
    for w, m in zip(ivar, mask, strict=True):
        w[:], m[:] = 1.0, 4
    grid = join_grids(WAVES)
    # what desispec does: the mask is cleared where ivar > 0
    as_desispec = combine(grid, flux, ivar, mask)
    assert not as_desispec.mask.any()
    # but no bit is lost
    assert (as_desispec.mask_arms == 4).all()
    dropped = combine(
        grid, flux, [drop_masked(*pair) for pair in zip(ivar, mask, strict=True)], mask
    )
    assert (dropped.mask == 4).all()
    assert not dropped.ivar.any()


def test_pixels_without_weight_or_with_huge_weight_give_no_nan() -> None:
    flux, ivar, mask = draw_arms(2)
    flux[0][:, -51:] = np.nan
    for i in range(3):
        ivar[i][:] = np.float32(3e38)
    ivar[0][:, -51:] = 0
    combined = combine(join_grids(WAVES), flux, ivar, mask)
    assert np.isfinite(combined.flux).all()
    assert np.isfinite(combined.ivar).all()


def test_cut_keeps_exactly_the_pixels_within_its_limits() -> None:
    wave = join_grids(WAVES).wavelength
    first, stop = cut_range(wave, [3600, 9800])
    assert (first, stop) == (0, 7751)
    assert wave[stop - 1] == pytest.approx(9800.0)
    first, stop = cut_range(wave, [3600.1, 9799.9])
    assert wave[[first, stop - 1]] == pytest.approx([3600.8, 9799.2])
    with pytest.raises(ValueError, match="holds no pixel"):
        cut_range(wave, [3600.1, 3600.2])


def test_arms_on_other_grids_are_refused() -> None:
    shifted = [WAVES[0], WAVES[1] + 0.3, WAVES[2]]
    with pytest.raises(ValueError, match="arm R are not on the grid"):
        join_grids(shifted)
    with pytest.raises(ValueError, match="arm B do not increase"):
        join_grids([WAVES[0][::-1], WAVES[1], WAVES[2]])
