"""
Rounding, and what it does to your science
==========================================

By default flux is rounded to at most 1/16 of the pixel's own sigma and ivar to 8 significant bits:
the files become small. Here the same tile is converted with and without it, and compared.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyarrow.parquet as pq

from desi_fits_to_parquet.config import load_config
from desi_fits_to_parquet.fuse.tile import fuse_tile
from desi_fits_to_parquet.simulate.tile import simulate_tile
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.workflow import workflow_folder

tile, spectra, size = Tile("main", "dark", 10000), {}, {}
with tempfile.TemporaryDirectory() as scratch:
    fits = Path(scratch, "fits")
    simulate_tile(tile, fits, 40, quasar_share=0.6, kinds=("coadd", "redrock"))
    for mode in ("lossless", "bounded"):
        config = Path(scratch, "config.yaml")
        config.write_text(f"precision: {{mode: {mode}}}")
        settings = load_config(workflow_folder() / "config/schema.yaml", config)
        fuse_tile(tile, fits, Path(scratch, mode), settings)
        (path,) = Path(scratch, mode).glob("*.parquet")
        table = pq.ParquetFile(path).read(["z", "wavelength", "flux", "ivar"])
        size[mode] = path.stat().st_size
        spectra[mode] = {name: np.array(table[name].to_pylist()) for name in table.column_names}
print(f"{size['lossless'] / 1e6:.2f} MB lossless, {size['bounded'] / 1e6:.2f} MB rounded")

# %%
# The error of a pixel, in units of its own noise: never more than 1/16, and not biased.

exact, rounded = spectra["lossless"], spectra["bounded"]
good = exact["ivar"] > 0
error = ((rounded["flux"] - exact["flux"]) * np.sqrt(exact["ivar"]))[good]
print(f"largest {np.abs(error).max():.4f} sigma, mean {error.mean():.6f} sigma")
print(f"added variance {np.mean(error**2):.5f} of the noise's")

figure, axes = plt.subplots()
axes.hist(error, bins=100)
axes.set(xlabel="error of rounding (sigma of the pixel)", ylabel="pixels")

# %%
# Science adds many pixels up. The flux in a window of 100 Angstrom (rest frame), of every quasar:
# the change is measured in units of the error that the noise gives it.

rest = exact["wavelength"] / (1 + exact["z"][:, None])
change = []
for centre in np.arange(1250, 2900, 100):
    window = good & (np.abs(rest - centre) < 50)
    use = window.sum(axis=1) > 50

    def mean_flux(one, window=window):
        """Mean flux in the window, weighted by ivar, and its error."""
        weight = np.where(window, one["ivar"], 0).sum(axis=1).clip(1e-30)
        flux = np.where(window, one["ivar"] * one["flux"], 0).sum(axis=1)
        return flux / weight, weight**-0.5

    change += (((mean_flux(rounded)[0] - mean_flux(exact)[0]) / mean_flux(exact)[1])[use]).tolist()
print(f"{len(change)} windows: changed by at most {np.abs(change).max():.3f} of their error")

figure, axes = plt.subplots()
axes.hist(change, bins=50)
axes.set(xlabel="change of the mean flux of 100 Angstrom (its own sigma)", ylabel="windows")
plt.show()
