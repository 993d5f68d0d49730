"""The record's schema: one for all tiles, with unit, description and UCD on every field."""

import itertools
import warnings
from io import BytesIO
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pytest
from astropy.io import votable as astropy_votable
from astropy.units import Unit
from conftest import REPOSITORY
from fusion_tiles import changed

from desi_fits_to_parquet.record.schema import (
    VOTABLE_NAMESPACE,
    arrow_schema,
    fingerprint,
    markdown,
    record_fields,
    votable,
)

EVERYTHING = {
    "fibermap": "all", "scores": True, "exposures": True, "emline": True, "rrdetails": True,
    "rrdetails_scans": True, "qso_mgii": True, "qso_qn": True,
}  # fmt: skip

ALL_SPECTRA = {"mask_arms": True, "resolution": "lsf"}


def test_the_default_record_has_the_fields_of_the_contract(defaults: dict[str, Any]) -> None:
    names = [field.name for field in record_fields(defaults)]
    assert names[:6] == [
        "survey", "program", "healpix", "healpix_order", "targetid", "_healpix_29",
    ]  # fmt: skip
    assert names[-5:] == ["rrdetails", "wavelength", "flux", "ivar", "mask"]
    with_arms = record_fields(changed(defaults, spectra={"mask_arms": True}))
    assert [field.name for field in with_arms][-5:] == [*names[-4:], "mask_arms"]
    assert {
        "target_ra", "target_dec", "z", "zerr", "zwarn", "chi2", "deltachi2", "spectype",
        "subtype", "tsnr2_lya", "tsnr2_qso", "rrdetails",
    } <= set(names)  # fmt: skip
    assert not {
        "qso_maskbits", "tsnr2_lrg", "integ_coadd_flux_b", "oii_flux", "rrdetails_scans",
    } & set(names)  # fmt: skip


@pytest.mark.parametrize(
    ("cameras", "resolution"), [("combined", "lsf"), ("separate", "lsf"), ("separate", "matrix")]
)
@pytest.mark.parametrize("preset", [None, "desi_qso"])
def test_every_field_has_a_name_of_its_own(
    settings: dict[str, Any], cameras: str, resolution: str, preset: str | None
) -> None:
    for size in (0, 1, 7):
        for chosen in itertools.islice(itertools.combinations(EVERYTHING, size), 8):
            config = changed(
                settings,
                columns={name: EVERYTHING[name] for name in chosen},
                spectra={"cameras": cameras, "resolution": resolution},
                selection={"preset": preset},
            )
            names = [field.name for field in record_fields(config)]
            assert len(names) == len(set(names))
            assert names == [name.lower() for name in names]


def test_every_field_has_its_unit_description_and_ucd(settings: dict[str, Any]) -> None:
    config = changed(
        settings, columns=EVERYTHING, spectra=ALL_SPECTRA, selection={"preset": "desi_qso"}
    )
    fields = record_fields(config)
    for field, declared in zip(fields, arrow_schema(fields), strict=True):
        metadata = declared.metadata
        assert metadata[b"description"].decode() == field.description
        assert metadata.get(b"unit", b"").decode() == field.unit
        assert bool(field.ucd) != pa.types.is_struct(field.type)
    units = {field.name: field.unit for field in fields}
    assert units["flux"] == "10**-17 erg/(s cm2 Angstrom)"
    assert units["wavelength"] == "Angstrom"
    assert units["target_ra"] == "deg"


@pytest.mark.parametrize("spelling", [None, "vounit"])
def test_astropy_and_vounits_convert_every_unit(
    settings: dict[str, Any], spelling: str | None
) -> None:
    fields = record_fields(changed(settings, columns=EVERYTHING, spectra=ALL_SPECTRA))
    table = ElementTree.fromstring(votable(fields))  # noqa: S314  (our own)
    described = [field.get("unit") or "" for field in table.iter(f"{{{VOTABLE_NAMESPACE}}}FIELD")]
    for text in set(described if spelling else (field.unit for field in fields)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", r"The unit '\w+' has been deprecated")
            unit = Unit(text, format=spelling)
        # none stays a base of its own, as nanomaggy does
        assert {str(base) for base in unit.decompose().bases} <= {"m", "kg", "s", "rad", "dex"}


def test_the_preset_says_that_redshifts_are_replaced(settings: dict[str, Any]) -> None:
    fields = record_fields(changed(settings, selection={"preset": "desi_qso"}))
    described = {field.name: field.description for field in fields}
    assert {"qso_maskbits", "z_rr", "zerr_rr", "is_qso_mgii", "z_new", "c_lya"} <= set(described)
    assert "QuasarNET" in described["z"]


def test_the_fingerprint_changes_with_any_part_of_a_field(settings: dict[str, Any]) -> None:
    fields = record_fields(settings)
    assert fingerprint(fields) == fingerprint(record_fields(settings))
    for change in ({"unit": "mag"}, {"description": "?"}, {"type": pa.int8()}, {"name": "x"}):
        other = (fields[0]._replace(**change), *fields[1:])
        assert fingerprint(other) != fingerprint(fields)


@pytest.mark.filterwarnings("ignore:The unit:astropy.units.UnitsWarning")
def test_the_votable_has_one_field_for_each_column(settings: dict[str, Any]) -> None:
    fields = record_fields(changed(settings, columns=EVERYTHING, spectra=ALL_SPECTRA))
    table = astropy_votable.parse(BytesIO(votable(fields).encode()), verify="exception")
    described = table.get_first_table().fields
    assert [field.name for field in described] == [field.name for field in fields]
    assert [field.description for field in described] == [field.description for field in fields]
    for here, there in zip(fields, described, strict=True):
        assert (there.ucd or "") == here.ucd
        assert (there.unit is None) == (here.unit == "")


def test_the_documentation_lists_the_fields_of_the_schema(defaults: dict[str, Any]) -> None:
    default = record_fields(defaults)
    there = {field.name for field in default}
    everything = changed(
        defaults, columns=EVERYTHING, spectra=ALL_SPECTRA, selection={"preset": "desi_qso"}
    )
    more = [field for field in record_fields(everything) if field.name not in there]
    text = (REPOSITORY / "docs/data-model.md").read_text()
    # to make them again: print(markdown(default)), print(markdown(more))
    assert markdown(default) in text
    assert markdown(more) in text
