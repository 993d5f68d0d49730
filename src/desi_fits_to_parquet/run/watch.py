"""The view of a run while it goes on, and what follows from it: notifications, the way to end it.

Snakemake tells its loggers of each job as a log record with an `event`, which is the interface of
its logger plugins (`snakemake-interface-logger-plugins`). `RunWatch` is such a handler: it reads
one marker for each validated tile, so that a refresh reads no file. The workflow attaches it when
a run begins, rather than naming a plugin in the profile: a plugin is found only where this project
is installed beside Snakemake, is not told of the configuration, and is there in dry runs too.

On a terminal the lowest lines are set apart for the view (the terminal scrolls those above), so
that what jobs print cannot tear it. Elsewhere it is a line a minute.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from desi_fits_to_parquet.paths import LOW_NOTE, marker_path
from desi_fits_to_parquet.run.markers import Row, read_names, read_row, read_rows
from desi_fits_to_parquet.run.notify import (
    Sender,
    Told,
    due_notices,
    end_notice,
    failure_text,
    start_notice,
)
from desi_fits_to_parquet.run.panel import PANEL_ROWS, Panel
from desi_fits_to_parquet.run.summary import (
    N_PROBLEMS,
    Run,
    Summary,
    free_bytes,
    summarize,
    write_run,
)
from desi_fits_to_parquet.run.wording import summary_line, summary_lines
from desi_fits_to_parquet.settings import Settings
from desi_fits_to_parquet.tile import Tile

TILE_RULES = ("download_tile", "fuse_tile", "validate_tile")

DRAW_S = 3.0
"""Seconds between two drawings on a terminal: 1 % of a core with 30,000 tiles."""

LINE_S = 60.0
"""Seconds between two lines elsewhere."""

WRITE_S = 10.0
"""Seconds between two writings of what the run tells of itself."""

FIRST_LINE_S = 10.0
"""Seconds to the first line."""

KEPT_MESSAGES = ("Will exit", "Complete log")
"""How those of Snakemake's messages begin that are shown although they are no warnings."""


class RunWatch(logging.Handler):
    """Follows a run from its first job to the end of Snakemake.

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
    screen
        Snakemake's own handler for the screen, None where it is silent.
    """

    def __init__(
        self,
        settings: Settings,
        addresses: Sequence[str],
        count_tiles: Callable[[], int],
        end_run: Callable[[], None],
        screen: "logging.StreamHandler[TextIO] | None",
    ) -> None:
        super().__init__(logging.INFO)
        self._results = Path(settings["results"])
        self._settings = settings["notify"]
        self._what = _describe(settings)
        self._count_tiles = count_tiles
        self._end_run = end_run
        self._sender = Sender(addresses, self._note)
        self._stream = screen.stream if screen else None
        self._panel = None
        if screen is not None and screen.stream.isatty() and os.environ.get("TERM") != "dumb":
            self._panel = Panel(screen.stream, PANEL_ROWS)
        self._jobs: dict[int, tuple[str, Tile | None]] = {}
        self._rows: dict[Tile, Row] = {}
        self._tiles: frozenset[Tile] | None = None
        self._broken: list[str] = []
        self._crashed: set[Tile] = set()
        self._errors = 0
        self._guard = threading.Lock()
        self._told = Told()
        self._aborted = ""
        self._run = Run(
            started=time.time(),
            updated=0.0,
            ended=None,
            process=f"{os.getpid()} on {os.uname().nodename}",
            to_do=None,
            crashed=0,
            recent_s=60 * self._settings["speed_minutes"],
            problems=(),
        )
        self._shown: tuple[str, ...] = ()
        self._next_line = time.monotonic() + FIRST_LINE_S
        self._next_write = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="progress", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._results.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    # -------------------------------------------------------------------- what Snakemake tells

    def emit(self, record: logging.LogRecord) -> None:
        """Take one event of Snakemake; called in its own thread, so it must be quick."""
        event = getattr(record, "event", None)
        if event == "job_info":
            self._begin_job(record.__dict__)
        elif event == "job_finished":
            self._finish_job(record.__dict__["job_id"])
        elif event == "job_error":
            self._fail_job(record.__dict__)
        elif event == "group_error":
            for job in record.__dict__["job_error_info"]:
                self._fail_job(job)

    def _begin_job(self, job: Mapping[str, Any]) -> None:
        names = job["wildcards"] or {}
        tile = None
        if job["rule_name"] in TILE_RULES:
            tile = Tile(names["survey"], names["program"], int(names["healpix"]))
            if self._run.to_do is None:  # the list of tiles is there, with it all jobs
                self._change(to_do=self._count_tiles())
        self._jobs[job["jobid"]] = job["rule_name"], tile

    def _finish_job(self, jobid: int) -> None:
        rule, tile = self._jobs.pop(jobid, ("", None))
        if rule == "discover_tiles":
            self._take_list()
        elif rule == "validate_tile" and tile is not None:
            try:
                row = read_row(marker_path(self._results, tile))
            except ValueError as error:
                self._note(str(error))
                return
            with self._guard:
                self._crashed.discard(tile)
                if row is not None:
                    self._rows[tile] = row

    def _take_list(self) -> None:
        tiles = read_names(self._results / "tiles.csv")
        with self._guard:
            self._tiles = tiles
            if tiles is not None:  # others may be of an earlier list
                self._rows = {tile: row for tile, row in self._rows.items() if tile in tiles}

    def _fail_job(self, job: Mapping[str, Any]) -> None:
        rule, tile = self._jobs.pop(job["jobid"], (job["rule_name"], None))
        self._errors += 1
        if tile is not None:
            with self._guard:
                self._crashed.add(tile)
        name = f"{tile.name}: {rule}" if tile else rule
        low = self._results / LOW_NOTE
        if rule == "download_tile" and low.exists():
            self._abort(low.read_text())
            return
        self._note(f"{name} crashed; its log is {', '.join(job['log'])}")

    def _note(self, problem: str) -> None:
        """Keep a problem for the view, and show it at once."""
        self._change(problems=(*self._run.problems, problem)[-N_PROBLEMS:])
        self._say(problem)

    def _change(self, **fields: Any) -> None:
        with self._guard:
            self._run = self._run._replace(**fields)

    # ----------------------------------------------------------------------- what follows of it

    def _follow(self) -> None:
        rows, self._broken = read_rows(self._results / "validated")
        with self._guard:
            self._rows = {**rows, **self._rows}
        self._take_list()
        self._shown = self._summary().problems  # those of earlier runs
        self._sender.send(start_notice(self._summary(), self._what))
        while not self._over.wait(DRAW_S if self._panel else FIRST_LINE_S):
            self._refresh()

    def _summary(self) -> Summary:
        now = time.time()
        with self._guard:
            self._run = run = self._run._replace(updated=now, crashed=len(self._crashed))
            rows = dict(self._rows)
            tiles = None if self._tiles is None else len(self._tiles)
        return summarize(rows, tiles, run, now, free_bytes(self._results), self._broken)

    def _refresh(self) -> None:
        """Draw, write and tell what is due."""
        clock = time.monotonic()
        summary = self._summary()
        if not self._draw(summary) and clock >= self._next_line:
            self._next_line = clock + LINE_S
            new = [problem for problem in summary.problems if problem not in self._shown]
            self._shown = summary.problems
            self._say("\n".join([summary_line(summary), *(f"  {problem}" for problem in new)]))
        if clock >= self._next_write:
            self._next_write = clock + WRITE_S
            self._write(summary)
        notices, self._told = due_notices(summary, self._told, self._settings)
        for notice in notices:
            self._sender.send(notice)
        if self._told.failing and self._settings["abort"] and not self._aborted:
            self._abort(f"{failure_text(summary, self._settings)}.")

    def _abort(self, why: str) -> None:
        """End the run: what runs finishes, nothing more is begun."""
        if not self._aborted:
            self._aborted = f"stopped: {why}"
            self._say(f"{self._aborted} Running jobs finish.")
            self._end_run()

    def _draw(self, summary: Summary) -> bool:
        if self._panel is None:
            return False
        try:
            return self._panel.draw(summary_lines(summary))
        except OSError:  # the terminal is gone, the run goes on
            self._panel = self._stream = None
            return False

    def _say(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(f"{text}\n")
            self._stream.flush()
        except OSError:
            self._stream = None

    def _write(self, summary: Summary) -> None:
        if summary.run is None:
            return
        try:
            write_run(self._results, summary.run)
        except OSError as error:  # a full disk ends jobs, not the view of them
            self._note(f"{self._results}: the state of the run cannot be written: {error.strerror}")

    def close(self) -> None:
        """End; Snakemake closes its handlers when it is done, however that came."""
        super().close()
        if self._over.is_set() or not self._thread.is_alive():
            return
        self._over.set()
        self._thread.join()
        summary = self._summary()
        self._change(ended=self._aborted or _how_it_ended(summary, self._errors))
        summary = self._summary()
        if self._panel is not None:
            try:
                self._panel.clear()
            except OSError:
                self._stream = None
        self._write(summary)
        self._say("\n".join(summary_lines(summary)))
        self._sender.send(end_notice(summary))
        self._sender.finish()


class _OnlyProblems(logging.Filter):
    """Lets warnings and errors through; the view stands for the messages of single jobs."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or str(record.msg).startswith(KEPT_MESSAGES)


def watch_run(
    logger: logging.Logger,
    settings: Settings,
    addresses: Sequence[str],
    count_tiles: Callable[[], int],
    end_run: Callable[[], None],
) -> None:
    """Attach a `RunWatch` to Snakemake's logger, and let it stand for the messages of single jobs.

    With `--verbose` these messages are shown all the same, with `--quiet all` nothing is shown,
    and where the user chose another logger plugin for the screen, the screen is that one's.
    Snakemake's own log file (`.snakemake/log/`) holds everything always.

    Parameters
    ----------
    logger
        Snakemake's logger.
    settings, addresses, count_tiles, end_run
        See `RunWatch`.
    """
    screens = [
        handler
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler)
        and not isinstance(handler, logging.FileHandler)
    ]
    plain = logging.makeLogRecord({"levelno": logging.INFO, "msg": "shown?"})
    screen = screens[0] if screens and screens[0].filter(plain) else None
    if screen is not None and logger.level > logging.DEBUG:
        screen.addFilter(_OnlyProblems())
    watch = RunWatch(settings, addresses, count_tiles, end_run, screen)
    logger.addHandler(watch)
    watch.start()


def _describe(settings: Settings) -> str:
    archive, tiles = settings["archive"], settings["tiles"]
    return (
        f"{archive['prefix']} in bucket {archive['bucket']}: "
        f"surveys {', '.join(tiles['surveys'])}, "
        f"programs {', '.join(tiles['programs'])}"
    )


def _how_it_ended(summary: Summary, errors: int) -> str:
    if summary.left:
        rest = summary.left + (summary.run.crashed if summary.run else 0)
        return f"ended with {rest:,} tiles not done; the same command goes on from there"
    if errors:
        return f"ended, {errors} jobs crashed; the same command does them again"
    return "finished" + (f", {summary.failed:,} tiles failed" if summary.failed else "")
