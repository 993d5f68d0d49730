"""Catalogue side of the simulated archive: which targets a tile has, and the tables about them."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from desi_fits_to_parquet.columns import Column, load_columns
from desi_fits_to_parquet.formats.fits_header import Value, format_card
from desi_fits_to_parquet.simulate.spectra import GALAXY_LINES
from desi_fits_to_parquet.simulate.targets import (
    _BROKEN_FIBRE,
    _TARGET_BIT,
    Array,
    Targets,
    Values,
    own_target_column,
    target_bits,
)
from desi_fits_to_parquet.tile import Tile

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

_NEWER = ("DESINAME", "MIN_MJD", "MAX_MJD", "MEAN_MJD", "FITMETHOD", "IN_COADD_B", "IN_COADD_R",
          "IN_COADD_Z")  # fmt: skip
"""Columns that releases after DR1 have."""

_NARROWER = {
    "COEFF": "float32[10]",
    "ZERR": "float32",
    "ZWARN": "int32",
    "NPIXELS": "int32",
    "NCOEFF": "int16",
    "DELTACHI2": "float32",
}
"""Columns of redrock's tables whose type may be narrower in newer releases."""

_FORMATS = {
    "int64": ("K", ">i8"),
    "int32": ("J", ">i4"),
    "int16": ("I", ">i2"),
    "float32": ("E", ">f4"),
    "float64": ("D", ">f8"),
    "binary": ("B", "u1"),
    "logical": ("L", "S1"),
}


# ---------------------------------------------------------------------------- redrock's view


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


# ------------------------------------------------------------------------------------ tables


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


def emission_lines(
    targets: Targets, fitted: Values, fibermap: Values, flux_r: Array, rng: np.random.Generator
) -> Values:
    """Values of EMLINEFIT.

    As the pipeline leaves them: NaN (and NDOF -99) where a line lies outside the spectrograph or
    the fit failed, SHARE only for the doublets, an infinite SHARE_IVAR for [OIII], whose ratio is
    fixed. `flux_r` is the mean flux density in r, 1e-17 erg/(s cm2 Angstrom).
    """
    count = len(targets.role)
    names = ("TARGETID", "Z", "ZWARN", "SPECTYPE", "DELTACHI2")
    values = {name: fitted[name] for name in names}
    values |= {name: fibermap[name] for name in ("TARGET_RA", "TARGET_DEC", "OBJTYPE")}
    for line, parts in GALAXY_LINES.items():
        observed = parts[0][0] * (1 + fitted["Z"])
        fine = (observed > 3650) & (observed < 9750) & ~targets.broken
        fine &= rng.random(count) > 0.05
        width = sum(part[1] for part in parts) * targets.strength * (1 + fitted["Z"])
        continuum = np.abs(flux_r) + 0.01
        ivar = rng.lognormal(0, 0.5, count)
        line_flux = np.maximum(width * continuum + rng.normal(0, 1, count) / np.sqrt(ivar), 2e-5)
        nothing = np.full(count, np.nan)
        share, share_ivar = nothing, nothing
        if line == "OII":
            share, share_ivar = rng.normal(0.58, 0.03, count), rng.lognormal(6, 0.5, count)
        if line == "OIII":
            share, share_ivar = np.full(count, 0.744), np.full(count, np.inf)
        sigma = observed * 110 / 299_792.458
        factor = (1 + fitted["Z"]) / continuum
        fit = {
            "FLUX": line_flux,
            "FLUX_IVAR": ivar,
            "SIGMA": sigma,
            "SIGMA_IVAR": rng.lognormal(3, 0.5, count),
            "CONT": continuum,
            "CONT_IVAR": rng.lognormal(2, 0.3, count),
            "SHARE": share,
            "SHARE_IVAR": share_ivar,
            "EW": line_flux * factor,
            "EW_IVAR": ivar / factor**2,
            "CHI2": rng.lognormal(0, 0.1, count),
        }
        values |= {f"{line}_{name}": np.where(fine, v, np.nan) for name, v in fit.items()}
        values[f"{line}_NDOF"] = np.where(fine, rng.integers(80, 220, count), -99)
    return values


def quasar_afterburners(
    targets: Targets, fitted: Values, fibermap: Values, own_bits: str, rng: np.random.Generator
) -> tuple[Values, Values]:
    """Values of MGII and of QN_RR.

    MGII has the targets with the QSO bit (`own_bits`: the column that holds it), QN_RR most of
    them, in another order. Galaxies with that bit are quasars to QN_RR, at another redshift, and
    every other one of them to MGII. Both tables may be empty.
    """
    mgii = np.flatnonzero(fibermap[own_bits] & _TARGET_BIT["QSO"])
    mgii = mgii[targets.targetid[mgii] > 0]
    network = rng.permutation(mgii)[: max(len(mgii) * 4 // 5, 1)]
    common = {
        name: fibermap[name]
        for name in fibermap
        if name in ("DESI_TARGET", "CMX_TARGET") or re.match(r"SV\d_DESI_TARGET", name)
    }
    common |= {
        "TARGETID": targets.targetid,
        "RA": targets.ra,
        "DEC": targets.dec,
        "SPECTYPE": fitted["SPECTYPE"],
        "Z_RR": fitted["Z"],
    }
    count = len(targets.role)
    quasar = fitted["SPECTYPE"] == "QSO"
    rescued = (targets.role == "galaxy") & np.isin(np.arange(count), mgii)
    amplitude = np.where(
        quasar | rescued, rng.lognormal(0.5, 0.4, count), rng.normal(0, 0.1, count)
    )
    first = {
        **common,
        "ZERR": fitted["ZERR"],
        "IS_QSO_MGII": rescued & (np.cumsum(rescued) % 2 == 1),
        "DELTA_CHI2": np.abs(amplitude) * 60,
        "A": amplitude,
        "SIGMA": rng.lognormal(3.3, 0.3, count),
        "B": rng.normal(1, 0.2, count),
        "VAR_A": rng.lognormal(-4, 0.5, count),
        "VAR_SIGMA": rng.lognormal(0, 0.5, count),
        "VAR_B": rng.lognormal(-5, 0.5, count),
    }
    other = np.clip(fitted["Z"] + rng.uniform(0.5, 1.5, count), 0.2, 4.5)
    second = {
        **common,
        "Z_NEW": np.where(rescued, other, fitted["Z"]),
        "ZERR_NEW": rng.lognormal(-8, 0.5, count),
        "COEFFS": fitted["COEFF"],
        "Z_QN": np.where(rescued, other, fitted["Z"]) + rng.normal(0, 0.01, count),
        "IS_QSO_QN_NEW_RR": rescued,
    }
    lines = {"LYA": 1215.7, "CIV": 1549, "CIII": 1909, "MgII": 2799, "Hbeta": 4863, "Halpha": 6565}
    for name, rest in lines.items():
        observed = rest * (1 + second["Z_NEW"])
        seen = (quasar | rescued) & (observed > 3700) & (observed < 9700)
        sure = rng.uniform(0.96, 0.999, count)
        second[f"C_{name}"] = np.where(seen, sure, rng.uniform(0, 0.3, count))
        second[f"Z_{name}"] = second["Z_QN"] + rng.normal(0, 0.003, count)
    return (
        {name: values[mgii] for name, values in first.items()},
        {name: values[network] for name, values in second.items()},
    )


# ------------------------------------------------------------------------------------ encoding


def table_columns(file: str, extname: str, values: Values, newer: bool = False) -> list[Column]:
    """Columns of a table in the order of the data model: those required and those with values.

    With `newer`, columns that came after DR1 are among them and some types are narrower.
    """
    return [
        column._replace(type=_NARROWER.get(column.name, column.type)) if newer else column
        for column in load_columns(file, extname)
        if column.required or (column.name in values and (newer or column.name not in _NEWER))
    ]


def encode_table(
    columns: Iterable[Column], values: Values, units: bool = True
) -> tuple[bytes, bytes]:
    """Encode a binary table.

    Parameters
    ----------
    columns
        The columns in their order.
    values
        Arrays of shape (nrow,) or (nrow, length) by column name.
    units
        Write TUNITn; the tables that redrock copies have none.

    Returns
    -------
    cards, data
        Header cards from XTENSION to the last column, and the rows in big-endian order, strings
        padded with NUL.

    Raises
    ------
    KeyError
        Where a column has no values.
    """
    columns = list(columns)
    fields: list[Any] = []
    forms: list[str] = []
    for column in columns:
        match = re.fullmatch(r"(\w+?)(?:\[(\d+)\])?", column.type)
        if match is None:
            raise ValueError(f"columns.csv: {column.name} has the unknown type {column.type!r}")
        length = int(match[2] or 1)
        if match[1] == "char":
            forms.append(f"{length}A")
            fields.append((column.name, f"S{length}"))
        else:
            letter, dtype = _FORMATS[match[1]]
            forms.append(f"{length}{letter}" if length > 1 else letter)
            fields.append((column.name, dtype, (length,)) if length > 1 else (column.name, dtype))
    rows = np.zeros(len(values[columns[0].name]), np.dtype(fields))
    for column in columns:
        given = values[column.name]
        rows[column.name] = np.where(given, b"T", b"F") if column.type == "logical" else given
    cards: list[tuple[str, Value, str]] = [
        ("XTENSION", "BINTABLE", "binary table extension"),
        ("BITPIX", 8, "array data type"),
        ("NAXIS", 2, "number of array dimensions"),
        ("NAXIS1", rows.dtype.itemsize, "length of dimension 1"),
        ("NAXIS2", len(rows), "length of dimension 2"),
        ("PCOUNT", 0, "number of group parameters"),
        ("GCOUNT", 1, "number of groups"),
        ("TFIELDS", len(columns), "number of table fields"),
    ]
    for i, (column, form) in enumerate(zip(columns, forms, strict=True), 1):
        cards += [(f"TTYPE{i}", column.name, ""), (f"TFORM{i}", form, "")]
        if units and column.unit:
            cards.append((f"TUNIT{i}", column.unit, f"{column.name} units"))
    return b"".join(format_card(*card) for card in cards), rows.tobytes()
