"""The targets of two releases side by side: what became of each."""

from collections.abc import Iterator
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from desi_fits_to_parquet.files import read_json
from desi_fits_to_parquet.paths import marker_path, parquet_folder, parquet_path
from desi_fits_to_parquet.record.positions import HATS_ORDER
from desi_fits_to_parquet.record.schema import HATS_INDEX
from desi_fits_to_parquet.tile import FILE_KINDS, Tile
from desi_fits_to_parquet.tiles_csv import list_tiles, read_sources

CHANGES = {
    "new": "not in the release before",
    "gone": "not in the release after",
    "changed": "redshift, class or number of exposures is another one",
    "unknown": "in one release alone, and at its place the other has a tile that is not converted",
}
"""What can be said of a target that is not the same in both releases."""

VALUES = {"z": "redshift", "spectype": "class", "coadd_numexp": "number of exposures"}
"""Columns that are compared, and what they hold."""

LIGHT_KM_S = 299_792.458

LARGE_KM_S = 1000.0
"""Beyond this a redshift counts as another one in DESI's own checks of repeated observations."""

TOGETHER = 500_000
"""So many targets are compared at once: bounds the memory at any size of release."""

_READ = ("targetid", HATS_INDEX, *VALUES)

SCHEMA = pa.schema(
    [
        ("survey", pa.string()),
        ("program", pa.string()),
        ("targetid", pa.int64()),
        ("change", pa.string()),
        ("z_before", pa.float64()),
        ("z_after", pa.float64()),
        ("dv_km_s", pa.float64()),
        ("spectype_before", pa.string()),
        ("spectype_after", pa.string()),
        ("coadd_numexp_before", pa.int16()),
        ("coadd_numexp_after", pa.int16()),
    ]
)


class Release(NamedTuple):
    """A release as its results folder holds it.

    `archive` is the folder that it was read from, `tiles` has the outcome of each discovered tile,
    None where it is not done yet, by survey and program.
    """

    results: Path
    archive: str
    tiles: dict[tuple[str, str], dict[Tile, str | None]]


def open_release(results: Path) -> Release:
    """Read which tiles a release has and what became of them.

    Raises
    ------
    ValueError
        Where the folder holds no results.
    """
    listed = results / "tiles.csv"
    if not listed.is_file():
        raise ValueError(
            f"{results} holds no results of this workflow: there is no {listed.name} "
            "(see compare_with)"
        )
    tiles = list_tiles(listed)
    sources = read_sources(listed, tiles[0], FILE_KINDS)
    key = next(iter(sources.values()))["key"]
    outcomes = {
        program: {tile: _outcome(marker_path(results, tile)) for tile in group}
        for program, group in groupby(tiles, lambda tile: (tile.survey, tile.program))
    }
    return Release(results, key.partition(f"/{tiles[0].archive_folder}/")[0], outcomes)


def _outcome(marker: Path) -> str | None:
    return str(read_json(marker)["outcome"]) if marker.exists() else None


def compare_program(
    before: Release, after: Release, survey: str, program: str
) -> Iterator[tuple[pa.Table, dict[str, int]]]:
    """Compare the targets of a survey and program, `TOGETHER` at a time.

    Parameters
    ----------
    before, after
        The releases; both have this survey and program.
    survey, program
        Names of `tile.SURVEYS` and `tile.PROGRAMS`.

    Yields
    ------
    changes : pyarrow.Table
        A row for each target that is not the same in both, sorted by TARGETID. `dv_km_s` is
        c (z_after - z_before) / (1 + z_before).
    counts : dict
        How many targets there are, are in both, are new, gone, changed and unknown, and how many
        changed in what.

    Raises
    ------
    ValueError
        As `read_targets`.
    """
    key = survey, program
    old, new = (read_targets(release, *key) for release in (before, after))
    ids = [table["targetid"].to_numpy() for table in (old, new)]
    cuts = np.unique(max(ids, key=len)[TOGETHER::TOGETHER])
    bounds = [[0, *np.searchsorted(mine, cuts), len(mine)] for mine in ids]
    for (start, stop), (first, last) in zip(*map(pairwise, bounds), strict=True):
        yield _compare(key, before, after, old.slice(start, stop - start),
                       new.slice(first, last - first))  # fmt: skip


def _compare(
    key: tuple[str, str], before: Release, after: Release, old: pa.Table, new: pa.Table
) -> tuple[pa.Table, dict[str, int]]:
    in_new, in_old = find_targets(old, new), find_targets(new, old)
    kept = np.flatnonzero(in_new >= 0)
    was, now = old.take(kept), new.take(in_new[kept])
    differs = {name: pc.fill_null(pc.not_equal(was[name], now[name]), True) for name in VALUES}
    speed = pc.multiply(
        LIGHT_KM_S, pc.divide(pc.subtract(now["z"], was["z"]), pc.add(1.0, was["z"]))
    )
    changed = pc.or_(pc.or_(differs["z"], differs["spectype"]), differs["coadd_numexp"])
    lost, found = old.filter(pa.array(in_new < 0)), new.filter(pa.array(in_old < 0))
    gone, added = _label(lost, "gone", after.tiles[key]), _label(found, "new", before.tiles[key])
    n_changed = pc.sum(changed).as_py() or 0
    parts = [
        _rows(
            key,
            pa.array(["changed"] * n_changed, pa.string()),
            was.filter(changed),
            now.filter(changed),
            speed.filter(changed),
        ),
        _rows(key, gone, lost, None, None),
        _rows(key, added, None, found, None),
    ]
    changes = pa.concat_tables(parts).sort_by("targetid")
    counted = pc.value_counts(changes["change"].combine_chunks())
    labels = {pair["values"]: pair["counts"] for pair in counted.to_pylist()}
    large = pc.greater(pc.abs(speed), LARGE_KM_S)
    return changes, {
        "targets_before": len(old),
        "targets_after": len(new),
        "in_both": len(kept),
        **{change: labels.get(change, 0) for change in CHANGES},
        **{f"changed_{name}": pc.sum(one).as_py() or 0 for name, one in differs.items()},
        "changed_z_large": pc.sum(large).as_py() or 0,
    }


def read_targets(release: Release, survey: str, program: str) -> pa.Table:
    """Read the scalars that are compared, of all targets of a survey and program.

    Targets with a negative TARGETID are left out: they are blank sky and stuck fibres, and in the
    Early Data Release their numbers are not unique.

    Returns
    -------
    pyarrow.Table
        Columns `targetid`, `_healpix_29`, `z`, `spectype`, `coadd_numexp`, sorted by the first two.

    Raises
    ------
    ValueError
        Where a Parquet is missing or lacks a column.
    """
    tables = [
        pa.table({"targetid": pa.array([], pa.int64()), HATS_INDEX: pa.array([], pa.int64()),
                  "z": pa.array([], pa.float64()), "spectype": pa.array([], pa.string()),
                  "coadd_numexp": pa.array([], pa.int16())})
    ]  # fmt: skip
    for tile, outcome in release.tiles[survey, program].items():
        if outcome != "converted":
            continue
        path = parquet_path(tile, parquet_folder(release.results, tile))
        if not path.is_file():
            raise ValueError(f"{path} is missing: `snakemake verify`, then the run's command")
        with pq.ParquetFile(path) as file:
            if missing := set(_READ) - set(file.schema_arrow.names):
                raise ValueError(
                    f"{path} has no column {', '.join(sorted(missing))}: releases are compared by "
                    f"{', '.join(VALUES)} (see columns.fibermap)"
                )
            table = file.read(list(_READ)).replace_schema_metadata()
        tables.append(table.select(_READ).cast(tables[0].schema))
    targets = pa.concat_tables(tables)
    targets = targets.filter(pc.greater(targets["targetid"], 0))
    return targets.sort_by([("targetid", "ascending"), (HATS_INDEX, "ascending")])


def find_targets(targets: pa.Table, others: pa.Table) -> npt.NDArray[np.int64]:
    """Return the row of `others` in which each target stands, -1 where it is not there.

    Both are sorted by TARGETID. Where one occurs several times the first goes with the first, the
    second with the second.
    """
    mine, theirs = targets["targetid"].to_numpy(), others["targetid"].to_numpy()
    repeated = np.arange(len(mine)) - np.searchsorted(mine, mine)
    rows = np.searchsorted(theirs, mine) + repeated
    there = rows < len(theirs)
    there[there] = theirs[rows[there]] == mine[there]
    return np.where(there, rows, -1)


def _label(targets: pa.Table, change: str, others: dict[Tile, str | None]) -> pa.Array:
    """Say `change` of targets that one release alone has, or `unknown`: see `CHANGES`."""
    shift = 2 * HATS_ORDER
    bad = sorted(
        (tile.pixel << shift - 2 * tile.order, (tile.pixel + 1) << shift - 2 * tile.order)
        for tile, outcome in others.items()
        if outcome not in ("converted", "no_targets")
    )
    starts, stops = np.array(bad, np.int64).reshape(-1, 2).T
    at = targets[HATS_INDEX].to_numpy()
    before = np.searchsorted(starts, at, "right") - 1
    inside = before >= 0
    inside[inside] = at[inside] < stops[before[inside]]
    return pa.array(np.where(inside, "unknown", change), pa.string())


def _rows(
    key: tuple[str, str],
    change: pa.Array,
    before: pa.Table | None,
    after: pa.Table | None,
    speed: pa.ChunkedArray | None,
) -> pa.Table:
    count = len(change)
    columns: dict[str, Any] = {
        "survey": pa.repeat(key[0], count),
        "program": pa.repeat(key[1], count),
        "targetid": (after if before is None else before)["targetid"],  # type: ignore[index]
        "change": change,
        "dv_km_s": pa.nulls(count) if speed is None else speed,
    }
    for name in VALUES:
        columns[f"{name}_before"] = pa.nulls(count) if before is None else before[name]
        columns[f"{name}_after"] = pa.nulls(count) if after is None else after[name]
    return pa.table(columns).select(SCHEMA.names).cast(SCHEMA)
