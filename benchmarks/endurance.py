"""A run under all faults at once: whether anything of it ends wrong, lost, or done twice.

Small simulated tiles, half of them with a fault of their own (those of `tests/test_faults.py`, the
hostile files of `tests/hostile_files.py`, files of another tile), are converted by the real
workflow on two cores, over a service on this machine that commits random faults besides, goes away
now and then, and whose bandwidth wanders. All the while the run, its jobs, or all of it are killed
every few seconds; its lock is removed, the times of its files are those of another clock,
Snakemake's records are lost, Parquet are cut, markers lost, and each life fetches in one of the
two modes. Then the network heals, failed tiles are tried again, and each must have the outcome that
it deserves and the Parquet of an undisturbed conversion. What happens is drawn by seed, when it
happens is not. Writes results/benchmark/endurance.json.
"""

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from needs import check_needs

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))  # before the imports that are found there

from fault_server import Asked, Service, serve  # noqa: E402
from fusion_tiles import different_columns  # noqa: E402
from hostile_files import FITS, HDF5  # noqa: E402
from running import Work, checkout  # noqa: E402
from simulated_archive import checksum_list, key_of, simulate_objects  # noqa: E402
from test_faults import CASES as FAULTY  # noqa: E402
from test_faults import FAULTS, REPLACED, SHAPE, Case, Objects, convert  # noqa: E402
from test_kill import jobs_of, kill_somehow  # noqa: E402

from desi_fits_to_parquet.paths import marker_path  # noqa: E402
from desi_fits_to_parquet.tile import Tile  # noqa: E402

TARGETS = 5

DISTURBED_SHARE = 0.5
"""Share of tiles that have a fault of their own."""

FAULT_SHARE = 0.02
"""Share of all other requests that get a random fault."""

KILL_S = (1.0, 5.0)

KILLED = {"job": 8, "main": 1, "group": 1}
"""How often what is killed: one of the run's jobs, the run without its jobs, the run with them."""

OUTAGE_S, BETWEEN_OUTAGES_S = (2.0, 8.0), (20.0, 60.0)

BYTES_PER_S = (2e6, 60e6)

LONGEST_S = 1200.0
"""So long the disturbed part may last; tiles that have no outcome by then are done undisturbed."""

SLOTS = 4
"""Jobs at once, on two cores: many of them wait for the network."""

DAY_S = 86400.0


KINDS = ("coadd", "redrock", "emline", "rrdetails")


def spoil_with(kind: str, change: Callable[[Path], None]) -> Callable[[Objects, Tile], None]:
    """Make a file hostile that nobody vouches for: without a list of checksums."""

    def damage(objects: Objects, tile: Tile) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / tile.file_name(kind)
            path.write_bytes(objects[key_of(tile, kind)])
            change(path)
            objects[key_of(tile, kind)] = path.read_bytes()
        del objects[key_of(tile, "sha256sum")]

    return damage


def exchange(objects: Objects, tile: Tile) -> None:
    """Put all files of another tile in the place of this one's, with sums that are right."""
    other = Tile(tile.survey, tile.program, tile.number + 10_000)
    with tempfile.TemporaryDirectory() as folder:
        theirs = simulate_objects(other, Path(folder), TARGETS, **SHAPE)
    for kind in KINDS:
        objects[key_of(tile, kind)] = theirs[key_of(other, kind)]
    objects[key_of(tile, "sha256sum")] = checksum_list(tile, objects)


CASES = FAULTY | {
    "files of another tile": Case("corrupt_source", damage=exchange),
    **{
        name: Case("corrupt_source", damage=spoil_with(kind, change))
        for name, (kind, change) in (FITS | HDF5).items()
    },
}


class Trial(NamedTuple):
    """A tile, the name of its fault in `CASES`, and its files as they are without it, and later."""

    tile: Tile
    case: str
    right: Objects
    newer: Objects


class Trouble:
    """What the network does to each request; see `fault_server.Service.choose`."""

    def __init__(self, service: Service, trials: list[Trial], chance: random.Random) -> None:
        self.faults: Counter[str] = Counter(trial.case for trial in trials)
        del self.faults["nothing"]
        self.outages = 0
        self.calm = False
        self._service = service
        self._trials = {trial.tile.number: trial for trial in trials}
        self._chance = chance
        self._bytes_per_s = math.sqrt(math.prod(BYTES_PER_S))
        self._gone_until = 0.0
        self._next_outage = time.monotonic() + chance.uniform(*BETWEEN_OUTAGES_S)

    def choose(self, asked: Asked) -> str | None:
        """Choose the fault of a request; called by one thread after the other."""
        trial = self._trials[int(asked.key.split("/")[-2])] if asked.key else None
        if not self.calm:
            if self._is_gone():
                return "hang_up"
            self._take_time(asked)
        if trial:
            if trial.case in REPLACED and asked.key == key_of(trial.tile, REPLACED[trial.case]):
                self._service.objects.update(trial.newer)
            if fault := CASES[trial.case].fault(asked):
                return fault
        if self.calm or self._chance.random() > FAULT_SHARE:
            return None
        fault = self._chance.choice(FAULTS) if trial else "slow_down"
        self.faults[fault] += 1
        return fault

    def _is_gone(self) -> bool:
        now = time.monotonic()
        if now > self._next_outage:
            self.outages += 1
            self._gone_until = now + self._chance.uniform(*OUTAGE_S)
            self._next_outage = self._gone_until + self._chance.uniform(*BETWEEN_OUTAGES_S)
        return now < self._gone_until

    def _take_time(self, asked: Asked) -> None:
        """Let all requests share a link, whose bandwidth changes by a few percent with each."""
        low, high = BYTES_PER_S
        wandered = self._bytes_per_s * math.exp(self._chance.gauss(0, 0.05))
        self._bytes_per_s = min(max(wandered, low), high)
        amount = len(self._service.objects.get(asked.key, b""))
        if asked.start is not None and asked.stop is not None:
            amount = asked.stop - asked.start
        time.sleep(amount / self._bytes_per_s)


class Endurance:
    """A run that is disturbed until all its tiles have an outcome."""

    def __init__(self, work: Work, endpoint: str, tiles: int, chance: random.Random) -> None:
        self.kills = self.lives = 0
        self.done_again: set[Tile] = set()
        self.tampered: Counter[str] = Counter()
        self._work = work
        self._endpoint = endpoint
        self._tiles = tiles
        self._chance = chance
        self._done: dict[Tile, float] = {}
        self._damaged: dict[Tile, float] = {}
        self._pause = threading.Event()

    def settings(self) -> str:
        """Return the settings of a life."""
        mode = self._chance.choice(["rows", "files"])
        return (
            f"transfer={{mode: {mode}, attempts: 3, timeout_s: 1, audit_fraction: 1, "
            "outage_pause_s: 0.5}"
        )

    def live(self) -> None:
        """Go from life to life."""
        until = time.monotonic() + LONGEST_S
        while len(self._work.markers()) < self._tiles and time.monotonic() < until:
            self._one_life(until)
            self._look()
            if self._chance.random() < 0.1:
                self.tampered["records lost"] += 1
                shutil.rmtree(self._work.folder / ".snakemake", ignore_errors=True)
            if self._done and self._chance.random() < 0.3:
                self._damage(self._chance.choice(sorted(self._done)))
            print(
                f"{self.lives} lives, {self.kills} kills, {len(self._done)} tiles, "
                f"{len(self.done_again)} twice",
                flush=True,
            )

    def _look(self) -> None:
        """See whether a completed tile was done again."""
        finished = {
            tile: marker["finished"]
            for tile, marker in self._work.markers().items()
            if marker["finished"] != self._damaged.get(tile)
        }
        self.done_again |= {tile for tile in self._done if finished.get(tile) != self._done[tile]}
        self._done = finished

    def _damage(self, tile: Tile) -> None:
        """Damage what was made of a tile, which is then to be done again."""
        self._damaged[tile] = self._done.pop(tile)
        parquet, marker = self._work.parquet_path(tile), marker_path(self._work.results, tile)
        if parquet.exists() and self._chance.random() < 0.5:
            self.tampered["Parquet cut"] += 1
            os.truncate(parquet, parquet.stat().st_size // 2)
        else:
            self.tampered["marker lost"] += 1
            marker.unlink()

    def _one_life(self, until: float) -> None:
        """Run until the run is killed or ends."""
        self.lives += 1
        command = self._work.command(self._endpoint, "tiles", config=self.settings())
        with (self._work.folder / "run.log").open("a") as log, subprocess.Popen(
            [*command, "resources={min_free_gb: 1}", "--cores", str(SLOTS)],
            cwd=self._work.folder, stdout=log, stderr=log, start_new_session=True,
        ) as process:  # fmt: skip
            while process.poll() is None and not jobs_of(process):
                self._pause.wait(0.1)
            while process.poll() is None:
                self._pause.wait(self._chance.uniform(*KILL_S))
                self._tamper(process)
                how = self._chance.choices(list(KILLED), list(KILLED.values()))[0]
                if time.monotonic() > until:
                    how = "group"
                self.kills += kill_somehow(process, how, self._chance)

    def _tamper(self, process: "subprocess.Popen[bytes]") -> None:
        """Now and then, remove the lock, or give files the times of a clock that was set."""
        lock = self._work.results / ".lock"
        if self._chance.random() < 0.05 and process.poll() is None:
            lock.unlink()
            self.tampered["lock removed"] += 1
            while process.poll() is None and not lock.exists():
                self._pause.wait(0.1)
        if self._chance.random() < 0.1:
            self.tampered["clock set"] += 1
            seconds = self._chance.choice([-DAY_S, 365 * DAY_S])
            for path in (*self._work.results.glob("*"), *self._work.results.glob("[!.]*/**/*")):
                try:
                    moment = path.lstat().st_mtime - seconds
                    os.utime(path, (moment, moment), follow_symlinks=False)
                except FileNotFoundError:  # a job removed it meanwhile
                    continue


def simulate(tiles: int, folder: Path, chance: random.Random) -> list[Trial]:
    """Simulate the tiles and choose what is wrong with each."""
    trials = []
    for number in range(tiles):
        tile = Tile("main", "dark", number)
        disturbed = chance.random() < DISTURBED_SHARE
        case = chance.choice(list(CASES)) if disturbed else "nothing"
        shape = SHAPE | ({} if case in FAULTY else {"mask_form": "compressed"})
        right = simulate_objects(tile, folder / "now", TARGETS, **shape)
        newer: Objects = {}
        if case in REPLACED:
            newer = simulate_objects(tile, folder / "newer", TARGETS, seed=9, **SHAPE)
        trials.append(Trial(tile, case, right, newer))
        shutil.rmtree(folder)
    return trials


def is_right(work: Work, trial: Trial, folder: Path) -> bool:
    """Tell whether a Parquet is that of an undisturbed conversion, of either version."""
    table = pq.ParquetFile(work.parquet_path(trial.tile)).read()
    return any(
        not different_columns(
            table, convert(trial.tile, objects, folder / f"{trial.tile.name}-{i}")
        )
        for i, objects in enumerate(filter(None, (trial.right, trial.newer)))
    )


def endure(folder: Path, tiles: int, seed: int) -> dict[str, Any]:
    """Disturb a run, heal it, and compare all that it made with what it should have made."""
    chance = random.Random(seed)
    trials = simulate(tiles, folder / "archive", chance)
    objects = {key: data for trial in trials for key, data in trial.right.items()}
    for trial in trials:
        CASES[trial.case].damage(objects, trial.tile)
    work = checkout(folder / "work")
    begun = time.monotonic()
    with serve(objects) as service:
        trouble = Trouble(service, trials, random.Random(seed + 1))
        service.choose = trouble.choose
        endurance = Endurance(work, service.endpoint, tiles, chance)
        endurance.live()
        disturbed_s = time.monotonic() - begun
        disturbed = len(work.markers())
        trouble.calm = True
        service.forget()
        work.run(service.endpoint, "retry_failed")
        settings = endurance.settings()
        work.run(service.endpoint, config=settings)
        again = work.run(service.endpoint, config=settings)
        work.run(service.endpoint, "verify")
    markers = work.markers()
    lost, wrong = [], []
    for trial in trials:
        marker = markers.get(trial.tile, {"outcome": "none", "reason": ""})
        told = f"{trial.tile.name}, {trial.case}: {marker['outcome']} {marker['reason']}"
        converted = marker["outcome"] == "converted"
        if marker["outcome"] != CASES[trial.case].outcome:
            lost.append(told)
        elif converted != work.parquet_path(trial.tile).exists():
            lost.append(f"{told}; its Parquet is missing, or should not be there")
        elif converted and not is_right(work, trial, folder / "right"):
            wrong.append(told)
        shutil.rmtree(folder / "right", ignore_errors=True)
    lost += [f"left: {path.relative_to(work.results)}" for path in work.leftovers()]
    if "Nothing to be done" not in again:
        lost.append("the finished run was not done")
    return {
        "tiles": tiles,
        "kills": endurance.kills,
        "faults": sum(trouble.faults.values()) + sum(endurance.tampered.values()) + trouble.outages,
        "wrong": len(wrong),
        "lost": len(lost),
        "twice": len(endurance.done_again),
        "lives": endurance.lives,
        "outages": trouble.outages,
        "tiles_disturbed": disturbed,
        "seconds_disturbed": round(disturbed_s),
        "seconds": round(time.monotonic() - begun),
        "seed": seed,
        "cores": os.cpu_count(),
        "faults_by_kind": dict(sorted((trouble.faults + endurance.tampered).items())),
        "told": [*wrong, *lost, *(f"twice: {tile.name}" for tile in sorted(endurance.done_again))],
    }


def main() -> int:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder to work in, which stays")
    given = parser.parse_args()
    check_needs(2 + given.tiles / 250, Path(tempfile.gettempdir()))
    if given.keep:
        given.keep.mkdir(parents=True)
        figures = endure(given.keep, given.tiles, given.seed)
    else:
        with tempfile.TemporaryDirectory(prefix="endurance-") as scratch:
            figures = endure(Path(scratch), given.tiles, given.seed)
    path = REPOSITORY / "results/benchmark/endurance.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
    return 1 if figures["wrong"] or figures["lost"] or figures["twice"] else 0


if __name__ == "__main__":
    sys.exit(main())
