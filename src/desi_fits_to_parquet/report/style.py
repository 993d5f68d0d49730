"""The one style of the report's figures: readable in black and white, the same bytes every time."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from desi_fits_to_parquet.files import atomic_path
from desi_fits_to_parquet.text import neutral, shorten

log = logging.getLogger(__name__)

STYLE: Any = {  # matplotlib types the keys as a list of literals
    "font.family": "DejaVu Sans",  # shipped with matplotlib: the same on every machine
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "0.88",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "legend.fancybox": False,
    "lines.linewidth": 1.4,
    "patch.edgecolor": "0.1",
    "patch.force_edgecolor": True,
    "patch.linewidth": 0.6,
    "figure.facecolor": "white",
    "savefig.dpi": 150,
    "svg.hashsalt": "desi-fits-to-parquet",  # else element ids are random
}

# colours of Okabe & Ito (2008), told apart by colour-blind readers; ordered dark to light
BLUE, GREEN, RED, ORANGE, SKY, YELLOW, GREY = (
    "#0072B2",
    "#009E73",
    "#D55E00",
    "#E69F00",
    "#56B4E9",
    "#F0E442",
    "#BBBBBB",
)

OUTCOME_STYLE = {
    "converted": (BLUE, "", "o"),
    "no_targets": (SKY, "..", "s"),
    "missing_source": (GREY, "//", "^"),
    "corrupt_source": (RED, "xx", "X"),
    "unreachable": (ORANGE, "\\\\", "v"),
    "invalid_output": (YELLOW, "++", "D"),
}
"""Colour, hatch and marker of each outcome: each alone tells it from the others."""


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the project's style; the caller's settings come back afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        with mpl.rc_context(STYLE):
            yield


class NothingToDraw(Exception):
    """There are no data for a figure; the message is the sentence that stands in its place."""


def save_figure(draw: Callable[[], Figure], path: Path) -> str:
    """Draw a figure in the project's style and write it as SVG, atomically and without a date.

    A figure that cannot be drawn, whatever the reason, does not end the report: the log gets the
    traceback, and no file is written.

    Returns
    -------
    str
        Nothing, or the sentence to be put in the place of a figure that was not drawn.

    Raises
    ------
    OSError
        Where the picture cannot be written.
    """
    try:
        with styled():
            figure = draw()
            with atomic_path(path) as temporary:
                figure.savefig(temporary, format="svg", metadata={"Date": None})
    except NothingToDraw as nothing:
        return f"{nothing}."
    except Exception as error:
        log.exception("%s cannot be drawn", path.name)
        reason = str(error) if isinstance(error, ValueError | OSError) else repr(error)
        return f"This figure cannot be drawn: {shorten(neutral(reason), 900)}"
    return ""


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure, width and height in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def say_nothing_to_show(axes: Axes, text: str = "no converted tile") -> None:
    """Write a sentence into axes that have no data, instead of an empty frame."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color="0.3")


def label_log_axis(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers, also where it spans less than a decade."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:,g}")
    axis.set_minor_formatter(NullFormatter())


def histogram_edges(values: npt.ArrayLike, most: int = 60) -> list[float]:
    """Choose the edges of a histogram: 2 n^(1/3) bins (the Rice rule), at most `most`.

    Parameters
    ----------
    values
        Finite numbers, at least one.
    most
        Bins that the figure has room for.
    """
    array = np.asarray(values, float)
    n_bins = int(np.clip(2 * np.cbrt(array.size), 1, min(most, array.size)))
    return [float(edge) for edge in np.histogram_bin_edges(array, bins=n_bins)]
