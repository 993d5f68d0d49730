"""Reading the Parquet files where a reader needs help."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from astropy.table import Table


def read_astropy(path: Path | str) -> "Table":
    """Read a tile's Parquet file as an astropy table, with units and descriptions.

    astropy 8 has no place for a struct: `Table.read(path, format="parquet.votable")` stops at
    `rrdetails` (NotImplementedError). This reads all other columns in that very format.

    Parameters
    ----------
    path
        A file that this project wrote.

    Returns
    -------
    astropy.table.Table
        One row a target; the spectra are arrays of their pixels.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from astropy.table import Table

    with pq.ParquetFile(path) as source:
        simple = [field.name for field in source.schema_arrow if not pa.types.is_struct(field.type)]
        kept = source.read(simple)
        metadata = {**(kept.schema.metadata or {}), **source.metadata.metadata}
    metadata.pop(b"ARROW:schema", None)
    copy = BytesIO()
    pq.write_table(kept.replace_schema_metadata(metadata), copy)
    copy.seek(0)
    table = Table.read(copy, format="parquet.votable")
    return table[simple]
