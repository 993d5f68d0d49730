"""One target's spectrum: in the terminal, or as a picture."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from desi_fits_to_parquet.command.stopped import Stopped
from desi_fits_to_parquet.lines import LINES
from desi_fits_to_parquet.reader.catalog import open_catalog
from desi_fits_to_parquet.reader.spectra import Spectrum

_ROWS = 16

_AXIS = 14
"""Columns of the terminal that the figure's own axis and margin take."""

_NARROWEST, _WIDEST = 40, 160


def find_spectrum(place: str, targetid: int, where: str | None = None) -> tuple[Spectrum, int]:
    """Return a target's spectrum, its best one where there are several, and how many there are.

    Parameters
    ----------
    place
        As `open_catalog` takes it.
    targetid
        DESI's TARGETID.
    where
        A condition in SQL that chooses among several, such as `program = 'bright'`.

    Raises
    ------
    Stopped
        Where there are no results, or the target is not in them.
    """
    try:
        catalog = open_catalog(place).targets(targetid)
        if where:
            catalog = catalog.where(where)
        found = catalog.spectra(columns=["flux", "ivar", "is_primary"])
        if not len(found):
            raise Stopped(f"{place} has no target {targetid}{f' where {where}' if where else ''}")
        best = int(np.argmax(found.table["is_primary"].to_numpy()))
        return found[best], len(found)
    except (OSError, ValueError) as error:
        raise Stopped(str(error)) from error


def draw_text(spectrum: Spectrum, columns: int) -> str:
    """Draw a spectrum with characters, the lines of its class named where they are.

    Parameters
    ----------
    spectrum
        What to draw; a dot is the mean of some pixels, weighted by ivar.
    columns
        Width of the terminal.
    """
    import plotille

    width = min(max(columns - _AXIS, _NARROWEST), _WIDEST)
    wavelength, flux = _binned(spectrum, 2 * width)  # a character holds two dots beside each other
    if not len(flux):
        return "no pixel of it has a value"
    low, high = np.percentile(flux, [0.5, 99.5])
    low, top = min(low, 0), high + 0.25 * ((high - low) or 1)
    beneath = top - (top - low) / (2 * _ROWS)  # within the uppermost row
    figure = plotille.Figure()
    figure.width, figure.height, figure.origin = width, _ROWS, False
    figure.set_x_limits(float(wavelength[0]), float(wavelength[-1]))
    figure.set_y_limits(float(low), float(top))
    figure.x_label, figure.y_label = "wavelength [Å]", "flux [10⁻¹⁷ erg/(s cm² Å)]"
    figure.register_label_formatter(float, _tick)
    figure.plot(wavelength.tolist(), flux.tolist())
    column = (wavelength[-1] - wavelength[0]) / width
    free = float(wavelength[0])
    for name, rest in sorted(LINES.get(str(spectrum.row["spectype"]), {}).items(), key=_place):
        place = rest * (1 + spectrum.z)
        if free <= place and place + len(name) * column < wavelength[-1]:
            figure.text([place], [float(beneath)], [name])
            free = place + (len(name) + 1) * column
    return str(figure.show())


def describe(spectrum: Spectrum) -> str:
    """Say in a line which target it is."""
    row = spectrum.row
    return (
        f"{row['targetid']}, {row['survey']} {row['program']}: {row['spectype']}, z {row['z']:.4f},"
        f" zwarn {row['zwarn']}, ra {row['target_ra']:.5f}, dec {row['target_dec']:.5f}"
    )


def save_picture(spectrum: Spectrum, path: Path, smooth: int) -> None:
    """Write a spectrum as a picture, of the kind that the name ends with.

    Raises
    ------
    Stopped
        Where it cannot be written.
    """
    import matplotlib as mpl

    mpl.use("agg")
    try:
        figure: Any = spectrum.plot(smooth=smooth).figure
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise Stopped(f"{path}: {error}") from error


def _binned(
    spectrum: Spectrum, bins: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return wavelength and mean flux, weighted by ivar, of those bins that have a value."""
    edges = np.linspace(spectrum.wavelength[0], spectrum.wavelength[-1], bins + 1)
    into = np.clip(np.searchsorted(edges, spectrum.wavelength, "right") - 1, 0, bins - 1)
    weight = np.where(spectrum.good, spectrum.ivar, 0).astype(np.float64)
    total = np.bincount(into, weight, bins)
    summed = np.bincount(into, weight * np.where(weight > 0, spectrum.flux, 0), bins)
    there = total > 0
    return (edges[:-1] + np.diff(edges) / 2)[there], summed[there] / total[there]


def _tick(value: float, chars: int, delta: float, left: bool = False) -> str:
    text = f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.ljust(chars) if left else text.rjust(chars)


def _place(line: tuple[str, float]) -> float:
    return line[1]
