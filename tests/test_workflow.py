"""The workflow as its users run it: Snakemake in a process, over an S3 service on loopback."""

import http.server
import io
import json
import os
import shutil
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pexpect
import pyarrow.parquet as pq
import pytest
from running import BUCKET, CORES, PREFIX, Work, checkout, folder_of, write_tile

from desi_fits_to_parquet.outcomes import OUTCOMES
from desi_fits_to_parquet.paths import CATALOG, COLLECTION, marker_path, parquet_folder
from desi_fits_to_parquet.run.repair import find_damaged
from desi_fits_to_parquet.run.stop import AGAIN_S
from desi_fits_to_parquet.simulate.archive import flip_bit, truncate
from desi_fits_to_parquet.simulate.serve import put_object, serve_archive
from desi_fits_to_parquet.tile import Tile

WITHOUT_REPORT = ("tiles",)
LOSSLESS = ("precision={mode: lossless}", "replace=true")

PLAIN = Tile("main", "dark", 100)
SAME_PIXEL = Tile("sv3", "dark", 100)
SHUFFLED = Tile("main", "dark", 101)
EMPTY = Tile("main", "dark", 102)
NO_COADD = Tile("main", "dark", 103)
FLIPPED = Tile("main", "dark", 104)
CUT = Tile("main", "dark", 105)
BLOCKED = Tile("main", "dark", 106)
SPOILED = Tile("main", "dark", 107)

EXPECTED = {
    PLAIN: "converted",
    SAME_PIXEL: "converted",
    SHUFFLED: "converted",
    EMPTY: "no_targets",
    NO_COADD: "missing_source",
    FLIPPED: "corrupt_source",
    CUT: "corrupt_source",
    BLOCKED: "unreachable",
    SPOILED: "invalid_output",
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archive")
    for tile in EXPECTED:
        write_tile(root, tile, quasar_share=0.0 if tile == EMPTY else 0.4,
                   shuffle_redrock=tile == SHUFFLED)  # fmt: skip
    (folder_of(root, NO_COADD) / NO_COADD.file_name("coadd")).unlink()
    flip_bit(folder_of(root, FLIPPED) / FLIPPED.file_name("coadd"))
    truncate(folder_of(root, CUT) / CUT.file_name("coadd"))
    return root


class _Blocker(http.server.BaseHTTPRequestHandler):
    """Passes requests on to the S3 service, but answers SlowDown for the keys of one tile."""

    upstream = ""
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if f"/{BLOCKED.number}/" in self.path and "list-type" not in self.path:
            self.answer(503, {}, b"<Error><Code>SlowDown</Code></Error>")
            return
        passed = {k: v for k, v in self.headers.items() if k.lower() in ("range", "if-match")}
        request = urllib.request.Request(self.upstream + self.path, headers=passed)
        try:
            with urllib.request.urlopen(request) as response:
                self.answer(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            self.answer(error.code, {}, error.read())

    def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for key in ("ETag", "Last-Modified", "Content-Range", "Content-Type"):
            if key in headers:
                self.send_header(key, headers[key])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


@contextmanager
def blocking(endpoint: str) -> Iterator[str]:
    handler = type("Blocker", (_Blocker,), {"upstream": endpoint})
    with _Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Finished(NamedTuple):
    work: Work
    endpoint: str
    most_fits: int


@contextmanager
def counting(count: Callable[[], int]) -> Iterator[list[int]]:
    """Sample a number as often as possible until the block ends."""
    seen: list[int] = [0]
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(0.01):
            with suppress(FileNotFoundError):  # a folder that goes while it is read
                seen.append(count())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


@pytest.fixture(scope="module")
def finished(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """Results of a run with every outcome; tests work on copies of it."""
    work = checkout(tmp_path_factory.mktemp("finished"))
    fits = work.results / "fits"
    with serve_archive(archive, BUCKET) as service, blocking(service) as endpoint:
        # a Parquet that is spoiled between fusing and validating
        work.run(endpoint, "--until", "discover_tiles")
        spoiled = parquet_folder(Path("results"), SPOILED)
        work.run(endpoint, "--notemp", str(spoiled))
        file = work.folder / spoiled / f"{SPOILED.name}.parquet"
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 0xFF
        file.write_bytes(data)
        with counting(lambda: len([p for p in fits.glob("*/*/*") if p.is_dir()])) as most:
            work.run(endpoint)
        yield Finished(work, service, max(most))


@pytest.fixture
def work(finished: Finished, tmp_path: Path) -> Work:
    """A copy of the finished run to do something to, with its clock times kept."""
    folder = tmp_path / "work"
    shutil.copytree(finished.work.folder, folder, symlinks=True)
    return Work(folder)


def test_every_tile_ends_in_the_outcome_that_its_files_deserve(finished: Finished):
    markers = finished.work.markers()
    assert {tile: marker["outcome"] for tile, marker in markers.items()} == EXPECTED
    for tile, marker in markers.items():
        failed = marker["outcome"] not in ("converted", "no_targets")
        assert bool(marker["reason"]) == failed
        files = list(parquet_folder(finished.work.results, tile).glob("*.parquet"))
        assert [file.name for file in files] == ([] if failed else [f"{tile.name}.parquet"])
        if not failed:
            assert pq.read_metadata(files[0]).num_rows == marker["n_rows"]
    assert NO_COADD.file_name("coadd") in markers[NO_COADD]["reason"]
    assert FLIPPED.file_name("coadd") in markers[FLIPPED]["reason"]
    assert finished.work.leftovers() == []


def test_one_pixel_number_in_two_surveys_is_two_tiles(finished: Finished):
    rows = [
        pq.read_table(parquet_folder(finished.work.results, tile), columns=["survey", "targetid"])
        for tile in (PLAIN, SAME_PIXEL)
    ]
    assert [table["survey"][0].as_py() for table in rows] == ["main", "sv3"]


def test_totals_of_the_report_are_the_sums_over_the_markers(finished: Finished):
    results = finished.work.results
    summary = json.loads((results / "report/summary.json").read_text())
    markers = finished.work.markers().values()
    for key in ("bytes_archive", "bytes_fetched", "bytes_parquet", "requests", "n_rows"):
        assert summary[key] == sum(marker[key] or 0 for marker in markers), key
    assert summary["outcomes"] == {
        outcome: sum(marker["outcome"] == outcome for marker in markers) for outcome in OUTCOMES
    }
    tiles = pq.read_table(results / "report/tiles.parquet").to_pylist()
    assert {Tile(t["survey"], t["program"], t["healpix"]): t["outcome"] for t in tiles} == EXPECTED


def test_no_more_fits_lie_on_disk_than_two_tiles_a_core(finished: Finished):
    # one more was put there before the run: the tile that was to be spoiled
    assert 1 <= finished.most_fits <= 2 * CORES + 1


def test_the_results_are_a_collection_of_all_rows(finished: Finished):
    results = finished.work.results
    paths = sorted((results / CATALOG).rglob("Npix=*.parquet"))
    rows = [
        row for path in paths for row in pq.ParquetFile(path).read(["targetid", "file"]).to_pylist()
    ]
    expected = {
        (targetid, str(path.relative_to(results)))
        for path in (results / "parquet").rglob("*.parquet")
        for targetid in pq.ParquetFile(path).read(["targetid"])["targetid"].to_pylist()
    }
    assert len(rows) == len(expected)
    assert {(row["targetid"], row["file"]) for row in rows} == expected
    assert (results / COLLECTION).is_file()


def test_second_run_has_nothing_to_do_and_the_report_is_built(work: Work, finished: Finished):
    assert "Nothing to be done" in work.run(finished.endpoint)
    work.run(finished.endpoint, "--report", "report.html")
    html = (work.folder / "report.html").read_text()
    assert "DESI quasars out of" in html, "the overview comes first"


def test_results_hold_no_path_of_this_machine(finished: Finished):
    machine = str(finished.work.folder).encode()
    for path in finished.work.results.rglob("*"):
        if path.is_file():
            assert machine not in path.read_bytes(), path


def test_verify_names_damaged_parquet_and_the_next_run_makes_it_again(
    work: Work, finished: Finished
):
    before = work.parquet()
    assert "every Parquet is as its marker says" in work.run(finished.endpoint, "verify")
    folder = parquet_folder(work.results, PLAIN)
    shutil.rmtree(folder)
    flipped = parquet_folder(work.results, SHUFFLED) / f"{SHUFFLED.name}.parquet"
    data = bytearray(flipped.read_bytes())
    data[100] ^= 1
    flipped.write_bytes(data)
    text = work.run(finished.endpoint, "verify", code=1)
    assert "Traceback" not in text
    assert f"{PLAIN.name}.parquet is missing" in text
    assert f"{SHUFFLED.name}.parquet was altered" in text
    assert EMPTY.name not in text
    kept = marker_path(work.results, EMPTY).stat().st_mtime_ns
    work.run(finished.endpoint, *WITHOUT_REPORT)
    assert work.parquet() == before
    assert marker_path(work.results, EMPTY).stat().st_mtime_ns == kept
    assert find_damaged(work.results, progress=False) == ([], [])


def test_retry_failed_does_the_failed_tiles_again_and_only_those(
    work: Work, archive: Path, tmp_path: Path
):
    mended = tmp_path / "mended"
    shutil.copytree(archive, mended)
    with serve_archive(mended, BUCKET) as endpoint:
        for tile in (NO_COADD, FLIPPED, CUT):
            write_tile(tmp_path / "again", tile)
            path = folder_of(tmp_path / "again", tile) / tile.file_name("coadd")
            put_object(endpoint, BUCKET, f"{PREFIX}/healpix/{tile.folder}/{path.name}", path)
        done = {
            tile: marker_path(work.results, tile).stat().st_mtime_ns
            for tile, outcome in EXPECTED.items()
            if outcome in ("converted", "no_targets")
        }
        assert "5 tiles cleared" in work.run(endpoint, "retry_failed")
        work.run(endpoint, *WITHOUT_REPORT)
    outcomes = {tile: marker["outcome"] for tile, marker in work.markers().items()}
    assert outcomes == {t: "no_targets" if t == EMPTY else "converted" for t in EXPECTED}
    for tile, changed in done.items():
        assert marker_path(work.results, tile).stat().st_mtime_ns == changed, tile


def test_only_the_tile_that_changed_in_the_archive_is_done_again(
    work: Work, archive: Path, tmp_path: Path
):
    changed = tmp_path / "changed"
    shutil.copytree(archive, changed)
    write_tile(changed, PLAIN, seed=7)
    before = {tile: marker["finished"] for tile, marker in work.markers().items()}
    with serve_archive(changed, BUCKET) as service, blocking(service) as endpoint:
        work.run(endpoint, "--forcerun", "discover_tiles", *WITHOUT_REPORT)
    after = {tile: marker["finished"] for tile, marker in work.markers().items()}
    assert {tile for tile in after if after[tile] != before[tile]} == {PLAIN}


def test_killed_run_is_resumed_by_the_same_command_to_the_same_bytes(
    finished: Finished, tmp_path: Path
):
    work = checkout(tmp_path)
    good = [PLAIN, SAME_PIXEL, SHUFFLED, EMPTY]
    pixels = "tiles={surveys: [main, sv3], healpix: [100, 101, 102]}"
    command = work.command(finished.endpoint, config=pixels)
    with subprocess.Popen(
        command, cwd=work.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:  # fmt: skip
        first = threading.Event()
        while not first.wait(0.01):
            if process.poll() is not None or list(work.results.glob("validated/*/*/*.json")):
                break
        assert process.poll() is None, "the run ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
    assert len(work.markers()) < len(good)
    work.run(finished.endpoint, *WITHOUT_REPORT, config=pixels)
    expected = finished.work.parquet()
    assert work.parquet() == {
        path: digest
        for path, digest in expected.items()
        if any(path.endswith(f"/{tile.name}.parquet") for tile in good)
    }
    assert work.leftovers() == []


def test_wrong_setting_ends_the_run_before_any_job(tmp_path: Path):
    work = checkout(tmp_path)
    text = work.run("http://127.0.0.1:9", config="selection={zwarm: 0}", code=1)
    assert "unknown key selection.zwarm. Did you mean selection.zwarn?" in text
    assert "Traceback" not in text
    assert not work.results.exists()


def test_results_of_version_0_1_are_refused_with_what_to_do(tmp_path: Path):
    work = checkout(tmp_path)
    (work.results / "parquet/survey=main/program=dark").mkdir(parents=True)
    for arguments in ([], ["-n"], ["verify"]):
        output = work.run("http://127.0.0.1:9", *arguments, code=1)
        assert "results/parquet/survey=main was made by version 0.1" in output
        assert "a folder of its own with --config results=" in output
        assert "Traceback" not in output


def test_addresses_of_notifications_that_are_not_there_are_refused_in_a_dry_run_too(tmp_path: Path):
    work = checkout(tmp_path)
    config = "notify={urls_file: /nowhere/urls}"
    text = work.run("http://127.0.0.1:9", "--dry-run", config=config, code=1)
    assert text.strip().endswith(
        "notify.urls_file names /nowhere/urls, which cannot be read: FileNotFoundError"
    )


def test_results_that_cannot_be_written_to_end_the_run_in_one_line(tmp_path: Path):
    work = checkout(tmp_path)
    (work.results / ".lock").mkdir(parents=True)  # whoever runs the tests, root too, cannot write
    text = work.run("http://127.0.0.1:9", code=1)
    last = text.strip().splitlines()[-1]
    assert last.startswith("Stopped before the first job: results cannot be written to")
    assert "Traceback" not in text


def test_archive_that_does_not_answer_ends_the_run_in_one_line_with_its_address(tmp_path: Path):
    work = checkout(tmp_path)
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as unused:
        endpoint = f"http://127.0.0.1:{unused.server_address[1]}"
    text = work.run(endpoint, code=1)
    last = text.strip().splitlines()[-1]
    assert last.startswith("Stopped before the first job: the archive could not be reached")
    assert endpoint in last
    assert "Traceback" not in text
    assert "discover_tiles" in work.run(endpoint, "--dry-run")


def test_fits_that_a_killed_run_left_are_removed_although_every_tile_is_done(
    work: Work, finished: Finished
):
    left = work.results / "fits" / PLAIN.survey / PLAIN.program / str(PLAIN.number)
    left.mkdir(parents=True)
    (left / "download.json").write_text("{}")
    before = work.markers()
    fetched = before[PLAIN]["finished"] - 60
    os.utime(left, (fetched, fetched))
    text = work.run(finished.endpoint, *WITHOUT_REPORT)
    assert "Nothing to be done" not in text
    assert work.leftovers() == []
    assert work.markers() == before
    assert "Nothing to be done" in work.run(finished.endpoint, *WITHOUT_REPORT)


def test_run_ends_with_what_is_missing_where_the_disk_is_too_small(work: Work, finished: Finished):
    for tile in (PLAIN, SHUFFLED, EMPTY):
        marker_path(work.results, tile).unlink()
    text = work.run(finished.endpoint, config="resources={min_free_gb: 1000000}", code=1)
    assert "resources.min_free_gb = 1e+06 need" in text
    assert "No new tile is started" in text
    assert len(work.markers()) == len(EXPECTED) - 3
    work.run(finished.endpoint, *WITHOUT_REPORT)
    assert {t: m["outcome"] for t, m in work.markers().items()} == EXPECTED


def stop(work: Work, endpoint: str, code: int, end: Callable[["pexpect.spawn[str]"], None]) -> str:
    """Begin a run on a terminal, end it when it has begun a tile; return what stood there."""
    begun = work.begun_jobs()
    command, *arguments = work.command(endpoint)
    terminal = pexpect.spawn(
        command, arguments, cwd=str(work.folder), encoding="utf-8", dimensions=(40, 200)
    )
    terminal.logfile_read = io.StringIO()
    with terminal:
        while work.begun_jobs() == begun:
            with suppress(pexpect.TIMEOUT):
                terminal.read_nonblocking(10_000, 0.02)
        end(terminal)
        terminal.expect(pexpect.EOF, timeout=60)  # a hang fails here
    text = terminal.logfile_read.getvalue()
    assert terminal.exitstatus == code, text
    assert text.count(": running tiles finish, no more are begun; ") == 1
    for word in ("Traceback", "Error", "crashed", "KeyboardInterrupt", "Terminating processes"):
        assert word not in text, text
    # a terminal shows a second Ctrl-C also where the run was over by then
    *_, last = (line for line in text.strip().splitlines() if line != "^C")
    assert last.startswith("To go on: ")
    assert "-m snakemake --cores" in last
    assert work.leftovers() == []
    assert list(work.results.glob("fits/*/*/*")) == []
    return text


def test_stopped_run_finishes_its_tiles_or_ends_at_once_leaves_nothing_and_goes_on(
    work: Work, finished: Finished
):
    for tile, outcome in EXPECTED.items():
        if outcome in ("converted", "no_targets"):
            work.forget(tile)
    done = len(work.markers())
    text = stop(work, finished.endpoint, 130, lambda terminal: terminal.sendintr())
    assert "stopped by Ctrl-C" in text
    assert done < len(work.markers()) < len(EXPECTED)

    def twice(terminal: "pexpect.spawn[str]") -> None:
        terminal.sendintr()
        terminal.expect_exact("Ctrl-C again ends at once.")
        threading.Event().wait(1.2 * AGAIN_S)
        terminal.sendintr()

    done = len(work.markers())
    stop(work, finished.endpoint, 130, twice)
    assert len(work.markers()) == done
    text = stop(work, finished.endpoint, 143, lambda terminal: terminal.kill(signal.SIGTERM))
    assert "stopped by SIGTERM" in text
    work.run(finished.endpoint, *WITHOUT_REPORT)
    assert work.parquet() == finished.work.parquet()


def test_results_moved_elsewhere_are_still_done(work: Work, finished: Finished):
    (work.folder / "kept").mkdir()
    moved = work.folder / "kept/elsewhere"
    work.results.rename(moved)
    text = work.run(finished.endpoint, config="results=kept/elsewhere")
    assert "Nothing to be done" in text
    assert not work.results.exists()


def test_tile_that_left_the_archive_is_reported_and_its_parquet_kept(
    work: Work, archive: Path, tmp_path: Path
):
    smaller = tmp_path / "smaller"
    shutil.copytree(archive, smaller)
    shutil.rmtree(folder_of(smaller, SHUFFLED))
    before = work.parquet()
    with serve_archive(smaller, BUCKET) as service, blocking(service) as endpoint:
        work.run(endpoint, "--forcerun", "discover_tiles")
    summary = json.loads((work.results / "report/summary.json").read_text())
    assert summary["not_in_tiles_csv"] == [SHUFFLED.name]
    assert summary["outcomes"]["converted"] == 2
    assert work.parquet() == before


def test_without_snakemakes_records_other_settings_convert_again_all_that_depends_on_them(
    work: Work, finished: Finished
):
    shutil.rmtree(work.folder / ".snakemake")
    before = {tile: marker["finished"] for tile, marker in work.markers().items()}
    assert "Nothing to be done" in work.run(finished.endpoint)
    lossless = "precision={mode: lossless}"
    text = work.run(finished.endpoint, *WITHOUT_REPORT, "--dry-run", config=lossless)
    assert f"{len(EXPECTED)} tiles that were done are done again" in text
    assert "The run would stop before its first job: " in text
    assert {tile: m["finished"] for tile, m in work.markers().items()} == before
    for target in ("verify", "--unlock", "--lint"):
        work.run(finished.endpoint, target, config=lossless)
    assert {tile: m["finished"] for tile, m in work.markers().items()} == before
    text = work.run(finished.endpoint, *WITHOUT_REPORT, config=lossless, code=1)
    refusal = [line for line in text.splitlines() if "would be replaced" in line]
    assert refusal == [
        f"Stopped before the first job: {len(EXPECTED)} tiles in results would be replaced: they "
        'were made with other settings (precision.mode: "bounded", now "lossless"). Go on with '
        "--config replace=true, or leave them and give the run another folder with --config "
        "results=..."
    ]
    assert "Traceback" not in text
    assert "done again" not in text
    assert {tile: m["finished"] for tile, m in work.markers().items()} == before
    lossless = LOSSLESS
    text = work.run(finished.endpoint, *WITHOUT_REPORT, config=lossless)
    assert "made with other settings" in text
    after = work.markers()
    assert all(after[tile]["finished"] != before[tile] for tile in EXPECTED)
    assert after[PLAIN]["max_flux_error_sigma"] == 0
    assert "done again" not in work.run(finished.endpoint, *WITHOUT_REPORT, config=lossless)


def test_a_run_of_other_settings_that_is_refused_changes_nothing(work: Work, finished: Finished):
    shutil.rmtree(work.folder / ".snakemake")
    holder = (
        "import sys; from pathlib import Path; from desi_fits_to_parquet.run.lock import hold_lock;"
        "hold_lock(Path('results'), 'first'); print(flush=True); sys.stdin.read()"
    )
    before, parquet = work.markers(), work.parquet()
    with subprocess.Popen(
        [sys.executable, "-c", holder], cwd=work.folder, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as first:  # fmt: skip
        assert first.stdin
        assert first.stdout
        first.stdout.readline()
        lossless = "precision={mode: lossless}"
        text = work.run(finished.endpoint, *WITHOUT_REPORT, config=lossless, code=1)
        first.stdin.close()
    assert "another run (process" in text
    assert "done again" not in text  # nothing is announced that is not going to be done
    assert (work.markers(), work.parquet()) == (before, parquet)


def test_only_what_differs_from_its_marker_is_done_again(work: Work, finished: Finished):
    shutil.rmtree(work.folder / ".snakemake")
    before, parquet = work.markers(), work.parquet()
    work.parquet_path(PLAIN).write_bytes(b"PAR1")  # cut short
    shutil.rmtree(work.parquet_path(SHUFFLED).parent)
    other = json.loads(marker_path(work.results, EMPTY).read_text())
    other["survey"], other["healpix"] = "../../..", 1  # edited
    marker_path(work.results, EMPTY).write_text(json.dumps(other))
    text = work.run(finished.endpoint, *WITHOUT_REPORT)
    assert f"1 tiles that were done are done again ({PLAIN.name}): of each, its Parquet has" in text
    assert f"({SHUFFLED.name}): of each, its Parquet is missing" in text
    assert f"({EMPTY.name}): of each, its marker says that it is of ../../..-dark-1" in text
    assert work.parquet() == parquet
    after = work.markers()
    redone = {tile for tile in before if after[tile]["finished"] != before[tile]["finished"]}
    assert redone == {PLAIN, SHUFFLED, EMPTY}


OTHER_DISK = Path("/dev/shm")  # noqa: S108


@pytest.mark.skipif(
    not OTHER_DISK.is_dir()
    or OTHER_DISK.stat().st_dev == Path(tempfile.gettempdir()).stat().st_dev,
    reason="needs a second file system",
)
def test_parquet_may_lie_on_another_disk_behind_a_link(
    work: Work, finished: Finished, tmp_path: Path
):
    expected = work.parquet()
    other = Path(tempfile.mkdtemp(dir=OTHER_DISK))
    try:
        for tile in EXPECTED:
            work.forget(tile)
        shutil.rmtree(work.results / "parquet")
        (work.results / "parquet").symlink_to(other, target_is_directory=True)
        work.run(finished.endpoint, *WITHOUT_REPORT)
        assert {Path(name).name for name in expected} <= {p.name for p in other.rglob("*.parquet")}
        assert "every Parquet is as its marker says" in work.run(finished.endpoint, "verify")
    finally:
        shutil.rmtree(other)


def test_change_of_a_setting_converts_again_only_what_depends_on_it(work: Work, finished: Finished):
    before = {tile: marker["finished"] for tile, marker in work.markers().items()}
    work.run(finished.endpoint, config="notify={every_percent: 7}")
    assert {tile: m["finished"] for tile, m in work.markers().items()} == before
    work.run(finished.endpoint, *WITHOUT_REPORT, config=LOSSLESS)
    after = {tile: marker["finished"] for tile, marker in work.markers().items()}
    assert all(after[tile] != before[tile] for tile in (PLAIN, SAME_PIXEL, SHUFFLED, EMPTY))
    assert work.markers()[PLAIN]["max_flux_error_sigma"] == 0
