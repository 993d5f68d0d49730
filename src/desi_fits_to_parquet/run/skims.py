"""The skimmed tiles of a results folder: what failed, what must be done again, their sums."""

import csv
import io
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from desi_fits_to_parquet import __version__
from desi_fits_to_parquet.archive.keys import archive_address
from desi_fits_to_parquet.columns import extra_hdus, kinds_used
from desi_fits_to_parquet.files import read_json, sha256_of, write_atomically, write_json
from desi_fits_to_parquet.outcomes import FAILED_OUTCOMES, OUTCOMES
from desi_fits_to_parquet.paths import (
    SKIM,
    SKIM_SUMMARY,
    SKIM_TILES,
    SKIMMED,
    skim_folder,
    skim_marker_path,
)
from desi_fits_to_parquet.records import SkimMarker, tile_keys
from desi_fits_to_parquet.run.markers import tile_markers
from desi_fits_to_parquet.run.repair import OTHER_SETTINGS, UNREADABLE, Finding
from desi_fits_to_parquet.settings import ArchiveSettings, Settings, archive_folder
from desi_fits_to_parquet.skim import skim_fingerprint, skim_settings
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.tiles_csv import list_tiles, read_sources, sources_version

SUMS = ("n_targets", "n_rows", "bytes_archive", "bytes_fetched", "requests", "bytes_skim")
"""What the summary of a skim adds up of its tiles."""

COLUMNS = ("survey", "program", "healpix", "outcome", "reason", *SUMS, "seconds")
"""Columns of the table of a skim's tiles."""


def refuse_own_skim(settings: Settings) -> str:
    """Say why a skim cannot be made of this archive, empty where it can."""
    folder, mine = archive_folder(settings["archive"]), Path(settings["results"], SKIM)
    if folder and folder.resolve() == mine.resolve():
        return (
            f"archive.endpoint is {mine}, which the target skim writes: "
            "give it a results folder of its own with --config results=..."
        )
    return ""


def skim_differences(settings: Settings) -> str:
    """Say what a skim that is the archive was made without, empty where it is none or has it all.

    Raises
    ------
    ValueError
        Where its `skim.json` is broken.
    """
    folder = archive_folder(settings["archive"])
    if folder is None or not (folder / SKIM_SUMMARY).is_file():
        return ""
    made, wanted = read_json(folder / SKIM_SUMMARY)["settings"], skim_settings(settings)
    found = [
        f"selection.{key} was {json.dumps(made['selection'].get(key))}, is {json.dumps(value)}"
        for key, value in wanted["selection"].items()
        if made["selection"].get(key) != value
    ]
    for what, needed in (("files", wanted["files"]), ("hdus", extra_hdus(settings))):
        if missing := [name for name in needed if name not in made[what]]:
            found.append(f"it has no {', '.join(missing)}")
    if not found:
        return ""
    return (
        f"the archive {folder} is a skim, which holds what was selected when it was made and "
        f"nothing else: {'; '.join(found)}"
    )


def find_stale_skims(results: Path, settings: Settings) -> list[Finding]:
    """Return the discovered tiles whose skim is not what a run would make now.

    Settings, the tile's files in the archive as listed, and the sizes of the skim's files are
    compared with what the marker says. A tile without a marker is none of these.

    Parameters
    ----------
    results
        The results folder, with the list of tiles.
    settings
        The checked configuration.
    """
    listed = results / "tiles.csv"
    kinds = {*kinds_used(settings), "sha256sum"}
    wanted = skim_fingerprint(settings)
    stale = []
    for tile in list_tiles(listed):
        path = skim_marker_path(results, tile)
        if not path.exists():
            continue
        marker, problem = _read(path, tile)
        if marker:
            if marker["settings_fingerprint"] != wanted:
                problem = OTHER_SETTINGS
            elif marker["listed"] != sources_version(read_sources(listed, tile, kinds)):
                problem = "its files in the archive are others"
            else:
                problem = _damage(results, settings["archive"], tile, marker, sizes_alone=True)
        if problem:
            stale.append(Finding(tile, problem))
    return stale


def find_failed_skims(results: Path) -> list[Finding]:
    """Return the tiles whose skim has a failed outcome, with outcome and reason."""
    return [
        Finding(tile, f"{marker['outcome']}: {marker['reason']}")
        for tile, marker, _ in _markers(results)
        if marker and marker["outcome"] in FAILED_OUTCOMES
    ]


def find_damaged_skims(results: Path, archive: ArchiveSettings, threads: int = 4) -> list[Finding]:
    """Compare every file of the skim with the checksum in its tile's marker."""

    def look(found: tuple[Tile, SkimMarker | None, str]) -> Finding:
        tile, marker, problem = found
        return Finding(tile, problem if marker is None else _damage(results, archive, tile, marker))

    with ThreadPoolExecutor(threads) as pool:
        return [finding for finding in pool.map(look, _markers(results)) if finding.problem]


def clear_skim(results: Path, archive: ArchiveSettings, tile: Tile) -> None:
    """Remove what was skimmed of a tile, the marker first, so that the next run does it again."""
    skim_marker_path(results, tile).unlink(missing_ok=True)
    shutil.rmtree(skim_folder(results, archive["prefix"], tile), ignore_errors=True)


def write_skim_summary(results: Path, settings: Settings) -> dict[str, Any]:
    """Write the sums of a skim and the table of its tiles into its folder.

    Returns
    -------
    dict
        What stands in `skim.json`: the archive, what was selected and kept, the number of tiles by
        outcome, and sums of targets and bytes.

    Raises
    ------
    ValueError
        Where a marker cannot be read.
    """
    outcomes = Counter(dict.fromkeys(OUTCOMES, 0))
    sums = dict.fromkeys(SUMS, 0)
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for tile in list_tiles(results / "tiles.csv"):
        marker: SkimMarker = read_json(skim_marker_path(results, tile))
        outcomes[marker["outcome"]] += 1
        values: dict[str, Any] = {**marker}
        for name in SUMS:
            sums[name] += values[name] or 0
        writer.writerow(values)
    summary = {
        "project": "desi-fits-to-parquet",
        "version": __version__,
        "archive": {
            "address": archive_address(settings["archive"]),
            "prefix": settings["archive"]["prefix"],
        },
        "settings": skim_settings(settings),
        "outcomes": dict(outcomes),
        **sums,
        "licence": "DESI data: CC BY 4.0, DESI Collaboration",
    }
    write_atomically(results / SKIM / SKIM_TILES, table.getvalue())
    write_json(results / SKIM / SKIM_SUMMARY, summary)
    return summary


def _markers(results: Path) -> Iterator[tuple[Tile, SkimMarker | None, str]]:
    for path, tile in tile_markers(results, SKIMMED):
        if tile:
            marker, problem = _read(path, tile)
            yield tile, marker, problem


def _read(path: Path, tile: Tile) -> tuple[SkimMarker | None, str]:
    """Read a marker; where it is broken or of another tile, None and what is wrong."""
    try:
        marker: SkimMarker = read_json(path)
        mine = {key: marker[key] for key in tile_keys(tile)} == tile_keys(tile)  # type: ignore[literal-required]
        whole = (
            set(SkimMarker.__annotations__) <= set(marker)
            and marker["outcome"] in OUTCOMES
            and all({"size", "sha256"} == set(file) for file in marker["files"].values())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, UNREADABLE
    return (marker, "") if mine and whole else (None, UNREADABLE)


def _damage(
    results: Path,
    archive: ArchiveSettings,
    tile: Tile,
    marker: SkimMarker,
    sizes_alone: bool = False,
) -> str:
    """Say what is wrong with the files of a tile's skim, empty where nothing is."""
    folder = skim_folder(results, archive["prefix"], tile)
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if extra := there - set(marker["files"]):
        return f"{min(extra)!a} does not belong in {folder.relative_to(results)}"
    for name, file in marker["files"].items():
        if name not in there:
            return f"{name} of its skim is missing"
        if (folder / name).stat().st_size != file["size"]:
            return f"{name} of its skim has another size"
        if not sizes_alone and sha256_of(folder / name) != file["sha256"]:
            return f"{name} of its skim was altered: its sha256 is another"
    return ""
