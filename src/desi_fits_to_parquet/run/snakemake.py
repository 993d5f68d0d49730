"""The one door to Snakemake: all that is touched of it beyond what it promises to its users.

`LOOKED_AT` names each place. On a Snakemake where one of them is missing or is called otherwise, or
of a version that this project was not tested with, what only saves time is left out; a run of
grouped jobs is refused there, because without its patch tiles are done twice. docs/upstream.md
tells of each fault, with a way to see it, and of what would make its patch needless.
"""

import gc
import importlib
import inspect
import logging
import signal
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from threading import Event
from typing import Any, NamedTuple, TextIO

import psutil
import snakemake.api  # before its other modules, which import each other in a circle
from snakemake.dag import DAG
from snakemake.io import _IOFile as SnakemakeFile
from snakemake.jobs import GroupJob, GroupJobFactory
from snakemake.jobs import Job as SnakemakeJob
from snakemake.logging import logger

from desi_fits_to_parquet.run.stop import NAMES

TESTED = "9.27"
"""The version of Snakemake that `make test` and `make test-slurm` were run with."""

Workflow = Any
"""Snakemake's `workflow` in a Snakefile."""

Job = Any
"""A job of Snakemake's, of which no more is used than `priority`, `rule.name` and `wildcards`."""

Choice = Callable[[set[Job]], Sequence[Job]]
"""Chooses those of some ready jobs that are to be started now."""


class Place(NamedTuple):
    """A name of Snakemake's and the parameters that it is called with, if it is called."""

    name: str
    parameters: str = ""


# What no run can do without.
NEEDED = (
    Place("workflow:Workflow.is_main_process"),
    Place("workflow:Workflow.resource_settings"),
    Place("workflow:Workflow.storage_settings"),
    Place("settings.types:StorageSettings.default_storage_provider"),
    Place("workflow:Workflow.global_resources"),
    Place("workflow:Workflow.register_resource", "self name value"),
    Place("workflow:Workflow.scheduler"),
    Place("workflow:Workflow.dag"),
    Place("settings.types:ResourceSettings.nodes"),
    Place("dag:DAG.needrun_jobs", "self exclude_finished"),
    Place("dag:DAG.forcefiles"),
    Place("scheduling.job_scheduler:JobScheduler.exit_gracefully", "self args"),
)

FASTER = (
    Place("workflow:Workflow.sourcecache"),
    Place("sourcecache:SourceCache._cache", "self source_file"),
    Place("jobs:Job.is_pipe_or_service_input", "self path"),
    Place("scheduling.job_scheduler:JobScheduler.job_selector", "self jobs"),
    Place("scheduling.job_scheduler:JobScheduler.running"),
    Place("dag:DAG.ready_jobs"),
    Place("dag:DAG.depending"),
)

TIMES = (
    Place("dag:DAG.check_output_mtime", "self job expanded_output"),
    Place("io:_IOFile.is_newer", "self time"),
)

GRAPH = (
    Place("workflow:Workflow._build_dag", "self"),
    Place("workflow:Workflow.executor_plugin"),
    Place("workflow:Workflow.dryrun"),
    Place("workflow:Workflow.dag_settings"),
)

ENDING = (
    Place("scheduling.job_scheduler:JobScheduler.run", "self jobs executor"),
    Place("scheduling.job_scheduler:JobScheduler._executor"),
    Place("workflow:Workflow.local_exec"),
)

GROUPING = (
    Place("jobs:GroupJobFactory.new", "self id jobs resources"),
    Place("jobs:GroupJob", "id jobs global_resources"),
    Place("dag:DAG.update_groups", "self"),
)

LOOKED_AT = (*NEEDED, *FASTER, *TIMES, *GRAPH, *ENDING, *GROUPING)


class NoSharedFiles(Exception):
    """The results are where this process cannot read them by their names."""


class UnknownSnakemake(Exception):
    """What is asked for cannot be done with this version of Snakemake."""


def changed(places: Sequence[Place]) -> list[str]:
    """Return the names of those places that are missing or are called otherwise."""
    return [place.name for place in places if not _is_as_known(place)]


def _is_as_known(place: Place) -> bool:
    module, _, name = place.name.partition(":")
    *owners, attribute = name.split(".")
    try:
        owner = importlib.import_module(f"snakemake.{module}")
        for each in owners:
            owner = getattr(owner, each)
    except (ImportError, AttributeError):
        return False
    if not place.parameters:
        return attribute in dir(owner) or attribute in _given_to_objects(owner)
    expected = place.parameters.split()
    called = getattr(owner, attribute, None)
    parameters = list(inspect.signature(called).parameters.values()) if called else []
    return [parameter.name for parameter in parameters[: len(expected)]] == expected and all(
        parameter.default is not parameter.empty for parameter in parameters[len(expected) :]
    )


def _given_to_objects(owner: Any) -> set[str]:
    """Return the attributes that a class gives to its objects when they are made."""
    made = (vars(owner).get(name) for name in ("__init__", "__post_init__"))
    names = [set(each.__code__.co_names) for each in made if each]
    return set(getattr(owner, "__annotations__", {})).union(*names)


def is_tested() -> bool:
    """Whether this Snakemake is one that is known, by its version and by all that is touched."""
    version: str = snakemake.__version__
    return version.startswith(f"{TESTED}.") and not changed(LOOKED_AT)


def apply(workflow: Workflow, downloads: int) -> bool:
    """Prepare Snakemake for 90,000 jobs and for groups of them, and limit downloads.

    To be called while the Snakefile is read.

    Parameters
    ----------
    workflow
        Snakemake's.
    downloads
        Tiles to fetch at once, unless `--resources download=` or a profile says another number.

    Returns
    -------
    bool
        Whether this Snakemake is known, so that what saves time was done; for `begin`.

    Raises
    ------
    UnknownSnakemake
        Where this version lacks what every run needs.
    """
    if missing := changed(NEEDED):
        raise UnknownSnakemake(f"{_unknown()}: {', '.join(missing)} changed; install {TESTED}")
    tested = is_tested()
    if tested:
        _apply_patches(workflow)
    elif workflow.is_main_process:
        logger.warning(f"{_unknown()}: what only saves time with many tiles is left out.")
    # A limit cannot be given a default that the configuration decides in a public way: in a profile
    # it is a constant, which `transfer.downloads` could not change (snakemake#1866).
    if "download" not in workflow.global_resources:
        workflow.register_resource("download", downloads)
    return tested


def _unknown() -> str:
    return f"This is Snakemake {snakemake.__version__}, this project is tested with {TESTED}"


def _apply_patches(workflow: Workflow) -> None:
    # All jobs stay: to look for garbage among them as often as Python does by itself takes a tenth
    # of the time of the graph.
    gc.set_threshold(20_000, 20, 20)

    # Tiles are bundled again each time the graph is looked at, and a resumed run looks twice. It
    # begins from the groups that were merged the first time, so that a tile was submitted twice, in
    # two groups at once (snakemake#1628, snakemake-executor-plugin-slurm#253).
    GroupJobFactory.new = _new_group

    # The file of a job's script is looked for anew for each job: an eighth of the time of the graph
    # (docs/upstream.md, "The file of a script").
    workflow.sourcecache._cache = cache(workflow.sourcecache._cache)

    # No rule has a pipe or a service as its input. Snakemake looks for one of all tiles in each of
    # the 30,000 inputs of the report, and of `all`: minutes at the end of a run
    # (docs/upstream.md, "Pipes among many inputs").
    SnakemakeJob.is_pipe_or_service_input = _is_no_pipe

    # A clock that is set back makes each job fail whose output seems older than its input, and a
    # list of tiles from the future the report, until that time has come. A tile is done again whose
    # marker seems older than its Parquet, also where `rerun-triggers` does not name mtime. Nothing
    # here depends on times: markers tell what they were made of, and the files `.reported` and
    # `.collected` the rest (docs/upstream.md, "A clock that is set").
    DAG.check_output_mtime = _compare_no_times
    SnakemakeFile.is_newer = _is_not_newer


def _new_group(self: Any, id: str, jobs: Collection[Job], resources: Any) -> Any:
    """Make a group of jobs that no other part of the graph knows."""
    return GroupJob(id, frozenset(jobs), resources)


async def _compare_no_times(self: Any, job: Job, expanded_output: Any) -> None:
    """Let pass whatever times the files of a job have."""


async def _is_not_newer(self: Any, time: float) -> bool:
    return False


def _is_no_pipe(self: Job, path: str) -> bool:
    return False


def _makes_groups(workflow: Workflow) -> bool:
    """Whether jobs are to be grouped; where that cannot be told, they may be."""
    settings = getattr(workflow, "group_settings", None)
    return bool(
        getattr(settings, "overwrite_groups", True) or getattr(settings, "group_components", True)
    )


def shares_out(workflow: Workflow) -> bool:
    """Whether something shares out memory and time among jobs: a cluster, or a limit of memory."""
    return bool(workflow.resource_settings.nodes or "mem_mb" in workflow.global_resources)


def check_files(workflow: Workflow) -> None:
    """Assert that jobs and this process see the same files, by their names.

    Raises
    ------
    NoSharedFiles
        Where outputs go to a storage provider.
    """
    provider = workflow.storage_settings.default_storage_provider
    if provider is not None:
        raise NoSharedFiles(
            f"--default-storage-provider {provider}: the results have to be in a folder that all "
            "jobs see, for a run keeps its accounts there. Where only object storage lasts, run in "
            "one job on a disk and publish the results (docs/cloud.md)"
        )


def jobs_to_do(workflow: Workflow) -> Iterator[Job]:
    """Return the jobs that Snakemake is going to do, as far as it knows them yet."""
    jobs: Iterator[Job] = workflow.dag.needrun_jobs()
    return jobs


def before_the_graph(
    workflow: Workflow, tested: bool, prepare: Callable[[], object], tell: Callable[[], object]
) -> None:
    """Have something done before the graph of a run is made; not where nothing will be run.

    To be called while the Snakefile is read. `onstart` comes after the graph, and not at all where
    all seems done (docs/upstream.md, "A graph older than the files").

    Parameters
    ----------
    workflow
        Snakemake's.
    tested
        What `apply` returned; where it is false nothing is done here.
    prepare
        What is to be done.
    tell
        What is to be done after the graph of a dry run is made.
    """
    if not tested:
        return
    build = workflow._build_dag

    def prepare_and_build() -> None:
        if will_run(workflow):
            prepare()
        build()
        if workflow.dryrun:
            tell()

    workflow._build_dag = prepare_and_build


def will_run(workflow: Workflow) -> bool:
    """Whether jobs are going to be run: not in a dry run, and not for `--report` or `--lint`."""
    return workflow.executor_plugin is not None and not workflow.dryrun


def targets(workflow: Workflow) -> Collection[str]:
    """Return what is asked for on the command line."""
    asked: Collection[str] = workflow.dag_settings.targets
    return asked


def hush_errors() -> None:
    """Show none of Snakemake's errors any more: what fails says by itself what is wrong."""
    for screen in screens():
        screen.addFilter(lambda record: record.levelno < logging.ERROR)


def force(workflow: Workflow, path: str) -> None:
    """Have the job that makes a file done again, as `--forcerun` with its name does.

    To be called while the graph is made. The file is not touched before its job begins.
    """
    workflow.dag.forcefiles.add(path)


def begin(workflow: Workflow, tested: bool) -> Callable[[], None]:
    """Prepare the scheduler, which is there when a run begins.

    Parameters
    ----------
    workflow
        Snakemake's.
    tested
        What `apply` returned.

    Returns
    -------
    callable
        Lets the tiles finish that were begun, and begins none: for any thread but the main one,
        which may hold a lock of the scheduler's (docs/upstream.md, "SIGTERM"). On a Snakemake that
        is not known, the jobs finish that are running.

    Raises
    ------
    UnknownSnakemake
        Where jobs are to be grouped by a version that is not known: tiles may be done twice.
    """
    if not tested and _makes_groups(workflow):
        raise UnknownSnakemake(
            f"{_unknown()}. It may do jobs in groups (--groups, --group-components) twice; "
            f"install {TESTED}, or run without groups"
        )
    scheduler = workflow.scheduler
    if not tested:
        return lambda: scheduler.exit_gracefully()
    ending = Event()
    scheduler.job_selector = choose_followers_too(
        scheduler.job_selector,
        workflow.dag,
        scheduler.running,
        ending.is_set,
        scheduler.exit_gracefully,
    )
    scheduler.run = partial(_run_deaf, scheduler.run)
    return ending.set


def _run_deaf(run: Callable[..., None], *arguments: Any, **options: Any) -> None:
    """Start jobs that get no Ctrl-C and no SIGTERM: these are for the run, which lets them finish.

    What is blocked here is blocked in the threads that are begun here, and so in their processes.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, NAMES)
    try:
        run(*arguments, **options)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def kill_jobs(workflow: Workflow) -> None:
    """Kill the jobs of this run; on a cluster, take them from the queue."""
    if not workflow.local_exec:
        workflow.scheduler._executor.cancel()
    while jobs := _living_jobs():
        for job in jobs:
            with suppress(psutil.NoSuchProcess):
                job.kill()
        Event().wait(0.02)  # their shells are waited for in Snakemake's threads, not here


def _living_jobs() -> list[Any]:
    jobs = []
    for job in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if job.status() != psutil.STATUS_ZOMBIE:
                jobs.append(job)
    return jobs


def choose_followers_too(
    choose: Choice,
    graph: Any,
    running: Collection[Job],
    is_ending: Callable[[], bool] = lambda: False,
    end: Callable[[], None] = lambda: None,
) -> Choice:
    """Return a function that chooses as `choose` does, from more jobs: those of begun tiles too.

    To choose among 30,000 ready jobs takes too long, so Snakemake draws some at random and only
    then looks at their priorities (`--scheduler-subsample`). A tile that was fetched waits until it
    is drawn: with a sample of a tenth, ten tiles of FITS wait on disk for each that is being worked
    on. Here the jobs that follow upon those that were started are added to each sample. A scheduler
    plugin could not do it: it is shown the sample alone (docs/upstream.md, "The sample").

    Parameters
    ----------
    choose
        Snakemake's own choice.
    graph
        Snakemake's graph: its `ready_jobs`, which change as jobs finish, and for each job those
        `depending` on it.
    running
        The jobs that were started and did not finish yet.
    is_ending
        Whether no more tiles are to be begun: then those jobs alone are chosen that follow.
    end
        Ends the run; called when no tile is begun that is not finished.
    """
    waiting = {job for job in graph.ready_jobs if job.priority}  # left by a run before
    started: set[Job] = set()

    def choose_more(sample: set[Job]) -> Sequence[Job]:
        nonlocal started, waiting
        ready = graph.ready_jobs
        for job in started:
            waiting.update(job for job in graph.depending.get(job, ()) if job.priority)
        waiting = {job for job in waiting if job in ready}
        if is_ending():
            sample = set()
            if not waiting:
                if not running:
                    end()
                return []
        chosen = choose(sample | waiting)
        started = {job for job in started if job in running}.union(chosen)
        return chosen

    return choose_more


def screens() -> "list[logging.StreamHandler[TextIO]]":
    """Return the handlers by which Snakemake writes on the screen; none where it is silent."""
    return [
        handler
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler)
        and not isinstance(handler, logging.FileHandler)
    ]
