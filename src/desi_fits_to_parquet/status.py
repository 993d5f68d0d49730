"""How far a run is, added up from the markers: `make status`, the view of a run, notifications.

Only what one process knows of a run stands elsewhere than in the markers: when it began, how many
tiles it has to do, what crashed. It writes that into `{results}/.run.json` while it lives
(`progress.py`).
"""

import gc
import json
import math
import os
import shutil
import statistics
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from desi_fits_to_parquet.files import read_json
from desi_fits_to_parquet.outcomes import FAILED_OUTCOMES, OUTCOMES
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.tiles_csv import list_tiles

RUN_FILE = ".run.json"
"""What a run tells of itself, in the results folder."""

ALIVE_S = 120.0
"""A run that did not touch its file for so long has ended, however it ended."""

TREND_S = 6 * 3600.0
"""The time left is judged by what was done in so many seconds."""

LONGEST = 1 << 20
"""No marker is longer, in bytes."""

N_PROBLEMS = 5
"""So many problems are shown, the last ones."""


class Row(NamedTuple):
    """What the summary needs of a marker; bytes as there, `finished` in Unix seconds."""

    outcome: str
    finished: float
    bytes_archive: int
    bytes_fetched: int
    bytes_parquet: int
    reason: str


_KEYS = [f'\n "{name}": '.encode() for name in Row._fields]


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
    """

    started: float
    updated: float
    ended: str | None
    process: str
    to_do: int | None
    crashed: int
    recent_s: float
    problems: tuple[str, ...]


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
        Free bytes where the results lie.
    seconds_left
        Time left and its standard error in seconds, None where it cannot be told yet.
    problems
        The last problems, one line each, the newest last.
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
    disk_free: int
    seconds_left: tuple[float, float] | None
    problems: tuple[str, ...]


def summarize_results(results: Path, now: float | None = None) -> Summary:
    """Read the state of a results folder, also while a run works in it."""
    tiles = read_names(results / "tiles.csv")
    rows, broken = read_rows(results / "validated")
    if tiles is not None:  # others may be of an earlier list
        rows = {tile: row for tile, row in rows.items() if tile in tiles}
    run = read_run(results)
    now = time.time() if now is None else now
    n_tiles = None if tiles is None else len(tiles)
    return summarize(rows, n_tiles, run, now, free_bytes(results), broken)


def summarize(
    rows: Mapping[Tile, Row],
    tiles: int | None,
    run: Run | None,
    now: float,
    disk_free: int,
    broken: Sequence[str] = (),
) -> Summary:
    """Add up markers; with 30,000 of them it takes 30 ms.

    Parameters
    ----------
    rows
        By tile, of discovered tiles only.
    tiles
        Number of discovered tiles, None where it is not known.
    run
        The last run, None where none is known.
    now
        Unix seconds.
    disk_free
        In bytes.
    broken
        What is to be told of markers that cannot be read.
    """
    outcomes = dict.fromkeys(OUTCOMES, 0)
    archive = fetched = parquet = 0
    since = run.started if run else math.inf
    fresh: list[Row] = []
    for row in rows.values():
        outcomes[row.outcome] += 1
        archive += row.bytes_archive
        fetched += row.bytes_fetched
        parquet += row.bytes_parquet
        if row.finished >= since:
            fresh.append(row)
    crashed = run.crashed if run else 0
    left = None
    if run and run.to_do is not None:
        left = max(run.to_do - len(fresh) - crashed, 0)
    elif tiles is not None and not run:
        left = tiles - len(rows)
    # a run that ended has no "now", and its mean is over the time that it took
    running = run is not None and _is_alive(run, now)
    until = now if running or run is None else max(run.updated, run.started)
    failed = sorted(
        (row.finished, f"{tile.name} {row.outcome}: {row.reason}")
        for tile, row in rows.items()
        if row.outcome in FAILED_OUTCOMES
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
        failed=sum(row.outcome in FAILED_OUTCOMES for row in fresh) + crashed,
        left=left,
        tiles_per_hour=speed[0] if speed else None,
        mb_per_s=speed[1] if speed else None,
        bytes_archive=archive,
        bytes_fetched=fetched,
        bytes_parquet=parquet,
        disk_free=disk_free,
        seconds_left=time_left([row.finished for row in fresh], left, now) if running else None,
        problems=problems[-N_PROBLEMS:],
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


def _speeds(
    fresh: Sequence[Row], run: Run, until: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Give tiles an hour and MB/s, each now and on average."""
    begin = max(run.started, until - run.recent_s)
    recent = [row for row in fresh if row.finished >= begin]
    now_s, all_s = max(until - begin, 1.0), max(until - run.started, 1.0)
    return (
        (3600 * len(recent) / now_s, 3600 * len(fresh) / all_s),
        (
            sum(row.bytes_fetched for row in recent) / 1e6 / now_s,
            sum(row.bytes_fetched for row in fresh) / 1e6 / all_s,
        ),
    )


# ------------------------------------------------------------------------------------- reading


def read_rows(validated: Path) -> tuple[dict[Tile, Row], list[str]]:
    """Read all markers; one that is removed meanwhile is left out.

    30,000 markers take 0.5 s of CPU.

    Returns
    -------
    rows : dict
        By tile.
    broken : list of str
        A line for each marker that cannot be read.
    """
    rows: dict[Tile, Row] = {}
    broken = []
    for survey in _scan(validated):
        for program in _scan(survey.path):
            for entry in _scan(program.path):
                name = entry.name
                if name.endswith(".json") and not name.startswith("."):
                    try:
                        row = read_row(entry.path)
                        if row is not None:
                            rows[Tile(survey.name, program.name, int(name[:-5]))] = row
                    except ValueError as error:
                        broken.append(str(error))
    return rows, broken


def read_row(path: Path | str) -> Row | None:
    """Read one marker; None where it is not there.

    Raises
    ------
    ValueError
        Where it is broken; the message names it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)  # a file object takes twice as long
    except FileNotFoundError:
        return None
    try:
        data = os.read(descriptor, LONGEST)
    finally:
        os.close(descriptor)
    try:
        return _pick_fields(data) or _parse_fields(data)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: no marker of this version ({error!r}); delete it and run again"
        ) from error


def _parse_fields(data: bytes) -> Row:
    marker = json.loads(data)
    return Row(*[marker[name] for name in Row._fields])


def _pick_fields(data: bytes) -> Row | None:
    """Take the fields out of a marker as `write_json` writes it, eight times faster than parsing.

    There each key of the marker itself stands on a line of its own after one blank, those within
    its values after more. None where the marker looks otherwise.
    """
    if not data.endswith((b"\n}", b"\n}\n")):
        return None
    values = []
    for key in _KEYS:
        start = data.find(key)
        if start < 0:
            return None
        start += len(key)
        values.append(data[start : data.index(b"\n", start)].removesuffix(b","))
    outcome, finished, archive, fetched, parquet, reason = values
    return Row(
        outcome.decode().strip('"'),
        float(finished),
        int(archive),
        int(fetched),
        int(parquet),
        "" if reason == b'""' else json.loads(reason),
    )


def _scan(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def read_names(tiles_csv: Path) -> frozenset[Tile] | None:
    """Read which tiles are discovered; None where the list is not there."""
    try:
        return frozenset(list_tiles(tiles_csv))
    except FileNotFoundError:
        return None


def read_run(results: Path) -> Run | None:
    """Read what the last run in a results folder told of itself; None where there was none."""
    path = results / RUN_FILE
    if not path.is_file():
        return None
    told = read_json(path)
    return Run(**{**told, "problems": tuple(told["problems"])})


def write_run(results: Path, run: Run) -> None:
    """Write what a run tells of itself. Not synced to disk: it is written every few seconds."""
    path = results / RUN_FILE
    part = path.with_name(f".{RUN_FILE.strip('.')}.part")
    part.write_text(json.dumps(run._asdict()) + "\n")
    part.replace(path)


def free_bytes(folder: Path) -> int:
    """Free space where a folder lies, or will lie."""
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free


# ------------------------------------------------------------------------------------- telling


def summary_lines(summary: Summary) -> list[str]:
    """Say it in a dozen lines, the same ones in every state of a run."""
    s = summary
    lines = [
        f"run        {_state(s)}",
        f"tiles      {_count(s.tiles)} in the archive, {sum(s.outcomes.values()):,} done, "
        f"{_count(s.left)} left" + (f"; this run: {s.done:,} done, {_failed(s)}" if s.run else ""),
        "outcomes   " + ", ".join(f"{n:,} {outcome}" for outcome, n in s.outcomes.items()),
        f"speed      {_pair(s.tiles_per_hour, ',.0f', 'tiles/h')}; "
        f"{_pair(s.mb_per_s, ',.1f', 'MB/s')}",
        f"bytes      of what is done: {size_text(s.bytes_archive)} in the archive, "
        f"{size_text(s.bytes_fetched)} fetched, {size_text(s.bytes_parquet)} written; {_saved(s)}",
        f"disk       {size_text(s.disk_free)} free",
        f"time left  {_time_left(s)}",
    ]
    lines += [f"problem    {_one_line(problem)}" for problem in s.problems]
    return lines


def fit_lines(lines: Sequence[str], columns: int, rows: int) -> list[str]:
    """Fit the lines of a summary into a window: figures are wrapped, problems cut.

    Where there are too many, the oldest problems are left out.
    """
    fitted: list[str] = []
    problems: list[str] = []
    for line in lines:
        if line.startswith("problem "):
            problems.append(line[:columns])
        else:
            fitted += textwrap.wrap(line, columns, subsequent_indent=" " * 11)
    room = max(rows - len(fitted), 0)
    return (fitted + problems[len(problems) - min(room, len(problems)) :])[:rows]


def summary_line(summary: Summary) -> str:
    """Say it in one line, for a terminal or file that cannot be drawn on."""
    s = summary
    return (
        f"{clock_text(s.now)}  {s.done:,} tiles done, {_failed(s)}, {_count(s.left)} left; "
        f"{_pair(s.tiles_per_hour, ',.0f', 'tiles/h')}; {_pair(s.mb_per_s, ',.1f', 'MB/s')}; "
        f"{_saved(s)}; {size_text(s.disk_free)} free; time left {_time_left(s)}"
    )


def _state(s: Summary) -> str:
    if s.run is None:
        return "none yet"
    if s.running:
        return f"going on for {span_text(s.now - s.run.started)} (process {s.run.process})"
    how = s.run.ended or "ended without a word (killed?); the same command goes on from there"
    return f"{clock_text(s.run.updated)} {how}"


def _failed(s: Summary) -> str:
    crashed = s.run.crashed if s.run else 0
    return f"{s.failed:,} failed" + (f" ({crashed:,} crashed)" if crashed else "")


def _saved(s: Summary) -> str:
    if not s.bytes_archive:
        return "nothing saved yet"
    saved = s.bytes_archive - s.bytes_parquet
    return f"{size_text(saved)} ({100 * saved / s.bytes_archive:.2f} %) saved"


def _time_left(s: Summary) -> str:
    if s.left == 0:
        return "none"
    if s.seconds_left is None:
        return "unknown yet" if s.running else "unknown: nothing runs"
    seconds, error = s.seconds_left
    return f"{span_text(seconds)} +- {span_text(error)} (until {clock_text(s.now + seconds)})"


def _pair(values: tuple[float, float] | None, form: str, unit: str) -> str:
    if values is None:
        return f"no {unit} yet"
    return f"{values[0]:{form}} {unit} now, {values[1]:{form}} on average"


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def size_text(size: float) -> str:
    """Write bytes in decimal units, as 12.3 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} TB"


def span_text(seconds: float) -> str:
    """Write a time span with two units, as 2 d 4 h."""
    whole = round(seconds)
    for unit, length, below, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if whole >= length:
            return f"{whole // length} {unit} {whole % length // part} {below}"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def clock_text(moment: float) -> str:
    """Write a moment in the local time zone, which it names."""
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(moment))


def main(arguments: Sequence[str]) -> int:
    """Print the summary of a results folder, by default that of `config/config.yaml`."""
    if arguments:
        results = Path(arguments[0])
    else:
        import yaml

        results = Path(yaml.safe_load(Path("config/config.yaml").read_text())["results"])
    if not results.is_dir():
        message = f"{results}: no such folder; name the results: make status RESULTS=..."
        print(message)  # noqa: T201  (what a command line is for)
        return 2
    gc.disable()  # looking for garbage among the rows takes longer than reading a tenth of them
    try:
        text = "\n".join(summary_lines(summarize_results(results)))
        print(text, flush=True)  # noqa: T201  (its only output)
    except BrokenPipeError:  # `make status | head -1`
        sys.stdout = None
    except ValueError as error:  # a list or a marker that somebody cut
        print(error)  # noqa: T201  (likewise)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
