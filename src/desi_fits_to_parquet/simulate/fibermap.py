"""What fiber assignment and exposures tell of the simulated targets: FIBERMAP and TSNR2."""

from collections.abc import Mapping

import numpy as np

from desi_fits_to_parquet.simulate.targets import (
    _BROKEN_FIBRE,
    Array,
    Targets,
    Values,
    own_target_column,
    target_bits,
)
from desi_fits_to_parquet.tile import Tile


def fibermaps(
    tile: Tile, targets: Targets, flux: Mapping[str, Array], rng: np.random.Generator
) -> tuple[Values, Values]:
    """Values of FIBERMAP (shape (ntarget,)) and of EXP_FIBERMAP (shape (nexposure of targets,)).

    `flux` holds the targets' broad-band fluxes G, R and Z in nanomaggy.
    """
    role, count = targets.role, len(targets.role)
    sky = np.isin(role, ("sky", "sky_quasar", "unassigned"))
    science = ~sky
    row, exposure = targets.exposure_row, targets.exposure
    visits = np.bincount(row, minlength=count)

    def noise(sigma: float, size: int = count) -> Array:
        return rng.normal(0, sigma, size)

    def where_science(values: Array) -> Array:
        return np.where(science, values, 0)

    quasar = np.char.startswith(role, "quasar")
    status = rng.choice([0, 1 << 23, 1 << 24, 1 << 3], count, p=[0.9, 0.06, 0.02, 0.02])
    status[targets.broken] = _BROKEN_FIBRE
    point = quasar | (role == "star")
    bands = {**flux, "W1": flux["Z"] * 1.3, "W2": flux["Z"] * 1.1}
    photometry: Values = {}
    for band, depth in (("G", 1500), ("R", 600), ("Z", 120), ("W1", 3), ("W2", 0.8)):
        ivar = depth * rng.lognormal(0, 0.3, count)
        photometry[f"FLUX_{band}"] = where_science(bands[band] + noise(1) / np.sqrt(ivar))
        photometry[f"FLUX_IVAR_{band}"] = where_science(ivar)
    for band in "GRZ":
        fibre = photometry[f"FLUX_{band}"] * np.where(point, 0.78, 0.5)
        photometry[f"FIBERFLUX_{band}"] = fibre
        photometry[f"FIBERTOTFLUX_{band}"] = fibre * 1.002
    star = role == "star"
    magnitude = np.where(star, targets.magnitude - 0.1, 0)
    plate_ra = targets.ra
    exposures = {name: values[exposure] for name, values in targets.exposures.items()}
    device = np.resize(rng.permutation(520), count)[row]
    delta_x, delta_y = rng.normal(0, 0.004, (2, len(row)))
    fibre_ra = targets.ra[row] + rng.normal(0, 3e-5, len(row))
    fibre_dec = targets.dec[row] + rng.normal(0, 3e-5, len(row))
    throughput = rng.normal(0.78, 0.01, len(row))
    subpriority = rng.random(count)
    bits = target_bits(tile, targets, rng)
    own = bits[own_target_column(tile.survey)]

    def mean(values: Array) -> Array:
        summed: Array = np.bincount(row, values, count)
        return summed / visits

    def spread(values: Array) -> Array:
        variance: Array = np.maximum(mean(values**2) - mean(values) ** 2, 0)
        return np.sqrt(variance)

    bricks = [f"{int(ra * 10):04d}{'p' if dec >= 0 else 'm'}{int(abs(dec) * 10):03d}"
              for ra, dec in zip(targets.ra, targets.dec, strict=True)]  # fmt: skip
    names = [f"DESI J{ra:08.4f}{dec:+08.4f}"
             for ra, dec in zip(targets.ra, targets.dec, strict=True)]  # fmt: skip
    fibermap: Values = {
        "TARGETID": targets.targetid,
        "COADD_FIBERSTATUS": status,
        "TARGET_RA": targets.ra,
        "TARGET_DEC": targets.dec,
        "DESINAME": np.array(names),
        "PMRA": np.where(star, noise(8), 0),
        "PMDEC": np.where(star, noise(8), 0),
        "REF_EPOCH": np.where(science, 2015.5, 0),
        "FA_TARGET": own,
        "FA_TYPE": np.where(sky, 4, 1),
        "OBJTYPE": np.select([role == "unassigned", sky], ["BAD", "SKY"], "TGT"),
        "SUBPRIORITY": subpriority,
        "OBSCONDITIONS": np.full(count, {"dark": 1, "bright": 4}.get(tile.program, 516)),
        "RELEASE": np.where(role == "unassigned", 0, 9010),
        "BRICKID": np.where(role == "unassigned", 0, targets.targetid >> 22 & 0xFFFFF),
        "BRICK_OBJID": np.where(role == "unassigned", 0, targets.targetid % (1 << 22)),
        "MORPHTYPE": np.select([sky, point], ["", "PSF"], rng.choice(["REX", "DEV", "SER"], count)),
        **photometry,
        "MASKBITS": np.where(rng.random(count) < 0.03, 1 << 1, 0),
        "REF_ID": np.where(star, rng.integers(1 << 40, 1 << 60, count), 0),
        "REF_CAT": np.where(star, "G2", ""),
        "GAIA_PHOT_G_MEAN_MAG": magnitude,
        "GAIA_PHOT_BP_MEAN_MAG": magnitude + np.where(star, 0.4, 0),
        "GAIA_PHOT_RP_MEAN_MAG": magnitude - np.where(star, 0.5, 0),
        "PARALLAX": np.where(star, np.abs(noise(0.5)), 0),
        "BRICKNAME": np.array(bricks),
        "EBV": where_science(np.abs(0.03 + noise(0.004))),
        "SERSIC": where_science(np.where(point, 0, rng.uniform(0.5, 5, count))),
        "SHAPE_R": where_science(np.where(point, 0, rng.lognormal(-0.5, 0.4, count))),
        "SHAPE_E1": where_science(np.where(point, 0, noise(0.2))),
        "SHAPE_E2": where_science(np.where(point, 0, noise(0.2))),
        "PHOTSYS": np.where(sky, "", "N" if targets.dec[0] > 32.375 else "S"),
        "PRIORITY_INIT": np.where(sky, -1, np.where(quasar, 3400, 3200)),
        "NUMOBS_INIT": np.where(sky, -1, np.where(quasar, 4, 2)),
        **bits,
        "PLATE_RA": plate_ra,
        "PLATE_DEC": targets.dec,
        "COADD_NUMEXP": visits,
        "COADD_EXPTIME": targets.exptime,
        "COADD_NUMNIGHT": _distinct(row, exposures["NIGHT"], count),
        "COADD_NUMTILE": _distinct(row, exposures["TILEID"], count),
        "MEAN_DELTA_X": mean(delta_x),
        "RMS_DELTA_X": np.sqrt(mean(delta_x**2)),
        "MEAN_DELTA_Y": mean(delta_y),
        "RMS_DELTA_Y": np.sqrt(mean(delta_y**2)),
        "MEAN_FIBER_RA": mean(fibre_ra),
        "STD_FIBER_RA": spread(fibre_ra - targets.ra[row]) * 3600,
        "MEAN_FIBER_DEC": mean(fibre_dec),
        "STD_FIBER_DEC": spread(fibre_dec - targets.dec[row]) * 3600,
        "MEAN_PSF_TO_FIBER_SPECFLUX": mean(throughput),
        "MIN_MJD": exposures["MJD"][np.searchsorted(row, np.arange(count))],
        "MAX_MJD": exposures["MJD"][np.searchsorted(row, np.arange(count), "right") - 1],
        "MEAN_MJD": mean(exposures["MJD"]),
    }
    x, y = rng.uniform(-400, 400, (2, len(row)))
    exp_fibermap: Values = {
        "TARGETID": targets.targetid[row],
        "PRIORITY": fibermap["PRIORITY_INIT"][row],
        "SUBPRIORITY": subpriority[row],
        **exposures,
        "DEVICE_LOC": device,
        "LOCATION": exposures["PETAL_LOC"] * 1000 + device,
        "FIBER": exposures["PETAL_LOC"] * 500 + device % 500,
        "FIBERSTATUS": status[row],
        "FIBERASSIGN_X": x,
        "FIBERASSIGN_Y": y,
        "LAMBDA_REF": np.full(len(row), 5400.0),
        "PLATE_RA": plate_ra[row],
        "PLATE_DEC": targets.dec[row],
        "NUM_ITER": np.full(len(row), 2),
        "FIBER_X": x + 0.01,
        "FIBER_Y": y - 0.01,
        "DELTA_X": delta_x,
        "DELTA_Y": delta_y,
        "FIBER_RA": fibre_ra,
        "FIBER_DEC": fibre_dec,
        "PSF_TO_FIBER_SPECFLUX": throughput,
        **{f"IN_COADD_{arm}": status[row] == 0 for arm in "BRZ"},
    }
    return fibermap, exp_fibermap


def _distinct(row: Array, values: Array, count: int) -> Array:
    """Count the distinct values of each target."""
    pairs = np.unique(np.stack([row, values]), axis=1)
    return np.bincount(pairs[0], minlength=count)


def depth_values(targets: Targets, rng: np.random.Generator) -> Values:
    """TSNR2 values of SCORES and of redrock's TSNR2, proportional to the exposure time."""
    share = {"B": 0.1, "R": 0.3, "Z": 0.6}
    values: Values = {"TARGETID": targets.targetid}
    per_second = {"BGS": 3.0, "ELG": 0.06, "GPBBACKUP": 6.0, "GPBBRIGHT": 0.9, "GPBDARK": 5.0,
                  "LRG": 0.045, "LYA": 0.055, "QSO": 0.016}  # fmt: skip
    seen = targets.exptime * rng.lognormal(0, 0.1, len(targets.role)) * ~targets.broken
    for name, rate in per_second.items():
        blue = {"LYA": 0.999, "GPBDARK": 0.03}.get(name)
        total = np.zeros(len(seen))
        for arm, part in share.items():
            portion = part if blue is None else {"B": blue, "R": 1 - blue, "Z": 0.0}[arm]
            values[f"TSNR2_{name}_{arm}"] = seen * rate * portion
            total = total + values[f"TSNR2_{name}_{arm}"]
        values[f"TSNR2_{name}"] = total
    return values
