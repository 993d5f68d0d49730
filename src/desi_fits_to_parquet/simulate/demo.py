"""The demo: simulate a small archive, serve it on this machine, run the real workflow on it."""

import argparse
import functools
import json
import operator
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from desi_fits_to_parquet.config import load_config
from desi_fits_to_parquet.outcomes import OUTCOMES
from desi_fits_to_parquet.run.stop import COMMAND, NAMES
from desi_fits_to_parquet.simulate.archive import DEMO_PREFIXES, simulate_demo_archive
from desi_fits_to_parquet.simulate.serve import serve_archive
from desi_fits_to_parquet.tile import LAYOUTS, Tile
from desi_fits_to_parquet.units import percent_text, size_text
from desi_fits_to_parquet.workflow import workflow_folder

WORKFLOW = workflow_folder()

CONFIG = WORKFLOW / "config/demo.yaml"

STOPPED = {128 + number for number in NAMES}
"""Exit codes of a run that somebody stopped."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo in the present folder; return the exit code."""
    parser = argparse.ArgumentParser(description="Convert a small simulated archive.")
    parser.add_argument("--layout", choices=LAYOUTS, default="healpix", help="uniqpix: as from DR3")
    layout = parser.parse_args(arguments).layout
    signal.signal(signal.SIGTERM, _interrupt)
    settings = load_config(WORKFLOW / "config/schema.yaml", WORKFLOW / "config/config.yaml", CONFIG)
    results = Path(settings["results"])
    if results.exists():  # what an earlier demo left would leave nothing to do
        shutil.rmtree(results)
    begun = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="desi-demo-") as scratch:
            say("Simulating a small DESI archive ...")
            expected = simulate_demo_archive(Path(scratch), layout=layout)
            with serve_archive(Path(scratch), settings["archive"]["bucket"]) as endpoint:
                say(f"Serving its {len(expected)} tiles at {endpoint}; running the workflow on it.")
                archive = f"{{endpoint: '{endpoint}', prefix: '{DEMO_PREFIXES[layout]}'}}"
                code = run_snakemake("--cores", "all", archive=archive)
    except KeyboardInterrupt:
        say("\nInterrupted; the local S3 service is stopped.")
        return 130
    if code in STOPPED:
        say("The local S3 service is stopped.")
        return code
    if code:
        say(f"The workflow failed (exit code {code}); its messages stand above.")
        return code
    summary = json.loads((results / "report/summary.json").read_text())
    print_summary(summary, results, time.monotonic() - begun)
    print_quasars(results)
    return compare_outcomes(results, expected)


def run_snakemake(*arguments: str, archive: str) -> int:
    """Run Snakemake with the demo's configuration, to its end when this process is stopped too."""
    command = [
        sys.executable, "-m", "snakemake", *arguments,
        "--snakefile", str(WORKFLOW / "Snakefile"),
        "--configfile", str(CONFIG), "--config", f"archive={archive}",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", COMMAND: "make demo"}
    process = subprocess.Popen(command, env=environment)  # noqa: S603  (the workflow itself)
    # A terminal's Ctrl-C reaches it as well; it ends in order the first time, at once the second.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, _interrupt)


def print_summary(summary: Mapping[str, Any], results: Path, seconds: float) -> None:
    """Print what the run did: tiles by outcome, bytes in and out, where to look."""
    say("\nTiles by outcome")
    for outcome, meaning in OUTCOMES.items():
        say(f"  {summary['outcomes'][outcome]:5d}  {outcome:15s} {meaning}")
    archive, fetched, written = (
        size_text(summary[f"bytes_{what}"]) for what in ("archive", "fetched", "parquet")
    )
    saved = percent_text(summary["reduction_percent"])
    say(
        f"\nIn the archive {archive:>10s}\nFetched        {fetched:>10s}\n"
        f"Parquet        {written:>10s}   ({saved} less than the archive)\n"
        f"\n{summary['n_rows']} quasars in {seconds:.0f} s.\n"
        f"Explore  {os.path.relpath(sys.executable)} -m desi_fits_to_parquet serve {results} "
        "--open    (the spectra in a browser)\n"
        f"Parquet  {results}/parquet\nReport   {results}/report/index.html"
        f"  (open it in a browser)\nTables   {results}/report/\n"
        f'Open it  lsdb.open_catalog("{results}")    (LSDB; all targets, the spectra beside them)\n'
        f"         duckdb.sql(\"FROM '{results}/catalog/dataset/**/*.parquet'\")    (DuckDB)"
    )


def print_quasars(results: Path, count: int = 5) -> None:
    """Print the brightest quasars of the demo, and how the first was seen, from its Parquet."""
    import pyarrow.dataset as ds

    keys = ["survey", "program", "healpix", "targetid"]
    files = sorted(map(str, (results / "parquet").glob("**/*.parquet")))
    dataset = ds.dataset(files)
    quasars = dataset.to_table(columns=[*keys, "z", "flux_r"]).sort_by([("flux_r", "descending")])
    say(f"\nThe {count} brightest, from {results}/parquet")
    say(f"  {'pixel':18s} {'targetid':>18s} {'z':>7s} {'flux_r':>8s}")
    brightest = quasars.slice(0, count).to_pylist()
    for row in brightest:
        name = f"{row['survey']}-{row['program']}-{row['healpix']}"
        say(f"  {name:18s} {row['targetid']:18d} {row['z']:7.4f} {row['flux_r']:8.2f}")
    first = functools.reduce(operator.and_, (ds.field(key) == brightest[0][key] for key in keys))
    columns = ["exposures", "wavelength", "lsf"]
    (row,) = dataset.to_table(columns=columns, filter=first).to_pylist()
    seen = zip(*(row["exposures"][name] for name in ("expid", "night", "exptime")), strict=True)
    each = ", ".join(f"{expid} in the night {night} ({s:.0f} s)" for expid, night, s in seen)
    say(f"The first in exposures {each}")
    at = (0, len(row["lsf"]) // 2, -1)
    widths = (f"{row['lsf'][i]:.3f} at {row['wavelength'][i]:.0f}" for i in at)
    say(f"with lines as wide as sigma (Angstrom) {', '.join(widths)} Angstrom")


def compare_outcomes(results: Path, expected: Mapping[Tile, str]) -> int:
    """Compare each tile's outcome with what was built into the archive; return the exit code."""
    from desi_fits_to_parquet.records import record_tile
    from desi_fits_to_parquet.run.markers import read_markers

    found = {record_tile(marker): marker["outcome"] for marker in read_markers(results)}
    for tile in sorted(expected.keys() | found.keys()):
        if expected.get(tile) != found.get(tile):
            say(f"{tile.name}: expected {expected.get(tile)}, found {found.get(tile)}")
    return int(found != expected)


def say(text: str) -> None:
    """Print to standard output at once, in order with what Snakemake prints."""
    print(text, flush=True)  # noqa: T201  (its only output)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
