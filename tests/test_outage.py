"""The run bears an outage of the archive: its tiles wait, and none of them is the worse for it."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fault_server import Asked, Service, serve
from running import LONGEST_S, checkout, wait_until
from simulated_archive import key_of, list_sources, simulate_objects

from desi_fits_to_parquet.archive import link as archive_module
from desi_fits_to_parquet.download.outage import download_patiently
from desi_fits_to_parquet.files import write_json
from desi_fits_to_parquet.paths import OUTAGE, OUTAGE_LOCK
from desi_fits_to_parquet.records import DownloadRecord, OutageRecord
from desi_fits_to_parquet.run.lock import end_waiting
from desi_fits_to_parquet.run.status import main as status
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.tiles_csv import write_tiles

TILES = [Tile("main", "dark", 100 + i) for i in range(6)]
PATIENCE = "transfer={attempts: 2, outage_pause_s: 0.2}"
Objects = dict[str, bytes]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    folder = tmp_path_factory.mktemp("archive")
    shape: dict[str, Any] = {"quasar_share": 0.5, "exposures_per_target": 1, "scan_step": 100}
    found: Objects = {}
    for tile in TILES:
        found |= simulate_objects(tile, folder, 5, **shape)
    return found


@pytest.fixture
def service(objects: Objects) -> Iterator[Service]:
    with serve(dict(objects)) as service:
        yield service


def control_c(pid: int) -> None:
    """Do as a terminal does: tell a process and its jobs."""
    os.killpg(pid, signal.SIGINT)


def hang_up(asked: Asked) -> str:
    """Nothing of the archive answers."""
    return "hang_up"


def nothing(asked: Asked) -> None:
    """All of it does."""


# ------------------------------------------------------------------------------- the whole workflow


def test_archive_that_is_gone_for_a_while_costs_no_tile(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    work = checkout(tmp_path)
    gone = threading.Event()

    def choose(asked: Asked) -> str | None:
        if asked.kind == "coadd" and "/102/" in asked.key and asked.number == 0:
            gone.set()
        return "hang_up" if gone.is_set() else None

    service.choose = choose
    with work.running(service.endpoint, PATIENCE) as run:
        wait_until((work.results / OUTAGE).exists)
        service.forget()
        wait_until(lambda: len(service.asked) > 4)  # somebody goes on asking
        assert status([str(work.results)]) == 0
        service.choose = nothing
        text, _ = run.communicate(timeout=LONGEST_S)
    assert run.returncode == 0, text
    assert "the archive cannot be reached since" in capsys.readouterr().out
    assert "the archive cannot be reached, so all tiles wait" in text
    assert "the archive answers again" in text
    assert "Traceback" not in text
    markers = work.markers()
    assert {tile: marker["outcome"] for tile, marker in markers.items()} == dict.fromkeys(
        TILES, "converted"
    )
    assert not (work.results / OUTAGE).exists()
    assert work.leftovers() == []


def test_waiting_jobs_end_with_their_run_however_it_ends(service: Service, tmp_path: Path):
    work = checkout(tmp_path)
    for key in [key for key in service.objects if key.split("/")[-2] not in ("100", "101")]:
        del service.objects[key]
    service.choose = lambda asked: "hang_up" if asked.key else None
    runs: set[str] = set()

    def waits() -> bool:
        """Whether the jobs of one more run wait."""
        if not (work.results / OUTAGE).exists():
            return False
        run = outage(work.results)["run"]
        new = run not in runs
        runs.add(run)
        return new

    for end, code in ((lambda pid: os.kill(pid, signal.SIGTERM), 143), (control_c, 130)):
        with work.running(service.endpoint, PATIENCE) as run:
            wait_until(waits)
            end(run.pid)
            text, _ = run.communicate(timeout=60)
        assert run.returncode == code, text
        for word in ("Traceback", "Error in rule", "crashed"):
            assert word not in text
        assert work.markers() == {}
    with work.running(service.endpoint, PATIENCE) as killed:
        wait_until(waits)
        killed.kill()  # its jobs go on waiting
        killed.wait()
        with work.running(service.endpoint, PATIENCE) as run:
            wait_until(waits)
            service.choose = nothing
            text, _ = run.communicate(timeout=LONGEST_S)
    assert len(runs) == 4
    assert run.returncode == 0, text
    assert {marker["outcome"] for marker in work.markers().values()} == {"converted"}
    assert work.leftovers() == []


def outage(results: Path) -> OutageRecord:
    told: OutageRecord = json.loads((results / OUTAGE).read_text())
    return told


# --------------------------------------------------------------------------------------- one tile


class Fetch:
    """Fetches tiles as the job does, with a list of all tiles in the results."""

    def __init__(self, service: Service, settings: dict[str, Any], results: Path) -> None:
        self.service = service
        self.objects = dict(service.objects)
        self.results = results
        self.settings = settings
        settings["results"] = str(results)
        settings["archive"]["endpoint"] = service.endpoint
        settings["transfer"] |= {"attempts": 2, "outage_pause_s": 0.1, "outage_hours": 1 / 3600}
        write_tiles(results / "tiles.csv", {tile: self.sources(tile) for tile in TILES})

    def sources(self, tile: Tile) -> dict[str, Any]:
        return list_sources(tile, self.objects)

    def __call__(
        self, tile: Tile, go_on: Callable[[], None] = lambda: None, run: str = "this"
    ) -> DownloadRecord:
        folder = self.results / "fits" / str(tile.number)
        return download_patiently(tile, self.sources(tile), self.settings, folder, run, go_on)


@pytest.fixture
def fetch(
    service: Service, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Fetch:
    monkeypatch.setattr(archive_module, "FIRST_PAUSE_S", 0.01)
    return Fetch(service, settings, tmp_path)


def test_outage_that_is_longer_than_its_limit_ends_in_unreachable_until_it_is_over(fetch: Fetch):
    fetch.service.choose = hang_up
    record = fetch(TILES[0])
    assert record["outcome"] == "unreachable"
    assert "main/dark/1/100/" in record["reason"]
    assert "longer than transfer.outage_hours = 0.000277778" in record["reason"]
    written = json.loads((fetch.results / "fits/100/download.json").read_text())
    assert written == record
    fetch.service.forget()
    assert fetch(TILES[1])["outcome"] == "unreachable"
    assert len(fetch.service.asked) <= 3, "a tile had more than one try after the limit"
    fetch.service.choose = nothing
    assert fetch(TILES[2])["outcome"] is None
    assert not (fetch.results / OUTAGE).exists()


def test_object_that_cannot_be_read_while_others_can_is_no_outage(fetch: Fetch):
    key = key_of(TILES[0], "coadd")
    fetch.service.choose = lambda asked: "slow_down" if asked.key == key else None
    record = fetch(TILES[0])
    assert record["outcome"] == "unreachable"
    assert "coadd-main-dark-100" in record["reason"]
    assert "outage_hours" not in record["reason"]
    assert not (fetch.results / OUTAGE).exists()
    assert fetch(TILES[1])["outcome"] is None


def test_tile_is_tried_once_more_where_the_outage_was_over_before_anyone_asked(fetch: Fetch):
    key = key_of(TILES[0], "redrock")
    fetch.service.choose = lambda asked: (
        "hang_up" if asked.key == key and asked.number < 2 else None
    )
    assert fetch(TILES[0])["outcome"] is None


def test_archive_of_one_tile_is_asked_for_its_other_files(fetch: Fetch):
    write_tiles(fetch.results / "tiles.csv", {TILES[0]: fetch.sources(TILES[0])})
    key = key_of(TILES[0], "redrock")
    fetch.service.choose = lambda asked: "error" if asked.key == key else None
    assert fetch(TILES[0])["outcome"] == "unreachable"
    assert not (fetch.results / OUTAGE).exists()


def test_pauses_grow_and_what_the_clock_says_does_not_count(
    fetch: Fetch, monkeypatch: pytest.MonkeyPatch
):
    """A clock that jumps by a year neither ends an outage nor makes it endless."""
    fetch.service.choose = hang_up
    fetch.settings["transfer"] |= {"outage_hours": 1.0, "outage_pause_s": 300}
    clock, told, at = [0.0], [], []

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    def look() -> None:
        lasted = outage(fetch.results)["lasted_s"]
        if not told or lasted != told[-1]:
            told.append(lasted)
            at.append(clock[0])

    monkeypatch.setattr("desi_fits_to_parquet.download.outage.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("desi_fits_to_parquet.download.outage.time.sleep", sleep)
    monkeypatch.setattr(
        "desi_fits_to_parquet.download.outage.time.time", lambda: 1e9 * (len(told) % 2)
    )
    assert fetch(TILES[0], look)["outcome"] == "unreachable"
    assert told[-1] == pytest.approx(3600, abs=2)
    pauses = [later - earlier for earlier, later in pairwise(at)]
    assert pauses[0] <= 6
    assert 240 < max(pauses) <= 301
    assert len(pauses) < 60


def test_what_another_run_left_of_an_outage_is_nobodys_concern(fetch: Fetch):
    left = OutageRecord(run="other", since=0.0, lasted_s=9e9, error="", over_limit=False)
    write_json(fetch.results / OUTAGE, left)
    assert fetch(TILES[0])["outcome"] is None


PROGRAM = """
import json, sys
from pathlib import Path
from desi_fits_to_parquet.download.outage import download_patiently
from desi_fits_to_parquet.run.lock import end_with_run
from desi_fits_to_parquet.tile import Tile
sources, settings, results = map(json.loads, sys.argv[1:])
go_on = lambda: end_with_run(Path(results))
folder = Path(results, "fits/100")
tile = Tile("main", "dark", 100)
print(download_patiently(tile, sources, settings, folder, "this", go_on)["outcome"])
"""


@contextmanager
def waiting(fetch: Fetch) -> "Iterator[subprocess.Popen[str]]":
    """Begin a job during an outage in which another job asks."""
    going_on = OutageRecord(run="this", since=0.0, lasted_s=0.0, error="", over_limit=False)
    write_json(fetch.results / OUTAGE, going_on)
    arguments = fetch.sources(TILES[0]), fetch.settings, str(fetch.results)
    with (fetch.results / OUTAGE_LOCK).open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *map(json.dumps, arguments)], text=True,
            stdout=subprocess.PIPE, env=os.environ | {"DESI_FITS_TO_PARQUET_RUN": "this"},
        ) as job:  # fmt: skip
            wait_until(lambda: opened(job, fetch.results / OUTAGE_LOCK))
            yield job


def opened(job: "subprocess.Popen[str]", path: Path) -> bool:
    files = Path(f"/proc/{job.pid}/fd").iterdir()
    return any(file.is_symlink() and file.readlink() == path for file in files)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")
def test_one_job_asks_and_the_others_wait_for_it(fetch: Fetch):
    with waiting(fetch) as job:
        assert fetch.service.asked == []
        (fetch.results / OUTAGE).unlink()
        assert job.stdout is not None
        assert job.stdout.read() == "None\n"
    asked = {source.key for source in fetch.service.asked}
    assert all("/100/" in key for key in asked), "other tiles were asked for"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")
def test_waiting_job_ends_without_asking_when_its_run_does(fetch: Fetch):
    with waiting(fetch) as job:
        end_waiting(fetch.results, "another")
        end_waiting(fetch.results, "this")
        assert job.wait(20) == 1
    assert fetch.service.asked == []
