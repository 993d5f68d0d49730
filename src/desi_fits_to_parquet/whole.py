"""Fetching whole files of a tile, checked against the archive's own list of checksums."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from desi_fits_to_parquet.archive import Link
from desi_fits_to_parquet.files import atomic_path
from desi_fits_to_parquet.outcomes import BadTile
from desi_fits_to_parquet.tiles_csv import Source, Sources

log = logging.getLogger(__name__)

MAX_LIST_BYTES = 1 << 20
"""The list of a tile's checksums has about a kilobyte."""


def fetch_checksums(link: Link, sources: Sources, folder: Path) -> dict[str, str]:
    """Fetch the archive's list of checksums.

    Returns
    -------
    dict of str to str
        sha256 (64 hexadecimal digits) by file name; empty where the archive has no list.
    """
    source = sources.get("sha256sum")
    if source is None or source["size"] > MAX_LIST_BYTES:
        log.warning("the archive has no list of checksums for this tile")
        return {}
    path = folder / ".sha256sum.part"
    try:
        link.save(source, path)
        return parse_checksums(path.read_text("latin-1"))
    finally:
        path.unlink(missing_ok=True)


def parse_checksums(text: str) -> dict[str, str]:
    """Read the lines that `sha256sum` writes; lines of another form are left out."""
    lines = re.findall(r"^([0-9a-fA-F]{64}) [ *](\S+)\s*$", text, re.MULTILINE)
    return {name: checksum.lower() for checksum, name in lines}


def fetch_whole(link: Link, source: Source, path: Path, checksums: Mapping[str, str]) -> str:
    """Fetch a file and check it; where it does not agree, once more.

    The archive's list decides. Where it does not name the file, the ETag serves if it is an MD5:
    S3's is, for an object that was uploaded in one part and that anyone may read (those encrypted
    with a customer's key have another, but nobody reads them unsigned).

    Returns
    -------
    str
        What the file agreed with: `sha256`, `md5`, or `size` where nothing else is known.

    Raises
    ------
    BadTile
        `corrupt_source` where the checksum is another one twice.
    """
    name = source["key"].rpartition("/")[2]
    algorithm, expected = "sha256", checksums.get(name)
    if expected is None and re.fullmatch("[0-9a-f]{32}", source["etag"]):
        algorithm, expected = "md5", source["etag"]
    with atomic_path(path) as temporary:
        found = link.save(source, temporary, algorithm)
        if expected not in (None, found):
            log.warning("%s: %s is %s, expected %s: it is fetched again", name, algorithm, found,
                        expected)  # fmt: skip
            found = link.save(source, temporary, algorithm)
        if expected not in (None, found):
            where = "its ETag" if algorithm == "md5" else "the archive's list of checksums"
            raise BadTile(
                "corrupt_source",
                f"{name}: its {algorithm} is {found}, {where} says {expected}, also after "
                "fetching it again",
            )
    return "size" if expected is None else algorithm
