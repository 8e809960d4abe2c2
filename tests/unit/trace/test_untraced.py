"""Operations that left no event: found by what follows from them, dated by what the trace shows of others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import trace_lists as tl

from memtrace.trace.causes import AGE_BUCKETS, AGE_STEPS
from memtrace.trace.census import take_census
from memtrace.trace.pairing import RequestStream
from memtrace.trace.requests import FLAG_MISSED, RQ_BULK_ALLOC, RQ_CACHE_FREE, RQ_KFREE
from memtrace.trace.untraced import median_age

PAGE = 6000


def read(rows: list[dict[str, Any]]) -> tuple[Any, list[tuple[int, ...]], int]:
    """Census, inserted requests as (ts_ns, op, addr, cpu), and the rows before these."""
    before = tl.new_slabs()
    for i, row in enumerate(before):
        row["ts_ns"] = i
    reader = tl.ListReader([*before, *rows])
    census = take_census(reader)
    got = tl.requests_of(RequestStream(reader, census), "ts_ns", "flags", "op", "addr", "cpu")
    return census, [(ts, op, addr, cpu) for ts, flags, op, addr, cpu in got if flags & FLAG_MISSED], len(before)


def lives(age_ns: int, n: int, start_ns: int, **more: Any) -> list[dict[str, Any]]:
    """Objects of ``cache`` that lived ``age_ns`` each, all of it traced."""
    rows = []
    for i in range(n):
        p, t = tl.at(PAGE - 1, 128 * (i % 8)), start_ns + 2 * age_ns * i
        rows += [tl.cache_alloc(p, ts_ns=t), tl.cache_free(p, call_site="free_site", ts_ns=t + age_ns) | more]
    return rows


def test_a_bulk_allocation_is_inserted_a_typical_life_before_its_free() -> None:
    p = tl.at(PAGE, 256)
    rows = [tl.page_alloc(PAGE, 0, tl.SLAB_GFP, ts_ns=100), *lives(1 << 10, 5, 200),
            *({"event": "marker", "text": "x", "ts_ns": t} for t in range(20_000, 60_000, 100)),
            tl.cache_free(p, call_site="free_site", ts_ns=60_000, cpu=1)]
    census, inserted, _ = read(rows)
    # The middle of the bucket that 1,024 ns fall into, and the first row not before.
    assert inserted == [(58_900, RQ_BULK_ALLOC, p - tl.BASE, 1)]
    assert census.counts.get("untraced_alloc", 0) == 1
    assert census.counts.get("free_of_untraced_alloc", 0) == census.counts.get("double_free", 0) == 0


def test_it_is_not_inserted_before_its_page_was_there_or_its_last_free() -> None:
    p = tl.at(PAGE, 256)
    rows = [*lives(1 << 30, 3, 200), tl.page_alloc(PAGE, 0, tl.SLAB_GFP, ts_ns=9 << 30),
            {"event": "marker", "text": "x", "ts_ns": (9 << 30) + 5},
            tl.cache_free(p, call_site="free_site", ts_ns=(9 << 30) + 10),
            {"event": "marker", "text": "x", "ts_ns": (9 << 30) + 20},
            tl.cache_free(p, call_site="free_site", ts_ns=(9 << 30) + 30)]
    census, inserted, _ = read(rows)
    assert [ts - (9 << 30) for ts, *_ in inserted] == [5, 20]
    assert census.counts.get("untraced_alloc", 0) == 2


def test_a_double_free_of_a_cache_that_is_never_allocated_in_bulk_stays_one() -> None:
    p = tl.at(5000)  # of the prelude
    census, inserted, _ = read([tl.cache_free(p, ts_ns=100), tl.cache_free(p, ts_ns=200), *lives(8, 3, 300)])
    assert inserted == []
    assert census.counts.get("double_free", 0) == 1


def test_without_a_traced_life_of_its_cache_nothing_is_inserted() -> None:
    census, inserted, _ = read([tl.page_alloc(PAGE, 0, tl.SLAB_GFP, ts_ns=100),
                                tl.cache_free(tl.at(PAGE), "other", ts_ns=900)])
    assert inserted == []
    assert census.counts.get("free_of_untraced_alloc", 0) == 1


def test_a_freed_page_frees_what_is_on_it() -> None:
    a, b, c = (tl.at(PAGE, 64 * i) for i in range(3))
    rows = [tl.page_alloc(PAGE, 0, tl.SLAB_GFP, ts_ns=100), tl.kmalloc(a, ts_ns=110), tl.kmalloc(b, ts_ns=120),
            tl.kmalloc(c, ts_ns=130), tl.kfree(b, ts_ns=140), tl.page_free(PAGE, 0, ts_ns=150, cpu=1),
            tl.page_alloc(PAGE, 0, tl.SLAB_GFP, ts_ns=160), tl.kmalloc(a, ts_ns=170), tl.kfree(a, ts_ns=180)]
    census, inserted, _ = read(rows)
    assert inserted == [(150, RQ_KFREE, c - tl.BASE, 1), (150, RQ_KFREE, a - tl.BASE, 1)]
    assert census.counts.get("untraced_free_by_page", 0) == 2
    assert census.counts.get("alloc_of_live_pointer", 0) == 0


@pytest.mark.parametrize(("freed", "expected"), [(0, 3), (2, 0)])
def test_a_site_whose_objects_end_silently_ends_the_rest_so(freed: int, expected: int) -> None:
    """Eight objects end with their page; three others stay, and are taken to have ended after a typical life."""
    rows = [tl.page_alloc(PAGE, 0, tl.SLAB_GFP, ts_ns=100)]
    rows += [tl.cache_alloc(tl.at(PAGE, 128 * i), "silent", ts_ns=200) for i in range(8)]
    rows += [tl.page_free(PAGE, 0, ts_ns=1224), tl.page_alloc(PAGE + 1, 0, tl.SLAB_GFP, ts_ns=2000)]
    rows += [tl.cache_alloc(tl.at(PAGE + 1, 128 * i), "silent", ts_ns=2000) for i in range(3 + freed)]
    rows += [tl.cache_free(tl.at(PAGE + 1, 128 * (3 + i)), ts_ns=2100) for i in range(freed)]
    rows += [{"event": "marker", "text": "x", "ts_ns": t} for t in (3000, 3200, 4000)]
    census, inserted, _ = read(rows)
    late = [(ts, op) for ts, op, *_ in inserted if ts > 2000]
    assert late == [(3200, RQ_CACHE_FREE)] * expected
    assert census.counts.get("untraced_free_by_site", 0) == expected


@pytest.mark.parametrize("age", [0, 1, 3, 5, 100, 12_345, 10**9])
def test_a_median_is_within_an_eighth(age: int) -> None:
    counts = np.zeros(AGE_BUCKETS, int)
    octave = max(0, age.bit_length() - 1)
    counts[octave * AGE_STEPS + ((age >> (octave - 2)) & 3 if octave >= 2 else 0)] = 3
    assert median_age(counts) == pytest.approx(age, rel=0.125, abs=1)
    assert np.isnan(median_age(np.zeros(AGE_BUCKETS, int)))
