"""The fields of the catalogue: the scalars of the record, and where a row's spectrum lies."""

from typing import Any

import pyarrow as pa

from desi_fits_to_parquet.record.schema import Field, record_fields
from desi_fits_to_parquet.settings import Settings

_QUALITIES = ("tsnr2_lrg", "coadd_exptime", "deltachi2")

_SHOWN = (
    "targetid", "survey", "program", "healpix", "target_ra", "target_dec", "z", "zerr", "zwarn",
    "deltachi2", "spectype", "subtype", "qso_maskbits", "flux_g", "flux_r", "flux_z",
    "coadd_exptime", "is_primary", "file", "row",
)  # fmt: skip


def catalog_fields(settings: Settings) -> tuple[Field, ...]:
    """Return the fields of the catalogue in their order.

    Parameters
    ----------
    settings
        The validated configuration, which decides the record.

    Returns
    -------
    tuple of Field
        All fields of the record that hold one value a row, then those that the catalogue adds.
    """
    return (
        *(field for field in record_fields(settings) if not pa.types.is_nested(field.type)),
        _added("file", pa.string(), "meta.ref.url",
               "The tile's Parquet, which holds the spectrum, below the folder of the results"),
        _added("row", pa.int32(), "meta.record", "Row in that file, from 0 on"),
        _added("file_size", pa.int64(), "meta.number", "Size of that file, in bytes"),
        _added("is_primary", pa.bool_(), "meta.code",
               "The best of the target's spectra in this catalogue, as in DESI's ZCAT_PRIMARY"),
    )  # fmt: skip


def quality_field(fields: tuple[Field, ...]) -> str:
    """Return the field by which the best of a target's spectra is chosen (`find_primary`)."""
    names = {field.name for field in fields}
    return next(name for name in _QUALITIES if name in names)


def shown_fields(fields: tuple[Field, ...]) -> list[str]:
    """Return the fields that LSDB reads where none are asked for."""
    names = {field.name for field in fields}
    return [name for name in _SHOWN if name in names]


def _added(name: str, kind: Any, ucd: str, description: str) -> Field:
    unit = "byte" if name == "file_size" else ""
    return Field(name, kind, unit, ucd, description, None)
