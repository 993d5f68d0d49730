# Settings and functions that the rules share. No rule stands here, no function there.
import gc
import os
import signal
import sys
from functools import cache
from hashlib import sha256
from pathlib import Path
from threading import Thread

import yaml
from snakemake.exceptions import WorkflowError
from snakemake.resources import Resource
from snakemake.jobs import GroupJob, GroupJobFactory, Job
from snakemake.logging import logger

# Snakemake's 90,000 jobs all stay: to look for garbage among them as often as Python does by itself
# takes a tenth of the time of the graph.
gc.set_threshold(20_000, 20, 20)

# The scripts of the jobs import the library of this very checkout, wherever they run.
SOURCE = str(Path(workflow.basedir) / "src")
sys.path.insert(0, SOURCE)
os.environ.update(PYTHONPATH=SOURCE)

# A job computes on one core; starting BLAS's pool of threads would double its CPU time.
os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")

from desi_fits_to_parquet.archive.errors import ArchiveUnreachable
from desi_fits_to_parquet.columns import kinds_used
from desi_fits_to_parquet.config import ConfigError, check_config
from desi_fits_to_parquet.archive.credentials import clear_environment
from desi_fits_to_parquet.discover import probe_archive
from desi_fits_to_parquet.run.lock import RunningElsewhere, hold_lock
from desi_fits_to_parquet.run.notify import NotifyError, read_addresses
from desi_fits_to_parquet.run.watch import TILE_RULES, watch_run
from desi_fits_to_parquet.report.files import PAGES, TABLES
from desi_fits_to_parquet.run.repair import remove_leftovers
from desi_fits_to_parquet.run.scheduling import choose_followers_too
from desi_fits_to_parquet.paths import LOW_NOTE
from desi_fits_to_parquet.tile import PROGRAMS, SURVEYS, Tile
from desi_fits_to_parquet.tiles_csv import list_tiles, pack_sources, read_sources

try:
    # in place: the jobs get the very dictionary that Snakemake holds
    config.update(
        check_config(
            config,
            yaml.safe_load((Path(workflow.basedir) / "config/schema.yaml").read_text()),
        )
    )
except ConfigError as error:
    sys.exit(str(error))


# Nobody's keys, endpoints or regions for other work; see archive.profile.
clear_environment(os.environ)


def new_group(factory, groupid, jobs, resources):
    """A group of jobs that no other part of the graph knows."""
    return GroupJob(groupid, frozenset(jobs), resources)


# Snakemake 9.27 bundles tiles again each time it looks at the graph, and a resumed run looks twice.
# It begins from the groups that it merged the first time, so that a tile was submitted twice, in
# two groups at once (snakemake/snakemake#1628, snakemake-executor-plugin-slurm#253).
GroupJobFactory.new = new_group

# Snakemake looks for the file of a job's script anew for each job: an eighth of the time of the graph.
workflow.sourcecache._cache = cache(workflow.sourcecache._cache)

# No rule has a pipe or a service as its input. Snakemake looks for one of all tiles in each of the
# 30,000 inputs of the report, and of `all`: minutes at the end of a run.
Job.is_pipe_or_service_input = lambda job, path: False

# tiles fetched at once, unless --resources or a profile says another number
if "download" not in workflow.global_resources:
    workflow.register_resource(
        "download", Resource("download", config["transfer"]["downloads"])
    )

RESULTS = config["results"].rstrip("/")
TILE = "{survey}/{program}/{healpix}"
HIVE = "survey={survey}/program={program}/healpix={healpix}"

# what a tile's Parquet depends on beside its sources: a change converts it again
CONTENT_SETTINGS = {
    key: config[key] for key in ("selection", "columns", "spectra", "precision")
}


# the kinds of a tile's files that the configuration uses
KINDS = {*kinds_used(config), "sha256sum"}

# what the report tells of the run; how the archive was reached changes nothing in it
REPORT_SETTINGS = {
    **CONTENT_SETTINGS,
    "archive": {key: config["archive"][key] for key in ("bucket", "prefix")},
    "tiles": config["tiles"],
    "sample": config["sample"],
}

REPORT_TABLES = [f"{RESULTS}/report/{name}" for name in TABLES]


wildcard_constraints:
    survey="|".join(SURVEYS),
    program="|".join(PROGRAMS),
    healpix=r"\d+",


def find_sources(wildcards):
    """The tile's files in the archive, of those kinds that are used: key, size and ETag."""
    tile = Tile(wildcards.survey, wildcards.program, int(wildcards.healpix))
    try:
        return read_sources(f"{RESULTS}/tiles.csv", tile, KINDS)
    except KeyError:
        raise WorkflowError(f"tile {tile.name} is not in {RESULTS}/tiles.csv")


def tile_sources(wildcards):
    """The same as a text that Snakemake can keep for each tile."""
    return pack_sources(find_sources(wildcards))


def tile_version(wildcards):
    """A short text that changes with the tile's files in the archive."""
    return sha256(tile_sources(wildcards).encode()).hexdigest()[:16]


def on_cluster(**resources):
    """The resources of a job where something shares them out: a cluster, or a limit of memory.

    Elsewhere to work them out for 90,000 jobs would be an eighth of the time of the graph.
    """
    shared_out = (
        workflow.resource_settings.nodes or "mem_mb" in workflow.global_resources
    )
    return resources if shared_out else {}


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


def all_markers(wildcards):
    """The markers of all discovered tiles."""
    listed = checkpoints.discover_tiles.get().output.tiles
    try:
        tiles = list_tiles(listed)
    except ValueError as error:
        raise WorkflowError(str(error))
    return [
        f"{RESULTS}/validated/{tile.survey}/{tile.program}/{tile.healpix}.json"
        for tile in tiles
    ]


def tiles_to_do():
    """The tiles that Snakemake is going to validate, as far as it knows them yet."""
    return {
        Tile(job.wildcards.survey, job.wildcards.program, int(job.wildcards.healpix))
        for job in workflow.dag.needrun_jobs()
        if job.rule.name == "validate_tile"
    }


def count_tiles():
    """How many tiles Snakemake is going to do."""
    return len(tiles_to_do())


def end_run(*signal_and_frame):
    """Let the running jobs finish and begin no more.

    In a thread of its own: as Snakemake's own handler of SIGTERM, in the middle of the main
    thread, it was seen to wait for ever for a lock that this thread holds.
    """
    Thread(target=workflow.scheduler.exit_gracefully, daemon=True).start()


onstart:
    # Not Snakemake's own lock, which outlives a killed run and would have to be removed by hand.
    # What keeps a run from beginning ends it here in one line, not as a failed job.
    needed = {job.rule.name for job in workflow.dag.needrun_jobs()}
    try:
        addresses = read_addresses(
            config["notify"]["urls_file"], os.environ, Path(workflow.basedir)
        )
        hold_lock(f"{RESULTS}/.lock")
        remove_leftovers(Path(RESULTS), tiles_to_do())
        Path(RESULTS, LOW_NOTE).unlink(missing_ok=True)
        if "discover_tiles" in needed:
            probe_archive(config["archive"])
    except (RunningElsewhere, ArchiveUnreachable, NotifyError) as error:
        sys.exit(f"Stopped before the first job: {error}")
    signal.signal(signal.SIGTERM, end_run)
    scheduler = workflow.scheduler
    scheduler.job_selector = choose_followers_too(
        scheduler.job_selector, workflow.dag, scheduler.running
    )
    if needed.intersection(["discover_tiles", *TILE_RULES]):
        watch_run(logger, config, addresses, count_tiles, end_run)
