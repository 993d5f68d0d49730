"""
Cross-match with LSDB
=====================

The results are a HATS collection, so LSDB opens them and matches them with any other catalogue of
that form: Gaia, ZTF, Rubin. Here the other one is made up: sources near some of the targets. It
needs `pip install lsdb` (or `make lsdb`).
"""

import os

import lsdb
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

quasars = lsdb.open_catalog(os.environ.get("DEMO", "results/demo"))
print(quasars.columns[:12].to_list())

# %%
# Another catalogue: two thirds of the quasars, up to an arcsecond away, with magnitudes.

ours = quasars[["targetid", "target_ra", "target_dec", "flux_r"]].compute(progress_bar=False)
ours = ours.drop_duplicates("targetid")
rng = np.random.default_rng(3)
seen = ours[rng.random(len(ours)) < 2 / 3]
away = rng.normal(0, 0.3 / 3600, (2, len(seen)))
other = pd.DataFrame(
    {
        "source": np.arange(len(seen)),
        "ra": seen["target_ra"] + away[0] / np.cos(np.radians(seen["target_dec"])),
        "dec": seen["target_dec"] + away[1],
        "magnitude": 22.5 - 2.5 * np.log10(np.maximum(seen["flux_r"], 0.01)),
    }
)
other = lsdb.from_dataframe(other, ra_column="ra", dec_column="dec", margin_threshold=5)

# %%
# The match goes partition by partition; the margins see to what lies just over a border.

matched = quasars.crossmatch(other, radius_arcsec=2, suffix_method="overlapping_columns")
matched = matched.compute(progress_bar=False)
distance = matched["_dist_arcsec"]
print(f"{len(matched)} of {len(ours)} quasars have a source; median {distance.median():.2f} arcsec")

figure, axes = plt.subplots()
axes.hist(distance, bins=20)
axes.set(xlabel="distance (arcsec)", ylabel="quasars")
plt.show()
