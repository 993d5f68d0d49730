"""What the report consists of: a fixed list of files, sections and figures, whatever the data.

The Snakemake rule declares its outputs from this list, so the module imports nothing heavy.
"""

from typing import NamedTuple

TABLES = ("tiles.parquet", "summary.json", "outcomes.csv", "failed.csv")
"""Files for machines."""

PAGE = "index.html"
"""The report itself: one page that needs nothing beside itself."""

LANDING = "landing.html"
"""The same as a part of Snakemake's own report, which shows it first."""

FIGURES_FOLDER = "figures"
"""Folder of the figures as files of their own, SVG: those that there is something to draw for."""


class Plot(NamedTuple):
    """A figure of the report: its title, and the caption that stands with it."""

    title: str
    caption: str


PLOTS = {
    "redshifts": Plot(
        "Redshifts",
        "The redshifts of the converted spectra, read from the Parquet files. Where a run has very "
        "many tiles, they are read from files that are spread evenly over them; the title says "
        "from how many.",
    ),
    "redshift_magnitude": Plot(
        "Redshift against magnitude",
        "Each converted spectrum by its redshift and its r magnitude (Legacy Surveys, AB, not "
        "corrected for extinction); of more than 5,000 spectra the number in each cell.",
    ),
    "composite": Plot(
        "Composite spectrum",
        "The median of spectra of the class that is most frequent, each at rest at the redshift "
        "that redrock found and scaled to the others where they overlap; in grey the middle 68 % "
        "of them. Where redshifts are right, the lines stand at the dashed marks.",
    ),
    "brightness": Plot(
        "Magnitudes and signal to noise",
        "Left: the r magnitude of the targets (Legacy Surveys). Right: the median over good pixels "
        "of flux / sigma (pixels of 0.8 Å) against it, for a part of the spectra.",
    ),
    "spectypes": Plot(
        "Classes",
        "The number of spectra of each class that redrock found; the title says how many were "
        "read.",
    ),
    "gallery_1": Plot(
        "Gallery of spectra, the lowest redshifts",
        "Spectra that span the redshifts of the run, of each range the one with the best signal to "
        "noise, as they stand in the Parquet files: single pixels in grey, the mean over 9 pixels "
        "weighted by ivar as the thick line, sigma dotted. Dashed lines mark where lines of the "
        "class must lie at the redshift that redrock found.",
    ),
    "gallery_2": Plot(
        "Gallery of spectra, middle redshifts", "As before, the next ranges of redshift."
    ),
    "gallery_3": Plot(
        "Gallery of spectra, the highest redshifts", "As before, the last ranges of redshift."
    ),
    "outcomes": Plot(
        "Tiles by outcome",
        "Every discovered tile ends in exactly one of six outcomes: left the number of tiles, "
        "right the bytes that these tiles hold in the archive. no_targets means that a tile was "
        "read in full and nothing in it was selected: it is no failure.",
    ),
    "sky_outcomes": Plot(
        "Sky map of outcomes",
        "Where the tiles lie, one HEALPix cell a tile: above the whole sky in equatorial "
        "coordinates (Mollweide projection; the line is the Galactic plane), below it, where the "
        "footprint is too small to be seen there, its largest parts, at most three. Failed tiles "
        "are drawn on top and carry a symbol.",
    ),
    "sky_spectra": Plot(
        "Sky map of converted spectra",
        "The number of converted spectra per square degree in each HEALPix cell, added up over the "
        "surveys and programs of this run; darker is more, the scale is logarithmic.",
    ),
    "reduction": Plot(
        "Bytes and reduction",
        "Top: the bytes of all discovered tiles in the archive (the files that the fusion uses, "
        "failed tiles included), the bytes that came over the network, and the bytes written as "
        "Parquet. Bottom left: how the reduction is distributed over the converted tiles. Bottom "
        "right: the factor by which a tile shrinks against the number of its targets.",
    ),
    "waterfall": Plot(
        "Causes of the reduction",
        "How the bytes in the archive become the bytes of the Parquet files, cause by cause, for "
        "the tiles that were converted. The scale is logarithmic: each step shows the share that a "
        "cause takes of what the causes before it have left.",
    ),
    "speed": Plot(
        "Speed over time",
        "Megabytes that were fetched a second, tiles finished an hour, and, if there were any, "
        "requests that had to be sent again or were refused. A tile counts wholly at the time when "
        "its validation ended, so a large tile makes a peak; a gap is a time in which the workflow "
        "did not run.",
    ),
    "stages": Plot(
        "Time in each stage",
        "Left: the share of tiles that a stage took no longer than so long for (wall time). Right: "
        "the sum over tiles; tiles run side by side, so it is longer than the run was.",
    ),
    "rounding": Plot(
        "Rounding errors",
        "How much rounding changed the numbers, measured by comparing every Parquet file with its "
        "FITS: the largest and the mean error of flux in units of each pixel's own sigma, the "
        "largest relative error of ivar. The dashed lines are the limits that the settings "
        "promise.",
    ),
}
"""Every figure by name, in the order in which a reader wants them."""


class Section(NamedTuple):
    """A section of the report: its title, what it begins with, and the names of its figures."""

    title: str
    begins: str
    plots: tuple[str, ...]


SECTIONS = {
    "spectra": Section(
        "Spectra",
        "What was converted.",
        ("redshifts", "redshift_magnitude", "composite", "brightness", "spectypes"),
    ),
    "gallery": Section(
        "Gallery", "A dozen of the spectra.", ("gallery_1", "gallery_2", "gallery_3")
    ),
    "tiles": Section("Tiles", "What became of every tile of the archive.", ("outcomes",)),
    "sky": Section("Sky", "Where they lie.", ("sky_outcomes", "sky_spectra")),
    "bytes": Section("Bytes", "What was saved, and by what.", ("reduction", "waterfall")),
    "speed": Section("Speed", "How long it took.", ("speed", "stages")),
    "fidelity": Section("Fidelity", "How true the files are to the archive.", ("rounding",)),
    "provenance": Section("Provenance", "What made these files, and how to cite them.", ()),
}
"""Every section by the name that its link has, in the order in which one reads."""
