"""Work that is killed again and again, at random moments, must end as if nothing had happened."""

import hashlib
import os
import random
import signal
import subprocess
import threading
from pathlib import Path

import psutil
from running import BUCKET, Work, checkout, write_tile

from desi_fits_to_parquet.paths import fits_folder, marker_path
from desi_fits_to_parquet.simulate.serve import serve_archive
from desi_fits_to_parquet.tile import Tile

TILES = [Tile("main", "dark", 100 + i) for i in range(8)]
KILLS = 20
LONGEST_LIFE_S = 2.5


def kill_somehow(
    process: subprocess.Popen[bytes], how: str, chance: random.Random
) -> tuple[bool, list[psutil.Process]]:
    """Kill the run, one of its jobs, or all of it; return whether, and the jobs that there were."""
    if process.poll() is not None:
        return False, []
    process.send_signal(signal.SIGSTOP)  # so that no job begins that is not seen here
    jobs = [
        job
        for job in psutil.Process(process.pid).children(recursive=True)
        if any("_tile.py" in word for word in job.cmdline())
    ]
    if how == "group":
        os.killpg(process.pid, signal.SIGKILL)
    elif how == "main":
        process.kill()
    elif jobs:
        chance.choice(jobs).kill()
    process.send_signal(signal.SIGCONT)
    return how != "job" or bool(jobs), jobs


def test_run_killed_twenty_times_ends_with_the_parquet_of_an_undisturbed_one(tmp_path: Path):
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
            killed, left = one_life(work, endpoint, chance)
            kills += killed
            markers = work.markers()
            # no completed tile is done again
            for tile, finished in done.items():
                assert markers[tile]["finished"] == finished, tile
            # A job that outlived its run may yet write the marker of a tile, or write it again,
            # where an earlier one did it while the run looked at its graph: such are not complete.
            if not any(map(is_alive, left)):
                done = {
                    tile: marker["finished"]
                    for tile, marker in markers.items()
                    if is_complete(work, tile)
                }
            if len(done) == len(TILES):
                # all is done: take something away, so that there is something to be killed in
                tile = chance.choice(TILES)
                work.forget(tile)
                del done[tile]
        # A tile that an orphan finished while its run looked at its graph is fetched once more; a
        # run with nothing to do waits for no such job.
        psutil.wait_procs(left, timeout=120)
        work.run(endpoint, "tiles")
        assert "Nothing to be done" in work.run(endpoint, "tiles")
    assert work.parquet() == undisturbed.parquet()
    assert work.leftovers() == []
    assert {t: m["sha256"] for t, m in work.markers().items()} == {
        t: hashlib.sha256(work.parquet_path(t).read_bytes()).hexdigest() for t in TILES
    }


def is_complete(work: Work, tile: Tile) -> bool:
    """Tell whether no run was doing the tile again, its graph being older than the marker."""
    parquet, marker = work.parquet_path(tile), marker_path(work.results, tile)
    return (
        parquet.exists()
        and parquet.parent.stat().st_mtime <= marker.stat().st_mtime
        and not fits_folder(work.results, tile).exists()
    )


def is_alive(job: psutil.Process) -> bool:
    try:
        return job.is_running() and job.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def one_life(work: Work, endpoint: str, chance: random.Random) -> tuple[bool, list[psutil.Process]]:
    """Run until a random moment, then kill; return whether, and the jobs that there were."""
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
        killed, jobs = kill_somehow(process, how, chance)
        if how == "job":
            process.wait(120)
    return killed, jobs
