"""What DESI's own tools make of a skim: desispec reads it, redrock finds the same redshifts."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits as astropy_fits
from astropy.table import Table
from fault_server import serve
from simulated_archive import PREFIX, list_sources, simulate_objects

from desi_fits_to_parquet.lines import LINES
from desi_fits_to_parquet.paths import skim_folder
from desi_fits_to_parquet.skim import skim_tile
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.tiles_csv import write_tiles

pytestmark = pytest.mark.reference

TILE = Tile("main", "dark", 10000)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tile's folder in the archive, and that of its skim."""
    from conftest import REPOSITORY

    from desi_fits_to_parquet.config import load_config

    root = tmp_path_factory.mktemp("skim")
    objects = simulate_objects(TILE, root, 12, quasar_share=0.5, exposures_per_target=2)
    settings: dict[str, Any] = load_config(REPOSITORY / "config/schema.yaml")
    with serve(objects) as service:
        settings["archive"]["endpoint"] = service.endpoint
        settings["results"] = str(root / "results")
        sources = list_sources(TILE, objects)
        write_tiles(root / "results/tiles.csv", {TILE: sources})
        marker = skim_tile(TILE, sources, settings, "run", lambda: None)
    assert marker["outcome"] == "converted", marker["reason"]
    return root / TILE.folder, skim_folder(root / "results", PREFIX.rstrip("/"), TILE)


def test_desispec_reads_the_same_spectra_of_the_selected_targets(
    folders: tuple[Path, Path],
) -> None:
    from desispec.io import read_spectra

    theirs, mine = (read_spectra(str(f / TILE.file_name("coadd"))) for f in folders)
    kept = np.isin(theirs.fibermap["TARGETID"], mine.fibermap["TARGETID"])
    assert 0 < kept.sum() < len(kept)
    expected = theirs[kept]
    assert mine.bands == expected.bands == ["b", "r", "z"]
    for band in mine.bands:
        for name in ("wave", "flux", "ivar", "mask", "resolution_data"):
            assert np.array_equal(getattr(mine, name)[band], getattr(expected, name)[band]), name
        assert len(mine.R[band]) == kept.sum()
    for name in ("fibermap", "exp_fibermap", "scores"):
        one, other = getattr(mine, name), getattr(expected, name)
        assert one.colnames == other.colnames
        assert len(one) == len(other)
        assert all(np.array_equal(one[c], other[c], equal_nan=one[c].dtype.kind == "f")
                   for c in one.colnames)  # fmt: skip


def write_template(path: Path) -> None:
    """Write a quasar in redrock's form: a continuum, its slope, and broad lines in groups."""
    wave = 10 ** np.arange(np.log10(500), np.log10(10000), 2e-4)
    lines = sorted(LINES["QSO"].values())
    profiles = [np.exp(-0.5 * ((wave / line - 1) * 299792 / 2000) ** 2) for line in lines]
    basis = [(wave / 2000) ** -1.5, np.ones_like(wave), sum(profiles[:6]), sum(profiles[6:])]
    header = astropy_fits.Header(
        {"EXTNAME": "BASIS_VECTORS", "CRVAL1": float(np.log10(wave[0])), "CDELT1": 2e-4,
         "LOGLAM": 1, "RRTYPE": "QSO", "RRSUBTYP": "", "RRIGM": "None", "VERSION": "test"}
    )  # fmt: skip
    astropy_fits.HDUList([
        astropy_fits.PrimaryHDU(),
        astropy_fits.ImageHDU(np.array(basis), header),
        astropy_fits.ImageHDU(np.exp(np.arange(np.log(1.3), np.log(5), 2e-3)) - 1,
                              name="REDSHIFTS"),
    ]).writeto(path)  # fmt: skip


def test_redrock_finds_the_same_redshifts_in_a_skim_and_in_the_whole_tile(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    template = tmp_path / "rrtemplate-qso.fits"
    write_template(template)
    found = []
    for name, folder in zip(("whole", "skim"), folders, strict=True):
        out = tmp_path / f"{name}.fits"
        done = subprocess.run(
            [sys.executable, "-c", "from redrock.external.desi import rrdesi; rrdesi()",
             "-i", folder / TILE.file_name("coadd"), "-o", out, "-t", template, "--mp", "1"],
            capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        with astropy_fits.open(out) as opened:
            assert {"FIBERMAP", "EXP_FIBERMAP", "TSNR2"} <= {hdu.name for hdu in opened}
        found.append(Table.read(out, "REDSHIFTS"))
    theirs, mine = found
    kept = theirs[np.isin(theirs["TARGETID"], mine["TARGETID"])]
    assert 0 < len(kept) < len(theirs)
    for name in mine.colnames:
        assert np.array_equal(mine[name], kept[name]), name
    catalogue = Table.read(folders[1] / TILE.file_name("redrock"), "REDSHIFTS")
    assert np.array_equal(catalogue["TARGETID"], mine["TARGETID"])
    close = np.abs(mine["Z"] - catalogue["Z"]) < 0.02 * (1 + catalogue["Z"])
    assert np.mean(close) > 0.5  # it did find what was simulated
