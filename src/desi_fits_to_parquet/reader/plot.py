"""A spectrum as a figure."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from desi_fits_to_parquet.lines import LINES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIGMAS = 5


def draw(
    wavelength: npt.NDArray[np.float64],
    flux: npt.NDArray[np.floating[Any]],
    ivar: npt.NDArray[np.floating[Any]],
    *,
    title: str,
    relative: bool,
    spectype: str | None,
    redshift: float | None,
    smooth: int,
    axes: "Axes | None",
) -> "Axes":
    """Draw a spectrum, its error, and the lines of its class where the redshift puts them.

    Parameters
    ----------
    wavelength
        Angstrom, shape (npix,).
    flux, ivar
        1e-17 erg/(s cm2 Angstrom) and its inverse variance, shape (npix,); pixels with ivar 0 are
        left out.
    title, spectype
        What it is; the class (QSO, GALAXY, STAR) decides which lines are marked.
    relative
        Whether flux has no unit.
    redshift
        Where the lines are; None marks none.
    smooth
        Pixels to average over, weighted by ivar; 1 for none.
    axes
        Where to draw, on a new figure by default.
    """
    import matplotlib.pyplot as plt

    if axes is None:
        _, axes = plt.subplots(figsize=(10, 4), layout="constrained")
    weight = np.asarray(ivar, np.float64)
    box = np.ones(max(smooth, 1))
    total = np.convolve(weight, box, "same")
    weighted = np.convolve(weight * np.where(weight > 0, flux, 0), box, "same")
    good = total > 0
    mean = np.divide(weighted, total, out=np.full(len(total), np.nan), where=good)
    sigma = np.divide(1, np.sqrt(total), out=np.full(len(total), np.nan), where=good)
    axes.plot(wavelength, sigma, color="0.7", lw=0.6, label="error")
    axes.plot(wavelength, mean, color="C0", lw=0.6, label="flux")
    if good.any():
        low, high = np.nanpercentile(mean, [0.5, 99.5])
        room = 0.15 * (high - low) + _SIGMAS * float(np.nanmedian(sigma)) / 2
        axes.set_ylim(min(low - room, 0), high + 2 * room)
    axes.set_xlim(wavelength[0], wavelength[-1])
    for name, rest in LINES.get(spectype or "", {}).items() if redshift is not None else ():
        place = rest * (1 + (redshift or 0))
        if wavelength[0] < place < wavelength[-1]:
            axes.axvline(place, color="0.5", lw=0.6, ls=":")
            axes.annotate(
                name, (place, 0.98), xycoords=("data", "axes fraction"), rotation=90,
                ha="right", va="top", size="small", color="0.3",
            )  # fmt: skip
    axes.set_title(title, loc="left")
    axes.set_xlabel("wavelength [Å]")
    axes.set_ylabel("flux, normalised" if relative else "flux [10⁻¹⁷ erg/(s cm² Å)]")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    return axes
