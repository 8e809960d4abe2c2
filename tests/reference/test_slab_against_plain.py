"""The compiled SLAB equals a slow one of Python lists: same addresses, same counters, same lists in the same order."""

from __future__ import annotations

import random
from array import array
from dataclasses import replace

from plain_pages import Pcp, PlainPages, PlainZone
from plain_slab import Array, Cache, Node, PlainSlab
from small_machines import config, free_lists, kernel
from small_streams import FLAGS, KERNEL, LAYOUTS, REQUESTS, marked

from memtrace.config import SlabParams
from memtrace.mm.boot import boot
from memtrace.mm.constants import SLAB_RECLAIM_ACCOUNT, SLAB_TYPESAFE_BY_RCU, SLABS_FREE, SLABS_FULL, SLABS_PARTIAL
from memtrace.mm.machine import Machine
from memtrace.mm.slab_geometry import OFF_SLAB
from memtrace.mm.slab_slabs import ArrayCache, SlabCache
from memtrace.mm.stats import NR_SLAB_STATS, SLAB_STATS

PROBES = ((24, 0, False), (200, 0, False), (256, SLAB_TYPESAFE_BY_RCU, False), (320, 0, False), (700, 0, True),
          (1000, SLAB_RECLAIM_ACCOUNT, False), (3000, 0, False), (8000, 0, False))
LISTS = {"partial": SLABS_PARTIAL, "full": SLABS_FULL, "free": SLABS_FREE}
HZ = 250


class Pair:
    """The same machine twice; every operation is done on both and compared."""

    def __init__(self, rng: random.Random) -> None:
        layout = rng.choice(LAYOUTS)
        nodes = 1 + layout[-1][3]
        self.cpus = rng.randint(nodes, 3)
        batch, high = rng.choice([1, 7, 31]), rng.choice([0, 30, 500])
        limit = rng.choice([-1, -1, 1, 5, 20])
        params = SlabParams(limit=limit, batchcount=rng.choice([-1, 1, 4]), shared=rng.choice([-1, 0, 2]))
        tunables = replace(kernel(batch=batch, high=high), slab=params)
        self.model: Machine = boot(config(*marked(rng, layout), cpus=self.cpus), tunables, 0, "slab")
        pages = self.model.pages
        self.pages = PlainPages([
            PlainZone(
                z.name, z.node, z.zone_idx, z.start_pfn, z.end_pfn,
                {"min": z.watermark_min, "low": z.watermark_low, "high": z.watermark_high}, tuple(z.lowmem_reserve),
                9, z.name == "Normal" and any(o.name == "DMA32" and o.node == z.node for o in pages.zones),
                [Pcp(batch, high) for _ in range(self.cpus)],
            )
            for z in pages.zones
        ], list(pages.cpu_node), sum(z.managed for z in pages.zones) >= 5 << 9, True)
        self.pages.boot()
        slab = self.model.slab
        self.probes = [
            slab.create_cache(f"probe-{size}", size, 8, flags, ctor, merge=False) for size, flags, ctor in PROBES
        ]
        self.plain = PlainSlab(self.pages, [plain_cache(s) for s in slab.caches], nodes, self.cpus)
        for s, cache in zip(slab.caches, self.plain.caches, strict=True):
            if s.kind == OFF_SLAB:
                cache.index_cache = self.plain.caches[slab.find_cache("kmalloc-32")]
        self.greedy = rng.random() < 0.4
        self.objects: list[int] = []
        self.now = 0

    def step(self, rng: random.Random) -> None:
        """One random operation, often a burst."""
        cpu = rng.randrange(self.cpus)
        what = rng.random()
        if self.greedy and rng.random() < 0.4:
            what *= 0.42
        self.model.it.reset()
        if what < 0.42:
            self.alloc(rng, cpu)
        elif what < 0.75:
            if rng.random() < 0.5:
                rng.shuffle(self.objects)
            for _ in range(min(len(self.objects), rng.choice([1, 1, 6, 60, 300]))):
                self.free(self.objects.pop(), cpu)
        elif what < 0.82:
            addrs = [self.objects.pop() for _ in range(min(len(self.objects), rng.choice([2, 9, 50])))]
            self.model.bulk_free(array("q", addrs), len(addrs), cpu)
            self.plain.bulk_free(addrs, cpu)
        elif what < 0.97:
            self.now += rng.choice([1, 400, 1100])
            self.model.slab.cache_reap(cpu, self.now)
            self.plain.reap(cpu, self.now, HZ)
        else:
            at = rng.choice(self.probes)
            assert self.model.slab.shrink_cache(self.model.slab.caches[at], cpu) == self.plain.shrink(
                self.plain.caches[at], cpu)

    def alloc(self, rng: random.Random, cpu: int) -> None:
        flags = set(rng.choice(REQUESTS))
        node = rng.choice([-1, -1, 0, self.model.nr_nodes - 1])
        at = rng.choice(self.probes)
        bulk = rng.random() < 0.2
        if bulk:
            flags, node = set(KERNEL), -1
        gfp = sum(FLAGS[flag] for flag in flags)
        for _ in range(rng.choice([1, 1, 5, 40, 300])):
            addr = self.model.bulk_alloc_one(at, gfp, cpu) if bulk else self.model.cache_alloc(at, gfp, node, cpu)
            assert addr == self.plain.alloc(self.plain.caches[at], flags, node, cpu)
            self.objects += [addr] * (addr != 0)

    def free(self, addr: int, cpu: int) -> None:
        self.model.cache_free(addr, cpu)
        self.plain.free(addr, cpu)

    def compare(self) -> None:
        """Every list and array, in order, and every counter."""
        self.model.validate()
        self.plain.verify()
        for z, plain in zip(self.model.pages.zones, self.pages.zones, strict=True):
            assert free_lists(self.model, z) == {key: pfns for key, pfns in plain.lists.items() if pfns}
        for s, cache in zip(self.model.slab.caches, self.plain.caches, strict=True):
            self.compare_cache(s, cache)

    def compare_cache(self, s: SlabCache, cache: Cache) -> None:
        for cpu in range(self.cpus):
            row = list(s.stat)[cpu * NR_SLAB_STATS : (cpu + 1) * NR_SLAB_STATS]
            assert {name: n for name, n in zip(SLAB_STATS, row, strict=True) if n} == {
                name: n for name, n in cache.counts[cpu].items() if n}
            compare_array(s.cpu_cache[cpu], cache.arrays[cpu])
        assert s.max_freeable == cache.most_free
        for at, node in enumerate(cache.nodes):
            n = s.nodes[at]
            for name, which in LISTS.items():
                assert self.model.slab.slabs_on(s.index, at, which) == [slab.pfn for slab in node.lists[name]]
            assert (n.free_objects, n.colour_next) == (node.idle(), node.colour)
            assert bool(n.free_touched) == node.free_touched
            if node.shared is not None:
                compare_array(n.shared, node.shared)
            for other, alien in node.alien.items():
                compare_array(n.alien[other], alien)


def compare_array(ac: ArrayCache, plain: Array) -> None:
    assert list(ac.entry)[: ac.avail] == plain.objects
    assert bool(ac.touched) == plain.touched


def plain_cache(s: SlabCache) -> Cache:
    return Cache(
        s.name, s.size, s.objects, s.order, max(1, s.colour), s.colour_off, s.batchcount,
        frozenset(["DMA"] if s.allocflags & 1 else ["RECLAIMABLE"] if s.allocflags & 0x10 else []), None,
        [Array(s.limit) for _ in s.cpu_cache],
        [Node(n.free_limit, Array(n.shared.limit) if n.shared.limit else None,
              {other: Array(alien.limit) for other, alien in enumerate(n.alien) if alien is not None})
         for n in s.nodes],
    )  # fmt: skip


STREAMS = 40
STEPS = 120


def test_random_streams() -> None:
    """Streams over all kinds of small machines, compared after every 40 steps; a stream's number is its seed."""
    reached: set[str] = set()
    short = reaped = 0
    for seed in range(STREAMS):
        rng = random.Random(seed)
        pair = Pair(rng)
        try:
            for i in range(STEPS):
                pair.step(rng)
                if i % 40 == 39:
                    pair.compare()
        except AssertionError as error:
            raise AssertionError(f"stream {seed}: {error}") from error
        for cache in pair.plain.caches:
            for count in cache.counts.values():
                reached |= {name for name, n in count.items() if n}
        short += pair.model.pages.alloc_failures > 0
        reaped += any(count["reaped"] for cache in pair.plain.caches for count in cache.counts.values())
    assert reached == set(SLAB_STATS), "streams that leave a counter at zero do not test it"
    assert short > STREAMS // 10, "streams must run short of memory"
    assert reaped > STREAMS // 8, "streams must reap slabs"
