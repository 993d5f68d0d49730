"""Reading the Parquet files where a reader needs help."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from desi_fits_to_parquet.convert import to_astropy

if TYPE_CHECKING:
    from astropy.table import QTable


def read_astropy(path: Path | str, columns: Sequence[str] | None = None) -> "QTable":
    """Read spectra as an astropy table, with units and descriptions.

    The spectra of one row are a row of a two-dimensional column, which can be computed with and
    written to FITS. Columns that are structs (`rrdetails`), for which astropy has no place, are
    left out. Fluxes of the Legacy Surveys, in the files in nanomaggies, are in uJy, the scale of
    a unit in FITS being a power of ten: `table["flux_r"].to("mag(AB)")` gives magnitudes.

    Parameters
    ----------
    path
        A tile's Parquet file; a folder, of which all such files are read; or the folder of the
        results, which stands for its `parquet/`.
    columns
        Names of columns, by default all but structs. All of `flux`, `ivar`, `mask`, `wavelength`
        take 155 kB a target.

    Returns
    -------
    astropy.table.QTable
        One row a target, in the order of the files' names; `flux` is a quantity of shape
        (n, npix). Where lists of a column differ in length, the shorter ones end in masked values.

    Raises
    ------
    FileNotFoundError
        Where there is no such file, or no Parquet file below the folder.
    ValueError
        Where a column is asked for that is not there, or is a struct.
    """
    path = Path(path)
    if (path / "parquet").is_dir():
        path = path / "parquet"
    files = [path] if not path.is_dir() else sorted(path.rglob("[!._]*.parquet"))
    if not files:
        raise FileNotFoundError(f"{path}: no Parquet file is in this folder")
    tables = []
    for file in files:
        with pq.ParquetFile(file) as source:
            schema = source.schema_arrow
            simple = [field.name for field in schema if not pa.types.is_struct(field.type)]
            if unknown := [name for name in columns or () if name not in simple]:
                raise ValueError(
                    f"{file} has no column {', '.join(unknown)} that astropy has a place for; "
                    f"it has {', '.join(simple)}"
                )
            tables.append(source.read(simple if columns is None else list(columns)))
    try:
        table = pa.concat_tables(tables, promote_options="default")
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{path}: its files were made with different settings ({error}); name one survey and "
            "program, or the columns that they share"
        ) from error
    return to_astropy(table)


def read_rows(
    results: Path | str,
    files: Iterable[str],
    rows: Iterable[int],
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Read single rows of tiles, found by `file` and `row` of the catalogue.

    Of each file only the row groups are read that hold a wanted row: 100 spectra over the sky take
    half a second of CPU, a third of what DuckDB needs for the same.

    Parameters
    ----------
    results
        The folder of the results.
    files, rows
        What the catalogue says of each row wanted, both of the same length.
    columns
        Names of columns, all by default.

    Returns
    -------
    pyarrow.Table
        One row for each wanted, in their order.

    Raises
    ------
    ValueError
        Where `files` and `rows` differ in length, or a file lacks a column.
    IndexError
        Where a file has no such row.
    FileNotFoundError
        Where there is no such file.
    """

    def open_file(file: str, *_: Any) -> pq.ParquetFile:
        return pq.ParquetFile(Path(results, file))

    return gather_rows(open_file, files, rows, columns)


Opener = Callable[[str, Sequence[int], Sequence[str] | None], pq.ParquetFile]
"""Opens a file by its name, told which rows and columns of it will be read."""


def gather_rows(
    open_file: Opener,
    files: Iterable[str],
    rows: Iterable[int],
    columns: Sequence[str] | None = None,
    threads: int | None = None,
) -> pa.Table:
    """Read single rows of files, wherever these are: `read_rows` with the way to open them.

    Parameters
    ----------
    open_file
        Called once for each file, in any thread.
    files, rows, columns
        As in `read_rows`.
    threads
        How many files are read at once; by default some more than there are cores.

    Raises
    ------
    ValueError, IndexError
        As `read_rows`, and what `open_file` raises.
    """
    wanted: dict[str, list[tuple[int, int]]] = {}
    for place, (file, row) in enumerate(zip(files, rows, strict=True)):
        wanted.setdefault(str(file), []).append((int(row), place))

    def read(file: str, pairs: list[tuple[int, int]]) -> pa.Table:
        numbers = [row for row, _ in pairs]
        with open_file(file, numbers, columns) as parquet:
            return _read_rows(file, parquet, numbers, columns)

    pairs = [sorted(pairs) for pairs in wanted.values()]
    with ThreadPoolExecutor(threads) as pool:
        tables = list(pool.map(read, wanted, pairs))
    places = np.array([place for some in pairs for _, place in some], np.int64)
    found = pa.concat_tables(tables) if tables else pa.table({})
    in_order = (places[1:] > places[:-1]).all()
    return found if in_order else found.take(pa.array(np.argsort(places)))


def group_rows(metadata: pq.FileMetaData, rows: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Return the row groups that hold any of some rising rows, and these rows within each."""
    groups, first = [], 0
    for group in range(metadata.num_row_groups):
        stop = first + metadata.row_group(group).num_rows
        here = [row - first for row in rows if first <= row < stop]
        if here:
            groups.append((group, here))
        first = stop
    return groups


def _read_rows(
    file: str, parquet: pq.ParquetFile, rows: list[int], columns: Sequence[str] | None
) -> pa.Table:
    """Read rows of one file; `rows` rise."""
    names = parquet.schema_arrow.names
    if missing := [name for name in columns or () if name.split(".")[0] not in names]:
        raise ValueError(f"{file} has no column {', '.join(missing)}; it has {', '.join(names)}")
    tables = []
    for group, here in group_rows(parquet.metadata, rows):
        table = parquet.read_row_group(group, columns, use_threads=False)
        tables.append(table if here == list(range(len(table))) else table.take(pa.array(here)))
    if sum(map(len, tables)) < len(rows):
        raise IndexError(
            f"{file} has {parquet.metadata.num_rows} rows: not all of {rows} are there"
        )
    return pa.concat_tables(tables)
