"""
Whatever is asked of a machine, in whatever order: nothing overlaps, nothing is lost, and all of it comes back.

The tests keep their own account of the address ranges that were handed out; the model's validators run beside it.
"""

from __future__ import annotations

import random
from array import array
from bisect import bisect_left, insort
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from small_machines import HIGHATOMIC, booted, free_everything_idle, nr_free, open_zone, zone

from memtrace.config import SlubParams
from memtrace.mm.gfp import (
    GFP_ATOMIC,
    GFP_BIT_ACCOUNT,
    GFP_BIT_MEMALLOC,
    GFP_BIT_RECLAIMABLE,
    GFP_BIT_THISNODE,
    GFP_DMA,
    GFP_DMA32,
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL,
    GFP_NOWAIT,
)
from memtrace.mm.machine import Machine

LAYOUTS = {
    "one zone": [("DMA32", 16, 16, 0)],
    "three zones": [("DMA", 4, 8, 0), ("DMA32", 16, 16, 0), ("Normal", 32, 16, 0)],
    "odd ends": [("DMA", 1, 11, 0), ("DMA32", 12, 21, 0), ("Normal", 33, 9, 0)],
    "two nodes": [("DMA32", 16, 16, 0), ("Normal", 32, 16, 0), ("Normal", 48, 16, 1)],
    "without grouping": [("DMA32", 16, 8, 0)],
}
"""Name, first MiB, MiB and node of each zone."""
OBJECT_GFP = [GFP_KERNEL, GFP_ATOMIC, GFP_NOWAIT, GFP_KERNEL | GFP_BIT_RECLAIMABLE, GFP_KERNEL | GFP_BIT_ACCOUNT,
              GFP_KERNEL | GFP_DMA, GFP_KERNEL | GFP_BIT_THISNODE]
PAGE_GFP = [*OBJECT_GFP, GFP_HIGHUSER_MOVABLE, GFP_HIGHUSER_MOVABLE, GFP_DMA32, GFP_BIT_MEMALLOC]
SIZES = st.one_of(st.integers(0, 300), st.sampled_from([512, 1000, 1024, 2048, 4096, 5000, 8192, 8193, 20000, 300000]))
CACHES = [("small", 40), ("middle", 520), ("large", 1800), ("huge", 6000)]


class Ranges:
    """Half-open address ranges that are handed out; complains of overlaps."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.end: dict[int, int] = {}

    def add(self, start: int, size: int) -> None:
        assert size > 0
        at = bisect_left(self.starts, start)
        if at < len(self.starts):
            assert start + size <= self.starts[at], f"{start:#x}+{size} reaches into {self.starts[at]:#x}"
        if at > 0:
            assert self.end[self.starts[at - 1]] <= start, f"{start:#x} lies in {self.starts[at - 1]:#x}"
        insort(self.starts, start)
        self.end[start] = start + size

    def remove(self, start: int) -> None:
        del self.starts[bisect_left(self.starts, start)]
        del self.end[start]


class AnyMachine(RuleBasedStateMachine):
    """A tiny machine under random load, often short of memory."""

    @initialize(
        layout=st.sampled_from(sorted(LAYOUTS)), cpus=st.integers(1, 3), batch=st.sampled_from([1, 3, 8, 31]),
        high=st.sampled_from([0, 2, 40, 300]), min_partial=st.sampled_from([-1, 0]), marks=st.booleans(),
        cpu_partial=st.sampled_from([-1, 0, 6]), shuffle=st.booleans(), pageblock_order=st.sampled_from([9, 10]),
        memcg=st.booleans(), seed=st.integers(0, 1000),
    )
    def boot(
        self, layout: str, cpus: int, batch: int, high: int, min_partial: int, marks: bool, cpu_partial: int,
        shuffle: bool, pageblock_order: int, memcg: bool, seed: int,
    ) -> None:
        known = LAYOUTS[layout]
        self.nodes = 1 + known[-1][3]
        self.cpus = max(cpus, self.nodes)
        make: Any = zone if marks else open_zone
        self.machine: Machine = booted(
            *(make(*args) for args in known), cpus=self.cpus, batch=batch, high=high, seed=seed, memcg=memcg,
            pageblock_order=pageblock_order,
            slub=SlubParams(cpu_partial=cpu_partial, min_partial=min_partial, freelist_random=shuffle),
        )
        self.min_partial = min_partial
        self.caches = [self.machine.slab.create_cache(name, size) for name, size in CACHES]
        self.untouched = [nr_free(z) for z in self.machine.pages.zones]
        self.ranges = Ranges()
        self.objects: list[int] = []
        self.blocks: list[tuple[int, int]] = []
        self.steps = 0

    # -- objects ----------------------------------------------------------------------------------

    def got(self, addr: int, asked: int) -> None:
        """Enter an object; 0 is out of memory, which may happen to anybody."""
        if addr == 0:
            return
        assert self.machine.last_bytes >= asked
        pfn = addr >> 12
        assert self.machine.pages.zone_of(pfn) >= 0
        assert addr % 8 == 0
        if self.machine.last_cache >= 0:
            assert self.machine.slab.is_live(addr)
        self.ranges.add(addr, self.machine.last_bytes)
        self.objects.append(addr)

    def taken(self, pick: int) -> int:
        """Forget one live object; its address."""
        at = pick % len(self.objects)
        self.objects[at], self.objects[-1] = self.objects[-1], self.objects[at]
        addr = self.objects.pop()
        self.ranges.remove(addr)
        return addr

    @rule(size=SIZES, gfp=st.sampled_from(OBJECT_GFP), cpu=st.integers(0, 2), node=st.integers(-1, 1))
    def kmalloc(self, size: int, gfp: int, cpu: int, node: int) -> None:
        self.machine.it.reset()
        addr = self.machine.kmalloc(size, gfp, min(node, self.nodes - 1), cpu % self.cpus)
        if size == 0:
            assert addr == 16
        else:
            self.got(addr, size)

    @rule(which=st.integers(0, 3), gfp=st.sampled_from(OBJECT_GFP), cpu=st.integers(0, 2), node=st.integers(-1, 1),
          n=st.integers(1, 150))
    def cache_alloc(self, which: int, gfp: int, cpu: int, node: int, n: int) -> None:
        for _ in range(n):
            self.machine.it.reset()
            addr = self.machine.cache_alloc(self.caches[which], gfp, min(node, self.nodes - 1), cpu % self.cpus)
            self.got(addr, CACHES[which][1])

    @rule(which=st.integers(0, 3), cpu=st.integers(0, 2), n=st.integers(1, 60))
    def bulk_alloc(self, which: int, cpu: int, n: int) -> None:
        for _ in range(n):
            self.machine.it.reset()
            self.got(self.machine.bulk_alloc_one(self.caches[which], GFP_KERNEL, cpu % self.cpus), CACHES[which][1])

    @precondition(lambda self: self.objects)
    @rule(seed=st.integers(0, 2**32), cpu=st.integers(0, 2), n=st.integers(1, 200))
    def free(self, seed: int, cpu: int, n: int) -> None:
        rng = random.Random(seed)
        for _ in range(min(n, len(self.objects))):
            self.machine.it.reset()
            addr = self.taken(rng.randrange(1 << 30))
            if rng.random() < 0.5 or self.machine.frames.slab[addr >> 12] < 0:
                self.machine.kfree(addr, cpu % self.cpus)
            else:
                self.machine.cache_free(addr, cpu % self.cpus)
            assert self.machine.frames.slab[addr >> 12] < 0 or not self.machine.slab.is_live(addr)

    @precondition(lambda self: self.objects)
    @rule(seed=st.integers(0, 2**32), cpu=st.integers(0, 2), n=st.integers(1, 80))
    def bulk_free(self, seed: int, cpu: int, n: int) -> None:
        rng = random.Random(seed)
        # Half of the time objects that were allocated together, so that groups of a slab form.
        if rng.random() < 0.5:
            self.objects.sort()
        first = rng.randrange(len(self.objects))
        addrs = [self.taken(rng.randrange(first, len(self.objects)) if len(self.objects) > first else 0)
                 for _ in range(min(n, len(self.objects)))]
        addrs.insert(rng.randrange(len(addrs) + 1), 0)
        self.machine.it.reset()
        self.machine.bulk_free(array("q", addrs), len(addrs), cpu % self.cpus)

    @rule(addr=st.sampled_from([0, 16]), cpu=st.integers(0, 2))
    def free_nothing(self, addr: int, cpu: int) -> None:
        self.machine.it.reset()
        self.machine.kfree(addr, cpu % self.cpus)

    # -- pages ------------------------------------------------------------------------------------

    @rule(order=st.integers(0, 10), gfp=st.sampled_from(PAGE_GFP), cpu=st.integers(0, 2), node=st.integers(-1, 1),
          n=st.integers(1, 40))
    def page_alloc(self, order: int, gfp: int, cpu: int, node: int, n: int) -> None:
        for _ in range(n):
            self.machine.it.reset()
            pfn = self.machine.page_alloc(order, gfp, min(node, self.nodes - 1), cpu % self.cpus)
            if pfn < 0:
                return
            assert pfn % (1 << order) == 0
            at = self.machine.pages.zones[self.machine.pages.zone_of(pfn)]
            assert pfn + (1 << order) <= at.end_pfn
            if gfp & 0xF == GFP_DMA:
                assert at.zone_idx == 0
            if gfp & 0xF == GFP_DMA32:
                assert at.zone_idx <= 1
            if gfp & GFP_BIT_THISNODE:
                assert at.node == (min(node, self.nodes - 1) if node >= 0 else self.node_of(cpu % self.cpus))
            self.ranges.add(pfn << 12, 4096 << order)
            self.blocks.append((pfn, order))

    def node_of(self, cpu: int) -> int:
        return int(self.machine.pages.cpu_node[cpu])

    @precondition(lambda self: self.blocks)
    @rule(seed=st.integers(0, 2**32), cpu=st.integers(0, 2), n=st.integers(1, 100))
    def page_free(self, seed: int, cpu: int, n: int) -> None:
        rng = random.Random(seed)
        for _ in range(min(n, len(self.blocks))):
            self.machine.it.reset()
            pfn, order = self.blocks.pop(rng.randrange(len(self.blocks)))
            self.ranges.remove(pfn << 12)
            self.machine.page_free(pfn, order, cpu % self.cpus)

    @precondition(lambda self: self.blocks)
    @rule(pick=st.integers(0, 2**30), order=st.integers(0, 9))
    def split(self, pick: int, order: int) -> None:
        pfn, whole = self.blocks[pick % len(self.blocks)]
        if order >= whole:
            return
        self.blocks.remove((pfn, whole))
        self.ranges.remove(pfn << 12)
        self.machine.pages.split_page(pfn, whole, order)
        for piece in range(pfn, pfn + (1 << whole), 1 << order):
            self.blocks.append((piece, order))
            self.ranges.add(piece << 12, 4096 << order)

    @rule(which=st.integers(0, 3))
    def flush(self, which: int) -> None:
        self.machine.it.reset()
        self.machine.slab.flush_all(self.caches[which])

    @rule()
    def drain(self) -> None:
        self.machine.it.reset()
        self.machine.pages.drain_all_pages()

    # -- what always holds ------------------------------------------------------------------------

    @invariant()
    def sound(self) -> None:
        self.steps += 1
        if self.steps % 3 == 0:
            self.machine.validate()
            self.account()

    def account(self) -> None:
        """Pages that nobody holds: free, parked, or in slabs."""
        held = sum(1 << order for _, order in self.blocks)
        large = sum(self.ranges.end[addr] - addr for addr in self.objects if self.machine.frames.slab[addr >> 12] < 0)
        zones = self.machine.pages.zones
        slabs = sum(z.slab_pages for z in zones)
        idle = sum(z.free_pages + sum(pcp.count for pcp in z.pcp) for z in zones)
        assert idle + slabs + held + large // 4096 == sum(z.given_pages for z in zones)
        in_slabs = sum(self.machine.frames.slab[addr >> 12] >= 0 for addr in self.objects)
        assert sum(s.live for s in self.machine.slab.caches) == in_slabs

    def teardown(self) -> None:
        """Free everything: what remains is what caches legitimately keep, and without that nothing."""
        if not hasattr(self, "machine"):
            return
        machine = self.machine
        while self.objects:
            machine.kfree(self.taken(0), 0)
        for pfn, order in self.blocks:
            self.ranges.remove(pfn << 12)
            machine.page_free(pfn, order, 0)
        assert self.ranges.starts == []
        free_everything_idle(machine)
        machine.validate()
        kept = 0
        for s in machine.slab.caches:
            assert s.live == 0
            for node in range(self.nodes):
                assert s.nr_slabs[node] == s.nr_partial[node] <= s.min_partial
                kept += s.nr_slabs[node] << s.order
        zones = machine.pages.zones
        # A slab of the smallest order may be among those kept.
        assert sum(z.slab_pages for z in zones) <= kept
        assert all(z.free_pages + z.slab_pages == z.given_pages for z in zones)
        if self.min_partial == 0:
            for z, untouched in zip(zones, self.untouched, strict=True):
                if HIGHATOMIC not in list(z.pageblock_type):
                    assert nr_free(z) == untouched
                assert z.free_pages == sum(n << order for order, n in enumerate(untouched))


AnyMachine.TestCase.settings = settings(stateful_step_count=60)
TestAnyMachine = AnyMachine.TestCase
