"""Listing the archive: which tiles there are, and the key, size and ETag of each of their files."""

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from desi_fits_to_parquet.archive.errors import NothingFound
from desi_fits_to_parquet.archive.keys import _ODD, archive_address, parse_key, sort_by_kind
from desi_fits_to_parquet.archive.listing import LISTERS, Listing, open_listing
from desi_fits_to_parquet.settings import ArchiveSettings, TilesSettings
from desi_fits_to_parquet.tile import SURVEYS, Tile
from desi_fits_to_parquet.tiles_csv import Source, Sources, read_pixels, read_tiles, write_tiles

log = logging.getLogger(__name__)

MAX_NAMED = 10
"""So many names stand in a warning; the rest is counted."""


def discover_tiles(
    archive: ArchiveSettings, tiles: TilesSettings, sample: int | None, out_csv: Path
) -> int:
    """List the tiles of an archive into a table (see `tiles_csv`).

    Parameters
    ----------
    archive, tiles
        Sections of the configuration.
    sample
        Take only so many tiles, drawn by a hash of their names: always the same ones, and tiles
        that come or go in the archive leave the others in the sample.
    out_csv
        Where to write the table.

    Returns
    -------
    int
        Number of tiles written.

    Raises
    ------
    ArchiveUnreachable
        Where the archive does not answer, or has no such bucket.
    NothingFound
        Where it holds no tile of those wanted.
    ValueError
        Where `tiles.healpix` names a file that holds something else than pixel numbers.
    """
    wanted = read_pixels(tiles["healpix"])
    address = archive_address(archive)
    root = f"{archive['prefix']}/healpix/"
    list_folder = open_listing(archive)
    _, surveys = list_folder(root, level=True, tries=1)
    if not surveys:
        raise NothingFound(f"{address} has no folder {root}: see archive.bucket and archive.prefix")
    _warn("folders of surveys that are not DESI's are left out", set(surveys) - set(SURVEYS))
    found: dict[Tile, Sources] = {}
    odd: list[str] = []
    with ThreadPoolExecutor(LISTERS, "list") as pool:
        groups = list(_find_groups(pool, list_folder, root, surveys, tiles, wanted, odd))
        listings = pool.map(lambda group: list_folder(group)[0], groups)
        for objects in _with_progress(listings, len(groups)):
            folders: dict[Tile, list[Source]] = {}
            for source in objects:
                tile = parse_key(source["key"], root)
                if tile is None or _ODD.search(source["etag"]):
                    odd.append(source["key"])
                elif wanted is None or tile.healpix in wanted:
                    folders.setdefault(tile, []).append(source)
            for tile, sources in folders.items():
                found[tile] = sort_by_kind(tile, sources)
    _warn("keys that are not those of a tile's files are left out", odd)
    if wanted is not None:
        there = {tile.healpix for tile in found}
        _warn("pixels of tiles.healpix that are not in the archive", map(str, wanted - there))
    if not found:
        raise NothingFound(
            f"{address} holds no tile of surveys {', '.join(tiles['surveys'])} and programs "
            f"{', '.join(tiles['programs'])} below {root}"
            f"{' among the pixels of tiles.healpix' if wanted is not None else ''}: see the "
            "section tiles of the configuration"
        )
    chosen = sorted(found)
    if sample is not None:
        chosen = sorted(found, key=_lot)[:sample]
    write_tiles(out_csv, {tile: found[tile] for tile in chosen})
    log.info("%d tiles listed, %d taken", len(found), len(chosen))
    return len(chosen)


def probe_archive(archive: ArchiveSettings) -> None:
    """Ask the archive for one listing, so that a run that needs it can end before it begins.

    Raises
    ------
    ArchiveUnreachable
        Where the archive does not answer, or has no such bucket.
    """
    list_folder = open_listing(archive)
    list_folder(f"{archive['prefix']}/healpix/", level=True, tries=1)


def relist_tiles(archive: ArchiveSettings, tiles_csv: Path, tiles: Iterable[Tile]) -> None:
    """List the folders of some tiles anew and write what stands there now into the table.

    Raises
    ------
    ArchiveUnreachable
        Where the archive does not answer; the table is then left as it was.
    """
    wanted = sorted(set(tiles))
    if not wanted:
        return
    list_folder = open_listing(archive)
    folders = [f"{archive['prefix']}/healpix/{tile.folder}/" for tile in wanted]
    with ThreadPoolExecutor(LISTERS, "list") as pool:
        listings = list(pool.map(lambda folder: list_folder(folder)[0], folders))
    table = read_tiles(tiles_csv)
    for tile, objects in zip(wanted, listings, strict=True):
        table[tile] = sort_by_kind(tile, objects)
    write_tiles(tiles_csv, table)


def _find_groups(
    pool: ThreadPoolExecutor,
    list_folder: Listing,
    root: str,
    surveys: list[str],
    tiles: TilesSettings,
    wanted: set[int] | None,
    odd: list[str],
) -> Iterator[str]:
    """Give the beginnings of keys to list: pixel groups such as `main/dark/100/`.

    Without a list of pixels, up to eleven groups whose numbers begin alike are listed together
    (`main/dark/10` for 10 and 100 to 109): four times fewer requests for the same keys.
    """
    programs = [f"{s}/{p}" for s in tiles["surveys"] if s in surveys for p in tiles["programs"]]
    levels = pool.map(lambda program: list_folder(f"{root}{program}/", level=True), programs)
    for program, (objects, groups) in zip(programs, levels, strict=True):
        odd.extend(source["key"] for source in objects)
        numbers = {group for group in groups if re.fullmatch(r"0|[1-9][0-9]{0,2}", group)}
        odd.extend(f"{root}{program}/{group}/" for group in set(groups) - numbers)
        if wanted is not None:
            numbers &= {str(pixel // 100) for pixel in wanted}
        for beginning in sorted({_beginning(n) if wanted is None else f"{n}/" for n in numbers}):
            yield f"{root}{program}/{beginning}"


def _beginning(group: str) -> str:
    """Return with which text a group is listed; each key of the archive has exactly one."""
    if group[0] not in "1234":
        return f"{group}/" if group == "0" else group[0]
    return group[:2] if len(group) > 1 else f"{group}/"


def _with_progress(listings: Iterable[list[Source]], count: int) -> Iterable[list[Source]]:
    """Show on a terminal how far the listing is."""
    from tqdm import tqdm

    return tqdm(listings, "listing", count, unit=" groups", disable=None)


def _warn(what: str, names: Iterable[str]) -> None:
    """Log a warning that names them; what is odd in a name is escaped."""
    ordered = sorted(names)
    if ordered:
        more = f" and {len(ordered) - MAX_NAMED} more" if len(ordered) > MAX_NAMED else ""
        named = ", ".join(ascii(name[:200]) for name in ordered[:MAX_NAMED])
        log.warning("%s: %s%s", what, named, more)


def _lot(tile: Tile) -> bytes:
    return hashlib.sha256(f"sample {tile.name}".encode()).digest()
