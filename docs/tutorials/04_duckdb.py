"""
DuckDB on a laptop
==================

No library of this project, no server: the files are plain Parquet, and DuckDB asks them in SQL.
"""

import os

import duckdb
import matplotlib.pyplot as plt

results = os.environ.get("DEMO", "results/demo")
db = duckdb.connect()
db.sql(f"CREATE VIEW catalog AS FROM '{results}/catalog/dataset/**/*.parquet'")
db.sql(f"CREATE VIEW spectra AS FROM '{results}/parquet/**/*.parquet'")

# %%
# The catalogue holds every scalar of every target; it is small and quick.

print(
    db.sql("""
        SELECT survey, program, count(*) AS targets, round(median(z), 2) AS median_z,
            count(*) FILTER (z > 2.1) AS with_forest
        FROM catalog WHERE zwarn = 0 GROUP BY ALL ORDER BY ALL""")
)

# %%
# Spectra are lists. Only the columns named are read: the signal to noise of each spectrum, and
# the share of its pixels that are good.

print(
    db.sql("""
        SELECT targetid, round(z, 3) AS z,
            round(list_median(list_transform(
                list_filter(list_zip(flux, ivar), lambda p: p[2] > 0),
                lambda p: p[1] * sqrt(p[2]))), 2) AS snr,
            round(len(list_filter(ivar, lambda i: i > 0)) / len(ivar), 4) AS good
        FROM spectra ORDER BY snr DESC LIMIT 5""")
)

# %%
# One row a pixel: the flux of all quasars around their C IV line, in bins of the rest frame.

line = db.sql("""
    WITH pixels AS (
        SELECT targetid, z, unnest(wavelength) AS wavelength, unnest(flux) AS flux,
            unnest(ivar) AS ivar FROM spectra WHERE z BETWEEN 1.6 AND 4 AND zwarn = 0),
    rest AS (
        SELECT *, wavelength / (1 + z) AS rest, flux / avg(flux) OVER (PARTITION BY targetid) AS f
        FROM pixels WHERE ivar > 0 AND wavelength / (1 + z) BETWEEN 1450 AND 1650)
    SELECT round(rest / 2) * 2 AS rest, median(f) AS flux, count(*) AS n
    FROM rest GROUP BY ALL ORDER BY ALL""").fetchnumpy()

figure, axes = plt.subplots()
axes.plot(line["rest"], line["flux"])
axes.axvline(1549.1, color="0.7", zorder=0)
axes.set(xlabel="rest wavelength (Angstrom)", ylabel="median flux / mean", title="C IV")
plt.show()
