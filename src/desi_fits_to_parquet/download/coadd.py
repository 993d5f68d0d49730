"""Fetching of a coadd only the rows of the selected targets, as a valid FITS file of its own."""

import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from desi_fits_to_parquet.archive.link import Link
from desi_fits_to_parquet.archive.plan import plan_requests, split_ranges
from desi_fits_to_parquet.archive.remote import Range, RemoteFile
from desi_fits_to_parquet.columns import EXTRA_HDUS, RESOLUTION_CORE
from desi_fits_to_parquet.download.whole import header_agrees
from desi_fits_to_parquet.files import atomic_path
from desi_fits_to_parquet.formats.fits import Fits, Hdu, read_fits
from desi_fits_to_parquet.formats.fits_header import (
    BLOCK,
    change_cards,
    padded,
)
from desi_fits_to_parquet.formats.fits_images import (
    NO_TILE,
    broken_tile,
    contiguous_runs,
    heap_start,
    is_compressed,
    rows_text,
    source_row,
)
from desi_fits_to_parquet.formats.fits_sums import ones_complement_sum, verify_datasum
from desi_fits_to_parquet.formats.fits_tables import MAX_TABLE_BYTES, read_columns, table_columns
from desi_fits_to_parquet.formats.fits_write import close_header
from desi_fits_to_parquet.outcomes import BadTile
from desi_fits_to_parquet.record.arms import CAMERAS
from desi_fits_to_parquet.record.selection import check_row_match, match_rows
from desi_fits_to_parquet.record.spectra import QUANTITIES, check_images
from desi_fits_to_parquet.tiles_csv import Source

Rows = npt.NDArray[np.int64]

HEAD_BYTES = 64 << 10
"""Holds PRIMARY and the header of FIBERMAP (5 and 20 kB in DR1), and begins FIBERMAP's rows."""

AHEAD_BYTES = 32 << 10
"""Read at a header that is not here yet: header, wavelengths (23 kB) and the next header."""

MAX_FIBERMAP_BYTES = 16 << 20

_WAVELENGTHS = {"B": 2751, "R": 2326, "Z": 2881}

CORE = 3
"""Diagonals of RESOLUTION that `columns.RESOLUTION_CORE` asks for."""

_DIAGONALS = 11
"""The layout of DR1, to guess where headers are; what is guessed wrong is found by walking."""


class FetchWhole(Exception):
    """The rows cannot be fetched alone, or what came of them is in doubt; says why."""


class Copied(NamedTuple):
    """Where bytes of the source went: `source_start` to `stop` lie `shift` further in the file."""

    source_start: Rows
    source_stop: Rows
    shift: Rows


def fetch_coadd_rows(
    link: Link,
    remote: RemoteFile,
    path: Path,
    expected: npt.NDArray[np.int64],
    selected: npt.NDArray[np.int64],
    extra: Collection[str],
    origin: Source | None = None,
) -> Copied:
    """Fetch the rows of selected targets and write them as a coadd with fewer rows.

    The file has the HDUs that are fetched (PRIMARY, FIBERMAP, of each arm WAVELENGTH, FLUX, IVAR
    and MASK, and those of `extra`) with the source's keywords and order of rows. PRIMARY says
    where they are from: `SRCKEY`, `SRCETAG`, `SRCNROWS` (rows of the source) and `SRCROWS` (those
    that are here, counted from 0, such as `3,8-9`). Of a file that has these keywords already, they
    go on to name that one's source.

    Parameters
    ----------
    link
        Fetches.
    remote
        The coadd; it keeps what is fetched of headers and tables.
    path
        The file to write.
    expected
        TARGETIDs of redrock's REDSHIFTS, int64, shape (ntarget,).
    selected
        TARGETIDs of the rows wanted, int64, shape (n,), at least one.
    extra
        What else to fetch of the selected targets, of `columns.EXTRA_HDUS`; what the coadd does
        not have is passed over. With `columns.RESOLUTION_CORE` each RESOLUTION comes with its three
        diagonals in the middle alone, a band matrix still.
    origin
        The object that PRIMARY is to name where `remote` is a copy of it.

    Returns
    -------
    Copied
        Where the image rows went.

    Raises
    ------
    BadTile
        `corrupt_source` where structure or row match are wrong.
    FetchWhole
        Where a header or table does not agree with its sums, or MASK is compressed in tiles that
        are not rows.
    """
    source = remote.source
    name = source["key"].rpartition("/")[2]
    fits = read_fits(_walk(remote, len(expected)), source["size"], name, ahead=2 * BLOCK)
    fits = Fits(remote.read_at, fits.hdus, name)
    if max(hdu.end for hdu in fits.hdus.values()) != source["size"]:
        raise FetchWhole("the file does not end where its last HDU does")
    for hdu in fits.hdus:
        if not header_agrees(fits, hdu):
            raise FetchWhole(f"the header of HDU {hdu} does not agree with its CHECKSUM")
    kept = {hdu: part for hdu in fits.hdus if (part := _part_of(hdu, extra))}
    images = {hdu for hdu, part in kept.items() if part == "rows" and _is_plain(fits, hdu)}
    for hdu in kept.keys() - images:  # these are held in memory
        if fits.hdus[hdu].data_size > MAX_TABLE_BYTES:
            size = fits.hdus[hdu].data_size
            raise BadTile("corrupt_source", f"{name}: HDU {hdu} claims {size} bytes")
    _check_data(fits, "FIBERMAP")
    found = read_columns(fits, "FIBERMAP", ("TARGETID",))["TARGETID"].astype(np.int64)
    check_row_match(expected, found, "HDU FIBERMAP", name)
    check_images(fits, len(found), any("RESOLUTION" in hdu for hdu in kept))
    rows = np.sort(match_rows(selected, found))

    if not images:
        raise FetchWhole("all images are compressed")
    rows_of = {hdu: rows for hdu, part in kept.items() if part == "rows"}
    for table in kept.keys() & {"SCORES", "EXP_FIBERMAP"}:
        start, size = fits.hdus[table].data_start, fits.hdus[table].data_size
        remote.prefetch([(start, start + size)])
        _check_data(fits, table)
        targets = read_columns(fits, table, ("TARGETID",))["TARGETID"].astype(np.int64)
        if table == "EXP_FIBERMAP":
            rows_of[table] = np.flatnonzero(np.isin(targets, selected))
        elif not np.array_equal(targets, found):
            raise FetchWhole("the rows of HDU SCORES are not those of FIBERMAP")
    remote.prefetch(_table_ranges(fits, kept, images, rows_of))
    remote.prefetch(
        heap_range
        for hdu in kept
        if is_compressed(fits.hdus[hdu])
        for _, _, heap_range in _heap_ranges(fits, hdu, rows)
    )
    parts: list[tuple[bytes, int, bytes | None]] = []
    for hdu, part in kept.items():
        if part == "whole":
            _check_data(fits, hdu)
        parts.append(_reduce(fits, hdu, rows_of.get(hdu), plain=hdu in images))
    windows = {}
    if "RESOLUTION" not in extra:
        windows = {hdu: _core(fits.hdus[hdu]) for hdu in images if hdu.endswith("_RESOLUTION")}
    for i, hdu in enumerate(kept):
        if hdu in windows:
            length = windows[hdu][1] - windows[hdu][0]
            parts[i] = (change_cards(parts[i][0], {"NAXIS2": CORE}), length * len(rows), None)
    provenance = _provenance(fits, origin or source, len(found), rows)
    parts[0] = (change_cards(parts[0][0], provenance), *parts[0][1:])
    with atomic_path(path) as temporary, temporary.open("w+b") as stream:
        return _write(link, source, fits, stream.fileno(), list(kept), parts, rows, windows)


def predict_headers(start: int, n_rows: int) -> list[Range]:
    """Guess where the headers behind that of B_WAVELENGTH are, in the layout of DR1.

    Parameters
    ----------
    start
        Where the header of B_WAVELENGTH begins.
    n_rows
        Number of targets.

    Returns
    -------
    list of tuple of int
        Ranges in bytes; those of a wavelength hold its data and the header of the flux.
    """
    ranges = []
    position = start
    for n_wave in _WAVELENGTHS.values():
        wave_size = BLOCK + padded(8 * n_wave)
        ranges.append((position, position + wave_size + BLOCK))
        position += wave_size
        for depth in (1, 1, 1, _DIAGONALS):  # FLUX, IVAR, MASK, RESOLUTION
            ranges.append((position, position + 2 * BLOCK))
            position += BLOCK + padded(4 * depth * n_wave * n_rows)
    ranges.append((position, position + 4 * BLOCK))
    return ranges


def _walk(remote: RemoteFile, n_rows: int) -> Callable[[int, int], bytes]:
    """Return a `read_at` for walking the headers that fetches ahead of the walk."""
    remote.prefetch([(0, HEAD_BYTES)])
    guessed = False

    def read_at(offset: int, length: int) -> bytes:
        nonlocal guessed
        if not remote.has(offset, length):
            begin = offset
            if HEAD_BYTES < offset <= MAX_FIBERMAP_BYTES and not remote.has(HEAD_BYTES, 1):
                begin = HEAD_BYTES  # the first jump goes over FIBERMAP, which is needed too
            remote.prefetch([(begin, offset + AHEAD_BYTES)])
        data = remote.read_at(offset, length)
        if not guessed and re.search(rb"EXTNAME = 'B_WAVELENGTH *'", data[:BLOCK]):
            guessed = True
            remote.prefetch(predict_headers(offset, n_rows))
        return data

    return read_at


def _check_data(fits: Fits, name: str) -> None:
    if name in fits.hdus and verify_datasum(fits, name) is False:
        raise FetchWhole(f"HDU {name} does not agree with its DATASUM")


def _part_of(hdu: str, extra: Collection[str]) -> str:
    """Say what of an HDU is wanted: `whole`, `rows`, or nothing."""
    arms = "|".join(CAMERAS)
    if hdu == "PRIMARY" or re.fullmatch(f"({arms})_WAVELENGTH", hdu):
        return "whole"
    if hdu == "FIBERMAP" or re.fullmatch(f"({arms})_({'|'.join(QUANTITIES)})", hdu):
        return "rows"
    if re.fullmatch(f"({arms})_RESOLUTION", hdu):
        return "rows" if {"RESOLUTION", RESOLUTION_CORE} & {*extra} else ""
    return "rows" if hdu in EXTRA_HDUS and hdu in extra else ""


def _is_plain(fits: Fits, name: str) -> bool:
    return fits.hdus[name].header.get("XTENSION") == "IMAGE"


def _stride(hdu: Hdu) -> int:
    """Return the bytes of a row of an image or a table."""
    axes = [int(hdu.header[f"NAXIS{i}"]) for i in range(1, int(hdu.header["NAXIS"]))]
    return abs(int(hdu.header["BITPIX"])) // 8 * math.prod(axes)


def _core(hdu: Hdu) -> Range:
    """Return where, in a row of RESOLUTION, the diagonals in the middle are."""
    line = _stride(hdu) // int(hdu.header["NAXIS2"])
    first = int(hdu.header["NAXIS2"]) // 2 - CORE // 2
    return first * line, (first + CORE) * line


def _table_ranges(
    fits: Fits, kept: Mapping[str, str], images: set[str], rows_of: Mapping[str, Rows]
) -> Iterator[Range]:
    """Give the ranges of all that is kept but rows of plain images and heaps of masks."""
    for name, part in kept.items():
        hdu = fits.hdus[name]
        if part == "whole":
            yield hdu.data_start, hdu.data_start + hdu.data_size
        elif is_compressed(hdu):
            _check_tiling(hdu)
            yield hdu.data_start, hdu.data_start + _stride(hdu) * int(hdu.header["NAXIS2"])
        elif name not in images:
            for row in rows_of[name].tolist():
                yield (
                    hdu.data_start + row * _stride(hdu),
                    hdu.data_start + (row + 1) * _stride(hdu),
                )


def _check_tiling(hdu: Hdu) -> None:
    header = hdu.header
    by_row = header.get("ZTILE1", header.get("ZNAXIS1")) == header.get("ZNAXIS1")
    if not by_row or header.get("ZTILE2", 1) != 1 or header.get("NAXIS2") != header.get("ZNAXIS2"):
        raise FetchWhole(f"HDU {hdu.name} is compressed in tiles that are not its rows")


def _heap_ranges(fits: Fits, name: str, rows: Rows) -> Iterator[tuple[int, int, Range]]:
    """Give what rows of a compressed image have in the heap.

    Yields
    ------
    tuple
        Position in `rows`, offset of the descriptor in the row, range in the file.
    """
    hdu = fits.hdus[name]
    width, height = int(hdu.header["NAXIS1"]), int(hdu.header["NAXIS2"])
    gap = heap_start(fits, hdu)
    heap = hdu.data_start + gap
    claimed = 0
    table = fits.read_at(hdu.data_start, width * height)
    for number, column in enumerate(table_columns(fits, name).values(), 1):
        if column.form not in "PQ":
            continue
        form = re.fullmatch(r"\d*[PQ]([LBIJKED]).*", str(hdu.header[f"TFORM{number}"]).strip())
        if form is None:
            raise FetchWhole(f"HDU {name}: column {column.name} is of an unusual type")
        size = {"L": 1, "B": 1, "I": 2, "J": 4, "E": 4, "K": 8, "D": 8}[form[1]]
        for i, row in enumerate(rows.tolist()):
            at = row * width + column.offset
            count, offset = np.frombuffer(table, column.dtype.base, 2, at).tolist()
            claimed += count * size
            end = gap + offset + count * size
            if min(count, offset) < 0 or max(end, gap + claimed) > hdu.data_size:
                raise broken_tile(fits, name, row, NO_TILE)
            yield i, column.offset, (heap + offset, heap + offset + count * size)


def _reduce(
    fits: Fits, name: str, rows: Rows | None, *, plain: bool
) -> tuple[bytes, int, bytes | None]:
    """Return cards, size of data, and data (None for rows of plain images) of an HDU to write.

    Without `rows` it is written whole.
    """
    hdu = fits.hdus[name]
    cards = change_cards(hdu.cards, {"CHECKSUM": None, "DATASUM": None})
    if rows is None:
        return cards, hdu.data_size, fits.read_at(hdu.data_start, hdu.data_size)
    stride = _stride(hdu)
    changes: dict[str, Any] = {f"NAXIS{int(hdu.header['NAXIS'])}": len(rows)}
    if plain:
        return change_cards(cards, changes), stride * len(rows), None
    table = bytearray(
        b"".join(fits.read_at(hdu.data_start + row * stride, stride) for row in rows.tolist())
    )
    heap = b""
    if is_compressed(hdu):
        columns = {c.offset: c.dtype.base for c in table_columns(fits, name).values()}
        for i, offset, (start, stop) in list(_heap_ranges(fits, name, rows)):
            kind = columns[offset]
            at = i * stride + offset + kind.itemsize
            table[at : at + kind.itemsize] = np.array(len(heap), kind).tobytes()
            heap += fits.read_at(start, stop - start)
        changes |= {"ZNAXIS2": len(rows), "PCOUNT": len(heap)}
        if "THEAP" in hdu.header:
            changes["THEAP"] = len(table)
    data = bytes(table) + heap
    return change_cards(cards, changes), len(data), data


def _provenance(fits: Fits, source: Source, n_rows: int, rows: Rows) -> dict[str, Any]:
    if "SRCROWS" in fits.hdus["PRIMARY"].header:
        return {"SRCROWS": rows_text(np.array([source_row(fits, row) for row in rows.tolist()]))}
    return {
        "SRCKEY": source["key"],
        "SRCETAG": source["etag"],
        "SRCNROWS": n_rows,
        "SRCROWS": rows_text(rows),
    }


def _write(
    link: Link,
    source: Source,
    fits: Fits,
    descriptor: int,
    names: list[str],
    parts: list[tuple[bytes, int, bytes | None]],
    rows: Rows,
    windows: Mapping[str, Range],
) -> Copied:
    """Lay out the file, fetch the image rows straight into their places, then write headers.

    Of the images in `windows` only this part of each row is fetched.
    """
    first, last = np.array(contiguous_runs(rows)).T
    data_starts: list[int] = []
    runs: list[tuple[Rows, Rows, Rows]] = []
    position = 0
    for name, (cards, size, data) in zip(names, parts, strict=True):
        position += len(close_header(cards, 0))
        data_starts.append(position)
        if data is None:
            hdu = fits.hdus[name]
            stride = _stride(hdu)
            if name in windows:
                low, high = windows[name]
                start = hdu.data_start + rows * stride + low
                stop = start + (high - low)
                place = position + np.arange(len(rows)) * (high - low)
            else:
                start = hdu.data_start + rows[first] * stride
                stop = start + (last - first) * stride
                place = position + first * stride
            runs.append((start, stop, place - start))
        else:
            _put(descriptor, data, position)
        position += padded(size)
    os.ftruncate(descriptor, position)
    starts, stops, shifts = (np.concatenate(column) for column in zip(*runs, strict=True))
    starts, stops, of = split_ranges(starts, stops)
    copied = Copied(starts, stops, shifts[of])
    places = list(zip(starts.tolist(), stops.tolist(), copied.shift.tolist(), strict=True))

    requests = plan_requests(starts, stops, link.cost().gap)

    def put(i: int, data: memoryview) -> None:
        begin = requests[i].start
        for start, stop, shift in places[requests[i].first : requests[i].last]:
            _put(descriptor, data[start - begin : stop - begin], start + shift)

    link.fetch_each(source, [(request.start, request.stop) for request in requests], put)
    for data_start, (cards, size, _) in zip(data_starts, parts, strict=True):
        total = 0
        end = data_start + padded(size)
        for offset in range(data_start, end, 1 << 20):
            total = ones_complement_sum(
                os.pread(descriptor, min(1 << 20, end - offset), offset), total
            )
        header = close_header(cards, total)
        _put(descriptor, header, data_start - len(header))
    return copied


def _put(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of the data; where the disk is full the second try raises."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
