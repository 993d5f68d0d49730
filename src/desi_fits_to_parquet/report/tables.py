"""Tables of the report: every discovered tile's row, and totals that are sums of these rows."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from desi_fits_to_parquet.files import atomic_path
from desi_fits_to_parquet.outcomes import ADVICE, FAILED_OUTCOMES, OUTCOMES
from desi_fits_to_parquet.records import record_tile
from desi_fits_to_parquet.text import neutral
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.tiles_csv import IDENTITY

COLUMNS = (
    ("survey", pa.string(), "", "survey of the tile"),
    ("program", pa.string(), "", "program of the tile"),
    ("healpix", pa.int32(), "", "number of the tile in DESI's names: HEALPix pixel, or uniqpix"),
    ("order", pa.int32(), "", "HEALPix order of the tile; 6 is nside 64"),
    ("pixel", pa.int32(), "", "HEALPix pixel of the tile in that order, NESTED"),
    ("outcome", pa.string(), "", "the one outcome of the tile"),
    ("reason", pa.string(), "", "sentence that says why the tile failed; empty if it did not"),
    ("n_targets", pa.int64(), "", "targets in the tile's redrock file; null where unknown"),
    ("n_rows", pa.int64(), "", "rows of the Parquet; null where there is none"),
    ("n_outside", pa.int64(), "", "rows whose position is not in the tile's pixel"),
    ("n_no_data", pa.int64(), "", "selected targets without data (see selection.no_data)"),
    ("n_left_out", pa.int64(), "", "selected targets left out: too many pixels are not finite"),
    ("n_not_finite", pa.int64(), "", "pixels that are NaN or infinite and got ivar 0"),
    ("n_masked_with_ivar", pa.int64(), "", "pixels masked in the archive with ivar above 0"),
    ("bytes_archive", pa.int64(), "byte", "size in the archive of the files the fusion uses"),
    ("bytes_fetched", pa.int64(), "byte", "bytes that came over the network"),
    ("bytes_parquet", pa.int64(), "byte", "size of the Parquet; 0 where there is none"),
    ("requests", pa.int64(), "", "requests sent to the archive"),
    ("retries", pa.int64(), "", "requests that were sent again"),
    ("throttled", pa.int64(), "", "answers 429 or 503"),
    ("seconds_download", pa.float64(), "s", "wall time of the download"),
    ("seconds_fuse", pa.float64(), "s", "wall time of the fusion"),
    ("seconds_validate", pa.float64(), "s", "wall time of the validation"),
    ("max_flux_error_sigma", pa.float64(), "", "largest rounding error of a flux, in its sigma"),
    ("mean_flux_error_sigma", pa.float64(), "", "mean rounding error of flux, in sigma"),
    ("max_ivar_error_relative", pa.float64(), "", "largest relative rounding error of an ivar"),
    ("max_lsf_error_relative", pa.float64(), "", "largest relative rounding error of an lsf"),
    ("audited", pa.bool_(), "", "whether the whole files were fetched and compared"),
    ("audit_bytes", pa.int64(), "byte", "bytes that the audit compared"),
    ("audit_passed", pa.bool_(), "", "checksums and rows agree; null where not audited"),
    ("second_reader", pa.bool_(), "", "whether a second reader compared Parquet and FITS too"),
    ("sha256", pa.string(), "", "sha256 of the Parquet; null where there is none"),
    ("schema_fingerprint", pa.string(), "", "hash of the schema that the settings declare"),
    (
        "bytes_causes",
        pa.map_(pa.string(), pa.int64()),
        "byte",
        "bytes left after each step to the Parquet",
    ),
    ("finished", pa.float64(), "s", "Unix time at which the marker was written"),
)
"""Name, type, unit and description of each column of `tiles.parquet`."""

SCHEMA = pa.schema(
    [
        pa.field(name, type_, metadata={"unit": unit, "description": description})
        for name, type_, unit, description in COLUMNS
    ]
)

SUMMED = (
    "n_targets",
    "n_rows",
    "n_no_data",
    "n_left_out",
    "n_not_finite",
    "n_masked_with_ivar",
    "bytes_archive",
    "bytes_fetched",
    "bytes_parquet",
    "requests",
    "retries",
    "throttled",
    "seconds_download",
    "seconds_fuse",
    "seconds_validate",
)
"""Columns whose sums stand in `summary.json` under the same names."""

_COUNTED = tuple(name for name in SUMMED if not name.startswith("seconds_"))

_COPIED = tuple(name for name in SCHEMA.names if not name.startswith("audit"))

_N_NAMED = 10


def table_rows(
    tiles: Sequence[Tile], folder: Path, fingerprint: str
) -> tuple[list[dict[str, Any]], list[Tile]]:
    """Read the markers of all tiles, as rows of `tiles.parquet`.

    Parameters
    ----------
    tiles
        The discovered tiles.
    folder
        Holds the markers, `{survey}/{program}/{healpix}.json`.
    fingerprint
        That of the settings of the report (`settings.settings_fingerprint`).

    Returns
    -------
    rows : list of dict
        One for each of `tiles`, in their order, with the columns `COLUMNS`.
    left : list of Tile
        Tiles that have a marker but are not among `tiles`: an earlier discovery listed them.

    Raises
    ------
    ValueError
        Where a tile has no marker, or a marker is broken, contradicts itself or its path, or is of
        other settings.
    """
    found = {
        (path.parent.parent.name, path.parent.name, int(path.stem)): path
        for path in folder.glob("*/*/*.json")
    }
    missing = [tile for tile in tiles if tile[:3] not in found]
    if missing:
        raise ValueError(
            f"{folder}: {len(missing)} of {len(tiles)} discovered tiles have no marker: "
            f"{_named(missing)}; run the workflow to its end, then make the report again"
        )
    others: list[Tile] = []
    rows = []
    for tile in tiles:
        row = _row(tile, found[tile[:3]])
        rows.append(row)
        if row.pop("settings_fingerprint") != fingerprint:
            others.append(tile)
    if others:
        raise ValueError(
            f"{folder}: {len(others)} of {len(tiles)} tiles were made with other settings than the "
            f"report is asked for, or by another version: {_named(others)}; run the workflow, "
            "which makes them again and then the report"
        )
    left = found.keys() - {tile[:3] for tile in tiles}
    return rows, sorted(Tile(*names) for names in left)


def _row(tile: Tile, path: Path) -> dict[str, Any]:
    """Turn one marker into a row; checks it, so that no wrong figure enters a sum."""
    try:
        marker = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); delete it and run again") from error
    absent = [name for name in (*_COPIED, "audit") if name not in marker]
    if absent:
        raise ValueError(f"{path}: the marker lacks {', '.join(absent)}; delete it and run again")
    stated = record_tile(marker)
    if stated != tile:
        raise ValueError(f"{path}: the marker says that it is of {stated.name}")
    outcome, size = marker["outcome"], marker["bytes_parquet"]
    if outcome not in OUTCOMES:
        raise ValueError(f"{path}: outcome {outcome!r} is none of {', '.join(OUTCOMES)}")
    if (outcome == "converted" and size == 0) or (outcome in FAILED_OUTCOMES and size != 0):
        raise ValueError(f"{path}: outcome {outcome} contradicts bytes_parquet {size}")
    row = {name: marker[name] for name in _COPIED}
    row["reason"] = neutral(row["reason"])  # failed.csv is looked at in terminals
    row["settings_fingerprint"] = marker.get("settings_fingerprint")
    row["bytes_causes"] = list(row["bytes_causes"].items())
    audit = marker["audit"]
    row["audited"] = audit is not None
    row["audit_bytes"] = audit["checked_bytes"] if audit else None
    # without a list of checksums there is no sum to compare (None): that is no failure
    passed = audit and audit["sha256_ok"] is not False and audit["rows_ok"]
    row["audit_passed"] = bool(passed) if audit else None
    return row


def write_tiles(rows: Sequence[dict[str, Any]], path: Path) -> pa.Table:
    """Write `tiles.parquet` and give back what a reader reads from it.

    Raises
    ------
    ValueError
        Where a figure has the wrong type.
    RuntimeError
        Where a sum over the written table is not the sum over `rows`.
    """
    try:
        table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"a marker holds a value of the wrong type: {error}") from error
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    written = pq.read_table(path)
    for name in _COUNTED:
        expected = sum(row[name] or 0 for row in rows)
        total = sum(value or 0 for value in written[name].to_pylist())
        if total != expected:
            raise RuntimeError(f"{path}: {name} adds up to {total}, the markers to {expected}")
    return written


def add_up(table: pa.Table, left: Sequence[Tile]) -> dict[str, Any]:
    """Add up the rows of `tiles.parquet` into the totals of the run.

    Parameters
    ----------
    table
        All discovered tiles, columns `COLUMNS`.
    left
        Tiles with a marker that are not among the discovered ones; named, not counted.

    Returns
    -------
    dict
        As `summary.schema.json` describes it.

    Raises
    ------
    RuntimeError
        Where the counts by outcome do not add up to the number of tiles.
    """
    outcomes = table["outcome"].to_pylist()
    sizes = {name: table[name].to_pylist() for name in SUMMED}
    sums = {name: _sum(values) for name, values in sizes.items()}
    counts = {outcome: outcomes.count(outcome) for outcome in OUTCOMES}
    if sum(counts.values()) != table.num_rows:
        raise RuntimeError(f"{sum(counts.values())} tiles have an outcome of {table.num_rows}")
    finished = [time for time in table["finished"].to_pylist() if time is not None]
    failed = [outcome in FAILED_OUTCOMES for outcome in outcomes]
    return {
        "tiles": table.num_rows,
        "outcomes": counts,
        "failed": sum(failed),
        "without_output": sum(size == 0 for size in sizes["bytes_parquet"]),
        **sums,
        "bytes_archive_failed": _where(sizes["bytes_archive"], failed),
        "bytes_fetched_failed": _where(sizes["bytes_fetched"], failed),
        "reduction_percent": _percent_saved(sums["bytes_archive"], sums["bytes_parquet"]),
        "fetch_reduction_percent": _percent_saved(sums["bytes_archive"], sums["bytes_fetched"]),
        "max_flux_error_sigma": _largest(table["max_flux_error_sigma"]),
        "max_ivar_error_relative": _largest(table["max_ivar_error_relative"]),
        "max_lsf_error_relative": _largest(table["max_lsf_error_relative"]),
        "audited": sum(table["audited"].to_pylist()),
        "audits_failed": table["audit_passed"].to_pylist().count(False),
        "audit_bytes": _sum(table["audit_bytes"].to_pylist()),
        "second_reader": sum(table["second_reader"].to_pylist()),
        "bytes_causes": _sum_by_cause(table["bytes_causes"].to_pylist()),
        "tiles_with_causes": sum(bool(causes) for causes in table["bytes_causes"].to_pylist()),
        "first_finished": min(finished, default=None),
        "last_finished": max(finished, default=None),
        "not_in_tiles_csv": [tile.name for tile in left],
    }


def outcome_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Totals for each of the six outcomes, also of those that no tile has."""
    rows = table.select(["outcome", *SUMMED]).to_pylist()
    result = []
    for outcome, meaning in OUTCOMES.items():
        having = [row for row in rows if row["outcome"] == outcome]
        sums = {name: _sum(row[name] for row in having) for name in SUMMED}
        result.append({"outcome": outcome, "tiles": len(having), **sums, "meaning": meaning})
    return result


def failed_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Tile, outcome, reason and advice of every tile without Parquet, in the order of the list."""
    columns = [*IDENTITY, "outcome", "reason", "bytes_archive"]
    return [
        row | {"what_to_do": ADVICE[row["outcome"]].replace("``", "`")}
        for row in table.select(columns).to_pylist()
        if row["outcome"] in FAILED_OUTCOMES
    ]


def write_csv(rows: Sequence[dict[str, Any]], columns: Sequence[str], path: Path) -> None:
    """Write rows as CSV, with a header also where there are none."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _sum(values: Iterable[float | None]) -> float:
    return sum(value for value in values if value is not None)


def _where(values: Sequence[int], chosen: Sequence[bool]) -> int:
    return sum(value for value, use in zip(values, chosen, strict=True) if use)


def _percent_saved(before: float, after: float) -> float | None:
    return 100 * (1 - after / before) if before else None


def _largest(column: pa.ChunkedArray) -> float | None:
    return max((value for value in column.to_pylist() if value is not None), default=None)


def _sum_by_cause(maps: Iterable[list[tuple[str, int]] | None]) -> dict[str, int]:
    total: dict[str, int] = {}
    for causes in maps:
        for cause, size in causes or ():
            total[cause] = total.get(cause, 0) + size
    return total


def _named(tiles: Sequence[Tile]) -> str:
    names = ", ".join(tile.name for tile in tiles[:_N_NAMED])
    return names if len(tiles) <= _N_NAMED else f"{names} and {len(tiles) - _N_NAMED} more"
