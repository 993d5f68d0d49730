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


@pytest.mark.parametrize("qso_fiberstatus", [[0, 8388608, 16777216], [0, 8]])
def test_the_preset_selects_as_the_quasar_catalogue_does(
    tile_folder: Path, settings: Settings, qso_fiberstatus: list[int]
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
        if not fiber["DESI_TARGET"] & 4:
            continue
        bits += 2 * (row["SPECTYPE"] == "QSO") + 4 * (target in broad) + 8 * (target in sure)
        if target in sure and sure[target]["IS_QSO_QN_NEW_RR"]:
            bits, z = bits + 16, sure[target]["Z_NEW"]
        good = fiber["COADD_FIBERSTATUS"] in qso_fiberstatus and fiber["OBJTYPE"] == "TGT"
        if bits and good:
            wanted[target] = (bits, z)
    selection = select(tile_folder, settings, preset="desi_qso", qso_fiberstatus=qso_fiberstatus)
    found = zip(selection.qso_maskbits.tolist(), selection.z.tolist(), strict=True)
    assert dict(zip(selection.targetid.tolist(), found, strict=True)) == wanted
    assert {bits & 30 for bits, _ in wanted.values()} >= {2}
    assert any(bits & 16 for bits, _ in wanted.values()), "the tile shows no replaced redshift"


QSO, ELG, BGS, LRG = 1 << 2, 1 << 1, 1 << 60, 1 << 0


@pytest.mark.parametrize(
    ("targets", "spectype", "confidence", "broad", "rerun", "maskbits", "new_z"),
    [
        (QSO, "QSO", 0.1, False, True, 2, False),
        (QSO, "GALAXY", 0.97, True, True, 4 + 8 + 16, True),
        (QSO | ELG | BGS, "GALAXY", 0.7, True, True, 4, False),
        (QSO | LRG, "QSO", 0.97, False, False, 2 + 8, False),
        (ELG, "QSO", 0.7, False, True, 64, True),
        (ELG, "QSO", 0.5, True, True, None, False),
        (ELG, "GALAXY", 0.99, True, True, None, False),
        (ELG | BGS, "QSO", 0.7, True, False, 64, False),
        (ELG | BGS, "QSO", 0.5, True, False, None, False),
        (BGS, "QSO", 0.7, False, True, 32, True),
        (BGS, "QSO", 0.5, True, False, 32, False),
        (BGS, "QSO", 0.5, False, False, None, False),
        (BGS, "GALAXY", 0.99, True, True, None, False),
        (LRG, "QSO", 0.99, True, True, None, False),
        (0, "QSO", 0.99, True, True, None, False),
    ],
)
def test_each_class_of_targets_has_its_own_quasar_rule(
    class_tile: Path, settings: Settings, targets: int, spectype: str, confidence: float,
    broad: bool, rerun: bool, maskbits: int | None, new_z: bool
) -> None:  # fmt: skip
    network = class_tile / TILE.file_name("qso_qn")
    target = int(Table.read(network, hdu="QN_RR")["TARGETID"][0])

    def row(hdus: Any, name: str) -> Any:
        return np.flatnonzero(hdus[name].data["TARGETID"] == target)

    def redrock(hdus: Any) -> None:
        for name, values in (
            ("REDSHIFTS", {"SPECTYPE": spectype, "Z": 1.0}),
            ("FIBERMAP", {"DESI_TARGET": targets, "OBJTYPE": "TGT", "COADD_FIBERSTATUS": 0}),
        ):
            for column, value in values.items():
                hdus[name].data[column][row(hdus, name)] = value

    def qn(hdus: Any) -> None:
        for line in ("C_LYA", "C_CIV", "C_CIII", "C_MgII", "C_Hbeta", "C_Halpha"):
            hdus["QN_RR"].data[line][0] = confidence if line == "C_CIII" else 0
        hdus["QN_RR"].data["IS_QSO_QN_NEW_RR"][0] = rerun
        hdus["QN_RR"].data["Z_NEW"][0] = 2.5

    def mgii(hdus: Any) -> None:
        hdus["MGII"].data["IS_QSO_MGII"][row(hdus, "MGII")] = broad

    edit_fits(class_tile / TILE.file_name("redrock"), redrock)
    edit_fits(network, qn)
    edit_fits(class_tile / TILE.file_name("qso_mgii"), mgii)
    selection = select(class_tile, settings, preset="desi_qso")
    found = dict(zip(selection.targetid.tolist(), selection.qso_maskbits.tolist(), strict=True))
    assert found.get(target) == maskbits
    if maskbits is not None:
        z = selection.z[selection.targetid == target]
        assert z.tolist() == [2.5 if new_z else 1.0]


@pytest.fixture
def class_tile(tile_folder: Path, tmp_path: Path) -> Path:
    return copy_tile(tile_folder, tmp_path / "tile")


def test_a_higher_threshold_sets_fewer_bits_of_quasarnet(
    tile_folder: Path, settings: Settings
) -> None:
    sure = {}
    for threshold in (0.95, 0.99):
        selection = select(tile_folder, settings, preset="desi_qso", qso_threshold=threshold)
        sure[threshold] = set(selection.targetid[selection.qso_maskbits & 8 != 0].tolist())
    assert sure[0.99] < sure[0.95]


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
