"""The second reader finds what is wrong with the first, and nothing where nothing is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from fusion_tiles import TILE, changed, convert, copy_tile, write_tile

from desi_fits_to_parquet.fuse.tile import fuse_tile
from desi_fits_to_parquet.outcomes import BadTile
from desi_fits_to_parquet.second_reader import read_again
from desi_fits_to_parquet.tile import Tile

Settings = dict[str, Any]

pytestmark = pytest.mark.filterwarnings("ignore::astropy.units.UnitsWarning")

EVERYTHING = {"fibermap": "all", "scores": True, "exposures": True, "rrdetails_scans": True,
              "qso_mgii": True, "qso_qn": True}  # fmt: skip


@pytest.fixture(scope="module")
def tile_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tile(tmp_path_factory.mktemp("tile"))


@pytest.fixture
def audited(settings: Settings) -> Settings:
    return changed(settings, columns=EVERYTHING, transfer={"audit_fraction": 1})


CHOICES: dict[str, dict[str, dict[str, Any]]] = {
    "all columns": {},
    "lossless": {"precision": {"mode": "lossless"}},
    "separate arms": {"spectra": {"cameras": "separate"}, "precision": {"ivar_bits": 24}},
    "masked pixels as desispec": {"spectra": {"masked_pixels": "desispec"}},
    "arms as the files have them": {
        "spectra": {"cameras": "separate", "masked_pixels": "desispec"}
    },
    "bits of the arms": {"spectra": {"mask_arms": True}},
    "widths of lines": {"spectra": {"resolution": "lsf"}},
    "widths of lines, every bit": {"spectra": {"resolution": "lsf"},
                                   "precision": {"mode": "lossless"}},
    "matrices": {"spectra": {"resolution": "matrix", "cameras": "separate"}},
    "some wavelengths": {"spectra": {"wavelength_range": [5700, 7600]}},
    "the quasar catalogue": {"selection": {"preset": "desi_qso"}},
    "galaxies with warnings": {
        "selection": {"spectypes": ["GALAXY", "STAR"], "zwarn": ["POORDATA", "SMALL_DELTA_CHI2"],
                      "objtypes": ["TGT", "SKY"], "coadd_fiberstatus": [0]},
    },
    "a cut": {"selection": {"zwarn": None, "z": [0.5, 3], "deltachi2": [9, 1e9]}},
    "targeting bits": {"selection": {"targets": ["QSO", "LRG"], "spectypes": ["GALAXY", "QSO"]}},
    "nobody": {"selection": {"z": [90, 91]}},
}  # fmt: skip


@pytest.mark.parametrize("choice", CHOICES)
def test_both_readers_agree_whatever_is_asked_for(
    tile_folder: Path, tmp_path: Path, audited: Settings, choice: str
) -> None:
    _, marker, _ = convert(TILE, tile_folder, tmp_path, changed(audited, **CHOICES[choice]))
    assert marker["outcome"] == ("no_targets" if choice == "nobody" else "converted"), marker
    assert marker["second_reader"] is True


@pytest.mark.parametrize(
    "variant",
    [
        {"mask_form": "compressed_unsigned"},
        {"mask_form": "unsigned", "redrock_columns": "newer", "shuffle_redrock": True},
        {"tile": Tile("sv1", "dark", 4 * 128**2 + 40000, "uniqpix"), "kinds": ("coadd", "redrock")},
    ],
    ids=["compressed masks", "newer redrock", "no optional file"],
)
def test_both_readers_agree_on_every_form_of_file(
    tmp_path: Path, audited: Settings, variant: dict[str, Any]
) -> None:
    tile = variant.get("tile", TILE)
    folder = write_tile(tmp_path / "fits", n_targets=12, **{"tile": tile, **variant})
    _, marker, _ = convert(tile, folder, tmp_path, audited)
    assert marker["outcome"] == "converted", marker["reason"]


def test_both_readers_agree_on_real_files(
    real_data: Path, tmp_path: Path, audited: Settings
) -> None:
    folder, tile = real_data / "special/dark/272/27247", Tile("special", "dark", 27247)
    _, marker, _ = convert(tile, folder, tmp_path, changed(audited, selection={"spectypes": [
        "GALAXY", "QSO", "STAR"], "zwarn": None, "objtypes": ["TGT", "SKY", "BAD"]}))  # fmt: skip
    assert marker["outcome"] == "converted", marker["reason"]


def test_a_tile_that_is_not_audited_is_not_read_again(
    tile_folder: Path, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("desi_fits_to_parquet.validate.read_again", None)
    nothing = changed(settings, transfer={"audit_fraction": 0})
    _, marker, _ = convert(TILE, tile_folder, tmp_path, nothing)
    assert (marker["outcome"], marker["second_reader"]) == ("converted", False)


def wrong(name: str, change: Callable[[Any], Any]) -> tuple[str, Callable[..., Any]]:
    """Let a function of the package return something else."""
    module, _, function = name.rpartition(".")
    right = getattr(__import__(f"desi_fits_to_parquet.{module}", fromlist=["x"]), function)
    return (
        f"desi_fits_to_parquet.{name}",
        lambda *args, **kwargs: change(right(*args, **kwargs)),
    )


FAULTS: dict[str, tuple[str, str, Callable[[Any], Any]]] = {
    "numbers a bit too large": (
        "formats.fits_tables.unscale",
        "column chi2 is",
        lambda v: v * np.float32(1 + 2**-20) if v.dtype.kind == "f" else v,
    ),
    "values of the next row": (
        "record.tables.to_arrow",
        "column _healpix_29 is",
        lambda v: v.take(np.roll(np.arange(len(v)), 1)) if pa.types.is_floating(v.type) else v,
    ),
    "spectra of the next row": (
        "record.spectra.read_image",
        ", pixel",
        lambda v: np.roll(v, 1, axis=0) if v.ndim == 2 and v.dtype.kind == "f" else v,
    ),
    "masks without their highest bits": (
        "record.spectra.read_image",
        "column mask",
        lambda v: v & 1 if v.dtype.kind in "iu" else v,
    ),
    "a target too few": (
        "record.opened.select_targets",
        "targetid",
        lambda s: s._replace(**{k: v[1:] for k, v in s._asdict().items() if k != "n_targets"}),
    ),
    "weights that are lost": (
        "record.spectra.combine",
        "column flux, pixel",
        lambda s: s._replace(flux=s.flux * np.float32(1.01)),
    ),
    "a grid that is shifted": (
        "record.spectra.join_grids",
        "column wavelength, pixel 0",
        lambda grid: grid._replace(wavelength=grid.wavelength + (grid.wavelength < 5e3) / 500),
    ),
    "pixels of the sky that are others": (
        "record.opened.pixels_at", "column _healpix_29", lambda pixel: pixel + 64,
    ),
    "the best fits of another": (
        "record.tables.read_fit_tables",
        "column rrdetails",
        lambda tables: dict(zip(tables, list(tables.values())[::-1], strict=True)),
    ),
    "text of which a letter is lost": (
        "record.tables.to_arrow",
        "column spectype is",
        lambda array: pc.utf8_slice_codeunits(array, 1) if array.type == pa.string() else array,
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_fusion_and_validation_share_is_found_by_the_second_reader(
    tile_folder: Path,
    tmp_path: Path,
    audited: Settings,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    name, sentence, change = FAULTS[fault]
    monkeypatch.setattr(*wrong(name, change))
    unnoticed = changed(audited, transfer={"audit_fraction": 0})
    _, marker, _ = convert(TILE, tile_folder, tmp_path, unnoticed)
    assert marker["outcome"] == "converted", marker["reason"]
    _, marker, path = convert(TILE, tile_folder, tmp_path, audited)
    assert marker["outcome"] == "invalid_output"
    assert "read again with astropy" in marker["reason"]
    assert sentence in marker["reason"]
    assert (marker["second_reader"], marker["sha256"]) == (True, None)
    assert not path.exists()


def test_what_only_this_project_can_read_is_no_proof(
    tile_folder: Path, tmp_path: Path, audited: Settings
) -> None:
    folder = copy_tile(tile_folder, tmp_path / "fits")
    fuse_tile(TILE, folder, tmp_path, audited)
    (folder / TILE.file_name("emline")).write_bytes(b"no FITS")
    path = tmp_path / f"{TILE.name}.parquet"
    with pytest.raises(BadTile, match="cannot be read so"):
        read_again(TILE, folder, path, audited)


def test_rows_in_another_order_are_found(
    tile_folder: Path, tmp_path: Path, audited: Settings
) -> None:
    fuse_tile(TILE, tile_folder, tmp_path, audited)
    path = tmp_path / f"{TILE.name}.parquet"
    table = pq.ParquetFile(path).read()
    pq.write_table(table.take(list(range(len(table)))[::-1]), path)
    with pytest.raises(BadTile, match="not in the order"):
        read_again(TILE, tile_folder, path, audited)
