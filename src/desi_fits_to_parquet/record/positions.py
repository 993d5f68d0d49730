"""Which HEALPix pixel a position lies in.

A few lines of numpy, because every job of a tile needs them and no library fits: astropy-healpix
costs 0.7 s of CPU to import, hpgeom and healpy are under the GPL, which this project is not, and
healpix has no wheels for the newest Python. The tests compare with astropy-healpix.
"""

import numpy as np
import numpy.typing as npt

HATS_ORDER = 29
"""Order of `_healpix_29`: the finest whose pixels (0.4 mas) are numbered in 64 bits."""


def pixels_at(
    order: int, ra: npt.NDArray[np.float64], dec: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Return the HEALPix pixels, NESTED, of positions.

    Parameters
    ----------
    order
        Order of the grid, nside = 2**order, 0 to 29.
    ra, dec
        Equatorial positions in degrees, finite, float64, shape (n,); dec from -90 to 90.

    Returns
    -------
    ndarray
        int64, shape (n,).

    Notes
    -----
    After Gorski et al. 2005 (ApJ 622, 759), sections 4 and 5: the sphere is twelve square faces;
    `up` and `down` count the lines of pixels that rise and fall to the right.
    """
    nside = 1 << order
    z = np.sin(np.radians(dec))
    quarter = np.mod(ra, 360.0) / 90.0  # right ascension in quarters of the circle
    quarter = np.where(quarter >= 4, 0.0, quarter)  # what np.mod rounds up to 360
    # between the caps
    middle, slope = nside * (0.5 + quarter), nside * 0.75 * z
    up, down = (middle - slope).astype(np.int64), (middle + slope).astype(np.int64)
    face_up, face_down = up >> order, down >> order
    face = np.where(face_up == face_down, face_up % 4 + 4,
                    np.where(face_up < face_down, face_up, face_down + 8))  # fmt: skip
    x, y = down & (nside - 1), nside - 1 - (up & (nside - 1))
    # the caps, where |z| > 2/3: lines converge on the pole; cos(dec) keeps its digits there
    quadrant = quarter.astype(np.int64)
    within = quarter - quadrant
    width = nside * np.cos(np.radians(dec)) * np.sqrt(3 / (1 + np.abs(z)))
    rise = np.minimum((within * width).astype(np.int64), nside - 1)
    fall = np.minimum(((1 - within) * width).astype(np.int64), nside - 1)
    north, south = z > 2 / 3, z < -2 / 3
    face = np.where(north, quadrant, np.where(south, quadrant + 8, face))
    x = np.where(north, nside - 1 - fall, np.where(south, rise, x))
    y = np.where(north, nside - 1 - rise, np.where(south, fall, y))
    return (face << 2 * order) + _spread(x) + (_spread(y) << 1)


def is_outside(healpix_29: npt.NDArray[np.int64], order: int, pixel: int) -> npt.NDArray[np.bool_]:
    """Tell which pixels of order 29 do not lie in a pixel of another order, all NESTED."""
    outside: npt.NDArray[np.bool_] = healpix_29 >> 2 * (HATS_ORDER - order) != pixel
    return outside


def _spread(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Move bit i of each value, below 2**29, to bit 2i."""
    for shift, mask in (
        (16, 0x0000FFFF0000FFFF),
        (8, 0x00FF00FF00FF00FF),
        (4, 0x0F0F0F0F0F0F0F0F),
        (2, 0x3333333333333333),
        (1, 0x5555555555555555),
    ):
        values = (values | values << shift) & mask
    return values
