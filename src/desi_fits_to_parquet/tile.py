"""What a tile is, and the layouts of the archive: how DESI names folders, files and pixels.

Everything that knows such a name is here: up to DR2 a tile is a HEALPix pixel of nside 64 in a
folder below `healpix/`, from DR3 on a pixel of an adaptive size below `spectra/`, named by its
*uniqpix*, which holds order and pixel in one number. `Tile` gives an identity to what they name.

Source: desidatamodel (https://desidatamodel.readthedocs.io), DESI_SPECTRO_REDUX/SPECPROD, of June
2026; desispec 0.71, `desispec.io.meta` and `desispec.pixgroup`.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Set
from typing import NamedTuple

NSIDE = 64
"""Resolution of the tiles' HEALPix grid up to DR2, in NESTED order (keyword HPXNSIDE)."""

ORDER = 6
"""The same as a HEALPix order: nside is 2**order."""

N_HEALPIX = 12 * NSIDE**2

MAX_ORDER = 12
"""Pixels of this order have an arc minute; a name that says more is none of DESI's."""

SURVEYS = ("main", "sv1", "sv2", "sv3", "special", "cmx")
PROGRAMS = ("dark", "bright", "backup", "other")

FILE_KINDS = (
    "coadd",
    "redrock",
    "emline",
    "rrdetails",
    "qso_mgii",
    "qso_qn",
    "hpixexp",
    "spectra",
    "sha256sum",
)
"""The files of a tile's folder in the archive; `sha256sum` is the list of their checksums."""

REQUIRED_KINDS = ("coadd", "redrock")
"""Without these a tile cannot be converted: its outcome is `missing_source`."""

_SUFFIXES = {"rrdetails": ".h5", "hpixexp": ".csv", "spectra": ".fits.gz"}

_ODD = re.compile(r"[^A-Za-z0-9._/+=-]|\.\.")


class Layout(NamedTuple):
    """One way of naming.

    Attributes
    ----------
    name
        As the setting `archive.layout` calls it.
    root
        Folder below `archive.prefix` that holds the surveys.
    stems
        Beginnings of file names where they are not those of `FILE_KINDS`.
    place, number
        Give order and pixel (NESTED) of the number that folders and files carry, and the number of
        an order and pixel; `place` raises ValueError where the number is no pixel.
    beside
        What else lies in the folder of a program, as a pattern: files about all of its tiles.
    """

    name: str
    root: str
    stems: Mapping[str, str]
    place: Callable[[int], tuple[int, int]]
    number: Callable[[int, int], int]
    beside: str

    def folder(self, survey: str, program: str, number: int) -> str:
        """Folder of a tile below `root`, for example `main/dark/100/10000`."""
        return f"{survey}/{program}/{number // 100}/{number}"

    def file_name(self, kind: str, name: str) -> str:
        """Name of a tile's file of that kind (any of `FILE_KINDS` but `sha256sum`)."""
        return f"{self.stems.get(kind, kind)}-{name}{_SUFFIXES.get(kind, '.fits')}"

    def checksum_name(self, production: str, survey: str, program: str, number: int) -> str:
        """Name of the list of a tile's checksums, which carries the production's name (`iron`).

        That of `uniqpix` is not documented yet; it is taken to follow the one before.
        """
        return (
            f"redux_{production}_{self.root}_{survey}_{program}_{number // 100}_{number}.sha256sum"
        )

    def parse_folder(self, path: str) -> tuple[str, str, int] | None:
        """Return survey, program and number of a tile's folder below `root`, None for others."""
        match = re.fullmatch(r"([a-z0-9]+)/([a-z]+)/([0-9]{1,9})/([0-9]{1,9})", path)
        if match is None:
            return None
        survey, program, number = match[1], match[2], int(match[4])
        known = survey in SURVEYS and program in PROGRAMS
        if not known or path != self.folder(survey, program, number):
            return None
        try:
            self.place(number)
        except ValueError:
            return None
        return survey, program, number


def _place_healpix(number: int) -> tuple[int, int]:
    if not 0 <= number < N_HEALPIX:
        raise ValueError(f"{number} is no pixel of nside {NSIDE}, which has {N_HEALPIX}")
    return ORDER, number


def _number_healpix(order: int, pixel: int) -> int:
    return pixel


def place_uniqpix(number: int) -> tuple[int, int]:
    """Return order and pixel (NESTED) of a uniqpix, which is pixel + 4 * nside**2.

    Raises
    ------
    ValueError
        Where the number is no uniqpix of an order up to `MAX_ORDER`.
    """
    order = (number.bit_length() - 3) // 2
    if number < 4 or order > MAX_ORDER:
        raise ValueError(f"{number} is no uniqpix of an order up to {MAX_ORDER}")
    return order, number - (4 << 2 * order)


def _number_uniqpix(order: int, pixel: int) -> int:
    return pixel + (4 << 2 * order)  # 4 * nside**2


LAYOUTS = {
    "healpix": Layout("healpix", "healpix", {}, _place_healpix, _number_healpix, r"(?!)"),
    "uniqpix": Layout(
        "uniqpix",
        "spectra",
        {"hpixexp": "pixexp"},
        place_uniqpix,
        _number_uniqpix,
        r"(hpix2upix|uniqpix)-[a-z0-9]+-[a-z]+\.fits(\.gz)?",
    ),
}
"""The layouts by their name."""


class Tile(NamedTuple):
    """Identity of a tile. A pixel number alone is none: it recurs across surveys and programs.

    Attributes
    ----------
    survey, program
        Of `SURVEYS` and `PROGRAMS`.
    number
        The number that DESI's folders and files carry: the pixel, or the uniqpix.
    layout
        The name of the layout that tells what the number means.
    """

    survey: str
    program: str
    number: int
    layout: str = "healpix"

    @property
    def order(self) -> int:
        """HEALPix order of the tile."""
        return LAYOUTS[self.layout].place(self.number)[0]

    @property
    def pixel(self) -> int:
        """HEALPix pixel of the tile in that order, NESTED."""
        return LAYOUTS[self.layout].place(self.number)[1]

    @property
    def name(self) -> str:
        """Name as in DESI's file names, for example `main-dark-10000`."""
        return f"{self.survey}-{self.program}-{self.number}"

    @property
    def folder(self) -> str:
        """Folder below the layout's root in the archive, for example `main/dark/100/10000`."""
        return LAYOUTS[self.layout].folder(self.survey, self.program, self.number)

    @property
    def archive_folder(self) -> str:
        """Folder below the archive's prefix, for example `healpix/main/dark/100/10000`."""
        return f"{LAYOUTS[self.layout].root}/{self.folder}"

    def file_name(self, kind: str) -> str:
        """Name of the tile's file of that kind (any of `FILE_KINDS` but `sha256sum`)."""
        return LAYOUTS[self.layout].file_name(kind, self.name)

    def checksum_name(self, production: str) -> str:
        """Name of the list of checksums, which carries the production's name (`iron`)."""
        return LAYOUTS[self.layout].checksum_name(
            production, self.survey, self.program, self.number
        )

    def overlaps(self, pixels: Set[int]) -> set[int]:
        """Return which of some pixels of nside 64 the tile overlaps."""
        shift = 2 * (self.order - ORDER)
        if shift >= 0:
            mine = range(self.pixel >> shift, (self.pixel >> shift) + 1)
        else:
            mine = range(self.pixel << -shift, (self.pixel + 1) << -shift)
        return {pixel for pixel in mine if pixel in pixels}


def tile_of(names: Mapping[str, str], layout: str) -> Tile:
    """Return the tile that the wildcards of a job name.

    Parameters
    ----------
    names
        `survey` and `program`, and `healpix` (the number) or `order` and `pixel`.
    layout
        The layout of the archive.
    """
    if "healpix" in names:
        number = int(names["healpix"])
    else:
        number = LAYOUTS[layout].number(int(names["order"]), int(names["pixel"]))
    return Tile(names["survey"], names["program"], number, layout)


def parse_key(key: str, prefix: str, layout: Layout) -> Tile | None:
    """Return the tile in or below whose folder a file lies, None where that is no tile's.

    Parameters
    ----------
    key
        An object's key.
    prefix
        `archive.prefix`.
    layout
        The archive's layout.
    """
    root = f"{prefix}/{layout.root}/"
    *folder, name = key.removeprefix(root).split("/", 4)
    if not (key.startswith(root) and len(folder) == 4 and name) or _ODD.search(key):
        return None
    found = layout.parse_folder("/".join(folder))
    return Tile(*found, layout.name) if found else None


def is_plain(text: str) -> bool:
    """Tell whether a text holds nothing but what DESI's keys and S3's ETags are made of."""
    return not _ODD.search(text)


def kinds_by_name(tile: Tile) -> dict[str, str]:
    """Return the kind of each file that a tile can have, by its name, but the checksums' list."""
    return {tile.file_name(kind): kind for kind in FILE_KINDS if kind != "sha256sum"}


def is_checksum_list(tile: Tile, name: str) -> bool:
    """Tell whether a file of a tile's folder is the list of its checksums, of any production."""
    pattern = re.escape(tile.checksum_name("PRODUCTION")).replace("PRODUCTION", "[A-Za-z0-9.-]+")
    return re.fullmatch(pattern, name) is not None


def is_audited(tile: Tile, fraction: float) -> bool:
    """Tell whether a tile is of the audited share: a hash of its name decides, always the same."""
    lot = int.from_bytes(hashlib.sha256(f"audit {tile.name}".encode()).digest()[:4], "big")
    return lot < fraction * 2**32
