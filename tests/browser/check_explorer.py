"""The explorer in headless Chromium, over the demo's results: `make test-browser`."""

import csv
import mimetypes
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import chromium
import large_catalog
import numpy as np
import pyarrow.compute as pc
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

READING_ENDED = "/ of .*[0-9)]$/.test(document.getElementById('found').textContent)"
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
    page.wait_for_function(f"{A_SPECTRUM_IS_SHOWN} && {READING_ENDED}")


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
        ("tile", "sv3-dark", lambda row: (row["survey"], row["program"]) == ("sv3", "dark")),
        ("tile", "6/10000", lambda row: row["healpix"] == 10000),
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


@pytest.mark.parametrize(("field", "value"), [("tile", "main-dusk"), ("targetid", "x")])
def test_a_filter_that_means_nothing_says_so_and_finds_nothing(
    page: Any, address: str, field: str, value: str
) -> None:
    open_page(page, address)
    page.fill(f"#filters [name={field}]", value)
    page.wait_for_function("document.getElementById('found').textContent === '0 of 50'")
    assert page.locator(f"#filters [name={field}]:invalid").count() == 1


def test_a_pixel_without_targets_says_what_became_of_it(page: Any, address: str) -> None:
    open_page(page, address)
    page.fill("#filters [name=tile]", "main-dark-10005")
    page.wait_for_function("/^0 of/.test(document.getElementById('found').textContent)")
    assert "missing source, redrock-main-dark-10005.fits: not in the arch" in page.inner_text(
        "#found"
    )


@pytest.mark.parametrize("column", ["targetid", "z", "r"])
def test_the_table_is_sorted_both_ways(
    page: Any, address: str, catalog: list[Row], column: str
) -> None:
    def key(row: Row) -> float:
        return -row["flux_r"] if column == "r" else row[column]

    rising = [row["targetid"] for row in sorted(catalog, key=key)]
    open_page(page, address)
    page.click(f"[data-sort={column}]")
    assert shown(page) == rising
    page.click(f"[data-sort={column}]")
    assert shown(page) == rising[::-1]


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


def test_dragging_with_shift_takes_the_lines_along(
    page: Any, address: str, catalog: list[Row]
) -> None:
    row = next(row for row in catalog if 1.5 < row["z"] < 2)
    open_page(page, address, link_to(row))
    box = page.locator("#plot canvas").bounding_box()
    before = label_places(page)
    line = min(before, key=lambda wave: abs(before[wave] - 400))
    y = box["y"] + box["height"] / 2
    page.keyboard.down("Shift")
    page.mouse.move(box["x"] + before[line], y)
    page.mouse.down()
    page.mouse.move(box["x"] + before[line] + 50, y)
    page.mouse.up()
    page.keyboard.up("Shift")
    assert label_places(page)[line] == pytest.approx(before[line] + 50, abs=1)


def test_brackets_move_the_redshift_a_little(page: Any, address: str, catalog: list[Row]) -> None:
    z = catalog[0]["z"]
    open_page(page, address)
    for key, by in (("]", 0.001), ("[", 0), ("}", 0.0001)):
        page.keyboard.press(key)
        assert float(page.input_value("#z-number")) == pytest.approx(z + by * (1 + z), abs=1e-5)


def test_verdicts_are_kept_and_saved_as_csv(page: Any, address: str, catalog: list[Row]) -> None:
    open_page(page, address)
    page.keyboard.press("4")
    page.keyboard.press("n")
    wait_for_target(page, catalog[1]["targetid"])
    page.keyboard.press("]")
    page.keyboard.press("1")
    page.fill("#verdict [name=comment]", 'noise, "blend"')
    z = page.input_value("#z-number")
    page.reload()
    page.wait_for_function(A_SPECTRUM_IS_SHOWN)
    assert page.locator("#list tr[data-quality]").count() == 2
    with page.expect_download() as download:
        page.click("text=Save CSV (2)")
    with Path(download.value.path()).open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["TARGETID"], first["VI_QUALITY"]) == (str(catalog[0]["targetid"]), "4")
    assert float(first["VI_Z"]) == pytest.approx(catalog[0]["z"], abs=1e-6)
    assert (second["VI_QUALITY"], second["VI_COMMENT"]) == ("1", 'noise, "blend"')
    assert float(second["VI_Z"]) == pytest.approx(float(z), abs=1e-5)


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


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (1024, 700), (390, 844)])
def test_nothing_lies_outside_of_the_window(
    page: Any, address: str, catalog: list[Row], width: int, height: int
) -> None:
    page.set_viewport_size({"width": width, "height": height})
    open_page(page, address)
    size = page.evaluate(
        "(({ scrollWidth, scrollHeight }) => [scrollWidth, scrollHeight])(document.documentElement)"
    )
    assert size[0] == width
    if width < 1000:  # it is read from above to below there; a click leads to the spectrum
        page.locator("#list tbody tr").nth(1).click()
        wait_for_target(page, catalog[1]["targetid"])
        page.wait_for_function(
            "Math.abs(document.getElementById('target').getBoundingClientRect().y) < 50"
        )
        return
    assert size[1] == height
    for element in page.locator("button:visible, input:visible, select:visible").all():
        if element.evaluate("element => !element.closest('.scroll, #fits')"):
            box = element.bounding_box()
            assert 0 <= box["x"] <= box["x"] + box["width"] <= width, element
            assert 0 <= box["y"] <= box["y"] + box["height"] <= height, element
    plot = page.locator("#plot").bounding_box()
    assert plot["height"] > 280


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


N_LARGE = 1_500_000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A served collection of as many targets as DR1 has quasars."""
    results = tmp_path_factory.mktemp("large") / "results"
    large_catalog.write_results(chromium.DEMO, results, N_LARGE)
    with chromium.running(make_server(results)) as server:
        yield results, page_address(server)


def test_a_catalogue_of_a_million_and_a_half_is_read_in_parts(
    page: Any, large: tuple[Path, str]
) -> None:
    results, address = large
    received: list[Any] = []
    page.on("requestfinished", lambda request: received.append(request))
    page.set_default_timeout(60_000)

    def megabytes() -> float:
        return sum(request.sizes()["responseBodySize"] for request in received) / 1e6

    open_page(page, address)
    assert page.inner_text("#count") == "1,500,000 spectra in 12,000 pixels"
    assert megabytes() < 5

    # one target, wherever it is
    index = pq.read_table(results / "catalog_targetid/dataset/index/part.0.parquet")
    targetid = index["targetid"][len(index) // 3].as_py()
    before = megabytes()
    page.fill("#filters [name=targetid]", str(targetid))
    page.wait_for_function(
        f"document.querySelector('#list tbody tr td')?.textContent === '{targetid}'"
    )
    assert megabytes() - before < 5

    # all of them, on demand
    page.fill("#filters [name=targetid]", "")
    page.click("#read-all")
    page.wait_for_function(
        "document.getElementById('found').textContent === '1,500,000 of 1,500,000'"
    )
    catalog = sum(path.stat().st_size for path in (results / "catalog").rglob("*.parquet")) / 1e6
    assert megabytes() < 0.25 * catalog
    page.click("[data-sort=z]")
    page.click("[data-sort=z]")
    page.wait_for_function("document.querySelector('[aria-sort=descending]')")
    page.locator("#list tbody td:nth-child(2)").first.wait_for()
    falling = [float(z) for z in page.locator("#list td:nth-child(2)").all_inner_texts()]
    assert falling == sorted(falling, reverse=True)
    highest = ds.dataset(str(results / "catalog/dataset"), exclude_invalid_files=True)
    assert falling[0] == pytest.approx(pc.max(highest.to_table(["z"])["z"]).as_py(), abs=1e-3)
