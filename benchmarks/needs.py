"""What a benchmark needs is looked for before it spends time."""

import shutil
from pathlib import Path

DEBIAN = {"nginx": "nginx-light"}
"""Package of each program that no lock brings."""


def program(name: str) -> str | None:
    """Find a program, also where only root looks."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin")


def check_needs(disk_gb: float, folder: Path, *programs: str) -> None:
    """End with the name of everything that is missing.

    Parameters
    ----------
    disk_gb
        Room that the benchmark takes while it runs, in GB.
    folder
        Where it takes it.
    programs
        What has to be installed beside the environment.

    Raises
    ------
    SystemExit
        Where anything is missing.
    """
    missing = [
        f"{name} (Debian: apt-get install {DEBIAN[name]})" for name in programs if not program(name)
    ]
    free = shutil.disk_usage(folder).free / 1e9
    if free < disk_gb:
        missing.append(f"{disk_gb:g} GB of disk in {folder}, where {free:.1f} GB are free")
    if not Path("/proc/self/status").exists():
        missing.append("Linux: peak memory is read from /proc")
    if missing:
        raise SystemExit(f"This benchmark needs {'; '.join(missing)}.")
