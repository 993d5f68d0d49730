"""Every command of docs/logs.md must run and answer its question on the logs as jobs write them."""

import contextlib
import datetime
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from conftest import REPOSITORY
from report_markers import marker

from desi_fits_to_parquet.outcomes import FAILED_OUTCOMES
from desi_fits_to_parquet.run.job_log import job_log
from desi_fits_to_parquet.tile import Tile

TEXT = (REPOSITORY / "docs/logs.md").read_text()
OUTCOMES = ["converted", "no_targets", "corrupt_source", "missing_source", "converted"]
MARKERS = [marker(Tile("main", "dark", 100 + i), outcome) for i, outcome in enumerate(OUTCOMES)]


def blocks(question: str, kind: str) -> list[str]:
    section = TEXT.split(f"## {question}")[1].split("\n## ")[0]
    return re.findall(rf"```{kind}\n(.*?)```", section, re.S)


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Logs of five tiles, of a job that crashed and of one that was killed."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results/logs"
    for figures in MARKERS:
        tile = f"main-dark-{figures['healpix']}"
        for stage in ("download_tile", "fuse_tile", "validate_tile"):
            path = folder / stage / "main/dark" / f"{figures['healpix']}.log"
            with job_log(path, stage, tile) as log:
                log.info("done", extra={"figures": figures})
    with (
        contextlib.suppress(MemoryError),
        job_log(folder / "fuse_tile/main/dark/200.log", "fuse_tile", "main-dark-200"),
    ):
        raise MemoryError
    killed = folder / "download_tile/main/dark/201.log"
    with job_log(killed, "download_tile", "main-dark-201"):
        pass
    return tmp_path


def by_shell(question: str) -> str:
    (script,) = blocks(question, "sh")
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout


def by_duckdb(question: str) -> list[tuple]:
    (views,) = blocks("DuckDB", "sql")
    (query,) = blocks(question, "sql")
    with duckdb.connect() as connection, pytest.MonkeyPatch.context() as environment:
        # not among what DuckDB brings: it imports it where a time with a time zone comes out
        environment.setitem(sys.modules, "pytz", None)
        connection.execute(views)
        return connection.execute(query).fetchall()


def total(name: str) -> int:
    return sum(figures[name] for figures in MARKERS)


def test_zero_size_outputs_are_found_with_their_reasons(logs: Path):
    question = "Which tiles have no output?"
    expected = {
        (f"main-dark-{figures['healpix']}", figures["outcome"])
        for figures in MARKERS
        if figures["outcome"] in FAILED_OUTCOMES
    }
    found = re.findall(r'"tile": "(.*?)"\s+"outcome": "(.*?)"', by_shell(question))
    assert set(found) == expected
    rows = by_duckdb(question)
    assert {row[:2] for row in rows} == expected
    assert all(row[2] for row in rows)


def test_failures_crashes_and_killed_jobs_are_told_apart(logs: Path):
    question = "What failed, and how?"
    text = by_shell(question)
    assert re.search(r'1 "outcome": "corrupt_source"', text)
    assert re.search(r'"fuse_tile"\s+"tile": "main-dark-200"\s+"error": "MemoryError"', text)
    assert text.splitlines()[-1] == "results/logs/download_tile/main/dark/201.log"
    assert {row[:2] for row in by_duckdb(question)} == {
        ("corrupt_source", 1), ("missing_source", 1), ("fuse_tile: MemoryError", 1),
        ("download_tile: killed, or running", 1),
    }  # fmt: skip


def test_reduction_is_that_of_the_markers(logs: Path):
    question = "How much smaller did it get?"
    percent = 100 * (1 - total("bytes_parquet") / total("bytes_archive"))
    assert f"{percent:.2f} % less" in by_shell(question)
    ((tiles, archive, fetched, written, reduction),) = by_duckdb(question)
    assert (tiles, archive, fetched, written) == (
        5, total("bytes_archive"), total("bytes_fetched"), total("bytes_parquet"),
    )  # fmt: skip
    assert reduction == pytest.approx(percent, abs=0.006)


def test_speed_is_that_of_the_markers(logs: Path):
    question = "How fast is it?"
    speed = total("bytes_fetched") / 1e6 / total("seconds_download")
    first, *hours = by_shell(question).splitlines()
    assert first == f"{speed:.2f} MB/s a download"
    assert sum(int(line.split()[0]) for line in hours) == 5
    rows = by_duckdb(question)
    assert sum(row[1] for row in rows) == 5
    finished = {int(figures["finished"] // 3600) for figures in MARKERS}
    assert [row[0] for row in rows] == [
        datetime.datetime.fromtimestamp(3600 * hour, datetime.UTC).replace(tzinfo=None)
        for hour in sorted(finished)
    ]
    assert sum(row[4] for row in rows) == total("throttled")
