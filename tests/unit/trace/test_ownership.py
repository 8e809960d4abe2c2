"""The direct map's base is found, or said not to be there."""

from __future__ import annotations

import random

import trace_lists as tl

from memtrace.trace.census import take_census
from memtrace.trace.ownership import find_direct_map


def test_base_is_found_among_pages_that_have_nothing_to_do_with_objects() -> None:
    rng = random.Random(1)
    noise = []
    for _ in range(300):  # page faults, each followed by some allocation
        noise += [tl.page_alloc(rng.randrange(1, 1 << 18), 0, "GFP_HIGHUSER_MOVABLE"), tl.cache_alloc(tl.at(77, 8))]
    found = find_direct_map(tl.ListReader([*noise, *tl.new_slabs(), tl.kfree(1), tl.kfree(2)]))
    assert (found.base, found.support, found.pages) == (tl.BASE, 1.0, 10)


def test_the_slabs_vector_of_extensions_may_come_first() -> None:
    rows = []
    for pfn in range(600, 612):
        rows += [tl.page_alloc(pfn, 0, tl.SLAB_GFP), tl.kmalloc(tl.at(40, pfn)), tl.cache_alloc(tl.at(pfn, 256))]
    assert find_direct_map(tl.ListReader(rows)).base == tl.BASE


def test_pages_without_typical_flags_serve_when_there_are_no_others() -> None:
    rows = []
    for pfn in range(600, 620, 2):
        rows += [tl.page_alloc(pfn, 1), tl.kmalloc(tl.at(pfn + 1, 100))]
    assert find_direct_map(tl.ListReader(rows)).base == tl.BASE


def test_events_of_other_cpus_do_not_come_between() -> None:
    rows = []
    for pfn in range(600, 620):
        rows += [tl.page_alloc(pfn, 0, tl.SLAB_GFP), tl.kmalloc(tl.at(9), cpu=1), tl.cache_alloc(tl.at(pfn))]
    assert find_direct_map(tl.ListReader(rows)).support == 1.0


def test_hashed_pointers_have_no_base_and_pages_are_owned_by_their_flags() -> None:
    rng = random.Random(2)
    rows = []
    for pfn in range(600, 700):
        rows += [tl.page_alloc(pfn, 0, tl.SLAB_GFP), tl.cache_alloc(rng.randrange(1 << 32) | 1)]
    rows += [tl.page_alloc(800, 0, tl.SLAB_GFP), tl.kfree(rng.randrange(1 << 32)), tl.cache_alloc(5)]
    rows += [tl.page_alloc(900, 2), tl.kmalloc(7, 16384), tl.page_free(650), tl.page_free(800)]
    reader = tl.ListReader(rows)
    assert find_direct_map(reader).base == 0
    census = take_census(reader)
    assert census.counts["slab_page_by_flags"] == 101  # 600..699 and the large kmalloc; not 800
    assert census.counts["large_kmalloc_page"] == 1
    assert census.counts["slab_page_free_owned"] == 1
    assert any("flags" in note for note in census.notes)
