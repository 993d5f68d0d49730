"""numpy arrays as Arrow arrays, over the same memory where that can be.

`pyarrow.array` would do most of this, but it imports pandas where that is installed: 0.3 s of CPU
in each of 30,000 jobs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Missing = npt.NDArray[np.bool_] | None
"""Which values are null, bool of shape (n,); None where none is."""


def numbers(kind: pa.DataType, values: npt.NDArray[Any], missing: Missing = None) -> pa.Array:
    """Return numbers or logicals of shape (n,); their dtype is that of the Arrow type `kind`."""
    data = np.packbits(values, bitorder="little") if pa.types.is_boolean(kind) else values
    return pa.Array.from_buffers(kind, len(values), [_validity(missing), _buffer(data)])


def strings(texts: Sequence[bytes], missing: Missing = None) -> pa.Array:
    """Return a string array; the bytes are what FITS and HDF5 allow, ASCII."""
    encoded = [text.decode("latin-1").encode() for text in texts]
    offsets = _offsets([len(text) for text in encoded])
    data = pa.py_buffer(b"".join(encoded))
    return pa.Array.from_buffers(
        pa.string(), len(texts), [_validity(missing), _buffer(offsets), data]
    )


def lists(
    kind: pa.DataType, lengths: npt.NDArray[Any], items: pa.Array, missing: Missing = None
) -> pa.Array:
    """Return a list array from the lengths of its lists and all their items."""
    buffers = [_validity(missing), _buffer(_offsets(lengths))]
    return pa.Array.from_buffers(kind, len(lengths), buffers, children=[items])


def row_lists(kind: pa.DataType, values: npt.NDArray[Any], missing: Missing = None) -> pa.Array:
    """Return an array of shape (n, length) as n lists."""
    items = numbers(kind.value_type, values.reshape(-1))
    return lists(kind, np.full(len(values), values.shape[1]), items, missing)


def structs(kind: pa.DataType, members: Sequence[pa.Array], missing: Missing = None) -> pa.Array:
    """Return a struct array from its members."""
    n = len(members[0])
    return pa.Array.from_buffers(kind, n, [_validity(missing)], children=list(members))


def _offsets(lengths: npt.ArrayLike) -> npt.NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def _validity(missing: Missing) -> pa.Buffer | None:
    if missing is None or not missing.any():
        return None
    return pa.py_buffer(np.packbits(~missing, bitorder="little"))


def _buffer(values: npt.NDArray[Any]) -> pa.Buffer:
    return pa.py_buffer(np.ascontiguousarray(values))


def missing_values(array: pa.Array) -> npt.NDArray[np.bool_]:
    """Return which values of an array are null, bool of shape (n,)."""
    validity = array.buffers()[0]
    if validity is None:
        return np.zeros(len(array), bool)
    bits = np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little")
    return ~bits[array.offset : array.offset + len(array)].astype(bool)


def as_numbers(array: pa.Array) -> npt.NDArray[Any]:
    """Return an array of numbers as numpy, over the same memory; what is null is undefined."""
    dtype = np.dtype(array.type.to_pandas_dtype())
    data = array.buffers()[1]
    values = np.frombuffer(data, dtype) if data is not None else np.zeros(0, dtype)
    return values[array.offset : array.offset + len(array)]


def list_lengths(array: pa.Array) -> npt.NDArray[np.int64]:
    """Return the lengths of the lists of an array, -1 for a null, int64 of shape (n,)."""
    return np.where(missing_values(array), -1, np.diff(as_numbers(array.offsets)).astype(np.int64))
