"""The package is laid out as the data flow: who may import whom, and what a tile's job imports."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter

import pytest
from conftest import REPOSITORY

PACKAGE = "desi_fits_to_parquet"
SOURCE = REPOSITORY / "src" / PACKAGE

MAY_IMPORT = {
    "vocabulary": set(),
    "formats": {"vocabulary"},
    "archive": {"vocabulary", "formats"},
    "discover": {"vocabulary", "archive"},
    "skim": {"vocabulary", "formats", "archive", "download", "record"},
    "record": {"vocabulary", "formats"},
    "download": {"vocabulary", "formats", "archive", "record"},
    "fuse": {"vocabulary", "formats", "record"},
    "second_reader": {"vocabulary"},
    "validate": {"vocabulary", "formats", "record", "second_reader"},
    "report": {"vocabulary", "record.precision"},
    "compare": {"vocabulary", "record", "report"},
    "collection": {"vocabulary", "formats", "record.schema"},
    "explorer": {"vocabulary"},
    "publish": {"vocabulary", "archive", "collection.tiles"},
    "readers": {"vocabulary"},
    "reader": {"vocabulary", "archive", "record", "readers"},
    "training": {"vocabulary", "fuse.parquet", "reader"},
    "run": {
        *("vocabulary", "archive", "discover", "download", "record", "validate", "report", "skim"),
    },
    "simulate": {"vocabulary", "formats", "archive", "run"},
    "command": {
        *("vocabulary", "formats", "download", "fuse", "validate", "reader", "run.stop"),
    },
    "cli": {"vocabulary", "command", "explorer", "run", "simulate"},
    "__main__": {"cli"},
}
"""What each package may import beside itself; a module that stands alone is in the vocabulary."""

NOT_IN_A_TILES_JOB = (
    *("astropy", "pandas", "matplotlib", "boto3", "botocore", "h5py", "scipy"),
    *("snakemake", "jsonschema", "yaml", "tqdm", "apprise"),
)


def modules() -> dict[str, ast.Module]:
    """Every module of the package by its name below it."""
    return {
        ".".join(path.relative_to(SOURCE).with_suffix("").parts): ast.parse(path.read_bytes())
        for path in sorted(SOURCE.rglob("*.py"))
        if path != SOURCE / "__init__.py"
    }


MODULES = modules()


def imported(tree: ast.AST) -> Iterator[str]:
    """Name everything that is imported, within functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(tree: ast.AST) -> Iterator[str]:
    """Name the modules of the package that are imported."""
    for name in imported(tree):
        parts = name.split(".")
        while parts and ".".join(parts[1:]) not in MODULES:
            parts.pop()
        if parts[:1] == [PACKAGE]:
            yield ".".join(parts[1:])


def layer(module: str) -> str:
    """Package of a module."""
    first = module.split(".")[0]
    return first if first in MAY_IMPORT else "vocabulary"


def test_imports_go_one_way_between_the_packages() -> None:
    against = [
        f"{module} imports {name}"
        for module, tree in MODULES.items()
        for name in own(tree)
        if layer(name) != layer(module) and not {layer(name), name} & MAY_IMPORT[layer(module)]
    ]
    assert against == []


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {module: set(own(tree)) for module, tree in MODULES.items()}
    assert set(TopologicalSorter(graph).static_order()) == set(MODULES)


def test_every_package_is_known_to_this_test() -> None:
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    modules = {
        "vocabulary",
        "discover",
        "skim",
        "second_reader",
        "validate",
        "readers",
        "training",
        "cli",
        "__main__",
    }
    assert packages == MAY_IMPORT.keys() - modules


def test_packages_import_nothing_of_themselves() -> None:
    assert [str(path) for path in SOURCE.glob("*/**/__init__.py") if path.read_bytes()] == []


def test_one_module_alone_imports_snakemake() -> None:
    users = [
        module
        for module, tree in MODULES.items()
        if any(name.split(".")[0].startswith("snakemake") for name in imported(tree))
    ]
    assert users == ["run.snakemake"]


@pytest.mark.parametrize("stage", ["download_tile", "fuse_tile", "validate_tile"])
def test_the_job_of_a_tile_imports_nothing_that_starts_slowly(stage: str) -> None:
    script = ast.parse((REPOSITORY / f"scripts/{stage}.py").read_text())
    imports = [n for n in script.body if isinstance(n, ast.Import | ast.ImportFrom)]
    code = "\n".join(ast.unparse(node) for node in imports)
    code += f"\nimport sys; print(*sorted(set(sys.modules) & {set(NOT_IN_A_TILES_JOB)}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(SOURCE.parent)},
    )
    assert done.stdout.split() == []
