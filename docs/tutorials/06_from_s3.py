"""
From S3, without a download
===========================

The same calls on a copy of the results in a bucket or on a web server: the catalogue is fetched
once and kept, a spectrum costs two requests. The bucket here is one on this machine (moto's S3
server); yours would be `open_catalog("s3://bucket/prefix")`.
"""

import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import matplotlib.pyplot as plt

from desi_fits_to_parquet import open_catalog
from desi_fits_to_parquet.simulate.serve import serve_archive

results = Path(os.environ.get("DEMO", "results/demo")).resolve()
stack = ExitStack()
endpoint = stack.enter_context(serve_archive(results.parent, "bucket"))
cache = stack.enter_context(tempfile.TemporaryDirectory())

# %%
# Opening fetches the catalogue, with the ETags of its files.

quasars = open_catalog(f"s3://bucket/{results.name}", endpoint=endpoint, cache=cache)
print(f"{len(quasars)} targets")
kept = sum(path.stat().st_size for path in Path(cache).rglob("*") if path.is_file())
print(f"{kept / 1e3:.0f} kB kept")

# %%
# Opened again, it is asked for by ETag and not fetched. Spectra come by ranges of bytes, many at
# once.

started = time.monotonic()
again = open_catalog(f"s3://bucket/{results.name}", endpoint=endpoint, cache=cache)
brightest = again.where("z > 2").to_pandas(["targetid", "flux_r"]).nlargest(4, "flux_r")
spectra = again.targets(brightest["targetid"].to_numpy()).spectra()
figure, axes = plt.subplots(2, 2, figsize=(10, 5), sharex=True, layout="constrained")
for panel, one in zip(axes.flat, spectra[:4], strict=True):
    one.plot(panel, smooth=15, lines=False)
print(f"{time.monotonic() - started:.1f} s")
plt.show()
stack.close()
