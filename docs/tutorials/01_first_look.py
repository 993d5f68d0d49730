"""
First look
==========

What a run leaves, opened in one line. All tutorials read the demo's results: run `make demo` (or
`desi-fits-to-parquet demo`) first, or name another folder in the environment variable `DEMO`.
"""

import os

import matplotlib.pyplot as plt

from desi_fits_to_parquet import open_catalog

quasars = open_catalog(os.environ.get("DEMO", "results/demo"))
print(quasars)

# %%
# Columns have units and descriptions. `where` takes a condition in SQL, `cone` a place on the sky;
# nothing is read before it is asked for.

print(quasars.describe().loc[["z", "zerr", "flux_r", "is_primary"], ["unit", "description"]])

bright = quasars.where("is_primary and zwarn = 0 and flux_r > 2")
print(bright.to_pandas(["targetid", "ra", "dec", "redshift", "flux_r"]).head())

# %%
# Redshifts against brightness. Fluxes in nanomaggies are quantities that convert.

table = bright.to_astropy(["z", "flux_r"])
figure, axes = plt.subplots()
axes.scatter(table["z"], table["flux_r"].to_value("uJy"), s=15)
axes.set(xlabel="redshift", ylabel="flux in r (microjansky)", yscale="log")

# %%
# Spectra come as numpy arrays on one wavelength grid. A pixel is good where `good` is true.

spectra = bright.spectra()
print(spectra.flux.shape, spectra.wavelength[[0, -1]], f"{spectra.good.mean():.1%} good pixels")

best = spectra[int((spectra.flux * spectra.ivar**0.5).mean(axis=1).argmax())]
best.plot(smooth=7)
plt.show()
