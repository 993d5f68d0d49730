"""How fast the configured archive answers from this machine, and the settings that follow.

Ranges of a few coadds are fetched over 1 to 32 connections: small ones, as the rows of quasars
are, for latency and requests a second, and large ones for bandwidth. No more bytes than allowed
are ever asked for, and a failed request is counted, not repeated.
"""

import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from desi_fits_to_parquet.archive.errors import (
    NothingFound,
    RangeIgnored,
    SourceChanged,
    SourceMissing,
    Unreachable,
)
from desi_fits_to_parquet.archive.keys import archive_address, sort_by_kind
from desi_fits_to_parquet.archive.link import Link
from desi_fits_to_parquet.archive.listing import find_layout, open_listing
from desi_fits_to_parquet.settings import Settings, TransferSettings
from desi_fits_to_parquet.tile import Tile, parse_key
from desi_fits_to_parquet.tiles_csv import Source, read_tiles

CONNECTIONS = (1, 2, 4, 8, 16, 32)

N_OBJECTS = 4

LIMIT_BYTES = 200_000_000
"""No more is fetched."""

SMALL = 11_000
"""Bytes of a row of a coadd's largest image, the smallest thing that a run asks for."""

LARGE = 1 << 20
"""Bytes of the largest single request of rows mode."""

SMALL_SHARE = 0.1
"""Part of the bytes that goes into small requests."""

LEVEL_S = 15.0
"""Seconds after which a level sends no more requests of a size."""

HOPELESS = 5
"""So many errors without a byte end a level."""

ENOUGH = 0.9
"""The fewest connections that are worth this part of the best ones are proposed."""


def benchmark_archive(
    settings: Settings,
    tiles_csv: Path,
    connections: Sequence[int] = CONNECTIONS,
    limit: int = LIMIT_BYTES,
) -> dict[str, Any]:
    """Measure the archive of a configuration.

    Parameters
    ----------
    settings
        The validated configuration.
    tiles_csv
        The discovered tiles, from which the objects are taken; where it is not there, a few
        folders of the archive are listed.
    connections
        Numbers of connections to measure.
    limit
        Bytes that may be fetched.

    Returns
    -------
    dict
        `address`, `objects` (keys), `limit_bytes`, `bytes_fetched`, `requests`, `errors`, `levels`
        (a list with a dict for each number of connections) and `proposed` (settings of
        `transfer`). Latencies are in seconds, speeds in MB/s and requests a second.

    Raises
    ------
    ArchiveUnreachable
        Where the archive cannot be listed.
    NothingFound
        Where it holds no coadd of the configured tiles.
    """
    objects = pick_objects(settings, tiles_csv)
    weights = [number**0.5 for number in connections]  # more connections take more to be filled
    # the same places each time, so that two runs ask the same; caches of S3 are not that small
    lot = random.Random(4)  # noqa: S311  (the same objects every time)
    levels: list[dict[str, Any]] = []
    for number, weight in zip(connections, weights, strict=True):
        levels.append(measure(settings, objects, number, int(limit * weight / sum(weights)), lot))
        if levels[-1]["bytes_fetched"] == 0:  # more of the same would take minutes
            break
    return {
        "address": archive_address(settings["archive"]),
        "objects": [source["key"] for source in objects],
        "limit_bytes": limit,
        "bytes_fetched": sum(level["bytes_fetched"] for level in levels),
        "requests": sum(level["requests"] for level in levels),
        "errors": sum(level["errors"] for level in levels),
        "levels": levels,
        "proposed": propose(levels),
    }


def pick_objects(settings: Settings, tiles_csv: Path) -> list[Source]:
    """Choose a few of the largest coadds at hand: discovered ones, else those of a few folders."""
    if tiles_csv.is_file():
        tiles = read_tiles(tiles_csv)
        coadds = [sources["coadd"] for sources in tiles.values() if "coadd" in sources]
    else:
        coadds = _list_some(settings)
    if not coadds:
        raise NothingFound(
            f"{archive_address(settings['archive'])} holds no coadd of the configured tiles below "
            f"{settings['archive']['prefix']}: see the sections archive and tiles"
        )
    return sorted(coadds, key=lambda source: (-source["size"], source["key"]))[:N_OBJECTS]


def _list_some(settings: Settings) -> list[Source]:
    """List one group of pixels of each survey and program, until there are enough coadds."""
    archive, tiles = settings["archive"], settings["tiles"]
    list_folder = open_listing(archive)
    layout = find_layout(archive, list_folder)
    root = f"{archive['prefix']}/{layout.root}/"
    coadds: list[Source] = []
    for survey in tiles["surveys"]:
        for program in tiles["programs"]:
            _, groups = list_folder(f"{root}{survey}/{program}/", level=True, tries=1)
            for group in sorted(groups)[:2]:
                objects, _ = list_folder(f"{root}{survey}/{program}/{group}/")
                folders: dict[Tile, list[Source]] = {}
                for source in objects:
                    tile = parse_key(source["key"], archive["prefix"], layout)
                    if tile:
                        folders.setdefault(tile, []).append(source)
                for tile, found in folders.items():
                    sources = sort_by_kind(tile, found)
                    coadds += [sources["coadd"]] if "coadd" in sources else []
            if len(coadds) >= N_OBJECTS:
                return coadds
    return coadds


def measure(
    settings: Settings,
    objects: Sequence[Source],
    connections: int,
    budget: int,
    lot: random.Random,
) -> dict[str, Any]:
    """Measure one number of connections.

    Parameters
    ----------
    settings
        The validated configuration.
    objects
        From which ranges are drawn.
    connections
        Requests in flight.
    budget
        Bytes that may be asked for.
    lot
        Draws the places of the ranges.

    Returns
    -------
    dict
        `connections`, `latency_s` (median of a small request), `latency_95_s` (its 95th
        percentile), `requests_s`, `mb_s` (of the large ones), `requests`, `errors`, `throttled`,
        `bytes_fetched`, `problem` (the last error, or None).
    """
    transfer: TransferSettings = {
        **settings["transfer"],
        "attempts": 1,
        "connections": connections,
        "downloads": 1,
        "limit_mb_s": None,
    }
    problems: list[str] = []

    with Link(settings["archive"], transfer) as link:

        def run(size: int, share: int, most: int) -> tuple[list[float], float]:
            """Fetch ranges of a size; give the seconds of each that came, and of all."""
            begun = time.monotonic()

            def fetch(item: tuple[Source, int, int]) -> float | None:
                start = time.monotonic()
                in_vain = len(problems) >= HOPELESS and not link.received.total()
                if in_vain or start - begun > LEVEL_S:
                    return None
                try:
                    link.fetch(*item)
                except (Unreachable, SourceChanged, SourceMissing, RangeIgnored) as error:
                    problems.append(str(error) or type(error).__name__)
                    return None
                return time.monotonic() - start

            ranges = _draw_ranges(objects, size, share, most, lot)
            with ThreadPoolExecutor(connections) as pool:
                seconds = [spent for spent in pool.map(fetch, ranges) if spent is not None]
            return seconds, time.monotonic() - begun

        small = int(budget * SMALL_SHARE)
        first = min(connections * SMALL, small // 2)
        run(SMALL, first, connections)  # connects; its time does not count
        waits, small_s = run(SMALL, small - first, max(20, 8 * connections))
        before = link.received.total()
        large = budget - small
        _, large_s = run(min(max(large // (4 * connections), SMALL), LARGE), large, large)
        waits.sort()
        return {
            "connections": connections,
            "latency_s": median(waits) if waits else None,
            "latency_95_s": waits[int(0.95 * (len(waits) - 1))] if waits else None,
            "requests_s": len(waits) / small_s,
            "mb_s": (link.received.total() - before) / 1e6 / large_s,
            "requests": link.requests,
            "errors": len(problems),
            "throttled": link.throttled,
            "bytes_fetched": link.received.total(),
            "problem": problems[-1] if problems else None,
        }


def _draw_ranges(
    objects: Sequence[Source], size: int, share: int, most: int, lot: random.Random
) -> list[tuple[Source, int, int]]:
    """Draw ranges that add up to no more than `share` bytes."""
    ranges = []
    for _ in range(most):
        source = lot.choice(objects)
        length = min(size, source["size"], share)
        if length <= 0:
            break
        start = lot.randint(0, source["size"] - length)
        ranges.append((source, start, start + length))
        share -= length
    return ranges


def propose(levels: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Say which settings of `transfer` follow; None where nothing came through.

    Each number of connections is judged by the product of its MB/s and its requests a second;
    `connections` is the lowest that reaches `ENOUGH` of the best, among those at which no larger
    part of the requests failed than at the others.
    """
    good = [level for level in levels if level["latency_s"] is not None and level["mb_s"] > 0]
    if not good:
        return None
    fewest = min(level["errors"] / level["requests"] for level in good)
    calm = [level for level in good if level["errors"] / level["requests"] <= fewest + 0.01]
    worth = [level["mb_s"] * level["requests_s"] for level in calm]
    enough = next(lv for lv, value in zip(calm, worth, strict=True) if value >= ENOUGH * max(worth))
    return {"connections": enough["connections"]}


def benchmark_text(figures: Mapping[str, Any]) -> str:
    """Write the figures as a table with the settings to use below it."""
    lines = [
        f"{figures['address']}: {len(figures['objects'])} objects, "
        f"{figures['bytes_fetched'] / 1e6:.1f} MB fetched in {figures['requests']} requests "
        f"(limit {figures['limit_bytes'] / 1e6:g} MB)",
        "connections  latency s   95 % s  requests/s      MB/s  errors  throttled",
    ]
    for level in figures["levels"]:
        lines.append(
            f"{level['connections']:11d} {_seconds(level['latency_s'])} "
            f"{_seconds(level['latency_95_s'])[2:]} {level['requests_s']:11.1f} "
            f"{level['mb_s']:9.1f} {level['errors']:7d} {level['throttled']:10d}"
        )
    problems = [level["problem"] for level in figures["levels"] if level["problem"]]
    lines += [f"last error: {problems[-1]}"] if problems else []
    if figures["proposed"] is None:
        lines.append("Nothing came through, so no settings can be proposed.")
    else:
        lines += ["Settings to use:", "transfer:"]
        lines += [f"  {key}: {value:g}" for key, value in figures["proposed"].items()]
    return "\n".join(lines)


def _seconds(value: float | None) -> str:
    return f"{'-':>10}" if value is None else f"{value:10.4f}"
