"""The baseline: whole files the obvious way, as anyone would write it on the first day.

boto3's `download_file` in eight threads, astropy's tables, Python lists in a pandas frame, Parquet.
Written from scratch for the comparison; nothing of the project is used.
"""

import json
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import numpy as np
import pandas as pd
from astropy.io import fits
from botocore import UNSIGNED
from botocore.config import Config


def download(client: Any, bucket: str, keys: list[str], folder: Path) -> list[Path]:
    """Download whole objects into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for key in keys:
        path = folder / key.rpartition("/")[2]
        client.download_file(bucket, key, str(path))
        paths.append(path)
    return paths


def convert(coadd: Path, redrock: Path, parquet: Path, everyone: bool) -> int:
    """Write the selected targets with their spectra as lists; return their number."""
    with fits.open(redrock) as hdus:
        redshifts = hdus["REDSHIFTS"].data
        objtype = hdus["FIBERMAP"].data["OBJTYPE"]
        keep = (redshifts["SPECTYPE"] == "QSO") & (redshifts["ZWARN"] == 0) & (objtype == "TGT")
        rows = np.flatnonzero(keep | everyone)
        frame = {
            name.lower(): redshifts[name][rows].tolist()
            for name in ("TARGETID", "Z", "ZERR", "ZWARN", "SPECTYPE", "DELTACHI2")
        }
    with fits.open(coadd) as hdus:
        for arm in "BRZ":
            wave = hdus[f"{arm}_WAVELENGTH"].data.tolist()
            frame[f"{arm.lower()}_wavelength"] = [wave] * len(rows)
            for part in ("FLUX", "IVAR", "MASK"):
                data = hdus[f"{arm}_{part}"].data
                frame[f"{arm}_{part}".lower()] = [data[row].tolist() for row in rows]
    pd.DataFrame(frame).to_parquet(parquet)
    return len(rows)


def main() -> None:
    """Read a job as JSON from the command line, print what was done as JSON."""
    job = json.loads(sys.argv[1])
    client = boto3.client(
        "s3",
        endpoint_url=job["endpoint"],
        region_name="us-west-2",
        config=Config(signature_version=UNSIGNED, max_pool_connections=80),
    )
    requests: Counter[str] = Counter()

    def count(request: Any, **_: Any) -> None:
        requests[urlsplit(request.url).path.rpartition("/")[2]] += 1

    client.meta.events.register("before-send.s3", count)
    out = Path(job["folder"])

    def one(name: str) -> dict[str, Any]:
        begun = time.perf_counter()
        paths = download(client, job["bucket"], job["tiles"][name], out / name)
        coadd, redrock = paths[:2]
        downloaded = time.perf_counter()
        parquet = out / f"{name}.parquet"
        rows = convert(coadd, redrock, parquet, job["everyone"])
        fetched = sum(path.stat().st_size for path in paths)
        for path in paths:
            path.unlink()
        return {
            "tile": name,
            "n_rows": rows,
            "bytes_fetched": fetched,
            "requests": sum(requests[path.name] for path in paths),
            "bytes_parquet": parquet.stat().st_size,
            "seconds_download": downloaded - begun,
            "seconds": time.perf_counter() - begun,
        }

    begun, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(8) as pool:
        tiles = list(pool.map(one, job["tiles"]))
    status = Path("/proc/self/status").read_text().split()
    print(
        json.dumps(
            {
                "wall_s": time.perf_counter() - begun,
                "cpu_s": time.process_time() - cpu,
                "peak_mib": int(status[status.index("VmHWM:") + 1]) / 1024,
                "tiles": tiles,
            }
        )
    )


if __name__ == "__main__":
    main()
