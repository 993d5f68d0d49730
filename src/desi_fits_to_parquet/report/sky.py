"""Maps of the whole sky in equatorial coordinates: the HEALPix cells of the tiles, of any order."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy_healpix import HEALPix, nside_to_pixel_area
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse

from desi_fits_to_parquet.outcomes import FAILED_OUTCOMES, OUTCOMES
from desi_fits_to_parquet.report.style import OUTCOME_STYLE, label_log_axis, new_figure

CENTRE_DEG = 120.0
"""Right ascension in the middle of the map: DESI's footprint is then cut the least."""

MARK_ALL_BELOW = 1000
"""With fewer tiles every one gets a symbol: single cells are too small to be seen."""

SHAPE = (1000, 2000)
"""Rows and columns of a map's image: a cell of order 6 is five of them wide."""

_WIDTH, _HEIGHT = 2 * np.sqrt(2.0), np.sqrt(2.0)  # half axes of the map on the unit sphere

_DRAWN: dict[str, Any] = {"edgecolor": "0.1", "linewidth": 0.4, "zorder": 4, "rasterized": True}

Array = npt.NDArray[np.float64]


def draw_sky_outcomes(tiles: pd.DataFrame) -> Figure:
    """Draw where the tiles lie, coloured by outcome; failed ones on top, with symbols."""
    figure, axes = _new_map()
    ranks = {outcome: rank for rank, outcome in enumerate(OUTCOMES)}  # failures come last
    ranked = tiles.assign(rank=tiles.outcome.map(ranks)).sort_values("rank")
    image = np.full(SHAPE, np.nan)
    for order, part in _by_order(ranked):
        image = np.fmax(image, paint_cells(order, part.pixel, part["rank"]))
    colours = ListedColormap([OUTCOME_STYLE[outcome][0] for outcome in OUTCOMES])
    _show(axes, image, cmap=colours, vmin=-0.5, vmax=len(OUTCOMES) - 0.5)
    handles = []
    size = 16 if (tiles.outcome != "converted").sum() < MARK_ALL_BELOW else 4
    for outcome in OUTCOMES:
        part = tiles[tiles.outcome == outcome]
        colour, _, marker = OUTCOME_STYLE[outcome]
        handles.append(
            Line2D(
                [],
                [],
                marker=marker,
                linestyle="",
                color=colour,
                markeredgecolor="0.1",
                label=f"{outcome} ({len(part):,})",
            )
        )
        if outcome in FAILED_OUTCOMES or len(tiles) < MARK_ALL_BELOW:
            axes.scatter(*_centres(part), s=size, marker=marker, color=colour, **_DRAWN)
    _finish(figure, axes, handles, f"{len(tiles):,} tiles by outcome")
    return figure


def draw_sky_targets(tiles: pd.DataFrame) -> Figure:
    """Draw the density of targets, added up over surveys and programs."""
    figure, axes = _new_map()
    known = tiles[tiles.n_targets.fillna(0) > 0]
    cells = known.groupby(["order", "pixel"], as_index=False)[["n_targets"]].sum()
    if len(cells):
        areas = nside_to_pixel_area(2 ** cells.order.to_numpy()).to_value(u.deg**2)
        cells["density"] = cells.n_targets / areas
        image = np.zeros(SHAPE)
        for order, part in _by_order(cells):
            image += np.nan_to_num(paint_cells(order, part.pixel, part.density))
        style: dict[str, Any] = {
            "cmap": "viridis_r",
            "norm": LogNorm(image[image > 0].min(), image.max()),
        }
        shown = _show(axes, np.where(image > 0, image, np.nan), **style)
        if len(cells) < MARK_ALL_BELOW:
            x, y = _centres(cells)
            axes.scatter(x, y, c=cells.density, s=16, **style, **_DRAWN)
        bar = figure.colorbar(shown, ax=axes, shrink=0.7, pad=0.02)
        bar.set_label("number of targets per square degree (logarithmic)")
        label_log_axis(bar.ax.yaxis)
    _finish(
        figure,
        axes,
        [],
        f"{int(cells.n_targets.sum()):,} targets in {len(cells):,} pixels; "
        f"{len(tiles) - len(known):,} tiles without or of unknown number not drawn",
    )
    return figure


def paint_cells(order: int, pixel: npt.ArrayLike, value: npt.ArrayLike) -> Array:
    """Paint HEALPix cells of one order as the image of a map.

    Each pixel of the image looks up the cell that it lies in; a cell that is smaller than such a
    pixel paints the one that holds its centre, so that no tile is lost.

    Parameters
    ----------
    order
        HEALPix order.
    pixel
        Cells, NESTED, shape (n,). Of one that occurs twice the last value counts.
    value
        What they are painted with, shape (n,).

    Returns
    -------
    ndarray
        float64, shape `SHAPE`, from the lower left of the map; NaN where there is no cell.
    """
    cells, values = np.asarray(pixel, np.int64), np.asarray(value, float)
    rank = np.argsort(cells, kind="stable")
    cells, values = cells[rank], values[rank]
    y, x = ((np.arange(n) + 0.5) / n * 2 - 1 for n in SHAPE)
    lon, lat = inverse_mollweide(_WIDTH * x[None], _HEIGHT * y[:, None])
    inside = np.isfinite(lon)
    sky = HEALPix(2**order, order="nested")
    found = sky.lonlat_to_healpix(_right_ascension(lon[inside]), lat[inside] * u.rad)
    image = np.full(SHAPE, np.nan)
    at = np.searchsorted(cells, found, side="right") - 1
    image[inside] = np.where((at >= 0) & (cells[at] == found), values[at], np.nan)
    x, y = _project(order, cells)
    rows = np.clip((y / _HEIGHT + 1) / 2 * SHAPE[0], 0, SHAPE[0] - 1).astype(int)
    columns = np.clip((x / _WIDTH + 1) / 2 * SHAPE[1], 0, SHAPE[1] - 1).astype(int)
    image[rows, columns] = values
    return image


def mollweide(lon: Array, lat: Array) -> tuple[Array, Array]:
    """Project the sphere on the plane, equal areas staying equal (Snyder 1987, p. 249).

    Parameters
    ----------
    lon, lat
        In radian; `lon` from the middle of the map.

    Returns
    -------
    x, y
        On a sphere of radius 1: the frame's half axes are 2 sqrt(2) and sqrt(2).
    """
    # 2 t + sin 2t = pi sin(lat), solved on a table: exact to 1e-6 of the map's height
    angle = np.linspace(-np.pi / 2, np.pi / 2, 20_001)
    t = np.interp(np.pi * np.sin(lat), 2 * angle + np.sin(2 * angle), angle)
    return _WIDTH / np.pi * lon * np.cos(t), _HEIGHT * np.sin(t)


def inverse_mollweide(x: Array, y: Array) -> tuple[Array, Array]:
    """Give longitude and latitude (radian) of points of the map; NaN outside of its frame."""
    t = np.arcsin(y / _HEIGHT)
    with np.errstate(divide="ignore", invalid="ignore"):
        lon = np.pi * x / (_WIDTH * np.cos(t))
    inside = np.abs(lon) <= np.pi
    lat = np.arcsin(np.clip((2 * t + np.sin(2 * t)) / np.pi, -1, 1))
    return np.where(inside, lon, np.nan), np.where(inside, lat, np.nan)


def _from_middle(ra: Array) -> Array:
    """Give the map's longitude (radian) of a right ascension (degree), which grows to the left."""
    return -np.radians((ra - CENTRE_DEG + 180) % 360 - 180)


def _right_ascension(lon: Array) -> u.Quantity:
    return (CENTRE_DEG - np.degrees(lon)) % 360 * u.deg


def _project(order: int, cells: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """Give the places of the centres of cells on the map."""
    lon, lat = HEALPix(2**order, order="nested").healpix_to_lonlat(cells)
    return mollweide(_from_middle(lon.to_value(u.deg)), lat.to_value(u.rad))


def _by_order(tiles: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    for order in sorted(tiles.order.unique()):
        yield int(order), tiles[tiles.order == order]


def _centres(tiles: pd.DataFrame) -> tuple[Array, Array]:
    place = np.full((2, len(tiles)), np.nan)
    for order, part in _by_order(tiles):
        place[:, (tiles.order == order).to_numpy()] = _project(order, part.pixel.to_numpy(np.int64))
    return place[0], place[1]


def _new_map() -> tuple[Figure, Axes]:
    figure = new_figure(10.5, 6)
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set_xlim(-_WIDTH * 1.07, _WIDTH * 1.07)
    axes.set_ylim(-_HEIGHT * 1.12, _HEIGHT * 1.12)
    axes.add_patch(Ellipse((0, 0), 2 * _WIDTH, 2 * _HEIGHT, facecolor="none", zorder=5))
    return figure, axes


def _show(axes: Axes, image: Array, **style: Any) -> AxesImage:
    frame = (-_WIDTH, _WIDTH, -_HEIGHT, _HEIGHT)
    return axes.imshow(image, extent=frame, origin="lower", interpolation="none", zorder=2, **style)


def _finish(figure: Figure, axes: Axes, handles: list[Line2D], title: str) -> None:
    for dec in range(-60, 90, 30):
        x, y = mollweide(np.array([-np.pi, np.pi]), np.radians([dec, dec]))
        axes.plot(x, y, color="0.85", linewidth=0.6, zorder=1)
        axes.text(x[0] * 1.02, y[0], f"{dec}°", ha="right", va="center", fontsize=8, color="0.3")
    for step in range(-150, 180, 30):
        x, y = mollweide(np.full(91, np.radians(step)), np.linspace(-np.pi / 2, np.pi / 2, 91))
        axes.plot(x, y, color="0.85", linewidth=0.6, zorder=1)
        name = f"{(CENTRE_DEG - step) % 360:.0f}°"
        paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.8}
        axes.text(x[45], 0, name, ha="center", va="center", fontsize=8, zorder=6, bbox=paper)
    axes.text(0, -_HEIGHT * 1.02, "right ascension along the middle line, declination at the edge "
              "(degree, ICRS)", ha="center", va="top", fontsize=9)  # fmt: skip
    plane = SkyCoord(l=np.linspace(0, 360, 721) * u.deg, b=0 * u.deg, frame="galactic").icrs
    lon = _from_middle(plane.ra.deg)
    lon[np.append(np.abs(np.diff(lon)) > np.pi, False)] = np.nan  # the map's two edges stay apart
    x, y = mollweide(lon, plane.dec.rad)
    (line,) = axes.plot(x, y, color="0.1", linewidth=1.2, zorder=3, label="Galactic plane")
    figure.legend(handles=[*handles, line], loc="outside lower center", ncols=4)
    axes.set_title(title)
