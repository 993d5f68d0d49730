"""One run at a time in a results folder, with locks that die with their holders.

The kernel gives a lock back when its process ends, however it ends, so a killed run leaves nothing
to be cleared by hand. Byte 0 of the lock's file belongs to the run; all its jobs share byte 1, so
that the next run can wait for those that a killed one left behind. The file tells the run's process
and its id, which its jobs are given in their environment: one that was still starting (or waiting
in the queue of a cluster) when its run was killed finds another id and ends before it writes.

Where somebody removes the file, the run takes the lock anew within seconds, jobs that start wait
for that, and a second run is refused by what the first one tells of itself.
"""

import errno
import fcntl
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from desi_fits_to_parquet.paths import ENDING

RUN_ID = "DESI_FITS_TO_PARQUET_RUN"
"""Environment variable by which a job is given the id of its run."""

_FILE = ".lock"

_RUN, _JOBS = 0, 1

_LONGEST_TEXT = 512

_RENEWED_S = 30.0
"""So long a job waits for a run to take its lock anew; the run looks every ten seconds."""

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

_ANOTHER = "give this run another folder with --config results=..."

log = logging.getLogger(__name__)


class RunningElsewhere(Exception):
    """Another run works in the same results folder."""


class NotWritable(Exception):
    """The results folder cannot be written to."""


def hold_lock(
    results: Path, run: str, living: Callable[[], str | None] = lambda: None
) -> Callable[[], None]:
    """Take the lock of a results folder for as long as this process lives.

    Where a killed run left jobs behind, wait for these to end first: they write to the same files.
    Between machines the lock works where the file system has locks (NFS 4, Lustre mounted with
    `flock`); where it has none, a warning says so.

    Parameters
    ----------
    results
        The results folder; made where it is missing.
    run
        The id of this run: a word that no other run has.
    living
        Tells the process of a run that lives by what it says of itself, asked where the file of
        the lock is missing.

    Returns
    -------
    callable
        To be called now and then: takes the lock anew where its file was removed, and raises
        `RunningElsewhere` where another run has it by then.

    Raises
    ------
    RunningElsewhere
        Where another run holds it; the message says which.
    NotWritable
        Where the folder is read-only, another's, or cannot be made.
    """
    if (file := next((path for path in (results, *results.parents) if path.exists()), None)) and (
        not file.is_dir()
    ):
        raise NotWritable(f"{file} is a file, no folder: {_ANOTHER}")
    try:
        results.mkdir(parents=True, exist_ok=True)
        if not (results / _FILE).exists() and (process := living()):
            raise RunningElsewhere(_refusal(process, results))
        descriptor = _open(results)
        holder = _read(descriptor)
    except OSError as error:
        raise NotWritable(
            f"{results} cannot be written to ({error.strerror}: {error.filename}): see to its "
            f"disk and its owner, or {_ANOTHER}"
        ) from error
    if not _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, _RUN):
        os.close(descriptor)
        raise RunningElsewhere(_refusal(holder, results))
    if holder:
        end_waiting(results, _run_of(holder))
    # The id before the wait: from here on no job of an earlier run joins, and those that joined
    # are waited for.
    _write(descriptor, run)
    if not _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, _JOBS):
        log.warning("Waiting for the running jobs of an earlier run, which was killed, to end.")
        _lock(descriptor, fcntl.LOCK_EX, _JOBS)
    _lock(descriptor, fcntl.LOCK_UN, _JOBS)
    (results / ENDING).unlink(missing_ok=True)

    def renew() -> None:
        nonlocal descriptor
        if _is_the_file(descriptor, results):
            return
        fresh = _open(results)
        if not _lock(fresh, fcntl.LOCK_EX | fcntl.LOCK_NB, _RUN):
            holder = _read(fresh)
            os.close(fresh)
            raise RunningElsewhere(
                f"{results / _FILE} was removed, and by now {_refusal(holder, results)}"
            )
        log.warning("%s was removed while the run works: it is made anew", results / _FILE)
        _write(fresh, run)
        os.close(descriptor)
        descriptor = fresh

    return renew


def _refusal(holder: str, results: Path) -> str:
    return (
        f"another run (process {holder or 'unknown'}) works in {results}; "
        "wait for it, stop it, or give this run its own folder with --config results=..."
    )


def join_run(results: Path) -> None:
    """Hold a job's share of the lock of a results folder for as long as this process lives.

    To be called before a job writes anything, its log included.

    Parameters
    ----------
    results
        The results folder.

    Raises
    ------
    SystemExit
        With a sentence, where the lock was last held by another run than the one that started this
        job (it ends, nothing is lost: the other run does the same work), or where the folder
        cannot be written to.
    """
    mine = os.environ.get(RUN_ID, "")
    try:
        holder = _share(results)
    except OSError as error:
        sys.exit(f"{results} cannot be written to: {error.strerror}. The job wrote nothing.")
    if _run_of(holder) != mine:
        sys.exit(
            f"This job was started by run {mine or 'unknown'}, but {results} belongs to another by "
            f"now (process {holder or 'unknown'}), which does its work: it ends and wrote nothing."
        )


def _share(results: Path) -> str:
    """Share the lock with the run's other jobs; return whose it is."""
    given_up = time.monotonic() + _RENEWED_S
    while True:
        if (results / _FILE).exists():
            descriptor = _open(results)
            _lock(descriptor, fcntl.LOCK_SH, _JOBS)
            if holder := _read(descriptor):  # empty while the run makes it
                return holder
            os.close(descriptor)
        if time.monotonic() > given_up:
            return ""
        time.sleep(0.2)


def end_waiting(results: Path, run: str) -> None:
    """Let those jobs of a run end that wait, so that nobody has to wait for them."""
    try:
        with (results / ENDING).open("a") as stream:
            stream.write(f"{run}\n")
    except OSError as error:  # a disk that failed ends its jobs anyway
        log.warning("jobs that wait are not told that their run ends: %s", error)


def is_ending(results: Path, run: str) -> bool:
    """Tell whether the jobs of a run are not to wait any longer."""
    # Not the lock's file: to close it would give back all that this process holds of it.
    try:
        return run in (results / ENDING).read_text().split()
    except FileNotFoundError:
        return False


def end_with_run(results: Path) -> None:
    """End this job where its run is ending: to be called while it waits.

    Raises
    ------
    SystemExit
        Where it is. The job ends, nothing is lost: the next run does its work.
    """
    if is_ending(results, os.environ.get(RUN_ID, "")):
        log.info("the run is ending, so this job waits no longer; the next run does its work")
        sys.exit(1)


def _open(results: Path) -> int:
    return os.open(results / _FILE, os.O_RDWR | os.O_CREAT, 0o644)


def _is_the_file(descriptor: int, results: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), (results / _FILE).stat())
    except FileNotFoundError:
        return False


def _write(descriptor: int, run: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()} on {os.uname().nodename}, run {run}\n".encode(), 0)


def _read(descriptor: int) -> str:
    """Return process, host and id of the run that held the lock last."""
    return os.pread(descriptor, _LONGEST_TEXT, 0).decode(errors="replace").strip()


def _run_of(holder: str) -> str:
    return holder.rpartition(" ")[2]


def _lock(descriptor: int, how: int, byte: int) -> bool:
    """Lock a byte; return whether it was free. A file system without locks counts as free."""
    try:
        fcntl.lockf(descriptor, how, 1, byte)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        if byte == _RUN:  # once a run, not once a job
            log.warning("The file system has no locks: see to it that only one run works here")
    return True
