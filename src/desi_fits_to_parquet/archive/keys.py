"""Names in the archive: addresses, folders and the files of a tile."""

import re
from collections.abc import Iterable

from desi_fits_to_parquet.settings import ArchiveSettings
from desi_fits_to_parquet.tile import FILE_KINDS, N_HEALPIX, PROGRAMS, SURVEYS, Tile
from desi_fits_to_parquet.tiles_csv import Source, Sources


def archive_address(archive: ArchiveSettings) -> str:
    """URL of the archive's bucket, for messages.

    Parameters
    ----------
    archive
        Section `archive` of the configuration: `bucket`, `region`, `endpoint`.
    """
    if archive["endpoint"]:
        return f"{archive['endpoint'].rstrip('/')}/{archive['bucket']}"
    return f"https://{archive['bucket']}.s3.{archive['region']}.amazonaws.com"


def tile_prefix(archive: ArchiveSettings, tile: Tile) -> str:
    """Folder of a tile in the bucket, with a slash at its end."""
    return f"{archive['prefix']}/healpix/{tile.folder}/"


def sort_by_kind(tile: Tile, objects: Iterable[Source]) -> Sources:
    """Say which of the objects in a tile's folder is which of its files; others are left out."""
    names = {tile.file_name(kind): kind for kind in FILE_KINDS if kind != "sha256sum"}
    lists = re.compile(rf"redux_[A-Za-z0-9.-]+_healpix_{tile.survey}_{tile.program}_"
                       rf"{tile.healpix // 100}_{tile.healpix}\.sha256sum")  # fmt: skip
    sources: Sources = {}
    for source in objects:
        name = source["key"].rpartition("/")[2]
        kind = names.get(name) or ("sha256sum" if lists.fullmatch(name) else None)
        if kind:
            sources[kind] = source
    return sources


_ODD = re.compile(r"[^A-Za-z0-9._/+=-]|\.\.")


def parse_key(key: str, root: str) -> Tile | None:
    """Return the tile in whose folder a key lies, or None where it is not in the layout.

    The folder's name must be the pixel number as DESI writes it, within the group of its hundred.
    """
    match = re.match(r"([a-z0-9]+)/([a-z]+)/([0-9]{1,3})/([0-9]{1,5})/.", key.removeprefix(root))
    if not key.startswith(root) or match is None or _ODD.search(key):
        return None
    survey, program, group, pixel = match.groups()
    healpix = int(pixel)
    if (
        survey not in SURVEYS
        or program not in PROGRAMS
        or healpix >= N_HEALPIX
        or (group, pixel) != (str(healpix // 100), str(healpix))
    ):
        return None
    return Tile(survey, program, healpix)
