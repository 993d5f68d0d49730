"""The profiles: what holds for a local run holds on a cluster."""

from typing import Any

import pytest
import yaml
from conftest import REPOSITORY

ON_A_CLUSTER = {
    "executor", "jobs", "cores", "groups", "group-components", "resources", "latency-wait",
    "keep-incomplete",
}  # fmt: skip


def profile(name: str) -> dict[str, Any]:
    text = (REPOSITORY / f"profiles/{name}/config.yaml").read_text()
    return dict(yaml.safe_load(text))


@pytest.mark.parametrize("key", sorted(profile("default").keys() - {"latency-wait"}))
def test_setting_of_the_local_profile_holds_on_slurm_too(key: str):
    assert profile("slurm")[key] == profile("default")[key]


def test_slurm_profile_sets_nothing_else_but_how_to_use_a_cluster():
    assert profile("slurm").keys() - profile("default").keys() <= ON_A_CLUSTER


def test_every_stage_of_a_tile_goes_into_one_group_of_many_tiles():
    slurm = profile("slurm")
    groups = dict(pair.split("=") for pair in slurm["groups"])
    assert groups == {f"{stage}_tile": "tile" for stage in ("download", "fuse", "validate")}
    assert int(slurm["group-components"][0].split("=")[1]) > 1
