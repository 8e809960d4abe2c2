"""What the first reading finds, case by case, and what the second makes of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import trace_lists as tl

from memtrace.errors import ModelError, TraceError
from memtrace.trace.census import take_census
from memtrace.trace.pairing import RequestStream
from memtrace.trace.requests import (
    FLAG_LAST,
    FLAG_MISSED,
    FLAG_UNTRACED_PAGE,
    RQ_BULK_ALLOC,
    RQ_BULK_FREE,
    RQ_CACHE_ALLOC,
    RQ_CACHE_FREE,
    RQ_KFREE,
    RQ_KFREE_NULL,
    RQ_KMALLOC,
    RQ_MARKER,
    RQ_PAGE_ALLOC,
    RQ_PAGE_FREE,
)


def read(*rows: dict[str, Any], prelude: bool = True) -> tuple[Any, RequestStream, int]:
    """Census and requests of these rows, and the number of rows before them."""
    before = tl.new_slabs() if prelude else []
    reader = tl.ListReader([*before, *rows])
    census = take_census(reader)
    return census, RequestStream(reader, census), len(before)


def ops(stream: RequestStream, first_row: int, *columns: str) -> list[tuple[int, ...]]:
    columns = columns or ("op",)
    return [r[1:] for r in tl.requests_of(stream, "row", *columns) if r[0] >= first_row]


def test_an_object_is_paired_and_its_handle_reused() -> None:
    p = tl.at(5000, 512)
    census, stream, n = read(tl.cache_alloc(p), tl.cache_free(p), tl.cache_alloc(p + 512), tl.cache_free(p + 512))
    got = ops(stream, n, "op", "handle", "addr")
    assert [op for op, _, _ in got] == [RQ_CACHE_ALLOC, RQ_CACHE_FREE] * 2
    assert len({handle for _, handle, _ in got}) == 1
    assert got[0][2] == p - tl.BASE
    assert census.caches[0].name == "cache" and census.max_handles == 11


def test_a_free_of_an_unknown_pointer_makes_an_object_of_the_start() -> None:
    old, new = tl.at(300, 64), tl.at(300, 128)
    census, stream, n = read(tl.kmalloc(new, 64), tl.kfree(old), tl.kfree(old))
    assert census.start_addr.tolist() == [old - tl.BASE]
    assert census.caches[census.start_cache[0]].name == "kmalloc-64"  # what else lies on its page
    assert census.start_size.tolist() == [64]
    assert census.start_free_addr.tolist() == [new - tl.BASE]
    assert census.caches[census.start_free_cache[0]].name == "kmalloc-64"
    assert (census.counts["free_of_unknown"], census.counts["double_free"]) == (1, 1)
    assert ops(stream, n, "op", "handle") == [(RQ_KMALLOC, 11), (RQ_KFREE, 0)]


def test_a_large_kmalloc_of_the_start_is_known_by_the_block_that_follows_its_free() -> None:
    census, stream, n = read(tl.kfree(tl.at(320)), tl.page_free(320, 3))
    assert (census.start_cache.tolist(), census.start_size.tolist()) == ([-1], [32768])
    assert ops(stream, n) == [(RQ_KFREE,)]


def test_a_free_on_a_page_born_in_the_trace_is_left_out() -> None:
    census, stream, n = read(tl.cache_free(tl.at(5000, 1024), "prelude_cache"))
    assert census.counts["free_of_untraced_alloc"] == 1
    assert ops(stream, n) == []


def test_a_pointer_handed_out_twice_is_freed_in_between() -> None:
    p = tl.at(5000, 512)
    census, stream, n = read(tl.kmalloc(p), tl.kmalloc(p, 96, cpu=1))
    assert census.counts["alloc_of_live_pointer"] == 1
    assert ops(stream, n, "op", "flags", "size", "cpu") == [
        (RQ_KMALLOC, 0, 64, 0), (RQ_KFREE, FLAG_MISSED, -1, 1), (RQ_KMALLOC, 0, 96, 1)]


def test_null_pointers() -> None:
    census, stream, n = read(tl.kfree(0), tl.kfree(16), tl.kmalloc(0), tl.page_alloc(0), tl.page_alloc(-1))
    assert ops(stream, n, "op", "handle") == [(RQ_KFREE_NULL, -1)] * 2
    counts = census.counts
    assert (counts["kfree_null"], counts["failed_alloc"], counts["failed_page_alloc"]) == (2, 1, 2)


def test_a_large_kmalloc_takes_its_page_events_with_it_and_is_asked_once() -> None:
    p = tl.at(640)
    census, stream, n = read(
        tl.page_alloc(640, 2), tl.kmalloc(p, 16384, call_site="inner"), tl.kmalloc(p, 16384, call_site="caller"),
        tl.kfree(p), tl.page_free(640, 2))
    assert ops(stream, n, "op", "size") == [(RQ_KMALLOC, 16384), (RQ_KFREE, -1)]
    assert ops(stream, n, "site")[0] == (2,)  # prelude, inner, caller
    assert census.counts["large_kmalloc_doubled"] == 1
    assert census.counts["large_kmalloc_page"] == 1
    assert stream.counts["slab_page_free_owned"] == 1


def test_pages_without_objects_are_requests_and_slab_pages_are_not() -> None:
    census, stream, n = read(
        tl.page_alloc(900, 1, "GFP_USER", node=1), tl.page_free(900, 1), tl.page_alloc(901, 0, tl.SLAB_GFP),
        tl.page_free(5000), tl.page_free(300, 0))
    assert ops(stream, n, "op", "size", "addr", "gfp", "flags") == [
        (RQ_PAGE_ALLOC, 1, 900 << 12, 0x100CC0, 0),
        (RQ_PAGE_FREE, 1, 900 << 12, 0, FLAG_LAST),
        (RQ_PAGE_ALLOC, 0, 901 << 12, 0x12CC0, 0),
        (RQ_CACHE_FREE, -1, 5000 << 12, 0, FLAG_MISSED),  # the prelude's object, which nothing freed
        (RQ_PAGE_FREE, 0, 300 << 12, 0, FLAG_LAST)]
    assert census.counts["slab_page_alloc_owned"] == 10
    assert census.counts["slab_flags_untouched"] == 1
    assert (census.start_pfn.tolist(), census.start_order.tolist()) == ([300], [0])


def test_a_batched_free_takes_effect_at_its_second_row() -> None:
    census, stream, n = read(
        tl.page_alloc(900), tl.page_free(900), tl.kfree(0), tl.batched(900), tl.page_free(300, 2), tl.batched(300))
    got = [(row - n, op, size) for row, op, size in tl.requests_of(stream, "row", "op", "size") if row >= n]
    assert got == [(0, RQ_PAGE_ALLOC, 0), (2, RQ_KFREE_NULL, -1), (3, RQ_PAGE_FREE, 0), (5, RQ_PAGE_FREE, 2)]
    assert census.counts["batched_page_free"] == 2


def test_before_3_3_a_batched_row_is_the_only_one() -> None:
    census, stream, n = read(tl.page_alloc(900), tl.batched(900))
    assert ops(stream, n) == [(RQ_PAGE_ALLOC,), (RQ_PAGE_FREE,)]
    assert census.counts["batched_only_page_free"] == 1


def test_a_block_freed_in_pieces_ends_with_the_last() -> None:
    _, stream, n = read(tl.page_alloc(904, 2), tl.page_free(906, 1), tl.page_free(904), tl.page_free(905))
    assert ops(stream, n, "op", "size", "offset", "flags", "handle") == [
        (RQ_PAGE_ALLOC, 2, 0, 0, 0), (RQ_PAGE_FREE, 1, 2, 0, 0), (RQ_PAGE_FREE, 0, 0, 0, 0),
        (RQ_PAGE_FREE, 0, 1, FLAG_LAST, 0)]


def test_a_page_handed_out_twice_is_freed_in_between_piece_by_piece_if_need_be() -> None:
    census, stream, n = read(tl.page_alloc(904, 1), tl.page_free(904), tl.page_alloc(904), tl.page_alloc(905))
    assert ops(stream, n, "op", "size", "offset", "flags") == [
        (RQ_PAGE_ALLOC, 1, 0, 0), (RQ_PAGE_FREE, 0, 0, 0), (RQ_PAGE_ALLOC, 0, 0, 0),
        (RQ_PAGE_FREE, 0, 1, FLAG_MISSED | FLAG_LAST), (RQ_PAGE_ALLOC, 0, 0, 0)]
    assert census.counts["page_alloc_of_live_pfn"] == 1


def test_pages_of_the_bulk_allocator_and_of_compaction() -> None:
    page = {"event": "gt_page", "pfn": 900, "order": 0}
    census, stream, n = read(
        page | {"text": "op=bulk_alloc pfn=0x384"}, tl.page_free(900),
        page | {"text": "op=isolate_free pfn=0x384", "order": 1}, tl.page_free(901), tl.page_free(900))
    taken, freed = (RQ_PAGE_ALLOC, FLAG_UNTRACED_PAGE, 0), (RQ_PAGE_FREE, FLAG_LAST, 0)
    # Compaction uses and gives back the pages of a block one by one.
    assert ops(stream, n, "op", "flags", "size") == [taken, freed, taken, taken, freed, freed]
    assert (census.counts["page_isolated"], census.counts.get("page_free_of_free", 0)) == (1, 0)


def test_page_blocks_without_pfn_are_known_by_their_pointer() -> None:
    page = {"event": "mm_page_alloc", "ptr": 7, "order": 3}
    _, stream, _ = read(page, {"event": "mm_page_alloc", "ptr": 8, "order": 0},
                        {"event": "mm_page_free", "ptr": 7, "order": 3}, prelude=False)
    assert ops(stream, 0, "op", "size", "handle", "addr") == [
        (RQ_PAGE_ALLOC, 3, 0, -1), (RQ_PAGE_ALLOC, 0, 1, -1), (RQ_PAGE_FREE, 3, 0, -1)]


def test_bulk_arrays_end_where_their_cpu_and_level_do_something_else() -> None:
    p = [tl.at(5000 + i, 512) for i in range(10)]
    rows = [
        tl.bulk("alloc", p[0]), tl.bulk("alloc", p[1], cpu=1), tl.bulk("alloc", p[2], ctx="..s.."),
        tl.bulk("alloc", p[3]), tl.bulk("alloc", p[4], "other"), tl.page_alloc(900), tl.bulk("alloc", p[5], "other"),
        tl.kmalloc(p[6]), tl.bulk("free", p[0], site="rcu"), tl.bulk("free", p[6], "kmalloc-64", "rcu"),
        {"event": "rcu_invoke_kfree_bulk_callback"}, tl.bulk("free", p[3], site="rcu"),
    ]
    census, stream, n = read(*rows)
    bulk_ops = (RQ_BULK_ALLOC, RQ_BULK_FREE)
    got = [(row - n, flags) for row, op, flags in tl.requests_of(stream, "row", "op", "flags") if op in bulk_ops]
    assert [row for row, flags in got if flags == FLAG_LAST] == [1, 2, 3, 6, 9, 11]
    assert len(got) == 9
    assert census.counts["kfree_bulk_callbacks"] == 1


def test_a_dropped_last_row_leaves_the_end_to_the_row_before() -> None:
    p = tl.at(5000, 512)
    _, stream, n = read(tl.bulk("alloc", p), tl.kfree(0), tl.bulk("free", p), tl.bulk("free", p))
    assert ops(stream, n, "op", "flags") == [
        (RQ_BULK_ALLOC, FLAG_LAST), (RQ_KFREE_NULL, 0), (RQ_BULK_FREE, FLAG_LAST)]


def test_the_tracepoints_own_bulk_events_are_the_same() -> None:
    p = tl.at(5000, 512)
    row = {"ptr": p, "name": "x", "call_site": "s"}
    _, stream, n = read({"event": "kmem_cache_alloc_bulk"} | row, {"event": "kmem_cache_free_bulk"} | row)
    assert ops(stream, n, "op", "flags") == [(RQ_BULK_ALLOC, FLAG_LAST), (RQ_BULK_FREE, FLAG_LAST)]


def test_caches_are_named_by_frees_by_pages_and_by_themselves() -> None:
    rows = [
        tl.cache_alloc(tl.at(100), "a"), tl.cache_free(tl.at(100), "filp"), tl.cache_alloc(tl.at(100, 128), "b"),
        tl.cache_alloc(tl.at(200), "c", 256), tl.cache_alloc(tl.at(100, 256), "a"),
    ]
    census, stream, n = read(*rows)
    names = [census.caches[cache].name for op, cache in ops(stream, n, "op", "cache")]
    assert names == ["filp", "filp", "filp", "unknown:c:256", "filp"]
    assert [c.name for c in census.caches if c.inferred] == ["unknown:prelude:512", "unknown:c:256"]
    assert (census.counts["cache_inferred"], census.counts["cache_unknown"]) == (3, 11)
    filp = next(cache for cache in census.caches if cache.name == "filp")
    assert (filp.object_size, filp.size, filp.allocs) == (128, 128, 3)


def test_gt_name_is_never_read() -> None:
    reader = tl.ListReader([tl.cache_alloc(1)])
    reader.columns.gt_name[0] = reader.vocab.name.code("the truth")
    assert [cache.name for cache in take_census(reader).caches] == ["unknown:site:128"]


def test_markers_and_outcomes() -> None:
    census, stream, n = read(
        {"event": "marker", "text": "SNAP_BEGIN x"}, {"event": "mm_page_pcpu_drain", "pfn": 1, "order": 0},
        {"event": "sched_switch"}, {"event": "percpu_alloc_percpu", "ptr": 9})
    assert ops(stream, n, "op", "size") == [(RQ_MARKER, 0)]
    assert census.events["sched_switch"] == 1
    counts = census.counts
    assert (counts["outcome_rows"], counts["other_rows"], counts["percpu_unusable"]) == (1, 1, 1)


def test_span_cpus_and_an_order_that_cannot_be() -> None:
    census, stream, n = read(tl.page_alloc(900, 21, cpu=5), tl.page_free(900, -1))
    assert (census.rows, census.cpus, census.span_ns) == (22, 6, 21_000)
    assert census.counts["impossible_order"] == 2
    assert ops(stream, n) == []


def test_an_empty_trace() -> None:
    census, stream, _ = read(prelude=False)
    assert (census.rows, census.cpus, census.caches, list(stream)) == (0, 0, [], [])


def test_a_negative_cpu_is_an_error_with_its_row() -> None:
    with pytest.raises(TraceError, match="trace:2: cpu is -3; expected 0 to"):
        take_census(tl.ListReader([tl.kfree(1), tl.kfree(2, cpu=-3)]))


def test_requests_of_other_rows_than_the_census_are_refused() -> None:
    reader = tl.ListReader([tl.kfree(1), tl.kfree(2)])
    with pytest.raises(ModelError, match="from row 1 with a census from row 0"):
        RequestStream(reader, take_census(reader), start_row=1)


def test_growth_beyond_every_initial_table() -> None:
    n = 3000
    rows = [tl.kmalloc(tl.at(10_000 + i), site_of(i)) for i in range(n)] + [tl.page_alloc(50_000 + i) for i in range(n)]
    census, stream, first = read(*rows)
    assert census.max_handles == n + 10
    handles = np.array(ops(stream, first, "handle"))[:n, 0]
    assert sorted(handles.tolist()) == list(range(10, n + 10))


def site_of(i: int) -> int:
    """A kmalloc size; many, so that the class table grows."""
    return 8 * (i % 700 + 1)
