"""Work that is killed again and again, at random moments, must end as if nothing had happened."""

import fcntl
import hashlib
import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
from running import BUCKET, Work, checkout, write_tile

from desi_fits_to_parquet.paths import LEFTOVERS, fits_folder, marker_path
from desi_fits_to_parquet.simulate.serve import serve_archive
from desi_fits_to_parquet.tile import Tile

TILES = [Tile("main", "dark", 100 + i) for i in range(8)]
KILLS = int(os.environ.get("DESI_KILLS", "10"))
"""Kills at random moments; `make test-faults` does forty."""

LONGEST_LIFE_S = 2.5


def kill_somehow(process: subprocess.Popen[bytes], how: str, chance: random.Random) -> bool:
    """Kill the run, one of its jobs, or all of it; return whether there was something to kill."""
    if process.poll() is not None:
        return False
    if how == "group":
        os.killpg(process.pid, signal.SIGKILL)
    elif how == "main":
        process.kill()
    else:
        jobs = jobs_of(process)
        if not jobs:
            return False
        chance.choice(jobs).kill()
    return True


def jobs_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the jobs of tiles that a run has now."""
    jobs = []
    for job in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if any("_tile.py" in word for word in job.cmdline()):
                jobs.append(job)
    return jobs


def test_run_killed_again_and_again_ends_with_the_parquet_of_an_undisturbed_one(
    tmp_path: Path, record_property: Callable[[str, object], None]
):
    record_property("faults", KILLS)
    archive = tmp_path / "archive"
    for tile in TILES:
        write_tile(archive, tile)
    undisturbed, work = (checkout(tmp_path / name) for name in ("undisturbed", "killed"))
    chance = random.Random(20)
    with serve_archive(archive, BUCKET) as endpoint:
        undisturbed.run(endpoint, "tiles")
        kills = 0
        done: dict[Tile, float] = {}
        while kills < KILLS:
            kills += one_life(work, endpoint, chance)
            markers = work.markers()
            # no completed tile is done again
            for tile, finished in done.items():
                assert markers[tile]["finished"] == finished, tile
            done = {tile: marker["finished"] for tile, marker in markers.items()}
            if len(done) == len(TILES):
                # all is done: take something away, so that there is something to be killed in
                tile = chance.choice(TILES)
                work.forget(tile)
                del done[tile]
        work.run(endpoint, "tiles")
        assert "Nothing to be done" in work.run(endpoint, "tiles")
    assert work.parquet() == undisturbed.parquet()
    assert work.leftovers() == []
    assert {t: m["sha256"] for t, m in work.markers().items()} == {
        t: hashlib.sha256(work.parquet_path(t).read_bytes()).hexdigest() for t in TILES
    }


def test_tile_that_a_job_of_a_killed_run_finishes_while_the_next_run_waits_is_not_done_again(
    tmp_path: Path,
):
    tile = TILES[0]
    write_tile(tmp_path / "archive", tile)
    work = checkout(tmp_path / "work")
    with serve_archive(tmp_path / "archive", BUCKET) as endpoint:
        work.run(endpoint, "tiles")
        marker = marker_path(work.results, tile)
        written = marker.read_bytes()
        marker.unlink()
        with ExitStack() as job, (work.results / ".lock").open() as lock:
            fcntl.lockf(lock, fcntl.LOCK_SH, 1, 1)  # as the jobs of a run do
            job.callback(fcntl.lockf, lock, fcntl.LOCK_UN, 1, 1)
            with work.running(endpoint) as following:
                for line in following.stdout:
                    if "Waiting for the running jobs of an earlier run" in line:
                        break
                marker.write_bytes(written)
                job.close()
                text, _ = following.communicate(timeout=120)
    assert "Nothing to be done" in text
    assert marker.read_bytes() == written


def test_run_removes_the_fits_of_a_killed_one_although_that_one_was_killed_as_it_did_the_same(
    tmp_path: Path,
):
    tile = TILES[0]
    write_tile(tmp_path / "archive", tile)
    work = checkout(tmp_path / "work")
    with serve_archive(tmp_path / "archive", BUCKET) as endpoint:
        work.run(endpoint, "tiles")
        fits_folder(work.results, tile).mkdir(parents=True)
        (work.results / LEFTOVERS).touch()
        work.run(endpoint, "tiles")
    assert not fits_folder(work.results, tile).exists()


def one_life(work: Work, endpoint: str, chance: random.Random) -> bool:
    """Run until a random moment, then kill; return whether there was something to kill."""
    how = chance.choice(["main", "job", "group"])
    ended = threading.Event()
    with subprocess.Popen(
        work.command(endpoint, "tiles"), cwd=work.folder, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        begun = work.begun_jobs()
        while process.poll() is None and work.begun_jobs() == begun:
            ended.wait(0.02)  # a kill before the first job would show nothing
        ended.wait(chance.uniform(0, LONGEST_LIFE_S))
        killed = kill_somehow(process, how, chance)
        if how == "job":
            process.wait(120)
    return killed
