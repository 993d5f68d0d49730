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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from desi_fits_to_parquet.config import load_config
from desi_fits_to_parquet.outcomes import OUTCOMES
from desi_fits_to_parquet.run.stop import COMMAND, NAMES
from desi_fits_to_parquet.run.summary import read_run
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
            say(
                "A small simulated DESI archive goes through the real workflow: a minute or two.\n"
                "Some of its files are broken or missing on purpose: failures are meant.\n"
            )
            archive_folder, log = Path(scratch, "archive"), Path(scratch, "snakemake.log")
            archive_folder.mkdir()
            with step("simulating the archive"):
                expected = simulate_demo_archive(archive_folder, layout=layout)
            with serve_archive(archive_folder, settings["archive"]["bucket"]) as endpoint:
                archive = f"{{endpoint: '{endpoint}', prefix: '{DEMO_PREFIXES[layout]}'}}"
                code = run_snakemake("--cores", "all", archive=archive, results=results, log=log)
            if code not in (0, *STOPPED):
                say(log.read_text(errors="replace"))
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


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say what is done meanwhile, and how long it took."""
    begun = time.monotonic()
    terminal = sys.stdout.isatty()
    if terminal:
        print(f"  {what} ...", end="", flush=True)  # noqa: T201
    yield
    say(("\r" if terminal else "") + f"  {what:40s} {time.monotonic() - begun:4.0f} s")


def run_snakemake(*arguments: str, archive: str, results: Path, log: Path) -> int:
    """Run Snakemake with the demo's configuration, to its end when this process is stopped too.

    What the run tells of itself is shown, a line a step; what Snakemake says goes into `log`.
    """
    command = [
        sys.executable, "-m", "snakemake", *arguments, "--quiet", "all",
        "--snakefile", str(WORKFLOW / "Snakefile"),
        "--configfile", str(CONFIG), "--config", f"archive={archive}",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", COMMAND: "make demo"}
    with log.open("w") as stream:
        process = subprocess.Popen(  # noqa: S603  (the workflow itself)
            command, env=environment, stdout=stream, stderr=subprocess.STDOUT
        )
    ending = "\nRunning tiles finish, no more are begun; the same again ends at once."

    def end(*_: object) -> None:
        say(ending)

    def end_both(*_: object) -> None:
        process.terminate()
        say(ending)

    # A terminal's Ctrl-C reaches Snakemake as well.
    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end_both)
    try:
        doing, ended = "starting Snakemake", False
        while not ended:
            with step(doing):
                now = doing
                while now == doing and not ended:
                    time.sleep(0.1)
                    ended = process.poll() is not None
                    run = read_run(results)
                    now = (run.doing if run else "") or doing
                doing = now
        return process.returncode
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, _interrupt)


def print_summary(summary: Mapping[str, Any], results: Path, seconds: float) -> None:
    """Print what the run did: tiles by outcome, bytes in and out, where to look."""
    say(f"\n{sum(summary['outcomes'].values())} tiles by outcome")
    for outcome, meaning in OUTCOMES.items():
        if summary["outcomes"][outcome]:
            say(f"  {summary['outcomes'][outcome]:5d}  {outcome:15s} {meaning}")
    archive, fetched, written = (
        size_text(summary[f"bytes_{what}"]) for what in ("archive", "fetched", "parquet")
    )
    saved = percent_text(summary["reduction_percent"])
    say(
        f"{summary['n_rows']} quasars in {seconds:.0f} s: {archive} in the archive, {fetched} "
        f"fetched, {written} of Parquet ({saved} less)\n\n"
        f"Explore  {os.path.relpath(sys.executable)} -m desi_fits_to_parquet serve {results} "
        "--open    (the spectra in a browser)\n"
        f"Report   {results}/report/index.html    (open it in a browser)\n"
        f"Parquet  {results}/parquet\n"
        f'Open it  lsdb.open_catalog("{results}")    (LSDB; all targets, the spectra beside them)\n'
        f"         duckdb.sql(\"FROM '{results}/catalog/dataset/**/*.parquet'\")    (DuckDB)"
    )


def print_quasars(results: Path, count: int = 3) -> None:
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
