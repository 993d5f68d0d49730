"""The record of a tile as its FITS files hold it, a block of targets at a time, nothing rounded.

The fusion rounds the blocks and writes them; the validation compares the Parquet with them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from desi_fits_to_parquet.outcomes import BadTile
from desi_fits_to_parquet.record.arms import Spectra
from desi_fits_to_parquet.record.opened import OpenedTile
from desi_fits_to_parquet.record.schema import Field
from desi_fits_to_parquet.record.spectra import read_spectra
from desi_fits_to_parquet.record.tables import read_best_fits, read_scans

_DETAILS = {"rrdetails": read_best_fits, "rrdetails_scans": read_scans}


class Block(NamedTuple):
    """Some targets of the record, in its order.

    Attributes
    ----------
    arrays
        The fields that no rounding touches, by name.
    spectra
        The spectra by the prefix of their fields, as `read_spectra` gives them.
    """

    arrays: dict[str, pa.Array]
    spectra: dict[str, Spectra]


def read_blocks(
    opened: OpenedTile,
    tables: Mapping[str, pa.Array],
    fields: Sequence[Field],
    lengths: Iterable[int],
) -> Iterator[Block]:
    """Read the record of the selected targets block by block: memory does not grow with the tile.

    Parameters
    ----------
    opened
        The tile's files.
    tables
        From `read_tables`.
    fields
        The fields of the record.
    lengths
        Targets of each block.

    Raises
    ------
    BadTile
        `corrupt_source` where spectra or best fits are broken, or the fits another tile's.
    """
    details = [f.name for f in fields if f.name in _DETAILS]
    first = known = 0
    for length in lengths:
        part = slice(first, first + length)
        first += length
        targetid = opened.selection.targetid[part]
        arrays = {name: array[part] for name, array in tables.items()}
        for name in details:
            arrays[name] = _DETAILS[name](opened.details, targetid)
            known += length - arrays[name].null_count
        spectra = {}
        if opened.layout is not None:
            spectra = read_spectra(opened.fits["coadd"], opened.layout, opened.rows[part], targetid)
        yield Block(arrays, spectra)
    if opened.details is not None and first and not known:
        raise BadTile(
            "corrupt_source",
            f"{Path(opened.details.filename).name}: holds none of the {first} selected targets: it "
            "is another tile's",
        )
