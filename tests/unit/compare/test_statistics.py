"""Intervals and tests: against known values, and against what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace.compare.statistics import Sample, holm, p_value


def test_student_interval_of_a_textbook_sample() -> None:
    # mean 5, s = 1, n = 3: t(0.975, 2) = 4.302653
    low, high = Sample((4.0, 5.0, 6.0), random=True).interval() or (0.0, 0.0)
    assert (low, high) == pytest.approx((5 - 4.302653 / 3**0.5, 5 + 4.302653 / 3**0.5), abs=1e-5)


def test_nothing_random_has_no_interval_and_an_exact_difference() -> None:
    one, other = Sample((1.0,), False), Sample((2.0,), False)
    assert one.interval() is None and p_value(one, other) == 0.0
    assert Sample((1.0,), True).interval() is None
    assert p_value(Sample((1.0,), True), other) is None  # one replication proves nothing


def test_differences_between_recordings_are_tested_in_pairs() -> None:
    # Two very different recordings, each 1 % better: unpaired this drowns, paired it is plain.
    a = (100.0, 1000.0, 10000.0, 31.0)
    b = tuple(1.01 * value + 0.001 * i for i, value in enumerate(a))
    unpaired = p_value(Sample(a, True), Sample(b, True))
    paired = p_value(Sample(tuple(np.log(a)), True, True), Sample(tuple(np.log(b)), True, True))
    assert unpaired is not None and paired is not None and unpaired > 0.9 and paired < 1e-4


def test_false_alarms_are_as_rare_as_promised() -> None:
    rng = np.random.default_rng(7)
    alarms = 0
    for _ in range(400):
        a, b = (Sample(tuple(rng.normal(10, 3, 5)), True) for _ in range(2))
        alarms += (p_value(a, b) or 0.0) < 0.05
    assert alarms <= 34  # 20 expected; more than 34 has a chance below 1 in 500


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=12))
def test_holm_never_lowers_and_keeps_the_order(p_values: list[float | None]) -> None:
    out = holm(p_values)
    known = [(p, q) for p, q in zip(p_values, out, strict=True) if p is not None and q is not None]
    assert [p is None for p in p_values] == [q is None for q in out]
    assert all(p <= q <= 1 for p, q in known)
    assert all(q <= s for p, q in known for r, s in known if p < r)
    if known:
        assert min(q for _, q in known) == pytest.approx(min(1.0, min(p for p, _ in known) * len(known)))
