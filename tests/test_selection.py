"""Selection: each criterion does what its name says, alone, and broken files are named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from fusion_tiles import TILE, changed, copy_tile, edit_fits, write_tile
from fusion_tiles import select as select_tile

from desi_fits_to_parquet.outcomes import BadTile
from desi_fits_to_parquet.record.selection import (
    QSO_FIBERSTATUS,
    Selection,
    check_row_match,
    match_rows,
    zwarn_mask,
)
from desi_fits_to_parquet.target_bits import TARGET_BITS
from desi_fits_to_parquet.tile import Tile

Settings = dict[str, Any]

# astropy has no FITS spelling for nanomaggy
pytestmark = pytest.mark.filterwarnings("ignore::astropy.units.UnitsWarning")


@pytest.fixture(scope="module")
def tile_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tile(
        tmp_path_factory.mktemp("tile"), n_targets=80, kinds=("redrock", "qso_mgii", "qso_qn")
    )


def select(folder: Path, settings: Settings, tile: Tile = TILE, **criteria: Any) -> Selection:
    return select_tile(folder, changed(settings, selection=criteria), tile)


def tables(folder: Path) -> tuple[Table, Table]:
    path = folder / TILE.file_name("redrock")
    return Table.read(path, hdu="REDSHIFTS"), Table.read(path, hdu="FIBERMAP")


ALL = {"spectypes": ["QSO", "GALAXY", "STAR"], "zwarn": None,
       "objtypes": ["TGT", "SKY", "NON", "BAD"]}  # fmt: skip


def test_the_default_is_the_plain_quasar_cut(tile_folder: Path, settings: Settings) -> None:
    redshifts, fibermap = tables(tile_folder)
    wanted = (redshifts["SPECTYPE"] == "QSO") & (redshifts["ZWARN"] == 0)
    wanted &= fibermap["OBJTYPE"] == "TGT"
    selection = select(tile_folder, settings)
    assert 0 < len(selection.targetid) < len(redshifts)
    assert selection.targetid.tolist() == sorted(redshifts["TARGETID"][wanted])
    assert (redshifts["TARGETID"][selection.row] == selection.targetid).all()
    assert selection.n_targets == len(redshifts)
    assert not selection.qso_maskbits.any()


def test_everything_can_be_selected(tile_folder: Path, settings: Settings) -> None:
    assert len(select(tile_folder, settings, **ALL).row) == 80


@pytest.mark.parametrize(
    ("setting", "mask"),
    [(0, 0), (None, None), (4, 4), (["SMALL_DELTA_CHI2", "LITTLE_COVERAGE"], 6)],
)
def test_zwarn_settings_allow_the_bits_they_name(
    tile_folder: Path, settings: Settings, setting: Any, mask: int | None
) -> None:
    assert zwarn_mask(setting) == mask
    redshifts, _ = tables(tile_folder)
    selection = select(tile_folder, settings, **(ALL | {"zwarn": setting}))
    wanted = np.ones(80, bool) if mask is None else (redshifts["ZWARN"] & ~mask) == 0
    assert selection.targetid.tolist() == sorted(redshifts["TARGETID"][wanted])


def test_limits_include_their_ends(tile_folder: Path, settings: Settings) -> None:
    redshifts, _ = tables(tile_folder)
    for name in ("z", "deltachi2"):
        values = np.sort(redshifts[name.upper()])
        low, high = float(values[20]), float(values[60])
        selection = select(tile_folder, settings, **ALL, **{name: [low, high]})
        kept = redshifts[name.upper()][selection.row]
        assert len(kept) == ((values >= low) & (values <= high)).sum()
        assert kept.min() == low
        assert kept.max() == high


def test_fiberstatus_is_one_of_the_values_asked_for(tile_folder: Path, settings: Settings) -> None:
    _, fibermap = tables(tile_folder)
    values = sorted(set(fibermap["COADD_FIBERSTATUS"].tolist()))
    assert len(values) > 1
    selection = select(tile_folder, settings, **ALL, coadd_fiberstatus=values[1:2])
    assert set(fibermap["COADD_FIBERSTATUS"][selection.row]) == {values[1]}


@pytest.mark.parametrize("survey", ["main", "sv1", "sv3"])
def test_target_bits_are_read_from_the_column_of_the_survey(
    tmp_path: Path, settings: Settings, survey: str
) -> None:
    tile = Tile(survey, "dark", 77)
    write_tile(tmp_path, tile, n_targets=40, kinds=("redrock",))
    fibermap = Table.read(tmp_path / tile.file_name("redrock"), hdu="FIBERMAP")
    column, bits = TARGET_BITS[survey]
    selection = select(tmp_path, settings, tile, **ALL, targets=["QSO", "LRG"])
    wanted = (fibermap[column] & (1 << bits["QSO"] | 1 << bits["LRG"])) != 0
    assert 0 < wanted.sum() < 40
    assert selection.targetid.tolist() == sorted(fibermap["TARGETID"][wanted])


def test_an_unknown_target_bit_is_refused_with_those_allowed(
    tile_folder: Path, settings: Settings
) -> None:
    with pytest.raises(ValueError, match=r"QUASAR is no bit of DESI_TARGET; allowed .*QSO"):
        select(tile_folder, settings, targets=["QUASAR"])


def test_the_preset_selects_as_the_quasar_catalogue_does(
    tile_folder: Path, settings: Settings
) -> None:
    redshifts, fibermap = tables(tile_folder)
    mgii = Table.read(tile_folder / TILE.file_name("qso_mgii"), hdu="MGII")
    network = Table.read(tile_folder / TILE.file_name("qso_qn"), hdu="QN_RR")
    lines = ["C_LYA", "C_CIV", "C_CIII", "C_MgII", "C_Hbeta", "C_Halpha"]
    broad = {row["TARGETID"] for row in mgii if row["IS_QSO_MGII"]}
    sure = {row["TARGETID"]: row for row in network if max(row[line] for line in lines) > 0.95}
    wanted = {}
    for row, fiber in zip(redshifts, fibermap, strict=True):
        target, z, bits = row["TARGETID"], row["Z"], 0
        bits += 2 * (row["SPECTYPE"] == "QSO") + 4 * (target in broad) + 8 * (target in sure)
        if target in sure and sure[target]["IS_QSO_QN_NEW_RR"]:
            bits, z = bits + 16, sure[target]["Z_NEW"]
        good = fiber["COADD_FIBERSTATUS"] in QSO_FIBERSTATUS and fiber["OBJTYPE"] == "TGT"
        if bits and good:
            wanted[target] = (bits, z)
    selection = select(tile_folder, settings, preset="desi_qso")
    found = zip(selection.qso_maskbits.tolist(), selection.z.tolist(), strict=True)
    assert dict(zip(selection.targetid.tolist(), found, strict=True)) == wanted
    assert {bits & 30 for bits, _ in wanted.values()} >= {2}
    assert any(bits & 16 for bits, _ in wanted.values()), "the tile shows no replaced redshift"


def test_the_preset_works_without_afterburner_files(
    tile_folder: Path, tmp_path: Path, settings: Settings
) -> None:
    folder = copy_tile(tile_folder, tmp_path / "tile")
    for kind in ("qso_mgii", "qso_qn"):
        (folder / TILE.file_name(kind)).unlink()
    selection = select(folder, settings, preset="desi_qso")
    assert set(selection.qso_maskbits) == {2}


def test_redrock_with_rows_in_another_order_selects_the_same(
    tile_folder: Path, tmp_path: Path, settings: Settings
) -> None:
    write_tile(tmp_path, n_targets=80, kinds=("redrock",), shuffle_redrock=True)
    shuffled = select(tmp_path, settings)
    assert shuffled.targetid.tolist() == select(tile_folder, settings).targetid.tolist()
    redshifts, _ = tables(tmp_path)
    assert (redshifts["TARGETID"][shuffled.row] == shuffled.targetid).all()


def test_fibermap_in_another_order_than_redshifts_selects_the_same(
    tile_folder: Path, tmp_path: Path, settings: Settings
) -> None:
    folder = copy_tile(tile_folder, tmp_path / "tile")

    def reverse(hdus: Any) -> None:
        hdus["FIBERMAP"].data = hdus["FIBERMAP"].data[::-1].copy()

    edit_fits(folder / TILE.file_name("redrock"), reverse)
    assert (select(folder, settings).targetid == select(tile_folder, settings).targetid).all()


def test_duplicate_targetids_are_refused(
    tile_folder: Path, tmp_path: Path, settings: Settings
) -> None:
    folder = copy_tile(tile_folder, tmp_path / "tile")

    def repeat(hdus: Any) -> None:
        hdus["REDSHIFTS"].data["TARGETID"][3] = hdus["REDSHIFTS"].data["TARGETID"][4]

    edit_fits(folder / TILE.file_name("redrock"), repeat)
    with pytest.raises(BadTile, match="HDU REDSHIFTS holds TARGETID"):
        select(folder, settings)


def test_row_match_names_each_difference() -> None:
    ids = np.array([3, 1, 2])
    check_row_match(ids, ids[::-1], "HDU X", "f.fits")
    for found, what in (
        (np.array([1, 2]), r"f.fits: HDU X has 2 rows, redrock's REDSHIFTS has 3"),
        (np.array([1, 2, 9]), "1 TARGETIDs are not in redrock, the first is 9"),
        (np.array([1, 2, 2]), "TARGETID 2 more than once"),
    ):
        with pytest.raises(BadTile, match=what) as caught:
            check_row_match(ids, found, "HDU X", "f.fits")
        assert caught.value.outcome == "corrupt_source"


def test_matching_marks_a_target_that_is_not_there() -> None:
    assert match_rows(np.array([5, -7, 6]), np.array([-7, 5])).tolist() == [1, 0, -1]
    assert match_rows(np.array([5]), np.zeros(0, np.int64)).tolist() == [-1]


def test_the_real_galaxy_is_found_and_is_no_quasar(real_data: Path, settings: Settings) -> None:
    folder, tile = real_data / "special/dark/272/27247", Tile("special", "dark", 27247)
    galaxies = changed(settings, selection={"spectypes": ["GALAXY"], "zwarn": None})
    assert len(select_tile(folder, galaxies, tile).targetid) == 1
    assert len(select_tile(folder, settings, tile).targetid) == 0
