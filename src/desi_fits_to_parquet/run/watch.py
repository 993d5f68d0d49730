"""Following a run while it goes on, and what comes of it: view, notifications, a way to end it.

Snakemake tells its loggers of each job as a log record with an `event`, which is the interface of
its logger plugins (`snakemake-interface-logger-plugins`). `RunWatch` is such a handler: it reads
one marker for each validated tile, so that a refresh reads no file. The workflow attaches it when
a run begins, rather than naming a plugin in the profile: a plugin is found only where this project
is installed beside Snakemake, is not told of the configuration, and is there in dry runs too.

On a terminal the lowest lines are set apart for the view (the terminal scrolls those above), so
that what jobs print cannot tear it. Elsewhere it is a line a minute.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple, TextIO

from desi_fits_to_parquet.archive.keys import archive_address
from desi_fits_to_parquet.paths import LOW_NOTE, VALIDATED
from desi_fits_to_parquet.report.files import PAGE
from desi_fits_to_parquet.run.lock import RunningElsewhere
from desi_fits_to_parquet.run.notify import (
    Sender,
    Told,
    due_notices,
    end_notice,
    failure_text,
    start_notice,
)
from desi_fits_to_parquet.run.panel import Screen
from desi_fits_to_parquet.run.state import (
    EVENTS,
    FINISHED,
    SKIM_RULE,
    TILE_RULES,
    expect_tiles,
    how_it_ended,
    look_for_outage,
    new_state,
    note,
    read_results,
    run_now,
    summary_now,
    waits_and_is_ended,
)
from desi_fits_to_parquet.run.stop import command_text
from desi_fits_to_parquet.run.summary import Summary, free_bytes, write_run
from desi_fits_to_parquet.settings import Settings

WRITE_S = 10.0
"""Seconds between two writings of what the run tells of itself."""

KEPT_MESSAGES = ("Complete log",)
"""How those of Snakemake's messages begin that are shown although they are no warnings."""

COUNTED_AT = (*TILE_RULES, SKIM_RULE, "report", "catalog", "skim")
"""A job of these rules is begun when it is known how many tiles are to be done."""

LAST_S = 3.0
"""So long a run that is ended at once waits for its view and its notification."""


class _Step(NamedTuple):
    """Something for the following thread to do, and what it is called where it goes wrong."""

    what: str
    do: Callable[[], None]


class RunWatch(logging.Handler):
    """Follows a run from its first job to the end of Snakemake.

    Nothing that goes wrong here may end the run or leave it alone. Snakemake's thread only puts
    its events into a queue. One thread takes them out, does each thing by itself, and goes on
    after one that failed: that is logged the first time, counted, and shown among the problems.

    Parameters
    ----------
    settings
        The validated configuration.
    addresses
        Apprise URLs to notify.
    count_tiles
        Gives the number of tiles that Snakemake is going to do.
    end_run
        Lets Snakemake begin no more jobs.
    renew_lock
        Sees to the lock of the results folder, see `lock.hold_lock`.
    markers
        Folder of the markers that the run writes.
    stream
        What Snakemake writes to, None where it is silent.
    log
        Snakemake's logger, which is told what goes wrong here.
    """

    def __init__(
        self,
        settings: Settings,
        addresses: Sequence[str],
        count_tiles: Callable[[], int],
        end_run: Callable[[], None],
        renew_lock: Callable[[], None],
        markers: str,
        stream: TextIO | None,
        log: logging.Logger,
    ) -> None:
        super().__init__(logging.INFO)
        self._settings = settings["notify"]
        self._what = _describe(settings)
        self._count_tiles = count_tiles
        self._end_run = end_run
        self._renew_lock = renew_lock
        self._log = log
        self._state = new_state(
            Path(settings["results"]), 60 * self._settings["speed_minutes"], markers
        )
        self._screen = Screen(stream)
        self._sender = Sender(addresses, self._complain)
        self._told = Told()
        self._counted = False
        self._stopped = ""
        self._next_write = 0.0
        self._inbox: queue.SimpleQueue[_Step | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._follow, name="progress", daemon=True)
        self._ended = False
        self._closing = threading.Lock()
        self._silent = False
        self._patience_s: float | None = None

    def start(self) -> None:
        """Begin; what there is already is read before a job begins, which would add to it."""
        self._state.results.mkdir(parents=True, exist_ok=True)
        with self._going_on("markers and list of tiles"):
            read_results(self._state)
        self._thread.start()

    # ------------------------------------------------------------ in the threads of others

    def handle(self, record: logging.LogRecord) -> bool:
        """Take a record without the lock of other handlers, which Snakemake holds in `close`."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Take one event of Snakemake."""
        event = record.__dict__.get("event")
        with self._going_on(f"Snakemake's event {event}"):
            if self._silent:
                return
            take = EVENTS.get(event) if event else None
            if take is None:
                return
            told = record.__dict__
            self._put(f"Snakemake's event {event}", partial(take, self._state, told))
            # Counted when the first tile begins, or what comes after all tiles: the list of tiles
            # is there then, with it all jobs. And in this thread, because no other one may look at
            # Snakemake's graph.
            if not self._counted and told.get("rule_name") in COUNTED_AT:
                self._put(
                    "number of tiles", partial(expect_tiles, self._state, self._count_tiles())
                )
                self._counted = True

    def say(self, text: str) -> None:
        """Write a line on the screen of the run."""
        self._put("line", partial(self._screen.say, text))

    def stopped_by(self, name: str, at_once: bool = False) -> None:
        """Take note that somebody stopped the run; `at_once` with its jobs."""
        self._stopped = f"stopped by {name}"
        if at_once:
            self._silent, self._patience_s = True, LAST_S

    def is_ended_with_its_run(self, record: logging.LogRecord) -> bool:
        """Tell whether an error is that of a job which was ended because its run is stopped."""
        if record.levelno < logging.ERROR:
            return False
        if (self._state.results / LOW_NOTE).exists():  # which the run says by itself
            return True
        if not self._stopped:
            return False
        return self._silent or waits_and_is_ended(self._state.results)

    def _complain(self, problem: str) -> None:
        self._put("problem", partial(note, self._state, problem))

    def _put(self, what: str, do: Callable[[], None]) -> None:
        self._inbox.put(_Step(what, do))

    @contextmanager
    def _going_on(self, what: str) -> Iterator[None]:
        """Let nothing that is raised get out: the run is worth more than the view of it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  (whatever it is)
            fault = f"view of the run, {what}: {type(error).__name__}: {error}"
            self._put("fault", partial(self._count_fault, fault))

    # ------------------------------------------------------------------ in its own thread

    def _follow(self) -> None:
        self._write()
        with self._going_on("start"):
            summary = self._summary()
            self._screen.known = summary.problems
            self._sender.send(start_notice(summary, self._what))
        due = time.monotonic() + self._screen.pause_s
        while True:
            if time.monotonic() >= due:
                self._refresh()
                due = time.monotonic() + self._screen.pause_s
            try:
                step = self._inbox.get(timeout=max(due - time.monotonic(), 0))
            except queue.Empty:
                continue
            if step is None:
                return
            self._take(step)

    def _take(self, step: _Step) -> None:
        doing = self._state.run.doing
        with self._going_on(step.what):
            step.do()
        if doing != self._state.run.doing:  # `make status` is to say it at once
            self._write()
            with self._going_on("screen"):
                self._screen.begin(self._summary())
        unsaid, self._state.unsaid = self._state.unsaid, []
        for problem in unsaid:
            self._screen.say(problem)
        if self._state.stop:
            self._stop(self._state.stop)

    def _count_fault(self, fault: str) -> None:
        self._state.faults[fault] += 1
        if self._state.faults[fault] == 1:
            self._log.warning(f"{fault}; the run goes on")  # Snakemake fills in no arguments

    def _summary(self) -> Summary:
        free = None
        with self._going_on("free disk space"):
            free = free_bytes(self._state.results)
        return summary_now(self._state, free)

    def _refresh(self) -> None:
        """Write, draw and tell what is due, each whatever became of the others."""
        if time.monotonic() >= self._next_write:
            self._next_write = time.monotonic() + WRITE_S
            self._write()
            with self._going_on("lock of the results"):
                try:
                    self._renew_lock()
                except RunningElsewhere as error:
                    self._stop(f"{error}.")
        summary = None
        self._take(_Step("outage", partial(look_for_outage, self._state)))
        with self._going_on("summary"):
            summary = self._summary()
        if summary is None:
            return
        with self._going_on("screen"):
            self._screen.show(summary)
        with self._going_on("notifications"):
            notices, self._told = due_notices(summary, self._told, self._settings)
            for notice in notices:
                self._sender.send(notice)
        if self._told.failing and self._settings["abort"]:
            self._stop(f"{failure_text(summary, self._settings)}.")

    def _write(self) -> None:
        with self._going_on("writing its state"):
            write_run(self._state.results, run_now(self._state))

    def _stop(self, why: str) -> None:
        """End the run: what runs finishes, nothing more is begun."""
        if self._stopped:
            return
        with self._going_on("ending the run"):
            self._end_run()
            self._stopped = f"stopped: {why}"
            self._screen.say(f"{self._stopped} Running jobs finish.")

    # ------------------------------------------------------------------------- at the end

    def close(self) -> None:
        """End; Snakemake closes its handlers when it is done, however that came.

        Who comes second, as whoever ends the run at once while it is ending, waits for the first.
        """
        super().close()
        patience = -1 if self._patience_s is None else self._patience_s
        if self._closing.acquire(timeout=patience):
            try:
                self._end()
            finally:
                self._closing.release()

    def _end(self) -> None:
        if self._ended or not self._thread.is_alive():
            return
        self._ended = True
        self._inbox.put(None)
        self._thread.join(self._patience_s)
        self._take_rest()
        state, ended = self._state, self._stopped or "ended"
        with self._going_on("end"):
            if state.faults:  # what an event did not tell, the markers do
                read_results(state)
        with self._going_on("end"):
            ended = self._stopped or how_it_ended(self._summary(), state.failed_jobs)
        state.run = state.run._replace(ended=ended)
        self._write()
        with self._going_on("end"):
            self._sender.send(end_notice(self._summary()))
        with self._going_on("end"):
            self._screen.end(self._summary())
        with self._going_on("end"):
            if self._patience_s is None:
                self._sender.finish()
            else:
                self._sender.finish(self._patience_s)
        self._take_rest()
        page = state.results / "report" / PAGE
        if ended.startswith(FINISHED) and page.exists():
            self._screen.say(f"result     {state.results}/parquet; its report is {page}")
        if not ended.startswith(FINISHED):
            self._screen.say(f"To go on: {command_text()}")

    def _take_rest(self) -> None:
        while not self._inbox.empty():
            step = self._inbox.get()
            if step is not None:
                self._take(step)


class _OnlyProblems(logging.Filter):
    """Lets warnings and errors through; the view stands for the messages of single jobs."""

    def __init__(self, watch: RunWatch) -> None:
        super().__init__()
        self._watch = watch

    def filter(self, record: logging.LogRecord) -> bool:
        if self._watch.is_ended_with_its_run(record):
            return False
        return record.levelno >= logging.WARNING or str(record.msg).startswith(KEPT_MESSAGES)


def watch_run(
    logger: logging.Logger,
    screens: "Sequence[logging.StreamHandler[TextIO]]",
    settings: Settings,
    addresses: Sequence[str],
    count_tiles: Callable[[], int],
    end_run: Callable[[], None],
    renew_lock: Callable[[], None],
    markers: str = VALIDATED,
) -> RunWatch:
    """Attach a `RunWatch` to Snakemake's logger, and let it stand for the messages of single jobs.

    With `--verbose` these messages are shown all the same, with `--quiet all` nothing is shown,
    and where the user chose another logger plugin for the screen, the screen is that one's.
    Snakemake's own log file (`.snakemake/log/`) holds everything always.

    Parameters
    ----------
    logger
        Snakemake's logger.
    screens
        Those of its handlers that write on the screen.
    settings, addresses, count_tiles, end_run, renew_lock, markers
        See `RunWatch`.

    Returns
    -------
    RunWatch
        It follows the run from now on.
    """
    plain = logging.makeLogRecord({"levelno": logging.INFO, "msg": "shown?"})
    screen = screens[0] if screens and screens[0].filter(plain) else None
    stream = screen.stream if screen else None
    watch = RunWatch(settings, addresses, count_tiles, end_run, renew_lock, markers, stream, logger)
    if screen is not None and logger.level > logging.DEBUG:
        screen.addFilter(_OnlyProblems(watch))
    logger.addHandler(watch)
    watch.start()
    return watch


def _describe(settings: Settings) -> str:
    archive, tiles = settings["archive"], settings["tiles"]
    return (
        f"{archive['prefix']} in {archive_address(archive)}: "
        f"surveys {', '.join(tiles['surveys'])}, "
        f"programs {', '.join(tiles['programs'])}"
    )
