"""One partition of the catalogue: the scalars of all tiles in a coarse pixel, sorted by position.

The tiles are read in the order of the sky, as many at once as make a row group, so that memory does
not grow with the partition.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from desi_fits_to_parquet.collection.fields import quality_field
from desi_fits_to_parquet.collection.hats import Pixel
from desi_fits_to_parquet.collection.primary import find_primary
from desi_fits_to_parquet.collection.tiles import TileFile
from desi_fits_to_parquet.files import atomic_path
from desi_fits_to_parquet.formats.arrow import as_numbers
from desi_fits_to_parquet.record.schema import HATS_INDEX, Field, arrow_schema, fingerprint
from desi_fits_to_parquet.tile import Tile

ROW_GROUP = 131_072
"""Rows of a row group: smaller ones make queries two to four times slower."""

_ZSTD_LEVEL = 3

_LAYOUT = 1  # counted up where the files of partitions change though their tiles do not

_CONTENT_KEY = "desi_fits_to_parquet.content"

_OUTSIDE_KEY = "desi_fits_to_parquet.outside"

Outside = dict[Tile, set[int]]
"""Tiles that have rows which are not at home, and the partitions (pixels) that these lie in.

At home are rows in their tile's pixel; where that is larger than a partition, in its first one.
"""


class State(NamedTuple):
    """What the file of a partition says of itself.

    `content` is a hash of all that it was made from; `outside` are those of its own tiles that have
    rows that are not at home, by name, and where these lie.
    """

    content: str
    outside: dict[str, list[int]]


def content_hash(fields: Sequence[Field], files: Sequence[TileFile]) -> str:
    """Return a hash of all that a partition made of these files depends on."""
    parts = [str(_LAYOUT), fingerprint(fields), *(f"{f.tile.name} {f.sha256}" for f in files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read_state(path: Path) -> State | None:
    """Read what the file of a partition says of itself; None where there is no such file."""
    try:
        with pq.ParquetFile(path) as parquet:
            metadata = parquet.metadata.metadata or {}
        return State(
            metadata[_CONTENT_KEY.encode()].decode(), json.loads(metadata[_OUTSIDE_KEY.encode()])
        )
    except (FileNotFoundError, KeyError, pa.ArrowInvalid):
        return None


def write_partition(
    path: Path,
    pixel: Pixel,
    own: Sequence[TileFile],
    visitors: Sequence[TileFile],
    fields: tuple[Field, ...],
    results: Path,
) -> Outside:
    """Write the file of a partition.

    Parameters
    ----------
    path
        The file.
    pixel
        Order and pixel of the partition.
    own
        The tiles that lie in it.
    visitors
        The tiles known to have rows in it that are not at home there.
    fields
        Fields of the catalogue.
    results
        The folder of the results, below which `file` is given.

    Returns
    -------
    Outside
        Those of `own` with rows that are not at home. These rows are not in the file unless the
        tile is among `visitors`: the partition that they lie in may be another.

    Raises
    ------
    ValueError
        Where a tile's Parquet is not there or not the one that its marker is about.
    """
    order, number = pixel
    outside: Outside = {}
    late = _read_visitors(visitors, pixel, fields, results)
    ordered = sorted(own, key=lambda file: (_span(file.tile, order), file.tile))
    schema = arrow_schema(fields).with_metadata(
        {_CONTENT_KEY: content_hash(fields, [*own, *visitors])}
    )
    end = (number + 1) << 2 * (29 - order)
    with atomic_path(path) as temporary, open_writer(temporary, schema) as writer:
        for files, stop in _groups(ordered, order, end):
            table, away = _read_tiles(files, order, fields, results)
            if away.any():
                which = np.repeat(np.arange(len(files)), [file.n_rows for file in files])[away]
                places = as_numbers(table[HATS_INDEX].chunk(0))[away] >> 2 * (29 - order)
                for i, pixel_of in zip(which.tolist(), places.tolist(), strict=True):
                    outside.setdefault(files[i].tile, set()).add(pixel_of)
                table = table.filter(pa.array(~away))
            n_due = int(np.searchsorted(as_numbers(late[HATS_INDEX].chunk(0)), stop))
            _write_sorted(writer, pa.concat_tables([table, late[:n_due]]), fields)
            late = late[n_due:].combine_chunks()
        names = {tile.name: sorted(pixels) for tile, pixels in sorted(outside.items())}
        writer.add_key_value_metadata({_OUTSIDE_KEY: json.dumps(names)})
    return outside


def open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Open a Parquet file of scalars, sorted by position; to be closed by the caller."""
    rising = (HATS_INDEX, "row")
    floating = [field.name for field in schema if pa.types.is_floating(field.type)]
    plain = {*rising, *floating, "targetid"}
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=_ZSTD_LEVEL,
        use_dictionary=[name for name in schema.names if name not in plain],
        column_encoding=dict.fromkeys(floating, "BYTE_STREAM_SPLIT")
        | dict.fromkeys(rising, "DELTA_BINARY_PACKED"),
        sorting_columns=[pq.SortingColumn(schema.get_field_index(HATS_INDEX))],
        write_page_index=True,
    )


def set_primary(path: Path, flags: npt.NDArray[np.bool_]) -> None:
    """Write a partition's file again with another `is_primary`; nothing else changes."""
    first = 0
    with pq.ParquetFile(path) as parquet, atomic_path(path) as temporary:
        metadata = parquet.metadata.metadata
        schema = parquet.schema_arrow
        content = {_CONTENT_KEY: metadata[_CONTENT_KEY.encode()].decode()}
        fields = [_without_numbers(field) for field in schema]
        with open_writer(temporary, pa.schema(fields, metadata=content)) as writer:
            for group in range(parquet.num_row_groups):
                table = parquet.read_row_group(group)
                part = pa.array(flags[first : first + len(table)])
                first += len(table)
                position = schema.get_field_index("is_primary")
                table = table.set_column(position, writer.schema.field(position), part)
                writer.write_table(table.cast(writer.schema), row_group_size=ROW_GROUP)
            writer.add_key_value_metadata({_OUTSIDE_KEY: metadata[_OUTSIDE_KEY.encode()].decode()})


def _without_numbers(field: pa.Field) -> pa.Field:
    """Take Parquet's own field numbers out of a field's metadata."""
    kept = {k: v for k, v in (field.metadata or {}).items() if not k.startswith(b"PARQUET:")}
    return field.with_metadata(kept or None)


def home_partition(tile: Tile, order: int) -> int:
    """Return the partition of an order that a tile lies in; where it is larger, its first one."""
    return (tile.pixel << 2 * (29 - tile.order)) >> 2 * (29 - order)


def _span(tile: Tile, order: int) -> tuple[int, int]:
    """First pixel of order 29 in the tile, and the first after it or after its home partition."""
    first = tile.pixel << 2 * (29 - tile.order)
    return first, first + (1 << 2 * (29 - max(tile.order, order)))


def _groups(
    files: Sequence[TileFile], order: int, end: int
) -> Iterator[tuple[list[TileFile], int]]:
    """Part tiles, sorted by their place, into groups of one row group at most.

    A group ends where no tile goes on, so that the rows of one come all before those of the next.

    Yields
    ------
    files : list of TileFile
        At least one group comes, be it empty.
    stop : int
        Where the group ends, as a pixel of order 29.
    """
    group: list[TileFile] = []
    block: list[TileFile] = []
    for i, file in enumerate(files):
        block.append(file)
        stop = max(_span(one.tile, order)[1] for one in block)
        if i + 1 < len(files) and _span(files[i + 1].tile, order)[0] < stop:
            continue
        if group and sum(one.n_rows for one in group + block) > ROW_GROUP:
            yield group, _span(block[0].tile, order)[0]
            group = []
        group, block = group + block, []
    yield group, end


def _read_visitors(
    visitors: Sequence[TileFile], pixel: Pixel, fields: tuple[Field, ...], results: Path
) -> pa.Table:
    """Return the rows in this partition that are not at home, sorted by position."""
    order, number = pixel
    table, away = _read_tiles(visitors, order, fields, results)
    here = as_numbers(table[HATS_INDEX].chunk(0)) >> 2 * (29 - order) == number
    for i, file in enumerate(visitors):
        if home_partition(file.tile, order) != number:
            first = sum(one.n_rows for one in visitors[:i])
            away[first : first + file.n_rows] = True
    return table.filter(pa.array(here & away)).sort_by(HATS_INDEX).combine_chunks()


def _read_tiles(
    files: Sequence[TileFile], order: int, fields: Sequence[Field], results: Path
) -> tuple[pa.Table, npt.NDArray[np.bool_]]:
    """Read the scalars of tiles and add where they stand.

    Returns
    -------
    table : pyarrow.Table
        The fields of the catalogue but for `is_primary`, in one chunk.
    away : numpy.ndarray of bool
        Which rows are not at home.
    """
    schema = arrow_schema([field for field in fields if field.name != "is_primary"])
    scalars = [name for name in schema.names if name not in ("file", "row", "file_size")]
    with ThreadPoolExecutor(2) as threads:
        tables = list(threads.map(lambda file: _read_tile(file, scalars), files))
    empty = schema.empty_table().select(scalars)
    table = pa.concat_tables([empty, *tables]).combine_chunks()
    n_rows = [file.n_rows for file in files]
    names = pa.array([str(file.path.relative_to(results)) for file in files], pa.string())
    row = np.concatenate([np.arange(0), *map(np.arange, n_rows)])
    columns = {name: table[name] for name in scalars} | {
        "file": names.take(pa.array(np.repeat(np.arange(len(files)), n_rows))),
        "row": pa.array(row.astype(np.int32)),
        "file_size": pa.array(np.repeat([file.size for file in files], n_rows), pa.int64()),
    }
    spans = np.array([_span(file.tile, order) for file in files], np.int64).reshape(-1, 2)
    first, stop = np.repeat(spans, n_rows, axis=0).T
    places = as_numbers(table[HATS_INDEX].combine_chunks())
    away = (places < first) | (places >= stop)
    whole = pa.table([columns[name] for name in schema.names], schema=schema)
    return whole.combine_chunks(), away


def _read_tile(file: TileFile, scalars: list[str]) -> pa.Table:
    try:
        with pq.ParquetFile(file.path) as parquet:
            table = parquet.read(scalars, use_threads=False)
    except FileNotFoundError as error:
        raise ValueError(
            f"{file.path} is not there: snakemake verify clears such tiles, the next run makes them"
        ) from error
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file.path} cannot be read: {error}; run snakemake verify") from error
    if missing := sorted({*scalars}.difference(table.column_names)):
        raise ValueError(
            f"{file.path} lacks {', '.join(missing)}: other settings or another version made it; "
            "run the workflow to its end, then make the catalogue again"
        )
    if len(table) != file.n_rows:
        raise ValueError(
            f"{file.path} has {len(table)} rows, {file.n_rows} by its marker; run snakemake verify"
        )
    return table.select(scalars)


def _write_sorted(writer: pq.ParquetWriter, table: pa.Table, fields: tuple[Field, ...]) -> None:
    table = table.combine_chunks()
    order = np.argsort(as_numbers(table[HATS_INDEX].chunk(0)), kind="stable")
    table = table.take(pa.array(order))
    flags = find_primary(*primary_arguments(table, quality_field(fields)))
    arrays = [
        pa.array(flags) if field.name == "is_primary" else table[field.name] for field in fields
    ]
    writer.write_table(pa.table(arrays, schema=writer.schema), row_group_size=ROW_GROUP)


def primary_arguments(table: pa.Table, quality: str) -> tuple[Any, Any, Any]:
    """Return what `find_primary` needs of a table with `targetid`, `zwarn` and `quality`."""
    return (
        as_numbers(table["targetid"].combine_chunks()),
        pc.fill_null(pc.equal(table["zwarn"], 0), False).to_numpy(),
        pc.cast(table[quality], pa.float64()).to_numpy(),
    )
