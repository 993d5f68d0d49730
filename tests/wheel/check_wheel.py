"""`make test-wheel`: what a stranger gets who has nothing but the built wheel, or the sdist."""

import os
import re
import subprocess
import sys
import tarfile
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY
from test_release import LIGHT

WORKFLOW = ("Snakefile", "config", "profiles", "report", "rules", "scripts")


def run(*command: str | Path, folder: Path, code: int = 0) -> str:
    """Run a program away from the checkout, as somebody does who has none."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL"))}
    done = subprocess.run(
        [*map(str, command)], cwd=folder, env=environment, text=True, timeout=560, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    return done.stdout


def build(source: Path, folder: Path) -> tuple[Path, Path]:
    """Build sdist and wheel, the wheel from the sdist; return both."""
    run(
        *(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source),
        folder=folder,
    )
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return build(REPOSITORY, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The locked versions as constraints: with hashes pip would ask for the wheel's too."""
    path = tmp_path_factory.mktemp("lock") / "constraints.txt"
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    path.write_text("\n".join(line.rstrip(" \\") for line in lines if not line.startswith(" ")))
    return path


@pytest.fixture(scope="module")
def installed(
    built: tuple[Path, Path], versions: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folder of the programs of an environment in which the wheel was installed."""
    folder = tmp_path_factory.mktemp("wheel")
    venv.create(folder, with_pip=True)
    pip = (folder / "bin/python", "-m", "pip", "install", "--quiet", "-c", versions)
    run(*pip, built[1], folder=folder)
    return folder / "bin"


@pytest.fixture(scope="module")
def demo(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that was empty before the demo, of the layout since DR3, ran there."""
    folder = tmp_path_factory.mktemp("empty")
    run(installed / "desi-fits-to-parquet", "demo", "--layout", "uniqpix", folder=folder)
    return folder


@pytest.fixture(scope="module")
def reader(
    built: tuple[Path, Path], versions: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Python of an environment with the wheel and what its reader needs, and nothing else."""
    folder = tmp_path_factory.mktemp("reader")
    venv.create(folder, with_pip=True)
    pip = (folder / "bin/python", "-m", "pip", "install", "--quiet", "-c", versions)
    run(*pip, "--no-deps", built[1], folder=folder)
    run(*pip, *LIGHT, folder=folder)
    return folder / "bin/python"


def test_what_was_built_can_be_uploaded(built: tuple[Path, Path], tmp_path: Path) -> None:
    text = run(sys.executable, "-m", "twine", "check", "--strict", *built, folder=tmp_path)
    assert text.count("PASSED") == 2


def test_wheel_and_sdist_hold_the_whole_workflow(built: tuple[Path, Path]) -> None:
    there = {
        str(path.relative_to(REPOSITORY))
        for name in WORKFLOW
        for path in [REPOSITORY / name, *(REPOSITORY / name).rglob("*")]
        if path.is_file() and "__pycache__" not in path.parts
    } | {"envs/environment.yaml"}
    sdist, wheel = built
    with tarfile.open(sdist) as tar:
        assert there <= {name.partition("/")[2] for name in tar.getnames()}
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    prefix = "desi_fits_to_parquet/_workflow/"
    assert {name.removeprefix(prefix) for name in names if name.startswith(prefix)} == there
    for data in ("columns.csv", "py.typed", "explorer/static/index.html"):
        assert f"desi_fits_to_parquet/{data}" in names


def test_version_is_that_of_the_tag(built: tuple[Path, Path], tmp_path: Path) -> None:
    stated = re.search(
        r'__version__ = "(.*)"', (REPOSITORY / "src/desi_fits_to_parquet/__init__.py").read_text()
    )
    assert stated is not None
    tagged = tmp_path / "clone"
    git = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost")
    tagged.mkdir()
    with tarfile.open(built[0]) as tar:
        tar.extractall(tmp_path, filter="data")
    (source,) = tmp_path.glob("desi_fits_to_parquet-*")
    (source / "PKG-INFO").unlink()
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"], ["tag", "v7.1.0"]):
        run(*git, *words, folder=source)
    sdist, wheel = build(source, tagged)
    assert "-7.1.0" in sdist.name
    with zipfile.ZipFile(wheel) as packed:
        assert b'__version__ = "7.1.0"' in packed.read("desi_fits_to_parquet/__init__.py")


def test_demo_of_the_wheel_ends_with_report_collection_and_explorer(demo: Path) -> None:
    results = demo / "results/demo"
    for name in ("report/index.html", "report/summary.json", "collection.properties"):
        assert (results / name).stat().st_size
    assert (results / "explorer/index.html").is_file()
    assert {path.name for path in demo.iterdir()} == {"results", ".snakemake"}


def test_commands_of_the_wheel_work_beside_the_demo(installed: Path, demo: Path) -> None:
    command = installed / "desi-fits-to-parquet"
    assert "every Parquet is as its marker says" in run(
        command, "verify", "results/demo", folder=demo
    )
    parquet = next(demo.glob("results/demo/parquet/**/main-dark-*.parquet"))
    told = run(command, "info", parquet, folder=demo)
    version = run(command, "--version", folder=demo).split()[-1]
    assert f"by desi-fits-to-parquet {version};" in told


def test_explorer_of_the_wheel_is_served(installed: Path, demo: Path) -> None:
    command = [installed / "desi-fits-to-parquet", "serve", "results/demo", "--port", "0"]
    with subprocess.Popen(command, cwd=demo, text=True, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            address = re.search(r"http://\S+", server.stdout.readline())
            assert address is not None
            with urllib.request.urlopen(address[0]) as page:
                assert b"<title>" in page.read()
        finally:
            server.terminate()


def test_reader_needs_nothing_of_the_workflow(reader: Path, demo: Path) -> None:
    code = (
        "from importlib.util import find_spec\n"
        "for name in ('snakemake', 'astropy', 'boto3', 'matplotlib', 'h5py', 'yaml'):\n"
        "    assert find_spec(name) is None, name\n"
        "from desi_fits_to_parquet import open_catalog\n"
        "spectra = open_catalog('results/demo').where('z > 1').cone(0, 0, 180).spectra()\n"
        "print(len(spectra), spectra.flux.shape[1], spectra.rest_frame().stack().flux.ndim)\n"
    )
    count, pixels, dimensions = map(int, run(reader, "-c", code, folder=demo).split())
    assert count > 10
    assert (pixels, dimensions) == (7751, 1)


@pytest.mark.parametrize("command", [["run"], ["demo"], ["completion", "bash"]])
def test_command_names_what_is_missing_beside_the_reader_alone(
    command: list[str], reader: Path, demo: Path
) -> None:
    text = run(reader, "-m", "desi_fits_to_parquet", *command, folder=demo, code=1)
    assert "Traceback" not in text
    assert "is not installed" in text
    assert "pip install" in text
