"""Fetching of rrdetails only the best fits of the selected targets, as an HDF5 file of its own.

h5py reads through what was fetched, one small piece after the other, and over a far link each
would cost a round trip. So the groups of redrock's files are first walked breadth first, all
targets at a time, only to fetch what h5py is going to ask for: what this walk does not understand
(it knows the oldest form of HDF5's groups, which h5py writes by default) is fetched on demand.

Source: HDF5 File Format Specification 3.0, https://support.hdfgroup.org/documentation/hdf5/latest/
"""

import io
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from desi_fits_to_parquet.archive.link import PART_BYTES
from desi_fits_to_parquet.archive.plan import Cost
from desi_fits_to_parquet.archive.remote import RemoteFile
from desi_fits_to_parquet.files import atomic_path
from desi_fits_to_parquet.formats.hdf5 import HDF5_ERRORS, MAX_FITS_BYTES, read_fit_tables
from desi_fits_to_parquet.outcomes import BadTile

if TYPE_CHECKING:
    import h5py


BYTES_A_TARGET = 6000
"""Fetched of `/zfit` for a selected target: 3.6 kB of fits and what leads there."""

BYTES_A_NAME = 70
"""Fetched of `/zfit` for each target of the tile: its name and its entry in the group."""

ROUNDS = 8
"""Requests that await one another: superblock, groups level by level, data."""

COMPARED = dict.fromkeys(("z", "zerr", "chi2"), "f")
"""Columns of the fits that are compared with redrock's."""

MAX_HEAP_BYTES = 1 << 25

MAX_NODES = 1 << 16
"""Names of links, and nodes of their trees, that are read ahead: a tile's have 1 MB and 2,000."""

_BEFORE = 640

_BEHIND = 7 << 10
"""Read around the tree of a target's group: most of its other parts and its fits are there."""

_NODE = 544

_SYMBOLS = 328

_OBJECT = 640

_GUESS = 512
"""Bytes of a tree's node, of a leaf with its symbols, of the header of a table of fits; and what
HDF5 reads of a heap at first."""


def whole_is_cheaper(cost: Cost, size: int, n_targets: int, n_selected: int) -> bool:
    """Tell whether fetching the whole file takes less time than what some targets need of it."""
    requests = 3 * n_selected + n_targets // 5
    amount = n_selected * BYTES_A_TARGET + n_targets * BYTES_A_NAME
    whole = cost.seconds(-(-size // PART_BYTES), size)
    return whole <= cost.seconds(requests, amount, ROUNDS)


def fetch_best_fits(
    remote: RemoteFile, path: Path, targetid: npt.NDArray[np.int64]
) -> dict[int, npt.NDArray[Any]]:
    """Write `/targetids` and `/zfit/{targetid}/zfit` of some targets as the source has them.

    Parameters
    ----------
    remote
        The rrdetails file.
    path
        The file to write.
    targetid
        The targets, int64, shape (n,); those without fits are left out.

    Returns
    -------
    dict of int to ndarray
        The table of fits of each target that has one.

    Raises
    ------
    BadTile
        `corrupt_source` where the file is no HDF5 file of redrock.
    """
    import h5py

    name = remote.source["key"].rpartition("/")[2]
    with suppress(struct.error, _Unknown):  # h5py knows more, and asks for what it needs
        _prefetch(remote, targetid.tolist())
    reader = _Reader(remote)
    try:
        with h5py.File(reader, "r") as details:
            fits = read_fit_tables(details, targetid.tolist(), COMPARED)
    except HDF5_ERRORS as error:
        if reader.failure:  # h5py puts its own error in place of the archive's
            raise reader.failure from error
        raise BadTile(
            "corrupt_source", f"{name}: not a readable HDF5 file of redrock ({error})"
        ) from error
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as out:
        _write_fits(out, fits)
    return fits


def _write_fits(out: "h5py.File", fits: Mapping[int, npt.NDArray[Any]]) -> None:
    from h5py import h5d, h5p, h5s, h5t

    parents = h5p.create(h5p.LINK_CREATE)
    parents.set_create_intermediate_group(True)
    timeless = h5p.create(h5p.DATASET_CREATE)
    timeless.set_obj_track_times(False)  # the same fits give the same bytes
    dtypes = {id(table.dtype): table.dtype for table in fits.values()}  # hashing one is slow
    kinds = {key: h5t.py_create(dtype, logical=True) for key, dtype in dtypes.items()}
    for target, table in fits.items():
        kind = kinds[id(table.dtype)]
        name = f"zfit/{target}/zfit".encode()
        shape = h5s.create_simple(table.shape)
        copy = h5d.create(out.id, name, kind, shape, timeless, lcpl=parents)
        copy.write(h5s.ALL, h5s.ALL, table, kind)
    out["targetids"] = np.array(list(fits), np.int64)


class _Reader(io.RawIOBase):
    """What h5py reads from; what is missing is fetched, more at a time the more often it is."""

    def __init__(self, remote: RemoteFile) -> None:
        self._remote = remote
        self._position = 0
        self._ahead = 8 << 10
        self.failure: Exception | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    @property
    def _size(self) -> int:
        return self._remote.source["size"]

    def readinto(self, buffer: Any) -> int:
        length = max(min(len(buffer), self._size - self._position), 0)
        try:
            if not self._remote.has(self._position, length):
                self._ahead = min(2 * self._ahead, 1 << 20)
                self._remote.prefetch([(self._position, self._position + self._ahead)])
            buffer[:length] = self._remote.read_at(self._position, length)
        except Exception as error:
            self.failure = error
            raise
        self._position += length
        return length


# ---------------------------------------------------------------------------- the walk ahead


class _Unknown(Exception):
    """The file is of a form that the walk does not know."""


class _Group(NamedTuple):
    """Where the tree of a group's links and the heap of their names are."""

    tree: int
    heap: int


class _Link(NamedTuple):
    header: int
    group: _Group | None


def _prefetch(remote: RemoteFile, targets: Iterable[int]) -> None:
    """Fetch what leads to the fits of some targets, and the fits."""
    remote.prefetch([(0, 4096)])
    start = _read(remote, 0, 96)
    if start[:8] != b"\x89HDF\r\n\x1a\n" or start[8] != 0 or start[13:15] != b"\x08\x08":
        raise _Unknown
    root = _Group(*struct.unpack("<2Q", start[80:96]))
    zfit = _links(remote, [root], [b"zfit"])[0].get(b"zfit")
    if zfit is None or zfit.group is None:
        raise _Unknown
    names = sorted(str(target).encode() for target in targets)
    found = _links(remote, [zfit.group], names)[0].values()
    groups = [link.group for link in found if link.group]
    remote.prefetch(
        [(link.header, link.header + _OBJECT) for link in (zfit, *found)]
        + [(group.tree - _BEFORE, group.tree + _BEHIND) for group in groups]
    )
    tables = [link.header for links in _links(remote, groups, [b"zfit"]) for link in links.values()]
    remote.prefetch((table, table + _OBJECT) for table in tables)
    remote.prefetch(_data_of(remote, table) for table in tables)


def _links(
    remote: RemoteFile, groups: list[_Group], wanted: list[bytes]
) -> list[dict[bytes, _Link]]:
    """Return of each group the links of the wanted names (sorted) that it has.

    Each level of all the groups' trees is fetched at once.
    """
    remote.prefetch(
        [(group.tree, group.tree + _NODE) for group in groups]
        + [(group.heap, group.heap + _GUESS) for group in groups]
    )
    segments = []
    for group in groups:
        signature, size, _, start = struct.unpack("<4s4x3Q", _read(remote, group.heap, 32))
        if signature != b"HEAP":
            raise _Unknown
        segments.append((start, start + size))
    if sum(stop - start for start, stop in segments) > MAX_HEAP_BYTES:
        raise _Unknown
    remote.prefetch(segments)
    heaps = [_read(remote, start, stop - start) for start, stop in segments]
    links: list[dict[bytes, _Link]] = [{} for _ in groups]
    level = [(i, group.tree) for i, group in enumerate(groups)]
    seen = 0
    while level:
        seen += len(level)
        if seen > MAX_NODES:  # a tree that leads back into itself
            raise _Unknown
        leaves: list[tuple[int, int]] = []
        below: list[tuple[int, int]] = []
        for i, address in level:
            depth, children = _children(_read(remote, address, _NODE), heaps[i], wanted)
            (below if depth else leaves).extend((i, child) for child in children)
        remote.prefetch(
            [(address, address + _SYMBOLS) for _, address in leaves]
            + [(address, address + _NODE) for _, address in below]
        )
        for i, address in leaves:
            links[i].update(_symbols(_read(remote, address, _SYMBOLS), heaps[i], set(wanted)))
        level = below
    return links


def _children(node: bytes, heap: bytes, wanted: list[bytes]) -> tuple[int, list[int]]:
    """Return depth and children of a node of a group's tree, of those that may hold the names.

    A child's names are those behind the key before it, up to the key after it.
    """
    signature, kind, depth, used = struct.unpack_from("<4s2BH", node)
    if signature != b"TREE" or kind != 0 or used > 32:
        raise _Unknown
    numbers = struct.unpack_from(f"<{2 * used + 1}Q", node, 24)
    keys = [_name(heap, at) for at in numbers[::2]]
    return depth, [
        child
        for child, low, high in zip(numbers[1::2], keys, keys[1:], strict=False)
        if bisect_right(wanted, low) < bisect_right(wanted, high)
    ]


def _symbols(leaf: bytes, heap: bytes, wanted: set[bytes]) -> Iterator[tuple[bytes, _Link]]:
    """Give names and links of a leaf of a group's tree, of those wanted."""
    signature, count = struct.unpack_from("<4s2xH", leaf)
    if signature != b"SNOD":
        raise _Unknown
    for entry in range(8, 8 + 40 * min(count, 8), 40):
        at, header, kind, tree, heap_at = struct.unpack_from("<2QI4x2Q", leaf, entry)
        name = _name(heap, at)
        if name in wanted:
            yield name, _Link(header, _Group(tree, heap_at) if kind == 1 else None)


def _read(remote: RemoteFile, offset: int, length: int) -> bytes:
    """Return what the file has of these bytes; parts at its end may be shorter than they can be."""
    length = min(length, remote.source["size"] - offset)
    if length <= 0:
        raise _Unknown
    return remote.read_at(offset, length)


def _name(heap: bytes, at: int) -> bytes:
    return heap[at : heap.find(b"\0", at)]


def _data_of(remote: RemoteFile, table: int) -> tuple[int, int]:
    """Return where the data of a table are, after the layout message of its header.

    Where it has none of the expected form, nothing.
    """
    header = _read(remote, table, _OBJECT)
    version, size = struct.unpack_from("<B7xI", header)
    position, end = 16, min(16 + size, len(header)) if version == 1 else 0
    while position + 26 <= end:
        kind, length = struct.unpack_from("<2H", header, position)
        if kind == 8 and header[position + 8 : position + 10] == b"\x03\x01":
            start, amount = struct.unpack_from("<2Q", header, position + 10)
            return start, start + min(amount, MAX_FITS_BYTES)
        position += 8 + length
    return table, table
