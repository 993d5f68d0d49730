"""Fill the paper from what was measured and render it: `make paper`.

Every number comes from a file: the benchmarks' JSON and a run's `summary.json` in `measured/`, or
`constants.yaml`, which names the source of each. A number that no file holds does not build: a name
that is not there ends it, and so does a number that stands in the text itself.
"""

import argparse
import datetime
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import yaml

PAPER = Path(__file__).resolve().parent

NOT_PROSE = re.compile(
    r"\A---\n.*?\n---\n"  # the head
    r"|\{\{.*?\}\}|\$[^$]+\$|`[^`]+`|\[@[^\]]+\]|@\w+"  # measured, mathematics, names, citations
    r"|\b[A-Za-z]+\d\w*|32-bit|8 significant bits",  # DR1, S3; what is proved beside it
    re.DOTALL,
)


def main() -> None:
    """Read, fill, render."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measured", type=Path, default=PAPER / "measured")
    parser.add_argument("--out", type=Path, default=PAPER.parent / "results/paper")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    facts = read_facts(given.measured)
    try:
        text = fill((PAPER / "paper.md").read_text(), facts)
    except (jinja2.UndefinedError, ValueError) as error:
        sys.exit(f"paper.md: {error}")
    (given.out / "paper.md").write_text(text)
    shutil.copy(PAPER / "paper.bib", given.out)
    draw_transfer(facts["transfer"], given.out / "transfer.png")
    render(given.out)
    print(f"{given.out / 'paper.pdf'}")


def read_facts(measured: Path) -> dict[str, Any]:
    """Return what each file holds, by its name, and the constants as `c`."""
    facts = {path.stem: json.loads(path.read_text()) for path in measured.glob("*.json")}
    constants = yaml.safe_load((PAPER / "constants.yaml").read_text())
    unsourced = [name for name, constant in constants.items() if not constant.get("source")]
    if unsourced:
        sys.exit(f"constants.yaml: no source of {', '.join(unsourced)}")
    return facts | {"c": {name: constant["value"] for name, constant in constants.items()}}


def fill(template: str, facts: dict[str, Any]) -> str:
    """Return the paper with its numbers.

    Raises
    ------
    jinja2.UndefinedError
        Where a name is in no file.
    ValueError
        Where a number stands in the text itself.
    """
    for line in NOT_PROSE.sub(blank, template).splitlines():
        if re.search(r"\d", line):
            raise ValueError(f"a number that no file holds: {line.strip()}")
    # Markdown, no HTML
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701
    environment.filters |= {
        "f": lambda value, digits: f"{float(value):,.{digits}f}",
        "percent": lambda value, digits: f"{100 * float(value):.{digits}f}",
        "kilo": lambda value, digits: f"{float(value) / 1000:,.{digits}f}",
    }
    today = datetime.datetime.now(datetime.UTC).date()
    return environment.from_string(template).render(**facts, date=f"{today:%d %B %Y}")


def blank(match: re.Match[str]) -> str:
    """Return nothing in place of a match but its line ends."""
    return "\n" * match[0].count("\n")


def draw_transfer(transfer: dict[str, Any], path: Path) -> None:
    """Draw bytes and seconds of each tile, the obvious way and by rows."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for panel, key, unit, label in (
        (panels[0], "bytes_fetched", 1e6, "bytes moved (MB)"),
        (panels[1], "seconds", 1, "time, archive to Parquet (s)"),
    ):
        targets = {
            record["tile"]: record["n_targets"] for record in transfer["tiles"]["rows"]["tiles"]
        }
        for way, marker in (("obvious", "s"), ("rows", "o")):
            records = transfer["tiles"][way]["tiles"]
            points = sorted((targets[one["tile"]], one[key] / unit) for one in records)
            panel.plot(
                *zip(*points, strict=True),
                marker=marker,
                label=f"the {way} way" if way == "obvious" else "by rows",
            )
        panel.set(xlabel="targets in the tile", ylabel=label, xscale="log", yscale="log")
        panel.grid(alpha=0.3)
    panels[0].legend()
    figure.savefig(path, dpi=200)


def render(folder: Path) -> None:
    """Make the PDF, with Debian's pandoc and WeasyPrint."""
    missing = [name for name in ("pandoc", "weasyprint") if not shutil.which(name)]
    if missing:
        sys.exit(f"paper.md is filled; for the PDF: apt-get install {' '.join(missing)}")
    text = (folder / "paper.md").read_text()
    # JOSS writes references to figures as LaTeX does; there is one
    plain = text.replace(r"\autoref{fig:transfer}", "Figure 1").replace(r"\label{fig:transfer}", "")
    plain = plain.replace("![Bytes", "![Figure 1: Bytes")
    head = yaml.safe_load(text.split("---\n")[1])
    authors = [f"--metadata=author:{author['name']}" for author in head["authors"]]
    subprocess.run(
        ["pandoc", "--citeproc", "--standalone", *authors, "--css", str(PAPER / "paper.css"),
         "--pdf-engine=weasyprint", "--from=markdown", "-o", "paper.pdf"],
        input=plain, text=True, cwd=folder, check=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
