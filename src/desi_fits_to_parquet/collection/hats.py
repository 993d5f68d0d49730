"""The small files that make a folder of Parquet a HATS catalogue.

They are written by hand: hats brings an environment of its own, and all of it is a page of text.

Source: https://www.ivoa.net/documents/Notes/HATS, version 1.0.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from desi_fits_to_parquet import __version__
from desi_fits_to_parquet.files import atomic_path, write_atomically
from desi_fits_to_parquet.formats.fits_header import format_card
from desi_fits_to_parquet.formats.fits_write import write_hdu
from desi_fits_to_parquet.paths import partition

Pixel = tuple[int, int]
"""Order and NESTED pixel of a partition."""

SKYMAP_ORDER = 6

_BUILDER = {
    "hats_builder": f"desi-fits-to-parquet {__version__}",
    "hats_version": "v1.0",
    "obs_copyright": "DESI data: CC BY 4.0, DESI Collaboration",
}


def partition_path(catalog: Path, pixel: Pixel) -> Path:
    """Return the path of a partition that is one file."""
    return catalog / "dataset" / f"{partition(*pixel)}.parquet"


def write_properties(path: Path, values: Mapping[str, Any]) -> None:
    """Write a file of properties: a key and a value a line; what is None or empty is left out."""
    lines = [f"{key}={value}" for key, value in values.items() if value not in (None, "")]
    write_atomically(path, "\n".join(lines) + "\n")


def write_catalog_files(
    catalog: Path, pixels: Iterable[Pixel], schema: pa.Schema, properties: Mapping[str, Any]
) -> None:
    """Write what stands beside the partitions of a catalogue; its properties last.

    Parameters
    ----------
    catalog
        Folder of the catalogue.
    pixels
        Its partitions.
    schema
        Schema of all their files, which becomes `_common_metadata`.
    properties
        The catalogue's own properties: its name, its type, what its columns mean.
    """
    listed = sorted(pixels, key=lambda pixel: (pixel[1] << 2 * (29 - pixel[0]), pixel))
    lines = ["Norder,Npix", *(f"{order},{number}" for order, number in listed)]
    write_atomically(catalog / "partition_info.csv", "\n".join(lines) + "\n")
    write_metadata(catalog / "dataset/_common_metadata", schema)
    orders = [order for order, _ in listed]
    write_properties(
        catalog / "hats.properties",
        {
            **properties,
            "hats_order": max(orders, default=0),
            "moc_sky_fraction": f"{sum(1 / (12 * 4**order) for order in orders):.5f}",
            **_BUILDER,
        },
    )


def write_index_files(
    catalog: Path, files: Iterable[Path], schema: pa.Schema, properties: Mapping[str, Any]
) -> None:
    """Write what stands beside the files of an index; its properties last.

    Readers find the files by `_metadata`, which holds the footers of all.
    """
    dataset = catalog / "dataset"
    footers = []
    for path in files:
        with pq.ParquetFile(path) as parquet:
            footers.append(parquet.metadata)
        footers[-1].set_file_path(str(path.relative_to(dataset)))
    write_metadata(dataset / "_common_metadata", schema)
    write_metadata(dataset / "_metadata", schema, footers)
    write_properties(catalog / "hats.properties", {**properties, **_BUILDER})


def write_metadata(path: Path, schema: pa.Schema, footers: list[Any] | None = None) -> None:
    """Write a Parquet file without data."""
    with atomic_path(path) as temporary:
        pq.write_metadata(schema, temporary, metadata_collector=footers)


def write_skymap(catalog: Path, counts: npt.NDArray[np.int64]) -> None:
    """Write how many rows each pixel of the sky has.

    Parameters
    ----------
    catalog
        Folder of the catalogue.
    counts
        Rows in each NESTED pixel of order `SKYMAP_ORDER`, shape (12 * 4**SKYMAP_ORDER,).

    Notes
    -----
    A HEALPix map as a binary table, implicit and NESTED, as hats itself writes it. Source:
    https://healpix.sourceforge.io/data/examples/healpix_fits_specs.pdf.
    """
    primary = {"SIMPLE": True, "BITPIX": 8, "NAXIS": 0, "EXTEND": True}
    table = {
        "XTENSION": "BINTABLE", "BITPIX": 8, "NAXIS": 2, "NAXIS1": 4, "NAXIS2": len(counts),
        "PCOUNT": 0, "GCOUNT": 1, "TFIELDS": 1, "TTYPE1": "VALUE", "TFORM1": "J",
        "PIXTYPE": "HEALPIX", "INDXSCHM": "IMPLICIT", "ORDERING": "NESTED",
        "NSIDE": 1 << SKYMAP_ORDER, "FIRSTPIX": 0, "LASTPIX": len(counts) - 1,
        "OBJECT": "FULLSKY", "COORDSYS": "C", "EXTNAME": "SKYMAP",
    }  # fmt: skip
    with atomic_path(catalog / "skymap.fits") as temporary, temporary.open("wb+") as stream:
        write_hdu(stream, _cards(primary))
        write_hdu(stream, _cards(table), [counts.astype(">i4").tobytes()])


def _cards(values: Mapping[str, Any]) -> bytes:
    return b"".join(format_card(key, value) for key, value in values.items())
