"""What the documentation's site is made of; `make docs` builds it without a warning."""

import csv
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY

DOCS = REPOSITORY / "docs"


@pytest.fixture
def conf(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    monkeypatch.setenv("DEMO", "somewhere")
    return runpy.run_path(str(DOCS / "conf.py"))


def test_every_page_stands_in_the_contents() -> None:
    """Sphinx warns of a page that is in none, which ends `make docs`."""
    listed = {
        line.strip().removesuffix(">").split("<")[-1]
        for path in DOCS.glob("*.md")
        for block in re.findall(r"^```{toctree}\n(.*?)^```", path.read_text(), re.M | re.S)
        for line in block.splitlines()
    }
    assert {path.stem for path in DOCS.glob("*.md")} - {"index"} <= listed


def test_the_page_of_settings_names_each_with_its_default_and_meaning(conf: Any) -> None:
    text = conf["settings_page"]()

    def check(name: str, schema: dict[str, Any]) -> None:
        for key, one in schema["properties"].items():
            if "properties" in one:
                check(f"{name}{key}.", one)
            else:
                (row,) = re.findall(rf"^\| `{re.escape(name + key)}` \|.*$", text, re.M)
                assert one["description"].replace("|", "\\|") in row, key
                assert f"`{conf['yaml_word'](one['default'])}`" in row, key

    check("", yaml.safe_load((REPOSITORY / "config/schema.yaml").read_text()))


def test_the_page_of_columns_names_each(conf: Any) -> None:
    text = conf["columns_page"]()
    with (REPOSITORY / "src/desi_fits_to_parquet/columns.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(re.findall(r"^\| `", text, re.M)) == len(rows) > 100


def test_links_to_files_of_the_repository_lead_to_their_pages(conf: Any) -> None:
    relink, page = conf["relink"], DOCS / "made/readme.md"
    text = relink(
        "[a](docs/reader.md#x) [b](https://x.org) [c](CHANGELOG.md) [d](LICENSE) [e](#f)"
        " [g](docs/tutorials/)\n```\n[code](docs/reader.md)\n```\n",
        REPOSITORY / "README.md",
        page,
    )
    assert text == (
        "[a](../reader.md#x) [b](https://x.org) [c](changelog.md) [d](../../LICENSE) [e](#f)"
        " [g](../learn/index.rst)\n```\n[code](docs/reader.md)\n```\n"
    )


def test_dead_links_of_the_site_are_named(tmp_path: Path) -> None:
    dead_links = runpy.run_path(str(DOCS / "check_links.py"))["dead_links"]
    (tmp_path / "a.html").write_text(
        '<a href="b.html#there">x</a><a href="b.html#not">x</a><img src="no.png">'
        '<a href="https://x.org/no">x</a><a href="#top">x</a><p id="top">'
    )
    (tmp_path / "b.html").write_text('<p id="there">')
    assert list(dead_links(tmp_path)) == [
        "a.html: b.html#not: no such place in that page",
        "a.html: no.png: no such file",
    ]
