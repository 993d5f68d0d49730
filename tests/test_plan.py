"""The plan of requests: what is merged, and that a plan covers exactly what is wanted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from desi_fits_to_parquet.archive.plan import MAX_REQUEST_BYTES, Cost, plan_requests, split_ranges

ROW = 11_004


def rows_as_ranges(rows: list[int]) -> tuple[np.ndarray, np.ndarray]:
    starts = np.array(rows, np.int64) * ROW
    return starts, starts + ROW


def test_a_far_slow_link_with_few_connections_bridges_gaps_and_a_near_one_does_not() -> None:
    far = Cost(latency_s=0.05, bytes_per_s=34e6, connections=1)
    shared = Cost(latency_s=0.05, bytes_per_s=34e6 / 8, connections=32)
    near = Cost(latency_s=0.0002, bytes_per_s=34e6 / 8, connections=32)
    assert far.gap > 100 * ROW, "1.7 MB pass in the time of a round trip"
    assert shared.gap < ROW, "the round trip is shared by 32 requests, the link by 8 tiles"
    assert near.gap < shared.gap


def test_neighbours_are_one_request_and_a_gap_is_read_only_where_it_is_cheaper() -> None:
    starts, stops = rows_as_ranges([3, 4, 6, 20])
    assert [r[:2] for r in plan_requests(starts, stops, 0)] == [
        (3 * ROW, 5 * ROW),
        (6 * ROW, 7 * ROW),
        (20 * ROW, 21 * ROW),
    ]
    assert [r[2:] for r in plan_requests(starts, stops, ROW)] == [(0, 3), (3, 4)]
    assert len(plan_requests(starts, stops, 100 * ROW)) == 1
    assert plan_requests(starts[:0], stops[:0], 5) == []


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3_000_000), st.integers(1, 3_000_000)), max_size=20),
    st.integers(0, 2_000_000),
)
def test_every_range_is_covered_once_and_no_request_is_too_long(
    lengths: list[tuple[int, int]], gap: int
) -> None:
    starts, stops, position = [], [], 0
    for before, length in lengths:
        starts.append(position + before)
        stops.append(starts[-1] + length)
        position = stops[-1]
    first, last = np.array(starts, np.int64), np.array(stops, np.int64)
    cut_starts, cut_stops, of = split_ranges(first, last)
    assert (cut_stops - cut_starts).sum() == (last - first).sum()
    assert all(cut_stops - cut_starts <= MAX_REQUEST_BYTES)
    assert all((cut_starts >= first[of]) & (cut_stops <= last[of]))
    requests = plan_requests(cut_starts, cut_stops, gap)
    covered = [i for request in requests for i in range(request.first, request.last)]
    assert covered == list(range(len(cut_starts)))
    for request in requests:
        assert request.stop - request.start <= MAX_REQUEST_BYTES
        assert request.start == cut_starts[request.first]
        assert request.stop == cut_stops[request.last - 1]


@pytest.mark.parametrize(("requests", "trips"), [(1, 1), (32, 1), (33, 2)])
def test_time_counts_round_trips_of_full_connections(requests: int, trips: int) -> None:
    cost = Cost(latency_s=1.0, bytes_per_s=1e9, connections=32)
    assert cost.seconds(requests, 0) == pytest.approx(trips, abs=0.01)
