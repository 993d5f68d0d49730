"""The demo's archive: 26 small tiles with the faults that a run must survive."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from desi_fits_to_parquet.formats.fits import open_fits
from desi_fits_to_parquet.simulate.tile import DEFAULT_KINDS, Simulated, simulate_tile
from desi_fits_to_parquet.tile import LAYOUTS, ORDER, Tile

DEMO_PREFIXES = {"healpix": "dr1/spectro/redux/iron", "uniqpix": "dr3/spectro/redux/matterhorn"}
"""Folder of the production in the demo's archive, by layout."""

DEMO_BRIGHT = tuple(Tile("main", "bright", pixel) for pixel in range(10000, 10006))
"""The demo's tiles of the bright survey."""

_OPTIONAL_KINDS = ("emline", "rrdetails")

_DEMO_FAULTS = {
    10005: "redrock is missing",
    10006: "coadd is missing",
    10008: "coadd does not match its checksum",
    10009: "coadd is truncated",
}
"""Pixels of main/dark in the demo's archive that cannot be converted."""

_ALONE = (5, 27247)
"""Pixels of the demo's archive that have no neighbours: with uniqpix the tile is of order 5."""


def simulate_demo_archive(
    folder: Path, seed: int = 1, prefix: str | None = None, layout: str = "healpix"
) -> dict[Tile, str]:
    """Write an archive of 26 small tiles with the faults that a run must survive.

    Pixel 10000 is in all three of main/dark, main/bright and sv3/dark. In main/dark, pixels
    10001 to 10003 vary the files' form (MASK unsigned, MASK compressed, newer redrock); 10004
    holds no quasar; 10005 lacks redrock, 10006 coadd, 10007 emline and rrdetails; in 10008 a
    bit of the coadd's FIBERMAP is flipped after its checksum was listed; 10009's coadd is cut off
    in the middle; in 10010 the rows of redrock and coadd are in different order. `mend_demo_tile`
    repairs a tile.

    In layout `uniqpix` these are the tiles of orders 5, 6 and 7 at the same places (`demo_tile`),
    and each program's folder holds what it holds since DR3, `hpix2upix` and `uniqpix`.

    Parameters
    ----------
    folder
        Root of the archive; files go to `<folder>/<prefix>/<tile.archive_folder>/`.
    seed
        Seed; the same arguments give the same bytes.
    prefix
        Prefix in the bucket; its last part is the name of the production. None for that of
        `DEMO_PREFIXES`.
    layout
        Layout of the archive, `healpix` or `uniqpix`.

    Returns
    -------
    dict of Tile to str
        The outcome that a run with the default selection (quasars) must give each tile.
    """
    prefix = prefix or DEMO_PREFIXES[layout]
    expected = {}
    done = []
    for tile, fault in _demo_tiles(layout).items():
        done.append(mend_demo_tile(folder, tile, seed, prefix))
        expected[tile] = "converted" if done[-1].n_quasars else "no_targets"
        if fault:
            _spoil(done[-1].folder, tile, fault)
            expected[tile] = "missing_source" if "missing" in fault else "corrupt_source"
    if layout == "uniqpix":
        for (survey, program), tiles in groupby(done, lambda one: one.tile[:2]):
            _write_pixel_maps(
                folder / prefix / LAYOUTS[layout].root / survey / program, list(tiles)
            )
    return expected


def mend_demo_tile(folder: Path, tile: Tile, seed: int = 1, prefix: str | None = None) -> Simulated:
    """Write a tile of the demo's archive without its fault; see `simulate_demo_archive`."""
    prefix = prefix or DEMO_PREFIXES[tile.layout]
    options = {demo_tile(*place, tile.layout): o for place, o in _demo_plan().items()}
    return simulate_tile(
        tile,
        folder / prefix / tile.archive_folder,
        seed=seed,
        production=prefix.rsplit("/", 1)[-1],
        exposures_per_target=2,
        scan_step=50,
        **options[tile],
    )


def demo_tile(survey: str, program: str, pixel: int, layout: str = "healpix") -> Tile:
    """Return the tile of the demo's archive at a pixel of nside 64.

    With uniqpix that is the pixel itself where its number is even, the first quarter of it where
    it is odd, and the four times larger one where it has no neighbours in the archive.
    """
    order = ORDER
    if layout == "uniqpix":
        order = 5 if pixel in _ALONE else 6 + pixel % 2
    pixel = pixel >> 2 if order < ORDER else pixel << 2 * (order - ORDER)
    return Tile(survey, program, LAYOUTS[layout].number(order, pixel), layout)


def _demo_tiles(layout: str) -> dict[Tile, str | None]:
    """Return the tiles of the demo's archive with the fault that each has."""
    return {
        demo_tile(survey, program, pixel, layout): (
            _DEMO_FAULTS.get(pixel) if (survey, program) == ("main", "dark") else None
        )
        for survey, program, pixel in _demo_plan()
    }


def _spoil(folder: Path, tile: Tile, fault: str) -> None:
    coadd = folder / tile.file_name("coadd")
    if fault == "redrock is missing":
        (folder / tile.file_name("redrock")).unlink()
    elif fault == "coadd is missing":
        coadd.unlink()
    elif fault == "coadd is truncated":
        truncate(coadd)
    else:
        flip_bit(coadd)


def _demo_plan() -> dict[tuple[str, str, int], dict[str, Any]]:
    """Arguments of `simulate_tile` for survey, program and pixel (nside 64) of the archive."""
    without = tuple(kind for kind in DEFAULT_KINDS if kind not in _OPTIONAL_KINDS)
    dark: dict[int, dict[str, Any]] = {
        10001: {"mask_form": "unsigned"},
        10002: {"mask_form": "compressed"},
        10003: {"redrock_columns": "newer"},
        10004: {"quasar_share": 0.0},
        10007: {"kinds": without},
        10010: {"shuffle_redrock": True},
    }
    plan: dict[tuple[str, str, int], dict[str, Any]] = {}
    for pixel in (5, *range(10000, 10013), 27247):
        plan["main", "dark", pixel] = dark.get(pixel, {})
    for tile in DEMO_BRIGHT:  # quasars are rare among the bright targets
        pixel = tile.pixel
        plan["main", "bright", pixel] = {"quasar_share": 0.0 if pixel % 2 else 0.02}
    for pixel in (10000, 10256, 10257, 10258, 10259):
        plan["sv3", "dark", pixel] = {"quasar_share": 0.0} if pixel == 10258 else {}
    return {
        place: {"n_targets": 12 + i * 5 % 9, "quasar_share": 0.2} | options
        for i, (place, options) in enumerate(plan.items())
    }


def _write_pixel_maps(folder: Path, tiles: Sequence[Simulated]) -> None:
    """Write what each program's folder holds in layout uniqpix beside its tiles.

    `hpix2upix-{survey}-{program}.fits` tells of each fine pixel in which uniqpix it lies (-1 for
    none) and how many targets it has (here as if spread evenly over the tile),
    `uniqpix-{survey}-{program}.fits` how many targets and spectra of exposures the tiles have.

    Source: desidatamodel, DESI_SPECTRO_REDUX/SPECPROD/spectra/SURVEY/PROGRAM, of June 2026.

    Parameters
    ----------
    folder
        Folder of the program.
    tiles
        All its tiles.
    """
    from astropy.io import fits

    survey, program = tiles[0].tile[:2]
    order = max(done.tile.order for done in tiles)
    numbers = np.full(12 << 2 * order, -1, np.int32)
    counts = np.zeros(12 << 2 * order, np.int32)
    for done in tiles:
        shift = 2 * (order - done.tile.order)
        mine = slice(done.tile.pixel << shift, (done.tile.pixel + 1) << shift)
        numbers[mine] = done.tile.number
        counts[mine] = np.bincount(np.arange(done.n_targets) % (1 << shift), minlength=1 << shift)
    rows = np.array(
        [(done.tile.number, done.n_targets, done.n_spectra) for done in tiles],
        [("UNIQPIX", np.int32), ("NTARGETS", np.int32), ("NSPECTRA", np.int32)],
    )
    # without checksums, whose cards astropy dates: the same arguments give the same bytes
    for name, hdus in (
        ("uniqpix", [fits.BinTableHDU(rows, name="UNIQPIX")]),
        (
            "hpix2upix",
            [
                fits.ImageHDU(numbers, name="HPIX2UPIX"),
                fits.ImageHDU(counts, name="HPIX_NTARGETS"),
            ],
        ),
    ):
        path = folder / f"{name}-{survey}-{program}.fits"
        fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path, overwrite=True)


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
