"""The list of columns: complete, meaningful, and one definition for all who use it."""

import csv
import warnings
from pathlib import Path
from typing import Any

import pytest
from astropy.io import fits as astropy_fits
from astropy.io.votable import ucd

from desi_fits_to_parquet.columns import (
    FIBERMAP_DEFAULT,
    fibermap_columns,
    kinds_used,
    load_columns,
)

REPOSITORY = Path(__file__).resolve().parents[1]
COLUMNS = load_columns()


def test_every_column_of_the_data_model_is_listed_unaltered() -> None:
    path = REPOSITORY.parent / "shared" / "desi-data-model/table-columns.csv"
    if not path.is_file():
        pytest.skip(f"no data model at {path}")
    with path.open() as stream:
        wanted = [tuple(row) for row in csv.reader(stream)][1:]
    source = Path(__file__).parents[1] / "src/desi_fits_to_parquet/columns.csv"
    with source.open() as stream:
        there = [tuple(row[:6]) for row in csv.reader(stream)][1:]
    assert len(set(there)) == len(there)
    units = {row[:3]: row[4] for row in there}
    added = {row[2]: units[row[:3]] for row in wanted if units[row[:3]] != row[4]}
    assert added == {"MJD": "d", "RA": "deg", "DEC": "deg"}
    for row in wanted:
        assert (*row[:4], units[row[:3]], *row[5:]) in there
        assert row[4] in ("", units[row[:3]])


def test_every_column_has_a_description_and_a_valid_ucd() -> None:
    for column in COLUMNS:
        assert column.description, column
        ucd.parse_ucd(column.ucd, check_controlled_vocabulary=True)


def test_every_unit_is_known_to_astropy() -> None:
    from astropy.units import Unit

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for unit in {column.unit for column in COLUMNS}:
            Unit(unit)


def test_lines_say_which_share_it_is_and_that_they_are_corrected_for_extinction() -> None:
    lines = {column.name: column.description for column in load_columns("emline", "EMLINEFIT")}
    assert "second line, 3729" in lines["OII_SHARE"]
    assert "second line, 5007" in lines["OIII_SHARE"]
    for line in ("HALPHA", "HBETA", "HGAMMA", "HDELTA"):
        assert lines[f"{line}_SHARE"].startswith("Always NaN")
    for name, description in lines.items():
        corrected = name.removesuffix("_IVAR").endswith(("_FLUX", "_CONT"))
        assert ("corrected for Galactic extinction (spectra are not)" in description) == corrected


def test_default_fibermap_columns_are_in_the_list() -> None:
    assert set(FIBERMAP_DEFAULT) <= {c.name for c in load_columns("coadd", "FIBERMAP")}
    assert 25 <= len(FIBERMAP_DEFAULT) <= 36
    assert set(fibermap_columns("default")) == set(FIBERMAP_DEFAULT)


def test_fibermap_columns_by_name_take_either_case_and_refuse_others() -> None:
    assert fibermap_columns(["ebv", "TARGET_RA"]) == ("TARGET_RA", "TARGET_DEC", "EBV")
    assert "TARGETID" not in fibermap_columns("all")
    with pytest.raises(ValueError, match="EBW not in the coadd's FIBERMAP"):
        fibermap_columns(["EBW"])


def test_files_that_no_setting_asks_for_are_not_used(settings: dict[str, Any]) -> None:
    assert kinds_used(settings) == ("coadd", "redrock", "emline", "rrdetails")
    settings["columns"] |= {"emline": False, "rrdetails": False, "qso_qn": True}
    assert kinds_used(settings) == ("coadd", "redrock", "qso_qn")
    settings["selection"]["preset"] = "desi_qso"
    assert kinds_used(settings) == ("coadd", "redrock", "qso_mgii", "qso_qn")


def test_real_files_have_the_listed_columns_in_the_listed_types(real_data: Path) -> None:
    folder = real_data / "special/dark/272/27247"
    for kind, names in (("coadd", ("FIBERMAP", "SCORES")), ("redrock", ("REDSHIFTS", "TSNR2"))):
        with astropy_fits.open(folder / f"{kind}-special-dark-27247.fits") as hdus:
            for name in names:
                there = hdus[name].columns.names
                for column in load_columns(kind, name):
                    assert column.name in there or not column.required
