"""Spectra for the simulated archive: what the sky sends and what the instrument makes of it.

Templates are simple but physical: power laws, Gaussian lines at vacuum wavelengths, a Lyman-alpha
forest, black bodies. Depth, sky lines and arm edges follow a real coadd of the DESI archive
(special/dark/27247), so that rounding and compression see noise like that of the instrument.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

Array32 = npt.NDArray[np.float32]

Masks = npt.NDArray[np.int32]

ARMS = ("B", "R", "Z")

STEP = 0.8
"""Pixel of the DESI wavelength grid, Angstrom."""

_ARM_RANGE = {"B": (3600.0, 5800.0), "R": (5760.0, 7620.0), "Z": (7520.0, 9824.0)}

N_DIAGONALS = 11
"""Diagonals of the band matrix in the RESOLUTION HDUs."""

N_JOINT = 7781
"""Distinct wavelengths of the three arms: 3600.0 to 9824.0 Angstrom."""

SPECMASK = {
    "SOMEBADPIX": 1 << 0,
    "ALLBADPIX": 1 << 1,
    "COSMIC": 1 << 2,
    "BADFIBERFLAT": 1 << 4,
    "BRIGHTSKY": 1 << 5,
    "NODATA": 1 << 8,
    "BADFIBER": 1 << 9,
    "BADCOLUMN": 1 << 10,
}

# Inverse variance between the sky lines for 1000 s of exposure, 1e34 s2 cm4 Angstrom2 / erg2:
# pairs of wavelength (Angstrom) and value, medians of the real coadd named above.
_DEPTH = {
    "B": (
        (3600, 0.07), (3650, 0.11), (3700, 0.16), (3800, 0.38), (3900, 0.65), (4000, 0.82),
        (4100, 1.05), (4200, 1.38), (4290, 1.47), (4320, 0.90), (4360, 1.42), (4500, 1.76),
        (4700, 2.4), (4900, 3.1), (5100, 3.5), (5300, 3.8), (5600, 3.8), (5700, 3.6), (5800, 3.5),
    ),
    "R": (
        (5760, 0.02), (5785, 0.1), (5810, 0.4), (5835, 1.0), (5860, 2.0), (5900, 3.6),
        (6000, 4.5), (6250, 6.0), (6500, 7.5), (6700, 9.0), (7000, 12.2), (7250, 12.8),
        (7420, 13.4), (7540, 12.0), (7570, 8.0), (7590, 5.5), (7610, 2.5), (7620, 0.9),
    ),
    "Z": (
        (7520, 6.0), (7540, 9.5), (7600, 14.0), (7700, 16.0), (8000, 22.0), (8300, 25.0),
        (8700, 29.0), (9000, 29.5), (9280, 29.0), (9400, 22.0), (9560, 14.0), (9824, 14.0),
    ),
}  # fmt: skip

# Sky lines: wavelength (Angstrom) and strength relative to the sky continuum under the line, from
# the dips of the same coadd's inverse variance.
_SKY_LINES = (
    (4359.2, 0.4), (5199.2, 0.5), (5462.4, 0.5), (5577.5, 99.0), (5891.4, 5.2), (5897.0, 2.4),
    (6236.8, 1.4), (6259.2, 1.7), (6288.8, 1.4), (6301.7, 13.0), (6308.0, 1.9), (6331.2, 1.6),
    (6357.6, 1.0), (6365.1, 4.3), (6472.0, 1.9), (6500.8, 3.0), (6534.4, 2.7), (6555.2, 2.2),
    (6564.0, 1.2), (6578.4, 1.6), (6836.0, 4.0), (6843.2, 1.0), (6865.6, 6.1), (6872.8, 1.6),
    (6890.4, 1.8), (6902.4, 1.8), (6914.4, 2.2), (6924.8, 4.6), (6940.8, 2.1), (6950.4, 6.1),
    (6971.2, 1.3), (6980.0, 3.0), (7012.8, 1.5), (7246.4, 10.0), (7254.4, 2.6), (7277.6, 19.0),
    (7285.6, 4.0), (7297.6, 1.4), (7305.6, 3.3), (7317.6, 13.0), (7330.4, 4.6), (7342.4, 16.0),
    (7360.0, 4.6), (7371.2, 10.0), (7393.6, 3.5), (7403.2, 7.3), (7431.2, 2.1), (7440.0, 4.0),
    (7475.2, 1.9), (7484.8, 2.3), (7525.6, 9.0), (7532.0, 2.2), (7559.2, 1.4), (7573.6, 4.0),
    (7588.0, 0.9), (7600.0, 7.3), (7629.6, 6.7), (7655.2, 1.4), (7664.0, 1.6), (7719.2, 13.0),
    (7727.2, 2.2), (7752.0, 24.0), (7761.6, 6.1), (7775.2, 2.3), (7781.6, 2.6), (7795.2, 16.0),
    (7810.4, 4.6), (7823.2, 19.0), (7843.2, 3.2), (7855.2, 16.0), (7862.4, 3.8), (7872.0, 5.2),
    (7880.8, 2.1), (7891.2, 6.7), (7915.2, 32.0), (7922.4, 9.0), (7932.8, 5.7), (7950.4, 3.2),
    (7966.4, 24.0), (7981.6, 5.7), (7994.4, 24.0), (8016.0, 4.3), (8027.2, 16.0), (8053.6, 3.3),
    (8064.0, 7.3), (8095.2, 1.6), (8104.0, 3.3), (8148.8, 1.3), (8283.2, 11.0), (8289.6, 24.0),
    (8300.0, 19.0), (8312.8, 3.5), (8346.4, 99.0), (8354.4, 19.0), (8366.4, 4.3), (8384.0, 11.0),
    (8400.8, 49.0), (8416.8, 16.0), (8432.0, 99.0), (8454.4, 11.0), (8467.2, 49.0), (8495.2, 9.0),
    (8506.4, 24.0), (8540.0, 3.5), (8550.4, 7.3), (8589.6, 1.7), (8598.4, 2.0), (8661.6, 1.6),
    (8763.2, 24.0), (8769.6, 49.0), (8780.0, 49.0), (8792.8, 13.0), (8828.8, 99.0), (8837.6, 24.0),
    (8851.2, 5.2), (8869.6, 19.0), (8888.8, 99.0), (8904.8, 24.0), (8921.6, 99.0), (8944.8, 19.0),
    (8960.0, 99.0), (8989.6, 24.0), (9003.2, 49.0), (9040.0, 5.2), (9051.2, 11.0), (9094.4, 3.2),
    (9104.8, 4.9), (9154.4, 4.6), (9162.4, 3.2), (9218.4, 2.6), (9226.4, 2.7), (9316.0, 49.0),
    (9326.4, 99.0), (9340.0, 8.1), (9356.0, 2.0), (9379.2, 199.0), (9404.0, 9.0), (9420.8, 19.0),
    (9429.6, 4.0), (9442.4, 199.0), (9461.6, 99.0), (9477.6, 99.0), (9504.0, 99.0), (9521.6, 24.0),
    (9538.4, 2.7), (9555.2, 49.0), (9568.8, 99.0), (9609.6, 8.1), (9622.4, 13.0), (9670.4, 6.7),
    (9683.2, 13.0), (9701.6, 24.0), (9713.6, 6.7), (9721.6, 32.0), (9740.0, 13.0), (9792.8, 99.0),
    (9801.6, 19.0), (9814.4, 2.4),
)  # fmt: skip

_SKY_FLUX = 3.0
"""Brightness of the sky continuum in a fibre, 1e-17 erg/(s cm2 Angstrom): sets how much an
object's own photons add to the variance."""

# Quasar lines: rest wavelength (Angstrom), rest equivalent width (Angstrom), width (km/s).
_QUASAR_LINES = (
    (1025.7, 9, 2500), (1215.67, 90, 2800), (1240.8, 15, 2800), (1399.0, 8, 2800),
    (1549.1, 32, 2600), (1640.4, 5, 2800), (1908.7, 21, 3000), (2799.1, 32, 2200),
    (4341.7, 13, 2000), (4862.7, 46, 2000), (4960.3, 5, 350), (5008.2, 15, 350),
    (6564.6, 195, 2000),
)  # fmt: skip

GALAXY_LINES = {
    "OII": ((3727.09, 12), (3729.87, 16)),
    "HDELTA": ((4102.89, 3),),
    "HGAMMA": ((4341.68, 6),),
    "HBETA": ((4862.68, 12),),
    "OIII": ((4960.30, 8), (5008.24, 24)),
    "HALPHA": ((6564.61, 50),),
}
"""Emission lines as the emline files name them: rest wavelengths and equivalent widths (Angstrom)
of a star-forming galaxy."""

_GALAXY_WIDTH = 110.0
"""Dispersion of a galaxy's emission lines, km/s."""

_STELLAR_LINES = (3934.8, 3969.6, 4102.9, 4305.6, 4341.7, 4862.7, 5176.6, 5895.6, 6564.6)

_LIGHT = 299_792.458

_LYMAN_ALPHA = 1215.67

_LYMAN_LIMIT = 911.75


class Instrument(NamedTuple):
    """What depends on the wavelength only: made once a tile by `make_instrument`.

    Dictionaries by arm: `wavelength` (Angstrom), `depth` (inverse variance for 1000 s between the
    sky lines), `sky` (sky lines relative to the continuum), `resolution` (two band matrices of
    shape (11, nwave), sharp and blurred), `start` (index of the arm's first pixel in the joint
    grid).
    """

    joint: Array
    wavelength: dict[str, Array]
    depth: dict[str, Array]
    sky: dict[str, Array]
    resolution: dict[str, tuple[Array32, Array32]]
    start: dict[str, int]


class Exposed(NamedTuple):
    """A block of targets in one arm, each array of shape (ntarget, nwave)."""

    flux: Array32
    ivar: Array32


def arm_wavelength(arm: str) -> Array:
    """Return an arm's wavelengths in Angstrom, shape (nwave,), float64.

    They carry the rounding of DESI's own files: `numpy.arange` adds up a step that is not exactly
    0.8, so that the same wavelength differs by 5e-10 Angstrom between two arms.
    """
    first, last = _ARM_RANGE[arm]
    return np.arange(first, last + STEP / 2, STEP)


def make_instrument() -> Instrument:
    """Compute everything that all targets share."""
    wavelength = {arm: arm_wavelength(arm) for arm in ARMS}
    return Instrument(
        joint=np.round(3600.0 + STEP * np.arange(N_JOINT), 1),
        wavelength=wavelength,
        depth={arm: np.interp(wavelength[arm], *np.array(_DEPTH[arm]).T) for arm in ARMS},
        sky={arm: _sky_lines(wavelength[arm]) for arm in ARMS},
        resolution={arm: (_resolution(arm, 0.0), _resolution(arm, 0.12)) for arm in ARMS},
        start={arm: round((_ARM_RANGE[arm][0] - 3600.0) / STEP) for arm in ARMS},
    )


def _sky_lines(wavelength: Array) -> Array:
    lines = np.zeros_like(wavelength)
    for centre, strength in _SKY_LINES:
        near = np.abs(wavelength - centre) < 6
        lines[near] += strength * np.exp(-0.5 * ((wavelength[near] - centre) / 0.95) ** 2)
    return lines


def _resolution(arm: str, extra: float) -> Array32:
    """Band-diagonal resolution: Gaussians whose width (pixels) changes slowly along the arm."""
    count = len(arm_wavelength(arm))
    width = {"B": 0.85, "R": 0.81, "Z": 0.93}[arm] + extra + 0.06 * np.linspace(-1, 1, count) ** 2
    offset = np.arange(N_DIAGONALS)[:, None] - N_DIAGONALS // 2
    profile = np.exp(-0.5 * (offset / width) ** 2)
    normed: Array32 = (profile / profile.sum(axis=0)).astype(np.float32)
    return normed


# -------------------------------------------------------------------------------- templates


def quasar_spectrum(joint: Array, z: float, rng: np.random.Generator) -> Array:
    """Quasar of arbitrary brightness: power law, broad lines, Lyman-alpha forest.

    The continuum is that of Vanden Berk et al. 2001 (slope -1.54, flattening at 4661 Angstrom),
    the forest's mean optical depth that of Kim et al. 2007, 0.0023 (1+z)^3.65.
    """
    rest = joint / (1 + z)
    slope = rng.normal(-1.54, 0.2)
    flux = np.where(rest < 4661, (rest / 4661) ** slope, (rest / 4661) ** -0.42)
    gain = np.ones_like(rest)
    scale = rng.lognormal(0, 0.25)
    for centre, equivalent_width, velocity in _QUASAR_LINES:
        gain += scale * _line(rest, centre, equivalent_width, velocity)
    flux *= gain
    forest = rest < _LYMAN_ALPHA
    if forest.any():
        depth = 0.0023 * (joint[forest] / _LYMAN_ALPHA) ** 3.65
        density = np.convolve(
            rng.standard_normal(len(depth) + 6), (0.15, 0.4, 0.55, 0.4, 0.15, 0.1, 0.05), "valid"
        )
        flux[forest] *= np.exp(-depth * np.exp(1.3 * density - 0.5))
    flux[rest < _LYMAN_LIMIT] *= 0.1
    return flux


def galaxy_spectrum(joint: Array, z: float, star_forming: float) -> Array:
    """Galaxy of arbitrary brightness: 4000 Angstrom break, stellar lines, nebular lines.

    `star_forming` scales the nebular lines (0: none, 1: those of `GALAXY_LINES`).
    """
    rest = joint / (1 + z)
    passive = 1 / (1 + 2 * star_forming)
    flux = (rest / 4500) ** (1.2 * passive - 0.6)
    flux *= 1 - (0.15 + 0.4 * passive) / (1 + np.exp((rest - 3990) / 25))
    for centre in _STELLAR_LINES:
        flux *= 1 - 0.35 * passive * np.exp(-0.5 * ((rest - centre) / 9) ** 2)
    gain = np.ones_like(rest)
    for lines in GALAXY_LINES.values():
        for centre, equivalent_width in lines:
            gain += star_forming * _line(rest, centre, equivalent_width, _GALAXY_WIDTH)
    return flux * gain


def star_spectrum(joint: Array, z: float, temperature: float) -> Array:
    """Star of arbitrary brightness: black body of that temperature (K) with absorption lines."""
    rest = joint / (1 + z)
    flux = rest**-5.0 / np.expm1(1.438_78e8 / (rest * temperature))
    for centre in _STELLAR_LINES:
        balmer = centre in (4102.9, 4341.7, 4862.7, 6564.6)
        depth = 0.5 if balmer == (temperature > 7000) else 0.12
        flux *= 1 - depth * np.exp(-0.5 * ((rest - centre) / 7) ** 2)
    peak: float = flux.max()
    return flux / peak


def _line(rest: Array, centre: float, equivalent_width: float, velocity: float) -> Array:
    """Gaussian line relative to the continuum; width at least that of the spectrograph."""
    sigma = max(centre * velocity / _LIGHT, 0.4)
    peak = equivalent_width / (sigma * np.sqrt(2 * np.pi))
    line: Array = peak * np.exp(-0.5 * ((rest - centre) / sigma) ** 2)
    return line


def band_flux(joint: Array, flux: Array, band: str) -> float:
    """Mean flux density in a broad band (G, R, Z), in the units of `flux`."""
    low, high = {"G": (4000, 5500), "R": (5700, 7200), "Z": (8400, 9800)}[band]
    return float(flux[(joint > low) & (joint < high)].mean())


# ------------------------------------------------------------------------------- instrument


def draw_masks(
    instrument: Instrument, bad_fibre: npt.NDArray[np.bool_], rng: np.random.Generator
) -> dict[str, Masks]:
    """Draw the bad pixels of all targets.

    Parameters
    ----------
    instrument
        From `make_instrument`.
    bad_fibre
        Shape (ntarget,): fibres without any good pixel.
    rng
        Source of randomness.

    Returns
    -------
    dict of str to ndarray
        By arm, SPECMASK bits of shape (ntarget, nwave), int32: cosmics, bad columns, pixels
        without data, bad fibre flats, and in the overlaps of the arms pixels that are bad in one
        arm only or in both.
    """
    count = len(bad_fibre)
    masks = {arm: np.zeros((count, len(instrument.wavelength[arm])), np.int32) for arm in ARMS}
    for i in range(count):
        for arm in ARMS:
            row = masks[arm][i]
            for bit, runs, longest in (
                ("COSMIC", 4, 6),
                ("BADCOLUMN", 1, 12),
                ("SOMEBADPIX", 2, 3),
                ("BADFIBERFLAT", 1, 4),
                ("NODATA", 1, 5),
            ):
                for _ in range(rng.integers(0, runs + 1)):
                    start = rng.integers(0, len(row))
                    row[start : start + rng.integers(1, longest + 1)] |= SPECMASK[bit]
        # bad in the blue arm only, in the red arm only, in both; the overlap of B and R is the
        # last 51 pixels of B and the first of R
        row, other = masks["B"][i], masks["R"][i]
        row[-40 : -40 + rng.integers(1, 6)] |= SPECMASK["COSMIC"]
        other[20 : 20 + rng.integers(1, 4)] |= SPECMASK["COSMIC"]
        row[-8], other[43] = SPECMASK["BADCOLUMN"], SPECMASK["NODATA"]
        # R and Z share 126 pixels
        masks["R"][i][-100 : -100 + rng.integers(1, 6)] |= SPECMASK["BADCOLUMN"]
        masks["Z"][i][60 : 60 + rng.integers(1, 6)] |= SPECMASK["COSMIC"] | SPECMASK["ALLBADPIX"]
    for arm in ARMS:
        masks[arm][bad_fibre] |= SPECMASK["BADFIBER"]
    return masks


def expose(
    instrument: Instrument,
    truth: Array,
    masks: dict[str, Masks],
    exptime: Array,
    bad_fibre: npt.NDArray[np.bool_],
    rng: np.random.Generator,
) -> dict[str, Exposed]:
    """Observe a block of targets with the three arms.

    Parameters
    ----------
    instrument
        From `make_instrument`.
    truth
        Shape (ntarget, 7781): flux at the joint wavelengths, 1e-17 erg/(s cm2 Angstrom).
    masks
        By arm, shape (ntarget, nwave), from `draw_masks`.
    exptime
        Shape (ntarget,): exposure times, s.
    bad_fibre
        Shape (ntarget,): fibres that give no data (flux and ivar are 0).
    rng
        Source of randomness.

    Returns
    -------
    dict of str to Exposed
        Flux and ivar by arm. Noise is drawn from ivar. Masked pixels keep ivar > 0, except those
        that have no data (ivar and flux 0); cosmics leave an outlier in the flux. A few good
        pixels have ivar 0.
    """
    depth = exptime / 1000 * rng.lognormal(0, 0.12, len(exptime))
    brightness = rng.uniform(0.8, 1.3, len(exptime))
    exposed = {}
    for arm in ARMS:
        first, mask = instrument.start[arm], masks[arm]
        signal = truth[:, first : first + mask.shape[1]].astype(np.float32)
        clean = (depth[:, None] * instrument.depth[arm]).astype(np.float32)
        sky = 1 + (brightness[:, None] * instrument.sky[arm]).astype(np.float32)
        flat = 1 + np.float32(0.02) * rng.standard_normal(mask.shape, np.float32)
        ivar = clean * flat / (sky + np.maximum(signal, 0) / np.float32(_SKY_FLUX))
        sigma = 1 / np.sqrt(ivar)
        flux = signal + sigma * rng.standard_normal(mask.shape, np.float32)
        flux += np.where(mask & SPECMASK["COSMIC"], 30 * sigma, np.float32(0))
        lost = (mask & SPECMASK["NODATA"] != 0) | bad_fibre[:, None]
        lost |= rng.random(mask.shape, np.float32) < 3e-4
        flux[lost] = 0
        ivar[lost] = 0
        exposed[arm] = Exposed(flux.astype(np.float32), ivar.astype(np.float32))
    return exposed


def blur(instrument: Instrument, arm: str, blurring: Array) -> Array32:
    """Return RESOLUTION of a block, shape (ntarget, 11, nwave): sharp to blurred as 0 to 1."""
    sharp, blurred = instrument.resolution[arm]
    share = blurring.astype(np.float32)[:, None, None]
    return sharp + share * (blurred - sharp)
