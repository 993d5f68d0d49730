"""The report as a PDF of pages of A4, for a printer or a paper's supplement: `make report-pdf`."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from desi_fits_to_parquet.files import atomic_path
from desi_fits_to_parquet.report.files import PAGE

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
"""Programs that print a page without a window."""


class NoBrowser(Exception):
    """There is nothing here that prints a page."""


def print_report(results: Path) -> Path:
    """Print the report of a run into `report/report.pdf`, with a browser that is installed.

    Parameters
    ----------
    results
        The results folder.

    Returns
    -------
    Path
        The PDF.

    Raises
    ------
    FileNotFoundError
        Where there is no report.
    NoBrowser
        Where no browser is found.
    RuntimeError
        Where the browser writes no PDF; the message ends with what it said.
    """
    page = results / "report" / PAGE
    if not page.is_file():
        raise FileNotFoundError(f"{page} is not there: name a results folder whose run has ended")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise NoBrowser(
            f"no browser that prints by itself is on the PATH ({', '.join(BROWSERS)}): open {page} "
            "in any browser and print it, it has pages of A4"
        )
    target = page.with_name("report.pdf")
    with tempfile.TemporaryDirectory() as profile, atomic_path(target) as temporary:
        done = subprocess.run(  # noqa: S603  (the browser of this machine, on our own page)
            [
                browser,
                "--headless",
                *(["--no-sandbox"] if os.geteuid() == 0 else []),  # which root cannot have
                f"--user-data-dir={profile}",
                "--no-pdf-header-footer",
                f"--print-to-pdf={temporary.resolve()}",
                page.resolve().as_uri(),
            ],
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
        )
        if not temporary.is_file():
            raise RuntimeError(f"{browser} wrote no PDF: {done.stderr.strip()[-500:]}")
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report of the results folder that is named; return the exit code."""
    parser = argparse.ArgumentParser(description="Print the report of a run as PDF, A4.")
    parser.add_argument("results", type=Path, help="folder of the results")
    try:
        print(print_report(parser.parse_args(arguments).results))  # noqa: T201  (its output)
    except (FileNotFoundError, NoBrowser, RuntimeError, subprocess.TimeoutExpired) as error:
        print(error, file=sys.stderr)  # noqa: T201  (for the person who typed the command)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
