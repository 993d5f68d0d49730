"""A second reading of a tile, which shares no code with the first.

The validation proves that a Parquet holds what the FITS files hold as this project reads them: an
error of its readers would be in both. So the whole record of the audited tiles is made once more,
with astropy and h5py, by other and plainer code, and compared value by value. Neither `formats` nor
`record` is used here; what they know too (bits of ZWARN, how arms are joined) stands here again on
purpose.

astropy takes a second to import, so nothing of it is imported before a tile is read.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from desi_fits_to_parquet.columns import kinds_used
from desi_fits_to_parquet.outcomes import BadTile
from desi_fits_to_parquet.settings import PrecisionSettings, Settings
from desi_fits_to_parquet.target_bits import class_mask, target_mask
from desi_fits_to_parquet.tile import Tile

Array = npt.NDArray[Any]

_TABLES = (
    ("redrock", "REDSHIFTS"), ("coadd", "FIBERMAP"), ("redrock", "TSNR2"), ("coadd", "SCORES"),
    ("redrock", "EXP_FIBERMAP"),
    ("emline", "EMLINEFIT"), ("qso_mgii", "MGII"), ("qso_qn", "QN_RR"),
)  # fmt: skip
"""Where the columns of the record come from; of two of one name the first counts."""

_NAMES: dict[str, Callable[[str], str]] = {
    "qso_mgii": lambda name: name if name == "is_qso_mgii" else f"mgii_{name}",
    "qso_qn": lambda name: f"qn_{name}" if name in ("coeffs", "spectype", "z_rr") else name,
}

_ZWARN = (
    "SKY", "LITTLE_COVERAGE", "SMALL_DELTA_CHI2", "NEGATIVE_MODEL", "MANY_OUTLIERS", "Z_FITLIMIT",
    "NEGATIVE_EMISSION", "UNPLUGGED", "BAD_TARGET", "NODATA", "BAD_MINFIT", "POORDATA",
)  # fmt: skip
"""Redrock's warnings, bit 0 first (DESI data model, bitmasks page)."""

_LINES = ("C_LYA", "C_CIV", "C_CIII", "C_MgII", "C_Hbeta", "C_Halpha")

_NO_NUMBER = 2**30
"""Bit of a mask that says that flux or ivar are no numbers; DESI's own end at 2**10."""

_SAME_PIXEL = 1e-4
"""Wavelengths of two arms that are closer (Angstrom) are one pixel."""

_FAR = 1e-3 / 3600
"""A position lies no farther from the centre of its pixel of order 29 (0.4 mas), in degrees."""

_SLACK = 1 + 1e-9


class _Targets(NamedTuple):
    """The selected targets: TARGETID, redshift, its error, QSO_MASKBITS; shape (n,)."""

    targetid: Array
    z: Array
    zerr: Array
    maskbits: Array


def read_again(tile: Tile, fits_folder: Path, path: Path, settings: Settings) -> None:
    """Compare a tile's Parquet with its FITS, all of it, read by astropy and h5py.

    Parameters
    ----------
    tile
        The tile.
    fits_folder
        Holds its files under their DESI names.
    path
        Its Parquet.
    settings
        The checked configuration.

    Raises
    ------
    BadTile
        `invalid_output` naming column and target where a value is not that of the FITS (of flux
        and ivar: not within the configured precision), or where these readers cannot read what
        this project has read.
    """
    import h5py
    from astropy.io import fits

    failures = (OSError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError,
                fits.VerifyError, pa.ArrowException)  # fmt: skip
    try:
        with ExitStack() as stack:
            files, details = {}, None
            for kind in kinds_used(settings):
                source = fits_folder / tile.file_name(kind)
                if not source.exists():
                    continue
                if kind == "rrdetails":
                    details = stack.enter_context(h5py.File(source))
                else:
                    files[kind] = stack.enter_context(fits.open(source, character_as_bytes=True))
            parquet = stack.enter_context(pq.ParquetFile(path))
            _compare(tile, files, details, parquet, path.name, settings)
    except failures as error:
        raise _differs(path.name, f"the FITS files cannot be read so: {error}") from error


def _compare(
    tile: Tile,
    files: Mapping[str, Any],
    details: Any,
    parquet: pq.ParquetFile,
    name: str,
    settings: Settings,
) -> None:
    targets = _leave_out(_select(tile, files, settings), files, settings)
    order = parquet.read(["_healpix_29", "targetid"])
    pixel, targetid = (column.to_numpy() for column in order.columns)
    if set(targetid.tolist()) != set(targets.targetid.tolist()):
        raise _differs(name, f"its {len(targetid)} targets are not the selected "
                             f"{len(targets.targetid)}, column targetid")  # fmt: skip
    rows = list(zip(pixel.tolist(), targetid.tolist(), strict=True))
    if any(one >= next_ for one, next_ in itertools.pairwise(rows)):
        raise _differs(name, "its rows are not in the order of _healpix_29 and targetid")
    tables = _open_tables(files)
    grid = _Grid.of(files["coadd"], settings) if len(targetid) else None
    for group in range(parquet.num_row_groups):
        stored = parquet.read_row_group(group).combine_chunks()
        here = stored.column("targetid").to_numpy()
        columns = {
            column: stored.column(column).combine_chunks()
            for column in stored.column_names
            if column.removeprefix("b_").removeprefix("r_").removeprefix("z_")
            not in ("wavelength", "flux", "ivar", "mask", "mask_arms", "lsf", "resolution")
        }
        _compare_columns(tile, columns, here, tables, details, targets, name)
        if grid is not None:
            _compare_spectra(stored, here, tables["coadd", "FIBERMAP"], grid, name, settings)


class _Table:
    """A table of a FITS file: its columns by lower-case name, and the row of each target."""

    def __init__(self, kind: str, data: Any) -> None:
        rename = _NAMES.get(kind, str)
        self.columns = {rename(name.lower()): name for name in data.names}
        self.rows = {target: row for row, target in enumerate(data["TARGETID"].tolist())}
        self.data = data


def _open_tables(files: Mapping[str, Any]) -> dict[tuple[str, str], _Table]:
    return {
        (kind, extension): _Table(kind, files[kind][extension].data)
        for kind, extension in _TABLES
        if kind in files and extension in files[kind]
    }


def _text(values: Any) -> Array:
    """Return text of a FITS or HDF5 table without the blanks and NULs behind it."""
    return np.array([bytes(v).rstrip(b" \0").decode("latin-1") for v in values], object)


def _select(tile: Tile, files: Mapping[str, Any], settings: Settings) -> _Targets:
    """Choose targets as `config/schema.yaml` describes the section `selection`."""
    wanted = settings["selection"]
    redshifts, fibermap = (files["redrock"][name].data for name in ("REDSHIFTS", "FIBERMAP"))
    targetid = np.array(redshifts["TARGETID"], np.int64)
    place = {target: row for row, target in enumerate(fibermap["TARGETID"].tolist())}
    mapped = [place[target] for target in targetid.tolist()]
    z, zerr = (np.array(redshifts[name], np.float64) for name in ("Z", "ZERR"))
    spectype, objtype = _text(redshifts["SPECTYPE"]), _text(fibermap["OBJTYPE"][mapped])
    status = fibermap["COADD_FIBERSTATUS"][mapped]
    bits = np.zeros(len(targetid), np.int32)
    if wanted["preset"] == "desi_qso":
        bits, z, zerr = _quasars(tile, files, targetid, spectype, mapped, z, zerr, wanted)
        keep = (bits > 0) & (objtype == "TGT")
        keep &= np.isin(status, wanted["qso_fiberstatus"])
    else:
        keep = np.isin(spectype, wanted["spectypes"]) & np.isin(objtype, wanted["objtypes"])
        zwarn = wanted["zwarn"]
        if zwarn is not None:
            allowed = zwarn if isinstance(zwarn, int) else sum(
                2 ** _ZWARN.index(name) for name in set(zwarn)
            )  # fmt: skip
            keep &= np.array([int(warning) & ~allowed == 0 for warning in redshifts["ZWARN"]], bool)
        if wanted["coadd_fiberstatus"] is not None:
            keep &= np.isin(status, wanted["coadd_fiberstatus"])
    for values, limits in ((z, wanted["z"]), (redshifts["DELTACHI2"], wanted["deltachi2"])):
        if limits is not None:
            keep &= (limits[0] <= values) & (values <= limits[1])
    column, mask = target_mask(tile.survey, wanted["targets"])
    if mask:
        keep &= np.array([int(target) & mask != 0 for target in fibermap[column][mapped]], bool)
    return _Targets(targetid[keep], z[keep], zerr[keep], bits[keep])


def _quasars(
    tile: Tile,
    files: Mapping[str, Any],
    targetid: Array,
    spectype: Array,
    mapped: Sequence[int],
    z: Array,
    zerr: Array,
    wanted: Mapping[str, Any],
) -> tuple[Array, Array, Array]:
    """Classify one target after another as docs/data-model.md describes the preset."""
    broad = {
        line["TARGETID"]
        for line in (files["qso_mgii"]["MGII"].data if "qso_mgii" in files else ())
        if line["IS_QSO_MGII"]
    }
    network = {
        found["TARGETID"]: found
        for found in (files["qso_qn"]["QN_RR"].data if "qso_qn" in files else ())
    }
    masks = {name: class_mask(tile.survey, name) for name in ("QSO", "ELG", "BGS")}
    own = files["redrock"]["FIBERMAP"].data[target_mask(tile.survey, None)[0]][mapped]
    bits = np.zeros(len(targetid), np.int32)
    for row, target in enumerate(targetid.tolist()):
        kind = next((name for name, mask in masks.items() if int(own[row]) & mask), None)
        found = network.get(target)
        best = -np.inf if found is None else np.max([found[line] for line in _LINES])
        rerun = found is not None and found["IS_QSO_QN_NEW_RR"]
        quasar = spectype[row] == "QSO"
        if kind == "QSO":
            sure = best > wanted["qso_threshold"]
            rerun = rerun and sure
            bits[row] = 2 * quasar + 4 * (target in broad) + 8 * bool(sure) + 16 * bool(rerun)
        elif kind == "ELG":
            bits[row] = 64 * (quasar and bool(best > 0.6))
        elif kind == "BGS":
            bits[row] = 32 * (quasar and (bool(best > 0.6) or target in broad))
        if bits[row] and rerun and found is not None:
            z[row], zerr[row] = found["Z_NEW"], found["ZERR_NEW"]
    return bits, z, zerr


def _leave_out(targets: _Targets, files: Mapping[str, Any], settings: Settings) -> _Targets:
    """Leave out targets without data, and those with too many pixels that are no numbers."""
    keep = np.ones(len(targets.targetid), bool)
    if not len(keep):
        return targets
    coadd = files["coadd"]
    fibermap = coadd["FIBERMAP"].data
    rows = {target: row for row, target in enumerate(fibermap["TARGETID"].tolist())}
    for i, target in enumerate(targets.targetid.tolist()):
        flux, ivar = (
            np.concatenate([coadd[f"{arm}_{what}"].section[rows[target]] for arm in "BRZ"])
            for what in ("FLUX", "IVAR")
        )
        odd = _not_finite(flux, ivar)
        empty = fibermap["COADD_NUMEXP"][rows[target]] == 0 and not (ivar[~odd] > 0).any()
        keep[i] = odd.sum() <= settings["spectra"]["max_not_finite"] * len(odd)
        if empty and not settings["selection"]["no_data"]:
            keep[i] = False
    return _Targets(*(values[keep] for values in targets))


def _not_finite(flux: Array, ivar: Array) -> Array:
    """Tell which pixels are no numbers; a flux that has no weight is none of them."""
    odd: Array = np.isnan(ivar) | np.isinf(ivar) | ((np.isnan(flux) | np.isinf(flux)) & (ivar > 0))
    return odd


def _compare_columns(
    tile: Tile,
    columns: Mapping[str, pa.Array],
    targetid: Array,
    tables: Mapping[tuple[str, str], _Table],
    details: Any,
    targets: _Targets,
    name: str,
) -> None:
    n = len(targetid)
    place = {target: row for row, target in enumerate(targets.targetid.tolist())}
    chosen = [place[target] for target in targetid.tolist()]
    made = {
        "survey": np.array([tile.survey] * n, object),
        "program": np.array([tile.program] * n, object),
        "healpix": np.full(n, tile.pixel),
        "healpix_order": np.full(n, tile.order),
    }
    if "qso_maskbits" in columns:
        made |= {"z": targets.z[chosen], "zerr": targets.zerr[chosen]}
        made["qso_maskbits"] = targets.maskbits[chosen]
    for column, stored in columns.items():
        if column == "_healpix_29":
            _compare_pixels(stored.to_numpy(), columns, targetid, name)
        elif column == "exposures":
            expected = _exposures(tables.get(("redrock", "EXP_FIBERMAP")), targetid, stored.type)
            _compare_structs(column, stored, expected, targetid, name)
        elif column in ("rrdetails", "rrdetails_scans"):
            read = _best_fits if column == "rrdetails" else _scans
            _compare_structs(column, stored, read(details, targetid, stored.type), targetid, name)
        elif column.endswith("_mjd") and "exposures" in columns and not _has(tables, column):
            kind = columns["exposures"].type
            each = _exposures(tables.get(("redrock", "EXP_FIBERMAP")), targetid, kind)
            _compare_mjd(column, stored, each, targetid, name)
        elif column in made:
            _compare_values(column, stored, made[column], np.ones(n, bool), targetid, name)
        else:
            source = {"z_rr": "z", "zerr_rr": "zerr"}.get(column, column)
            table = _has(tables, source)
            rows = [-1 if table is None else table.rows.get(t, -1) for t in targetid.tolist()]
            there = np.array(rows) >= 0
            values: Array = np.zeros(0)
            if table is not None and there.any():
                values = table.data[table.columns[source]][[row for row in rows if row >= 0]]
            _compare_values(column, stored, values, there, targetid, name)


def _compare_mjd(
    column: str,
    stored: pa.Array,
    exposures: Sequence[dict[str, Any] | None],
    targetid: Array,
    name: str,
) -> None:
    """Compare lowest, highest or mean MJD with that of each target's exposures."""
    each = [one["mjd"].tolist() for one in exposures if one is not None]
    if column == "mean_mjd":
        values = [math.fsum(mjd) / len(mjd) for mjd in each]
    else:
        values = [min(mjd) if column == "min_mjd" else max(mjd) for mjd in each]
    there = np.array([one is not None for one in exposures], bool)
    _compare_values(column, stored, np.array(values, np.float64), there, targetid, name)


def _has(tables: Mapping[tuple[str, str], _Table], column: str) -> _Table | None:
    """Return the first table with a row a target that has a column, None where none has it.

    EXP_FIBERMAP has several rows a target, and TSNR2 is never that of SCORES.
    """
    for (_, hdu), table in tables.items():
        copied = hdu == "SCORES" and column.startswith("tsnr2")
        if hdu != "EXP_FIBERMAP" and not copied and column in table.columns:
            return table
    return None


def _compare_values(
    column: str, stored: pa.Array, values: Array, there: Array, targetid: Array, name: str
) -> None:
    """Compare a column with the values of those targets that are `there`; the others are null."""
    odd = stored.is_valid().to_numpy(zero_copy_only=False) != there
    if odd.any():
        what = "null" if there[odd.argmax()] else "not null"
        raise _differs(name, f"column {column} is {what}", targetid[odd.argmax()])
    known = targetid[there]
    if not len(known):
        return
    found = stored.drop_null()
    if pa.types.is_list(found.type):
        values = values.reshape(len(known), -1)
        if pc.list_value_length(found).to_pylist() != [values.shape[1]] * len(known):
            raise _differs(name, f"column {column} has lists of another length")
        there_now = found.flatten().to_numpy(zero_copy_only=False).reshape(values.shape)
    else:
        there_now = found.to_numpy(zero_copy_only=False)
    if values.dtype.kind == "S":
        values = _text(values)
    elif values.dtype.kind == "f" and there_now.dtype.kind == "f":
        with np.errstate(over="ignore"):
            values = values.astype(there_now.dtype)  # where the schema's type is narrower
    equal = there_now == values
    if there_now.dtype.kind == "f":
        equal |= np.isnan(there_now) & np.isnan(values)
    wrong = ~equal.reshape(len(known), -1).all(axis=1)
    if wrong.any():
        i = int(wrong.argmax())
        raise _differs(name, f"column {column} is {there_now[i]}, not {values[i]}", known[i])


def _compare_pixels(
    pixel: Array, columns: Mapping[str, pa.Array], targetid: Array, name: str
) -> None:
    """Compare the pixels of order 29 with the positions: on an edge either pixel is right."""
    from astropy import units
    from astropy.coordinates import angular_separation
    from astropy_healpix import healpix_to_lonlat

    centre = healpix_to_lonlat(pixel, 2**29, order="nested")
    place = (columns[c].to_numpy() * units.deg for c in ("target_ra", "target_dec"))
    far = angular_separation(*centre, *place).to_value(units.deg) > _FAR
    if far.any():
        raise _differs(name, f"column _healpix_29 is {pixel[far.argmax()]}, which is elsewhere",
                       targetid[far.argmax()])  # fmt: skip


def _exposures(
    table: _Table | None, targetid: Array, kind: pa.DataType
) -> list[dict[str, Any] | None]:
    """Read the exposures of each target, lowest EXPID first; None for one that has none."""
    exposures: list[dict[str, Any] | None] = []
    for target in targetid.tolist():
        if table is None:
            exposures.append(None)
            continue
        rows = table.data[table.data["TARGETID"] == target]
        rows = rows[np.argsort(rows["EXPID"], kind="stable")]
        read = {member.name: np.array(rows[member.name.upper()]) for member in kind}
        exposures.append(read if len(rows) else None)
    return exposures


def _best_fits(details: Any, targetid: Array, kind: pa.DataType) -> list[dict[str, Any] | None]:
    """Read redrock's best fits of each target, lowest chi2 first; None for one that has none."""
    fits: list[dict[str, Any] | None] = []
    for target in targetid.tolist():
        path = f"zfit/{target}/zfit"
        if details is None or path not in details:
            fits.append(None)
            continue
        table = details[path][()]
        table = table[np.argsort(table["chi2"], kind="stable")]
        lacking = {"coeff": np.zeros((len(table), 0)), "fitmethod": np.zeros(len(table), "S1")}
        lacking |= {name: table[name] for name in table.dtype.names}
        fits.append({member.name: lacking[member.name] for member in kind})
    return fits


def _scans(details: Any, targetid: Array, kind: pa.DataType) -> list[dict[str, Any] | None]:
    """Read redrock's chi2 against redshift of each target, by template."""
    rows = {} if details is None else {t: i for i, t in enumerate(details["targetids"][()])}
    names = sorted(details["zscan"]) if details is not None and "zscan" in details else []
    scans: list[dict[str, Any] | None] = []
    for target in targetid.tolist():
        if target not in rows:
            scans.append(None)
            continue
        groups = [details["zscan"][name] for name in names]
        scans.append(
            {
                "template": np.array([name.encode() for name in names], "S"),
                "redshift": [group["redshifts"][()] for group in groups],
                "chi2": [group["zchi2"][rows[target]] for group in groups],
                "penalty": [group["penalty"][rows[target]] for group in groups],
            }
        )
    return scans


def _compare_structs(
    column: str,
    stored: pa.Array,
    expected: Sequence[dict[str, Any] | None],
    targetid: Array,
    name: str,
) -> None:
    """Compare structs of lists; the lists may hold lists again."""
    for found, wanted, target in zip(stored, expected, targetid.tolist(), strict=True):
        if found.is_valid != (wanted is not None):
            what = "not null" if wanted is None else "null"
            raise _differs(name, f"column {column} is {what}", target)
        for member, values in (wanted or {}).items():
            items = found[member].values
            pairs = [(items, values)]
            if pa.types.is_list(items.type):
                pairs = [(item.values, one) for item, one in zip(items, values, strict=True)]
            for here, there in pairs:
                now = here.to_numpy(zero_copy_only=False)
                other = _text(there) if there.dtype.kind == "S" else there
                if not np.array_equal(now, other, equal_nan=now.dtype.kind == "f"):
                    raise _differs(name, f"column {column}, its {member}, is another", target)


class _Grid(NamedTuple):
    """The arms of a coadd.

    Attributes
    ----------
    coadd
        The opened file.
    waves
        Wavelengths of the arms B, R, Z in Angstrom.
    pixels
        For each arm where its pixels lie on the joined grid.
    wavelength
        That grid, float64; of an arm's pixels and another's the bluer arm's.
    kept
        Which pixels of it `spectra.wavelength_range` keeps, bool.
    """

    coadd: Any
    waves: list[Array]
    pixels: list[Array]
    wavelength: Array
    kept: Array

    @classmethod
    def of(cls, coadd: Any, settings: Settings) -> "_Grid":
        waves = [np.array(coadd[f"{arm}_WAVELENGTH"].data, np.float64) for arm in "BRZ"]
        every = np.concatenate(waves)
        order = np.argsort(every, kind="stable")
        step = np.diff(every[order], prepend=-np.inf) > _SAME_PIXEL
        pixel = np.empty(len(every), np.int64)
        pixel[order] = np.cumsum(step) - 1
        pixels = np.split(pixel, np.cumsum([len(wave) for wave in waves])[:-1])
        wavelength = np.empty(int(step.sum()))
        for wave, here in reversed(list(zip(waves, pixels, strict=True))):
            wavelength[here] = wave
        low, high = settings["spectra"]["wavelength_range"]
        kept = (wavelength >= low - _SAME_PIXEL) & (wavelength <= high + _SAME_PIXEL)
        return cls(coadd, waves, pixels, wavelength, kept)


def _compare_spectra(
    stored: pa.Table, targetid: Array, fibermap: _Table, grid: _Grid, name: str, settings: Settings
) -> None:
    rows = [fibermap.rows[target] for target in targetid.tolist()]
    arms = {}
    for arm, wave in zip("BRZ", grid.waves, strict=True):
        flux, ivar, mask = (
            np.array([grid.coadd[f"{arm}_{what}"].section[row] for row in rows], dtype)
            for what, dtype in (("FLUX", "f4"), ("IVAR", "f4"), ("MASK", "i4"))
        )
        odd = _not_finite(flux, ivar)
        ivar[odd] = 0
        mask[odd] |= _NO_NUMBER
        arms[f"{arm.lower()}_"] = {"wavelength": wave, "flux": flux, "ivar": ivar, "mask": mask}
        if settings["spectra"]["resolution"] != "none":
            matrix = np.array([grid.coadd[f"{arm}_RESOLUTION"].section[row] for row in rows], "f4")
            asked = settings["spectra"]["resolution"] == "lsf"
            extra = (
                {"lsf": _widths(matrix)}
                if asked
                else {"resolution": np.array(list(map(np.ravel, matrix)))}
            )
            arms[f"{arm.lower()}_"] |= extra
    if settings["spectra"]["masked_pixels"] == "no_weight":
        for one in arms.values():
            one["ivar"][one["mask"] != 0] = 0
    if settings["spectra"]["cameras"] == "combined":
        arms = {"": _joined(list(arms.values()), grid)}
        if not settings["spectra"]["mask_arms"]:
            del arms[""]["mask_arms"]
    for prefix, expected in arms.items():
        found = {}
        for quantity, values in expected.items():
            column = prefix + quantity
            lists = stored.column(column).combine_chunks()
            wanted = values if values.ndim == 2 else np.tile(values, (len(rows), 1))
            if pc.list_value_length(lists).to_pylist() != [wanted.shape[1]] * len(rows):
                raise _differs(name, f"column {column} has not {wanted.shape[1]} pixels")
            found[quantity] = lists.flatten().to_numpy().reshape(wanted.shape)
            if quantity in ("lsf", "resolution"):
                far = _far(quantity, wanted, found[quantity], settings["precision"])
                _refuse(far, column, targetid, name)
            elif quantity not in ("flux", "ivar"):
                _refuse(found[quantity] != wanted, column, targetid, name)
        flux_wrong, ivar_wrong = _beyond(expected, found, settings["precision"])
        _refuse(ivar_wrong, f"{prefix}ivar", targetid, name)
        _refuse(flux_wrong, f"{prefix}flux", targetid, name)


def _widths(diagonals: Array) -> Array:
    """Return the width at each pixel (Angstrom) from the three elements around the peak of its row.

    Element (i, j) of the band matrix stands in column j of diagonal j - i; the highest comes first.
    """
    middle, pixel = diagonals.shape[1] // 2, np.arange(diagonals.shape[2])
    after = np.where(pixel == pixel[-1], -1, 1)
    before = np.where(pixel == 0, 1, -1)
    with np.errstate(all="ignore"):
        high, one, other = (
            np.log(diagonals[:, middle - shift, pixel + shift].astype(np.float64))
            for shift in (0 * pixel, after, before)
        )
        width: Array = 0.8 * (2 * high - one - other) ** -0.5
    width[~np.isfinite(width)] = np.nan
    return width


def _far(quantity: str, was: Array, now: Array, precision: PrecisionSettings) -> Array:
    """Tell which values of the resolution are farther from the FITS's than configured."""
    exact = precision["mode"] == "lossless"
    if quantity == "lsf":  # worked out in another way, so the last bit may be another
        allowed = was * (2.0**-22 + (0 if exact else 2.0 ** -precision["lsf_bits"]))
    else:
        allowed = np.full(was.shape, 0 if exact else 2.0**-13)
    with np.errstate(invalid="ignore"):
        near = np.abs(now.astype(np.float64) - was) <= allowed * _SLACK
    far: Array = ~(near | (now == was) | (np.isnan(now) & np.isnan(was)))
    return far


def _joined(arms: Sequence[dict[str, Array]], grid: _Grid) -> dict[str, Array]:
    """Join the arms of some targets: weighted means where two lie over each other."""
    shape = len(arms[0]["flux"]), len(grid.wavelength)
    flux = np.zeros(shape, np.float32)
    bits = np.zeros(shape, np.int32)
    product, weight, count = np.zeros(shape), np.zeros(shape), np.zeros(shape[1], int)
    for arm, pixel in zip(arms, grid.pixels, strict=True):
        ivar = arm["ivar"].astype(np.float64)
        flux[:, pixel] = arm["flux"]
        product[:, pixel] += ivar * np.where(ivar > 0, arm["flux"], 0)
        weight[:, pixel] += ivar
        bits[:, pixel] |= arm["mask"]
        count[pixel] += 1
    mean = np.divide(product, weight, out=np.zeros(shape), where=weight > 0)
    twice = count > 1
    flux[:, twice] = mean[:, twice]
    ivar = np.clip(weight, None, np.finfo(np.float32).max).astype(np.float32)
    mask = np.where(ivar > 0, 0, bits)
    spectra: dict[str, Array] = {"flux": flux, "ivar": ivar, "mask": mask, "mask_arms": bits}
    if "lsf" in arms[0]:
        spectra["lsf"] = _joined_widths(arms, grid)
    kept = {quantity: values[:, grid.kept] for quantity, values in spectra.items()}
    return {"wavelength": grid.wavelength[grid.kept], **kept}


def _joined_widths(arms: Sequence[dict[str, Array]], grid: _Grid) -> Array:
    """Join the widths: their squares have the weights of flux, or all one where none has any."""
    shape = len(arms[0]["lsf"]), len(grid.wavelength)
    means = []
    for weighted in (True, False):
        total, weight = np.zeros(shape), np.zeros(shape)
        for arm, pixel in zip(arms, grid.pixels, strict=True):
            own = arm["ivar"].astype(np.float64) if weighted else np.ones(arm["lsf"].shape)
            own = np.where(np.isnan(arm["lsf"]), 0, own)
            total[:, pixel] += own * np.nan_to_num(arm["lsf"]) ** 2
            weight[:, pixel] += own
        means.append(np.divide(total, weight, out=np.full(shape, np.nan), where=weight > 0))
    joined: Array = np.sqrt(np.where(np.isnan(means[0]), means[1], means[0]))
    return joined


def _beyond(
    exact: Mapping[str, Array], found: Mapping[str, Array], precision: PrecisionSettings
) -> tuple[Array, Array]:
    """Tell which pixels of flux and ivar are farther from those of the FITS than configured."""
    flux, ivar = (found[q].astype(np.float64) for q in ("flux", "ivar"))
    was_flux, was_ivar = (exact[q].astype(np.float64) for q in ("flux", "ivar"))
    same_flux, same_ivar = (
        exact[q].astype("f4").view("u4") == np.ascontiguousarray(found[q]).view("u4")
        for q in ("flux", "ivar")
    )
    if precision["mode"] == "lossless":
        return ~same_flux, ~same_ivar
    with np.errstate(invalid="ignore"):
        off = np.abs(flux - was_flux) * np.sqrt(was_ivar)
        near_flux = (was_ivar > 0) & (off <= precision["flux_tolerance"] / 2 * _SLACK)
        near_ivar = np.abs(ivar - was_ivar) <= was_ivar * 2.0 ** -precision["ivar_bits"] * _SLACK
    return ~(same_flux | near_flux), ~(same_ivar | (near_ivar & (ivar > 0) & (was_ivar > 0)))


def _refuse(wrong: Array, column: str, targetid: Array, name: str) -> None:
    if wrong.any():
        row, pixel = np.argwhere(wrong)[0]
        raise _differs(name, f"column {column}, pixel {pixel}, is another", targetid[row])


def _differs(name: str, what: str, target: int | None = None) -> BadTile:
    whose = "" if target is None else f" (TARGETID {target})"
    return BadTile("invalid_output", f"{name}: read again with astropy, {what}{whose}")
