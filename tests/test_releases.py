"""Two releases in one bucket, one of each layout, as their configuration files name them."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
import yaml
from conftest import REPOSITORY
from running import BUCKET, CORES, checkout

from desi_fits_to_parquet.paths import marker_path, parquet_folder, parquet_path
from desi_fits_to_parquet.records import record_tile
from desi_fits_to_parquet.run.markers import read_markers
from desi_fits_to_parquet.simulate.archive import flip_bit
from desi_fits_to_parquet.simulate.serve import put_object, serve_archive
from desi_fits_to_parquet.simulate.tile import simulate_tile
from desi_fits_to_parquet.tile import LAYOUTS, Tile

PREFIX = {
    name: yaml.safe_load((REPOSITORY / f"config/releases/{name}.yaml").read_text())["archive"][
        "prefix"
    ]
    for name in ("dr2", "dr3")
}


def at(pixel: int, layout: str, order: int = 6) -> Tile:
    return Tile("main", "dark", LAYOUTS[layout].number(order, pixel), layout)


OLD, OLD_EMPTY = at(100, "healpix"), at(101, "healpix")
SAME, COARSE, FINE = at(100, "uniqpix"), at(30, "uniqpix", 5), at(4000, "uniqpix", 7)
EMPTY, FLIPPED, NO_COADD = at(101, "uniqpix"), at(102, "uniqpix"), at(412, "uniqpix", 7)

EXPECTED = {
    "dr2": {OLD: "converted", OLD_EMPTY: "no_targets"},
    "dr3": {
        SAME: "converted",
        COARSE: "converted",
        FINE: "converted",
        EMPTY: "no_targets",
        FLIPPED: "corrupt_source",
        NO_COADD: "missing_source",
    },
}


def write_tile(archive: Path, release: str, tile: Tile) -> Path:
    """Write a tile of 8 targets; of the later release more are quasars."""
    share = 0.0 if tile in (OLD_EMPTY, EMPTY) else 0.5 if release == "dr2" else 0.75
    folder = archive / PREFIX[release] / tile.archive_folder
    production = PREFIX[release].rpartition("/")[2]
    simulate_tile(tile, folder, 8, production=production, quasar_share=share, scan_step=100,
                  exposures_per_target=1, redrock_columns="newer")  # fmt: skip
    return folder


class Releases(NamedTuple):
    """A checkout with the results of both, and the address of their archive."""

    folder: Path
    endpoint: str

    def results(self, release: str) -> Path:
        return self.folder / "results" / release

    def run(self, release: str, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", "--cores", str(CORES), *arguments,
             "--configfile", f"config/releases/{release}.yaml",
             "--config", f"archive={{endpoint: '{self.endpoint}'}}",
             *(["compare_with=results/dr2"] if "compare_releases" in arguments else [])],
            cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout
        return done.stdout

    def markers(self, release: str) -> dict[Tile, Any]:
        return {record_tile(marker): marker for marker in read_markers(self.results(release))}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archive")
    for release, tiles in EXPECTED.items():
        for tile in tiles:
            write_tile(root, release, tile)
    (root / PREFIX["dr3"] / NO_COADD.archive_folder / NO_COADD.file_name("coadd")).unlink()
    flip_bit(root / PREFIX["dr3"] / FLIPPED.archive_folder / FLIPPED.file_name("coadd"))
    return root


@pytest.fixture(scope="module")
def finished(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Releases]:
    """Both releases converted; tests that change something work on copies."""
    work = checkout(tmp_path_factory.mktemp("releases"))
    with serve_archive(archive, BUCKET) as endpoint:
        releases = Releases(work.folder, endpoint)
        releases.run("dr2", "tiles")
        releases.run("dr3")
        yield releases


def test_each_release_has_results_of_its_own_from_its_own_folder_of_the_archive(
    finished: Releases,
) -> None:
    assert {path.name for path in (finished.folder / "results").iterdir()} == {"dr2", "dr3"}
    for release, expected in EXPECTED.items():
        results, markers = finished.results(release), finished.markers(release)
        assert {tile: marker["outcome"] for tile, marker in markers.items()} == expected
        for tile, marker in markers.items():
            keys = [source["key"] for source in marker["sources"].values()]
            assert keys
            assert all(key.startswith(f"{PREFIX[release]}/{tile.archive_folder}/") for key in keys)
        files = set(results.glob("parquet/**/*.parquet"))
        done = [tile for tile, o in expected.items() if o in ("converted", "no_targets")]
        assert files == {parquet_path(tile, parquet_folder(results, tile)) for tile in done}


def test_adaptive_pixels_are_named_by_number_order_and_pixel(finished: Releases) -> None:
    results = finished.results("dr3")
    base = results / "parquet/main-dark/dataset"
    assert (base / f"Norder=5/Dir=0/Npix=30/main-dark-{4 * 4**5 + 30}.parquet").is_file()
    fine = base / f"Norder=7/Dir=0/Npix=4000/main-dark-{4 * 4**7 + 4000}.parquet"
    table = pq.read_table(fine, columns=["healpix", "healpix_order"], partitioning=None)
    assert set(zip(*(c.to_pylist() for c in table.columns), strict=True)) == {(4000, 7)}
    tiles = pq.read_table(results / "report/tiles.parquet").to_pylist()
    named = {(t["healpix"], t["order"], t["pixel"]): t["outcome"] for t in tiles}
    assert named == {(t.number, t.order, t.pixel): o for t, o in EXPECTED["dr3"].items()}
    summary = json.loads((results / "report/summary.json").read_text())
    assert summary["not_in_tiles_csv"] == []


def test_a_finished_run_on_adaptive_pixels_has_nothing_to_do(finished: Releases) -> None:
    assert "Nothing to be done" in finished.run("dr3")


def test_lost_and_failed_tiles_of_adaptive_pixels_are_made_again_and_only_those(
    finished: Releases, archive: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished.folder, tmp_path / "work", symlinks=True)
    mended = tmp_path / "mended"
    shutil.copytree(archive, mended)
    with serve_archive(mended, BUCKET) as endpoint:
        again = Releases(tmp_path / "work", endpoint)
        results = again.results("dr3")
        for tile in (FLIPPED, NO_COADD):
            coadd = write_tile(tmp_path / "again", "dr3", tile) / tile.file_name("coadd")
            key = coadd.relative_to(tmp_path / "again").as_posix()
            put_object(endpoint, BUCKET, key, coadd)
        lost = parquet_path(FINE, parquet_folder(results, FINE))
        before = lost.read_bytes()
        lost.unlink()
        kept = {t: marker_path(results, t).stat().st_mtime_ns for t in (SAME, COARSE, EMPTY)}
        assert f"{FINE.name}.parquet is missing" in again.run("dr3", "verify", code=1)
        assert "2 tiles cleared" in again.run("dr3", "retry_failed")
        again.run("dr3", "tiles")
    outcomes = {tile: marker["outcome"] for tile, marker in again.markers("dr3").items()}
    assert outcomes == EXPECTED["dr3"] | {FLIPPED: "converted", NO_COADD: "converted"}
    assert lost.read_bytes() == before
    assert {tile: marker_path(results, tile).stat().st_mtime_ns for tile in kept} == kept
    assert [path for path in results.glob("fits/**/*") if path.is_file()] == []


def test_releases_of_both_layouts_are_compared_by_target(finished: Releases) -> None:
    text = finished.run("dr3", "compare_releases")
    folder = finished.results("dr3") / "compare"
    summary = json.loads((folder / "summary.json").read_text())
    ids = {}
    for release, expected in EXPECTED.items():
        results = finished.results(release)
        ids[release] = {
            name
            for tile, outcome in expected.items()
            if outcome == "converted"
            for name in pq.read_table(parquet_folder(results, tile), columns=["targetid"])[
                "targetid"
            ].to_pylist()
        }
    old, new = ids["dr2"], ids["dr3"]
    found = pq.read_table(folder / "targets.parquet").to_pydict()
    changes = dict(zip(found["targetid"], found["change"], strict=True))
    assert {name for name, change in changes.items() if change == "new"} == new - old
    assert {name for name, change in changes.items() if change == "gone"} == old - new
    assert {name for name, change in changes.items() if change == "changed"} <= old & new
    assert summary["total"]["in_both"] == len(old & new) > 0
    assert (summary["before"]["archive"], summary["after"]["archive"]) == tuple(PREFIX.values())
    assert f"{len(new - old)} new" in text
    page = (folder / "compare.html").read_text()
    assert str(finished.folder) not in page


def test_compare_releases_without_another_release_says_what_to_name(finished: Releases) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", "compare_releases",
         "--configfile", "config/releases/dr2.yaml"],
        cwd=finished.folder, text=True, capture_output=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "compare_with=" in done.stderr
    assert "Traceback" not in done.stderr
