"""A tile with its selected targets alone, as FITS in DESI's own layout: the target `skim`.

The files have the names, HDUs, columns and keywords of the archive's, and a list of checksums as
the archive has one, so that what reads DESI's files reads them too, and so does this project: the
folder can be the archive of another run (`archive.endpoint`).
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from desi_fits_to_parquet.archive.folder import file_etag
from desi_fits_to_parquet.archive.link import Link
from desi_fits_to_parquet.archive.remote import RemoteFile
from desi_fits_to_parquet.columns import (
    EXTRA_HDUS,
    RESOLUTION_CORE,
    afterburners_used,
    extra_hdus,
    kinds_used,
)
from desi_fits_to_parquet.download.coadd import FetchWhole, fetch_coadd_rows
from desi_fits_to_parquet.download.details import fetch_best_fits
from desi_fits_to_parquet.download.outage import download_patiently
from desi_fits_to_parquet.download.whole import find_wrong_sum
from desi_fits_to_parquet.files import atomic_path, sha256_of, write_atomically
from desi_fits_to_parquet.formats.fits import Fits, open_fits
from desi_fits_to_parquet.formats.fits_header import change_cards
from desi_fits_to_parquet.formats.fits_images import is_compressed
from desi_fits_to_parquet.formats.fits_tables import read_columns, table_columns
from desi_fits_to_parquet.formats.fits_write import write_hdu
from desi_fits_to_parquet.outcomes import BadTile
from desi_fits_to_parquet.paths import DOWNLOAD_RECORD, skim_folder
from desi_fits_to_parquet.record.selection import check_row_match, select_targets
from desi_fits_to_parquet.records import (
    DownloadRecord,
    SkimFile,
    SkimMarker,
    tile_keys,
)
from desi_fits_to_parquet.settings import ArchiveSettings, Settings, TransferSettings
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.tiles_csv import Source, Sources

log = logging.getLogger(__name__)

SKIM_VERSION = 1
"""To be raised when the same settings and files give another skim: all tiles are then redone."""

Targets = npt.NDArray[np.int64]


def skim_hdus(settings: Settings) -> tuple[str, ...]:
    """Return which of `EXTRA_HDUS` a skim keeps."""
    wanted = {*settings["skim"]["hdus"], *extra_hdus(settings)}
    if RESOLUTION_CORE in wanted:  # whole, as DESI's own files have it
        wanted.add("RESOLUTION")
    return tuple(hdu for hdu in EXTRA_HDUS if hdu in wanted)


def skim_settings(settings: Settings) -> dict[str, Any]:
    """Return what a skim depends on beside the tile's files in the archive."""
    return {
        "selection": settings["selection"],
        "files": list(kinds_used(settings)),
        "scans": settings["columns"]["rrdetails_scans"],
        "hdus": list(skim_hdus(settings)),
    }


def skim_fingerprint(settings: Settings) -> str:
    """Return a short text that changes with `skim_settings` and `SKIM_VERSION`."""
    facts = [SKIM_VERSION, skim_settings(settings)]
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def skim_tile(
    tile: Tile, sources: Sources, settings: Settings, run: str, go_on: Callable[[], None]
) -> SkimMarker:
    """Fetch the selected targets of a tile and keep them as FITS.

    Parameters
    ----------
    tile, sources, settings, run, go_on
        As `download_patiently` takes them. Rows are fetched whatever `transfer.mode` says.

    Returns
    -------
    SkimMarker
        Its outcome is `converted` where the tile's folder is there (`paths.skim_folder`): whole,
        or not at all. A tile without selected targets has none.
    """
    begun = time.perf_counter()
    results = Path(settings["results"])
    folder = skim_folder(results, settings["archive"]["prefix"], tile)
    partial = folder.with_name(f".{folder.name}.part")
    for old in (partial, folder):
        shutil.rmtree(old, ignore_errors=True)
    transfer: TransferSettings = {**settings["transfer"], "mode": "rows"}
    by_rows: Settings = {**settings, "transfer": transfer}
    hdus = skim_hdus(settings)
    try:
        record = download_patiently(tile, sources, by_rows, partial, run, go_on, hdus)
        (partial / DOWNLOAD_RECORD).unlink()
        marker = _marker(tile, record, settings)
        if record["outcome"] is None and record["n_selected"]:
            try:
                n_rows, marker["whole"] = _cut(tile, partial, record, by_rows, hdus)
                _check(tile, partial, n_rows)
                marker["n_rows"] = n_rows
                marker["files"] = _write_checksums(tile, partial, settings["archive"])
                marker["bytes_skim"] = sum(file["size"] for file in marker["files"].values())
                marker["bytes_parquet"] = marker["bytes_skim"]
                marker["outcome"] = "converted"
                partial.rename(folder)
            except BadTile as bad:
                marker |= {"outcome": bad.outcome, "reason": bad.reason, "n_rows": None}
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    marker |= {"seconds": round(time.perf_counter() - begun, 3), "finished": time.time()}
    return marker


def _marker(tile: Tile, record: DownloadRecord, settings: Settings) -> SkimMarker:
    return {
        **tile_keys(tile),
        "bytes_archive": record["bytes_archive"],
        "bytes_fetched": record["bytes_fetched"],
        "requests": record["requests"],
        "retries": record["retries"],
        "throttled": record["throttled"],
        "sources": record["sources"],
        "listed": record["listed"],
        "audit": record["audit"],
        "outcome": record["outcome"] or "no_targets",
        "reason": record["reason"],
        "n_targets": record["n_targets"],
        "n_rows": None if record["outcome"] else 0,
        "files": {},
        "whole": "",
        "bytes_skim": 0,
        "bytes_parquet": 0,
        "seconds": 0.0,
        "settings_fingerprint": skim_fingerprint(settings),
        "finished": 0.0,
    }


def _cut(
    tile: Tile, folder: Path, record: DownloadRecord, settings: Settings, hdus: Collection[str]
) -> tuple[int, str]:
    """Leave nothing but the selected targets in what was fetched whole.

    Returns
    -------
    n_rows : int
        Number of targets that are left.
    whole : str
        Why all are left, empty where they are not.
    """
    sources = record["sources"]
    paths = {kind: folder / tile.file_name(kind) for kind in kinds_used(settings)}
    paths = {kind: path for kind, path in paths.items() if path.exists()}
    everyone, selected = _targets(tile, paths, settings)
    if sources["coadd"]["verified"] != "parts":
        try:
            _cut_coadd(paths["coadd"], sources["coadd"], everyone, selected, hdus, settings)
        except FetchWhole as reason:
            log.warning("%s: all targets are kept: %s", paths["coadd"].name, reason)
            return len(everyone), f"{paths['coadd'].name}: {reason}"
    for kind, path in paths.items():
        if kind == "rrdetails":
            whole = sources[kind]["verified"] != "parts"
            if whole and not settings["columns"]["rrdetails_scans"]:
                _cut_details(path, selected, settings)
        elif kind != "coadd":
            keep_targets(path, selected, sources[kind])
    return len(selected), ""


def _targets(tile: Tile, paths: Mapping[str, Path], settings: Settings) -> tuple[Targets, Targets]:
    """Return the TARGETIDs of redrock's table and those selected of them."""
    read = ("redrock", *(afterburners_used(settings) if settings["selection"]["preset"] else ()))
    with ExitStack() as stack:
        fits = {k: stack.enter_context(open_fits(paths[k])) for k in read if k in paths}
        selection = select_targets(
            fits["redrock"], tile.survey, settings, fits.get("qso_mgii"), fits.get("qso_qn")
        )
        redshifts = read_columns(fits["redrock"], "REDSHIFTS", ("TARGETID",))
    return redshifts["TARGETID"], selection.targetid


def keep_targets(path: Path, targets: Targets, origin: Source) -> None:
    """Leave nothing but some targets in the tables of a FITS file.

    Tables without TARGETID and images stay as they are.

    Parameters
    ----------
    path
        The file; it is replaced.
    targets
        TARGETIDs, int64, shape (n,).
    origin
        The object of the archive that the file is from, which PRIMARY then names.

    Raises
    ------
    BadTile
        `corrupt_source` where the file is broken.
    """
    with open_fits(path) as fits, atomic_path(path) as temporary, temporary.open("w+b") as stream:
        for name in fits.hdus:
            write_hdu(stream, *_reduced(fits, name, targets, origin))


def _reduced(
    fits: Fits, name: str, targets: Targets, origin: Source
) -> tuple[bytes, Iterable[bytes]]:
    """Return cards and data of an HDU with the rows of some targets."""
    hdu = fits.hdus[name]
    changes: dict[str, Any] = {"CHECKSUM": None, "DATASUM": None}
    if name == "PRIMARY" and "SRCKEY" not in hdu.header:
        changes |= {"SRCKEY": origin["key"], "SRCETAG": origin["etag"]}
    data = fits.read_at(hdu.data_start, hdu.data_size)
    plain = hdu.header.get("XTENSION") == "BINTABLE" and not is_compressed(hdu)
    if not plain or "TARGETID" not in table_columns(fits, name):
        return change_cards(hdu.cards, changes), [data]
    found = read_columns(fits, name, ("TARGETID",))["TARGETID"]
    rows = np.flatnonzero(np.isin(found, targets))
    width, size = int(hdu.header["NAXIS1"]), int(hdu.header["NAXIS1"]) * len(found)
    table = np.frombuffer(data, np.uint8, size).reshape(len(found), width)[rows].tobytes()
    changes["NAXIS2"] = len(rows)
    if "THEAP" in hdu.header:
        changes["THEAP"] = int(hdu.header["THEAP"]) - size + len(table)
    return change_cards(hdu.cards, changes), [table + data[size:]]


def _cut_coadd(
    path: Path,
    origin: Source,
    everyone: Targets,
    selected: Targets,
    hdus: Collection[str],
    settings: Settings,
) -> None:
    with _local(path, settings) as (link, source):
        remote = RemoteFile(link, source)
        fetch_coadd_rows(link, remote, path, everyone, selected, hdus, origin)


def _cut_details(path: Path, selected: Targets, settings: Settings) -> None:
    with _local(path, settings) as (link, source):
        fetch_best_fits(RemoteFile(link, source), path, selected)


@contextmanager
def _local(path: Path, settings: Settings) -> Iterator[tuple[Link, Source]]:
    """Give a file of this machine as an object of an archive."""
    archive: ArchiveSettings = {**settings["archive"], "endpoint": str(path.parent.absolute())}
    transfer: TransferSettings = {**settings["transfer"], "limit_mb_s": None}
    found = path.stat()
    etag = file_etag(found.st_mtime_ns, found.st_size)
    with Link(archive, transfer) as link:
        yield link, Source(key=path.name, size=found.st_size, etag=etag)


def _check(tile: Tile, folder: Path, n_rows: int) -> None:
    """Read back what was written: its sums, and the targets of redrock and coadd."""
    try:
        for path in sorted(folder.glob("*.fits")):
            if fault := find_wrong_sum(path):
                raise BadTile("invalid_output", f"{path.name}: {fault}")
        with (
            open_fits(folder / tile.file_name("redrock")) as redrock,
            open_fits(folder / tile.file_name("coadd")) as coadd,
        ):
            kept = read_columns(redrock, "REDSHIFTS", ("TARGETID",))["TARGETID"]
            found = read_columns(coadd, "FIBERMAP", ("TARGETID",))["TARGETID"]
            check_row_match(kept, found, "HDU FIBERMAP", coadd.source)
            if len(kept) != n_rows:
                raise BadTile(
                    "invalid_output", f"{redrock.source} has {len(kept)} targets, not {n_rows}"
                )
    except BadTile as bad:
        raise BadTile("invalid_output", bad.reason) from bad


def _write_checksums(tile: Tile, folder: Path, archive: ArchiveSettings) -> dict[str, SkimFile]:
    """Write the list of checksums, as `sha256sum` does; return size and sha256 of each file."""
    files: dict[str, SkimFile] = {
        path.name: {"size": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.iterdir())
    }
    path = folder / tile.checksum_name(archive["prefix"].rpartition("/")[2])
    write_atomically(path, "".join(f"{f['sha256']}  {name}\n" for name, f in files.items()))
    return files | {path.name: {"size": path.stat().st_size, "sha256": sha256_of(path)}}
