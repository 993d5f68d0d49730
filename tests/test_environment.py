"""The conda environment must be the locked one, or a cluster computes with other versions."""

import re
import tomllib

import pytest
import yaml
from conftest import REPOSITORY
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYTHON = {"python_version": "3.12", "python_full_version": "3.12.0"}
ADDED = ("reference", "lsdb", "slurm", "fuzz", "servers", "browser", "peers", "release", "docs")
CONDA_NAMES = {
    "snakemake-minimal": "snakemake",
    "matplotlib-base": "matplotlib",
    "python-duckdb": "duckdb",
}


def locked(file: str) -> dict[str, str]:
    versions = {}
    for line in (REPOSITORY / file).read_text().splitlines():
        if not line.startswith((" ", "#")) and line.strip():
            requirement = Requirement(line.rstrip(" \\"))
            if requirement.marker is None or requirement.marker.evaluate(PYTHON):
                versions[requirement.name] = str(requirement.specifier).removeprefix("==")
    return versions


def direct(extra: str | None = None) -> list[Requirement]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    found = []
    for requirement in map(Requirement, lines):
        if requirement.name == project["name"]:
            found += [each for own in requirement.extras for each in direct(own)]
        else:
            requirement.name = canonicalize_name(requirement.name)
            found.append(requirement)
    return found


def test_conda_environment_has_the_locked_version_of_every_direct_dependency():
    environment = yaml.safe_load((REPOSITORY / "envs/environment.yaml").read_text())
    conda = {}
    for line in environment["dependencies"]:
        name, version = re.fullmatch(r"([a-z0-9-]+) =([0-9.]+)", line).groups()
        conda[CONDA_NAMES.get(name, name)] = version
    assert conda.pop("python") == PYTHON["python_version"]
    lock = locked("requirements.lock")
    needed = {requirement.name for requirement in direct()}
    needed -= {requirement.name for requirement in direct("demo")}
    assert conda == {name: lock[name] for name in needed}


def test_locks_satisfy_the_bounds_of_pyproject():
    for file, extras in (
        ("requirements.lock", (None, "demo", "test")),
        *((f"requirements-{name}.lock", (None, name)) for name in ADDED),
    ):
        lock = locked(file)
        for extra in extras:
            for requirement in direct(extra):
                assert requirement.specifier.contains(lock[requirement.name]), requirement


@pytest.mark.parametrize("name", ADDED)
def test_added_lock_changes_no_version_of_the_lock(name):
    file = f"requirements-{name}.lock"
    lock = locked("requirements.lock")
    shared = {name: v for name, v in locked(file).items() if name in lock}
    assert shared == {name: lock[name] for name in shared}
    assert {requirement.name for requirement in direct()} <= shared.keys()


def test_every_dependency_has_a_bound_above_and_below():
    for extra in (None, "demo", "test", *ADDED):
        for requirement in direct(extra):
            operators = {specifier.operator for specifier in requirement.specifier}
            assert operators == {">=", "<"}, requirement


def test_no_file_of_the_project_names_a_registry():
    for file in (
        "requirements.lock",
        *(f"requirements-{name}.lock" for name in ADDED),
        "tests/servers/package-lock.json",
        "pyproject.toml",
    ):
        text = (REPOSITORY / file).read_text()
        assert "index-url" not in text
        assert '"resolved"' not in text


def test_ci_begins_with_the_two_commands_of_the_readme_in_an_environment_of_their_own():
    promised = re.findall(r"^\$ make (\w+)", (REPOSITORY / "README.md").read_text(), re.M)
    ci = (REPOSITORY / ".ci/run").read_text()
    steps = re.findall(r"^ *step ([\w-]+)", ci, re.M)
    assert steps[:2] == promised[:2] == ["demo", "test"]
    assert ci.index('rm -rf "$VENV"') < ci.index("step demo")
    assert f"/{re.search('VENV=(.*?) ', ci)[1]}/" in (REPOSITORY / ".gitignore").read_text()
