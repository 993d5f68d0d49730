"""What the workflow imports, looked for before it begins: this module imports nothing of it."""

import importlib.util
import sys

NEEDED = (
    *("numpy", "pyarrow", "duckdb", "obstore", "tqdm"),
    *("h5py", "boto3", "urllib3", "tenacity", "jsonschema", "yaml", "apprise", "psutil"),
    *("astropy", "astropy_healpix", "pandas", "matplotlib"),
)
"""The modules that a run imports of other projects, beside Snakemake."""


def missing_text() -> str:
    """Say what is not installed beside this Snakemake, and what to do; empty where all is."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if not missing:
        return ""
    return (
        f"The Python of this Snakemake ({sys.executable}) lacks {', '.join(missing)}: make the "
        "project's own environment with `make env` and type .venv/bin/snakemake, or install the "
        "project beside this Snakemake with pip"
    )
