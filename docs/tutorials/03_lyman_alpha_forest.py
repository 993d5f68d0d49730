"""
Pixels of the Lyman-alpha forest
================================

Between the Lyman-beta and Lyman-alpha lines of a quasar, neutral hydrogen on the way to us takes
light away, the more the farther. Here: how much, from all pixels of all quasars of the demo.
"""

import os

import matplotlib.pyplot as plt
import numpy as np

from desi_fits_to_parquet import open_catalog

ALPHA = 1215.67  # Angstrom, rest

quasars = open_catalog(os.environ.get("DEMO", "results/demo"))
spectra = quasars.where("is_primary and z > 2.2").spectra()
print(f"{len(spectra)} quasars with a forest")

# %%
# The continuum is a power law through two windows redward of the line, carried on to the blue.

rest = spectra.wavelength / (1 + spectra.z[:, None])


def level(low, high):
    """Mean flux of each quasar between two rest wavelengths, weighted by ivar."""
    weight = np.where(spectra.good & (rest > low) & (rest < high), spectra.ivar, 0)
    return (weight * spectra.flux).sum(axis=1) / weight.sum(axis=1)


near, far = level(1280, 1360), level(1680, 1750)
slope = np.log(near / far) / np.log(1320 / 1715)
continuum = near[:, None] * (rest / 1320) ** slope[:, None]

# %%
# Transmission by the redshift of the absorbing gas, with the mean of many pixels in each bin. Line
# wings and proximity are left out.

forest = spectra.good & (rest > 1050) & (rest < 1170) & (near > 0)[:, None] & (far > 0)[:, None]
gas = np.broadcast_to(spectra.wavelength / ALPHA - 1, rest.shape)[forest]
transmission = (spectra.flux / continuum)[forest]
weight = (spectra.ivar * continuum**2)[forest]

edges = np.arange(2.0, 3.4, 0.2)
which = np.digitize(gas, edges)
middle, mean, error = [], [], []
for i in range(1, len(edges)):
    here = which == i
    if here.sum() > 200:
        middle.append(gas[here].mean())
        mean.append(np.average(transmission[here], weights=weight[here]))
        error.append(weight[here].sum() ** -0.5)
print(f"{forest.sum():,} pixels; mean transmission", np.round(mean, 2))

# %%
# The line is the mean optical depth of Kim et al. 2007, 0.0023 (1 + z)^3.65.

z = np.linspace(2, 3.4)
figure, axes = plt.subplots()
axes.errorbar(middle, mean, error, fmt="o")
axes.plot(z, np.exp(-0.0023 * (1 + z) ** 3.65))
axes.set(xlabel="redshift of the gas", ylabel="transmission", ylim=(0, 1.2))
plt.show()
