"""Random calls by hand against a dictionary of what was handed out, under every allocator."""

from __future__ import annotations

import random
import warnings
from bisect import bisect, insort
from typing import Any

import pytest

import memtrace as mt
from memtrace.mm.boot import ALLOCATORS
from memtrace.mm.constants import MAX_ORDER, PAGE_SHIFT, SLAB_HWCACHE_ALIGN, SLAB_TYPESAFE_BY_RCU
from memtrace.mm.vmalloc import VMALLOC_START

STEPS = 1500
VALIDATE_EVERY = 150


class Ranges:
    """Bytes in use; a range that overlaps another is refused."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.size: dict[int, int] = {}

    def add(self, start: int, size: int) -> None:
        at = bisect(self.starts, start)
        before = self.starts[at - 1] if at else None
        after = self.starts[at] if at < len(self.starts) else None
        assert before is None or before + self.size[before] <= start, f"{start:#x} lies within {before:#x}"
        assert after is None or start + size <= after, f"{start:#x} reaches into {after:#x}"
        insort(self.starts, start)
        self.size[start] = size

    def remove(self, start: int) -> None:
        del self.starts[bisect(self.starts, start) - 1]
        del self.size[start]


class Caller:
    """Makes random calls, and remembers what it was given."""

    def __init__(self, kernel: str, allocator: str, seed: int) -> None:
        self.rng = random.Random(seed)
        self.k = mt.Kernel(cpus=3, memory="96M", allocator=allocator, kernel=kernel)
        self.ranges = Ranges()
        self.objects: list[int] = []
        self.mapped: list[int] = []
        self.blocks: list[tuple[int, int]] = []
        self.caches: list[tuple[mt.Cache, int, int, list[int]]] = []
        self.names = 0

    def step(self) -> None:
        calls = [self.kmalloc, self.kmalloc, self.kfree, self.krealloc, self.kvmalloc, self.kvfree, self.kfree_rcu,
                 self.create, self.cache_alloc, self.cache_alloc, self.cache_free, self.bulk, self.shrink, self.destroy,
                 self.pages_alloc, self.pages_free, self.sleep]  # fmt: skip
        with self.k.on(self.rng.randrange(3)):
            self.rng.choice(calls)()

    def take(self, objects: list[Any]) -> Any:
        """Any of them, which is no longer there."""
        if not objects:
            return None
        at = self.rng.randrange(len(objects))
        objects[at], objects[-1] = objects[-1], objects[at]
        return objects.pop()

    def got(self, p: int, size: int, align: int = 8) -> int:
        assert p > 16, "there is enough memory"
        assert p % align == 0
        assert self.k.ksize(p) >= size
        self.ranges.add(p, size)
        return p

    def kmalloc(self) -> None:
        size = self.rng.choice([1, 8, 9, 31, 96, 100, 192, 500, 1024, 4000, 4096, 5000, 9000, 40000])
        self.objects.append(self.got(self.k.kzalloc(size) if size % 2 else self.k.kmalloc(size), size))

    def kfree(self) -> None:
        for _ in range(self.rng.choice([1, 1, 10])):
            p = self.take(self.objects)
            if p:
                self.k.kfree(p)
                self.ranges.remove(p)

    def krealloc(self) -> None:
        p = self.take(self.objects)
        size = self.rng.choice([1, 50, 200, 3000, 20000])
        before = self.k.ksize(p or 0)
        new = self.k.krealloc(p or mt.NULL, size)
        assert (new == p) == (before >= size)
        if p:
            self.ranges.remove(p)
        self.objects.append(self.got(new, size))

    def kfree_rcu(self) -> None:
        """The object keeps its place until a grace period has passed."""
        p = self.take(self.objects)
        if p:
            self.k.kfree_rcu(p)

    def kvmalloc(self) -> None:
        size = self.rng.choice([100, 5000, 70000, 200000])
        p = self.k.vmalloc(size) if self.rng.random() < 0.5 else self.k.kvmalloc(size)
        assert p
        self.mapped.append(p)
        if p < VMALLOC_START:
            self.ranges.add(p, size)

    def kvfree(self) -> None:
        p = self.take(self.mapped)
        if p:
            self.k.kvfree(p)
            if p < VMALLOC_START:
                self.ranges.remove(p)

    def create(self) -> None:
        self.names += 1
        size = self.rng.choice([8, 40, 120, 250, 700, 2000, 5000])
        align = self.rng.choice([0, 0, 16, 64, 256])
        flags = self.rng.choice([0, 0, SLAB_HWCACHE_ALIGN, SLAB_TYPESAFE_BY_RCU])
        cache = self.k.kmem_cache_create(f"probe-{self.names}", size, align, flags, ctor=self.rng.random() < 0.3)
        assert cache is not None
        self.caches.append((cache, size, max(align, 1), []))

    def cache_alloc(self) -> None:
        if self.caches:
            cache, size, align, objects = self.rng.choice(self.caches)
            for _ in range(self.rng.choice([1, 1, 30])):
                p = self.k.kmem_cache_alloc(cache)
                self.ranges.add(p, size)
                assert p % align == 0
                objects.append(p)

    def cache_free(self) -> None:
        if self.caches:
            cache, _, _, objects = self.rng.choice(self.caches)
            for _ in range(self.rng.choice([1, 10])):
                p = self.take(objects)
                if p:
                    self.k.kmem_cache_free(cache, p)
                    self.ranges.remove(p)

    def bulk(self) -> None:
        if self.caches:
            cache, size, align, objects = self.rng.choice(self.caches)
            if self.rng.random() < 0.5:
                n = self.rng.randrange(1, 40)
                some = self.k.kmem_cache_alloc_bulk(cache, mt.GFP_KERNEL, n)
                assert len(some) == n
                for p in some:
                    assert p % align == 0
                    self.ranges.add(p, size)
                objects += some
            else:
                some = [self.take(objects) for _ in range(min(len(objects), 20))]
                self.k.kmem_cache_free_bulk(cache, some)
                for p in some:
                    self.ranges.remove(p)

    def shrink(self) -> None:
        if self.caches:
            self.k.kmem_cache_shrink(self.rng.choice(self.caches)[0])

    def destroy(self) -> None:
        idle = [i for i, (_, _, _, objects) in enumerate(self.caches) if not objects]
        if idle:
            cache = self.caches.pop(self.rng.choice(idle))[0]
            assert self.k.kmem_cache_destroy(cache)

    def pages_alloc(self) -> None:
        order = self.rng.choice([0, 0, 1, 3])
        page = self.k.alloc_pages(mt.GFP_KERNEL, order)
        self.ranges.add(self.k.page_address(page), 4096 << order)
        self.blocks.append((page, order))

    def pages_free(self) -> None:
        block = self.take(self.blocks)
        if block:
            self.k.free_pages(*block)
            self.ranges.remove(self.k.page_address(block[0]))

    def sleep(self) -> None:
        """Long enough for everything that waits for a grace period."""
        self.k.advance("5100ms")
        kept = {*self.objects, *self.mapped, *(page << PAGE_SHIFT for page, _ in self.blocks)}
        kept.update(p for _, _, _, objects in self.caches for p in objects)
        for p in [p for p in self.ranges.starts if p not in kept]:
            self.ranges.remove(p)
        assert not self.k.rcu.waiting

    def free_all(self) -> None:
        for p in self.objects:
            self.k.kfree(p)
        for p in self.mapped:
            self.k.kvfree(p)
        for block in self.blocks:
            self.k.free_pages(*block)
        for cache, _, _, objects in self.caches:
            for p in objects:
                self.k.kmem_cache_free(cache, p)
            assert self.k.kmem_cache_destroy(cache)
        self.k.advance("6s")


def check_blocks(k: mt.Kernel) -> None:
    """Blocks leave no page out and name none twice, and count what buddyinfo and zoneinfo count."""
    free: dict[int, int] = dict.fromkeys(range(MAX_ORDER + 1), 0)
    parked, at = 0, 0
    while at < k.machine.frames.nr_frames:
        for block in k.blocks(at, MAX_ORDER):
            assert block.pfn == at
            at += block.pages
            if block.state == "free":
                free[block.order] += 1
                assert (block.pfn ^ block.buddy) == block.pages
            parked += block.pages * (block.state == "pcp")
    assert free == k.buddyinfo().sum().to_dict()
    assert parked == k.zoneinfo().pcp_pages.sum()


def check_slabs(caller: Caller) -> None:
    """Pieces leave no byte out and name none twice; objects in use are those that were handed out."""
    k = caller.k
    live, slabs = set(), k.slabs()
    for view in slabs:
        at = 0
        for piece in view.pieces:
            assert (piece.offset, piece.size > 0) == (at, True)
            at += piece.size
            if piece.state == "live":
                live.add((view.pfn << PAGE_SHIFT) + piece.offset)
        assert at == 4096 << view.order
        assert view.place != "full" or view.count("free") == 0
        if k.slab.name == "slub" and not hasattr(k.slab, "sheaf_objects"):
            assert {f"CPU {piece.cpu}" for piece in view.pieces if piece.cpu >= 0} <= {view.place}
    given = {p for p in caller.ranges.starts if k.machine.frames.slab[p >> PAGE_SHIFT] >= 0 and k.slab.is_live(p)}
    # Objects that pages of kfree_rcu and the like are kept in are nobody's here.
    assert given <= live
    assert len(live) == (sum(s.live for s in k.slab.caches) if k.slab.name != "slob"
                         else sum(word & 0xFFFF > 0 for word in k.slab.live.values()))
    if k.slab.name != "slob":
        info = k.slabinfo()
        assert len(slabs) == info.num_slabs.sum()
        cached = sum(view.count("cached") + view.count("free") for view in slabs)
        assert cached + len(live) == info.num_objs.sum()
        for name in info.index[:3]:
            assert k.slabs(name) == [view for view in slabs if view.cache == name]


def free_pages(k: mt.Kernel) -> int:
    """Pages that nobody uses, when no cache, CPU or array keeps any."""
    for s in k.slab.caches:
        if not s.gone:
            k.slab.shrink_cache(s, 0)
    k.machine.pages.drain_all_pages()
    return sum(zone.free_pages for zone in k.machine.pages.zones) + sum(len(cpu.pages) for cpu in k.rcu.cpus)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("kernel", "allocator"), [*(("6.1", name) for name in ALLOCATORS), ("6.18", "slub"),
                                                   ("2.6.24", "slub")])
def test_random_calls(kernel: str, allocator: str, seed: int) -> None:
    """No two live objects share a byte, alignment and size are kept, and at the end all memory is back."""
    caller = Caller(kernel, allocator, seed)
    before = free_pages(caller.k)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(STEPS):
            caller.step()
            if step % VALIDATE_EVERY == 0:
                caller.k.validate()
                check_blocks(caller.k)
                check_slabs(caller)
        caller.free_all()
    caller.k.validate()
    assert free_pages(caller.k) == before
