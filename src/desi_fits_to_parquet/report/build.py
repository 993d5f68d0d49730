"""Make the report of a run: tables for machines, figures and tables for people."""

import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from desi_fits_to_parquet.files import write_atomically, write_json
from desi_fits_to_parquet.report import content as content_figures
from desi_fits_to_parquet.report import figures
from desi_fits_to_parquet.report import pages as report_pages
from desi_fits_to_parquet.report import sky as sky_maps
from desi_fits_to_parquet.report.files import FIGURES_FOLDER, LANDING, PAGE, PLOTS, SECTIONS
from desi_fits_to_parquet.report.html import figure, missing_figure, paragraph, report_page
from desi_fits_to_parquet.report.landing import object_name, overview, within_snakemake
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
    """Write every file of the report: `files.TABLES`, figures, the page.

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

    frame = table.drop_columns(["bytes_causes"]).to_pandas()
    shown = _draw(_drawings(frame, summary, settings, results), report_folder / FIGURES_FOLDER)
    tables: dict[str, list[str]] = {
        "tiles": report_pages.outcomes_parts(frame),
        "bytes": report_pages.compression_parts(frame, summary),
        "speed": report_pages.slowest_parts(frame),
        "fidelity": report_pages.fidelity_parts(frame, summary),
        "provenance": report_pages.provenance_parts(settings),
    }
    sections = {
        name: (
            section.title,
            [
                paragraph(section.begins),
                *(shown[plot] for plot in section.plots),
                *tables.get(name, ()),
            ],
        )
        for name, section in SECTIONS.items()
    }
    picture = _picture(report_folder / FIGURES_FOLDER)
    title = f"{summary['n_rows']:,} DESI {object_name(settings['selection'])}"
    page = report_page(title, overview(summary, settings, picture), sections)
    write_atomically(report_folder / PAGE, page)
    write_atomically(report_folder / LANDING, within_snakemake(page))
    return summary


def _drawings(
    frame: pd.DataFrame, summary: dict[str, Any], settings: Settings, results: Path
) -> dict[str, Callable[[], Figure]]:
    """Return the function that draws each of `PLOTS`."""
    sample = cache(lambda: read_sample(frame, results))
    return {
        "redshifts": lambda: content_figures.draw_redshifts(sample()),
        "redshift_magnitude": lambda: content_figures.draw_redshift_magnitude(sample()),
        "composite": lambda: content_figures.draw_composite(sample()),
        "brightness": lambda: content_figures.draw_brightness(sample()),
        "spectypes": lambda: content_figures.draw_spectypes(sample()),
        "gallery_1": lambda: content_figures.draw_gallery(sample(), 1),
        "gallery_2": lambda: content_figures.draw_gallery(sample(), 2),
        "gallery_3": lambda: content_figures.draw_gallery(sample(), 3),
        "outcomes": lambda: figures.draw_outcomes(frame, summary),
        "sky_outcomes": lambda: sky_maps.draw_sky_outcomes(frame),
        "sky_spectra": lambda: sky_maps.draw_sky_spectra(frame),
        "reduction": lambda: figures.draw_reduction(frame, summary),
        "waterfall": lambda: figures.draw_waterfall(summary),
        "speed": lambda: figures.draw_speed(frame),
        "stages": lambda: figures.draw_stages(frame),
        "rounding": lambda: figures.draw_rounding(frame, settings["precision"]),
    }


def _picture(folder: Path) -> str:
    """Show the figure that the report begins with: the first of some that could be drawn."""
    for name in ("composite", "gallery_1", "sky_outcomes"):
        path = folder / f"{name}.svg"
        if path.is_file():
            return figure("first", path.read_text(), PLOTS[name].title, PLOTS[name].caption)
    return ""


def _draw(drawings: Mapping[str, Callable[[], Figure]], folder: Path) -> dict[str, str]:
    """Draw figures into files, a folder of their own; return what shows each in a page."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shown = {}
    for number, (name, plot) in enumerate(PLOTS.items(), 1):
        path = folder / f"{name}.svg"
        title = f"Figure {number}. {plot.title}"
        if sentence := save_figure(drawings[name], path):
            shown[name] = missing_figure(name, title, sentence)
        else:
            shown[name] = figure(name, path.read_text(), title, plot.caption)
    return shown
