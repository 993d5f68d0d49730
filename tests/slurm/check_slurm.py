"""The workflow on a real Slurm: `make test-slurm`. Not collected by `make test`."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import one_node
import pytest
from test_workflow import BUCKET, Work, checkout, counting

from desi_fits_to_parquet.simulate.archive import simulate_demo_archive
from desi_fits_to_parquet.simulate.serve import serve_archive
from desi_fits_to_parquet.tile import Tile

pytestmark = [
    pytest.mark.skipif(bool(one_node.why_not()), reason=one_node.why_not()),
    pytest.mark.timeout(600),
]

TILES_A_JOB = 5
CORES = 2
SLURM = (
    "--workflow-profile", "profiles/slurm", "--default-resources", "slurm_partition=main",
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


def processes_in(folder: Path) -> list[str]:
    """Command lines that name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found += [line] if str(folder) in line else []
    return found


def in_groups_of(tiles: int) -> tuple[str, ...]:
    return (*SLURM, "--group-components", f"tile={tiles}")


def cancel_a_job_in_the_middle(work: Work, archive: Archive, log: Path) -> dict[Tile, Any]:
    """Begin, cancel a running job once a tile is done; return the markers of that moment."""
    with (
        log.open("w") as stream,
        subprocess.Popen(
            command(archive, *in_groups_of(TILES_A_JOB)), cwd=work.folder, stdout=stream,
            stderr=stream,
        ) as process,
    ):  # fmt: skip
        try:
            pause = threading.Event()
            while process.poll() is None and not list(work.results.glob("validated/*/*/*.json")):
                pause.wait(0.2)
            done = work.markers()
            running = slurm_jobs("%i", "--states=running")
            assert running, log.read_text()
            subprocess.run(["scancel", running[0]], check=True)
            assert process.wait() == 1, log.read_text()
            return done
        finally:
            process.kill()  # what it queued is cancelled when Slurm is stopped


def test_groups_on_slurm_one_of_them_cancelled_and_resumed_give_the_bytes_of_a_local_run(
    slurm: None, archive: Archive, tmp_path: Path
):
    for name in ("local", "work"):
        (tmp_path / name).mkdir()
    local, work = (checkout(tmp_path / name) for name in ("local", "work"))
    run(local, archive, "--cores", str(CORES))

    fits = work.results / "fits"
    with counting(lambda: sum(1 for _ in fits.glob("*/*/*"))) as on_disk:
        done = cancel_a_job_in_the_middle(work, archive, tmp_path / "first.log")
    first = work.markers()
    assert done.items() <= first.items(), "a tile that was finished is gone with its group"
    n_groups = -(-len(archive.outcomes) // TILES_A_JOB)
    assert len(slurm_jobs("%i", "--states=all")) == n_groups, "a job went alone to the queue"
    assert TILES_A_JOB * (n_groups - 2) <= len(first) < len(archive.outcomes)
    # each group does tile after tile: one on disk, and the next where the first was just fetched
    assert max(on_disk) <= 2 * CORES
    # a minute a stage, and what the largest tile needs: a few MB here
    asked = [line.split("|") for line in slurm_jobs("%m|%l", "--states=all")]
    assert all(1000 <= int(memory.rstrip("M")) < 1050 for memory, _ in asked)
    assert f"{3 * TILES_A_JOB}:00" in {limit for _, limit in asked}

    run(work, archive, *in_groups_of(2))
    n_resumed = -(-(len(archive.outcomes) - len(first)) // 2)
    assert len(slurm_jobs("%i", "--states=all")) == n_groups + n_resumed, "tiles were bundled twice"
    markers = work.markers()
    assert {tile: marker["outcome"] for tile, marker in markers.items()} == archive.outcomes
    assert first.items() <= markers.items(), "a finished tile was done again"
    assert work.parquet() == local.parquet()
    assert work.leftovers() == []
    assert processes_in(work.folder) == []
    # a namespace without any network: what each job on a node does first is to parse
    offline = subprocess.run(
        ["unshare", "--net", *command(archive, "--dry-run")],
        cwd=work.folder, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert "Nothing to be done" in offline.stdout + offline.stderr
