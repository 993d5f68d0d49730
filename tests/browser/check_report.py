"""The report in headless Chromium, over the demo's results: `make test-browser`."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromium
import pytest
from conftest import REPOSITORY

from desi_fits_to_parquet.explorer.serve import make_server, page_address
from desi_fits_to_parquet.report.files import PAGE, PLOTS, SECTIONS
from desi_fits_to_parquet.report.pdf import print_report
from desi_fits_to_parquet.units import percent_text, size_text

pytestmark = [
    pytest.mark.skipif(bool(chromium.why_not()), reason=chromium.why_not()),
    pytest.mark.timeout(120),
]

WINDOWS = [(1440, 900), (1024, 700)]

REPORT = chromium.DEMO / "report"

# Where each thing that is shown reaches beyond the page's width, or cannot be reached by scrolling.
OUTSIDE = """() => [...document.querySelectorAll("main *, nav, nav *")].filter(thing => {
  if (thing.closest("svg") && thing.tagName !== "svg") return false;  // clips what is drawn
  const frame = thing.closest("pre, .table"), box = thing.getBoundingClientRect();
  if (frame && frame !== thing) return false;  // scrolls by itself
  return box.width && (box.left < 0 || box.right > innerWidth + 0.5 || box.top + scrollY < 0);
}).map(thing => thing.outerHTML.slice(0, 200))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium.chromium() as browser:
        yield browser


@pytest.fixture(params=WINDOWS, ids=lambda size: f"{size[0]}x{size[1]}")
def page(request: pytest.FixtureRequest, browser: Any) -> Iterator[Any]:
    """The report as a file, opened in a window; nothing in it may complain or ask the network."""
    width, height = request.param
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(15_000)
    found, asked = chromium.complaints(page), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((REPORT / PAGE).as_uri())
    yield page
    page.close()
    assert not found
    assert asked == [(REPORT / PAGE).as_uri()]


def test_the_report_leads_with_the_answer_as_the_terminal_writes_it(page: Any) -> None:
    summary = json.loads((REPORT / "summary.json").read_text())
    assert page.title() == "50 DESI quasars"
    text = page.locator("#overview").inner_text()
    assert text.startswith("50 DESI quasars out of 26 tiles")
    assert f"{size_text(summary['bytes_archive'])} in the archive" in text
    assert f"({percent_text(summary['reduction_percent'])} less)" in text
    window = page.viewport_size["height"]
    for shown in (".cards", "h1"):
        box = page.locator(f"#overview {shown}").bounding_box()
        assert box["y"] + box["height"] < window, "seen without scrolling"
    for told in ("4 tiles failed", "retry_failed", "serve results/demo --open"):
        assert told in text
    assert page.locator("#overview figure svg").is_visible()
    assert page.locator("#overview a").get_attribute("href").endswith("/explorer/")


def test_the_four_lines_of_the_report_draw_a_spectrum(browser: Any, tmp_path: Path) -> None:
    page = browser.new_page()
    page.goto((REPORT / PAGE).as_uri())
    lines = page.locator("#overview pre").first.inner_text()
    page.close()
    assert len(lines.strip().splitlines()) == 4
    code = lines.replace("results/demo", str(chromium.DEMO))
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert (tmp_path / "spectrum.png").stat().st_size > 10_000


def test_a_report_that_is_served_leads_to_the_explorer_beside_it(browser: Any) -> None:
    page = browser.new_page()
    with chromium.running(make_server(chromium.DEMO)) as server:
        page.goto(page_address(server).replace("/explorer/", "/report/"))
        assert page.locator("#overview a").get_attribute("href") == page_address(server)
        with page.expect_popup() as opened:
            page.locator("#overview a").click()
        opened.value.wait_for_selector("#plot")
        opened.value.close()
    page.close()


def test_every_section_and_figure_is_reached_and_nothing_lies_outside(page: Any) -> None:
    window = page.viewport_size
    assert page.evaluate("document.documentElement.scrollWidth") <= window["width"]
    assert page.evaluate(OUTSIDE) == []
    for name, section in SECTIONS.items():
        page.locator(f'nav a[href="#{name}"]').click()
        page.wait_for_function(
            f"Math.abs(document.getElementById('{name}').getBoundingClientRect().top) < 40"
            " || scrollY + innerHeight >= document.documentElement.scrollHeight - 2"
        )
        for plot in section.plots:
            figure = page.locator(f"#figure-{plot}")
            figure.scroll_into_view_if_needed()
            words = figure.locator("figcaption")
            assert PLOTS[plot].title in words.inner_text()
            if figure.get_attribute("class") == "missing":
                continue
            picture = figure.locator("svg").bounding_box()
            assert picture["height"] < 0.8 * window["height"], "seen as a whole"
            assert picture["height"] > 100
            gap = words.bounding_box()["y"] - picture["y"] - picture["height"]
            assert 0 <= gap < 20, "the caption stands with its figure"


def test_the_table_of_all_tiles_is_sorted_and_searched(page: Any) -> None:
    table = page.locator("#tiles [data-table]")
    table.locator("input").fill("corrupt_source sha256")
    assert table.locator("tbody tr").count() == 1
    table.locator("input").fill("")
    table.get_by_role("button", name="tile", exact=True).click()
    names = table.locator("tbody td:first-child").all_inner_texts()
    dark = [int(name.removeprefix("main-dark-")) for name in names if "main-dark" in name]
    assert dark == sorted(dark), "by number"
    size = table.get_by_role("button", name="in the archive (MB)")
    size.click()
    size.click()
    column = [head.strip() for head in table.locator("th").all_inner_texts()]
    place = next(k for k, head in enumerate(column) if head.startswith("in the archive")) + 1
    cells = table.locator(f"tbody td:nth-child({place})").all_inner_texts()
    assert cells == sorted(cells, key=float, reverse=True)
    assert all(re.fullmatch(r"\d+\.\d\d", cell) for cell in cells), "one way of rounding"


def test_the_report_prints_on_pages_of_a4() -> None:
    printed = print_report(chromium.DEMO).read_bytes()
    pages = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", printed)
    assert 8 <= len(pages) <= 20
    assert {(round(float(w)), round(float(h))) for w, h in pages} == {(595, 842)}


@pytest.mark.parametrize("size", WINDOWS, ids=lambda size: f"{size[0]}x{size[1]}")
def test_snakemakes_own_report_shows_it_first_and_whole(
    browser: Any, size: tuple[int, int], tmp_path: Path
) -> None:
    wrapped = tmp_path / "report.html"
    command = [sys.executable, "-m", "snakemake", "--report", str(wrapped), "--quiet", "all"]
    subprocess.run(
        [*command, "--configfile", "config/demo.yaml"], check=True, cwd=REPOSITORY,
        capture_output=True,
    )  # fmt: skip
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.goto(wrapped.as_uri())
    frame = page.locator("iframe.report")
    box = frame.bounding_box()
    assert box["y"] == 0
    assert (box["x"] + box["width"], box["height"]) == size
    within = frame.content_frame
    assert within.locator("h1").inner_text() == "50 DESI quasars out of 26 tiles"
    within.locator('nav a[href="#gallery"]').click()
    within.locator("#figure-gallery_1 svg").wait_for()
    assert within.locator("h1").count() == 1, "still the report"
    page.close()
