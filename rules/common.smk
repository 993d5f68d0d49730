# Settings and functions that the rules share. No rule stands here.
import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from shlex import quote

import yaml
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

# The scripts of the jobs import the library of this very checkout, wherever they run; of a wheel, or
# of a module from elsewhere, the installed one.
SOURCE = Path(str(workflow.current_basedir), "../src").resolve()
if SOURCE.is_dir():
    sys.path.insert(0, str(SOURCE))
    os.environ.update(
        PYTHONPATH=os.pathsep.join(
            [str(SOURCE), *filter(None, [os.getenv("PYTHONPATH")])]
        )
    )

# `python` of a job's command is the one of this very Snakemake, or of the environment of conda that
# `--use-conda` puts before it.
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), os.getenv("PATH", "")])
)

# A job computes on one core; starting BLAS's pool of threads would double its CPU time.
os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")

from desi_fits_to_parquet.run.needs import missing_text

if lacking := missing_text():
    sys.exit(lacking)

from desi_fits_to_parquet.columns import kinds_used
from desi_fits_to_parquet.config import ConfigError, check_config
from desi_fits_to_parquet.archive.credentials import clear_environment
from desi_fits_to_parquet.archive.keys import archive_address
from desi_fits_to_parquet.report.files import FIGURES_FOLDER, LANDING, PAGE, TABLES
from desi_fits_to_parquet.run.repair import find_stale, refusal_to_replace, stale_text
from desi_fits_to_parquet.run.skims import find_stale_skims, refuse_own_skim
from desi_fits_to_parquet.run.snakemake import force, shares_out, will_run
from desi_fits_to_parquet.settings import archive_folder, content_settings
from desi_fits_to_parquet.skim import skim_settings
from desi_fits_to_parquet.tile import PROGRAMS, SURVEYS, tile_of
from desi_fits_to_parquet.paths import (
    CATALOG,
    COLLECTED,
    COLLECTION,
    INDEX,
    MARGIN,
    REPORTED,
    SKIM,
    SKIMMED,
    fits_folder,
    marker_path,
    parquet_folder,
    skim_marker_path,
)
from desi_fits_to_parquet.tiles_csv import (
    list_tiles,
    pack_sources,
    read_layout,
    read_sources,
    sources_version,
)
from desi_fits_to_parquet.workflow import workflow_folder

WORKFLOW = workflow_folder()

try:
    # in place: the jobs get the very dictionary that Snakemake holds
    config.update(
        check_config(
            config,
            yaml.safe_load((WORKFLOW / "config/schema.yaml").read_text()),
        )
    )
except ConfigError as error:
    sys.exit(str(error))


# Nobody's keys, endpoints or regions for other work; see archive.profile.
clear_environment(os.environ)


RESULTS = config["results"].rstrip("/")
ARCHIVE = archive_address(config["archive"])
TILE = "{survey}/{program}/{healpix}"
# a partition of a HATS catalogue: its folder names order and pixel, not DESI's number
PARTITION = "{survey}-{program}/dataset/Norder={order}/Dir={group}/Npix={pixel}"

# what a tile's Parquet depends on beside its sources: a change converts it again
CONTENT_SETTINGS = content_settings(config)


# the kinds of a tile's files that the configuration uses
KINDS = {*kinds_used(config), "sha256sum"}

# What the report tells of the run; how a bucket was reached changes nothing in it. A folder is
# another archive than a bucket: it is listed anew where one takes the place of the other.
REPORT_SETTINGS = {
    **CONTENT_SETTINGS,
    "archive": {
        key: config["archive"][key]
        for key in (
            ("endpoint" if archive_folder(config["archive"]) else "bucket"),
            "prefix",
            "layout",
        )
    },
    "tiles": config["tiles"],
    "sample": config["sample"],
}

REPORT_TABLES = [f"{RESULTS}/report/{name}" for name in TABLES]


wildcard_constraints:
    survey="|".join(SURVEYS),
    program="|".join(PROGRAMS),
    healpix=r"\d+",
    order=r"\d+",
    group=r"\d+",
    pixel=r"\d+",


def tile_command(rule, *arguments):
    """The shell command of a rule that works on one tile; see `run/job.py`.

    Not `script:`, which loads Snakemake into the job: a sixth of a second, 90,000 times.
    """
    script = WORKFLOW / f"scripts/{rule}.py"
    begun = f"exec python {quote(str(script))} --results {quote(RESULTS)}"
    return (
        f"{begun.replace('{', '{{').replace('}', '}}')} --layout {{params.layout}} "
        "--survey {wildcards.survey} --program {wildcards.program} "
        f"{' '.join(arguments)} --log {{log:q}}"
    )


def layout(wildcards):
    """The layout of the archive as it was listed, which tells what a tile's number means."""
    return read_layout(f"{RESULTS}/tiles.csv")


def find_tile(wildcards):
    """The tile of a job."""
    return tile_of(dict(wildcards.items()), layout(wildcards))


def tile_fits(wildcards):
    """The folder of the tile's FITS."""
    return str(fits_folder(Path(RESULTS), find_tile(wildcards)))


def tile_parquet(wildcards):
    """The folder of the tile's Parquet."""
    return str(parquet_folder(Path(RESULTS), find_tile(wildcards)))


def find_sources(wildcards):
    """The tile's files in the archive, of those kinds that are used: key, size and ETag."""
    tile = find_tile(wildcards)
    try:
        return read_sources(f"{RESULTS}/tiles.csv", tile, KINDS)
    except KeyError:
        raise WorkflowError(f"tile {tile.name} is not in {RESULTS}/tiles.csv")


def tile_sources(wildcards):
    """The same as a text that Snakemake can keep for each tile."""
    return pack_sources(find_sources(wildcards))


def tile_version(wildcards):
    """A short text that changes with the tile's files in the archive."""
    return sources_version(find_sources(wildcards))


def on_cluster(**resources):
    """The resources of a job where something shares them out: a cluster, or a limit of memory.

    Elsewhere to work them out for 90,000 jobs would be an eighth of the time of the graph.
    """
    return resources if shares_out(workflow) else {}


def tile_mb(wildcards):
    """Size of the tile's files in MB, as the archive was listed."""
    return sum(source["size"] for source in find_sources(wildcards).values()) // 10**6


def tile_memory(wildcards):
    """Memory of a tile's job in MB: measured below 300 for this project plus 1 a MB of its files.

    The rest is for Snakemake, which on a cluster runs twice beside it.
    """
    return 1000 + tile_mb(wildcards)


def download_minutes(wildcards):
    """Time limit of a download on a cluster, in minutes: 3 MB/s and a minute for bad moments."""
    return 1 + tile_mb(wildcards) // 200


@cache
def find_stale_once(version):
    """The tiles to be done again although they have markers, looked for once a list.

    Those of other settings are replaced only where this was asked for.
    """
    stale = find_stale(Path(RESULTS), config)
    if refusal := refusal_to_replace(Path(RESULTS), stale, config):
        if will_run(workflow):
            logger.error(f"Stopped before the first job: {refusal}")
            sys.exit(1)
        logger.warning(f"The run would stop before its first job: {refusal}")
    return stale


@cache
def say_stale_once(version):
    """Say which tiles are done again although they have markers, once a list."""
    for line in stale_text(find_stale_once(version)):
        logger.warning(line)


def list_version(listed):
    """What changes with the list of tiles."""
    return Path(listed).stat().st_mtime_ns


def redo_stale(listed):
    """Have Snakemake do those tiles again whose markers do not tell what a run would make now.

    Its own records do not suffice: they lie elsewhere, and are lost more easily than the results.
    Nothing is removed here, where no lock is held; each job removes what it makes anew.
    """
    if workflow.is_main_process:
        say_stale_once(list_version(listed))
        for finding in find_stale_once(list_version(listed)):
            for place in (fits_folder, parquet_folder, marker_path):
                force(workflow, str(place(Path(RESULTS), finding.tile)))


def all_markers(wildcards):
    """The markers of all discovered tiles."""
    before = Path(RESULTS, "tiles.csv")
    if workflow.is_main_process and before.exists():
        with suppress(ValueError):  # one that is broken is said below, or made anew
            find_stale_once(list_version(before))
    listed = checkpoints.discover_tiles.get().output.tiles
    try:
        tiles = list_tiles(listed)
        redo_stale(listed)
    except ValueError as error:
        raise WorkflowError(str(error))
    return [
        f"{RESULTS}/validated/{tile.survey}/{tile.program}/{tile.number}.json"
        for tile in tiles
    ]


@cache
def find_stale_skims_once(version):
    """The tiles whose skim is to be made anew, said once a list."""
    stale = find_stale_skims(Path(RESULTS), config)
    for line in stale_text(stale):
        logger.warning(line)
    return stale


def all_skims(wildcards):
    """The markers of all discovered tiles' skims."""
    listed = checkpoints.discover_tiles.get().output.tiles
    if refusal := refuse_own_skim(config):
        raise WorkflowError(refusal)
    try:
        tiles = list_tiles(listed)
        if workflow.is_main_process:
            stale = find_stale_skims_once(Path(listed).stat().st_mtime_ns)
            for tile, _ in stale:
                force(workflow, str(skim_marker_path(Path(RESULTS), tile)))
    except ValueError as error:
        raise WorkflowError(str(error))
    return [str(skim_marker_path(Path(RESULTS), tile)) for tile in tiles]
