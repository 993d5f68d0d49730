"""Who watches from afar must be told in time, and no address may get into a log."""

import http.server
import json
import os
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fault_server import serve
from running import checkout

from desi_fits_to_parquet.files import read_json
from desi_fits_to_parquet.outcomes import OUTCOMES
from desi_fits_to_parquet.records import OutageRecord
from desi_fits_to_parquet.run.markers import read_markers
from desi_fits_to_parquet.run.notify import (
    VARIABLE,
    Notice,
    NotifyError,
    Sender,
    Told,
    due_notices,
    end_notice,
    read_addresses,
    send_notice,
)
from desi_fits_to_parquet.run.summary import RUN_FILE, Run, Summary

SECRET = "xoxb4711"  # noqa: S105  (made up)
NOTICE = Notice("info", "title", "body")


@contextmanager
def receiver(status: int = 200, hold: bool = False) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A web hook; gives its Apprise URL, which holds a password, and what it was sent."""
    received: list[dict[str, Any]] = []
    ended = threading.Event()

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(json.loads(body))
            if hold:
                ended.wait(30)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"json://user:{SECRET}@127.0.0.1:{server.server_port}/{SECRET}", received
        finally:
            ended.set()
            server.shutdown()


def state(
    done: int, failed: int = 0, to_do: int = 1000, mb_s: float = 10, now: float = 0
) -> Summary:
    return Summary(
        now=now, run=Run(0, now, None, "1 on desk", to_do, 0, 600, ()), running=True, tiles=to_do,
        outcomes=dict.fromkeys(OUTCOMES, 0), done=done, failed=failed, left=to_do - done,
        tiles_per_hour=(1, 1), mb_per_s=(mb_s, mb_s), bytes_archive=1, bytes_fetched=1,
        bytes_parquet=1, disk_free=1, seconds_left=None, problems=(),
    )  # fmt: skip


def told_of(states: list[Summary], settings: dict[str, Any]) -> list[str]:
    """Titles of all notices in the course of a run."""
    told, titles = Told(), []
    for summary in states:
        notices, told = due_notices(summary, told, settings["notify"])
        titles += [notice.title.partition(": ")[2] for notice in notices]
    return titles


def test_each_milestone_is_told_once_and_the_last_one_is_the_end(settings: dict[str, Any]):
    states = [state(done) for done in (0, 50, 99, 100, 101, 320, 1000)]
    assert told_of(states, settings) == [
        "100 of 1,000 tiles done (10 %)",
        "320 of 1,000 tiles done (32 %)",
    ]
    settings["notify"]["every_percent"] = 5
    assert len(told_of(states, settings)) == 3
    settings["notify"]["every_percent"] = None
    assert told_of(states, settings) == []


def test_share_of_failures_is_told_once_until_it_falls(settings: dict[str, Any]):
    settings["notify"]["every_percent"] = None
    rising = [state(1, 1), state(2, 2), state(3, 3), state(30, 4), state(40, 4), state(50, 6)]
    assert told_of(rising, settings) == [
        "3 of 3 tiles failed (100.0 %), more than notify.failed_percent = 10",
        "6 of 50 tiles failed (12.0 %), more than notify.failed_percent = 10",
    ]
    # in a run of five tiles one failure is a fifth of it, whatever comes
    assert len(told_of([state(1, 1, to_do=5)], settings)) == 1
    settings["notify"]["failed_percent"] = None
    assert told_of(rising, settings) == []


def test_fallen_throughput_is_told_once_until_it_recovers(settings: dict[str, Any]):
    settings["notify"] |= {"every_percent": None, "min_mb_s": 5}
    course = [state(1, mb_s=s, now=t) for t, s in enumerate((1, 1, 9, 9, 2, 2, 9, 3))]
    hours = [summary._replace(now=300.0 * summary.now) for summary in course]
    assert told_of(hours, settings) == [
        "only 2 MB/s, less than notify.min_mb_s = 5",
        "only 3 MB/s, less than notify.min_mb_s = 5",
    ]


def test_outage_is_told_when_it_begins_and_when_it_is_over(settings: dict[str, Any]):
    lost = OutageRecord(run="1", since=0.0, lasted_s=60.0, error="reset", over_limit=False)
    notify = settings["notify"] | {"every_percent": None, "min_mb_s": 5}
    told, titles = Told(), []
    for going_on in (None, lost, lost, None, None):
        summary = state(10, mb_s=0 if going_on else 9, now=1000)._replace(outage=going_on)
        notices, told = due_notices(summary, told, notify)
        titles += [(notice.kind, notice.title.partition(": ")[2]) for notice in notices]
    (first, begun), over = titles
    assert first == "warning"
    assert begun.startswith("the archive cannot be reached since 1970")
    assert over == ("info", "the archive answers again")


def test_end_is_told_with_totals_and_whether_it_is_a_success():
    over = state(1000, 3)
    assert over.run is not None
    notice = end_notice(over._replace(run=over.run._replace(ended="finished")))
    assert notice.kind == "success"
    assert notice.title.endswith("finished")
    assert "1,000 done, 3 failed" in notice.body
    assert end_notice(state(10)).kind == "failure"


def test_addresses_come_from_the_environment_and_from_a_file_outside_the_repository(tmp_path: Path):
    repository = tmp_path / "repository"
    repository.mkdir()
    path = tmp_path / "urls"
    path.write_text("# ours\njson://a/b\n\nmailto://c\n")
    both = read_addresses(str(path), {VARIABLE: "slack://x\nntfy://y"}, repository)
    assert both == ["slack://x", "ntfy://y", "json://a/b", "mailto://c"]
    assert read_addresses(None, {}, repository) == []
    inside = repository / "urls"
    inside.write_text(f"slack://{SECRET}")
    for wrong, words in (
        (str(inside), "lies in the repository"),
        (f"slack://{SECRET}", "must name a file"),
        (str(tmp_path / "none"), "cannot be read"),
    ):
        with pytest.raises(NotifyError, match=words) as caught:
            read_addresses(wrong, {}, repository)
        assert SECRET not in str(caught.value)


def test_message_reaches_every_address():
    with receiver() as (first, received), receiver() as (second, others):
        assert send_notice(NOTICE, [first, second]) is None
    for message in (*received, *others):
        assert (message["title"], message["message"], message["type"]) == ("title", "body", "info")
    assert len(received) == len(others) == 1


def test_failing_notification_is_reported_without_its_address(capfd: pytest.CaptureFixture[str]):
    with receiver(status=500) as (refusing, _), receiver(hold=True) as (holding, _):
        problems = [
            send_notice(NOTICE, [refusing]),
            send_notice(NOTICE, [holding], patience_s=2),
            send_notice(NOTICE, [f"nonsense-{SECRET}"]),
        ]
    problems.append(send_notice(NOTICE, [refusing]))  # nobody listens there any more
    assert [bool(problem) for problem in problems] == [True] * 4
    assert "within 2 s" in str(problems[1])
    assert "understands" in str(problems[2])
    captured = capfd.readouterr()
    assert SECRET not in "".join([*map(str, problems), captured.out, captured.err])


def test_sender_does_not_keep_the_run_waiting():
    complaints: list[str] = []
    with receiver(hold=True) as (address, received):
        sender = Sender([address], complaints.append)
        sender.send(NOTICE)
        sender.finish(patience_s=0.1)  # returns although nothing was delivered
    nobody = Sender([], complaints.append)
    nobody.send(NOTICE)
    nobody.finish()
    assert complaints == []
    assert len(received) <= 1


def failing_tiles(first: int, stop: int) -> dict[str, bytes]:
    """An archive of tiles without coadd, which are done as soon as they are begun."""
    root = "dr1/spectro/redux/iron/healpix/main/dark/1"
    return {f"{root}/{p}/redrock-main-dark-{p}.fits": b"x" for p in range(first, stop)}


def test_run_goes_on_without_its_notifications_and_ends_in_order_on_sigterm(tmp_path: Path):
    work = checkout(tmp_path)
    with receiver() as (address, _):
        pass  # nobody listens there any more
    with serve(failing_tiles(100, 160)) as service:
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--config",
                   f"archive={{endpoint: '{service.endpoint}'}}"]  # fmt: skip
        with subprocess.Popen(
            command, cwd=work.folder, env={**os.environ, VARIABLE: address}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            waiting = threading.Event()
            while process.poll() is None and len(list(read_markers(work.results))) < 2:
                waiting.wait(0.1)
            process.terminate()
            output, _ = process.communicate(timeout=120)
    assert process.returncode == 143, output
    assert "stopped by SIGTERM" in output
    assert "'desi-fits-to-parquet: run started': not delivered" in output
    assert SECRET not in output
    run = read_json(work.results / RUN_FILE)
    assert run["ended"] == "stopped by SIGTERM"
    assert run["crashed"] == 0
    assert 2 <= len(list(read_markers(work.results))) < 60


def test_run_with_too_many_failures_tells_it_and_stops_in_order(tmp_path: Path):
    work = checkout(tmp_path)
    with serve(failing_tiles(100, 160)) as service, receiver() as (address, received):
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", "--cores", "2", "--scheduler-subsample", "2",
             "--config", f"archive={{endpoint: '{service.endpoint}'}}", "notify={abort: true}"],
            cwd=work.folder, env={**os.environ, VARIABLE: address}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=200, check=False,
        )  # fmt: skip
    assert done.returncode == 1, done.stdout
    titles = [message["title"].partition(": ")[2] for message in received]
    assert titles[0] == "run started"
    assert any("tiles failed" in t and "more than notify.failed_percent = 10" in t for t in titles)
    assert titles[-1].startswith("stopped: ")
    assert "60 in the archive" in received[-1]["message"]
    assert "Running jobs finish" in done.stdout
    markers = list(read_markers(work.results))
    assert 3 <= len(markers) < 60
    # few of the tiles to choose from, as in a run of thousands: what is begun was finished first
    begun = len(list(work.results.glob("logs/download_tile/**/*.log")))
    assert begun - len(markers) <= 4
    run = read_json(work.results / RUN_FILE)
    assert run["ended"].startswith("stopped: ")
    assert run["crashed"] == 0  # what ran was let finish
    # plain lines: one for each problem, some for the run, none for each of its jobs
    assert "Finished jobid" not in done.stdout
    of_the_run = [li for li in done.stdout.splitlines() if not li.startswith("problem")]
    assert len(of_the_run) < 100
    told = [done.stdout.encode()]
    told += [path.read_bytes() for path in work.folder.rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in text for text in told)
