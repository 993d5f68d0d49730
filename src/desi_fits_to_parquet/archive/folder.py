"""An archive that is a folder of this machine: a mirror, or what the target `skim` made."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from desi_fits_to_parquet.archive.errors import ArchiveUnreachable
from desi_fits_to_parquet.tiles_csv import Source

DEPTH = 6
"""Folders below the one that is listed: a link that leads back up ends somewhere."""


def file_etag(mtime_ns: int, size: int) -> str:
    """Return what stands for an ETag: the time of the last change in microseconds, and the size.

    No part of it belongs to the disk, so that a copy that keeps times is the same archive. The two
    numbers are those at the end of obstore's own ETag, in the same form.
    """
    return f"{mtime_ns // 1000:x}-{size:x}"


def list_folder(root: Path, prefix: str, level: bool = False) -> tuple[list[Source], list[str]]:
    """List a folder as a bucket is listed; hidden files and folders are left out.

    Parameters
    ----------
    root
        The folder that stands for the bucket.
    prefix
        Beginning of the keys, which are paths below `root`; it need not end with a slash.
    level
        Go no deeper than the next slash.

    Returns
    -------
    objects : list of Source
        Files, sorted by key.
    folders : list of str
        Names of folders, where `level` is true.

    Raises
    ------
    ArchiveUnreachable
        Where `root` is no folder, or something in it cannot be read.
    """
    if not root.is_dir():
        raise ArchiveUnreachable(f"the folder {root} is not there: see archive.endpoint")
    parent, _, beginning = prefix.rpartition("/")
    objects: list[Source] = []
    folders: list[str] = []
    try:
        for entry in _entries(root / parent):
            if not entry.name.startswith(beginning):
                continue
            key = f"{parent}/{entry.name}" if parent else entry.name
            if not entry.is_dir():
                objects += _objects(entry, key)
            elif level:
                folders.append(entry.name)
            else:
                objects += _walk(Path(entry.path), key, DEPTH)
    except OSError as error:
        raise ArchiveUnreachable(
            f"the archive in {root} cannot be read: {error.filename}: {error.strerror}"
        ) from error
    return sorted(objects, key=lambda source: source["key"]), sorted(folders)


def _walk(folder: Path, key: str, depth: int) -> Iterator[Source]:
    for entry in _entries(folder):
        below = f"{key}/{entry.name}"
        if not entry.is_dir():
            yield from _objects(entry, below)
        elif depth:
            yield from _walk(Path(entry.path), below, depth - 1)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _objects(entry: os.DirEntry[str], key: str) -> Iterator[Source]:
    """Give the file, unless it is none or goes in this moment."""
    try:
        found = entry.stat()
    except FileNotFoundError:
        return
    if stat.S_ISREG(found.st_mode):
        etag = file_etag(found.st_mtime_ns, found.st_size)
        yield Source(key=key, size=found.st_size, etag=etag)
