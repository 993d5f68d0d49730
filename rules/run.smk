# What begins and ends a run; what touches Snakemake itself is in run/snakemake.py.
import os
import sys
from functools import cache, partial
from pathlib import Path
from uuid import uuid4

from snakemake.logging import logger

from desi_fits_to_parquet.archive.errors import ArchiveUnreachable, NothingFound
from desi_fits_to_parquet.discover import probe_archive
from desi_fits_to_parquet.files import write_json
from desi_fits_to_parquet.paths import (
    COLLECTED,
    LEFTOVERS,
    LOW_NOTE,
    OUTAGE,
    REPORTED,
    SETTINGS,
    VALIDATED,
)
from desi_fits_to_parquet.report.files import LANDING
from desi_fits_to_parquet.run.lock import (
    RUN_ID,
    NotWritable,
    RunningElsewhere,
    end_waiting,
    hold_lock,
    join_run,
)
from desi_fits_to_parquet.run.notify import NotifyError, read_addresses
from desi_fits_to_parquet.run.repair import (
    NoRun,
    OldResults,
    check_results,
    find_leftovers,
    refuse_old_results,
    remove_leftovers,
)
from desi_fits_to_parquet.run.snakemake import (
    NoSharedFiles,
    UnknownSnakemake,
    apply,
    before_the_graph,
    begin,
    hush_errors,
    check_files,
    jobs_to_do,
    kill_jobs,
    screens,
    targets,
)
from desi_fits_to_parquet.run.stop import Stop
from desi_fits_to_parquet.run.summary import living_run
from desi_fits_to_parquet.run.watch import SKIM_RULE, TILE_RULES, watch_run


@cache
def take_lock():
    """Take the lock of the results, once; return what sees to it from then on.

    Not Snakemake's own lock, which outlives a killed run and would have to be removed by hand.
    """
    try:
        renew = hold_lock(
            Path(RESULTS), os.environ[RUN_ID], partial(living_run, Path(RESULTS))
        )
    except (NotWritable, RunningElsewhere) as error:
        sys.exit(f"Stopped before the first job: {error}")
    # of a run that was killed while it stood; it would hide from Snakemake that there is FITS to remove
    Path(RESULTS, LEFTOVERS).unlink(missing_ok=True)
    write_json(Path(RESULTS, SETTINGS), dict(config))
    return renew


# these read what a run left, and say by themselves on the screen what is wrong
AFTER_A_RUN = {"verify", "retry_failed"}
SAY_THEMSELVES = {*AFTER_A_RUN, "benchmark_archive", "compare_releases", "publish"}


def prepare():
    """Refuse, before anything is written, what needs a run where there was none."""
    if AFTER_A_RUN.intersection(targets(workflow)):
        try:
            check_results(Path(RESULTS))
        except NoRun as error:
            sys.exit(str(error))
    take_lock()


def say_how_many():
    """Say in a dry run how many tiles the run would do."""
    needed = {job.rule.name for job in jobs_to_do(workflow)}
    if "discover_tiles" in needed:
        sample = config["sample"]
        number = f"at most {sample:,}" if sample else "as many as it holds"
        logger.info(f"Tiles: the archive is listed first, then {number} are to be done")
    elif count := count_tiles():
        listed = len(list_tiles(f"{RESULTS}/tiles.csv"))
        logger.info(f"Tiles: {count:,} of {listed:,} are to be done")


try:
    SNAKEMAKE_TESTED = apply(workflow, config["transfer"]["downloads"])
    check_files(workflow)
except (NoSharedFiles, UnknownSnakemake) as error:
    sys.exit(str(error))

STOP = Stop()
if workflow.is_main_process:
    STOP.catch()
    asks_for_report = any(word.partition("=")[0] == "--report" for word in sys.argv)
    if asks_for_report and not Path(RESULTS, "report", LANDING).is_file():
        sys.exit(
            f"{RESULTS} holds no report that --report could pack into one page: run the same "
            "command without --report first"
        )
    os.environ[RUN_ID] = uuid4().hex
    try:
        # here and not as the run begins, so that a dry run refuses what the run would
        ADDRESSES = read_addresses(
            config["notify"]["urls_file"], os.environ, Path(workflow.basedir)
        )
        refuse_old_results(Path(RESULTS))
    except (NotifyError, OldResults) as error:
        sys.exit(str(error))
    # before it is looked what is done: the jobs of a killed run may be doing it yet
    before_the_graph(workflow, SNAKEMAKE_TESTED, prepare, say_how_many)
else:
    # Snakemake on a node of a cluster: before it clears the outputs of its jobs, which by now may
    # be those of another run.
    join_run(Path(RESULTS))


# handed on to each job, wherever it runs
envvars:
    RUN_ID,


def tiles_to_do(rule="validate_tile"):
    """The tiles that Snakemake is going to validate (or skim), as far as it knows them yet."""
    return {
        find_tile(job.wildcards)
        for job in jobs_to_do(workflow)
        if job.rule.name == rule
    }


def count_tiles():
    """How many tiles Snakemake is going to do."""
    return len(tiles_to_do() | tiles_to_do(SKIM_RULE))


def leftovers(wildcards):
    """A reason to begin a run although all tiles are done: what a killed one left."""
    return [f"{RESULTS}/{LEFTOVERS}"] if any(find_leftovers(Path(RESULTS))) else []


onstart:
    # What keeps a run from beginning ends it here in one line, not as a failed job.
    needed = {job.rule.name for job in jobs_to_do(workflow)}
    try:
        STOP.catch()  # Snakemake has taken SIGTERM since
        finish = begin(workflow, SNAKEMAKE_TESTED)
        renew_lock = take_lock()
        remove_leftovers(Path(RESULTS), tiles_to_do())
        notes = [LOW_NOTE, OUTAGE]
        if needed.intersection(["discover_tiles", *TILE_RULES, "report"]):
            notes += [REPORTED, COLLECTED]
        for note in notes:
            Path(RESULTS, note).unlink(missing_ok=True)
        if "discover_tiles" in needed:
            probe_archive(config["archive"])
    except (ArchiveUnreachable, NothingFound, UnknownSnakemake) as error:
        sys.exit(f"Stopped before the first job: {error}")

    def end_run():
        """Let the tiles finish that were begun; one that waits for the archive ends now."""
        finish()
        end_waiting(Path(RESULTS), os.environ[RUN_ID])

    watch = None
    if needed.intersection(["discover_tiles", *TILE_RULES, SKIM_RULE]):
        watch = watch_run(
            logger,
            screens(),
            config,
            ADDRESSES,
            count_tiles,
            end_run,
            renew_lock,
            markers=SKIMMED if needed & {"skim", SKIM_RULE} else VALIDATED,
        )
    elif needed <= SAY_THEMSELVES:
        hush_errors()
    STOP.arm(end_run, partial(kill_jobs, workflow), Path(RESULTS), watch)


# with Ctrl-C's or SIGTERM's own exit code where one of them ended the run


onsuccess:
    STOP.leave()


onerror:
    STOP.leave()
