"""Maps of the sky in equatorial coordinates: the HEALPix cells of the tiles, of any order."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

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
from matplotlib.ticker import MaxNLocator

from desi_fits_to_parquet.outcomes import FAILED_OUTCOMES, OUTCOMES
from desi_fits_to_parquet.report.style import (
    OUTCOME_STYLE,
    NothingToDraw,
    label_log_axis,
    new_figure,
)

CENTRE_DEG = 120.0
"""Right ascension in the middle of the map: DESI's footprint is then cut the least."""

MARK_SMALL_ABOVE = 300
"""The symbols of more failed tiles than this of one outcome would hide the others."""

PATCHES = 3
"""Parts of the footprint that are drawn large, at most."""

PATCH_DEG = 90.0
"""A part that is larger, in declination or along it, is seen well on the map of the whole sky."""

SHAPE = (1000, 2000)
"""Rows and columns of a map's image: a cell of order 6 is five of them wide."""

_PATCH_PIXELS = 500

_WIDTH, _HEIGHT = 2 * np.sqrt(2.0), np.sqrt(2.0)  # half axes of the map on the unit sphere

_DRAWN: dict[str, Any] = {"edgecolor": "0.1", "linewidth": 0.4, "zorder": 4, "rasterized": True}

Array = npt.NDArray[np.float64]

Painter = Callable[[Array, Array], Array]
"""Gives the value of each place on the sky (right ascension, declination in degree), or NaN."""


class Patch(NamedTuple):
    """A part of the footprint: limits in degree; `west` may be below 0, `east` above 360."""

    name: str
    west: float
    east: float
    south: float
    north: float


def draw_sky_outcomes(tiles: pd.DataFrame) -> Figure:
    """Draw where the tiles lie, coloured by outcome; failed ones on top, with symbols.

    Raises
    ------
    NothingToDraw
        Where there is no tile.
    """
    if tiles.empty:
        raise NothingToDraw("There is no tile")
    ranks = {outcome: rank for rank, outcome in enumerate(OUTCOMES)}  # failures come last
    ranked = tiles.assign(rank=tiles.outcome.map(ranks)).sort_values("rank")
    layers = [(order, part.pixel, part["rank"]) for order, part in _by_order(ranked)]
    colours = ListedColormap([OUTCOME_STYLE[outcome][0] for outcome in OUTCOMES])
    style: dict[str, Any] = {"cmap": colours, "vmin": -0.5, "vmax": len(OUTCOMES) - 0.5}

    def paint(ra: Array, dec: Array) -> Array:
        image = np.full(ra.shape, np.nan)
        for layer in layers:
            image = np.fmax(image, look_up(*layer, ra, dec))
        return image

    image = np.full(SHAPE, np.nan)
    for layer in layers:
        image = np.fmax(image, paint_cells(*layer))
    figure, whole, parts = _new_maps(tiles)
    _show(whole, image, **style)
    handles = []
    for outcome in OUTCOMES:
        part = tiles[tiles.outcome == outcome]
        if part.empty:
            continue
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
        ra, dec = _positions(part)
        if outcome in FAILED_OUTCOMES:
            x, y = mollweide(_from_middle(ra), np.radians(dec))
            size = 4 if len(part) > MARK_SMALL_ABOVE else 9 if parts else 16
            whole.scatter(x, y, s=size, marker=marker, color=colour, **_DRAWN)
        for axes, patch in parts:
            inside = _inside(patch, ra, dec)
            if outcome != "converted" and inside.any():
                axes.scatter(
                    _unwrapped(patch, ra[inside]), dec[inside],
                    s=30, marker=marker, color=colour, **_DRAWN,
                )  # fmt: skip
    for axes, patch in parts:
        _show_patch(axes, patch, paint, **style)
    _finish(whole, image, [patch for _, patch in parts], f"{len(tiles):,} tiles by outcome")
    plane = Line2D([], [], color="0.1", linewidth=1.2, label="Galactic plane")
    figure.legend(handles=[*handles, plane], loc="outside lower center", ncols=4)
    return figure


def draw_sky_spectra(tiles: pd.DataFrame) -> Figure:
    """Draw the density of the converted spectra, added up over surveys and programs.

    Raises
    ------
    NothingToDraw
        Where nothing was converted.
    """
    known = tiles[tiles.n_rows.fillna(0) > 0]
    if known.empty:
        raise NothingToDraw("No tile was converted")
    cells = known.groupby(["order", "pixel"], as_index=False)[["n_rows"]].sum()
    areas = nside_to_pixel_area(2 ** cells.order.to_numpy()).to_value(u.deg**2)
    cells["density"] = cells.n_rows / areas
    layers = [(order, part.pixel, part.density) for order, part in _by_order(cells)]

    def paint(ra: Array, dec: Array) -> Array:
        image = np.zeros(ra.shape)
        for layer in layers:
            image += np.nan_to_num(look_up(*layer, ra, dec))
        return np.where(image > 0, image, np.nan)

    image = np.zeros(SHAPE)
    for layer in layers:
        image += np.nan_to_num(paint_cells(*layer))
    image = np.where(image > 0, image, np.nan)
    low, high = float(np.nanmin(image)), float(np.nanmax(image))
    style: dict[str, Any] = {"cmap": "viridis_r", "norm": LogNorm(low, max(high, 1.01 * low))}
    figure, whole, parts = _new_maps(known)
    shown = _show(whole, image, **style)
    for axes, patch in parts:
        _show_patch(axes, patch, paint, **style)
    bar = figure.colorbar(shown, ax=figure.axes, shrink=0.8, pad=0.02)
    bar.set_label("number of spectra per square degree")
    label_log_axis(bar.ax.yaxis)
    title = f"{int(cells.n_rows.sum()):,} spectra in {len(cells):,} pixels"
    _finish(whole, image, [patch for _, patch in parts], title)
    return figure


def find_patches(tiles: pd.DataFrame) -> list[Patch]:
    """Find those parts of a footprint that are specks on a map of the whole sky.

    Cells of order 3 (7 degrees wide) that touch belong to one part.

    Parameters
    ----------
    tiles
        Columns `order` and `pixel`.

    Returns
    -------
    list of Patch
        At most `PATCHES`, those with the most tiles first; none where all are larger than
        `PATCH_DEG`.
    """
    ra, dec = _positions(tiles)
    coarse = HEALPix(8, order="nested")
    cells = np.asarray(coarse.lonlat_to_healpix(ra * u.deg, dec * u.deg))
    left: set[int] = set(cells.tolist())
    groups: list[npt.NDArray[np.bool_]] = []
    while left:
        reached: set[int] = set()
        border = {left.pop()}
        while border:
            reached |= border
            with np.errstate(invalid="ignore"):  # some cells have seven neighbours
                around = set(np.ravel(coarse.neighbours(sorted(border))).tolist())
            border = around & left
            left -= border
        groups.append(np.isin(cells, sorted(reached)))
    groups.sort(key=lambda group: -int(group.sum()))
    width = float(np.degrees(np.sqrt(4 * np.pi / 12) / 2 ** tiles.order.min()))  # of a cell
    found: list[Patch] = []
    for group in groups:
        first = ra[group][0]
        along = (ra[group] - first + 180) % 360 - 180 + first
        south, north = dec[group].min() - width, dec[group].max() + width
        stretch = np.cos(np.radians(np.clip((south + north) / 2, -80, 80)))
        west, east = along.min() - width / stretch, along.max() + width / stretch
        if max(north - south, (east - west) * stretch) <= PATCH_DEG:
            name = "ABCDEFGH"[len(found)]
            found.append(Patch(name, float(west), float(east), float(south), float(north)))
        if len(found) == PATCHES:
            break
    return found


def look_up(order: int, pixel: npt.ArrayLike, value: npt.ArrayLike, ra: Array, dec: Array) -> Array:
    """Give the values of the HEALPix cells in which places lie; NaN where there is no cell.

    Parameters
    ----------
    order, pixel, value
        As of `paint_cells`.
    ra, dec
        Places in degree, of any shape.
    """
    cells, values = np.asarray(pixel, np.int64), np.asarray(value, float)
    rank = np.argsort(cells, kind="stable")
    cells, values = cells[rank], values[rank]
    found = HEALPix(2**order, order="nested").lonlat_to_healpix(ra * u.deg, dec * u.deg)
    at = np.searchsorted(cells, found, side="right") - 1
    return np.where((at >= 0) & (cells[at] == found), values[at], np.nan)


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
    y, x = ((np.arange(n) + 0.5) / n * 2 - 1 for n in SHAPE)
    lon, lat = inverse_mollweide(_WIDTH * x[None], _HEIGHT * y[:, None])
    inside = np.isfinite(lon)
    image = np.full(SHAPE, np.nan)
    image[inside] = look_up(
        order, pixel, value, _right_ascension(lon[inside]), np.degrees(lat[inside])
    )
    cells, values = np.asarray(pixel, np.int64), np.asarray(value, float)
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


def _right_ascension(lon: Array) -> Array:
    return np.asarray((CENTRE_DEG - np.degrees(lon)) % 360)


def _project(order: int, cells: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """Give the places of the centres of cells on the map."""
    lon, lat = HEALPix(2**order, order="nested").healpix_to_lonlat(cells)
    return mollweide(_from_middle(lon.to_value(u.deg)), lat.to_value(u.rad))


def _by_order(tiles: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    for order in sorted(tiles.order.unique()):
        yield int(order), tiles[tiles.order == order]


def _positions(tiles: pd.DataFrame) -> tuple[Array, Array]:
    """Give right ascension and declination (degree) of the centres of tiles."""
    place = np.full((2, len(tiles)), np.nan)
    for order, part in _by_order(tiles):
        sky = HEALPix(2**order, order="nested")
        lon, lat = sky.healpix_to_lonlat(part.pixel.to_numpy(np.int64))
        place[:, (tiles.order == order).to_numpy()] = lon.to_value(u.deg), lat.to_value(u.deg)
    return place[0], place[1]


def _new_maps(tiles: pd.DataFrame) -> tuple[Figure, Axes, list[tuple[Axes, Patch]]]:
    """Make the axes: the whole sky, and below it those parts that are specks there."""
    patches = find_patches(tiles)
    figure = new_figure(10.5, 7.2 if patches else 5.6)
    if patches:
        grid = figure.add_gridspec(2, len(patches), height_ratios=(1, 1.15))
        whole = figure.add_subplot(grid[0, :])
        parts = [(figure.add_subplot(grid[1, k]), patch) for k, patch in enumerate(patches)]
    else:
        whole, parts = figure.subplots(), []
    whole.set_axis_off()
    whole.set_aspect("equal")
    whole.set_xlim(-_WIDTH * 1.07, _WIDTH * 1.07)
    whole.set_ylim(-_HEIGHT * 1.12, _HEIGHT * 1.05)
    whole.add_patch(Ellipse((0, 0), 2 * _WIDTH, 2 * _HEIGHT, facecolor="none", zorder=5))
    return figure, whole, parts


def _show(axes: Axes, image: Array, **style: Any) -> AxesImage:
    frame = (-_WIDTH, _WIDTH, -_HEIGHT, _HEIGHT)
    return axes.imshow(image, extent=frame, origin="lower", interpolation="none", zorder=2, **style)


def _show_patch(axes: Axes, patch: Patch, paint: Painter, **style: Any) -> None:
    """Draw a part of the sky, right ascension growing to the left."""
    step = max(patch.east - patch.west, patch.north - patch.south) / _PATCH_PIXELS
    ra = np.arange(patch.east - step / 2, patch.west, -step)
    dec = np.arange(patch.south + step / 2, patch.north, step)
    image = paint(*np.broadcast_arrays(ra[None] % 360, dec[:, None]))
    limits = (patch.east, patch.west, patch.south, patch.north)
    axes.imshow(
        image, extent=limits, origin="lower", interpolation="none", zorder=2,
        aspect=1 / np.cos(np.radians(np.clip((patch.south + patch.north) / 2, -80, 80))), **style,
    )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x % 360:g}°")
    axes.yaxis.set_major_formatter("{x:g}°")
    axes.set_xlabel("right ascension (degree)")
    axes.set_ylabel("declination (degree)")
    axes.set_title(patch.name)


def _unwrapped(patch: Patch, ra: Array) -> Array:
    """Give right ascensions as they are counted in a part of the sky."""
    return np.asarray((ra - patch.west) % 360 + patch.west)


def _inside(patch: Patch, ra: Array, dec: Array) -> npt.NDArray[np.bool_]:
    within = (_unwrapped(patch, ra) <= patch.east) & (dec >= patch.south) & (dec <= patch.north)
    return np.asarray(within)


def _finish(axes: Axes, image: Array, patches: Sequence[Patch], title: str) -> None:
    """Draw what a map of the whole sky has beside its cells; no label covers one of these."""
    for dec in range(-60, 90, 30):
        x, y = mollweide(np.array([-np.pi, np.pi]), np.radians([dec, dec]))
        axes.plot(x, y, color="0.85", linewidth=0.6, zorder=1)
        axes.text(x[0] * 1.02, y[0], f"{dec}°", ha="right", va="center", fontsize=8, color="0.3")
    free = _free_parallel(image)
    where = (
        f"along the parallel of {free}°" if free is not None else f"{CENTRE_DEG:g}° in the middle"
    )
    for step in range(-150, 180, 30):
        x, y = mollweide(np.full(91, np.radians(step)), np.linspace(-np.pi / 2, np.pi / 2, 91))
        axes.plot(x, y, color="0.85", linewidth=0.6, zorder=1)
        if free is None:
            continue
        x, y = mollweide(np.radians([step]), np.radians([free]))
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        axes.text(
            x[0], y[0], f"{(CENTRE_DEG - step) % 360:.0f}°",
            ha="center", va="center", fontsize=8, color="0.3", zorder=3.5, bbox=paper,
        )  # fmt: skip
    axes.text(
        0, -_HEIGHT * 1.03,
        f"right ascension {where}, declination at the edge (degree, ICRS)",
        ha="center", va="top", fontsize=9,
    )  # fmt: skip
    plane = SkyCoord(l=np.linspace(0, 360, 721) * u.deg, b=0 * u.deg, frame="galactic").icrs
    lon = _from_middle(plane.ra.deg)
    lon[np.append(np.abs(np.diff(lon)) > np.pi, False)] = np.nan  # the map's two edges stay apart
    x, y = mollweide(lon, plane.dec.rad)
    axes.plot(x, y, color="0.1", linewidth=1.2, zorder=3)
    for patch in patches:
        middle = np.array([(patch.west + patch.east) / 2])
        x, y = mollweide(_from_middle(middle), np.radians([patch.north]))
        axes.annotate(
            patch.name, (x[0], y[0]), xytext=(0, 4), textcoords="offset points",
            ha="center", va="bottom", fontsize=10, fontweight="bold", zorder=6,
        )  # fmt: skip
    axes.set_title(title)


def _free_parallel(image: Array) -> int | None:
    """Choose a declination along which labels cover no cell of a map's image, if there is one."""
    y = ((np.arange(SHAPE[0]) + 0.5) / SHAPE[0] * 2 - 1) * _HEIGHT
    painted = np.asarray(np.isfinite(image)).any(axis=1)
    for dec in (0, -30, -60, 30, 60):
        at = mollweide(np.zeros(1), np.radians([dec]))[1][0]
        if not (painted & (np.abs(y - at) < 0.08 * _HEIGHT)).any():
            return dec
    return None
