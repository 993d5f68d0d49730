"""One run at a time in a results folder, with locks that die with their holders.

The kernel gives a lock back when its process ends, however it ends, so a killed run leaves nothing
to be cleared by hand. Byte 0 of the lock's file belongs to the run; all its jobs share byte 1, so
that the next run can wait for those that a killed one left behind.
"""

import errno
import fcntl
import logging
import os
from pathlib import Path

_RUN, _JOBS = 0, 1

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

log = logging.getLogger(__name__)


class RunningElsewhere(Exception):
    """Another run works in the same results folder."""


def hold_lock(path: Path | str) -> None:
    """Take the lock of a results folder for as long as this process lives.

    Where a killed run left jobs behind, wait for these to end first: they write to the same files.
    Between machines the lock works where the file system has locks (NFS 4, Lustre mounted with
    `flock`); where it has none, a warning says so.

    Parameters
    ----------
    path
        The lock's file; made where it is missing.

    Raises
    ------
    RunningElsewhere
        Where another run holds it; the message says which.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    if not _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, _RUN):
        holder = os.read(descriptor, 64).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise RunningElsewhere(
            f"another run (process {holder}) works in {path.parent}; "
            "wait for it, stop it, or give this run its own folder with --config results=..."
        )
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()} on {os.uname().nodename}\n".encode(), 0)
    if not _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, _JOBS):
        log.warning("Waiting for the running jobs of an earlier run, which was killed, to end.")
        _lock(descriptor, fcntl.LOCK_EX, _JOBS)
    fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, _JOBS)


def join_run(path: Path | str) -> None:
    """Hold a job's share of the lock of a results folder for as long as this process lives."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    _lock(descriptor, fcntl.LOCK_SH, _JOBS)


def _lock(descriptor: int, how: int, byte: int) -> bool:
    """Lock a byte; return whether it was free. A file system without locks counts as free."""
    try:
        fcntl.lockf(descriptor, how, 1, byte)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        log.warning("The file system has no locks: see to it yourself that only one run works here")
    return True
