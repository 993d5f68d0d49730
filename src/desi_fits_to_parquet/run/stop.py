"""Ending a run before its time, by Ctrl-C or SIGTERM: in order the first time, at once the second.

Handlers of signals run in the middle of the main thread, which may hold any lock by then, and not
before it wakes: Polars, which Snakemake imports where it is there, takes Ctrl-C so that a thread
that waits for its jobs goes on waiting. Here each signal is taken in a thread of its own, which
Python wakes by a pipe. Jobs get neither of the two signals (run/snakemake.py), although a terminal
sends Ctrl-C to them as well.
"""

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from desi_fits_to_parquet.run.repair import remove_unfinished

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
"""The signals that end a run, as people call them."""

COMMAND = "DESI_FITS_TO_PARQUET_COMMAND"
"""Environment variable with the command to go on with, where it is not Snakemake's own."""

AGAIN_S = 0.5
"""A signal so soon after the first is the same one: `timeout` sends it twice."""


class Watch(Protocol):
    """What the end of a run needs of its view (`watch.RunWatch`)."""

    def say(self, text: str) -> None:
        """Write a line."""

    def stopped_by(self, name: str, at_once: bool = False) -> None:
        """Take note that somebody stopped the run."""

    def close(self) -> None:
        """Show the end."""


class Stop:
    """Whether somebody ended this run, by which signal, and what is to be done then."""

    def __init__(self) -> None:
        self._number = 0
        self._since = 0.0
        self._taking = threading.Lock()
        self._listening = False
        self._at_once = False
        self._finish: Callable[[], None] | None = None
        self._kill: Callable[[], None] = lambda: None
        self._results: Path | None = None
        self._watch: Watch | None = None

    def catch(self) -> None:
        """Take both signals from now on; to be called in the main thread."""
        for number in NAMES:
            signal.signal(number, lambda *_: None)
        if not self._listening:
            told, tell = os.pipe()
            os.set_blocking(tell, False)
            signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
            threading.Thread(target=self._listen, args=(told,), daemon=True).start()
            self._listening = True

    def arm(
        self,
        finish: Callable[[], None],
        kill: Callable[[], None],
        results: Path,
        watch: Watch | None,
    ) -> None:
        """Take note of what a run that begins needs to be ended; before, a signal ends at once.

        Parameters
        ----------
        finish
            Lets the running tiles finish, and begins none.
        kill
            Ends the jobs.
        results
            The results folder, from which is removed what killed jobs leave.
        watch
            The view of the run, if it has one.
        """
        self._kill, self._results, self._watch = kill, results, watch
        self._finish = finish

    def leave(self) -> None:
        """End a run that is over with the code of the signal that ended it, if one did."""
        if self._number:
            if self._at_once:
                threading.Event().wait()  # for the thread that ends this process
            if self._watch is None:
                self._say(self._closing())
            sys.exit(128 + self._number)

    def _listen(self, told: int) -> None:
        while numbers := os.read(told, 64):
            for number in NAMES.keys() & set(numbers):
                threading.Thread(target=self._take, args=(number,), daemon=True).start()

    def _take(self, number: int) -> None:
        with self._taking:
            first = not self._number
            if first:
                self._number, self._since = number, time.monotonic()
            elif time.monotonic() - self._since < AGAIN_S:
                return
        if first and self._finish:
            if self._watch:
                self._watch.stopped_by(self._name)
            self._say(
                f"{self._name}: running tiles finish, no more are begun; "
                f"{self._name} again ends at once."
            )
            self._finish()
        else:
            self._at_once = True
            try:
                self._end_at_once()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(128 + self._number)  # not the main thread: it waits for jobs

    def _end_at_once(self) -> None:
        if self._watch:
            self._watch.stopped_by(self._name, at_once=True)
        self._kill()
        if self._results:
            remove_unfinished(self._results)
        if self._watch:
            self._watch.close()
        else:
            self._say(self._closing())

    @property
    def _name(self) -> str:
        return NAMES[signal.Signals(self._number)]

    def _say(self, text: str) -> None:
        if self._watch:
            self._watch.say(text)
        else:
            print(text, file=sys.stderr, flush=True)  # noqa: T201  (for who pressed the keys)

    def _closing(self) -> str:
        return f"Stopped by {self._name}. To go on: {command_text()}"


def command_text() -> str:
    """Return the command that this process was started with, as it is typed."""
    if given := os.environ.get(COMMAND):
        return given
    python, *arguments = sys.orig_argv
    if arguments and not arguments[0].startswith("-"):  # a script of its own name
        python, *arguments = arguments
    path = Path(python)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        python = str(path.relative_to(Path.cwd()))
    return shlex.join([python, *arguments])
