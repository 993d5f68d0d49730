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
    Page("waterfall.svg", "waterfall.rst", "Compression", "2 Causes of the reduction"),
    Page("compression.html", "compression.rst", "Compression", "3 Table"),
    Page("outcomes.svg", "outcomes.rst", "Outcomes", "1 Tiles by outcome"),
    Page("outcomes.html", "outcomes_table.rst", "Outcomes", "2 Reasons, and a table of all tiles"),
    Page("sky_outcomes.svg", "sky_outcomes.rst", "Outcomes", "3 Sky map of outcomes"),
    Page("sky_targets.svg", "sky_targets.rst", "Outcomes", "4 Sky map of targets"),
    Page("speed.svg", "speed.rst", "Speed", "1 Speed over time"),
    Page("stages.svg", "stages.rst", "Speed", "2 Time in each stage"),
    Page("slowest.html", "slowest.rst", "Speed", "3 Slowest tiles"),
    Page("redshifts.svg", "redshifts.rst", "Content", "1 Redshifts"),
    Page("brightness.svg", "brightness.rst", "Content", "2 Magnitudes and signal to noise"),
    Page("spectypes.svg", "spectypes.rst", "Content", "3 Spectra by class"),
    Page("gallery.svg", "gallery.rst", "Content", "4 Gallery of spectra"),
    Page("rounding.svg", "rounding.rst", "Fidelity", "1 Rounding errors"),
    Page("fidelity.html", "fidelity.rst", "Fidelity", "2 Audits, schemas, tiles worth a look"),
    Page("provenance.html", "provenance.rst", "Provenance", "1 Versions, settings, citation"),
)
"""Every figure and table, in the order in which a reader wants them."""
