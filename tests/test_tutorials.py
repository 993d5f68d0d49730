"""The tutorials run on the demo's output, each with its picture, and say what is so."""

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import REPOSITORY
from reader_trees import collect

from desi_fits_to_parquet.config import load_config
from desi_fits_to_parquet.simulate.archive import (
    DEMO_BRIGHT,
    DEMO_PREFIXES,
    simulate_demo_archive,
)

mpl.use("agg")

sys.path.insert(0, str(REPOSITORY / "examples/voids"))
import match_voids  # noqa: F401  (the tutorial's, and run.py's)

TUTORIALS = sorted((REPOSITORY / "docs/tutorials").glob("[0-9]*.py"))

NEEDS = {"05_lsdb": "lsdb", "07_training": "torch"}
"""Packages that the lock of the tests does not bring."""


def names(*stems: str) -> list[Any]:
    """Parameters of a test, with the mark of what their package is tested with."""
    return [
        pytest.param(stem, marks=getattr(pytest.mark, NEEDS[stem])) if stem in NEEDS else stem
        for stem in stems
    ]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the demo and examples/voids leave, converted without the workflow: the same rows."""
    root = tmp_path_factory.mktemp("results")
    schema = REPOSITORY / "config/schema.yaml"
    archive = tmp_path_factory.mktemp("archive")
    outcomes = simulate_demo_archive(archive)
    prefix = archive / DEMO_PREFIXES["healpix"]
    fits = root / "fits"
    fits.mkdir()
    for tile in outcomes:
        (fits / tile.name).symlink_to(prefix / tile.archive_folder)
    good = [tile for tile, outcome in outcomes.items() if outcome in ("converted", "no_targets")]
    collect(fits, root / "demo", load_config(schema), good)
    galaxies = tmp_path_factory.mktemp("config") / "galaxies.yaml"
    galaxies.write_text("selection: {spectypes: [GALAXY]}")
    collect(fits, root / "demo-galaxies", load_config(schema, galaxies), DEMO_BRIGHT)
    example = runpy.run_path(str(REPOSITORY / "examples/voids/run.py"))
    example["simulate"](root / "demo-galaxies", root / "voids/desivast")
    return root


def near(value: float, wanted: float, within: float) -> bool:
    return abs(value - wanted) < within


def level(spectrum: Any, low: float, high: float) -> float:
    here = (spectrum.wavelength > low) & (spectrum.wavelength < high) & spectrum.good
    return float(np.median(spectrum.flux[here]))


SAYS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "01_first_look": lambda v: len(v["spectra"]) == len(v["bright"]) > 10,
    "02_composite": lambda v: level(v["median"], 1205, 1235) > 1.5 * level(v["median"], 1280, 1340),
    "03_lyman_alpha_forest": lambda v: 1 > v["mean"][0] > v["mean"][-1] > 0.2,
    "04_duckdb": lambda v: near(v["line"]["rest"][v["line"]["flux"].argmax()], 1549, 12),
    "05_lsdb": lambda v: len(v["ours"]) > len(v["matched"]) > 0.6 * len(v["ours"]),
    "06_from_s3": lambda v: len(v["spectra"]) >= 4,
    "07_training": lambda v: v["error"] < v["of_mean"],
    "08_voids": lambda v: len(v["inside"]) > 3,
    "09_rounding": lambda v: np.abs(v["error"]).max() <= 1 / 16 and max(v["change"]) < 0.3,
}
"""What each tutorial claims, by what it has computed."""


def test_every_tutorial_is_tested() -> None:
    assert [path.stem for path in TUTORIALS] == list(SAYS)


@pytest.mark.parametrize("stem", names(*SAYS))
def test_a_tutorial_runs_on_the_demos_output_and_draws_what_it_claims(
    results: Path, stem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEMO", str(results / "demo"))
    monkeypatch.chdir(REPOSITORY)
    path = REPOSITORY / f"docs/tutorials/{stem}.py"
    plt.close("all")
    try:
        values = runpy.run_path(str(path))
        assert SAYS[stem](values)
        assert all(plt.figure(number).axes for number in plt.get_fignums())
        assert plt.get_fignums()
    finally:
        plt.close("all")
    assert capsys.readouterr().out
    code = [line for line in path.read_text().splitlines() if line.strip() and line[0] != "#"]
    assert len(code) <= 75  # under a page, title and imports included


@pytest.mark.torch
def test_the_regressor_learns_more_than_the_mean(results: Path, capsys: Any) -> None:
    example = runpy.run_path(str(REPOSITORY / "examples/redshift/train.py"))

    def losses(seconds: str) -> tuple[float, float]:
        code = example["main"]([str(results / "demo"), "--seconds", seconds])
        said = capsys.readouterr().out
        assert "13 of 4 tiles held out" in said
        reached, of_mean = map(float, re.findall(r"(?:\): |mean: )(0\.\d+);", said))
        assert code == int(reached >= of_mean) == int("it did NOT fall below" in said)
        return reached, of_mean

    before, of_mean = losses("0")
    after, same = losses("8")
    assert same == of_mean
    assert after < 0.5 * of_mean < before
