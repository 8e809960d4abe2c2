"""Shrinkers: how much they are asked for at which priority, and that memory comes back through them."""

from __future__ import annotations

import pytest

import memtrace as mt
from memtrace.mm.shrinker import DEF_PRIORITY, Shrinker


class Objects:
    """So many objects, each of which can be freed; notes what it was asked for."""

    def __init__(self, n: int, free: bool = True) -> None:
        self.n = n
        self.free = free
        self.asked: list[int] = []

    def count(self) -> int:
        return self.n

    def scan(self, n: int) -> int:
        self.asked.append(n)
        freed = min(n, self.n) if self.free else 0
        self.n -= freed
        return freed


@pytest.mark.parametrize(("priority", "seeks", "asked"), [
    (12, 2, []),            # 100,000 >> 12 = 24, times 4 / 2 = 48: less than a batch
    (8, 2, [128] * 6),      # 390 * 2 = 780
    (8, 4, [128] * 3),      # 390
    (12, 0, [128] * 390),   # half of them
    (0, 2, [128] * 1562),   # twice as many as there are, in batches, while they last
])
def test_a_priority_asks_for_a_share(priority: int, seeks: int, asked: list[int]) -> None:
    objects = Objects(100_000, free=False)
    Shrinker(objects.count, objects.scan, seeks).do_shrink_slab(priority)
    assert objects.asked == asked


def test_what_is_less_than_a_batch_adds_up() -> None:
    objects = Objects(100_000, free=False)
    shrinker = Shrinker(objects.count, objects.scan)
    for _ in range(40):
        shrinker.do_shrink_slab(10)  # 97 * 2 = 194 each: one batch, and 66 are put off
    assert set(objects.asked) == {128} and len(objects.asked) == 40
    assert shrinker.deferred == 40 * 66


def test_nothing_is_asked_of_an_empty_cache() -> None:
    objects = Objects(0)
    assert Shrinker(objects.count, objects.scan).do_shrink_slab(0) == 0
    assert objects.asked == []


@pytest.mark.parametrize("allocator", ["slub", "slab", "slob"])
def test_memory_comes_back_through_a_shrinker(allocator: str) -> None:
    """All memory is in one cache; a request for more finds it there, and nothing else is harmed."""
    kernel = mt.Kernel(cpus=2, memory="64M", allocator=allocator)
    cache = kernel.kmem_cache_create("inodes", 1000)
    held: list[int] = []
    while (p := kernel.kmem_cache_alloc(cache, mt.GFP_NOWAIT)) != mt.NULL:
        held.append(p)
    before = len(held)
    calls: list[int] = []

    def scan(n: int) -> int:
        calls.append(n)
        for _ in range(min(n, len(held))):
            kernel.kmem_cache_free(cache, held.pop(0))
        return n

    shrinker = kernel.register_shrinker(lambda: len(held), scan)
    got = [kernel.kmalloc(4000, mt.GFP_KERNEL) for _ in range(200)]
    assert mt.NULL not in got and len(set(got)) == 200
    assert calls and len(held) < before
    kernel.validate()
    kernel.unregister_shrinker(shrinker)
    for p in [*got, *held]:
        kernel.kfree(p)
    kernel.validate()
    with pytest.raises(mt.MisuseError, match="registered"):
        kernel.unregister_shrinker(shrinker)


def test_priorities_go_down_until_there_is_enough() -> None:
    kernel = mt.Kernel(memory="64M")
    asked: list[int] = []

    class Silent(Shrinker):
        def do_shrink_slab(self, priority: int) -> int:
            asked.append(priority)
            return 0

    kernel.machine.pages.shrinkers.append(Silent(lambda: 1, lambda n: 0))
    while kernel.alloc_pages(mt.GFP_KERNEL | mt.__GFP_NORETRY, 0) != mt.NULL:
        pass
    assert asked[: DEF_PRIORITY + 1] == list(range(DEF_PRIORITY, -1, -1))
