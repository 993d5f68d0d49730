"""The target `skim` of the workflow: accounted for, resumed, verified, and an archive itself."""

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from running import PREFIX, Work, checkout, folder_of, write_tile

from desi_fits_to_parquet.paths import skim_folder, skim_marker_path
from desi_fits_to_parquet.records import SkimMarker
from desi_fits_to_parquet.tile import Tile

GOOD, EMPTY, SPOILED = (Tile("main", "dark", number) for number in (10000, 10001, 10002))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    for tile, share in ((GOOD, 0.5), (EMPTY, 0.0), (SPOILED, 0.5)):
        write_tile(folder, tile, quasar_share=share)
    return folder


def outcomes(work: Work) -> dict[Tile, str]:
    return {
        tile: json.loads(skim_marker_path(work.results, tile).read_text())["outcome"]
        for tile in (GOOD, EMPTY, SPOILED)
    }


def skim_of(work: Work, tile: Tile) -> Path:
    return skim_folder(work.results, PREFIX, tile)


def test_a_skim_is_accounted_for_resumed_verified_and_converted_without_its_archive(
    archive: Path, tmp_path: Path
) -> None:
    work = checkout(tmp_path / "work")
    redrock = folder_of(archive, SPOILED) / SPOILED.file_name("redrock")
    whole = redrock.read_bytes()
    redrock.write_bytes(whole[:-2880])
    here = archive.as_uri()

    text = work.run(here, "skim")
    assert "1 converted, 1 no_targets, 1 corrupt_source" in text
    expected = {GOOD: "converted", EMPTY: "no_targets", SPOILED: "corrupt_source"}
    assert outcomes(work) == expected
    assert [tile for tile in expected if skim_of(work, tile).exists()] == [GOOD]
    summary = json.loads((work.results / "skim/skim.json").read_text())
    assert Counter(expected.values()) == Counter(summary["outcomes"]) + Counter()
    assert summary["bytes_skim"] == sum(f.stat().st_size for f in skim_of(work, GOOD).iterdir())
    assert len((work.results / "skim/tiles.csv").read_text().splitlines()) == 4

    assert set(json.loads(skim_marker_path(work.results, GOOD).read_text())) == set(
        SkimMarker.__annotations__
    )

    redrock.write_bytes(whole)
    with (skim_of(work, GOOD) / GOOD.file_name("coadd")).open("r+b") as stream:
        stream.write(b"SIMPLE  =                    F")
    assert "coadd-main-dark-10000.fits of its skim was altered" in work.run(here, "verify", code=1)
    assert "1 tiles cleared" in work.run(here, "retry_failed")
    marker = skim_marker_path(work.results, EMPTY)
    before = marker.stat().st_mtime_ns
    assert "2 converted, 1 no_targets" in work.run(here, "skim")
    assert outcomes(work) == expected | {SPOILED: "converted"}
    assert marker.stat().st_mtime_ns == before  # what was done stayed

    archive.rename(archive.with_name("gone"))
    work.run("results/skim", "tiles", config="results=results/again")
    for tile in (GOOD, SPOILED):
        parquet = next(work.results.glob(f"again/parquet/**/{tile.name}.parquet"))
        assert pq.read_metadata(parquet).num_rows == 3
