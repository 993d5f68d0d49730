"""A folder as the archive: listed, fetched, checked and told apart as a bucket is."""

import copy
import os
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fault_server import serve
from running import folder_of
from simulated_archive import key_of, list_sources, read_objects

from desi_fits_to_parquet.archive import link as archive_module
from desi_fits_to_parquet.archive.errors import ArchiveUnreachable, NothingFound
from desi_fits_to_parquet.archive.keys import archive_address
from desi_fits_to_parquet.archive.listing import open_listing
from desi_fits_to_parquet.config import ConfigError, load_config
from desi_fits_to_parquet.discover import discover_tiles
from desi_fits_to_parquet.download import outage
from desi_fits_to_parquet.download.tile import download_tile
from desi_fits_to_parquet.fuse.tile import fuse_tile
from desi_fits_to_parquet.paths import OUTAGE
from desi_fits_to_parquet.simulate.tile import simulate_tile
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.tiles_csv import Sources, read_tiles

TILE = Tile("main", "dark", 10000)
SCHEMA = Path(__file__).resolve().parents[1] / "config/schema.yaml"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of one tile, in a folder whose name asks for care."""
    root = tmp_path_factory.mktemp("a folder %20 é")
    simulate_tile(TILE, folder_of(root, TILE), 12, quasar_share=0.4, scan_step=20)
    return root


@pytest.fixture
def archive(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "mirror #1"))


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "FIRST_PAUSE_S", 0.01)


def settings_for(
    settings: dict[str, Any], endpoint: Path | str, mode: str = "rows"
) -> dict[str, Any]:
    changed = copy.deepcopy(settings)
    changed["archive"]["endpoint"] = str(endpoint)
    changed["transfer"] |= {"mode": mode, "attempts": 3, "audit_fraction": 1}
    return changed


def values(path: Path) -> bytes:
    """All that a Parquet holds but where it is from; NaN equals NaN."""
    out = BytesIO()
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), out)
    return out.getvalue()


def listed(settings: dict[str, Any], folder: Path) -> Sources:
    discover_tiles(settings["archive"], settings["tiles"], None, folder / "tiles.csv")
    return read_tiles(folder / "tiles.csv")[TILE]


@pytest.mark.parametrize("mode", ["rows", "files"])
@pytest.mark.parametrize("form", ["path", "url"])
def test_a_folder_gives_the_same_rows_as_the_bucket_that_it_mirrors(
    settings: dict[str, Any], archive: Path, tmp_path: Path, mode: str, form: str
) -> None:
    here = settings_for(settings, archive if form == "path" else archive.as_uri(), mode)
    tables, records = {}, {}
    root = archive / "dr1/spectro/redux/iron/healpix"
    with serve(read_objects(TILE, root)) as service:
        there = settings_for(settings, service.endpoint, mode)
        for name, changed, sources in (
            ("there", there, list_sources(TILE, service.objects)),
            ("here", here, listed(here, tmp_path)),
        ):
            records[name] = download_tile(TILE, sources, changed, tmp_path / name)
            assert records[name]["outcome"] is None, records[name]["reason"]
            fused = fuse_tile(TILE, tmp_path / name, tmp_path / f"{name}-parquet", changed)
            assert fused["n_rows"]
            tables[name] = values(tmp_path / f"{name}-parquet" / f"{TILE.name}.parquet")
    assert tables["here"] == tables["there"]
    verified = {kind: source["verified"] for kind, source in records["here"]["sources"].items()}
    assert verified["redrock"] == "sha256"
    assert verified["coadd"] == ("parts" if mode == "rows" else "sha256")


def test_a_copy_that_keeps_times_is_the_same_archive(
    settings: dict[str, Any], archive: Path, tmp_path: Path
) -> None:
    copied = shutil.copytree(archive, tmp_path / "copy")
    first = listed(settings_for(settings, archive), tmp_path)
    assert listed(settings_for(settings, copied), tmp_path) == first


def test_a_file_that_was_replaced_is_listed_again_and_read_anew(
    settings: dict[str, Any], archive: Path, tmp_path: Path
) -> None:
    changed = settings_for(settings, archive)
    sources = listed(changed, tmp_path)
    coadd = archive / key_of(TILE, "coadd")
    os.utime(coadd, ns=(0, coadd.stat().st_mtime_ns + 5_000))
    record = download_tile(TILE, sources, changed, tmp_path / "fits")
    assert record["outcome"] is None, record["reason"]
    assert record["sources"]["coadd"]["etag"] != sources["coadd"]["etag"]
    coadd.unlink()
    gone = download_tile(TILE, sources, changed, tmp_path / "fits")
    assert gone["outcome"] == "missing_source"


@pytest.mark.parametrize("mode", ["rows", "files"])
def test_a_spoiled_file_is_corrupt_source(
    settings: dict[str, Any], archive: Path, tmp_path: Path, mode: str
) -> None:
    redrock = archive / key_of(TILE, "redrock")
    data = bytearray(redrock.read_bytes())
    data[5000] ^= 1
    redrock.write_bytes(data)
    changed = settings_for(settings, archive, mode)
    record = download_tile(TILE, listed(changed, tmp_path), changed, tmp_path / "fits")
    assert record["outcome"] == "corrupt_source"
    assert redrock.name in record["reason"]
    assert "sha256" in record["reason"]


def test_a_folder_that_goes_away_is_an_archive_that_cannot_be_reached(
    settings: dict[str, Any], archive: Path, tmp_path: Path
) -> None:
    changed = settings_for(settings, archive)
    sources = listed(changed, tmp_path)
    archive.rename(tmp_path / "not mounted")
    record = download_tile(TILE, sources, changed, tmp_path / "fits")
    assert record["outcome"] == "unreachable"
    assert str(archive) in record["reason"]
    with pytest.raises(ArchiveUnreachable, match=r"is not there: see archive\.endpoint"):
        listed(changed, tmp_path)


def test_a_production_named_in_place_of_the_folder_that_holds_it_is_told(
    settings: dict[str, Any], archive: Path, tmp_path: Path
) -> None:
    production = archive / "dr1/spectro/redux/iron"
    with pytest.raises(NothingFound) as caught:
        listed(settings_for(settings, production), tmp_path)
    assert f"{production.parent}, and archive.prefix its name, iron" in str(caught.value)
    other = settings_for(settings, tmp_path)
    with pytest.raises(NothingFound, match=r"see archive\.endpoint and archive\.prefix"):
        listed(other, tmp_path)


def test_hidden_files_and_links_that_lead_back_up_are_no_part_of_the_archive(
    settings: dict[str, Any], archive: Path
) -> None:
    changed = settings_for(settings, archive)
    list_folder = open_listing(changed["archive"])
    before, _ = list_folder("dr1/")
    tile = folder_of(archive, TILE)
    (tile / ".part").write_text("x")
    (tile / "up").symlink_to(archive)
    assert {source["key"] for source in before} <= {s["key"] for s in list_folder("dr1/")[0]}
    assert listed(changed, archive) == {
        kind: source
        for kind, source in listed(changed, archive).items()
        if "/up/" not in source["key"] and ".part" not in source["key"]
    }
    assert list_folder("dr1/spectro/redux/iron/healpix/main/dark/100/1000", level=True) == (
        [],
        ["10000"],
    )


def test_a_run_waits_for_a_folder_that_is_away(
    settings: dict[str, Any], archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST_PAUSE_S", "LOOK_S"):
        monkeypatch.setattr(outage, name, 0.01)
    changed = settings_for(settings, archive)
    changed["results"] = str(tmp_path)
    sources = listed(changed, tmp_path)
    away = archive.rename(tmp_path / "not mounted")
    looks: list[bool] = []

    def go_on() -> None:
        looks.append((tmp_path / OUTAGE).exists())
        if len(looks) == 3:
            away.rename(archive)

    record = outage.download_patiently(TILE, sources, changed, tmp_path / "fits", "run", go_on)
    assert record["outcome"] is None, record["reason"]
    assert all(looks[:3])
    assert not (tmp_path / OUTAGE).exists()


def test_what_is_no_url_and_no_path_is_refused_before_anything_else_happens(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for endpoint in ("somewhere", "s3://desidata", "file://there/x", "ftp://there/x"):
        path.write_text(f"archive: {{endpoint: '{endpoint}'}}")
        with pytest.raises(ConfigError, match=r"archive\.endpoint .* a folder of this machine"):
            load_config(SCHEMA, path)
    for endpoint in (tmp_path, "results/skim", "./mirror", "~/mirror"):
        path.write_text(f"archive: {{endpoint: '{endpoint}'}}")
        address = archive_address(load_config(SCHEMA, path)["archive"])
        assert Path(address).is_absolute()
        assert address.endswith(str(endpoint).lstrip(".~"))
