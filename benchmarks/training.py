"""Measure how fast spectra come for training: from Parquet, from the cache, and from what else.

Run by `make benchmark-training`. Writes results/benchmark/training.json and prints the same as a
table. Eight simulated tiles of 500 targets, 12 % of them quasars, are converted, and their quasars
drawn for a collection of 200 tiles. All loaders are PyTorch's own DataLoader with batches of 256,
and give flux, ivar, mask, z in a random order. Two cores: those that decode in threads (`parquet`)
or not at all (`cache`) have no workers, the others two:

- `parquet`: `ParquetSpectra` on the collection, `parquet_workers` the same with two workers;
- `cache`: `decode_once`, batches by number; `cache_workers`: single spectra by number;
- `hf`: Hugging Face datasets on the same Parquet files, streaming with a buffer as large, and by
  number from the Arrow cache that it writes;
- `fits`: astropy on the FITS of the tiles from which these spectra are, one tile after the other:
  redrock for the selection and z, the selected rows of the coadd's nine images (mapped into memory,
  as astropy does it; `fits_whole` reads the images whole), arms joined as the Parquet has them.

`parquet_disk` and `fits_disk` read files that the system was told to forget: a release fits into no
memory. For the others all files are in memory already, which is kind to FITS: 220 MB of a tile's
coadd lie there for 4 MB of selected spectra. The rates are medians of some rounds in which each
loader has its turn, because machines are noisy.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from needs import check_needs
from query_tree import REAL_EVERY, REPOSITORY, settings, write_part

from desi_fits_to_parquet.collection.build import build_collection
from desi_fits_to_parquet.files import write_json
from desi_fits_to_parquet.fuse.tile import fuse_tile
from desi_fits_to_parquet.paths import parquet_path
from desi_fits_to_parquet.record.arms import CAMERAS, combine, cut_range, drop_masked, join_grids
from desi_fits_to_parquet.simulate.tile import simulate_tile
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.tiles_csv import write_tiles

SOURCES = [Tile("main", "dark", 20_000 + i) for i in range(8)]
"""Tiles whose FITS there are."""

N_TILES, ROWS = 200, 60
"""Tiles of the collection, and spectra in each."""

BATCH, WORKERS, BUFFER, ROUNDS = 256, 2, 1024, 3

RANGE = settings()["spectra"]["wavelength_range"]

COLUMNS = ["flux", "ivar", "mask", "z"]

GOALS: dict[str, tuple[str, Callable[[float], bool], str]] = {
    "parquet_per_s": (">= 6000", lambda v: v >= 6000, "spectra a second from Parquet, shuffled"),
    "cache_per_s": (">= 30000", lambda v: v >= 30000, "spectra a second from the cache, by number"),
    "fits_ratio": (">= 5", lambda v: v >= 5, "Parquet / FITS with astropy, both from the disk"),
    "first_batch_s": ("< 2", lambda v: v < 2, "from open_catalog to the first batch, no imports"),
}
"""Figures asked for: goal, test, meaning."""

FIRST = """
import sys, time
began = time.monotonic()
from torch.utils.data import DataLoader
from desi_fits_to_parquet import open_catalog
from desi_fits_to_parquet.training import ParquetSpectra, collate
imported = time.monotonic()
dataset = ParquetSpectra(open_catalog(sys.argv[1]), seed=1)
next(iter(DataLoader(dataset, 256, collate_fn=collate)))
print(f"[{imported - began}, {time.monotonic() - imported}]")
"""


def main() -> None:
    """Measure everything, print it, write it."""
    check_needs(8, Path(tempfile.gettempdir()))
    try:
        import datasets  # noqa: F401  (looked for before time is spent)
        import torch  # noqa: F401  (likewise)
    except ImportError as error:
        raise SystemExit(f"This benchmark needs what `make torch` installs: {error}") from error
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    with tempfile.TemporaryDirectory(prefix="benchmark-training-") as name:
        figures = measure(Path(name))
    for key, (goal, reached, meaning) in GOALS.items():
        verdict = "reached" if reached(figures[key]) else "MISSED"
        print(f"{key:24} {figures[key]:12.5g}  goal {goal:9} {verdict:8} {meaning}")
    for key in sorted(set(figures) - set(GOALS)):
        print(f"{key:24} {figures[key]:12.5g}")
    path = REPOSITORY / "results/benchmark/training.json"
    write_json(path, figures)
    print(f"written to {path.relative_to(REPOSITORY)}")


def write_inputs(work: Path) -> Path:
    """Simulate and convert the tiles, and write the collection; return its folder."""
    pool = work / "pool"
    for i, tile in enumerate(SOURCES):
        folder = work / "fits" / tile.name
        simulate_tile(
            tile, folder, 500, seed=i, quasar_share=0.12, kinds=("coadd", "redrock"), scan_step=50
        )
        fuse_tile(tile, folder, pool, settings())
    results = work / "results"
    tiles = [Tile("main", "dark", REAL_EVERY * (100 + i)) for i in range(N_TILES)]
    with ProcessPoolExecutor(2) as workers:
        parts = [tiles[first : first + 20] for first in range(0, N_TILES, 20)]
        n = len(parts)
        for _ in workers.map(write_part, [results] * n, parts, [pool] * n, [ROWS] * n):
            pass
    write_tiles(results / "tiles.csv", {tile: {} for tile in tiles})
    build_collection(results, tiles, settings())
    return results


def measure(work: Path) -> dict[str, float]:
    """Measure all loaders."""
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler

    from desi_fits_to_parquet import open_catalog
    from desi_fits_to_parquet.training import ParquetSpectra, collate, decode_once

    print("writing 200 tiles (a minute or two) ...", flush=True)
    results = write_inputs(work)
    check_same(work)
    catalog = open_catalog(results)
    dataset = ParquetSpectra(catalog, COLUMNS, seed=1, buffer=BUFFER)
    began = time.monotonic()
    cache = decode_once(catalog, work / "cache", COLUMNS)
    figures = {"decode_once_per_s": len(cache) / (time.monotonic() - began)}
    streamed, mapped = hugging_face(results, work)
    loading: dict[str, Any] = {"batch_size": BATCH, "num_workers": WORKERS}
    sampler = BatchSampler(RandomSampler(cache), BATCH, drop_last=False)
    loaders: dict[str, tuple[Any, int]] = {
        # the loader, and after how many spectra it is stopped
        "parquet": (DataLoader(dataset, BATCH, collate_fn=collate), len(dataset)),
        "parquet_workers": (DataLoader(dataset, collate_fn=collate, **loading), len(dataset)),
        "cache": (DataLoader(cache, sampler=sampler, batch_size=None), len(cache)),
        "cache_workers": (
            DataLoader(cache, collate_fn=collate, shuffle=True, **loading), len(cache)
        ),
        "parquet_disk": (DataLoader(dataset, BATCH, collate_fn=collate), len(dataset)),
        "hf_streaming": (DataLoader(streamed, **loading), 2048),
        "hf_cache": (DataLoader(mapped, shuffle=True, **loading), 4096),
        "fits": (DataLoader(fits_dataset(work, whole=False), collate_fn=collate, **loading), 4096),
        "fits_disk": (
            DataLoader(fits_dataset(work, whole=False), collate_fn=collate, **loading), 480
        ),
        "fits_whole": (
            DataLoader(fits_dataset(work, whole=True), collate_fn=collate, **loading), 1024
        ),
    }  # fmt: skip
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for epoch in range(ROUNDS):
        dataset.set_epoch(epoch)
        for name, (loader, enough) in loaders.items():
            if name.endswith("_disk"):
                forget(results / "parquet" if name.startswith("parquet") else work / "fits")
            rates[name].append(rate(loader, enough))
            print(f"  {name:15} {rates[name][-1]:9,.0f} spectra a second", flush=True)
    figures |= {f"{name}_per_s": statistics.median(values) for name, values in rates.items()}
    figures["fits_ratio"] = figures["parquet_disk_per_s"] / figures["fits_disk_per_s"]
    figures["fits_ratio_in_memory"] = figures["parquet_per_s"] / figures["fits_per_s"]
    figures["fits_ratio_in_memory_whole"] = figures["parquet_per_s"] / figures["fits_whole_per_s"]
    firsts = [first_batch(results) for _ in range(ROUNDS)]
    figures["imports_s"], figures["first_batch_s"] = map(
        statistics.median, zip(*firsts, strict=True)
    )
    return figures


def forget(folder: Path) -> None:
    """Have the system read the files of a folder from the disk the next time."""
    for path in folder.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.fsync(file)  # what is not written yet is not forgotten
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


def rate(loader: Any, enough: int) -> float:
    """Return spectra a second, from the start of the workers on."""
    began, n = time.monotonic(), 0
    for batch in loader:
        assert batch["flux"].shape[1:] == batch["mask"].shape[1:] == (7751,)
        n += len(batch["z"])
        if n >= enough:
            break
    return n / (time.monotonic() - began)


def first_batch(results: Path) -> list[float]:
    """Time the imports and the first batch in a process of its own."""
    answer = subprocess.check_output([sys.executable, "-c", FIRST, str(results)])
    seconds: list[float] = json.loads(answer)
    return seconds


def hugging_face(results: Path, work: Path) -> tuple[Any, Any]:
    """Return Hugging Face's datasets of the collection: streaming, and by number."""
    import datasets

    datasets.disable_progress_bars()
    files = sorted(map(str, (results / "parquet").rglob("*.parquet")))
    arguments: dict[str, Any] = {
        "data_files": files, "split": "train", "columns": COLUMNS, "cache_dir": str(work / "hf")
    }  # fmt: skip
    streamed = datasets.load_dataset("parquet", streaming=True, **arguments)
    mapped = datasets.load_dataset("parquet", **arguments)
    return (
        streamed.shuffle(seed=1, buffer_size=BUFFER).with_format("torch"),
        mapped.with_format("torch"),
    )


def fits_dataset(work: Path, whole: bool) -> Any:
    """Return a dataset that reads the selected spectra of the tiles' FITS, again and again."""
    from torch.utils.data import IterableDataset, get_worker_info

    class FitsSpectra(IterableDataset):
        def __iter__(self) -> Iterator[dict[str, Any]]:
            info = get_worker_info()
            rng = np.random.default_rng(info.id)
            own = SOURCES[info.id :: info.num_workers]
            while True:
                for i in rng.permutation(len(own)):
                    spectra = read_tile(work / "fits" / own[i].name, own[i], whole)
                    for row in rng.permutation(len(spectra["z"])):
                        yield {name: values[row] for name, values in spectra.items()}

    return FitsSpectra()


def read_tile(folder: Path, tile: Tile, whole: bool) -> dict[str, Any]:
    """Read a tile's quasars with astropy, as one would who wants to train on them."""
    from astropy.io import fits

    with fits.open(folder / tile.file_name("redrock")) as hdus:
        redshifts = hdus["REDSHIFTS"].data
        target = hdus["FIBERMAP"].data["OBJTYPE"] == "TGT"
        chosen = (redshifts["SPECTYPE"] == "QSO") & (redshifts["ZWARN"] == 0) & target
        targetid, z = redshifts["TARGETID"][chosen], redshifts["Z"][chosen]
    with fits.open(folder / tile.file_name("coadd"), memmap=not whole) as hdus:
        place = {target: row for row, target in enumerate(hdus["FIBERMAP"].data["TARGETID"])}
        rows = np.array([place[target] for target in targetid])
        grid = join_grids([hdus[f"{arm}_WAVELENGTH"].data.astype(float) for arm in CAMERAS])
        flux, ivar, mask = (
            [hdus[f"{arm}_{name}"].data[rows].astype(kind) for arm in CAMERAS]
            for name, kind in (("FLUX", np.float32), ("IVAR", np.float32), ("MASK", np.int32))
        )
    weight = [drop_masked(iv, m) for iv, m in zip(ivar, mask, strict=True)]
    joined = combine(grid, flux, weight, mask)
    kept = slice(*cut_range(grid.wavelength, RANGE))
    return {
        "flux": joined.flux[:, kept],
        "ivar": joined.ivar[:, kept],
        "mask": joined.mask[:, kept],
        "z": z.astype(float),
    }


def check_same(work: Path) -> None:
    """Assert that FITS and Parquet of a tile give the same redshifts, and the same flux."""
    tile = SOURCES[0]
    read = read_tile(work / "fits" / tile.name, tile, whole=False)
    with pq.ParquetFile(parquet_path(tile, work / "pool")) as parquet:
        table = parquet.read(["z", "flux"])
    order, other = np.argsort(read["z"]), np.argsort(table["z"].to_numpy())
    flux = np.array(table["flux"].to_pylist())[other]
    assert (read["z"][order] == table["z"].to_numpy()[other]).all()
    assert np.corrcoef(read["flux"][order].ravel(), flux.ravel())[0, 1] > 0.99


if __name__ == "__main__":
    main()
