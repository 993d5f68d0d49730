"""The report's tables: complete, exact sums, and refusals that name what is wrong."""

import csv
import json
import os
import re
import time
from html import escape, unescape
from importlib.resources import files
from pathlib import Path

import jsonschema
import pyarrow.parquet as pq
import pytest
import yaml
from report_markers import SETTINGS, marker, write_run

from desi_fits_to_parquet.outcomes import FAILED_OUTCOMES, OUTCOMES
from desi_fits_to_parquet.report.build import build_report
from desi_fits_to_parquet.report.files import (
    FIGURES_FOLDER,
    LANDING,
    PAGE,
    PLOTS,
    SECTIONS,
    TABLES,
)
from desi_fits_to_parquet.report.landing import OBJTYPES, SPECTYPES, overview
from desi_fits_to_parquet.report.pdf import main
from desi_fits_to_parquet.report.tables import SUMMED, add_up, table_rows, write_tiles
from desi_fits_to_parquet.settings import settings_fingerprint
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.tiles_csv import read_tiles

REPO = Path(__file__).parents[1]
SCHEMA = json.loads(files("desi_fits_to_parquet").joinpath("summary.schema.json").read_text())


def build(folder, settings=SETTINGS):
    return build_report(folder, folder / "report", settings)


def totals_of(folder):
    """Make the tables alone, which takes no second."""
    tiles = list(read_tiles(folder / "tiles.csv"))
    rows, left = table_rows(tiles, folder / "validated", settings_fingerprint(SETTINGS))
    return add_up(write_tiles(rows, folder / "report" / "tiles.parquet"), left)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Sixty tiles with every outcome, and their report."""
    folder = tmp_path_factory.mktemp("run")
    markers = write_run(folder, 60)
    return folder, markers, build(folder)


def test_every_file_of_the_list_is_written_and_no_other(run):
    folder, _, _ = run
    expected = {*TABLES, PAGE, LANDING, FIGURES_FOLDER}
    assert {path.name for path in (folder / "report").iterdir()} == expected


def test_every_figure_stands_in_one_section_with_its_caption(run):
    folder, _, _ = run
    placed = [plot for section in SECTIONS.values() for plot in section.plots]
    assert sorted(placed) == sorted(PLOTS)
    assert placed == list(PLOTS), "numbered in the order in which they are read"
    page = (folder / "report" / PAGE).read_text()
    for path in (folder / "report" / FIGURES_FOLDER).iterdir():
        shown = page[page.index(f'<figure id="figure-{path.stem}">') :].partition("</figure>")[0]
        assert escape(PLOTS[path.stem].caption) in shown


def test_every_discovered_tile_has_exactly_one_row(run):
    folder, markers, _ = run
    table = pq.read_table(folder / "report" / "tiles.parquet")
    stated = [
        tuple(row.values()) for row in table.select(["survey", "program", "healpix"]).to_pylist()
    ]
    assert stated == [tile[:3] for tile in read_tiles(folder / "tiles.csv")]
    assert len(stated) == len(markers)


@pytest.mark.parametrize("name", SUMMED)
def test_totals_are_sums_over_markers_and_over_rows(run, name):
    folder, markers, summary = run
    table = pq.read_table(folder / "report" / "tiles.parquet")
    assert summary[name] == pytest.approx(sum(m[name] or 0 for m in markers), rel=1e-12)
    assert summary[name] == pytest.approx(sum(x or 0 for x in table[name].to_pylist()), rel=1e-12)
    if not name.startswith("seconds"):
        assert isinstance(summary[name], int)


def test_outcomes_add_up_to_the_tiles_and_failed_bytes_are_not_lost(run):
    folder, markers, summary = run
    assert set(summary["outcomes"]) == set(OUTCOMES)
    assert all(summary["outcomes"].values()), "the fake run has every outcome"
    assert sum(summary["outcomes"].values()) == summary["tiles"] == len(markers)
    failed = [m for m in markers if m["outcome"] in FAILED_OUTCOMES]
    assert summary["bytes_archive_failed"] == sum(m["bytes_archive"] for m in failed) > 0
    with (folder / "report" / "outcomes.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert sum(int(line["bytes_archive"]) for line in lines) == summary["bytes_archive"]
    assert {line["outcome"]: int(line["tiles"]) for line in lines} == summary["outcomes"]


def test_every_failed_tile_is_listed_with_its_sentence(run):
    folder, markers, _ = run
    with (folder / "report" / "failed.csv").open() as stream:
        listed = {(x["survey"], x["program"], int(x["healpix"])): x for x in csv.DictReader(stream)}
    failed = [m for m in markers if m["outcome"] in FAILED_OUTCOMES]
    assert len(listed) == len(failed)
    for m in failed:
        line = listed[m["survey"], m["program"], m["healpix"]]
        assert (line["outcome"], line["reason"]) == (m["outcome"], m["reason"])


def test_summary_fits_its_schema_and_the_schema_refuses_other_keys(run):
    folder, _, summary = run
    written = json.loads((folder / "report" / "summary.json").read_text())
    assert written == summary
    jsonschema.validate(written, SCHEMA)
    with pytest.raises(jsonschema.ValidationError, match="surprise"):
        jsonschema.validate({**written, "surprise": 1}, SCHEMA)


def test_the_same_markers_give_the_same_bytes(run, tmp_path):
    folder, _, _ = run
    again = tmp_path / "report"
    build_report(folder, again, SETTINGS)
    written = [path for path in (folder / "report").rglob("*") if path.is_file()]
    for path in written:
        place = path.relative_to(folder / "report")
        assert path.read_bytes() == (again / place).read_bytes(), place


def test_a_run_without_tiles_gives_a_whole_report(tmp_path):
    write_run(tmp_path, 0)
    summary = build(tmp_path)
    jsonschema.validate(summary, SCHEMA)
    assert summary["tiles"] == 0
    assert summary["reduction_percent"] is None
    page = (tmp_path / "report" / PAGE).read_text()
    assert [name for name in PLOTS if f'<figure id="figure-{name}"' not in page] == []


def test_a_run_without_converted_tile_gives_a_whole_report(tmp_path):
    write_run(tmp_path, 5, outcomes=("unreachable", "missing_source"))
    summary = build(tmp_path)
    assert summary["failed"] == summary["without_output"] == 5
    assert "0 DESI quasars out of 5 tiles" in (tmp_path / "report" / LANDING).read_text()


def test_a_tile_without_marker_is_named(tmp_path):
    write_run(tmp_path, 4)
    gone = next((tmp_path / "validated").glob("*/*/*.json"))
    gone.unlink()
    name = f"{gone.parent.parent.name}-{gone.parent.name}-{gone.stem}"
    with pytest.raises(ValueError, match=f"1 of 4 discovered tiles have no marker: {name}"):
        build(tmp_path)


def test_a_marker_that_is_not_in_tiles_csv_is_named_and_not_counted(tmp_path):
    write_run(tmp_path, 4)
    path = tmp_path / "validated" / "cmx" / "other" / "7.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(marker(Tile("cmx", "other", 7), "converted")))
    summary = totals_of(tmp_path)
    assert summary["tiles"] == 4
    assert summary["not_in_tiles_csv"] == ["cmx-other-7"]


def test_the_same_pixel_of_other_surveys_is_kept_apart(tmp_path):
    tiles = [Tile("main", "dark", 10402), Tile("sv3", "dark", 10402), Tile("main", "bright", 10402)]
    markers = [marker(tile, "converted") for tile in tiles]
    write_run(tmp_path, markers=markers)
    assert totals_of(tmp_path)["n_rows"] == sum(m["n_rows"] for m in markers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outcome": "fine"}, "outcome 'fine' is none of"),
        ({"bytes_parquet": 0}, "outcome converted contradicts bytes_parquet 0"),
        ({"outcome": "unreachable"}, "outcome unreachable contradicts bytes_parquet"),
        ({"healpix": 5}, "the marker says that it is of main-dark-5"),
        ({"bytes_fetched": "many"}, "wrong type"),
    ],
)
def test_a_marker_that_contradicts_itself_is_refused(tmp_path, change, message):
    wrong = marker(Tile("main", "dark", 4), "converted")
    write_run(tmp_path, markers=[wrong])
    path = tmp_path / "validated" / "main" / "dark" / "4.json"
    path.write_text(json.dumps(wrong | change))
    with pytest.raises(ValueError, match=message):
        build(tmp_path)


def test_a_marker_that_lacks_a_figure_is_refused(tmp_path):
    write_run(tmp_path, markers=[marker(Tile("main", "dark", 4), "converted")])
    path = tmp_path / "validated" / "main" / "dark" / "4.json"
    half = json.loads(path.read_text())
    del half["bytes_fetched"]
    path.write_text(json.dumps(half))
    with pytest.raises(ValueError, match="lacks bytes_fetched"):
        build(tmp_path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"4\.json: not valid JSON"):
        build(tmp_path)


def overview_of(summary, settings=SETTINGS):
    return unescape(re.sub("<.*?>", "", overview(summary, settings, "")))


def test_the_overview_leads_with_the_answer_and_says_what_failed_and_what_to_do(run):
    _, _, summary = run
    text = overview_of(summary)
    assert f"{summary['n_rows']:,} DESI quasars out of 60 tiles" in text
    for outcome in FAILED_OUTCOMES:
        assert f"{summary['outcomes'][outcome]:,} {outcome}: " in text
    assert "retry_failed" in text
    assert "desidata/dr1/spectro/redux/iron" in text
    assert "desi-fits-to-parquet serve results --open" in text


def test_the_run_of_2025_gives_its_true_totals(tmp_path):
    """4,394.05 GiB (4.72 TB), 97.65 %, 2,324 without output: its own summary was wrong."""
    folder = Path(os.environ.get("DESI_WORKLOAD", REPO.parent / "shared" / "workload"))
    source = folder / "run-2025-09-tiles.csv"
    if not source.exists():
        pytest.skip(f"{source} is missing: set DESI_WORKLOAD to the folder that holds it")
    markers = []
    with source.open(newline="") as stream:
        for line in csv.DictReader(stream):
            fits, parquet = (round(float(line[k]) * 2**20) for k in ("fits_mib", "parquet_mib"))
            outcome = "converted" if parquet else "invalid_output"
            m = marker(Tile("main", "dark", int(line["healpix"])), outcome)
            markers.append(
                m | {"bytes_archive": fits, "bytes_fetched": fits, "bytes_parquet": parquet}
            )
    write_run(tmp_path, markers=markers)
    start = time.process_time()  # of this process alone: other work on the machine does not count
    summary = build(tmp_path)
    seconds = time.process_time() - start
    assert summary["tiles"] == 12_207
    assert round(summary["bytes_archive"] / 2**30, 2) == 4394.05
    assert round(summary["reduction_percent"], 2) == 97.65
    assert summary["without_output"] == 2_324
    assert "4.72 TB" in (tmp_path / "report" / LANDING).read_text()
    assert seconds < 20


QUASARS = (
    "the targets of DESI's quasar catalogue (preset desi_qso: QuasarNET above 0.95, "
    "COADD_FIBERSTATUS 0 or 8388608 or 16777216)"
)

EVERY = {"spectypes": ["STAR", "QSO", "GALAXY"], "objtypes": list(OBJTYPES), "zwarn": None}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({}, "the targets with SPECTYPE QSO, OBJTYPE TGT, ZWARN 0"),
        ({"preset": "desi_qso", "spectypes": ["GALAXY"]}, QUASARS),
        ({"preset": "desi_qso", "qso_threshold": 0.99, "qso_fiberstatus": [0, 8]},
         QUASARS.replace("0.95", "0.99").replace("0 or 8388608 or 16777216", "0 or 8")),
        ({"preset": "desi_qso", "z": [2.1, 4], "deltachi2": [9, 1e4]},
         f"{QUASARS} with redshift from 2.1 to 4, DELTACHI2 from 9 to 10000"),
        (EVERY, "all targets"),
        (EVERY | {"spectypes": ["QSO", "STAR"], "targets": ["QSO", "LRG"]},
         "the targets with SPECTYPE QSO or STAR, targeted as QSO or LRG"),
        (EVERY | {"zwarn": ["SKY", "NODATA"], "coadd_fiberstatus": [0, 8]},
         "the targets with no bit of ZWARN but SKY, NODATA, COADD_FIBERSTATUS 0 or 8"),
        (EVERY | {"zwarn": 5}, "the targets with no bit of ZWARN but those of the mask 5"),
    ],
)  # fmt: skip
def test_the_overview_tells_the_selection_that_was_applied(run, change, text):
    _, _, summary = run
    selection = SETTINGS["selection"] | change
    page = overview_of(summary, SETTINGS | {"selection": selection})
    assert f"Asked for: {text}, from desidata" in page


def test_the_overview_tells_of_targets_that_were_left_out(run):
    _, markers, summary = run
    totals = {name: sum(m[name] for m in markers) for name in ("n_no_data", "n_left_out")}
    text = overview_of(summary)
    assert f"{totals['n_no_data']:,} selected targets without data were left out" in text
    assert f"{totals['n_left_out']:,} selected targets were left out for pixels" in text
    converted = {**SETTINGS, "selection": {**SETTINGS["selection"], "no_data": True}}
    assert "targets without data were converted" in overview_of(summary, converted)


def test_all_values_of_a_selection_are_those_that_the_schema_allows():
    schema = yaml.safe_load((REPO / "config/schema.yaml").read_text())
    selection = schema["properties"]["selection"]["properties"]
    assert tuple(selection["spectypes"]["items"]["enum"]) == SPECTYPES
    assert tuple(selection["objtypes"]["items"]["enum"]) == OBJTYPES


@pytest.mark.parametrize("change", [{"settings_fingerprint": "0" * 16}, None])
def test_markers_of_other_settings_are_refused(tmp_path, change):
    tiles = [Tile("main", "dark", number) for number in (4, 5)]
    old = marker(tiles[0], "converted") | (change or {})
    if change is None:  # as version 0.1 wrote them
        del old["settings_fingerprint"]
    write_run(tmp_path, markers=[old, marker(tiles[1], "converted")])
    with pytest.raises(
        ValueError, match=r"1 of 2 tiles were made with other settings.*main-dark-4"
    ):
        build(tmp_path)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("sha256_ok", "rows_ok", "passed"),
    [(True, True, True), (None, True, True), (False, True, False), (None, False, False)],
)
def test_an_audit_without_a_list_of_checksums_is_no_failure(tmp_path, sha256_ok, rows_ok, passed):
    tile = Tile("main", "dark", 4)
    audit = {"checked_bytes": 5, "sha256_ok": sha256_ok, "rows_ok": rows_ok}
    write_run(tmp_path, markers=[marker(tile, "converted") | {"audit": audit}])
    rows, _ = table_rows([tile], tmp_path / "validated", settings_fingerprint(SETTINGS))
    assert rows[0]["audit_passed"] is passed


def test_printing_without_a_browser_or_a_report_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([str(tmp_path)]) == 1
    assert "index.html is not there: name a results folder" in capsys.readouterr().err
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / PAGE).write_text("")
    assert main([str(tmp_path)]) == 1
    assert "in any browser and print it" in capsys.readouterr().err
