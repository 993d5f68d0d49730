"""One run at a time in a results folder, with a lock that dies with its holder."""

import fcntl
import os
from pathlib import Path


class RunningElsewhere(Exception):  # noqa: N818
    """Another run works in the same results folder."""


def hold_lock(path: Path | str) -> int:
    """Take the lock of a results folder for as long as this process lives.

    The kernel gives the lock back when the process ends, however it ends, so a killed run leaves
    nothing to be cleared by hand. The lock works between machines where the file system supports
    it (NFS 4, Lustre mounted with `flock`).

    Parameters
    ----------
    path
        The lock's file; made where it is missing.

    Returns
    -------
    int
        The file descriptor that holds the lock.

    Raises
    ------
    RunningElsewhere
        Where another process holds it; the message says which.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        holder = os.read(descriptor, 64).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise RunningElsewhere(
            f"another run (process {holder}) works in {path.parent}; "
            "wait for it, stop it, or give this run its own folder with --config results=..."
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()} on {os.uname().nodename}\n".encode(), 0)
    return descriptor
