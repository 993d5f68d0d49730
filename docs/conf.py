"""The documentation's site: `make docs` builds it into results/docs."""

import csv
import importlib.util
import os
import re
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

DOCS = Path(__file__).resolve().parent
REPOSITORY = DOCS.parent
sys.path[:0] = [str(REPOSITORY / "src"), str(REPOSITORY / "examples/voids")]
os.environ.setdefault("DEMO", str(REPOSITORY / "results/demo"))

from desi_fits_to_parquet import __version__

project = "desi-fits-to-parquet"
author = "the authors of desi-fits-to-parquet"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["tutorials", "_build"]
default_role = "code"
html_theme = "pydata_sphinx_theme"
html_title = f"{project} {version}"
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False, "show_nav_level": 1}
html_sidebars = {"index": [], "made/readme": []}
html_show_sourcelink = False
html_show_copyright = False
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4
highlight_language = "none"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings tell them
autodoc_mock_imports = ["torch"]
napoleon_google_docstring = False
napoleon_use_ivar = True

PACKAGES = {"05_lsdb": "lsdb", "07_training": "torch"}
"""What a tutorial needs beside the environment of the tests: without it only its code is shown."""

runnable = [
    path.stem
    for path in sorted((DOCS / "tutorials").glob("[0-9]*.py"))
    if importlib.util.find_spec(PACKAGES.get(path.stem, "numpy"))
]
sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "learn",
    "filename_pattern": f"/({'|'.join(runnable)})",
    "ignore_pattern": r"__init__",
    "download_all_examples": False,
    "show_signature": False,
    "min_reported_time": 1e9,
    "show_memory": False,
    "write_computation_times": False,
    "reset_modules": ("matplotlib",),
    "copyfile_regex": "",
    "abort_on_example_error": True,
    "within_subsection_order": "FileNameSortKey",
    "capture_repr": (),
}
suppress_warnings = ["misc.highlighting_failure"]  # DuckDB's structs are not in Pygments' SQL

PAGES = {
    "README.md": "made/readme.md",
    "CHANGELOG.md": "made/changelog.md",
    "CONTRIBUTING.md": "made/contributing.md",
    "examples/redshift/README.md": "made/redshift.md",
    "examples/voids/README.md": "made/voids.md",
    "docs/tutorials": "learn/index.rst",
}
"""Files outside of the site's folder, and the pages of the site that they become."""


def relink(text: str, file: Path, page: Path) -> str:
    """Return a Markdown text with its links to files as a page of the site needs them.

    Parameters
    ----------
    text
        What `file` holds.
    file
        Where it stands in the repository; its links are relative to that.
    page
        Where it stands in the site's folder.
    """

    def local(match: re.Match[str]) -> str:
        target, hash_, anchor = match[1].partition("#")
        there = (file.parent / target).resolve()
        if not target or ":" in target or not there.exists():
            return match[0]
        name = there.relative_to(REPOSITORY).as_posix()
        there = DOCS / PAGES[name] if name in PAGES else there
        return f"]({os.path.relpath(there, page.parent)}{hash_}{anchor})"

    parts = re.split(r"(^```.*?^```)", text, flags=re.M | re.S)
    return "".join(
        part if i % 2 else re.sub(r"\]\(([^)\s]+)\)", local, part) for i, part in enumerate(parts)
    )


def relink_page(app: Any, name: str, content: list[str]) -> None:
    """Hand the links of a page that stands in docs/ to the pages that other files became."""
    path = DOCS / f"{name}.md"
    if path.exists() and path.parent == DOCS:
        content[0] = relink(content[0], path, path)


def cell(value: Any) -> str:
    """Return a text that a Markdown table can hold."""
    return str(value).replace("|", "\\|").replace("\n", " ")


def allowed(schema: dict[str, Any]) -> str:
    """Say in words what a setting may be."""
    if "enum" in schema:
        return ", ".join(f"`{yaml_word(value)}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{yaml_word(schema['const'])}`"
    if "anyOf" in schema or "oneOf" in schema:
        return " or ".join(map(allowed, schema.get("anyOf", schema.get("oneOf", []))))
    types = schema.get("type", [])
    words = " or ".join([types] if isinstance(types, str) else types)
    bounds = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to"}
    words += "".join(f" {word} {schema[key]}" for key, word in bounds.items() if key in schema)
    return f"{words} of {allowed(schema['items'])}" if "items" in schema else words


def yaml_word(value: Any) -> str:
    """Return a value as it stands in a configuration file."""
    line = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return line.strip().removesuffix("...").strip()


def settings_page() -> str:
    """Return the reference of all settings, from their schema."""
    lines = [
        "# Settings",
        "",
        "Every setting of the workflow, what it allows and its default. In a file they are YAML;",
        "on the command line `--config transfer='{attempts: 3}'`. What is not here is refused.",
        "",
    ]
    schema = yaml.safe_load((REPOSITORY / "config/schema.yaml").read_text())

    def rows(name: str, one: dict[str, Any]) -> list[str]:
        if "properties" in one:
            return [
                row for key, of in one["properties"].items() for row in rows(f"{name}.{key}", of)
            ]
        default = f"`{yaml_word(one['default'])}`" if "default" in one else ""
        cells = (f"`{name}`", allowed(one), default, one.get("description", ""))
        return [f"| {' | '.join(map(cell, cells))} |"]

    head = ["| setting | allowed | default | meaning |", "| --- | --- | --- | --- |"]
    single = {key: one for key, one in schema["properties"].items() if "properties" not in one}
    lines += [
        "## General",
        "",
        *head,
        *(row for key, one in single.items() for row in rows(key, one)),
    ]
    for key, one in schema["properties"].items():
        if key not in single:
            words = one.get("description", "")
            lines += [
                "",
                f"## {key}",
                "",
                *([words[:1].upper() + words[1:] + ".", ""] if words else []),
            ]
            lines += [*head, *rows(key, one)]
    return "\n".join(lines) + "\n"


def columns_page() -> str:
    """Return the reference of all columns of DESI's tables, from their one definition."""
    lines = [
        "# Columns",
        "",
        "Every column of DESI's tables that is known, with type, unit, UCD and meaning. In the",
        "Parquet names are in lower case; [the record](../data-model.md) tells which are there.",
        "",
    ]
    path = REPOSITORY / "src/desi_fits_to_parquet/columns.csv"
    with path.open(newline="") as stream:
        table = list(csv.DictReader(stream))
    for (file, name), rows in groupby(table, lambda row: (row["file"], row["extname"])):
        lines += ["", f"## {file}: {name}", "", "| column | type | unit | UCD | meaning |"]
        lines.append("| --- | --- | --- | --- | --- |")
        for row in rows:
            cells = (f"`{row['column']}`", row["type"], row["unit"], row["ucd"], row["description"])
            lines.append(f"| {' | '.join(map(cell, cells))} |")
    return "\n".join(lines) + "\n"


def make_pages(app: Any) -> None:
    """Write the pages that are made of other files; one that is the same is left alone."""
    pages = {"made/settings.md": settings_page(), "made/columns.md": columns_page()}
    for name, page in PAGES.items():
        file = REPOSITORY / name
        if file.is_file():
            pages[page] = relink(file.read_text(), file, DOCS / page)
    for page, text in pages.items():
        path = DOCS / page
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def setup(app: Any) -> None:
    """Connect what makes and relinks pages."""
    app.connect("builder-inited", make_pages, priority=100)
    app.connect("source-read", relink_page)
