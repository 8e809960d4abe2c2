"""Histograms of operation times, against plain lists."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from memtrace.schedule.latency import LatencyTable, bucket_bounds

KEYS = st.tuples(st.integers(0, 21), st.integers(0, 2), st.integers(-1, 70))
TIMES = st.one_of(st.integers(0, 40), st.integers(0, 10**6), st.integers(0, 10**12))


@given(st.lists(st.tuples(KEYS, TIMES), max_size=60))
def test_equals_plain_lists(operations: list[tuple[tuple[int, int, int], int]]) -> None:
    table = LatencyTable(3)
    plain: dict[tuple[int, int, int], list[int]] = {}
    for (path, cpu, cache), ns in operations:
        table.record(path, cpu, cache, ns)
        plain.setdefault((path, cpu, cache), []).append(ns)
    columns = table.columns()
    keys = list(zip(*(columns[name].tolist() for name in ("path", "cpu", "cache")), strict=True))
    assert keys == sorted(plain)
    for i, key in enumerate(keys):
        times = sorted(plain[key])
        assert columns["count"][i] == len(times)
        assert columns["sum_ns"][i] == sum(times)
        assert columns["min_ns"][i] == times[0]
        assert columns["max_ns"][i] == times[-1]
        assert columns["bucket_count"][i].sum() == len(times)
        for name, rank in (("p50_ns", 500), ("p90_ns", 900), ("p99_ns", 990), ("p999_ns", 999)):
            exact = times[-(-len(times) * rank // 1000) - 1]
            assert abs(columns[name][i] - exact) <= exact / 16
            if exact < 16:
                assert columns[name][i] == exact


def test_bounds() -> None:
    """Sixteen exact buckets, then eight to an octave; every time lies in the bucket that holds it."""
    bounds = bucket_bounds()
    assert bounds[:18].tolist() == [*range(17), 18]
    assert (np.diff(bounds) > 0).all()
    assert (np.diff(bounds)[16:] * 8 <= bounds[16:-1]).all()
    table = LatencyTable(1)
    for cache, ns in enumerate((15, 16, 17, 18, 255, 256, 4095, 4096, 10**9)):
        table.record(0, 0, cache, ns)
    for bucket, ns in zip(table.columns()["bucket_ns"], (15, 16, 17, 18, 255, 256, 4095, 4096, 10**9), strict=True):
        (low,) = bucket.tolist()
        high = bounds[np.searchsorted(bounds, low) + 1]
        assert low <= ns < high


def test_longer_than_the_last_bucket() -> None:
    table = LatencyTable(1)
    table.record(0, 0, -1, 2**60)
    columns = table.columns()
    assert columns["max_ns"].tolist() == columns["p50_ns"].tolist() == [2**60]


def test_empty() -> None:
    assert all(len(column) == 0 for column in LatencyTable(2).columns().values())
