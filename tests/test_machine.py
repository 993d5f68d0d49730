"""What a machine can do to a run that goes on: its disk, its clock, and somebody's rm."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fault_server import Asked, Service, serve
from running import LONGEST_S, Work, checkout, wait_until
from simulated_archive import simulate_objects

from desi_fits_to_parquet.paths import OUTAGE
from desi_fits_to_parquet.tile import Tile

TILES = [Tile("main", "dark", 100 + i) for i in range(4)]
PATIENCE = "transfer={attempts: 2, outage_pause_s: 0.2}"
ROOM = "resources={min_free_gb: 0}"


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("archive")
    shape: dict[str, Any] = {"quasar_share": 0.5, "exposures_per_target": 1, "scan_step": 100}
    found: dict[str, bytes] = {}
    for tile in TILES:
        found |= simulate_objects(tile, folder, 5, **shape)
    return found


@pytest.fixture
def service(objects: dict[str, bytes]) -> Iterator[Service]:
    with serve(dict(objects)) as service:
        yield service


def outcomes(work: Work) -> dict[Tile, str]:
    return {tile: marker["outcome"] for tile, marker in work.markers().items()}


def test_second_run_is_refused_although_somebody_removed_the_lock(service: Service, tmp_path: Path):
    work = checkout(tmp_path)
    service.choose = lambda asked: "hang_up" if asked.key else None  # so that the run goes on
    with work.running(service.endpoint, PATIENCE, ROOM) as first:
        wait_until((work.results / OUTAGE).exists)
        (work.results / ".lock").unlink()
        refused = work.run(service.endpoint, "tiles", code=1)
        assert f"another run (process {first.pid} on " in refused
        wait_until((work.results / ".lock").exists)
        service.choose = lambda asked: None
        text, _ = first.communicate(timeout=LONGEST_S)
    assert first.returncode == 0, text
    assert outcomes(work) == dict.fromkeys(TILES, "converted")


class Disk:
    """A file system in a file, which root alone can mount, at a folder."""

    def __init__(self, image: Path, folder: Path) -> None:
        self.image, self.folder = image, folder

    def make(self) -> bool:
        with self.image.open("wb") as stream:
            stream.truncate(64 << 20)
        return done("mkfs.ext4", "-q", "-F", self.image) and self.mount()

    def mount(self) -> bool:
        return done("mount", "-o", "loop", self.image, self.folder)

    def fail(self) -> None:
        """Have the kernel do what it does after an error of the disk."""
        assert done("mount", "-o", "remount,abort", self.folder)

    def unmount(self) -> None:
        assert done("umount", "--lazy", self.folder)


def done(*command: str | Path) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "results"
    folder.mkdir()
    disk = Disk(tmp_path / "image", folder)
    if os.geteuid() or not shutil.which("mkfs.ext4") or not disk.make():
        pytest.skip("only root can mount a file system, and not everywhere")
    yield disk
    disk.unmount()


def test_disk_that_turns_read_only_ends_the_run_and_costs_no_tile(
    service: Service, tmp_path: Path, disk: Disk
):
    work = checkout(tmp_path)
    validated = work.results / "validated/main/dark"
    begun = threading.Event()

    def choose(asked: Asked) -> None:
        if any(validated.glob("[0-9]*.json")) and not begun.is_set():
            begun.set()
            disk.fail()

    service.choose = choose
    with work.running(service.endpoint, PATIENCE, ROOM) as run:
        text, _ = run.communicate(timeout=LONGEST_S)
    sys.stdout.write(text)
    assert run.returncode == 1
    assert "results cannot be written to any more (Read-only file system): see to it" in text
    before = work.parquet()
    disk.unmount()
    assert disk.mount()
    service.choose = lambda asked: None
    work.run(service.endpoint, "tiles", config=ROOM)
    assert outcomes(work) == dict.fromkeys(TILES, "converted")
    assert work.leftovers() == []
    assert before.items() <= work.parquet().items()


class Clock:
    """The clock of a run, which is set while the run goes on, with libfaketime where it is there.

    To set the clock by so many days makes what is there so much older than what comes.
    """

    def __init__(self, folder: Path, results: Path) -> None:
        self.file, self.results = folder / "clock", results
        self.days = 0
        self.set(0)

    @property
    def environment(self) -> dict[str, str]:
        library = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        preload = {"LD_PRELOAD": str(library[0])} if library else {}
        return preload | {
            "FAKETIME_TIMESTAMP_FILE": str(self.file), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1",
        }  # fmt: skip

    def set(self, days: int) -> None:
        self.days += days
        new = self.file.with_suffix(".new")
        new.write_text(f"{self.days:+d}d\n")
        new.replace(self.file)
        for path in self.results.rglob("*"):
            with suppress(FileNotFoundError):
                moment = path.lstat().st_mtime - 86400 * days
                os.utime(path, (moment, moment), follow_symlinks=False)


def test_clock_that_jumps_back_and_forth_changes_nothing_of_what_is_done_and_what_is_not(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    work = checkout(tmp_path / "work")
    clock = Clock(tmp_path, work.results)
    jumps = {"101": -1, "102": 365, "103": -1}

    def choose(asked: Asked) -> None:
        number = asked.key.split("/")[-2] if asked.kind == "coadd" else ""
        if days := jumps.pop(number, 0):
            clock.set(days)

    service.choose = choose
    with work.running(service.endpoint, ROOM, target="all", **clock.environment) as run:
        text, _ = run.communicate(timeout=LONGEST_S)
    assert jumps == {}
    assert run.returncode == 0, text
    assert "this run: 4 done, 0 failed" in text
    assert outcomes(work) == dict.fromkeys(TILES, "converted")
    assert work.leftovers() == []
    for name, value in clock.environment.items():
        monkeypatch.setenv(name, value)
    for days in (365, -800):
        clock.set(days)
        assert "Nothing to be done" in work.run(service.endpoint, config=ROOM)
    work.forget(TILES[2])
    work.run(service.endpoint, "tiles", config=ROOM)
    before = work.markers()[TILES[2]]["finished"]
    clock.set(-1)  # the report seems newer than the marker: it is older all the same
    work.run(service.endpoint, config=ROOM)
    table = pq.read_table(work.results / "report/tiles.parquet").to_pylist()
    assert {row["healpix"]: row["finished"] for row in table}[102] == before
