"""What the README tells a newcomer to type in Python runs on the demo: `make test-browser`."""

import importlib.util
import re
from pathlib import Path

import chromium
import pytest
from conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0])
def test_the_python_of_the_readme_runs(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    code = block
    if "results/demo" not in block:  # it speaks of the production run
        Path("results").symlink_to(chromium.DEMO)
    else:
        Path("results").symlink_to(chromium.DEMO.parent)
    if not importlib.util.find_spec("lsdb"):
        code = re.sub(r"^(import lsdb|.*lsdb\.|near = ).*$", "", code, flags=re.M)
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102  (our own words)
    assert Path("quasar.png").exists() == ("quasar.png" in block)


def test_the_first_python_of_the_readme_is_six_lines_that_plot_a_spectrum() -> None:
    assert 'savefig("quasar.png")' in BLOCKS[0]
    assert len([line for line in BLOCKS[0].splitlines() if line]) <= 6
