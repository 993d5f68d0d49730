"""Tables of the report: compression, outcomes, slowest tiles, fidelity, provenance."""

import platform
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from desi_fits_to_parquet import __version__
from desi_fits_to_parquet.outcomes import FAILED_OUTCOMES
from desi_fits_to_parquet.report.figures import waterfall_steps
from desi_fits_to_parquet.report.html import (
    heading,
    paragraph,
    plain_table,
    preformatted,
    search_table,
)
from desi_fits_to_parquet.report.outliers import FEWEST, THRESHOLD, tiles_worth_a_look
from desi_fits_to_parquet.settings import Settings
from desi_fits_to_parquet.units import MB, size_text

N_SLOWEST = 200

_NUMBERS = ("order", "pixel")
"""Columns of whole numbers that are names."""

_PACKAGES = ("snakemake", "numpy", "pyarrow", "h5py", "obstore", "boto3", "astropy", "matplotlib")

_RELEASES: dict[str, tuple[str, str | None]] = {
    "iron": ("Data Release 1 (DR1)", "DESI Collaboration et al. 2025, arXiv:2503.14745"),
    "fuji": ("Early Data Release (EDR)", "DESI Collaboration et al. 2024, AJ 168, 58"),
    "loa": ("Data Release 2 (DR2)", None),
    "matterhorn": ("Data Release 3 (DR3)", None),
}


def compression_parts(tiles: pd.DataFrame, summary: Mapping[str, Any]) -> list[str]:
    """Write bytes in the archive, fetched and written: in all, by cause, by survey and program."""
    groups = []
    for (survey, program), group in tiles.groupby(["survey", "program"]):
        groups.append(
            {"survey": survey, "program": program, **_sizes(group)}
            | {"rows": int(group.n_rows.sum())}
        )
    if len(groups) != 1:
        total = {"survey": "all", "program": "", **_sizes(tiles), "rows": summary["n_rows"]}
        groups.append(total)
    columns = {
        "survey": "survey",
        "program": "program",
        "tiles": "tiles",
        "rows": "spectra",
        "archive": "in the archive (MB)",
        "fetched": "fetched (MB)",
        "parquet": "Parquet (MB)",
        "saved": "saved (%)",
        "row_kb": "Parquet per spectrum (kB)",
    }
    parts = [
        heading("By survey and program"),
        plain_table(groups, columns),
        heading("Causes of the reduction"),
    ]
    steps = [
        {
            "step": label,
            "saved": None if before == after else (before - after) / MB,
            "percent": 100 * (before - after) / before if before and before != after else None,
            "left": after / MB,
        }
        for label, before, after in waterfall_steps(summary["bytes_causes"])
    ]
    note = (
        f"{summary['tiles_with_causes']:,} of {summary['tiles']:,} tiles have a Parquet file and "
        "state the causes of their reduction."
    )
    headings = {
        "step": "cause",
        "saved": "saved (MB)",
        "percent": "of the bytes before it (%)",
        "left": "left (MB)",
    }
    return [*parts, paragraph(note), plain_table(steps, headings)]


def outcomes_parts(tiles: pd.DataFrame) -> list[str]:
    """Write the failed tiles by kind of reason, and every tile in a table to sort and search."""
    failed = tiles[tiles.outcome.isin(FAILED_OUTCOMES)]
    kinds = Counter(
        (outcome, _kind_of_reason(reason, f"{survey}-{program}-{healpix}"))
        for outcome, reason, survey, program, healpix in zip(
            failed.outcome,
            failed.reason,
            failed.survey,
            failed.program,
            failed.healpix,
            strict=True,
        )
    )
    reasons = [
        {"outcome": outcome, "reason": reason, "tiles": count}
        for (outcome, reason), count in kinds.most_common(50)
    ]
    columns = {
        **_tile_columns(tiles),
        "outcome": "outcome",
        "n_targets": "targets",
        "n_rows": "rows",
        "archive": "in the archive (MB)",
        "fetched": "fetched (MB)",
        "parquet": "Parquet (MB)",
        "seconds": "time (s)",
        **({"reason": "reason"} if len(failed) else {}),
    }
    return [
        heading("Failed tiles by reason"),
        *(
            [
                plain_table(reasons, {"outcome": "outcome", "tiles": "tiles", "reason": "reason"}),
                paragraph("# stands for a number or checksum, TILE for the tile's name."),
            ]
            if reasons
            else [paragraph("No tile failed.")]
        ),
        heading("All tiles"),
        search_table(_records(_with_units(tiles), columns), columns, _NUMBERS),
    ]


def slowest_parts(tiles: pd.DataFrame) -> list[str]:
    """Write the tiles that took longest."""
    frame = _with_units(tiles).nlargest(N_SLOWEST, "seconds")
    columns = {
        **_tile_columns(tiles),
        "outcome": "outcome",
        "seconds": "in all (s)",
        "seconds_download": "download (s)",
        "seconds_fuse": "fuse (s)",
        "seconds_validate": "validate (s)",
        "fetched": "fetched (MB)",
        "speed": "download (MB/s)",
        "requests": "requests",
        **({"retries": "sent again"} if tiles.retries.any() else {}),
        **({"throttled": "429 or 503"} if tiles.throttled.any() else {}),
        "n_rows": "rows",
    }
    which = f"The {len(frame):,} tiles" if len(frame) < len(tiles) else "Tiles"
    return [
        heading(f"{which} that took longest"),
        search_table(_records(frame, columns), columns, _NUMBERS),
    ]


def fidelity_parts(tiles: pd.DataFrame, summary: Mapping[str, Any]) -> list[str]:
    """Write audits, rounding errors, schemas, and the tiles that are worth a look."""
    prints = tiles.schema_fingerprint[tiles.bytes_parquet > 0]
    schemas = [
        {"fingerprint": name, "tiles": int(count), "example": _name(tiles.loc[first])}
        for name, count, first in (
            (name, (prints == name).sum(), prints.index[prints == name][0])
            for name in prints.value_counts().index
        )
    ]
    errors = [
        {"what": what, "value": f"{scale * value:.3g} {unit}"}
        for what, value, scale, unit in (
            ("largest error of a flux", summary["max_flux_error_sigma"], 1, "sigma"),
            (
                "mean error of flux, signed, over all rows",
                _mean_error(tiles),
                1000,
                "thousandths of sigma",
            ),
            ("largest error of an ivar", summary["max_ivar_error_relative"], 100, "%"),
            ("largest error of an lsf", summary["max_lsf_error_relative"], 100, "%"),
        )
        if value
    ]
    audited = tiles[tiles.audited]
    audits = (
        f"{summary['audited']:,} of {summary['tiles']:,} tiles were audited: their whole coadd was "
        f"fetched ({size_text(summary['audit_bytes'])}) and its checksum and rows compared. "
        f"{summary['audits_failed']:,} audits failed"
    )
    failed = audited[audited.audit_passed.eq(False)]  # None, not compared, is no failure
    bad = ", ".join(_name(row) for _, row in failed.iterrows())
    odd = tiles_worth_a_look(tiles)
    columns = {
        **_tile_columns(tiles),
        "what": "what is far off",
        "value": "value",
        "typical": "median of its survey and program",
        "score": "distance (robust sigma)",
    }
    same = "All Parquet files have one schema." if schemas else "No tile has a Parquet file."
    if len(schemas) > 1:
        same = f"The Parquet files have {len(schemas)} schemas: convert the fewer tiles again."
    return [
        *(
            [heading("Rounding"), plain_table(errors, {"what": "what", "value": "value"})]
            if errors
            else []
        ),
        heading("Audits"),
        paragraph(f"{audits}: {bad}." if bad else f"{audits}."),
        paragraph(
            f"Of {summary['second_reader']:,} tiles the whole record was compared with the FITS "
            "files as a second reader (astropy, h5py) reads them too, every value."
        ),
        heading("Pixels"),
        paragraph(_pixels(summary)),
        heading("Schemas"),
        paragraph(same),
        *(
            [
                plain_table(
                    schemas,
                    {"fingerprint": "fingerprint", "tiles": "tiles", "example": "for example"},
                )
            ]
            if len(schemas) > 1
            else []
        ),
        heading("Tiles worth a look"),
        paragraph(
            f"Farther than {THRESHOLD:g} robust standard deviations from the median of their "
            f"survey and program (where that has at least {FEWEST} tiles), either in the reduction "
            "or in the rows per target. Far off need not mean wrong."
        ),
        search_table(_records(_named(pd.DataFrame(odd)), columns), columns, _NUMBERS)
        if odd
        else paragraph("None."),
    ]


def provenance_parts(settings: Settings) -> list[str]:
    """Write versions, settings, the archive's release, how to reproduce the run, how to cite."""
    import yaml

    production = Path(settings["archive"]["prefix"]).name
    release, paper = _RELEASES.get(production, (f"production {production}", None))
    versions = [
        {"what": "desi-fits-to-parquet", "version": f"{__version__} ({_commit()})"},
        {"what": "Python", "version": platform.python_version()},
        *({"what": name, "version": version(name)} for name in _PACKAGES),
    ]
    commands = (
        f"git checkout {_commit().removesuffix('-dirty')}\n"
        "make env\n"
        "# save the settings below as config/this-run.yaml\n"
        ".venv/bin/snakemake --cores 8 --configfile config/this-run.yaml"
    )
    archive = settings["archive"]
    cite = [
        f"Data: DESI {release}"
        + (f"; cite {paper}." if paper else "; cite the paper of this release."),
        "DESI data are licensed CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/): name the "
        "DESI Collaboration as their source and say that they were converted.",
        "Every publication must carry DESI's acknowledgement, word for word as it stands at "
        "https://data.desi.lbl.gov/doc/acknowledgments/.",
        "Software: cite desi-fits-to-parquet as its CITATION.cff says.",
    ]
    return [
        heading("Archive"),
        paragraph(f"{archive['bucket']}/{archive['prefix']}: DESI {release}."),
        heading("Versions"),
        plain_table(versions, {"what": "what", "version": "version"}),
        heading("To reproduce this run"),
        preformatted(commands),
        heading("Settings"),
        preformatted(yaml.safe_dump(_plain(settings), sort_keys=False), "settings"),
        heading("How to cite"),
        *(paragraph(line) for line in cite),
    ]


def _pixels(summary: Mapping[str, Any]) -> str:
    """Say what was odd in the pixels of the spectra, or that nothing was."""
    said = [
        f"{summary[name]:,} {words}"
        for name, words in (
            (
                "n_masked_with_ivar",
                "pixels of converted spectra are masked in the archive and have an ivar above 0 "
                "all the same (spectra.masked_pixels)",
            ),
            ("n_not_finite", "pixels are NaN or infinite and got ivar 0"),
            (
                "n_left_out",
                "selected targets have too many such pixels (spectra.max_not_finite) and were left "
                "out",
            ),
            (
                "n_no_data",
                "selected targets have no data (COADD_NUMEXP 0, ivar 0 everywhere; "
                "selection.no_data)",
            ),
        )
        if summary[name]
    ]
    return f"{'; '.join(said)}." if said else "No pixel was odd: none masked with a weight, no NaN."


def _sizes(group: pd.DataFrame) -> dict[str, Any]:
    archive, parquet = int(group.bytes_archive.sum()), int(group.bytes_parquet.sum())
    rows = int(group.n_rows.sum())
    return {
        "tiles": len(group),
        "archive": archive / MB,
        "fetched": int(group.bytes_fetched.sum()) / MB,
        "parquet": parquet / MB,
        "saved": 100 * (1 - parquet / archive) if archive else None,
        "row_kb": parquet / 1000 / rows if rows else None,
    }


def _kind_of_reason(reason: str, tile: str) -> str:
    """Take out of a sentence what differs between tiles, so that like reasons can be counted."""
    return re.sub(r"\b([0-9a-f]{32,}|\d+)\b", "#", reason.replace(tile, "TILE"))


def _tile_columns(tiles: pd.DataFrame) -> dict[str, str]:
    """Return the columns that say which tile it is; its number may be another than its pixel."""
    other = (tiles.pixel != tiles.healpix).any()
    return {"tile": "tile"} | ({"order": "order", "pixel": "pixel"} if other else {})


def _named(tiles: pd.DataFrame) -> pd.DataFrame:
    numbers = tiles.healpix.astype(str)
    return tiles.assign(tile=tiles.survey + "-" + tiles.program + "-" + numbers)


def _with_units(tiles: pd.DataFrame) -> pd.DataFrame:
    seconds = tiles.seconds_download + tiles.seconds_fuse + tiles.seconds_validate
    speed = tiles.bytes_fetched / 1e6 / tiles.seconds_download.where(tiles.seconds_download > 0)
    return _named(tiles).assign(
        archive=tiles.bytes_archive / MB,
        fetched=tiles.bytes_fetched / MB,
        parquet=tiles.bytes_parquet / MB,
        seconds=seconds,
        speed=speed,
        n_targets=tiles.n_targets.astype("Int64"),
        n_rows=tiles.n_rows.astype("Int64"),
    )


def _records(frame: pd.DataFrame, columns: Mapping[str, str]) -> list[dict[str, Any]]:
    chosen = frame[list(columns)].astype(object)
    # type: the stubs allow any hashable as a column's name; here all are text
    return chosen.where(chosen.notna(), None).to_dict("records")  # type: ignore[return-value]


def _mean_error(tiles: pd.DataFrame) -> float | None:
    """Mean over tiles of their mean error, each weighing as many rows as it has."""
    known = tiles[tiles.mean_flux_error_sigma.notna() & (tiles.n_rows > 0)]
    if known.empty:
        return None
    return float((known.mean_flux_error_sigma * known.n_rows).sum() / known.n_rows.sum())


def _name(row: "pd.Series[Any]") -> str:
    return f"{row['survey']}-{row['program']}-{row['healpix']}"


def _commit() -> str:
    """Name the commit of this very code; its version where it was installed without git."""
    # a file that git does not know lies in an installation inside of some other repository
    if _git("ls-files", __file__):
        return _git("describe", "--always", "--dirty", "--tags")
    return f"v{__version__}"


def _git(*arguments: str) -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    command = [git, "-C", str(Path(__file__).parent), *arguments]
    told = subprocess.run(  # noqa: S603  (the words are this module's own)
        command, check=False, capture_output=True, text=True
    )
    return told.stdout.strip()


def _plain(value: Any) -> Any:
    """Turn Snakemake's own mappings and lists into plain ones, which YAML can write."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
