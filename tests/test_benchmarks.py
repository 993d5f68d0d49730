"""Benchmarks begin where all is there that they need, and measure the code as it is laid out."""

import ast
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import REPOSITORY


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    def load(name: str) -> ModuleType:
        monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
        return __import__(name)

    return load


def test_everything_that_is_missing_is_named_at_once(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = benchmark("needs")
    monkeypatch.setitem(needs.DEBIAN, "no-such-server", "no-such-package")
    needs.check_needs(1e-6, tmp_path, "bash")
    with pytest.raises(SystemExit) as ended:
        needs.check_needs(1e9, tmp_path, "bash", "no-such-server")
    assert "no-such-server (Debian: apt-get install no-such-package)" in str(ended.value)
    assert f"1e+09 GB of disk in {tmp_path}" in str(ended.value)
    assert "bash" not in str(ended.value)


@pytest.mark.parametrize(
    "name",
    ["fusion", "transfer", "scale", "query", "training", "endurance", "run", "voids", "explorer"],
)
def test_a_benchmark_looks_for_what_it_needs_before_all_else(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def missing(*_: Any) -> None:
        raise SystemExit("missing")

    module = benchmark(name)
    monkeypatch.setattr(module, "check_needs", missing)
    monkeypatch.setattr(module.tempfile, "TemporaryDirectory", None)
    monkeypatch.setattr("sys.argv", [name])
    with pytest.raises(SystemExit, match="missing"):
        module.main()


def arguments_of(source: str) -> dict[str, list[str]]:
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    return {node.name: [argument.arg for argument in node.args.args] for node in functions}


@pytest.mark.parametrize("form", ["shell", "python"])
def test_the_stand_ins_of_the_scale_benchmark_replace_what_is_there(
    benchmark: Any, tmp_path: Path, form: str
) -> None:
    scale = benchmark("scale")
    scale.put_stand_ins(tmp_path, form)
    whole = {"report/build.py": scale.REPORT, "collection/build.py": scale.COLLECTION}
    for module, text in whole.items():
        assert (tmp_path / scale.PACKAGE / module).read_text() == text
    stand_ins = {"discover.py": scale.LISTING, **whole, **scale.PYTHON}
    for module, text in stand_ins.items():
        real = arguments_of((REPOSITORY / scale.PACKAGE / module).read_text())
        for function, arguments in arguments_of(text).items():
            assert real[function] == arguments, function
    for rule in scale.SHELL if form == "shell" else ():
        assert f"{rule}.sh" in (tmp_path / f"rules/{rule}.smk").read_text()
