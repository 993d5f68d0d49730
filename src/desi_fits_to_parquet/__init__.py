"""Turn the DESI spectroscopic archive into Parquet that a laptop can query."""

__version__ = "0.2.0"
