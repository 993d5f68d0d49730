"""Input made to harm: refused with an outcome, within bounded memory, nothing written elsewhere."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY
from convert_hostile import TILE
from fault_server import serve
from hostile_files import FITS, HDF5, SCANS
from running import Work, checkout
from simulated_archive import ROOT, key_of, list_sources, simulate_objects

from desi_fits_to_parquet.archive.link import Link
from desi_fits_to_parquet.config import ConfigError, load_config
from desi_fits_to_parquet.download.whole import fetch_checksums
from desi_fits_to_parquet.simulate.tile import simulate_tile

MEMORY_MB = 600
"""What the conversion of a tiny tile may take; the bombs would take gigabytes."""

SPOILED = {**FITS, **HDF5, **SCANS}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of every spoiled tile: converted in one process of limited memory."""
    root = tmp_path_factory.mktemp("hostile")
    right = root / "right"
    options: dict[str, Any] = {
        "quasar_share": 0.6, "exposures_per_target": 1, "scan_step": 100, "mask_form": "compressed"
    }  # fmt: skip
    simulate_tile(TILE, right, 5, **options)
    (right / TILE.checksum_name("iron")).unlink()  # nobody vouches for these files
    for name, (kind, spoil) in SPOILED.items():
        folder = root / "tiles" / name.replace("/", " ") / TILE.folder
        shutil.copytree(right, folder)
        spoil(folder / TILE.file_name(kind))
    command = [sys.executable, "convert_hostile.py", str(root / "tiles"), str(MEMORY_MB)]
    done = subprocess.run(command, cwd=REPOSITORY / "tests", capture_output=True, text=True,
                          timeout=240, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("mode", ["files", "rows"])
@pytest.mark.parametrize("name", SPOILED)
def test_a_hostile_file_is_refused_by_name_and_takes_little_memory(
    hostile: dict[str, Any], name: str, mode: str
) -> None:
    told = hostile[f"{name.replace('/', ' ')}, {mode}"]
    assert told["outcome"] == "corrupt_source", told
    assert TILE.file_name(SPOILED[name][0]) in told["reason"]
    assert "\n" not in told["reason"]
    assert told["mb"] < MEMORY_MB
    assert not [file for file in told["files"] if file.endswith((".parquet", ".part"))]


def test_a_list_of_checksums_of_a_gigabyte_is_not_fetched_and_paths_in_one_lead_nowhere(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    key = key_of(TILE, "sha256sum")
    text = "".join(f"{'0' * 64}  {name}\n" for name in ("../../outside", "/etc/passwd", "~/x"))
    with serve({key: text.encode()}) as service:
        sources = list_sources(TILE, service.objects)
        with Link(
            settings["archive"] | {"endpoint": service.endpoint}, settings["transfer"]
        ) as link:
            fetch_checksums(link, sources, tmp_path)
            assert list(tmp_path.iterdir()) == []
            asked = len(service.asked)
            sources["sha256sum"]["size"] = 1 << 30
            assert fetch_checksums(link, sources, tmp_path) == {}
        assert len(service.asked) == asked


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"100\n\x00\xff\xfe garbage\n", "line 2"),
        (b"100; touch pwned\n", "line 1"),
        (b"99999999999\n", "line 1"),
        (b"100\n" * 5_000_000, "too large"),
    ],
)
def test_a_pixel_list_with_garbage_is_refused_before_the_run(
    tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "pixels.txt").write_bytes(content)
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"tiles": {"healpix": str(tmp_path / "pixels.txt")}}))
    with pytest.raises(ConfigError, match=r"tiles\.healpix") as caught:
        load_config(REPOSITORY / "config/schema.yaml", config)
    assert words in str(caught.value)


EVIL = "a b'c\"d; touch pwned; $(touch pwned) `touch pwned` && | > pwned"

ODD_KEYS = (
    "main/dark/1/100/../../../../../../outside",
    "main/dark/../../../outside/coadd-main-dark-100.fits",
    "../outside",
    "main/dark/1/101/coadd-main-dark-101.fits\nmain,dark,102",
    "main/dark/1/101/coadd,\"main'-dark-101.fits",
    "main/dark/1/$(touch pwned)/coadd-main-dark-101.fits",
    "main/dark/1/101; touch pwned/x",
    "main/dark/9/101/coadd-main-dark-101.fits",
    "main/dark/1/101\u202e/coadd.fits",
    "moon/dark/1/100/coadd-moon-dark-100.fits",
    "main/sunny/1/100/coadd-main-sunny-100.fits",
    "main/dark/600/60000/coadd-main-dark-60000.fits",
)


def test_odd_keys_and_names_full_of_shell_are_executed_nowhere_and_write_nothing_elsewhere(
    tmp_path: Path,
) -> None:
    """Results and pixel list with such a name work; keys of no tile are left out with a warning."""
    objects = simulate_objects(TILE, tmp_path / "archive", 4, quasar_share=0.5, scan_step=100)
    shutil.rmtree(tmp_path / "archive")
    objects |= {ROOT + key: b"x" for key in ODD_KEYS}
    work = checkout(tmp_path / "inner" / "checkout")
    pixels = work.folder / f"pixels {EVIL}.txt"
    pixels.write_text("100 # one\n101\n")
    before = files_outside(tmp_path, work)
    with serve(objects) as service:
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--config",
                   f"results=results {EVIL}", f"tiles={json.dumps({'healpix': pixels.name})}",
                   f"archive={json.dumps({'endpoint': service.endpoint})}"]  # fmt: skip
        done = subprocess.run(command, cwd=work.folder, capture_output=True, text=True,
                              timeout=120, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    results = work.folder / f"results {EVIL}"
    markers = list((results / "validated").rglob("*.json"))
    assert [(m.stem, json.loads(m.read_text())["outcome"]) for m in markers] == [
        ("100", "converted")
    ]
    assert "moon" in done.stdout + done.stderr
    assert "left out" in done.stdout + done.stderr
    assert files_outside(tmp_path, work) - before == set()


def files_outside(folder: Path, work: Work) -> set[Path]:
    """All files but those of the results and of Snakemake itself."""
    own = [path for path in work.folder.iterdir() if path.name.startswith(("results", ".snake"))]
    return {
        path for path in folder.rglob("*")
        if "__pycache__" not in path.parts and not any(path.is_relative_to(o) for o in own)
    }  # fmt: skip


@pytest.mark.parametrize(
    "config",
    [
        {"archive": {"bucket": EVIL}},
        {"archive": {"prefix": EVIL}},
        {"archive": {"prefix": "dr1/../../etc"}},
        {"archive": {"region": EVIL}},
        {"archive": {"profile": EVIL}},
        {"archive": {"endpoint": f"http://{EVIL}"}},
        {"results": "a{b}"},
        {"results": "a\nb"},
        {"results": "a\n"},
        {"archive": {"region": "us-west-2\n"}},
        {"tiles": {"surveys": [EVIL]}},
        {"selection": {"targets": [EVIL]}},
        {"columns": {"fibermap": [EVIL]}},
    ],
)
def test_values_that_are_no_names_are_refused_by_the_schema(
    config: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=next(iter(config))):
        load_config(REPOSITORY / "config/schema.yaml", path)
