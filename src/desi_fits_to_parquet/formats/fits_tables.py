"""Reading columns of binary tables of FITS files."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from desi_fits_to_parquet.formats.fits import (
    Array,
    Fits,
    corrupt,
    find_hdu,
    number_keyword,
    whole_keyword,
)
from desi_fits_to_parquet.outcomes import BadTile

MAX_TABLE_BYTES = 1 << 28
"""Tables are read whole; the largest in DESI (EXP_FIBERMAP) has tens of MB."""

_TFORM_DTYPE = {
    "L": "S1", "X": "u1", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8",
    "C": ">c8", "M": ">c16", "P": ">i4", "Q": ">i8",
}  # fmt: skip

_UNSIGNED_ZERO = {"u1": -128, ">i2": 1 << 15, ">i4": 1 << 31, ">i8": 1 << 63}
"""TZERO or BZERO that mark the other signedness of an integer (tables 11 and 19)."""


class TableColumn(NamedTuple):
    """A column of a binary table: its dtype in the file and its scaling."""

    name: str
    dtype: np.dtype[Any]
    offset: int
    form: str
    zero: float
    scale: float


def table_columns(fits: Fits, name: str) -> dict[str, TableColumn]:
    """Return the columns of a binary table by name, in their order.

    Raises
    ------
    BadTile
        `corrupt_source` where the HDU is missing, no table, or its columns do not fill its rows.
    """
    hdu = find_hdu(fits, name)
    where = f"HDU {name}"
    if hdu.header.get("XTENSION") != "BINTABLE" or hdu.header.get("NAXIS") != 2:
        raise corrupt(fits.source, f"{where} is not a binary table")
    columns: dict[str, TableColumn] = {}
    offset = 0
    width = whole_keyword(hdu.header, "NAXIS1", fits.source, name, low=1)
    for i in range(1, whole_keyword(hdu.header, "TFIELDS", fits.source, name, high=999) + 1):
        form = str(hdu.header.get(f"TFORM{i}", "")).strip()
        match = re.match(r"(\d{0,12})([LXBIJKAEDCMPQ])", form)
        if match is None:
            raise corrupt(fits.source, f"{where}: TFORM{i} is {form!r}, which FITS does not have")
        repeat = int(match[1] or 1)
        if repeat > 8 * width:
            raise corrupt(fits.source, f"{where}: TFORM{i} is {form!r}, more than a row holds")
        letter = match[2]
        if letter == "A":
            dtype = np.dtype(f"S{repeat}") if repeat else np.dtype("V0")
        else:
            count = {"X": -(-repeat // 8), "P": 2 * repeat, "Q": 2 * repeat}.get(letter, repeat)
            base = _TFORM_DTYPE[letter]
            dtype = np.dtype(base) if count == 1 else np.dtype((base, (count,)))
        column = str(hdu.header.get(f"TTYPE{i}", f"col{i}")).strip()
        if column in columns:
            raise corrupt(fits.source, f"{where}: two columns are called {column}")
        columns[column] = TableColumn(
            column,
            dtype,
            offset,
            letter,
            number_keyword(hdu.header, f"TZERO{i}", fits.source, name, 0),
            number_keyword(hdu.header, f"TSCAL{i}", fits.source, name, 1),
        )
        offset += dtype.itemsize
    if offset != width:
        raise corrupt(
            fits.source, f"{where}: its columns take {offset} bytes a row, NAXIS1 says {width}"
        )
    return columns


def table_rows(fits: Fits, name: str) -> int:
    """Return the number of rows of a binary table."""
    return whole_keyword(find_hdu(fits, name).header, "NAXIS2", fits.source, name)


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
        raise corrupt(fits.source, f"HDU {name} has no column {', '.join(missing)}")
    width, height = int(hdu.header["NAXIS1"]), int(hdu.header["NAXIS2"])
    if width * height > MAX_TABLE_BYTES:
        raise corrupt(fits.source, f"HDU {name} claims {width * height} bytes: no table of DESI")
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
    fits: Fits,
    name: str,
    wanted: Iterable[str],
    text: Iterable[str] = (),
    whole: Iterable[str] = ("TARGETID",),
) -> dict[str, Array]:
    """Read columns of a binary table that hold one value a row.

    Parameters
    ----------
    fits, name, wanted
        As in `read_table`.
    text
        Columns of text; the others hold numbers.
    whole
        Columns of whole numbers: they become int64.

    Raises
    ------
    BadTile
        `corrupt_source` where a column is of another kind, and as `read_table`.
    """
    table = read_table(fits, name, wanted)
    for column, values in table.items():
        check_column(fits, name, column, values, "S" if column in text else "biuf")
        if column in whole:
            where = f"{fits.source}: HDU {name}, column {column}"
            table[column] = convert_values(values, np.int64, where)
    return table


def convert_values(values: Array, dtype: npt.DTypeLike, where: str) -> Array:
    """Return numbers in another dtype where that changes none of them.

    Digits that float64 has more than float32 may be lost, though: no range check should refuse
    them.

    Parameters
    ----------
    values
        Of any shape.
    dtype
        The dtype wanted.
    where
        File, HDU and column, for messages.

    Raises
    ------
    BadTile
        `corrupt_source` where values do not fit.
    """
    wanted = np.dtype(dtype)
    if values.dtype == wanted:
        return values
    if values.dtype.kind not in "biuf":
        raise BadTile("corrupt_source", f"{where} holds {values.dtype}, not {wanted}")
    with np.errstate(invalid="ignore", over="ignore"):
        converted = values.astype(wanted)
        same = np.array_equal(converted, values, equal_nan=wanted.kind == "f")
    if not same and not (wanted.kind == "f" and values.dtype.kind == "f"):
        raise BadTile("corrupt_source", f"{where} holds values that do not fit {wanted}")
    return converted


def check_column(fits: Fits, name: str, column: str, values: Array, kinds: str) -> None:
    """Assert that a column holds one value a row, of these kinds of numpy's dtypes."""
    if values.ndim != 1 or values.dtype.kind not in kinds:
        raise corrupt(
            fits.source,
            f"HDU {name}: column {column} holds {values.dtype} of shape {values.shape[1:]} a row",
        )


def _decode_column(values: Array, column: TableColumn) -> Array:
    if column.form == "L":
        return cast("Array", values == b"T")
    if column.form == "A":
        # numpy drops trailing NULs, writers pad with blanks
        return np.char.rstrip(values) if values.dtype.itemsize else np.zeros(len(values), "S1")
    return unscale(values, column.zero, column.scale)


def unscale(values: Array, zero: float, scale: float) -> Array:
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
