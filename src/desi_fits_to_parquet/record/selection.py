"""Which targets of a tile are converted, decided from redrock and the quasar afterburners alone.

One definition with two callers: the transfer asks which rows of the coadd to fetch, the fusion
which rows to convert.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from desi_fits_to_parquet.formats.fits import Fits
from desi_fits_to_parquet.formats.fits_tables import read_columns, table_columns
from desi_fits_to_parquet.outcomes import BadTile
from desi_fits_to_parquet.settings import Settings
from desi_fits_to_parquet.target_bits import class_mask, target_mask

ZWARN_BITS = {
    "SKY": 0,
    "LITTLE_COVERAGE": 1,
    "SMALL_DELTA_CHI2": 2,
    "NEGATIVE_MODEL": 3,
    "MANY_OUTLIERS": 4,
    "Z_FITLIMIT": 5,
    "NEGATIVE_EMISSION": 6,
    "UNPLUGGED": 7,
    "BAD_TARGET": 8,
    "NODATA": 9,
    "BAD_MINFIT": 10,
    "POORDATA": 11,
}
"""Redrock's warning bits (DESI data model, bitmasks page)."""

QN_LINES = ("C_LYA", "C_CIV", "C_CIII", "C_MgII", "C_Hbeta", "C_Halpha")

QN_THRESHOLD_OTHERS = 0.6
"""QuasarNET's confidence in its best line that ELG and BGS targets need in the quasar catalogue."""

QSO_MASKBITS = {"RR": 1, "MGII": 2, "QN": 3, "QN_NEW_RR": 4, "BGS": 5, "ELG": 6}
"""Bits of `qso_maskbits`, with the numbers of QSO_MASKBITS in the DESI quasar catalogue.

Of QSO targets, RR: redrock's SPECTYPE is QSO. MGII: the MgII afterburner found a broad line. QN:
QuasarNET is confident in a line (`selection.qso_threshold`). QN_NEW_RR: QN is set, redrock was run
again with QuasarNET's prior, and its redshift replaces the first one. ELG: an ELG target, no QSO
target, with SPECTYPE QSO and a QuasarNET line above 0.6. BGS: a BGS target, neither of these, with
SPECTYPE QSO and such a line or a broad MgII line. Other targets have no rule.

Source: `py/LSS/qso_cat_utils.py` of desihub/LSS at commit 24dcdee, which makes the catalogue,
without its bit 7 (secondary targets WISE_VAR_QSO); the selection is that of Chaussidon et al. 2023
(ApJ 944, 107).
"""


class Selection(NamedTuple):
    """The selected targets of a tile; `select_targets` gives them in order of TARGETID.

    Attributes
    ----------
    targetid
        int64, shape (n_selected,).
    row
        Their rows in redrock's REDSHIFTS, int64, shape (n_selected,).
    n_targets
        Number of rows of REDSHIFTS.
    z, zerr
        Redshift and its error, float64: redrock's, or QuasarNET's where the preset replaces them.
    qso_maskbits
        Bits of `QSO_MASKBITS`, int32; zeros without the preset `desi_qso`.
    """

    targetid: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    n_targets: int
    z: npt.NDArray[np.float64]
    zerr: npt.NDArray[np.float64]
    qso_maskbits: npt.NDArray[np.int32]


def check_row_match(
    expected: npt.NDArray[np.int64], found: npt.NDArray[np.int64], where: str, file: str
) -> None:
    """Assert that two tables of a tile hold the same targets once each; their order may differ.

    Parameters
    ----------
    expected, found
        TARGETIDs, int64, shape (nrow,): those of redrock's REDSHIFTS and those to be checked.
    where
        What the second are, for example `HDU FIBERMAP`.
    file
        Name of the file that holds the second.

    Raises
    ------
    BadTile
        `corrupt_source` where numbers of rows or TARGETIDs differ, or TARGETIDs repeat.
    """
    if len(expected) != len(found):
        raise BadTile(
            "corrupt_source",
            f"{file}: {where} has {len(found)} rows, redrock's REDSHIFTS has {len(expected)}",
        )
    check_unique(found, where, file)
    if np.array_equal(expected, found):
        return
    strangers = np.setdiff1d(found, expected)
    if len(strangers):
        raise BadTile(
            "corrupt_source",
            f"{file}: {where} and redrock's REDSHIFTS hold different targets: {len(strangers)} "
            f"TARGETIDs are not in redrock, the first is {strangers[0]}",
        )


def check_unique(targetid: npt.NDArray[np.int64], where: str, file: str) -> None:
    """Assert that no TARGETID occurs twice; `corrupt_source` where one does."""
    ordered = np.sort(targetid)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated):
        raise BadTile(
            "corrupt_source",
            f"{file}: {where} holds TARGETID {repeated[0]} more than once",
        )


def check_of_tile(
    targetid: npt.NDArray[np.int64], found: npt.NDArray[np.int64], where: str, file: str
) -> None:
    """Assert that a table of some targets has one of the tile's, or none at all.

    Parameters
    ----------
    targetid
        All targets of the tile, those of redrock's REDSHIFTS.
    found, where, file
        As in `check_row_match`.

    Raises
    ------
    BadTile
        `corrupt_source` where all of its targets are strangers: the table is another tile's.
    """
    if len(found) and not np.isin(found, targetid).any():
        raise BadTile(
            "corrupt_source",
            f"{file}: {where} holds {len(found)} targets and none of this tile's: it is another "
            "tile's",
        )


def select_targets(
    redrock: Fits,
    survey: str,
    settings: Settings,
    mgii: Fits | None = None,
    qn: Fits | None = None,
) -> Selection:
    """Choose the targets of a tile by the configured selection.

    Parameters
    ----------
    redrock
        The tile's redrock file, opened.
    survey
        The tile's survey, which says where targeting bits stand.
    settings
        The validated configuration.
    mgii, qn
        The tile's qso_mgii and qso_qn files, read by the preset `desi_qso` only. A file that is
        not there counts no target as a quasar by that way, as for a target that is not in it.

    Returns
    -------
    Selection
        In increasing order of TARGETID, possibly empty.

    Raises
    ------
    BadTile
        `corrupt_source` where a file is broken, lacks what the selection needs, or where
        REDSHIFTS and FIBERMAP of redrock do not hold the same targets.
    """
    criteria = settings["selection"]
    file = redrock.source
    redshifts = read_columns(
        redrock,
        "REDSHIFTS",
        ("TARGETID", "Z", "ZERR", "ZWARN", "SPECTYPE", "DELTACHI2"),
        text=("SPECTYPE",),
        whole=("TARGETID", "ZWARN"),
    )
    column, mask = target_mask(survey, criteria["targets"])
    quasars = criteria["preset"] == "desi_qso"
    wanted = ["TARGETID", "OBJTYPE", "COADD_FIBERSTATUS"]
    if (mask or quasars) and column in table_columns(redrock, "FIBERMAP"):
        wanted.append(column)
    whole = [name for name in wanted if name != "OBJTYPE"]
    fibermap = read_columns(redrock, "FIBERMAP", wanted, text=("OBJTYPE",), whole=whole)
    targetid = redshifts["TARGETID"]
    check_unique(targetid, "HDU REDSHIFTS", file)
    mapped = fibermap.pop("TARGETID")
    check_row_match(targetid, mapped, "HDU FIBERMAP", file)
    order = match_rows(targetid, mapped)
    fibermap = {name: values[order] for name, values in fibermap.items()}

    if (mask or quasars) and column not in fibermap:
        needs = "selection.preset" if quasars else "selection.targets"
        raise BadTile(
            "corrupt_source", f"{file}: HDU FIBERMAP has no column {column}, which {needs} needs"
        )

    z, zerr = (redshifts[name].astype(np.float64) for name in ("Z", "ZERR"))
    maskbits = np.zeros(len(targetid), np.int32)
    if quasars:
        classes = {
            name: has_bits(fibermap[column], class_mask(survey, name))
            for name in ("QSO", "ELG", "BGS")
        }
        maskbits, z, zerr = _quasars(
            targetid, redshifts["SPECTYPE"], classes, z, zerr, mgii, qn, criteria["qso_threshold"]
        )
        keep = (maskbits > 0) & (fibermap["OBJTYPE"] == b"TGT")
        keep &= np.isin(fibermap["COADD_FIBERSTATUS"], criteria["qso_fiberstatus"])
    else:
        keep = np.isin(redshifts["SPECTYPE"], [t.encode() for t in criteria["spectypes"]])
        keep &= np.isin(fibermap["OBJTYPE"], [t.encode() for t in criteria["objtypes"]])
        allowed = zwarn_mask(criteria["zwarn"])
        if allowed is not None:
            keep &= (redshifts["ZWARN"] & ~np.int64(allowed)) == 0
        if criteria["coadd_fiberstatus"] is not None:
            keep &= np.isin(fibermap["COADD_FIBERSTATUS"], criteria["coadd_fiberstatus"])
    for values, limits in ((z, criteria["z"]), (redshifts["DELTACHI2"], criteria["deltachi2"])):
        if limits is not None:
            keep &= (values >= limits[0]) & (values <= limits[1])
    if mask:
        keep &= has_bits(fibermap[column], mask)

    row = np.flatnonzero(keep)
    row = row[np.argsort(targetid[row], kind="stable")]
    return Selection(targetid[row], row, len(targetid), z[row], zerr[row], maskbits[row])


def has_bits(bits: npt.NDArray[np.int64], mask: int) -> npt.NDArray[np.bool_]:
    """Tell which of some targeting bits, int64, shape (n,), have any bit of a mask."""
    found: npt.NDArray[np.bool_] = (bits.view(np.uint64) & np.uint64(mask)) != 0
    return found


def reorder(selection: Selection, order: npt.NDArray[np.int64]) -> Selection:
    """Return the same targets in another order, given by their indices."""
    arrays = {k: v[order] for k, v in selection._asdict().items() if k != "n_targets"}
    return selection._replace(**arrays)


def match_rows(
    wanted: npt.NDArray[np.int64], targetid: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return for each wanted TARGETID its row in a table, or -1 where it is not in it.

    Parameters
    ----------
    wanted
        int64, shape (n,).
    targetid
        The table's TARGETIDs, int64, shape (nrow,), each once.

    Returns
    -------
    ndarray
        int64, shape (n,).
    """
    if not len(targetid):
        return np.full(len(wanted), -1, np.int64)
    order = np.argsort(targetid, kind="stable")
    position = np.minimum(np.searchsorted(targetid, wanted, sorter=order), len(targetid) - 1)
    row = order[position].astype(np.int64)
    return np.where(targetid[row] == wanted, row, -1)


def zwarn_mask(setting: int | list[str] | None) -> int | None:
    """Return the mask of allowed ZWARN bits: 0 allows none, None means no cut."""
    if isinstance(setting, list):
        return sum(1 << ZWARN_BITS[name] for name in set(setting))
    return setting


def _quasars(
    targetid: npt.NDArray[np.int64],
    spectype: npt.NDArray[np.bytes_],
    classes: dict[str, npt.NDArray[np.bool_]],
    z: npt.NDArray[np.float64],
    zerr: npt.NDArray[np.float64],
    mgii: Fits | None,
    qn: Fits | None,
    threshold: float,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return QSO_MASKBITS and the redshifts of the DESI quasar catalogue for every target.

    `classes` tells who is a QSO, ELG and BGS target. Each is judged by one rule: the first of QSO,
    ELG, BGS that it is a target of.
    """
    quasar = spectype == b"QSO"
    broad, sure, likely, rerun = (np.zeros(len(targetid), bool) for _ in range(4))
    z_new, zerr_new = z.copy(), zerr.copy()
    if mgii is not None:
        lines = read_columns(mgii, "MGII", ("TARGETID", "IS_QSO_MGII"))
        known, rows = _join(targetid, lines["TARGETID"], "HDU MGII", mgii.source)
        broad[known] = lines["IS_QSO_MGII"][rows]
    if qn is not None:
        network = read_columns(
            qn, "QN_RR", ("TARGETID", "Z_NEW", "ZERR_NEW", "IS_QSO_QN_NEW_RR", *QN_LINES)
        )
        known, rows = _join(targetid, network["TARGETID"], "HDU QN_RR", qn.source)
        best = np.max([network[name] for name in QN_LINES], axis=0, initial=-np.inf)
        sure[known] = (best > threshold)[rows]
        likely[known] = (best > QN_THRESHOLD_OTHERS)[rows]
        rerun[known] = network["IS_QSO_QN_NEW_RR"][rows]
        z_new[known], zerr_new[known] = network["Z_NEW"][rows], network["ZERR_NEW"][rows]
    qso, elg, bgs = (classes[name] for name in ("QSO", "ELG", "BGS"))
    found = {
        "RR": qso & quasar,
        "MGII": qso & broad,
        "QN": qso & sure,
        "QN_NEW_RR": qso & sure & rerun,
        "ELG": elg & ~qso & quasar & likely,
        "BGS": bgs & ~elg & ~qso & quasar & (likely | broad),
    }
    bits = np.zeros(len(targetid), np.int32)
    for name, those in found.items():
        bits |= those.astype(np.int32) << QSO_MASKBITS[name]
    new = found["QN_NEW_RR"] | (rerun & (found["ELG"] | found["BGS"]))
    return bits, np.where(new, z_new, z), np.where(new, zerr_new, zerr)


def _join(
    targetid: npt.NDArray[np.int64], found: npt.NDArray[Any], where: str, file: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the rows of targets that a table has, and their rows in that table."""
    check_unique(found, where, file)
    check_of_tile(targetid, found, where, file)
    rows = match_rows(targetid, found)
    known = np.flatnonzero(rows >= 0)
    return known, rows[known]
