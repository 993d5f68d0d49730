"""The first page of the report: what was asked, what came out, what failed, what to do."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from desi_fits_to_parquet.outcomes import ADVICE, FAILED_OUTCOMES
from desi_fits_to_parquet.settings import SelectionSettings, Settings
from desi_fits_to_parquet.units import size_text

SPECTYPES = ("QSO", "GALAXY", "STAR")

OBJTYPES = ("TGT", "SKY", "NON", "BAD", "")
"""All values of `selection.objtypes`, as above of `spectypes`: these leave nothing out."""


def landing_text(summary: dict[str, Any], settings: Settings) -> str:
    """Write the landing page's text, in reStructuredText.

    Parameters
    ----------
    summary
        The run's totals, as in `summary.json`.
    settings
        The configuration of the run.
    """
    archive = settings["archive"]
    lines = [
        f"**Asked**: the spectra of {selection_text(settings['selection'])}, from "
        f"``{archive['bucket']}/{archive['prefix']}``; {_tiles_text(settings)}.",
        f"**Discovered**: {summary['tiles']:,} tiles, {size_text(summary['bytes_archive'])} in "
        f"the archive, with {summary['n_targets']:,} targets; every tile has exactly one outcome.",
        f"**Came out**: {summary['n_rows']:,} spectra from {summary['outcomes']['converted']:,} "
        f"tiles in {size_text(summary['bytes_parquet'])} of Parquet{_saved(summary)}; "
        f"{size_text(summary['bytes_fetched'])} were fetched{_when(summary)}. "
        f"{summary['outcomes']['no_targets']:,} tiles hold nothing that was selected"
        f"{_left_out(summary, settings['selection'])}.",
        f"**Failed**: {_failed(summary)}.",
        f"**To do**: {_advice(summary)}.",
    ]
    return "".join(f"- {line}\n" for line in lines)


def selection_text(selection: SelectionSettings) -> str:
    """Say in words which targets of a tile are selected: all that is not just everything."""
    cuts = []
    if selection["preset"]:
        who = f"the targets of DESI's quasar catalogue (preset {selection['preset']})"
    else:
        who = "the targets"
        for name, wanted, every in (
            ("SPECTYPE", selection["spectypes"], SPECTYPES),
            ("OBJTYPE", selection["objtypes"], OBJTYPES),
        ):
            if set(wanted) != set(every):
                cuts.append(f"{name} {_any_of(wanted)}")
        cuts += _zwarn_cut(selection["zwarn"])
        if selection["coadd_fiberstatus"] is not None:
            cuts.append(f"COADD_FIBERSTATUS {_any_of(selection['coadd_fiberstatus'])}")
    for limits, name in ((selection["z"], "redshift"), (selection["deltachi2"], "DELTACHI2")):
        if limits is not None:
            cuts.append(f"{name} from {limits[0]:g} to {limits[1]:g}")
    if selection["targets"]:
        cuts.append(f"targeted as {_any_of(selection['targets'])}")
    if not cuts:
        return who if selection["preset"] else "all targets"
    return f"{who} with {_list(cuts)}"


def _zwarn_cut(setting: int | list[str] | None) -> list[str]:
    if setting is None:
        return []
    if isinstance(setting, list) and setting:
        return [f"no bit of ZWARN but {_list(setting)}"]
    return [f"no bit of ZWARN but those of the mask {setting}" if setting else "ZWARN 0"]


def _tiles_text(settings: Settings) -> str:
    tiles = settings["tiles"]
    chosen = f"surveys {_list(tiles['surveys'])}, programs {_list(tiles['programs'])}"
    if isinstance(tiles["healpix"], str):
        chosen += f", the pixels of the file ``{tiles['healpix']}``"
    elif tiles["healpix"] is not None:
        chosen += f", {len(tiles['healpix']):,} pixels by number"
    if settings["sample"]:
        chosen += f", a random sample of {settings['sample']:,} tiles"
    return chosen


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)


def _any_of(names: Sequence[str | int]) -> str:
    return " or ".join(str(name) or "empty" for name in names)


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


def _left_out(summary: dict[str, Any], selection: SelectionSettings) -> str:
    said = []
    if summary["n_no_data"]:
        what = "were converted" if selection["no_data"] else "were left out"
        said.append(f"{summary['n_no_data']:,} selected targets without data {what}")
    if summary["n_left_out"]:
        said.append(f"{summary['n_left_out']:,} were left out for pixels that are no numbers")
    return "".join(f"; {words}" for words in said)


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
