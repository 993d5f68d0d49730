"""How far a run is, in words."""

import textwrap
import time
from collections.abc import Sequence

from desi_fits_to_parquet.records import OutageRecord
from desi_fits_to_parquet.run.summary import Summary
from desi_fits_to_parquet.text import neutral
from desi_fits_to_parquet.units import percent_text, size_text


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
        f"disk       {_free(s)}",
        f"time left  {_time_left(s)}",
    ]
    lines += [f"problem    {_one_line(problem)}" for problem in s.problems]
    return [neutral(line) for line in lines]


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
        f"{_saved(s)}; {_free(s)}; time left {_time_left(s)}"
        + (f"; {outage_text(s.outage)}" if s.outage else "")
    )


def _state(s: Summary) -> str:
    if s.run is None:
        return "none yet"
    if s.running:
        how = f"; {outage_text(s.outage)}" if s.outage else ""
        doing = f", {s.run.doing}" if s.run.doing else ""
        since = span_text(s.now - s.run.started)
        return f"going on for {since}{doing} (process {s.run.process}){how}"
    how = s.run.ended or "ended without a word (killed?); the same command goes on from there"
    return f"{clock_text(s.run.updated)} {how}"


def outage_text(outage: OutageRecord) -> str:
    """Say that the archive cannot be reached, and what the run does about it."""
    since = f"the archive cannot be reached since {clock_text(outage['since'])}"
    if outage["over_limit"]:
        return f"{since}, longer than transfer.outage_hours: tiles become unreachable"
    return f"{since}: the run waits and asks again by itself"


def _failed(s: Summary) -> str:
    crashed = s.run.crashed if s.run else 0
    return f"{s.failed:,} failed" + (f" ({crashed:,} crashed)" if crashed else "")


def _free(s: Summary) -> str:
    return "free space unknown" if s.disk_free is None else f"{size_text(s.disk_free)} free"


def _saved(s: Summary) -> str:
    if not s.bytes_archive:
        return "nothing saved yet"
    saved = s.bytes_archive - s.bytes_parquet
    return f"{size_text(saved)} ({percent_text(100 * saved / s.bytes_archive)}) saved"


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
