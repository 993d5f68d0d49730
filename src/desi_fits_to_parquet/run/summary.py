"""How far a run is, added up from the markers: `make status`, the view of a run, notifications.

Only what one process knows of a run stands elsewhere than in the markers: when it began, how many
tiles it has to do, what crashed. It writes that into `{results}/.run.json` while it lives
(`watch.py`).
"""

import json
import math
import os
import shutil
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from desi_fits_to_parquet.files import read_json
from desi_fits_to_parquet.outcomes import FAILED_OUTCOMES, OUTCOMES
from desi_fits_to_parquet.paths import VALIDATED
from desi_fits_to_parquet.records import OutageRecord, read_outage
from desi_fits_to_parquet.run.markers import Brief, read_briefs, read_names
from desi_fits_to_parquet.tile import Tile

RUN_FILE = ".run.json"
"""What a run tells of itself, in the results folder."""

ALIVE_S = 120.0
"""A run that did not touch its file for so long has ended, however it ended."""

TREND_S = 6 * 3600.0
"""The time left is judged by what was done in so many seconds."""

N_PROBLEMS = 5
"""So many problems are shown, the last ones."""


class Run(NamedTuple):
    """What a run tells of itself.

    Attributes
    ----------
    started, updated
        Unix seconds: when it began, when it last wrote this.
    ended
        None while it goes on, else how it ended, as a sentence.
    process
        Process and machine, for example `4711 on desk`.
    to_do
        Tiles that it has to do; None until the archive is listed.
    crashed
        Tiles whose job crashed, so that no marker was written.
    recent_s
        `now` in a speed is the mean over so many seconds.
    problems
        Its last problems, one line each, the newest last.
    markers
        Folder of the markers that its tiles get.
    doing
        What it does at present; empty where it has not begun.
    """

    started: float
    updated: float
    ended: str | None
    process: str
    to_do: int | None
    crashed: int
    recent_s: float
    problems: tuple[str, ...]
    markers: str = VALIDATED
    doing: str = ""


class Summary(NamedTuple):
    """The state of a results folder.

    Attributes
    ----------
    now
        Unix seconds of this summary.
    run
        The last run, None where none is known.
    running
        Whether it goes on.
    tiles
        Discovered tiles, None before the archive was listed.
    outcomes
        Number of tiles by outcome, all six.
    done, failed
        Tiles done in this run, and how many of them failed, crashed ones included.
    left
        Tiles still to be done, None where unknown.
    tiles_per_hour, mb_per_s
        Pairs: over the last `Run.recent_s`, and over the run; None where nothing is done yet.
    bytes_archive, bytes_fetched, bytes_parquet
        Sums over all tiles with a marker.
    disk_free
        Free bytes where the results lie, None where that cannot be told.
    seconds_left
        Time left and its standard error in seconds, None where it cannot be told yet.
    problems
        The last problems, one line each, the newest last.
    outage
        The outage of the archive that the run waits for, if any.
    """

    now: float
    run: Run | None
    running: bool
    tiles: int | None
    outcomes: dict[str, int]
    done: int
    failed: int
    left: int | None
    tiles_per_hour: tuple[float, float] | None
    mb_per_s: tuple[float, float] | None
    bytes_archive: int
    bytes_fetched: int
    bytes_parquet: int
    disk_free: int | None
    seconds_left: tuple[float, float] | None
    problems: tuple[str, ...]
    outage: OutageRecord | None = None


def summarize_results(results: Path, now: float | None = None) -> Summary:
    """Read the state of a results folder, also while a run works in it."""
    tiles = read_names(results / "tiles.csv")
    run = read_run(results)
    briefs, broken = read_briefs(results, run.markers if run else VALIDATED)
    if tiles is not None:  # others may be of an earlier list
        briefs = {tile: brief for tile, brief in briefs.items() if tile in tiles}
    now = time.time() if now is None else now
    n_tiles = None if tiles is None else len(tiles)
    try:
        free = free_bytes(results)
    except OSError:  # said as unknown
        free = None
    return summarize(briefs, n_tiles, run, now, free, broken, read_outage(results))


def summarize(
    briefs: Mapping[Tile, Brief],
    tiles: int | None,
    run: Run | None,
    now: float,
    disk_free: int | None,
    broken: Sequence[str] = (),
    outage: OutageRecord | None = None,
    before: Mapping[Tile, Brief] | None = None,
) -> Summary:
    """Add up markers; with 30,000 of them it takes 30 ms.

    Parameters
    ----------
    briefs
        By tile, of discovered tiles only.
    tiles
        Number of discovered tiles, None where it is not known.
    run
        The last run, None where none is known.
    now
        Unix seconds.
    disk_free
        In bytes, None where it cannot be told.
    broken
        What is to be told of markers that cannot be read.
    outage
        The outage that is known; one of a run that ended counts for nothing.
    before
        The markers that there were when the run began: others are its own, whatever their times
        say. Where that is not known, times tell.
    """
    outcomes = dict.fromkeys(OUTCOMES, 0)
    archive = fetched = parquet = 0
    since = run.started if run else math.inf
    fresh: list[Brief] = []
    for tile, brief in briefs.items():
        outcomes[brief.outcome] += 1
        archive += brief.bytes_archive
        fetched += brief.bytes_fetched
        parquet += brief.bytes_parquet
        if brief.finished >= since if before is None else brief != before.get(tile):
            fresh.append(brief)
    crashed = run.crashed if run else 0
    left = None
    if run and run.to_do is not None:
        left = max(run.to_do - len(fresh) - crashed, 0)
    elif tiles is not None and not run:
        left = tiles - len(briefs)
    # a run that ended has no "now", and its mean is over the time that it took
    running = run is not None and _is_alive(run, now)
    until = now if running or run is None else max(run.updated, run.started)
    failed = sorted(
        (brief.finished, f"{tile.name} {brief.outcome}: {brief.reason}")
        for tile, brief in briefs.items()
        if brief.outcome in FAILED_OUTCOMES
    )
    problems = (
        *[text for _, text in failed[-N_PROBLEMS:]], *broken, *(run.problems if run else ())
    )  # fmt: skip
    speed = _speeds(fresh, run, until) if run and fresh else None
    return Summary(
        now=now,
        run=run,
        running=running,
        tiles=tiles,
        outcomes=outcomes,
        done=len(fresh),
        failed=sum(brief.outcome in FAILED_OUTCOMES for brief in fresh) + crashed,
        left=left,
        tiles_per_hour=speed[0] if speed else None,
        mb_per_s=speed[1] if speed else None,
        bytes_archive=archive,
        bytes_fetched=fetched,
        bytes_parquet=parquet,
        disk_free=disk_free,
        seconds_left=time_left([brief.finished for brief in fresh], left, now) if running else None,
        problems=problems[-N_PROBLEMS:],
        outage=outage if running else None,
    )


def time_left(
    finished: Iterable[float], left: int | None, now: float
) -> tuple[float, float] | None:
    """Judge the time that the remaining tiles take by that of the last ones.

    The tiles of the last `TREND_S` are cut into blocks of equal numbers. Where b blocks are left
    and m were seen, whose durations have the mean d and the standard deviation s, the time left is
    b d, with a standard error of s sqrt(b + b^2 / m): the scatter of the blocks to come, and the
    error of the mean. Snakemake draws the tiles at random, so the last ones stand for the rest.

    Parameters
    ----------
    finished
        When tiles were finished, Unix seconds.
    left
        Tiles to be done.
    now
        Unix seconds.

    Returns
    -------
    tuple of float or None
        Seconds and their standard error; None with fewer than 10 tiles to judge by.
    """
    times = sorted(time for time in finished if time >= now - TREND_S)
    if not left or len(times) < 10:
        return None
    count = min(len(times) // 5, 10)
    size = (len(times) - 1) // count
    edges = [times[-1 - size * i] for i in range(count + 1)]
    durations = [later - earlier for later, earlier in pairwise(edges)]
    # the silence since the last tile belongs to it, so that a standstill is seen
    mean = (now - edges[-1]) / count
    blocks = left / size
    scatter = statistics.stdev(durations)
    return blocks * mean, scatter * math.sqrt(blocks + blocks**2 / count)


def _is_alive(run: Run, now: float) -> bool:
    if run.ended is not None or now - run.updated >= ALIVE_S:
        return False
    process, _, machine = run.process.partition(" on ")
    if machine != os.uname().nodename:
        return True
    try:
        os.kill(int(process), 0)  # asks only whether it is there
    except ProcessLookupError:
        return False
    except PermissionError:  # it is there, and another user's
        pass
    return True


def living_run(results: Path) -> str | None:
    """Return the process of the run that lives by what it tells of itself; None where none does."""
    try:
        run = read_run(results)
    except ValueError:  # cut, as by a loss of power
        return None
    return run.process if run and _is_alive(run, time.time()) else None


def _speeds(
    fresh: Sequence[Brief], run: Run, until: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Give tiles an hour and MB/s, each now and on average."""
    begin = max(run.started, until - run.recent_s)
    recent = [brief for brief in fresh if brief.finished >= begin]
    now_s, all_s = max(until - begin, 1.0), max(until - run.started, 1.0)
    return (
        (3600 * len(recent) / now_s, 3600 * len(fresh) / all_s),
        (
            sum(brief.bytes_fetched for brief in recent) / 1e6 / now_s,
            sum(brief.bytes_fetched for brief in fresh) / 1e6 / all_s,
        ),
    )


def read_run(results: Path) -> Run | None:
    """Read what the last run in a results folder told of itself; None where there was none."""
    path = results / RUN_FILE
    if not path.is_file():
        return None
    told = read_json(path)
    told["updated"] = path.stat().st_mtime
    return Run(**{**told, "problems": tuple(told["problems"])})


def write_run(results: Path, run: Run) -> None:
    """Write what a run tells of itself. Not synced to disk: it is written every few seconds.

    `Run.updated` becomes the time of the file. Where it cannot be written, as on a full disk, the
    time is set all the same, so that nobody takes the run for a dead one.

    Raises
    ------
    OSError
        Where it cannot be written.
    """
    path = results / RUN_FILE
    part = path.with_name(f".{RUN_FILE.strip('.')}.part")
    told = run._asdict()
    updated = told.pop("updated")
    try:
        part.write_text(json.dumps(told) + "\n")
        part.replace(path)
    finally:
        if path.exists():
            os.utime(path, (updated, updated))


def free_bytes(folder: Path) -> int:
    """Free space where a folder lies, or will lie."""
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free
