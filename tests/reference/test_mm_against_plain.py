"""The compiled model equals a slow one of Python lists: same addresses, same counters, same lists in the same order."""

from __future__ import annotations

import random
from array import array

from plain_pages import Pcp, PlainPages, PlainZone
from plain_slub import Cache, PlainSlub
from small_machines import (
    booted,
    cpu_freelist,
    cpu_partial,
    cpu_slab,
    free_lists,
    freelist,
    node_partial,
    pcp_list,
    stats,
)
from small_streams import FLAGS, KERNEL, LAYOUTS, REQUESTS, marked

from memtrace.config import SlubParams
from memtrace.mm.machine import Machine

SIZES = (24, 200, 512, 1000, 3000, 8000)


class Pair:
    """The same machine twice; every operation is done on both and compared."""

    def __init__(self, rng: random.Random) -> None:
        layout = rng.choice(LAYOUTS)
        nodes = 1 + layout[-1][3]
        self.cpus = rng.randint(nodes, 3)
        self.remote = rng.random() < 0.5
        batch, high = rng.choice([1, 2, 7, 31]), rng.choice([0, 3, 30, 100, 500])
        order = rng.choice([9, 10])
        params = SlubParams(
            max_order=rng.choice([0, 1, 3]), cpu_partial=rng.choice([-1, 0, 5]), min_partial=rng.choice([-1, 0, 2]),
            remote_node_defrag_ratio=1024 if self.remote else 0,
        )
        self.model: Machine = booted(
            *marked(rng, layout), cpus=self.cpus, batch=batch, high=high, pageblock_order=order,
            slub=params,
        )
        pages = self.model.pages
        self.pages = PlainPages([
            PlainZone(
                z.name, z.node, z.zone_idx, z.start_pfn, z.end_pfn,
                {"min": z.watermark_min, "low": z.watermark_low, "high": z.watermark_high}, tuple(z.lowmem_reserve),
                order, z.name == "Normal" and any(o.name == "DMA32" and o.node == z.node for o in pages.zones),
                [Pcp(batch, high) for _ in range(self.cpus)],
            )
            for z in pages.zones
        ], list(pages.cpu_node), sum(z.managed for z in pages.zones) >= 5 << order, order == 9)
        self.pages.boot()
        names = [self.model.slab.create_cache(f"probe-{size}", size, merge=False) for size in SIZES]
        self.first = names[0]
        self.slub = PlainSlub(self.pages, [
            Cache(f"probe-{s.size}", s.size, s.order, s.min_order, s.min_partial, s.cpu_partial_slabs, frozenset())
            for s in (self.model.slab.caches[i] for i in names)
        ], self.remote)
        self.greedy = rng.random() < 0.3
        self.objects: list[int] = []
        self.blocks: list[tuple[int, int]] = []
        self.reclaimed = 0

    def step(self, rng: random.Random) -> None:
        """One random operation, often a burst."""
        cpu = rng.randrange(self.cpus)
        node = rng.choice([-1, -1, 0, self.model.nr_nodes - 1])
        flags = set(rng.choice(REQUESTS))
        gfp = sum(FLAGS[flag] for flag in flags)
        what = rng.random()
        if self.greedy and rng.random() < 0.4:
            what *= 0.4
        if what < 0.35:
            self.alloc(rng.randrange(len(SIZES)), flags, gfp, node, cpu, rng.choice([1, 1, 5, 40]))
        elif what < 0.42:
            self.bulk_alloc(rng.randrange(len(SIZES)), cpu, rng.choice([3, 30]))
        elif what < 0.65:
            rng.shuffle(self.objects)
            for _ in range(min(len(self.objects), rng.choice([1, 1, 6, 60]))):
                addr = self.objects.pop()
                self.model.cache_free(addr, cpu)
                self.slub.free(addr, cpu)
        elif what < 0.70:
            self.objects.sort(key=lambda addr: (addr >> 14, rng.random()))
            addrs = [self.objects.pop() for _ in range(min(len(self.objects), rng.choice([2, 9, 50])))]
            self.model.bulk_free(array("q", addrs), len(addrs), cpu)
            self.slub.bulk_free(addrs, cpu)
        elif what < 0.85:
            self.page_alloc(rng.choice([0, 0, 0, 1, 2, 3, 4, 6, 9, 10]), flags, gfp, node, cpu, rng.choice([1, 1, 20]))
        elif what < 0.97:
            rng.shuffle(self.blocks)
            for _ in range(min(len(self.blocks), rng.choice([1, 1, 20]))):
                pfn, order = self.blocks.pop()
                self.model.page_free(pfn, order, cpu)
                self.pages.release(pfn, order, cpu)
        elif what < 0.99:
            at = rng.randrange(len(SIZES))
            self.model.slab.flush_all(self.first + at)
            self.slub.flush(self.slub.caches[at], self.cpus)
        elif what < 0.999:
            self.model.pages.drain_all_pages()
            self.pages.drain_all()
        else:
            self.fragment(node, cpu)

    def fragment(self, node: int, cpu: int) -> None:
        """Take all memory by single pages, and give every second one back."""
        while self.page_alloc(0, {"MEMALLOC"}, FLAGS["MEMALLOC"], node, cpu, 1):
            pass
        for pfn, order in [block for block in self.blocks if block[0] % 2 and block[1] == 0]:
            self.blocks.remove((pfn, order))
            self.model.page_free(pfn, order, cpu)
            self.pages.release(pfn, order, cpu)

    def alloc(self, at: int, flags: set[str], gfp: int, node: int, cpu: int, n: int) -> None:
        for _ in range(n):
            addr = self.model.cache_alloc(self.first + at, gfp, node, cpu)
            assert addr == self.slub.alloc(self.slub.caches[at], flags, node, cpu)
            self.lose_reclaimed()
            self.objects += [addr] * (addr != 0)

    def bulk_alloc(self, at: int, cpu: int, n: int) -> None:
        for _ in range(n):
            addr = self.model.bulk_alloc_one(self.first + at, FLAGS["DIRECT_RECLAIM"] | FLAGS["KSWAPD"], cpu)
            assert addr == self.slub.alloc(self.slub.caches[at], set(KERNEL), -1, cpu, bulk=True)
            self.lose_reclaimed()
            self.objects += [addr] * (addr != 0)

    def page_alloc(self, order: int, flags: set[str], gfp: int, node: int, cpu: int, n: int) -> bool:
        """Whether all n blocks were to be had."""
        pfn = -1
        for _ in range(n):
            pfn = self.model.page_alloc(order, gfp, node, cpu)
            self.lose_reclaimed()
            assert pfn == (-1 if (plain := self.pages.alloc(flags, order, node, cpu)) is None else plain)
            self.blocks += [(pfn, order)] * (pfn >= 0)
            if pfn >= 0 and order == 0 and "MOVABLE" in flags:
                self.model.pages.lru_add(self.model.pages.zones[self.model.pages.zone_of(pfn)], pfn, gfp)
        return pfn >= 0

    def lose_reclaimed(self) -> None:
        """Forget pages that both have taken back to serve a request."""
        for pfn, _ in self.model.pages.take_journal():
            self.blocks.remove((pfn, 0))
            self.reclaimed += 1

    def compare(self) -> None:
        """Every list, in order, and every counter."""
        self.model.validate()
        self.pages.verify()
        self.slub.verify()
        plain_cache = self.pages.cache
        for z, plain in zip(self.model.pages.zones, self.pages.zones, strict=True):
            assert free_lists(self.model, z) == {key: pfns for key, pfns in plain.lists.items() if pfns}
            assert (z.free_pages, z.boost, z.nr_reserved_highatomic) == (plain.free(), plain.boost, plain.reserved)
            assert self.model.frames.members(z.lru0) == plain_cache[z.start_pfn]
            assert list(z.pageblock_type) == [plain.types[z.pageblock0 + i] for i in range(z.nr_pageblocks)]
            for cpu, pcp in enumerate(plain.pcp):
                assert (z.pcp[cpu].count, z.pcp[cpu].free_factor) == (pcp.count(), pcp.factor)
                for (order, mt), blocks in pcp.lists.items():
                    assert pcp_list(self.model, z, cpu, order, mt) == [pfn for pfn, _ in blocks]
        for at, cache in enumerate(self.slub.caches):
            self.compare_cache(self.first + at, cache)

    def compare_cache(self, index: int, cache: Cache) -> None:
        m = self.model
        for cpu in range(self.cpus):
            assert stats(m, index, cpu) == {name: n for name, n in cache.counts[cpu].items() if n}
            slab = cache.slab.get(cpu)
            assert cpu_slab(m, index, cpu) == (slab.pfn if slab else -1)
            assert cpu_freelist(m, index, cpu) == cache.private[cpu]
            assert cpu_partial(m, index, cpu) == [s.pfn for s in cache.waiting[cpu]]
        for node in range(m.nr_nodes):
            assert node_partial(m, index, node) == [s.pfn for s in cache.partial[node]]
            assert m.slab.caches[index].nr_slabs[node] == sum(s.node == node for s in cache.slabs)
        for slab in cache.slabs:
            assert freelist(m, slab.pfn) == slab.free


def play(seed: int, steps: int) -> Pair:
    rng = random.Random(seed)
    pair = Pair(rng)
    for i in range(steps):
        pair.step(rng)
        if i % 40 == 39:
            pair.compare()
    return pair


REACHED = {
    "alloc_fastpath", "alloc_slowpath", "free_fastpath", "free_slowpath", "free_frozen", "free_add_partial",
    "free_remove_partial", "alloc_from_partial", "alloc_slab", "alloc_refill", "alloc_node_mismatch", "free_slab",
    "cpuslab_flush", "deactivate_full", "deactivate_empty", "deactivate_to_head", "deactivate_to_tail",
    "deactivate_remote_frees", "deactivate_bypass", "order_fallback", "cpu_partial_alloc", "cpu_partial_free",
    "cpu_partial_node", "cpu_partial_drain",
}


STREAMS = 240
STEPS = 120


def test_random_streams() -> None:
    """Streams over all kinds of small machines, compared after every 40 steps; a stream's number is its seed."""
    reached: set[str] = set()
    failed = boosted_streams = reclaiming = reserves = 0
    for seed in range(STREAMS):
        try:
            pair = play(seed, STEPS)
        except AssertionError as error:
            raise AssertionError(f"stream {seed}: {error}") from error
        for cache in pair.slub.caches:
            for count in cache.counts.values():
                reached |= count.keys()
        failed += pair.model.pages.alloc_failures > 0
        boosted_streams += any(zone.boost for zone in pair.model.pages.zones)
        reclaiming += pair.reclaimed > 0
        reserves += pair.pages.reserves > 0
    assert reached == REACHED, "streams that leave a counter at zero do not test it"
    assert failed > STREAMS // 4, "streams must run short of memory"
    assert boosted_streams > STREAMS // 40, "streams must fragment"
    assert reclaiming > STREAMS // 8, "streams must need more than is free"
    assert reserves > STREAMS // 40, "streams must make urgent requests"
