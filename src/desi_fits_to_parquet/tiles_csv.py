"""The list of discovered tiles: what stands in the archive for each of them."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from sys import intern
from typing import BinaryIO, TypedDict

from desi_fits_to_parquet.files import write_atomically
from desi_fits_to_parquet.tile import FILE_KINDS, N_HEALPIX, Tile


class Source(TypedDict):
    """A file of a tile in the archive."""

    key: str
    size: int
    etag: str


Sources = dict[str, Source]
"""The files of a tile by kind (`FILE_KINDS`); what is not in the archive is not in here."""

MAX_PIXELS_BYTES = 16 << 20
"""All 49,152 pixels, each with a comment, are far less."""

IDENTITY = ("survey", "program", "healpix", "order", "pixel")
"""Fields that say which tile it is; `healpix` is the number that DESI's names carry."""

HEADER = (
    *IDENTITY,
    *(f"{kind}_{field}" for kind in FILE_KINDS for field in ("key", "size", "etag")),
)


def write_tiles(path: Path, tiles: Mapping[Tile, Sources]) -> None:
    """Write the list, sorted by survey, program and number: the same tiles give the same bytes.

    Its checksum is written beside it, in the form of `sha256sum`, so that a list that somebody
    cut or changed is noticed.
    """
    lines = [",".join(HEADER)]
    for tile in sorted(tiles):
        sources = tiles[tile]
        row = [tile.survey, tile.program, str(tile.number), str(tile.order), str(tile.pixel)]
        for kind in FILE_KINDS:
            source = sources.get(kind)
            row += [source["key"], str(source["size"]), source["etag"]] if source else ["", "", ""]
        lines.append(",".join(row))  # keys are checked when they are listed: no comma, no quote
    data = ("\n".join(lines) + "\n").encode()
    new = f"{hashlib.sha256(data).hexdigest()}  {path.name}\n"
    sums = sum_path(path)
    # both sums, until the list has its name: a run killed in between finds one that agrees
    write_atomically(sums, (sums.read_text() if sums.exists() else "") + new)
    write_atomically(path, data)
    write_atomically(sums, new)


def sum_path(path: Path | str) -> Path:
    """Return the path of the checksum of a list of tiles."""
    return Path(f"{path}.sha256")


def read_tiles(path: Path | str) -> dict[Tile, Sources]:
    """Read the list that `write_tiles` wrote.

    Raises
    ------
    ValueError
        Where the file is no such list; the message names it.
    """
    offsets = _find_lines(path)
    with Path(path).open("rb") as stream:
        return {tile: _parse(stream, offset) for tile, offset in offsets.items()}


def read_layout(path: Path | str) -> str:
    """Return the name of the layout of the archive that was listed; errors as `read_tiles`."""
    return next(iter(_find_lines(path)), Tile("", "", 0)).layout


def list_tiles(path: Path | str) -> list[Tile]:
    """Read the identities of the tiles alone, in the order of the list; errors as `read_tiles`."""
    return list(_find_lines(path))


def read_sources(path: Path | str, tile: Tile, kinds: Iterable[str]) -> Sources:
    """Read one tile's files of some kinds, without reading the whole list for each tile again.

    Raises
    ------
    KeyError
        Where the tile is not in the list.
    ValueError
        Where the file is no such list; the message names it.
    """
    offset = _find_lines(path)[tile]
    with Path(path).open("rb") as stream:
        sources = _parse(stream, offset)
    return {kind: source for kind, source in sources.items() if kind in kinds}


def pack_sources(sources: Sources) -> str:
    """Return a tile's files as a text: a fifth of the memory of the table, 30,000 times."""
    facts = {kind: (s["key"], s["size"], s["etag"]) for kind, s in sources.items()}
    return json.dumps(facts, separators=(",", ":"))


def sources_version(sources: Sources) -> str:
    """Return a short text that changes with a tile's files."""
    return hashlib.sha256(pack_sources(sources).encode()).hexdigest()[:16]


def unpack_sources(text: str) -> Sources:
    """Return the files that `pack_sources` packed."""
    facts = json.loads(text)
    return {
        kind: Source(key=key, size=size, etag=etag) for kind, (key, size, etag) in facts.items()
    }


def _find_lines(path: Path | str) -> dict[Tile, int]:
    status = Path(path).stat()
    return _find_unchanged(str(path), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1)
def _find_unchanged(path: str, mtime_ns: int, size: int) -> dict[Tile, int]:
    """Return where in the list, as it was then, each tile's line begins.

    What stands there is read when it is asked for: of 30,000 tiles it takes 130 MB of memory.
    """
    offsets = {}
    with Path(path).open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
        stream.seek(0)
        if stream.readline().decode("utf-8", "replace").rstrip("\n") != ",".join(HEADER):
            raise ValueError(f"{path}: not a list of tiles of this version; remove it to list anew")
        sums = sum_path(path)
        if not sums.is_file() or found not in sums.read_text("latin-1"):
            raise ValueError(
                f"{path}: its checksum is not that in {sums.name}: it was cut or changed; "
                "remove it to list anew"
            )
        offset = stream.tell()
        for line in stream:
            survey, program, healpix, _, pixel = line.decode().split(",", 5)[:5]
            layout = "healpix" if healpix == pixel else "uniqpix"
            offsets[Tile(intern(survey), intern(program), int(healpix), layout)] = offset
            offset += len(line)
    return offsets


def _parse(stream: BinaryIO, offset: int) -> Sources:
    stream.seek(offset)
    fields = stream.readline().decode().rstrip("\n").split(",")
    sources: Sources = {}
    for i, kind in enumerate(FILE_KINDS):
        key, size, etag = fields[len(IDENTITY) + 3 * i :][:3]
        if key:
            sources[kind] = Source(key=key, size=int(size), etag=etag)
    return sources


def read_pixels(healpix: Iterable[int] | str | None) -> set[int] | None:
    """Return the wanted pixels, read from a file where a name is given; None means all.

    Raises
    ------
    ValueError
        Where a line of the file is no pixel number; empty lines and `#` comments are allowed.
    """
    if healpix is None:
        return None
    if not isinstance(healpix, str):
        return set(healpix)
    path = Path(healpix)
    if path.stat().st_size > MAX_PIXELS_BYTES:
        raise ValueError(f"tiles.healpix: {healpix} is no list of pixel numbers: it is too large")
    pixels = set()
    for number, line in enumerate(path.read_text("latin-1").splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) >= N_HEALPIX:
            raise ValueError(
                f"tiles.healpix: {healpix}, line {number}: {text[:40]!r} is not a pixel number "
                f"from 0 to {N_HEALPIX - 1}"
            )
        pixels.add(int(text))
    return pixels
