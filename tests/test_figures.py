"""The figures and pages: drawn from any data, safe to open, and true to what they show."""

import contextlib
import json
import re
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy_healpix import HEALPix
from report_markers import SETTINGS, marker, write_run

from desi_fits_to_parquet.outcomes import OUTCOMES
from desi_fits_to_parquet.paths import parquet_folder, parquet_path
from desi_fits_to_parquet.report import build, figures
from desi_fits_to_parquet.report import content as content_figures
from desi_fits_to_parquet.report.content import stack_spectra
from desi_fits_to_parquet.report.files import SECTIONS
from desi_fits_to_parquet.report.html import html_page, missing_figure, plain_table, search_table
from desi_fits_to_parquet.report.outliers import tiles_worth_a_look
from desi_fits_to_parquet.report.pages import outcomes_parts, provenance_parts
from desi_fits_to_parquet.report.sample import LOG_GRID, choose_gallery, read_sample, read_spectrum
from desi_fits_to_parquet.report.sky import (
    SHAPE,
    draw_sky_outcomes,
    draw_sky_spectra,
    find_patches,
    inverse_mollweide,
    mollweide,
    paint_cells,
)
from desi_fits_to_parquet.report.style import NothingToDraw, histogram_edges, save_figure, styled
from desi_fits_to_parquet.tile import LAYOUTS, Tile

TILES = [Tile("main", "dark", 10_000 + i) for i in range(3)]


def table_of(markers):
    frame = pd.DataFrame(markers).drop(columns=["bytes_causes", "sources", "audit"])
    return frame.astype({"n_targets": float, "n_rows": float})


def outcomes_of(tiles):
    return html_page("Tiles", *outcomes_parts(tiles))


def draw_gallery(sample):
    return content_figures.draw_gallery(sample, 1)


def write_parquet(folder, tile, prefixes, n_rows=5, row_group=2, columns=("flux_r",), seed=0):
    """Write a file like those of the fusion, with a line of flux 100 at pixel 10 of row 3."""
    rng = np.random.default_rng([seed, tile.number])
    data = {
        "targetid": np.arange(n_rows) + 1000 * tile.number,
        "z": rng.uniform(0.5, 4, n_rows),
        "spectype": ["QSO", "GALAXY", "STAR", "QSO", "QSO"][:n_rows],
    }
    if "flux_r" in columns:
        data["flux_r"] = rng.uniform(-0.1, 10, n_rows)
    for k, prefix in enumerate(prefixes):
        flux = rng.normal(5, 1, (n_rows, 60))
        flux[3, 10] = 100
        data[f"{prefix}wavelength"] = [3600 + 2000 * k + 0.8 * np.arange(60)] * n_rows
        data[f"{prefix}flux"] = list(flux.astype("f4"))
        data[f"{prefix}ivar"] = list(np.ones((n_rows, 60), "f4"))
        data[f"{prefix}mask"] = list(np.eye(n_rows, 60, dtype="i4"))
    path = parquet_path(tile, parquet_folder(folder, tile))
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table(data), path, row_group_size=row_group)
    return path


@pytest.mark.parametrize("prefixes", [("",), ("b_", "r_", "z_")], ids=["combined", "arms"])
def test_spectra_are_read_from_the_right_row_group_and_row(tmp_path, prefixes):
    path = write_parquet(tmp_path, TILES[0], prefixes)
    spectra = read_spectrum(str(path), 1, 1)
    assert len(spectra) == len(prefixes)
    for spectrum in spectra:
        assert spectrum.flux[10] == 100
        assert np.isnan(spectrum.sigma[3]), "a masked pixel has no sigma"
        assert np.isfinite(spectrum.sigma).sum() == 59


@pytest.mark.parametrize("prefixes", [("",), ("b_", "r_", "z_")], ids=["combined", "arms"])
def test_content_is_drawn_for_combined_and_for_separate_arms(tmp_path, prefixes):
    for tile in TILES:
        write_parquet(tmp_path, tile, prefixes)
    tiles = table_of([marker(tile, "converted") for tile in TILES])
    sample = read_sample(tiles, tmp_path)
    assert (len(sample.rows), sample.n_files, sample.n_converted) == (15, 3, 3)
    assert sample.measured.snr.between(3, 7).all()
    for draw in (
        content_figures.draw_redshifts,
        content_figures.draw_brightness,
        content_figures.draw_spectypes,
        draw_gallery,
    ):
        save_figure(lambda draw=draw: draw(sample), tmp_path / "figure.svg")
        ET.parse(tmp_path / "figure.svg")  # noqa: S314  (our own figure)


def test_content_without_photometry_is_drawn_all_the_same(tmp_path):
    write_parquet(tmp_path, TILES[0], ("",), columns=())
    sample = read_sample(table_of([marker(TILES[0], "converted")]), tmp_path)
    assert sample.rows.flux_r.isna().all()
    save_figure(lambda: content_figures.draw_brightness(sample), tmp_path / "figure.svg")


def test_a_damaged_parquet_is_named(tmp_path):
    path = write_parquet(tmp_path, TILES[0], ("",))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"main-dark-10000\.parquet.*snakemake verify"):
        read_sample(table_of([marker(TILES[0], "converted")]), tmp_path)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e300, -1e300])
def test_one_target_of_odd_redshift_and_flux_ends_no_figure_of_the_content(tmp_path, value):
    path = write_parquet(tmp_path, TILES[0], ("",))
    columns = pq.read_table(path).to_pydict()
    columns["z"][1] = columns["flux_r"][1] = value
    columns["flux"][1][20], columns["ivar"][1][20] = 3e38, 1e-38
    columns["ivar"][2] = [0.0] * 60
    pq.write_table(pa.table(columns), path)
    sample = read_sample(table_of([marker(TILES[0], "converted")]), tmp_path)
    with styled():
        for draw in (
            content_figures.draw_redshifts,
            content_figures.draw_redshift_magnitude,
            content_figures.draw_brightness,
            content_figures.draw_spectypes,
            draw_gallery,
        ):
            draw(sample).draw_without_rendering()
        redshifts = content_figures.draw_redshifts(sample)
    assert "1 not drawn: z is not from -1 to 20" in redshifts.axes[0].get_title("left")


def test_a_figure_that_cannot_be_drawn_says_so_in_its_place(tmp_path, caplog):
    def fail():
        raise ValueError("it is \x1b[31m<red> & long" + " word" * 300)

    told = save_figure(fail, tmp_path / "figure.svg")
    assert told.startswith("This figure cannot be drawn: it is \\x1b[31m<red> & long word")
    assert len(told) < 1000
    assert not (tmp_path / "figure.svg").exists()
    assert "figure.svg cannot be drawn" in caplog.text
    assert "&lt;red&gt; &amp; long" in missing_figure("figure", "Title", told)


def test_a_damaged_parquet_costs_the_report_its_figures_of_the_content_alone(tmp_path):
    path = write_parquet(tmp_path, TILES[0], ("",))
    path.write_bytes(path.read_bytes()[:-100])
    write_run(tmp_path, markers=[marker(TILES[0], "converted")])
    build.build_report(tmp_path, tmp_path / "report", SETTINGS)
    page = (tmp_path / "report" / "index.html").read_text()
    missing = dict(re.findall(r'<figure id="figure-(\w+)" class="missing">(.*?)</figure>', page))
    failed = {name for name, text in missing.items() if "cannot be drawn" in text}
    assert failed == {*SECTIONS["spectra"].plots, *SECTIONS["gallery"].plots}
    assert all("snakemake verify" in missing[name] for name in failed)
    assert "All tiles" in page


def test_the_gallery_spans_the_redshifts_and_takes_the_clearest():
    measured = pd.DataFrame(
        {"z": np.linspace(0, 4, 40), "targetid": range(40), "snr": np.tile([1.0, 9, 2, np.nan], 10)}
    )
    chosen = choose_gallery(measured, 10)
    assert chosen.snr.eq(9).all()
    assert np.diff(chosen.z).min() > 0
    assert choose_gallery(measured.iloc[:0], 12).empty
    assert len(choose_gallery(measured.iloc[:2], 12)) == 2


def test_the_composite_has_its_line_where_it_is_at_rest():
    rng = np.random.default_rng(1)
    observed = 10**LOG_GRID
    z = rng.uniform(0.8, 3.5, 30)
    binned = []
    for redshift in z:
        rest = observed / (1 + redshift)
        flux = rng.uniform(0.3, 30) * (rest**-1.0 + 2e-3 * np.exp(-(((rest - 1549) / 20) ** 2)))
        binned.append(np.where((observed > 3600) & (observed < 9800), flux, np.nan))
    stack = stack_spectra(z, binned)
    continuum = stack.flux * stack.wavelength
    assert stack.wavelength[np.argmax(continuum)] == pytest.approx(1549, abs=2)
    away = abs(stack.wavelength - 1549) > 100
    assert np.ptp(continuum[away]) < 0.02 * continuum[away].mean(), "whatever the objects' fluxes"
    assert (stack.high / stack.low)[away].max() < 1.05


def test_what_is_the_same_for_all_is_a_sentence_and_no_figure(tmp_path):
    path = write_parquet(tmp_path, TILES[0], ("",))
    columns = pq.read_table(path).to_pydict() | {"spectype": ["QSO"] * 5}
    pq.write_table(pa.table(columns), path)
    tiles = table_of([marker(TILES[0], "converted")])
    sample = read_sample(tiles, tmp_path)
    with styled(), pytest.raises(NothingToDraw, match=r"All 5 spectra .* are of class QSO"):
        content_figures.draw_spectypes(sample)
    errors = ["max_flux_error_sigma", "mean_flux_error_sigma", "max_ivar_error_relative"]
    with styled(), pytest.raises(NothingToDraw, match="Nothing was rounded"):
        figures.draw_rounding(tiles.assign(**dict.fromkeys(errors, 0.0)), SETTINGS["precision"])
    with styled():
        calm = figures.draw_speed(tiles.assign(retries=0, throttled=0))
    assert len(calm.axes) == 2, "no panel of retries"


@pytest.mark.parametrize("n", [1, 2, 9, 50, 1000, 100_000])
def test_a_histogram_has_fewer_bins_than_objects(n):
    edges = histogram_edges(np.random.default_rng(n).normal(size=n))
    assert len(edges) - 1 <= max(1, n)
    assert len(edges) - 1 <= 60


def test_the_projection_keeps_areas_and_the_frame():
    x, y = mollweide(np.array([0.0, np.pi, 0.0]), np.array([0.0, 0.0, np.pi / 2]))
    np.testing.assert_allclose(x, [0, 2 * np.sqrt(2), 0], atol=1e-5)
    np.testing.assert_allclose(y, [0, 0, np.sqrt(2)], atol=1e-5)
    # a belt between the equator and 30 degrees holds a quarter of the sphere
    lat = np.linspace(0, np.pi / 6, 2001)
    x, y = mollweide(np.full(lat.size, np.pi), lat)
    assert np.trapezoid(2 * x, y) == pytest.approx(np.pi, rel=1e-4)


def test_inverse_projection_leads_back_and_knows_no_place_outside_of_the_frame():
    lon, lat = np.meshgrid(np.linspace(-3.1, 3.1, 30), np.linspace(-1.5, 1.5, 30))
    np.testing.assert_allclose(inverse_mollweide(*mollweide(lon, lat)), (lon, lat), atol=1e-5)
    assert np.isnan(inverse_mollweide(np.array([2.8]), np.array([1.0]))).all()


def share_painted(image):
    """Painted share of the sphere, which the map keeps: the frame is an ellipse in the image."""
    return np.isfinite(image).sum() / (np.pi / 4 * image.size)


@pytest.mark.parametrize("order", [0, 3, 6, 8])
def test_cells_of_every_order_have_their_true_areas(order):
    n = 12 * 4**order
    cells = np.arange(n // 3, n // 2)
    image = paint_cells(order, cells, cells)
    assert share_painted(image) == pytest.approx(len(cells) / n, rel=0.01)


def test_a_cell_smaller_than_the_images_pixels_is_painted():
    image = paint_cells(12, [77_000_000], [5])
    assert image[np.isfinite(image)].tolist() == [5]


def test_a_cell_at_the_edge_of_the_map_is_painted_at_both_sides():
    # right ascension 300 is where the map is cut: a pixel there stretches over both ends
    edge = HEALPix(64, order="nested").lonlat_to_healpix(300 * u.deg, 0.3 * u.deg)
    columns = np.flatnonzero(np.isfinite(paint_cells(6, [int(edge)], [1])).any(axis=0))
    assert {0, SHAPE[1] - 1} <= set(columns)
    assert all((columns < 10) | (columns > SHAPE[1] - 11))


def image_of(figure):
    return figure.axes[0].images[0].get_array().filled(np.nan)


def tile_at(order, pixel):
    return Tile("main", "dark", LAYOUTS["uniqpix"].number(order, pixel), "uniqpix")


def test_a_failed_tile_lies_above_a_converted_one_of_another_order():
    coarse, fine = tile_at(4, 100), tile_at(6, 16 * 100 + 5)
    for failed, other in ((coarse, fine), (fine, coarse)):
        tiles = table_of([marker(failed, "unreachable"), marker(other, "converted")])
        with styled():
            image = image_of(draw_sky_outcomes(tiles))
        shown = np.isfinite(paint_cells(failed.order, [failed.pixel], [0]))
        assert (image[shown] == list(OUTCOMES).index("unreachable")).all()
        assert share_painted(image) == pytest.approx(1 / (12 * 4**4), rel=0.03)


def test_spectra_are_told_per_area_and_added_up_over_orders_surveys_and_programs():
    numbers = {tile_at(5, 70): 80, **{tile_at(6, 4 * 71 + k): 20 for k in range(4)}}
    over = {Tile("sv3", "dark", tile_at(7, 16 * 71).number, "uniqpix"): 10}
    tiles = table_of(
        [marker(t, "converted") | {"n_rows": n} for t, n in {**numbers, **over}.items()]
    )
    with styled():
        image = image_of(draw_sky_spectra(tiles))
    area = 4 * np.pi * np.degrees(1) ** 2 / (12 * 4**5)
    found = sorted({round(float(value), 3) for value in image[np.isfinite(image)]})
    assert found == [round(80 / area, 3), round((80 + 10 * 16) / area, 3)]


def test_small_parts_of_the_footprint_are_drawn_large_and_a_wide_one_is_not():
    sky = HEALPix(64, order="nested")
    places = [(0.2, 0.0), (359.4, 0.5), (150.0, 60.0)]
    pixels = [int(sky.lonlat_to_healpix(ra * u.deg, dec * u.deg)) for ra, dec in places]
    patches = find_patches(pd.DataFrame({"order": 6, "pixel": pixels}))
    assert [patch.name for patch in patches] == ["A", "B"]
    first = patches[0]
    assert first.east - first.west < 5, "it lies on both sides of right ascension 0"
    assert first.south < 0 < 0.5 < first.north
    assert find_patches(pd.DataFrame({"order": 3, "pixel": range(300)})) == []


def test_labels_of_the_sky_map_cover_no_tile():
    tiles = table_of([marker(Tile("main", "dark", 9_000 + 40 * i), "converted") for i in range(99)])
    with styled():
        figure = draw_sky_outcomes(tiles)
        figure.draw_without_rendering()
    axes = figure.axes[0]
    left, right, bottom, top = axes.images[0].get_extent()
    painted = np.isfinite(image_of(figure))
    for text in axes.texts:
        box = axes.transData.inverted().transform(text.get_window_extent())
        columns = np.clip((box[:, 0] - left) / (right - left) * SHAPE[1], 0, SHAPE[1]).astype(int)
        rows = np.clip((box[:, 1] - bottom) / (top - bottom) * SHAPE[0], 0, SHAPE[0]).astype(int)
        under = painted[rows[0] : rows[1], columns[0] : columns[1]]
        assert not under.any(), text.get_text()


def test_every_outcome_is_in_the_legend_of_the_sky_map():
    tiles = table_of([marker(Tile("main", "dark", 9_000 + i), o) for i, o in enumerate(OUTCOMES)])
    with styled():
        figure = draw_sky_outcomes(tiles)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [f"{outcome} (1)" for outcome in OUTCOMES] + ["Galactic plane"]


def test_waterfall_steps_lead_from_the_archive_to_the_parquet():
    left = {"archive": 1000, "rows_selected": 120, "hdus_read": 30, "encoding": 7}
    steps = figures.waterfall_steps(left)
    assert [step.after for step in steps] == [1000, 120, 30, 7, 7]
    assert [step.before for step in steps[1:]] == [step.after for step in steps[:-1]]
    assert figures.waterfall_steps({}) == []
    lossless = figures.waterfall_steps({"archive": 9, "rounding": 9, "encoding": 7})
    assert [step.label for step in lossless] == ["in the archive", "encoding", "Parquet"]


def test_figures_leave_the_settings_of_matplotlib_alone_and_ignore_them(tmp_path):
    tiles = table_of([marker(tile, "converted") for tile in TILES])
    save_figure(lambda: figures.draw_stages(tiles), tmp_path / "a.svg")
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": "other"}):
        before = dict(mpl.rcParams)
        save_figure(lambda: figures.draw_stages(tiles), tmp_path / "b.svg")
        assert dict(mpl.rcParams) == before
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "<dc:date>" not in (tmp_path / "a.svg").read_text()


UNITS = {
    *("s", "minutes", "hours", "days", "B", "kB", "MB", "GB", "TB", "MB/s", "1/hour"),
    *(
        "%",
        "% of the largest",
        "sigma",
        "0.001 sigma",
        "AB mag",
        "degree",
        "Å",
        r"10$^{-17}$ erg s$^{-1}$ cm$^{-2}$ Å$^{-1}$",
    ),
}
PURE_NUMBERS = {
    "redshift z",
    "archive bytes / Parquet bytes",
    "median flux / sigma of a pixel",
}


def has_unit(label):
    """Whether a label names a known unit, alone or beside a remark, or what is counted."""
    in_brackets = label.removesuffix(")").partition("(")[2].split(", ")
    counted = any(text.startswith("number") for text in (label, *in_brackets))
    return counted or label in PURE_NUMBERS or not UNITS.isdisjoint(in_brackets)


def numbered_axes(figure):
    """Label of each axis that shows numbers; that of the whole figure where it has none."""
    for axes in filter(lambda axes: axes.axison, figure.axes):
        for axis, whole in (
            (axes.xaxis, figure.get_supxlabel()),
            (axes.yaxis, figure.get_supylabel()),
        ):
            shown = [text.get_text() for text in axis.get_ticklabels() if text.get_visible()]
            if any(text[-1:].isdigit() or text.endswith("}$") for text in shown):
                yield axis.get_label_text() or whole


def test_every_axis_of_the_report_has_a_label_with_its_unit(tmp_path, monkeypatch):
    drawn = {}

    def keep(draw, path):
        with styled(), contextlib.suppress(NothingToDraw):
            drawn[path.stem] = draw()
            drawn[path.stem].draw_without_rendering()
        return "kept"

    monkeypatch.setattr(build, "save_figure", keep)
    write_run(tmp_path, markers=[marker(tile, "converted") for tile in TILES])
    for tile in TILES:
        write_parquet(tmp_path, tile, ("",))
    build.build_report(tmp_path, tmp_path / "report", SETTINGS)
    labels = [(name, label) for name, figure in drawn.items() for label in numbered_axes(figure)]
    assert {name for name, _ in labels} >= drawn.keys() - {"sky_outcomes"}
    assert [(name, label) for name, label in labels if not has_unit(label)] == []


@pytest.mark.parametrize("label", ["", "time of a tile", "time (sidereal)", "flux (jansky)"])
def test_a_label_without_a_unit_that_the_report_knows_is_noticed(label):
    assert not has_unit(label)


def test_a_cell_cannot_bring_markup_into_a_page():
    nasty = '</script><img src=x onerror="alert(1)">&'
    rows = [{"reason": nasty}]
    page = html_page(
        nasty, plain_table(rows, {"reason": nasty}), search_table(rows, {"reason": "r"})
    )
    assert "<img" not in page
    data = re.search(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    assert json.loads(data[1])["rows"] == [[nasty]]


def test_pages_need_nothing_from_the_network():
    tiles = table_of([marker(Tile("main", "dark", 9_000 + i), o) for i, o in enumerate(OUTCOMES)])
    page = outcomes_of(tiles)
    assert not re.search(r'(src|href)\s*=\s*["\']?(https?:)?//', page)


def test_like_reasons_are_counted_together():
    markers = [marker(Tile("main", "dark", 9_000 + i), "corrupt_source") for i in range(5)]
    for i, m in enumerate(markers):
        name = f"main-dark-{m['healpix']}"
        m["reason"] = f"coadd-{name}.fits: row {i}, sha256 {i:064x}"
    page = outcomes_of(table_of(markers))
    assert "coadd-TILE.fits: row #, sha256 #" in page
    assert '<td class="number">5</td>' in page


def test_tiles_far_from_their_like_are_listed_and_others_are_not():
    rng = np.random.default_rng(4)
    markers = []
    for i in range(200):
        n = int(rng.integers(3, 2000))
        k = int(rng.binomial(n, 0.12))
        m = marker(Tile("main", "dark", 9_000 + i), "converted" if k else "no_targets")
        markers.append(
            m
            | {
                "n_targets": n,
                "n_rows": k,
                "bytes_archive": n * 448_000,
                "bytes_parquet": round((k + 1) * 18_000 * rng.lognormal(0, 0.05)),
            }
        )
    plain = tiles_worth_a_look(table_of(markers))
    big = max(markers, key=lambda m: m["n_targets"])
    big |= {"n_rows": 0, "outcome": "no_targets"}  # a large tile from which nothing came
    after = tiles_worth_a_look(table_of(markers))
    odd = [line for line in after if line["what"] == "rows / targets"]
    assert "rows / targets" not in {line["what"] for line in plain}
    assert [line["healpix"] for line in odd] == [big["healpix"]]
    assert odd[0]["score"] < -6


def test_provenance_says_release_licence_and_settings():
    page = "".join(provenance_parts(SETTINGS))
    for text in ("DR1", "CC BY 4.0", "acknowledg", "flux_tolerance: 0.125", "snakemake --cores"):
        assert text in page
