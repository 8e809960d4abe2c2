"""kmalloc's classes and types, caches and merging (MODEL 5, 6.2, 6.11)."""

from __future__ import annotations

import pytest
from small_machines import booted, open_zone

from memtrace.mm.constants import (
    SLAB_ACCOUNT,
    SLAB_CACHE_DMA,
    SLAB_CACHE_DMA32,
    SLAB_HWCACHE_ALIGN,
    SLAB_NOLEAKTRACE,
    SLAB_RECLAIM_ACCOUNT,
    SLAB_TYPESAFE_BY_RCU,
)
from memtrace.mm.gfp import GFP_BIT_ACCOUNT, GFP_BIT_RECLAIMABLE, GFP_DMA, GFP_KERNEL, GFP_NOWAIT
from memtrace.mm.kmem_cache import get_order
from memtrace.mm.machine import Machine
from memtrace.mm.paths import PATH_ALLOC_FAILED, PATH_ALLOC_LARGE, PATH_FREE_LARGE, PATH_FREE_NOTHING

CLASSES = (8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192)


@pytest.fixture
def two_zones() -> Machine:
    return booted(open_zone("DMA", 4, 8), open_zone("DMA32", 16, 16), batch=1, high=0)


@pytest.fixture
def with_memcg() -> Machine:
    return booted(open_zone("DMA", 4, 8), open_zone("DMA32", 16, 16), batch=1, high=0, memcg=True)


def served(machine: Machine, size: int, gfp: int = GFP_KERNEL) -> str:
    addr = machine.kmalloc(size, gfp, -1, 0)
    name = machine.cache_names[machine.last_cache]
    machine.kfree(addr, 0)
    return name


# -- kmalloc ------------------------------------------------------------------------------------------------------


def test_classes(two_zones: Machine) -> None:
    """Every size from 1 to 8,192 gets the smallest class that holds it (MODEL 5.1)."""
    for size in range(1, 8193):
        addr = two_zones.kmalloc(size, GFP_KERNEL, -1, 0)
        assert two_zones.last_bytes == min(c for c in CLASSES if c >= size), f"{size} bytes"
        assert two_zones.last_cache >= 0
        assert addr % (two_zones.last_bytes & -two_zones.last_bytes) == 0, "powers of two are aligned to their size"
        two_zones.kfree(addr, 0)
    two_zones.validate()


@pytest.mark.parametrize(("size", "suffix"), [
    (1, "8"), (96, "96"), (97, "128"), (192, "192"), (193, "256"), (513, "1k"), (1025, "2k"), (2049, "4k"),
    (4097, "8k"),
])
def test_names(two_zones: Machine, size: int, suffix: str) -> None:
    assert served(two_zones, size) == f"kmalloc-{suffix}"


@pytest.mark.parametrize(("gfp", "plain", "memcg"), [
    (0, "kmalloc-64", "kmalloc-64"),
    (GFP_BIT_ACCOUNT, "kmalloc-64", "kmalloc-cg-64"),
    (GFP_BIT_RECLAIMABLE, "kmalloc-rcl-64", "kmalloc-rcl-64"),
    (GFP_BIT_RECLAIMABLE | GFP_BIT_ACCOUNT, "kmalloc-rcl-64", "kmalloc-rcl-64"),
    (GFP_DMA, "dma-kmalloc-64", "dma-kmalloc-64"),
    (GFP_DMA | GFP_BIT_RECLAIMABLE | GFP_BIT_ACCOUNT, "dma-kmalloc-64", "dma-kmalloc-64"),
])
def test_types(two_zones: Machine, with_memcg: Machine, gfp: int, plain: str, memcg: str) -> None:
    """DMA wins over reclaimable, reclaimable over accounted; without memcg accounted is normal (MODEL 5.2)."""
    assert served(two_zones, 64, GFP_KERNEL | gfp) == plain
    assert served(with_memcg, 64, GFP_KERNEL | gfp) == memcg


def test_types_get_pages_that_suit_them(two_zones: Machine) -> None:
    """Reclaimable pageblocks for kmalloc-rcl, the DMA zone for dma-kmalloc."""
    reclaimable = two_zones.kmalloc(64, GFP_KERNEL | GFP_BIT_RECLAIMABLE, -1, 0)
    assert two_zones.frames.mt[reclaimable >> 12] == 2
    assert two_zones.pages.zone_of(reclaimable >> 12) == 1
    assert two_zones.pages.zone_of(two_zones.kmalloc(64, GFP_KERNEL | GFP_DMA, -1, 0) >> 12) == 0


def test_nothing(two_zones: Machine) -> None:
    """kmalloc(0) is ZERO_SIZE_PTR, and freeing that or NULL does nothing."""
    assert two_zones.kmalloc(0, GFP_KERNEL, -1, 0) == 16
    assert (two_zones.last_cache, two_zones.last_bytes) == (-1, 0)
    free = [zone.free_pages for zone in two_zones.pages.zones]
    for addr in (0, 16):
        two_zones.it.reset()
        two_zones.kfree(addr, 0)
        assert two_zones.it.path == PATH_FREE_NOTHING
        assert (two_zones.last_cache, two_zones.last_bytes) == (-1, 0)
    assert [zone.free_pages for zone in two_zones.pages.zones] == free
    two_zones.validate()


@pytest.mark.parametrize(
    ("size", "order"), [(8193, 2), (12289, 2), (16384, 2), (16385, 3), (1 << 20, 8), (4 << 20, 10)]
)
def test_large(two_zones: Machine, size: int, order: int) -> None:
    """Above 8,192 bytes: whole pages, rounded up to a power of two, of no cache (MODEL 5.3)."""
    addr = two_zones.kmalloc(size, GFP_KERNEL, -1, 0)
    assert (two_zones.last_cache, two_zones.last_bytes) == (-1, 4096 << order)
    assert two_zones.it.path == PATH_ALLOC_LARGE
    assert addr % (4096 << order) == 0
    assert two_zones.pages.zones[1].used_pages == 1 << order
    assert two_zones.pages.zones[1].slab_pages == 0
    two_zones.kfree(addr, 0)
    assert (two_zones.last_cache, two_zones.last_bytes) == (-1, 4096 << order)
    assert two_zones.it.path == PATH_FREE_LARGE
    assert two_zones.pages.zones[1].used_pages == 0
    two_zones.validate()


@pytest.mark.parametrize("size", [(4 << 20) + 1, 1 << 40, (1 << 63) - 1])
def test_too_large(two_zones: Machine, size: int) -> None:
    assert two_zones.kmalloc(size, GFP_KERNEL, -1, 0) == 0
    assert two_zones.it.path == PATH_ALLOC_FAILED


def test_get_order() -> None:
    assert [get_order(size) for size in (1, 4096, 4097, 8192, 8193, 1 << 22)] == [0, 0, 1, 1, 2, 10]


# -- size and layout ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("object_size", "align", "flags", "ctor", "size", "inuse", "offset"), [
    (1, 8, 0, False, 8, 8, 0),
    (20, 8, 0, False, 24, 24, 8),
    (100, 8, 0, False, 104, 104, 48),
    (100, 64, 0, False, 128, 104, 48),
    (100, 12, 0, False, 112, 104, 48),  # alignments are rounded up to 8
    (100, 8, SLAB_HWCACHE_ALIGN, False, 128, 104, 48),
    (33, 8, SLAB_HWCACHE_ALIGN, False, 64, 40, 16),
    (32, 8, SLAB_HWCACHE_ALIGN, False, 32, 32, 16),
    (16, 8, SLAB_HWCACHE_ALIGN, False, 16, 16, 8),
    (8, 8, SLAB_HWCACHE_ALIGN, False, 8, 8, 0),
    (100, 8, 0, True, 112, 104, 104),  # free pointer behind the object
    (100, 8, SLAB_TYPESAFE_BY_RCU, False, 112, 104, 104),
    (128, 64, SLAB_TYPESAFE_BY_RCU | SLAB_HWCACHE_ALIGN, False, 192, 128, 128),
])
def test_layout(
    two_zones: Machine, object_size: int, align: int, flags: int, ctor: bool, size: int, inuse: int, offset: int
) -> None:
    s = two_zones.slab.caches[two_zones.slab.create_cache("probe", object_size, align, flags, ctor, merge=False)]
    assert (s.size, s.inuse, s.offset) == (size, inuse, offset)


@pytest.mark.parametrize(("object_size", "flags", "size", "inuse", "offset"), [
    (44, 0, 48, 44, 20), (508, SLAB_HWCACHE_ALIGN, 512, 508, 252), (52, SLAB_TYPESAFE_BY_RCU, 56, 52, 52),
])
def test_layout_on_32_bits(object_size: int, flags: int, size: int, inuse: int, offset: int) -> None:
    """Words of 4 bytes; objects still begin at multiples of 8 (recorded: jbd2_journal_handle, mm_struct, anon_vma)."""
    machine = booted(open_zone("DMA", 4, 8), bits=32)
    s = machine.slab.caches[machine.slab.create_cache("probe", object_size, 8, flags, merge=False)]
    assert (s.size, s.inuse, s.offset) == (size, inuse, offset)


def test_smallest_order(two_zones: Machine) -> None:
    """What is tried when memory is fragmented: the order that holds one object."""
    for size, order, objects in ((64, 0, 64), (4096, 0, 1), (5000, 1, 1), (9000, 2, 1)):
        s = two_zones.slab.caches[two_zones.slab.create_cache(f"probe-{size}", size, merge=False)]
        assert (s.min_order, s.min_objects) == (order, objects)


# -- merging ------------------------------------------------------------------------------------------------------


def create(machine: Machine, name: str, size: int, align: int = 8, flags: int = 0, ctor: bool = False) -> str:
    """Name of the cache that serves a newly created one."""
    index = machine.slab.create_cache(name, size, align, flags, ctor)
    return machine.cache_names[index]


def test_alike_caches_share(two_zones: Machine) -> None:
    """A later cache of the same size becomes an alias, and is found by both names."""
    assert create(two_zones, "first", 72) == "first"
    assert create(two_zones, "second", 70) == "first"
    first = two_zones.find_cache("first")
    assert two_zones.find_cache("second") == first
    s = two_zones.slab.caches[first]
    assert (list(s.aliases), s.object_size, s.inuse) == (["second"], 72, 72)
    assert two_zones.find_cache("third") == -1


def test_the_larger_object_size_is_printed(two_zones: Machine) -> None:
    create(two_zones, "first", 66)
    create(two_zones, "second", 71)
    assert two_zones.slab.caches[two_zones.find_cache("first")].object_size == 71


def test_the_oldest_match_wins(two_zones: Machine) -> None:
    """Without memcg the oldest caches are kmalloc's."""
    assert create(two_zones, "mine", 64) == "kmalloc-64"
    two_zones.slab.create_cache("a", 200, merge=False)
    assert create(two_zones, "b", 200) == "b"
    assert create(two_zones, "c", 200) == "b"


def test_normal_kmalloc_does_not_merge_with_memcg(with_memcg: Machine) -> None:
    assert create(with_memcg, "mine", 64) == "mine"
    assert create(with_memcg, "accounted", 64, flags=SLAB_ACCOUNT) == "kmalloc-cg-64"


@pytest.mark.parametrize(("size", "merged"), [(72, True), (66, True), (65, True), (64, False), (80, False)])
def test_less_than_a_pointer_of_difference(two_zones: Machine, size: int, merged: bool) -> None:
    """Sizes are compared as strides, which are multiples of 8: so equal ones merge."""
    create(two_zones, "first", 72)
    assert (create(two_zones, "second", size) == "first") == merged


def test_a_pointer_of_difference_is_too_much(two_zones: Machine) -> None:
    """8 bytes wasted in each object would be a word that could have been used."""
    create(two_zones, "first", 80)
    assert create(two_zones, "second", 72) == "second"


def test_alignment_must_fit(two_zones: Machine) -> None:
    """A stride of 72 is no multiple of 16; its own stride is 80 then."""
    create(two_zones, "first", 80)
    assert create(two_zones, "second", 72, align=16) == "first"
    create(two_zones, "odd", 88)
    assert create(two_zones, "even", 88, align=16) == "kmalloc-96"


@pytest.mark.parametrize("flag", [SLAB_RECLAIM_ACCOUNT, SLAB_CACHE_DMA, SLAB_CACHE_DMA32, SLAB_ACCOUNT])
def test_flags_that_must_agree(two_zones: Machine, flag: int) -> None:
    create(two_zones, "plain", 72)
    assert create(two_zones, "marked", 72, flags=flag) == "marked"
    assert create(two_zones, "marked too", 72, flags=flag) == "marked"
    assert create(two_zones, "plain too", 72) == "plain"


@pytest.mark.parametrize(("flags", "ctor"), [(SLAB_TYPESAFE_BY_RCU, False), (SLAB_NOLEAKTRACE, False), (0, True)])
def test_caches_that_never_merge(two_zones: Machine, flags: int, ctor: bool) -> None:
    """In either direction; of two with a constructor each has its own slabs."""
    create(two_zones, "first", 72, flags=flags, ctor=ctor)
    assert create(two_zones, "second", 72, flags=flags, ctor=ctor) == "second"
    assert create(two_zones, "third", 72) == "third"
    assert create(two_zones, "fourth", 80) == "fourth", "a constructed object of 72 has a stride of 80"


def test_one_name_is_one_cache(two_zones: Machine) -> None:
    assert two_zones.slab.create_cache("twice", 72) == two_zones.slab.create_cache("twice", 500)


def test_dma_caches_get_dma_pages(two_zones: Machine) -> None:
    """The cache's flags decide, not the caller's (MODEL 1.6.4)."""
    dma = two_zones.slab.create_cache("dma", 72, flags=SLAB_CACHE_DMA)
    assert two_zones.pages.zone_of(two_zones.cache_alloc(dma, GFP_NOWAIT, -1, 0) >> 12) == 0
    plain = two_zones.slab.create_cache("plain", 72)
    assert two_zones.pages.zone_of(two_zones.cache_alloc(plain, GFP_NOWAIT | GFP_DMA, -1, 0) >> 12) == 1
