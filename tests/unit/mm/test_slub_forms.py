"""Do the switches of SLUB, and those of page lists, that only matter in some corner do what they say there?"""

from __future__ import annotations

import pytest
from small_machines import (
    UNMOVABLE,
    booted,
    cpu_partial,
    empty,
    node_partial,
    open_zone,
    put_free,
    put_used,
    stats,
    zone,
)

from memtrace.config import PcpParams, SlubParams, VmParams
from memtrace.mm.gfp import GFP_HIGHUSER_MOVABLE, GFP_KERNEL
from memtrace.mm.slub_geometry import calculate_order

BASE = 16 * 256


@pytest.mark.parametrize(("size", "old", "new", "newest"), [
    (64, 0, 0, 0), (1024, 0, 0, 0), (2048, 1, 1, 1), (1100, 1, 1, 1), (11000, 2, 2, 2), (344, 0, 1, 1), (2736, 0, 0, 1),
])
def test_orders_with_little_room(size: int, old: int, new: int, newest: int) -> None:
    """At most order 1 and 4 objects, as 2.6.24 has it."""
    found = tuple(calculate_order(size, 4, 0, 1, rule) for rule in ("2.6.24", "6.1", "6.8"))
    assert found == (old, new, newest)


def test_orders_differ_where_the_specification_says() -> None:
    sizes = range(8, 40_001, 8)
    assert [s for s in sizes if calculate_order(s, 16) != calculate_order(s, 16, rule="6.8")] == [
        s for s in sizes if 10928 <= s <= 12280
    ]


@pytest.mark.parametrize("falls_back", [True, False])
def test_fragmented_memory_needs_the_smallest_order(falls_back: bool) -> None:
    """Only single pages are free; the cache would like two at a time."""
    machine = empty(open_zone("DMA32", 16, 16), batch=1, high=0, slub=SlubParams(min_order_fallback=falls_back))
    cache = machine.slab.create_cache("pairs", 700)
    assert machine.slab.caches[cache].order > 0
    for i in range(8):
        put_free(machine, BASE + 2 * i, 0, UNMOVABLE)
        put_used(machine, BASE + 2 * i + 1, 1, UNMOVABLE)
    assert (machine.cache_alloc(cache, GFP_KERNEL, -1, 0) > 0) is falls_back


@pytest.mark.parametrize("node_first", [True, False])
def test_a_full_node_sends_to_partial_slabs_of_others_first(node_first: bool) -> None:
    params = SlubParams(min_partial=0, try_node_first=node_first, remote_node_defrag_ratio=1023)
    machine = booted(open_zone("DMA32", 16, 16), open_zone("Normal", 4096, 16, node=1), cpus=2, batch=1, high=0,
                     slub=params)  # fmt: skip
    cache = machine.slab.create_cache("objects", 512, 512)
    n = machine.slab.caches[cache].objects
    held = [machine.cache_alloc(cache, GFP_KERNEL, -1, 1) for _ in range(3 * n)]
    machine.cache_free(held[0], 0)
    machine.slab.flush_all(cache)
    while machine.page_alloc(0, GFP_HIGHUSER_MOVABLE | 0x200000, 0, 0) >= 0:
        pass
    before = stats(machine, cache)["alloc_slab"]
    assert machine.cache_alloc(cache, GFP_KERNEL, 0, 0) > 0
    assert stats(machine, cache)["alloc_slab"] - before == (0 if node_first else 1)


def test_without_cpu_partial_lists_slabs_go_to_the_node() -> None:
    machine = booted(open_zone("DMA32", 16, 16), cpus=2, slub=SlubParams(cpu_partial_lists=False))
    cache = machine.slab.create_cache("objects", 512, 512)
    n = machine.slab.caches[cache].objects
    held = [machine.cache_alloc(cache, GFP_KERNEL, -1, 0) for _ in range(4 * n)]
    machine.cache_free(held[0], 1)
    machine.cache_free(held[n], 1)
    assert cpu_partial(machine, cache, 1) == []
    assert node_partial(machine, cache) == [held[0] >> 12, held[n] >> 12]
    machine.cache_alloc(cache, GFP_KERNEL, -1, 1)
    assert cpu_partial(machine, cache, 1) == [], "one slab at a time"
    machine.validate()


@pytest.mark.parametrize("rule", ["min_partial", "discard"])
def test_what_becomes_of_an_emptied_slab(rule: str) -> None:
    params = SlubParams(cpu_partial_lists=False, min_partial=5, remote_empty=rule)
    machine = booted(open_zone("DMA32", 16, 16), cpus=2, slub=params)
    cache = machine.slab.create_cache("objects", 512, 512)
    n = machine.slab.caches[cache].objects
    held = [machine.cache_alloc(cache, GFP_KERNEL, -1, 0) for _ in range(2 * n)]
    for addr in held[:n]:
        machine.cache_free(addr, 1)
    assert sum(machine.slab.caches[cache].nr_slabs) == (2 if rule == "min_partial" else 1)
    machine.validate()


@pytest.mark.parametrize(("frozen", "counted"), [(True, 1), (False, None)])
def test_slabs_on_a_cpus_list_are_frozen_until_6_7(frozen: bool, counted: int | None) -> None:
    machine = booted(open_zone("DMA32", 16, 16), cpus=2, slub=SlubParams(frozen_partials=frozen))
    cache = machine.slab.create_cache("objects", 512, 512)
    n = machine.slab.caches[cache].objects
    held = [machine.cache_alloc(cache, GFP_KERNEL, -1, 0) for _ in range(2 * n)]
    machine.cache_free(held[0], 1)
    assert cpu_partial(machine, cache, 1) == [held[0] >> 12]
    machine.cache_free(held[1], 1)
    assert stats(machine, cache).get("free_frozen") == counted
    machine.cache_free(held[-1], 1)
    assert stats(machine, cache)["free_frozen"] == (counted or 0) + 1, "the other CPU's slab is frozen in any case"


@pytest.mark.parametrize(("kb", "drains"), [(4096, 1), (4, 9)])
def test_a_small_cache_slice_gives_high_orders_back_at_once(kb: int, drains: int) -> None:
    """After a batch in a row: each further block, or only a batch of them."""
    pcp = PcpParams(limit="auto", free_high_after="batch", cache_slice_kb=kb)
    machine = booted(zone("DMA32", 16, 512), pcp=pcp, vm=VmParams(fallback="claim_steal"))
    (owner,) = machine.pages.zones
    blocks = [machine.page_alloc(1, GFP_KERNEL, 0, 0) for _ in range(25)]
    machine.pages.drain_all_pages()
    owner.pcp[0].free_count = 0
    owner.pcp[0].drains = 0
    for pfn in blocks:
        machine.page_free(pfn, 1, 0)
    assert owner.pcp[0].drains == drains


@pytest.mark.parametrize(("limits", "expected"), [({}, 10), ({"barn_full": 1}, 1), ({"barn_full": 0}, 0)])
def test_a_barn_keeps_as_many_full_sheaves_as_it_may(limits: dict[str, int], expected: int) -> None:
    params = SlubParams(sheaf_capacity=4, sheaf_caches=("maple_node",), **limits)
    machine = booted(open_zone("DMA32", 16, 16), slub=params)
    cache = machine.slab.create_cache("maple_node", 256, 256)
    held = [machine.cache_alloc(cache, GFP_KERNEL, -1, 0) for _ in range(100)]
    for addr in held:
        machine.cache_free(addr, 0)
    assert len(machine.slab.caches[cache].full[0]) == expected
    machine.validate()


@pytest.mark.parametrize(("limit", "expected"), [(10, 1), (0, 0)])
def test_a_barn_keeps_as_many_empty_sheaves_as_it_may(limit: int, expected: int) -> None:
    """A sheaf that RCU has freed and that finds no room among the full ones."""
    params = SlubParams(sheaf_capacity=4, sheaf_caches=("maple_node",), barn_full=0, barn_empty=limit)
    machine = booted(open_zone("DMA32", 16, 16), slub=params)
    cache = machine.slab.create_cache("maple_node", 256, 256)
    held = [machine.cache_alloc(cache, GFP_KERNEL, -1, 0) for _ in range(4)]
    before = len(machine.slab.caches[cache].empty[0])
    for addr in held:
        machine.slab.free_rcu_sheaf(addr, 0)
    taken = before - len(machine.slab.caches[cache].empty[0])
    machine.slab.grace_period_over(1)
    assert len(machine.slab.caches[cache].empty[0]) == before - taken + expected
    machine.validate()
