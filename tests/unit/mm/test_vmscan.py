"""Reclaim: what each flag may do when memory is short, and kswapd's state (MODEL 2.11, 10.1-10.3, 10.6)."""

from __future__ import annotations

import pytest
from small_machines import booted, zone

from memtrace.config import VmParams
from memtrace.mm.constants import (
    FAIL_COSTLY,
    FAIL_IMPOSSIBLE,
    FAIL_NO_PROGRESS,
    FAIL_NO_RECLAIM,
    FAIL_NORETRY,
    FAIL_OOM,
    WAKE_KSWAPD,
)
from memtrace.mm.gfp import (
    GFP_ATOMIC,
    GFP_BIT_IO,
    GFP_BIT_MEMALLOC,
    GFP_BIT_NOFAIL,
    GFP_BIT_NORETRY,
    GFP_BIT_RETRY_MAYFAIL,
    GFP_BIT_THISNODE,
    GFP_BIT_ZERO,
    GFP_DMA,
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL,
    GFP_NOFS,
    GFP_NOIO,
    GFP_NOWAIT,
)
from memtrace.mm.machine import Machine
from memtrace.mm.paths import PATH_PAGE_ALLOC_RECLAIM

PAGES = 4096


def short(cache: int, left: int = 100, least: int = 100) -> Machine:
    """16 MiB, of which ``left`` pages are free and ``cache`` are page cache; per-CPU lists keep nothing."""
    machine = booted(zone("DMA32", 16, 16, min=least, low=2 * least, high=3 * least, lowmem_reserve=(0,) * 4),
                     batch=1, high=0, vm=VmParams(watermark_boost_factor=0))
    pfns = [machine.page_alloc(0, GFP_HIGHUSER_MOVABLE | GFP_BIT_MEMALLOC, -1, 0) for _ in range(PAGES - left)]
    # Every second page, so that blocks come only by compaction.
    for pfn in pfns[: 2 * cache : 2]:
        machine.pages.lru_add(machine.pages.zones[0], pfn, GFP_HIGHUSER_MOVABLE)
    machine.take_events()
    machine.it.take_wakes()
    machine.pages.nodes[0].kswapd_awake = False
    assert machine.pages.zones[0].free_pages == left
    return machine


def kinds(machine: Machine) -> list[str]:
    return [kind for kind, _ in machine.take_events()]


@pytest.mark.parametrize(("gfp", "order", "reason"), [
    (GFP_NOWAIT, 0, FAIL_NO_RECLAIM),
    (0, 0, FAIL_NO_RECLAIM),
    (GFP_KERNEL | GFP_BIT_NORETRY, 0, FAIL_NORETRY),
    (GFP_KERNEL | GFP_BIT_RETRY_MAYFAIL, 0, FAIL_NO_PROGRESS),
    (GFP_NOFS, 0, FAIL_NO_PROGRESS),
    (GFP_NOIO, 0, FAIL_NO_PROGRESS),
    (GFP_KERNEL | GFP_BIT_THISNODE, 0, FAIL_NO_PROGRESS),
    (GFP_KERNEL, 0, FAIL_OOM),
    (GFP_KERNEL, 3, FAIL_OOM),
    (GFP_KERNEL, 4, FAIL_COSTLY),
    (GFP_KERNEL | GFP_BIT_RETRY_MAYFAIL, 4, FAIL_NO_PROGRESS),
    (GFP_KERNEL | GFP_BIT_NORETRY, 9, FAIL_COSTLY),
    (GFP_KERNEL, 11, FAIL_IMPOSSIBLE),
])
def test_why_it_fails_when_nothing_is_left(gfp: int, order: int, reason: int) -> None:
    """MODEL 2.11: who may wait, how often, and for whom a task would be killed."""
    machine = short(cache=0)
    assert machine.page_alloc(order, gfp, -1, 0) == -1
    assert machine.pages.fail_reason == reason
    assert ("oom" in kinds(machine)) == (reason == FAIL_OOM)
    machine.validate()


@pytest.mark.parametrize(("gfp", "served"), [
    (GFP_KERNEL, True),
    (GFP_NOFS, True),
    (GFP_NOIO, True),
    (GFP_KERNEL | GFP_BIT_NORETRY, True),
    (GFP_HIGHUSER_MOVABLE, True),
    (GFP_NOWAIT, False),
])
def test_page_cache_serves_those_who_may_wait(gfp: int, served: bool) -> None:
    """One cluster of the oldest pages comes back, and its owner is told."""
    machine = short(cache=200)
    oldest = machine.frames.members(machine.pages.zones[0].lru0)[:32]
    assert (machine.page_alloc(0, gfp, -1, 0) >= 0) == served
    assert machine.pages.take_journal() == ([(pfn, -1) for pfn in oldest] if served else [])
    assert (machine.it.path == PATH_PAGE_ALLOC_RECLAIM) == served
    machine.validate()


def test_anonymous_pages_stay() -> None:
    """They were asked for zeroed; there is no swap."""
    machine = short(cache=0)
    z = machine.pages.zones[0]
    machine.pages.lru_add(z, z.start_pfn + 5, GFP_HIGHUSER_MOVABLE | GFP_BIT_ZERO)
    assert machine.page_alloc(0, GFP_KERNEL, -1, 0) == -1
    assert machine.pages.take_journal() == []


def test_urgent_requests_use_reserves_before_they_fail() -> None:
    machine = short(cache=200)
    assert machine.page_alloc(0, GFP_ATOMIC, -1, 0) >= 0
    assert machine.pages.take_journal() == []


def test_nofail_takes_all_there_is() -> None:
    machine = short(cache=0)
    while machine.page_alloc(0, GFP_KERNEL | GFP_BIT_NOFAIL, -1, 0) >= 0:
        pass
    assert machine.pages.zones[0].free_pages == 0


def test_dma_requests_reclaim_dma_only() -> None:
    """GFP_DMA goes to DMA and nowhere else, in reclaim too; nobody is killed for it."""
    machine = booted(zone("DMA", 4, 4, min=10, low=20, high=30, lowmem_reserve=(0,) * 4),
                     zone("DMA32", 16, 16, min=10, low=20, high=30, lowmem_reserve=(0,) * 4), batch=1, high=0)
    dma, dma32 = machine.pages.zones
    cache = [machine.page_alloc(0, GFP_HIGHUSER_MOVABLE, -1, 0) for _ in range(100)]
    for pfn in cache:
        machine.pages.lru_add(dma32, pfn, GFP_HIGHUSER_MOVABLE)
    while machine.page_alloc(0, GFP_DMA | GFP_NOWAIT, -1, 0) >= 0:
        pass
    assert dma.free_pages == 10
    assert dma32.free_pages == PAGES - 100
    assert machine.page_alloc(0, GFP_DMA | GFP_KERNEL, -1, 0) == -1
    assert machine.pages.fail_reason == FAIL_NO_PROGRESS
    assert machine.pages.take_journal() == []


def test_a_freed_page_leaves_the_list() -> None:
    machine = short(cache=3)
    z = machine.pages.zones[0]
    first, second, third = machine.frames.members(z.lru0)
    machine.page_free(second, 0, 0)
    assert machine.frames.members(z.lru0) == [first, third]
    assert machine.pages.lru_counts(0) == (1, 0)
    machine.validate()


# -- kswapd -------------------------------------------------------------------------------------------------------


def test_kswapd_is_woken_once_below_low() -> None:
    machine = short(cache=0, left=202)
    assert machine.page_alloc(0, GFP_KERNEL, -1, 0) >= 0
    assert machine.page_alloc(0, GFP_KERNEL, -1, 0) >= 0
    assert machine.page_alloc(0, GFP_KERNEL, -1, 0) >= 0
    assert machine.it.take_wakes() == [(WAKE_KSWAPD, 0)]
    assert kinds(machine).count("kswapd_wake") == 1
    assert machine.pages.nodes[0].kswapd_awake


def test_a_run_of_kswapd() -> None:
    """Lists are short while it runs; it wants pages until the high mark holds; then all is as before."""
    machine = short(cache=500, left=150)
    pages, z = machine.pages, machine.pages.zones[0]
    assert machine.page_alloc(0, GFP_KERNEL, -1, 0) >= 0
    pages.kswapd_begin(0)
    assert z.reclaim_active
    turns = 0
    while (want := pages.kswapd_wants(0)) > 0:
        assert want >= 300
        assert pages.kswapd_shrink(0, 32, 0) == 32
        turns += 1
    assert turns == 5  # 149 + 4 * 32 = 277 is not above 300, 309 is
    pages.kswapd_end(0, False)
    assert not z.reclaim_active
    assert not pages.nodes[0].kswapd_awake
    assert machine.pages.lru_counts(0) == (0, 160)
    machine.validate()


def test_frees_of_the_owners_end_the_run_as_well() -> None:
    machine = short(cache=500, left=150)
    assert machine.page_alloc(0, GFP_KERNEL, -1, 0) >= 0
    machine.pages.kswapd_begin(0)
    assert machine.pages.kswapd_wants(0) > 0
    for pfn in machine.frames.members(machine.pages.zones[0].lru0)[:152]:
        machine.page_free(pfn, 0, 0)
    assert machine.pages.kswapd_wants(0) == 0
    assert machine.pages.nodes[0].run_returned == 152


def test_a_boosted_run_ends_when_the_boost_has_been_reclaimed() -> None:
    """With the high mark held, it wants what the boost asks for, and no more (MODEL 10.2, steps 2 to 5)."""
    machine = short(cache=500, left=1000)
    machine.pages.zones[0].boost = 64
    machine.pages.nodes[0].kswapd_highest_zoneidx = 3
    machine.pages.kswapd_begin(0)
    assert machine.pages.kswapd_wants(0) == 64
    machine.pages.kswapd_shrink(0, 32, 0)
    assert machine.pages.kswapd_wants(0) == 32
    machine.pages.kswapd_shrink(0, 32, 0)
    assert machine.pages.kswapd_wants(0) == 0
    machine.pages.kswapd_end(0, False)
    assert machine.pages.zones[0].boost == 0


def test_direct_reclaim_does_not_take_back_a_boost() -> None:
    """kswapd's run would end the boost while the request reclaims its 32 pages; the model decides in one go."""
    machine = short(cache=500, left=20)
    zone = machine.pages.zones[0]
    zone.boost = 300
    used = len(machine.frames.members(zone.lru0))
    assert machine.page_alloc(0, GFP_KERNEL, -1, 0) >= 0
    lacked = max(32, zone.watermark_min + 1 - 20)
    assert (used - len(machine.frames.members(zone.lru0)), zone.boost) == (lacked, 0)


def test_kswapd_gives_up_after_sixteen_runs_in_vain() -> None:
    machine = short(cache=0, left=150)
    for _ in range(16):
        assert machine.page_alloc(0, GFP_NOWAIT | GFP_BIT_IO, -1, 0) >= 0
        assert machine.it.take_wakes() == [(WAKE_KSWAPD, 0)]
        machine.pages.kswapd_begin(0)
        machine.pages.kswapd_end(0, True)
    assert machine.page_alloc(0, GFP_KERNEL, -1, 0) >= 0
    assert machine.it.take_wakes() == []
    # Any progress wakes hope.
    z = machine.pages.zones[0]
    machine.pages.lru_add(z, z.start_pfn + 9, GFP_HIGHUSER_MOVABLE)
    assert machine.pages.kswapd_shrink(0, 32, 0) == 1
    machine.pages.kswapd_wants(0)
    assert machine.pages.nodes[0].kswapd_failures == 0
