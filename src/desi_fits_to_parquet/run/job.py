"""What the script of a tile's job begins with: its tile, its run's settings, its share of the lock.

The scripts are started by a shell command and not by Snakemake's `script:`, which loads Snakemake
into each of 90,000 jobs. So the settings come from a file that the run writes once.
"""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any, NamedTuple

from desi_fits_to_parquet.files import read_json
from desi_fits_to_parquet.paths import SETTINGS
from desi_fits_to_parquet.run.lock import join_run
from desi_fits_to_parquet.tile import LAYOUTS, Tile, tile_of


class Job(NamedTuple):
    """A tile's job: what it works on, and the rest of its arguments by their names."""

    tile: Tile
    results: Path
    settings: dict[str, Any]
    given: dict[str, str]


def begin_job(description: str, *names: str) -> Job:
    """Read a job's arguments and join its run, before anything is written.

    Parameters
    ----------
    description
        What the script does, for its `--help`.
    names
        Arguments of this script beside those that all have: results, layout, log, and survey,
        program and number (or order and pixel) of the tile.

    Raises
    ------
    SystemExit
        Where an argument is missing, or where the run that started this job is not the one that
        works in the results now (`join_run`).
    """
    parser = ArgumentParser(description=description)
    parser.add_argument("--layout", choices=sorted(LAYOUTS), default="healpix")
    for name in ("results", "survey", "program", "log", *names):
        parser.add_argument(f"--{name}", required=True)
    for name in ("healpix", "order", "pixel"):
        parser.add_argument(f"--{name}")
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    try:
        tile = tile_of(given, given["layout"])
    except KeyError:
        parser.error("which tile? Give --healpix, or --order and --pixel")
    results = Path(given["results"])
    join_run(results)
    return Job(tile, results, read_json(results / SETTINGS), given)
