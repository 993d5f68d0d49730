"""The demo's archive: 26 small tiles with the faults that a run must survive."""

from pathlib import Path
from typing import Any

from desi_fits_to_parquet.formats.fits import open_fits
from desi_fits_to_parquet.simulate.tile import DEFAULT_KINDS, Simulated, simulate_tile
from desi_fits_to_parquet.tile import Tile

DEMO_PREFIX = "dr1/spectro/redux/iron"


_OPTIONAL_KINDS = ("emline", "rrdetails")

_DEMO_FAULTS = {
    10005: "redrock is missing",
    10006: "coadd is missing",
    10008: "coadd does not match its checksum",
    10009: "coadd is truncated",
}
"""Pixels of main/dark in the demo's archive that cannot be converted."""


def simulate_demo_archive(
    folder: Path, seed: int = 1, prefix: str = DEMO_PREFIX
) -> dict[Tile, str]:
    """Write an archive of 26 small tiles with the faults that a run must survive.

    Pixel 10000 is in all three of main/dark, main/bright and sv3/dark. In main/dark, pixels
    10001 to 10003 vary the files' form (MASK unsigned, MASK compressed, newer redrock); 10004
    holds no quasar; 10005 lacks redrock, 10006 coadd, 10007 emline and rrdetails; in 10008 a
    bit of the coadd's FIBERMAP is flipped after its checksum was listed; 10009's coadd is cut off
    in the middle; in 10010 the rows of redrock and coadd are in different order. `mend_demo_tile`
    repairs a tile.

    Parameters
    ----------
    folder
        Root of the archive; files go to `<folder>/<prefix>/<tile.archive_folder>/`.
    seed
        Seed; the same arguments give the same bytes.
    prefix
        Prefix in the bucket; its last part is the name of the production.

    Returns
    -------
    dict of Tile to str
        The outcome that a run with the default selection (quasars) must give each tile.
    """
    expected = {}
    for tile in _demo_plan():
        done = mend_demo_tile(folder, tile, seed, prefix)
        expected[tile] = "converted" if done.n_quasars else "no_targets"
        fault = _DEMO_FAULTS.get(tile.number) if tile[:2] == ("main", "dark") else None
        if fault == "redrock is missing":
            (done.folder / tile.file_name("redrock")).unlink()
        elif fault == "coadd is missing":
            (done.folder / tile.file_name("coadd")).unlink()
        elif fault == "coadd is truncated":
            truncate(done.folder / tile.file_name("coadd"))
        elif fault:
            flip_bit(done.folder / tile.file_name("coadd"))
        if fault:
            expected[tile] = "missing_source" if "missing" in fault else "corrupt_source"
    return expected


def mend_demo_tile(folder: Path, tile: Tile, seed: int = 1, prefix: str = DEMO_PREFIX) -> Simulated:
    """Write a tile of the demo's archive without its fault; see `simulate_demo_archive`."""
    return simulate_tile(
        tile,
        folder / prefix / tile.archive_folder,
        seed=seed,
        production=prefix.rsplit("/", 1)[-1],
        exposures_per_target=2,
        scan_step=50,
        **_demo_plan()[tile],
    )


def _demo_plan() -> dict[Tile, dict[str, Any]]:
    """Arguments of `simulate_tile` for each tile of the demo's archive."""
    without = tuple(kind for kind in DEFAULT_KINDS if kind not in _OPTIONAL_KINDS)
    dark: dict[int, dict[str, Any]] = {
        10001: {"mask_form": "unsigned"},
        10002: {"mask_form": "compressed"},
        10003: {"redrock_columns": "newer"},
        10004: {"quasar_share": 0.0},
        10007: {"kinds": without},
        10010: {"shuffle_redrock": True},
    }
    plan: dict[Tile, dict[str, Any]] = {}
    for pixel in (5, *range(10000, 10013), 27247):
        plan[Tile("main", "dark", pixel)] = dark.get(pixel, {})
    for pixel in range(10000, 10006):  # quasars are rare among the bright targets
        plan[Tile("main", "bright", pixel)] = {"quasar_share": 0.0 if pixel % 2 else 0.02}
    for pixel in (10000, 10256, 10257, 10258, 10259):
        plan[Tile("sv3", "dark", pixel)] = {"quasar_share": 0.0} if pixel == 10258 else {}
    return {
        tile: {"n_targets": 12 + i * 5 % 9, "quasar_share": 0.2} | options
        for i, (tile, options) in enumerate(plan.items())
    }


def flip_bit(coadd: Path) -> None:
    """Flip a bit of a flux in a coadd's FIBERMAP: only DATASUM and the file's sha256 tell."""
    with open_fits(coadd) as fits:
        hdu = fits.hdus["FIBERMAP"]
    with coadd.open("r+b") as stream:
        stream.seek(hdu.data_start + 100)  # FLUX_IVAR_Z of the first row
        byte = stream.read(1)[0]
        stream.seek(-1, 1)
        stream.write(bytes([byte ^ 0x10]))


def truncate(coadd: Path) -> None:
    """Cut a coadd off in the middle: HDUs are missing, the size is not that of the original."""
    with coadd.open("r+b") as stream:
        stream.truncate(coadd.stat().st_size // 2)
