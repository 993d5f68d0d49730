"""Fusion: four files to one record, whatever is missing; broken input is an outcome."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits as astropy_fits
from astropy.table import Table
from conftest import REPOSITORY
from fusion_tiles import (
    TILE,
    changed,
    convert,
    converted,
    copy_tile,
    different_columns,
    edit_fits,
    select,
    write_tile,
)
from numpy.lib.recfunctions import repack_fields

from desi_fits_to_parquet.files import write_json
from desi_fits_to_parquet.formats.hdf5 import open_hdf5
from desi_fits_to_parquet.fuse.tile import fuse_tile
from desi_fits_to_parquet.paths import SETTINGS
from desi_fits_to_parquet.record.positions import pixels_at
from desi_fits_to_parquet.record.schema import record_fields
from desi_fits_to_parquet.record.spectra import NOT_FINITE
from desi_fits_to_parquet.run.lock import RUN_ID, hold_lock
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.validate import validate_tile

Settings = dict[str, Any]

pytestmark = pytest.mark.filterwarnings("ignore::astropy.units.UnitsWarning")

EVERYTHING = {
    "fibermap": "all", "scores": True, "rrdetails_scans": True,
    "qso_mgii": True, "qso_qn": True,
}  # fmt: skip
OPTIONAL = ("emline", "rrdetails", "qso_mgii", "qso_qn")


@pytest.fixture(scope="module")
def tile_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tile(tmp_path_factory.mktemp("tile"))


@pytest.fixture
def broken(tile_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tile, to be broken."""
    return copy_tile(tile_folder, tmp_path / "broken")


def read_fits(folder: Path, kind: str, hdu: str) -> dict[int, Any]:
    """Rows of a table by TARGETID."""
    data = astropy_fits.getdata(folder / TILE.file_name(kind), hdu)
    columns = {name: np.asarray(data[name]) for name in data.names}
    return {
        int(target): {name: values[row] for name, values in columns.items()}
        for row, target in enumerate(columns["TARGETID"])
    }


def test_fields_are_those_of_the_tables_they_come_from(
    tile_folder: Path, tmp_path: Path, settings: Settings
) -> None:
    config = changed(settings, columns=EVERYTHING)
    table = converted(tile_folder, tmp_path, config)
    assert table.num_rows > 5
    fields = [field for field in record_fields(config) if field.source]
    assert {field.source[:2] for field in fields if field.source} == {
        ("redrock", "REDSHIFTS"), ("redrock", "TSNR2"), ("coadd", "FIBERMAP"), ("coadd", "SCORES"),
        ("emline", "EMLINEFIT"), ("qso_mgii", "MGII"), ("qso_qn", "QN_RR"),
    }  # fmt: skip
    ids = table["targetid"].to_pylist()
    tables = {f.source[:2]: read_fits(tile_folder, *f.source[:2]) for f in fields if f.source}
    for field in fields:
        assert field.source
        kind, hdu, column = field.source
        rows = tables[kind, hdu]
        there = column in next(iter(rows.values()))
        for target, value in zip(ids, table[field.name].to_pylist(), strict=True):
            if target not in rows or not there:
                assert value is None, field
                continue
            wanted = rows[target][column]
            if isinstance(value, str):
                assert value == wanted.strip(), field
            else:
                np.testing.assert_array_equal(value, wanted, err_msg=field.name)


def coadd_targets(folder: Path) -> Any:
    """TARGETIDs by row of the coadd's images."""
    table = astropy_fits.getdata(folder / TILE.file_name("coadd"), "FIBERMAP")
    return np.asarray(table["TARGETID"])


def test_rows_are_sorted_by_position_and_know_their_pixels(
    tile_folder: Path, tmp_path: Path, settings: Settings
) -> None:
    # two targets at one place: TARGETID decides
    folder = copy_tile(tile_folder, tmp_path / "tile")
    first, second = (int(t) for t in select(folder, settings).targetid[[3, 5]])

    def move(hdus: Any) -> None:
        table = hdus["FIBERMAP"].data
        rows = {int(target): row for row, target in enumerate(table["TARGETID"])}
        for column in ("TARGET_RA", "TARGET_DEC"):
            table[column][rows[second]] = table[column][rows[first]]

    edit_fits(folder / TILE.file_name("coadd"), move)
    for fibermap in ("default", ["EBV"]):
        config = changed(settings, columns={"fibermap": fibermap})
        table = converted(folder, tmp_path / "out", config)
        keys = list(zip(*(table[n].to_pylist() for n in ("_healpix_29", "targetid")), strict=True))
        assert keys == sorted(keys)
        ids = table["targetid"].to_pylist()
        assert ids != sorted(ids)
        assert ids.index(second) == ids.index(first) + 1
        assert set(table["healpix"].to_pylist()) == {10000}
        assert set(table["healpix_order"].to_pylist()) == {6}
        assert {index >> 46 for index, _ in keys} == {10000}
        positions = (table[n].to_numpy() for n in ("target_ra", "target_dec"))
        assert pixels_at(29, *positions).tolist() == [index for index, _ in keys]


def test_spectra_are_those_of_their_target(
    tile_folder: Path, tmp_path: Path, settings: Settings
) -> None:
    as_they_are = {"cameras": "separate", "masked_pixels": "desispec"}
    lossless = changed(settings, precision={"mode": "lossless"}, spectra=as_they_are)
    table = converted(tile_folder, tmp_path, lossless)
    with astropy_fits.open(tile_folder / TILE.file_name("coadd")) as hdus:
        rows = {int(t): i for i, t in enumerate(hdus["FIBERMAP"].data["TARGETID"])}
        for camera in "brz":
            for quantity in ("flux", "ivar", "mask"):
                image = hdus[f"{camera.upper()}_{quantity.upper()}"].data
                for record in table.select(["targetid", f"{camera}_{quantity}"]).to_pylist():
                    exact = image[rows[record["targetid"]]]
                    stored = np.array(record[f"{camera}_{quantity}"], exact.dtype.newbyteorder("="))
                    assert stored.tobytes() == exact.astype(stored.dtype).tobytes()
            wave = hdus[f"{camera.upper()}_WAVELENGTH"].data
            assert table[f"{camera}_wavelength"][0].as_py() == wave.tolist()


@pytest.mark.parametrize("cameras", ["combined", "separate"])
def test_a_pixel_is_good_where_ivar_is_above_0_and_no_pixel_with_a_mask_is(
    tile_folder: Path, tmp_path: Path, settings: Settings, cameras: str
) -> None:
    config = changed(settings, spectra={"cameras": cameras})
    table = converted(tile_folder, tmp_path, config)
    left = changed(config, spectra={"masked_pixels": "desispec"})
    as_desispec = converted(tile_folder, tmp_path / "desispec", left)
    for prefix in ("",) if cameras == "combined" else ("b_", "r_", "z_"):
        ivar, mask = (np.array(table[f"{prefix}{q}"].to_pylist()) for q in ("ivar", "mask"))
        assert (mask != 0).any()
        assert not ivar[mask != 0].any()
        # the simulated files leave masked pixels their weight, as DR1's documentation tells
        ivar, mask = (np.array(as_desispec[f"{prefix}{q}"].to_pylist()) for q in ("ivar", "mask"))
        assert (mask[ivar > 0] != 0).any() == (cameras == "separate")


def test_the_bits_of_the_arms_are_kept_where_asked_also_where_one_arm_saw_the_pixel_well(
    tile_folder: Path, tmp_path: Path, settings: Settings
) -> None:
    folder = copy_tile(tile_folder, tmp_path / "tile")

    def hit(hdus: Any) -> None:  # the first pixels of R are the last ones of B
        hdus["R_MASK"].data[:, 10], hdus["B_MASK"].data[:, -41] = 4, 0
        hdus["B_IVAR"].data[:, -41] = 1

    edit_fits(folder / TILE.file_name("coadd"), hit)
    table = converted(folder, tmp_path / "out", changed(settings, spectra={"mask_arms": True}))
    pixel = 2751 - 41
    for mask, arms, ivar in zip(*(table[n].to_pylist() for n in ("mask", "mask_arms", "ivar")),
                                strict=True):  # fmt: skip
        assert (mask[pixel], arms[pixel], ivar[pixel]) == (0, 4, 1)
    assert "mask_arms" not in converted(folder, tmp_path / "none", settings).column_names


def test_combined_spectra_are_cut_at_the_wavelengths_asked_for(
    tile_folder: Path, tmp_path: Path, settings: Settings
) -> None:
    table = converted(tile_folder, tmp_path, settings)
    for name in ("wavelength", "flux", "ivar", "mask"):
        assert {len(item) for item in table[name].to_pylist()} == {7751}
    wave = np.array(table["wavelength"][0].as_py())
    assert (np.diff(wave) > 0).all()
    assert wave[[0, -1]] == pytest.approx([3600, 9800])
    narrow = changed(settings, spectra={"wavelength_range": [4000, 4100]})
    assert len(converted(tile_folder, tmp_path, narrow)["flux"][0]) == 126


def test_best_fits_are_complete_and_in_order(
    tile_folder: Path, tmp_path: Path, settings: Settings
) -> None:
    table = converted(tile_folder, tmp_path, settings)
    assert pa.types.is_struct(table.schema.field("rrdetails").type)
    with h5py.File(tile_folder / TILE.file_name("rrdetails")) as details:
        for target, fits in zip(
            table["targetid"].to_pylist(), table["rrdetails"].to_pylist(), strict=True
        ):
            source = details[f"zfit/{target}/zfit"][()]
            assert list(fits) == [
                "spectype", "subtype", "z", "zerr", "zwarn", "chi2", "deltachi2", "npixels", "znum",
                "coeff", "fitmethod",
            ]  # fmt: skip
            assert set(fits.pop("fitmethod")) == {""}  # an older redrock
            assert fits["chi2"] == sorted(source["chi2"])
            rows = source[np.argsort(source["chi2"])]
            for name, values in fits.items():
                wanted = [v.decode() if isinstance(v, bytes) else v for v in rows[name].tolist()]
                assert values == wanted


def test_best_fits_of_a_newer_redrock_say_how_they_were_made(
    settings: Settings, tmp_path: Path
) -> None:
    folder = write_tile(
        tmp_path / "in",
        n_targets=8,
        kinds=("coadd", "redrock", "rrdetails"),
        redrock_columns="newer",
    )
    audited = changed(settings, transfer={"audit_fraction": 1})
    fits = converted(folder, tmp_path / "out", audited)["rrdetails"].to_pylist()
    assert fits
    assert {method for one in fits for method in one["fitmethod"]} == {"PCA"}
    assert {len(coeff) for one in fits for coeff in one["coeff"]} == {10}


def test_fits_without_coefficients_have_empty_ones(
    tile_folder: Path, broken: Path, settings: Settings, tmp_path: Path
) -> None:
    with h5py.File(broken / TILE.file_name("rrdetails"), "a") as details:
        for target in details["zfit"]:
            fits = details[f"zfit/{target}/zfit"][()]
            del details[f"zfit/{target}/zfit"]
            kept = [name for name in fits.dtype.names if name != "coeff"]
            details[f"zfit/{target}/zfit"] = repack_fields(fits[kept])
    audited = changed(settings, transfer={"audit_fraction": 1})
    table = converted(broken, tmp_path / "out", audited)
    assert {tuple(c) for one in table["rrdetails"].to_pylist() for c in one["coeff"]} == {()}


def test_scans_are_those_of_their_target(
    tile_folder: Path, tmp_path: Path, settings: Settings
) -> None:
    table = converted(tile_folder, tmp_path, changed(settings, columns={"rrdetails_scans": True}))
    with h5py.File(tile_folder / TILE.file_name("rrdetails")) as details:
        order = details["targetids"][()].tolist()
        for record in table.select(["targetid", "rrdetails_scans"]).to_pylist()[:3]:
            scans = record["rrdetails_scans"]
            assert scans["template"] == sorted(details["zscan"])
            row = order.index(record["targetid"])
            for i, template in enumerate(scans["template"]):
                group = details["zscan"][template]
                assert scans["redshift"][i] == group["redshifts"][()].tolist()
                assert scans["chi2"][i] == group["zchi2"][row].tolist()
                assert scans["penalty"][i] == group["penalty"][row].tolist()


def test_the_preset_keeps_the_redshift_of_redrock_beside_its_own(
    tmp_path: Path, settings: Settings
) -> None:
    folder = write_tile(tmp_path / "tile", n_targets=80)
    config = changed(settings, selection={"preset": "desi_qso"})
    table = converted(folder, tmp_path / "out", config)
    redshifts = read_fits(folder, "redrock", "REDSHIFTS")
    selection = select(folder, config)
    by_target = table.sort_by("targetid")
    assert by_target["z"].to_pylist() == selection.z.tolist()
    assert by_target["qso_maskbits"].to_pylist() == selection.qso_maskbits.tolist()
    replaced = 0
    for record in table.select(["targetid", "z", "z_rr", "zerr_rr", "qso_maskbits"]).to_pylist():
        row = redshifts[record["targetid"]]
        assert (record["z_rr"], record["zerr_rr"]) == (row["Z"], row["ZERR"])
        assert (record["qso_maskbits"] & 16 > 0) or record["z"] == record["z_rr"]
        replaced += record["z"] != record["z_rr"]
    assert replaced


def test_schema_is_the_same_whichever_files_or_targets_are_there(
    broken: Path, tmp_path: Path, settings: Settings
) -> None:
    config = changed(settings, columns=EVERYTHING)
    full = converted(broken, tmp_path / "full", config)
    nobody = changed(config, selection={"z": [90, 91]})
    empty = converted(broken, tmp_path / "empty", nobody)
    for kind in OPTIONAL:
        (broken / TILE.file_name(kind)).unlink()
    poor = converted(broken, tmp_path / "poor", config)
    assert empty.num_rows == 0
    for other in (empty, poor):
        same = [b"desi_fits_to_parquet.schema"]
        assert other.schema.equals(full.schema, check_metadata=False)
        for name in full.column_names:
            assert other.schema.field(name).metadata == full.schema.field(name).metadata
        assert [other.schema.metadata[k] for k in same] == [full.schema.metadata[k] for k in same]
    for name in ("oii_flux", "halpha_ndof", "is_qso_mgii", "c_lya", "rrdetails", "rrdetails_scans"):
        assert poor[name].null_count == poor.num_rows > 0
    assert poor["flux"].equals(full["flux"])


def test_targets_missing_from_an_optional_file_are_null(
    broken: Path, tmp_path: Path, settings: Settings
) -> None:
    path = broken / TILE.file_name("emline")

    def halve(hdus: Any) -> None:
        hdus["EMLINEFIT"].data = hdus["EMLINEFIT"].data[::2].copy()

    edit_fits(path, halve)
    kept = set(read_fits(broken, "emline", "EMLINEFIT"))
    with h5py.File(broken / TILE.file_name("rrdetails"), "a") as details:
        gone = int(details["targetids"][0])
        del details[f"zfit/{gone}"]
    everyone = changed(settings, selection={"spectypes": ["QSO", "GALAXY", "STAR"], "zwarn": None})
    table = converted(broken, tmp_path / "out", everyone)
    for record in table.select(["targetid", "oii_flux", "rrdetails"]).to_pylist():
        assert (record["oii_flux"] is None) == (record["targetid"] not in kept)
        assert (record["rrdetails"] is None) == (record["targetid"] == gone)


@pytest.mark.parametrize("form", ["unsigned", "compressed", "compressed_unsigned"])
def test_every_form_of_mask_reads_the_same(tmp_path: Path, settings: Settings, form: str) -> None:
    tables = [
        converted(
            write_tile(tmp_path / name, n_targets=12, mask_form=name, kinds=("coadd", "redrock")),
            tmp_path / f"out-{name}",
            changed(settings, spectra={"masked_pixels": "no_weight"}),
        )
        for name in ("int32", form)
    ]
    assert different_columns(*tables) == []
    assert any(any(mask) for mask in tables[0]["mask"].to_pylist())


def test_newer_redrock_columns_give_the_same_schema(tmp_path: Path, settings: Settings) -> None:
    new = write_tile(
        tmp_path / "new", n_targets=12, redrock_columns="newer", kinds=("coadd", "redrock")
    )
    old = write_tile(tmp_path / "old", n_targets=12, kinds=("coadd", "redrock"))
    tables = [converted(folder, tmp_path / folder.name[::-1], settings) for folder in (new, old)]
    assert tables[0].schema.equals(tables[1].schema)
    assert tables[0]["targetid"].equals(tables[1]["targetid"])
    assert tables[0]["fitmethod"].null_count == 0
    assert tables[1]["fitmethod"].null_count == tables[1].num_rows


def test_redrock_in_another_order_gives_the_same_table(tmp_path: Path, settings: Settings) -> None:
    tables = [
        converted(
            write_tile(tmp_path / str(shuffle), shuffle_redrock=shuffle),
            tmp_path / f"out-{shuffle}",
            settings,
        )
        for shuffle in (False, True)
    ]
    # the simulation draws the best fits row by row
    assert different_columns(*tables) == ["rrdetails"]


def test_a_tile_of_survey_validation_converts_with_the_same_settings(
    tmp_path: Path, settings: Settings
) -> None:
    tile = Tile("sv3", "dark", 10000)
    folder = write_tile(tmp_path / "tile", tile, production="fuji", mask_form="unsigned")
    table = converted(folder, tmp_path / "out", settings, tile)
    assert set(table["survey"].to_pylist()) == {"sv3"}
    assert table["sv3_desi_target"].null_count == 0


def test_an_adaptive_pixel_converts_with_its_own_order(tmp_path: Path, settings: Settings) -> None:
    tile = Tile("main", "dark", 4 * 128**2 + 40_001, "uniqpix")
    folder = write_tile(tmp_path / "tile", tile, n_targets=12, kinds=("coadd", "redrock"))
    _, marker, path = convert(tile, folder, tmp_path / "out", settings)
    assert (marker["outcome"], marker["n_outside"]) == ("converted", 0)
    assert path.name == f"main-dark-{tile.number}.parquet"
    table = pq.ParquetFile(path).read()
    assert set(table["healpix"].to_pylist()) == {40_001}
    assert set(table["healpix_order"].to_pylist()) == {7}
    assert {index >> 44 for index in table["_healpix_29"].to_pylist()} == {40_001}
    # the same files under the pixel's neighbour
    other = tile._replace(number=tile.number + 1)
    for kind in ("coadd", "redrock"):
        (folder / tile.file_name(kind)).rename(folder / other.file_name(kind))
    _, marker, _ = convert(other, folder, tmp_path / "other", settings)
    assert f"UNIQPIX is {tile.number}" in marker["reason"]


def test_real_files_convert(real_data: Path, tmp_path: Path, settings: Settings) -> None:
    tile = Tile("special", "dark", 27247)
    folder = real_data / "special/dark/272/27247"
    galaxies = changed(settings, selection={"spectypes": ["GALAXY"]})
    table = converted(folder, tmp_path, galaxies, tile)
    assert table.num_rows == 1
    assert table["fitmethod"][0].as_py()
    lossless = changed(galaxies, precision={"mode": "lossless"}, spectra={"cameras": "separate"})
    exact = converted(folder, tmp_path, lossless, tile)
    with astropy_fits.open(folder / "coadd-special-dark-27247.fits") as hdus:
        assert exact["r_flux"][0].as_py() == hdus["R_FLUX"].data[0].tolist()


def test_real_best_fits_and_scans_are_read(real_data: Path) -> None:
    from desi_fits_to_parquet.record.tables import read_best_fits, read_scans

    path = real_data / "redrock-details/rrdetails-0-100-thru20210505.h5"
    targets = np.array([39633393167633604, 1, 616094145466860255])
    with open_hdf5(path) as details:
        fits = read_best_fits(details, targets).to_pylist()
        scans = read_scans(details, targets).to_pylist()
    assert fits[1] is None
    assert scans[1] is None
    assert len(fits[0]["z"]) == 6
    assert [len(coeff) for coeff in fits[0]["coeff"]] == 6 * [10]
    assert fits[0]["coeff"][0][0] == pytest.approx(2585.2001, rel=1e-6)
    assert fits[2]["chi2"] == sorted(fits[2]["chi2"])
    assert scans[0]["template"] == ["GALAXY", "QSO:::HIZ"]


def test_the_same_input_gives_the_same_bytes(
    tile_folder: Path, tmp_path: Path, settings: Settings
) -> None:
    elsewhere = copy_tile(tile_folder, tmp_path / "elsewhere" / "deep")
    _, _, first = convert(TILE, tile_folder, tmp_path / "a", settings)
    _, _, second = convert(TILE, elsewhere, tmp_path / "b", settings)
    assert first.read_bytes() == second.read_bytes()
    assert str(tmp_path).encode() not in first.read_bytes()


def test_provenance_is_in_the_file(broken: Path, tmp_path: Path, settings: Settings) -> None:
    sources = {
        kind: {"key": f"dr1/{kind}", "size": 1, "etag": f"etag-{kind}", "sha256": "ab" * 32,
               "bytes_fetched": 1}
        for kind in ("coadd", "redrock", "emline", "rrdetails")
    }  # fmt: skip
    download = {"outcome": None, "mode": "files", "sources": sources, "bytes_archive": 12345}
    (broken / "download.json").write_text(json.dumps(download))
    record, marker, path = convert(TILE, broken, tmp_path / "out", settings)
    metadata = json.loads(pq.read_schema(path).metadata[b"desi_fits_to_parquet"])
    assert metadata["sources"]["coadd"] == {
        "key": "dr1/coadd", "etag": "etag-coadd", "sha256": "ab" * 32,
    }  # fmt: skip
    assert set(metadata["sources"]) == set(sources)
    assert metadata["settings"]["precision"] == settings["precision"]
    assert metadata["version"]
    assert "desispec" in metadata["pipeline"]["coadd"]
    assert record["bytes_causes"]["archive"] == marker["bytes_archive"] == 12345
    assert list(record["bytes_causes"])[1:] == [
        "rows_selected", "hdus_read", "wavelength_range", "rounding", "encoding",
    ]  # fmt: skip
    left = record["bytes_causes"]
    assert 0.4 < left["rounding"] / left["wavelength_range"] < 0.8
    assert left["encoding"] == record["bytes_parquet"]


def test_rows_alone_convert_to_the_same_table_as_whole_files(
    tile_folder: Path, tmp_path: Path, settings: Settings
) -> None:
    """The rows mode of the transfer writes a coadd of the selected targets alone."""
    whole = converted(tile_folder, tmp_path / "whole", settings)
    cut = copy_tile(tile_folder, tmp_path / "cut")
    wanted = whole["targetid"].to_pylist()

    def keep_selected(hdus: Any) -> None:
        keep = np.isin(hdus["FIBERMAP"].data["TARGETID"], wanted)
        for hdu in hdus[1:]:
            if "EXP" not in hdu.name and hdu.data.shape[0] == len(keep):
                hdu.data = hdu.data[keep].copy()

    edit_fits(cut / TILE.file_name("coadd"), keep_selected)
    record, _, _ = convert(TILE, cut, tmp_path / "refused", settings)
    assert "HDU FIBERMAP has" in record["reason"]
    (cut / "download.json").write_text(json.dumps({"outcome": None, "mode": "rows"}))
    assert different_columns(converted(cut, tmp_path / "rows", settings), whole) == []
    # nothing selected: no coadd is fetched at all, and the file is the same to the byte
    nobody = changed(settings, selection={"z": [90, 91]})
    _, _, with_coadd = convert(TILE, tile_folder, tmp_path / "none", nobody)
    (cut / TILE.file_name("coadd")).unlink()
    _, marker, without = convert(TILE, cut, tmp_path / "nothing", nobody)
    assert marker["outcome"] == "no_targets"
    assert without.read_bytes() == with_coadd.read_bytes()


def test_a_failed_download_is_passed_on(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "fits").mkdir()
    download = {"outcome": "missing_source", "reason": "no redrock", "requests": 3, "retries": 1}
    (tmp_path / "fits/download.json").write_text(json.dumps(download))
    record, marker, path = convert(TILE, tmp_path / "fits", tmp_path / "out", settings)
    assert (record["outcome"], record["reason"]) == ("missing_source", "no redrock")
    assert (marker["outcome"], marker["reason"]) == ("missing_source", "no redrock")
    assert (marker["requests"], marker["bytes_parquet"], marker["sha256"]) == (3, 0, None)
    assert list(path.parent.iterdir()) == []


# ----------------------------------------------------------------------------- broken input


def drop_hdu(name: str) -> Callable[[Path, Path], None]:
    def change(_coadd: Path, _redrock: Path) -> None:
        path = _redrock if name in ("REDSHIFTS", "TSNR2") else _coadd
        edit_fits(path, lambda hdus: hdus.pop(name))

    return change


def drop_column(file: str, hdu: str, column: str) -> Callable[[Path, Path], None]:
    def change(coadd: Path, redrock: Path) -> None:
        def drop(hdus: Any) -> None:
            hdus[hdu] = astropy_fits.BinTableHDU.from_columns(
                [c for c in hdus[hdu].columns if c.name != column], name=hdu
            )

        edit_fits({"coadd": coadd, "redrock": redrock}[file], drop)

    return change


def change_coadd(change: Callable[[Any], None]) -> Callable[[Path, Path], None]:
    return lambda coadd, _redrock: edit_fits(coadd, change)


def fewer_rows(hdus: Any) -> None:
    hdus["FIBERMAP"].data = hdus["FIBERMAP"].data[:-1].copy()


def other_target(hdus: Any) -> None:
    hdus["FIBERMAP"].data["TARGETID"][0] = 77


def same_target(hdus: Any) -> None:
    hdus["FIBERMAP"].data["TARGETID"][0] = hdus["FIBERMAP"].data["TARGETID"][1]


def narrow_image(hdus: Any) -> None:
    hdus["R_IVAR"].data = hdus["R_IVAR"].data[:, :-1].copy()


def short_image(hdus: Any) -> None:
    hdus["Z_MASK"].data = hdus["Z_MASK"].data[:-1].copy()


def set_pixels(hdu: str, value: float) -> Callable[[Any], None]:
    def change(hdus: Any) -> None:
        hdus[hdu].data[:, 1000] = value

    return change


def decreasing(hdus: Any) -> None:
    hdus["B_WAVELENGTH"].data = hdus["B_WAVELENGTH"].data[::-1].copy()


def cut_short(coadd: Path, _redrock: Path) -> None:
    coadd.write_bytes(coadd.read_bytes()[:-5000])


COADD, REDROCK = (rf"^{kind}-main-dark-10000\.fits: " for kind in ("coadd", "redrock"))


@pytest.mark.parametrize(
    ("breaks", "sentence"),
    [
        pytest.param(drop_hdu("B_FLUX"), COADD + "HDU B_FLUX is missing", id="missing image"),
        pytest.param(drop_hdu("FIBERMAP"), COADD + "HDU FIBERMAP is missing", id="missing table"),
        pytest.param(drop_hdu("REDSHIFTS"), REDROCK + "HDU REDSHIFTS is missing", id="redshifts"),
        pytest.param(drop_column("redrock", "REDSHIFTS", "Z"),
                     REDROCK + "HDU REDSHIFTS has no column Z", id="missing column"),
        pytest.param(drop_column("redrock", "REDSHIFTS", "COEFF"),
                     REDROCK + "HDU REDSHIFTS has no column COEFF", id="missing output column"),
        pytest.param(drop_column("coadd", "FIBERMAP", "EBV"),
                     COADD + "HDU FIBERMAP has no column EBV", id="missing coadd column"),
        pytest.param(change_coadd(fewer_rows),
                     COADD + r"HDU FIBERMAP has 23 rows, redrock's REDSHIFTS has 24", id="rows"),
        pytest.param(change_coadd(other_target),
                     COADD + r"HDU FIBERMAP and .* different targets.* 77$", id="targets"),
        pytest.param(change_coadd(same_target),
                     COADD + r"HDU FIBERMAP holds TARGETID \d+ more than once", id="duplicates"),
        pytest.param(change_coadd(narrow_image), COADD + r"HDU R_IVAR has shape \(24, 2325\)",
                     id="image width"),
        pytest.param(change_coadd(short_image), COADD + r"HDU Z_MASK has shape \(23, 2881\)",
                     id="image rows"),
        pytest.param(change_coadd(set_pixels("B_IVAR", -1)),
                     COADD + r"HDU B_IVAR is -1\.0 for TARGETID \d+, pixel 1000",
                     id="negative ivar"),
        pytest.param(change_coadd(decreasing), COADD + "the wavelengths of arm B do not increase",
                     id="wavelengths"),
        pytest.param(cut_short, COADD + r"HDU \w+ needs \d+ bytes, .* cut short", id="cut short"),
    ],
)  # fmt: skip
def test_bad_input_fails_the_tile_and_says_where(
    broken: Path,
    tmp_path: Path,
    settings: Settings,
    breaks: Callable[[Path, Path], None],
    sentence: str,
) -> None:
    breaks(broken / TILE.file_name("coadd"), broken / TILE.file_name("redrock"))
    record, marker, path = convert(TILE, broken, tmp_path / "out", settings)
    assert record["outcome"] == marker["outcome"] == "corrupt_source"
    assert re.search(sentence, record["reason"]), record["reason"]
    assert marker["reason"] == record["reason"]
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.95])
def test_hdf5_cut_short_fails_the_tile(
    broken: Path, tmp_path: Path, settings: Settings, keep: float
) -> None:
    path = broken / TILE.file_name("rrdetails")
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data) if keep < 1 else keep)])
    record, _, _ = convert(TILE, broken, tmp_path / "out", settings)
    assert record["outcome"] == "corrupt_source"
    assert record["reason"].startswith("rrdetails-main-dark-10000.h5: not a readable HDF5 file")


def test_a_redrock_file_without_tsnr2_gives_nulls(
    tile_folder: Path, broken: Path, defaults: dict[str, Any], tmp_path: Path
) -> None:
    edit_fits(broken / TILE.file_name("redrock"), lambda hdus: hdus.pop("TSNR2"))
    everyone = changed(defaults, transfer={"audit_fraction": 1})
    assert converted(tile_folder, tmp_path / "a", everyone)["tsnr2_lya"].null_count == 0
    table = converted(broken, tmp_path / "b", everyone)
    assert len(table) == table["tsnr2_lya"].null_count > 0


def test_emline_with_a_target_twice_fails_the_tile(
    broken: Path, tmp_path: Path, settings: Settings
) -> None:
    def repeat(hdus: Any) -> None:
        hdus["EMLINEFIT"].data["TARGETID"][0] = hdus["EMLINEFIT"].data["TARGETID"][1]

    edit_fits(broken / TILE.file_name("emline"), repeat)
    record, _, _ = convert(TILE, broken, tmp_path / "out", settings)
    assert record["outcome"] == "corrupt_source"
    assert record["reason"].startswith("emline-main-dark-10000.fits: HDU EMLINEFIT holds TARGETID")


ODD = {"NaN in flux": ("FLUX", np.nan), "infinite flux": ("FLUX", -np.inf),
       "NaN in ivar": ("IVAR", np.nan), "infinite ivar": ("IVAR", np.inf)}  # fmt: skip


@pytest.mark.parametrize("cameras", ["combined", "separate"])
@pytest.mark.parametrize("masked", ["no_weight", "desispec"])
@pytest.mark.parametrize("case", ODD)
def test_a_pixel_that_is_no_number_has_ivar_0_and_a_bit_of_its_own_and_is_counted(
    broken: Path, tmp_path: Path, settings: Settings, case: str, masked: str, cameras: str
) -> None:
    quantity, value = ODD[case]

    def spoil(hdus: Any) -> None:
        hdus["B_FLUX"].data[:, [1000, 1001]] = 5
        hdus["B_IVAR"].data[:, [1000, 1001]] = 1
        hdus["B_MASK"].data[:, 1000] = 4
        hdus[f"B_{quantity}"].data[:, 1000] = value
        hdus["B_FLUX"].data[:, 1002] = np.nan  # without weight it is no fault
        hdus["B_IVAR"].data[:, 1002] = 0
        hdus["R_FLUX"].data[:, 10] = 5  # the first pixels of R are the last ones of B
        hdus["R_IVAR"].data[:, 10] = hdus["B_IVAR"].data[:, -41] = 1
        hdus["R_MASK"].data[:, 10] = hdus["B_MASK"].data[:, -41] = 0
        hdus[f"B_{quantity}"].data[:, -41] = value

    edit_fits(broken / TILE.file_name("coadd"), spoil)
    spectra = {"masked_pixels": masked, "cameras": cameras}
    config = changed(settings, spectra=spectra, transfer={"audit_fraction": 1})
    _, marker, path = convert(TILE, broken, tmp_path / "out", config)
    assert (marker["outcome"], marker["second_reader"]) == ("converted", True), marker["reason"]
    assert marker["n_not_finite"] == 2 * marker["n_rows"] > 0
    assert marker["n_left_out"] == marker["n_no_data"] == 0
    table = pq.ParquetFile(path).read()
    prefix = "" if cameras == "combined" else "b_"
    ivar, mask = (np.array(table[prefix + q].to_pylist()) for q in ("ivar", "mask"))
    assert (ivar[:, 1000] == 0).all()
    assert (mask[:, 1000] == (4 | NOT_FINITE)).all()
    assert (ivar[:, 1001] == 1).all()
    assert not (mask[:, 1002] & NOT_FINITE).any()
    shared = 2751 - 41
    if cameras == "combined":  # R saw it well
        flux = np.array(table["flux"].to_pylist())
        assert (flux[:, shared] == 5).all()
        assert (ivar[:, shared] == 1).all()
        assert not mask[:, shared].any()
    else:
        assert (mask[:, shared] == NOT_FINITE).all()


def test_a_target_with_too_many_pixels_that_are_no_numbers_is_left_out_and_counted(
    broken: Path, tmp_path: Path, settings: Settings
) -> None:
    chosen = select(broken, settings).targetid
    rows = [int(row) for row in np.flatnonzero(np.isin(coadd_targets(broken), chosen))]

    def spoil(hdus: Any) -> None:
        hdus["R_IVAR"].data[:] = 1
        hdus["R_FLUX"].data[rows[0], :795] = np.nan  # a tenth of 7958 pixels
        hdus["R_FLUX"].data[rows[1], :796] = np.nan

    edit_fits(broken / TILE.file_name("coadd"), spoil)
    audited = changed(settings, transfer={"audit_fraction": 1})
    _, marker, path = convert(TILE, broken, tmp_path / "out", audited)
    assert marker["outcome"] == "converted", marker["reason"]
    assert (marker["n_left_out"], marker["n_not_finite"]) == (1, 795)
    assert marker["n_rows"] == len(chosen) - 1
    gone = set(chosen.tolist()) - set(pq.ParquetFile(path).read()["targetid"].to_pylist())
    assert gone == {int(coadd_targets(broken)[rows[1]])}
    _, marker, _ = convert(
        TILE, broken, tmp_path / "more", changed(audited, spectra={"max_not_finite": 0.11})
    )
    assert (marker["n_left_out"], marker["n_not_finite"]) == (0, 795 + 796)


def test_a_coadd_without_numbers_for_any_of_its_targets_is_corrupt_and_one_target_is_left_out(
    broken: Path, tmp_path: Path, settings: Settings
) -> None:
    def spoil(hdus: Any) -> None:
        hdus["B_IVAR"].data[:] = np.nan

    edit_fits(broken / TILE.file_name("coadd"), spoil)
    _, marker, _ = convert(TILE, broken, tmp_path / "out", settings)
    assert marker["outcome"] == "corrupt_source"
    assert "of the pixels (spectra.max_not_finite) are NaN or infinite" in marker["reason"]
    z = float(np.sort(select(broken, settings).z)[0])
    one = changed(settings, selection={"z": [z - 1e-9, z + 1e-9]}, transfer={"audit_fraction": 1})
    _, marker, _ = convert(TILE, broken, tmp_path / "one", one)
    assert (marker["outcome"], marker["n_rows"], marker["n_left_out"]) == ("no_targets", 0, 1)


def test_a_target_without_data_is_left_out_or_converted_as_asked_and_counted(
    broken: Path, tmp_path: Path, settings: Settings
) -> None:
    chosen = select(broken, settings).targetid
    rows = np.flatnonzero(np.isin(coadd_targets(broken), chosen))

    def never_seen(hdus: Any) -> None:
        for camera in "BRZ":
            hdus[f"{camera}_IVAR"].data[rows[:2]] = 0
        # the second was seen, but a dead fibre saw nothing
        hdus["FIBERMAP"].data["COADD_NUMEXP"][rows[0]] = 0

    edit_fits(broken / TILE.file_name("coadd"), never_seen)
    audited = changed(settings, transfer={"audit_fraction": 1})
    for no_data in (False, True):
        config = changed(audited, selection={"no_data": no_data})
        _, marker, path = convert(TILE, broken, tmp_path / str(no_data), config)
        assert marker["outcome"] == "converted", marker["reason"]
        assert marker["n_no_data"] == 1
        there = set(pq.ParquetFile(path).read()["targetid"].to_pylist())
        assert set(chosen.tolist()) - there == (
            set() if no_data else {int(coadd_targets(broken)[rows[0]])}
        )


def test_pixels_that_are_masked_and_have_a_weight_are_counted(
    broken: Path, tmp_path: Path, settings: Settings
) -> None:
    rows = np.isin(coadd_targets(broken), select(broken, settings).targetid)
    with astropy_fits.open(broken / TILE.file_name("coadd")) as hdus:
        expected = sum(
            int(((hdus[f"{c}_MASK"].data != 0) & (hdus[f"{c}_IVAR"].data > 0))[rows].sum())
            for c in "BRZ"
        )
    for masked in ("no_weight", "desispec"):
        config = changed(settings, spectra={"masked_pixels": masked})
        _, marker, _ = convert(TILE, broken, tmp_path / masked, config)
        assert marker["n_masked_with_ivar"] == expected > 0


def test_an_empty_objtype_can_be_named(broken: Path, tmp_path: Path, settings: Settings) -> None:
    chosen = select(broken, settings).targetid

    def forget(hdus: Any) -> None:
        table = hdus["FIBERMAP"].data
        table["OBJTYPE"][np.isin(table["TARGETID"], chosen[:2])] = ""

    for kind in ("coadd", "redrock"):
        edit_fits(broken / TILE.file_name(kind), forget)
    for objtypes, n in ((["TGT"], len(chosen) - 2), ([""], 2), (["TGT", ""], len(chosen))):
        config = changed(settings, selection={"objtypes": objtypes}, transfer={"audit_fraction": 1})
        _, marker, _ = convert(TILE, broken, tmp_path / str(n), config)
        assert (marker["outcome"], marker["n_rows"]) == ("converted", n), marker["reason"]


def test_a_tile_that_fails_leaves_no_old_parquet(
    broken: Path, tmp_path: Path, settings: Settings
) -> None:
    _, _, path = convert(TILE, broken, tmp_path / "out", settings)
    assert path.exists()
    (broken / TILE.file_name("coadd")).write_bytes(b"")
    convert(TILE, broken, tmp_path / "out", settings)
    assert list(path.parent.iterdir()) == []


def test_a_full_disk_is_a_crash_and_leaves_no_half_file(
    tile_folder: Path, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_batch", full)
    with pytest.raises(OSError, match="No space left"):
        fuse_tile(TILE, tile_folder, tmp_path / "out", settings)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_fusion_job_imports_only_what_it_needs(
    tile_folder: Path, tmp_path: Path, settings: Settings
) -> None:
    code = (
        "import json, sys; from pathlib import Path;"
        "from desi_fits_to_parquet.fuse.tile import fuse_tile;"
        "from desi_fits_to_parquet.tile import Tile;"
        "s, f, o = sys.argv[1:];"
        "fuse_tile(Tile('main', 'dark', 10000), Path(f), Path(o), json.loads(s));"
        "print([m for m in ('pandas', 'astropy', 'boto3', 'pyarrow.compute') if m in sys.modules])"
    )
    arguments = [json.dumps(settings), str(tile_folder), str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_job_opens_each_file_once(
    tile_folder: Path, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = os.open

    def counted(path: Any, *arguments: Any) -> int:
        opened.append(Path(path).name)
        return real(path, *arguments)

    monkeypatch.setattr(os, "open", counted)
    every = changed(settings, selection={"preset": "desi_qso"}, columns=EVERYTHING)
    record = fuse_tile(TILE, tile_folder, tmp_path, every)
    kinds = ("coadd", "emline", "qso_mgii", "qso_qn", "redrock")
    assert sorted(opened) == [TILE.file_name(kind) for kind in kinds]
    opened.clear()
    assert validate_tile(TILE, tile_folder, tmp_path, record, every)["outcome"] == "converted"
    assert sorted(opened) == [TILE.file_name(kind) for kind in kinds]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_stays_bounded_as_the_tile_grows(tmp_path: Path, settings: Settings) -> None:
    """Four times the targets, all selected, may not need much more than a few blocks."""
    everyone = changed(settings, selection={"spectypes": ["QSO", "GALAXY", "STAR"], "zwarn": None})
    code = (
        "import json, sys; from pathlib import Path;"
        "from desi_fits_to_parquet.fuse.tile import fuse_tile;"
        "from desi_fits_to_parquet.tile import Tile;"
        "s, f, o = sys.argv[1:];"
        "r = fuse_tile(Tile('main', 'dark', 10000), Path(f), Path(o), json.loads(s));"
        "status = Path('/proc/self/status').read_text().split();"
        "print(r['n_rows'], int(status[status.index('VmHWM:') + 1]) / 1024)"
    )
    peaks = []
    for n in (70, 280):
        folder = write_tile(tmp_path / str(n), n_targets=n, kinds=("coadd", "redrock"))
        arguments = [json.dumps(everyone), str(folder), str(tmp_path / f"out{n}")]
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
        )
        shutil.rmtree(folder)
        peaks.append(float(done.stdout.split()[1]))
    assert peaks[1] < 300
    assert peaks[1] - peaks[0] < 40


@pytest.mark.parametrize("killed_in", ["fuse_tile", "write_json"])
def test_parquet_folder_of_a_job_that_was_killed_has_no_name_yet(
    killed_in: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def killed(*arguments: object) -> None:
        if killed_in == "fuse_tile":
            folder = Path(str(arguments[2]))
            folder.mkdir()
            (folder / "half.parquet").write_bytes(b"PAR1")
        raise SystemExit(9)

    module = {"fuse_tile": "fuse.tile", "write_json": "files"}[killed_in]
    fits, parquet = tmp_path / "fits", tmp_path / "parquet"
    fits.mkdir()
    monkeypatch.setenv(RUN_ID, "this")
    hold_lock(tmp_path, "this")
    (tmp_path / ".parquet.part").mkdir()
    (tmp_path / ".parquet.part/half.parquet").write_bytes(b"PAR1")  # of a job killed before
    fits.joinpath("download.json").write_text(
        '{"outcome": "unreachable", "reason": "no answer", "n_targets": null}'
    )
    write_json(tmp_path / SETTINGS, {})
    script = str(REPOSITORY / "scripts/fuse_tile.py")
    given = {
        "results": tmp_path, "survey": "main", "program": "dark", "order": 6, "pixel": 7,
        "log": tmp_path / "logs/7.log", "fits": fits, "parquet": parquet,
    }  # fmt: skip
    monkeypatch.setattr("sys.argv", [script, *(f"--{k}={value}" for k, value in given.items())])
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(f"desi_fits_to_parquet.{module}.{killed_in}", killed)
        runpy.run_path(script)
    assert not parquet.exists()
    runpy.run_path(script)
    assert list(parquet.iterdir()) == []  # a failed tile's; and nothing of the killed job's
    assert (fits / "fuse.json").exists()


def test_exposures_are_those_of_the_exp_fibermap_in_order(
    tile_folder: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    table = converted(tile_folder, tmp_path, changed(settings, columns={"exposures": True}))
    coadd = Table.read(tile_folder / TILE.file_name("coadd"), hdu="EXP_FIBERMAP")
    rows = table.select(["targetid", "exposures", "min_mjd", "mean_mjd", "max_mjd"]).to_pylist()
    assert max(len(row["exposures"]["expid"]) for row in rows) > 1
    for row in rows:
        own = coadd[coadd["TARGETID"] == row["targetid"]]
        own.sort("EXPID")
        assert row["exposures"] == {
            name: own[name.upper()].tolist()
            for name in ("night", "expid", "mjd", "tileid", "petal_loc", "fiber", "exptime")
        }
        mjd = row["exposures"]["mjd"]
        assert (row["min_mjd"], row["max_mjd"]) == (min(mjd), max(mjd))
        assert row["mean_mjd"] == pytest.approx(sum(mjd) / len(mjd))


def test_exposures_are_null_where_redrock_has_no_exp_fibermap(
    tile_folder: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    folder = copy_tile(tile_folder, tmp_path / "fits")
    edit_fits(folder / TILE.file_name("redrock"), lambda hdus: hdus.pop("EXP_FIBERMAP"))
    config = changed(settings, columns={"exposures": True}, transfer={"audit_fraction": 1})
    _, marker, path = convert(TILE, folder, tmp_path / "out", config)
    assert (marker["outcome"], marker["second_reader"]) == ("converted", True), marker["reason"]
    exposures = pq.read_table(path, columns=["exposures"], partitioning=None).column(0)
    assert exposures.null_count == len(exposures) > 0
