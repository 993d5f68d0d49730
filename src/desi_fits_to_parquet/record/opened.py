"""A tile's files, opened once a job, with what is selected from them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from desi_fits_to_parquet.columns import POSITION, afterburners_used, kinds_used
from desi_fits_to_parquet.files import read_json
from desi_fits_to_parquet.formats.fits import Fits, open_fits
from desi_fits_to_parquet.formats.fits_images import image_shape
from desi_fits_to_parquet.formats.fits_tables import read_columns
from desi_fits_to_parquet.formats.hdf5 import open_hdf5
from desi_fits_to_parquet.outcomes import BadTile
from desi_fits_to_parquet.paths import DOWNLOAD_RECORD
from desi_fits_to_parquet.record.arms import CAMERAS
from desi_fits_to_parquet.record.positions import HATS_ORDER, is_outside, pixels_at
from desi_fits_to_parquet.record.selection import (
    Selection,
    check_row_match,
    match_rows,
    reorder,
    select_targets,
)
from desi_fits_to_parquet.record.spectra import SpectraLayout, count_pixels, read_layout
from desi_fits_to_parquet.records import (
    DownloadRecord,
    PixelRecord,
    empty_download,
    no_pixels,
)
from desi_fits_to_parquet.settings import Settings
from desi_fits_to_parquet.tile import REQUIRED_KINDS, Tile

if TYPE_CHECKING:
    import h5py


class OpenedTile(NamedTuple):
    """A tile's files, opened, with what is selected from them.

    Attributes
    ----------
    tile
        The tile.
    fits
        The FITS files by kind, of those that are used and there. Where nothing is selected these
        are only what the selection reads: so its record does not depend on what else was fetched.
    details
        The rrdetails file, None where it is not used, not there, or nothing is selected.
    selection
        The selected targets in the order of the record: by `healpix_29`, then by TARGETID.
    healpix_29
        HEALPix pixels of their positions, NESTED, of order 29, int64.
    layout
        How the spectra lie in the coadd, None where nothing is selected.
    rows
        Rows of the coadd in the order of the selection, int64.
    pixels
        What was found in the pixels of the targets, and how many were left out for it.
    """

    tile: Tile
    fits: dict[str, Fits]
    details: "h5py.File | None"
    selection: Selection
    healpix_29: npt.NDArray[np.int64]
    layout: SpectraLayout | None
    rows: npt.NDArray[np.int64]
    pixels: PixelRecord


def read_download(fits_folder: Path, tile: Tile) -> DownloadRecord:
    """Return the download record of a tile's FITS folder, an empty one where there is none."""
    record, path = empty_download(tile), fits_folder / DOWNLOAD_RECORD
    if path.exists():
        record.update(read_json(path))
    return record


@contextmanager
def open_tile(
    tile: Tile, folder: Path, settings: Settings, download: DownloadRecord
) -> Iterator[OpenedTile]:
    """Open a tile's files, select its targets, and assert that coadd and redrock match.

    Parameters
    ----------
    tile
        The tile.
    folder
        Holds its files under their DESI names.
    settings
        The checked configuration.
    download
        The download record; where its `mode` is `rows`, the coadd may hold the selected targets
        alone, and may be missing where nothing is selected.

    Raises
    ------
    BadTile
        `missing_source` where coadd or redrock is not there, `corrupt_source` where files are
        broken, do not belong together, or are another tile's, or where the pixels of all targets
        are no numbers.
    """
    paths = {kind: folder / tile.file_name(kind) for kind in kinds_used(settings)}
    there = {kind: path for kind, path in paths.items() if path.exists()}
    by_rows = download["mode"] == "rows"
    for kind in REQUIRED_KINDS:
        if kind not in there and not (kind == "coadd" and by_rows):
            raise BadTile("missing_source", f"{paths[kind].name} is not there")
    quasars = afterburners_used(settings) if settings["selection"]["preset"] else ()
    with ExitStack() as stack:
        fits: dict[str, Fits] = {}

        def open_kind(kind: str) -> None:
            fits[kind] = stack.enter_context(open_fits(there[kind]))
            check_primary(fits[kind], kind, tile)

        for kind in ("redrock", *quasars):
            if kind in there:
                open_kind(kind)
        selection = select_targets(
            fits["redrock"], tile.survey, settings, fits.get("qso_mgii"), fits.get("qso_qn")
        )
        n_selected = len(selection.targetid)
        if not n_selected:
            yield _nothing(tile, fits, selection, no_pixels())
            return
        first = dict(fits)
        if "coadd" not in there:
            raise BadTile(
                "missing_source",
                f"{paths['coadd'].name} is not there, but {n_selected} targets are selected",
            )
        details = None
        for kind, path in there.items():
            if kind == "rrdetails":
                details = stack.enter_context(open_hdf5(path))
            elif kind not in fits:
                open_kind(kind)
        coadd = fits["coadd"]
        fibermap = read_columns(coadd, "FIBERMAP", ("TARGETID", "COADD_NUMEXP", *POSITION))
        found = fibermap["TARGETID"]
        if not (by_rows and np.array_equal(np.sort(found), selection.targetid)):
            whole = read_columns(fits["redrock"], "REDSHIFTS", ("TARGETID",))["TARGETID"]
            check_row_match(whole, found, "HDU FIBERMAP", coadd.source)
        layout = read_layout(coadd, len(found), settings["spectra"])
        rows = match_rows(selection.targetid, found)
        healpix_29 = _pixels(coadd, fibermap, rows, tile)
        seen = fibermap["COADD_NUMEXP"][rows] > 0
        keep, pixels = _look_at_pixels(coadd, rows, selection, seen, settings)
        order = np.lexsort((selection.targetid, healpix_29))
        order = order[keep[order]]
        selection = reorder(selection, order)
        if not len(order):
            yield _nothing(tile, first, selection, pixels)
            return
        yield OpenedTile(
            tile, fits, details, selection, healpix_29[order], layout, rows[order], pixels
        )


def _nothing(
    tile: Tile, fits: dict[str, Fits], selection: Selection, pixels: PixelRecord
) -> OpenedTile:
    none = np.zeros(0, np.int64)
    return OpenedTile(tile, fits, None, selection, none, None, none, pixels)


def _look_at_pixels(
    coadd: Fits,
    rows: npt.NDArray[np.int64],
    selection: Selection,
    seen: npt.NDArray[np.bool_],
    settings: Settings,
) -> tuple[npt.NDArray[np.bool_], PixelRecord]:
    """Tell which targets have pixels to convert, and what is odd in those that do."""
    counts = count_pixels(coadd, rows, selection.targetid)
    n_pixels = sum(image_shape(coadd, f"{camera}_FLUX")[1] for camera in CAMERAS)
    share = settings["spectra"]["max_not_finite"]
    broken = counts.not_finite > share * n_pixels
    if len(broken) > 1 and broken.all():
        raise BadTile(
            "corrupt_source",
            f"{coadd.source}: of all {len(broken)} selected targets more than a fraction of "
            f"{share:g} of the pixels (spectra.max_not_finite) are NaN or infinite",
        )
    no_data = ~seen & (counts.with_ivar == 0) & ~broken
    keep = ~broken if settings["selection"]["no_data"] else ~broken & ~no_data
    return keep, {
        "n_no_data": int(np.count_nonzero(no_data)),
        "n_left_out": int(np.count_nonzero(broken)),
        "n_not_finite": int(counts.not_finite[keep].sum()),
        "n_masked_with_ivar": int(counts.masked_with_ivar[keep].sum()),
    }


def _pixels(
    coadd: Fits, fibermap: dict[str, npt.NDArray[Any]], rows: npt.NDArray[np.int64], tile: Tile
) -> npt.NDArray[np.int64]:
    """Return the pixels of the positions of some rows of FIBERMAP; most lie in the tile's."""
    ra, dec = (fibermap[name][rows].astype(np.float64) for name in POSITION)
    bad = ~(np.isfinite(ra) & (np.abs(dec) <= 90))
    if bad.any():
        i = int(np.argmax(bad))
        raise BadTile(
            "corrupt_source",
            f"{coadd.source}: HDU FIBERMAP: TARGETID {fibermap['TARGETID'][rows[i]]} lies at "
            f"({ra[i]}, {dec[i]}), which is no position",
        )
    healpix_29 = pixels_at(HATS_ORDER, ra, dec)
    outside = is_outside(healpix_29, tile.order, tile.pixel)
    n_outside = int(np.count_nonzero(outside))
    if 2 * n_outside > len(rows):
        i = int(np.argmax(outside))
        target = fibermap["TARGETID"][rows[i]]
        raise BadTile(
            "corrupt_source",
            f"{coadd.source}: HDU FIBERMAP: {n_outside} of the {len(rows)} selected targets lie "
            f"outside the pixel of {tile.name}, TARGETID {target} at ({ra[i]:.4f}, {dec[i]:.4f}) "
            "for one: it is another tile's",
        )
    return healpix_29


def check_primary(fits: Fits, kind: str, tile: Tile) -> None:
    """Assert that the tile that a file's PRIMARY header names, where it does, is this one.

    Survey and program are those of coadd and redrock alone: elsewhere they were not seen, and
    DESI's tables call other things so.

    Raises
    ------
    BadTile
        `corrupt_source` where it is another tile's file.
    """
    header = fits.hdus["PRIMARY"].header
    if tile.layout == "uniqpix":
        expected: dict[str, str | int] = {"UNIQPIX": tile.number}
    else:
        expected = {"HPXPIXEL": tile.pixel, "HPXNSIDE": 1 << tile.order}
    if kind in REQUIRED_KINDS:
        expected |= {"SURVEY": tile.survey, "PROGRAM": tile.program}
    for key, value in expected.items():
        if str(header.get(key, value)).strip() != str(value):
            raise BadTile(
                "corrupt_source",
                f"{fits.source}: HDU PRIMARY: {key} is {header[key]!r}, of {tile.name} it would be "
                f"{value!r}: it is another tile's",
            )
