"""SLOB equals a slow one that keeps a map of each page: same addresses, same pages in the same order, same gaps."""

from __future__ import annotations

import random

import pytest
from plain_slob import PlainSlob
from small_machines import config, kernel, open_zone

from memtrace.mm.boot import boot
from memtrace.mm.machine import Machine

TYPESAFE = 0x80000
GFP_KERNEL = 0xCC0
SIZES = (1, 8, 13, 24, 64, 96, 200, 247, 248, 256, 300, 512, 1015, 1016, 1024, 2000, 2048, 4000, 4087)
CACHES = ((40, 8), (135, 8), (192, 64), (640, 64), (1096, 8), (2080, 64), (4094, 8))


class Pair:
    """The same SLOB twice; every operation is done on both and compared."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.model: Machine = boot(config(open_zone("DMA32", 16, 16), cpus=2), kernel(), 0, "slob")
        self.plain = PlainSlob()
        self.caches = [self.model.slab.create_cache(f"probe-{size}", size, align) for size, align in CACHES]
        self.rcu = self.model.slab.create_cache("probe-rcu", 96, 8, TYPESAFE)
        self.objects: list[tuple[int, int, int, bool]] = []
        self.waiting: list[tuple[int, int]] = []
        self.greedy = rng.random() < 0.5

    def alloc(self) -> None:
        kind = self.rng.random()
        if kind < 0.6:
            size = self.rng.choice(SIZES)
            total, align, header = size + 8, max(8, size if size & (size - 1) == 0 else 8), 8
            addr = self.model.kmalloc(size, GFP_KERNEL, -1, self.rng.randrange(2))
            assert self.model.last_bytes == total
        elif kind < 0.9:
            index = self.rng.randrange(len(CACHES))
            size, align = CACHES[index]
            total, header = (size + 1) // 2 * 2, 0
            addr = self.model.cache_alloc(self.caches[index], GFP_KERNEL, -1, self.rng.randrange(2))
        else:
            total, align, header = 96 + 24, 8, 0
            addr = self.model.cache_alloc(self.rcu, GFP_KERNEL, -1, 0)
        assert addr
        block = self.plain.alloc(total, align, header)
        if block is None:
            assert addr >> 12 not in self.plain.free, "the model found room where there is none"
            block = self.plain.alloc(total, align, header, addr >> 12)
        assert block == addr - header
        self.objects.append((addr, block, total, kind >= 0.9))

    def free(self) -> None:
        addr, block, total, rcu = self.objects.pop(self.rng.randrange(len(self.objects)))
        self.model.kfree(addr, self.rng.randrange(2))
        if rcu:
            self.waiting.append((block, total))
        else:
            self.plain.release(block, total)

    def end_grace_periods(self, n: int) -> None:
        self.model.slab.grace_period_over(n)
        for block, total in self.waiting[:n]:
            self.plain.release(block, total)
        del self.waiting[:n]

    def lists(self) -> list[list[tuple[int, list[tuple[int, int]]]]]:
        """Pages of the model's lists with their gaps."""
        slob = self.model.slab
        found = []
        for head in range(3):
            pages, row = [], slob.sp_next[head]
            while row != head:
                gaps, gap = [], slob.sp_first[row]
                while gap >= 0:
                    gaps.append((slob.gap_at[gap], slob.gap_units[gap]))
                    gap = slob.gap_next[gap]
                pages.append((slob.sp_pfn[row], gaps))
                row = slob.sp_next[row]
            found.append(pages)
        return found

    def compare(self) -> None:
        assert self.lists() == [[(pfn, gaps(self.plain.free[pfn])) for pfn in pages] for pages in self.plain.lists]
        slob = self.model.slab
        assert sum(slob.list_pages) == len(self.plain.free)
        self.model.validate()


def gaps(page: list[bool]) -> list[tuple[int, int]]:
    """(first unit, units) of every run of free units."""
    found, start = [], None
    for i, free in enumerate([*page, False]):
        if free and start is None:
            start = i
        elif not free and start is not None:
            found.append((start, i - start))
            start = None
    return found


@pytest.mark.parametrize("seed", range(6))
def test_slob_equals_a_plain_one(seed: int) -> None:
    rng = random.Random(seed)
    pair = Pair(rng)
    for step in range(1200):
        what = rng.random()
        if what < 0.05:
            pair.end_grace_periods(rng.choice([1, 3]))
        elif pair.objects and what < (0.45 if pair.greedy else 0.55):
            pair.free()
        else:
            pair.alloc()
        if step % 100 == 0:
            pair.compare()
    while pair.objects:
        pair.free()
    pair.end_grace_periods(len(pair.waiting))
    pair.compare()
    assert not pair.plain.free and not any(pair.model.slab.list_pages)
