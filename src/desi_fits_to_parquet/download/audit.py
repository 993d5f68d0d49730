"""The audit: for a share of the tiles, what was fetched in parts is compared with the whole."""

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from desi_fits_to_parquet.archive.link import Link
from desi_fits_to_parquet.archive.remote import RemoteFile
from desi_fits_to_parquet.download.coadd import Copied
from desi_fits_to_parquet.records import AuditRecord

log = logging.getLogger(__name__)


class Kept(NamedTuple):
    """What was fetched of an object in parts.

    Attributes
    ----------
    remote
        Headers, tables and the like.
    path
        The file that was made of them.
    copied
        Which bytes of the object went unchanged into the file.
    """

    remote: RemoteFile
    path: Path
    copied: Copied | None


def audit_rows(link: Link, kept: Iterable[Kept], checksums: Mapping[str, str]) -> AuditRecord:
    """Read objects whole, without storing them, and compare them with what was fetched of them.

    Parameters
    ----------
    link
        Fetches.
    kept
        What was fetched in parts.
    checksums
        The archive's list.
    """
    checked = 0
    sha256_ok: bool | None = None
    problems = []
    differing = 0
    for one in kept:
        source = one.remote.source
        name = source["key"].rpartition("/")[2]
        checksum = hashlib.sha256()
        with one.path.open("rb") as stream:
            for offset, data in link.parts(source):
                checksum.update(data)
                for start, fetched in _fetched(one, stream.fileno(), offset, offset + len(data)):
                    there = data[start - offset : start - offset + len(fetched)]
                    differing += bytes(there) != fetched
        checked += source["size"]
        expected, found = checksums.get(name), checksum.hexdigest()
        if expected is not None:
            sha256_ok = sha256_ok is not False and found == expected
            if found != expected:
                problems.append(
                    f"{name}: its sha256 is {found}, the archive's list of checksums says "
                    f"{expected} (found by the audit)"
                )
    if differing:
        problems.append(f"{differing} of the fetched ranges differ from the whole file (audit)")
    return {
        "checked_bytes": checked,
        "sha256_ok": sha256_ok,
        "rows_ok": not differing,
        "problem": "; ".join(problems),
    }


def _fetched(kept: Kept, descriptor: int, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """Give what was fetched of the object between two bytes: offsets and bytes."""
    for offset, piece in kept.remote.pieces():
        first, last = max(offset, start), min(offset + len(piece), stop)
        if first < last:
            yield first, bytes(piece[first - offset : last - offset])
    if kept.copied is None:
        return
    low = int(np.searchsorted(kept.copied.source_stop, start, "right"))
    high = int(np.searchsorted(kept.copied.source_start, stop, "left"))
    for i in range(low, high):
        first = max(int(kept.copied.source_start[i]), start)
        last = min(int(kept.copied.source_stop[i]), stop)
        yield first, os.pread(descriptor, last - first, first + int(kept.copied.shift[i]))
