"""Measure the explorer over catalogues of 1.5 and of 5 million targets, in headless Chromium.

Run by `make benchmark-explorer`. Writes results/benchmark/explorer.json and prints the same as a
table. The catalogues are made of the demo's (`tests/browser/large_catalog.py`), which has to be in
results/demo; server and browser share the machine, so seconds are those of reading and drawing.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from needs import check_needs

REPOSITORY = Path(__file__).resolve().parents[1]
# before the imports that are found there
sys.path[:0] = [str(REPOSITORY / "tests"), str(REPOSITORY / "tests/browser")]

import chromium  # noqa: E402
import large_catalog  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from desi_fits_to_parquet.explorer.serve import make_server, page_address  # noqa: E402
from desi_fits_to_parquet.files import write_json  # noqa: E402

SIZES = {"1.5": 1_500_000, "5": 5_004_000}
"""Rows, a multiple of the tiles, by how many million they are."""

MEANINGS = {
    "open_s": "from the address to the first spectrum",
    "open_mb": "what that reads, the page itself included",
    "read_mb": "what is read without being asked for",
    "targetid_s": "one TARGETID typed, until it stands in the table",
    "targetid_mb": "what that reads",
    "all_s": "all rows read, on demand",
    "all_mb": "what that reads",
    "sort_s": "all rows sorted by redshift",
    "next_s": "the next target by its key, spectrum and fits drawn",
    "heap_mb": "memory of the page's objects at the end, arrays not counted",
}


def main() -> None:
    """Measure both sizes, print them, write them."""
    check_needs(2, Path(tempfile.gettempdir()))
    if reason := chromium.why_not():
        raise SystemExit(f"This benchmark needs Chromium: {reason}.")
    figures: dict[str, dict[str, float]] = {}
    with chromium.chromium() as browser:
        for name, rows in SIZES.items():
            with tempfile.TemporaryDirectory(prefix="benchmark-explorer-") as folder:
                results = Path(folder) / "results"
                large_catalog.write_results(chromium.DEMO, results, rows)
                with chromium.running(make_server(results)) as server:
                    figures[name] = measure(browser, page_address(server), results, rows)
    print(f"{'':12}" + "".join(f"{name:>8} M" for name in figures))
    for key, meaning in MEANINGS.items():
        values = "".join(f"{one[key]:10.2f}" for one in figures.values())
        print(f"{key:12}{values}  {meaning}")
    path = REPOSITORY / "results/benchmark/explorer.json"
    write_json(path, figures)
    print(f"written to {path.relative_to(REPOSITORY)}")


def measure(browser: Any, address: str, results: Path, rows: int) -> dict[str, float]:
    """Open the explorer and do what a user does."""
    figures: dict[str, float] = {}
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(300_000)
    received: list[Any] = []
    page.on("requestfinished", lambda request: received.append(request))

    def megabytes() -> float:
        return sum(request.sizes()["responseBodySize"] for request in received) / 1e6

    def wait(condition: str) -> None:
        page.wait_for_function(condition)

    drawn = "document.title.match(/^[0-9]+,/) && !document.querySelector('#plot[aria-busy]')"
    read = "/ of .*[0-9)]$/.test(document.getElementById('found').textContent)"

    started = time.monotonic()
    page.goto(address)
    wait(drawn)
    figures["open_s"], figures["open_mb"] = time.monotonic() - started, megabytes()
    wait(read)
    figures["read_mb"] = before = megabytes()

    index = pq.read_table(results / "catalog_targetid/dataset/index/part.0.parquet")
    targetid = str(index["targetid"][len(index) // 3].as_py())
    started = time.monotonic()
    page.fill("#filters [name=targetid]", targetid)
    wait(f"document.querySelector('#list tbody tr td')?.textContent === '{targetid}'")
    figures["targetid_s"], figures["targetid_mb"] = (
        time.monotonic() - started,
        megabytes() - before,
    )
    page.fill("#filters [name=targetid]", "")
    wait("document.querySelectorAll('#list tbody tr').length > 1")

    before, started = megabytes(), time.monotonic()
    page.click("#read-all")
    wait(f"document.getElementById('found').textContent === '{rows:,} of {rows:,}'")
    figures["all_s"], figures["all_mb"] = time.monotonic() - started, megabytes() - before
    started = time.monotonic()
    page.click("[data-sort=z]")
    wait("document.querySelector('[aria-sort]')")
    figures["sort_s"] = time.monotonic() - started
    started = time.monotonic()
    page.keyboard.press("n")
    wait(f"document.querySelector('#list [aria-current]') && {drawn}")
    figures["next_s"] = time.monotonic() - started
    figures["heap_mb"] = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
    page.close()
    return figures


if __name__ == "__main__":
    main()
