"""Make the report of a run: tables for machines, figures and tables for people."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from . import figures
from .figure_style import save_figure
from .files import write_atomically, write_json
from .report_landing import landing_text
from .report_tables import (
    SUMMED,
    failed_rows,
    outcome_rows,
    read_markers,
    read_tile_list,
    summarize,
    write_csv,
    write_tiles,
)


def build_report(
    tiles_csv: Path,
    markers_folder: Path,
    parquet_folder: Path,
    report_folder: Path,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Write every file of the report: `report_files.TABLES` and `report_files.PAGES`.

    Parameters
    ----------
    tiles_csv
        The discovered tiles.
    markers_folder
        Holds every tile's marker, `{survey}/{program}/{healpix}.json`.
    parquet_folder
        Holds the Parquet files, from which the figures of the spectra are drawn.
    report_folder
        Where the files are written; made where it is missing.
    settings
        The configuration of the run.

    Returns
    -------
    dict
        What `summary.json` holds.

    Raises
    ------
    ValueError
        Where a discovered tile has no marker, or a marker is broken.
    RuntimeError
        Where totals are not the sums over the markers.
    """
    tiles = read_tile_list(tiles_csv)
    rows, left = read_markers(tiles, markers_folder)
    table = write_tiles(rows, report_folder / "tiles.parquet")
    summary = summarize(table, left)
    write_json(report_folder / "summary.json", summary)
    write_csv(
        outcome_rows(table),
        ("outcome", "tiles", *SUMMED, "meaning"),
        report_folder / "outcomes.csv",
    )
    write_csv(
        failed_rows(table),
        ("survey", "program", "healpix", "outcome", "reason", "bytes_archive"),
        report_folder / "failed.csv",
    )
    write_atomically(report_folder / "landing.rst", landing_text(summary, settings))

    frame = table.drop_columns(["bytes_causes"]).to_pandas()
    drawings: dict[str, Callable[[], Figure]] = {
        "reduction.svg": lambda: figures.draw_reduction(frame, summary),
        "outcomes.svg": lambda: figures.draw_outcomes(frame, summary),
    }
    for name, draw in drawings.items():
        save_figure(draw, report_folder / name)
    return summary
