"""Make the results a HATS collection: catalogue, index, margin, and the spectra beside them."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from desi_fits_to_parquet.collection.fields import (
    catalog_fields,
    quality_field,
    shown_fields,
)
from desi_fits_to_parquet.collection.hats import (
    SKYMAP_ORDER,
    Pixel,
    partition_path,
    write_catalog_files,
    write_index_files,
    write_properties,
    write_skymap,
)
from desi_fits_to_parquet.collection.margin import MARGIN_ARCSEC, find_margin
from desi_fits_to_parquet.collection.partition import (
    ROW_GROUP,
    Outside,
    content_hash,
    home_partition,
    open_writer,
    primary_arguments,
    read_state,
    set_primary,
    write_partition,
)
from desi_fits_to_parquet.collection.primary import find_primary
from desi_fits_to_parquet.collection.tiles import TileFile, list_files
from desi_fits_to_parquet.files import atomic_path
from desi_fits_to_parquet.formats.arrow import as_numbers
from desi_fits_to_parquet.paths import (
    CATALOG,
    COLLECTION,
    INDEX,
    MARGIN,
    catalogue_folder,
    parquet_folder,
)
from desi_fits_to_parquet.record.schema import HATS_INDEX, Field, arrow_schema, record_fields
from desi_fits_to_parquet.settings import Settings
from desi_fits_to_parquet.tile import Tile

ORDER = 1
"""Order of the catalogue's partitions: measured in docs/collection.md."""

_TIMESTAMP = ".snakemake_timestamp"
"""Snakemake's own file in every folder that it made."""

_NAME = "desi"

_POSITION = {
    "hats_col_ra": "target_ra",
    "hats_col_dec": "target_dec",
    "hats_col_healpix": HATS_INDEX,
    "hats_col_healpix_order": 29,
}

_INDEX_SCHEMA = pa.schema(
    [
        pa.field("targetid", pa.int64()),
        pa.field("Norder", pa.uint8()),
        pa.field("Npix", pa.uint64()),
    ]
)


Partitions = dict[int, Path]
"""The catalogue's partitions: pixel of order `ORDER` and file, in the order of the sky."""


def build_collection(results: Path, tiles: Sequence[Tile], settings: Settings) -> dict[str, int]:
    """Write the collection's files; partitions of which no tile has changed stay as they are.

    Parameters
    ----------
    results
        The folder of the results: it becomes the collection.
    tiles
        The discovered tiles; each has a marker.
    settings
        The validated configuration.

    Returns
    -------
    dict of str to int
        `rows` of the catalogue, those of them `outside` their tile's pixel, `partitions`, and how
        many of these were `written`.

    Raises
    ------
    ValueError
        Where a marker or a Parquet is missing or broken.
    """
    # readers find the collection by this file: it comes back when all of it is whole
    (results / COLLECTION).unlink(missing_ok=True)
    fields = catalog_fields(settings)
    tiles = sorted(tiles)
    files = list_files(results, tiles)
    partitions, written = _write_partitions(results, files, fields)
    rows = _read_rows(partitions, fields)
    written |= _mark_primary(rows, partitions, fields)
    _write_index(results / INDEX, rows)
    _write_margin(results / MARGIN, rows, partitions, fields)
    _write_catalog(results / CATALOG, rows, partitions, fields, settings)
    _remove_empty_folders(results, {*tiles} - {file.tile for file in files})
    spectra = _write_spectra(results, files, rows, settings)
    write_properties(
        results / COLLECTION,
        {
            "obs_collection": _NAME,
            "hats_primary_table_url": CATALOG,
            "all_margins": MARGIN,
            "default_margin": MARGIN,
            "all_indexes": f"targetid {INDEX}",
            "default_index": "targetid",
            "all_extensions": " ".join(f"{name} parquet/{name}.properties" for name in spectra),
            "obs_title": f"DESI {settings['archive']['prefix']}",
        },
    )
    healpix_29, shift = _numbers(rows, HATS_INDEX), 2 * (29 - _numbers(rows, "healpix_order"))
    return {
        "rows": len(rows),
        "outside": int((healpix_29 >> shift != _numbers(rows, "healpix")).sum()),
        "partitions": len(partitions),
        "written": len(written),
    }


def _write_partitions(
    results: Path, files: Sequence[TileFile], fields: tuple[Field, ...]
) -> tuple[Partitions, set[int]]:
    """Write the partitions that are not what their tiles make them; remove those without tiles.

    Where rows lie outside their tile's pixel is known only when the tile has been read. It is
    kept in the files; where it is news, the partitions that such rows lie in are written again.
    """
    own: dict[int, list[TileFile]] = {}
    for file in files:
        own.setdefault(home_partition(file.tile, ORDER), []).append(file)
    by_name = {file.tile.name: file for file in files}
    outside: Outside = {}
    hashes: dict[int, str] = {}
    for path in (results / CATALOG / "dataset").glob("*/*/*.parquet"):
        number = int(path.stem.removeprefix("Npix="))
        state = read_state(path)
        if state and path == _path(results, number):
            hashes[number] = state.content
            outside |= {
                by_name[name].tile: set(numbers)
                for name, numbers in state.outside.items()
                if name in by_name
            }
    written: set[int] = set()
    while True:
        visitors: dict[int, list[TileFile]] = {}
        for tile in sorted(outside):
            for number in outside[tile]:
                visitors.setdefault(number, []).append(by_name[tile.name])
        made_of = {n: (own.get(n, []), visitors.get(n, [])) for n in sorted({*own, *visitors})}
        wanted = {
            n: content_hash(fields, [*ours, *theirs]) for n, (ours, theirs) in made_of.items()
        }
        changed = [n for n in wanted if hashes.get(n) != wanted[n]]
        if not changed:
            break
        for number in changed:
            ours, theirs = made_of[number]
            pixel = ORDER, number
            found = write_partition(_path(results, number), pixel, ours, theirs, fields, results)
            outside = {
                t: ns for t, ns in outside.items() if home_partition(t, ORDER) != number
            } | found
            hashes[number] = wanted[number]
        written.update(changed)
    partitions = {number: _path(results, number) for number in wanted}
    _remove_others(results / CATALOG, partitions.values())
    return partitions, written


def _read_rows(partitions: Partitions, fields: tuple[Field, ...]) -> pa.Table:
    """Read of all rows what the index, the margin and the sky maps need, and their partition."""
    names = [
        "targetid", "zwarn", quality_field(fields), HATS_INDEX, "healpix", "healpix_order",
        "survey", "program", "is_primary",
    ]  # fmt: skip
    tables = [arrow_schema([field for field in fields if field.name in names]).empty_table()]
    tables[0] = tables[0].select(names).append_column("partition", pa.array([], pa.int64()))
    for number, path in partitions.items():
        with pq.ParquetFile(path) as parquet:
            table = parquet.read(names)
        tables.append(table.append_column("partition", pa.array(np.full(len(table), number))))
    return pa.concat_tables(tables, promote_options="default").combine_chunks()


def _mark_primary(rows: pa.Table, partitions: Partitions, fields: tuple[Field, ...]) -> set[int]:
    """Correct `is_primary` of targets whose spectra lie in more than one row group or partition."""
    flags = find_primary(*primary_arguments(rows, quality_field(fields)))
    of_row = _numbers(rows, "partition")
    wrong = set(of_row[flags != rows["is_primary"].to_numpy()].tolist())
    for number in wrong:
        set_primary(partitions[number], flags[of_row == number])
    return wrong


def _write_index(catalog: Path, rows: pa.Table) -> None:
    """Write in which partitions of the catalogue each TARGETID is, sorted by it."""
    pairs = np.unique(np.stack([_numbers(rows, "targetid"), _numbers(rows, "partition")]), axis=1)
    columns = [
        pairs[0],
        np.full(pairs.shape[1], ORDER, np.uint8),
        pairs[1].astype(np.uint64),
    ]
    table = pa.table([pa.array(column) for column in columns], schema=_INDEX_SCHEMA)
    path = catalog / "dataset/index/part.0.parquet"
    with atomic_path(path) as temporary:
        pq.write_table(
            table,
            temporary,
            row_group_size=ROW_GROUP,
            compression="zstd",
            use_dictionary=["Norder", "Npix"],
            column_encoding={"targetid": "DELTA_BINARY_PACKED"},
            sorting_columns=[pq.SortingColumn(0)],
        )
    write_index_files(
        catalog,
        [path],
        _INDEX_SCHEMA,
        {
            "obs_collection": INDEX,
            "dataproduct_type": "index",
            "hats_nrows": len(table),
            "hats_primary_table_url": CATALOG,
            "hats_index_column": "targetid",
        },
    )


def _write_margin(
    catalog: Path, rows: pa.Table, partitions: Partitions, fields: tuple[Field, ...]
) -> None:
    """Write the margins of the partitions.

    Each partition has one, be it empty, and so has each pixel beyond the edge of the catalogue that
    rows lie close to: what is cross-matched with them may lie there.
    """
    schema = arrow_schema(fields)
    margins: dict[int, list[pa.Table]] = {number: [] for number in partitions}
    of_row, healpix_29 = _numbers(rows, "partition"), _numbers(rows, HATS_INDEX)
    for number, path in partitions.items():
        near, pixels = find_margin(healpix_29[of_row == number], ORDER)
        if len(near):
            table = _take_rows(path, schema, near)
            for pixel in np.unique(pixels).tolist():
                margins.setdefault(pixel, []).append(table.filter(pa.array(pixels == pixel)))
    n_rows = 0
    paths = {number: partition_path(catalog, (ORDER, number)) for number in sorted(margins)}
    for number, path in paths.items():
        table = pa.concat_tables([schema.empty_table(), *margins[number]]).sort_by(HATS_INDEX)
        n_rows += len(table)
        with atomic_path(path) as temporary, open_writer(temporary, schema) as writer:
            writer.write_table(table)
    _remove_others(catalog, paths.values())
    write_catalog_files(
        catalog,
        [(ORDER, number) for number in paths],
        schema,
        {
            "obs_collection": MARGIN,
            "dataproduct_type": "margin",
            "hats_nrows": n_rows,
            **_POSITION,
            "hats_cols_default": " ".join(shown_fields(fields)),
            "hats_primary_table_url": CATALOG,
            "hats_margin_threshold": MARGIN_ARCSEC,
        },
    )


def _take_rows(path: Path, schema: pa.Schema, rows: npt.NDArray[np.int64]) -> pa.Table:
    """Read some rows of a partition, one row group at a time; `rows` are sorted."""
    tables, first = [schema.empty_table()], 0
    with pq.ParquetFile(path) as parquet:
        for group in range(parquet.num_row_groups):
            stop = first + parquet.metadata.row_group(group).num_rows
            here = rows[(rows >= first) & (rows < stop)]
            if len(here):
                table = parquet.read_row_group(group).take(pa.array(here - first))
                tables.append(table.cast(schema))
            first = stop
    return pa.concat_tables(tables)


def _write_catalog(
    catalog: Path,
    rows: pa.Table,
    partitions: Partitions,
    fields: tuple[Field, ...],
    settings: Settings,
) -> None:
    """Write what stands beside the partitions of the catalogue."""
    write_skymap(catalog, _count_sky(rows))
    write_catalog_files(
        catalog,
        [(ORDER, number) for number in partitions],
        arrow_schema(fields),
        {
            "obs_collection": _NAME,
            "dataproduct_type": "object",
            "hats_nrows": len(rows),
            **_POSITION,
            "hats_cols_default": " ".join(shown_fields(fields)),
            "hats_skymap_order": SKYMAP_ORDER,
            "obs_title": f"DESI {settings['archive']['prefix']}: targets",
        },
    )


def _write_spectra(
    results: Path, files: Sequence[TileFile], rows: pa.Table, settings: Settings
) -> list[str]:
    """Make the tiles of each survey and program a catalogue; return the names of all."""
    record = record_fields(settings)
    pixels: dict[tuple[str, str], list[Pixel]] = {}
    for tile, *_ in files:
        pixels.setdefault((tile.survey, tile.program), []).append((tile.order, tile.pixel))
    names = []
    for (survey, program), listed in pixels.items():
        ours = pc.and_(pc.equal(rows["survey"], survey), pc.equal(rows["program"], program))
        catalog, name = catalogue_folder(results, survey, program), f"{survey}-{program}"
        counts = _count_sky(rows.filter(ours))
        write_skymap(catalog, counts)
        write_catalog_files(
            catalog,
            listed,
            arrow_schema(record),
            {
                "obs_collection": name,
                "dataproduct_type": "object",
                "hats_nrows": int(counts.sum()),
                **_POSITION,
                "hats_npix_suffix": "/",
                "hats_skymap_order": SKYMAP_ORDER,
                "obs_title": f"DESI {settings['archive']['prefix']}: spectra, {survey} {program}",
            },
        )
        write_properties(
            catalog.with_suffix(".properties"),
            {
                "obs_collection": name,
                "dataproduct_type": "extension",
                "hats_primary_table_url": _NAME,
                "hats_col_assn_primary": "targetid",
                "hats_assn_join_table_url": name,
                "hats_col_assn_join": "targetid",
                "hats_ext_cols": " ".join(f.name for f in record if pa.types.is_nested(f.type)),
                "hats_ext_join_style": "inner",
                "hats_ext_shares_primary_coords": "true",
            },
        )
        names.append(name)
    return names


def _remove_empty_folders(results: Path, tiles: Iterable[Tile]) -> None:
    """Remove the folders of tiles without a Parquet: LSDB stops at a partition without a file."""
    for tile in tiles:
        folder = parquet_folder(results, tile)
        if folder.is_dir() and {path.name for path in folder.iterdir()} <= {_TIMESTAMP}:
            shutil.rmtree(folder)


def _remove_others(catalog: Path, paths: Iterable[Path]) -> None:
    """Remove the files of partitions that are none any more, and of another order."""
    kept = set(paths)
    for path in (catalog / "dataset").glob("*/*/*.parquet"):
        if path not in kept:
            path.unlink()
    for folder in (catalog / "dataset").glob("Norder=*"):
        if not any(folder.glob("*/*")):
            shutil.rmtree(folder)


def _path(results: Path, number: int) -> Path:
    return partition_path(results / CATALOG, (ORDER, number))


def _numbers(table: pa.Table, name: str) -> Any:
    return as_numbers(table[name].combine_chunks())


def _count_sky(rows: pa.Table) -> npt.NDArray[np.int64]:
    pixels = _numbers(rows, HATS_INDEX) >> 2 * (29 - SKYMAP_ORDER)
    return np.bincount(pixels, minlength=12 * 4**SKYMAP_ORDER)
