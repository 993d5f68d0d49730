"""What the report begins with: the answer, a picture, how to open the data, what to do."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from desi_fits_to_parquet.outcomes import ADVICE, FAILED_OUTCOMES
from desi_fits_to_parquet.paths import EXPLORER, EXPLORER_HOST, EXPLORER_PORT
from desi_fits_to_parquet.report.html import paragraph, preformatted
from desi_fits_to_parquet.settings import SelectionSettings, Settings
from desi_fits_to_parquet.units import percent_text, size_text

SPECTYPES = ("QSO", "GALAXY", "STAR")

OBJTYPES = ("TGT", "SKY", "NON", "BAD", "")
"""All values of `selection.objtypes`, as above of `spectypes`: these leave nothing out."""

_PLURALS = {"QSO": "quasars", "GALAXY": "galaxies", "STAR": "stars"}

_STYLE = """
.overview { font: 15px/1.5 system-ui, sans-serif; color: #111; max-width: 74em; }
.overview h1 { font-size: 2.1em; line-height: 1.15; margin: 0 0 .2em; font-weight: 700; }
.overview h2 { font-size: 1.15em; margin: 1.1em 0 .3em; font-weight: 700; }
.overview p { margin: .3em 0; }
.overview .asked { color: #444; max-width: 62em; }
.overview .cards { display: flex; flex-wrap: wrap; gap: .8em; margin: 1em 0; }
.overview .cards div { border-left: 5px solid #0072B2; background: #f2f4f7; padding: .5em .9em;
  flex: 1 1 12em; }
.overview .cards div.failed { border-color: #D55E00; }
.overview .cards b { display: block; font-size: 1.75em; line-height: 1.2; }
.overview .columns { display: flex; flex-wrap: wrap; gap: 0 2em; }
.overview .columns > div { flex: 1 1 24em; min-width: 0; }
.overview figure { margin: .4em 0; }
.overview figure svg { display: block; width: 100%; height: auto; max-height: 60vh; }
.overview figcaption { color: #444; font-size: .92em; }
.overview pre { background: #f5f5f5; color: #111; border: 1px solid #ddd; padding: .6em;
  white-space: pre-wrap; font-size: .88em; margin: .3em 0; }
.overview code { background: #f5f5f5; color: #111; font-weight: normal; }
"""


# Snakemake's own report gives its first text a column beside the graph of rules, and hides the top
# of what is taller than the window: here the text has the window and the graph stands below it.
_WITHIN_SNAKEMAKE = """<style>
.prose:has(iframe.report) { max-width: none; }
div:has(> .prose iframe.report) { padding: 0; }
div:has(> div > .prose iframe.report) { display: block; padding: 0; }
div:has(> div > div > .prose iframe.report) { display: block; }
iframe.report { display: block; width: 100%; height: 100vh; border: 0; }
</style>"""


def within_snakemake(page: str) -> str:
    """Wrap the page of the report for Snakemake's own report, which shows it first.

    Not as one of its results: these are addresses that hold all of a page, and browsers open none
    of more than 2 MB.
    """
    return f'{_WITHIN_SNAKEMAKE}<iframe class="report" srcdoc="{escape(page)}"></iframe>\n'


def overview(summary: dict[str, Any], settings: Settings, picture: str) -> str:
    """Write the overview (HTML).

    Parameters
    ----------
    summary
        The run's totals, as in `summary.json`.
    settings
        The configuration of the run.
    picture
        A figure (HTML), or nothing.
    """
    selection = settings["selection"]
    what = object_name(selection)
    converted, failed = summary["outcomes"]["converted"], summary["failed"]
    saved = summary["reduction_percent"]
    cards = [
        (
            f"{summary['n_rows']:,} {what}",
            f"in {converted:,} of {summary['tiles']:,} tiles; {summary['n_targets']:,} targets "
            "were looked at",
        ),
        (
            size_text(summary["bytes_parquet"]),
            f"of Parquet, for {size_text(summary['bytes_archive'])} in the archive"
            + (f" ({percent_text(saved)} less)" if saved is not None else "")
            + f"; {size_text(summary['bytes_fetched'])} were fetched",
        ),
        (
            f"{failed:,} {'tile' if failed == 1 else 'tiles'} failed"
            if failed
            else "No tile failed",
            f"{_failed(summary)}: see below what to do" if failed else "there is nothing to do",
        ),
    ]
    shown = "".join(
        f"<div{' class=failed' if k == 2 and failed else ''}><b>{escape(number)}</b> "
        f"{escape(words)}</div>"
        for k, (number, words) in enumerate(cards)
    )
    archive = settings["archive"]
    asked = (
        f"Asked for: {selection_text(selection)}, from {archive['bucket']}/{archive['prefix']}; "
        f"{_tiles_text(settings)}{_when(summary)}."
    )
    noted = _noted(summary, selection)
    todo = [
        f"<p><b>{summary['outcomes'][outcome]:,} {outcome}</b>: {_code(advice)}.</p>"
        for outcome, advice in ADVICE.items()
        if summary["outcomes"][outcome]
    ]
    if failed:
        todo.append(
            paragraph("Each failed tile and its reason stand under Tiles, in failed.csv too.")
        )
    results = settings["results"].rstrip("/")
    how = [
        "<h2>Open these data</h2>",
        preformatted("\n".join(opening(results, what))),
        "<h2>Look at them</h2>",
        _explorer(results),
    ]
    columns = [f"<div>{part}</div>" for part in (picture, "".join(how)) if part]
    below = ["<h2>What to do</h2>", *todo] if todo else []
    return (
        f'<style>{_STYLE}</style><div class="overview"><h1>{escape(_headline(summary, what))}</h1>'
        f'<p class="asked">{escape(asked)}</p><div class="cards">{shown}</div>'
        f'<div class="columns">{"".join(columns)}</div>'
        f"{''.join(below)}{''.join(map(paragraph, noted))}</div>\n"
    )


def object_name(selection: SelectionSettings) -> str:
    """Name what was selected: `quasars` where nothing else can be among it."""
    if selection["preset"]:
        return "quasars"
    kinds = selection["spectypes"]
    return _PLURALS.get(kinds[0], "spectra") if len(kinds) == 1 else "spectra"


def opening(results: str, what: str) -> list[str]:
    """Write four lines of Python that open the data of a run and draw a spectrum."""
    return [
        "from desi_fits_to_parquet import open_catalog",
        f'{what} = open_catalog("{results}")',
        f"axes = {what}.head(1).spectra()[0].plot()",
        'axes.figure.savefig("spectrum.png")',
    ]


def _headline(summary: dict[str, Any], what: str) -> str:
    tiles = f"{summary['tiles']:,} {'tile' if summary['tiles'] == 1 else 'tiles'}"
    return f"{summary['n_rows']:,} DESI {what} out of {tiles}"


def _explorer(results: str) -> str:
    address = f"http://{EXPLORER_HOST}:{EXPLORER_PORT}/{EXPLORER}/"
    return (
        preformatted(f"desi-fits-to-parquet serve {results} --open")
        + f'<p>shows every spectrum in the browser, with lines and fits, at <a href="{address}" '
        f'class="explorer" target="_blank">{address}</a> while it runs.</p>'
    )


def _code(text: str) -> str:
    return re.sub("``(.+?)``", r"<code>\1</code>", escape(text))


def _noted(summary: dict[str, Any], selection: SelectionSettings) -> list[str]:
    """Say what else one should know of the run."""
    said = []
    if summary["outcomes"]["no_targets"]:
        said.append(f"{summary['outcomes']['no_targets']:,} tiles hold nothing that was selected.")
    if summary["n_no_data"]:
        what = "were converted" if selection["no_data"] else "were left out"
        said.append(f"{summary['n_no_data']:,} selected targets without data {what}.")
    if summary["n_left_out"]:
        said.append(
            f"{summary['n_left_out']:,} selected targets were left out for pixels that are no "
            "numbers."
        )
    if summary["not_in_tiles_csv"]:
        said.append(
            f"{len(summary['not_in_tiles_csv']):,} tiles have results but were not discovered this "
            "time, so they are not counted here; summary.json names them."
        )
    said.append(
        "Every number of this report is a sum over the tiles of this run, never an estimate; only "
        "figures that show spectra may be drawn from a part of the files, and then say so. For "
        "machines the same numbers are in summary.json and tiles.parquet (one row a tile), beside "
        "this page."
    )
    return said


def selection_text(selection: SelectionSettings) -> str:
    """Say in words which targets of a tile are selected: all that is not just everything."""
    cuts = []
    if selection["preset"]:
        rule = f"QuasarNET above {selection['qso_threshold']:g}"
        status = f"COADD_FIBERSTATUS {_any_of(selection['qso_fiberstatus'])}"
        preset = f"preset {selection['preset']}: {rule}, {status}"
        who = f"the targets of DESI's quasar catalogue ({preset})"
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
        chosen += f", the pixels of the file {tiles['healpix']}"
    elif tiles["healpix"] is not None:
        chosen += f", {len(tiles['healpix']):,} pixels by number"
    if settings["sample"]:
        chosen += f", a random sample of {settings['sample']:,} tiles"
    return chosen


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)


def _any_of(names: Sequence[str | int]) -> str:
    return " or ".join(str(name) or "empty" for name in names)


def _when(summary: dict[str, Any]) -> str:
    if summary["first_finished"] is None:
        return ""
    first, last = (
        datetime.fromtimestamp(summary[name], tz=UTC).strftime("%Y-%m-%d %H:%M")
        for name in ("first_finished", "last_finished")
    )
    return f"; done {first} to {last} UTC"


def _failed(summary: dict[str, Any]) -> str:
    counts = [
        f"{summary['outcomes'][outcome]:,} {outcome}"
        for outcome in FAILED_OUTCOMES
        if summary["outcomes"][outcome]
    ]
    share = percent_text(100 * summary["failed"] / summary["tiles"])
    return f"{share}, {size_text(summary['bytes_archive_failed'])} in the archive; {_list(counts)}"
