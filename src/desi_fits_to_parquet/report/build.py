"""Make the report of a run: tables for machines, figures and tables for people."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from desi_fits_to_parquet.files import write_atomically, write_json
from desi_fits_to_parquet.report import content as content_figures
from desi_fits_to_parquet.report import figures
from desi_fits_to_parquet.report import pages as report_pages
from desi_fits_to_parquet.report import sky as sky_maps
from desi_fits_to_parquet.report.landing import landing_text
from desi_fits_to_parquet.report.sample import read_sample
from desi_fits_to_parquet.report.style import save_figure
from desi_fits_to_parquet.report.tables import (
    SUMMED,
    add_up,
    failed_rows,
    outcome_rows,
    table_rows,
    write_csv,
    write_tiles,
)
from desi_fits_to_parquet.settings import Settings, settings_fingerprint
from desi_fits_to_parquet.tiles_csv import IDENTITY, list_tiles


def build_report(results: Path, report_folder: Path, settings: Settings) -> dict[str, Any]:
    """Write every file of the report: `files.TABLES` and `files.PAGES`.

    Parameters
    ----------
    results
        The results folder: the list of tiles, every tile's marker and Parquet.
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
    tiles = list_tiles(results / "tiles.csv")
    rows, left = table_rows(tiles, results / "validated", settings_fingerprint(settings))
    table = write_tiles(rows, report_folder / "tiles.parquet")
    summary = add_up(table, left)
    write_json(report_folder / "summary.json", summary)
    write_csv(
        outcome_rows(table),
        ("outcome", "tiles", *SUMMED, "meaning"),
        report_folder / "outcomes.csv",
    )
    write_csv(
        failed_rows(table),
        (*IDENTITY, "outcome", "reason", "what_to_do", "bytes_archive"),
        report_folder / "failed.csv",
    )
    write_atomically(report_folder / "landing.rst", landing_text(summary, settings))

    frame = table.drop_columns(["bytes_causes"]).to_pandas()
    sample = cache(lambda: read_sample(frame, results))
    drawings: dict[str, Callable[[], Figure]] = {
        "reduction.svg": lambda: figures.draw_reduction(frame, summary),
        "waterfall.svg": lambda: figures.draw_waterfall(summary),
        "outcomes.svg": lambda: figures.draw_outcomes(frame, summary),
        "sky_outcomes.svg": lambda: sky_maps.draw_sky_outcomes(frame),
        "sky_targets.svg": lambda: sky_maps.draw_sky_targets(frame),
        "speed.svg": lambda: figures.draw_speed(frame),
        "stages.svg": lambda: figures.draw_stages(frame),
        "redshifts.svg": lambda: content_figures.draw_redshifts(sample()),
        "brightness.svg": lambda: content_figures.draw_brightness(sample()),
        "spectypes.svg": lambda: content_figures.draw_spectypes(sample()),
        "gallery.svg": lambda: content_figures.draw_gallery(sample()),
        "rounding.svg": lambda: figures.draw_rounding(frame, settings["precision"]),
    }
    for name, draw in drawings.items():
        save_figure(draw, report_folder / name)
    pages = {
        "compression.html": report_pages.compression_page(frame, summary),
        "outcomes.html": report_pages.outcomes_page(frame),
        "slowest.html": report_pages.slowest_page(frame),
        "fidelity.html": report_pages.fidelity_page(frame, summary),
        "provenance.html": report_pages.provenance_page(settings),
    }
    for name, text in pages.items():
        write_atomically(report_folder / name, text)
    return summary
