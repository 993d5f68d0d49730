"""Where the workflow's own files are: Snakefile, rules, scripts, profiles, configurations."""

from pathlib import Path

_PACKAGE = Path(__file__).parent

PACKED = "_workflow"
"""Folder of the package that holds them in a wheel; `pyproject.toml` packs them there."""


def workflow_folder() -> Path:
    """Return the folder of the Snakefile: in the package, or the checkout that this is."""
    packed = _PACKAGE / PACKED
    return packed if packed.is_dir() else _PACKAGE.parents[1]
