"""Debian's headless Chromium, driven by Playwright, for as long as a block lasts.

Playwright's own browsers are not used: they come from no package registry. Root on Debian gets the
package where it is missing.
"""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from conftest import REPOSITORY

DEMO = REPOSITORY / "results/demo"
"""What `make demo` made: the tests open what a newcomer opens."""

NAMES = ("chromium", "chromium-browser")


def find() -> str | None:
    """Return the path of Chromium, if it is installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def why_not() -> str:
    """Say in a sentence why Chromium cannot be started here; empty where it can."""
    if find():
        return ""
    os_release = Path("/etc/os-release")
    if not (os_release.is_file() and "debian" in os_release.read_text()):
        return "there is no chromium on the PATH; only on Debian is it installed from here"
    if os.geteuid() != 0:
        return "there is no chromium on the PATH, and installing it is root's work"
    return ""


def install() -> str:
    """Return the path of Chromium, which Debian's package brings where it is missing.

    Raises
    ------
    subprocess.CalledProcessError
        Where the package cannot be installed; apt's own message is on stderr.
    """
    if not find():
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], check=True, env=quiet)
        subprocess.run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"],
            check=True, env=quiet, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    return str(find())


@contextmanager
def chromium() -> Iterator[Any]:
    """Start the browser; pages are made with its `new_page`."""
    from playwright.sync_api import sync_playwright

    # as root, Chromium runs without its sandbox alone
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=install(), args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def running(server: ThreadingHTTPServer) -> Iterator[ThreadingHTTPServer]:
    """Let a server answer, in a thread, for as long as the block lasts."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def complaints(page: Any) -> list[str]:
    """Return a list that receives each error of a page and each line that it writes as one."""
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("console", lambda line: found.append(line.text) if line.type == "error" else None)
    page.on(
        "requestfailed",
        lambda request: found.append(f"{request.url}: {request.failure}"),
    )
    return found
