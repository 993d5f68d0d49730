"""The jobs for Kubernetes and AWS Batch: as far as they can be tried without either."""

import json
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
import yaml
from conftest import REPOSITORY
from moto import mock_aws

from desi_fits_to_parquet.cli import make_parser
from desi_fits_to_parquet.run.snakemake import NoSharedFiles, check_files

BATCH = json.loads((REPOSITORY / "profiles/aws-batch/job-definition.json").read_text())
VOLUME, JOB = yaml.safe_load_all((REPOSITORY / "profiles/kubernetes/job.yaml").read_text())


@mock_aws
def test_job_definition_is_one_that_aws_batch_takes() -> None:
    batch = boto3.client("batch", "us-west-2")
    batch.register_job_definition(**BATCH)
    (taken,) = batch.describe_job_definitions(status="ACTIVE")["jobDefinitions"]
    assert taken["containerProperties"]["command"] == BATCH["containerProperties"]["command"]
    assert taken["retryStrategy"]["attempts"] == 10


def test_manifest_keeps_the_results_where_they_outlive_the_pod() -> None:
    pod = JOB["spec"]["template"]["spec"]
    (container,), (volume,) = pod["containers"], pod["volumes"]
    assert (JOB["apiVersion"], JOB["kind"]) == ("batch/v1", "Job")
    assert volume["persistentVolumeClaim"]["claimName"] == VOLUME["metadata"]["name"]
    (mount,) = container["volumeMounts"]
    assert mount == {"name": volume["name"], "mountPath": container["workingDir"]}
    assert pod["restartPolicy"] == "OnFailure"  # the same command goes on
    assert pod["terminationGracePeriodSeconds"] >= 60  # Kubernetes waits 30 s by itself


@pytest.mark.parametrize(
    ("words", "cores", "memory_gb", "home"),
    [
        (
            JOB["spec"]["template"]["spec"]["containers"][0]["args"],
            JOB["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"],
            32, JOB["spec"]["template"]["spec"]["containers"][0]["workingDir"],
        ),
        (
            BATCH["containerProperties"]["command"],
            BATCH["containerProperties"]["resourceRequirements"][0]["value"],
            int(BATCH["containerProperties"]["resourceRequirements"][1]["value"]) / 1024,
            BATCH["containerProperties"]["mountPoints"][0]["containerPath"],
        ),
    ],
    ids=["kubernetes", "aws-batch"],
)  # fmt: skip
def test_job_runs_the_command_on_all_its_cores_with_memory_for_each(
    words: list[str], cores: str, memory_gb: float, home: str
) -> None:
    given = vars(make_parser().parse_args(words))["arguments"]
    assert given[given.index("--cores") + 1] == cores
    assert memory_gb >= 2 * int(cores)
    assert f"results={home}/results" in given
    assert f"transfer={{downloads: {cores}}}" in given


def test_results_on_a_storage_provider_are_refused_with_the_way_that_works() -> None:
    def workflow(provider: str | None) -> Any:
        return SimpleNamespace(storage_settings=SimpleNamespace(default_storage_provider=provider))

    check_files(workflow(None))
    with pytest.raises(NoSharedFiles, match=r"--default-storage-provider s3.*docs/cloud\.md"):
        check_files(workflow("s3"))
