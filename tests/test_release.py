"""What is released: its version, what it imports, and that the workflow goes with it."""

import re
import subprocess
import sys
import tomllib

import yaml
from conftest import REPOSITORY

from desi_fits_to_parquet import __version__
from desi_fits_to_parquet.workflow import PACKED, workflow_folder

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())

LIGHT = ("numpy", "pyarrow", "duckdb", "obstore", "tqdm")
"""What the reader needs, by docs/reader.md."""

IMPORT_S = 0.3
"""So long may importing the reader take, of the processor's time."""


def test_all_that_state_the_version_of_a_checkout_state_the_same() -> None:
    changes = re.search(r"^## (\S+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.M)
    assert changes is not None
    assert changes[1] == __version__
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    fallback = PROJECT["tool"]["versioningit"]["default-version"]
    assert fallback == f"{__version__}.dev0+unknown"


def test_what_the_wheel_packs_is_all_that_the_workflow_reads() -> None:
    packed = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert all(place == f"desi_fits_to_parquet/{PACKED}/{name}" for name, place in packed.items())
    paths = [REPOSITORY / "Snakefile", *(REPOSITORY / "rules").glob("*.smk")]
    text = "".join(path.read_text() for path in paths)
    read = re.findall(r"\"(?:\.\./)+([\w-]+)/[\w./-]+", text)
    read += re.findall(r"\"(rules|config|report)/[\w./-]+\"", text)
    assert set(read) == {name.partition("/")[0] for name in packed} - {"Snakefile", "profiles"}
    assert workflow_folder() == REPOSITORY


def test_reader_imports_nothing_of_the_workflow_and_at_once() -> None:
    code = (
        "import sys, time\n"
        "from desi_fits_to_parquet import open_catalog\n"
        "print(time.process_time(), *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    seconds = min(float(run.stdout.split()[0]) for run in runs)
    imported = set(runs[0].stdout.split()[1:])
    heavy = {
        re.split(r"[<>=\[]", line)[0].replace("-", "_")
        for name in ("workflow", "report", "demo")
        for line in PROJECT["project"]["optional-dependencies"][name]
    }
    assert imported & heavy == set()
    assert seconds < IMPORT_S


def test_reader_needs_what_is_documented() -> None:
    lines = PROJECT["project"]["dependencies"]
    assert tuple(line.partition(">")[0] for line in lines[:-1]) == LIGHT
    assert f"pip install {' '.join(LIGHT)}\n" in (REPOSITORY / "docs/reader.md").read_text()


def test_hooks_before_a_commit_are_the_linters_of_make_lint() -> None:
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (REPOSITORY / "Makefile").read_text(), re.M)
    assert recipe is not None
    linters = [line.strip().removeprefix("@$(BIN)/") for line in recipe[1].splitlines()]
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"][0][
        "hooks"
    ]
    assert [hook["entry"].removeprefix(".venv/bin/") for hook in hooks] == linters
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in hooks)


def test_forms_of_issues_are_whole() -> None:
    forms = sorted((REPOSITORY / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml"))
    assert [path.stem for path in forms] == ["fault", "wish"]
    for path in forms:
        form = yaml.safe_load(path.read_text())
        assert {"name", "description", "body"} <= form.keys()
        ids = [part["id"] for part in form["body"]]
        assert len(ids) == len(set(ids)) > 1


def test_licence_of_the_code_stands_where_reuse_and_where_people_look() -> None:
    there = [REPOSITORY / "LICENSE", REPOSITORY / "LICENSES/BSD-3-Clause.txt"]
    assert there[0].read_bytes() == there[1].read_bytes()
