"""Reading datasets of an HDF5 file that nobody vouches for.

HDF5 follows links into other files, unpacks as much as compressed data claim to hold, and makes
Python objects of references and of text of variable length. Here a dataset is read only where hard
links lead to it, its data stand in the file itself, and it unpacks to no more than allowed.
"""

import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from desi_fits_to_parquet.outcomes import BadTile

if TYPE_CHECKING:
    import h5py


MAX_FITS_BYTES = 1 << 20
"""A target's table of fits has 4 kB; one that claims more than this is not read."""

MAX_SCAN_BYTES = 1 << 28
"""Chi2 of all targets against redshift for one template: tens of MB."""

MAX_CHUNK_BYTES = 1 << 24

HDF5_ERRORS = (OSError, KeyError, ValueError, RuntimeError, TypeError, MemoryError, OverflowError)
"""What h5py raises for a broken file, depending on where it is broken."""


@contextmanager
def open_hdf5(path: Path) -> Iterator["h5py.File"]:
    """Open an HDF5 file; `corrupt_source` where it is broken."""
    import h5py

    with hdf5_errors(path.name):
        file = h5py.File(path, "r")
    with file:
        yield file


@contextmanager
def hdf5_errors(file: str) -> Iterator[None]:
    """Turn what h5py raises for a broken file into `corrupt_source`."""
    try:
        yield
    except HDF5_ERRORS as error:
        raise BadTile(
            "corrupt_source", f"{file}: not a readable HDF5 file of redrock ({error})"
        ) from error


_DEFLATE, _SHUFFLE, _FLETCHER32 = 1, 2, 3


def find_object(parent: Any, name: str) -> Any:
    """Return the object of that name in a group (low-level identifiers), None where there is none.

    Raises
    ------
    ValueError
        Where a link leads out of the file or is symbolic, or the parent is no group.
    """
    from h5py import h5g, h5l, h5o

    if not isinstance(parent, h5g.GroupID):
        raise ValueError(f"{name} cannot be looked for: its parent is no group")
    key = name.encode()
    if not parent.links.exists(key):
        return None
    if parent.links.get_info(key).type != h5l.TYPE_HARD:
        raise ValueError(f"{name} is a link to elsewhere")
    return h5o.open(parent, key)


def check_dataset(dataset: Any, name: str, limit: int) -> np.dtype[Any]:
    """Assert that a dataset may be read whole, and return its dtype.

    Parameters
    ----------
    dataset
        A low-level identifier.
    name
        What to call it in messages.
    limit
        Bytes that it may unpack to.

    Raises
    ------
    ValueError
        Where it may not.
    """
    from h5py import h5d

    if not isinstance(dataset, h5d.DatasetID):
        raise ValueError(f"{name} is no dataset")
    dtype: np.dtype[Any] = np.dtype(dataset.get_type().dtype)
    if dtype.hasobject:
        raise ValueError(f"{name} holds references or text of variable length")
    size = math.prod(dataset.shape) * dtype.itemsize
    if size > limit:
        raise ValueError(f"{name} claims {size} bytes, at most {limit} are read")
    plan = dataset.get_create_plist()
    if plan.get_layout() == h5d.VIRTUAL or plan.get_external_count():
        raise ValueError(f"{name} has its data in other files")
    if plan.get_layout() == h5d.CHUNKED:
        _check_chunks(dataset, plan, name, dtype.itemsize)
    return dtype


def _check_chunks(dataset: Any, plan: Any, name: str, itemsize: int) -> None:
    """Unpack each chunk within bounds: HDF5 itself would unpack whatever a chunk gives."""
    from h5py import h5i

    descriptor = h5i.get_file_id(dataset).get_vfd_handle()
    nominal = math.prod(plan.get_chunk()) * itemsize
    if nominal > MAX_CHUNK_BYTES:
        raise ValueError(f"{name} has chunks of {nominal} bytes, more than are read")
    filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
    if filters not in (
        [], [_DEFLATE], [_SHUFFLE], [_SHUFFLE, _DEFLATE], [_DEFLATE, _FLETCHER32],
        [_SHUFFLE, _DEFLATE, _FLETCHER32], [_FLETCHER32], [_SHUFFLE, _FLETCHER32],
    ):  # fmt: skip
        raise ValueError(f"{name} is compressed in an unusual way (filters {filters})")
    for i in range(dataset.get_num_chunks()):
        chunk = dataset.get_chunk_info(i)
        if chunk.size > nominal + nominal // 8 + 1024:
            raise ValueError(f"{name} has a chunk of {chunk.size} bytes for {nominal}")
        # a filter that does not pay, as gzip of noise, may be left out for a chunk
        active = [f for place, f in enumerate(filters) if not chunk.filter_mask >> place & 1]
        if _DEFLATE not in active:
            if chunk.size != nominal + 4 * (_FLETCHER32 in active):
                raise ValueError(f"{name} has a chunk of {chunk.size} bytes for {nominal}")
        else:
            # by its place in the file: HDF5 2.0 gives a wrong index where not the first axis grows
            packed = os.pread(descriptor, chunk.size, chunk.byte_offset)
            try:
                text = zlib.decompressobj().decompress(packed, nominal + 1)
            except zlib.error as error:
                raise ValueError(f"{name}: a chunk cannot be unpacked ({error})") from error
            if len(text) != nominal:
                raise ValueError(f"{name}: a chunk unpacks to another size than {nominal} bytes")


def read_dataset(parent: Any, name: str, limit: int, ndim: int) -> "h5py.Dataset":
    """Return a dataset of numbers of a group (low-level identifier) to be read in parts.

    Raises
    ------
    ValueError, KeyError
        Where it is not there, of another shape, or may not be read; see `check_dataset`.
    """
    import h5py

    dataset = find_object(parent, name)
    if dataset is None:
        raise KeyError(f"{name} is not there")
    dtype = check_dataset(dataset, name, limit)
    if dtype.kind not in "iuf" or len(dataset.shape) != ndim:
        raise ValueError(f"{name} holds {dtype} of shape {dataset.shape}")
    return h5py.Dataset(dataset)


def read_fit_tables(
    details: "h5py.File", targets: Iterable[int], columns: Mapping[str, str]
) -> dict[int, npt.NDArray[Any]]:
    """Read `/zfit/{targetid}/zfit` of those targets that have it.

    With h5py's low-level calls, which need a quarter of the CPU: the type of the tables, always
    the same one, is made into numpy's only once.

    Parameters
    ----------
    details
        The opened file.
    targets
        TARGETIDs.
    columns
        What the tables must have at least: name and kinds of numpy's dtype, such as `iuf`.

    Returns
    -------
    dict of int to ndarray
        Structured arrays of shape (n_fits,).

    Raises
    ------
    ValueError, and what else h5py raises
        Where a table is of another form, or may not be read; see `check_dataset`.
    """
    from h5py import h5g, h5s

    tables: dict[int, npt.NDArray[Any]] = {}
    known: tuple[Any, np.dtype[Any]] | None = None
    zfit = find_object(h5g.open(details.id, b"/"), "zfit")
    if zfit is None:
        return tables
    for target in targets:
        group = find_object(zfit, str(target))
        table = find_object(group, "zfit") if group is not None else None
        if table is None:
            continue
        name = f"/zfit/{target}/zfit"
        dtype = check_dataset(table, name, MAX_FITS_BYTES)
        kind = table.get_type()
        if known is None or not known[0].equal(kind):
            _check_columns(dtype, columns, name)
            known = kind, dtype
        if len(table.shape) != 1:
            raise ValueError(f"{name} has shape {table.shape}, not one dimension")
        tables[target] = np.zeros(table.shape, known[1])
        table.read(h5s.ALL, h5s.ALL, tables[target], kind)
    return tables


def _check_columns(dtype: np.dtype[Any], columns: Mapping[str, str], name: str) -> None:
    for column, kinds in columns.items():
        found = dtype.fields[column][0] if dtype.fields and column in dtype.fields else None
        if found is None or found.kind not in kinds:
            raise ValueError(f"{name} has no column {column} of the usual type (but {found})")
