# What begins and ends a run. No rule stands here.
import gc
import signal
from functools import cache
from threading import Thread

from snakemake.jobs import GroupJob, GroupJobFactory, Job
from snakemake.logging import logger
from snakemake.resources import Resource

from desi_fits_to_parquet.archive.errors import ArchiveUnreachable
from desi_fits_to_parquet.discover import probe_archive
from desi_fits_to_parquet.paths import LOW_NOTE
from desi_fits_to_parquet.run.lock import RunningElsewhere, hold_lock
from desi_fits_to_parquet.run.notify import NotifyError, read_addresses
from desi_fits_to_parquet.run.repair import remove_leftovers
from desi_fits_to_parquet.run.scheduling import choose_followers_too
from desi_fits_to_parquet.run.watch import TILE_RULES, watch_run

# Snakemake's 90,000 jobs all stay: to look for garbage among them as often as Python does by itself
# takes a tenth of the time of the graph.
gc.set_threshold(20_000, 20, 20)


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
