"""Which columns DESI's tables have, what they mean, and which of them a configuration uses.

`columns.csv` beside this module is the one list of columns: its first six fields are those of the
DESI data model; UCD (IVOA UCD1+) and description are this project's own. The simulation writes
its tables from it and the Parquet schema is made from it.
"""

import csv
from functools import cache
from pathlib import Path
from typing import NamedTuple

from desi_fits_to_parquet.settings import Settings

FIBERMAP_DEFAULT = (
    "TARGET_RA",
    "TARGET_DEC",
    "PMRA",
    "PMDEC",
    "REF_EPOCH",
    "OBJTYPE",
    "COADD_FIBERSTATUS",
    "RELEASE",
    "BRICKID",
    "BRICK_OBJID",
    "PHOTSYS",
    "MORPHTYPE",
    "MASKBITS",
    "EBV",
    "FLUX_G",
    "FLUX_R",
    "FLUX_Z",
    "FLUX_W1",
    "FLUX_W2",
    "FLUX_IVAR_G",
    "FLUX_IVAR_R",
    "FLUX_IVAR_Z",
    "FLUX_IVAR_W1",
    "FLUX_IVAR_W2",
    "DESI_TARGET",
    "BGS_TARGET",
    "MWS_TARGET",
    "SCND_TARGET",
    "SV1_DESI_TARGET",
    "SV2_DESI_TARGET",
    "SV3_DESI_TARGET",
    "COADD_NUMEXP",
    "COADD_EXPTIME",
    "COADD_NUMNIGHT",
    "COADD_NUMTILE",
    "MEAN_PSF_TO_FIBER_SPECFLUX",
)
"""FIBERMAP columns of `columns.fibermap: default`: position and its epoch, photometry, targeting,
depth."""

POSITION = ("TARGET_RA", "TARGET_DEC")

EXTRA_HDUS = ("SCORES", "RESOLUTION", "EXP_FIBERMAP")
"""HDUs of the coadd whose rows are fetched only where they are wanted; RESOLUTION is that of all
arms."""

RESOLUTION_CORE = "RESOLUTION_CORE"
"""Of RESOLUTION the three diagonals in the middle, which the width of a line is made of."""

# Redrock and coadd files of survey validation were seen without it (a real file of sv3 in the
# redrock project's tests), although the data model calls it required.
_MISSING_IN_SOME_SURVEYS = ("SCND_TARGET",)


class Column(NamedTuple):
    """A column of a DESI table.

    `type` is a numpy name (`int64`, `float32`), `logical`, `binary` (an unsigned byte),
    `char[n]`, or a numpy name with a length (`float64[10]`); `unit` is spelt as in DESI's FITS
    headers, empty where there is none. Two that DESI leaves out are given: of MJD, and of the
    afterburners' RA and DEC.
    """

    file: str
    extname: str
    name: str
    type: str
    unit: str
    required: bool
    ucd: str
    description: str


def load_columns(file: str | None = None, extname: str | None = None) -> tuple[Column, ...]:
    """Read the list of columns, in the order of the files.

    Parameters
    ----------
    file, extname
        Only the columns of this kind of file (`coadd`, `redrock`, ...) and of this HDU.

    Returns
    -------
    tuple of Column
        Empty where the table is not known.
    """
    return tuple(
        column
        for column in _all_columns()
        if file in (None, column.file) and extname in (None, column.extname)
    )


@cache
def _all_columns() -> tuple[Column, ...]:
    """Read the list; once a process, since every per-tile job asks for it several times."""
    text = Path(__file__).with_name("columns.csv").read_text(encoding="utf-8")
    return tuple(
        Column(
            row["file"],
            row["extname"],
            row["column"],
            row["type"],
            row["unit"],
            row["presence"] == "required" and row["column"] not in _MISSING_IN_SOME_SURVEYS,
            row["ucd"],
            row["description"],
        )
        for row in csv.DictReader(text.splitlines())
    )


def fibermap_columns(choice: str | list[str]) -> tuple[str, ...]:
    """Names of the FIBERMAP columns of the record, in the order of the file.

    The position (`POSITION`) is always among them: a HATS catalogue is nothing without it.

    Parameters
    ----------
    choice
        `default`, `all`, or a list of names in either case.

    Returns
    -------
    tuple of str
        Upper case, without TARGETID, which every record has.

    Raises
    ------
    ValueError
        Where a name is not a column of the coadd's FIBERMAP.
    """
    known = [column.name for column in load_columns("coadd", "FIBERMAP")]
    if choice == "all":
        wanted = known
    elif choice == "default":
        wanted = list(FIBERMAP_DEFAULT)
    else:
        wanted = [name.upper() for name in choice]
        unknown = sorted(set(wanted) - set(known))
        if unknown:
            raise ValueError(
                f"columns.fibermap: {', '.join(unknown)} not in the coadd's FIBERMAP;"
                f" allowed: default, all, or any of {', '.join(known)}"
            )
    return tuple(name for name in known if name in (*POSITION, *wanted) and name != "TARGETID")


def afterburners_used(settings: Settings) -> tuple[str, ...]:
    """Kinds of the quasar afterburner files in use: `qso_mgii`, `qso_qn`, both or none.

    The preset `desi_qso` needs both, whatever `columns` says.
    """
    preset = settings["selection"]["preset"] == "desi_qso"
    return tuple(k for k in ("qso_mgii", "qso_qn") if preset or settings["columns"][k])


def kinds_used(settings: Settings) -> tuple[str, ...]:
    """Kinds of files that a configuration reads, required ones first.

    Parameters
    ----------
    settings
        The validated configuration.

    Returns
    -------
    tuple of str
        `coadd` and `redrock` always; `emline`, `rrdetails`, `qso_mgii`, `qso_qn` where selected.
    """
    columns = settings["columns"]
    optional = (
        ("emline", columns["emline"]),
        ("rrdetails", columns["rrdetails"] or columns["rrdetails_scans"]),
    )
    return (
        "coadd",
        "redrock",
        *(kind for kind, used in optional if used),
        *afterburners_used(settings),
    )


def extra_hdus(settings: Settings) -> tuple[str, ...]:
    """HDUs of `EXTRA_HDUS` whose rows a configuration reads, or of one `RESOLUTION_CORE`."""
    used = (
        ("SCORES", settings["columns"]["scores"]),
        ("RESOLUTION", settings["spectra"]["resolution"] == "matrix"),
        (RESOLUTION_CORE, settings["spectra"]["resolution"] == "lsf"),
    )
    return tuple(hdu for hdu, wanted in used if wanted)
