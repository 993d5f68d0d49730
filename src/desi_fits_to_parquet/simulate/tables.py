"""Simulated binary tables: their columns as the data model has them, and their bytes."""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from desi_fits_to_parquet.columns import Column, load_columns
from desi_fits_to_parquet.formats.fits_header import Value, format_card
from desi_fits_to_parquet.simulate.targets import Values

_NEWER = ("DESINAME", "MIN_MJD", "MAX_MJD", "MEAN_MJD", "FITMETHOD", "IN_COADD_B", "IN_COADD_R",
          "IN_COADD_Z")  # fmt: skip
"""Columns that releases after DR1 have."""

_NARROWER = {
    "COEFF": "float32[10]",
    "ZERR": "float32",
    "ZWARN": "int32",
    "NPIXELS": "int32",
    "NCOEFF": "int16",
    "DELTACHI2": "float32",
}
"""Columns of redrock's tables whose type may be narrower in newer releases."""

_FORMATS = {
    "int64": ("K", ">i8"),
    "int32": ("J", ">i4"),
    "int16": ("I", ">i2"),
    "float32": ("E", ">f4"),
    "float64": ("D", ">f8"),
    "binary": ("B", "u1"),
    "logical": ("L", "S1"),
}


def table_columns(file: str, extname: str, values: Values, newer: bool = False) -> list[Column]:
    """Columns of a table in the order of the data model: those required and those with values.

    With `newer`, columns that came after DR1 are among them and some types are narrower.
    """
    return [
        column._replace(type=_NARROWER.get(column.name, column.type)) if newer else column
        for column in load_columns(file, extname)
        if column.required or (column.name in values and (newer or column.name not in _NEWER))
    ]


def encode_table(
    columns: Iterable[Column], values: Values, units: bool = True
) -> tuple[bytes, bytes]:
    """Encode a binary table.

    Parameters
    ----------
    columns
        The columns in their order.
    values
        Arrays of shape (nrow,) or (nrow, length) by column name.
    units
        Write TUNITn; the tables that redrock copies have none.

    Returns
    -------
    cards, data
        Header cards from XTENSION to the last column, and the rows in big-endian order, strings
        padded with NUL.

    Raises
    ------
    KeyError
        Where a column has no values.
    """
    columns = list(columns)
    fields: list[Any] = []
    forms: list[str] = []
    for column in columns:
        match = re.fullmatch(r"(\w+?)(?:\[(\d+)\])?", column.type)
        if match is None:
            raise ValueError(f"columns.csv: {column.name} has the unknown type {column.type!r}")
        length = int(match[2] or 1)
        if match[1] == "char":
            forms.append(f"{length}A")
            fields.append((column.name, f"S{length}"))
        else:
            letter, dtype = _FORMATS[match[1]]
            forms.append(f"{length}{letter}" if length > 1 else letter)
            fields.append((column.name, dtype, (length,)) if length > 1 else (column.name, dtype))
    rows = np.zeros(len(values[columns[0].name]), np.dtype(fields))
    for column in columns:
        given = values[column.name]
        rows[column.name] = np.where(given, b"T", b"F") if column.type == "logical" else given
    cards: list[tuple[str, Value, str]] = [
        ("XTENSION", "BINTABLE", "binary table extension"),
        ("BITPIX", 8, "array data type"),
        ("NAXIS", 2, "number of array dimensions"),
        ("NAXIS1", rows.dtype.itemsize, "length of dimension 1"),
        ("NAXIS2", len(rows), "length of dimension 2"),
        ("PCOUNT", 0, "number of group parameters"),
        ("GCOUNT", 1, "number of groups"),
        ("TFIELDS", len(columns), "number of table fields"),
    ]
    for i, (column, form) in enumerate(zip(columns, forms, strict=True), 1):
        cards += [(f"TTYPE{i}", column.name, ""), (f"TFORM{i}", form, "")]
        if units and column.unit:
            cards.append((f"TUNIT{i}", column.unit, f"{column.name} units"))
    return b"".join(format_card(*card) for card in cards), rows.tobytes()
