"""The workflow on a real Slurm: `make test-slurm`. Not collected by `make test`."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import one_node
import pytest
from test_workflow import BUCKET, Work, checkout, counting

from desi_fits_to_parquet.serve import serve_archive
from desi_fits_to_parquet.simulate import simulate_demo_archive
from desi_fits_to_parquet.tile import Tile

pytestmark = [
    pytest.mark.skipif(bool(one_node.why_not()), reason=one_node.why_not()),
    pytest.mark.timeout(600),
]

TILES_A_JOB = 7
SLURM = (
    "--workflow-profile", "profiles/slurm", "--group-components", f"tile={TILES_A_JOB}",
    # no accounting here, and short waits
    "--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "1",
    "--latency-wait", "5",
)  # fmt: skip


class Archive(NamedTuple):
    endpoint: str
    outcomes: dict[Tile, str]


@pytest.fixture(scope="module", autouse=True)
def _stop_what_was_started_also_on_sigterm() -> Iterator[None]:
    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    folder = tmp_path_factory.mktemp("archive")
    outcomes = simulate_demo_archive(folder)
    with serve_archive(folder, BUCKET) as endpoint:
        yield Archive(endpoint, outcomes)


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[None]:
    one_node.install()
    with one_node.slurm_on_this_machine(tmp_path / "slurm"):
        yield


def command(archive: Archive, *arguments: str) -> list[str]:
    return [
        sys.executable, "-m", "snakemake", *arguments, "--configfile", "config/demo.yaml",
        "--config", "results=results", f"archive={{endpoint: '{archive.endpoint}'}}",
    ]  # fmt: skip


def run(work: Work, archive: Archive, *arguments: str) -> str:
    done = subprocess.run(
        command(archive, *arguments), cwd=work.folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def slurm_jobs(form: str, *arguments: str) -> list[str]:
    listed = subprocess.run(
        ["squeue", "--noheader", f"--format={form}", *arguments],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return listed.stdout.split()


def test_groups_on_slurm_with_one_cancelled_and_resumed_give_the_bytes_of_a_local_run(
    slurm: None, archive: Archive, tmp_path: Path
):
    for name in ("local", "work"):
        (tmp_path / name).mkdir()
    local, work = (checkout(tmp_path / name) for name in ("local", "work"))
    run(local, archive, "--cores", "2")
    fits = work.results / "fits"
    log = tmp_path / "first.log"
    with (
        counting(lambda: sum(1 for _ in fits.glob("*/*/*"))) as on_disk,
        log.open("w") as stream,
        subprocess.Popen(
            command(archive, *SLURM), cwd=work.folder, stdout=stream, stderr=stream
        ) as process,
    ):
        try:
            pause = threading.Event()
            while process.poll() is None and not list(work.results.glob("validated/*/*/*.json")):
                pause.wait(0.2)
            running = slurm_jobs("%i", "--states=running")
            assert running, log.read_text()
            subprocess.run(["scancel", running[0]], check=True)
            assert process.wait() == 1, log.read_text()
        finally:
            process.kill()
    first_run = work.markers()
    assert 0 < len(first_run) < len(archive.outcomes)
    n_groups = -(-len(archive.outcomes) // TILES_A_JOB)
    assert len(slurm_jobs("%i", "--states=all")) == n_groups

    run(work, archive, *SLURM)
    assert {tile: marker["outcome"] for tile, marker in work.markers().items()} == archive.outcomes
    assert work.parquet() == local.parquet()
    assert work.leftovers() == []
    print(max(on_disk), slurm_jobs("%i|%m|%l|%T", "--states=all"))
