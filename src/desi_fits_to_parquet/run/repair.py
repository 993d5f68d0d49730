"""Finding what was damaged or failed in a results folder, and clearing it for the next run."""

import shutil
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from desi_fits_to_parquet.files import sha256_of
from desi_fits_to_parquet.outcomes import FAILED_OUTCOMES
from desi_fits_to_parquet.paths import fits_folder, marker_path, parquet_folder
from desi_fits_to_parquet.records import Marker, record_tile
from desi_fits_to_parquet.run.markers import layout_of, read_markers
from desi_fits_to_parquet.tile import Tile


class Finding(NamedTuple):
    """A tile that must be done again, and why."""

    tile: Tile
    problem: str


class OldResults(Exception):
    """A results folder was made by a version that laid tiles out otherwise."""


def refuse_old_results(results: Path) -> None:
    """Assert that a results folder is none of version 0.1, which wrote Hive folders.

    Raises
    ------
    OldResults
        With a sentence that says what to do.
    """
    old = next((results / "parquet").glob("survey=*"), None)
    if old:
        raise OldResults(
            f"{old} was made by version 0.1 of this project, which this one does not go on with: "
            "give the run a folder of its own with --config results=..., or remove "
            f"{results}/parquet, {results}/validated and {results}/tiles.csv to make them anew"
        )


def find_failed(results: Path) -> list[Finding]:
    """Return the tiles whose outcome is a failure, with outcome and reason."""
    return [
        Finding(record_tile(marker), f"{marker['outcome']}: {marker['reason']}")
        for marker in read_markers(results)
        if marker["outcome"] in FAILED_OUTCOMES
    ]


def find_damaged(results: Path, threads: int = 4, progress: bool = True) -> list[Finding]:
    """Compare every Parquet with the checksum in its marker.

    Parameters
    ----------
    results
        The results folder.
    threads
        Files to read at once; hashing is far faster than most disks.
    progress
        Show a bar on standard error.

    Returns
    -------
    list of Finding
        Tiles whose Parquet is missing, altered or not alone in its folder, sorted.
    """
    from tqdm import tqdm

    markers = list(read_markers(results))
    with ThreadPoolExecutor(threads) as pool:
        checks = pool.map(lambda marker: _damage(results, marker), markers)
        bar = tqdm(checks, "verify", len(markers), unit="tile", disable=not progress, mininterval=1)
        found = [finding for finding in bar if finding is not None]
    return sorted(found)


def _damage(results: Path, marker: Marker) -> Finding | None:
    tile = record_tile(marker)
    folder = parquet_folder(results, tile)
    expected = {f"{tile.name}.parquet"} if marker["sha256"] else set()
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    there.discard(".snakemake_timestamp")  # Snakemake's own, in every folder that it made
    if missing := expected - there:
        return Finding(tile, f"{missing.pop()} is missing")
    if extra := there - expected:
        return Finding(tile, f"{min(extra)} does not belong in {folder.relative_to(results)}")
    if not marker["sha256"]:
        return None
    path = folder / expected.pop()
    found = sha256_of(path)
    if found != marker["sha256"]:
        return Finding(
            tile,
            f"{path.name} was altered: {path.stat().st_size} bytes with sha256 {found[:12]}..., "
            f"its marker says {marker['bytes_parquet']} bytes and {marker['sha256'][:12]}...",
        )
    return None


def clear_tile(results: Path, tile: Tile) -> None:
    """Remove what was made of a tile, the marker first, so that the next run does it again."""
    marker_path(results, tile).unlink(missing_ok=True)
    folder = parquet_folder(results, tile)
    if folder.exists():
        shutil.rmtree(folder)
    _clear_temporary(results, tile)


def find_leftovers(results: Path) -> Iterator[Tile]:
    """Return the tiles that are done and have FITS still: a run that was killed leaves them."""
    layout = layout_of(results / "tiles.csv")
    for path in (results / "fits").glob("*/*/*"):
        survey, program, name = path.relative_to(results / "fits").parts
        tile = Tile(survey, program, int(name), layout) if name.isdecimal() else None
        if tile and marker_path(results, tile).exists():
            yield tile


def remove_leftovers(results: Path, busy: Collection[Tile]) -> None:
    """Remove the FITS of tiles that are done, and folders that a killed job left unfinished.

    To be called before the first job of a run, under its lock: nobody works on these folders.

    Parameters
    ----------
    results
        The results folder.
    busy
        Tiles that are going to be validated and still need their FITS.
    """
    for tile in find_leftovers(results):
        if tile not in busy:
            _clear_temporary(results, tile)
    for unfinished in ("fits/*/*/.*.part", "parquet/*/dataset/*/*/.*.part"):
        for path in results.glob(unfinished):
            shutil.rmtree(path)


def _clear_temporary(results: Path, tile: Tile) -> None:
    fits = fits_folder(results, tile)
    if fits.exists():
        shutil.rmtree(fits)
