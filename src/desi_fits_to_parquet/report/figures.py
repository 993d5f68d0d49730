"""Figures of the report that need only the tiles' table and the summary."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from desi_fits_to_parquet.outcomes import OUTCOMES
from desi_fits_to_parquet.record.precision import bound
from desi_fits_to_parquet.report.style import (
    BLUE,
    GREY,
    ORANGE,
    OUTCOME_STYLE,
    SKY,
    NothingToDraw,
    histogram_edges,
    label_log_axis,
    new_figure,
    say_nothing_to_show,
)
from desi_fits_to_parquet.settings import PrecisionSettings
from desi_fits_to_parquet.units import byte_unit, percent_text, size_text

CAUSES = {
    "rows_selected": "rows not selected",
    "hdus_read": "HDUs not read",
    "wavelength_range": "wavelength range",
    "rounding": "rounding",
    "encoding": "encoding",
}
"""The steps of a marker's `bytes_causes`, and what they leave out."""

STAGES = (("download", "-", BLUE), ("fuse", "--", ORANGE), ("validate", ":", "0.1"))


def draw_reduction(tiles: pd.DataFrame, summary: dict[str, Any]) -> Figure:
    """Draw the total bytes at each stage, and the reduction over tiles and against targets."""
    figure = new_figure(10.5, 6.4)
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 1.9))

    totals = figure.add_subplot(grid[0, :])
    labels = ("in the archive", "fetched", "written as Parquet")
    sizes = [summary[name] for name in ("bytes_archive", "bytes_fetched", "bytes_parquet")]
    styles = ((GREY, ""), (SKY, "//"), (BLUE, ""))
    largest = max(*sizes, 1)
    for position, (size, (colour, hatch)) in enumerate(zip(sizes, styles, strict=True)):
        totals.barh(position, size / largest, color=colour, hatch=hatch)
        share = f" ({percent_text(100 * size / sizes[0])})" if position and sizes[0] else ""
        totals.annotate(
            f"{size_text(size)}{share}",
            (size / largest, position),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
    totals.set_yticks(range(3), labels)
    totals.invert_yaxis()
    totals.set_xlim(0, 1.22)
    totals.set_xticks(np.linspace(0, 1, 5), [f"{100 * x:.0f}" for x in np.linspace(0, 1, 5)])
    totals.set_xlabel("bytes of all tiles, failed ones included (% of the largest)")
    totals.set_title(_reduction_title(summary))

    written = tiles[(tiles.bytes_parquet > 0) & (tiles.bytes_archive > 0)]
    distribution = figure.add_subplot(grid[1, 0])
    against = figure.add_subplot(grid[1, 1])
    if written.empty:
        say_nothing_to_show(distribution)
        say_nothing_to_show(against)
        return figure

    converted = written[written.outcome == "converted"]
    shown = written if converted.empty else converted
    percent = 100 * (1 - shown.bytes_parquet / shown.bytes_archive)
    distribution.hist(percent, bins=histogram_edges(percent, most=50), color=BLUE)
    median = float(percent.median())
    distribution.axvline(
        median, color="0.1", linestyle="--", label=f"median {percent_text(median)}"
    )
    distribution.set_xlabel("reduction of a tile, 1 - Parquet / archive (%)")
    distribution.set_ylabel("number of tiles")
    distribution.yaxis.set_major_locator(MaxNLocator(integer=True))
    distribution.set_ylim(0, 1.35 * distribution.dataLim.ymax)  # room for the legend
    distribution.legend(loc="upper left")
    kind = "tiles without selected targets" if converted.empty else "converted tiles"
    distribution.set_title(f"{len(shown):,} {kind}")

    known = written[written.n_targets.notna()]
    for outcome in ("converted", "no_targets"):
        part = known[known.outcome == outcome]
        colour, _, marker = OUTCOME_STYLE[outcome]
        against.scatter(
            part.n_targets,
            part.bytes_archive / part.bytes_parquet,
            s=14,
            marker=marker,
            facecolor=colour,
            edgecolor="0.1",
            linewidth=0.3,
            alpha=0.6,
            label=outcome,
            rasterized=True,
        )
    if known.empty:
        say_nothing_to_show(against, "the number of targets is not known for any tile")
        return figure
    against.set_yscale("log")
    label_log_axis(against.yaxis)
    against.set_xlabel("targets of the tile (number of redrock rows)")
    against.set_ylabel("archive bytes / Parquet bytes")
    against.legend(loc="best")
    against.set_title("Reduction factor against number of targets")
    return figure


def _reduction_title(summary: dict[str, Any]) -> str:
    percent = summary["reduction_percent"]
    saved = "nothing in the archive" if percent is None else f"{percent_text(percent)} saved"
    failed = summary["failed"]
    lost = f"; {failed:,} failed tiles hold {size_text(summary['bytes_archive_failed'])}"
    return f"{summary['tiles']:,} tiles, {saved}{lost if failed else ''}"


def draw_outcomes(tiles: pd.DataFrame, summary: dict[str, Any]) -> Figure:
    """Draw the number of tiles, and of bytes in the archive, by outcome."""
    figure = new_figure(10.5, 3.4)
    counted, weighed = figure.subplots(1, 2, sharey=True)
    sizes = tiles.groupby("outcome").bytes_archive.sum()
    n_tiles = max(summary["tiles"], 1)
    scale, unit = byte_unit(sizes.max() if len(sizes) else 0)
    for position, outcome in enumerate(OUTCOMES):
        colour, hatch, _ = OUTCOME_STYLE[outcome]
        count = summary["outcomes"][outcome]
        size = int(sizes.get(outcome, 0))
        for axes, value, text in (
            (counted, count, f"{count:,} ({percent_text(100 * count / n_tiles)})"),
            (weighed, size / scale, size_text(size)),
        ):
            axes.barh(position, value, color=colour, hatch=hatch)
            axes.annotate(
                text, (value, position), xytext=(4, 0), textcoords="offset points", va="center"
            )
    counted.set_yticks(range(len(OUTCOMES)), list(OUTCOMES))
    counted.invert_yaxis()
    counted.set_xlabel("number of tiles")
    counted.set_title(f"{summary['tiles']:,} tiles, {summary['failed']:,} failed")
    weighed.set_xlabel(f"size in the archive ({unit})")
    weighed.set_title("What these tiles hold in the archive")
    for axes in (counted, weighed):
        axes.set_xlim(0, (axes.dataLim.xmax or 1) * 1.45)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.grid(visible=False, axis="y")
    return figure


def draw_waterfall(summary: dict[str, Any]) -> Figure:
    """Draw how the bytes in the archive become the bytes of the Parquet, cause by cause."""
    steps = waterfall_steps(summary["bytes_causes"])
    if not steps or not all(step.after for step in steps):
        raise NothingToDraw("No converted tile states the causes of its reduction")
    figure = new_figure(10.5, 4.2)
    axes = figure.subplots()
    scale, unit = byte_unit(steps[0].after)
    floor = min(step.after for step in steps) / 2 / scale
    # the axis is logarithmic: what a cause saves of the rest stays visible, however little is left
    for position, (_, before, after) in enumerate(steps):
        total = before == after
        low, high = floor if total else min(before, after) / scale, max(before, after) / scale
        colour, hatch = (SKY, "//") if after < before else (ORANGE, "xx")
        if total:
            colour, hatch = (GREY if position == 0 else BLUE), ""
            text = size_text(after)
        else:
            sign = "-" if after < before else "+"
            share = 100 * (1 - after / before)
            text = f"{sign}{size_text(abs(before - after))}\n({share:.1f} % of the rest)"
            axes.plot(
                [position - 0.65, position - 0.35], [before / scale] * 2, color="0.1", linewidth=0.8
            )
        axes.bar(position, high - low, bottom=low, color=colour, hatch=hatch, width=0.7)
        axes.annotate(
            text,
            (position, high),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=9,
        )
    axes.set_yscale("log")
    axes.set_ylim(floor, steps[0].after * 4 / scale)
    label_log_axis(axes.yaxis)
    axes.set_ylabel(f"bytes of these tiles ({unit}, logarithmic)")
    axes.set_xticks(range(len(steps)), [step.label for step in steps])
    axes.grid(visible=False, axis="x")
    axes.set_title(f"{summary['tiles_with_causes']:,} tiles with a Parquet file")
    return figure


class Step(NamedTuple):
    """A step of the waterfall; equal bytes before and after stand for a total."""

    label: str
    before: int
    after: int


def waterfall_steps(left: Mapping[str, int]) -> list[Step]:
    """Turn the bytes left after each step, beginning with `archive`, into the waterfall's steps.

    A cause that changed nothing is left out: rounding, where nothing is rounded.
    """
    if not left:
        return []
    sizes = list(left.values())
    steps = [
        Step(CAUSES.get(name, name), before, after)
        for name, before, after in zip(list(left)[1:], sizes, sizes[1:], strict=False)
        if before != after
    ]
    return [
        Step("in the archive", sizes[0], sizes[0]),
        *steps,
        Step("Parquet", sizes[-1], sizes[-1]),
    ]


def draw_speed(tiles: pd.DataFrame) -> Figure:
    """Draw MB/s, tiles an hour, and retries and refusals, over the time of the run."""
    done = tiles[tiles.finished.notna()]
    if done.empty:
        raise NothingToDraw("No tile was finished")
    again = bool((done.retries + done.throttled).any())
    figure = new_figure(10.5, 7 if again else 4.9)
    upper, middle, *rest = figure.subplots(3 if again else 2, 1, sharex=True)
    seconds = done.seconds_download + done.seconds_fuse + done.seconds_validate
    start = float((done.finished - seconds).min())
    elapsed = done.finished - start
    span = max(float(elapsed.max()), 1.0)
    unit, unit_seconds = _time_unit(span)
    n_bins = int(np.clip(2 * np.sqrt(len(done)), 10, 96))
    edges = np.linspace(0, span, n_bins + 1)
    width = edges[1]

    def draw(axes: Axes, column: "pd.Series[Any]", label: str, **style: Any) -> float:
        rate = np.histogram(elapsed, edges, weights=column.to_numpy(float))[0] / width
        axes.stairs(rate, edges / unit_seconds, label=label, **style)
        return float(column.sum() / span)

    mean = draw(upper, done.bytes_fetched / 1e6, "fetched", color=BLUE, fill=True, alpha=0.75)
    upper.axhline(mean, color="0.1", linestyle="--", label=f"mean of the run, {mean:,.1f} MB/s")
    upper.set_ylabel("fetched (MB/s)")
    one = pd.Series(3600.0, index=done.index)
    mean = draw(middle, one, "finished", color=SKY, fill=True)
    middle.axhline(mean, color="0.1", linestyle="--", label=f"mean of the run, {mean:,.0f} an hour")
    middle.set_ylabel("finished tiles (1/hour)")
    for lower in rest:
        for name, linestyle, colour, words in (
            ("retries", "-", BLUE, "requests sent again"),
            ("throttled", ":", "0.1", "answers 429 or 503"),
        ):
            column = done[name].astype(float)
            draw(
                lower,
                column * 3600,
                f"{words} ({column.sum():,.0f})",
                color=colour,
                linestyle=linestyle,
                linewidth=1.4,
            )
        lower.set_ylabel("retries (1/hour)")
    figure.axes[-1].set_xlabel(f"time since the first tile began ({unit})")
    for axes in (upper, middle, *rest):
        axes.set_ylim(0, 1.3 * (axes.dataLim.ymax or 1))
        axes.legend(loc="upper right", ncols=2)
        axes.yaxis.set_major_formatter("{x:,g}")
    figure.align_ylabels()
    upper.set_title(
        f"{len(done):,} tiles; each counts at the time when it was finished"
        f" (bins of {width:,.0f} s){'' if again else '; no request was refused or sent again'}"
    )
    return figure


def draw_stages(tiles: pd.DataFrame) -> Figure:
    """Draw how long a tile takes in each stage, and where the time of all tiles went."""
    seconds = {stage: tiles[f"seconds_{stage}"].to_numpy(float) for stage, _, _ in STAGES}
    positive = np.concatenate([values[values > 0] for values in seconds.values()])
    if not positive.size:
        raise NothingToDraw("No tile took any time")
    figure = new_figure(10.5, 3.8)
    distribution, totals = figure.subplots(1, 2, width_ratios=(1.6, 1))
    unit, unit_seconds = _time_unit(float(positive.sum()))
    for position, (stage, linestyle, colour) in enumerate(STAGES):
        values = seconds[stage]
        taken = np.sort(values[values > 0])
        if taken.size:
            # of 30,000 tiles a thousand points are enough, the first and the last among them
            shown = np.unique(np.linspace(0, taken.size - 1, 1000).round().astype(int))
            distribution.plot(
                taken[shown],
                100 * (shown + 1) / taken.size,
                color=colour,
                linestyle=linestyle,
                linewidth=1.8,
                drawstyle="steps-post",
                label=f"{stage}: median {np.median(taken):.2g} s, "
                f"95 % below {np.quantile(taken, 0.95):.2g} s",
            )
        taken_all = float(values.sum()) / unit_seconds
        totals.barh(position, taken_all, color=colour, hatch=("", "//", "..")[position])
        totals.annotate(
            f"{taken_all:,.1f} {unit} ({100 * values.sum() / positive.sum():.0f} %)",
            (taken_all, position),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
    distribution.set_xscale("log")
    label_log_axis(distribution.xaxis)
    distribution.set_xlabel("time in the stage (s, logarithmic)")
    distribution.set_ylabel("tiles that took no longer (%)")
    distribution.set_ylim(0, 150)  # room for the legend
    distribution.set_yticks(range(0, 101, 25))
    distribution.legend(loc="upper left")
    totals.set_yticks(range(len(STAGES)), [stage for stage, _, _ in STAGES])
    totals.invert_yaxis()
    totals.set_xlim(0, 1.6 * totals.dataLim.xmax)
    totals.set_xlabel(f"wall time, summed over tiles ({unit})")
    totals.grid(visible=False, axis="y")
    return figure


def _time_unit(seconds: float) -> tuple[str, int]:
    """Return the unit in which a span of time reads well, and its length in s."""
    units = (("days", 86400), ("hours", 3600), ("minutes", 60))
    return next((unit for unit in units if seconds >= 2 * unit[1]), ("s", 1))


def draw_rounding(tiles: pd.DataFrame, precision: PrecisionSettings) -> Figure:
    """Draw the rounding errors of flux and ivar over tiles, with the limits that were asked for.

    Parameters
    ----------
    tiles
        The tiles' table.
    precision
        The setting `precision`.
    """
    limits = bound(precision)
    panels = (
        (
            "max_flux_error_sigma",
            "largest flux error of a tile (sigma)",
            1,
            limits.flux_sigma,
        ),
        ("mean_flux_error_sigma", "mean flux error of a tile, signed (0.001 sigma)", 1000, None),
        (
            "max_ivar_error_relative",
            "largest ivar error of a tile (%)",
            100,
            100 * limits.ivar_relative,
        ),
    )
    converted = tiles[tiles.outcome == "converted"]
    errors = {name: converted[name].dropna().to_numpy(float) for name, *_ in panels}
    if not any(values.size for values in errors.values()):
        raise NothingToDraw("No tile was converted")
    if not any(values.any() for values in errors.values()):
        raise NothingToDraw(
            "Nothing was rounded: flux and ivar of every tile are bit for bit those of the archive"
        )
    figure = new_figure(10.5, 3.6)
    for axes, (name, label, scale, limit) in zip(figure.subplots(1, 3), panels, strict=True):
        values = scale * errors[name]
        if not values.any():
            say_nothing_to_show(axes, f"{label.partition(' error')[0]} error is 0 in every tile")
            continue
        if limit:
            axes.axvline(limit, color="0.1", linestyle="--", label=f"limit {limit:.3g}")
            axes.legend(loc="upper left")
        axes.hist(values, bins=histogram_edges(values, most=40), color=SKY)
        axes.set_ylim(0, 1.25 * axes.dataLim.ymax)
        axes.set_xlabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.ticklabel_format(axis="x", useOffset=False)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("number of tiles")
        axes.set_title(f"{values.size:,} tiles, largest {np.abs(values).max():.3g}")
    return figure
