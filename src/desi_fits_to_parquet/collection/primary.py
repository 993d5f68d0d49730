"""Which of a target's spectra is the primary one."""

from typing import Any

import numpy as np
import numpy.typing as npt

Flags = npt.NDArray[np.bool_]


def find_primary(targetid: npt.NDArray[np.int64], good: Flags, quality: npt.NDArray[Any]) -> Flags:
    """Mark one row of each target: its best.

    A row without a redshift warning comes before one with any; among these the one of higher
    quality, then the one that stands first. DESI's ZCAT_PRIMARY is made so, with TSNR2_LRG
    (EFFTIME_SPEC in newer releases) as the quality.

    Parameters
    ----------
    targetid
        Shape (n,).
    good
        Whether ZWARN is 0, shape (n,).
    quality
        Higher is better, shape (n,); NaN is worst.

    Returns
    -------
    numpy.ndarray of bool
        Shape (n,), exactly one True for each TARGETID.

    Notes
    -----
    Source: desispec.zcatalog.find_primary_spectra (desispec 0.70).
    """
    worth = np.where(np.isnan(quality), -np.inf, quality)
    order = np.lexsort((-worth, ~good, targetid))  # lexsort is stable: rows stay in their order
    ordered = targetid[order]
    first = np.ones(len(ordered), bool)
    first[1:] = ordered[1:] != ordered[:-1]
    flags = np.zeros(len(ordered), bool)
    flags[order[first]] = True
    return flags
