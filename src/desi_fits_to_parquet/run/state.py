"""What a run knows of itself while it goes on, and how Snakemake's events change it.

One thread holds a `State` and calls these functions (`watch.py`), so nothing is locked. An event is
what Snakemake tells its loggers of a job, a mapping; a function that misses something in it raises.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from desi_fits_to_parquet.paths import (
    ENDING,
    LOW_NOTE,
    WRITABLE,
    marker_path,
    skim_marker_path,
)
from desi_fits_to_parquet.records import OutageRecord, read_outage
from desi_fits_to_parquet.run.markers import Brief, layout_of, read_brief, read_briefs, read_names
from desi_fits_to_parquet.run.summary import N_PROBLEMS, Run, Summary, summarize
from desi_fits_to_parquet.tile import Tile, tile_of

TILE_RULES = ("download_tile", "fuse_tile", "validate_tile")

SKIM_RULE = "skim_tile"

FETCHING = ("download_tile", SKIM_RULE)

MARKER_OF = {"validate_tile": marker_path, SKIM_RULE: skim_marker_path}
"""What ends a tile, and where its marker then is."""

DOING = {
    "discover_tiles": "listing the archive",
    **dict.fromkeys(TILE_RULES, "converting tiles"),
    SKIM_RULE: "skimming tiles",
    "report": "drawing the report",
    "catalog": "making the collection",
    "skim": "summing up the skim",
}
"""What a run does in the jobs of a rule, in words."""

FINISHED = "finished"
"""How what is said of a run begins that did all that it had to do."""


@dataclass
class State:
    """A run as one process knows it.

    Attributes
    ----------
    results
        The results folder.
    run
        What the run tells of itself; `run_now` brings it up to date.
    jobs
        Rule and tile of each job that was begun and did not end, by Snakemake's number.
    briefs
        What the markers say, by tile.
    before
        What they said when the run began.
    tiles
        The discovered tiles, None before the archive was listed.
    layout
        The name of the archive's layout, which their list tells.
    broken
        A line for each marker that could not be read when the run began.
    crashed
        Tiles whose job crashed.
    failed_jobs
        Number of jobs that crashed.
    notes
        Problems, the newest last.
    unsaid
        Those of them that were not shown yet.
    faults
        What went wrong with the following of the run itself, and how often.
    outage
        The outage of the archive that the run waits for, if any.
    stop
        Why the run has to be ended; empty while it need not.
    """

    results: Path
    run: Run
    jobs: dict[int, tuple[str, Tile | None]] = field(default_factory=dict)
    briefs: dict[Tile, Brief] = field(default_factory=dict)
    before: dict[Tile, Brief] | None = None
    tiles: frozenset[Tile] | None = None
    layout: str = "healpix"
    broken: list[str] = field(default_factory=list)
    crashed: set[Tile] = field(default_factory=set)
    failed_jobs: int = 0
    notes: list[str] = field(default_factory=list)
    unsaid: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    outage: OutageRecord | None = None
    stop: str = ""


def new_state(results: Path, recent_s: float, markers: str) -> State:
    """Begin the state of a run of this process; `recent_s` and `markers` as in `Run`."""
    now = time.time()
    process = f"{os.getpid()} on {os.uname().nodename}"
    return State(results, Run(now, now, None, process, None, 0, recent_s, (), markers))


def read_results(state: State) -> None:
    """Read all markers, and the list of the discovered tiles."""
    state.briefs, state.broken = read_briefs(state.results, state.run.markers)
    _read_list(state)
    if state.before is None:
        state.before = dict(state.briefs)


def _read_list(state: State) -> None:
    state.tiles = read_names(state.results / "tiles.csv")
    state.layout = layout_of(state.results / "tiles.csv")
    if state.tiles is not None:  # others may be of an earlier list
        state.briefs = {t: brief for t, brief in state.briefs.items() if t in state.tiles}


def expect_tiles(state: State, number: int) -> None:
    """Take note of how many tiles the run has to do."""
    state.run = state.run._replace(to_do=number)


def begin_job(state: State, event: Mapping[str, Any]) -> None:
    """Take note of a job that begins."""
    tile = None
    if event["rule_name"] in (*TILE_RULES, SKIM_RULE):
        tile = tile_of(event["wildcards"], state.layout)
    state.jobs[event["jobid"]] = event["rule_name"], tile
    state.run = state.run._replace(doing=DOING.get(event["rule_name"], state.run.doing))


def finish_job(state: State, event: Mapping[str, Any]) -> None:
    """Read what a finished job left: the list of tiles, or a tile's marker."""
    rule, tile = state.jobs.pop(event["job_id"], ("", None))
    if rule == "discover_tiles":
        state.before = None  # tiles that are new in the list may have been done by an earlier run
        read_results(state)
    elif rule in MARKER_OF and tile is not None:
        state.crashed.discard(tile)
        brief = read_brief(MARKER_OF[rule](state.results, tile))
        if brief is not None:
            state.briefs[tile] = brief


def fail_job(state: State, event: Mapping[str, Any]) -> None:
    """Take note of a job that crashed, and of whether the disk is why."""
    rule, tile = state.jobs.pop(event["jobid"], (event["rule_name"], None))
    low = state.results / LOW_NOTE
    if rule in FETCHING and low.exists():
        state.stop = low.read_text()
        return
    if rule in FETCHING and waits_and_is_ended(state.results):
        return
    state.failed_jobs += 1
    if tile is not None:
        state.crashed.add(tile)
    try:  # what is allowed there says nothing of a disk that has failed
        (state.results / WRITABLE).touch()
        (state.results / WRITABLE).unlink()
    except OSError as error:
        state.stop = f"{state.results} cannot be written to any more ({error.strerror}): see to it."
        return
    name = f"{tile.name}: {rule}" if tile else rule
    note(state, f"{name} crashed; its log is {', '.join(event['log'])}")


def waits_and_is_ended(results: Path) -> bool:
    """Tell whether jobs that wait for the archive are being ended with their run."""
    return (results / ENDING).exists() and read_outage(results) is not None


def fail_group(state: State, event: Mapping[str, Any]) -> None:
    """Take note of the jobs of a group that crashed."""
    for job in event["job_error_info"]:
        fail_job(state, job)


EVENTS: dict[str, Callable[[State, Mapping[str, Any]], None]] = {
    "job_info": begin_job,
    "job_finished": finish_job,
    "job_error": fail_job,
    "group_error": fail_group,
}
"""Snakemake's events that say something of a run."""


def look_for_outage(state: State) -> None:
    """Take note of an outage of the archive that began or ended; its job says so on the screen."""
    state.outage = read_outage(state.results)


def note(state: State, problem: str) -> None:
    """Keep a problem, to be shown."""
    state.notes = [*state.notes, problem][-N_PROBLEMS:]
    state.unsaid.append(problem)


def run_now(state: State) -> Run:
    """Give what the run tells of itself at this moment."""
    problems = list(state.notes)
    if state.faults:
        total = state.faults.total()
        problems.append(next(reversed(state.faults)) + (f" ({total:,} such)" if total > 1 else ""))
    return state.run._replace(
        updated=time.time(),
        crashed=len(state.crashed),
        problems=tuple(problems[-N_PROBLEMS:]),
    )


def summary_now(state: State, disk_free: int | None) -> Summary:
    """Add up the state; `disk_free` in bytes, None where unknown."""
    run = run_now(state)
    tiles = None if state.tiles is None else len(state.tiles)
    return summarize(
        state.briefs, tiles, run, run.updated, disk_free, state.broken, state.outage, state.before
    )


def how_it_ended(summary: Summary, failed_jobs: int) -> str:
    """Say how a run ended by itself, and what to do."""
    if summary.left:
        rest = summary.left + (summary.run.crashed if summary.run else 0)
        return f"ended with {rest:,} tiles not done; the same command goes on from there"
    if failed_jobs:
        return f"ended, {failed_jobs} jobs crashed; the same command does them again"
    return FINISHED + (f", {summary.failed:,} tiles failed" if summary.failed else "")
