"""Spectra for PyTorch: from the Parquet in shuffled parts, or from a cache that is decoded once.

>>> from torch.utils.data import DataLoader
>>> from desi_fits_to_parquet import open_catalog
>>> from desi_fits_to_parquet.training import ParquetSpectra, collate, decode_once
>>> quasars = open_catalog("results").where("z > 2.1")
>>> loader = DataLoader(ParquetSpectra(quasars), 256, num_workers=2, collate_fn=collate)
>>> for batch in loader:
...     batch["flux"], batch["ivar"], batch["mask"], batch["z"]

Of Parquet no single spectrum can be read: a row group of 32 is decoded for it. So there is no
access by number to the Parquet; `decode_once` writes a cache that has it, for many epochs.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from desi_fits_to_parquet.files import atomic_folder, read_json, write_json
from desi_fits_to_parquet.fuse.parquet import ROW_GROUP
from desi_fits_to_parquet.reader.catalog import Catalog
from desi_fits_to_parquet.reader.spectra import BLOCK, PIXELS, Spectra

try:
    import torch
    from torch.utils.data import Dataset, IterableDataset, default_collate, get_worker_info
except ImportError as missing:
    raise ImportError(
        "PyTorch is not installed: pip install 'desi-fits-to-parquet[torch]'"
    ) from missing

Array = npt.NDArray[Any]

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")

COLUMNS = ("flux", "ivar", "mask", "z")
"""What a sample holds by default."""

_CACHE = "cache.json"
"""File that tells what a cache holds."""


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make a batch of samples, for `DataLoader(collate_fn=collate)`.

    Parameters
    ----------
    samples
        Of one of the datasets here.

    Returns
    -------
    dict
        By column: of pixels a tensor of shape (n, npix), where arms are apart one for each arm
        with the pixels that it has; of numbers of the catalogue a tensor of shape (n,), float32
        where they are floating point; of text a list.
    """
    batch = {}
    for name in samples[0]:
        values = default_collate([sample[name] for sample in samples])
        of_floats = isinstance(values, torch.Tensor) and values.dtype == torch.float64
        batch[name] = values.float() if of_floats else values
    return batch


class ParquetSpectra(IterableDataset[dict[str, Any]]):
    """Spectra of a catalogue's targets from its Parquet, in an order drawn anew for each epoch.

    The row groups are put in a random order; of these as many spectra as `buffer` are read at once
    and given in a random order. Workers and ranks share the row groups out among them: each
    reads its own run of that order (where two runs meet, they share one row group). All ranks give
    equally many spectra; up to `ranks` - 1 are left out, others in each epoch.

    A sample is a dict of numpy arrays by column. The same seed, epoch, ranks and workers give the
    same samples in the same order, also from a copy of the collection elsewhere.

    Parameters
    ----------
    catalog
        Which targets; from `open_catalog`. Its table is read here, the spectra later.
    columns
        `flux`, `ivar`, `mask`, and columns of the catalogue, which come as a value each.
    seed
        Of the order.
    shuffle
        Whether to draw an order; else it is that of the sky, the same in each epoch.
    buffer
        Spectra that are drawn from at once, some 0.1 MB each, while as many are read; in each
        worker.
    join
        Whether arms that the collection keeps apart are joined to `flux`, `ivar`, `mask`; else
        they come as `b_flux`, `r_flux`, `z_flux` and so on.
    rank, ranks
        Which process of how many this is. By default what `torch.distributed` says where it is
        initialised, or what `RANK` and `WORLD_SIZE` say, which torchrun sets.

    Attributes
    ----------
    table
        What the catalogue says of the targets, an Arrow table.

    Raises
    ------
    ValueError
        Where no target is left, there are fewer than ranks, a column is not there, or a number
        is out of its range.

    Examples
    --------
    >>> dataset = ParquetSpectra(quasars, seed=1)
    >>> loader = DataLoader(dataset, 256, num_workers=2, collate_fn=collate)
    >>> for epoch in range(10):
    ...     dataset.set_epoch(epoch)
    ...     for batch in loader:
    ...         ...
    """

    def __init__(
        self,
        catalog: Catalog,
        columns: Sequence[str] = COLUMNS,
        *,
        seed: int = 0,
        shuffle: bool = True,
        buffer: int = 1024,
        join: bool = True,
        rank: int | None = None,
        ranks: int | None = None,
    ) -> None:
        if seed < 0 or buffer < 1:
            raise ValueError(f"seed is 0 or more, buffer 1 or more, not {seed} and {buffer}")
        self._rank, self._ranks = _place_among_ranks(rank, ranks)
        self._spectra, self._pixels, self._scalars = _chosen(catalog, columns)
        self.table: pa.Table = self._spectra.table
        if len(self._spectra) < self._ranks:
            raise ValueError(f"{len(self._spectra)} targets are too few for {self._ranks} ranks")
        self._seed, self._shuffle, self._buffer, self._join = seed, shuffle, buffer, join
        self._groups = _row_groups(self._spectra)
        # in shared memory, so that workers that stay for many epochs see it change
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._taken = [0]
        self._resumed: tuple[int, list[int]] | None = None

    def __len__(self) -> int:
        """Return how many spectra this rank gives in an epoch."""
        return len(self._spectra) // self._ranks

    @property
    def wavelength(self) -> Array | dict[str, Array]:
        """Pixel centres, vacuum, Angstrom; where arms are kept apart by the name of each."""
        return _wavelength(self._spectra, self._join)

    def set_epoch(self, epoch: int) -> None:
        """Draw another order for the next pass; the same number gives the same order."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Give the samples of this worker of this rank."""
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        epoch, begin = int(self._epoch), 0
        if self._resumed and self._resumed[0] == epoch:
            taken = self._resumed[1]
            if len(taken) != workers:
                raise ValueError(
                    f"the state is that of {len(taken)} workers, here are {workers}: their spectra "
                    "come in another order"
                )
            begin = taken[worker]
        self._taken = [0] * workers
        self._taken[worker] = begin
        first, stop = self._share(worker, workers)
        order = self._order(epoch)[first:stop]
        starts = range(begin - begin % self._buffer, len(order), self._buffer)
        parts = (np.sort(order[start : start + self._buffer]) for start in starts)
        for start, (pieces, ends) in zip(starts, _ahead(self._read, parts), strict=True):
            sequence = np.arange(ends[-1])
            if self._shuffle:
                np.random.default_rng([self._seed, epoch, first + start]).shuffle(sequence)
            sequence = sequence[max(begin - start, 0) :]
            which = np.searchsorted(ends, sequence, side="right")
            rows = sequence - ends[which]  # from the end of the piece
            for piece, row in zip(which.tolist(), rows.tolist(), strict=True):
                self._taken[worker] += 1
                # a copy: torch takes no array that cannot be written, and a view would keep all
                yield {
                    name: values[row].copy() if values.ndim > 1 else values[row]
                    for name, values in pieces[piece].items()
                }

    def state_dict(self) -> dict[str, Any]:
        """Return where the iteration is, so that another process can go on with the next sample.

        It is that of the process in which the samples are read: right without workers, and with
        torchdata's `StatefulDataLoader`, which asks each worker. For workers of a plain DataLoader
        there is `state_after`.
        """
        return self._state(self._taken)

    def state_after(self, batches: int, batch_size: int, workers: int) -> dict[str, Any]:
        """Return the state in which a DataLoader with workers has given some batches.

        What the workers have read ahead is read again.

        Parameters
        ----------
        batches
            How many of this epoch the training has seen.
        batch_size, workers
            What the DataLoader was given: `batch_size`, `num_workers`; it drops no last batch.
        """
        shares = [self._share(worker, max(workers, 1)) for worker in range(max(workers, 1))]
        left = [stop - first for first, stop in shares]
        taken = [0] * len(left)
        for _ in range(-(-batches // len(left))):  # the workers take turns
            for worker in range(len(left)):
                if left[worker] and batches:
                    some = min(batch_size, left[worker])
                    taken[worker] += some
                    left[worker] -= some
                    batches -= 1
        return self._state(taken)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` or `state_after` was called: in its epoch, from there.

        To be called before the DataLoader starts its workers.

        Raises
        ------
        ValueError
            Where the state is of other targets, or of another order.
        """
        here = self._state([])
        for key in here.keys() - {"epoch", "taken"}:
            if state[key] != here[key]:
                raise ValueError(f"the state is of {key} {state[key]}, this dataset of {here[key]}")
        self.set_epoch(state["epoch"])
        self._resumed = (state["epoch"], list(state["taken"]))
        self._taken = list(state["taken"])

    # ------------------------------------------------------------------------------- details

    def _state(self, taken: Sequence[int]) -> dict[str, Any]:
        return {
            "epoch": int(self._epoch),
            "taken": list(taken),
            "targets": len(self._spectra),
            "seed": self._seed,
            "shuffle": self._shuffle,
            "buffer": self._buffer,
            "rank": self._rank,
            "ranks": self._ranks,
        }

    def _share(self, worker: int, workers: int) -> tuple[int, int]:
        """Return from where to where in the order a worker reads."""
        own = len(self)
        first = self._rank * own
        return first + worker * own // workers, first + (worker + 1) * own // workers

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the numbers of all targets, row group by row group."""
        if not self._shuffle:
            return np.arange(len(self._groups))
        n_groups = int(self._groups.max()) + 1
        places = np.random.default_rng([self._seed, epoch]).permutation(n_groups)
        return np.argsort(places[self._groups], kind="stable")

    def _read(self, chosen: Array) -> tuple[list[dict[str, Array]], Array]:
        """Read targets, in pieces as they were decoded; return these, and where each ends."""
        part = self._spectra[chosen]
        scalars = {name: _scalar(part, name) for name in self._scalars}
        if not self._pixels:
            return [scalars], np.array([len(part)])
        pieces = part.pieces(self._pixels, join=self._join)
        ends = np.cumsum([len(next(iter(piece.values()))) for piece in pieces])
        for piece, end, start in zip(pieces, ends, [0, *ends], strict=False):
            piece |= {name: values[start:end] for name, values in scalars.items()}
        return pieces, ends


class CachedSpectra(Dataset[dict[str, Any]]):
    """Spectra that `decode_once` wrote, by number, from files that are mapped into memory.

    A sample is a dict of numpy arrays by column. An array of numbers gives a batch at once, which
    is the quickest way:

    >>> sampler = BatchSampler(RandomSampler(cache), 256, drop_last=False)
    >>> loader = DataLoader(cache, sampler=sampler, batch_size=None)

    Parameters
    ----------
    folder
        What `decode_once` was given.

    Attributes
    ----------
    table
        What the catalogue says of the targets, an Arrow table.
    wavelength
        Pixel centres, vacuum, Angstrom; where arms are kept apart by the name of each.

    Raises
    ------
    FileNotFoundError
        Where there is no cache.
    """

    def __init__(self, folder: Path | str) -> None:
        self._folder = Path(folder)
        self._open()

    def _open(self) -> None:
        if not (self._folder / _CACHE).is_file():
            raise FileNotFoundError(f"{self._folder}: there is no cache that decode_once wrote")
        told = read_json(self._folder / _CACHE)
        self._arrays: dict[str, Array] = {
            # copy on write: torch takes no array that cannot be written
            name: np.load(self._folder / f"{name}.npy", mmap_mode="c")
            for name in told["columns"]
        }
        self.table: pa.Table = pq.read_table(self._folder / "targets.parquet")
        grids = {name: np.load(self._folder / f"{name}wavelength.npy") for name in told["grids"]}
        self.wavelength: Array | dict[str, Array] = (
            grids[""] if "" in grids else {name[0]: grid for name, grid in grids.items()}
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"_folder": self._folder}  # a worker maps the files itself

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._folder = state["_folder"]
        self._open()

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: Any) -> dict[str, Any]:
        if isinstance(index, int | np.integer):
            if not -len(self) <= index < len(self):
                raise IndexError(f"there is no spectrum {index}: the cache holds {len(self)}")
            return {name: values[index] for name, values in self._arrays.items()}
        numbers = np.asarray(index)
        return {name: _float32(values[numbers]) for name, values in self._arrays.items()}


def decode_once(
    catalog: Catalog,
    folder: Path | str,
    columns: Sequence[str] = COLUMNS,
    *,
    join: bool = True,
) -> CachedSpectra:
    """Decode the spectra of a catalogue's targets into files that are mapped into memory.

    Where the folder holds that already, it is opened. Of several processes that call this at once
    one decodes, and the others wait for it.

    Parameters
    ----------
    catalog
        Which targets; from `open_catalog`.
    folder
        To be written: a numpy file a column, 31 kB a spectrum each; what the catalogue says of
        the targets.
    columns, join
        As for `ParquetSpectra`; of the catalogue, numbers alone.

    Returns
    -------
    CachedSpectra

    Raises
    ------
    FileExistsError
        Where the folder holds something else: of other targets, columns or files.
    OSError
        Where the disk has not the room.
    ValueError
        Where no target is left, or a column is not there or is text.
    """
    spectra, pixels, scalars = _chosen(catalog, columns)
    if text := [name for name in scalars if _scalar(spectra, name).dtype == object]:
        raise ValueError(f"{', '.join(text)} is text: a cache holds numbers")
    target = Path(folder)
    content = _content(spectra, pixels, scalars, join)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            with atomic_folder(target) as temporary:
                temporary.mkdir()
                _write_cache(temporary, spectra, pixels, scalars, join, content)
    told = target / _CACHE
    if not told.is_file() or read_json(told)["content"] != content:
        raise FileExistsError(
            f"{target} is there, but holds something else than these targets, columns and files; "
            "remove it, or name another folder"
        )
    return CachedSpectra(target)


def _write_cache(
    folder: Path,
    spectra: Spectra,
    pixels: Sequence[str],
    scalars: Sequence[str],
    join: bool,
    content: str,
) -> None:
    """Write the files of a cache, a block of spectra after the other."""
    arrays: dict[str, Array] = {name: _scalar(spectra, name) for name in scalars}
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    for start in range(0, len(spectra), BLOCK) if pixels else ():
        pieces = spectra[start : start + BLOCK].pieces(pixels, join=join)
        part = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        if not start:
            size = sum(len(spectra) * values[0].nbytes for values in part.values())
            free = shutil.disk_usage(folder).free
            if free < size:
                raise OSError(
                    f"{folder.parent} has {free / 1e9:.1f} GB free; the cache takes "
                    f"{size / 1e9:.1f} GB"
                )
            for name, values in part.items():
                arrays[name] = np.lib.format.open_memmap(
                    folder / f"{name}.npy",
                    "w+",
                    values.dtype,
                    (len(spectra), values.shape[1]),
                )
        for name, values in part.items():
            arrays[name][start : start + BLOCK] = values
    for values in arrays.values():
        if isinstance(values, np.memmap):
            values.flush()
    pq.write_table(spectra.table, folder / "targets.parquet")
    grids = _wavelength(spectra, join)
    named = (
        {f"{arm}_": grid for arm, grid in grids.items()} if isinstance(grids, dict) else {"": grids}
    )
    for name, grid in named.items():
        np.save(folder / f"{name}wavelength.npy", grid)
    told = {"content": content, "columns": list(arrays), "grids": list(named), "n": len(spectra)}
    write_json(folder / _CACHE, told)


def _ahead(call: Callable[[_Part], _Result], parts: Iterable[_Part]) -> Iterator[_Result]:
    """Call for each part in a thread, the next one while the last result is in use."""
    with ThreadPoolExecutor(1) as thread:
        coming = None
        for part in parts:
            submitted = thread.submit(call, part)
            if coming:
                yield coming.result()
            coming = submitted
        if coming:
            yield coming.result()


def _chosen(catalog: Catalog, columns: Sequence[str]) -> tuple[Spectra, list[str], list[str]]:
    """Return the spectra, with their rows found, and which columns are of pixels and which not."""
    columns = list(dict.fromkeys(columns))
    spectra = catalog.spectra(columns)
    spectra.need_some()
    pixels = [name for name in columns if name in PIXELS]
    if unknown := {*pixels} & {"wavelength", "mask_arms"}:
        raise ValueError(
            f"{', '.join(sorted(unknown))} is not for each spectrum: flux, ivar, mask are; the "
            "attribute `wavelength` is the grid of all"
        )
    _ = spectra.wavelength  # known here, no worker reads it
    return spectra, pixels, [name for name in columns if name not in PIXELS]


def _row_groups(spectra: Spectra) -> npt.NDArray[np.int64]:
    """Return a number for each target: of the row group that holds it, from 0 on."""
    files = spectra.places["file"].combine_chunks().dictionary_encode().indices.to_numpy()
    rows = spectra.places["row"].to_numpy()
    groups = files.astype(np.int64) * (rows.max() + 1) + rows // ROW_GROUP
    return np.unique(groups, return_inverse=True)[1]


def _scalar(spectra: Spectra, name: str) -> Array:
    """Return a column of the catalogue for some targets."""
    values: Array = spectra.table[name].to_numpy()
    return values


def _float32(values: Array) -> Array:
    return values.astype(np.float32) if values.dtype == np.float64 else values


def _wavelength(spectra: Spectra, join: bool) -> Array | dict[str, Array]:
    """Return the grid of spectra, or that of each arm where they are kept apart."""
    if join or not spectra.arms:
        return spectra.wavelength
    return spectra.wavelengths


def _content(spectra: Spectra, pixels: Sequence[str], scalars: Sequence[str], join: bool) -> str:
    """Return a hash of what a cache of these spectra would hold."""
    digest = hashlib.sha256(f"{pixels} {scalars} {join}".encode())
    digest.update("\n".join(spectra.places["file"].to_pylist()).encode())
    for name in ("row", "file_size"):
        digest.update(spectra.places[name].to_numpy().tobytes())
    for name in scalars:
        digest.update(_scalar(spectra, name).tobytes())
    return digest.hexdigest()


def _place_among_ranks(rank: int | None, ranks: int | None) -> tuple[int, int]:
    """Return which process of how many this is."""
    if (rank is None) != (ranks is None):
        raise ValueError("rank and ranks come together")
    if rank is None or ranks is None:
        group = torch.distributed
        if group.is_available() and group.is_initialized():
            rank, ranks = group.get_rank(), group.get_world_size()
        else:
            rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if not 0 <= rank < ranks:
        raise ValueError(f"rank {rank} is none of {ranks} ranks, which count from 0")
    return rank, ranks
