"""The HEALPix pixel of a position: that of another library, everywhere on the sphere."""

import numpy as np
import pytest
from astropy import units
from astropy_healpix import HEALPix

from desi_fits_to_parquet.record.positions import pixels_at


def positions(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions over the sphere, many of them near the poles and on the borders of the caps."""
    rng = np.random.default_rng(29)
    cap = np.degrees(np.arcsin(2 / 3))
    dec = np.concatenate([
        np.degrees(np.arcsin(rng.uniform(-1, 1, count))),
        90 - 10.0 ** rng.uniform(-6, 1, count),
        cap + rng.normal(0, 1e-4, count),
    ])  # fmt: skip
    dec *= rng.choice([-1, 1], len(dec))
    return rng.uniform(0, 360, len(dec)), dec


@pytest.mark.parametrize("order", [0, 1, 6, 12, 29])
def test_pixels_are_those_of_astropy_healpix(order: int) -> None:
    ra, dec = positions(20_000)
    found = pixels_at(order, ra, dec)
    grid = HEALPix(2**order, order="nested")
    wanted = grid.lonlat_to_healpix(ra * units.deg, dec * units.deg)
    different = np.flatnonzero(found != wanted)
    # where rounding decides between neighbours, of the smallest pixels and at their borders
    assert len(different) < 1e-3 * len(ra)
    lon, lat = (a.to_value("rad") for a in grid.healpix_to_lonlat(found))
    away = np.sin((np.radians(dec) - lat) / 2) ** 2
    away += np.cos(lat) ** 2 * np.sin((np.radians(ra) - lon) / 2) ** 2
    assert (2 * np.sqrt(away) < 1.1 / 2**order + 1e-12).all()


def test_a_pixel_holds_those_of_finer_orders_at_the_same_place() -> None:
    ra, dec = positions(20_000)
    finest = pixels_at(29, ra, dec)
    for order in (0, 3, 6, 12):
        assert np.mean(finest >> 2 * (29 - order) == pixels_at(order, ra, dec)) > 1 - 1e-4


def test_right_ascension_goes_round_and_the_poles_have_pixels() -> None:
    dec = np.array([-89.0, -30.0, 0.1, 60.0])
    for turn in (-720, -360, 360):
        same = pixels_at(8, 12.3 + turn + np.zeros(4), dec)
        assert same.tolist() == pixels_at(8, 12.3 + np.zeros(4), dec).tolist()
    ra = np.array([0.0, 90.0, 180.0, 270.0, 360.0, -1e-20])
    for pole in (-90.0, 90.0):
        pixels = pixels_at(29, ra, np.full(6, pole))
        assert ((pixels >= 0) & (pixels < 12 << 58)).all()
        assert len(set(pixels.tolist())) == 4
