"""One run works in a results folder, with its own jobs and nobody else's."""

import errno
import fcntl
import logging
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from desi_fits_to_parquet.run.lock import (
    RUN_ID,
    NotWritable,
    RunningElsewhere,
    hold_lock,
    join_run,
)

PROGRAM = """
import sys
from pathlib import Path
from desi_fits_to_parquet.run.lock import hold_lock, join_run
results, *run = sys.argv[1:]
renew = hold_lock(Path(results), *run) if run else join_run(Path(results))
print("in", flush=True)
for line in sys.stdin:
    renew()
    print("renewed", flush=True)
"""


def start(results: Path, *run: str, job_of: str = "") -> "subprocess.Popen[str]":
    """Begin a run, or a job of one, that goes on until its standard input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, results, *run],
        text=True, env=os.environ | {RUN_ID: job_of},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_second_run_in_the_same_results_is_refused_until_the_first_is_killed(tmp_path: Path):
    results = tmp_path / "results"
    with start(results, "first") as holder:
        assert holder.stdout.readline() == "in\n"
        with pytest.raises(RunningElsewhere, match=f"process {holder.pid} on .*, run first"):
            hold_lock(results, "second")
        holder.kill()
    hold_lock(results, "second")
    assert (results / ".lock").read_text().split()[0] == str(os.getpid())


def test_results_that_cannot_be_written_to_are_refused_in_a_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NotWritable, match="file is a file, no folder"):
        hold_lock(tmp_path / "file" / "results", "first")
    folder = tmp_path / "results"
    (folder / ".lock").mkdir(parents=True)
    with pytest.raises(NotWritable, match="results cannot be written to"):
        hold_lock(folder, "first")


def test_next_run_waits_for_the_jobs_that_a_killed_run_left_behind(tmp_path: Path):
    with start(tmp_path, "first") as killed:
        assert killed.stdout.readline() == "in\n"
        with start(tmp_path, job_of="first") as job:
            assert job.stdout.readline() == "in\n"
            killed.kill()
            killed.wait(20)
            with start(tmp_path, "second") as following:
                assert "Waiting for the running jobs" in following.stderr.readline()
                job.stdin.close()
                assert job.wait(20) == 0
                assert following.stdout.readline() == "in\n"


def test_job_of_a_killed_run_that_starts_during_the_next_one_ends_with_a_sentence(tmp_path: Path):
    with start(tmp_path, "second") as run:
        assert run.stdout.readline() == "in\n"
        with start(tmp_path, job_of="first") as late, start(tmp_path, job_of="second") as own:
            said = late.stderr.read()
            assert own.stdout.readline() == "in\n"
        assert late.returncode == 1
        assert own.returncode == 0
    assert said.startswith("This job was started by run first, but ")
    assert f"process {run.pid}" in said
    assert said.count("\n") == 1


def test_job_that_starts_while_the_next_run_waits_does_not_join(tmp_path: Path):
    with start(tmp_path, "first") as killed:
        assert killed.stdout.readline() == "in\n"
        killed.kill()
    with start(tmp_path, job_of="first") as joined:
        assert joined.stdout.readline() == "in\n"
        with start(tmp_path, "second") as waiting:
            assert "Waiting" in waiting.stderr.readline()
            with start(tmp_path, job_of="first") as late:
                assert "started by run first" in late.stderr.read()
            assert late.returncode == 1
            assert waiting.poll() is None
            joined.stdin.close()
            assert waiting.stdout.readline() == "in\n"


def test_lock_that_is_removed_is_taken_anew_before_another_run_gets_it(tmp_path: Path):
    with start(tmp_path, "first") as holder:
        assert holder.stdout.readline() == "in\n"
        (tmp_path / ".lock").unlink()
        with pytest.raises(RunningElsewhere, match="process 7 on desk"):
            hold_lock(tmp_path, "second", lambda: "7 on desk")
        with start(tmp_path, job_of="first") as job:  # waits
            holder.stdin.write("renew\n")
            holder.stdin.flush()
            assert holder.stdout.readline() == "renewed\n"
            assert job.stdout.readline() == "in\n"
            with pytest.raises(RunningElsewhere, match=f"process {holder.pid} on .*, run first"):
                hold_lock(tmp_path, "second")


def test_run_whose_lock_was_removed_notices_the_run_that_took_its_place(tmp_path: Path):
    renew = hold_lock(tmp_path, "first")
    renew()
    (tmp_path / ".lock").unlink()
    with start(tmp_path, "second") as other:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(RunningElsewhere, match=f"removed, .*process {other.pid} on"):
            renew()


OWN_ARGUMENTS = {
    "download_tile": ("sources", "fits"),
    "fuse_tile": ("fits", "parquet"),
    "validate_tile": ("fits", "parquet", "marker"),
    "skim_tile": ("sources", "marker"),
}


@pytest.mark.parametrize("stage", OWN_ARGUMENTS)
def test_job_of_another_run_writes_nothing(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / ".lock").write_text("7 on host, run second\n")
    log, partial = tmp_path / "tile.log", tmp_path / "fits/7.part"
    partial.mkdir(parents=True)
    log.write_text("of the second run's job")
    given = {"results": tmp_path, "survey": "main", "program": "dark", "healpix": 7, "log": log}
    given |= {name: tmp_path / name for name in OWN_ARGUMENTS[stage]}
    script = str(REPOSITORY / f"scripts/{stage}.py")
    monkeypatch.setattr("sys.argv", [script, *(f"--{k}={value}" for k, value in given.items())])
    monkeypatch.setenv(RUN_ID, "first")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit, match="started by run first"):
        runpy.run_path(script)
    assert sorted(tmp_path.rglob("*")) == before
    assert log.read_text() == "of the second run's job"


def test_file_system_without_locks_is_told_of_once_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def refuse(*arguments: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    monkeypatch.setenv(RUN_ID, "first")
    with caplog.at_level(logging.WARNING):
        hold_lock(tmp_path, "first")
        join_run(tmp_path)
    assert caplog.text.count("has no locks") == 1
    monkeypatch.setenv(RUN_ID, "another")
    with pytest.raises(SystemExit):
        join_run(tmp_path)
