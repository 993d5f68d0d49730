"""The list of discovered tiles: what stands in the archive for each of them."""

import csv
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TypedDict

from desi_fits_to_parquet.files import write_atomically
from desi_fits_to_parquet.tile import FILE_KINDS, Tile


class Source(TypedDict):
    """A file of a tile in the archive."""

    key: str
    size: int
    etag: str


Sources = dict[str, Source]
"""The files of a tile by kind (`FILE_KINDS`); what is not in the archive is not in here."""

HEADER = (
    "survey",
    "program",
    "healpix",
    *(f"{kind}_{field}" for kind in FILE_KINDS for field in ("key", "size", "etag")),
)


def write_tiles(path: Path, tiles: Mapping[Tile, Sources]) -> None:
    """Write the list, sorted by survey, program and pixel: the same tiles give the same bytes."""
    lines = [",".join(HEADER)]
    for tile in sorted(tiles):
        sources = tiles[tile]
        row = [tile.survey, tile.program, str(tile.healpix)]
        for kind in FILE_KINDS:
            source = sources.get(kind)
            row += [source["key"], str(source["size"]), source["etag"]] if source else ["", "", ""]
        lines.append(",".join(row))  # keys are checked when they are listed: no comma, no quote
    write_atomically(path, "\n".join(lines) + "\n")


def read_tiles(path: Path | str) -> dict[Tile, Sources]:
    """Read the list that `write_tiles` wrote; the same unchanged file is read only once.

    Raises
    ------
    ValueError
        Where the file is no such list; the message names it.
    """
    status = Path(path).stat()
    return _read_tiles(str(path), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1)
def _read_tiles(path: str, mtime_ns: int, size: int) -> dict[Tile, Sources]:
    tiles: dict[Tile, Sources] = {}
    with Path(path).open(newline="") as stream:
        rows = csv.reader(stream)
        if tuple(next(rows, ())) != HEADER:
            raise ValueError(f"{path}: not a list of tiles of this version; remove it to list anew")
        for row in rows:
            if len(row) != len(HEADER):
                raise ValueError(f"{path}, line {rows.line_num}: {len(row)} fields, "
                                 f"expected {len(HEADER)}")  # fmt: skip
            sources: Sources = {}
            for i, kind in enumerate(FILE_KINDS):
                key, length, etag = row[3 + 3 * i : 6 + 3 * i]
                if key:
                    sources[kind] = Source(key=key, size=int(length), etag=etag)
            tiles[Tile(row[0], row[1], int(row[2]))] = sources
    return tiles
