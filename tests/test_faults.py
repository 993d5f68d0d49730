"""The whole workflow while archive and network commit one fault a tile; random faults by seed."""

import copy
import csv
import os
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import REPOSITORY, fault_tests, load_settings
from fault_server import Asked, Service, serve
from fusion_tiles import different_columns
from running import Work, checkout
from simulated_archive import key_of, list_sources, simulate_objects

from desi_fits_to_parquet.archive import link as archive_module
from desi_fits_to_parquet.download.tile import download_tile
from desi_fits_to_parquet.fuse.tile import fuse_tile
from desi_fits_to_parquet.outcomes import FAILED_OUTCOMES, OUTCOMES
from desi_fits_to_parquet.paths import parquet_path
from desi_fits_to_parquet.tile import LAYOUTS, Tile
from desi_fits_to_parquet.validate import validate_tile

Objects = dict[str, bytes]

SHAPE: dict[str, Any] = {"quasar_share": 0.5, "exposures_per_target": 1, "scan_step": 100}


class Case(NamedTuple):
    """A tile's fault, the outcome that it deserves, and words that must stand in its reason.

    `fault` chooses the fault of a request for one of the tile's objects; `damage` changes them
    before they are listed. The list of checksums is that of the undamaged ones.
    """

    outcome: str
    words: tuple[str, ...] = ()
    fault: Callable[[Asked], str | None] = lambda asked: None
    damage: Callable[[Objects, Tile], None] = lambda objects, tile: None


def once(fault: str) -> Callable[[Asked], str | None]:
    """Every request fails the first time."""
    return lambda asked: fault if asked.number == 0 else None


def always(kind: str, fault: str) -> Callable[[Asked], str | None]:
    """All requests for one file fail."""
    return lambda asked: fault if asked.kind == kind else None


def flip(objects: Objects, key: str, at: int) -> None:
    data = bytearray(objects[key])
    data[at] ^= 4
    objects[key] = bytes(data)


def flip_spectra(objects: Objects, tile: Tile) -> None:
    """Flip a bit in every row of the flux: no sum of FITS covers rows that are fetched alone."""
    key = key_of(tile, "coadd")
    data = bytearray(objects[key])
    start = data.index(b"EXTNAME = 'R_FLUX")
    start += -start % 2880  # behind the header, which has one block
    for row in range(5):
        data[start + row * 4 * 2326 + 1001] ^= 4
    objects[key] = bytes(data)


def flip_redrock(objects: Objects, tile: Tile) -> None:
    flip(objects, key_of(tile, "redrock"), len(objects[key_of(tile, "redrock")]) // 2)


def flip_details(objects: Objects, tile: Tile) -> None:
    """Flip a bit in the fits of the first target: in what HDF5 has no sums of."""
    key = key_of(tile, "rrdetails")
    flip(objects, key, objects[key].index(b"QSO") - 1)


def drop(kind: str) -> Callable[[Objects, Tile], None]:
    def damage(objects: Objects, tile: Tile) -> None:
        del objects[key_of(tile, kind)]

    return damage


def put(kind: str, data: bytes) -> Callable[[Objects, Tile], None]:
    def damage(objects: Objects, tile: Tile) -> None:
        objects[key_of(tile, kind)] = data

    return damage


def misstate(objects: Objects, tile: Tile) -> None:
    key = key_of(tile, "sha256sum")
    lines = objects[key].decode().splitlines()
    objects[key] = "\n".join("0" * 64 + x[64:] if "coadd" in x else x for x in lines).encode()


def cut(objects: Objects, tile: Tile) -> None:
    key = key_of(tile, "coadd")
    objects[key] = objects[key][: len(objects[key]) // 2]


CASES = {
    "nothing": Case("converted"),
    "503 in a burst": Case("converted", fault=once("slow_down")),
    "503 that stays": Case("unreachable", ("coadd-", "503"), always("coadd", "slow_down")),
    "reset": Case("converted", fault=once("reset")),
    "reset that stays": Case("unreachable", ("redrock-", "connection"), always("redrock", "reset")),
    "stall": Case("converted", fault=lambda asked: "stall" if asked.number == 0 and
                  asked.kind in ("redrock", "emline") else None),
    "stall that stays": Case("unreachable", ("emline-", "time"), always("emline", "stall")),
    "short body": Case("unreachable", ("coadd-", "ended"), always("coadd", "close")),
    "long body": Case("unreachable", ("redrock-", "bytes"), always("redrock", "long")),
    "body once long": Case("converted", fault=once("long")),
    "flipped coadd": Case("corrupt_source", ("coadd-", "sha256"), damage=flip_spectra),
    "flipped redrock": Case("corrupt_source", ("redrock-", "sha256"), damage=flip_redrock),
    "flipped HDF5": Case("corrupt_source", ("rrdetails-", "sha256"), damage=flip_details),
    "flipped on the way": Case("converted", fault=lambda asked: "flip" if asked.number == 0 and
                               asked.kind == "redrock" else None),
    "cut coadd": Case("corrupt_source", ("coadd-",), damage=cut),
    "no coadd": Case("missing_source", ("coadd-", "not in the archive"), damage=drop("coadd")),
    "replaced": Case("converted"),
    "ever replaced": Case("corrupt_source", ("coadd-", "changed"), always("coadd", "changed")),
    "replaced, no If-Match": Case("converted", fault=lambda asked: "unconditional"),
    "no bucket": Case("unreachable", ("coadd-", "404 NoSuchBucket"), always("coadd", "no_bucket")),
    "no such range": Case("unreachable", ("coadd-", "416"), always("coadd", "no_range")),
    "no manifest": Case("converted", damage=drop("sha256sum")),
    "empty manifest": Case("converted", damage=put("sha256sum", b"")),
    "other sum": Case("corrupt_source", ("coadd-", "0" * 64), damage=misstate),
    "page of a proxy": Case("converted", fault=once("html")),
    "page that stays": Case("unreachable", ("coadd-",), always("coadd", "html")),
}  # fmt: skip

ORDERS = {"healpix": (6,), "uniqpix": (5, 6, 7)}
"""The orders that the tiles of each layout take turns in."""


def tiles_of(layout: str) -> dict[str, Tile]:
    """Return a tile for each case."""
    orders = ORDERS[layout]
    numbers = [LAYOUTS[layout].number(orders[i % len(orders)], 100 + i) for i in range(len(CASES))]
    return {n: Tile("main", "dark", k, layout) for n, k in zip(CASES, numbers, strict=True)}


REPLACED = {"replaced": "sha256sum", "replaced, no If-Match": "coadd"}
"""Tiles that are replaced in the middle, and the kind of file with whose request that happens."""


class Archive(NamedTuple):
    """A tile for each case; objects by key as they should be and as they are, and the later
    version of two tiles."""

    tiles: dict[str, Tile]
    right: Objects
    damaged: Objects
    newer: Objects


@pytest.fixture(scope="module")
def archive_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Archive]:
    @cache
    def simulate(layout: str) -> Archive:
        folder = tmp_path_factory.mktemp("archive")
        tiles = tiles_of(layout)
        right: Objects = {}
        for tile in tiles.values():
            right |= simulate_objects(tile, folder, 5, **SHAPE)
        damaged = dict(right)
        for name, case in CASES.items():
            case.damage(damaged, tiles[name])
        newer: Objects = {}
        for name in REPLACED:
            newer |= simulate_objects(tiles[name], folder / "newer", 5, seed=9, **SHAPE)
        return Archive(tiles, right, damaged, newer)

    return simulate


def convert(tile: Tile, objects: Objects, folder: Path) -> pa.Table:
    """Return the table of a tile that nothing disturbs."""
    fits = folder / "fits"
    fits.mkdir(parents=True)
    for source in list_sources(tile, objects).values():
        (fits / source["key"].rpartition("/")[2]).write_bytes(objects[source["key"]])
    record = fuse_tile(tile, fits, folder, load_settings())
    assert record["n_rows"] > 0, record["reason"]
    return pq.ParquetFile(parquet_path(tile, folder)).read()


class Run(NamedTuple):
    """A finished run, what it printed, how often each page of the listing was asked for."""

    work: Work
    archive: Archive
    text: str


@pytest.fixture(scope="module", params=[("rows", "healpix"), ("files", "uniqpix")], ids="-".join)
def run(
    request: pytest.FixtureRequest,
    archive_of: Callable[[str], Archive],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Run]:
    """One run over an archive in which every tile has a fault, and the listing has some too."""
    mode, layout = request.param
    archive = archive_of(layout)
    work = checkout(tmp_path_factory.mktemp(mode))
    cases = {tile.number: CASES[name] for name, tile in archive.tiles.items()}
    with serve(dict(archive.damaged)) as service:
        service.page = 50

        def choose(asked: Asked) -> str | None:
            if asked.kind == "list":
                # the page comes behind those that tell the layout, which are asked for once
                return {1: "slow_down", 6: "html", 8: "slow_down"}.get(asked.number)
            number = int(asked.key.split("/")[-2])
            for name, kind in REPLACED.items():
                if asked.key == key_of(archive.tiles[name], kind):
                    new = {k: v for k, v in archive.newer.items() if f"/{number}/" in k}
                    service.objects.update(new)
            return cases[number].fault(asked)

        service.choose = choose
        transfer = f"transfer={{mode: {mode}, attempts: 3, timeout_s: 2, audit_fraction: 1}}"
        yield Run(work, archive, work.run(service.endpoint, config=transfer))


def test_every_fault_ends_in_the_outcome_of_the_contract_and_no_other_tile_suffers(
    run: Run, record_property: Callable[[str, object], None]
):
    record_property("faults", len(CASES) - 1)
    outcomes = {tile.number: marker["outcome"] for tile, marker in run.work.markers().items()}
    found = {name: outcomes[tile.number] for name, tile in run.archive.tiles.items()}
    assert found == {name: case.outcome for name, case in CASES.items()}


def test_no_fault_gives_wrong_parquet(run: Run, tmp_path: Path):
    for name, tile in run.archive.tiles.items():
        objects = run.archive.newer if name in REPLACED else run.archive.right
        path = run.work.parquet_path(tile)
        assert path.exists() == (CASES[name].outcome == "converted"), name
        if path.exists():
            undisturbed = convert(tile, objects, tmp_path / tile.name)
            assert different_columns(pq.ParquetFile(path).read(), undisturbed) == [], name
    assert run.work.leftovers() == []


def test_the_report_says_of_each_failed_tile_what_happened_and_what_to_do(run: Run):
    with (run.work.results / "report/failed.csv").open() as stream:
        rows = {int(row["healpix"]): row for row in csv.DictReader(stream)}
    tiles = run.archive.tiles
    failed = {n: t for n, t in tiles.items() if CASES[n].outcome in FAILED_OUTCOMES}
    assert rows.keys() == {tile.number for tile in failed.values()}
    for name, tile in failed.items():
        row = rows[tile.number]
        assert row["outcome"] == CASES[name].outcome
        for word in (*CASES[name].words, f"{tile.number}"):
            assert word in row["reason"], (name, row["reason"])
        assert "\n" not in row["reason"]
        assert row["what_to_do"]
        if row["outcome"] == "unreachable":
            assert "127.0.0.1" in row["reason"], "the address of the service is not named"
            assert "retry_failed" in row["what_to_do"]


def test_no_fault_makes_a_traceback(run: Run):
    assert "Traceback" not in run.text
    for log in run.work.results.rglob("logs/**/*.log"):
        assert '"traceback"' not in log.read_text(), log


# ------------------------------------------------------------------------ nothing can be reached


def test_a_name_that_cannot_be_resolved_ends_the_run_before_its_first_job(tmp_path: Path):
    work = checkout(tmp_path)
    text = work.run("http://no-such-host.invalid", code=1)
    assert "Stopped before the first job" in text
    assert "http://no-such-host.invalid" in text
    assert "Traceback" not in text
    assert not (work.results / "tiles.csv").exists()


def test_a_proxys_page_in_place_of_the_listing_ends_the_run_before_its_first_job(tmp_path: Path):
    work = checkout(tmp_path)
    with serve({}) as service:
        service.choose = lambda asked: "html"
        text = work.run(service.endpoint, code=1)
    assert "Stopped before the first job" in text
    assert service.endpoint in text
    assert "proxy" in text
    assert "Traceback" not in text


def test_a_name_that_is_lost_after_the_listing_makes_tiles_unreachable_and_retry_mends_them(
    archive_of: Callable[[str], Archive], tmp_path: Path
):
    archive = archive_of("healpix")
    tile = archive.tiles["nothing"]
    work = checkout(tmp_path)
    with serve({k: v for k, v in archive.right.items() if f"/{tile.number}/" in k}) as service:
        work.run(service.endpoint, "--until", "discover_tiles")
        work.run(
            "http://no-such-host.invalid", "tiles", config="transfer={attempts: 2, outage_hours: 0}"
        )
        marker = work.markers()[tile]
        assert marker["outcome"] == "unreachable"
        assert "http://no-such-host.invalid" in marker["reason"]
        assert "cannot be resolved" in marker["reason"]
        work.run(service.endpoint, "retry_failed")
        work.run(service.endpoint, "tiles")
    assert work.markers()[tile]["outcome"] == "converted"


# ------------------------------------------------------------------------------- random faults

RUNS = int(os.environ.get("DESI_FAULT_RUNS", "80"))
"""Seeded runs of the test below, in both modes together; `make test-faults` does a thousand."""

FAULTS = ("slow_down", "too_many", "error", "reset", "close", "stall", "long", "trailing", "html",
          "whole", "shifted", "changed", "gone", "other_version", "forbidden")  # fmt: skip

SLOWEST_RUN_S = 60
"""The worst that the seeds do takes ten seconds on a busy machine."""


def spoil(rng: random.Random, objects: Objects, tile: Tile, mode: str) -> tuple[str, float]:
    """Do some damage at rest; return what, and the audit_fraction with which it must be found.

    A bit of a row that is fetched alone has no sum of its own: only the audit sees it.
    """
    damage = rng.choice(["none", "none", "flip", "flip", "cut", "remove", "empty", "misstate"])
    kind = rng.choice(["coadd", "redrock", "emline", "rrdetails"])
    key = key_of(tile, kind)
    if damage == "flip":
        flip(objects, key, rng.randrange(len(objects[key])))
        in_rows = mode == "rows" and kind in ("coadd", "rrdetails")
        return f"flip in {kind}", 1.0 if in_rows else rng.choice([0.0, 1.0])
    if damage == "cut":
        objects[key] = objects[key][: rng.randrange(len(objects[key]))]
    elif damage == "remove":
        del objects[key]
    elif damage == "empty":
        objects[key_of(tile, "sha256sum")] = b""
    elif damage == "misstate":
        misstate(objects, tile)
    return damage, rng.choice([0.0, 1.0])


@pytest.mark.parametrize(("mode", "layout"), [("rows", "uniqpix"), ("files", "healpix")])
def test_random_faults_never_end_as_converted_with_wrong_data(
    mode: str, layout: str, archive_of: Callable[[str], Archive], settings: dict[str, Any],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    """Fetch, fuse, validate under random faults and damage: the right table, or a failed tile."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # these runs wait for no disk
    monkeypatch.setattr(archive_module, "FIRST_PAUSE_S", 0.01)
    archive = archive_of(layout)
    tile = archive.tiles["replaced"]
    old = {key: data for key, data in archive.right.items() if f"/{tile.number}/" in key}
    without_emline = {k: v for k, v in old.items() if k != key_of(tile, "emline")}
    without_details = {k: v for k, v in old.items() if k != key_of(tile, "rrdetails")}
    right = [
        convert(tile, objects, tmp_path / f"right-{i}")
        for i, objects in enumerate((old, archive.newer, without_emline, without_details))
    ]
    outcomes: Counter[str] = Counter()
    slowest, faults = 0.0, 0
    for seed in range(RUNS // 2):
        rng = random.Random(f"{mode} {seed}")
        objects = dict(old)
        damage, audit = spoil(rng, objects, tile, mode)
        folder = tmp_path / str(seed)
        begun = time.monotonic()
        with serve(objects) as service:
            kinds = (*FAULTS, "flip", "flip") if mode == "files" or audit else FAULTS
            committed: Counter[str] = Counter()
            service.choose = random_faults(rng, kinds, service, archive.newer, damage, committed)
            changed = copy.deepcopy(settings)
            changed["archive"]["endpoint"] = service.endpoint
            changed["transfer"] |= {"mode": mode, "attempts": 3, "timeout_s": 0.5,
                                    "connections": 4, "audit_fraction": audit}  # fmt: skip
            download_tile(tile, list_sources(tile, objects), changed, folder / "fits")
        record = fuse_tile(tile, folder / "fits", folder / "parquet", changed)
        marker = validate_tile(tile, folder / "fits", folder / "parquet", record, changed)
        slowest = max(slowest, time.monotonic() - begun)
        faults += committed.total() + (damage != "none")
        outcomes[marker["outcome"]] += 1
        where = f"seed {seed}, {damage}: {marker['outcome']} {marker['reason']}"
        assert marker["outcome"] in OUTCOMES, where
        assert bool(marker["reason"]) == (marker["outcome"] in FAILED_OUTCOMES), where
        assert marker["outcome"] not in ("no_targets", "invalid_output"), where
        assert not list(folder.rglob("*.part")), where
        path = parquet_path(tile, folder / "parquet")
        assert path.exists() == (marker["outcome"] == "converted"), where
        if path.exists():
            table = pq.ParquetFile(path).read()
            assert any(not different_columns(table, one) for one in right), where
        shutil.rmtree(folder)
    record_property("outcomes", dict(outcomes))
    record_property("slowest_s", round(slowest, 1))
    record_property("faults", faults)
    assert slowest < SLOWEST_RUN_S
    assert outcomes.keys() == {"converted", "missing_source", "corrupt_source", "unreachable"}


def random_faults(
    rng: random.Random,
    known: Sequence[str],
    service: Service,
    newer: Objects,
    damage: str,
    committed: Counter[str],
) -> Callable[[Asked], str | None]:
    """Choose from three kinds of faults at a random share of requests, and count them; sometimes, a
    newer tile takes the place of the undamaged one in the middle of it all."""
    kinds = rng.sample(known, 3)
    share = rng.choice([0.0, 0.02, 0.1, 0.5])
    replaced_at = rng.choice([1, 3, 8]) if damage == "none" and rng.random() < 0.5 else None

    def choose(asked: Asked) -> str | None:
        if len(service.asked) == replaced_at:
            service.objects.update(newer)
        if asked.kind == "list":  # each costs botocore's own pauses
            return "slow_down" if rng.random() < share / 5 else None
        if rng.random() >= share:
            return None
        fault = str(rng.choice(kinds))
        committed[fault] += 1
        return fault

    return choose


# ------------------------------------------------------------------------------------ their list


def test_the_list_of_faults_names_a_test_of_each_that_is_there():
    text = (REPOSITORY / "docs/faults.md").read_text()
    tests = "".join(path.read_text() for path in (REPOSITORY / "tests").glob("test_*.py"))
    there = set(re.findall(r"^def (test_\w+)", tests, re.M))
    rows = re.findall(r"^\| (?!fault |---)(.*?) \|.* \| (.*?) \|$", text, re.M)
    assert len(rows) > 50
    for fault, cell in rows:
        named = re.findall(r"`(\w+)`|\*([^*]+)\*", cell)
        assert named, fault
        for test, case in named:
            assert test in there or case in CASES, (fault, test or case)
    assert fault_tests() <= there
    assert {case for _, cell in rows for case in re.findall(r"\*([^*]+)\*", cell)} == {
        name for name in CASES if name != "nothing"
    }
