"""Names in the archive: its address, and which object is which of a tile's files."""

import logging
from collections.abc import Iterable

from desi_fits_to_parquet.settings import ArchiveSettings, archive_folder
from desi_fits_to_parquet.tile import Tile, is_checksum_list, kinds_by_name
from desi_fits_to_parquet.tiles_csv import Source, Sources

log = logging.getLogger(__name__)


def archive_address(archive: ArchiveSettings) -> str:
    """URL of the archive's bucket, or the folder that stands for it, for messages.

    Parameters
    ----------
    archive
        Section `archive` of the configuration: `bucket`, `region`, `endpoint`.
    """
    if folder := archive_folder(archive):
        return str(folder)
    if archive["endpoint"]:
        return f"{archive['endpoint'].rstrip('/')}/{archive['bucket']}"
    return f"https://{archive['bucket']}.s3.{archive['region']}.amazonaws.com"


def tile_prefix(archive: ArchiveSettings, tile: Tile) -> str:
    """Folder of a tile in the bucket, with a slash at its end."""
    return f"{archive['prefix']}/{tile.archive_folder}/"


def sort_by_kind(tile: Tile, objects: Iterable[Source]) -> Sources:
    """Say which of some objects is which of a tile's files; others are left out.

    Only what lies in the tile's folder itself counts: a copy in a folder below it is none of its
    files. Where there are two lists of checksums, that of the production counts in whose folder
    they lie. What is left out for that is named in a warning.
    """
    kinds = kinds_by_name(tile)
    sources: Sources = {}
    for source in sorted(objects, key=lambda source: source["key"]):
        folder, _, name = source["key"].rpartition("/")
        kind = kinds.get(name) or ("sha256sum" if is_checksum_list(tile, name) else None)
        if kind is None:
            continue
        if not f"/{folder}".endswith(f"/{tile.archive_folder}"):
            log.warning("%s: not in the tile's folder, left out: %s", tile.name, source["key"])
            continue
        if kind in sources:
            production = folder.removesuffix(f"/{tile.archive_folder}").rpartition("/")[2]
            taken, left = sources[kind], source
            if name == tile.checksum_name(production):
                taken, left = left, taken
            log.warning("%s: a second %s is left out: %s", tile.name, kind, left["key"])
            source = taken
        sources[kind] = source
    return sources
