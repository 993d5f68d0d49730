"""What a Parquet file of this project holds, where it came from, and its sums."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from desi_fits_to_parquet.command.stopped import Stopped
from desi_fits_to_parquet.files import sha256_of
from desi_fits_to_parquet.records import PROVENANCE_KEY

_SUMMED = ("z", "target_ra", "target_dec")
"""Columns whose lowest and highest value are told, where they are there."""

_COUNTED = ("spectype", "survey", "program")


def read_info(path: Path) -> dict[str, Any]:
    """Return what a Parquet file tells of itself.

    Parameters
    ----------
    path
        A tile's file, or any other that this project wrote.

    Returns
    -------
    dict
        `file`, `bytes`, `sha256`, `rows`, `row_groups`; `columns`, each with its type, unit and
        description; `limits` and `counts` of some columns; `provenance`, None where the file has
        none: tile, sources with keys, ETags and checksums, versions of the pipeline, settings.

    Raises
    ------
    Stopped
        Where it is no Parquet file.
    """
    try:
        with pq.ParquetFile(path) as file:
            schema, rows, groups = file.schema_arrow, file.metadata.num_rows, file.num_row_groups
            metadata = file.metadata.metadata or {}
            known = [name for name in (*_SUMMED, *_COUNTED) if name in schema.names]
            table = file.read(known)
    except (OSError, pa.ArrowInvalid) as error:
        raise Stopped(f"{path} is no Parquet file that can be read: {error}") from error
    told = metadata.get(PROVENANCE_KEY.encode())
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
        "rows": rows,
        "row_groups": groups,
        "columns": {field.name: _column(field) for field in schema},
        "limits": {
            name: pc.min_max(table[name]).as_py() for name in _SUMMED if name in known and rows
        },
        "counts": {
            name: {
                str(each["values"]): each["counts"]
                for each in table[name].value_counts().to_pylist()
            }
            for name in _COUNTED
            if name in known and rows
        },
        "provenance": json.loads(told) if told else None,
    }


def _column(field: pa.Field) -> dict[str, str]:
    words = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
    told = {key: words[key] for key in ("unit", "description") if words.get(key)}
    return {"type": str(field.type), **told}


def info_lines(info: Mapping[str, Any], columns: bool) -> Iterator[str]:
    """Say it in lines.

    Parameters
    ----------
    info
        As `read_info` returns it.
    columns
        Whether to tell of each column.
    """
    yield (
        f"{info['file']}: {info['rows']:,} rows in {info['row_groups']} row groups, "
        f"{len(info['columns'])} columns"
    )
    yield f"  {info['bytes']:,} bytes, sha256 {info['sha256']}"
    for name, limits in info["limits"].items():
        if limits["min"] is not None:
            yield f"  {name:10s} {limits['min']:.4f} to {limits['max']:.4f}"
    for name, counts in info["counts"].items():
        yield f"  {name:10s} {', '.join(f'{count:,} {value}' for value, count in counts.items())}"
    yield from _origin(info["provenance"])
    if columns:
        width = max(map(len, info["columns"]))
        yield "Columns"
        for name, column in info["columns"].items():
            unit = f" [{column['unit']}]" if "unit" in column else ""
            words = f"{_short(column['type'])}{unit}  {column.get('description', '')}"
            yield f"  {name:{width}s}  {words}"


def _origin(told: Mapping[str, Any] | None) -> Iterator[str]:
    if told is None:
        yield "It names no origin: no tile's file of this project."
        return
    yield (
        f"Tile {told['survey']}-{told['program']}-{told['healpix']} (order {told['order']}, pixel "
        f"{told['pixel']}), by {told['project']} {told['version']}; {told['licence']}"
    )
    for kind, source in told["sources"].items():
        sums = ", ".join(f"{key} {source[key]}" for key in ("etag", "sha256") if source[key])
        yield f"  {kind:10s} {source['key']}"
        yield f"  {'':10s} {sums}"
    for kind, versions in told["pipeline"].items():
        words = ", ".join(f"{name} {version}" for name, version in versions.items())
        yield f"  {kind:10s} written with {words or 'what it does not say'}"
    yield "Settings"
    for section, settings in told["settings"].items():
        yield f"  {section:10s} {json.dumps(settings)}"


def _short(kind: str) -> str:
    return kind if len(kind) < 30 else f"{kind[:27]}..."
