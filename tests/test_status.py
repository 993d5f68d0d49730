"""The state of a run must be what its markers say, on every screen, and must not stop the run."""

import io
import json
import logging
import os
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path
from typing import Any, ClassVar

import pyte
import pytest
from report_markers import marker
from snakemake_interface_logger_plugins.common import LogEvent

from desi_fits_to_parquet.files import read_json, write_json
from desi_fits_to_parquet.outcomes import OUTCOMES
from desi_fits_to_parquet.paths import ENDING, OUTAGE, marker_path
from desi_fits_to_parquet.records import OutageRecord, tile_keys
from desi_fits_to_parquet.run import panel as panels
from desi_fits_to_parquet.run import summary as summaries
from desi_fits_to_parquet.run import watch as watching
from desi_fits_to_parquet.run.markers import read_brief
from desi_fits_to_parquet.run.notify import Notice
from desi_fits_to_parquet.run.panel import Panel
from desi_fits_to_parquet.run.status import main
from desi_fits_to_parquet.run.summary import (
    RUN_FILE,
    Run,
    read_run,
    summarize_results,
    time_left,
    write_run,
)
from desi_fits_to_parquet.run.watch import watch_run
from desi_fits_to_parquet.run.wording import fit_lines, summary_line, summary_lines
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.tiles_csv import write_tiles

TILES = [Tile("main", "dark", 100 + i) for i in range(20)]
BEGUN = 1_790_000_000.0


def write_marker(results: Path, tile: Tile, outcome: str, finished: float) -> dict[str, Any]:
    """Write a marker with plain figures: 1 GB in the archive, 60 MB fetched, 20 MB written."""
    figures = marker(tile, outcome) | {
        "bytes_archive": 10**9, "bytes_fetched": 60 * 10**6, "finished": finished,
        "bytes_parquet": 20 * 10**6 if outcome == "converted" else 0,
    }  # fmt: skip
    write_json(marker_path(results, tile), figures)
    return figures


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """15 of 20 tiles: five of an earlier run, ten of this one, one of which failed."""
    write_tiles(tmp_path / "tiles.csv", {tile: {} for tile in TILES})
    for i, tile in enumerate(TILES[:15]):
        outcome = "corrupt_source" if i == 9 else "converted"
        write_marker(tmp_path, tile, outcome, BEGUN + (-500 if i < 5 else 60 * (i - 4)))
    run = Run(BEGUN, BEGUN + 600, None, "1 on desk", 15, 1, 300.0, ("fuse_tile crashed",))
    write_run(tmp_path, run)
    return tmp_path


def test_summary_is_the_sum_over_the_markers(results: Path):
    s = summarize_results(results, BEGUN + 600)
    assert s.outcomes == dict.fromkeys(OUTCOMES, 0) | {"converted": 14, "corrupt_source": 1}
    assert (s.tiles, s.done, s.failed, s.left) == (20, 10, 2, 4)
    assert s.tiles_per_hour == (pytest.approx(72), pytest.approx(60))
    assert s.mb_per_s == (pytest.approx(6 * 60 / 300), pytest.approx(10 * 60 / 600))
    assert (s.bytes_archive, s.bytes_fetched, s.bytes_parquet) == (15e9, 0.9e9, 0.28e9)
    assert s.running
    # one tile a minute, so exactly
    assert s.seconds_left == (pytest.approx(4 * 60), pytest.approx(0, abs=1e-6))
    assert [text.partition(":")[0] for text in s.problems] == [
        "main-dark-109 corrupt_source",
        "fuse_tile crashed",
    ]


def test_tile_that_left_the_archive_and_half_written_files_do_not_count(results: Path):
    before = summarize_results(results, BEGUN + 600)
    write_marker(results, Tile("sv3", "dark", 7), "converted", BEGUN + 50)
    (results / "validated/main/dark/.119.json.part").write_text('{"outc')
    assert summarize_results(results, BEGUN + 600) == before._replace(disk_free=pytest.approx(
        before.disk_free, abs=10**9))  # fmt: skip


def test_broken_marker_is_named_and_the_others_are_counted(results: Path):
    (results / "validated/main/dark/100.json").write_text('{"outcome": "conv')
    s = summarize_results(results, BEGUN + 600)
    assert sum(s.outcomes.values()) == 14
    assert any("100.json: no marker of this version" in problem for problem in s.problems)


@pytest.mark.parametrize("form", [{}, {"indent": 4}, {"indent": 1, "sort_keys": True}])
def test_marker_is_read_alike_however_its_json_is_laid_out(results: Path, form: dict[str, Any]):
    path = marker_path(results, TILES[9])
    before = read_brief(path)
    assert before is not None
    assert before.outcome == "corrupt_source"
    assert "& more" in before.reason
    path.write_text(json.dumps(read_json(path), **form))
    assert read_brief(path) == before


def test_killed_run_is_not_called_running(results: Path):
    s = summarize_results(results, BEGUN + 2000)
    assert not s.running
    assert "killed" in summary_lines(s)[0]
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = Run(BEGUN, BEGUN, None, f"{dead.pid} on {os.uname().nodename}", 15, 1, 300.0, ())
    write_run(results, here)
    assert not summarize_results(results, BEGUN + 1).running
    write_run(results, here._replace(process=f"{os.getpid()} on {os.uname().nodename}"))
    assert summarize_results(results, BEGUN + 1).running
    write_run(results, here._replace(process="7 on another", updated=BEGUN + 600))
    s = summarize_results(results, BEGUN + 2000)
    assert s.seconds_left is None
    assert s.tiles_per_hour is not None
    assert s.tiles_per_hour[1] == pytest.approx(60)  # over the time that it ran


def test_make_status_prints_all_that_the_view_shows(
    results: Path, capsys: pytest.CaptureFixture[str]
):
    assert main([str(results)]) == 0
    printed = capsys.readouterr().out
    for name in ("run", "tiles", *OUTCOMES, "tiles/h", "MB/s", "saved", "free", "time left",
                 "corrupt_source: coadd-main-dark-109.fits", "fuse_tile crashed"):  # fmt: skip
        assert name in printed
    assert main([str(results / "nothing")]) == 2


def test_broken_list_of_tiles_is_named_in_a_line(results: Path, capsys: pytest.CaptureFixture[str]):
    (results / "tiles.csv").write_text("survey,program\nmain,dark\n")
    assert main([str(results)]) == 2
    told = capsys.readouterr().out
    assert told.startswith(f"{results / 'tiles.csv'}: not a list of tiles of this version")
    assert told.count("\n") == 1


def test_empty_results_have_a_state(tmp_path: Path):
    text = "\n".join(summary_lines(summarize_results(tmp_path)))
    assert "none yet" in text
    assert "unknown in the archive" in text


def test_time_left_grows_in_a_standstill_and_its_error_with_the_scatter():
    even = [60.0 * i for i in range(100)]
    seconds, error = time_left(even, 100, even[-1]) or (0, 0)
    assert seconds == pytest.approx(6000, rel=0.02)
    assert error == pytest.approx(0)
    assert (time_left(even, 100, even[-1] + 3600) or (0, 0))[0] > 1.5 * seconds
    odd = [60.0 * i + (i // 10 % 2) * 300 for i in range(100)]
    assert (time_left(odd, 100, odd[-1]) or (0, 0))[1] > 300
    assert time_left(even[:9], 100, even[8]) is None


# ------------------------------------------------------------------ the view of a running process


def test_events_that_the_view_takes_are_those_of_snakemakes_logger_plugins():
    events = {LogEvent.JOB_INFO, LogEvent.JOB_FINISHED, LogEvent.JOB_ERROR, LogEvent.GROUP_ERROR}
    assert events == {"job_info", "job_finished", "job_error", "group_error"}


class Told:
    """Snakemake's logger with its screen, and the events of a job as it tells them."""

    def __init__(self, screen: io.TextIOBase) -> None:
        self.logger = logging.Logger("snakemake", logging.INFO)
        self.logger.addHandler(logging.StreamHandler(screen))

    def begin(self, jobid: int, rule: str, tile: Tile | None) -> None:
        names = {k: str(v) for k, v in tile_keys(tile).items()} if tile else {}
        self.logger.info("a job begins", extra={
            "event": LogEvent.JOB_INFO, "jobid": jobid, "rule_name": rule, "wildcards": names,
        })  # fmt: skip

    def finish(self, jobid: int) -> None:
        self.logger.info("done", extra={"event": LogEvent.JOB_FINISHED, "job_id": jobid})

    def fail(self, jobid: int, rule: str) -> None:
        self.logger.error("Error in rule", extra={
            "event": LogEvent.JOB_ERROR, "jobid": jobid, "rule_name": rule, "log": ["a.log"],
        })  # fmt: skip

    def end(self) -> None:
        for handler in self.logger.handlers:
            handler.close()


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panels, "FIRST_LINE_S", 0.02)
    monkeypatch.setattr(panels, "DRAW_S", 0.02)
    monkeypatch.setattr(panels, "LINE_S", 0.0)
    monkeypatch.setattr(watching, "WRITE_S", 0.0)


@pytest.fixture
def watched(
    results: Path, settings: dict[str, Any], short_pauses: None
) -> Callable[[io.TextIOBase], Told]:
    def watch(screen: io.TextIOBase) -> Told:
        told = Told(screen)
        watch_run(
            told.logger,
            told.logger.handlers,
            settings | {"results": str(results)},
            [],
            lambda: 3,
            lambda: None,
            lambda: None,
        )
        return told

    return watch


def test_view_follows_jobs_without_a_line_for_each_and_names_crashes(
    results: Path, watched: Callable[[io.TextIOBase], Told]
):
    screen = io.StringIO()
    told = watched(screen)
    for jobid, tile in enumerate(TILES[15:17]):
        told.begin(jobid, "validate_tile", tile)
        write_marker(results, tile, "converted", 4e9)
        told.finish(jobid)
    told.begin(5, "fuse_tile", TILES[17])
    told.fail(5, "fuse_tile")
    told.logger.warning("disk is nearly full")
    told.end()
    text = screen.getvalue()
    assert "main-dark-117: fuse_tile crashed; its log is a.log" in text
    assert "disk is nearly full" in text
    assert "a job begins" not in text
    assert "this run: 2 done, 1 failed (1 crashed)" in text
    run = read_json(results / RUN_FILE)
    assert run["to_do"] == 3
    assert run["ended"] == "ended, 1 jobs crashed; the same command does them again"


def test_view_says_what_is_done_beside_tiles_and_counts_those_that_an_earlier_run_did(
    results: Path, watched: Callable[[io.TextIOBase], Told]
):
    write_tiles(results / "tiles.csv", {tile: {} for tile in TILES[:2]})  # a sample
    screen = io.StringIO()
    told = watched(screen)
    told.begin(1, "discover_tiles", None)
    write_tiles(results / "tiles.csv", {tile: {} for tile in TILES[:15]})
    told.finish(1)
    told.begin(2, "report", None)
    while "drawing the report" not in screen.getvalue():
        threading.Event().wait(0.02)
    run = read_run(results)
    assert run is not None
    assert run.doing == "drawing the report"
    assert "drawing the report" in summary_lines(summarize_results(results))[0]
    told.finish(2)
    told.end()
    assert "15 in the archive, 15 done, 3 left; this run: 0 done" in screen.getvalue()


def test_outage_stands_beside_the_run_and_the_jobs_that_it_ends_are_no_crashes(
    results: Path, watched: Callable[[io.TextIOBase], Told]
):
    lost = OutageRecord(run="1", since=BEGUN, lasted_s=60.0, error="reset", over_limit=False)
    run = read_run(results)
    assert run is not None
    write_run(results, run._replace(updated=BEGUN + 600))
    write_json(results / OUTAGE, lost)
    words = "the archive cannot be reached since"
    summary = summarize_results(results, BEGUN + 600)
    assert words in summary_lines(summary)[0]
    assert words in summary_line(summary)
    assert words not in summary_lines(summarize_results(results, BEGUN + 2000))[0], "a dead run"
    screen = io.StringIO()
    told = watched(screen)
    told.begin(1, "download_tile", TILES[15])
    while words not in screen.getvalue():
        threading.Event().wait(0.02)
    (results / ENDING).write_text("this\n")
    told.fail(1, "download_tile")
    told.end()
    assert read_json(results / RUN_FILE)["crashed"] == 0


def test_summary_is_the_same_from_the_run_and_from_another_shell(
    results: Path, watched: Callable[[io.TextIOBase], Told]
):
    screen = io.StringIO()
    told = watched(screen)
    told.begin(1, "validate_tile", TILES[15])
    write_marker(results, TILES[15], "converted", 4e9)
    told.finish(1)
    told.end()
    own = [line for line in screen.getvalue().splitlines() if not line.startswith("disk")]
    other = [
        line
        for line in summary_lines(summarize_results(results))
        if not line.startswith(("disk", "speed"))
    ]
    assert set(other) <= set(own)


def test_terminal_that_goes_away_does_not_end_the_run(
    results: Path, watched: Callable[[io.TextIOBase], Told]
):
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    told = watched(Gone())
    told.begin(1, "fuse_tile", TILES[15])
    told.fail(1, "fuse_tile")
    told.end()
    assert read_json(results / RUN_FILE)["crashed"] == 1


class Noted:
    """Stands for the sender of notifications; keeps their titles."""

    titles: ClassVar[list[str]]

    def __init__(self, addresses: list[str], complain: Callable[[str], None]) -> None:
        type(self).titles = []

    def send(self, notice: Notice) -> None:
        self.titles.append(notice.title.partition(": ")[2])

    def finish(self) -> None:
        pass


def no_disk(folder: Path) -> int:
    raise OSError(5, "Input/output error")


def test_run_is_followed_to_its_end_whatever_goes_wrong_on_the_way(
    results: Path,
    settings: dict[str, Any],
    short_pauses: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    for module in (watching, summaries):
        monkeypatch.setattr(module, "free_bytes", no_disk)
    monkeypatch.setattr(watching, "Sender", Noted)
    settings["results"] = str(results)
    settings["notify"]["abort"] = True
    told, stopped = Told(screen := io.StringIO()), threading.Event()
    watch_run(told.logger, told.logger.handlers, settings, [], lambda: 30, stopped.set, list)

    for event in LogEvent:  # without all that it must have
        told.logger.info("bad", extra={"event": event})
    unread = marker_path(results, TILES[15])
    unread.mkdir()  # a marker that cannot be read just then
    for jobid, tile in enumerate(TILES[15:19]):
        told.begin(jobid, "validate_tile", tile)
        if jobid:
            write_marker(results, tile, "corrupt_source", 4e9)
        told.finish(jobid)
    assert stopped.wait(60), "too many tiles failed: the run must be ended"
    assert main([str(results)]) == 0
    status = capsys.readouterr().out
    assert "going on for" in status
    assert "free space unknown" in status
    unread.rmdir()
    write_marker(results, TILES[15], "corrupt_source", 4e9)
    told.end()

    assert Noted.titles[0] == "run started"
    assert "tiles failed" in Noted.titles[-1]
    assert Noted.titles[-1].startswith("stopped: ")
    assert read_json(results / RUN_FILE)["ended"] == Noted.titles[-1]
    text = screen.getvalue()
    assert text.count("event job_info: KeyError: 'rule_name'; the run goes on") == 1
    assert text.count("OSError: [Errno 5] Input/output error; the run goes on") == 1
    assert "Is a directory" in text
    assert re.search(r"problem    view of the run, .* \(\d+ such\)", text)
    assert "this run: 4 done, 4 failed" in text, "the markers tell what an event did not"


def test_number_of_tiles_that_cannot_be_had_stays_unknown(
    results: Path, settings: dict[str, Any], short_pauses: None
):
    def no_graph() -> int:
        raise RuntimeError("the graph changed")

    told = Told(screen := io.StringIO())
    watch_run(
        told.logger,
        told.logger.handlers,
        settings | {"results": str(results)},
        [],
        no_graph,
        lambda: None,
        lambda: None,
    )
    told.begin(1, "validate_tile", TILES[15])
    write_marker(results, TILES[15], "converted", 4e9)
    told.finish(1)
    told.end()
    assert "RuntimeError: the graph changed; the run goes on" in screen.getvalue()
    run = read_json(results / RUN_FILE)
    assert (run["to_do"], run["ended"]) == (None, "finished")


def test_run_that_cannot_write_its_state_is_still_alive(results: Path):
    run = Run(BEGUN, BEGUN, None, "1 on desk", 15, 1, 300.0, ())
    write_run(results, run)
    (results / ".run.json.part").mkdir()
    with pytest.raises(OSError, match=r"run\.json\.part"):
        write_run(results, run._replace(updated=BEGUN + 600))
    assert summarize_results(results, BEGUN + 610).running
    assert not summarize_results(results, BEGUN + 2000).running


def test_marker_of_an_unknown_outcome_is_named(results: Path):
    path = marker_path(results, TILES[0])
    path.write_text(path.read_text().replace('"converted"', '"fine"'))
    s = summarize_results(results, BEGUN + 600)
    assert sum(s.outcomes.values()) == 14
    assert any("unknown outcome 'fine'" in problem for problem in s.problems)


def test_panel_leaves_the_lines_above_to_scroll_and_gives_its_own_back():
    master, slave = os.openpty()
    try:
        with open(slave, "w", closefd=False) as stream:
            ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
            panel = Panel(stream, 3)
            assert panel.draw(["one", f"problem {'x' * 200}"])
            drawn = os.read(master, 10_000).decode()
            assert "\x1b[1;21r" in drawn  # what jobs print scrolls in 21 of 24 lines
            assert "\x1b[23;1H\x1b[2Kone" in drawn
            assert "x" * 71 in drawn
            assert "x" * 72 not in drawn
            ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 6, 80, 0, 0))
            assert not panel.draw(["one"])
            assert "\x1b[r" in os.read(master, 10_000).decode()
    finally:
        os.close(master)
        os.close(slave)


def test_narrow_terminal_loses_no_figure_but_the_oldest_problems(results: Path):
    lines = summary_lines(summarize_results(results, BEGUN + 600))
    fitted = fit_lines(lines, 60, 14)
    assert max(map(len, fitted)) <= 60
    figures = [line for line in lines if not line.startswith("problem")]
    assert " ".join(" ".join(fitted).split()).startswith(" ".join(" ".join(figures).split()))
    assert fitted[-1] == lines[-1]
    assert fit_lines(lines, 300, 8)[-1] == "problem    fuse_tile crashed"


def test_line_without_terminal_holds_what_matters(results: Path):
    line = summary_line(summarize_results(results, BEGUN + 600))
    for part in ("10 tiles done", "2 failed (1 crashed)", "4 left", "72 tiles/h now", "MB/s",
                 "saved", "free", "4 min 0 s +- 0 s"):  # fmt: skip
        assert part in line
    assert "\n" not in line


def test_view_has_a_bar_and_leaves_no_stale_lines_after_a_resize(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    master, slave = os.openpty()
    shown = pyte.Screen(80, 40)
    stream = pyte.ByteStream(shown)
    with os.fdopen(slave, "w") as terminal:
        panel = Panel(terminal, 6)
        for rows, columns, share in ((40, 80, 0.25), (50, 100, 0.5), (30, 60, 0.75)):
            ioctl(terminal.fileno(), termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            shown.resize(rows, columns)
            assert panel.draw(["run        going on", "problem    one"], share)
            stream.feed(os.read(master, 100_000))
            seen = [line for line in shown.display if line.strip()]
            assert [line.split()[0] for line in seen] == ["progress", "run", "problem"]
            assert f"{100 * share:3.0f} %" in seen[0]
            assert seen[0].count("█") == pytest.approx(share * (columns - 19), abs=1)
    os.close(master)
