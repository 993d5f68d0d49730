"""Maps of the whole sky in equatorial coordinates, one HEALPix cell a tile."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy_healpix import HEALPix
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse

from desi_fits_to_parquet.outcomes import FAILED_OUTCOMES, OUTCOMES
from desi_fits_to_parquet.report.style import OUTCOME_STYLE, label_log_axis, new_figure
from desi_fits_to_parquet.tile import NSIDE

CENTRE_DEG = 120.0
"""Right ascension in the middle of the map: DESI's footprint is then cut the least."""

MARK_ALL_BELOW = 1000
"""With fewer tiles every one gets a symbol: single cells are too small to be seen."""

_WIDTH, _HEIGHT = 2 * np.sqrt(2.0), np.sqrt(2.0)  # half axes of the map on the unit sphere

Array = npt.NDArray[np.float64]


def draw_sky_outcomes(tiles: pd.DataFrame) -> Figure:
    """Draw where the tiles lie, coloured by outcome; failed ones on top, with symbols."""
    figure, axes = _new_map()
    handles = []
    size = 16 if (tiles.outcome != "converted").sum() < MARK_ALL_BELOW else 4
    for outcome in OUTCOMES:
        part = tiles[tiles.outcome == outcome]
        colour, _, marker = OUTCOME_STYLE[outcome]
        _add_cells(axes, part.healpix.to_numpy(), facecolor=colour, edgecolor=colour)
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
            x, y = _position(part.healpix.to_numpy())
            axes.scatter(
                x,
                y,
                s=size,
                marker=marker,
                color=colour,
                edgecolor="0.1",
                linewidth=0.4,
                zorder=4,
                rasterized=True,
            )
    _finish(figure, axes, handles, f"{len(tiles):,} tiles by outcome")
    return figure


def draw_sky_targets(tiles: pd.DataFrame) -> Figure:
    """Draw the number of targets per pixel, added up over surveys and programs."""
    figure, axes = _new_map()
    known = tiles[tiles.n_targets.fillna(0) > 0]
    targets = known.groupby("healpix").n_targets.sum()
    handles: list[Line2D] = []
    if len(targets):
        norm = LogNorm(targets.min(), max(2, targets.max()))
        cells = _add_cells(
            axes,
            targets.index.to_numpy(),
            array=targets.to_numpy(float),
            cmap="viridis_r",
            edgecolor="face",
            norm=norm,
        )
        if len(targets) < MARK_ALL_BELOW:
            x, y = _position(targets.index.to_numpy())
            axes.scatter(
                x,
                y,
                c=targets.to_numpy(float),
                cmap="viridis_r",
                norm=norm,
                s=16,
                edgecolor="0.1",
                linewidth=0.3,
                zorder=4,
                rasterized=True,
            )
        bar = figure.colorbar(cells, ax=axes, shrink=0.7, pad=0.02)
        bar.set_label("targets per pixel (number, logarithmic)")
        label_log_axis(bar.ax.yaxis)
    _finish(
        figure,
        axes,
        handles,
        f"{int(targets.sum()):,} targets in {len(targets):,} pixels; "
        f"{len(tiles) - len(known):,} tiles without or of unknown number not drawn",
    )
    return figure


def _new_map() -> tuple[Figure, Axes]:
    figure = new_figure(10.5, 6)
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set_xlim(-_WIDTH * 1.07, _WIDTH * 1.07)
    axes.set_ylim(-_HEIGHT * 1.12, _HEIGHT * 1.12)
    axes.add_patch(Ellipse((0, 0), 2 * _WIDTH, 2 * _HEIGHT, facecolor="none", zorder=5))
    return figure, axes


def mollweide(lon: Array, lat: Array) -> tuple[Array, Array]:
    """Project the sphere on the plane, equal areas staying equal (Snyder 1987, p. 249).

    matplotlib's own projection takes a minute for 12,000 cells.

    Parameters
    ----------
    lon, lat
        In radian; `lon` from the middle of the map, beyond +-pi outside of its frame.

    Returns
    -------
    x, y
        On a sphere of radius 1: the frame's half axes are 2 sqrt(2) and sqrt(2).
    """
    # 2 t + sin 2t = pi sin(lat), solved on a table: exact to 1e-6 of the map's height
    angle = np.linspace(-np.pi / 2, np.pi / 2, 20_001)
    t = np.interp(np.pi * np.sin(lat), 2 * angle + np.sin(2 * angle), angle)
    return _WIDTH / np.pi * lon * np.cos(t), _HEIGHT * np.sin(t)


def _from_middle(ra: Array) -> Array:
    """Give the map's longitude (radian) of a right ascension (degree), which grows to the left."""
    return -np.radians((ra - CENTRE_DEG + 180) % 360 - 180)


def _position(pixels: npt.NDArray[np.integer]) -> tuple[Array, Array]:
    lon, lat = HEALPix(NSIDE, order="nested").healpix_to_lonlat(pixels)
    return mollweide(_from_middle(lon.to_value(u.deg)), lat.to_value(u.rad))


def _add_cells(axes: Axes, pixels: npt.NDArray[np.integer], **style: Any) -> PolyCollection:
    corners, lat = HEALPix(NSIDE, order="nested").boundaries_lonlat(pixels, step=1)
    lon, lat = _from_middle(corners.to_value(u.deg)), lat.to_value(u.rad)
    # a cell that crosses the edge of the map is drawn at both sides; the frame cuts what sticks out
    lon = np.where(lon - lon[:, :1] > np.pi, lon - 2 * np.pi, lon)
    lon = np.where(lon - lon[:, :1] < -np.pi, lon + 2 * np.pi, lon)
    low, high = lon.min(axis=1) < -np.pi, lon.max(axis=1) > np.pi
    copied = np.concatenate([np.arange(len(lon)), np.flatnonzero(low), np.flatnonzero(high)])
    lon = np.concatenate([lon, lon[low] + 2 * np.pi, lon[high] - 2 * np.pi])
    if (array := style.pop("array", None)) is not None:
        style["array"] = np.asarray(array)[copied]
    outlines = np.stack(mollweide(lon, lat[copied]), axis=-1)
    cells = PolyCollection(list(outlines), linewidth=0.2, zorder=2, rasterized=True, **style)
    axes.add_collection(cells, autolim=False)
    cells.set_clip_path(axes.patches[0])
    return cells


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
