"""kmem_cache_shrink(), kmem_cache_destroy() and the registry of caches (MODEL 6.11, 6.12, EXACT C3)."""

from __future__ import annotations

import pytest
from small_machines import booted, node_partial, open_zone, stats

from memtrace.config import SlubParams
from memtrace.mm.constants import SLAB_TYPESAFE_BY_RCU
from memtrace.mm.gfp import GFP_KERNEL
from memtrace.mm.machine import Machine

OBJECTS = 64  # of 64 bytes in a slab of one page


@pytest.fixture
def machine() -> Machine:
    return booted(open_zone("DMA32", 16, 16), cpus=2, batch=1, high=0, slub=SlubParams(max_order=0, min_partial=20))


def partial_slabs(machine: Machine, cache: int, idle: list[int]) -> list[list[int]]:
    """Slabs on the node's list with so many free objects each, in this order; all their addresses."""
    slabs = [[machine.cache_alloc(cache, GFP_KERNEL, -1, 0) for _ in range(OBJECTS)] for _ in idle]
    for addrs, n in zip(slabs, idle, strict=True):
        for addr in addrs[:n]:
            machine.cache_free(addr, 0)
        machine.slab.flush_all(cache)
    return slabs


def destroy(machine: Machine, name: str) -> bool:
    return machine.slab.kmem_cache_destroy(machine.slab.caches[machine.slab.find_cache(name)], name, 0)


def test_shrink_sorts_the_fullest_first_and_frees_the_empty(machine: Machine) -> None:
    """Up to 32 free objects a slab is sorted, last found first; with more it stays behind, in its order."""
    cache = machine.slab.create_cache("probe", 64, merge=False)
    idle = [40, 3, 64, 32, 1, 3, 33, 64]
    slabs = partial_slabs(machine, cache, idle)
    pfns = [addrs[0] >> 12 for addrs in slabs]
    assert node_partial(machine, cache) == pfns
    before = stats(machine, cache)
    assert machine.slab.shrink_cache(machine.slab.caches[cache], 1) == 2
    assert node_partial(machine, cache) == [pfns[i] for i in (4, 5, 1, 3, 0, 6)]
    assert stats(machine, cache) == before, "slabs that a shrink frees count nothing (EXACT C3)"
    # Each went to the front of those that go: the last one found is freed first, so the first one is taken first.
    assert [machine.page_alloc(0, GFP_KERNEL, -1, 1) for _ in range(2)] == [pfns[2], pfns[7]]
    machine.validate()


def test_shrink_takes_every_cpus_slab_away(machine: Machine) -> None:
    """Each CPU counts its own flush."""
    cache = machine.slab.create_cache("probe", 64, merge=False)
    kept = [machine.cache_alloc(cache, GFP_KERNEL, -1, cpu) for cpu in (0, 1)]
    assert machine.slab.shrink_cache(machine.slab.caches[cache], 0) == 0
    s = machine.slab.caches[cache]
    assert list(s.c_slab) == [-1, -1]
    assert stats(machine, cache)["cpuslab_flush"] == 2
    assert sorted(node_partial(machine, cache)) == sorted(addr >> 12 for addr in kept)
    machine.validate()


def test_destroy_refuses_while_an_object_lives(machine: Machine) -> None:
    """What is empty goes all the same, and the cache stays."""
    slab = machine.slab
    cache = slab.kmem_cache_create("probe", 64, flags=SLAB_TYPESAFE_BY_RCU)
    addrs = [machine.cache_alloc(cache, GFP_KERNEL, -1, 0) for _ in range(3 * OBJECTS)]
    for addr in addrs[1:]:
        machine.cache_free(addr, 0)
    assert not destroy(machine, "probe")
    assert slab.find_cache("probe") == cache
    assert sum(slab.caches[cache].nr_slabs) == 1
    machine.cache_free(addrs[0], 0)
    machine.validate()


def test_destroy_gives_all_memory_back(machine: Machine) -> None:
    slab = machine.slab
    free = machine.pages.zones[0].free_pages
    cache = slab.kmem_cache_create("probe", 64, flags=SLAB_TYPESAFE_BY_RCU)
    addrs = [machine.cache_alloc(cache, GFP_KERNEL, -1, cpu) for cpu in (0, 1) for _ in range(3 * OBJECTS)]
    for addr in addrs:
        machine.cache_free(addr, 1)
    assert destroy(machine, "probe")
    machine.pages.drain_all_pages()
    assert machine.pages.zones[0].free_pages == free
    assert slab.find_cache("probe") == -1
    assert slab.caches[cache].gone
    machine.validate()
    # The next cache of the name gets the number; others get new ones.
    assert slab.kmem_cache_create("other", 72, flags=SLAB_TYPESAFE_BY_RCU) == cache + 1
    assert slab.kmem_cache_create("probe", 128, flags=SLAB_TYPESAFE_BY_RCU) == cache
    assert not slab.caches[cache].gone
    assert machine.cache_alloc(cache, GFP_KERNEL, -1, 0)
    machine.validate()


def test_aliases_hold_a_cache(machine: Machine) -> None:
    """A merged cache goes with its last creator; each name is known as long as somebody holds it."""
    slab = machine.slab
    first = slab.kmem_cache_create("first", 1000)
    assert slab.kmem_cache_create("second", 996) == first
    assert slab.kmem_cache_create("second", 1000) == first
    assert slab.caches[first].refcount == 3
    assert destroy(machine, "second")
    assert slab.find_cache("second") == first
    assert destroy(machine, "second")
    assert slab.find_cache("second") == -1
    assert not slab.caches[first].gone
    assert destroy(machine, "first")
    assert slab.caches[first].gone


def test_null_instead_of_a_cache(machine: Machine) -> None:
    """No cache of nothing, of more than a block, or of a name that another unmergeable one has."""
    slab = machine.slab
    assert slab.kmem_cache_create("none", 0) == -1
    assert slab.kmem_cache_create("huge", (4 << 20) + 1) == -1
    slab.kmem_cache_create("probe", 64, flags=SLAB_TYPESAFE_BY_RCU)
    assert slab.kmem_cache_create("probe", 64) == -1
