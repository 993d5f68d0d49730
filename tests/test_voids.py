"""examples/voids: targets in the voids of a catalogue like DESIVAST, against brute force."""

import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from conftest import REPOSITORY
from fusion_tiles import changed
from hypothesis import given, settings
from hypothesis import strategies as st
from reader_trees import collect, simulate

from desi_fits_to_parquet import open_catalog
from desi_fits_to_parquet.config import load_config
from desi_fits_to_parquet.simulate.voids import CAPS, FAR, simulate_voids, to_sky
from desi_fits_to_parquet.tile import Tile

sys.path.insert(0, str(REPOSITORY / "examples/voids"))
import match_voids as example


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desivast")
    simulate_voids(folder)
    return folder


@pytest.fixture(scope="module")
def galaxies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with the galaxies of a tile of main/bright."""
    defaults = load_config(REPOSITORY / "config/schema.yaml")
    tiles = [Tile("main", "bright", 10000)]
    return collect(
        simulate(tmp_path_factory.mktemp("fits"), tiles),
        tmp_path_factory.mktemp("galaxies"),
        changed(defaults, selection={"spectypes": ["GALAXY"]}),
        tiles,
    )


def targets_at(xyz: Any, voids: example.Voids) -> pa.Table:
    """Targets at places, by redshifts that lie there in the catalogue's cosmology."""
    ra, dec, r = to_sky(xyz)
    z = np.linspace(0, 0.4, 4001)
    known = voids.cosmology.comoving_distance(z).value
    names = ("targetid", "target_ra", "target_dec", "z")
    return pa.table([np.arange(len(xyz)) + 7, ra, dec, np.interp(r, known, z)], names)


def random_places(n: int, cap: str = "NGC") -> Any:
    rng = np.random.default_rng(5)
    ra, dec = CAPS[cap]
    from desi_fits_to_parquet.simulate.voids import to_xyz

    return to_xyz(
        rng.uniform(ra - 5, ra + 5, n), rng.uniform(dec - 4, dec + 4, n), rng.uniform(60, 750, n)
    )


def test_the_files_are_of_desivasts_form(files: Path) -> None:
    """HDUs and counts of columns as the files of v1.0 have them, but for V2's outlines."""
    form = {
        "VoidFinder": {"MAXIMALS": 11, "HOLES": 5},
        **{kind: {"VOIDS": 19, "ZONEVOID": 3, "GALZONE": 9} for kind in example.KINDS[1:]},
    }
    for kind, tables in form.items():
        for cap in CAPS:
            with fits.open(files / f"DESIVAST_BGS_VOLLIM_{kind}_{cap}.fits") as hdus:
                assert {h.name: len(h.columns) for h in hdus[1:] if h.name != "MASK"} == tables
                numbered = hdus["MAXIMALS" if kind == "VoidFinder" else "VOIDS"].data["VOID"]
                assert numbered.tolist() == list(range(len(numbered)))  # anew in each cap


@pytest.mark.parametrize("kind", example.KINDS)
def test_every_target_gets_the_sphere_that_brute_force_gives_it(files: Path, kind: str) -> None:
    voids = example.read_voids(files, kind)
    xyz = np.concatenate([random_places(1500), random_places(500, "SGC")])
    targets = targets_at(xyz, voids)
    matched = example.match(targets, voids)
    assert matched["targetid"].to_pylist() == targets["targetid"].to_pylist()
    place = np.stack([matched[name].to_numpy() for name in "xyz"], axis=1)
    assert np.abs(place - xyz).max() < 1e-3
    centre = np.stack([voids.spheres[name].to_numpy() for name in "xyz"], axis=1)
    radius = voids.spheres["radius"].to_numpy()
    depth = radius - np.linalg.norm(place[:, None] - centre, axis=2)
    best = depth.argmax(axis=1)
    inside = depth.max(axis=1) >= 0
    assert 50 < inside.sum() < len(xyz) - 50
    assert matched["void"].is_valid().to_pylist() == inside.tolist()
    there = matched.filter(pa.array(inside))
    np.testing.assert_allclose(there["depth"].to_numpy(), depth.max(axis=1)[inside], atol=1e-9)
    for name in ("void", "cap", "edge"):
        wanted = voids.spheres[name].take(pa.array(best[inside])).to_pylist()
        assert there[name].to_pylist() == wanted, name
    assert set(there["cap"].to_pylist()) == set(CAPS)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_no_cell_is_forgotten_whatever_the_sizes_of_the_spheres(data: Any) -> None:
    numbers = st.floats(-50, 50).map(lambda value: round(value, 2))
    n, m = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    xyz = np.array(data.draw(st.lists(numbers, min_size=3 * n, max_size=3 * n))).reshape(n, 3)
    centre = np.array(data.draw(st.lists(numbers, min_size=3 * m, max_size=3 * m))).reshape(m, 3)
    radius = np.array(data.draw(st.lists(st.floats(0.01, 40), min_size=m, max_size=m)))
    columns = [*centre.T, radius]
    found = example.deepest_sphere(xyz, pa.table(columns, ["x", "y", "z", "radius"]))
    depth = (radius - np.linalg.norm(xyz[:, None] - centre, axis=2)).max(axis=1)
    clear = np.abs(depth) > 1e-9  # on the surface, rounding decides
    got = np.isin(np.arange(n), found["place"].to_numpy())
    assert (got == (depth >= 0))[clear].all()


def test_distances_are_those_of_the_catalogues_own_cosmology(files: Path, tmp_path: Path) -> None:
    for path in files.iterdir():
        with fits.open(path) as hdus:
            hdus[0].header["OMEGAM"] = 0.25
            hdus.writeto(tmp_path / path.name)
    z = np.linspace(0, 0.24, 20001)
    for folder, om0 in ((files, 0.315), (tmp_path, 0.25)):
        voids = example.read_voids(folder)
        assert (voids.cosmology.H0.value, voids.cosmology.Om0) == (100, om0)
        speed = 2997.92458 / np.sqrt(om0 * (1 + z) ** 3 + 1 - om0)
        integral = np.sum((speed[1:] + speed[:-1]) / 2 * np.diff(z))
        there = example.comoving(np.zeros(1), np.zeros(1), z[-1:], voids.cosmology)
        np.testing.assert_allclose(there[0], [integral, 0, 0], rtol=1e-6, atol=1e-9)
        assert example.match(targets_at(random_places(3), voids), voids).schema.metadata == {
            b"voids": b"DESIVAST VoidFinder", b"H0": b"100.0", b"Om0": str(om0).encode()
        }  # fmt: skip


@pytest.mark.parametrize("kind", ["VoidFinder", "V2_REVOLVER"])
def test_lower_case_names_give_the_same(files: Path, tmp_path: Path, kind: str) -> None:
    simulate_voids(tmp_path, capitals=False)
    voids = example.read_voids(files, kind)
    targets = targets_at(random_places(200), voids)
    assert example.match(targets, example.read_voids(tmp_path, kind)) == example.match(
        targets, voids
    )


def test_what_lies_outside_is_told_by_mask_by_galaxies_or_by_distance_alone(
    files: Path, tmp_path: Path
) -> None:
    voids = example.read_voids(files)
    places = np.concatenate([random_places(300), random_places(300, "SGC"), np.zeros((1, 3))])
    r = to_sky(places[:-1])[2]
    by_mask = example.is_outside(places, voids)
    assert by_mask[-1]  # we ourselves
    assert by_mask[:-1][r > FAR].all()
    assert not by_mask[:300][(r[:300] > 100) & (r[:300] < FAR)].any()
    assert example.is_outside(-places, voids).all()
    simulate_voids(tmp_path, mask=False)
    by_galaxies = example.is_outside(places, example.read_voids(tmp_path))
    assert (by_galaxies | ~by_mask).all()  # never more than the mask
    assert (~by_galaxies).sum() > 50
    for path in tmp_path.glob("*V2*"):
        path.unlink()
    alone = example.read_voids(tmp_path)
    assert alone.footprint == {"NGC": None, "SGC": None}
    assert not example.is_outside(-places[:-1], alone)[(r > 100) & (r < FAR)].any()


def test_v2s_own_answer_stands_beside_that_of_its_spheres(files: Path) -> None:
    voids = example.read_voids(files, "V2_VIDE")
    with fits.open(files / "DESIVAST_BGS_VOLLIM_V2_VIDE_SGC.fits") as hdus:
        galaxies, zones = hdus["GALZONE"].data, hdus["ZONEVOID"].data
        void_of = dict(zip(zones["ZONE"].tolist(), zones["VOID0"].tolist(), strict=True))
        wanted = [void_of.get(zone) for zone in galaxies["ZONE"].tolist()]
        xyz = np.stack([galaxies[name] for name in "XYZ"], axis=1)
        targets = targets_at(xyz, voids).set_column(
            0, "targetid", pa.array(galaxies["TARGET"].tolist())
        )
    assert example.match(targets, voids)["zone_void"].to_pylist() == wanted
    assert {None} < set(wanted)


def test_the_command_writes_a_parquet_that_joins_the_catalogue_and_a_figure(
    galaxies: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = example.main([str(galaxies), str(files), "--output", str(tmp_path)])
    printed = capsys.readouterr().out
    assert code == 0
    assert "H0 = 100, Om0 = 0.315" in printed
    assert (tmp_path / "VoidFinder.png").read_bytes()[:4] == b"\x89PNG"
    path = tmp_path / "VoidFinder.parquet"
    catalog, found = f"'{galaxies}/catalog/**/*.parquet'", f"'{path}'"
    joined = duckdb.sql(
        f"FROM {catalog} JOIN {found} v USING (targetid) WHERE is_primary"
    ).to_arrow_table()
    primary = open_catalog(galaxies).where("is_primary")
    assert len(joined) == pq.ParquetFile(path).metadata.num_rows == len(primary) > 5
    depth = joined.filter(joined["void"].is_valid())["depth"].to_pylist()
    assert f"{len(primary)} galaxies" in printed
    assert min(depth, default=0) >= 0


@pytest.mark.parametrize("case", ["no catalogue", "no HDU", "no column", "unit", "no collection"])
def test_what_is_missing_is_said_in_a_sentence(
    galaxies: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    name = "DESIVAST_BGS_VOLLIM_VoidFinder_NGC.fits"
    said = {"no catalogue": name, "no HDU": "no HDU HOLES", "no column": "no column RADIUS"}
    results = str(galaxies)
    if case == "no collection":
        results = str(tmp_path)
        said[case] = "no collection"
    elif case != "no catalogue":
        with fits.open(files / name) as hdus:
            if case == "no HDU":
                del hdus["HOLES"]
            elif case == "no column":
                hdus["HOLES"].columns.change_name("RADIUS", "SIZE")
            else:
                hdus["HOLES"].columns["X"].unit = "kpc"
                said[case] = "X is in kpc"
            hdus.writeto(tmp_path / name)
    folder = files if case == "no collection" else tmp_path
    assert example.main([results, str(folder), "--output", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert said[case] in err
    assert err.count("\n") == 1
