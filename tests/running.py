"""Running the real workflow in a copy of the checkout, over an archive on this machine."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from conftest import REPOSITORY

from desi_fits_to_parquet.paths import parquet_folder
from desi_fits_to_parquet.records import record_tile
from desi_fits_to_parquet.run.markers import read_markers as markers_of
from desi_fits_to_parquet.run.repair import clear_tile
from desi_fits_to_parquet.simulate.tile import simulate_tile
from desi_fits_to_parquet.tile import Tile

PREFIX = "dr1/spectro/redux/iron"
BUCKET = "desidata"
CORES = 2

LONGEST_S = 120.0


def folder_of(archive: Path, tile: Tile) -> Path:
    return archive / PREFIX / "healpix" / tile.folder


def write_tile(archive: Path, tile: Tile, **options: Any) -> None:
    options = {"quasar_share": 0.4, "exposures_per_target": 1, "scan_step": 100} | options
    simulate_tile(tile, folder_of(archive, tile), 6, **options)


class Work(NamedTuple):
    """A checkout with its results, and how to run Snakemake in it."""

    folder: Path

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def command(
        self, endpoint: str, *arguments: str, config: str | Sequence[str] = ""
    ) -> list[str]:
        return [
            sys.executable, "-m", "snakemake", "--cores", str(CORES), *arguments, "--config",
            f"archive={{endpoint: '{endpoint}'}}", "tiles={surveys: [main, sv3]}",
            "columns={emline: true}",  # a file that a tile may lack
            "transfer={attempts: 2, timeout_s: 20}",
            *filter(None, [config] if isinstance(config, str) else config),
        ]  # fmt: skip

    def run(
        self, endpoint: str, *arguments: str, config: str | Sequence[str] = "", code: int = 0
    ) -> str:
        done = subprocess.run(
            self.command(endpoint, *arguments, config=config), cwd=self.folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=500, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout
        return done.stdout

    @contextmanager
    def running(
        self, endpoint: str, *config: str, target: str = "tiles", **environment: str
    ) -> "Iterator[subprocess.Popen[str]]":
        """Run in a group of processes of its own, which is killed where the block ends before."""
        with subprocess.Popen(
            [*self.command(endpoint, target), *config], cwd=self.folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            env=os.environ | environment,
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)

    def markers(self) -> dict[Tile, dict[str, Any]]:
        return {record_tile(marker): marker for marker in markers_of(self.results)}

    def parquet(self) -> dict[str, str]:
        """Checksums of the Parquet of all tiles by their path."""
        return {
            str(path.relative_to(self.results)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.results.glob("**/parquet/**/*.parquet"))
        }

    def parquet_path(self, tile: Tile) -> Path:
        return parquet_folder(self.results, tile) / f"{tile.name}.parquet"

    def forget(self, tile: Tile) -> None:
        """Remove what was made of a tile, so that the next run does it again."""
        clear_tile(self.results, tile)

    def begun_jobs(self) -> int:
        """Number that changes whenever a job of a tile begins: the time of the newest log."""
        logs = self.results.glob("logs/*_tile/**/*.log")
        return max((log.stat().st_mtime_ns for log in logs), default=0)

    def leftovers(self) -> list[Path]:
        """Temporary files and FITS, of which a finished run leaves none."""
        return [
            path
            for pattern in ("*.part", "fits/**/*")
            for path in self.results.rglob(pattern)
            if path.is_file()
        ]


def wait_until(true: Callable[[], bool]) -> None:
    """Wait until it is, but no longer than any of these runs takes."""
    ended = threading.Event()
    until = time.monotonic() + LONGEST_S
    while not true():
        assert time.monotonic() < until
        ended.wait(0.05)


def checkout(folder: Path) -> Work:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("Snakefile", "rules", "scripts", "config", "profiles", "report", "envs", "src"):
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name)  # with compiled modules: nobody waits for them
        else:
            shutil.copy(source, folder / name)
    return Work(folder)
