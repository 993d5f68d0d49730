"""The record's fields other than spectra: read from a tile's tables, matched by TARGETID.

Fields of a file, a target or an optional column that is not there are null.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from desi_fits_to_parquet.columns import load_columns
from desi_fits_to_parquet.formats.arrow import (
    as_numbers,
    lists,
    numbers,
    row_lists,
    strings,
    structs,
)
from desi_fits_to_parquet.formats.fits import Fits
from desi_fits_to_parquet.formats.fits_tables import (
    check_column,
    convert_values,
    read_columns,
    read_table,
    table_columns,
)
from desi_fits_to_parquet.formats.hdf5 import (
    MAX_FITS_BYTES,
    MAX_SCAN_BYTES,
    find_object,
    hdf5_errors,
    read_dataset,
    read_fit_tables,
)
from desi_fits_to_parquet.outcomes import BadTile
from desi_fits_to_parquet.record.opened import OpenedTile
from desi_fits_to_parquet.record.schema import (
    EXPOSURE_COLUMNS,
    FITS_OPTIONAL,
    HATS_INDEX,
    Field,
    exposures_type,
    fits_type,
    scans_type,
)
from desi_fits_to_parquet.record.selection import check_of_tile, check_unique, match_rows
from desi_fits_to_parquet.tile import REQUIRED_KINDS

if TYPE_CHECKING:
    import h5py


def read_tables(
    opened: OpenedTile, fields: Sequence[Field], preset: str | None
) -> dict[str, pa.Array]:
    """Read the fields that come from tables, for all selected targets.

    Parameters
    ----------
    opened
        The tile's files; the fields of a file that is not there are null.
    fields
        The fields of the record; those that this function does not know are passed over.
    preset
        `selection.preset`: with `desi_qso`, `z` and `zerr` are those of the selection.

    Returns
    -------
    dict of str to pyarrow.Array
        By field name, each of length n_selected.

    Raises
    ------
    BadTile
        `corrupt_source` where a table lacks a required column or target, or repeats a target.
    """
    tile, selection = opened.tile, opened.selection
    n = len(selection.targetid)
    arrays: dict[str, pa.Array] = {
        "survey": strings([tile.survey.encode()] * n),
        "program": strings([tile.program.encode()] * n),
        "healpix": numbers(pa.int32(), np.full(n, tile.pixel, np.int32)),
        "healpix_order": numbers(pa.int32(), np.full(n, tile.order, np.int32)),
        HATS_INDEX: numbers(pa.int64(), opened.healpix_29),
    }
    by_table: dict[tuple[str, str], list[Field]] = {}
    for field in fields:
        if field.source:
            by_table.setdefault(field.source[:2], []).append(field)
    for (kind, extname), wanted in by_table.items():
        if kind in opened.fits and not _lacks_depth(opened.fits[kind], extname):
            arrays |= _read_fields(opened, kind, extname, wanted)
        else:
            arrays |= {field.name: pa.nulls(n, field.type) for field in wanted}
    if any(field.name == "exposures" for field in fields):
        arrays["exposures"] = read_exposures(opened.fits["redrock"], selection.targetid)
        if arrays["exposures"].null_count < n:
            made = _mjd_of(arrays["exposures"])
            # FIBERMAP of DR1 does not have these columns, later ones do
            arrays |= {name: made[name] for name in made if arrays[name].null_count == n}
    if preset == "desi_qso":
        arrays |= {
            "z_rr": arrays["z"],
            "zerr_rr": arrays["zerr"],
            "z": numbers(pa.float64(), selection.z),
            "zerr": numbers(pa.float64(), selection.zerr),
            "qso_maskbits": numbers(pa.int32(), selection.qso_maskbits),
        }
    return arrays


def _lacks_depth(fits: Fits, extname: str) -> bool:
    """Tell whether this is TSNR2 and the file has none: no reason to lose a tile."""
    return extname == "TSNR2" and extname not in fits.hdus


def _read_fields(
    opened: OpenedTile, kind: str, extname: str, fields: Sequence[Field]
) -> dict[str, pa.Array]:
    fits, selection = opened.fits[kind], opened.selection
    there = table_columns(fits, extname)
    optional = {c.name for c in load_columns(kind, extname) if not c.required}
    names = [f.source[2] for f in fields if f.source]
    missing = [name for name in names if name not in there and name in optional]
    present = [name for name in names if name not in missing]
    table = read_table(fits, extname, dict.fromkeys(["TARGETID", *present]))
    check_column(fits, extname, "TARGETID", table["TARGETID"], "iu")
    targetid = table["TARGETID"].astype(np.int64)
    check_unique(targetid, f"HDU {extname}", fits.source)
    row = match_rows(selection.targetid, targetid)
    absent = row < 0
    if kind in REQUIRED_KINDS and absent.any():
        raise BadTile(
            "corrupt_source",
            f"{fits.source}: HDU {extname} lacks TARGETID {selection.targetid[absent][0]}, "
            "which is in redrock's REDSHIFTS",
        )
    if kind not in REQUIRED_KINDS and len(row) and absent.all():
        everyone = read_columns(opened.fits["redrock"], "REDSHIFTS", ("TARGETID",))["TARGETID"]
        check_of_tile(everyone, targetid, f"HDU {extname}", fits.source)
    arrays = {}
    for field, name in zip(fields, names, strict=True):
        if name in missing or not len(targetid):
            arrays[field.name] = pa.nulls(len(row), field.type)
        else:
            where = f"{fits.source}: HDU {extname}, column {name}"
            arrays[field.name] = to_arrow(field.type, table[name][row], absent, where)
    return arrays


def to_arrow(
    kind: pa.DataType, values: npt.NDArray[Any], absent: npt.NDArray[np.bool_], where: str
) -> pa.Array:
    """Convert a column to the type that the schema declares, null where `absent`.

    Parameters
    ----------
    kind
        A type of the schema.
    values
        Shape (n,), or (n, length) for lists; bytes for strings. Newer files use narrower types,
        which widen; wider ones are taken where no value changes.
    absent
        bool, shape (n,).
    where
        File, HDU and column, for messages.

    Raises
    ------
    BadTile
        `corrupt_source` where values do not fit the declared type.
    """
    if pa.types.is_string(kind):
        if values.dtype.kind != "S":
            raise BadTile("corrupt_source", f"{where} holds {values.dtype}, not text")
        return strings(values.tolist(), absent)
    if pa.types.is_list(kind):
        table = values if values.ndim == 2 else values[:, np.newaxis]
        return row_lists(
            kind, convert_values(table, kind.value_type.to_pandas_dtype(), where), absent
        )
    if values.ndim != 1:
        raise BadTile("corrupt_source", f"{where} holds {values.shape[1]} values a row, not one")
    return numbers(kind, convert_values(values, kind.to_pandas_dtype(), where), absent)


def read_exposures(redrock: Fits, targetid: npt.NDArray[np.int64]) -> pa.Array:
    """Read the exposures of some targets, each target's in increasing order of EXPID.

    They stand in redrock's copy of EXP_FIBERMAP, which costs nothing: redrock is always fetched
    whole, so the coadd's need not be.

    Returns
    -------
    pyarrow.Array
        Of the type `schema.exposures_type()`; null where a target has no exposure there.

    Raises
    ------
    BadTile
        `corrupt_source` where a column is missing or holds what it cannot.
    """
    kind = exposures_type()
    if "EXP_FIBERMAP" not in redrock.hdus:
        return pa.nulls(len(targetid), kind)
    table = read_columns(redrock, "EXP_FIBERMAP", ("TARGETID", *EXPOSURE_COLUMNS))
    place = {target: i for i, target in enumerate(targetid.tolist())}
    of = np.array([place.get(target, -1) for target in table["TARGETID"].tolist()], np.int64)
    rows = np.lexsort((table["EXPID"], of))
    rows = rows[of[rows] >= 0]
    lengths = np.bincount(of[rows], minlength=len(targetid))
    members = []
    for member, name in zip(kind, EXPOSURE_COLUMNS, strict=True):
        item = member.type.value_type
        where = f"{redrock.source}: HDU EXP_FIBERMAP, column {name}"
        values = convert_values(table[name][rows], item.to_pandas_dtype(), where)
        members.append(lists(member.type, lengths, numbers(item, values), lengths == 0))
    return structs(kind, members, lengths == 0)


def _mjd_of(exposures: pa.Array) -> dict[str, pa.Array]:
    """Return lowest, highest and mean MJD of each target's exposures."""
    mjd = exposures.field("mjd")
    values, ends = as_numbers(mjd.values), as_numbers(mjd.offsets).tolist()
    each = [values[a:b].tolist() for a, b in itertools.pairwise(ends)]
    missing = np.array([not one for one in each], bool)
    ways: dict[str, Callable[[list[float]], float]] = {
        "min_mjd": min,
        "max_mjd": max,
        "mean_mjd": lambda one: math.fsum(one) / len(one),
    }
    return {
        name: numbers(
            pa.float64(), np.array([way(one) if one else 0.0 for one in each], np.float64), missing
        )
        for name, way in ways.items()
    }


def read_best_fits(details: "h5py.File | None", targetid: npt.NDArray[np.int64]) -> pa.Array:
    """Read redrock's best fits of some targets, each target's in increasing order of chi2.

    Returns
    -------
    pyarrow.Array
        Of the type `schema.fits_type()`; null where a target has no fits.
    """
    kind = fits_type()
    if details is None:
        return pa.nulls(len(targetid), kind)
    columns = {
        m.name: "S" if pa.types.is_string(m.type.value_type) else "iuf"
        for m in kind
        if m.name not in FITS_OPTIONAL
    }
    with hdf5_errors(Path(details.filename).name):
        found = read_fit_tables(details, targetid.tolist(), columns)
    missing = np.array([target not in found for target in targetid.tolist()], bool)
    tables = [fits[np.argsort(fits["chi2"], kind="stable")] for fits in found.values()]
    lengths = np.zeros(len(targetid), np.int64)
    lengths[~missing] = [len(table) for table in tables]
    members = []
    for member in kind:
        item = member.type.value_type
        if pa.types.is_list(item):
            each = [_coefficients(table, member.name) for table in tables]
            widths = np.concatenate([np.zeros(0, int), *(np.full(*c.shape) for c in each)])
            together = np.concatenate([np.zeros(0), *(c.reshape(-1) for c in each)])
            items = lists(item, widths, numbers(item.value_type, together))
        elif pa.types.is_string(item):
            items = strings([text for table in tables for text in _texts(table, member.name)])
        else:
            none = np.zeros(0, item.to_pandas_dtype())
            values = np.concatenate([none, *(table[member.name] for table in tables)])
            items = numbers(item, values.astype(item.to_pandas_dtype()))
        members.append(lists(member.type, lengths, items, missing))
    return structs(kind, members, missing)


def _coefficients(fits: npt.NDArray[Any], name: str) -> npt.NDArray[np.float64]:
    """Return a column of several numbers a fit, shape (n_fits, n); n is 0 where it is not there."""
    there = name in (fits.dtype.names or ())
    if there and fits.dtype[name].base.kind not in "iuf":
        raise ValueError(f"its fits' {name} is {fits.dtype[name]}, no numbers")
    values = fits[name] if there else np.zeros((len(fits), 0))
    return values.astype(np.float64).reshape(len(fits), math.prod(values.shape[1:]))


def _texts(fits: npt.NDArray[Any], name: str) -> list[bytes]:
    """Return a column of text; empty where it is not there."""
    if name not in (fits.dtype.names or ()):
        return [b""] * len(fits)
    if fits.dtype[name].kind != "S":
        raise ValueError(f"its fits' {name} is {fits.dtype[name]}, no text")
    texts: list[bytes] = fits[name].tolist()
    return texts


def read_scans(details: "h5py.File | None", targetid: npt.NDArray[np.int64]) -> pa.Array:
    """Read redrock's chi2 against redshift, by template, of some targets.

    Returns
    -------
    pyarrow.Array
        Of the type `schema.scans_type()`; null where a target is not in the file.
    """
    kind = scans_type()
    if details is None:
        return pa.nulls(len(targetid), kind)
    from h5py import h5g

    with hdf5_errors(Path(details.filename).name):
        root = h5g.open(details.id, b"/")
        targets = read_dataset(root, "targetids", MAX_SCAN_BYTES, 1)[()].astype(np.int64)
        row = match_rows(targetid, targets)
        known = row >= 0
        order = np.unique(row[known])  # h5py wants increasing rows
        place = np.searchsorted(order, row[known])
        zscan = find_object(root, "zscan")
        templates = sorted(name.decode("latin-1") for name in zscan) if zscan else []
        redshifts: list[npt.NDArray[Any]] = []
        chi2s: list[npt.NDArray[Any]] = []
        penalties: list[npt.NDArray[Any]] = []
        for template in templates:
            group = find_object(zscan, template)
            redshifts.append(read_dataset(group, "redshifts", MAX_FITS_BYTES, 1)[()])
            for name, scans in (("zchi2", chi2s), ("penalty", penalties)):
                scan = read_dataset(group, name, MAX_SCAN_BYTES, 2)
                if scan.shape != (len(targets), len(redshifts[-1])):
                    raise ValueError(f"/zscan/{template}/{name} has shape {scan.shape}")
                scans.append(scan[order][place])
    n = len(place)
    lengths = np.tile([len(redshift) for redshift in redshifts], n)
    templates_a_target = np.where(known, len(templates), 0)

    def scans_of(name: str, tables: list[npt.NDArray[Any]]) -> pa.Array:
        """Join the tables: one target after another, in each one template after another."""
        together = np.concatenate(tables, axis=1) if tables else np.zeros((n, 0))
        outer = kind.field(name).type
        inner = outer.value_type
        items = numbers(inner.value_type, together.astype(np.float64).reshape(-1))
        return lists(outer, templates_a_target, lists(inner, lengths, items), ~known)

    names = strings([template.encode() for template in templates] * n)
    members = [
        lists(kind.field("template").type, templates_a_target, names, ~known),
        scans_of("redshift", [np.broadcast_to(z, (n, len(z))) for z in redshifts]),
        scans_of("chi2", chi2s),
        scans_of("penalty", penalties),
    ]
    return structs(kind, members, ~known)
