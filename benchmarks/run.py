"""Measure the real workflow over an emulated link: what a tile costs, everything included.

Run by `make benchmark-run`; needs nginx (Debian: nginx-light) and 9 GB of disk. Writes
results/benchmark/run.json and prints the same.

A copy of the checkout runs `snakemake tiles` over simulated tiles behind the link, whose sizes are
drawn from those of the run of September 2025. Counted is the CPU time of Snakemake and of all jobs,
what they start included; not that of the servers and the link. Beside it, in the same run: the
obvious way (`obvious_way.py`) over the same tiles.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from far_archive import serve_far
from needs import check_needs
from transfer import (
    BYTES_A_TARGET,
    BYTES_PER_S,
    QUANTILES,
    REPOSITORY,
    ROUND_TRIP_S,
    SIZES_MIB,
    run_obvious,
    simulate,
)

from desi_fits_to_parquet.files import read_json, write_json
from desi_fits_to_parquet.paths import marker_path
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.tiles_csv import read_tiles

N_TILES = 24
CORES = 8
DISK_GB = 9
STAGES = ("download_tile", "fuse_tile", "validate_tile")

MEDIAN, QUASAR_SHARE = 510, 0.12
"""Targets of the median tile, and the share of quasars among all."""

EVERYONE_TILES = 4
EVERYONE = "selection={spectypes: [QSO, GALAXY, STAR]}"

GOALS: dict[str, tuple[str, Callable[[float], bool], str]] = {
    "cpu_s_per_tile": ("<= 1.6", lambda v: v <= 1.6, "CPU of a median tile: three jobs, Snakemake"),
    "cpu_ratio": (">= 3", lambda v: v >= 3, "CPU, obvious way / this, same tiles"),
    "cpu_ms_per_spectrum": ("<= 4", lambda v: v <= 4, "CPU a spectrum, all classes selected"),
    "bytes_per_quasar": ("<= 16500", lambda v: v <= 16500, "bytes a quasar, tile of 61"),
    "job_start_cpu_s": ("<= 0.25", lambda v: v <= 0.25, "CPU of a job until its first line"),
}


def main() -> None:
    """Measure everything, print it, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=N_TILES, help="tiles to convert")
    n_tiles = parser.parse_args().tiles
    begun = time.perf_counter()
    out = REPOSITORY / "results/benchmark"
    out.mkdir(parents=True, exist_ok=True)
    check_needs(DISK_GB * n_tiles / N_TILES, out, "nginx")
    with tempfile.TemporaryDirectory(prefix="run-", dir=out) as name:
        work = Path(name)
        tiles = draw_tiles(n_tiles)
        everyone = {Tile("main", "bright", pixel): MEDIAN for pixel in range(EVERYONE_TILES)}
        bucket = work / "archive/desidata/dr1/spectro/redux/iron"
        print(f"simulating {len(tiles) + len(everyone)} tiles ...", flush=True)
        jobs = [(t, bucket, count, QUASAR_SHARE) for t, count in (tiles | everyone).items()]
        with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
            list(pool.map(simulate, jobs))
        print(f"{time.perf_counter() - begun:.0f} s; serving them over a link", flush=True)
        with serve_far(work / "archive", work, BYTES_PER_S, ROUND_TRIP_S) as far:
            quasars = run(work / "quasars", far.endpoint, "dark", len(tiles))
            all_classes = run(work / "everyone", far.endpoint, "bright", len(everyone), EVERYONE)
            listed = read_tiles(work / "quasars/results/tiles.csv")
            obvious = run_obvious(far, {tile: listed[tile] for tile in tiles}, work)
        markers = [read_json(marker_path(work / "quasars/results", tile)) for tile in tiles]
    middle = markers[list(tiles.values()).index(MEDIAN)]
    obvious_cpu = sum(record["cpu_s"] for record in obvious.tiles)
    figures = {
        "cpu_s_per_tile": quasars["median_jobs_cpu_s"] + quasars["snakemake_cpu_s_per_tile"],
        "cpu_ratio": obvious_cpu / quasars["cpu_s"],
        "cpu_ms_per_spectrum": 1e3 * all_classes["cpu_s"] / all_classes["rows"],
        "bytes_per_quasar": middle["bytes_parquet"] / middle["n_rows"],
        "job_start_cpu_s": quasars["job_start_cpu_s"],
        "wall_ratio": obvious.wall_s / quasars["wall_s"],
        "link_utilisation": quasars["bytes_fetched"] / BYTES_PER_S / quasars["wall_s"],
        "obvious_cpu_s": obvious_cpu,
        "obvious_wall_s": obvious.wall_s,
        "benchmark_s": time.perf_counter() - begun,
    }
    write_json(out / "run.json", figures | {"quasars": quasars, "all_classes": all_classes})
    for key, (goal, reached, meaning) in GOALS.items():
        verdict = "reached" if reached(figures[key]) else "MISSED"
        print(f"{key:24} {figures[key]:10.3f}  goal {goal:8} {verdict:8} {meaning}")
    for key in sorted(set(figures) - set(GOALS)):
        print(f"{key:24} {figures[key]:10.3f}")
    for name, one in (("quasars", quasars), ("all classes", all_classes)):
        print(f"\n{name}:")
        for key, value in one.items():
            print(f"  {key:30} {value:12.3f}")
    print(f"written to {(out / 'run.json').relative_to(REPOSITORY)}")


def draw_tiles(n_tiles: int) -> dict[Tile, int]:
    """Draw tiles from the distribution of sizes: one from each equal part of it, one the median."""
    at = (np.arange(n_tiles) + 0.5) / n_tiles
    sizes = np.interp(at, QUANTILES, SIZES_MIB) * (1 << 20)
    counts = [max(round(size / BYTES_A_TARGET), 3) for size in sizes]
    counts[n_tiles // 2] = MEDIAN
    pixels = list(range(10000, 10000 + n_tiles))
    random.Random(1).shuffle(pixels)
    return {Tile("main", "dark", pixel): count for pixel, count in zip(pixels, counts, strict=True)}


def run(
    folder: Path, endpoint: str, program: str, n_tiles: int, *settings: str
) -> dict[str, float]:
    """Run the workflow in a copy of the checkout; return what it took."""
    for name in ("Snakefile", "rules", "scripts", "config", "profiles", "report", "envs", "src"):
        source = REPOSITORY / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        folder.mkdir(exist_ok=True)
        copy(source, folder / name)
    command = [
        sys.executable, "-m", "snakemake", "tiles", "--cores", str(CORES), "--config",
        f"archive={{endpoint: '{endpoint}'}}", f"tiles={{programs: [{program}]}}",
        "transfer={audit_fraction: 0}", *settings,
    ]  # fmt: skip
    idle = cpu_of([*command, "--version"], folder)
    begun = time.perf_counter()
    spent = cpu_of(command, folder) - idle
    wall = time.perf_counter() - begun
    results = folder / "results"
    markers = [read_json(path) for path in results.glob("validated/*/*/*.json")]
    if len(markers) != n_tiles or {marker["outcome"] for marker in markers} != {"converted"}:
        raise SystemExit(f"not all tiles were converted:\n{(folder / 'run.log').read_text()}")
    jobs = {stage: read_logs(results / "logs" / stage) for stage in STAGES}
    by_tile = [sum(jobs[stage][tile]["done"] for stage in STAGES) for tile in jobs[STAGES[0]]]
    return {
        "tiles": n_tiles,
        "rows": sum(marker["n_rows"] for marker in markers),
        "wall_s": wall,
        "cpu_s": spent,
        "median_jobs_cpu_s": statistics.median(by_tile),
        "snakemake_cpu_s_per_tile": (spent - sum(by_tile)) / n_tiles,
        **{
            f"{stage}_cpu_s": statistics.median(one["done"] for one in jobs[stage].values())
            for stage in STAGES
        },
        "job_start_cpu_s": statistics.median(
            one["started"] for stage in STAGES for one in jobs[stage].values()
        ),
        "bytes_fetched": sum(marker["bytes_fetched"] for marker in markers),
        "bytes_parquet": sum(marker["bytes_parquet"] for marker in markers),
    }


def cpu_of(command: list[str], folder: Path) -> float:
    """CPU time that a command and all that it starts take, in s."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with (folder / "run.log").open("w") as log:
        code = subprocess.run(command, cwd=folder, stdout=log, stderr=log, check=False).returncode
    if code:
        raise SystemExit(f"Snakemake failed:\n{(folder / 'run.log').read_text()[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def read_logs(folder: Path) -> Mapping[str, Mapping[str, float]]:
    """Return for each tile the CPU time of its job by event, in s."""
    found: dict[str, dict[str, float]] = {}
    for path in folder.rglob("*.log"):
        for line in path.read_text().splitlines():
            entry: dict[str, Any] = json.loads(line)
            if "cpu_s" in entry:
                found.setdefault(entry["tile"], {})[entry["event"]] = entry["cpu_s"]
    return found


if __name__ == "__main__":
    main()
