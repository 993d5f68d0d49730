"""What the tests share: the settings of a default run and the real files, where they are."""

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import pytest

from desi_fits_to_parquet.config import load_config

REPOSITORY = Path(__file__).resolve().parents[1]


def folder_beside(variable: str, default: str) -> Path:
    """Folder named by an environment variable, by default beside the repository."""
    return Path(os.environ.get(variable, REPOSITORY.parent / default))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what compares with other readers where they were not asked for; a broken one fails."""
    if item.get_closest_marker("reference") and not importlib.util.find_spec("desispec"):
        pytest.skip("`make test-reference` installs desispec, specutils, fitsio and redrock")
    if item.get_closest_marker("lsdb") and not importlib.util.find_spec("lsdb"):
        pytest.skip("`make test-lsdb` installs LSDB")
    if item.get_closest_marker("torch") and not importlib.util.find_spec("torch"):
        pytest.skip("`make test-torch` installs PyTorch")


LONGEST = ("test_workflow.py", "test_faults.py", "test_kill.py", "test_machine.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no process works on alone at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def fault_tests() -> set[str]:
    """Names of the tests that `docs/faults.md` names."""
    return set(re.findall(r"`(test_\w+)`", (REPOSITORY / "docs/faults.md").read_text()))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many faults were tried: each case of such a test, or what it records as `faults`."""
    named = fault_tests()
    tried = [
        dict(report.user_properties).get("faults", 1)
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
        if report.nodeid.partition("[")[0].rpartition("::")[2] in named
    ]
    if tried:
        terminalreporter.write_line(f"{sum(tried)} faults were tried in {len(tried)} tests.")


def load_settings() -> dict[str, Any]:
    """Return the defaults, and emline: a table of a file that a tile may lack."""
    settings = load_config(REPOSITORY / "config/schema.yaml")
    settings["columns"]["emline"] = True
    return settings


@pytest.fixture
def defaults() -> dict[str, Any]:
    """A checked configuration with nothing but defaults."""
    return load_config(REPOSITORY / "config/schema.yaml")


@pytest.fixture
def settings() -> dict[str, Any]:
    """The defaults, and emline."""
    return load_settings()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real DESI files; its README says what they are."""
    folder = folder_beside("DESI_REAL_DATA", "shared/real")
    if not folder.is_dir():
        pytest.skip(f"no real DESI files in {folder}; name their folder in DESI_REAL_DATA")
    return folder
