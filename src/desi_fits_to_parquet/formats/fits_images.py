"""Reading images of FITS files by row, plain or tile-compressed."""

import itertools
import math
import re
import zlib
from contextlib import suppress
from io import BytesIO
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from desi_fits_to_parquet.formats.fits import (
    BITPIX_DTYPE,
    Array,
    Fits,
    Hdu,
    corrupt,
    find_hdu,
    image_axes,
    number_keyword,
    whole_keyword,
)
from desi_fits_to_parquet.formats.fits_header import format_card, pad_header, padded
from desi_fits_to_parquet.formats.fits_tables import (
    MAX_TABLE_BYTES,
    read_table,
    table_rows,
    unscale,
)
from desi_fits_to_parquet.outcomes import BadTile

MAX_ROWS = 1 << 20
"""Rows of an image that is read whole; one of DESI has as many as a tile has targets."""


def is_compressed(hdu: Hdu) -> bool:
    """Tell whether an HDU is a tile-compressed image (10.1)."""
    return hdu.header.get("ZIMAGE") is True


def image_shape(fits: Fits, name: str) -> tuple[int, ...]:
    """Return the shape of an image in numpy's order, also of a tile-compressed one."""
    hdu = find_hdu(fits, name)
    letter = "Z" if is_compressed(hdu) else ""
    if not letter and hdu.header.get("XTENSION", "IMAGE") != "IMAGE":
        raise corrupt(fits.source, f"HDU {name} is not an image")
    return tuple(image_axes(hdu.header, letter, fits.source, name))[::-1]


def read_image(fits: Fits, name: str, rows: npt.NDArray[np.integer[Any]] | None = None) -> Array:
    """Read an image, or rows of it.

    Parameters
    ----------
    fits
        The opened file.
    name
        EXTNAME of the image, plain or tile-compressed.
    rows
        Indices along the first axis, in the order wanted; all by default. Neighbours are read
        together.

    Returns
    -------
    ndarray
        Shape (nrow, ...) in native byte order with BZERO applied: unsigned where the file says so.

    Raises
    ------
    BadTile
        `corrupt_source` where the HDU is missing or broken, or has no such rows.
    """
    shape = image_shape(fits, name)
    hdu = fits.hdus[name]
    if rows is None:
        if shape and shape[0] > MAX_ROWS:  # of no width, or compressed: no size bounds them
            raise corrupt(fits.source, f"HDU {name} claims {shape[0]} rows: no image of DESI")
        rows = np.arange(shape[0]) if shape else np.zeros(0, np.int64)
    if len(rows) and not (shape and rows.min() >= 0 and rows.max() < shape[0]):
        raise corrupt(fits.source, f"HDU {name} of shape {shape} has no row {rows.max()}")
    zero = number_keyword(hdu.header, "BZERO", fits.source, name, 0)
    scale = number_keyword(hdu.header, "BSCALE", fits.source, name, 1)
    if is_compressed(hdu):
        return _read_compressed(fits, hdu, shape, rows, zero, scale)
    dtype = np.dtype(BITPIX_DTYPE[int(hdu.header["BITPIX"])])
    stride = math.prod(shape[1:]) * dtype.itemsize
    raw = np.empty((len(rows), *shape[1:]), dtype)
    for first, stop in contiguous_runs(rows):
        data = fits.read_at(hdu.data_start + int(rows[first]) * stride, (stop - first) * stride)
        raw[first:stop] = np.frombuffer(data, dtype).reshape(stop - first, *shape[1:])
    return unscale(raw, zero, scale)


def contiguous_runs(rows: npt.NDArray[np.integer[Any]]) -> list[tuple[int, int]]:
    """Split indices into runs of neighbours: pairs (first, stop) of positions in `rows`."""
    if not len(rows):
        return []
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    edges = [0, *breaks.tolist(), len(rows)]
    return list(itertools.pairwise(edges))


def _read_compressed(
    fits: Fits,
    hdu: Hdu,
    shape: tuple[int, ...],
    rows: npt.NDArray[np.integer[Any]],
    zero: float,
    scale: float,
) -> Array:
    if not shape:
        raise corrupt(fits.source, f"HDU {hdu.name} is a compressed image without axes")
    bitpix = hdu.header.get("ZBITPIX")
    whole_rows = hdu.header.get("ZTILE1", shape[-1]) == shape[-1] and all(
        hdu.header.get(f"ZTILE{i}", 1) == 1 for i in range(2, len(shape) + 1)
    )
    if (
        hdu.header.get("ZCMPTYPE") != "GZIP_1"
        or bitpix not in (8, 16, 32, 64)
        or len(shape) != 2
        or not whole_rows
    ):
        return cast("Array", _read_with_astropy(fits, hdu)[rows])
    dtype = np.dtype(BITPIX_DTYPE[int(bitpix)])
    if table_rows(fits, hdu.name) != shape[0]:
        raise corrupt(fits.source, f"HDU {hdu.name}: not one compressed tile for each of its rows")
    if len(rows) * shape[1] * dtype.itemsize > MAX_TABLE_BYTES:
        raise corrupt(fits.source, f"HDU {hdu.name} would unpack to more than {MAX_TABLE_BYTES} B")
    raw = np.empty((len(rows), shape[1]), dtype)
    for i, (row, tile) in enumerate(zip(rows, _compressed_tiles(fits, hdu, rows), strict=True)):
        try:
            text = inflate(fits.read_at(*tile), shape[1] * dtype.itemsize)
        except ValueError as error:
            raise broken_tile(fits, hdu.name, int(row), str(error)) from error
        raw[i] = np.frombuffer(text, dtype)
    return unscale(raw, zero, scale)


def _compressed_tiles(
    fits: Fits, hdu: Hdu, rows: npt.NDArray[np.integer[Any]] | None = None
) -> list[tuple[int, int]]:
    """Return offset and length of compressed tiles of an image, all by default, within the heap."""
    descriptors = read_table(fits, hdu.name).get("COMPRESSED_DATA", np.zeros(0))
    if descriptors.ndim != 2 or descriptors.shape[1] != 2:
        raise corrupt(fits.source, f"HDU {hdu.name}: no column COMPRESSED_DATA with its tiles")
    heap = heap_start(fits, hdu)
    rows = np.arange(len(descriptors)) if rows is None else rows
    tiles = descriptors[rows].tolist()
    for row, (length, offset) in zip(rows, tiles, strict=True):
        if length <= 0 or offset < 0 or heap + offset + length > hdu.data_size:
            raise broken_tile(fits, hdu.name, int(row), NO_TILE)
    return [(hdu.data_start + heap + offset, length) for length, offset in tiles]


NO_TILE = "is empty or outside the heap"


def broken_tile(fits: Fits, name: str, row: int, what: str) -> BadTile:
    """Return what is raised where the compressed tile of a row is broken."""
    where = f"HDU {name}, row {source_row(fits, row)}"
    return corrupt(fits.source, f"{where}: its compressed tile {what}")


def rows_text(rows: npt.NDArray[np.integer[Any]]) -> str:
    """Write row numbers shortly: `3,8-9` for 3, 8 and 9."""
    runs = [(rows[first], rows[stop - 1]) for first, stop in contiguous_runs(rows)]
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)


def source_row(fits: Fits, row: int) -> int:
    """Return a row's number in the archive's file, for messages.

    A file that was fetched by rows names them in its PRIMARY header: SRCROWS, as `rows_text` writes
    it. In others the number is the same.
    """
    primary = fits.hdus.get("PRIMARY")
    runs = str(primary.header.get("SRCROWS", "")) if primary else ""
    before = row
    for run in re.findall(r"\d+(?:-\d+)?", runs):
        first, _, last = run.partition("-")
        length = int(last or first) - int(first) + 1
        if before < length:
            return int(first) + before
        before -= length
    return row


def heap_start(fits: Fits, hdu: Hdu) -> int:
    """Return where the heap of a table begins within its data."""
    table = int(hdu.header["NAXIS1"]) * int(hdu.header["NAXIS2"])
    return whole_keyword(hdu.header, "THEAP", fits.source, hdu.name, table, low=table)


def inflate(data: bytes, size: int) -> bytes:
    """Unpack gzip data that must give exactly `size` bytes; more is refused unread.

    Raises
    ------
    ValueError
        Where they are broken, or give more or fewer bytes.
    """
    unpacker = zlib.decompressobj(wbits=31)
    try:
        text = unpacker.decompress(data, size + 1)
    except zlib.error as error:
        raise ValueError(f"is broken ({error})") from error
    if len(text) != size or not unpacker.eof:  # its own checksum stands at the end
        raise ValueError(f"unpacks to another size than {size} bytes")
    return text


def _read_with_astropy(fits: Fits, hdu: Hdu) -> Array:
    """Read a compression other than gzip by row: DESI has none, so speed matters little."""
    from astropy.io import fits as astropy_fits

    form, shape = hdu.header.get("ZCMPTYPE"), image_shape(fits, hdu.name)
    size = math.prod(shape) * 8
    if form not in ("GZIP_1", "GZIP_2", "RICE_1"):
        raise corrupt(fits.source, f"HDU {hdu.name}: compression {form!r} is not read")
    if max(size, hdu.data_size) > MAX_TABLE_BYTES:
        raise corrupt(fits.source, f"HDU {hdu.name} would unpack to more than {MAX_TABLE_BYTES} B")
    for offset, length in _compressed_tiles(fits, hdu):
        # astropy unpacks all that gzip gives; tiles of RICE_1 have a fixed size
        if form != "RICE_1":
            unpacker = zlib.decompressobj(wbits=31)
            with suppress(zlib.error):  # astropy says what is wrong with it
                if len(unpacker.decompress(fits.read_at(offset, length), size + 1)) > size:
                    raise corrupt(fits.source, f"HDU {hdu.name}: a tile is larger than the image")
    primary = b"".join(
        (format_card("SIMPLE", True), format_card("BITPIX", 8), format_card("NAXIS", 0))
    )
    extension = fits.read_at(hdu.header_start, hdu.data_start - hdu.header_start + hdu.data_size)
    data = pad_header(primary) + extension.ljust(padded(len(extension)), b"\0")
    try:
        with astropy_fits.open(BytesIO(data)) as opened:
            image: Array = np.asarray(opened[1].data)
    except Exception as error:  # for a broken header astropy raises anything
        raise corrupt(fits.source, f"HDU {hdu.name}: cannot be unpacked ({error})") from error
    if image.shape != shape:
        raise corrupt(fits.source, f"HDU {hdu.name} unpacks to shape {image.shape}, not {shape}")
    return image.astype(image.dtype.newbyteorder("="))
