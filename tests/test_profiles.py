"""The profiles: what holds for a local run holds on a cluster."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY
from running import checkout

from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.tiles_csv import Source, write_tiles

ON_A_CLUSTER = {
    "executor", "jobs", "cores", "groups", "group-components", "resources", "latency-wait",
    "keep-incomplete",
}  # fmt: skip


def profile(name: str) -> dict[str, Any]:
    text = (REPOSITORY / f"profiles/{name}/config.yaml").read_text()
    return dict(yaml.safe_load(text))


@pytest.mark.parametrize("key", sorted(profile("default").keys() - {"latency-wait", "cores"}))
def test_setting_of_the_local_profile_holds_on_slurm_too(key: str):
    assert profile("slurm")[key] == profile("default")[key]


def test_slurm_profile_sets_nothing_else_but_how_to_use_a_cluster():
    assert profile("slurm").keys() - profile("default").keys() <= ON_A_CLUSTER


def test_every_stage_of_a_tile_goes_into_one_group_of_many_tiles():
    slurm = profile("slurm")
    groups = dict(pair.split("=") for pair in slurm["groups"])
    assert groups == {f"{stage}_tile": "tile" for stage in ("download", "fuse", "validate")}
    assert int(slurm["group-components"][0].split("=")[1]) > 1


@pytest.mark.parametrize("sharing", [("--resources", "mem_mb=9000"), ()])
def test_memory_is_asked_for_by_the_size_of_a_tile_where_something_shares_it_out(
    sharing: tuple[str, ...], tmp_path: Path
):
    work = checkout(tmp_path)
    coadd = Source(key="a/coadd.fits", size=1_190_000_000, etag="0f-2")
    write_tiles(work.results / "tiles.csv", {Tile("main", "dark", 1): {"coadd": coadd}})
    planned = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "--cores", "1", *sharing, "--quiet", "host"],
        cwd=work.folder, text=True, capture_output=True, check=True,
    ).stdout  # fmt: skip
    asked = [line for line in planned.splitlines() if "mem_mb=2190" in line]
    assert len(asked) == (3 if sharing else 0)
    assert ("runtime=6" in planned) == bool(sharing)  # of the download: 200 MB a minute, and one


def test_command_without_cores_runs_on_all_of_them(tmp_path: Path):
    work = checkout(tmp_path)
    write_tiles(work.results / "tiles.csv", {})
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "verify"],
        cwd=work.folder, text=True, capture_output=True, check=True,
    )  # fmt: skip
    assert "verify: every Parquet is as its marker says" in done.stderr


def test_job_imports_from_this_checkout_first_and_then_as_the_user_says(tmp_path: Path):
    work, own = checkout(tmp_path / "work"), tmp_path / "own"
    own.mkdir()
    write_tiles(work.results / "tiles.csv", {})
    (own / "sitecustomize.py").write_text(  # what Python imports as it starts
        "import os, sys\n"
        f"with open({str(tmp_path / 'paths')!r}, 'a') as file:\n"
        "    print(sys.orig_argv[-1], os.environ['PYTHONPATH'], file=file)\n"
    )
    subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", "verify"],
        cwd=work.folder, env=os.environ | {"PYTHONPATH": str(own)}, check=True, capture_output=True,
    )  # fmt: skip
    paths = dict(line.split() for line in (tmp_path / "paths").read_text().splitlines())
    (job,) = (path for name, path in paths.items() if name.endswith("verify.py"))
    assert job == f"{work.folder / 'src'}{os.pathsep}{own}"
