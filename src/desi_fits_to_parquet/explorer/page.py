"""The explorer's page: files of the package, built from `explorer/` by `make explorer`."""

from pathlib import Path

from desi_fits_to_parquet.files import write_atomically
from desi_fits_to_parquet.paths import EXPLORER

STATIC = Path(__file__).parent / "static"
"""Folder of the package that holds the page."""


def write_page(results: Path) -> None:
    """Write the page beside the data, which it finds one folder above itself.

    Parameters
    ----------
    results
        The folder of the results.

    Raises
    ------
    OSError
        Where it cannot be written.
    """
    for path in sorted(STATIC.iterdir()):
        write_atomically(results / EXPLORER / path.name, path.read_bytes())
