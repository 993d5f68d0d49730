"""Simulated rrdetails files: the HDF5 that redrock writes."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.recfunctions import append_fields

from desi_fits_to_parquet.simulate.coadd import _BLOCK_TARGETS
from desi_fits_to_parquet.simulate.redrock import N_COEFF, TEMPLATES, ZWARN
from desi_fits_to_parquet.simulate.targets import Array, Values

# Redshifts that redrock's templates are scanned at: first, last, number.
_SCANS = {
    "GALAXY": (-0.005, 1.7, 1446),
    "QSO:::LOZ": (0.05, 1.6, 438),
    "QSO:::HIZ": (1.4, 7.0, 1046),
    "STAR": (-0.002, 0.002, 101),
}


def write_rrdetails(
    path: Path, fitted: Values, scan_step: int, newer: bool, rng: np.random.Generator
) -> None:
    """Write redrock's details, targets in the order of `fitted` (the values of REDSHIFTS).

    With `newer`, the fits have `fitmethod`, as after DR1.
    """
    import h5py

    count = len(fitted["TARGETID"])
    full_type = np.array(
        [f"{kind}:::{sub}" if sub else kind
         for kind, sub in zip(fitted["SPECTYPE"], fitted["SUBTYPE"], strict=True)]
    )  # fmt: skip
    with h5py.File(path, "w", libver=("earliest", "v110")) as file:
        file["targetids"] = fitted["TARGETID"].astype("<i8")
        for template in TEMPLATES:
            kind = template.partition(":::")[0]
            first, last, number = _SCANS.get(template) or _SCANS[kind]
            z = np.linspace(np.log1p(first), np.log1p(last), number)[::scan_step]
            z = np.expm1(z)
            group = file.create_group(f"zscan/{template}")
            zchi2 = group.create_dataset("zchi2", (count, len(z)), "<f8")
            penalty = group.create_dataset("penalty", (count, len(z)), "<f8")
            zcoeff = group.create_dataset("zcoeff", (count, len(z), N_COEFF[kind]), "<f8")
            for start in range(0, count, _BLOCK_TARGETS):
                block = slice(start, min(start + _BLOCK_TARGETS, count))
                distance = (z - fitted["Z"][block, None]) / (0.02 * (1 + z))
                dip = np.where(full_type[block] == template, 1.0, 0.2)[:, None]
                worst = fitted["CHI2"][block, None] * 1.3
                curve = worst - (worst - fitted["CHI2"][block, None]) * dip / (1 + distance**2)
                zchi2[block] = curve + rng.random(curve.shape)
                penalty[block] = np.zeros(curve.shape)
                zcoeff[block] = rng.standard_normal((*curve.shape, N_COEFF[kind]), np.float32)
            group["redshifts"] = z
        for i in range(count):
            row = {name: values[i] for name, values in fitted.items()}
            fits = _best_fits(row, rng)
            if newer:
                method = np.full(len(fits), row["FITMETHOD"], "S4")
                fits = append_fields(fits, "fitmethod", method, usemask=False)
            file[f"zfit/{row['TARGETID']}/zfit"] = fits


_ZFIT = np.dtype(
    [("targetid", "<i8"), ("z", "<f8"), ("zerr", "<f8"), ("zwarn", "<i8"), ("chi2", "<f8"),
     ("zz", "<f8", (15,)), ("zzchi2", "<f8", (15,)), ("coeff", "<f8", (10,)), ("npixels", "<i8"),
     ("spectype", "S6"), ("subtype", "S3"), ("ncoeff", "<i8"), ("znum", "<i8"),
     ("deltachi2", "<f8")]
)  # fmt: skip
"""Fields of `/zfit/{targetid}/zfit` in the order of redrock's files."""


def _best_fits(row: dict[str, Any], rng: np.random.Generator) -> Array:
    """Return the three best fits of each type by chi2; the first is the row of REDSHIFTS."""
    others = ["GALAXY"] * 3 + ["QSO"] * 3 + ["STAR"] * 3
    others.remove(row["SPECTYPE"])
    fits = np.zeros(9, _ZFIT)
    fits["targetid"] = row["TARGETID"]
    fits["npixels"] = row["NPIXELS"]
    fits["znum"] = np.arange(9)
    fits["spectype"] = [row["SPECTYPE"], *rng.permutation(others)]
    for i, kind in enumerate(np.char.decode(fits["spectype"])):
        low, high = {"GALAXY": (0, 1.7), "QSO": (0.05, 4), "STAR": (-0.002, 0.002)}[str(kind)]
        fits[i]["z"] = rng.uniform(low, high)
        fits[i]["subtype"] = {"GALAXY": "", "QSO": "HIZ", "STAR": "G"}[str(kind)]
        fits[i]["ncoeff"] = N_COEFF[str(kind)]
        fits[i]["coeff"][: N_COEFF[str(kind)]] = rng.normal(0, 100, N_COEFF[str(kind)])
    fits["zerr"] = rng.lognormal(-8, 1, 9)
    fits["zwarn"] = ZWARN["SMALL_DELTA_CHI2"]
    steps = np.array([0, row["DELTACHI2"], *rng.lognormal(4, 1, 7)])
    fits["chi2"] = row["CHI2"] + np.cumsum(steps)
    fits["deltachi2"] = np.append(steps[1:], 0)
    best = fits[0]
    for field in ("z", "zerr", "zwarn", "coeff", "subtype", "ncoeff"):
        best[field] = row[field.upper()]
    fits["zz"] = fits["z"][:, None] + fits["zerr"][:, None] * np.linspace(-7, 7, 15)
    fits["zzchi2"] = fits["chi2"][:, None] + np.linspace(-7, 7, 15) ** 2
    return fits
