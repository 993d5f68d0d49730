"""No message brings to a terminal what it would obey, whoever wrote it: files, servers, markers."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fusion_tiles import write_tile
from report_markers import marker, write_run

from desi_fits_to_parquet.fuse.tile import fuse_tile
from desi_fits_to_parquet.outcomes import BadTile
from desi_fits_to_parquet.paths import marker_path
from desi_fits_to_parquet.run.job_log import job_log
from desi_fits_to_parquet.run.markers import read_brief
from desi_fits_to_parquet.run.status import main as status
from desi_fits_to_parquet.settings import Settings
from desi_fits_to_parquet.text import neutral, shorten
from desi_fits_to_parquet.tile import Tile

TILE = Tile("main", "dark", 10000)

HOSTILE = "\x1b]0;title\x07\x1b[2J\r\x9b31m\u202egnp\u2028done\nverify: every Parquet is fine"


def test_what_a_terminal_obeys_is_escaped_and_letters_of_any_script_stay() -> None:
    text = neutral(HOSTILE)
    assert text.isprintable()
    assert text.startswith(r"\x1b]0;title\x07\x1b[2J\r\x9b31m\u202egnp")
    assert neutral("5 Å, 17 µm, λ, 赤方偏移") == "5 Å, 17 µm, λ, 赤方偏移"


@pytest.mark.parametrize("most", [30, 40, 200])
def test_a_text_that_is_cut_keeps_its_end(most: int) -> None:
    text = "https://" + "a" * 300 + ": certificate"
    cut = shorten(text, most)
    assert len(cut) == most
    assert cut.startswith("http")
    assert cut.endswith("certificate")
    assert shorten("short", most) == "short"


def test_the_reason_of_a_failed_tile_is_one_plain_line() -> None:
    bad = BadTile("corrupt_source", f"HDU {HOSTILE}")
    assert bad.reason.isprintable()
    assert str(bad).isprintable()


@pytest.mark.parametrize("place", [b"EXTNAME = 'REDSHIFTS", b"EXTNAME = 'FIBERMAP", b"SIMPLE  ="])
def test_a_header_with_control_characters_ends_in_a_plain_reason(
    place: bytes, settings: Settings, tmp_path: Path
) -> None:
    folder = write_tile(tmp_path / "tile")
    path = folder / TILE.file_name("redrock")
    data = path.read_bytes()
    at = data.index(place) + len(place)
    path.write_bytes(data[: at - 6] + b"\x1b[31m\x07" + data[at:])
    record = fuse_tile(TILE, folder, tmp_path / "parquet", settings)
    assert record["outcome"] == "corrupt_source"
    assert record["reason"].isprintable()


def test_a_job_warns_in_plain_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with job_log(tmp_path / "log", "stage", "main-dark-1") as log:
        log.warning("a key: %s", HOSTILE)
    printed = capsys.readouterr().err
    assert printed.startswith("stage main-dark-1: a key: \\x1b]0;title")
    assert printed.rstrip("\n").isprintable()
    assert json.loads((tmp_path / "log").read_text().splitlines()[-1])["event"].endswith(HOSTILE)


def test_a_crash_is_told_in_plain_text(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from desi_fits_to_parquet.run.job_log import job_log\n"
        "with job_log(sys.argv[1], 'stage'):\n"
        f"    raise RuntimeError('crashed: ' + {HOSTILE.splitlines()[0]!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "log")], capture_output=True, check=False
    )
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert lines[0].startswith("Traceback")
    assert lines[-1].startswith(r"RuntimeError: crashed: \x1b]0;title")
    assert all(line.isprintable() for line in lines)


def hostile_run(folder: Path) -> Path:
    """Results with a failed tile whose marker somebody has edited."""
    write_run(folder, markers=[marker(TILE, "corrupt_source") | {"reason": HOSTILE}])
    return folder


def test_make_status_prints_plain_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status([str(hostile_run(tmp_path))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("title" in line for line in lines)
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("form", [json.dumps, lambda value: json.dumps(value, indent=1)])
def test_the_reason_of_a_marker_is_read_as_plain_text(
    form: Callable[[object], str], tmp_path: Path
) -> None:
    path = tmp_path / "marker.json"
    path.write_text(form(marker(TILE, "corrupt_source") | {"reason": HOSTILE}))
    brief = read_brief(path)
    assert brief is not None
    assert brief.reason == neutral(HOSTILE)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[]", "5", '{"outcome": []}', json.dumps({"outcome": "converted"})]
)
def test_a_marker_of_another_form_is_named_by_make_status(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker_path(hostile_run(tmp_path), TILE).write_text(text)
    assert status([str(tmp_path)]) == 0
    assert "no marker of this version" in capsys.readouterr().out
