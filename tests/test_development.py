"""The map of the code in docs/development.md is that of the code."""

import re
from pathlib import Path

from conftest import REPOSITORY

PACKAGE = REPOSITORY / "src/desi_fits_to_parquet"
TEXT = (REPOSITORY / "docs/development.md").read_text()
HOUSE = TEXT.split("## The house")[1].split("\nRules of the house")[0]
ROOMS, CHANGES = re.findall(r"(?:^\|.*\n)+", HOUSE, re.M)


def rows(table: str) -> list[list[str]]:
    """Cells of a table, without its head."""
    lines = table.splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^` ]+)`", text)


def test_every_package_and_every_module_outside_of_one_is_on_the_map() -> None:
    there = {path.stem for path in PACKAGE.glob("*.py")} | {
        path.parent.name for path in PACKAGE.glob("*/__init__.py")
    }
    named = {name.split(".")[0] for row in rows(ROOMS) for name in quoted(row[0] + row[2])}
    assert named == there - {"__init__"}, "the first table of docs/development.md is out of date"


def test_every_module_on_the_map_is_there_and_in_its_package() -> None:
    for package, _, modules in rows(ROOMS):
        names = quoted(modules)
        assert names, package
        for name in names:
            assert (PACKAGE / name.replace(".", "/")).with_suffix(".py").is_file(), name
            assert package == "vocabulary" or name.split(".")[0] in quoted(package)


def test_every_file_that_the_documentation_of_the_code_names_is_there() -> None:
    """Paths from the repository or from the package; a pattern must match something."""
    for name in quoted(TEXT):
        if re.fullmatch(r"[\w./*-]+\.(py|smk|yaml|csv|md)|[\w/-]+/", name):
            found = [path for root in (REPOSITORY, PACKAGE) for path in root.glob(name)]
            assert found or list(PACKAGE.rglob(name)), name


def test_the_test_that_a_change_leads_to_is_there() -> None:
    for change, where, tests in rows(CHANGES):
        assert quoted(where), change
        assert [name for name in quoted(tests) if Path(name).parent.name == "tests"], change
