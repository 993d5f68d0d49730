"""
A composite quasar spectrum
===========================

Quasars differ in brightness and redshift, and look alike in their rest frames: stacked, their
noise averages out and the lines stand clear.
"""

import os

import matplotlib.pyplot as plt
import numpy as np

from desi_fits_to_parquet import open_catalog

quasars = open_catalog(os.environ.get("DEMO", "results/demo"))
some = quasars.where("is_primary and z between 1.8 and 3.2")
print(f"{len(some)} quasars")

# %%
# `rest_frame` puts all on one grid of the rest frame (fluxes per Angstrom of it); `normalise`
# divides each by its mean flux between two wavelengths, so that the brightest do not decide.

spectra = some.spectra().rest_frame()
median = spectra.stack("median", normalise=(1680, 1720))
mean = spectra.stack("mean", normalise=(1680, 1720))

axes = median.plot(smooth=5)
axes.set_xlim(950, 3000)
axes.set_ylim(0, 6)

# %%
# Its ivar tells of the noise alone. How the quasars differ from one another is seen by drawing
# lots: stacks of half of them, ten times.

rng = np.random.default_rng(1)
good = median.good & (median.wavelength > 1250) & (median.wavelength < 2600)
halves = []
for _ in range(10):
    half = spectra[rng.permutation(len(spectra))[: len(spectra) // 2]]
    halves.append(half.stack("median", normalise=(1680, 1720)).flux[good])
figure, axes = plt.subplots()
axes.plot(median.wavelength[good], np.std(halves, axis=0), lw=0.5, label="between halves")
axes.plot(median.wavelength[good], median.ivar[good] ** -0.5, label="noise")
axes.set(xlabel="rest wavelength (Angstrom)", ylabel="standard deviation", yscale="log")
axes.legend()
plt.show()
