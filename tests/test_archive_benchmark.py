"""What a user learns of his link must be measured, within the bytes that he allowed."""

from pathlib import Path
from typing import Any

import pytest
from fault_server import Service, serve

from desi_fits_to_parquet.archive.benchmark import benchmark_archive, benchmark_text, propose
from desi_fits_to_parquet.archive.errors import ArchiveUnreachable, NothingFound

KEY = "dr1/spectro/redux/iron/healpix/main/dark/100/{0}/coadd-main-dark-{0}.fits"


def measured(service: Service, settings: dict[str, Any], limit_mb: int) -> dict[str, Any]:
    settings["archive"]["endpoint"] = service.endpoint
    return benchmark_archive(settings, Path("no/tiles.csv"), limit=limit_mb * 10**6)


@pytest.fixture
def objects() -> dict[str, bytes]:
    return {KEY.format(pixel): bytes(3_000_000 + pixel) for pixel in range(10000, 10006)}


def test_no_more_bytes_are_asked_for_than_allowed_and_every_level_is_measured(
    objects: dict[str, bytes], settings: dict[str, Any]
):
    with serve(objects) as service:
        figures = measured(service, settings, 8)
        asked = sum(a.stop - a.start for a in service.asked if a.key)
    assert asked == figures["bytes_fetched"] <= 8e6
    assert asked > 6e6
    assert [level["connections"] for level in figures["levels"]] == [1, 2, 4, 8, 16, 32]
    assert figures["errors"] == 0
    assert set(figures["proposed"]) <= set(settings["transfer"])
    text = benchmark_text(figures)
    assert text.endswith(f"connections: {figures['proposed']['connections']}")
    assert service.endpoint in text


def test_failed_requests_are_counted_not_repeated(
    objects: dict[str, bytes], settings: dict[str, Any]
):
    with serve(objects) as service:
        service.choose = lambda asked: "slow_down" if asked.key and asked.start % 5 == 0 else None
        figures = measured(service, settings, 8)
        asked = [a for a in service.asked if a.key]
        assert len(asked) == figures["requests"]
        assert figures["errors"] == sum(a.start % 5 == 0 for a in asked) > 0
    assert sum(level["throttled"] for level in figures["levels"]) == figures["errors"]


def test_archive_that_gives_nothing_ends_soon_and_without_proposal(
    objects: dict[str, bytes], settings: dict[str, Any]
):
    with serve(objects) as service:
        service.choose = lambda asked: "forbidden" if asked.key else None
        figures = measured(service, settings, 8)
    assert figures["proposed"] is None
    assert figures["requests"] < 20
    assert "Nothing came through" in benchmark_text(figures)


def test_archive_without_coadds_or_without_answer_is_named(settings: dict[str, Any]):
    with (
        serve({"dr1/spectro/redux/iron/healpix/main/dark/1/x": b"x"}) as service,
        pytest.raises(NothingFound, match="no coadd"),
    ):
        measured(service, settings, 8)
    with pytest.raises(ArchiveUnreachable, match=service.endpoint):
        measured(service, settings, 8)


def test_fewest_connections_that_are_nearly_the_best_are_proposed():
    def level(connections: int, mb_s: float, requests_s: float, errors: int = 0) -> dict[str, Any]:
        return {"connections": connections, "latency_s": 0.1, "mb_s": mb_s, "errors": errors,
                "requests_s": requests_s, "requests": 100}  # fmt: skip

    levels = [level(1, 5, 10), level(8, 30, 80), level(16, 34, 150), level(32, 34, 155)]
    assert propose(levels) == {"connections": 16}
    levels[2:] = [level(16, 34, 150, errors=20), level(32, 34, 155, errors=40)]
    assert propose(levels) == {"connections": 8}
