"""Measure the fusion: size, added variance, speed, memory, CPU of a job.

Run by `make benchmark-fusion`. Writes results/benchmark/fusion.json and prints the same as a
table. The tiles are simulated; the spectrum of one real target (DESI_REAL_DATA, by default
../shared/real) is measured beside them where it is there.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from needs import check_needs

from desi_fits_to_parquet.config import load_config
from desi_fits_to_parquet.files import write_json
from desi_fits_to_parquet.fuse.tile import fuse_tile
from desi_fits_to_parquet.simulate.tile import simulate_tile
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.validate import validate_tile

REPOSITORY = Path(__file__).resolve().parents[1]
PIXELS = ("flux", "ivar", "mask")
SPECTRA = ("wavelength", *PIXELS)
LARGE, MEDIAN = Tile("main", "dark", 10000), Tile("main", "dark", 10001)
REAL = Tile("special", "dark", 27247)

GOALS: dict[str, tuple[str, Callable[[float], bool], str]] = {
    "size_ratio_bounded": (
        ">= 6.5",
        lambda v: v >= 6.5,
        "Python lists through pandas / whole Parquet file, bounded",
    ),
    "added_variance": ("<= 0.001", lambda v: v <= 1e-3, "mean squared flux error in sigma"),
    "size_ratio_lossless": (">= 2", lambda v: v >= 2, "the same, lossless"),
    "fuse_mb_per_s": (">= 300", lambda v: v >= 300, "MB of coadd a CPU second, after imports"),
    "peak_memory_mib": ("< 286", lambda v: v < 286, "peak of a process, all targets selected"),
    "fuse_job_cpu_s": ("< 1.0", lambda v: v < 1, "CPU of a job, median tile, imports included"),
}
"""Figures asked for: goal, test, meaning. 286 MiB are 300 MB."""

SPEED = """
import json, sys, time
from pathlib import Path
from desi_fits_to_parquet.fuse.tile import fuse_tile
from desi_fits_to_parquet.tile import Tile
settings, fits, out, tile = json.loads(sys.argv[1]), *map(Path, sys.argv[2:4]), sys.argv[4]
survey, program, healpix = tile.split("-")
arguments = Tile(survey, program, int(healpix)), fits, out, settings
fuse_tile(*arguments)  # imports h5py, warms the page cache
times = []
for _ in range(5):
    started = time.process_time()
    fuse_tile(*arguments)
    times.append(time.process_time() - started)
print(json.dumps(times))
"""

PEAK = """
import json, sys
from pathlib import Path
from desi_fits_to_parquet.fuse.tile import fuse_tile
from desi_fits_to_parquet.tile import Tile
settings, fits, out, tile = json.loads(sys.argv[1]), *map(Path, sys.argv[2:4]), sys.argv[4]
survey, program, healpix = tile.split("-")
fuse_tile(Tile(survey, program, int(healpix)), fits, out, settings)
status = Path("/proc/self/status").read_text().split()
print(int(status[status.index("VmHWM:") + 1]) / 1024)
"""

JOB = """
import json, sys
from snakemake import script
from snakemake.logging import logger
from pathlib import Path
from desi_fits_to_parquet.files import write_json
from desi_fits_to_parquet.fuse.tile import fuse_tile
from desi_fits_to_parquet.run.job_log import job_log
from desi_fits_to_parquet.tile import Tile
settings, fits, out, tile = json.loads(sys.argv[1]), *map(Path, sys.argv[2:4]), sys.argv[4]
survey, program, healpix = tile.split("-")
record = fuse_tile(Tile(survey, program, int(healpix)), fits, out, settings)
write_json(out / "record.json", record)
"""
"""What a Snakemake job of this rule imports and does, the preamble of `script:` included."""


def main() -> None:
    """Measure everything, print it, write it."""
    check_needs(2, Path(tempfile.gettempdir()))
    settings = load_config(REPOSITORY / "config/schema.yaml", REPOSITORY / "config/config.yaml")
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="benchmark-fusion-") as name:
        work = Path(name)
        print("simulating two tiles ...", flush=True)
        # the scans are thinned out: nothing here reads them
        simulate_tile(LARGE, work / "large", 1000, quasar_share=0.12, scan_step=50)
        simulate_tile(MEDIAN, work / "median", 510, quasar_share=0.12, scan_step=50)
        figures |= measure_sizes(LARGE, work / "large", work / "out", settings)
        figures |= measure_speed(work, settings)
        figures["fuse_job_cpu_s"] = measure_job(work, settings)
        folder = Path(os.environ.get("DESI_REAL_DATA", REPOSITORY.parent / "shared/real"))
        real = folder / "special/dark/272/27247"
        if real.is_dir():
            galaxy = change(settings, "selection", spectypes=["GALAXY"])
            measured = measure_sizes(REAL, real, work / "real", galaxy)
            # the metadata outweigh one spectrum: no figure for the whole file
            figures |= {
                f"real_{key}": value for key, value in measured.items() if "size" not in key
            }
        else:
            print(f"no real spectrum in {real}: only simulated ones measured")
    for key, (goal, reached, meaning) in GOALS.items():
        verdict = "reached" if reached(figures[key]) else "MISSED"
        print(f"{key:24} {figures[key]:12.5g}  goal {goal:9} {verdict:8} {meaning}")
    for key in sorted(set(figures) - set(GOALS)):
        print(f"{key:40} {figures[key]:12.5g}")
    path = REPOSITORY / "results/benchmark/fusion.json"
    write_json(path, figures)
    print(f"written to {path.relative_to(REPOSITORY)}")


def change(settings: Mapping[str, Any], section: str, **values: Any) -> dict[str, Any]:
    """Return settings with some of one section changed."""
    changed = deepcopy(dict(settings))
    changed[section] |= values
    return changed


def measure_sizes(
    tile: Tile, fits: Path, out: Path, settings: Mapping[str, Any]
) -> dict[str, float]:
    """Compare the Parquet with what pandas makes of Python lists, on the same rows.

    `size_ratio_*` compare the whole file with its 125 columns and metadata to the four columns of
    the lists; `pixels_ratio_*` compare the columns flux, ivar and mask on both sides.
    """
    figures = {}
    exact: dict[str, Any] = {}
    for mode in ("lossless", "bounded"):
        config = change(settings, "precision", mode=mode)
        record = fuse_tile(tile, fits, out, config)
        marker = validate_tile(tile, fits, out, record, config)
        if marker["outcome"] != "converted":
            raise SystemExit(f"{tile.name} does not convert: {marker['reason']}")
        path = out / f"{tile.name}.parquet"
        with pq.ParquetFile(path) as parquet:
            columns = parquet.read(list(SPECTRA))
            sizes = column_bytes(parquet)
        arrays = {name: np.array(columns[name].to_pylist()) for name in ("flux", "ivar")}
        if mode == "lossless":
            exact = arrays
            pandas_path = out / "lists.parquet"
            pd.DataFrame({n: columns[n].to_pylist() for n in SPECTRA}).to_parquet(pandas_path)
            lists = pandas_path.stat().st_size
            with pq.ParquetFile(pandas_path) as parquet:
                list_sizes = column_bytes(parquet)
        figures[f"size_ratio_{mode}"] = lists / path.stat().st_size
        figures[f"pixels_ratio_{mode}"] = sum(list_sizes[name] for name in PIXELS) / sum(
            sizes[name] for name in PIXELS
        )
        for name in ("flux", "ivar"):
            figures[f"{name}_bits_{mode}"] = 8 * sizes[name] / arrays[name].size
    error = (arrays["flux"] - exact["flux"]) * np.sqrt(exact["ivar"])
    figures["added_variance"] = float(np.mean(error[exact["ivar"] > 0] ** 2))
    return figures


def column_bytes(parquet: pq.ParquetFile) -> dict[str, int]:
    """Return the compressed bytes of each field."""
    sizes: dict[str, int] = {}
    for group in range(parquet.metadata.num_row_groups):
        row_group = parquet.metadata.row_group(group)
        for i in range(row_group.num_columns):
            column = row_group.column(i)
            name = column.path_in_schema.partition(".")[0]
            sizes[name] = sizes.get(name, 0) + column.total_compressed_size
    return sizes


def measure_speed(work: Path, settings: Mapping[str, Any]) -> dict[str, float]:
    """Measure the speed on the large tile, and the memory where all its targets are selected."""
    everyone = change(settings, "selection", spectypes=["QSO", "GALAXY", "STAR"], zwarn=None)
    times = json.loads(run(SPEED, LARGE, work / "large", work / "speed", settings))
    peaks = {
        name: float(run(PEAK, tile, work / name, work / "speed", everyone))
        for name, tile in (("large", LARGE), ("median", MEDIAN))
    }
    coadd = (work / "large" / LARGE.file_name("coadd")).stat().st_size
    return {
        "fuse_mb_per_s": coadd / 1e6 / statistics.median(times),
        "peak_memory_mib": max(peaks.values()),
        "peak_memory_mib_510_targets": peaks["median"],
        "peak_memory_mib_1000_targets": peaks["large"],
    }


def measure_job(work: Path, settings: Mapping[str, Any]) -> float:
    """Return the CPU seconds, user and system, of a job on the median tile: median of five."""
    times = []
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(JOB, MEDIAN, work / "median", work / "job", settings)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(times[1:])  # the first one warms the page cache


def run(code: str, tile: Tile, fits: Path, out: Path, settings: Mapping[str, Any]) -> str:
    """Run code in a process of its own and return what it prints."""
    arguments = [json.dumps(settings), str(fits), str(out), tile.name]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


if __name__ == "__main__":
    main()
