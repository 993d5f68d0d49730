"""Tables and spectra in the objects of other libraries, with their units."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:
    import polars as pl
    from astropy.table import QTable
    from astropy.units import Unit
    from specutils import Spectrum as SpecutilsSpectrum


def to_polars(table: pa.Table) -> "pl.DataFrame":
    """Return a table for Polars.

    Raises
    ------
    ImportError
        Where Polars is not installed.
    """
    try:
        import polars as pl
    except ImportError as error:
        raise ImportError("Polars is not installed: pip install polars") from error
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101  (for the type checker)
    return frame


def to_astropy(
    table: pa.Table, arrays: Mapping[str, tuple[npt.NDArray[Any], pa.Field]] | None = None
) -> "QTable":
    """Return a table for astropy: numbers with a unit are quantities, nulls are masked.

    What the files hold in nanomaggies (3.631 uJy) is in uJy, so that the table can be written to
    FITS, where the scale of a unit is a power of ten.

    Parameters
    ----------
    table
        Columns of one value a row, or of a list; the fields' metadata hold `unit`, `description`.
    arrays
        Further columns, a row of the array for each of the table, and the field that tells of it.
    """
    from astropy.table import QTable, Table

    result = Table()
    columns = {name: (_to_numpy(table[name]), table.field(name)) for name in table.column_names}
    for name, (values, field) in {**columns, **(arrays or {})}.items():
        result[name] = values
        metadata = field.metadata or {}
        result[name].description = metadata.get(b"description", b"").decode() or None
        if b"unit" in metadata and values.dtype.kind == "f":  # a quantity would be no integer
            unit = to_unit(field)
            if math.log10(unit.scale) % 1:  # FITS has no units of 3.631 uJy
                result[name] *= values.dtype.type(unit.scale)
                unit = unit / unit.scale
            result[name].unit = unit
    return QTable(result)


def to_unit(field: pa.Field) -> "Unit":
    """Return the unit that a field of the record names, as astropy has it."""
    from astropy import units as u

    return u.Unit((field.metadata or {}).get(b"unit", b"").decode())


def to_specutils(
    wavelength: npt.NDArray[np.float64],
    flux: npt.NDArray[np.float32],
    ivar: npt.NDArray[np.float32],
    good: npt.NDArray[np.bool_],
    fields: Mapping[str, pa.Field],
    **arguments: Any,
) -> "SpecutilsSpectrum":
    """Return one spectrum, or many on one grid, for specutils.

    Parameters
    ----------
    wavelength, flux, ivar, good
        Shape (npix,), the last three also (n, npix).
    fields
        Which tell the units of `wavelength`, `flux` and `ivar`.
    **arguments
        More for `specutils.Spectrum`.

    Raises
    ------
    ImportError
        Where specutils is not installed.
    """
    try:
        from specutils import Spectrum
    except ImportError as error:
        raise ImportError("specutils 2 is not installed: pip install specutils") from error
    from astropy.nddata import InverseVariance

    return Spectrum(
        flux=flux * to_unit(fields["flux"]),
        spectral_axis=wavelength * to_unit(fields["wavelength"]),
        uncertainty=InverseVariance(ivar * to_unit(fields["ivar"])),
        mask=~good,
        **arguments,
    )


def to_matrix(lists: pa.Array, name: str) -> npt.NDArray[Any]:
    """Return lists of equal length as an array of shape (n, length).

    Raises
    ------
    ValueError
        Where they differ in length, or one is missing.
    """
    import pyarrow.compute as pc

    lengths = np.unique(pc.fill_null(pc.list_value_length(lists), 0).to_numpy())
    if len(lengths) > 1:
        raise ValueError(
            f"{name}: spectra of {lengths[0]} and of {lengths[-1]} pixels are not on one grid; "
            "they were made with different settings"
        )
    matrix: npt.NDArray[Any] = lists.flatten().to_numpy().reshape(len(lists), -1)
    return matrix


def _to_numpy(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Return a column as numpy has it; masked where there are nulls, or a list ends before others.

    A column of lists becomes an array of shape (n, longest).
    """
    import pyarrow.compute as pc  # half of the time of importing the reader

    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
        there = np.arange(lengths.max(initial=0)) < lengths[:, None]
        matrix = np.zeros(there.shape, column.type.value_type.to_pandas_dtype())
        matrix[there] = pc.list_flatten(column).to_numpy()
        return matrix if there.all() else np.ma.array(matrix, mask=~there)
    missing = column.is_null().to_numpy()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        values = np.array(column.fill_null("").to_pylist(), dtype=str)
    else:
        values = column.fill_null(pa.scalar(0).cast(column.type)).to_numpy()
    return np.ma.array(values, mask=missing) if missing.any() else values
