"""The record: its fields, their units and meaning, and how they are declared in a Parquet file.

A configuration alone decides the schema. What a tile lacks is null there, never absent, so that
the files of all tiles can be read as one table.
"""

import hashlib
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple
from xml.etree import ElementTree

import pyarrow as pa

from desi_fits_to_parquet.columns import (
    Column,
    afterburners_used,
    fibermap_columns,
    load_columns,
)
from desi_fits_to_parquet.record.positions import HATS_ORDER
from desi_fits_to_parquet.settings import Settings, SpectraSettings
from desi_fits_to_parquet.tile import PROGRAMS, SURVEYS

FLUX_UNIT = "10**-17 erg/(s cm2 Angstrom)"

IVAR_UNIT = "10**+34 (s2 cm4 Angstrom2) / erg2"

_CONVERTIBLE = {
    # the AB system's zero point is 3631 Jy, a nanomaggy a thousand-millionth of it
    "nanomaggy": "3.631 uJy",
    "nanomaggy^-2": "0.07584859 uJy^-2",
}
"""Units of DESI's tables that neither VOUnits nor most programs know, in such as all do."""

_VOUNITS = {
    FLUX_UNIT: "10**-17.erg.s**-1.cm**-2.Angstrom**-1",
    IVAR_UNIT: "10**34.s**2.cm**4.Angstrom**2.erg**-2",
    "10**-17 erg/(s cm2)": "10**-17.erg.s**-1.cm**-2",
    "10**+34 (s2 cm4) / erg2": "10**34.s**2.cm**4.erg**-2",
    "mas yr^-1": "mas.yr**-1",
    "3.631 uJy": "3.631uJy",
    "0.07584859 uJy^-2": "0.07584859uJy**-2",
    "Angstrom^-2": "Angstrom**-2",
}
"""Units in IVOA's spelling (VOUnits 1.1) where the FITS spelling differs."""

_ARROW_TYPES = {
    "logical": pa.bool_(),
    "binary": pa.uint8(),
    "char": pa.string(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
}

_VOTABLE_TYPES = {
    "bool": "boolean",
    "uint8": "unsignedByte",
    "int16": "short",
    "int32": "int",
    "int64": "long",
    "float": "float",
    "double": "double",
    "string": "char",
}

HATS_INDEX = f"_healpix_{HATS_ORDER}"
"""Field by which HATS catalogues find and cross-match positions."""

EXPOSURE_COLUMNS = ("NIGHT", "EXPID", "MJD", "TILEID", "PETAL_LOC", "FIBER", "EXPTIME")
"""Columns of EXP_FIBERMAP that `columns.exposures` gives."""

FINGERPRINT_KEY = "desi_fits_to_parquet.schema"
"""Key of the schema's fingerprint."""

VOTABLE_NAMESPACE = "http://www.ivoa.net/xml/VOTable/v1.3"
"""The namespace of all VOTable versions from 1.3 on."""


class Field(NamedTuple):
    """A field of the record.

    `source` is the table and column that it is copied from (kind of file, HDU, column), None where
    the fusion makes it. `unit` is spelt as in DESI's FITS, but for nanomaggy; `width` is the
    longest text of a string field.
    """

    name: str
    type: pa.DataType
    unit: str
    ucd: str
    description: str
    source: tuple[str, str, str] | None
    width: int = 0


def list_of(element: pa.DataType) -> pa.DataType:
    """Return the type of a list without nulls in it, its element named as Parquet names it."""
    return pa.list_(pa.field("element", element, nullable=False))


def record_fields(settings: Settings) -> tuple[Field, ...]:
    """Return the fields of the record in their order.

    Parameters
    ----------
    settings
        The validated configuration; `selection.preset`, `columns` and `spectra` decide.

    Returns
    -------
    tuple of Field
        Identity, redshift, FIBERMAP, optional tables, best fits, spectra.
    """
    chosen = settings["columns"]
    tables = _tables()
    fields = [
        _made("survey", pa.string(), "meta.id;obs", "DESI survey: main, sv1 to sv3, special, cmx"),
        _made("program", pa.string(), "meta.id;obs", "DESI program: dark, bright, backup, other"),
        _made("healpix", pa.int32(), "pos.healpix",
              "HEALPix pixel of the tile, nested, equatorial, of order healpix_order"),
        _made("healpix_order", pa.int32(), "pos.healpix",
              "Order of the tile's pixel: its nside is 2 to this power"),
        _copied(tables["redrock", "REDSHIFTS"][0]),
        _made(HATS_INDEX, pa.int64(), "pos.healpix",
              f"HEALPix pixel of the position, nested, of order {HATS_ORDER}: the order of rows"),
    ]  # fmt: skip
    fields += [_copied(c) for c in tables["redrock", "REDSHIFTS"][1:]]
    if settings["selection"]["preset"] == "desi_qso":
        meanings = {
            "z": "Redshift: redrock's, or that of its run with QuasarNET's prior (see z_rr)",
            "zerr": "Error of z",
        }
        fields = [
            field._replace(description=meanings.get(field.name, field.description))
            for field in fields
        ]
        fields += [
            _made("qso_maskbits", pa.int32(), "meta.code.class",
                  "Why it is a quasar: of QSO targets bit 1 redrock, 2 MgII, 3 QuasarNET, 4 its "
                  "redshift; bit 5 the rule for BGS, 6 for ELG targets"),
            _made("z_rr", pa.float64(), "src.redshift",
                  "Redshift of redrock's first run, which z replaces where QuasarNET knew better"),
            _made("zerr_rr", pa.float64(), "stat.error;src.redshift", "Error of z_rr"),
        ]  # fmt: skip
    fibermap = set(fibermap_columns(chosen["fibermap"]))
    if chosen["exposures"]:
        fibermap |= {"MIN_MJD", "MAX_MJD", "MEAN_MJD"}
    fields += [_copied(c) for c in tables["coadd", "FIBERMAP"] if c.name in fibermap]
    if chosen["scores"]:
        # redrock's TSNR2 is a copy of most of SCORES: these columns come once
        fields += [_copied(c) for c in tables["redrock", "TSNR2"][1:]]
        scores = tables["coadd", "SCORES"][1:]
        fields += [_copied(c) for c in scores if not c.name.startswith("TSNR2")]
    else:
        depths = {f"TSNR2_{name}" for name in chosen["tsnr2"]}
        fields += [_copied(c) for c in tables["redrock", "TSNR2"] if c.name in depths]
    if chosen["emline"]:
        lines = tables["emline", "EMLINEFIT"]
        fields += [_copied(c) for c in lines if _is_line(c.name)]
    for kind in afterburners_used(settings):
        table = tables["qso_mgii", "MGII"] if kind == "qso_mgii" else tables["qso_qn", "QN_RR"]
        fields += [
            _copied(c, _afterburner_name(kind, c.name))
            for c in table
            if c.name not in ("TARGETID", "RA", "DEC") and not c.name.endswith("DESI_TARGET")
        ]
    if chosen["exposures"]:
        meaning = (
            "Exposures of the target, by expid: night, tile, fibre, MJD (d), exposure time (s)"
        )
        fields.append(_made("exposures", exposures_type(), "", meaning))
    if chosen["rrdetails"]:
        fields.append(_made("rrdetails", fits_type(), "", "Redrock's best fits, lowest chi2 first"))
    if chosen["rrdetails_scans"]:
        fields.append(
            _made(
                "rrdetails_scans", scans_type(), "", "Redrock's chi2 against redshift by template"
            )
        )
    return (*fields, *_spectra_fields(settings["spectra"]))


FITS_OPTIONAL = ("coeff", "fitmethod")
"""Columns of redrock's tables of fits that not all of its versions write."""


def fits_type() -> pa.DataType:
    """Return the type of `rrdetails`: a struct of lists of equal length, an item a fit.

    A list of structs would say the same, but LSDB refuses it; this it opens as a nested column.
    Files lack `FITS_OPTIONAL` where they are older or newer: such a list is empty then, or text.
    """
    members = (
        ("spectype", pa.string()), ("subtype", pa.string()), ("z", pa.float64()),
        ("zerr", pa.float64()), ("zwarn", pa.int64()), ("chi2", pa.float64()),
        ("deltachi2", pa.float64()), ("npixels", pa.int64()), ("znum", pa.int64()),
        ("coeff", list_of(pa.float64())), ("fitmethod", pa.string()),
    )  # fmt: skip
    return pa.struct([pa.field(name, list_of(kind)) for name, kind in members])


def exposures_type() -> pa.DataType:
    """Return the type of `exposures`: a struct of lists of equal length, an item an exposure.

    It is no list of structs for the same reason as `fits_type`. `mjd` is in days, `exptime` in
    seconds.
    """
    known = {c.name: c for c in _tables()["redrock", "EXP_FIBERMAP"]}
    return pa.struct(
        [pa.field(n.lower(), list_of(_ARROW_TYPES[known[n].type])) for n in EXPOSURE_COLUMNS]
    )


def scans_type() -> pa.DataType:
    """Return the type of `rrdetails_scans`: a struct of lists of equal length, an item a template.

    The items of `redshift`, `chi2` and `penalty` are lists themselves.
    """
    scan = list_of(pa.float64())
    members = (("template", pa.string()), ("redshift", scan), ("chi2", scan), ("penalty", scan))
    return pa.struct([pa.field(name, list_of(kind)) for name, kind in members])


def arrow_schema(fields: Iterable[Field]) -> pa.Schema:
    """Declare the fields for pyarrow, each with unit and description in its metadata.

    Their UCDs stand in the VOTable alone: twice they would take 2 % of a tile.
    """
    return pa.schema([pa.field(f.name, f.type, metadata=_field_metadata(f)) for f in fields])


def fingerprint(fields: Iterable[Field]) -> str:
    """Return a short hash of names, types, units and meanings: equal where the schema is."""
    text = "\n".join("\t".join((f.name, str(f.type), f.unit, f.ucd, f.description)) for f in fields)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def votable(fields: Iterable[Field]) -> str:
    """Describe the table as a VOTable without data, after IVOA's note on VOTable in Parquet.

    There is a FIELD for every column, in their order; those that VOTable has no type for (structs)
    are declared as text, as the note recommends.

    Source: https://www.ivoa.net/documents/Notes/voparquet/20250114, section 2.
    """
    root = ElementTree.Element("VOTABLE", {"version": "1.4", "xmlns": VOTABLE_NAMESPACE})
    table = ElementTree.SubElement(ElementTree.SubElement(root, "RESOURCE"), "TABLE")
    for field in fields:
        kind = field.type.value_type if pa.types.is_list(field.type) else field.type
        attributes = {"name": field.name, "datatype": _VOTABLE_TYPES.get(str(kind), "char")}
        if pa.types.is_list(field.type):
            attributes["arraysize"] = "*"
        elif field.width:
            attributes["arraysize"] = str(field.width)
        if field.unit:
            attributes["unit"] = _VOUNITS.get(field.unit, field.unit)
        if field.ucd:
            attributes["ucd"] = field.ucd
        element = ElementTree.SubElement(table, "FIELD", attributes)
        ElementTree.SubElement(element, "DESCRIPTION").text = field.description
    # no XML declaration: it would name the locale's encoding, and the note takes UTF-8 without
    return ElementTree.tostring(root, encoding="unicode")


def markdown(fields: Iterable[Field]) -> str:
    """Return the table of fields that the documentation shows."""
    lines = ["| field | type | unit | from | meaning |", "| --- | --- | --- | --- | --- |"]
    for field in fields:
        kind = "struct of lists" if pa.types.is_struct(field.type) else str(field.type)
        for arrow, plain in (("list<element: ", "list of "), (" not null>", "")):
            kind = kind.replace(arrow, plain)
        source = " ".join(field.source[:2]) if field.source else ""
        lines.append(f"| `{field.name}` | {kind} | {field.unit} | {source} | {field.description} |")
    return "\n".join(lines) + "\n"


def _spectra_fields(settings: SpectraSettings) -> list[Field]:
    cameras, resolution = settings["cameras"], settings["resolution"]
    dropped = settings["masked_pixels"] == "no_weight"
    when = "those with a bit have ivar 0" if dropped else "0 is good"
    if cameras == "combined" and not dropped:
        when = "cleared where ivar is above 0, as desispec does"
    fields = []
    for prefix, arm in (
        (("", "the combined spectrum"),)
        if cameras == "combined"
        else (("b_", "arm B"), ("r_", "arm R"), ("z_", "arm Z"))
    ):
        fields += [
            Field(f"{prefix}wavelength", list_of(pa.float64()), "Angstrom", "em.wl",
                  f"Vacuum wavelength of the pixel centres of {arm}, barycentric", None),
            Field(f"{prefix}flux", list_of(pa.float32()), FLUX_UNIT, "phot.flux.density;em.wl",
                  f"Flux density of {arm}, not corrected for Galactic extinction", None),
            Field(f"{prefix}ivar", list_of(pa.float32()), IVAR_UNIT,
                  "stat.weight;phot.flux.density;em.wl",
                  f"Inverse variance of the flux density of {arm}; above 0 is good", None),
            Field(f"{prefix}mask", list_of(pa.int32()), "", "meta.code.qual;em.wl",
                  f"SPECMASK bits of the pixels of {arm}; {when}", None),
        ]  # fmt: skip
        if resolution == "lsf":
            fields.append(
                Field(f"{prefix}lsf", list_of(pa.float32()), "Angstrom", "spect.resolution;em.wl",
                      f"Sigma of the line spread function of {arm}, the pixel's width included",
                      None)
            )  # fmt: skip
        elif resolution == "matrix":
            fields.append(
                Field(f"{prefix}resolution", list_of(pa.float32()), "", "spect.resolution;em.wl",
                      f"Diagonals of the band matrix of {arm}, highest first, one after another: "
                      "RESOLUTION of the FITS", None)
            )  # fmt: skip
    if cameras == "combined" and settings["mask_arms"]:
        fields.append(
            Field("mask_arms", list_of(pa.int32()), "", "meta.code.qual;em.wl",
                  "SPECMASK bits of the arms, also where one of them saw the pixel well", None)
        )  # fmt: skip
    return fields


@cache
def _tables() -> dict[tuple[str, str], list[Column]]:
    tables: dict[tuple[str, str], list[Column]] = {}
    for column in load_columns():
        tables.setdefault((column.file, column.extname), []).append(column)
    return tables


def _is_line(name: str) -> bool:
    return name.startswith(("OII_", "HDELTA_", "HGAMMA_", "HBETA_", "OIII_", "HALPHA_"))


def _afterburner_name(kind: str, name: str) -> str:
    """Name a column of qso_mgii or qso_qn, with a prefix where the bare name says too little."""
    if kind == "qso_mgii":
        return name.lower() if name == "IS_QSO_MGII" else f"mgii_{name.lower()}"
    return f"qn_{name.lower()}" if name in ("COEFFS", "SPECTYPE", "Z_RR") else name.lower()


def _copied(column: Column, name: str | None = None) -> Field:
    base, _, length = column.type.partition("[")
    kind = _ARROW_TYPES[base]
    if length and base != "char":
        kind = list_of(kind)
    return Field(
        name or column.name.lower(),
        kind,
        _CONVERTIBLE.get(column.unit, column.unit),
        column.ucd,
        column.description,
        (column.file, column.extname, column.name),
        int(length.rstrip("]")) if base == "char" else 0,
    )


def _made(name: str, kind: pa.DataType, ucd: str, description: str) -> Field:
    width = max(map(len, (*SURVEYS, *PROGRAMS))) if pa.types.is_string(kind) else 0
    return Field(name, kind, "", ucd, description, None, width)


def _field_metadata(field: Field) -> dict[str, str]:
    entries = {"unit": field.unit, "description": field.description}
    return {key: value for key, value in entries.items() if value}
