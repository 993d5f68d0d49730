"""Figures of what was converted: redshifts, brightness, classes, and a gallery of spectra."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from numpy.lib.stride_tricks import sliding_window_view

from desi_fits_to_parquet.lines import LINES
from desi_fits_to_parquet.report.sample import (
    LOG_GRID,
    LOG_STEP,
    Z_LIMITS,
    Array,
    Sample,
    choose_gallery,
    read_spectrum,
)
from desi_fits_to_parquet.report.style import (
    BLUE,
    GREY,
    ORANGE,
    SKY,
    NothingToDraw,
    histogram_edges,
    label_log_axis,
    new_figure,
    say_nothing_to_show,
)
from desi_fits_to_parquet.units import percent_text

SPECTYPES = {"QSO": (BLUE, "", "o"), "GALAXY": (ORANGE, "//", "s"), "STAR": (SKY, "..", "^")}
"""Colour, hatch and marker of each class."""

MOST_POINTS = 5000
"""Of more spectra the density is drawn."""

FEWEST_STACKED = 5

N_GALLERY = 12

PER_PAGE = 4

NO_SPECTRA = "No tile was converted"

MAGNITUDES = (0.0, 40.0)

SNR_LIMITS = (-10.0, 1e4)
"""The axes of magnitudes and of signal to noise reach no further, whatever a broken file holds."""

_SMOOTHING = 9  # pixels of 0.8 Angstrom

_STEADY = 31


def draw_redshifts(sample: Sample) -> Figure:
    """Draw the redshift distribution by class."""
    rows = sample.rows[sample.rows.z.between(*Z_LIMITS)]
    left_out = len(sample.rows) - len(rows)
    if rows.empty:
        raise NothingToDraw(NO_SPECTRA)
    figure = new_figure(10.5, 3.8)
    axes = figure.subplots()
    edges = histogram_edges(rows.z, most=100)
    classes = {str(name): group.z for name, group in rows.groupby("spectype")}
    axes.hist(
        list(classes.values()),
        bins=edges,
        stacked=True,
        color=[_style(name)[0] for name in classes],
        hatch=[_style(name)[1] for name in classes],
        label=[f"{name} ({len(z):,}), median z {z.median():z.2f}" for name, z in classes.items()],
    )
    axes.set_xlabel("redshift z")
    axes.set_ylabel("number of spectra")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper right")
    low, high = Z_LIMITS
    beyond = f"; {left_out:,} not drawn: z is not from {low:g} to {high:g}" if left_out else ""
    axes.set_title(_sample_title(sample) + beyond)
    return figure


def draw_redshift_magnitude(sample: Sample) -> Figure:
    """Draw redshift against r magnitude: a point a spectrum, or their density where they are many.

    Raises
    ------
    NothingToDraw
        Where no spectrum has both.
    """
    r = magnitude(sample.rows.flux_r)
    rows = sample.rows.assign(r=r)
    rows = rows[rows.z.between(*Z_LIMITS) & rows.r.between(*MAGNITUDES)]
    if rows.empty:
        raise NothingToDraw(
            NO_SPECTRA if sample.rows.empty else "No spectrum has flux_r, which tells the magnitude"
        )
    figure = new_figure(10.5, 4.6)
    axes = figure.subplots()
    if len(rows) > MOST_POINTS:
        shown = axes.hist2d(
            rows.z, rows.r, bins=(120, 80), cmap="viridis_r", norm=LogNorm(), rasterized=True
        )[3]
        bar = figure.colorbar(shown, ax=axes, pad=0.02)
        bar.set_label("number of spectra (logarithmic)")
        label_log_axis(bar.ax.yaxis)
    else:
        for spectype, part in rows.groupby("spectype"):
            colour, _, marker = _style(str(spectype))
            axes.scatter(
                part.z,
                part.r,
                s=18,
                marker=marker,
                color=colour,
                edgecolor="0.1",
                linewidth=0.3,
                alpha=0.8,
                label=f"{spectype} ({len(part):,})",
                rasterized=len(rows) > 500,
            )
        axes.legend(loc="best")
    axes.invert_yaxis()
    axes.set_xlabel("redshift z")
    axes.set_ylabel("r (AB mag, bright ones at the top)")
    axes.set_title(f"{len(rows):,} spectra with a magnitude in r")
    return figure


def draw_composite(sample: Sample) -> Figure:
    """Draw the composite spectrum of the class that is most frequent, in its rest frame.

    Raises
    ------
    NothingToDraw
        Where fewer than `FEWEST_STACKED` spectra of one class can be put together.
    """
    ready = sample.measured[
        sample.measured.binned.notna()
        & (sample.measured.snr > 0)
        & sample.measured.z.between(-0.1, Z_LIMITS[1])
    ]
    if ready.empty:
        raise NothingToDraw(NO_SPECTRA)
    spectype = str(ready.spectype.value_counts().index[0])
    rows = ready[ready.spectype == spectype]
    if len(rows) < FEWEST_STACKED:
        raise NothingToDraw(
            f"Fewer than {FEWEST_STACKED} spectra of one class were read: too few to put together"
        )
    stack = stack_spectra(rows.z.to_numpy(float), list(rows.binned))
    figure = new_figure(8, 4.4)
    axes = figure.subplots()
    colour, _, _ = _style(spectype)
    axes.fill_between(
        stack.wavelength, stack.low, stack.high, color="0.85", linewidth=0,
        label="middle 68 % of the spectra",
    )  # fmt: skip
    axes.plot(stack.wavelength, stack.flux, color=colour, linewidth=1, label="median")
    # room for the names of the lines; a single bad bin at an end does not set the range
    top = min(float(stack.flux.max()), 8 * float(np.quantile(stack.flux, 0.98)))
    axes.set_ylim(min(0.0, float(np.quantile(stack.flux, 0.002))), 1.2 * top)
    left, right = float(stack.wavelength[0]), float(stack.wavelength[-1])
    axes.set_xlim(left, right)
    _mark_lines(axes, spectype, 0.0, left, right)
    axes.set_xlabel("wavelength in the rest frame, vacuum (Å)")
    axes.set_ylabel("flux density (number, 1 is its mean)")
    figure.legend(loc="outside lower center", ncols=2)
    axes.grid(visible=False)
    axes.set_title(f"{len(rows):,} spectra of class {spectype}")
    return figure


class Stack(NamedTuple):
    """A composite spectrum: Angstrom in the rest frame; median and limits of the middle 68 %."""

    wavelength: Array
    flux: Array
    low: Array
    high: Array


def stack_spectra(z: Array, binned: Sequence[Array]) -> Stack:
    """Put spectra of various redshifts together into their median.

    From the lowest redshift on, each is divided by the factor that makes its mean that of the ones
    before it where they overlap (as Vanden Berk et al. 2001, AJ 122, 549, section 3): no wavelength
    need be covered by all.

    Parameters
    ----------
    z
        Redshifts, shape (n,), n > 0.
    binned
        The flux of each on `sample.log_grid`, NaN where it has none.

    Returns
    -------
    Stack
        Where at least a tenth of the spectra, and three, have flux.
    """
    shift = np.rint(np.log10(1 + z) / LOG_STEP).astype(int)
    n_bins = len(binned[0])
    first = shift.max()
    plane = np.full((len(z), n_bins + int(first - shift.min())), np.nan)
    for row, (moved, flux) in enumerate(zip(shift, binned, strict=True)):
        plane[row, first - moved : first - moved + n_bins] = flux
    total, count = np.zeros(plane.shape[1]), np.zeros(plane.shape[1])
    for row in np.argsort(z, kind="stable"):
        flux = plane[row]
        common = np.isfinite(flux) & (count > 0)
        mean = flux[common].sum() if common.any() else np.nansum(flux)
        before = (total[common] / count[common]).sum() if common.any() else np.isfinite(flux).sum()
        scale = before / mean if mean > 0 and before > 0 else np.nan
        plane[row] *= scale
        known = np.isfinite(plane[row])
        total[known] += plane[row][known]
        count[known] += 1
    used = count >= max(3, len(z) / 10)
    wavelength = 10 ** (LOG_GRID[0] + LOG_STEP * (np.arange(plane.shape[1]) - first))
    low, flux, high = np.nanquantile(plane[:, used], (0.16, 0.5, 0.84), axis=0)
    norm = float(np.mean(flux)) or 1.0
    return Stack(wavelength[used], flux / norm, low / norm, high / norm)


def draw_brightness(sample: Sample) -> Figure:
    """Draw the r magnitudes, and the signal to noise against them."""
    if sample.rows.empty:
        raise NothingToDraw(NO_SPECTRA)
    figure = new_figure(10.5, 3.8)
    magnitudes, noise = figure.subplots(1, 2)
    r = magnitude(sample.rows.flux_r)
    r = r[r.between(*MAGNITUDES)]
    if r.empty:
        say_nothing_to_show(magnitudes, "the column flux_r was not converted")
    else:
        magnitudes.hist(r, bins=histogram_edges(r), color=BLUE)
        magnitudes.axvline(
            r.median(), color="0.1", linestyle="--", label=f"median {r.median():.2f}"
        )
        magnitudes.set_xlabel("r (AB mag, not corrected for extinction)")
        magnitudes.set_ylabel("number of spectra")
        magnitudes.yaxis.set_major_locator(MaxNLocator(integer=True))
        magnitudes.legend(loc="upper left")
        magnitudes.set_title(_sample_title(sample))
    snr = sample.measured[sample.measured.snr.notna()]
    if snr.empty:
        say_nothing_to_show(noise, "no spectrum has a good pixel")
        return figure
    has_r = magnitude(snr.flux_r)
    has_r = has_r.where(has_r.between(*MAGNITUDES))
    for spectype, rows in snr.groupby("spectype"):
        colour, _, marker = _style(str(spectype))
        noise.scatter(
            has_r[rows.index],
            rows.snr,
            s=14,
            marker=marker,
            color=colour,
            edgecolor="0.1",
            linewidth=0.3,
            alpha=0.7,
            label=f"{spectype} ({len(rows):,})",
            rasterized=True,
        )
    # linear near 0: dead fibres have no signal, or less than none
    noise.set_yscale("symlog", linthresh=1, linscale=0.25)
    noise.set_yticks([-1, 0, 1, 2, 5, 10, 20, 50, 100], minor=False)
    low, high = np.clip((min(0, snr.snr.min()), max(2, 1.2 * snr.snr.max())), *SNR_LIMITS)
    noise.set_ylim(low, high)
    noise.yaxis.set_major_formatter("{x:g}")
    noise.yaxis.set_minor_formatter(NullFormatter())
    noise.set_xlabel("r (AB mag)")
    noise.set_ylabel("median flux / sigma of a pixel")
    noise.legend(loc="upper right")
    noise.set_title(f"{snr.tile.nunique():,} tiles, median {snr.snr.median():.2f}")
    return figure


def draw_spectypes(sample: Sample) -> Figure:
    """Draw the number of spectra of each class."""
    counts = sample.rows.spectype.value_counts()
    if len(counts) < 2:
        whole = f"{len(sample.rows):,} spectra of {_files(sample)} are of class"
        raise NothingToDraw(f"All {whole} {counts.index[0]}" if len(counts) else NO_SPECTRA)
    figure = new_figure(10.5, 1.2 + 0.4 * len(counts))
    axes = figure.subplots()
    for position, (spectype, count) in enumerate(counts.items()):
        colour, hatch, _ = _style(str(spectype))
        axes.barh(position, count, color=colour, hatch=hatch)
        axes.annotate(
            f"{count:,} ({percent_text(100 * count / counts.sum())})",
            (count, position),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(counts)), [str(name) for name in counts.index])
    axes.set_ylim(len(counts) - 0.4, -0.6)
    axes.set_xlim(0, 1.2 * counts.max())
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("number of spectra")
    axes.grid(visible=False, axis="y")
    axes.set_title(_sample_title(sample))
    return figure


def draw_gallery(sample: Sample, page: int) -> Figure:
    """Draw a page of a dozen spectra that span the redshifts, with the lines of their class.

    Parameters
    ----------
    sample
        What was read of the Parquet files.
    page
        From 1 to `N_GALLERY / PER_PAGE`.

    Raises
    ------
    NothingToDraw
        Where there are not so many spectra.
    """
    chosen = choose_gallery(sample.measured, N_GALLERY)
    shown = chosen.iloc[(page - 1) * PER_PAGE : page * PER_PAGE]
    if shown.empty:
        raise NothingToDraw("There are no more spectra" if page > 1 else NO_SPECTRA)
    n_lines = (len(shown) + 1) // 2
    figure = new_figure(11.5, 0.6 + 2.7 * n_lines)
    panels = list(figure.subplots(n_lines, 2, sharex=True, squeeze=False).flat)
    for axes, (_, row) in zip(panels, shown.iterrows(), strict=False):
        _draw_spectrum(axes, row)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    figure.supxlabel("observed wavelength in vacuum (Å)", fontsize=10)
    figure.supylabel("flux density (10$^{-17}$ erg s$^{-1}$ cm$^{-2}$ Å$^{-1}$)", fontsize=10)
    return figure


def _draw_spectrum(axes: Axes, row: "pd.Series[Any]") -> None:
    z, spectype = float(row["z"]), str(row["spectype"])
    spectra = read_spectrum(row["path"], row["row_group"], row["row"])
    middle = []
    for wavelength, flux, sigma in spectra:
        good = np.isfinite(sigma)
        axes.plot(
            wavelength, np.where(good, flux, np.nan), color="0.78", linewidth=0.4, rasterized=True
        )
        weight = np.where(good, 1 / sigma**2, 0.0)
        box = np.ones(_SMOOTHING)
        total = np.convolve(weight, box, "same")
        with np.errstate(invalid="ignore"):
            mean = np.convolve(np.where(good, weight * flux, 0.0), box, "same") / total
        axes.plot(wavelength, mean, color=BLUE, linewidth=0.9)
        axes.plot(wavelength, sigma, color="0.45", linewidth=0.4, linestyle=":", rasterized=True)
        middle.append(np.median(sliding_window_view(mean[np.isfinite(mean)], _STEADY), axis=1))
    # the range is that of the running median, which single bad pixels do not move
    low, high = (f(np.concatenate(middle)) for f in (np.min, np.max))
    axes.set_ylim(min(low, 0) - 0.1 * (high - low), high + 0.45 * (high - low))
    left = min(spectrum.wavelength[0] for spectrum in spectra)
    right = max(spectrum.wavelength[-1] for spectrum in spectra)
    axes.set_xlim(left, right)
    _mark_lines(axes, spectype, z, left, right)
    axes.grid(visible=False)
    axes.set_title(f"{spectype} z = {z:.4f}, TARGETID {row['targetid']}, {row['tile']}", fontsize=8)


def _mark_lines(axes: Axes, spectype: str, z: float, left: float, right: float) -> None:
    """Mark where the lines of a class lie at a redshift, between two wavelengths in Angstrom."""
    for name, rest in LINES.get(spectype, {}).items():
        observed = rest * (1 + z)
        if left + 0.01 * (right - left) < observed < right - 0.01 * (right - left):
            axes.axvline(observed, color="0.1", linewidth=0.6, linestyle="--")
            axes.annotate(
                name,
                (observed, 0.985),
                xycoords=("data", "axes fraction"),
                xytext=(-1, 0),
                textcoords="offset points",
                rotation=90,
                ha="right",
                va="top",
                fontsize=7,
            )


def _style(spectype: str) -> tuple[str, str, str]:
    return SPECTYPES.get(spectype, (GREY, "xx", "D"))


def magnitude(flux: "pd.Series[float]") -> "pd.Series[float]":
    """Turn flux in nanomaggy into AB magnitudes; NaN where the flux is not positive."""
    positive = flux.astype(float).where(lambda value: value > 0)
    return positive.map(lambda value: 22.5 - 2.5 * np.log10(value))


def _sample_title(sample: Sample) -> str:
    return f"{len(sample.rows):,} spectra of {_files(sample)}"


def _files(sample: Sample) -> str:
    if sample.n_files == sample.n_converted:
        return f"all {sample.n_files:,} converted tiles"
    return f"{sample.n_files:,} of {sample.n_converted:,} converted tiles"
