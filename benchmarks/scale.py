"""The workflow at the size of DR1: its real Snakefile, rules, profile; stand-ins for the work.

A copy of the checkout is made in a temporary folder. In it the listing makes up tiles, and the
three scripts of a tile do next to nothing: shell scripts where scheduling is measured, Python that
imports all that the real jobs import where the cost of starting jobs is measured. Nothing else is
changed. Prints a table and writes results/benchmark/scale.json.
"""

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from needs import check_needs

from desi_fits_to_parquet.columns import kinds_used
from desi_fits_to_parquet.config import load_config
from desi_fits_to_parquet.paths import marker_path, parquet_folder
from desi_fits_to_parquet.records import tile_keys
from desi_fits_to_parquet.settings import settings_fingerprint
from desi_fits_to_parquet.tiles_csv import list_tiles

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = "src/desi_fits_to_parquet"

CORES = 8
"""As users run it, whatever the machine has: starting jobs waits more than it computes."""

LISTING = """
def discover_tiles(archive, tiles, sample, out_csv):
    import os
    from desi_fits_to_parquet.tile import FILE_KINDS, Tile
    from desi_fits_to_parquet.tiles_csv import write_tiles
    found = {}
    for healpix in range(int(os.environ["BENCHMARK_TILES"])):
        tile = Tile("main", "dark", healpix)
        folder = f"{archive['prefix']}/{tile.archive_folder}"
        found[tile] = {
            kind: {"key": f"{folder}/{tile.file_name(kind)}", "size": 227 << 20,
                   "etag": f"{healpix:032x}"}
            for kind in FILE_KINDS
        }
    write_tiles(out_csv, found)
    return len(found)


def probe_archive(archive):
    pass
"""

SETTINGS = load_config(REPOSITORY / "config/schema.yaml", REPOSITORY / "config/config.yaml")

# the shell fills in the number and the ETag; the next run finds nothing to do again
MARKER = json.dumps(
    {"survey": "main", "program": "dark", "healpix": "NUMBER", "order": 6, "pixel": "NUMBER",
     "outcome": "converted", "finished": 1.5e9, "bytes_archive": 227 << 20,
     "bytes_fetched": 8 << 20, "bytes_parquet": 9 << 20, "reason": "", "sha256": None,
     "settings_fingerprint": settings_fingerprint(SETTINGS), "listed": "",
     "sources": {k: {"etag": "$etag"} for k in (*kinds_used(SETTINGS), "sha256sum")}}, indent=1,
).replace('"NUMBER"', "$healpix")  # fmt: skip

SHELL = {
    "download_tile": 'mkdir -p "$1"',
    "fuse_tile": 'mkdir -p "$1"',
    "validate_tile": f"""healpix=$(basename "$1" .json)
etag=$(printf %032x "$healpix")
cat > "$1" <<END
{MARKER}
END""",
}

# a marker and logs of the size of real ones, so that the state on disk is counted honestly
PYTHON = {
    "download/tile.py": """
def download_tile(tile, sources, settings, folder, hdus=None):
    folder.mkdir(parents=True)
    return {"sources": sources, "outcome": None, "figures": "x" * 900}
""",
    "fuse/tile.py": """
def fuse_tile(tile, fits_folder, parquet_folder, settings):
    parquet_folder.mkdir(parents=True)
    (parquet_folder / f"{tile.name}.parquet").write_bytes(b"PAR1")
    return {"outcome": None, "n_rows": 60, "figures": "x" * 300}
""",
    "validate.py": """
from desi_fits_to_parquet.columns import kinds_used


def validate_tile(tile, fits_folder, parquet_folder, fuse_record, settings):
    etags = dict.fromkeys([*kinds_used(settings), "sha256sum"], {"etag": f"{tile.number:032x}"})
    return {"sha256": "0" * 64, "settings_fingerprint": settings_fingerprint(settings),
            "listed": "", "sources": etags,
            "survey": tile.survey, "program": tile.program, "healpix": tile.number,
            "order": tile.order, "pixel": tile.pixel,
            "outcome": "converted", "finished": 1.5e9, "bytes_archive": 227 << 20,
            "bytes_fetched": 8 << 20, "bytes_parquet": 4, "reason": "",
            "figures": "x" * 2200}
""",
}

REPORT = """
from pathlib import Path


def build_report(results, report_folder, settings):
    from desi_fits_to_parquet.report.files import FIGURES_FOLDER, LANDING, PAGE, TABLES
    (report_folder / FIGURES_FOLDER).mkdir(parents=True, exist_ok=True)
    for name in [*TABLES, LANDING, PAGE]:
        (report_folder / name).write_text("")
"""

COLLECTION = """
def build_collection(results, tiles, settings):
    from desi_fits_to_parquet import paths
    for name in (paths.CATALOG, paths.MARGIN, paths.INDEX):
        (results / name).mkdir(exist_ok=True)
        (results / name / "hats.properties").write_text("")
    (results / paths.COLLECTION).write_text("")
    return {"rows": 1}
"""


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=30_000, help="size of the graph")
    parser.add_argument("--run", type=int, default=12_207, help="tiles to schedule in full")
    parser.add_argument("--jobs", type=int, default=200, help="tiles to start real imports for")
    parser.add_argument("--verify", type=int, default=5_000, help="tiles of 1 MB to verify")
    given = parser.parse_args()
    # files of a MB to verify, and a few small ones for each tile of the graph
    check_needs((given.verify + given.tiles / 10) / 1e3, Path(tempfile.gettempdir()))
    figures: dict[str, float] = {}

    def keep(**measured: float) -> None:
        figures.update(measured)
        for name, value in measured.items():
            print(f"{name:28s} {value:10.2f}", flush=True)

    keep(cores=os.cpu_count() or 0, jobs_at_once=CORES, tiles=given.tiles, run_tiles=given.run)
    with tempfile.TemporaryDirectory(prefix="scale-") as scratch:
        keep(
            **measure_jobs(make_checkout(Path(scratch) / "jobs", "python", given.jobs), given.jobs)
        )
        run = make_checkout(Path(scratch) / "run", "shell", given.run)
        rate, peak = measure_run(run, given.run)
        keep(jobs_per_s=rate, peak_fits_run=peak)
        large = make_checkout(Path(scratch) / "large", "shell", given.tiles)
        keep(**measure_graph(large, given.tiles))
        rate, peak = measure_run(large, given.tiles)
        keep(jobs_per_s_all_tiles=rate, peak_fits_tiles=peak)
        keep(**measure_noop(large, given.tiles))
        keep(**measure_verify(Path(scratch) / "verify", given.verify))
    path = REPOSITORY / "results/benchmark/scale.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n")


def make_checkout(folder: Path, form: str, tiles: int) -> Path:
    """Copy the workflow, put the stand-ins in and list the tiles."""
    put_stand_ins(folder, form)
    timed(snakemake(folder, tiles, "--until", "discover_tiles"), folder)
    return folder


def put_stand_ins(folder: Path, form: str) -> None:
    """Copy the workflow and replace what takes time in it."""
    for name in ("rules", "scripts", "config", "profiles", "report", "envs", "src"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignore)
    shutil.copy(REPOSITORY / "Snakefile", folder)
    replace_functions(folder / PACKAGE / "discover.py", LISTING)
    (folder / PACKAGE / "report/build.py").write_text(REPORT)
    (folder / PACKAGE / "collection/build.py").write_text(COLLECTION)
    if form == "python":
        for module, text in PYTHON.items():
            replace_functions(folder / PACKAGE / module, text)
        return
    for rule, command in SHELL.items():
        (folder / f"scripts/{rule}.sh").write_text(f"#!/bin/bash\n{command}\n")
        path = folder / f"rules/{rule}.smk"
        stand_in = f'"exec bash scripts/{rule}.sh {{output[0]}}"'
        text, found = re.subn(r"tile_command\(.*?\n {8}\)", stand_in, path.read_text(), flags=re.S)
        if not found:
            raise SystemExit(f"{path} has no tile_command: the stand-ins are out of date")
        path.write_text(text)


def replace_functions(path: Path, text: str) -> None:
    """Append functions to a module in place of those of the same name, its imports staying."""
    source = path.read_text()
    for name in re.findall(r"^def (\w+)", text, re.MULTILINE):
        source, found = re.subn(
            rf"^def {name}\(", f"def replaced_{name}(", source, flags=re.MULTILINE
        )
        if not found:
            raise SystemExit(f"{path} has no function {name}: the stand-ins are out of date")
    path.write_text(source + text)


def snakemake(folder: Path, tiles: int, *arguments: str) -> subprocess.Popen[bytes]:
    """Start Snakemake in a checkout."""
    command = [sys.executable, "-m", "snakemake", "--cores", str(CORES), *arguments]
    environment = {**os.environ, "BENCHMARK_TILES": str(tiles)}
    log = (folder / "run.log").open("w")
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


def timed(process: subprocess.Popen[bytes], folder: Path) -> tuple[float, float]:
    """Wait for a process; return its wall time in s and its peak memory in MiB."""
    begun = time.monotonic()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"Snakemake failed:\n{(folder / 'run.log').read_text()[-3000:]}")
    return time.monotonic() - begun, usage.ru_maxrss / 1024


def measure_graph(folder: Path, tiles: int) -> dict[str, float]:
    """Build the graph of all tiles in a dry run."""
    seconds, memory = timed(snakemake(folder, tiles, "--dry-run", "--quiet", "all"), folder)
    return {"graph_s": seconds, "graph_mib": memory}


def measure_run(folder: Path, tiles: int) -> tuple[float, int]:
    """Do all jobs, graph and report included; return jobs a second and the most FITS folders."""
    with counting_fits(folder) as seen:
        seconds, _ = timed(snakemake(folder, tiles), folder)
    return 3 * tiles / seconds, max(seen)


def measure_jobs(folder: Path, tiles: int) -> dict[str, float]:
    """Start the three jobs of each tile with all imports of the real ones."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    idle = cpu_seconds(folder, 0)
    with counting_fits(folder) as seen:
        timed(snakemake(folder, tiles), folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime - idle
    parquet = folder / "results/parquet"
    state = [
        path.lstat()
        for part in ("results", ".snakemake")
        for path in (folder / part).rglob("*")
        if not path.is_relative_to(parquet)
    ]
    return {
        "overhead_cpu_s_per_tile": spent / tiles,
        "peak_fits_small": max(seen),
        "state_kb_per_tile": sum(status.st_size for status in state) / tiles / 1000,
        "state_disk_kb_per_tile": sum(status.st_blocks * 512 for status in state) / tiles / 1000,
        "state_files_per_tile": len(state) / tiles,
    }


def cpu_seconds(folder: Path, tiles: int) -> float:
    """CPU time of starting Snakemake alone, which a run of any size needs once."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    timed(snakemake(folder, tiles, "--version"), folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 2 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def measure_noop(folder: Path, tiles: int) -> dict[str, float]:
    """Run a finished work again."""
    seconds, memory = timed(snakemake(folder, tiles), folder)
    text = (folder / "run.log").read_text()
    if "Nothing to be done" not in text:
        sys.exit(f"the run that should have nothing to do did something:\n{text[-2000:]}")
    return {"noop_s": seconds, "noop_mib": memory}


def measure_verify(folder: Path, tiles: int) -> dict[str, float]:
    """Verify finished tiles of 1 MB from a disk, against reading the same files and no more."""
    make_checkout(folder, "shell", tiles)
    results = folder / "results"
    paths = []
    for tile in list_tiles(results / "tiles.csv"):
        data = tile.name.encode() + os.urandom(1 << 20)
        paths.append(parquet_folder(results, tile) / f"{tile.name}.parquet")
        paths[-1].parent.mkdir(parents=True)
        with paths[-1].open("wb") as stream:
            stream.write(data)
            os.fsync(stream.fileno())
        marker = {
            **tile_keys(tile),
            "outcome": "converted",
            "reason": "",
            "sha256": sha256(data).hexdigest(),
            "bytes_parquet": len(data),
        }
        marker_path(results, tile).parent.mkdir(parents=True, exist_ok=True)
        marker_path(results, tile).write_text(json.dumps(marker))
    megabytes = sum(path.stat().st_size for path in paths) / 1e6
    forget(paths)
    begun = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(Path.read_bytes, paths):
            pass
    read = time.monotonic() - begun
    forget(paths)
    seconds, _ = timed(snakemake(folder, tiles, "verify"), folder)
    if "every Parquet is as its marker says" not in (folder / "run.log").read_text():
        sys.exit("verify found damage where there is none")
    return {"verify_mb_per_s": megabytes / seconds, "read_mb_per_s": megabytes / read}


def forget(paths: list[Path]) -> None:
    """Ask the system to drop files from its memory, so that they are read from the disk again."""
    for path in paths:
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def counting_fits(folder: Path) -> Iterator[list[int]]:
    """Count the FITS folders on disk again and again until the block ends."""
    seen = [0]
    ended = threading.Event()
    root = folder / "results/fits/main/dark"

    def count() -> None:
        while not ended.wait(0.05):
            if root.is_dir():
                seen.append(sum(1 for _ in os.scandir(root)))

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


if __name__ == "__main__":
    main()
