"""A machine's state written down as an exact dump and laid out again is the same machine, and goes on the same way."""

from __future__ import annotations

import random
from typing import Any

import pytest
from small_machines import (
    booted,
    config,
    cpu_freelist,
    cpu_partial,
    cpu_slab,
    free_lists,
    freelist,
    kernel,
    node_partial,
    open_zone,
    pcp_list,
)

from memtrace.errors import ConfigError
from memtrace.mm.boot import build
from memtrace.mm.gfp import GFP_KERNEL
from memtrace.mm.machine import Machine
from memtrace.mm.restore import restore_exact
from memtrace.snapshot.exact_dump import CpuSlab, ExactDump, ExactPcp, ExactSlab, ExactZone, NodeSlabs, SlubCache

ZONES = (open_zone("DMA32", 16, 16), open_zone("DMA32", 32, 16, node=1))
TUNABLES: dict[str, Any] = {"batch": 7, "high": 60}
SIZES = (64, 500, 1024, 3000)
LISTS = [(order, mt) for order in range(4) for mt in range(3)] + [(9, 0), (9, 1)]


def slab_of(machine: Machine, pfn: int) -> ExactSlab:
    s, row = machine.slab, machine.frames.slab[pfn]
    return ExactSlab(pfn, s.sl_order[row], s.sl_inuse[row], s.sl_objects[row], bool(s.sl_frozen[row]),
                     freelist(machine, pfn))


def dumped(machine: Machine) -> ExactDump:
    """What the dump of a real kernel holds."""
    dump = ExactDump("a test", 0, "now", 0, allocator="slub")
    for z in machine.pages.zones:
        dump.zones.append(ExactZone(
            z.node, z.name, z.zone_idx, z.start_pfn, z.spanned, z.present, z.managed, z.watermark_min, z.watermark_low,
            z.watermark_high, z.boost, z.free_pages, z.nr_reserved_highatomic, tuple(z.lowmem_reserve),
            free_lists=free_lists(machine, z),
            pcp=[ExactPcp(cpu, p.count, p.high, p.batch, p.free_factor, 0, {
                key: pfns for key in LISTS if (pfns := pcp_list(machine, z, cpu, *key))
            }) for cpu, p in enumerate(z.pcp)],
            pageblock_order=z.pageblock_order, pageblocks=tuple(z.pageblock_type),
        ))
    for index, s in enumerate(machine.slab.caches):
        dump.slub.insert(0, SlubCache(
            s.name, s.size, s.object_size, s.offset, s.align, s.order, s.objects, s.min_order, s.min_objects,
            s.min_partial, s.cpu_partial, s.cpu_partial_slabs, s.flags, 1, bool(s.ctor), s.allocflags, 1000,
            cpu_slabs={cpu: CpuSlab(slab_of(machine, pfn), cpu_freelist(machine, index, cpu))
                       for cpu in range(machine.nr_cpus) if (pfn := cpu_slab(machine, index, cpu)) >= 0},
            cpu_partials={cpu: [slab_of(machine, pfn) for pfn in pfns] for cpu in range(machine.nr_cpus)
                          if (pfns := cpu_partial(machine, index, cpu))},
            nodes={node: NodeSlabs(s.nr_slabs[node], s.total_objects[node], s.nr_partial[node],
                                   [slab_of(machine, pfn) for pfn in node_partial(machine, index, node)])
                   for node in range(machine.nr_nodes)},
        ))
    return dump


def load(machine: Machine, rng: random.Random, objects: list[int], steps: int) -> list[int]:
    """Random requests for objects; where they were put."""
    first = machine.find_cache("probe-64")
    seen = []
    for _ in range(steps):
        cpu = rng.randrange(machine.nr_cpus)
        if rng.random() < 0.55 or not objects:
            addr = machine.cache_alloc(first + rng.randrange(len(SIZES)), GFP_KERNEL, rng.choice([-1, 0, 1]), cpu)
            seen.append(addr)
            objects.append(addr)
        else:
            machine.cache_free(objects.pop(rng.randrange(len(objects))), cpu)
    return seen


@pytest.mark.parametrize("seed", range(12))
def test_restored_machines_are_the_same(seed: int) -> None:
    rng = random.Random(seed)
    machine = booted(*ZONES, cpus=3, **TUNABLES)
    for size in SIZES:
        machine.slab.create_cache(f"probe-{size}", size, merge=False)
    objects: list[int] = []
    load(machine, rng, objects, 1500)
    for pfn in [machine.page_alloc(0, GFP_KERNEL, -1, 1) for _ in range(100)]:
        machine.page_free(pfn, 0, 1)
    assert machine.pages.zones[1].pcp[1].free_factor > 0
    dump = dumped(machine)
    again = build(config(*ZONES, cpus=3), kernel(**TUNABLES))
    restore_exact(again, dump)
    again.validate()
    assert dumped(again) == dump
    assert sum(z.slab_pages for z in again.pages.zones) == sum(z.slab_pages for z in machine.pages.zones)

    # Objects of full slabs turn up one by one; where they lie and what remains is unchanged.
    for addr in rng.sample(objects, len(objects)):
        assert again.adopt_object(addr, machine.slab.cache_of(addr).index) == addr
    again.validate()
    assert dumped(again) == dump
    assert [s.live for s in again.slab.caches] == [s.live for s in machine.slab.caches]
    assert sum(z.slab_pages for z in again.pages.zones) == sum(z.slab_pages for z in machine.pages.zones)
    # Without the dice, both go on alike.
    machine.slab.defrag_ratio = again.slab.defrag_ratio = 0
    state = rng.getstate()
    here = load(machine, rng, list(objects), 1500)
    rng.setstate(state)
    assert load(again, rng, list(objects), 1500) == here
    again.validate()
    assert dumped(again) == dumped(machine)


def test_pages_in_use_are_adopted_where_they_are() -> None:
    machine = booted(*ZONES, cpus=2, **TUNABLES)
    pfn = machine.page_alloc(3, GFP_KERNEL, 0, 0)
    again = build(config(*ZONES, cpus=2), kernel(**TUNABLES))
    restore_exact(again, dumped(machine))
    assert again.adopt_page(pfn + 8, 3) == -1, "that block is free"
    assert again.adopt_page(pfn, 3) == pfn
    assert again.adopt_page(pfn, 3) == -1, "it has an owner now"
    again.page_free(pfn, 3, 0)
    machine.page_free(pfn, 3, 0)
    assert dumped(again) == dumped(machine)
    again.validate()


def test_dumps_of_other_machines_and_allocators() -> None:
    dump = dumped(booted(*ZONES, cpus=2))
    with pytest.raises(ConfigError, match="no zone Normal of node 0"):
        restore_exact(build(config(open_zone("Normal", 16, 16)), kernel()), dump)
    dump.allocator = "slab"
    with pytest.raises(ConfigError, match="dump of a slab kernel"):
        restore_exact(build(config(*ZONES, cpus=2), kernel()), dump)
