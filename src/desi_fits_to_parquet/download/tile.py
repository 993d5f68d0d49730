"""Fetching a tile: what the fusion needs of its files, as valid FITS, with a record of it.

Whatever is wrong with the archive's data or with the way to it ends as an outcome in the record;
what is raised is a fault of this machine (a full disk) or of the program.
"""

import logging
import time
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from desi_fits_to_parquet.archive.errors import (
    ArchiveUnreachable,
    RangeIgnored,
    Redirected,
    SourceChanged,
    SourceContradicted,
    SourceMissing,
    Unreachable,
)
from desi_fits_to_parquet.archive.keys import sort_by_kind, tile_prefix
from desi_fits_to_parquet.archive.link import Link
from desi_fits_to_parquet.columns import extra_hdus, kinds_used
from desi_fits_to_parquet.download.rows import fetch_rows
from desi_fits_to_parquet.download.whole import fetch_checksums, fetch_whole
from desi_fits_to_parquet.files import write_json
from desi_fits_to_parquet.formats.fits import open_fits
from desi_fits_to_parquet.formats.fits_tables import table_rows
from desi_fits_to_parquet.outcomes import BadTile
from desi_fits_to_parquet.paths import DOWNLOAD_RECORD
from desi_fits_to_parquet.records import AuditRecord, DownloadRecord, empty_download
from desi_fits_to_parquet.settings import Settings
from desi_fits_to_parquet.tile import REQUIRED_KINDS, Tile
from desi_fits_to_parquet.tiles_csv import Source, Sources, sources_version

log = logging.getLogger(__name__)


class Fetched(NamedTuple):
    """What one try of fetching a tile gave.

    Attributes
    ----------
    sources
        The files as they were listed when they were fetched.
    checksums
        The archive's list: sha256 by file name.
    verified
        By kind, what the fetched bytes agreed with: `sha256`, `md5`, `size` (the archive gives no
        more) or `parts` (rows mode: FITS sums of headers and tables, none of image rows).
    n_targets, n_selected
        Rows of REDSHIFTS, and how many of them are selected (None in `files` mode).
    audit
        None where the tile was not audited.
    """

    sources: Sources
    checksums: dict[str, str]
    verified: dict[str, str]
    n_targets: int
    n_selected: int | None
    audit: AuditRecord | None


def download_tile(
    tile: Tile,
    sources: Sources,
    settings: Settings,
    folder: Path,
    hdus: Collection[str] | None = None,
) -> DownloadRecord:
    """Fetch a tile into a folder and write `download.json` beside its files.

    Parameters
    ----------
    tile
        The tile.
    sources
        Its files as the archive was listed: key, size in bytes, ETag, by kind.
    settings
        The validated configuration.
    folder
        Made where it is missing; emptied but for the record where the tile fails.
    hdus
        Which of `columns.EXTRA_HDUS` come where rows are fetched; by default those that the
        configuration reads.

    Returns
    -------
    DownloadRecord
        As it is written. `outcome` is None where the data are there, else
        `missing_source`, `corrupt_source` or `unreachable`, with the reason as a sentence.
    """
    begun = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    record = empty_download(tile)
    record["mode"] = settings["transfer"]["mode"]
    record["listed"] = sources_version(sources)
    fetched = None
    hdus = extra_hdus(settings) if hdus is None else hdus
    with Link(settings["archive"], settings["transfer"]) as link:
        try:
            fetched = _fetch_patiently(link, tile, sources, settings, folder, hdus)
        except BadTile as bad:
            record |= {"outcome": bad.outcome, "reason": bad.reason}
        except Unreachable as error:
            record |= {"outcome": "unreachable", "reason": str(error)}
    if fetched:
        sources = fetched.sources
        record["n_targets"], record["n_selected"] = fetched.n_targets, fetched.n_selected
        record["audit"] = fetched.audit
        if fetched.audit and fetched.audit["problem"]:
            record |= {"outcome": "corrupt_source", "reason": fetched.audit["problem"]}
    if record["outcome"]:
        _clear(folder)
    used = {k: sources[k] for k in (*kinds_used(settings), "sha256sum") if k in sources}
    record["sources"] = {
        kind: {
            **source,
            "sha256": fetched.checksums.get(_name(source)) if fetched else None,
            "verified": fetched.verified.get(kind) if fetched else None,
            "bytes_fetched": link.received[source["key"]],
        }
        for kind, source in used.items()
    }
    files = [source for kind, source in used.items() if kind != "sha256sum"]
    record |= {
        "bytes_archive": sum(source["size"] for source in files),
        "bytes_fetched": link.received.total(),
        "requests": link.requests,
        "retries": link.retries,
        "throttled": link.throttled,
        "seconds": round(time.perf_counter() - begun, 3),
    }
    write_json(folder / DOWNLOAD_RECORD, record)
    return record


def _fetch_patiently(
    link: Link,
    tile: Tile,
    sources: Sources,
    settings: Settings,
    folder: Path,
    hdus: Collection[str],
) -> Fetched:
    """Fetch; begin again with a new listing where an object changed, but only once."""
    changed = False
    while True:
        missing = [kind for kind in REQUIRED_KINDS if kind not in sources]
        if missing:
            raise BadTile(
                "missing_source",
                f"{' and '.join(tile.file_name(kind) for kind in missing)}: not in the archive",
            )
        _clear(folder)
        try:
            return _fetch(link, tile, sources, settings, folder, hdus)
        except RangeIgnored as ignored:
            log.warning("%s: the server ignores ranges, so whole files are fetched", ignored)
            link.ranges_ignored = True
        except Redirected:
            link.requests += 1
            _list_again(tile, settings)  # which is told the bucket's region, and ends here with it
            raise
        except (SourceChanged, SourceMissing) as error:
            what = "changed" if isinstance(error, SourceChanged) else "vanished"
            if changed and isinstance(error, SourceContradicted):
                raise Unreachable(
                    f"{error} from {link.address}, also after the tile was listed again"
                ) from error
            if changed:
                raise BadTile(
                    "corrupt_source",
                    f"{error} {what} while it was read, also after the tile was listed again",
                ) from error
            log.warning("%s %s while it was read: the tile is listed again", error, what)
            changed = True
            sources = _list_again(tile, settings)
            link.requests += 1


def _list_again(tile: Tile, settings: Settings) -> Sources:
    from desi_fits_to_parquet.archive.listing import open_listing  # rare, and it imports botocore

    try:
        objects, _ = open_listing(settings["archive"])(tile_prefix(settings["archive"], tile))
    except ArchiveUnreachable as error:
        raise Unreachable(str(error)) from error
    return sort_by_kind(tile, objects)


def _fetch(
    link: Link,
    tile: Tile,
    sources: Sources,
    settings: Settings,
    folder: Path,
    hdus: Collection[str],
) -> Fetched:
    if settings["transfer"]["mode"] == "rows":
        return Fetched(sources, *fetch_rows(link, tile, sources, settings, folder, hdus))
    checksums = fetch_checksums(link, sources, folder)
    verified = {
        kind: fetch_whole(link, sources[kind], folder / tile.file_name(kind), checksums)
        for kind in kinds_used(settings)
        if kind in sources
    }
    with open_fits(folder / tile.file_name("redrock")) as redrock:
        n_targets = table_rows(redrock, "REDSHIFTS")
    return Fetched(sources, checksums, verified, n_targets, None, None)


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _name(source: Source) -> str:
    return source["key"].rpartition("/")[2]
