"""What the report consists of: a fixed list of files, whatever the data.

The Snakemake rule declares its outputs from this list, so the module imports nothing heavy.
"""

from typing import NamedTuple

TABLES = ("tiles.parquet", "summary.json", "outcomes.csv", "failed.csv", "landing.rst")
"""Files for machines, and the text that the landing page of Snakemake's report includes."""


class Page(NamedTuple):
    """A figure (SVG) or a table (HTML) of the report.

    `caption` names a file of the folder `report/`, `category` and `title` are what Snakemake's
    report files it under.
    """

    file: str
    caption: str
    category: str
    title: str


PAGES = (
    Page("reduction.svg", "reduction.rst", "Compression", "1 Bytes and reduction"),
    Page("outcomes.svg", "outcomes.rst", "Outcomes", "1 Tiles by outcome"),
)
"""Every figure and table, in the order in which a reader wants them."""
