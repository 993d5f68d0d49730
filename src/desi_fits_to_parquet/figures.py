"""Figures of the report that need only the tiles' table and the summary."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .figure_style import (
    BLUE,
    GREY,
    OUTCOME_STYLE,
    SKY,
    byte_unit,
    format_bytes,
    new_figure,
    say_nothing_to_show,
)
from .outcomes import OUTCOMES


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
        share = f" ({100 * size / sizes[0]:.2f} %)" if position and sizes[0] else ""
        totals.annotate(
            f"{format_bytes(size)}{share}",
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

    converted = written.outcome == "converted"
    percent = 100 * (1 - written.bytes_parquet / written.bytes_archive)
    edges = np.histogram_bin_edges(percent, bins=40)
    distribution.hist(
        [percent[converted], percent[~converted]],
        bins=list(edges),
        stacked=True,
        color=[BLUE, SKY],
        label=[f"converted ({converted.sum():,})", f"no_targets ({(~converted).sum():,})"],
    )
    for patch in distribution.patches[len(edges) - 1 :]:
        patch.set_hatch("..")
    median = float(percent[converted].median()) if converted.any() else float(percent.median())
    distribution.axvline(median, color="0.1", linestyle="--", label=f"median {median:.2f} %")
    distribution.set_xlabel("reduction of a tile, 1 - Parquet / archive (%)")
    distribution.set_ylabel("number of tiles")
    distribution.yaxis.set_major_locator(MaxNLocator(integer=True))
    distribution.set_ylim(0, 1.35 * distribution.dataLim.ymax)  # room for the legend
    distribution.legend(loc="upper left")
    distribution.set_title(f"{len(written):,} tiles with a Parquet file")

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
    against.set_xlabel("targets of the tile (number of redrock rows)")
    against.set_ylabel("archive bytes / Parquet bytes")
    against.legend(loc="best")
    against.set_title("Reduction factor against number of targets")
    return figure


def _reduction_title(summary: dict[str, Any]) -> str:
    percent = summary["reduction_percent"]
    saved = "nothing in the archive" if percent is None else f"{percent:.2f} % saved"
    failed = summary["failed"]
    lost = f"; {failed:,} failed tiles hold {format_bytes(summary['bytes_archive_failed'])}"
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
            (counted, count, f"{count:,} ({100 * count / n_tiles:.2f} %)"),
            (weighed, size / scale, format_bytes(size)),
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
