"""The two indexes, against the kernel's formulas one zone at a time (MODEL 4.1)."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from memtrace.metrics.fragmentation import indexes


def one_zone(nr_free: list[int], order: int) -> tuple[int, int]:
    """The formulas as they stand in MODEL 4.1, with plain integers."""
    pages = sum(n << o for o, n in enumerate(nr_free))
    blocks = sum(nr_free)
    suitable = sum(n << (o - order) for o, n in enumerate(nr_free) if o >= order)
    unusable = 1000 if pages == 0 else int((pages - (suitable << order)) * 1000 / pages)
    if blocks == 0:
        return unusable, 0
    if suitable > 0:
        return unusable, -1000
    return unusable, 1000 - (1000 + 1000 * pages // 2**order) // blocks


@given(st.lists(st.lists(st.one_of(st.just(0), st.integers(0, 3), st.integers(0, 10**6)), min_size=11, max_size=11),
                min_size=1, max_size=5))
def test_equals_the_formulas(zones: list[list[int]]) -> None:
    unusable, fragmentation = indexes(np.array(zones, np.int64))
    for i, zone in enumerate(zones):
        assert [(unusable[i, o], fragmentation[i, o]) for o in range(11)] == [one_zone(zone, o) for o in range(11)]


def test_a_zone_by_hand() -> None:
    """Ten free pages and no larger block: nothing of order 1 to be had, and fragmentation is why."""
    unusable, fragmentation = indexes(np.array([10] + [0] * 10, np.int64))
    assert unusable.tolist() == [0] + [1000] * 10
    # order 1: 1000 - (1000 + 1000*10//2)//10 = 400; order 10: 1000 - (1000 + 9)//10 = 900
    assert fragmentation[[0, 1, 10]].tolist() == [-1000, 400, 900]
