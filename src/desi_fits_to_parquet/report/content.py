"""Figures of what was converted: redshifts, brightness, classes, and a gallery of spectra."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from numpy.lib.stride_tricks import sliding_window_view

from desi_fits_to_parquet.lines import LINES
from desi_fits_to_parquet.report.sample import Z_LIMITS, Sample, choose_gallery, read_spectrum
from desi_fits_to_parquet.report.style import (
    BLUE,
    GREY,
    ORANGE,
    SKY,
    NothingToDraw,
    new_figure,
    say_nothing_to_show,
)

SPECTYPES = {"QSO": (BLUE, "", "o"), "GALAXY": (ORANGE, "//", "s"), "STAR": (SKY, "..", "^")}
"""Colour, hatch and marker of each class."""

N_GALLERY = 12

PER_PAGE = 4

NO_SPECTRA = "No tile was converted"

MAGNITUDES = (0.0, 40.0)

SNR_LIMITS = (-10.0, 1e4)
"""The axes of magnitudes and of signal to noise reach no further, whatever a broken file holds."""

_SMOOTHING = 9  # pixels of 0.8 Angstrom

_STEADY = 31


def draw_redshifts(sample: Sample) -> Figure:
    """Draw the redshift distribution by class, with the wavelength that Lyman alpha has there."""
    figure = new_figure(10.5, 3.8)
    axes = figure.subplots()
    rows = sample.rows[sample.rows.z.between(*Z_LIMITS)]
    left_out = len(sample.rows) - len(rows)
    if rows.empty:
        say_nothing_to_show(axes)
        return figure
    edges = np.histogram_bin_edges(
        rows.z.to_numpy(float), bins=int(np.clip(np.sqrt(len(rows)), 20, 100))
    )
    classes = {str(name): group.z for name, group in rows.groupby("spectype")}
    axes.hist(
        list(classes.values()),
        bins=list(edges),
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


def draw_brightness(sample: Sample) -> Figure:
    """Draw the r magnitudes, and the signal to noise against them."""
    figure = new_figure(10.5, 3.8)
    magnitudes, noise = figure.subplots(1, 2)
    r = magnitude(sample.rows.flux_r)
    r = r[r.between(*MAGNITUDES)]
    if r.empty:
        say_nothing_to_show(magnitudes, "no converted tile, or the column flux_r is not converted")
    else:
        magnitudes.hist(r, bins=40, color=BLUE)
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
        say_nothing_to_show(noise)
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
    figure = new_figure(10.5, 2.4)
    axes = figure.subplots()
    counts = sample.rows.spectype.value_counts()
    if counts.empty:
        say_nothing_to_show(axes)
        return figure
    for position, (spectype, count) in enumerate(counts.items()):
        colour, hatch, _ = _style(str(spectype))
        axes.barh(position, count, color=colour, hatch=hatch)
        axes.annotate(
            f"{count:,} ({100 * count / counts.sum():.2f} %)",
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
    for name, rest in LINES.get(spectype, {}).items():
        observed = rest * (1 + z)
        if left + 40 < observed < right - 40:
            axes.axvline(observed, color="0.1", linewidth=0.6, linestyle="--")
            axes.annotate(
                name,
                (observed, 0.985),
                xycoords=("data", "axes fraction"),
                rotation=90,
                ha="right",
                va="top",
                fontsize=7,
            )
    axes.grid(visible=False)
    axes.set_title(f"{spectype} z = {z:.4f}, TARGETID {row['targetid']}, {row['tile']}", fontsize=8)


def _style(spectype: str) -> tuple[str, str, str]:
    return SPECTYPES.get(spectype, (GREY, "xx", "D"))


def magnitude(flux: "pd.Series[float]") -> "pd.Series[float]":
    """Turn flux in nanomaggy into AB magnitudes; NaN where the flux is not positive."""
    positive = flux.astype(float).where(lambda value: value > 0)
    return positive.map(lambda value: 22.5 - 2.5 * np.log10(value))


def _sample_title(sample: Sample) -> str:
    files = f"{sample.n_files:,} of {sample.n_converted:,} converted tiles"
    if sample.n_files == sample.n_converted:
        files = f"all {sample.n_files:,} converted tiles"
    return f"{len(sample.rows):,} spectra of {files}"
