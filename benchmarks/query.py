"""Measure what a collection of DR1's size costs: to build, to keep, to ask.

Run by `make benchmark-query`. Writes results/benchmark/query.json and prints the same as a table.
12,000 simulated tiles with 1.5 million rows (`query_tree.py`); DuckDB on two cores, warm: each
query is asked once before it is timed. The tree is kept where a folder for it is named, and not
made again where it is there.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import astropy.units as u
import duckdb
import numpy as np
from astropy_healpix import HEALPix
from needs import check_needs
from query_far import measure_far
from query_tree import N_BRIGHT, N_DARK, REAL_EVERY, REPOSITORY, ROWS, write_tree

from desi_fits_to_parquet.files import write_json
from desi_fits_to_parquet.paths import CATALOG
from desi_fits_to_parquet.readers import read_rows

N_TARGETS = 100

CONE_DEG = 0.1

PIXELS = ["flux", "ivar", "mask"]

GOALS: dict[str, tuple[str, Callable[[float], bool], str]] = {
    "cone_s": ("<= 0.2", lambda v: v <= 0.2, "targets within 0.1 degree, by ranges of pixels"),
    "redshift_s": ("<= 0.2", lambda v: v <= 0.2, "targets of a range of redshifts"),
    "targetid_s": (
        "<= 0.2",
        lambda v: v <= 0.2,
        "file, row, z of 100 TARGETIDs over the sky",
    ),
    "spectra_100_s": ("<= 0.8", lambda v: v <= 0.8, "flux, ivar, mask of 100 TARGETIDs"),
    "catalog_mb": ("<= 250", lambda v: v <= 250, "the catalogue without index and margin"),
    "build_s": ("<= 120", lambda v: v <= 120, "building the collection of 12,000 tiles"),
    "remote_one_s": (
        "<= 0.5",
        lambda v: v <= 0.5,
        "one spectrum by TARGETID over a link of 34 MB/s, 50 ms",
    ),
    "remote_one_mb": ("<= 0.6", lambda v: v <= 0.6, "what that fetches"),
    "remote_requests": ("<= 2", lambda v: v <= 2, "and in how many requests"),
    "remote_100_s": ("<= 3", lambda v: v <= 3, "100 spectra over the sky, over that link"),
    "build_mib": ("<= 1500", lambda v: v <= 1500, "peak memory of that"),
}
"""Figures asked for: goal, test, meaning."""

BUILD = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from query_far import measure_far
from query_tree import settings
from desi_fits_to_parquet.collection.build import build_collection
from desi_fits_to_parquet.tiles_csv import list_tiles
results = Path(sys.argv[1])
tiles, config = list_tiles(results / "tiles.csv"), settings()
started = time.monotonic()
figures = build_collection(results, tiles, config)
seconds, cpu = time.monotonic() - started, time.process_time()
status = Path("/proc/self/status").read_text().split()
mib = int(status[status.index("VmHWM:") + 1]) / 1024
print(json.dumps({**figures, "seconds": seconds, "cpu": cpu, "mib": mib}))
"""


def main() -> None:
    """Measure everything, print it, write it."""
    check_needs(6, Path(tempfile.gettempdir()), "nginx")
    with tempfile.TemporaryDirectory(prefix="benchmark-query-") as name:
        results = Path(sys.argv[1] if len(sys.argv) > 1 else name)
        if not (results / "tiles.csv").exists():
            print(f"writing {N_DARK + N_BRIGHT:,} tiles (some minutes) ...", flush=True)
            write_tree(results)
        figures = measure_build(results)
        queries, targets = measure_queries(results)
        figures |= queries | measure_far(results, targets)
    for key, (goal, reached, meaning) in GOALS.items():
        verdict = "reached" if reached(figures[key]) else "MISSED"
        print(f"{key:24} {figures[key]:12.5g}  goal {goal:9} {verdict:8} {meaning}")
    for key in sorted(set(figures) - set(GOALS)):
        print(f"{key:24} {figures[key]:12.5g}")
    path = REPOSITORY / "results/benchmark/query.json"
    write_json(path, figures)
    print(f"written to {path.relative_to(REPOSITORY)}")


def measure_build(results: Path) -> dict[str, float]:
    """Build the collection anew, then once more where nothing has changed."""
    for path in (results / CATALOG).rglob("*.parquet"):
        path.unlink()
    new, again = build(results), build(results)
    assert new["rows"] == (N_DARK + N_BRIGHT) * ROWS
    assert (new["written"], again["written"]) == (new["partitions"], 0)
    size = sum(path.stat().st_size for path in (results / CATALOG).rglob("*.parquet"))
    return {
        "build_s": new["seconds"],
        "build_mib": new["mib"],
        "build_cpu_s": new["cpu"],
        "build_again_s": again["seconds"],
        "catalog_mb": size / 1e6,
        "partitions": new["partitions"],
    }


def build(results: Path) -> dict[str, Any]:
    """Build in a process of its own."""
    command = [sys.executable, "-c", BUILD, str(results), str(Path(__file__).parent)]
    answer: dict[str, Any] = json.loads(subprocess.check_output(command))
    return answer


def measure_queries(results: Path) -> tuple[dict[str, float], list[int]]:
    """Time the queries; return the targets of whole spectra that were asked for, too."""
    database = duckdb.connect(config={"threads": 2})
    catalog = f"'{results}/{CATALOG}/**/*.parquet'"
    rng = np.random.default_rng(8)
    places = database.sql(
        "SELECT targetid, target_ra, target_dec, healpix, _healpix_29, program"
        f" FROM {catalog} ORDER BY _healpix_29"
    ).fetchnumpy()
    centre = rng.integers(len(places["targetid"]))
    ra, dec = float(places["target_ra"][centre]), float(places["target_dec"][centre])
    # of tiles with whole spectra: one target each, far from one another
    whole = (places["healpix"] % REAL_EVERY == 0) & (places["program"] == "dark")
    tiles, first = np.unique(places["healpix"][whole], return_index=True)
    chosen = rng.permutation(len(tiles))[:N_TARGETS]
    targets = places["targetid"][whole][first[chosen] + rng.integers(ROWS, size=N_TARGETS)].tolist()

    def cone() -> Any:
        return database.sql(cone_query(catalog, ra, dec, CONE_DEG)).fetchnumpy()

    def redshift() -> Any:
        return database.sql(
            "SELECT targetid, target_ra, target_dec, z, survey, program"
            f" FROM {catalog} WHERE z BETWEEN 3.0 AND 3.1 AND zwarn = 0"
        ).fetchnumpy()

    def targetid() -> Any:
        return find_targets(database, catalog, targets, "targetid, survey, program, z, file, row")

    def whole_rows() -> Any:
        return find_targets(database, catalog, targets, "*")

    def spectra() -> Any:
        return read_spectra(database, results, catalog, targets)

    def spectra_by_duckdb() -> Any:
        return ask_spectra(database, results, catalog, targets)

    separation = np.hypot(
        (places["target_ra"] - ra) * np.cos(np.radians(dec)), places["target_dec"] - dec
    )
    assert len(cone()["targetid"]) == np.count_nonzero(separation < CONE_DEG) > 0
    assert len(redshift()["z"]) > 1000
    assert set(targetid()["targetid"].tolist()) == set(targets)
    assert {len(flux) for flux in spectra()["flux"]} == {7751}
    assert len(spectra()) == len(spectra_by_duckdb()) == N_TARGETS
    return {
        "cone_s": seconds(cone),
        "redshift_s": seconds(redshift),
        "targetid_s": seconds(targetid),
        "targetid_all_columns_s": seconds(whole_rows),
        "spectra_100_s": seconds(spectra),
        "spectra_100_by_duckdb_s": seconds(spectra_by_duckdb),
    }, targets


def seconds(query: Callable[[], Any], times: int = 7) -> float:
    """Median of some runs after the first."""
    query()
    taken = []
    for _ in range(times):
        started = time.monotonic()
        query()
        taken.append(time.monotonic() - started)
    return statistics.median(taken)


def cone_query(catalog: str, ra: float, dec: float, radius: float) -> str:
    """Ask for targets within a radius (degree) of a position, by ranges of HEALPix pixels."""
    order = 10
    grid = HEALPix(nside=1 << order, order="nested")
    # pixels that the circle touches: none is wider than 0.11 degree across
    pixels = np.sort(grid.cone_search_lonlat(ra * u.deg, dec * u.deg, (radius + 0.12) * u.deg))
    runs = np.split(pixels, np.flatnonzero(np.diff(pixels) > 1) + 1)
    shift = 2 * (29 - order)
    ranges = " OR ".join(
        f"_healpix_29 BETWEEN {int(run[0]) << shift} AND {((int(run[-1]) + 1) << shift) - 1}"
        for run in runs
    )
    east, north = f"(target_ra - {ra}) * cos(radians({dec}))", f"target_dec - {dec}"
    return (
        "SELECT targetid, target_ra, target_dec, z, survey, program, file, row"
        f" FROM {catalog} WHERE ({ranges})"
        f" AND sqrt(pow({east}, 2) + pow({north}, 2)) < {radius}"
    )


def find_targets(
    database: duckdb.DuckDBPyConnection, catalog: str, targets: list[int], columns: str
) -> Any:
    """Look targets up in the catalogue."""
    wanted = ", ".join(map(str, targets))
    return database.sql(
        f"SELECT {columns} FROM {catalog} WHERE targetid IN ({wanted})"
    ).fetchnumpy()


def read_spectra(
    database: duckdb.DuckDBPyConnection, results: Path, catalog: str, targets: list[int]
) -> Any:
    """Read the dark spectra of targets: from the catalogue to the rows of the files."""
    found = find_targets(database, catalog, targets, "program, file, row")
    dark = found["program"] == "dark"
    return read_rows(results, found["file"][dark], found["row"][dark], PIXELS)


def ask_spectra(
    database: duckdb.DuckDBPyConnection, results: Path, catalog: str, targets: list[int]
) -> Any:
    """Read the same with DuckDB alone."""
    found = find_targets(database, catalog, targets, "program, file")
    names = [f"'{results}/{name}'" for name in np.unique(found["file"][found["program"] == "dark"])]
    return database.sql(
        f"SELECT {', '.join(PIXELS)} FROM read_parquet([{', '.join(names)}])"
        f" WHERE targetid IN ({', '.join(map(str, targets))})"
    ).to_arrow_table()


if __name__ == "__main__":
    main()
