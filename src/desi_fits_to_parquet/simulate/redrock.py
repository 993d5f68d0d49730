"""What redrock makes of the simulated targets: their redshifts."""

import numpy as np

from desi_fits_to_parquet.simulate.targets import Array, Targets, Values

# Bits are spelt out here and not taken from the selection, so that its tests do not inherit its
# errors.
ZWARN = {
    "LITTLE_COVERAGE": 1 << 1,
    "SMALL_DELTA_CHI2": 1 << 2,
    "NEGATIVE_MODEL": 1 << 3,
    "Z_FITLIMIT": 1 << 5,
    "NODATA": 1 << 9,
    "BAD_MINFIT": 1 << 10,
}

TEMPLATES = (
    "GALAXY", "QSO:::LOZ", "QSO:::HIZ", "STAR:::A", "STAR:::B", "STAR:::CV", "STAR:::F",
    "STAR:::G", "STAR:::K", "STAR:::M", "STAR:::WD",
)  # fmt: skip
"""Redrock's templates as DR1 used them: spectral type and subtype."""

N_COEFF = {"GALAXY": 10, "QSO": 4, "STAR": 5}


def redshifts(targets: Targets, npixels: Array, rng: np.random.Generator) -> Values:
    """Values of REDSHIFTS, arrays by column name.

    `npixels` (shape (ntarget,)) is the number of good pixels that the fit could use.
    """
    role, count = targets.role, len(targets.role)
    guess = rng.choice(["GALAXY", "QSO", "STAR"], count, p=[0.7, 0.1, 0.2])
    spectype = np.select(
        [
            np.char.startswith(role, "quasar") | (role == "sky_quasar"),
            role == "galaxy",
            role == "star",
        ],
        ["QSO", "GALAXY", "STAR"],
        np.where(np.isin(role, ("broken", "unassigned")), "GALAXY", guess),
    )
    quasar_kind = np.where(targets.z > 1.6, "HIZ", "LOZ")
    kind = np.select(
        [targets.temperature > t for t in (8000, 6000, 5000, 4000)], ["A", "F", "G", "K"], "M"
    )
    subtype = np.select([spectype == "QSO", spectype == "STAR"], [quasar_kind, kind], "")
    deltachi2 = np.where(spectype == "QSO", rng.lognormal(6.5, 1.2, count), 0)
    deltachi2 += 12 + rng.lognormal(4.5, 1.3, count)
    doubtful = (role == "sky") | (np.isin(role, ("galaxy", "star")) & (rng.random(count) < 0.06))
    doubtful |= role == "quasar_warned"
    deltachi2[doubtful] = rng.uniform(0.1, 8.9, doubtful.sum())
    zwarn = np.where(doubtful, ZWARN["SMALL_DELTA_CHI2"], 0)
    zwarn[doubtful & (rng.random(count) < 0.2)] |= ZWARN["NEGATIVE_MODEL"]
    nodata = targets.broken
    zwarn[nodata] = (
        ZWARN["LITTLE_COVERAGE"] | ZWARN["Z_FITLIMIT"] | ZWARN["NODATA"] | ZWARN["BAD_MINFIT"]
    )
    deltachi2[nodata] = 0
    ncoeff = np.array([N_COEFF[name] for name in spectype])
    coeff = rng.normal(0, 1, (count, 10)) * 10 ** rng.uniform(-1, 3, (count, 10))
    coeff[np.arange(10) >= ncoeff[:, None]] = 0
    coeff[nodata] = 0
    z = targets.z + np.where(nodata, 0, rng.normal(0, 1e-5, count))
    zerr = rng.lognormal(-9.6, 0.8, count)
    return {
        "TARGETID": targets.targetid,
        "CHI2": np.where(nodata, 9e99, npixels * rng.normal(1.02, 0.03, count)),
        "COEFF": coeff,
        "Z": np.where(nodata, -0.001_991, z),
        "ZERR": np.where(nodata, 0, zerr),
        "ZWARN": zwarn,
        "NPIXELS": npixels,
        "SPECTYPE": spectype,
        "SUBTYPE": subtype,
        "NCOEFF": ncoeff,
        "DELTACHI2": deltachi2,
        "FITMETHOD": np.full(count, "PCA"),
    }
