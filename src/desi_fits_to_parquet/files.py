"""Writing files so that a final name never holds half a file."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block succeeds.

    The temporary file is synced to disk before the rename and removed when the block raises. Its
    name is always the same, so what a killed process left is overwritten by the next one.

    Parameters
    ----------
    path
        The final name. Its folder is made where it is missing.

    Yields
    ------
    Path
        `.<name>.part` in the same folder, to be written by the caller.

    Raises
    ------
    OSError
        Where the disk is full or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give the name of a new folder beside `path`; rename it to `path` when the block succeeds.

    What a killed process left under that name is removed first, and the folder itself when the
    block raises: a full disk needs the room.

    Parameters
    ----------
    path
        The final name, which is not taken. Its parent is made where it is missing.

    Yields
    ------
    Path
        `.<name>.part` beside it (so on the same disk), to be made by the caller.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        yield temporary
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write `data` under `path` so that the name holds either all of it or what was there."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically; NaN and infinity are refused (JSON has none)."""
    write_atomically(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; a broken one is named in the error."""
    try:
        return json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
