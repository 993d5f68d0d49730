"""What keeps a run from its work is said in one sentence: what, where, what to do. No traceback."""

import os
import re
import subprocess
import tomllib
from typing import NamedTuple

import pytest
from conftest import REPOSITORY
from fault_server import serve
from running import PREFIX, Work, checkout

from desi_fits_to_parquet.run.needs import NEEDED

ANOTHER = "give this run another folder with --config results=..."

OBJECTS = {f"{PREFIX}/healpix/main/dark/1/100/redrock-main-dark-100.fits": bytes(3_000_000)}

WITHOUT_OBSTORE = "import sys; sys.modules['obstore'] = None\n"


class Case(NamedTuple):
    """What is typed behind `snakemake`, and the sentence of it."""

    arguments: list[str]
    config: list[str]
    sentence: str
    code: int = 1
    folder: str = "."


CASES = {
    "results that cannot be written": Case(
        [], ["results=/proc/nothing"],
        "Stopped before the first job: /proc/nothing cannot be written to (No such file or "
        "directory: /proc/nothing): see to its disk and its owner, or " + ANOTHER,
    ),
    "results that are a file": Case(
        [], ["results=Snakefile"],
        "Stopped before the first job: Snakefile is a file, no folder: " + ANOTHER,
    ),
    "results below a file": Case(
        [], ["results=Snakefile/a"],
        "Stopped before the first job: Snakefile is a file, no folder: " + ANOTHER,
    ),
    "wrong prefix": Case(
        [], ["archive={prefix: dr1/spectro/redux/nothing}"],
        "/desidata has no folder dr1/spectro/redux/nothing/healpix/ or "
        "dr1/spectro/redux/nothing/spectra/: see archive.bucket and archive.prefix",
    ),
    "report before a run": Case(
        ["--report", "page.html"], ["results=nowhere"],
        "nowhere holds no report that --report could pack into one page: run the same command "
        "without --report first",
    ),
    "verify before a run": Case(
        ["verify"], ["results=nowhere"],
        "nowhere holds no run: it has no tiles.csv (see the setting results)",
    ),
    "retry_failed before a run": Case(
        ["retry_failed"], ["results=nowhere"],
        "nowhere holds no run: it has no tiles.csv (see the setting results)",
    ),
    "without the dependencies": Case(
        [], [],
        " lacks obstore: make the project's own environment with `make env` and type "
        ".venv/bin/snakemake, or install the project beside this Snakemake with pip",
    ),
    "full disk": Case(
        [], ["resources={min_free_gb: 100000000}"],
        "; a tile of 6.00 MB and resources.min_free_gb = 1e+08 need ",
    ),
    "from another folder": Case(
        ["--snakefile", "../Snakefile", "--dry-run"], ["sample=3"],
        "Tiles: the archive is listed first, then at most 3 are to be done",
        0, "elsewhere",
    ),
}  # fmt: skip


def test_modules_that_are_looked_for_are_the_dependencies_of_a_run():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["workflow"], *extras["report"]]
    names = {re.split("[<>=[]", line)[0] for line in lines}
    not_imported = {"desi-fits-to-parquet", "snakemake", "plotille", "pygments", "shtab"}
    modules = {"pyyaml": "yaml", "astropy-healpix": "astropy_healpix"}
    assert {modules.get(name, name) for name in names - not_imported} == set(NEEDED)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    work = checkout(tmp_path_factory.mktemp("sentences"))
    (work.folder / "elsewhere").mkdir()
    (work.folder / "lacking").mkdir()
    (work.folder / "lacking/sitecustomize.py").write_text(WITHOUT_OBSTORE)
    return work


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_said_in_one_sentence(name: str, work: Work):
    case = CASES[name]
    lacking = str(work.folder / "lacking") if name == "without the dependencies" else ""
    paths = os.pathsep.join(filter(None, [lacking, os.environ.get("PYTHONPATH", "")]))
    with serve(dict(OBJECTS)) as service:
        done = subprocess.run(
            work.command(service.endpoint, *case.arguments, config=case.config),
            cwd=work.folder / case.folder, env={**os.environ, "PYTHONPATH": paths}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=500, check=False,
        )  # fmt: skip
    text = done.stdout
    assert done.returncode == case.code, text
    assert case.sentence in text
    for word in ("Traceback", 'File "', "Exception", "Error", "crashed", "the same command does"):
        assert word not in text, text
    assert not (work.folder / "nowhere").exists()
