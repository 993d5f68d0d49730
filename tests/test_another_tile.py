"""Files that agree with one another, but are not this tile's or not in DESI's units or shapes.

Each case is fetched in both modes of the transfer and must end in one outcome with one sentence.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from astropy.io import fits as astropy_fits
from fault_server import serve
from fusion_tiles import copy_tile, edit_fits, select
from simulated_archive import checksum_list, key_of, list_sources, read_objects

from desi_fits_to_parquet.download.tile import download_tile
from desi_fits_to_parquet.formats.fits import open_fits
from desi_fits_to_parquet.fuse.tile import fuse_tile
from desi_fits_to_parquet.simulate.tile import simulate_tile
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.validate import validate_tile

TILE, OTHER = Tile("main", "dark", 10000), Tile("main", "dark", 10001)
KINDS = ("coadd", "redrock", "emline", "rrdetails")
Change = Callable[[Path, Path], None]

pytestmark = pytest.mark.filterwarnings("ignore::astropy.units.UnitsWarning")


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The tile, and another one's files under the tile's names."""
    root = tmp_path_factory.mktemp("tiles")
    for tile in (TILE, OTHER):
        simulate_tile(tile, root / tile.name, 8, quasar_share=0.6, scan_step=100, kinds=KINDS)
    for kind in KINDS:
        name = root / OTHER.name / OTHER.file_name(kind)
        name.rename(root / OTHER.name / TILE.file_name(kind))
    return root / TILE.name, root / OTHER.name


def convert_both_ways(
    folder: Path, work: Path, settings: dict[str, Any]
) -> list[tuple[str, str, int | None, int]]:
    """Outcome, reason, rows and rows outside, of mode `files` and of mode `rows`."""
    copy_tile(folder, work / "archive" / TILE.folder)
    objects = read_objects(TILE, work / "archive")
    objects[key_of(TILE, "sha256sum")] = checksum_list(TILE, objects)
    found = []
    with serve(objects) as service:
        settings["archive"]["endpoint"] = service.endpoint
        for mode in ("files", "rows"):
            settings["transfer"] |= {"mode": mode, "attempts": 2, "audit_fraction": 0}
            fits, out = work / mode / "fits", work / mode / "parquet"
            download_tile(TILE, list_sources(TILE, objects), settings, fits)
            record = fuse_tile(TILE, fits, out, settings)
            marker = validate_tile(TILE, fits, out, record, settings)
            outside = marker["n_outside"]
            found.append((marker["outcome"], marker["reason"], marker["n_rows"], outside))
            there = marker["outcome"] in ("converted", "no_targets")
            assert bool(list(out.iterdir())) == there
    return found


def all_files(mine: Path, other: Path) -> None:
    shutil.copytree(other, mine, dirs_exist_ok=True)


def nameless(mine: Path, other: Path) -> None:
    """All files of another tile, which do not say whose they are."""
    all_files(mine, other)

    def forget(hdus: Any) -> None:
        for key in ("HPXPIXEL", "HPXNSIDE", "SURVEY", "PROGRAM"):
            hdus[0].header.remove(key, ignore_missing=True)

    for path in mine.glob("*.fits"):
        edit_fits(path, forget)


def names(kind: str, **values: Any) -> Change:
    """Change what a file says of itself."""
    return lambda mine, _: edit_fits(
        mine / TILE.file_name(kind), lambda hdus: hdus[0].header.update(values)
    )


def unit(hdu: str, text: str) -> Change:
    return lambda mine, _: edit_fits(
        mine / TILE.file_name("coadd"), lambda hdus: hdus[hdu].header.update(BUNIT=text)
    )


def image(hdu: str, change: Callable[[Any], Any]) -> Change:
    def edit(hdus: Any) -> None:
        hdus[hdu].data = change(hdus[hdu].data)

    return lambda mine, _: edit_fits(mine / TILE.file_name("coadd"), edit)


def other_lines(mine: Path, other: Path) -> None:
    shutil.copy(other / TILE.file_name("emline"), mine)
    edit_fits(
        mine / TILE.file_name("emline"), lambda hdus: hdus[0].header.update(HPXPIXEL=TILE.pixel)
    )


def other_fits(mine: Path, other: Path) -> None:
    shutil.copy(other / TILE.file_name("rrdetails"), mine)


def zwarn_nan(mine: Path, _other: Path) -> None:
    def edit(hdus: Any) -> None:
        columns = [
            astropy_fits.Column("ZWARN", "D", array=np.full(8, np.nan))
            if c.name == "ZWARN" else c
            for c in hdus["REDSHIFTS"].columns
        ]  # fmt: skip
        hdus["REDSHIFTS"] = astropy_fits.BinTableHDU.from_columns(columns, name="REDSHIFTS")

    edit_fits(mine / TILE.file_name("redrock"), edit)


def moved(rows: slice, declination: float) -> Change:
    def edit(hdus: Any) -> None:
        hdus["FIBERMAP"].data["TARGET_DEC"][rows] = declination

    return lambda mine, _: edit_fits(mine / TILE.file_name("coadd"), edit)


def coadd(change: Callable[[Any], Any]) -> Change:
    return lambda mine, _: edit_fits(mine / TILE.file_name("coadd"), change)


def cut(hdu: str, kind: str = "coadd", stop: int = 5) -> Change:
    """Take rows away from an image or a table."""

    def edit(hdus: Any) -> None:
        hdus[hdu].data = hdus[hdu].data[:stop]

    return lambda mine, _: edit_fits(mine / TILE.file_name(kind), edit)


def negative(hdus: Any) -> None:
    hdus["R_IVAR"].data[6:, 100] = -1


def one_nan(hdus: Any) -> None:
    hdus["R_FLUX"].data[:, 100], hdus["R_IVAR"].data[:, 100] = np.nan, 1


def stranger(shape: tuple[int, int]) -> Change:
    image = astropy_fits.ImageHDU(np.zeros(shape, np.float32), name="Q_FLUX")
    return coadd(lambda hdus: hdus.append(image))


def empty(mine: Path, other: Path) -> None:
    for hdu in ("REDSHIFTS", "FIBERMAP", "TSNR2"):
        cut(hdu, "redrock", 0)(mine, other)


COADD, REDROCK, EMLINE, DETAILS = (TILE.file_name(kind) for kind in KINDS)
CASES: dict[str, tuple[Change, str, str]] = {
    "all files of another tile": (
        all_files, REDROCK, "HDU PRIMARY: HPXPIXEL is 10001, of main-dark-10000 it would be 10000",
    ),
    "all files of another tile, nameless": (
        nameless, COADD, "selected targets lie outside the pixel of main-dark-10000",
    ),
    "redrock of another survey": (
        names("redrock", SURVEY="sv3"), REDROCK, "HDU PRIMARY: SURVEY is 'sv3'",
    ),
    "coadd of another program": (
        names("coadd", PROGRAM="bright"), COADD, "HDU PRIMARY: PROGRAM is 'bright'",
    ),
    "emline of another pixel": (
        names("emline", HPXPIXEL=17), EMLINE, "HDU PRIMARY: HPXPIXEL is 17",
    ),
    "emline of another tile's targets": (
        other_lines, EMLINE, "HDU EMLINEFIT holds 8 targets and none of this tile's",
    ),
    "rrdetails of another tile": (other_fits, DETAILS, "selected targets: it is another tile's"),
    "flux of another scale": (
        unit("B_FLUX", "10**-16 erg/(s cm2 Angstrom)"), COADD, "HDU B_FLUX: BUNIT is '10**-16 erg",
    ),
    "flux per frequency": (
        unit("R_FLUX", "10**-17 erg/(s cm2 Hz)"), COADD, "HDU R_FLUX: BUNIT is '10**-17 erg",
    ),
    "ivar of another scale": (
        unit("Z_IVAR", "10**+32 (s2 cm4 Angstrom2) / erg2"), COADD, "HDU Z_IVAR: BUNIT is '10**+32",
    ),
    "wavelengths in nm": (unit("B_WAVELENGTH", "nm"), COADD, "HDU B_WAVELENGTH: BUNIT is 'nm'"),
    "pixels of 8 Angstrom": (
        image("Z_WAVELENGTH", lambda wave: 9000 + 8.0 * np.arange(len(wave))),
        COADD, "HDU Z_WAVELENGTH: pixels 0 and 1 are 8 apart, those of DESI 0.8 Angstrom",
    ),
    "spectra beyond the range that is wanted": (
        lambda mine, other: [image(f"{c}_WAVELENGTH", lambda wave: wave + 80_000)(mine, other)
                             for c in "BRZ"],
        COADD, "spectra.wavelength_range [3600, 9800] holds no pixel",
    ),
    "mask beyond 32 bits": (
        image("B_MASK", lambda mask: mask.astype(np.int64) + (1 << 40)),
        COADD, "HDU B_MASK holds values that do not fit int32",
    ),
    "mask with the highest of 32 bits": (
        image("B_MASK", lambda mask: mask.astype(np.uint32) | np.uint32(1 << 31)),
        COADD, "HDU B_MASK holds values that do not fit int32",
    ),
    "mask of fractions": (
        image("R_MASK", lambda mask: mask.astype(np.float32) + np.float32(0.5)),
        COADD, "HDU R_MASK holds values that do not fit int32",
    ),
    "ZWARN without a number": (
        zwarn_nan, REDROCK, "HDU REDSHIFTS, column ZWARN holds values that do not fit int64",
    ),
    "ivar without a number": (
        image("B_IVAR", lambda ivar: ivar * np.nan), COADD, "(spectra.max_not_finite) are NaN",
    ),
    "position without a number": (
        moved(slice(None), np.nan), COADD, "which is no position",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_this_tiles_or_not_desis_is_refused_in_both_modes(
    tiles: tuple[Path, Path], tmp_path: Path, settings: dict[str, Any], case: str
) -> None:
    change, file, sentence = CASES[case]
    mine = copy_tile(tiles[0], tmp_path / "mine")
    change(mine, tiles[1])
    found = convert_both_ways(mine, tmp_path, settings)
    for outcome, reason, rows, outside in found:
        assert (outcome, rows, outside) == ("corrupt_source", None, 0), reason
        assert reason.startswith(f"{file}: ")
        assert sentence in reason
    assert found[0] == found[1]


SAME_IN_BOTH: dict[str, tuple[Change, str, str]] = {
    "an image of no arm": (stranger((3, 5)), "converted", ""),
    "an image of no arm with a row a target": (stranger((8, 5)), "converted", ""),
    "redrock without rows": (empty, "no_targets", ""),
    "redrock without bytes": (
        lambda mine, _: (mine / TILE.file_name("redrock")).write_bytes(b""),
        "corrupt_source", f"{REDROCK}: the file is empty",
    ),
    "a pixel without a number": (coadd(one_nan), "converted", ""),
    "a negative ivar": (
        coadd(negative), "corrupt_source",
        f"{COADD}: HDU R_IVAR is -1.0 for TARGETID ",
    ),
    "an image that is not there": (
        coadd(lambda hdus: hdus.__delitem__("Z_MASK")), "corrupt_source",
        f"{COADD}: HDU Z_MASK is missing (there: PRIMARY, FIBERMAP, EXP_FIBERMAP, B_WAVELENGTH",
    ),
    "an image of fewer rows": (
        cut("Z_MASK"), "corrupt_source",
        f"{COADD}: HDU Z_MASK has shape (5, 2881), but 8 targets in FIBERMAP",
    ),
    "an image of three dimensions": (
        image("Z_FLUX", lambda flux: flux[:, :, None]), "corrupt_source",
        f"{COADD}: HDU Z_FLUX has shape (8, 2881, 1), but 8 targets in FIBERMAP",
    ),
    "an image of fewer pixels": (
        image("Z_FLUX", lambda flux: flux[:, :-1]), "corrupt_source",
        f"{COADD}: HDU Z_FLUX has shape (8, 2880), but 8 targets in FIBERMAP",
    ),
    "scores of fewer targets": (
        cut("SCORES"), "corrupt_source", f"{COADD}: HDU SCORES lacks TARGETID",
    ),
    "scores in another order": (
        image("SCORES", lambda scores: scores[::-1].copy()), "converted", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SAME_IN_BOTH)
def test_both_modes_end_in_one_outcome_with_one_sentence(
    tiles: tuple[Path, Path], tmp_path: Path, settings: dict[str, Any], case: str
) -> None:
    change, outcome, sentence = SAME_IN_BOTH[case]
    settings["columns"]["scores"] = "scores" in case
    mine = copy_tile(tiles[0], tmp_path / "mine")
    change(mine, tiles[1])
    found = convert_both_ways(mine, tmp_path, settings)
    assert found[0] == found[1]
    assert found[0][0] == outcome, found[0]
    assert found[0][1].startswith(sentence)


def test_a_broken_row_of_a_compressed_mask_is_named_by_its_row_in_the_source(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    mine = tmp_path / "mine"
    simulate_tile(
        TILE, mine, 8, quasar_share=0.6, scan_step=100, kinds=KINDS, mask_form="compressed"
    )
    path = mine / TILE.file_name("coadd")
    with open_fits(path) as fits:
        hdu = fits.hdus["B_MASK"]
        wanted = select(mine, settings).row[-1]
        at = hdu.data_start + int(wanted) * int(hdu.header["NAXIS1"])
        size, offset = np.frombuffer(fits.read_at(at, 8), ">i4").tolist()
        begin = hdu.data_start + int(hdu.header["NAXIS1"]) * 8 + offset
    data = bytearray(path.read_bytes())
    data[begin : begin + size] = bytes(size)
    path.write_bytes(data)
    found = convert_both_ways(mine, tmp_path, settings)
    assert found[0] == found[1]
    assert found[0][:1] == ("corrupt_source",)
    assert f"{COADD}: HDU B_MASK, row {wanted}: its compressed tile is broken" in found[0][1]


def test_a_row_outside_its_tile_is_kept_and_counted(
    tiles: tuple[Path, Path], tmp_path: Path, settings: dict[str, Any]
) -> None:
    mine = copy_tile(tiles[0], tmp_path / "mine")
    settings["selection"] |= {"spectypes": ["QSO", "GALAXY", "STAR"], "zwarn": None}
    settings["selection"]["objtypes"] = ["TGT", "SKY", "NON", "BAD"]
    assert [f[3] for f in convert_both_ways(mine, tmp_path / "inside", settings)] == [0, 0]
    moved(slice(0, 3), -60.0)(mine, tiles[1])
    found = convert_both_ways(mine, tmp_path / "outside", settings)
    assert found == [("converted", "", 8, 3)] * 2


def test_units_in_another_spelling_are_desis(
    tiles: tuple[Path, Path], tmp_path: Path, settings: dict[str, Any]
) -> None:
    mine = copy_tile(tiles[0], tmp_path / "mine")
    for camera in "BRZ":
        unit(f"{camera}_FLUX", "1e-17 erg / (s cm2 Angstrom)")(mine, tiles[1])
        unit(f"{camera}_IVAR", "1E+34 s2 cm4 Angstrom2 erg-2")(mine, tiles[1])
    for outcome, reason, *_ in convert_both_ways(mine, tmp_path, settings):
        assert outcome == "converted", reason


def test_rrdetails_without_some_targets_and_empty_tables_are_no_other_tiles(
    tiles: tuple[Path, Path], tmp_path: Path, settings: dict[str, Any]
) -> None:
    mine = copy_tile(tiles[0], tmp_path / "mine")

    def empty(hdus: Any) -> None:
        hdus["EMLINEFIT"].data = hdus["EMLINEFIT"].data[:0]

    edit_fits(mine / TILE.file_name("emline"), empty)
    with h5py.File(mine / TILE.file_name("rrdetails"), "a") as details:
        redshifts = astropy_fits.getdata(mine / TILE.file_name("redrock"), "REDSHIFTS")
        quasars = redshifts["TARGETID"][(redshifts["SPECTYPE"] == "QSO")]
        del details[f"zfit/{quasars[0]}"]
    for outcome, reason, *_ in convert_both_ways(mine, tmp_path, settings):
        assert outcome == "converted", reason
