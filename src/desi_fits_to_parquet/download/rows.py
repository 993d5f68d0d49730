"""Fetching of a tile only what the fusion uses: the rows of the selected targets."""

import logging
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from desi_fits_to_parquet.archive.link import Link
from desi_fits_to_parquet.archive.remote import RemoteFile
from desi_fits_to_parquet.columns import afterburners_used, kinds_used
from desi_fits_to_parquet.download.audit import Kept, audit_rows
from desi_fits_to_parquet.download.coadd import FetchWhole, fetch_coadd_rows
from desi_fits_to_parquet.download.details import fetch_best_fits, whole_is_cheaper
from desi_fits_to_parquet.download.whole import fetch_checksums, fetch_whole
from desi_fits_to_parquet.formats.fits import Fits, open_fits
from desi_fits_to_parquet.formats.fits_tables import read_columns, table_columns
from desi_fits_to_parquet.record.selection import Selection, select_targets
from desi_fits_to_parquet.records import AuditRecord
from desi_fits_to_parquet.settings import Settings
from desi_fits_to_parquet.tile import Tile, is_audited
from desi_fits_to_parquet.tiles_csv import Sources

log = logging.getLogger(__name__)


TEXTS = ("SPECTYPE", "SUBTYPE")

COMPARED = (*TEXTS, "DELTACHI2", "NPIXELS")
"""Columns beside Z, ZERR and CHI2 that stand in redrock and in the fits; ZWARN gets bits later."""


class FetchedRows(NamedTuple):
    """What `fetch_rows` gave; see `download.Fetched`."""

    checksums: dict[str, str]
    verified: dict[str, str]
    n_targets: int
    n_selected: int
    audit: AuditRecord | None


def fetch_rows(
    link: Link,
    tile: Tile,
    sources: Sources,
    settings: Settings,
    folder: Path,
    hdus: Collection[str],
) -> FetchedRows:
    """Fetch a tile's small files whole, and of coadd and rrdetails what the selection needs.

    Redrock comes first (and the quasar files where the selection reads them); where it selects
    nothing, nothing else is fetched. Coadd or rrdetails come whole where the server ignores
    ranges, where that is cheaper, and where the sums of what was fetched do not agree: then the
    checksum of the whole file decides. Of `columns.EXTRA_HDUS` those in `hdus` are fetched.

    Raises
    ------
    BadTile, SourceChanged, SourceMissing, RangeIgnored, Unreachable
        As `whole.fetch_whole`, `coadd_rows.fetch_coadd_rows` and `archive.Link.fetch`.
    """
    checksums = fetch_checksums(link, sources, folder)
    paths = {k: folder / tile.file_name(k) for k in kinds_used(settings) if k in sources}
    verified: dict[str, str] = {}

    def whole(kind: str) -> None:
        verified[kind] = fetch_whole(link, sources[kind], paths[kind], checksums)

    preset = settings["selection"]["preset"] == "desi_qso"
    first = [k for k in ("redrock", *(afterburners_used(settings) if preset else ())) if k in paths]
    for kind in first:
        whole(kind)
    with ExitStack() as stack:
        fits = {kind: stack.enter_context(open_fits(paths[kind])) for kind in first}
        selection = select_targets(
            fits["redrock"], tile.survey, settings, fits.get("qso_mgii"), fits.get("qso_qn")
        )
        redshifts = read_redshifts(fits["redrock"]) if len(selection.targetid) else {}
    n_selected = len(selection.targetid)
    log.info("%d of %d targets are selected", n_selected, selection.n_targets)
    if not n_selected:
        return FetchedRows(checksums, verified, selection.n_targets, 0, None)

    kept: list[Kept] = []

    def by_rows(kind: str, fetch: Callable[[RemoteFile, Path, Selection], Kept]) -> None:
        remote = RemoteFile(link, sources[kind])
        try:
            kept.append(fetch(remote, paths[kind], selection))
            verified[kind] = "parts"
        except FetchWhole as reason:
            log.info("%s is fetched whole: %s", paths[kind].name, reason)
            whole(kind)

    coadd = partial(_fetch_coadd, link, redshifts["TARGETID"], hdus)
    details = partial(_fetch_details, link, redshifts, settings["columns"]["rrdetails_scans"])
    jobs = [partial(by_rows, "coadd", coadd)]
    if "rrdetails" in paths:
        jobs.append(partial(by_rows, "rrdetails", details))
    others = set(paths) - {*first, "coadd", "rrdetails"}
    with ThreadPoolExecutor(len(jobs) + 1, "tile") as pool:
        running = [pool.submit(job) for job in jobs]
        for kind in sorted(others):
            whole(kind)
        for future in running:
            future.result()
    audited = is_audited(tile, settings["transfer"]["audit_fraction"])
    audit = audit_rows(link, kept, checksums) if audited else None
    return FetchedRows(checksums, verified, selection.n_targets, n_selected, audit)


def read_redshifts(redrock: Fits) -> dict[str, npt.NDArray[Any]]:
    """Return TARGETID (int64) of redrock's REDSHIFTS, and the columns of the best fits it has."""
    there = set(COMPARED) & table_columns(redrock, "REDSHIFTS").keys()
    table = read_columns(redrock, "REDSHIFTS", ("TARGETID", "Z", "ZERR", "CHI2", *there), TEXTS)
    return table | {"TARGETID": table["TARGETID"].astype(np.int64)}


def _fetch_coadd(
    link: Link,
    expected: npt.NDArray[np.int64],
    extra: Collection[str],
    remote: RemoteFile,
    path: Path,
    selection: Selection,
) -> Kept:
    if link.ranges_ignored:
        raise FetchWhole("the server ignores ranges")
    copied = fetch_coadd_rows(link, remote, path, expected, selection.targetid, extra)
    return Kept(remote, path, copied)


def _fetch_details(
    link: Link,
    redshifts: Mapping[str, npt.NDArray[Any]],
    with_scans: bool,
    remote: RemoteFile,
    path: Path,
    selection: Selection,
) -> Kept:
    if link.ranges_ignored:
        raise FetchWhole("the server ignores ranges")
    if with_scans:
        raise FetchWhole("the scans of all templates are wanted")
    size, n_selected = remote.source["size"], len(selection.targetid)
    if whole_is_cheaper(link.cost(), size, selection.n_targets, n_selected):
        raise FetchWhole("that is cheaper")
    fits = fetch_best_fits(remote, path, selection.targetid)
    # the best fit stands in redrock too, whose checksum was compared: what is fetched here has none
    for target, row in zip(selection.targetid.tolist(), selection.row.tolist(), strict=True):
        if target in fits and not _agrees(fits[target], redshifts, row):
            raise FetchWhole(f"the best fit of TARGETID {target} is not that of redrock")
    return Kept(remote, path, None)


def _agrees(table: npt.NDArray[Any], redshifts: Mapping[str, npt.NDArray[Any]], row: int) -> bool:
    """Tell whether the best of a target's fits is that of REDSHIFTS, in its precision."""
    if not len(table):
        return False
    best = table[int(np.argmin(table["chi2"]))]
    for name in redshifts:
        column = name.lower()
        if column in (table.dtype.names or ()):
            value, expected = best[column], redshifts[name][row]
            if isinstance(value, bytes) != isinstance(expected, bytes):
                return False
            same = value.rstrip() if isinstance(value, bytes) else expected.dtype.type(value)
            if same != expected:
                return False
    return True
