"""What a tile is, and how DESI names its folder and files."""

from typing import NamedTuple

NSIDE = 64
"""Resolution of the tiles' HEALPix grid, in NESTED order (PRIMARY keyword HPXNSIDE)."""

N_HEALPIX = 12 * NSIDE**2

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


class Tile(NamedTuple):
    """Identity of a tile. A pixel number alone is none: it recurs across surveys and programs."""

    survey: str
    program: str
    healpix: int

    @property
    def name(self) -> str:
        """Name as in DESI's file names, for example `main-dark-10000`."""
        return f"{self.survey}-{self.program}-{self.healpix}"

    @property
    def folder(self) -> str:
        """Folder below `<prefix>/healpix/` in the archive, for example `main/dark/100/10000`."""
        return f"{self.survey}/{self.program}/{self.healpix // 100}/{self.healpix}"

    def file_name(self, kind: str) -> str:
        """Name of the tile's file of that kind (any of `FILE_KINDS` but `sha256sum`)."""
        return f"{kind}-{self.name}{_SUFFIXES.get(kind, '.fits')}"

    def checksum_name(self, production: str) -> str:
        """Name of the list of checksums, which carries the production's name (`iron`)."""
        group = self.healpix // 100
        return (
            f"redux_{production}_healpix_{self.survey}_{self.program}_{group}_{self.healpix}"
            ".sha256sum"
        )
