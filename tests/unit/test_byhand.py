"""The book's figure by hand: what each call promises, under every allocator."""

from __future__ import annotations

import pandas as pd
import pytest

import memtrace as mt
from memtrace.mm.boot import ALLOCATORS
from memtrace.mm.vmalloc import VMALLOC_START

NO_ROOM = mt.GFP_NOWAIT | mt.__GFP_NOWARN
GRACE = "5100ms"


@pytest.fixture(params=ALLOCATORS)
def k(request: pytest.FixtureRequest) -> mt.Kernel:
    return mt.Kernel(cpus=2, memory="64M", allocator=request.param)


@pytest.fixture
def slub() -> mt.Kernel:
    return mt.Kernel(cpus=2, memory="64M")


def use_up(k: mt.Kernel, order: int, gfp: int) -> list[mt.byhand.Page]:
    """Take blocks until there are none for such a request."""
    pages = []
    while page := k.alloc_pages(gfp, order):
        pages.append(page)
    return pages


def leave_single_pages(k: mt.Kernel) -> None:
    """Half of all memory is free, and no two free pages are neighbours."""
    for page in use_up(k, 0, NO_ROOM | mt.__GFP_MEMALLOC):
        if page % 2 == 0:
            k.free_pages(page)
    k.machine.pages.drain_all_pages()


# -- the book's semantics -----------------------------------------------------------------------------------------


def test_nothing_is_freed_for_null(k: mt.Kernel) -> None:
    k.kfree(mt.NULL)
    k.kvfree(mt.NULL)
    k.vfree(mt.NULL)
    k.kfree_rcu(mt.NULL)
    k.free_percpu(mt.NULL)
    assert k.kmem_cache_destroy(None)
    zero = k.kmalloc(0)
    assert zero == 16
    assert k.ksize(zero) == 0
    k.kfree(zero)
    k.validate()


def test_kmalloc_dma_lies_in_zone_dma(k: mt.Kernel) -> None:
    """And there is NULL when DMA is full, however much there is elsewhere."""
    p = k.kmalloc(200, mt.GFP_KERNEL | mt.GFP_DMA)
    assert 0 < p < 16 << 20
    other = k.kmalloc(200)
    # SLOB's pages serve all flags alike, so only its new pages lie where the flags say.
    assert other >> 12 == p >> 12 if k.config.allocator == "slob" else other >= 16 << 20
    use_up(k, 0, mt.GFP_DMA | NO_ROOM)
    use_up(k, 0, mt.GFP_DMA | mt.GFP_ATOMIC)
    assert k.kmalloc(4 << 10, mt.GFP_DMA | mt.GFP_ATOMIC) == mt.NULL
    assert k.kmalloc(4 << 10, mt.GFP_KERNEL) != mt.NULL
    k.validate()


def test_objects_come_from_a_cache_that_was_created(k: mt.Kernel) -> None:
    cache = k.kmem_cache_create("probe", 120, ctor=True)
    assert cache is not None
    objects = [k.kmem_cache_alloc(cache) for _ in range(3)]
    assert len(set(objects)) == 3
    for p in objects:
        k.kmem_cache_free(cache, p)
    assert k.kmem_cache_destroy(cache)
    with pytest.raises(mt.MisuseError, match="cache probe"):
        k.kmem_cache_alloc(cache)
    k.validate()


def test_percpu_has_a_copy_for_each_cpu(k: mt.Kernel) -> None:
    p = k.alloc_percpu(64)
    copies = {k.per_cpu_ptr(p, cpu) for cpu in range(2)}
    assert len(copies) == 2
    k.free_percpu(p)
    with pytest.raises(mt.MisuseError, match="free_percpu"):
        k.free_percpu(p)
    k.validate()


def test_krealloc_stays_where_there_is_room(k: mt.Kernel) -> None:
    p = k.krealloc(mt.NULL, 33)
    assert k.krealloc(p, k.ksize(p)) == p
    assert k.krealloc(p, 1) == p, "it never shrinks"
    bigger = k.krealloc(p, k.ksize(p) + 1)
    assert bigger != p
    with pytest.raises(mt.MisuseError):
        k.kfree(p)
    assert k.krealloc(bigger, 0) == 16
    with pytest.raises(mt.MisuseError):
        k.ksize(bigger)


def test_arrays_that_overflow_are_null(k: mt.Kernel) -> None:
    assert k.kmalloc_array(1 << 32, 1 << 32) == mt.NULL
    assert k.kcalloc(3, 100) != mt.NULL


def test_large_kmalloc_is_whole_pages(k: mt.Kernel) -> None:
    p = k.kmalloc(40_000)
    assert p % 4096 == 0
    assert k.ksize(p) == 64 << 10
    assert k.kmalloc((4 << 20) + 1) == mt.NULL
    k.kfree(p)
    with pytest.raises(mt.MisuseError, match=r"double free|holds no object"):
        k.kfree(p)


# -- NULL, exactly when the flags say so --------------------------------------------------------------------------


def test_atomic_reaches_deeper_than_nowait(k: mt.Kernel) -> None:
    """The reserve below the min watermark is for those who cannot wait, not for those who will not."""
    use_up(k, 0, NO_ROOM)
    assert k.alloc_pages(mt.GFP_ATOMIC | mt.__GFP_NOWARN) != mt.NULL
    assert k.kvmalloc(100_000, NO_ROOM) == mt.NULL
    assert k.kmem_cache_create("late", 3000, ctor=True) is not None, "a cache has no memory before its first object"
    use_up(k, 0, mt.GFP_ATOMIC)
    assert k.kmalloc(40_000, mt.GFP_ATOMIC) == mt.NULL
    k.validate()


def test_kvmalloc_needs_no_contiguous_memory(k: mt.Kernel) -> None:
    """Single pages are left, and no two beside each other: kmalloc cannot, vmalloc can, if it may sleep."""
    leave_single_pages(k)
    assert k.kmalloc(40_000, NO_ROOM) == mt.NULL
    assert k.kvmalloc(40_000, NO_ROOM) == mt.NULL
    p = k.kvmalloc(40_000, mt.GFP_KERNEL)
    assert p >= VMALLOC_START
    assert len(k.vmalloc_area.areas[p].pages) == 10
    k.kvfree(p)
    with pytest.raises(mt.MisuseError):
        k.kvfree(p)
    k.validate()


def test_slub_falls_back_to_its_smallest_slab(slub: mt.Kernel) -> None:
    """A slab of the preferred order is asked for without trying hard; the smallest one as the caller asked."""
    leave_single_pages(slub)
    p = slub.kmalloc(512, NO_ROOM)
    assert p != mt.NULL
    assert slub.counters().loc[("kmalloc-512", 0), "order_fallback"] == 1
    assert slub.kmalloc(8192, NO_ROOM) == mt.NULL, "an object of two pages"
    slub.validate()


def test_bulk_is_all_or_nothing(slub: mt.Kernel) -> None:
    cache = slub.kmem_cache_create("probe", 1000, ctor=True)
    assert cache is not None
    use_up(slub, 0, NO_ROOM)
    free = slub.machine.pages.zones[1].free_pages
    assert slub.kmem_cache_alloc_bulk(cache, mt.GFP_ATOMIC, 100_000) == []
    assert slub.slab.caches[cache.index].live == 0
    assert slub.kmem_cache_destroy(cache)
    slub.machine.pages.drain_all_pages()
    assert slub.machine.pages.zones[1].free_pages >= free
    slub.validate()


def test_krealloc_without_memory_keeps_the_old_object(k: mt.Kernel) -> None:
    p = k.kmalloc(100)
    use_up(k, 0, NO_ROOM)
    assert k.krealloc(p, 40_000, NO_ROOM) == mt.NULL
    assert k.ksize(p) >= 100
    k.kfree(p)


# -- kfree_rcu ----------------------------------------------------------------------------------------------------


def test_kfree_rcu_waits_for_the_monitor_and_a_grace_period(k: mt.Kernel) -> None:
    p = k.kmalloc(100)
    k.kfree_rcu(p)
    k.advance("5s")
    with pytest.raises(mt.MisuseError, match="kfree_rcu"):
        k.kfree(p)
    k.advance("19ms")
    assert p in k.rcu.waiting
    k.advance("1ms")
    assert p not in k.rcu.waiting
    assert p in {k.kmalloc(100) for _ in range(200)}, "it is handed out again"
    k.validate()


def test_a_full_array_is_freed_soon_and_at_once(slub: mt.Kernel) -> None:
    """The first object has no page to be noted in; 510 fill one; each array is one bulk free (EXACT C5)."""
    objects = [slub.kmalloc(100) for _ in range(1 + 2 * 510)]
    slub.kfree_rcu(objects[0])
    slub.advance(0)  # pages arrive
    for p in objects[1:]:
        slub.kfree_rcu(p)
    cpu = slub.rcu.cpus[0]
    assert [len(one.records) for one in cpu.collected.arrays] == [510, 510]
    assert cpu.collected.linked == objects[:1]
    before = slub.counters().loc[("kmalloc-128", 0)]
    slub.advance("4ms")  # the next tick
    assert not cpu.collected
    slub.advance("20ms")
    assert not slub.rcu.waiting
    assert len(cpu.pages) == 5
    freed = slub.counters().loc[("kmalloc-128", 0)] - before
    # 1,020 objects of 32 to a slab in two arrays: one operation a slab and array, and one for the linked object.
    assert freed.free_fastpath + freed.free_slowpath <= 2 * 33 + 1
    slub.validate()


def test_only_two_batches_wait_at_once(slub: mt.Kernel) -> None:
    """A third has to wait until one of them is done."""
    for number in range(3):
        for _ in range(511):
            slub.kfree_rcu(slub.kmalloc(64))
        slub.advance("4ms")
        assert bool(slub.rcu.cpus[0].collected) == (number == 2)
    slub.advance("2s")
    assert len(slub.rcu.waiting) in (0, 511)
    slub.advance(GRACE)
    assert not slub.rcu.waiting
    slub.validate()


# -- misuse -------------------------------------------------------------------------------------------------------


def test_misuse_is_named_and_changes_nothing(slub: mt.Kernel) -> None:
    p = slub.kmalloc(100)
    cache = slub.kmem_cache_create("probe", 120, ctor=True)
    assert cache is not None
    page = slub.alloc_pages(mt.GFP_KERNEL, 1)
    area = slub.vmalloc(5000)
    slub.kfree(p)
    for call, message in [
        (lambda: slub.kfree(p), f"kfree: {p!r} in cache kmalloc-128.*double free"),
        (lambda: slub.kfree(p + 8), "within an object"),
        (lambda: slub.kfree(slub.page_address(page)), "alloc_pages"),
        (lambda: slub.kfree(area), "use kvfree"),
        (lambda: slub.kfree(1 << 40), "end of memory"),
        (lambda: slub.kfree_rcu(p), "double free"),
        (lambda: slub.ksize(p), "ksize"),
        (lambda: slub.kmem_cache_free(cache, slub.kmalloc(100)), "of cache kmalloc-128; expected .* cache probe"),
        (lambda: slub.kmem_cache_free(cache, 0), "cache probe"),
        (lambda: slub.free_pages(page, 0), "given with order 1"),
        (lambda: slub.free_pages(page + 1, 0), "not allocated"),
        (lambda: slub.kmalloc(-1), "size -1"),
        (lambda: slub.kmalloc(1, cpu=2), "CPUs 0 to 1"),
        (lambda: slub.kmalloc(1, node=1), "nodes 0 to 0"),
        (lambda: slub.kmem_cache_create("odd", 10, align=3), "power of two"),
        (lambda: slub.advance(-1), "forward"),
    ]:
        with pytest.raises(mt.MisuseError, match=message):
            call()
        slub.validate()
    twice = [slub.kmem_cache_alloc(cache)] * 2
    with pytest.raises(mt.MisuseError, match="twice"):
        slub.kmem_cache_free_bulk(cache, twice)


def test_destroying_a_cache_in_use_warns_and_keeps_it(slub: mt.Kernel) -> None:
    cache = slub.kmem_cache_create("probe", 120, ctor=True)
    assert cache is not None
    p = slub.kmem_cache_alloc(cache)
    with pytest.warns(UserWarning, match="probe: Slab cache still has objects"):
        assert not slub.kmem_cache_destroy(cache)
    slub.kmem_cache_free(cache, p)
    slub.validate()


# -- the rest -----------------------------------------------------------------------------------------------------


def test_cpus(slub: mt.Kernel) -> None:
    """Each CPU has its own slab; ``on`` and ``cpu=`` say which one calls."""
    with slub.on(1):
        a = slub.kmalloc(100)
        b = slub.kmalloc(100, cpu=0)
    c = slub.kmalloc(100)
    assert a >> 12 != b >> 12 == c >> 12
    assert list(slub.counters().loc["kmalloc-128"].alloc_slab) == [1, 1]


def test_an_offline_cpu_keeps_nothing_but_its_areas(k: mt.Kernel) -> None:
    """What it had given to kfree_rcu is freed by another."""
    area = k.alloc_percpu(16)
    with k.on(1):
        p, q = k.kmalloc(100), k.kmalloc(100)
        k.kfree_rcu(p)
    k.cpu_offline(1)
    with pytest.raises(mt.MisuseError, match="CPU 1 is offline"):
        k.kmalloc(100, cpu=1)
    with pytest.raises(mt.MisuseError, match="last one online"):
        k.cpu_offline(0)
    assert k.pcp_lists().query("cpu == 1").empty
    k.kfree(q)
    k.advance(GRACE)
    assert not k.rcu.waiting
    assert k.per_cpu_ptr(area, 1)
    k.cpu_online(1)
    assert k.kmalloc(100, cpu=1)
    k.validate()


def test_last_step(slub: mt.Kernel) -> None:
    p = slub.kmalloc(100)
    assert (slub.last.operation, slub.last.path) == ("alloc", "new_slab")
    assert slub.last.ns > 0
    assert slub.last.locks[0] == "zone->lock N0 DMA32"
    slub.kfree(p)
    assert (slub.last.operation, slub.last.path, slub.last.locks) == ("free", "fastpath", ())


def listed(lists: pd.DataFrame) -> int:
    """Pages on all lists."""
    return sum(len(pfns) << order for order, pfns in zip(lists.order, lists.pfns, strict=True))


def test_views(k: mt.Kernel) -> None:
    """They show what the model holds, and the book-keeping in them agrees."""
    kept = [k.kmalloc(100) for _ in range(100)]
    k.alloc_pages(mt.GFP_KERNEL, 3)
    buddy = k.buddyinfo()
    zones = k.zoneinfo()
    for place in buddy.index:
        assert sum(n << order for order, n in buddy.loc[place].items()) == zones.loc[place].free_pages
    assert listed(k.free_lists()) == zones.free_pages.sum()
    assert listed(k.pcp_lists()) == zones.pcp_pages.sum()
    assert k.slabinfo().active_objs.sum() >= len(kept)
    assert len(k.counters())
    html = k._repr_html_()
    assert "DMA32" in html
    assert repr(k).startswith("<memtrace.Kernel 6.1")


def test_same_calls_same_addresses() -> None:
    """Nothing depends on chance or on the clock."""
    def calls(k: mt.Kernel) -> list[int]:
        return [k.kmalloc(size * 7 % 3000 + 1) for size in range(500)]

    assert calls(mt.Kernel()) == calls(mt.Kernel())


def test_constants_are_the_kernels() -> None:
    assert mt.GFP_KERNEL == 0xCC0
    assert mt.__GFP_ZERO == 0x100
    assert mt.SLAB_HWCACHE_ALIGN == 0x2000
    with pytest.raises(AttributeError):
        _ = mt.GFP_NO_SUCH
