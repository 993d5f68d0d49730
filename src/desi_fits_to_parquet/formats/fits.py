"""The structure of a FITS file: its HDUs, from a file or from ranges of a remote object.

The reader walks the headers and checks every size against the object before anything is read;
`fits_tables` and `fits_images` then read by name and by row into numpy arrays in native byte order.
They import nothing but numpy: a per-tile job cannot afford a second of imports. Where a file uses a
compression that DESI does not, astropy is called in.

What is wrong with a file ends as `BadTile("corrupt_source", ...)` naming file, HDU and column.

Source: FITS standard 4.0 (https://fits.gsfc.nasa.gov/fits_standard.html); section numbers in the
comments are those of the standard.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt

from desi_fits_to_parquet.formats.fits_header import BLOCK, CARD, Value, padded, parse_header
from desi_fits_to_parquet.outcomes import BadTile

MAX_HEADER_BYTES = 400 * BLOCK
"""A header larger than a megabyte is not one of DESI's (the largest there is 25 kB)."""

MAX_HDUS = 200

MAX_NUMBER = 1 << 62

ReadAt = Callable[[int, int], bytes]
"""`read_at(offset, length)` returns exactly `length` bytes."""

Array = npt.NDArray[Any]


class Hdu(NamedTuple):
    """Where an HDU lies in its file and what its header says.

    `data_size` counts heap and gap of a table, not the padding to a full block.
    """

    name: str
    header: dict[str, Value]
    cards: bytes
    header_start: int
    data_start: int
    data_size: int

    @property
    def end(self) -> int:
        """Offset of the first byte behind this HDU, padding included."""
        return self.data_start + padded(self.data_size)


class Fits(NamedTuple):
    """An opened FITS file or object: how to read it, what is in it, what to call it in messages."""

    read_at: ReadAt
    hdus: dict[str, Hdu]
    source: str


def read_fits(read_at: ReadAt, size: int, source: str, ahead: int = 4 * BLOCK) -> Fits:
    """Walk the headers of a FITS file.

    Parameters
    ----------
    read_at
        Gives the bytes of the file.
    size
        Size of the whole file in bytes; no HDU may reach beyond it.
    source
        What to call the file in messages, usually its name.
    ahead
        Bytes to read at the start of each header; longer headers are read on.

    Returns
    -------
    Fits
        With the HDUs by name, in the order of the file; the first is called `PRIMARY`.

    Raises
    ------
    BadTile
        `corrupt_source` where the structure is broken or the file ends too early.
    """
    hdus: dict[str, Hdu] = {}
    position = 0
    while position < size:
        if len(hdus) == MAX_HDUS:
            raise corrupt(source, f"more than {MAX_HDUS} HDUs")
        hdu = _read_hdu(read_at, size, source, position, ahead)
        if hdu.name in hdus:
            raise corrupt(source, f"two HDUs are called {hdu.name}")
        if hdu.data_start + hdu.data_size > size:
            raise corrupt(
                source,
                f"HDU {hdu.name} needs {hdu.data_start + hdu.data_size} bytes, "
                f"the file has {size}: it is cut short",
            )
        hdus[hdu.name] = hdu
        position = hdu.end
    if not hdus:
        raise corrupt(source, "the file is empty")
    return Fits(read_at, hdus, source)


@contextmanager
def open_fits(path: Path) -> Iterator[Fits]:
    """Open a local FITS file for reading; see `read_fits` for what it raises."""
    descriptor = os.open(path, os.O_RDONLY)
    try:

        def read_at(offset: int, length: int) -> bytes:
            parts: list[bytes] = []
            missing = length
            while missing:  # one pread returns at most 2 GiB
                part = os.pread(descriptor, missing, offset + length - missing)
                if not part:
                    raise corrupt(path.name, f"ends before byte {offset + length}")
                parts.append(part)
                missing -= len(part)
            return b"".join(parts)

        yield read_fits(read_at, os.fstat(descriptor).st_size, path.name)
    finally:
        os.close(descriptor)


def find_hdu(fits: Fits, name: str) -> Hdu:
    """Return the HDU of that name; a missing one is `corrupt_source`."""
    try:
        return fits.hdus[name]
    except KeyError:
        raise corrupt(
            fits.source, f"HDU {name} is missing (there: {', '.join(fits.hdus)})"
        ) from None


def _read_hdu(read_at: ReadAt, size: int, source: str, start: int, ahead: int) -> Hdu:
    cards = _read_cards(read_at, size, source, start, ahead)
    header = parse_header(cards)
    name = "PRIMARY"
    if start:
        name = str(header.get("EXTNAME", "")).strip().upper() or f"HDU at byte {start}"
    return Hdu(
        name,
        header,
        cards,
        start,
        start + padded(len(cards) + CARD),
        _data_size(header, source, name),
    )


def _read_cards(read_at: ReadAt, size: int, source: str, start: int, ahead: int) -> bytes:
    """Return the cards of the header at `start`, without END and what follows it."""
    text = b""
    while len(text) < MAX_HEADER_BYTES:
        position = start + len(text)
        length = min(max(ahead, BLOCK), size - position)
        if length <= 0:
            raise corrupt(source, f"the header at byte {start} has no END: the file is cut short")
        searched = len(text)
        text += read_at(position, length)
        if not searched and not text.startswith(b"SIMPLE  =" if start == 0 else b"XTENSION="):
            what = "it does not begin with SIMPLE, so it is not FITS"
            raise corrupt(source, what if start == 0 else f"no HDU at byte {start}")
        for offset in range(searched - searched % CARD, len(text) - CARD + 1, CARD):
            if text[offset : offset + 8] == b"END     ":
                return text[:offset]
    raise corrupt(source, f"the header at byte {start} has no END within {MAX_HEADER_BYTES} bytes")


def _data_size(header: Mapping[str, Value], source: str, name: str) -> int:
    """Size of the data unit in bytes, after 4.4.1."""
    bitpix = whole_keyword(header, "BITPIX", source, name, low=-64)
    if bitpix not in BITPIX_DTYPE:
        raise corrupt(source, f"HDU {name}: BITPIX is {bitpix}, which FITS does not have")
    axes = image_axes(header, "", source, name)
    if not axes:
        return 0
    elements = whole_keyword(header, "PCOUNT", source, name, 0) + math.prod(axes)
    return abs(bitpix) // 8 * whole_keyword(header, "GCOUNT", source, name, 1, low=1) * elements


def image_axes(header: Mapping[str, Value], letter: str, source: str, name: str) -> list[int]:
    """Return NAXIS1, NAXIS2, ... or, with the letter Z, those of a compressed image."""
    count = whole_keyword(header, f"{letter}NAXIS", source, name, high=999)
    return [whole_keyword(header, f"{letter}NAXIS{i + 1}", source, name) for i in range(count)]


def whole_keyword(
    header: Mapping[str, Value],
    key: str,
    source: str,
    name: str,
    default: int | None = None,
    low: int = 0,
    high: int = MAX_NUMBER,
) -> int:
    """Return a keyword that must be a whole number within limits."""
    value = header.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise corrupt(
            source, f"HDU {name}: {key} is {value!r}, not a whole number from {low} to {high}"
        )
    return value


def number_keyword(
    header: Mapping[str, Value], key: str, source: str, name: str, default: int
) -> float:
    """Return a keyword that must be a number."""
    value = header.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise corrupt(source, f"HDU {name}: {key} is {value!r}, not a number")
    return float(value)


def corrupt(source: str, what: str) -> BadTile:
    """Return what is raised where a file is broken."""
    return BadTile("corrupt_source", f"{source}: {what}")


BITPIX_DTYPE = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
