"""Requests to the archive: each fault on a real socket, retries, limits, adaptation."""

import hashlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_server import Service, etag, serve

from desi_fits_to_parquet.archive import link as archive_module
from desi_fits_to_parquet.archive import store
from desi_fits_to_parquet.archive.errors import (
    RangeIgnored,
    Redirected,
    SourceChanged,
    SourceContradicted,
    SourceMissing,
    Unreachable,
)
from desi_fits_to_parquet.archive.keys import archive_address, sort_by_kind
from desi_fits_to_parquet.archive.link import ALL_CONNECTIONS, Link
from desi_fits_to_parquet.archive.pace import TokenBucket, Window
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.tiles_csv import Source

KEY = "dr1/spectro/redux/iron/healpix/main/dark/100/10000/coadd-main-dark-10000.fits"
DATA = np.random.default_rng(4).bytes(9_000_000)
SOURCE = Source(key=KEY, size=len(DATA), etag=etag(DATA))

PASSING = ("slow_down", "too_many", "error", "forbidden", "reset", "close", "stall", "silent",
           "long", "endless", "html", "shifted", "no_etag")  # fmt: skip
"""Faults that are over when the request is sent again."""


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def service() -> Iterator[Service]:
    with serve({KEY: DATA}) as running:
        yield running


def link_to(service: Service, settings: dict[str, Any], **transfer: Any) -> Link:
    transfer = settings["transfer"] | {"attempts": 3, "timeout_s": 0.5} | transfer
    return Link(settings["archive"] | {"endpoint": service.endpoint}, transfer)


def test_a_range_is_exactly_the_bytes_asked_for(service: Service, settings: dict[str, Any]) -> None:
    with link_to(service, settings) as link:
        assert link.fetch(SOURCE, 100, 200) == DATA[100:200]
        assert link.fetch(SOURCE, len(DATA) - 1, len(DATA)) == DATA[-1:]
        assert link.fetch(SOURCE, 5, 5) == b""
        assert (link.requests, link.retries, link.received[KEY]) == (2, 0, 101)


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_costs_a_retry_and_nothing_else(
    service: Service, settings: dict[str, Any], fault: str
) -> None:
    service.choose = lambda asked: fault if asked.number == 0 else None
    with link_to(service, settings) as link:
        assert link.fetch(SOURCE, 1000, 31000) == DATA[1000:31000]
        assert link.retries == 1
        assert link.throttled == (fault in ("slow_down", "too_many"))


@pytest.mark.parametrize("fault", [f for f in PASSING if f != "html"])
def test_a_fault_that_stays_ends_as_unreachable_with_address_and_reason(
    service: Service, settings: dict[str, Any], fault: str
) -> None:
    service.choose = lambda asked: fault
    with link_to(service, settings) as link:
        with pytest.raises(Unreachable) as caught:
            link.fetch(SOURCE, 1000, 31000)
        message = str(caught.value)
        assert KEY in message
        assert service.endpoint in message
        assert "3 tries failed" in message
        assert "\n" not in message
        assert link.requests == 3


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("changed", SourceChanged),
        ("no_range", SourceContradicted),
        ("other_total", SourceContradicted),
        ("moved", Redirected),
        ("other_version", SourceChanged),
        ("gone", SourceMissing),
        ("whole", RangeIgnored),
        ("html", RangeIgnored),
    ],
)
def test_a_fault_that_a_retry_cannot_mend_is_told_apart(
    service: Service, settings: dict[str, Any], fault: str, error: type[Exception]
) -> None:
    service.choose = lambda asked: fault
    with link_to(service, settings) as link, pytest.raises(error):
        link.fetch(SOURCE, 1000, 31000)


def test_a_range_behind_the_end_of_a_shorter_object_contradicts_the_listing(
    service: Service, settings: dict[str, Any]
) -> None:
    grown = Source(key=KEY, size=len(DATA) + 1000, etag=etag(DATA))
    with link_to(service, settings) as link, pytest.raises(SourceContradicted, match="416"):
        link.fetch(grown, len(DATA) + 10, len(DATA) + 20)


def test_a_small_request_has_less_time_than_a_large_one(
    service: Service, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SLOWEST_BYTES_PER_S", 1e6)
    service.choose = lambda asked: "drip"
    waited = []
    for amount in (10_000, 1_000_000):
        begun = time.monotonic()
        with link_to(service, settings, attempts=1) as link:
            with pytest.raises(Unreachable, match="no answer in time"):
                link.fetch(SOURCE, 0, amount)
            waited.append(time.monotonic() - begun)
    assert waited[1] - waited[0] > 0.5, "the limits are 0.57 s and 1.55 s"


def test_a_body_without_end_is_given_up_at_once_and_takes_no_memory(
    service: Service, settings: dict[str, Any]
) -> None:
    service.choose = lambda asked: "endless"
    with link_to(service, settings, attempts=2, timeout_s=60) as link:
        with pytest.raises(Unreachable, match="more bytes came than the 30000 that were asked for"):
            link.fetch(SOURCE, 1000, 31000)
        assert link.received[KEY] < 8 << 20


def test_an_error_whose_body_does_not_end_is_given_up_in_time(
    service: Service, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SLOWEST_BYTES_PER_S", 1e6)
    service.choose = lambda asked: "endless_error"
    with link_to(service, settings, attempts=1) as link:
        begun = time.monotonic()
        with pytest.raises(Unreachable, match="no answer in time"):
            link.fetch(SOURCE, 1000, 1100)
        assert time.monotonic() - begun < 5, "the limit is 0.57 s"


ONE_FETCH = """
import json, sys
from desi_fits_to_parquet.archive.link import Link
archive, transfer, source = json.load(sys.stdin)
with Link(archive, transfer) as link:
    link.fetch(source, 1000, 1100)
"""


def test_an_error_that_announces_more_than_any_memory_ends_the_process_of_the_job(
    service: Service, settings: dict[str, Any]
) -> None:
    """A fault of obstore: where it is mended, docs/faults.md must say so."""
    service.choose = lambda asked: "huge_error"
    archive = settings["archive"] | {"endpoint": service.endpoint}
    given = json.dumps([archive, settings["transfer"] | {"attempts": 1, "timeout_s": 1}, SOURCE])
    done = subprocess.run(
        [sys.executable, "-c", ONE_FETCH], input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGABRT, done.stderr
    assert "memory allocation of" in done.stderr


def test_bytes_after_a_body_do_not_spoil_the_next_answer(
    service: Service, settings: dict[str, Any]
) -> None:
    service.choose = lambda asked: "trailing" if asked.number == 0 else None
    with link_to(service, settings, connections=1, attempts=5) as link:
        for start in range(0, 50_000, 10_000):
            assert link.fetch(SOURCE, start, start + 10_000) == DATA[start : start + 10_000]


@pytest.mark.parametrize("fault", [None, "reset", "stall", "slow_down", "html"])
def test_a_whole_object_is_saved_in_order_with_its_checksum(
    service: Service, settings: dict[str, Any], tmp_path: Path, fault: str | None
) -> None:
    service.choose = lambda asked: fault if asked.number == 0 else None
    with link_to(service, settings) as link:
        digest = link.save(SOURCE, tmp_path / "file")
    assert digest == hashlib.sha256(DATA).hexdigest()
    assert (tmp_path / "file").read_bytes() == DATA


@pytest.mark.parametrize("fault", [None, "reset", "html", "other_version", "long"])
def test_an_object_without_ranges_comes_in_one_request_and_a_foreign_page_is_no_data(
    service: Service, settings: dict[str, Any], tmp_path: Path, fault: str | None
) -> None:
    service.choose = lambda asked: fault if asked.number == 0 else None
    with link_to(service, settings) as link:
        link.ranges_ignored = True
        digest = link.save(SOURCE, tmp_path / "file", "md5")
    assert digest == etag(DATA)
    assert (tmp_path / "file").read_bytes() == DATA


def test_a_refused_connection_and_an_unknown_host_are_named(settings: dict[str, Any]) -> None:
    for endpoint, words in (
        ("http://127.0.0.1:9", "connection refused"),
        ("http://no-such-host.invalid", "resolved"),
    ):
        with (
            Link(
                settings["archive"] | {"endpoint": endpoint},
                settings["transfer"] | {"attempts": 2},
            ) as link,
            pytest.raises(Unreachable, match=words),
        ):
            link.fetch(SOURCE, 0, 10)


def test_the_first_error_of_many_requests_ends_them(
    service: Service, settings: dict[str, Any]
) -> None:
    service.choose = lambda asked: "gone" if asked.start == 300_000 else None
    used: list[int] = []
    with link_to(service, settings, connections=2) as link:
        with pytest.raises(SourceMissing):
            spans = [(start, start + 100) for start in range(0, 8_000_000, 10_000)]
            link.fetch_each(SOURCE, spans, lambda i, data: used.append(i))
        count = len(used)
        assert count < 700
    assert len(used) == count, "a piece was used after the error was raised"


def test_no_more_requests_are_in_flight_than_configured(
    service: Service, settings: dict[str, Any]
) -> None:
    flying, most = 0, 0
    lock = threading.Lock()

    with link_to(service, settings, connections=8, downloads=64) as link:

        def work() -> None:
            nonlocal flying, most
            with link.window.request():
                with lock:
                    flying += 1
                    most = max(most, flying)
                time.sleep(0.002)
                with lock:
                    flying -= 1

        threads = [threading.Thread(target=work) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == ALL_CONNECTIONS // 64 < 8, "what all tiles may have is shared out"


def test_overload_halves_the_window_once_for_a_burst_and_successes_bring_it_back() -> None:
    window = Window(16)
    before = time.monotonic()
    for _ in range(16):  # a burst: all of these were on their way together
        window.overloaded(before)
    assert window.size == 8
    window.overloaded(time.monotonic())
    assert window.size == 4
    for _ in range(4):
        window.succeeded()
    assert 4.8 < window.size < 5.1, "one more for each window of successes"
    for _ in range(1000):
        window.succeeded()
    assert window.size == 16
    for _ in range(10):
        window.overloaded(time.monotonic())
    assert window.size == 1


def test_a_throttling_service_lowers_the_concurrency_of_the_process(
    service: Service, settings: dict[str, Any]
) -> None:
    service.choose = lambda asked: "slow_down" if asked.number == 0 else None
    with link_to(service, settings, connections=16, attempts=8) as link:
        spans = [(start, start + 1000) for start in range(0, 40_000, 1000)]
        link.fetch_each(SOURCE, spans, lambda i, data: None)
        assert link.throttled > 0
        assert link.window.size < 16


def test_the_token_bucket_holds_the_speed() -> None:
    bucket = TokenBucket(1e6)
    begun = time.monotonic()
    for _ in range(4):
        bucket.take(50_000)
    assert time.monotonic() - begun >= 0.15, "the first is free, three wait 0.05 s each"


def test_files_of_other_tiles_and_other_names_are_not_taken_for_a_tiles_own() -> None:
    names = ["coadd-main-dark-1.fits", "redux_iron_healpix_main_dark_0_1.sha256sum",
             "redrock-main-dark-10.fits", "redux_iron_healpix_main_dark_0_10.sha256sum",
             "coadd-main-dark-1.fits.tmp", "rrdetails-main-dark-1.h5"]  # fmt: skip
    folder = "iron/healpix/main/dark/0/1/"
    found = sort_by_kind(
        Tile("main", "dark", 1), [Source(key=f"{folder}{name}", size=1, etag="e") for name in names]
    )
    assert {kind: source["key"] for kind, source in found.items()} == {
        "coadd": f"{folder}coadd-main-dark-1.fits",
        "sha256sum": f"{folder}redux_iron_healpix_main_dark_0_1.sha256sum",
        "rrdetails": f"{folder}rrdetails-main-dark-1.h5",
    }


def test_the_address_is_the_one_that_is_asked(settings: dict[str, Any]) -> None:
    assert archive_address(settings["archive"]) == "https://desidata.s3.us-west-2.amazonaws.com"
    local = settings["archive"] | {"endpoint": "http://127.0.0.1:9000/"}
    assert archive_address(local) == "http://127.0.0.1:9000/desidata"
