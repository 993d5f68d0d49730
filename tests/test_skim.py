"""The target `skim`: selected targets as FITS in DESI's layout, and Parquet from them."""

import copy
import subprocess
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits as astropy_fits
from fault_server import Service, serve
from simulated_archive import PREFIX, list_sources, simulate_objects

from desi_fits_to_parquet.archive import link as archive_module
from desi_fits_to_parquet.columns import kinds_used
from desi_fits_to_parquet.discover import discover_tiles
from desi_fits_to_parquet.download.tile import download_tile
from desi_fits_to_parquet.files import write_json
from desi_fits_to_parquet.fuse.tile import fuse_tile
from desi_fits_to_parquet.paths import skim_folder, skim_marker_path
from desi_fits_to_parquet.records import SkimMarker
from desi_fits_to_parquet.run.repair import OTHER_SETTINGS, UNREADABLE
from desi_fits_to_parquet.run.skims import (
    find_stale_skims,
    refuse_own_skim,
    skim_differences,
    write_skim_summary,
)
from desi_fits_to_parquet.skim import skim_fingerprint, skim_tile
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.tiles_csv import read_tiles, write_tiles

TILE = Tile("main", "dark", 10000)
UNIQPIX = Tile("main", "dark", 4 * 4**6 + 10000, "uniqpix")
ALL = {
    "columns": {"scores": True, "exposures": True, "qso_mgii": True, "qso_qn": True},
    "spectra": {"resolution": "lsf"},
}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "FIRST_PAUSE_S", 0.01)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("archive")
    return simulate_objects(TILE, folder, 20, quasar_share=0.3, scan_step=20)


@pytest.fixture
def service(objects: dict[str, bytes]) -> Iterator[Service]:
    with serve(dict(objects)) as running:
        yield running


def settings_for(
    settings: dict[str, Any], endpoint: str, results: Path, **sections: dict[str, Any]
) -> dict[str, Any]:
    changed = copy.deepcopy(settings)
    changed["archive"]["endpoint"] = endpoint
    changed["results"] = str(results)
    changed["transfer"] |= {"attempts": 3, "timeout_s": 20, "audit_fraction": 0}
    for name, values in sections.items():
        changed[name] |= values
    return changed


def skim(service: Service, settings: dict[str, Any], tile: Tile = TILE) -> tuple[SkimMarker, Path]:
    results = Path(settings["results"])
    results.mkdir(parents=True, exist_ok=True)
    kinds = (*kinds_used(settings), "sha256sum")
    listed = list_sources(tile, service.objects)
    sources = {kind: listed[kind] for kind in kinds if kind in listed}
    write_tiles(results / "tiles.csv", {tile: listed})
    marker = skim_tile(tile, sources, settings, "run", lambda: None)
    return marker, skim_folder(results, PREFIX.rstrip("/"), tile)


def whole(service: Service, tile: Tile, kind: str) -> Any:
    key = next(key for key in service.objects if key.endswith(f"/{tile.file_name(kind)}"))
    return BytesIO(service.objects[key])


def convert(settings: dict[str, Any], folder: Path, tile: Tile = TILE) -> bytes:
    """Discover, fetch and fuse; return all that the Parquet holds but where it is from."""
    folder.mkdir()
    discover_tiles(settings["archive"], settings["tiles"], None, folder / "tiles.csv")
    sources = read_tiles(folder / "tiles.csv")[tile]
    record = download_tile(tile, sources, settings, folder / "fits")
    assert record["outcome"] is None, record["reason"]
    fused = fuse_tile(tile, folder / "fits", folder / "parquet", settings)
    assert fused["n_rows"], fused["reason"]
    out = BytesIO()
    table = pq.read_table(folder / "parquet" / f"{tile.name}.parquet")
    pq.write_table(table.replace_schema_metadata(None), out)
    return out.getvalue()


def test_a_skim_holds_the_selected_rows_of_every_table_and_image(
    settings: dict[str, Any], service: Service, tmp_path: Path
) -> None:
    marker, folder = skim(service, settings_for(settings, service.endpoint, tmp_path, **ALL))
    assert marker["outcome"] == "converted", marker["reason"]
    with astropy_fits.open(folder / TILE.file_name("redrock"), checksum=True) as redrock:
        kept = np.asarray(redrock["REDSHIFTS"].data["TARGETID"])
        assert len(kept) == marker["n_rows"] == 6
    for kind in ("coadd", "redrock", "emline", "qso_mgii", "qso_qn"):
        with (
            astropy_fits.open(folder / TILE.file_name(kind), checksum=True) as mine,
            astropy_fits.open(whole(service, TILE, kind)) as theirs,
        ):
            assert [hdu.name for hdu in mine] == [hdu.name for hdu in theirs]
            targets = theirs[1].data["TARGETID"]
            assert mine[0].header["SRCKEY"].endswith(TILE.file_name(kind))
            for one, other in zip(mine[1:], theirs[1:], strict=True):
                if isinstance(one, astropy_fits.BinTableHDU):
                    rows = np.isin(other.data["TARGETID"], kept)
                    assert one.columns.names == other.columns.names
                    assert one.data.tobytes() == other.data[rows].tobytes()
                elif one.name.endswith("WAVELENGTH"):
                    assert np.array_equal(one.data, other.data)
                else:
                    assert np.array_equal(one.data, other.data[np.isin(targets, kept)])
                extra = set(one.header) - set(other.header)
                assert extra <= {"CHECKSUM", "DATASUM"}
    with h5py.File(folder / TILE.file_name("rrdetails")) as details:
        assert set(details["zfit"]) == {str(target) for target in kept}


def test_the_list_of_checksums_is_what_sha256sum_reads_and_what_the_marker_says(
    settings: dict[str, Any], service: Service, tmp_path: Path
) -> None:
    marker, folder = skim(service, settings_for(settings, service.endpoint, tmp_path))
    name = TILE.checksum_name("iron")
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", name], cwd=folder, check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} == set(marker["files"])
    assert len((folder / name).read_text().splitlines()) == len(marker["files"]) - 1
    assert marker["bytes_skim"] == sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize(
    ("tile", "variant", "sections"),
    [
        (TILE, {}, {}),
        (TILE, {"mask_form": "unsigned", "shuffle_redrock": True}, ALL),
        (TILE, {}, {"selection": {"preset": "desi_qso"}}),
        (UNIQPIX, {"mask_form": "compressed"}, {"spectra": {"cameras": "separate"}}),
    ],
    ids=["default", "shuffled", "desi_qso", "uniqpix"],
)
@pytest.mark.parametrize("mode", ["rows", "files"])
def test_parquet_from_a_skim_has_the_values_of_parquet_from_the_archive(
    settings: dict[str, Any], tmp_path: Path, tile: Tile, variant: dict[str, Any],
    sections: dict[str, Any], mode: str,
) -> None:  # fmt: skip
    objects = simulate_objects(tile, tmp_path / "a", 15, quasar_share=0.4, scan_step=20, **variant)
    with serve(objects) as service:
        there = settings_for(settings, service.endpoint, tmp_path / "results", **sections)
        marker, _ = skim(service, there, tile)
        assert marker["outcome"] == "converted", marker["reason"]
        expected = convert(there, tmp_path / "there", tile)
    here = settings_for(settings, str(tmp_path / "results/skim"), tmp_path, **sections)
    here["transfer"]["mode"] = mode
    assert convert(here, tmp_path / "here", tile) == expected


def test_a_skim_is_the_same_whether_rows_or_whole_files_were_fetched(
    settings: dict[str, Any], service: Service, tmp_path: Path
) -> None:
    files = []
    for name in ("ranges", "no ranges"):
        if name == "no ranges":
            service.choose = lambda asked: None if asked.start is None else "whole"
        marker, _ = skim(service, settings_for(settings, service.endpoint, tmp_path / name))
        assert marker["outcome"] == "converted", marker["reason"]
        files.append(marker["files"])
    assert files[0] == files[1]


def test_what_cannot_be_skimmed_has_the_outcome_of_a_tile_and_leaves_no_folder(
    settings: dict[str, Any], service: Service, tmp_path: Path
) -> None:
    chosen = settings_for(settings, service.endpoint, tmp_path)
    assert skim(service, chosen)[0]["outcome"] == "converted"

    def outcome(spoil: Callable[[str], None], kind: str, **sections: dict[str, Any]) -> str:
        key = next(key for key in service.objects if key.endswith(f"/{TILE.file_name(kind)}"))
        before = service.objects[key]
        spoil(key)
        marker, folder = skim(
            service, settings_for(settings, service.endpoint, tmp_path, **sections)
        )
        service.objects[key] = before
        assert not folder.exists()
        assert not list(tmp_path.rglob(".*.part"))
        assert marker["files"] == {}
        assert marker["bytes_skim"] == 0
        return marker["outcome"]

    def cut(key: str) -> None:
        service.objects[key] = service.objects[key][:-2880]

    assert outcome(service.objects.pop, "coadd") == "missing_source"
    assert outcome(cut, "redrock") == "corrupt_source"
    nobody = {"selection": {"z": [90.0, 91.0]}}
    assert outcome(lambda _: None, "redrock", **nobody) == "no_targets"
    marker, folder = skim(service, chosen)
    assert marker["outcome"] == "converted"
    assert folder.is_dir()
    service.endpoint = "http://127.0.0.1:9"
    impatient = settings_for(
        settings, service.endpoint, tmp_path, transfer={"attempts": 1, "outage_hours": 0}
    )
    assert skim(service, impatient)[0]["outcome"] == "unreachable"
    assert not folder.exists()


def test_the_fingerprint_changes_with_what_a_skim_depends_on_alone(
    settings: dict[str, Any],
) -> None:
    def fingerprint(section: str, values: dict[str, Any]) -> str:
        return skim_fingerprint({**settings, section: settings[section] | values})

    now = skim_fingerprint(settings)
    assert fingerprint("precision", {"mode": "lossless"}) == now
    assert fingerprint("transfer", {"mode": "files"}) == now
    for section, values in (
        ("selection", {"zwarn": None}),
        ("columns", {"qso_qn": True}),
        ("skim", {"hdus": ["RESOLUTION"]}),
    ):
        assert fingerprint(section, values) != now


def test_a_skim_that_is_not_what_a_run_would_make_now_is_made_again(
    settings: dict[str, Any], service: Service, tmp_path: Path
) -> None:
    chosen = settings_for(settings, service.endpoint, tmp_path)

    def problems(changed: dict[str, Any] = chosen) -> list[str]:
        return [problem for _, problem in find_stale_skims(tmp_path, changed)]

    def make() -> Path:
        marker, folder = skim(service, chosen)
        write_json(skim_marker_path(tmp_path, TILE), marker)
        return folder

    folder = make()
    assert problems() == []
    assert (
        problems(settings_for(chosen, service.endpoint, tmp_path, transfer={"attempts": 1})) == []
    )
    wider = settings_for(chosen, service.endpoint, tmp_path, selection={"zwarn": None})
    assert problems(wider) == [OTHER_SETTINGS]
    (folder / TILE.file_name("emline")).unlink()
    assert problems() == ["emline-main-dark-10000.fits of its skim is missing"]
    (make() / "other.fits").write_text("x")
    assert "'other.fits' does not belong in" in problems()[0]
    with (make() / TILE.file_name("coadd")).open("ab") as stream:
        stream.write(b"x")
    assert problems() == ["coadd-main-dark-10000.fits of its skim has another size"]
    make()
    sources = list_sources(TILE, service.objects)
    sources["coadd"]["etag"] = "0" * 32
    write_tiles(tmp_path / "tiles.csv", {TILE: sources})
    assert problems() == ["its files in the archive are others"]
    skim_marker_path(tmp_path, TILE).write_text("{")
    assert problems() == [UNREADABLE]


def test_what_a_skim_was_made_without_is_said_before_it_is_converted(
    settings: dict[str, Any], service: Service, tmp_path: Path
) -> None:
    chosen = settings_for(settings, service.endpoint, tmp_path, skim={"hdus": []})
    marker, _ = skim(service, chosen)
    write_json(skim_marker_path(tmp_path, TILE), marker)
    write_skim_summary(tmp_path, chosen)
    here = str(tmp_path / "skim")
    assert skim_differences(chosen) == ""
    assert skim_differences(settings_for(settings, here, tmp_path)) == ""
    wider = settings_for(
        settings, here, tmp_path, selection={"zwarn": None},
        columns={"scores": True, "qso_qn": True},
    )  # fmt: skip
    said = skim_differences(wider)
    assert "selection.zwarn was 0, is null; it has no qso_qn; it has no SCORES" in said
    assert "which the target skim writes" in refuse_own_skim(wider)
    assert refuse_own_skim(chosen) == ""
