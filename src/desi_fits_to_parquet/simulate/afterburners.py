"""What is fitted to the simulated targets after redrock: emission lines, MgII, QuasarNET."""

import re

import numpy as np

from desi_fits_to_parquet.simulate.spectra import GALAXY_LINES
from desi_fits_to_parquet.simulate.targets import _TARGET_BIT, Array, Targets, Values


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
        factor = 1 / ((1 + fitted["Z"]) * continuum)  # to the rest frame
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
