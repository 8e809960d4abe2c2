"""A state of one allocator carried over to another: nothing is lost, nothing overlaps, and every handle is kept."""

from __future__ import annotations

import random

import pytest
from small_machines import config, kernel, open_zone, put_free

from memtrace.mm.boot import ALLOCATORS, build
from memtrace.mm.constants import SLAB_RECLAIM_ACCOUNT, SLAB_TYPESAFE_BY_RCU
from memtrace.mm.machine import Machine
from memtrace.mm.restore import settle_pages
from memtrace.mm.restore_across import Population, carry_over, create_caches

FIRST_PFN = 16 * 256
PAGES = 8 * 256


def half_used(allocator: str, cpus: int) -> Machine:
    """A machine whose upper half is free, and whose lower half belongs to somebody."""
    machine = build(config(open_zone("DMA32", 16, 8), cpus=cpus, pageblock_order=10), kernel(), 0, allocator)
    put_free(machine, FIRST_PFN + PAGES // 2, 10, 1)
    settle_pages(machine)
    return machine


def population(rng: random.Random, name: str, pfns: list[int]) -> Population:
    """A cache with slabs of one page, some of them at known places; fewer objects alive than its slabs hold."""
    kmalloc = name.startswith("kmalloc-")
    size = 96 if kmalloc else rng.choice([24, 104, 192, 700, 2000, 4096])
    objects = 4096 // size
    slabs = [(pfn, rng.randint(0, objects)) for pfn in pfns]
    hidden = rng.randint(0, 5)
    flags = 0 if kmalloc else rng.choice([0, SLAB_RECLAIM_ACCOUNT, SLAB_TYPESAFE_BY_RCU])
    return Population(name, size, 8, flags, False, 0, objects, sum(live for _, live in slabs) + hidden * objects, slabs,
                      [hidden])


@pytest.mark.parametrize("allocator", ALLOCATORS)
@pytest.mark.parametrize("seed", range(8))
def test_carried_over(allocator: str, seed: int) -> None:
    rng = random.Random(seed)
    machine = half_used(allocator, rng.randint(1, 3))
    pfns = rng.sample(range(FIRST_PFN, FIRST_PFN + PAGES // 2), 60)
    populations = [
        population(rng, name, [pfns.pop() for _ in range(rng.randint(0, 8))])
        for name in ("kmalloc-96", "kmalloc-rcl-96", "first", "second", "third")
    ]
    create_caches(machine, populations, merge=False)
    seen = []
    for known in populations:
        index = machine.slab.kmalloc_home(known.name)
        index = index if index >= 0 else machine.find_cache(known.name)
        for pfn, live in known.slabs:
            seen += [((pfn << 12) + i * known.object_size, known.name, index) for i in range(rng.randint(0, live))]
    slabs = sum(len(known.slabs) + sum(known.hidden) for known in populations)
    moved = carry_over(machine, populations, seen)
    assert (moved.slabs, moved.slabs_not_found, moved.objects_failed) == (slabs, 0, 0)
    assert moved.objects == sum(known.live for known in populations)
    machine.validate()

    addresses = {machine.adopt_object(addr, cache) for addr, _, cache in seen}
    assert len(addresses) == len(seen)
    assert all(machine.slab.is_live(addr) for addr in addresses)
    assert not machine.moved
    for addr in addresses:
        machine.it.reset()
        machine.kfree(addr, 0)
    machine.slab.grace_period_over(len(addresses))
    machine.validate()


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_more_slabs_than_pages_are_told(allocator: str) -> None:
    """Pages that are free, or another's, are not given back a second time."""
    machine = half_used(allocator, 1)
    known = Population("first", 2048, 8, 0, False, 0, 2, 2, [(FIRST_PFN + PAGES // 2, 2)], [PAGES])
    create_caches(machine, [known], merge=False)
    moved = carry_over(machine, [known], [])
    assert moved.slabs == PAGES // 2
    assert moved.slabs_not_found == 1 + PAGES // 2
    assert moved.objects == 2
    machine.validate()
