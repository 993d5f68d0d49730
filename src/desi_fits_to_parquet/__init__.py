"""Turn the DESI spectroscopic archive into Parquet that a laptop can query.

To read what a run wrote, on this disk, on S3 or on a web server:

>>> from desi_fits_to_parquet import open_catalog
>>> quasars = open_catalog("results")
>>> help(quasars)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from desi_fits_to_parquet.reader.catalog import open_catalog

__version__ = "0.2.0"

__all__ = ["__version__", "open_catalog"]


def __getattr__(name: str) -> Any:
    """Import the reader when it is asked for: a tile's job imports this package 90,000 times."""
    if name == "open_catalog":
        from desi_fits_to_parquet.reader.catalog import open_catalog

        return open_catalog
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
