"""Run by `test_hostile.py` in a process with little memory: convert spoiled tiles, say how it went.

Arguments: a folder with a subfolder a tile, each with `KIND`'s spoiled file, and the limit of
memory in MB above what the imports take. Prints a JSON object by subfolder and mode.
"""

import json
import resource
import sys
from pathlib import Path

import h5py  # noqa: F401  (imported before memory is limited)
import pyarrow.parquet as pq  # noqa: F401  (likewise)
from astropy.io import fits as astropy_fits  # noqa: F401  (likewise)
from conftest import load_settings
from fault_server import serve
from simulated_archive import list_sources, read_objects

from desi_fits_to_parquet.archive import link
from desi_fits_to_parquet.download.tile import download_tile
from desi_fits_to_parquet.fuse.tile import fuse_tile
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.validate import validate_tile

TILE = Tile("main", "dark", 100)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(root: Path, allowed_mb: int) -> None:
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    # threads take address space that is no memory: so the limit only saves the machine, and the
    # peak of memory is what the tests look at
    limit = virtual + (allowed_mb + 4096 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    settings = load_settings()
    link.START_BYTES_PER_S = 1e4  # as if it were slow: so small a file is not fetched whole
    told = {}
    for folder in sorted(root.iterdir()):
        settings["columns"]["rrdetails_scans"] = "terabytes" in folder.name
        objects = read_objects(TILE, folder)
        for mode in ("files", "rows"):
            out = folder / mode
            before = peak_mb()
            with serve(objects) as service:
                settings["archive"]["endpoint"] = service.endpoint
                settings["transfer"] |= {
                    "mode": mode, "attempts": 2, "timeout_s": 20, "connections": 4,
                    "audit_fraction": 0,
                }  # fmt: skip
                download_tile(TILE, list_sources(TILE, objects), settings, out / "fits")
            record = fuse_tile(TILE, out / "fits", out / "parquet", settings)
            marker = validate_tile(TILE, out / "fits", out / "parquet", record, settings)
            told[f"{folder.name}, {mode}"] = {
                "outcome": marker["outcome"],
                "reason": marker["reason"],
                "mb": round(peak_mb() - before),
                "files": sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()),
            }
    print(json.dumps(told))  # noqa: T201  (its only output)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
