"""How the record is written to Parquet: encodings, row groups, statistics.

The choices were measured; the figures are in docs/data-model.md.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from desi_fits_to_parquet.record.schema import HATS_INDEX, Field, arrow_schema

ROW_GROUP = 32
"""Targets in a row group, which is also what the fusion holds in memory at once.

To read one spectrum a reader decodes a row group: pages within it are skipped by none.
"""

ZSTD_LEVEL = 11

ZSTD_LEVEL_REPEATED = 18
"""Targets of a tile share sky and grid: the search for long matches pays in ivar (13 % less) and in
wavelength (a quarter less), not in flux (2 %)."""

_REPEATED = ("ivar", "wavelength", "lsf")

_PAGE_BYTES = 2 << 20

_STATISTICS = (
    HATS_INDEX,
    "targetid",
    "z",
    "zwarn",
    "deltachi2",
    "target_ra",
    "target_dec",
    "qso_maskbits",
)
"""Fields that readers filter on: they get minimum and maximum by row group."""


def open_writer(
    path: Path, fields: Sequence[Field], metadata: Mapping[str, str]
) -> pq.ParquetWriter:
    """Open a Parquet file for the record.

    Parameters
    ----------
    path
        The file to write.
    fields
        Fields of the record; the batches to be written have them in this order.
    metadata
        Key-value metadata of the file.

    Returns
    -------
    pyarrow.parquet.ParquetWriter
        To be closed by the caller.
    """
    # what stands in Arrow's schema is stored twice, and the VOTable is long
    own = {key: value for key, value in metadata.items() if not key.startswith("IVOA.")}
    schema = arrow_schema(fields).with_metadata(own)
    leaves = [_leaves(field.name, field.type) for field in fields]
    encodings: dict[str, str] = {}
    levels: dict[str, int] = {}
    dictionaries: list[str] = []
    for field, paths in zip(fields, leaves, strict=True):
        for leaf, kind in paths:
            repeated = field.name.removeprefix(f"{field.name[0]}_") in _REPEATED
            levels[leaf] = ZSTD_LEVEL_REPEATED if repeated else ZSTD_LEVEL
            if pa.types.is_string(kind) or field.name in (
                "mask",
                "mask_arms",
                "b_mask",
                "r_mask",
                "z_mask",
            ):
                dictionaries.append(leaf)
            else:
                # Parquet allows it for integers too, but DuckDB 1.4 reads floating point only
                split = pa.types.is_floating(kind)
                encodings[leaf] = "BYTE_STREAM_SPLIT" if split else "PLAIN"
    filtered = [f.name for f in fields if f.name in _STATISTICS]
    writer = pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=levels,
        use_dictionary=dictionaries,
        column_encoding=encodings,
        write_statistics=filtered,
        write_page_index=False,  # a column of a row group is one page: its statistics say the same
        data_page_size=_PAGE_BYTES,
        sorting_columns=[
            pq.SortingColumn(schema.get_field_index(name)) for name in (HATS_INDEX, "targetid")
        ],
        bloom_filter_options={"targetid": {"ndv": ROW_GROUP, "fpp": 0.01}},
    )
    writer.add_key_value_metadata({k: v for k, v in metadata.items() if k not in own})
    return writer


def encoded_size(values: npt.NDArray[np.float32], level: int) -> int:
    """Return how many bytes these values take as BYTE_STREAM_SPLIT and zstd, without a file."""
    streams = np.ascontiguousarray(values.reshape(-1, 1).view(np.uint8).T)
    return len(pa.Codec("zstd", level).compress(streams.tobytes()))


def _leaves(path: str, kind: pa.DataType) -> list[tuple[str, Any]]:
    """Return the Parquet columns of a field: their paths and types."""
    if pa.types.is_list(kind):
        return _leaves(f"{path}.list.element", kind.value_type)
    if pa.types.is_struct(kind):
        return [leaf for member in kind for leaf in _leaves(f"{path}.{member.name}", member.type)]
    return [(path, kind)]
