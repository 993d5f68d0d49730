"""What a second release has changed: targets that are new, gone or changed against a first one.

Both are results folders; only scalar columns of their Parquet are read. Targets are compared by
TARGETID within each survey and program, so the two may have different pixels.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from desi_fits_to_parquet.compare.page import compare_page
from desi_fits_to_parquet.compare.targets import SCHEMA, Release, compare_program, open_release
from desi_fits_to_parquet.files import atomic_path, write_atomically, write_json
from desi_fits_to_parquet.outcomes import OUTCOMES
from desi_fits_to_parquet.paths import parquet_folder, parquet_path

N_SHOWN = 500
"""So many of the largest changes of redshift stand in the page."""


def compare_releases(before: Path, after: Path, folder: Path) -> dict[str, Any]:
    """Write which targets are new, gone or changed: `targets.parquet`, `summary.json`, a page.

    A survey and program at a time is held in memory.

    Parameters
    ----------
    before, after
        The results folders of the two releases.
    folder
        Where `targets.parquet`, `summary.json` and `compare.html` are written.

    Returns
    -------
    dict
        What `summary.json` holds.

    Raises
    ------
    ValueError
        Where a folder holds no results, lacks a Parquet or a column; the message names it.
    """
    releases = open_release(before), open_release(after)
    programs = [key for key in releases[0].tiles if key in releases[1].tiles]
    counts: list[dict[str, Any]] = []
    largest: list[dict[str, Any]] = []
    with (
        atomic_path(folder / "targets.parquet") as path,
        pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer,
    ):
        for key in programs:
            sums: Counter[str] = Counter()
            for changes, count in compare_program(*releases, *key):
                writer.write_table(changes)
                sums.update(count)
                largest += _largest_changes(changes)
                largest.sort(key=lambda row: (-abs(row["dv_km_s"]), row["targetid"]))
                del largest[N_SHOWN:]
            counts.append({"survey": key[0], "program": key[1], **sums})
    summary = {
        **{
            name: _facts(release)
            for name, release in zip(("before", "after"), releases, strict=True)
        },
        "programs": counts,
        "total": {
            name: sum(count[name] for count in counts)
            for name in (counts[0] if counts else {})
            if name not in ("survey", "program")
        },
        "only_before": ["-".join(key) for key in releases[0].tiles if key not in programs],
        "only_after": ["-".join(key) for key in releases[1].tiles if key not in programs],
        "same_selection": len({json.dumps(_selection(r), sort_keys=True) for r in releases}) == 1,
    }
    write_json(folder / "summary.json", summary)
    write_atomically(folder / "compare.html", compare_page(summary, largest))
    return summary


def _largest_changes(changes: pa.Table) -> list[dict[str, Any]]:
    """Return the rows with the largest changes of redshift, the largest first."""
    speeds = pc.fill_null(pc.abs(changes["dv_km_s"]), 0)
    top = changes.take(pc.select_k_unstable(speeds, N_SHOWN, [("", "descending")]))
    return [row for row in top.to_pylist() if row["dv_km_s"]]


def _facts(release: Release) -> dict[str, Any]:
    outcomes = [outcome for tiles in release.tiles.values() for outcome in tiles.values()]
    return {
        "archive": release.archive,
        "tiles": len(outcomes),
        "tiles_not_done": outcomes.count(None),
        "outcomes": {outcome: outcomes.count(outcome) for outcome in OUTCOMES},
    }


def _selection(release: Release) -> Any:
    """Return the selection that a release was converted with, as its first Parquet says."""
    for tiles in release.tiles.values():
        for tile, outcome in tiles.items():
            if outcome == "converted":
                path = parquet_path(tile, parquet_folder(release.results, tile))
                provenance = pq.read_metadata(path).metadata[b"desi_fits_to_parquet"]
                return json.loads(provenance)["settings"]["selection"]
    return None
