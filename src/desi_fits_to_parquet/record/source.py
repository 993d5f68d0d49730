"""A tile's files, opened, with what is selected from them."""

from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from desi_fits_to_parquet.files import read_json
from desi_fits_to_parquet.formats.fits import Fits, open_fits
from desi_fits_to_parquet.formats.fits_tables import read_columns
from desi_fits_to_parquet.outcomes import BadTile
from desi_fits_to_parquet.paths import DOWNLOAD_RECORD
from desi_fits_to_parquet.record.selection import (
    Selection,
    check_row_match,
    match_rows,
    select_targets,
)
from desi_fits_to_parquet.record.spectra import Layout, read_layout
from desi_fits_to_parquet.records import DownloadRecord, empty_download
from desi_fits_to_parquet.settings import Settings
from desi_fits_to_parquet.tile import Tile


class Source(NamedTuple):
    """A tile's files, opened, with what is selected from them.

    `coadd` is the opened coadd and how its spectra lie, None where nothing is selected and it was
    not fetched; `rows` are the rows of the coadd in the order of the selection.
    """

    selection: Selection
    coadd: tuple[Fits, Layout] | None
    rows: npt.NDArray[np.int64]


def read_download(fits_folder: Path, tile: Tile) -> DownloadRecord:
    """Return the download record of a tile's FITS folder, an empty one where there is none."""
    record, path = empty_download(tile), fits_folder / DOWNLOAD_RECORD
    if path.exists():
        record.update(read_json(path))
    return record


def open_source(
    stack: ExitStack,
    tile: Tile,
    folder: Path,
    settings: Settings,
    download: DownloadRecord,
) -> Source:
    """Select a tile's targets and open its coadd, with the row match asserted.

    Parameters
    ----------
    stack
        Closes the coadd in the end.
    tile, folder, settings
        As in `fuse_tile`.
    download
        The download record; where its `mode` is `rows`, the coadd may hold the selected targets
        alone, and may be missing where nothing is selected.

    Raises
    ------
    BadTile
        `corrupt_source` where the files are broken or do not belong together.
    """
    for kind in ("redrock", "coadd"):
        path = folder / tile.file_name(kind)
        absent_by_design = kind == "coadd" and download["mode"] == "rows"
        if not path.exists() and not absent_by_design:
            raise BadTile("missing_source", f"{path.name} is not there")
    selection = select_targets(
        folder / tile.file_name("redrock"),
        tile.survey,
        settings,
        folder / tile.file_name("qso_mgii"),
        folder / tile.file_name("qso_qn"),
    )
    n_selected = len(selection.targetid)
    path = folder / tile.file_name("coadd")
    if not path.exists():
        if n_selected:
            raise BadTile(
                "missing_source", f"{path.name} is not there, but {n_selected} targets are selected"
            )
        return Source(selection, None, np.zeros(0, np.int64))
    coadd = stack.enter_context(open_fits(path))
    found = read_columns(coadd, "FIBERMAP", ("TARGETID",))["TARGETID"].astype(np.int64)
    if not (download["mode"] == "rows" and np.array_equal(np.sort(found), selection.targetid)):
        whole = read_table_ids(folder / tile.file_name("redrock"))
        check_row_match(whole, found, "HDU FIBERMAP", coadd.source)
    layout = read_layout(coadd, len(found), settings["spectra"])
    return Source(selection, (coadd, layout), match_rows(selection.targetid, found))


def read_table_ids(redrock_path: Path) -> npt.NDArray[np.int64]:
    """Return the TARGETIDs of redrock's REDSHIFTS, int64."""
    with open_fits(redrock_path) as fits:
        return read_columns(fits, "REDSHIFTS", ("TARGETID",))["TARGETID"].astype(np.int64)
