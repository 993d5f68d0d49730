"""Listing the archive: which tiles there are, and the key, size and ETag of each of their files."""

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from desi_fits_to_parquet.archive.errors import NothingFound
from desi_fits_to_parquet.archive.keys import archive_address, sort_by_kind, tile_prefix
from desi_fits_to_parquet.archive.listing import (
    LISTERS,
    Listing,
    find_layout,
    open_listing,
    see_archive,
)
from desi_fits_to_parquet.settings import ArchiveSettings, TilesSettings
from desi_fits_to_parquet.tile import SURVEYS, Layout, Tile, is_plain, parse_key
from desi_fits_to_parquet.tiles_csv import Source, Sources, read_pixels, read_tiles, write_tiles

log = logging.getLogger(__name__)

TOGETHER = 11
"""Groups of a hundred numbers that are listed together: a number and those it begins."""

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
    list_folder = open_listing(archive)
    layout = find_layout(archive, list_folder)
    root = f"{archive['prefix']}/{layout.root}/"
    _, surveys = list_folder(root, level=True, tries=1)
    if not surveys:
        raise NothingFound(f"{address} has no folder {root}: {see_archive(archive)}")
    _warn("folders of surveys that are not DESI's are left out", set(surveys) - set(SURVEYS))
    found: dict[Tile, Sources] = {}
    seen: set[int] = set()
    odd: list[str] = []
    with ThreadPoolExecutor(LISTERS, "list") as pool:
        groups = list(_find_groups(pool, list_folder, root, layout, surveys, tiles, wanted, odd))
        listings = pool.map(lambda group: list_folder(group)[0], groups)
        for objects in _with_progress(listings, len(groups)):
            folders: dict[Tile, list[Source]] = {}
            for source in objects:
                tile = parse_key(source["key"], archive["prefix"], layout)
                if tile is None or not is_plain(source["etag"]):
                    odd.append(source["key"])
                else:
                    folders.setdefault(tile, []).append(source)
            for tile, sources in folders.items():
                if wanted is None or (overlap := tile.overlaps(wanted)):
                    found[tile] = sort_by_kind(tile, sources)
                    seen |= overlap if wanted is not None else set()
    _warn("keys that are not those of a tile's files are left out", odd)
    if wanted is not None:
        _warn("pixels of tiles.healpix that are not in the archive", map(str, wanted - seen))
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
    ArchiveUnreachable, NothingFound
        As `find_layout`.
    """
    list_folder = open_listing(archive)
    layout = find_layout(archive, list_folder)
    list_folder(f"{archive['prefix']}/{layout.root}/", level=True, tries=1)


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
    folders = [tile_prefix(archive, tile) for tile in wanted]
    with ThreadPoolExecutor(LISTERS, "list") as pool:
        listings = list(pool.map(lambda folder: list_folder(folder)[0], folders))
    table = read_tiles(tiles_csv)
    for tile, objects in zip(wanted, listings, strict=True):
        plain = [s for s in objects if is_plain(s["key"]) and is_plain(s["etag"])]
        table[tile] = sort_by_kind(tile, plain)
    write_tiles(tiles_csv, table)


def _find_groups(
    pool: ThreadPoolExecutor,
    list_folder: Listing,
    root: str,
    layout: Layout,
    surveys: list[str],
    tiles: TilesSettings,
    wanted: set[int] | None,
    odd: list[str],
) -> Iterator[str]:
    """Give the beginnings of keys to list: groups of tiles such as `main/dark/100/`.

    Without a list of pixels, up to `TOGETHER` groups whose numbers begin alike are listed together
    (`main/dark/10` for 10 and 100 to 109): four times fewer requests for the same keys.
    """
    programs = [f"{s}/{p}" for s in tiles["surveys"] if s in surveys for p in tiles["programs"]]
    levels = pool.map(lambda program: list_folder(f"{root}{program}/", level=True), programs)
    for program, (objects, groups) in zip(programs, levels, strict=True):
        odd.extend(
            source["key"]
            for source in objects
            if not re.fullmatch(layout.beside, source["key"].rpartition("/")[2])
        )
        numbers = {group for group in groups if re.fullmatch(r"0|[1-9][0-9]{0,6}", group)}
        odd.extend(f"{root}{program}/{group}/" for group in set(groups) - numbers)
        if wanted is None:
            beginnings = _beginnings(numbers)
        else:
            if layout.name == "healpix":  # elsewhere a group's number does not tell where it is
                numbers &= {str(pixel // 100) for pixel in wanted}
            beginnings = (f"{number}/" for number in numbers)
        for beginning in sorted(beginnings):
            yield f"{root}{program}/{beginning}"


def _beginnings(groups: Set[str], beginning: str = "") -> Iterator[str]:
    """Give texts with which groups are listed; each key of the archive begins with exactly one."""
    if len(groups) == 1 or (beginning and len(groups) <= TOGETHER):
        yield beginning if len(groups) > 1 else f"{next(iter(groups))}/"
        return
    for digit in "0123456789":
        longer = beginning + digit
        if some := {group for group in groups if group.startswith(longer)}:
            yield from _beginnings(some, longer)
    if beginning in groups:
        yield f"{beginning}/"


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
