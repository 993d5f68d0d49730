"""The explorer in headless Chromium, over the demo's results: `make test-browser`."""

import mimetypes
import re
from collections.abc import Iterator
from typing import Any

import boto3
import chromium
import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from botocore import UNSIGNED
from botocore.config import Config

from desi_fits_to_parquet.explorer.serve import make_server, page_address
from desi_fits_to_parquet.simulate.serve import serve_archive

pytestmark = [
    pytest.mark.skipif(bool(chromium.why_not()), reason=chromium.why_not()),
    pytest.mark.timeout(120),
]

Row = dict[str, Any]

A_SPECTRUM_IS_SHOWN = (
    "document.title.match(/^-?[0-9]+,/) && !document.querySelector('#plot[aria-busy]')"
)


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
    page.set_default_timeout(15_000)
    found = chromium.complaints(page)
    yield page
    page.close()
    assert not found


@pytest.fixture(scope="module")
def catalog() -> list[Row]:
    """All rows of the demo's catalogue in its order, some columns."""
    folder = chromium.DEMO / "catalog/dataset"
    files = sorted(folder.rglob("Npix=*.parquet"), key=lambda path: _place(str(path)))
    assert files, "the demo has no results: make demo"
    columns = ["targetid", "z", "flux_r", "spectype", "survey", "program", "healpix", "file", "row"]
    rows: list[Row] = ds.dataset(list(map(str, files))).to_table(columns=columns).to_pylist()
    return rows


def open_page(page: Any, address: str, link: str = "") -> None:
    """Open the explorer; return when a spectrum is drawn."""
    page.goto(f"{address}{link}")
    page.wait_for_function(A_SPECTRUM_IS_SHOWN)


def link_to(row: Row, **more: object) -> str:
    """Return the part of the address that shows a target."""
    name = f"{row['survey']}-{row['program']}-{row['healpix']}"
    given = {"target": row["targetid"], "in": name, **more}
    return "#" + "&".join(f"{key}={value}" for key, value in given.items())


def shown(page: Any) -> list[int]:
    """TARGETIDs in the table, from above."""
    return [int(text) for text in page.locator("#list tbody td:first-child").all_inner_texts()]


def wait_for_target(page: Any, targetid: int) -> None:
    page.wait_for_function(
        f"document.getElementById('name').textContent === '{targetid}'"
        " && !document.querySelector('#plot[aria-busy]')"
    )


def label_places(page: Any) -> dict[float, float]:
    """Place in the plot of each line whose name is shown, by its rest wavelength."""
    labels = page.locator("#plot .labels span").evaluate_all(
        "spans => spans.map(span => [span.title, parseFloat(span.style.left)])"
    )
    return {float(re.findall(r"[\d.]+ Å", title)[0][:-2]): place for title, place in labels}


def spectrum_of(row: Row) -> Row:
    table = pq.read_table(chromium.DEMO / row["file"], columns=["wavelength", "ivar"])
    return {name: np.asarray(table[name][row["row"]].values) for name in table.column_names}


def _place(path: str) -> tuple[int, int]:
    order, pixel = re.findall(r"Norder=(\d+)/.*Npix=(\d+)\.", path)[0]
    return int(pixel) << 2 * (29 - int(order)), int(order)


def test_the_demo_opens_with_a_spectrum(page: Any, address: str, catalog: list[Row]) -> None:
    open_page(page, address)
    assert page.inner_text("#count").startswith(f"{len(catalog)} spectra in ")
    assert shown(page) == [row["targetid"] for row in catalog]
    assert int(page.inner_text("#name")) == catalog[0]["targetid"]
    assert not page.is_visible("#error")


@pytest.mark.parametrize(
    ("field", "value", "passes"),
    [
        ("zMin", "2.1", lambda row: row["z"] >= 2.1),
        ("zMax", "1.2", lambda row: row["z"] <= 1.2),
        ("rMax", "20.5", lambda row: 22.5 - 2.5 * np.log10(row["flux_r"]) <= 20.5),
        ("tile", "main-dark-5", lambda row: (row["program"], row["healpix"]) == ("dark", 5)),
        ("targetid", "39627833126965256", lambda row: row["targetid"] == 39627833126965256),
    ],
)
def test_a_filter_leaves_what_passes_it(
    page: Any, address: str, catalog: list[Row], field: str, value: str, passes: Any
) -> None:
    expected = [row["targetid"] for row in catalog if passes(row)]
    assert 0 < len(expected) < len(catalog)
    open_page(page, address)
    page.fill(f"#filters [name={field}]", value)
    page.wait_for_function(
        f"document.getElementById('found').textContent === '{len(expected)} of {len(catalog)}'"
    )
    assert shown(page) == expected


def test_the_filter_of_classes_offers_those_that_there_are(page: Any, address: str) -> None:
    open_page(page, address)
    page.select_option("#filters [name=spectype]", "QSO")
    assert page.locator("#filters [name=spectype] option").all_inner_texts() == ["any", "QSO"]
    assert page.inner_text("#found") == "50 of 50"


def test_a_click_shows_the_spectrum_and_its_lines_where_the_redshift_puts_them(
    page: Any, address: str, catalog: list[Row]
) -> None:
    row = next(row for row in catalog if 2.4 < row["z"] < 2.8)
    open_page(page, address)
    page.click(f"#list tbody tr:has-text('{row['targetid']}')")
    wait_for_target(page, row["targetid"])
    names = page.locator("#plot .labels span").all_inner_texts()
    assert {"Lyα", "C IV", "C III]", "Mg II"} <= set(names)  # noqa: RUF001
    assert f"z = {row['z']:.4f}" in page.inner_text("#summary")
    places = label_places(page)
    waves = np.array(sorted(places))
    offsets = np.array([places[wave] for wave in waves])
    # the axis is linear: all lines lie on it as their wavelengths do
    slope, zero = np.polyfit(waves * (1 + row["z"]), offsets, 1)
    assert np.abs(slope * waves * (1 + row["z"]) + zero - offsets).max() < 0.5
    wavelength = spectrum_of(row)["wavelength"]
    ends = slope * wavelength[[0, -1]] + zero
    box = page.locator("#plot canvas").bounding_box()
    assert 0 < ends[0] < 100 < box["width"] - 100 < ends[1] < box["width"]


def test_the_slider_moves_the_lines(page: Any, address: str, catalog: list[Row]) -> None:
    row = next(row for row in catalog if 1.5 < row["z"] < 2)
    open_page(page, address, link_to(row))
    before = label_places(page)
    (first, last) = (min(before), max(before))
    scale = (before[last] - before[first]) / ((last - first) * (1 + row["z"]))
    slider = page.locator("#z-slider").bounding_box()
    page.mouse.move(slider["x"] + slider["width"] / 3, slider["y"] + slider["height"] / 2)
    page.mouse.down()
    page.mouse.up()
    z = float(page.input_value("#z-number"))
    assert abs(z - row["z"]) > 0.01
    after = label_places(page)
    common = before.keys() & after.keys()
    assert common
    for wave in common:
        assert after[wave] - before[wave] == pytest.approx(scale * wave * (z - row["z"]), abs=1)
    page.click("#z-reset")
    assert label_places(page) == before


def test_keys_go_to_the_next_target_and_back(page: Any, address: str, catalog: list[Row]) -> None:
    open_page(page, address)
    targets = [row["targetid"] for row in catalog]
    for key, place in (("n", 1), ("j", 2), ("p", 1), ("k", 0)):
        page.keyboard.press(key)
        wait_for_target(page, targets[place])
        current = page.locator("#list tr[aria-current]").inner_text()
        assert current.startswith(str(targets[place]))


def test_the_address_brings_everything_back(
    page: Any, browser: Any, address: str, catalog: list[Row]
) -> None:
    open_page(page, address)
    page.fill("#filters [name=zMin]", "2.1")
    page.click("[data-sort=z]")
    quasars = sorted((row for row in catalog if row["z"] >= 2.1), key=lambda row: row["z"])
    page.wait_for_function(f"document.querySelectorAll('#list tbody tr').length == {len(quasars)}")
    page.keyboard.press("n")
    wait_for_target(page, quasars[0]["targetid"])
    page.keyboard.press("a")
    page.keyboard.press("r")
    page.keyboard.press("+")
    page.fill("#z-number", "2.5")
    page.wait_for_function("location.hash.includes('z=2.5') && location.hash.includes('from=')")
    other = browser.new_page(viewport={"width": 1440, "height": 900})
    open_page(other, page.url)
    other.wait_for_function("document.querySelector('#list tr[aria-current]')")

    def state(of: Any) -> list[Any]:
        return [
            of.inner_text("#name"), of.input_value("#filters [name=zMin]"), shown(of),
            float(of.input_value("#z-number")), of.is_checked("#absorption"),
            of.is_checked("#rest"), label_places(of), of.inner_text("#list tr[aria-current]"),
        ]  # fmt: skip

    assert state(other) == state(page)
    other.close()


def test_masked_pixels_are_marked(page: Any, address: str, catalog: list[Row]) -> None:
    row = catalog[0]
    good = spectrum_of(row)["ivar"] > 0
    wavelength = spectrum_of(row)["wavelength"]
    open_page(page, address, link_to(row, **{"from": 5000, "to": 5600}))
    inside = ~good[(wavelength > 5000) & (wavelength < 5600)]
    runs = int(np.count_nonzero(np.diff(inside.astype(int)) == 1) + inside[0])
    assert runs > 1
    marks = page.evaluate(
        """() => {
            const canvas = document.querySelector("#plot canvas");
            const pen = canvas.getContext("2d");
            pen.fillStyle = getComputedStyle(canvas).getPropertyValue("--mark");
            const colour = [1, 3, 5].map((at) => parseInt(pen.fillStyle.slice(at, at + 2), 16));
            let most = 0;
            for (let y = 0; y < canvas.height; y++) {
                const { data } = pen.getImageData(0, y, canvas.width, 1);
                let runs = 0;
                let inside = false;
                for (let x = 0; x < canvas.width; x++) {
                    const is = colour.every((value, k) => Math.abs(data[4 * x + k] - value) < 40);
                    runs += is && !inside;
                    inside = is;
                }
                most = Math.max(most, runs);
            }
            return most;
        }"""
    )
    assert marks == runs
    masked = np.count_nonzero(~good)
    assert f", {masked} masked pixels," in page.get_attribute("#plot canvas", "aria-label")


def test_a_spectrum_costs_a_fraction_of_its_file(
    page: Any, address: str, catalog: list[Row]
) -> None:
    received: list[Any] = []
    page.on("requestfinished", lambda request: received.append(request))
    open_page(page, address)
    first = sum(request.sizes()["responseBodySize"] for request in received)
    assert first < 700_000  # of which 220 kB are the page
    page.keyboard.press("n")
    wait_for_target(page, catalog[1]["targetid"])
    more = sum(request.sizes()["responseBodySize"] for request in received) - first
    assert more < 200_000


def test_the_page_beside_the_data_works_in_a_bucket(page: Any, catalog: list[Row]) -> None:
    with serve_archive(chromium.DEMO, "results") as endpoint:
        client = boto3.client(
            "s3", endpoint_url=endpoint, config=Config(signature_version=UNSIGNED)
        )
        for path in (chromium.DEMO / "explorer").iterdir():  # typed, as each tool that uploads does
            client.upload_file(
                path, "results", f"explorer/{path.name}",
                {"ContentType": mimetypes.guess_type(path)[0], "ACL": "public-read"},
            )  # fmt: skip
        open_page(page, f"{endpoint}/results/explorer/index.html")
        assert shown(page) == [row["targetid"] for row in catalog]
