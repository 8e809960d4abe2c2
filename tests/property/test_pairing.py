"""Pairing equals its slow twin on random streams, sensible and not; chunking and start row change nothing."""

from __future__ import annotations

import random
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace.trace.census import take_census
from memtrace.trace.pairing import RequestStream
from memtrace.trace.requests import FLAG_MISSED, RQ_CACHE_FREE, RQ_KFREE

SLOW = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("slow_pairing.py"))))
BASE = 0xFFFF888000000000
SLAB_GFP = "GFP_KERNEL|__GFP_NOWARN|__GFP_NORETRY"
CONTEXTS = (".....", "..s..", "d.h..")


def prelude(n_pages: int = 12) -> list[dict[str, Any]]:
    """New slabs and their first objects: what shows where the direct map lies."""
    rows: list[dict[str, Any]] = []
    for pfn in range(4096, 4096 + n_pages):
        rows.append({"event": "mm_page_alloc", "pfn": pfn, "order": 0, "gfp_flags": SLAB_GFP})
        rows.append({"event": "kmem_cache_alloc", "ptr": BASE + (pfn << 12), "call_site": "first",
                     "bytes_req": 512, "bytes_alloc": 512})
    return rows


def random_row(rng: random.Random) -> dict[str, Any]:
    """One row over a universe so small that everything that can happen to an address does."""
    event = rng.choice(
        ["kmem_cache_alloc"] * 4 + ["kmem_cache_free"] * 4 + ["kmalloc"] * 3 + ["kfree"] * 3 + ["gt_bulk_obj"] * 4
        + ["mm_page_alloc"] * 4 + ["mm_page_free"] * 3 + ["mm_page_free_batched"] * 3
        + ["gt_page", "marker", "mm_page_alloc_zone_locked", "rcu_invoke_kfree_bulk_callback", "sched_switch"]
    )
    row: dict[str, Any] = {"event": event, "cpu": rng.randrange(2), "ctx": rng.choice(CONTEXTS)}
    frame = rng.randrange(16, 32)
    cache = f"cache{frame % 3}"
    ptr = rng.choice([BASE + (frame << 12) + 2048 * rng.randrange(2)] * 12 + [0, 16])
    if event in ("kmem_cache_alloc", "kmem_cache_free", "gt_bulk_obj", "kmalloc", "kfree"):
        row |= {"ptr": ptr, "call_site": f"site_{cache}"}
    if event == "kmem_cache_alloc":
        row |= {"bytes_req": 100, "bytes_alloc": 128}
    elif event == "kmem_cache_free":
        row |= {"name": cache}
    elif event == "gt_bulk_obj":
        row |= {"name": cache, "text": rng.choice(["alloc", "free"])}
    elif event == "kmalloc":
        size = rng.choice([60, 16000])
        row |= {"bytes_req": size, "bytes_alloc": 64 if size == 60 else 16384}
    elif event.startswith("mm_page") or event == "gt_page":
        order = rng.choice([0, 0, 0, 1, 2]) if event != "mm_page_free_batched" else 0
        pfn = rng.randrange(16, 64) >> order << order
        row |= {"pfn": rng.choice([pfn] * 15 + [0]), "order": order}
        if event == "gt_page":
            row |= {"text": rng.choice(["op=bulk_alloc pfn=0x10", "op=isolate_free pfn=0x10"])}
    elif event == "marker":
        row |= {"text": "SNAP_BEGIN x"}
    return row


def check(rows: list[dict[str, Any]], rows_per_chunk: int) -> None:
    reader = SLOW.ListReader(rows)
    census = take_census(reader)
    assert census.direct_map_base == BASE
    stream = RequestStream(reader, census, rows_per_chunk=rows_per_chunk)
    expected, found = SLOW.slow_requests(SLOW.rows_of(reader), BASE, census.plan)
    # What a missed free of a start object looks like depends on its cache, which is not the twin's business.
    plain = [
        (row, RQ_KFREE if flags & FLAG_MISSED and op == RQ_CACHE_FREE else op, flags, *rest)
        for row, op, flags, *rest in SLOW.fast_requests(stream)
    ]
    twin = [
        (row, RQ_KFREE if flags & FLAG_MISSED and op == RQ_CACHE_FREE else op, flags, *rest)
        for row, op, flags, *rest in expected
    ]
    assert plain == twin
    assert census.start_addr.tolist() == [ptr - BASE for ptr in found.start_ptr]
    assert list(zip(census.start_pfn.tolist(), census.start_order.tolist(), strict=True)) == found.start_pages
    SLOW.check_handles(stream, census)


@given(seed=st.integers(0, 2**32), n=st.integers(0, 200), rows_per_chunk=st.sampled_from([1, 7, 64, 1000]))
def test_requests_equal_the_slow_twin(seed: int, n: int, rows_per_chunk: int) -> None:
    rng = random.Random(seed)
    check([*prelude(), *(random_row(rng) for _ in range(n))], rows_per_chunk)


@pytest.mark.parametrize("seed", range(3))
def test_rows_before_the_start_row_are_as_if_they_were_not_there(seed: int) -> None:
    rng = random.Random(seed)
    before = [random_row(rng) for _ in range(100)]
    after = [*prelude(), *(random_row(rng) for _ in range(300))]
    late = SLOW.ListReader([*before, *after])
    alone = SLOW.ListReader(after)
    late_census = take_census(late, start_row=100)
    census = take_census(alone)
    shifted = [(row - 100, *rest) for row, *rest in SLOW.fast_requests(RequestStream(late, late_census, start_row=100))]
    # Markers carry vocabulary codes, which depend on the rows before.
    assert [r for r in shifted if r[1] != 10] == [
        r for r in SLOW.fast_requests(RequestStream(alone, census)) if r[1] != 10]
    assert late_census.counts == census.counts
