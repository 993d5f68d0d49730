"""Rows mode: the same Parquet from a small part of the bytes, and files that anyone can read."""

import copy
import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from astropy.io import fits as astropy_fits
from fault_server import Service, serve
from simulated_archive import (
    checksum_list,
    key_of,
    list_sources,
    read_objects,
    simulate_objects,
)

from desi_fits_to_parquet.archive import link as archive_module
from desi_fits_to_parquet.archive.link import Link
from desi_fits_to_parquet.archive.remote import RemoteFile
from desi_fits_to_parquet.columns import EXTRA_HDUS
from desi_fits_to_parquet.download.coadd import fetch_coadd_rows, predict_headers
from desi_fits_to_parquet.download.tile import download_tile
from desi_fits_to_parquet.formats.fits import open_fits
from desi_fits_to_parquet.formats.fits_images import read_image
from desi_fits_to_parquet.formats.fits_tables import read_table
from desi_fits_to_parquet.fuse.tile import fuse_tile
from desi_fits_to_parquet.tile import Tile, is_audited

TILE = Tile("main", "dark", 10000)
COARSE = Tile("main", "dark", 4 * 4**5 + 2500, "uniqpix")
FINE = Tile("main", "dark", 4 * 4**7 + 40000, "uniqpix")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "FIRST_PAUSE_S", 0.01)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("archive")
    return simulate_objects(TILE, folder, 30, quasar_share=0.2, scan_step=3)


@pytest.fixture
def service(objects: dict[str, bytes]) -> Iterator[Service]:
    with serve(dict(objects)) as running:
        yield running


def settings_for(
    settings: dict[str, Any], service: Service, mode: str = "rows", **transfer: Any
) -> dict[str, Any]:
    changed = copy.deepcopy(settings)
    changed["archive"]["endpoint"] = service.endpoint
    changed["transfer"] |= {"mode": mode, "attempts": 3, "timeout_s": 20, "audit_fraction": 0}
    changed["transfer"] |= transfer
    return changed


def fetch(
    service: Service, settings: dict[str, Any], folder: Path, tile: Tile = TILE
) -> dict[str, Any]:
    return download_tile(tile, list_sources(tile, service.objects), settings, folder)


def convert_both_ways(
    service: Service, settings: dict[str, Any], folder: Path, tile: Tile = TILE
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fetch and fuse in both modes and assert that the Parquet files are equal byte for byte."""
    records, contents = {}, {}
    for mode in ("files", "rows"):
        changed = settings_for(settings, service, mode, audit_fraction=1)
        records[mode] = fetch(service, changed, folder / mode / "fits", tile)
        assert records[mode]["outcome"] is None, records[mode]["reason"]
        fused = fuse_tile(tile, folder / mode / "fits", folder / mode / "parquet", changed)
        assert fused["outcome"] is None, fused["reason"]
        contents[mode] = (folder / mode / "parquet" / f"{tile.name}.parquet").read_bytes()
        records[mode]["n_rows"] = fused["n_rows"]
    assert contents["files"] == contents["rows"], "the two modes gave different Parquet"
    assert records["rows"]["n_rows"] == records["rows"]["n_selected"]
    return records["files"], records["rows"]


@pytest.mark.parametrize(
    ("tile", "variant"),
    [
        (TILE, {}),
        (TILE, {"mask_form": "unsigned", "shuffle_redrock": True}),
        (COARSE, {"mask_form": "compressed", "redrock_columns": "newer"}),
        (FINE, {"mask_form": "compressed_unsigned", "redrock_columns": "newer",
                "shuffle_redrock": True}),
    ],
    ids=["dr1", "unsigned", "compressed-uniqpix", "compressed_unsigned-uniqpix"],
)  # fmt: skip
def test_rows_and_files_give_the_same_parquet_on_every_variant(
    settings: dict[str, Any], tmp_path: Path, tile: Tile, variant: dict[str, Any]
) -> None:
    objects = simulate_objects(tile, tmp_path / "a", 25, quasar_share=0.2, scan_step=5, **variant)
    with serve(objects) as service:
        files, rows = convert_both_ways(service, settings, tmp_path, tile)
    assert rows["n_rows"] == 5
    assert rows["bytes_fetched"] - rows["audit"]["checked_bytes"] < files["bytes_fetched"] / 3
    assert rows["audit"] == {
        "checked_bytes": rows["audit"]["checked_bytes"],
        "sha256_ok": True,
        "rows_ok": True,
        "problem": "",
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"selection": {"spectypes": ["QSO", "GALAXY", "STAR"], "zwarn": None,
                       "objtypes": ["TGT", "SKY"]}},
        {"selection": {"preset": "desi_qso"}},
        {"selection": {"spectypes": ["STAR"]}, "spectra": {"cameras": "separate"},
         "columns": {"fibermap": "all", "scores": True, "exposures": True, "rrdetails_scans": True,
                     "qso_mgii": True, "qso_qn": True}},
        {"columns": {"emline": False, "rrdetails": False}},
        {"spectra": {"resolution": "lsf"}},
        {"spectra": {"resolution": "matrix", "cameras": "separate"}},
    ],
    ids=["all", "desi_qso", "all_columns", "few_columns", "lsf", "matrix"],
)  # fmt: skip
def test_rows_and_files_give_the_same_parquet_with_other_settings(
    service: Service, settings: dict[str, Any], tmp_path: Path, changes: dict[str, Any]
) -> None:
    for section, values in changes.items():
        settings[section] |= values
    convert_both_ways(service, settings, tmp_path)


def test_rows_and_files_give_the_same_parquet_on_real_files(
    settings: dict[str, Any], tmp_path: Path, real_data: Path
) -> None:
    """The real tile holds no quasar: its one target is relabelled in a copy of its redrock file."""
    tile = Tile("special", "dark", 27247)
    folder = tmp_path / "archive" / tile.folder
    folder.mkdir(parents=True)
    for path in (real_data / tile.folder).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    with astropy_fits.open(folder / tile.file_name("redrock"), mode="update") as redrock:
        redrock["REDSHIFTS"].data["SPECTYPE"][:] = "QSO"
        redrock["REDSHIFTS"].data["ZWARN"][:] = 0
    objects = read_objects(tile, tmp_path / "archive")
    objects[key_of(tile, "sha256sum")] = checksum_list(tile, objects)
    with serve(objects) as service:
        _, rows = convert_both_ways(service, settings, tmp_path, tile)
    assert rows["n_rows"] == 1
    assert rows["sources"]["coadd"]["bytes_fetched"] < rows["sources"]["coadd"]["size"] * 2


def test_nothing_selected_costs_redrock_and_the_list_of_checksums(
    service: Service, settings: dict[str, Any], tmp_path: Path
) -> None:
    settings["selection"]["z"] = [90, 91]
    record = fetch(service, settings_for(settings, service), tmp_path / "fits")
    assert (record["outcome"], record["n_selected"], record["n_targets"]) == (None, 0, 30)
    names = {TILE.file_name("redrock"), TILE.checksum_name("iron")}
    assert {asked.key.rpartition("/")[2] for asked in service.asked} == names
    assert record["requests"] == 2
    convert_both_ways(service, settings, tmp_path)


def test_the_reduced_coadd_is_valid_and_says_where_its_rows_are_from(
    service: Service, settings: dict[str, Any], tmp_path: Path, objects: dict[str, bytes]
) -> None:
    settings["columns"]["scores"] = True
    record = fetch(service, settings_for(settings, service), tmp_path / "fits")
    path = tmp_path / "fits" / TILE.file_name("coadd")
    whole = tmp_path / "whole.fits"
    whole.write_bytes(objects[key_of(TILE, "coadd")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # astropy warns of wrong sums and broken cards
        with astropy_fits.open(path, checksum=True) as few, astropy_fits.open(whole) as all_:
            few.verify("exception")
            primary = few[0].header
            assert primary["SRCKEY"] == key_of(TILE, "coadd")
            assert primary["SRCETAG"] == record["sources"]["coadd"]["etag"]
            assert primary["SRCNROWS"] == 30
            rows = [
                row
                for run in primary["SRCROWS"].split(",")
                for row in range(int(run.split("-")[0]), int(run.split("-")[-1]) + 1)
            ]
            assert len(rows) == record["n_selected"] == 6
            names = [hdu.name for hdu in all_ if not hdu.name.endswith("RESOLUTION")]
            assert [hdu.name for hdu in few] == [n for n in names if n != "EXP_FIBERMAP"]
            for hdu in few[1:]:
                source = all_[hdu.name]
                changed = {"NAXIS2", "CHECKSUM", "DATASUM"}
                assert set(hdu.header) == set(source.header)
                for key in set(hdu.header) - changed:
                    assert hdu.header[key] == source.header[key]
                expected = source.data if "WAVE" in hdu.name else source.data[rows]
                assert hdu.data.tobytes() == expected.tobytes(), hdu.name


def test_rows_of_every_other_hdu_are_fetched_where_they_are_asked_for(
    service: Service, settings: dict[str, Any], tmp_path: Path, objects: dict[str, bytes]
) -> None:
    source = list_sources(TILE, service.objects)["coadd"]
    changed = settings_for(settings, service)
    whole = tmp_path / "whole.fits"
    whole.write_bytes(objects[source["key"]])
    fetched = {}
    with warnings.catch_warnings(), astropy_fits.open(whole) as all_:
        warnings.simplefilter("error")
        targetid = np.array(all_["FIBERMAP"].data["TARGETID"], np.int64)
        selected = targetid[[3, 4, 11]]
        for extra in ((), EXTRA_HDUS):
            path = tmp_path / f"{len(extra)}.fits"
            with Link(changed["archive"], changed["transfer"]) as link:
                fetch_coadd_rows(link, RemoteFile(link, source), path, targetid, selected, extra)
                fetched[extra] = link.received.total()
        with astropy_fits.open(tmp_path / f"{len(EXTRA_HDUS)}.fits", checksum=True) as few:
            assert [hdu.name for hdu in few] == [hdu.name for hdu in all_]
            for hdu in few[1:]:
                rows = all_[hdu.name].data
                if hdu.name == "EXP_FIBERMAP":
                    rows = rows[np.isin(rows["TARGETID"], selected)]
                elif "WAVELENGTH" not in hdu.name:
                    rows = rows[[3, 4, 11]]
                assert hdu.data.tobytes() == rows.tobytes(), hdu.name
    resolution = 3 * 11 * 7958 * 4
    assert resolution < fetched[EXTRA_HDUS] - fetched[()] < 1.2 * resolution


def test_for_the_widths_of_lines_three_diagonals_are_fetched(
    service: Service, settings: dict[str, Any], tmp_path: Path, objects: dict[str, bytes]
) -> None:
    fetched = {}
    for resolution in ("none", "lsf"):
        asked = settings_for(settings, service, audit_fraction=1)
        asked["spectra"] |= {"resolution": resolution}
        record = fetch(service, asked, tmp_path / resolution)
        assert record["audit"]["rows_ok"]
        fetched[resolution] = record["bytes_fetched"]
    n = record["n_selected"]
    whole = tmp_path / "whole.fits"
    whole.write_bytes(objects[key_of(TILE, "coadd")])
    with (
        astropy_fits.open(tmp_path / "none" / TILE.file_name("coadd")) as without,
        astropy_fits.open(tmp_path / "lsf" / TILE.file_name("coadd"), checksum=True) as few,
        astropy_fits.open(whole) as all_,
    ):
        assert not any("RESOLUTION" in hdu.name for hdu in without)
        rows = np.isin(all_["FIBERMAP"].data["TARGETID"], few["FIBERMAP"].data["TARGETID"])
        for arm in "BRZ":
            expected = all_[f"{arm}_RESOLUTION"].data[rows, 4:7]
            assert np.array_equal(few[f"{arm}_RESOLUTION"].data, expected)
    core = n * 3 * 7958 * 4
    assert core <= fetched["lsf"] - fetched["none"] < 2 * core  # gaps may cost less than requests


@pytest.mark.reference
def test_fitsio_and_desispec_read_the_reduced_coadd(
    service: Service, settings: dict[str, Any], tmp_path: Path
) -> None:
    import fitsio
    from desispec.io import read_spectra

    fetch(service, settings_for(settings, service), tmp_path / "fits")
    path = str(tmp_path / "fits" / TILE.file_name("coadd"))
    with fitsio.FITS(path) as opened:
        assert opened["R_FLUX"].read().shape == (6, 2326)
        assert opened[0].read_header()["SRCNROWS"] == 30
    read = read_spectra(path)
    assert read.num_spectra() == 6
    assert read.bands == ["b", "r", "z"]


@pytest.mark.parametrize("form", ["compressed", "compressed_unsigned"])
def test_rows_of_a_compressed_mask_stay_compressed_and_readable(
    settings: dict[str, Any], tmp_path: Path, form: Any
) -> None:
    objects = simulate_objects(TILE, tmp_path / "a", 20, mask_form=form, scan_step=50)
    whole = tmp_path / "a" / TILE.folder / TILE.file_name("coadd")
    with serve(objects) as service:
        fetch(service, settings_for(settings, service), tmp_path / "fits")
    path = tmp_path / "fits" / TILE.file_name("coadd")
    with open_fits(path) as few, open_fits(whole) as all_:
        found = read_table(few, "FIBERMAP", ("TARGETID",))["TARGETID"]
        ids = read_table(all_, "FIBERMAP", ("TARGETID",))["TARGETID"]
        rows = np.flatnonzero(np.isin(ids, found))
        for arm in "BRZ":
            expected = read_image(all_, f"{arm}_MASK")[rows]
            assert np.array_equal(read_image(few, f"{arm}_MASK"), expected)
    with astropy_fits.open(path, checksum=True) as few_astropy:
        assert np.array_equal(few_astropy["Z_MASK"].data, expected)


def test_the_reduced_details_hold_the_best_fits_of_the_selected_targets_unchanged(
    service: Service, settings: dict[str, Any], tmp_path: Path, objects: dict[str, bytes]
) -> None:
    record = fetch(service, settings_for(settings, service), tmp_path / "fits")
    assert record["sources"]["rrdetails"]["verified"] == "parts"
    assert record["sources"]["rrdetails"]["bytes_fetched"] < 150_000
    whole = tmp_path / "whole.h5"
    whole.write_bytes(objects[key_of(TILE, "rrdetails")])
    with (
        h5py.File(tmp_path / "fits" / TILE.file_name("rrdetails")) as few,
        h5py.File(whole) as all_,
    ):
        assert len(few["zfit"]) == len(few["targetids"]) == 6
        for target in few["targetids"][()]:
            ours, theirs = few[f"zfit/{target}/zfit"], all_[f"zfit/{target}/zfit"]
            assert ours.dtype == theirs.dtype
            assert ours[()].tobytes() == theirs[()].tobytes()


def test_details_in_hdf5s_newest_form_are_read_too(
    settings: dict[str, Any], tmp_path: Path, objects: dict[str, bytes]
) -> None:
    """The walk ahead does not know it; h5py asks for what it needs."""
    (tmp_path / "old.h5").write_bytes(objects[key_of(TILE, "rrdetails")])
    with (
        h5py.File(tmp_path / "old.h5") as old,
        h5py.File(tmp_path / "new.h5", "w", libver="latest") as new,
    ):
        for name in old:
            old.copy(name, new)
    newer = dict(objects)
    newer[key_of(TILE, "rrdetails")] = (tmp_path / "new.h5").read_bytes()
    newer[key_of(TILE, "sha256sum")] = checksum_list(TILE, newer)
    with serve(newer) as service:
        _, rows = convert_both_ways(service, settings, tmp_path)
    assert rows["sources"]["rrdetails"]["verified"] == "parts"


def test_a_walk_over_the_headers_costs_a_handful_of_requests(
    service: Service, settings: dict[str, Any], tmp_path: Path
) -> None:
    settings["columns"] |= {"emline": False, "rrdetails": False}
    fetch(service, settings_for(settings, service), tmp_path / "fits")
    starts = {asked.start for asked in service.asked if asked.kind == "coadd"}
    rows = 9 * 6
    assert len(starts) - rows < 30


def test_predicted_headers_are_where_a_file_of_dr1_has_them(
    objects: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / "coadd.fits"
    path.write_bytes(objects[key_of(TILE, "coadd")])
    with open_fits(path) as coadd:
        starts = {name: hdu.header_start for name, hdu in coadd.hdus.items()}
        ranges = predict_headers(starts["B_WAVELENGTH"], 30)
    for name, at in starts.items():
        if "_" in name and name != "EXP_FIBERMAP":
            assert any(start <= at < stop for start, stop in ranges), name


def test_a_coadd_of_another_layout_is_walked_all_the_same(
    settings: dict[str, Any], tmp_path: Path, objects: dict[str, bytes]
) -> None:
    """An HDU more in front and one less behind: no offset of the usual layout is right."""
    path = tmp_path / "coadd.fits"
    path.write_bytes(objects[key_of(TILE, "coadd")])
    with astropy_fits.open(path, mode="update") as coadd:
        coadd.insert(1, astropy_fits.ImageHDU(np.zeros((7, 100_000), "f4"), name="EXTRA"))
        del coadd["B_RESOLUTION"]
        coadd["R_FLUX"].header["HISTORY"] = "a long story " * 400
    changed = dict(objects)
    changed[key_of(TILE, "coadd")] = path.read_bytes()
    changed[key_of(TILE, "sha256sum")] = checksum_list(TILE, changed)
    with serve(changed) as service:
        convert_both_ways(service, settings, tmp_path)


def test_a_remote_file_gives_the_objects_bytes_and_keeps_each_once(
    service: Service, settings: dict[str, Any], objects: dict[str, bytes]
) -> None:
    source = list_sources(TILE, service.objects)["coadd"]
    data = objects[source["key"]]
    rng = np.random.default_rng(1)
    changed = settings_for(settings, service)
    with Link(changed["archive"], changed["transfer"]) as link:
        remote = RemoteFile(link, source)
        for _ in range(60):
            start = int(rng.integers(0, 200_000))
            stop = start + int(rng.integers(0, 9_000))
            remote.prefetch([(start, stop), (start - 500, start + 100)])
            assert remote.read_at(start, stop - start) == data[start:stop]
        requests = link.requests
        remote.prefetch([(piece, piece + 10) for piece, _ in remote.pieces()])
        assert link.requests == requests, "what is here was fetched again"
        for (start, piece), (after, _) in itertools.pairwise(remote.pieces()):
            assert start + len(piece) <= after


def test_the_audit_takes_its_share_of_tiles_and_always_the_same() -> None:
    tiles = [Tile("main", "dark", pixel) for pixel in range(4000)]
    taken = [tile for tile in tiles if is_audited(tile, 0.05)]
    assert 150 < len(taken) < 250
    assert taken == [tile for tile in tiles if is_audited(tile, 0.05)]
    assert all(is_audited(tile, 1) for tile in tiles)
    assert not any(is_audited(tile, 0) for tile in tiles)
