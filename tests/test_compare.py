"""Two releases side by side: each target that is not the same is named, with what it was and is."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from simulated_archive import list_sources, simulate_objects

from desi_fits_to_parquet.compare import targets as compared
from desi_fits_to_parquet.compare.build import compare_releases
from desi_fits_to_parquet.compare.targets import find_targets
from desi_fits_to_parquet.files import write_json
from desi_fits_to_parquet.fuse.tile import fuse_tile
from desi_fits_to_parquet.paths import marker_path, parquet_folder, parquet_path
from desi_fits_to_parquet.tile import LAYOUTS, Tile
from desi_fits_to_parquet.tiles_csv import Sources, write_tiles

Values = tuple[float, str, int]
"""Redshift, class, number of exposures."""

SEEN = {"quasar_share": 0.3, "exposures_per_target": 2, "scan_step": 100,
        "kinds": ("coadd", "redrock", "sha256sum")}  # fmt: skip


def at(pixel: int, layout: str, program: str = "dark", order: int = 6) -> Tile:
    """Name the tile of a pixel of that order."""
    return Tile("main", program, LAYOUTS[layout].number(order, pixel), layout)


@pytest.fixture
def everything(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that select every target, of any class."""
    changed = copy.deepcopy(settings)
    changed["selection"] |= {"spectypes": ["QSO", "GALAXY", "STAR"], "zwarn": None}
    changed["columns"] |= {"emline": False, "rrdetails": False}
    return changed


def make_release(
    results: Path, tiles: dict[Tile, tuple[int, dict[str, Any]]], settings: dict[str, Any]
) -> dict[int, Values]:
    """Simulate tiles and convert them; return their targets as astropy reads the FITS."""
    listed: dict[Tile, Sources] = {}
    targets = {}
    for tile, (count, options) in tiles.items():
        objects = simulate_objects(tile, results / "simulated", count, **SEEN | options)
        listed[tile] = list_sources(tile, objects)
        here = results / "simulated" / tile.folder
        record = fuse_tile(tile, here, parquet_folder(results, tile), settings)
        assert record["n_rows"], record["reason"]
        write_json(marker_path(results, tile), {"outcome": "converted"})
        fitted = fits.getdata(here / tile.file_name("redrock"), "REDSHIFTS")
        fibres = fits.getdata(here / tile.file_name("coadd"), "FIBERMAP")
        wanted = (fibres["OBJTYPE"] == "TGT") & (fibres["TARGETID"] > 0)
        for row in np.flatnonzero(wanted):
            targets[int(fitted["TARGETID"][row])] = (
                float(fitted["Z"][row]), str(fitted["SPECTYPE"][row]),
                int(fibres["COADD_NUMEXP"][row]),
            )  # fmt: skip
    write_tiles(results / "tiles.csv", listed)
    return targets


def fail(results: Path, tile: Tile, outcome: str | None) -> None:
    """Make a tile one that failed, or one that is not done."""
    parquet_path(tile, parquet_folder(results, tile)).unlink()
    marker_path(results, tile).unlink()
    if outcome:
        write_json(marker_path(results, tile), {"outcome": outcome})


def read_changes(folder: Path) -> dict[int, dict[str, Any]]:
    rows = pq.read_table(folder / "targets.parquet").to_pylist()
    found = {row["targetid"]: row for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_target_that_is_not_the_same_is_named_with_its_values_before_and_after(
    tmp_path: Path, everything: dict[str, Any], layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Targets are observed again, reclassified, dropped, added, or left as they were."""
    monkeypatch.setattr(compared, "TOGETHER", 4)
    before, after = tmp_path / "dr2", tmp_path / "dr3"
    old = make_release(
        before,
        {at(100, "healpix"): (12, {}), at(101, "healpix"): (9, {}), at(300, "healpix"): (5, {})},
        everything,
    )
    new = make_release(
        after,
        {
            at(100, layout): (12, {"quasar_share": 0.6, "exposures_per_target": 4}),
            at(101, layout): (9, {}),
            at(302, layout): (7, {}),
        },
        everything,
    )
    summary = compare_releases(before, after, tmp_path / "compare")
    found = read_changes(tmp_path / "compare")
    changed = {name for name in old.keys() & new.keys() if old[name] != new[name]}
    assert {n for n, row in found.items() if row["change"] == "changed"} == changed
    assert {n for n, row in found.items() if row["change"] == "gone"} == old.keys() - new.keys()
    assert {n for n, row in found.items() if row["change"] == "new"} == new.keys() - old.keys()
    assert found.keys() <= old.keys() | new.keys()
    names = ("z", "spectype", "coadd_numexp")
    for name, row in found.items():
        assert (row["survey"], row["program"]) == ("main", "dark")
        assert tuple(row[f"{n}_before"] for n in names) == old.get(name, (None,) * 3)
        assert tuple(row[f"{n}_after"] for n in names) == new.get(name, (None,) * 3)
        if row["change"] == "changed":
            z = old[name][0]
            assert row["dv_km_s"] == pytest.approx(299792.458 * (new[name][0] - z) / (1 + z))
        else:
            assert row["dv_km_s"] is None
    both = [(old[n], new[n]) for n in old.keys() & new.keys()]
    count = summary["total"]
    assert summary["programs"] == [{"survey": "main", "program": "dark", **count}]
    assert (count["targets_before"], count["targets_after"]) == (len(old), len(new))
    assert (count["in_both"], count["changed"], count["unknown"]) == (len(both), len(changed), 0)
    for i, name in enumerate(names):
        assert count[f"changed_{name}"] == sum(was[i] != now[i] for was, now in both) > 0
    assert list(found) == sorted(found)
    assert json.loads((tmp_path / "compare/summary.json").read_text()) == summary
    page = (tmp_path / "compare/compare.html").read_text()
    largest = max(found.values(), key=lambda row: abs(row["dv_km_s"] or 0))
    assert f'"{largest["targetid"]}"' in page


def test_a_release_is_as_it_was_against_itself(tmp_path: Path, everything: dict[str, Any]) -> None:
    targets = make_release(tmp_path / "dr1", {at(100, "healpix"): (8, {})}, everything)
    summary = compare_releases(tmp_path / "dr1", tmp_path / "dr1", tmp_path / "compare")
    assert read_changes(tmp_path / "compare") == {}
    assert summary["total"]["in_both"] == len(targets)
    assert summary["same_selection"]


@pytest.mark.parametrize(
    ("order", "outcome"), [(5, "corrupt_source"), (6, None), (7, "unreachable")]
)
def test_targets_whose_tile_failed_in_the_other_release_are_not_called_gone_or_new(
    tmp_path: Path, everything: dict[str, Any], order: int, outcome: str | None
) -> None:
    """The tile that failed may be smaller or larger than the one that holds the target."""
    before, after = tmp_path / "dr2", tmp_path / "dr3"
    whole, lost = at(100, "healpix"), at(200, "healpix")
    failed = at(200 << 2 * (order - 6) if order >= 6 else 50, "uniqpix", order=order)
    make_release(before, {whole: (4, {}), lost: (12, {})}, everything)
    make_release(after, {at(100, "uniqpix"): (4, {}), failed: (4, {})}, everything)
    fail(after, failed, outcome)
    summary = compare_releases(before, after, tmp_path / "compare")
    table = pq.read_table(parquet_folder(before, lost), columns=["targetid", "_healpix_29"])
    ids = {r["targetid"]: r["_healpix_29"] for r in table.to_pylist() if r["targetid"] > 0}
    inside = {name for name, pixel in ids.items() if pixel >> 2 * (29 - order) == failed.pixel}
    assert inside
    found = read_changes(tmp_path / "compare")
    assert {name for name, row in found.items() if row["change"] == "unknown"} == inside
    assert {name for name in ids if found[name]["change"] == "gone"} == ids.keys() - inside
    assert summary["after"]["tiles_not_done"] == (outcome is None)
    assert "1 of the 2 tiles" in (tmp_path / "compare/compare.html").read_text()
    compare_releases(after, before, tmp_path / "back")
    found = read_changes(tmp_path / "back")
    assert {name for name, row in found.items() if row["change"] == "unknown"} == inside
    assert {name for name in ids if found[name]["change"] == "new"} == ids.keys() - inside


def test_programs_of_one_release_alone_and_another_selection_are_told_and_not_compared(
    tmp_path: Path, everything: dict[str, Any], settings: dict[str, Any]
) -> None:
    make_release(tmp_path / "a", {at(100, "healpix"): (4, {})}, everything)
    make_release(
        tmp_path / "b",
        {at(100, "healpix"): (4, {}), at(100, "healpix", "bright"): (4, {})},
        settings,
    )
    summary = compare_releases(tmp_path / "a", tmp_path / "b", tmp_path / "compare")
    assert (summary["only_before"], summary["only_after"]) == ([], ["main-bright"])
    assert not summary["same_selection"]
    page = (tmp_path / "compare/compare.html").read_text()
    assert "main-bright: not compared" in page
    assert "different selections" in page
    rows = read_changes(tmp_path / "compare").values()
    assert {row["program"] for row in rows} == {"dark"}


def test_a_target_that_a_release_has_twice_goes_once_with_each() -> None:
    before = pa.table({"targetid": pa.array([3, 7, 7, 9], pa.int64())})
    after = pa.table({"targetid": pa.array([1, 7, 7, 7, 9], pa.int64())})
    assert find_targets(before, after).tolist() == [-1, 1, 2, 4]
    assert find_targets(after, before).tolist() == [-1, 1, 2, -1, 3]
    nothing = before.slice(0, 0)
    assert find_targets(before, nothing).tolist() == [-1] * 4
    assert find_targets(nothing, before).tolist() == []


def test_what_cannot_be_compared_is_named(
    tmp_path: Path, everything: dict[str, Any], settings: dict[str, Any]
) -> None:
    tile = at(100, "healpix")
    make_release(tmp_path / "whole", {tile: (4, {})}, everything)
    with pytest.raises(ValueError, match=r"nothing holds no results.*compare_with"):
        compare_releases(tmp_path / "nothing", tmp_path / "whole", tmp_path / "compare")
    settings["columns"]["fibermap"] = ["FLUX_R"]
    make_release(tmp_path / "few", {tile: (4, {})}, settings)
    with pytest.raises(ValueError, match=r"no column coadd_numexp.*columns\.fibermap"):
        compare_releases(tmp_path / "few", tmp_path / "whole", tmp_path / "compare")
    parquet_path(tile, parquet_folder(tmp_path / "few", tile)).unlink()
    with pytest.raises(ValueError, match=r"main-dark-100\.parquet is missing.*verify"):
        compare_releases(tmp_path / "whole", tmp_path / "few", tmp_path / "compare")
    assert not list(tmp_path.rglob("*.part"))
