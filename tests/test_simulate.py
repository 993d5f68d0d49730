"""The simulated archive: what a reader of DESI files can trip over is there, and it is repeatable.

Files are read back with astropy and h5py, with desispec and specutils where they are installed,
and compared with real DESI files: none of it with this project's own reader.
"""

import hashlib
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import astropy.units
import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy_healpix import HEALPix

from desi_fits_to_parquet.columns import load_columns
from desi_fits_to_parquet.simulate.__main__ import main
from desi_fits_to_parquet.simulate.archive import mend_demo_tile, simulate_demo_archive
from desi_fits_to_parquet.simulate.tile import DEFAULT_KINDS, simulate_tile
from desi_fits_to_parquet.tile import Tile

TILE = Tile("main", "dark", 10000)
N_TARGETS = 40
ARMS = ("B", "R", "Z")
NAMES = [
    "PRIMARY",
    "FIBERMAP",
    "EXP_FIBERMAP",
    *(f"{a}_{k}" for a in ARMS for k in ("WAVELENGTH", "FLUX", "IVAR", "MASK", "RESOLUTION")),
    "SCORES",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tile with all kinds of files and 40 targets, eight of them quasars."""
    path = tmp_path_factory.mktemp("tile")
    simulate_tile(
        TILE, path, N_TARGETS, seed=3, quasar_share=0.2, kinds=(*DEFAULT_KINDS, "spectra")
    )
    return path


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Tile, str]]:
    """The demo's archive and what must become of its tiles."""
    path = tmp_path_factory.mktemp("demo")
    return path, simulate_demo_archive(path)


def table(folder: Path, kind: str, extname: str, tile: Tile = TILE) -> Any:
    return fits.getdata(folder / tile.file_name(kind), extname)


def image(folder: Path, extname: str, tile: Tile = TILE) -> np.ndarray[Any, Any]:
    return np.asarray(fits.getdata(folder / tile.file_name("coadd"), extname))


# ----------------------------------------------------------------------------------- structure


def check_structure(path: Path, *, checksums: bool = True) -> list[str]:
    """Let astropy verify structure and checksums; return the names of the HDUs."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fits.open(path, checksum=checksums, disable_image_compression=True) as hdus:
            hdus.verify("exception")
            for hdu in hdus:
                assert ("CHECKSUM" in hdu.header and "DATASUM" in hdu.header) == checksums
                _ = hdu.data
            return [hdu.name for hdu in hdus]


@pytest.mark.parametrize("form", ["int32", "unsigned", "compressed", "compressed_unsigned"])
def test_coadd_of_every_mask_form_is_valid_fits_with_right_checksums(
    tmp_path: Path, form: Any
) -> None:
    simulate_tile(TILE, tmp_path, 5, mask_form=form, kinds=("coadd",))
    path = tmp_path / TILE.file_name("coadd")
    assert check_structure(path) == NAMES
    simulate_tile(TILE, tmp_path / "plain", 5, kinds=("coadd",))
    unsigned = form.endswith("unsigned")
    for arm in ARMS:
        mask = image(tmp_path, f"{arm}_MASK")
        assert mask.dtype.kind == ("u" if unsigned else "i")
        np.testing.assert_array_equal(mask, image(tmp_path / "plain", f"{arm}_MASK"))
    with fits.open(path, disable_image_compression=True) as hdus:
        header = hdus["Z_MASK"].header
        assert header.get("BZERO", 0) == (2147483648 if unsigned else 0)
        assert header.get("ZIMAGE", False) == form.startswith("compressed")
        if form.startswith("compressed"):
            assert (header["ZCMPTYPE"], header["ZTILE1"], header["ZTILE2"]) == ("GZIP_1", 2881, 1)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("redrock", ["PRIMARY", "REDSHIFTS", "FIBERMAP", "EXP_FIBERMAP", "TSNR2"]),
        ("emline", ["PRIMARY", "EMLINEFIT"]),
        ("qso_mgii", ["PRIMARY", "MGII"]),
        ("qso_qn", ["PRIMARY", "QN_RR"]),
    ],
)
def test_other_files_are_valid_fits_with_right_checksums(
    folder: Path, kind: str, names: list[str]
) -> None:
    assert check_structure(folder / TILE.file_name(kind)) == names


def test_tables_have_the_data_models_columns_types_and_units(folder: Path) -> None:
    letters = {"int64": "K", "int32": "J", "int16": "I", "float32": "E", "float64": "D",
               "binary": "B", "logical": "L", "char": "A"}  # fmt: skip
    for file, extname in sorted({(c.file, c.extname) for c in load_columns()}):
        expected = []
        for column in load_columns(file, extname):
            name, length = re.fullmatch(r"(\w+?)(?:\[(\d+)\])?", column.type).groups()
            # SCND_TARGET is not everywhere in survey validation, but it is in the main survey
            if column.required or column.name in ("DESI_TARGET", "SCND_TARGET"):
                expected.append((column.name, f"{length or ''}{letters[name]}", column.unit))
        found = table(folder, file, extname).columns
        assert [(c.name, c.format, c.unit or "") for c in found] == expected, (file, extname)


def test_primary_header_names_the_tile(folder: Path) -> None:
    for kind in ("coadd", "redrock"):
        header = fits.getheader(folder / TILE.file_name(kind))
        assert header["SPGRP"] == "healpix"
        assert header["SPGRPVAL"] == header["HPXPIXEL"] == 10000
        assert (header["HPXNSIDE"], header["HPXNEST"]) == (64, True)
        assert (header["SURVEY"], header["PROGRAM"]) == ("main", "dark")
        assert header["LONGSTRN"] == "OGIP 1.0"
        names = {header[f"DEPNAM{i:02d}"]: header[f"DEPVER{i:02d}"] for i in range(8)}
        assert names["SPECPROD"] == "iron"
        assert len(names["DESI_SPECTRO_CALIB"]) > 68  # goes on in a CONTINUE card
    header = fits.getheader(folder / TILE.file_name("coadd"))
    assert header["INFIL000"] == TILE.file_name("spectra")


def test_images_have_the_headers_and_wavelengths_of_a_real_coadd(
    folder: Path, real_data: Path
) -> None:
    real = real_data / "special/dark/272/27247/coadd-special-dark-27247.fits"
    with fits.open(real) as theirs, fits.open(folder / TILE.file_name("coadd")) as ours:
        assert [hdu.name for hdu in theirs] == [hdu.name for hdu in ours] == NAMES
        for name in NAMES[3:-1]:
            there, here = theirs[name].header, ours[name].header
            rows = f"NAXIS{here['NAXIS']}" if here["NAXIS"] > 1 else ""
            assert [k for k in here if k != "BUNIT"] == [k for k in there if k != "BUNIT"]
            for key in there:
                if key not in ("CHECKSUM", "DATASUM", rows):
                    assert here[key] == there[key], (name, key)
            assert ours[name].data.dtype == theirs[name].data.dtype
            if name.endswith("WAVELENGTH"):
                assert ours[name].data.tobytes() == theirs[name].data.tobytes()


def test_arms_lie_as_far_apart_as_in_a_real_file_of_417_targets() -> None:
    # byte offsets of coadd-main-dark-10000.fits in DR1; image headers there take a block each
    block = 2880

    def padded(size: int) -> int:
        return -(-size // block) * block

    def arm(nwave: int, next_nwave: int) -> int:
        images = 3 * padded(417 * nwave * 4) + padded(417 * 11 * nwave * 4)
        return 5 * block + images + padded(8 * next_nwave)

    assert arm(2751, 2326) == 64_540_800 - 256_320
    assert arm(2326, 2881) == 118_906_560 - 64_540_800


def test_image_headers_take_one_block_each(folder: Path) -> None:
    with fits.open(folder / TILE.file_name("coadd")) as hdus:
        for name in NAMES[3:-1]:
            info = hdus[name].fileinfo()
            assert info["datLoc"] - info["hdrLoc"] == 2880, name


def test_checksum_list_is_what_sha256sum_checks(folder: Path) -> None:
    name = "redux_iron_healpix_main_dark_100_10000.sha256sum"
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", name], cwd=folder, check=True)
    listed = [line.split("  ")[1] for line in (folder / name).read_text().splitlines()]
    assert sorted(listed) == sorted(p.name for p in folder.iterdir() if p.name != name)


# -------------------------------------------------------------------------------- repeatability


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_same_arguments_give_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        kinds = (*DEFAULT_KINDS, "spectra")
        simulate_tile(TILE, tmp_path / name, 6, seed=seed, scan_step=50, kinds=kinds)
    first, again, other = (digests(tmp_path / name) for name in "abc")
    assert first == again
    assert len(first) == 9
    same = {name for name in first if first[name] == other[name]}
    assert same == {TILE.file_name("spectra")}  # the stand-in holds no spectra


def test_a_file_is_the_same_with_and_without_the_others(tmp_path: Path) -> None:
    simulate_tile(TILE, tmp_path / "all", 6, scan_step=50)
    simulate_tile(TILE, tmp_path / "some", 6, scan_step=50, kinds=("redrock", "emline"))
    assert set(digests(tmp_path / "some").items()) < set(digests(tmp_path / "all").items())


def test_memory_stays_bounded_on_a_large_tile(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from desi_fits_to_parquet.simulate.tile import simulate_tile\n"
        "from desi_fits_to_parquet.tile import Tile\n"
        "simulate_tile(Tile('main', 'dark', 1), Path(sys.argv[1]), 400, kinds=('coadd',))\n"
        # not getrusage: a child's peak begins with that of the process that started it
        "status = Path('/proc/self/status').read_text()\n"
        "print(status.split('VmHWM:')[1].split()[0])\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    path = tmp_path / "coadd-main-dark-1.fits"
    assert path.stat().st_size > 400 * 445_000
    path.unlink()
    assert int(done.stdout) / 1024 < 150  # MiB; the file has 171


# ---------------------------------------------------------------------------------- content


def test_targets_of_all_sorts_are_there(folder: Path) -> None:
    fibermap, fitted = table(folder, "coadd", "FIBERMAP"), table(folder, "redrock", "REDSHIFTS")
    assert len(set(fibermap["TARGETID"])) == len(fibermap) == N_TARGETS
    np.testing.assert_array_equal(fibermap["TARGETID"], fitted["TARGETID"])
    assert (fibermap["TARGETID"] < 0).any()
    quasar = (fitted["SPECTYPE"] == "QSO") & (fibermap["OBJTYPE"] == "TGT")
    assert (quasar & (fitted["ZWARN"] == 0)).sum() == 8  # the share that was asked for
    assert (quasar & (fitted["ZWARN"] != 0)).any()
    sky = fibermap["OBJTYPE"] == "SKY"
    assert (sky & (fitted["SPECTYPE"] == "QSO") & (fitted["ZWARN"] == 0)).any()
    assert (sky & (fibermap["TARGETID"] > 0)).any()
    assert {"TGT", "SKY", "BAD"} == set(fibermap["OBJTYPE"])
    assert {"GALAXY", "QSO", "STAR"} == set(fitted["SPECTYPE"])
    assert set(np.bitwise_or.reduce(fitted["ZWARN"][:, None] & (1 << np.arange(12)), 0)) >= {4, 512}
    assert (fibermap["COADD_FIBERSTATUS"] != 0).any()
    for bit in (0, 1, 2):  # LRG, ELG, QSO
        assert (fibermap["DESI_TARGET"] & (1 << bit) != 0).any()
    small = (fitted["DELTACHI2"] < 9) & (fitted["ZWARN"] & 512 == 0)
    np.testing.assert_array_equal(small, fitted["ZWARN"] & 4 != 0)


def test_fibres_without_light_have_no_ivar_and_are_flagged(folder: Path) -> None:
    nodata = table(folder, "redrock", "REDSHIFTS")["ZWARN"] & 512 != 0
    assert nodata.any()
    for arm in ARMS:
        ivar, mask = image(folder, f"{arm}_IVAR"), image(folder, f"{arm}_MASK")
        np.testing.assert_array_equal((ivar == 0).all(axis=1), nodata)
        assert (mask[nodata] != 0).all()
        assert (image(folder, f"{arm}_FLUX")[nodata] == 0).all()
    assert (table(folder, "coadd", "FIBERMAP")["COADD_FIBERSTATUS"][nodata] != 0).all()


def test_masked_pixels_keep_ivar_and_overlaps_are_masked_in_one_arm_or_both(folder: Path) -> None:
    mask = {arm: image(folder, f"{arm}_MASK") for arm in ARMS}
    ivar = {arm: image(folder, f"{arm}_IVAR") for arm in ARMS}
    good = (ivar["B"] > 0).any(axis=1)
    for arm in ARMS:
        bad = mask[arm][good] != 0
        assert 0.001 < bad.mean() < 0.05
        assert (ivar[arm][good][bad] > 0).any()
        assert (ivar[arm][good][bad] == 0).any()
        assert (ivar[arm][good][~bad] == 0).any()
        assert len(np.unique(mask[arm][good])) > 4
    for left, right, shared in (("B", "R", 51), ("R", "Z", 126)):
        one = mask[left][good][:, -shared:] != 0
        other = mask[right][good][:, :shared] != 0
        assert (one & ~other).any(axis=1).mean() > 0.8
        assert (~one & other).any(axis=1).mean() > 0.8
    both = (mask["B"][good][:, -51:] != 0) & (mask["R"][good][:, :51] != 0)
    assert both.any(axis=1).all()


def test_noise_is_what_ivar_says(folder: Path) -> None:
    sky = table(folder, "coadd", "FIBERMAP")["OBJTYPE"] == "SKY"
    for arm in ARMS:
        flux, ivar = image(folder, f"{arm}_FLUX")[sky], image(folder, f"{arm}_IVAR")[sky]
        good = (ivar > 0) & (image(folder, f"{arm}_MASK")[sky] == 0)
        pull = flux[good] * np.sqrt(ivar[good])
        assert abs(pull.mean()) < 0.03
        assert abs(pull.std() - 1) < 0.02


def test_ivar_has_the_sky_lines_and_edges_of_a_real_coadd(folder: Path, real_data: Path) -> None:
    real = real_data / "special/dark/272/27247/coadd-special-dark-27247.fits"
    sky = np.flatnonzero(table(folder, "coadd", "FIBERMAP")["OBJTYPE"] == "SKY")[0]
    for arm in ARMS:
        theirs = np.log(np.asarray(fits.getdata(real, f"{arm}_IVAR"))[0])
        ours = image(folder, f"{arm}_IVAR")[sky]
        seen = ours > 0
        assert np.corrcoef(np.log(ours[seen]), theirs[seen])[0, 1] > 0.8
    blue = image(folder, "B_IVAR")[sky]
    assert np.median(blue[:100]) < 0.1 * np.median(blue[2000:2400])
    line = round((5577.6 - 3600) / 0.8)
    assert blue[line] < 0.05 * np.median(blue[line - 60 : line - 20])


def test_quasars_show_their_lines_at_their_redshift(tmp_path: Path) -> None:
    simulate_tile(TILE, tmp_path, 60, quasar_share=0.6, kinds=("coadd", "redrock"))
    fitted = table(tmp_path, "redrock", "REDSHIFTS")
    wavelength = image(tmp_path, "B_WAVELENGTH")
    flux, ivar = image(tmp_path, "B_FLUX"), image(tmp_path, "B_IVAR")
    weight = ivar * (image(tmp_path, "B_MASK") == 0)

    def mean(row: int, z: float, low: float, high: float) -> float:
        part = (wavelength > low * (1 + z)) & (wavelength < high * (1 + z))
        return float(np.average(flux[row][part], weights=weight[row][part]))

    seen = 0
    for row in np.flatnonzero((fitted["SPECTYPE"] == "QSO") & (fitted["ZWARN"] == 0)):
        z = fitted["Z"][row]
        if fitted["TARGETID"][row] > 0 and fitted["TARGETID"][row] < 1 << 59 and 2.6 < z < 3.4:
            seen += 1
            red = mean(row, z, 1265, 1285)
            assert mean(row, z, 1205, 1228) > 1.5 * red  # Lyman alpha
            assert mean(row, z, 1050, 1180) < mean(row, z, 1205, 1228)  # the forest
    assert seen > 0


def test_targets_lie_in_their_pixel_and_are_shared_across_programs(tmp_path: Path) -> None:
    ids = []
    for tile in (TILE, Tile("main", "bright", 10000), Tile("sv3", "dark", 10000)):
        simulate_tile(tile, tmp_path, 12, kinds=("coadd",))
        fibermap = table(tmp_path, "coadd", "FIBERMAP", tile)
        degree = astropy.units.deg
        pixels = HEALPix(64, "nested").lonlat_to_healpix(
            fibermap["TARGET_RA"] * degree, fibermap["TARGET_DEC"] * degree
        )
        assert (pixels == 10000).all()
        ids.append(set(fibermap["TARGETID"].tolist()))
    assert ids[0] & ids[1]
    assert ids[0] & ids[2]


def test_exposures_add_up_to_the_coadd(folder: Path) -> None:
    fibermap, exposures = (table(folder, "coadd", n) for n in ("FIBERMAP", "EXP_FIBERMAP"))
    assert len(exposures) > len(fibermap)
    for row in fibermap:
        own = exposures[exposures["TARGETID"] == row["TARGETID"]]
        assert len(own) == row["COADD_NUMEXP"]
        assert own["EXPTIME"].sum() == pytest.approx(row["COADD_EXPTIME"])
        assert len(set(own["NIGHT"])) == row["COADD_NUMNIGHT"]
        assert len(set(own["TILEID"])) == row["COADD_NUMTILE"]
    path = folder / TILE.file_name("hpixexp")
    listed = np.genfromtxt(path, delimiter=",", names=True, dtype=None, encoding="ascii")
    assert set(exposures["EXPID"]) <= set(listed["EXPID"])


def test_photometry_is_that_of_the_spectrum(folder: Path) -> None:
    fibermap, scores = table(folder, "coadd", "FIBERMAP"), table(folder, "coadd", "SCORES")
    np.testing.assert_array_equal(fibermap["TARGETID"], scores["TARGETID"])
    bright = fibermap["FLUX_R"] > 5
    # nanomaggy to 1e-17 erg/(s cm2 Angstrom) at 6420 Angstrom
    expected = fibermap["FLUX_R"][bright] * 0.264
    np.testing.assert_allclose(scores["MEDIAN_COADD_FLUX_R"][bright], expected, rtol=0.25)


def test_survey_validation_keeps_its_bits_in_its_own_column(tmp_path: Path) -> None:
    tile = Tile("sv3", "dark", 10256)
    simulate_tile(tile, tmp_path, 20, kinds=("coadd", "redrock", "qso_mgii"))
    for kind, extname in (("coadd", "FIBERMAP"), ("redrock", "FIBERMAP")):
        fibermap = table(tmp_path, kind, extname, tile)
        names = fibermap.columns.names
        assert [n for n in names if n.startswith("SV")] == [
            f"SV3_{n}_TARGET" for n in ("DESI", "BGS", "MWS", "SCND")
        ]
        assert (fibermap["SV3_DESI_TARGET"] & 4 != 0).any()
        assert (fibermap["DESI_TARGET"] & 7 == 0).all()


def test_newer_redrock_has_other_columns_narrower_types_and_no_checksums(
    tmp_path: Path, real_data: Path
) -> None:
    simulate_tile(TILE, tmp_path / "dr1", 6, kinds=("redrock",))
    simulate_tile(TILE, tmp_path / "newer", 6, kinds=("redrock",), redrock_columns="newer")
    path = tmp_path / "newer" / TILE.file_name("redrock")
    check_structure(path, checksums=False)
    older, newer = (table(tmp_path / n, "redrock", "REDSHIFTS") for n in ("dr1", "newer"))
    real = fits.getdata(
        real_data / "special/dark/272/27247/redrock-special-dark-27247.fits", "REDSHIFTS"
    )
    assert set(newer.columns.names) == set(real.columns.names)
    assert set(newer.columns.names) - set(older.columns.names) == {"FITMETHOD"}
    assert newer["ZWARN"].dtype.itemsize < older["ZWARN"].dtype.itemsize
    for name in older.columns.names:
        if older[name].dtype.kind == "U":
            assert newer[name].tolist() == older[name].tolist()
        else:
            np.testing.assert_allclose(newer[name], older[name], rtol=1e-6)


def test_shuffled_redrock_has_the_same_rows_in_another_order(tmp_path: Path) -> None:
    for name, shuffle in (("plain", False), ("shuffled", True)):
        simulate_tile(TILE, tmp_path / name, 6, scan_step=50, shuffle_redrock=shuffle)
    coadd = table(tmp_path / "shuffled", "coadd", "FIBERMAP")["TARGETID"]
    for extname in ("REDSHIFTS", "FIBERMAP", "TSNR2"):
        plain = table(tmp_path / "plain", "redrock", extname)
        other = table(tmp_path / "shuffled", "redrock", extname)
        assert (other["TARGETID"] != coadd).all()
        back = np.argsort(other["TARGETID"])[np.argsort(np.argsort(plain["TARGETID"]))]
        assert other[back].tobytes() == plain.tobytes()
    with h5py.File(tmp_path / "shuffled" / TILE.file_name("rrdetails")) as details:
        assert (details["targetids"][:] == other["TARGETID"]).all()


# -------------------------------------------------------------------------- the other files


def test_details_have_the_layout_of_a_real_file(folder: Path, real_data: Path) -> None:
    real = real_data / "redrock-details/rrdetails-0-100-thru20210505.h5"
    with h5py.File(real) as theirs, h5py.File(folder / TILE.file_name("rrdetails")) as ours:
        assert ours["targetids"].dtype == theirs["targetids"].dtype
        one, other = (next(iter(f["zfit"].values()))["zfit"] for f in (ours, theirs))
        assert one.dtype == other.dtype
        for name, group in theirs["zscan"].items():
            assert set(ours["zscan"][name]) == set(group)
            for key, data in group.items():
                mine = ours["zscan"][name][key]
                assert mine.dtype == data.dtype
                assert mine.chunks is None
                assert (
                    mine.shape[-2 if key == "zcoeff" else -1 :]
                    == (data.shape[-2 if key == "zcoeff" else -1 :])
                )
        scans = [ours["zscan/GALAXY"][k] for k in ("zchi2", "penalty", "zcoeff", "redshifts")]
        last = max(data.id.get_offset() for data in scans)
        assert all(g["zfit"].id.get_offset() > last for g in ours["zfit"].values())


def test_details_agree_with_redshifts(folder: Path) -> None:
    fitted = table(folder, "redrock", "REDSHIFTS")
    with h5py.File(folder / TILE.file_name("rrdetails")) as details:
        np.testing.assert_array_equal(details["targetids"][:], fitted["TARGETID"])
        assert set(details["zfit"]) == {str(i) for i in fitted["TARGETID"]}
        assert "STAR:::WD" in details["zscan"]
        for row in fitted:
            fits_of_row = details[f"zfit/{row['TARGETID']}/zfit"][:]
            best = fits_of_row[0]
            for field in ("z", "zerr", "zwarn", "chi2", "npixels", "ncoeff", "deltachi2"):
                assert best[field] == row[field.upper()], field
            np.testing.assert_array_equal(best["coeff"], row["COEFF"])
            assert best["spectype"].decode() == row["SPECTYPE"]
            assert best["subtype"].decode() == row["SUBTYPE"]
            assert (np.diff(fits_of_row["chi2"]) >= 0).all()
            assert sorted(fits_of_row["spectype"].tolist()) == (
                [b"GALAXY"] * 3 + [b"QSO"] * 3 + [b"STAR"] * 3
            )


def test_emission_lines_are_missing_as_the_pipeline_leaves_them(folder: Path) -> None:
    lines, fitted = table(folder, "emline", "EMLINEFIT"), table(folder, "redrock", "REDSHIFTS")
    np.testing.assert_array_equal(lines["TARGETID"], fitted["TARGETID"])
    np.testing.assert_array_equal(lines["Z"], fitted["Z"])
    missing = np.isnan(lines["OII_FLUX"])
    assert missing.any()
    assert not missing.all()
    np.testing.assert_array_equal(lines["OII_NDOF"] == -99, missing)
    assert np.isnan(lines["HBETA_SHARE"]).all()
    seen = ~np.isnan(lines["OIII_FLUX"])
    assert np.isinf(lines["OIII_SHARE_IVAR"][seen]).all()


def test_quasar_files_hold_some_targets_only(folder: Path) -> None:
    ids = table(folder, "coadd", "FIBERMAP")["TARGETID"].tolist()
    mgii, network = table(folder, "qso_mgii", "MGII"), table(folder, "qso_qn", "QN_RR")
    assert 0 < len(network) < len(mgii) < len(ids)
    assert set(network["TARGETID"]) < set(mgii["TARGETID"]) < set(ids)
    positions = [ids.index(i) for i in network["TARGETID"]]
    assert positions != sorted(positions)
    assert mgii["IS_QSO_MGII"].any()
    assert not mgii["IS_QSO_MGII"].all()
    new = network["IS_QSO_QN_NEW_RR"]
    changed = np.abs(network["Z_NEW"] - network["Z_RR"]) > 0.01
    np.testing.assert_array_equal(changed, new)
    confidence = np.max([network[n] for n in network.columns.names if n.startswith("C_")], axis=0)
    assert ((confidence > 0.95) == (new | (network["SPECTYPE"] == "QSO"))).all()


# ---------------------------------------------------------------------------- other readers


@pytest.mark.reference
@pytest.mark.parametrize("form", ["int32", "unsigned", "compressed"])
def test_desispec_reads_the_coadd(tmp_path: Path, form: Any) -> None:
    from desispec.io import read_spectra

    simulate_tile(TILE, tmp_path, 4, mask_form=form, kinds=("coadd",))
    spectra = read_spectra(str(tmp_path / TILE.file_name("coadd")))
    assert spectra.bands == ["b", "r", "z"]
    assert spectra.num_spectra() == 4
    assert spectra.R["b"][0].shape == (2751, 2751)
    for band in spectra.bands:
        expected = image(tmp_path, f"{band.upper()}_FLUX")
        np.testing.assert_array_equal(spectra.flux[band], expected)
        expected = image(tmp_path, f"{band.upper()}_MASK")
        np.testing.assert_array_equal(spectra.mask[band], expected)
    assert len(spectra.exp_fibermap) >= 4


@pytest.mark.reference
def test_specutils_reads_the_coadd(tmp_path: Path) -> None:
    from specutils import SpectrumList

    simulate_tile(TILE, tmp_path, 4, kinds=("coadd",))
    arms = SpectrumList.read(tmp_path / TILE.file_name("coadd"))
    assert [arm.flux.shape for arm in arms] == [(4, 2751), (4, 2326), (4, 2881)]
    np.testing.assert_array_equal(arms[2].flux.value, image(tmp_path, "Z_FLUX"))
    assert arms[0].flux.unit.is_equivalent("erg / (s cm2 Angstrom)")


# ------------------------------------------------------------------------- the demo's archive


def test_demo_archive_holds_what_a_run_must_survive(demo: tuple[Path, dict[Tile, str]]) -> None:
    folder, expected = demo
    assert len(expected) >= 24
    programs = {("main", "dark"), ("main", "bright"), ("sv3", "dark")}
    assert {tile[:2] for tile in expected} == programs
    assert {tile[:2] for tile in expected if tile.number == 10000} == programs
    for tile, outcome in expected.items():
        here = folder / "dr1/spectro/redux/iron/healpix" / tile.folder
        there = {kind for kind in DEFAULT_KINDS[:-1] if (here / tile.file_name(kind)).exists()}
        assert (here / tile.checksum_name("iron")).exists()
        assert ({"coadd", "redrock"} <= there) == (outcome != "missing_source")
        if outcome in ("converted", "no_targets"):
            fitted = table(here, "redrock", "REDSHIFTS", tile)
            objtype = table(here, "redrock", "FIBERMAP", tile)["OBJTYPE"]
            quasar = (fitted["SPECTYPE"] == "QSO") & (fitted["ZWARN"] == 0) & (objtype == "TGT")
            assert quasar.any() == (outcome == "converted")
    assert set(expected.values()) == {"converted", "no_targets", "missing_source", "corrupt_source"}


def demo_tile(demo: tuple[Path, dict[Tile, str]], pixel: int) -> tuple[Path, Tile]:
    tile = Tile("main", "dark", pixel)
    return demo[0] / "dr1/spectro/redux/iron/healpix" / tile.folder, tile


def test_demo_lacks_emline_and_details_in_a_tile_that_converts(
    demo: tuple[Path, dict[Tile, str]],
) -> None:
    here, tile = demo_tile(demo, 10007)
    assert demo[1][tile] == "converted"
    assert not (here / tile.file_name("emline")).exists()
    assert not (here / tile.file_name("rrdetails")).exists()


def test_demo_has_a_redrock_in_another_order(demo: tuple[Path, dict[Tile, str]]) -> None:
    here, tile = demo_tile(demo, 10010)
    coadd = table(here, "coadd", "FIBERMAP", tile)["TARGETID"]
    redrock = table(here, "redrock", "REDSHIFTS", tile)["TARGETID"]
    assert sorted(coadd) == sorted(redrock)
    assert (coadd != redrock).any()


def failing_checksums(here: Path) -> list[str]:
    listing = next(here.glob("*.sha256sum")).name
    command = ["sha256sum", "--check", "--quiet", listing]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    return [line.split(":")[0] for line in done.stdout.splitlines()]


def test_demo_coadd_with_a_flipped_bit_shows_in_datasum_alone_until_mended(
    demo: tuple[Path, dict[Tile, str]], tmp_path: Path
) -> None:
    here, tile = demo_tile(demo, 10008)
    assert failing_checksums(here) == [tile.file_name("coadd")]
    with fits.open(here / tile.file_name("coadd")) as hdus:
        bad = [hdu.name for hdu in hdus if hdu.verify_datasum() != 1]
        assert bad == ["FIBERMAP"]
        ids = hdus["FIBERMAP"].data["TARGETID"]
        assert (ids == table(here, "redrock", "REDSHIFTS", tile)["TARGETID"]).all()
    mended = mend_demo_tile(tmp_path, tile).folder
    assert failing_checksums(mended) == []
    changed = {k for k, v in digests(mended).items() if digests(here)[k] != v}
    assert changed == {tile.file_name("coadd")}


def test_demo_truncated_coadd_lacks_hdus(demo: tuple[Path, dict[Tile, str]]) -> None:
    here, tile = demo_tile(demo, 10009)
    assert failing_checksums(here) == [tile.file_name("coadd")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(here / tile.file_name("coadd")) as hdus:
            assert "SCORES" not in [hdu.name for hdu in hdus]


@pytest.fixture(scope="module")
def since_dr3(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Tile, str]]:
    """The demo's archive in layout uniqpix: its folder of the tiles, and their outcomes."""
    path = tmp_path_factory.mktemp("dr3")
    expected = simulate_demo_archive(path, layout="uniqpix")
    return path / "dr3/spectro/redux/matterhorn/spectra", expected


def test_demo_since_dr3_holds_the_same_faults_in_tiles_of_several_orders(
    demo: tuple[Path, dict[Tile, str]], since_dr3: tuple[Path, dict[Tile, str]]
) -> None:
    root, expected = since_dr3
    assert list(expected.values()) == list(demo[1].values())
    assert {tile.order for tile in expected} == {5, 6, 7}
    for tile, outcome in expected.items():
        here = root / tile.survey / tile.program / str(tile.number // 100) / str(tile.number)
        assert (here / f"pixexp-{tile.name}.csv").exists()
        if outcome in ("converted", "no_targets"):
            header = fits.getheader(here / f"coadd-{tile.name}.fits")
            assert header["UNIQPIX"] == tile.number == tile.pixel + 4 * 4**tile.order
            ids = table(here, "redrock", "FIBERMAP", tile)
            grid = HEALPix(2**tile.order, order="nested")
            degrees = astropy.units.deg
            at = grid.lonlat_to_healpix(ids["TARGET_RA"] * degrees, ids["TARGET_DEC"] * degrees)
            assert set(at) == {tile.pixel}


def test_demo_since_dr3_says_in_each_program_which_tile_lies_where(
    since_dr3: tuple[Path, dict[Tile, str]],
) -> None:
    root, expected = since_dr3
    for survey, program in {tile[:2] for tile in expected}:
        tiles = {tile.number: tile for tile in expected if tile[:2] == (survey, program)}
        folder = root / survey / program
        rows = fits.getdata(folder / f"uniqpix-{survey}-{program}.fits", "UNIQPIX")
        assert sorted(rows["UNIQPIX"]) == sorted(tiles)
        assert (rows["NSPECTRA"] >= rows["NTARGETS"]).all()
        path = folder / f"hpix2upix-{survey}-{program}.fits"
        numbers = fits.getdata(path, "HPIX2UPIX")
        counts = fits.getdata(path, "HPIX_NTARGETS")
        order = int(np.log2(len(numbers) // 12) / 2)
        assert set(numbers) == {-1, *tiles}
        assert counts[numbers == -1].sum() == 0
        for number, tile in tiles.items():
            fine = np.flatnonzero(numbers == number)
            assert len(fine) == 4 ** (order - tile.order)
            assert set(fine >> 2 * (order - tile.order)) == {tile.pixel}
            assert counts[fine].sum() == rows["NTARGETS"][rows["UNIQPIX"] == number].sum()


def test_the_same_pixel_has_the_same_targets_in_both_layouts(tmp_path: Path) -> None:
    ids = []
    for layout, number in (("healpix", 10000), ("uniqpix", 26384)):
        tile = Tile("main", "dark", number, layout)
        simulate_tile(tile, tmp_path / layout, 8, kinds=("redrock",), quasar_share=1.0)
        ids.append(table(tmp_path / layout, "redrock", "REDSHIFTS", tile)["TARGETID"])
    assert np.array_equal(*ids)


# ------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    "arguments",
    [
        {"n_targets": 0},
        {"quasar_share": 1.5},
        {"mask_form": "int64"},
        {"redrock_columns": "older"},
        {"kinds": ("coadd", "cframe")},
        {"scan_step": 0},
    ],
)
def test_impossible_arguments_are_named(tmp_path: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        simulate_tile(**({"tile": TILE, "folder": tmp_path, "n_targets": 3} | arguments))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_smallest_tiles_hold_the_quasars_asked_for(
    tmp_path: Path, count: int, share: float
) -> None:
    done = simulate_tile(TILE, tmp_path, count, quasar_share=share, kinds=("redrock",))
    fitted = table(tmp_path, "redrock", "REDSHIFTS")
    objtype = table(tmp_path, "redrock", "FIBERMAP")["OBJTYPE"]
    quasar = (fitted["SPECTYPE"] == "QSO") & (fitted["ZWARN"] == 0) & (objtype == "TGT")
    assert len(fitted) == count
    assert quasar.sum() == done.n_quasars == (max(round(share * count), 1) if share else 0)


def test_command_line_writes_a_tile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["tile", str(tmp_path), "--survey", "sv1", "--healpix", "77", "--targets", "3"])
    assert "3 targets, 1 quasars" in capsys.readouterr().out
    assert (tmp_path / "coadd-sv1-dark-77.fits").exists()
    main(["tile", str(tmp_path), "--layout", "uniqpix", "--healpix", "5000", "--targets", "3"])
    assert (tmp_path / "pixexp-main-dark-5000.csv").exists()
