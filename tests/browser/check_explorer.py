"""The explorer in headless Chromium, over the demo's results: `make test-browser`."""

from collections.abc import Iterator
from typing import Any

import chromium
import pyarrow.dataset as ds
import pytest

from desi_fits_to_parquet.explorer.serve import make_server, page_address

pytestmark = [
    pytest.mark.skipif(bool(chromium.why_not()), reason=chromium.why_not()),
    pytest.mark.timeout(120),
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with chromium.running(make_server(chromium.DEMO)) as server:
        yield page_address(server)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium.chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """An empty page; whatever a test does with it, it must not complain."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    found = chromium.complaints(page)
    yield page
    page.close()
    assert not found


@pytest.fixture(scope="module")
def catalog() -> list[dict[str, Any]]:
    """All rows of the demo's catalogue, some columns."""
    files = sorted(map(str, (chromium.DEMO / "catalog/dataset").rglob("Npix=*.parquet")))
    assert files, "the demo has no results: make demo"
    columns = ["targetid", "z", "flux_r", "spectype", "survey", "program", "healpix"]
    rows: list[dict[str, Any]] = ds.dataset(files).to_table(columns=columns).to_pylist()
    return rows


def open_page(page: Any, address: str, link: str = "") -> None:
    """Open the explorer; return when the first spectrum is drawn."""
    page.goto(f"{address}{link}")
    page.wait_for_function(
        "document.title.match(/^-?[0-9]+,/) && !document.querySelector('#plot[aria-busy]')"
    )


def test_the_demo_opens_with_a_spectrum(
    page: Any, address: str, catalog: list[dict[str, Any]]
) -> None:
    open_page(page, address)
    assert page.inner_text("#count").startswith(f"{len(catalog)} spectra in ")
    assert int(page.inner_text("#name")) in {row["targetid"] for row in catalog}
    assert page.locator("#list tbody tr").count() == len(catalog)
