"""
Galaxies in voids
=================

The galaxies of the bright survey against the voids of DESIVAST (here a simulated catalogue of its
form). Run `python examples/voids/run.py` first: it converts the demo's bright galaxies.
"""

import os
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from desi_fits_to_parquet import open_catalog

sys.path.append("examples/voids")
from match_voids import draw_slice, match, read_voids

results = Path(os.environ.get("DEMO", "results/demo")).parent
galaxies = open_catalog(results / "demo-galaxies").where("is_primary")
voids = read_voids(results / "voids/desivast", "VoidFinder")
print(f"{len(galaxies)} galaxies, {len(voids.spheres):,} spheres, Om0 = {voids.cosmology.Om0}")

# %%
# `match` gives each galaxy its void, how deep it lies in it, whether that void touches the edge of
# the survey, and whether anybody looked for voids at its place at all.

matched = match(galaxies.to_arrow(["targetid", "target_ra", "target_dec", "z"]), voids)
table = matched.to_pandas()
print(table[~table["outside"]][["targetid", "cap", "void", "depth", "edge"]].head(8))

# %%
# A slice through the sky, the spheres cut where it cuts them.

picture = results / "voids/slice.png"
draw_slice(picture, matched, voids)
figure, axes = plt.subplots(figsize=(10, 2.5), layout="constrained")
axes.imshow(plt.imread(picture))
axes.set_axis_off()

# %%
# How deep are they? A place drawn at random in a sphere of radius R is rarely near its centre.

inside = table[table["void"].notna() & ~table["outside"]]
figure, axes = plt.subplots()
axes.hist(inside["depth"], bins=np.arange(0, 24, 2))
axes.set(xlabel="depth in the sphere (Mpc/h)", ylabel="galaxies")
plt.show()
