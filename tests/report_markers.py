"""Markers of runs that never happened, for the tests of the report."""

import json
from typing import Any

import numpy as np

from desi_fits_to_parquet.outcomes import FAILED_OUTCOMES, OUTCOMES
from desi_fits_to_parquet.records import tile_keys
from desi_fits_to_parquet.settings import settings_fingerprint
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.tiles_csv import write_tiles

SETTINGS: dict[str, Any] = {
    "results": "results",
    "archive": {
        "bucket": "desidata",
        "prefix": "dr1/spectro/redux/iron",
        "region": "us-west-2",
        "endpoint": None,
    },
    "tiles": {"surveys": ["main"], "programs": ["dark"], "healpix": None},
    "sample": None,
    "selection": {
        "preset": None,
        "qso_threshold": 0.95,
        "qso_fiberstatus": [0, 8388608, 16777216],
        "spectypes": ["QSO"],
        "zwarn": 0,
        "objtypes": ["TGT"],
        "coadd_fiberstatus": None,
        "z": None,
        "deltachi2": None,
        "targets": None,
        "no_data": False,
    },
    "columns": {"fibermap": "default"},
    "spectra": {"cameras": "combined"},
    "precision": {"mode": "bounded", "flux_tolerance": 0.125, "ivar_bits": 8, "lsf_bits": 7},
}


def marker(tile: Tile, outcome: str) -> dict[str, Any]:
    """Make a tile's marker; its figures depend on the tile alone, as in a run of its size."""
    rng = np.random.default_rng([tile.number, len(tile.survey), len(tile.program)])
    n_targets = int(rng.gamma(4, 250)) + 1
    n_rows = {"converted": 1 + int(0.118 * n_targets), "no_targets": 0}.get(outcome)
    has_parquet = outcome not in FAILED_OUTCOMES
    has_rows = bool(n_rows)
    return {
        **tile_keys(tile),
        "outcome": outcome,
        "reason": "" if has_parquet else f"coadd-{tile.name}.fits, HDU B_FLUX: <{outcome}> & more",
        "n_targets": None if outcome == "missing_source" else n_targets,
        "n_rows": n_rows,
        "n_outside": 0,
        "n_no_data": tile.number % 3 if has_rows else 0,
        "n_left_out": tile.number % 2 if has_rows else 0,
        "n_not_finite": tile.number % 5 if has_rows else 0,
        "n_masked_with_ivar": 7 * tile.number % 100 if has_rows else 0,
        "bytes_archive": 448_000 * n_targets,
        "bytes_fetched": 400_000 + 2_500 * n_targets + 95_500 * (n_rows or 0),
        "requests": 20 + 3 * (n_rows or 0),
        "retries": int(rng.poisson(0.3)),
        "throttled": int(rng.poisson(0.1)),
        "bytes_parquet": 25_000 + 18_000 * (n_rows or 0) if has_parquet else 0,
        "bytes_causes": (
            {
                "archive": 448_000 * n_targets,
                "rows_selected": 448_000 * (n_rows or 0),
                "hdus_read": 97_000 * (n_rows or 0),
                "wavelength_range": 95_000 * (n_rows or 0),
                "rounding": 25_000 + 40_000 * (n_rows or 0),
                "encoding": 25_000 + 18_000 * (n_rows or 0),
            }
            if has_parquet
            else {}
        ),
        "seconds_download": float(1 + n_targets * 0.003 * rng.lognormal(0, 0.3)),
        "seconds_fuse": 0.8 + 0.004 * (n_rows or 0) if has_parquet else 0.0,
        "seconds_validate": 0.6 + 0.002 * (n_rows or 0) if has_parquet else 0.0,
        "max_flux_error_sigma": 0.0625 * float(rng.uniform(0.999, 1)) if has_rows else None,
        "mean_flux_error_sigma": 0.022 * float(rng.normal(1, 0.02)) if has_rows else None,
        "max_lsf_error_relative": 0.0 if has_rows else None,
        "max_ivar_error_relative": 2**-9 * float(rng.uniform(0.999, 1)) if has_rows else None,
        "sha256": f"{tile.number:064x}" if has_parquet else None,
        "schema_fingerprint": "0f1e2d3c" if has_parquet else None,
        "settings_fingerprint": settings_fingerprint(SETTINGS),
        "sources": {},
        "listed": "",
        "audit": (
            {"checked_bytes": 448_000 * n_targets, "sha256_ok": True, "rows_ok": True}
            if has_parquet and rng.random() < 0.05
            else None
        ),
        "second_reader": has_parquet and tile.number % 20 == 0,
        "finished": 1.76e9 + 30.0 * tile.number,
    }


def write_run(folder, n_tiles=0, outcomes=tuple(OUTCOMES), markers=None):
    """Write `tiles.csv` and markers of `n_tiles` tiles, or the markers given; returns the markers.

    All outcomes occur; eight of ten tiles have the first one.
    """
    if markers is None:
        names = (("main", "dark"), ("main", "bright"), ("sv3", "dark"))
        markers = [
            marker(
                Tile(*names[i % 3], 9_000 + 7 * i),
                outcomes[i // 10 % len(outcomes) if i % 10 > 7 else 0],
            )
            for i in range(n_tiles)
        ]
    markers = sorted(markers, key=lambda m: (m["survey"], m["program"], m["healpix"]))
    tiles = [Tile(m["survey"], m["program"], m["healpix"]) for m in markers]
    write_tiles(folder / "tiles.csv", {tile: {} for tile in tiles})
    for m in markers:
        path = folder / "validated" / m["survey"] / m["program"] / f"{m['healpix']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(m))
    return markers
