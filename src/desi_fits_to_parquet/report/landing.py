"""The first page of the report: what was asked, what came out, what failed, what to do."""

from datetime import UTC, datetime
from typing import Any

from desi_fits_to_parquet.outcomes import ADVICE, FAILED_OUTCOMES
from desi_fits_to_parquet.settings import Settings
from desi_fits_to_parquet.units import size_text


def landing_text(summary: dict[str, Any], settings: Settings) -> str:
    """Write the landing page's text, in reStructuredText.

    Parameters
    ----------
    summary
        The run's totals, as in `summary.json`.
    settings
        The configuration of the run.
    """
    archive, tiles = settings["archive"], settings["tiles"]
    chosen = f"surveys {_list(tiles['surveys'])}, programs {_list(tiles['programs'])}"
    if settings["sample"]:
        chosen += f", a random sample of {settings['sample']:,} tiles"
    lines = [
        f"**Asked**: {_list(settings['selection']['spectypes'] or ['any spectype'])} spectra of "
        f"``{archive['bucket']}/{archive['prefix']}``; {chosen}.",
        f"**Discovered**: {summary['tiles']:,} tiles, {size_text(summary['bytes_archive'])} in "
        f"the archive, with {summary['n_targets']:,} targets; every tile has exactly one outcome.",
        f"**Came out**: {summary['n_rows']:,} spectra from {summary['outcomes']['converted']:,} "
        f"tiles in {size_text(summary['bytes_parquet'])} of Parquet{_saved(summary)}; "
        f"{size_text(summary['bytes_fetched'])} were fetched{_when(summary)}. "
        f"{summary['outcomes']['no_targets']:,} tiles hold nothing that was selected.",
        f"**Failed**: {_failed(summary)}.",
        f"**To do**: {_advice(summary)}.",
    ]
    return "".join(f"- {line}\n" for line in lines)


def _list(names: list[str]) -> str:
    return ", ".join(names)


def _saved(summary: dict[str, Any]) -> str:
    percent = summary["reduction_percent"]
    return "" if percent is None else f" ({percent:.2f} % less than in the archive)"


def _when(summary: dict[str, Any]) -> str:
    if summary["first_finished"] is None:
        return ""
    first, last = (
        datetime.fromtimestamp(summary[name], tz=UTC).strftime("%Y-%m-%d %H:%M")
        for name in ("first_finished", "last_finished")
    )
    return f" (first tile finished {first}, last {last}, UTC)"


def _failed(summary: dict[str, Any]) -> str:
    counts = [
        f"{summary['outcomes'][outcome]:,} {outcome}"
        for outcome in FAILED_OUTCOMES
        if summary["outcomes"][outcome]
    ]
    if not counts:
        return "no tile"
    share = 100 * summary["failed"] / summary["tiles"]
    size = size_text(summary["bytes_archive_failed"])
    return (
        f"{summary['failed']:,} tiles ({share:.2f} %), which hold {size} in the archive: "
        f"{_list(counts)}"
    )


def _advice(summary: dict[str, Any]) -> str:
    to_do = [
        f"*{outcome}*: {advice}"
        for outcome, advice in ADVICE.items()
        if summary["outcomes"][outcome]
    ]
    if summary["not_in_tiles_csv"]:
        to_do.append(
            f"{len(summary['not_in_tiles_csv']):,} tiles have results but were not discovered this "
            "time, so they are not counted here; ``summary.json`` names them"
        )
    return "; ".join(to_do) or "nothing"
