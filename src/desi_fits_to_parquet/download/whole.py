"""Fetching whole files of a tile, checked against the archive's own list of checksums."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from desi_fits_to_parquet.archive.link import Link
from desi_fits_to_parquet.files import atomic_path
from desi_fits_to_parquet.formats.fits import Fits, open_fits
from desi_fits_to_parquet.formats.fits_sums import ones_complement_sum, verify_datasum
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
    with a customer's key have another, but nobody reads them unsigned). Where it is none, the sums
    in a FITS file's own headers are left.

    Returns
    -------
    str
        What the file agreed with: `sha256`, `md5`, `datasum`, or `size` where nothing is known.

    Raises
    ------
    BadTile
        `corrupt_source` where the file disagrees twice.
    """
    name = source["key"].rpartition("/")[2]
    algorithm, expected = "sha256", checksums.get(name)
    if expected is None and re.fullmatch("[0-9a-f]{32}", source["etag"]):
        algorithm, expected = "md5", source["etag"]

    def find_fault(found: str) -> str:
        if expected is None:
            return find_wrong_sum(temporary) if name.endswith(".fits") else ""
        where = "its ETag" if algorithm == "md5" else "the archive's list of checksums"
        return "" if found == expected else f"its {algorithm} is {found}, {where} says {expected}"

    with atomic_path(path) as temporary:
        fault = find_fault(link.save(source, temporary, algorithm))
        if fault:
            log.warning("%s: %s; it is fetched again", name, fault)
            fault = find_fault(link.save(source, temporary, algorithm))
        if fault:
            raise BadTile("corrupt_source", f"{name}: {fault}, also after fetching it again")
    if expected is None:
        return "datasum" if name.endswith(".fits") else "size"
    return algorithm


def find_wrong_sum(path: Path) -> str:
    """Compare a FITS file with its own sums; return what disagrees, empty where nothing does."""
    try:
        with open_fits(path) as fits:
            for hdu in fits.hdus:
                if not header_agrees(fits, hdu):
                    return f"the header of HDU {hdu} does not agree with its CHECKSUM"
                if verify_datasum(fits, hdu) is False:
                    return f"HDU {hdu} does not agree with its DATASUM"
    except BadTile as bad:
        return bad.reason
    return ""


def header_agrees(fits: Fits, name: str) -> bool:
    """Compare a header with its sums, without the data; True where it has none.

    CHECKSUM makes the sum of header and data vanish, DATASUM is that of the data: so the header's
    own follows from both (FITS standard 4.0, 4.4.2.7 and appendix J).
    """
    hdu = fits.hdus[name]
    datasum = str(hdu.header.get("DATASUM", "")).strip()
    if not datasum.isdigit() or "CHECKSUM" not in hdu.header:
        return True
    header = fits.read_at(hdu.header_start, hdu.data_start - hdu.header_start)
    return ones_complement_sum(header, int(datasum)) in (0, 0xFFFFFFFF)
