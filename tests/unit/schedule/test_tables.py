"""Locks and call sites: sums against plain dictionaries, also when the tables grow."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from memtrace.schedule.callsites import CallSiteTable
from memtrace.schedule.locks import LockTable


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(1, 30)), max_size=80))
def test_locks_are_fifo(asked: list[tuple[int, int, int]]) -> None:
    """Asked in order of time, a lock is granted at max(asked, end of the holder before)."""
    table = LockTable(2)  # the others appear when they are taken
    free: dict[int, int] = {}
    waits: dict[int, list[int]] = {}
    now = 0
    for lock, later, hold in asked:
        now += later
        granted = table.take(lock, now, hold)
        assert granted == max(now, free.get(lock, 0))
        free[lock] = granted + hold
        waits.setdefault(lock, []).append(granted - now)
    columns = {name: column.tolist() for name, column in table.columns().items()}
    assert columns["lock"] == sorted(waits)
    assert columns["acquisitions"] == [len(waits[lock]) for lock in sorted(waits)]
    assert columns["contended"] == [sum(wait > 0 for wait in waits[lock]) for lock in sorted(waits)]
    assert columns["wait_ns"] == [sum(waits[lock]) for lock in sorted(waits)]
    assert columns["max_wait_ns"] == [max(waits[lock]) for lock in sorted(waits)]
    assert columns["hold_ns"] == [sum(hold for which, _, hold in asked if which == lock) for lock in sorted(waits)]


def test_call_sites_keep_their_numbers() -> None:
    """Thousands of pairs: the table grows and its hash finds every one again."""
    rng = np.random.default_rng(5)
    pairs = list(dict.fromkeys(zip(rng.integers(-1, 3000, 8000).tolist(), rng.integers(-1, 200, 8000).tolist(),
                                   strict=True)))
    table = CallSiteTable()
    assert [table.find(*pair) for pair in pairs] == list(range(len(pairs)))
    assert [table.find(*pair) for pair in pairs] == list(range(len(pairs)))
    for number in range(0, len(pairs), 7):
        table.waited(number, number)
    columns = table.columns()
    assert list(zip(columns["call_site"].tolist(), columns["cache"].tolist(), strict=True)) == pairs
    assert columns["wait_ns"].tolist() == [i if i % 7 == 0 else 0 for i in range(len(pairs))]
