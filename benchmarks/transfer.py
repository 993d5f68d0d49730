"""Measure the transfer over an emulated link: whole files the obvious way, `files`, `rows`.

Run by `make benchmark-transfer`; needs nginx (Debian: nginx-light) and 6 GB of disk. Writes
results/benchmark/transfer.json and transfer.png, and prints the same as tables.

Each tile goes from the archive to Parquet three times: the obvious way (`obvious_way.py`), in mode
`files`, in mode `rows`, each from coadd, redrock and rrdetails, the obvious way from emline too (a
thousandth of the bytes). Eight tiles are under way at once. `rows` is over so soon that it is run
several times in a row.
"""

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from far_archive import FarArchive, serve_far
from needs import check_needs

from desi_fits_to_parquet.config import load_config
from desi_fits_to_parquet.discover import discover_tiles
from desi_fits_to_parquet.files import write_json
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.tiles_csv import Sources, read_tiles

REPOSITORY = Path(__file__).resolve().parents[1]
BYTES_PER_S = 34e6
ROUND_TRIP_S = 0.05
AT_ONCE = 8
REPEATS = 4
N_TILES = 10
DISK_GB = 6
SCALE = 1.5
"""Tiles have so many times fewer targets than real ones: the run stays under ten minutes."""

SIZES_MIB = (1.9, 17, 43, 89, 147, 178, 201, 227, 286, 480, 681, 944, 1302)
QUANTILES = (0.01, 0.05, 0.1, 0.17, 0.25, 0.33, 0.41, 0.5, 0.58, 0.75, 0.83, 0.9, 0.99)
"""MiB of coadd and redrock of a tile in the production run of September 2025, 12,207 tiles."""

BYTES_A_TARGET = 449_000
"""Of coadd and redrock."""

ROW_BYTES = 12 * (2751 + 2326 + 2881)
"""FLUX, IVAR and MASK of one target."""

KINDS = ("coadd", "redrock", "emline", "rrdetails")
SHARES = (1, 5, 12, 50, 100)
SHARE_TARGETS = 300
EVERYONE = {
    "spectypes": ["QSO", "GALAXY", "STAR"],
    "zwarn": None,
    "objtypes": ["TGT", "SKY", "BAD"],
}

GOALS: dict[str, tuple[str, Callable[[float], bool], str]] = {
    "bytes_ratio": (">= 25", lambda v: v >= 25, "bytes moved, files / rows"),
    "bytes_overhead": ("<= 1.4", lambda v: v <= 1.4, "bytes moved / (selected rows + small files)"),
    "wall_ratio": (">= 15", lambda v: v >= 15, "wall time to Parquet, obvious way / rows"),
    "link_utilisation": (">= 0.7", lambda v: v >= 0.7, "share of the link in use, rows"),
    "cpu_s_per_tile": ("<= 0.3", lambda v: v <= 0.3, "CPU of download_tile, rows, after imports"),
    "wall_ratio_all_rows": ("<= 1.05", lambda v: v <= 1.05, "100 % selected: wall, rows / files"),
    "bytes_ratio_all_rows": (">= 3", lambda v: v >= 3, "100 % selected: bytes, files / rows"),
}


class Pass(NamedTuple):
    """One run over some tiles: seconds, bytes over the link (HTTP headers included), tiles."""

    wall_s: float
    link_bytes: int
    peak_mib: float
    tiles: list[dict[str, Any]]


def main() -> None:
    """Measure everything, print it, write it."""
    begun = time.perf_counter()
    out = REPOSITORY / "results/benchmark"
    out.mkdir(parents=True, exist_ok=True)
    check_needs(DISK_GB, out, "nginx")
    with tempfile.TemporaryDirectory(prefix="transfer-", dir=out) as name:
        work = Path(name)
        bucket = work / "archive/desidata/dr1/spectro/redux/iron"
        tiles = draw_tiles()
        shares = {Tile("sv3", "dark", 100 + share): share for share in SHARES}
        print(f"simulating {len(tiles) + len(shares)} tiles ...", flush=True)
        jobs = [(tile, bucket, count, 0.12) for tile, count in tiles.items()]
        jobs += [(t, bucket, SHARE_TARGETS, min(s, 50) / 100) for t, s in shares.items()]
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(os.cpu_count(), context) as pool:
            list(pool.map(simulate, jobs))
        print(f"{time.perf_counter() - begun:.0f} s; serving them over a link", flush=True)
        with serve_far(work / "archive", work, BYTES_PER_S, ROUND_TRIP_S) as far:
            settings = load_config(REPOSITORY / "config/schema.yaml")
            settings["archive"]["endpoint"] = far.endpoint
            settings["transfer"] |= {"downloads": AT_ONCE, "audit_fraction": 0}
            selection = {"surveys": ["main", "sv3"], "programs": ["dark"], "healpix": None}
            discover_tiles(settings["archive"], selection, None, work / "tiles.csv")
            listed = read_tiles(work / "tiles.csv")
            main_tiles = {tile: listed[tile] for tile in tiles}
            figures, rows_of = compare(far, settings, main_tiles, work)
            by_share = {
                share: compare_share(far, settings, {tile: listed[tile]}, share, work)
                for tile, share in shares.items()
            }
    everyone = by_share[100]
    figures["wall_ratio_all_rows"] = everyone["rows"].wall_s / everyone["files"].wall_s
    figures["bytes_ratio_all_rows"] = total(everyone["files"]) / total(everyone["rows"])
    figures["benchmark_s"] = time.perf_counter() - begun
    show(figures, rows_of, by_share)
    detail = {
        "tiles": {way: one._asdict() for way, one in rows_of.items()},
        "shares": {
            s: {w: one._asdict() for w, one in ways.items()} for s, ways in by_share.items()
        },
    }
    write_json(out / "transfer.json", figures | detail)
    plot(rows_of, by_share, out / "transfer.png")
    print(f"written to {(out / 'transfer.json').relative_to(REPOSITORY)} and transfer.png")


def draw_tiles() -> dict[Tile, int]:
    """Draw tiles from the distribution of sizes: one from each of equal parts of it."""
    at = (np.arange(N_TILES) + 0.5) / N_TILES
    counts = np.interp(at, QUANTILES, SIZES_MIB) * (1 << 20) / BYTES_A_TARGET / SCALE
    pixels = list(range(10000, 10000 + N_TILES))
    random.Random(1).shuffle(pixels)
    return {
        Tile("main", "dark", pixel): max(round(count), 3)
        for pixel, count in zip(pixels, counts, strict=True)
    }


def simulate(job: tuple[Tile, Path, int, float]) -> None:
    """Simulate a tile (in a process of its own)."""
    from desi_fits_to_parquet.simulate.tile import simulate_tile

    tile, bucket, count, share = job
    folder = bucket / "healpix" / tile.folder
    simulate_tile(tile, folder, count, quasar_share=share, kinds=(*KINDS, "sha256sum"))


def compare(
    far: FarArchive, settings: dict[str, Any], tiles: Mapping[Tile, Sources], work: Path
) -> tuple[dict[str, float], dict[str, Pass]]:
    """Run the three ways over the tiles and compute the figures."""
    passes = {"obvious": run_obvious(far, tiles, work)}
    report("obvious way", passes["obvious"])
    with workers() as pool:
        passes["files"] = run_mode(far, pool, settings, "files", tiles, work)
    report("files", passes["files"])
    with workers() as pool:
        passes["rows"] = run_mode(far, pool, settings, "rows", tiles, work, REPEATS)
    report(f"rows, {REPEATS} times", passes["rows"])
    with workers() as pool:
        alone = run_mode(far, pool, settings, "rows", tiles, work, REPEATS, fuse=False)
    report(f"rows without conversion, {REPEATS} times", alone)
    rows = passes["rows"]
    useful = sum(
        record["n_selected"] * ROW_BYTES
        + sum(record["sizes"][kind] for kind in ("redrock", "sha256sum"))
        for record in rows.tiles
    )
    cpu = [record["cpu_download_s"] for record in alone.tiles]
    two_files = sum(r["sizes"]["coadd"] + r["sizes"]["redrock"] for r in rows.tiles) / REPEATS
    figures = {
        "bytes_ratio": total(passes["files"]) / total(rows) * REPEATS,
        "bytes_overhead": total(rows) / useful,
        "wall_ratio": passes["obvious"].wall_s / rows.wall_s * REPEATS,
        "link_utilisation": alone.link_bytes / (BYTES_PER_S * alone.wall_s),
        "link_utilisation_with_conversion": rows.link_bytes / (BYTES_PER_S * rows.wall_s),
        "cpu_s_per_tile": float(np.mean(cpu)),
        "cpu_s_per_tile_largest": max(cpu),
        # what the link alone takes for the two files that the replaced pipeline fetched
        "wall_ratio_two_files": two_files / BYTES_PER_S / rows.wall_s * REPEATS,
        "wall_ratio_files": passes["files"].wall_s / rows.wall_s * REPEATS,
        "requests_per_tile": float(np.mean([r["requests"] for r in rows.tiles])),
    }
    once = rows._replace(wall_s=rows.wall_s / REPEATS, tiles=rows.tiles[: len(tiles)])
    return figures, passes | {"rows": once}


def compare_share(
    far: FarArchive, settings: dict[str, Any], tiles: Mapping[Tile, Sources], share: int, work: Path
) -> dict[str, Pass]:
    """Run the three ways over one tile of which that share of the targets is selected."""
    chosen = deepcopy(settings)
    if share == 100:
        chosen["selection"] |= EVERYONE
    passes = {"obvious": run_obvious(far, tiles, work, everyone=share == 100)}
    for mode in ("files", "rows"):
        with workers(1) as pool:
            passes[mode] = run_mode(far, pool, chosen, mode, tiles, work)
    for mode, one in passes.items():
        report(f"{share} % selected, {mode}", one)
    return passes


def run_obvious(
    far: FarArchive, tiles: Mapping[Tile, Sources], work: Path, everyone: bool = False
) -> Pass:
    """Run the baseline in a process of its own."""
    folder = work / "obvious"
    folder.mkdir(exist_ok=True)
    job = {
        "endpoint": far.endpoint,
        "bucket": "desidata",
        "folder": str(folder),
        "everyone": everyone,
        "tiles": {t.name: [s[kind]["key"] for kind in KINDS] for t, s in tiles.items()},
    }
    before = far.sent.value
    script = Path(__file__).with_name("obvious_way.py")
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(job)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    shutil.rmtree(folder)
    # one process does all tiles: its CPU and memory are those of the mean tile
    shared = {"cpu_s": found["cpu_s"] / len(tiles), "peak_mib": found["peak_mib"]}
    records = [record | shared for record in found["tiles"]]
    return Pass(found["wall_s"], far.sent.value - before, found["peak_mib"], records)


@contextlib.contextmanager
def workers(count: int = AT_ONCE) -> Iterator[ProcessPoolExecutor]:
    """Start processes that have done their imports."""
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(warm_up, range(4 * count)))
        yield pool


def warm_up(_: int) -> None:
    """Import what a job imports; slow enough that every process gets a share."""
    import h5py  # noqa: F401  (only to be loaded)

    import desi_fits_to_parquet.download.tile
    import desi_fits_to_parquet.fuse.tile  # noqa: F401  (only to be loaded)

    time.sleep(0.2)


def run_mode(
    far: FarArchive,
    pool: ProcessPoolExecutor,
    settings: dict[str, Any],
    mode: str,
    tiles: Mapping[Tile, Sources],
    work: Path,
    repeats: int = 1,
    *,
    fuse: bool = True,
) -> Pass:
    """Run one of the project's modes over the tiles."""
    chosen = deepcopy(settings)
    chosen["transfer"]["mode"] = mode
    jobs = [
        (tile, sources, chosen, work / f"{mode}-{i}", fuse)
        for i in range(repeats)
        for tile, sources in tiles.items()
    ]
    before, begun = far.sent.value, time.perf_counter()
    records = list(pool.map(convert, jobs))
    wall = time.perf_counter() - begun
    peak = max(record["peak_mib"] for record in records)
    return Pass(wall, far.sent.value - before, peak, records)


def convert(job: tuple[Tile, Sources, dict[str, Any], Path, bool]) -> dict[str, Any]:
    """Fetch a tile and convert it, in a worker; its FITS go away."""
    from desi_fits_to_parquet.download.tile import download_tile
    from desi_fits_to_parquet.fuse.tile import fuse_tile

    tile, sources, settings, folder, fuse = job
    fits, parquet = folder / "fits" / tile.name, folder / "parquet" / tile.name
    begun, cpu = time.perf_counter(), time.process_time()
    record = download_tile(tile, sources, settings, fits)
    downloaded = time.process_time()
    if record["outcome"]:
        raise SystemExit(f"{tile.name}: {record['outcome']}: {record['reason']}")
    fused: dict[str, Any] = {"n_rows": record["n_selected"], "bytes_parquet": 0}
    if fuse:
        fused = fuse_tile(tile, fits, parquet, settings)
        if fused["outcome"]:
            raise SystemExit(f"{tile.name}: {fused['outcome']}: {fused['reason']}")
    shutil.rmtree(fits)
    status = Path("/proc/self/status").read_text().split()
    return {
        "tile": tile.name,
        "n_targets": record["n_targets"],
        "n_selected": record["n_selected"],
        "n_rows": fused["n_rows"],
        "sizes": {kind: source["size"] for kind, source in record["sources"].items()},
        "bytes_fetched": record["bytes_fetched"],
        "requests": record["requests"],
        "retries": record["retries"],
        "bytes_parquet": fused["bytes_parquet"],
        "seconds_download": record["seconds"],
        "seconds": time.perf_counter() - begun,
        "cpu_download_s": downloaded - cpu,
        "cpu_s": time.process_time() - cpu,
        "peak_mib": int(status[status.index("VmHWM:") + 1]) / 1024,
    }


def total(one: Pass) -> int:
    """Bytes that the tiles of a pass moved."""
    return sum(int(record["bytes_fetched"]) for record in one.tiles)


def report(what: str, one: Pass) -> None:
    """Say what a pass took."""
    use = one.link_bytes / BYTES_PER_S / one.wall_s
    print(
        f"{what:36} {one.wall_s:7.1f} s  {total(one) / 1e6:8.1f} MB  link {100 * use:3.0f} %  "
        f"CPU {sum(r['cpu_s'] for r in one.tiles):6.1f} s  peak {one.peak_mib:5.0f} MiB  Parquet "
        f"{sum(r['bytes_parquet'] for r in one.tiles) / 1e6:6.1f} MB",
        flush=True,
    )


def show(
    figures: Mapping[str, float],
    passes: Mapping[str, Pass],
    by_share: Mapping[int, Mapping[str, Pass]],
) -> None:
    """Print the tables."""
    print(f"\n{'tile':16} targets rows | MB: obvious files rows | requests files rows | "
          "seconds: obvious files rows | CPU s: files rows")  # fmt: skip
    for obvious, files, rows in zip(*(passes[way].tiles for way in passes), strict=True):
        mb = [record["bytes_fetched"] / 1e6 for record in (obvious, files, rows)]
        print(
            f"{rows['tile']:16} {rows['n_targets']:7} {rows['n_rows']:4} | "
            f"{mb[0]:10.1f} {mb[1]:6.1f} {mb[2]:5.2f} | {files['requests']:14} {rows['requests']:4}"
            f" | {obvious['seconds']:15.1f} {files['seconds']:5.1f} {rows['seconds']:5.2f} | "
            f"{files['cpu_s']:12.2f} {rows['cpu_s']:5.2f}"
        )
    print("\nselected: wall s and MB of one tile of "
          f"{SHARE_TARGETS} targets: obvious, files, rows")  # fmt: skip
    for share, ways in by_share.items():
        cells = (f"{one.wall_s:6.2f} s {total(one) / 1e6:6.1f} MB" for one in ways.values())
        print(f"{share:6} %  {'   '.join(cells)}")
    print()
    for key, (goal, reached, meaning) in GOALS.items():
        verdict = "reached" if reached(figures[key]) else "MISSED"
        print(f"{key:24} {figures[key]:8.3f}  goal {goal:8} {verdict:8} {meaning}")
    for key in sorted(set(figures) - set(GOALS)):
        print(f"{key:40} {figures[key]:10.4g}")


def plot(
    passes: Mapping[str, Pass], by_share: Mapping[int, Mapping[str, Pass]], path: Path
) -> None:
    """Draw how cost grows with the targets of a tile and with the share selected."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    panels = (
        ("bytes_fetched", "bytes moved", 1e6, "MB"),
        ("requests", "requests", 1, ""),
        ("seconds", "wall time of a tile", 1, "s"),
        ("cpu_s", "CPU of a tile", 1, "s"),
        ("peak_mib", "peak memory of a process", 1, "MiB"),
        ("bytes_parquet", "Parquet", 1e6, "MB"),
    )
    figure, axes = plt.subplots(2, len(panels), figsize=(4 * len(panels), 7), layout="constrained")
    targets = {record["tile"]: record["n_targets"] for record in passes["rows"].tiles}
    for column, (key, title, unit, name) in enumerate(panels):
        above, below = axes[:, column]
        for way, marker in (("obvious", "s"), ("files", "o"), ("rows", "^")):
            points = sorted((targets[r["tile"]], r[key] / unit) for r in passes[way].tiles)
            above.plot(*zip(*points, strict=True), marker=marker, label=way)
            shares = [(s, ways[way].tiles[0][key] / unit) for s, ways in by_share.items()]
            below.plot(*zip(*shares, strict=True), marker=marker)
        above.set(title=title, xlabel="targets in the tile", ylabel=name, yscale="log")
        below.set(xlabel="share selected (%)", ylabel=name, xscale="log", yscale="log")
        above.grid(alpha=0.3)
        below.grid(alpha=0.3)
    axes[0, 0].legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
