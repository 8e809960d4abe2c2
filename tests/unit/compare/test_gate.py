"""Conditions of --fail-if."""

from __future__ import annotations

import math

import pytest

from memtrace.compare.gate import parse_gate
from memtrace.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "a", "b", "broken"),
    [
        ("waste_pct>+2%", 10.0, 10.19, False),
        ("waste_pct>+2%", 10.0, 10.21, True),  # 2 % of A, not two points
        ("waste_pct>+2", 10.0, 11.9, False),
        ("waste_pct>+2", 10.0, 12.1, True),
        ("waste_pct>12%", 20.0, 11.0, False),
        ("hit_pct<-1%", 50.0, 49.6, False),
        ("hit_pct<-1%", 50.0, 49.4, True),
        ("hit_pct<95", 99.0, 94.0, True),
        ("peak_slab_bytes>+1M", 0.0, float(1 << 20), False),
        ("peak_slab_bytes > +1M", 0.0, float((1 << 20) + 1), True),
        ("alloc_p99_ns>1us", 5.0, 1001.0, True),
        ("failures>+0%", 0.0, 1.0, True),
        ("failures>+0%", 0.0, 0.0, False),
        ("wait_ns<-50%", 0.0, 0.0, False),
        ("hit_pct<95", 99.0, math.nan, True),
        ("waste_pct>+2%", math.nan, 1.0, True),
    ],
)
def test_conditions(text: str, a: float, b: float, broken: bool) -> None:
    assert parse_gate(text).broken(a, b) is broken


@pytest.mark.parametrize("text", ["", "waste_pct", "waste>+2%", "waste_pct>+2M", "failures>2%", "hit_pct<1.2.3", "a=b"])
def test_what_is_no_condition_is_said(text: str) -> None:
    with pytest.raises(ConfigError, match=r'^--fail-if "'):
        parse_gate(text)
