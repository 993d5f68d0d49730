"""Reading the markers, which hold the outcomes of the tiles."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from desi_fits_to_parquet.files import read_json
from desi_fits_to_parquet.outcomes import OUTCOMES
from desi_fits_to_parquet.paths import VALIDATED
from desi_fits_to_parquet.records import Marker
from desi_fits_to_parquet.text import neutral
from desi_fits_to_parquet.tile import PROGRAMS, SURVEYS, Tile
from desi_fits_to_parquet.tiles_csv import list_tiles, read_layout


def read_markers(results: Path) -> Iterator[Marker]:
    """Read all markers of a results folder, sorted by their path."""
    for path in sorted((results / VALIDATED).glob("*/*/*.json")):
        yield read_json(path)


def tile_markers(results: Path, markers: str = VALIDATED) -> Iterator[tuple[Path, Tile | None]]:
    """Give the paths of all markers, sorted, and whose each is by its place, whatever it says.

    The tile is None where the place is no tile's.
    """
    layout = layout_of(results / "tiles.csv")
    for path in sorted((results / markers).glob("*/*/*.json")):
        yield path, _tile_at(path, layout)


def _tile_at(path: Path, layout: str) -> Tile | None:
    survey, program, name = path.parts[-3:]
    if survey not in SURVEYS or program not in PROGRAMS or not path.stem.isdecimal():
        return None
    tile = Tile(survey, program, int(path.stem), layout)
    try:
        return tile if name == f"{tile.number}.json" and tile.order >= 0 else None
    except ValueError:  # no pixel of any order
        return None


LONGEST = 1 << 20
"""No marker is longer, in bytes."""


class Brief(NamedTuple):
    """What the summary needs of a marker; bytes as there, `finished` in Unix seconds."""

    outcome: str
    finished: float
    bytes_archive: int
    bytes_fetched: int
    bytes_parquet: int
    reason: str


_KEYS = [f'\n "{name}": '.encode() for name in Brief._fields]


def read_briefs(results: Path, markers: str = VALIDATED) -> tuple[dict[Tile, Brief], list[str]]:
    """Read all markers; one that is removed meanwhile is left out.

    30,000 markers take 0.5 s of CPU.

    Parameters
    ----------
    results
        The results folder.
    markers
        Which: those of tiles that became Parquet, or of tiles that were skimmed (`SKIMMED`).

    Returns
    -------
    briefs : dict
        By tile.
    broken : list of str
        A line for each marker that cannot be read.
    """
    briefs: dict[Tile, Brief] = {}
    broken = []
    layout = layout_of(results / "tiles.csv")  # which the markers' names do not tell
    for survey in _scan(results / markers):
        for program in _scan(survey.path):
            for entry in _scan(program.path):
                name = entry.name
                if name.endswith(".json") and not name.startswith("."):
                    try:
                        brief = read_brief(entry.path)
                        if brief is not None:
                            tile = Tile(survey.name, program.name, int(name[:-5]), layout)
                            briefs[tile] = brief
                    except (OSError, ValueError) as error:
                        broken.append(str(error))
    return briefs, broken


def read_brief(path: Path | str) -> Brief | None:
    """Read one marker; None where it is not there.

    Raises
    ------
    ValueError
        Where it is broken; the message names it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)  # a file object takes twice as long
    except FileNotFoundError:
        return None
    try:
        data = os.read(descriptor, LONGEST)
    finally:
        os.close(descriptor)
    try:
        brief = _pick_fields(data) or _parse_fields(data)
        if brief.outcome not in OUTCOMES:
            raise ValueError(f"unknown outcome {brief.outcome!r}")
        return brief._replace(reason=neutral(brief.reason)) if brief.reason else brief
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path}: no marker of this version ({error!r}); delete it and run again"
        ) from error


def _parse_fields(data: bytes) -> Brief:
    marker = json.loads(data)
    outcome, finished, archive, fetched, parquet, reason = (marker[k] for k in Brief._fields)
    return Brief(
        str(outcome), float(finished), int(archive), int(fetched), int(parquet), str(reason)
    )


def _pick_fields(data: bytes) -> Brief | None:
    """Take the fields out of a marker as `write_json` writes it, eight times faster than parsing.

    There each key of the marker itself stands on a line of its own after one blank, those within
    its values after more. None where the marker looks otherwise.
    """
    if not data.endswith((b"\n}", b"\n}\n")):
        return None
    values = []
    for key in _KEYS:
        start = data.find(key)
        if start < 0:
            return None
        start += len(key)
        values.append(data[start : data.index(b"\n", start)].removesuffix(b","))
    outcome, finished, archive, fetched, parquet, reason = values
    return Brief(
        outcome.decode().strip('"'),
        float(finished),
        int(archive),
        int(fetched),
        int(parquet),
        "" if reason == b'""' else str(json.loads(reason)),
    )


def _scan(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def layout_of(tiles_csv: Path) -> str:
    """Return the name of the layout of the archive; the usual one where no list is there yet."""
    return read_layout(tiles_csv) if tiles_csv.exists() else "healpix"


def read_names(tiles_csv: Path) -> frozenset[Tile] | None:
    """Read which tiles are discovered; None where the list is not there."""
    try:
        return frozenset(list_tiles(tiles_csv))
    except FileNotFoundError:
        return None
