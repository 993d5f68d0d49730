"""The margin of a partition: the rows just outside its edge, which a cross-match there needs."""

from typing import Any

import numpy as np
import numpy.typing as npt

MARGIN_ARCSEC = 5.0

_ORDER = 14
"""Pixels of the finest order whose smallest distance across, 8 arcsec, is more than the margin."""

_EVEN_BITS = 0x5555_5555_5555_5555

Numbers = npt.NDArray[np.int64]


def find_margin(healpix_29: Numbers, order: int) -> tuple[Numbers, Numbers]:
    """Find the rows of a partition that lie in the margin of other partitions.

    Parameters
    ----------
    healpix_29
        Pixels of order 29 of the rows of one partition, shape (n,).
    order
        Order of the partitions, at most 13.

    Returns
    -------
    rows, pixels : numpy.ndarray of int64
        Pairs of a row and the partition in whose margin it is, sorted by both. All rows within
        `MARGIN_ARCSEC` of the partition are among them, and some up to 13 arcsec away: those whose
        small pixel touches it.
    """
    from astropy_healpix import HEALPix  # imports astropy

    fine = healpix_29 >> 2 * (29 - _ORDER)
    depth = 2 * (_ORDER - order)
    # in NESTED order the even bits of a pixel count along one side, the odd ones along the other
    even = _EVEN_BITS & ((1 << depth) - 1)
    local = fine & ((1 << depth) - 1)
    at_edge = np.zeros(len(fine), bool)
    for bits in (even, even << 1):
        at_edge |= ((local & bits) == 0) | ((local & bits) == bits)
    rows = np.flatnonzero(at_edge)
    with np.errstate(invalid="ignore"):  # at some corners three pixels meet, a neighbour is missing
        around: Any = HEALPix(nside=1 << _ORDER, order="nested").neighbours(fine[rows])
    pixels = np.where(around < 0, -1, around >> depth)
    own = fine[rows] >> depth
    wanted = (pixels >= 0) & (pixels != own)
    pairs = np.unique(
        np.stack([np.broadcast_to(rows, pixels.shape)[wanted], pixels[wanted]]), axis=1
    )
    return pairs[0], pairs[1]
