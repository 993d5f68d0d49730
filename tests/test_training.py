"""Spectra for PyTorch: which come, in which order, from where an interrupted epoch goes on."""

import pickle
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY
from fusion_tiles import changed
from reader_trees import TILES, collect, simulate

from desi_fits_to_parquet import open_catalog
from desi_fits_to_parquet.config import load_config
from desi_fits_to_parquet.reader.catalog import Catalog

pytestmark = pytest.mark.torch

COLUMNS = ("flux", "ivar", "mask", "z", "targetid", "spectype")


def settings(**sections: Any) -> dict[str, Any]:
    everyone = {"spectypes": ["QSO", "GALAXY", "STAR"], "zwarn": None}
    return changed(load_config(REPOSITORY / "config/schema.yaml"), selection=everyone, **sections)


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("fits"))


@pytest.fixture(scope="module")
def joined(fits: Path, tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return open_catalog(collect(fits, tmp_path_factory.mktemp("joined"), settings()))


@pytest.fixture(scope="module")
def apart(fits: Path, tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    separate = settings(spectra={"cameras": "separate"})
    results = collect(fits, tmp_path_factory.mktemp("apart"), separate, TILES[:1])
    return open_catalog(results)


def parquet(catalog: Catalog, columns: Any = ("targetid", "program"), **arguments: Any) -> Any:
    from desi_fits_to_parquet.training import ParquetSpectra

    return ParquetSpectra(catalog, columns, **{"seed": 1, "buffer": 50, **arguments})


def loader(dataset: Any, batch_size: int = 8, **arguments: Any) -> Any:
    from torch.utils.data import DataLoader

    from desi_fits_to_parquet.training import collate

    return DataLoader(dataset, batch_size, collate_fn=collate, **arguments)


def names(samples: Any) -> list[tuple[str, int]]:
    """What tells one row from another: the same target comes in two programs."""
    return [(str(sample["program"]), int(sample["targetid"])) for sample in samples]


def names_in(batches: Any) -> list[list[tuple[str, int]]]:
    return [list(zip(b["program"], b["targetid"].tolist(), strict=True)) for b in batches]


def test_each_spectrum_comes_once_and_is_that_of_the_reader(joined: Catalog) -> None:
    spectra = joined.spectra(["flux", "ivar", "mask", "program"])
    keys = zip(spectra.table["program"].to_pylist(), spectra.targetid.tolist(), strict=True)
    place = {key: i for i, key in enumerate(keys)}
    dataset = parquet(joined, (*COLUMNS, "program"))
    assert len(dataset) == len(place) == len(joined)
    seen = set()
    for batch in loader(dataset):
        (keys_here,) = names_in([batch])
        rows = np.array([place[key] for key in keys_here])
        seen |= {*keys_here}
        for name in ("flux", "ivar", "mask"):
            np.testing.assert_array_equal(batch[name].numpy(), getattr(spectra, name)[rows])
        assert str(batch["z"].dtype) == "torch.float32"
        np.testing.assert_allclose(batch["z"].numpy(), spectra.z[rows], rtol=1e-6)
        assert batch["spectype"] == [spectra.table["spectype"][i].as_py() for i in rows.tolist()]
    assert seen == place.keys()
    np.testing.assert_array_equal(dataset.wavelength, spectra.wavelength)


def test_the_order_is_that_of_seed_and_epoch(joined: Catalog) -> None:
    dataset = parquet(joined)
    first = names(dataset)
    assert names(dataset) == first == names(parquet(joined))
    dataset.set_epoch(1)
    second = names(dataset)
    assert second != first
    assert names(parquet(joined, seed=2)) not in (first, second)
    in_order = names(parquet(joined, shuffle=False))
    table = joined.to_arrow(["program", "targetid"]).to_pylist()
    assert in_order == names(table)
    assert sorted(first) == sorted(second) == sorted(in_order)
    # a buffer holds spectra of several row groups, mixed
    groups = joined.to_arrow(["program", "targetid", "file", "row"]).to_pylist()
    group_of = {
        (row["program"], row["targetid"]): (row["file"], row["row"] // 32) for row in groups
    }
    changes = [group_of[a] != group_of[b] for a, b in pairwise(first)]
    assert sum(changes) > 4 * len({*group_of.values()})


def test_no_more_than_the_buffer_is_read_at_once(
    joined: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = parquet(joined, buffer=16)
    read, sizes = dataset._read, []

    def note(chosen: Any) -> Any:
        sizes.append(len(chosen))
        return read(chosen)

    monkeypatch.setattr(dataset, "_read", note)
    several: Iterator[Any] = iter(dataset)
    next(several)
    assert sizes[0] == 16
    assert len(sizes) <= 2, "one is in use, one is read"
    list(several)
    assert max(sizes) == 16
    assert sum(sizes) == len(dataset)


def test_workers_and_ranks_share_the_row_groups_out(joined: Catalog) -> None:
    rows = joined.to_arrow(["program", "targetid", "file", "row"]).to_pylist()
    group_of = {(r["program"], r["targetid"]): (r["file"], r["row"] // 32) for r in rows}
    shares: list[list[tuple[str, int]]] = []
    for rank in range(2):
        dataset = parquet(joined, rank=rank, ranks=2)
        batches = names_in(loader(dataset, 1000, num_workers=2))
        assert len(batches) == 2, "each worker gives a batch of all that it has"
        assert sum(map(len, batches)) == len(dataset) == len(joined) // 2
        shares += batches
    every = [name for share in shares for name in share]
    assert len({*every}) == len(every) == len(joined) // 2 * 2
    groups = [{group_of[name] for name in share} for share in shares]
    assert sum(map(len, groups)) <= len({*group_of.values()}) + len(shares) - 1


def test_ranks_are_those_of_torchrun(joined: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert names(parquet(joined)) == names(parquet(joined, rank=1, ranks=3))
    assert len(parquet(joined)) == len(joined) // 3


@pytest.mark.parametrize("taken", [0, 1, 49, 50, 77])
def test_an_epoch_goes_on_with_the_next_spectrum(joined: Catalog, taken: int) -> None:
    dataset = parquet(joined)
    dataset.set_epoch(3)
    iterator = iter(dataset)
    before = names(next(iterator) for _ in range(taken))
    state = pickle.loads(pickle.dumps(dataset.state_dict()))  # noqa: S301  (our own)
    after = names(iterator)
    other = parquet(joined)
    other.load_state_dict(state)
    assert other.state_dict() == state
    assert names(other) == after
    dataset.set_epoch(4)
    other.set_epoch(4)
    assert names(other) == names(dataset), "the next epoch begins at its beginning"
    assert len(before) + len(after) == len(joined)


def test_an_epoch_of_workers_goes_on_with_the_next_batch(joined: Catalog) -> None:
    batches = names_in(loader(parquet(joined), num_workers=2))
    for seen in (0, 3, len(batches) - 1, len(batches)):
        dataset = parquet(joined)
        dataset.load_state_dict(dataset.state_after(seen, 8, 2))
        rest = names_in(loader(dataset, num_workers=2))
        # the workers take turns anew
        assert sorted(chain(*rest)) == sorted(chain(*batches[seen:]))
        assert sorted(map(sorted, rest)) == sorted(map(sorted, batches[seen:]))


def test_a_state_of_another_order_is_refused(joined: Catalog) -> None:
    state = parquet(joined).state_dict()
    for other in (parquet(joined, seed=2), parquet(joined, buffer=9), parquet(joined.head(40))):
        with pytest.raises(ValueError, match=r"the state is of (seed|buffer|targets)"):
            other.load_state_dict(state)
    dataset = parquet(joined)
    dataset.load_state_dict(dataset.state_after(2, 8, 2))
    with pytest.raises(ValueError, match="that of 2 workers, here are 1"):
        next(iter(dataset))


def test_workers_that_stay_see_the_next_epoch(joined: Catalog) -> None:
    dataset = parquet(joined)
    staying = loader(dataset, num_workers=1, persistent_workers=True)
    first = names_in(staying)
    dataset.set_epoch(1)
    second = names_in(staying)
    assert first != second
    assert sorted(chain(*first)) == sorted(chain(*second))


@pytest.mark.parametrize("cached", [False, True])
def test_arms_come_apart_or_joined(apart: Catalog, cached: bool, tmp_path: Path) -> None:
    from desi_fits_to_parquet.training import decode_once

    def dataset(join: bool) -> Any:
        if cached:
            return decode_once(apart, tmp_path / str(join), join=join)
        return parquet(apart, COLUMNS[:4], join=join, shuffle=False)

    spectra = apart.spectra(["flux", "ivar", "mask"])
    (batch,) = loader(dataset(join=False), 1000)
    grids = dataset(join=False).wavelength
    for arm, npix in {"b": 2751, "r": 2326, "z": 2881}.items():
        assert batch[f"{arm}_flux"].shape == (len(apart), npix)
        assert batch[f"{arm}_mask"].dtype.itemsize == 4
        np.testing.assert_array_equal(batch[f"{arm}_ivar"].numpy(), spectra.arm(arm).ivar)
        np.testing.assert_array_equal(grids[arm], spectra.arm(arm).wavelength)
    assert batch["z"].shape == (len(apart),)
    (batch,) = loader(dataset(join=True), 1000)
    for name in ("flux", "ivar", "mask"):
        np.testing.assert_array_equal(batch[name].numpy(), getattr(spectra, name))
    np.testing.assert_array_equal(dataset(join=True).wavelength, spectra.wavelength)


def test_the_cache_is_decoded_once(joined: Catalog, tmp_path: Path) -> None:
    from torch.utils.data import BatchSampler, SequentialSampler

    from desi_fits_to_parquet.training import CachedSpectra, decode_once

    columns = ("flux", "mask", "z", "targetid")
    cache = decode_once(joined, tmp_path / "cache", columns)
    written = (tmp_path / "cache/flux.npy").stat().st_mtime_ns
    spectra = joined.spectra(["flux", "mask"])
    np.testing.assert_array_equal(cache[3]["flux"], spectra.flux[3])
    assert len(cache) == len(spectra)
    assert cache.table["targetid"].to_pylist() == spectra.targetid.tolist()
    sampler = BatchSampler(SequentialSampler(cache), 20, drop_last=False)
    by_number, by_batch = loader(cache, 20), loader(cache, None, sampler=sampler)
    by_batch.collate_fn = lambda batch: batch
    for one, other in zip(by_number, by_batch, strict=True):
        assert one.keys() == other.keys() == {*columns}
        assert all((one[name].numpy() == other[name]).all() for name in columns)
        assert one["z"].dtype.itemsize == other["z"].dtype.itemsize == 4
    with pytest.raises(IndexError, match=f"no spectrum {len(cache)}"):
        cache[len(cache)]
    again = decode_once(joined, tmp_path / "cache", columns)
    assert (tmp_path / "cache/flux.npy").stat().st_mtime_ns == written
    assert len(pickle.dumps(again)) < 1000, "a worker maps the files itself"
    for other in (joined.where("z > 1"), joined.head(20)):
        with pytest.raises(FileExistsError, match="something else"):
            decode_once(other, tmp_path / "cache", columns)
    with pytest.raises(FileExistsError, match="something else"):
        decode_once(joined, tmp_path / "cache", columns[:2])
    assert not list(tmp_path.glob(".*.part"))
    with pytest.raises(FileNotFoundError, match="no cache"):
        CachedSpectra(tmp_path)


def test_what_cannot_be_trained_on_is_said_in_a_sentence(joined: Catalog, tmp_path: Path) -> None:
    from desi_fits_to_parquet.training import decode_once

    for arguments, words in (
        ({"rank": 2, "ranks": 2}, "rank 2 is none of 2"),
        ({"rank": 2}, "come together"),
        ({"buffer": 0}, "buffer 1 or more"),
        ({"columns": ("flux", "wavelength")}, "the grid of all"),
        ({"columns": ("flux", "redshit")}, "near to it: redshift"),
        ({"rank": 0, "ranks": 10_000}, "too few for 10000 ranks"),
    ):
        with pytest.raises(ValueError, match=words):
            parquet(joined, **arguments)
    with pytest.raises(ValueError, match="no target"):
        parquet(joined.where("z > 99"))
    with pytest.raises(ValueError, match="spectype is text"):
        decode_once(joined, tmp_path / "cache", ("flux", "spectype"))
