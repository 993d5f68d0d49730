"""The paper's numbers come from files: what was measured, or constants with their source."""

import sys
from collections.abc import Iterator
from typing import Any

import jinja2
import pytest
from conftest import REPOSITORY

PAPER = REPOSITORY / "paper"


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(PAPER)
    import build

    yield build
    del sys.modules["build"]


@pytest.mark.parametrize(
    "line", ["It is 17 times as fast.", "A quarter, 0.25, of it", "See [@desi_dr1], table 7."]
)
def test_a_number_that_no_file_holds_does_not_build(paper: Any, line: str):
    with pytest.raises(ValueError, match="no file holds"):
        paper.fill(f"---\ndate: 1\n---\nDR1 has {{{{ n }}}}.\n{line}\n", {"n": 3})


def test_a_measurement_that_is_missing_does_not_build(paper: Any):
    with pytest.raises(jinja2.UndefinedError, match="gain"):
        paper.fill("{{ transfer.gain }}", {"transfer": {"bytes_ratio": 3}})


def test_measured_numbers_are_rounded_and_the_rest_stays(paper: Any):
    text = paper.fill(
        "{{ x | f(1) }}, {{ y | percent(2) }} %, $10^2$, DR1", {"x": 1234.56, "y": 0.0007}
    )
    assert text == "1,234.6, 0.07 %, $10^2$, DR1"


def test_every_number_of_the_paper_is_in_a_file(paper: Any):
    text = paper.fill((PAPER / "paper.md").read_text(), paper.read_facts(PAPER / "measured"))
    assert "{{" not in text
