"""What is bent in Snakemake: that it is as it was when it was bent, and what the bending does."""

import asyncio
import gc
import inspect
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import pytest
import snakemake.api
from snakemake.dag import DAG
from snakemake.exceptions import WorkflowError
from snakemake.io import _IOFile
from snakemake.jobs import GroupJobFactory
from snakemake.jobs import Job as SnakemakeJob
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake.settings.enums import RerunTrigger
from snakemake.settings.types import GroupSettings
from snakemake.sourcecache import SourceCache

from desi_fits_to_parquet.run import snakemake as door
from desi_fits_to_parquet.run.snakemake import (
    LOOKED_AT,
    Place,
    UnknownSnakemake,
    apply,
    begin,
    changed,
    choose_followers_too,
    is_tested,
    screens,
)
from desi_fits_to_parquet.run.stop import NAMES, Stop


@pytest.fixture
def as_it_was() -> Iterator[None]:
    """Undo what `apply` and `begin` do to this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GroupJobFactory, "new", GroupJobFactory.new)
        patch.setattr(SnakemakeJob, "is_pipe_or_service_input", NO_PIPE)
        patch.setattr(DAG, "check_output_mtime", CHECK_TIMES)
        patch.setattr(_IOFile, "is_newer", IS_NEWER)
        threshold = gc.get_threshold()
        handlers = {number: signal.getsignal(number) for number in NAMES}
        yield
        gc.set_threshold(*threshold)
        signal.set_wakeup_fd(-1)
        for number, handler in handlers.items():
            signal.signal(number, handler)


NO_PIPE = SnakemakeJob.is_pipe_or_service_input

CHECK_TIMES, IS_NEWER = DAG.check_output_mtime, _IOFile.is_newer


class Workflow:
    """As much of Snakemake's as is touched while the Snakefile is read."""

    is_main_process = True

    def __init__(self) -> None:
        self.group_settings = GroupSettings()
        self.global_resources: dict[str, Any] = {}
        self.sourcecache = SimpleNamespace(_cache=Path)

    def register_resource(self, name: str, value: Any) -> None:
        self.global_resources[name] = value

    def is_patched(self) -> bool:
        return self.sourcecache._cache is not Path


# ------------------------------------------------------------------- what is touched is as known


@pytest.mark.parametrize("place", LOOKED_AT, ids=lambda place: place.name)
def test_each_name_that_is_touched_is_there_and_is_called_as_known(place: Place):
    assert changed([place]) == []


@pytest.mark.parametrize(
    "place",
    [
        Place("nowhere:Job"),
        Place("jobs:Job.is_nothing"),
        Place("dag:DAG.depends"),
        Place("workflow:Workflow.global_limits"),
        Place("jobs:GroupJobFactory.new", "self id jobs"),
        Place("jobs:GroupJobFactory.new", "self id resources jobs"),
        Place("jobs:GroupJobFactory.new", "self id jobs resources more"),
    ],
)
def test_name_that_is_gone_or_is_called_otherwise_is_noticed(place: Place):
    assert changed([place]) == [place.name]


def test_version_that_is_installed_is_the_tested_one():
    assert is_tested()


# ------------------------------------------------------------ each fault is there, and is mended


class Member:
    """A job in a graph."""

    pipe_or_service_output = ()
    dag = SimpleNamespace(workflow=SimpleNamespace(execution_settings=SimpleNamespace(attempt=1)))


def bundle_twice(new: Callable[..., Any]) -> tuple[int, int]:
    """Bundle two jobs, as Snakemake does when it looks at the graph; sizes of the first's group."""
    factory, pair, sizes = GroupJobFactory(), (Member(), Member()), []
    for _ in range(2):
        first, second = (new(factory, "tile", [job], None) for job in pair)
        sizes.append(len(set(first.jobs)))
        first.merge(second)
    return tuple(sizes)


def test_snakemake_bundles_groups_that_were_bundled_before_and_here_it_does_not():
    assert bundle_twice(GroupJobFactory.new) == (1, 2)
    assert bundle_twice(door._new_group) == (1, 1)


def test_snakemake_looks_for_a_script_for_each_job_and_here_once(tmp_path: Path):
    looks = []

    class Counting(SourceCache):
        def _cache_entry(self, source_file: str) -> Path:
            looks.append(source_file)
            return tmp_path

    source_cache = Counting(tmp_path / "cache")
    for _ in range(3):
        source_cache._cache("script.py")
    assert len(looks) == 3
    kept = cache(source_cache._cache)
    assert {kept("script.py") for _ in range(3)} == {tmp_path}
    assert len(looks) == 4


def test_snakemake_looks_at_all_that_a_job_depends_on_for_each_input_and_here_at_none():
    looks = []

    class Files(set[str]):
        def __contains__(self, path: object) -> bool:
            looks.append(path)
            return super().__contains__(path)

    paths = [f"{number}.json" for number in range(20)]
    report = Member()
    report.dag = SimpleNamespace(dependencies={report: {Member(): Files([path]) for path in paths}})
    assert not any(NO_PIPE(report, path) for path in paths)
    assert len(looks) == 20 * 21 / 2
    assert not door._is_no_pipe(report, paths[0])


class Aged:
    """A file of a job, as old as is said."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def exists_local(self) -> bool:
        return True

    async def mtime_uncached(self, skip_storage: bool) -> SimpleNamespace:
        return SimpleNamespace(local=lambda: self.seconds)

    async def mtime(self) -> SimpleNamespace:
        return SimpleNamespace(local_or_storage=lambda follow_symlinks: self.seconds)

    is_ancient = False


def test_snakemake_fails_a_job_whose_clock_was_set_back_and_here_it_does_not():
    job = SimpleNamespace(
        input=[Aged(2e9)], rule=SimpleNamespace(name="one", lineno=1, snakefile="")
    )
    with pytest.raises(WorkflowError, match="older modification time"):
        asyncio.run(CHECK_TIMES(SimpleNamespace(), job, [Aged(1e9)]))
    asyncio.run(door._compare_no_times(SimpleNamespace(), job, [Aged(1e9)]))


def test_snakemake_looks_at_times_where_no_trigger_asks_for_it_and_here_it_does_not():
    assert RerunTrigger.MTIME.name not in inspect.getsource(DAG)
    assert asyncio.run(IS_NEWER(Aged(2e9), 1e9))
    assert not asyncio.run(door._is_not_newer(Aged(2e9), 1e9))


def scheduler_with(**attributes: Any) -> SimpleNamespace:
    """A scheduler before its first choice."""
    return SimpleNamespace(
        _executor=MagicMock(), _open_jobs=threading.Semaphore(1), _lock=threading.Lock(),
        _finish_jobs=lambda: None,
        _error_jobs=lambda: None, running=set(), _errors=False, _executor_error=None,
        _user_kill=None, dryrun=False, resources={}, _last_job_selection_empty=True, keepgoing=True,
        workflow=SimpleNamespace(dag=SimpleNamespace(queue_input_jobs=[])), **attributes,
    )  # fmt: skip


def test_snakemake_shows_a_choice_of_jobs_the_sample_alone():
    shown = []

    def choose(jobs: set[Any]) -> None:
        shown.append(jobs)
        raise InterruptedError

    ready = [Ready() for _ in range(10)]
    scheduler = scheduler_with(open_jobs=ready, subsample=3, job_selector=choose)
    with pytest.raises(InterruptedError):
        JobScheduler.schedule(scheduler)
    assert [len(jobs) for jobs in shown] == [3]


class Ready:
    def reset_params_and_resources(self) -> None:
        pass


def test_snakemakes_handler_of_sigterm_waits_for_a_lock_of_its_own_thread_and_here_does_not(
    as_it_was: None, tmp_path: Path
):
    released, ended = threading.Event(), threading.Event()
    scheduler = scheduler_with()
    scheduler._open_jobs = SimpleNamespace(release=released.set)

    class Lock:
        """As Snakemake's own, but it says where it would wait for ever."""

        held_by = 0
        inner = threading.Lock()

        def __enter__(self) -> None:
            if self.held_by == threading.get_ident():
                raise RecursionError
            self.inner.acquire()
            self.held_by = threading.get_ident()

        def __exit__(self, *error: object) -> None:
            self.held_by = 0
            self.inner.release()

    scheduler._lock = Lock()
    scheduler.job_selector = list
    scheduler.exit_gracefully = lambda *args: JobScheduler.exit_gracefully(scheduler, *args)
    stop = Stop()
    stop.arm(scheduler.exit_gracefully, ended.set, tmp_path, None)
    stop.catch()
    with scheduler._lock:
        with pytest.raises(RecursionError):
            scheduler.exit_gracefully(signal.SIGTERM, None)
        signal.raise_signal(signal.SIGTERM)
        assert not released.is_set()
    assert released.wait(20)
    assert scheduler._user_kill == "graceful"
    assert not ended.is_set(), "jobs are killed the second time alone"
    with pytest.raises(SystemExit) as left:
        stop.leave()
    assert left.value.code == 143


def test_lock_of_snakemakes_scheduler_lets_no_thread_in_twice(as_it_was: None):
    lock = JobScheduler(MagicMock(), MagicMock(), MagicMock(), MagicMock())._lock
    with lock:
        assert not lock.acquire(blocking=False)


# --------------------------------------------------------------------------- versions, known or not


def test_known_version_gets_every_patch_and_a_limit_of_downloads(as_it_was: None):
    workflow = Workflow()
    assert apply(workflow, 7)
    assert apply(Workflow(), 7)  # what was bent already is no unknown version
    assert workflow.global_resources == {"download": 7}
    assert workflow.is_patched()
    assert GroupJobFactory.new is door._new_group
    assert SnakemakeJob.is_pipe_or_service_input is door._is_no_pipe


def test_limit_of_downloads_that_the_user_gave_is_kept(as_it_was: None):
    workflow = Workflow()
    workflow.global_resources["download"] = 2
    apply(workflow, 7)
    assert workflow.global_resources == {"download": 2}


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(door, "logger", SimpleNamespace(warning=lines.append, handlers=[]))
    return lines


def make_unknown(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "version":
        monkeypatch.setattr(snakemake, "__version__", "9.99.0")
    else:
        monkeypatch.setattr(SourceCache, "_cache", lambda self, file, more: None)


@pytest.mark.parametrize("how", ["version", "signature"])
def test_unknown_version_is_left_as_it_is_with_one_line_that_says_so(
    how: str, as_it_was: None, said: list[str], monkeypatch: pytest.MonkeyPatch
):
    make_unknown(how, monkeypatch)
    workflow, plain = Workflow(), GroupJobFactory.new
    assert not apply(workflow, 7)
    assert not workflow.is_patched()
    assert GroupJobFactory.new is plain
    assert SnakemakeJob.is_pipe_or_service_input is NO_PIPE
    assert workflow.global_resources == {"download": 7}
    (line,) = said
    assert snakemake.__version__ in line
    assert "left out" in line
    scheduler = scheduler_with(job_selector=list)
    workflow.scheduler, workflow.dag = scheduler, Graph(set(), {})
    begin(workflow, False)
    assert scheduler.job_selector is list


def test_unknown_version_is_told_of_by_the_run_and_not_by_its_jobs(
    as_it_was: None, said: list[str], monkeypatch: pytest.MonkeyPatch
):
    make_unknown("version", monkeypatch)
    workflow = Workflow()
    workflow.is_main_process = False
    apply(workflow, 7)
    assert said == []


@pytest.mark.parametrize(
    "settings",
    [
        {"group_settings": GroupSettings(overwrite_groups={"a": "b"})},
        {"group_settings": GroupSettings(group_components={"b": 9})},
        {},  # another name for them, by then
    ],
)
def test_unknown_version_does_no_jobs_in_groups(settings: dict[str, Any], as_it_was: None):
    workflow = SimpleNamespace(scheduler=scheduler_with(job_selector=list), **settings)
    with pytest.raises(UnknownSnakemake, match=r"jobs in groups .* twice; install 9\.27"):
        begin(workflow, False)


def test_version_that_lacks_what_a_run_cannot_do_without_is_refused_and_named(
    as_it_was: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delattr(DAG, "needrun_jobs")
    with pytest.raises(UnknownSnakemake, match=r"dag:DAG\.needrun_jobs changed; install 9\.27"):
        apply(Workflow(), 7)


def test_screen_is_where_snakemake_writes_and_no_file(tmp_path: Path, said: list[str]):
    screen = logging.StreamHandler(sys.stderr)
    file = logging.FileHandler(tmp_path / "log")
    door.logger.handlers.extend([logging.NullHandler(), file, screen])
    assert screens() == [screen]
    file.close()


# ------------------------------------- what is begun is finished first, however few are looked at


class Job(NamedTuple):
    stage: str
    tile: int

    @property
    def priority(self) -> int:
        return {"download": 0, "fuse": 10, "validate": 20}[self.stage]


class Graph(NamedTuple):
    """Snakemake's graph of some tiles, as far as it is used."""

    ready_jobs: set[Job]
    depending: dict[Job, list[Job]]

    def finish(self, job: Job) -> None:
        """Make the next job of the tile ready."""
        if job.stage != "validate":
            self.ready_jobs.add(self.depending[job][0])


def graph_of(tiles: range) -> Graph:
    depending = {}
    for tile in tiles:
        fuse, validate = Job("fuse", tile), Job("validate", tile)
        depending |= {Job("download", tile): [fuse, validate], fuse: [validate]}
    return Graph({Job("download", tile) for tile in tiles}, depending)


def test_tile_that_is_begun_is_finished_before_another_is():
    graph, running = graph_of(range(1000)), set[Job]()
    order = []

    def best(jobs: set[Job]) -> list[Job]:
        return [max(jobs, key=lambda job: job.priority)]

    choose = choose_followers_too(best, graph, running)
    for _ in range(30):
        fresh = next(job for job in graph.ready_jobs if job.stage == "download")
        (job,) = choose({fresh})
        graph.ready_jobs.remove(job)
        running.add(job)
        order.append(job)
        running.remove(job)
        graph.finish(job)
    stages = [job.stage for job in order]
    assert stages == ["download", "fuse", "validate"] * 10
    assert [order[i].tile for i in range(0, 30, 3)] == [order[i].tile for i in range(2, 30, 3)]


def test_run_that_is_ending_finishes_the_tiles_that_it_began_and_no_other():
    graph, running = graph_of(range(100)), set[Job]()
    order: list[Job] = []
    ending, ended = threading.Event(), threading.Event()
    choose = choose_followers_too(
        lambda jobs: [max(jobs, key=lambda job: job.priority)],
        graph, running, ending.is_set, ended.set,
    )  # fmt: skip
    while chosen := choose({next(job for job in graph.ready_jobs if job.stage == "download")}):
        order += chosen
        graph.ready_jobs.difference_update(chosen)
        running.update(chosen)
        if order[-1].stage == "download" and len(order) > 3:
            ending.set()
            assert choose(set(graph.ready_jobs)) == []
            assert not ended.is_set(), "while a job runs its followers may come"
        running.clear()
        graph.finish(order[-1])
    assert [job.stage for job in order] == ["download", "fuse", "validate"] * 2
    assert ended.is_set()


def test_tiles_that_a_run_before_left_half_done_come_first():
    graph, seen = graph_of(range(100)), []
    left = {Job("fuse", 500), Job("validate", 501)}
    graph.ready_jobs.update(left)

    def none(jobs: set[Job]) -> list[Job]:
        seen.append(jobs)
        return []

    choose_followers_too(none, graph, set())({Job("download", 3)})
    assert seen == [{Job("download", 3), *left}]


def test_job_that_failed_is_forgotten_and_its_followers_never_offered():
    graph, offered = graph_of(range(3)), []

    def first(jobs: set[Job]) -> list[Job]:
        offered.append(set(jobs))
        return sorted(jobs)[:1]

    choose = choose_followers_too(first, graph, set())
    choose({Job("download", 0)})
    graph.ready_jobs.remove(Job("download", 0))  # it fails: nothing becomes ready
    choose({Job("download", 1)})
    graph.ready_jobs.add(Job("fuse", 0))  # not by its doing, and so not in the sample either
    choose({Job("download", 2)})
    assert offered[1:] == [{Job("download", 1)}, {Job("download", 2)}]
