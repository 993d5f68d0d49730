"""Reading FITS where it lies, by name and by row, from a file or from ranges of a remote object.

The reader walks the headers, checks every size against the object before it reads, and returns
numpy arrays in native byte order. It imports nothing but numpy: a per-tile job cannot afford a
second of imports. Where a file uses a compression that DESI does not, astropy is called in.

What is wrong with a file ends as `BadTile("corrupt_source", ...)` naming file, HDU and column.

Source: FITS standard 4.0 (https://fits.gsfc.nasa.gov/fits_standard.html); section numbers in the
comments are those of the standard.
"""

import itertools
import math
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from desi_fits_to_parquet.outcomes import BadTile

BLOCK = 2880
"""FITS files are made of blocks of this many bytes (3.1)."""

CARD = 80

MAX_HEADER_BYTES = 400 * BLOCK
"""A header larger than a megabyte is not one of DESI's (the largest there is 25 kB)."""

MAX_HDUS = 200

MAX_TABLE_BYTES = 1 << 28
"""Tables are read whole; the largest in DESI (EXP_FIBERMAP) has tens of MB."""

MAX_NUMBER = 1 << 62

ReadAt = Callable[[int, int], bytes]
"""`read_at(offset, length)` returns exactly `length` bytes."""

Value = str | int | float | bool

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


def padded(size: int) -> int:
    """Round a size up to whole FITS blocks."""
    return -(-size // BLOCK) * BLOCK


# ------------------------------------------------------------------------------- structure


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
            raise _corrupt(source, f"more than {MAX_HDUS} HDUs")
        hdu = _read_hdu(read_at, size, source, position, ahead)
        if hdu.name in hdus:
            raise _corrupt(source, f"two HDUs are called {hdu.name}")
        if hdu.data_start + hdu.data_size > size:
            raise _corrupt(
                source,
                f"HDU {hdu.name} needs {hdu.data_start + hdu.data_size} bytes, "
                f"the file has {size}: it is cut short",
            )
        hdus[hdu.name] = hdu
        position = hdu.end
    if not hdus:
        raise _corrupt(source, "the file is empty")
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
                    raise _corrupt(path.name, f"ends before byte {offset + length}")
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
        raise _corrupt(
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
            raise _corrupt(source, f"the header at byte {start} has no END: the file is cut short")
        searched = len(text)
        text += read_at(position, length)
        if not searched and not text.startswith(b"SIMPLE  =" if start == 0 else b"XTENSION="):
            what = "it does not begin with SIMPLE, so it is not FITS"
            raise _corrupt(source, what if start == 0 else f"no HDU at byte {start}")
        for offset in range(searched - searched % CARD, len(text) - CARD + 1, CARD):
            if text[offset : offset + 8] == b"END     ":
                return text[:offset]
    raise _corrupt(source, f"the header at byte {start} has no END within {MAX_HEADER_BYTES} bytes")


def _data_size(header: Mapping[str, Value], source: str, name: str) -> int:
    """Size of the data unit in bytes, after 4.4.1."""
    bitpix = _whole(header, "BITPIX", source, name, low=-64)
    if bitpix not in _BITPIX_DTYPE:
        raise _corrupt(source, f"HDU {name}: BITPIX is {bitpix}, which FITS does not have")
    axes = _axes(header, "", source, name)
    if not axes:
        return 0
    elements = _whole(header, "PCOUNT", source, name, 0) + math.prod(axes)
    return abs(bitpix) // 8 * _whole(header, "GCOUNT", source, name, 1, low=1) * elements


def _axes(header: Mapping[str, Value], letter: str, source: str, name: str) -> list[int]:
    """Return NAXIS1, NAXIS2, ... or, with the letter Z, those of a compressed image."""
    count = _whole(header, f"{letter}NAXIS", source, name, high=999)
    return [_whole(header, f"{letter}NAXIS{i + 1}", source, name) for i in range(count)]


def _whole(
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
        raise _corrupt(
            source, f"HDU {name}: {key} is {value!r}, not a whole number from {low} to {high}"
        )
    return value


def _number(header: Mapping[str, Value], key: str, source: str, name: str, default: int) -> float:
    """Return a keyword that must be a number."""
    value = header.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _corrupt(source, f"HDU {name}: {key} is {value!r}, not a number")
    return float(value)


def _corrupt(source: str, what: str) -> BadTile:
    return BadTile("corrupt_source", f"{source}: {what}")


# ---------------------------------------------------------------------------------- header

_VALUE = re.compile(
    r"""\s*(?: '(?P<text>(?:[^']|'')*)' | (?P<flag>[TF])(?=\s|/|$)
        | (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[EeDd][+-]?\d+)?) )?""",
    re.VERBOSE,
)


def parse_header(cards: bytes) -> dict[str, Value]:
    """Return the keywords of a header and their values.

    Long strings (CONTINUE, 4.2.1.2) are joined. Comments, undefined values and values that are no
    FITS value are left out: of DESI's headers only a few keywords matter here.
    """
    header: dict[str, Value] = {}
    continued = ""
    text = cards.decode("latin-1")
    for start in range(0, len(text), CARD):
        card = text[start : start + CARD]
        key = card[:8].rstrip()
        if key == "CONTINUE" and continued:
            match = _VALUE.match(card[8:])
            part = match["text"] if match else None
            if part is not None:
                header[continued] = str(header[continued])[:-1] + part.replace("''", "'").rstrip()
                if not str(header[continued]).endswith("&"):
                    continued = ""
            continue
        continued = ""
        if card[8:10] != "= ":
            continue
        match = _VALUE.match(card[10:])
        if match is None:
            continue
        if match["text"] is not None:
            value = match["text"].replace("''", "'").rstrip()
            header[key] = value
            if value.endswith("&"):
                continued = key
        elif match["flag"]:
            header[key] = match["flag"] == "T"
        elif match["number"]:
            number = match["number"].upper().replace("D", "E")
            header[key] = float(number) if "." in number or "E" in number else int(number)
    return header


def format_card(key: str, value: Value, comment: str = "") -> bytes:
    """Return one keyword as a card; a string too long for it goes on in CONTINUE cards.

    Raises
    ------
    ValueError
        Where the keyword or the value cannot stand in a FITS header.
    """
    if not re.fullmatch(r"[A-Z0-9_-]{1,8}", key):
        raise ValueError(f"{key!r} is no FITS keyword")
    if isinstance(value, str):
        if not value.isascii() or not value.isprintable():
            raise ValueError(f"{key}: FITS headers hold printable ASCII only, not {value!r}")
        quoted = value.replace("'", "''")
        if len(quoted) > 68:
            return _long_string_cards(key, value)
        text = f"{key:<8}= '{quoted:<8}'"
    else:
        number = {True: "T", False: "F"}[value] if isinstance(value, bool) else repr(value).upper()
        text = f"{key:<8}= {number:>20}"
    if comment:
        text = f"{text:<30} / {comment}"
    return f"{text:<{CARD}}"[:CARD].encode("ascii")


def _long_string_cards(key: str, value: str) -> bytes:
    parts = [value[i : i + 33] for i in range(0, len(value), 33)]  # 33 quotes double to 66
    cards = []
    for i, part in enumerate(parts):
        more = "&" if i + 1 < len(parts) else ""
        lead = f"{key:<8}= " if i == 0 else "CONTINUE  "
        quoted = part.replace("'", "''") + more
        cards.append(f"{lead}'{quoted}'".ljust(CARD))
    return "".join(cards).encode("ascii")


def change_cards(cards: bytes, changes: Mapping[str, Value | None]) -> bytes:
    """Return header cards with some keywords changed, dropped (None) or added at the end.

    All other cards stay as they are, comments and order included.
    """
    kept: list[bytes] = []
    todo = dict(changes)
    dropping = False
    for start in range(0, len(cards), CARD):
        card = cards[start : start + CARD]
        key = card[:8].decode("latin-1").rstrip()
        if key == "CONTINUE" and dropping:
            continue
        dropping = key in changes
        if not dropping:
            kept.append(card)
            continue
        value = todo.pop(key, None)
        if value is not None:
            kept.append(format_card(key, value))
    kept += [format_card(key, value) for key, value in todo.items() if value is not None]
    return b"".join(kept)


# ---------------------------------------------------------------------------------- tables

_BITPIX_DTYPE = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}

_TFORM_DTYPE = {
    "L": "S1", "X": "u1", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8",
    "C": ">c8", "M": ">c16", "P": ">i4", "Q": ">i8",
}  # fmt: skip

_UNSIGNED_ZERO = {"u1": -128, ">i2": 1 << 15, ">i4": 1 << 31, ">i8": 1 << 63}
"""TZERO or BZERO that mark the other signedness of an integer (tables 11 and 19)."""


class Column(NamedTuple):
    """A column of a binary table: its dtype in the file and its scaling."""

    name: str
    dtype: np.dtype[Any]
    offset: int
    form: str
    zero: float
    scale: float


def table_columns(fits: Fits, name: str) -> dict[str, Column]:
    """Return the columns of a binary table by name, in their order.

    Raises
    ------
    BadTile
        `corrupt_source` where the HDU is missing, no table, or its columns do not fill its rows.
    """
    hdu = find_hdu(fits, name)
    where = f"HDU {name}"
    if hdu.header.get("XTENSION") != "BINTABLE" or hdu.header.get("NAXIS") != 2:
        raise _corrupt(fits.source, f"{where} is not a binary table")
    columns: dict[str, Column] = {}
    offset = 0
    width = _whole(hdu.header, "NAXIS1", fits.source, name, low=1)
    for i in range(1, _whole(hdu.header, "TFIELDS", fits.source, name, high=999) + 1):
        form = str(hdu.header.get(f"TFORM{i}", "")).strip()
        match = re.match(r"(\d*)([LXBIJKAEDCMPQ])", form)
        if match is None:
            raise _corrupt(fits.source, f"{where}: TFORM{i} is {form!r}, which FITS does not have")
        repeat = int(match[1] or 1)
        if repeat > 8 * width:
            raise _corrupt(fits.source, f"{where}: TFORM{i} is {form!r}, more than a row holds")
        letter = match[2]
        if letter == "A":
            dtype = np.dtype(f"S{repeat}") if repeat else np.dtype("V0")
        else:
            count = {"X": -(-repeat // 8), "P": 2 * repeat, "Q": 2 * repeat}.get(letter, repeat)
            base = _TFORM_DTYPE[letter]
            dtype = np.dtype(base) if count == 1 else np.dtype((base, (count,)))
        column = str(hdu.header.get(f"TTYPE{i}", f"col{i}")).strip()
        columns[column] = Column(
            column,
            dtype,
            offset,
            letter,
            _number(hdu.header, f"TZERO{i}", fits.source, name, 0),
            _number(hdu.header, f"TSCAL{i}", fits.source, name, 1),
        )
        offset += dtype.itemsize
    if offset != width:
        raise _corrupt(
            fits.source, f"{where}: its columns take {offset} bytes a row, NAXIS1 says {width}"
        )
    return columns


def table_rows(fits: Fits, name: str) -> int:
    """Return the number of rows of a binary table."""
    return _whole(find_hdu(fits, name).header, "NAXIS2", fits.source, name)


def read_table(fits: Fits, name: str, wanted: Iterable[str] | None = None) -> dict[str, Array]:
    """Read columns of a binary table.

    Parameters
    ----------
    fits
        The opened file.
    name
        EXTNAME of the table.
    wanted
        Names of the columns; all of them by default.

    Returns
    -------
    dict of str to ndarray
        Arrays of shape (nrow,) or (nrow, repeat) in native byte order: integers with TZERO
        applied, logicals as bool, strings as bytes without trailing blanks.

    Raises
    ------
    BadTile
        `corrupt_source` where HDU or column is missing or broken.
    """
    columns = table_columns(fits, name)
    hdu = fits.hdus[name]
    names = list(columns) if wanted is None else list(wanted)
    missing = [column for column in names if column not in columns]
    if missing:
        raise _corrupt(fits.source, f"HDU {name} has no column {', '.join(missing)}")
    width, height = int(hdu.header["NAXIS1"]), int(hdu.header["NAXIS2"])
    if width * height > MAX_TABLE_BYTES:
        raise _corrupt(fits.source, f"HDU {name} claims {width * height} bytes: no table of DESI")
    data = fits.read_at(hdu.data_start, width * height)
    return {
        column: _decode_column(
            np.ndarray(
                (height,),
                np.dtype({"names": ["v"], "formats": [columns[column].dtype],
                          "offsets": [columns[column].offset], "itemsize": width}),
                data,
            )["v"],
            columns[column],
        )
        for column in names
    }  # fmt: skip


def read_columns(
    fits: Fits, name: str, wanted: Iterable[str], text: Iterable[str] = ()
) -> dict[str, Array]:
    """Read columns of a binary table that hold one value a row: numbers, or text as named.

    Raises
    ------
    BadTile
        `corrupt_source` where a column is of another kind, and as `read_table`.
    """
    table = read_table(fits, name, wanted)
    for column, values in table.items():
        check_column(fits, name, column, values, "S" if column in text else "biuf")
    return table


def check_column(fits: Fits, name: str, column: str, values: Array, kinds: str) -> None:
    """Assert that a column holds one value a row, of these kinds of numpy's dtypes."""
    if values.ndim != 1 or values.dtype.kind not in kinds:
        raise _corrupt(
            fits.source,
            f"HDU {name}: column {column} holds {values.dtype} of shape {values.shape[1:]} a row",
        )


def _decode_column(values: Array, column: Column) -> Array:
    if column.form == "L":
        return cast("Array", values == b"T")
    if column.form == "A":
        # numpy drops trailing NULs, writers pad with blanks
        return np.char.rstrip(values) if values.dtype.itemsize else np.zeros(len(values), "S1")
    return _unscale(values, column.zero, column.scale)


def _unscale(values: Array, zero: float, scale: float) -> Array:
    """Return native values with BZERO and BSCALE (or TZERO and TSCAL) applied (4.4.2.5)."""
    native = values.astype(values.dtype.newbyteorder("="))
    if zero == 0 and scale == 1:
        return native
    base = values.dtype.str.lstrip("|")
    if scale == 1 and zero == _UNSIGNED_ZERO.get(base):
        # adding the zero is flipping the highest bit
        other = np.dtype(f"{'i' if base == 'u1' else 'u'}{native.itemsize}")
        flip = np.array(1 << (8 * native.itemsize - 1), f"u{native.itemsize}")
        return cast("Array", (native.view(flip.dtype) ^ flip).view(other))
    return cast("Array", native * scale + zero)


# ---------------------------------------------------------------------------------- images


def is_compressed(hdu: Hdu) -> bool:
    """Tell whether an HDU is a tile-compressed image (10.1)."""
    return hdu.header.get("ZIMAGE") is True


def image_shape(fits: Fits, name: str) -> tuple[int, ...]:
    """Return the shape of an image in numpy's order, also of a tile-compressed one."""
    hdu = find_hdu(fits, name)
    letter = "Z" if is_compressed(hdu) else ""
    if not letter and hdu.header.get("XTENSION", "IMAGE") != "IMAGE":
        raise _corrupt(fits.source, f"HDU {name} is not an image")
    return tuple(_axes(hdu.header, letter, fits.source, name))[::-1]


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
        rows = np.arange(shape[0]) if shape else np.zeros(0, np.int64)
    if len(rows) and not (shape and rows.min() >= 0 and rows.max() < shape[0]):
        raise _corrupt(fits.source, f"HDU {name} of shape {shape} has no row {rows.max()}")
    zero = _number(hdu.header, "BZERO", fits.source, name, 0)
    scale = _number(hdu.header, "BSCALE", fits.source, name, 1)
    if is_compressed(hdu):
        return _read_compressed(fits, hdu, shape, rows, zero, scale)
    dtype = np.dtype(_BITPIX_DTYPE[int(hdu.header["BITPIX"])])
    stride = math.prod(shape[1:]) * dtype.itemsize
    raw = np.empty((len(rows), *shape[1:]), dtype)
    for first, stop in contiguous_runs(rows):
        data = fits.read_at(hdu.data_start + int(rows[first]) * stride, (stop - first) * stride)
        raw[first:stop] = np.frombuffer(data, dtype).reshape(stop - first, *shape[1:])
    return _unscale(raw, zero, scale)


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
    dtype = np.dtype(_BITPIX_DTYPE[int(bitpix)])
    tiles = _compressed_tiles(fits, hdu)
    if len(tiles) != shape[0]:
        raise _corrupt(fits.source, f"HDU {hdu.name}: not one compressed tile for each of its rows")
    raw = np.empty((len(rows), shape[1]), dtype)
    for i, row in enumerate(rows):
        where = f"HDU {hdu.name}, row {row}"
        data = fits.read_at(*tiles[row])
        raw[i] = np.frombuffer(inflate(data, shape[1] * dtype.itemsize, fits.source, where), dtype)
    return _unscale(raw, zero, scale)


def _compressed_tiles(fits: Fits, hdu: Hdu) -> list[tuple[int, int]]:
    """Return offset and length of the compressed tiles of an image, each within the heap."""
    descriptors = read_table(fits, hdu.name).get("COMPRESSED_DATA", np.zeros(0))
    if descriptors.ndim != 2 or descriptors.shape[1] != 2:
        raise _corrupt(fits.source, f"HDU {hdu.name}: no column COMPRESSED_DATA with its tiles")
    heap = heap_start(fits, hdu)
    for row, (length, offset) in enumerate(descriptors.tolist()):
        if length <= 0 or offset < 0 or heap + offset + length > hdu.data_size:
            raise _corrupt(
                fits.source,
                f"HDU {hdu.name}, row {row}: its compressed tile is empty or outside the heap",
            )
    return [(hdu.data_start + heap + offset, length) for length, offset in descriptors.tolist()]


def heap_start(fits: Fits, hdu: Hdu) -> int:
    """Return where the heap of a table begins within its data."""
    table = int(hdu.header["NAXIS1"]) * int(hdu.header["NAXIS2"])
    return _whole(hdu.header, "THEAP", fits.source, hdu.name, table, low=table)


def inflate(data: bytes, size: int, source: str, where: str) -> bytes:
    """Unpack gzip data that must give exactly `size` bytes; more is refused unread."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        text = unpacker.decompress(data, size + 1)
    except zlib.error as error:
        raise _corrupt(source, f"{where}: gzip data are broken ({error})") from error
    if len(text) != size or not unpacker.eof:  # its own checksum stands at the end
        raise _corrupt(source, f"{where}: unpacks to another size than {size} bytes")
    return text


def _read_with_astropy(fits: Fits, hdu: Hdu) -> Array:
    """Read a compression other than gzip by row: DESI has none, so speed matters little."""
    from astropy.io import fits as astropy_fits

    form, size = hdu.header.get("ZCMPTYPE"), math.prod(image_shape(fits, hdu.name)) * 8
    if form not in ("GZIP_1", "GZIP_2", "RICE_1"):
        raise _corrupt(fits.source, f"HDU {hdu.name}: compression {form!r} is not read")
    if max(size, hdu.data_size) > MAX_TABLE_BYTES:
        raise _corrupt(fits.source, f"HDU {hdu.name} would unpack to more than {MAX_TABLE_BYTES} B")
    if form != "RICE_1":  # whose tiles have a fixed size; astropy unpacks all that gzip gives
        for offset, length in _compressed_tiles(fits, hdu):
            unpacker = zlib.decompressobj(wbits=31)
            with suppress(zlib.error):  # astropy says what is wrong with it
                if len(unpacker.decompress(fits.read_at(offset, length), size + 1)) > size:
                    raise _corrupt(fits.source, f"HDU {hdu.name}: a tile is larger than the image")
    primary = b"".join(
        (format_card("SIMPLE", True), format_card("BITPIX", 8), format_card("NAXIS", 0))
    )
    extension = fits.read_at(hdu.header_start, hdu.data_start - hdu.header_start + hdu.data_size)
    data = pad_header(primary) + extension.ljust(padded(len(extension)), b"\0")
    try:
        with astropy_fits.open(BytesIO(data)) as opened:
            image: Array = np.asarray(opened[1].data)
    except (OSError, ValueError, TypeError, LookupError, RuntimeError, MemoryError) as error:
        raise _corrupt(fits.source, f"HDU {hdu.name}: cannot be unpacked ({error})") from error
    return image.astype(image.dtype.newbyteorder("="))


# -------------------------------------------------------------------------------- checksums


def ones_complement_sum(data: bytes | bytearray | memoryview, total: int = 0) -> int:
    """Add data to a FITS checksum: 32-bit ones' complement sum of big-endian words (J.1).

    The length must be a multiple of four for all but the last piece, which is padded with zeros.
    """
    whole = len(data) // 4 * 4
    total += int(np.frombuffer(data, ">u4", whole // 4).sum(dtype=np.uint64))
    if whole < len(data):
        total += int.from_bytes(bytes(data[whole:]).ljust(4, b"\0"), "big")
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def encode_checksum(total: int) -> str:
    """Return the 16 characters that make an HDU's sum vanish, given its sum without them (J.2)."""
    complement = ~total & 0xFFFFFFFF
    letters = [[0] * 4 for _ in range(4)]
    for i in range(4):
        byte = complement >> (24 - 8 * i) & 0xFF
        four = [byte // 4 + ord("0")] * 4
        four[0] += byte % 4
        while any(not chr(code).isalnum() for code in four):
            for j in (0, 2):  # shifting one up and one down keeps the sum
                if not (chr(four[j]).isalnum() and chr(four[j + 1]).isalnum()):
                    four[j] += 1
                    four[j + 1] -= 1
        for j in range(4):
            letters[j][i] = four[j]
    text = "".join(chr(code) for group in letters for code in group)
    return text[-1] + text[:-1]


def verify_datasum(fits: Fits, name: str) -> bool | None:
    """Compare the data of an HDU with its DATASUM; None where the header has none."""
    hdu = find_hdu(fits, name)
    expected = hdu.header.get("DATASUM")
    if not isinstance(expected, str) or not expected.strip().isdigit():
        return None
    total = 0
    step = 4 << 20
    for offset in range(0, hdu.data_size, step):
        part = fits.read_at(hdu.data_start + offset, min(step, hdu.data_size - offset))
        total = ones_complement_sum(part, total)
    return total == int(expected)


# ----------------------------------------------------------------------------------- writing


def pad_header(cards: bytes) -> bytes:
    """Return cards with END, padded with blanks to whole blocks."""
    return (cards + b"END".ljust(CARD)).ljust(padded(len(cards) + CARD), b" ")


def write_hdu(stream: BinaryIO, cards: bytes, chunks: Iterable[bytes] = ()) -> None:
    """Write an HDU whose data come in chunks, with right CHECKSUM and DATASUM.

    Parameters
    ----------
    stream
        A file opened for writing that can seek; nothing but the header is held in memory.
    cards
        The header without CHECKSUM, DATASUM and END; its sizes must be those of the data.
    chunks
        The data in FITS's byte order; all but the last a multiple of four bytes long.
    """
    start = stream.tell()
    zeros = format_card("CHECKSUM", "0" * 16) + format_card("DATASUM", "0")
    stream.write(pad_header(cards + zeros))
    total = size = 0
    for chunk in chunks:
        stream.write(chunk)
        total = ones_complement_sum(chunk, total)
        size += len(chunk)
    stream.write(b"\0" * (padded(size) - size))
    end = stream.tell()
    datasum = format_card("DATASUM", str(total))
    header = pad_header(cards + format_card("CHECKSUM", "0" * 16) + datasum)
    checksum = encode_checksum(ones_complement_sum(header, total))
    stream.seek(start)
    stream.write(pad_header(cards + format_card("CHECKSUM", checksum) + datasum))
    stream.seek(end)
