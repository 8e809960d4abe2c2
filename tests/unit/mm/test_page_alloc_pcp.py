"""Per-CPU page lists, 6.1 form (MODEL 3)."""

from __future__ import annotations

import pytest
from small_machines import (
    HIGHATOMIC,
    ISOLATE,
    MOVABLE,
    RECLAIMABLE,
    UNMOVABLE,
    booted,
    free_list,
    free_lists,
    nr_free,
    open_zone,
    pcp_list,
)

from memtrace.mm.gfp import GFP_BIT_MOVABLE, GFP_BIT_RECLAIMABLE
from memtrace.mm.machine import Machine
from memtrace.mm.paths import (
    COST_PCP_DRAIN,
    COST_PCP_HIT,
    COST_PCP_REFILL,
    PATH_PAGE_ALLOC_BUDDY,
    PATH_PAGE_ALLOC_PCP,
    PATH_PAGE_ALLOC_REFILL,
    PATH_PAGE_FREE_BUDDY,
    PATH_PAGE_FREE_DRAIN,
    PATH_PAGE_FREE_PCP,
)

GFP_MOVABLE = GFP_BIT_MOVABLE
START = 16 << 8


def machine(batch: int, high: int, cpus: int = 1, pageblock_order: int = 9) -> Machine:
    return booted(open_zone("DMA32", 16, 32), cpus=cpus, batch=batch, high=high, pageblock_order=pageblock_order)


def parked(m: Machine, order: int = 0, mt: int = MOVABLE, cpu: int = 0) -> list[int]:
    return pcp_list(m, m.pages.zones[0], cpu, order, mt)


def count(m: Machine, cpu: int = 0) -> int:
    return m.pages.zones[0].pcp[cpu].count


def steps(m: Machine) -> list[tuple[int, int, int]]:
    it = m.it
    return [(it.lock[i], it.cls[i], it.count[i]) for i in range(it.n)]


@pytest.mark.parametrize(("batch", "order", "blocks"), [
    (1, 0, 1), (1, 3, 1), (3, 0, 3), (3, 1, 2), (8, 0, 8), (8, 1, 4), (8, 2, 2), (8, 3, 2), (31, 1, 15), (31, 2, 7),
    (31, 3, 3), (63, 0, 63), (63, 3, 7),
])
def test_refill_size(batch: int, order: int, blocks: int) -> None:
    """A refill takes max(batch >> order, 2) blocks, one when batch is 1; they come out ascending."""
    m = machine(batch, 1000)
    size = 1 << order
    assert m.page_alloc(order, GFP_MOVABLE, -1, 0) == START
    assert m.it.path == PATH_PAGE_ALLOC_REFILL
    assert parked(m, order) == [START + i * size for i in range(1, blocks)]
    assert count(m) == (blocks - 1) * size
    assert steps(m) == [(0, COST_PCP_REFILL, blocks), (-1, COST_PCP_HIT, 1)]


def test_refilled_blocks_come_out_in_order() -> None:
    """Until the list is empty; then the next refill goes on where the first one ended."""
    m = machine(4, 1000)
    paths = []
    for i in range(8):
        m.it.reset()
        assert m.page_alloc(0, GFP_MOVABLE, -1, 0) == START + i
        paths.append(m.it.path)
    assert paths == [PATH_PAGE_ALLOC_REFILL, *[PATH_PAGE_ALLOC_PCP] * 3] * 2
    pcp = m.pages.zones[0].pcp[0]
    assert (pcp.refills, pcp.hits, pcp.misses) == (2, 6, 2)


def test_lists_are_last_in_first_out() -> None:
    """What a CPU freed last it gets first: those pages are warm."""
    m = machine(4, 1000)
    pages = [m.page_alloc(0, GFP_MOVABLE, -1, 0) for _ in range(3)]
    for pfn in pages:
        m.it.reset()
        m.page_free(pfn, 0, 0)
        assert m.it.path == PATH_PAGE_FREE_PCP
    assert parked(m) == [*reversed(pages), START + 3]
    assert [m.page_alloc(0, GFP_MOVABLE, -1, 0) for _ in range(3)] == pages[::-1]


def test_every_cpu_has_its_own_lists() -> None:
    """A page freed on CPU 1 is on CPU 1's list, whoever allocated it."""
    m = machine(4, 1000, cpus=2)
    pfn = m.page_alloc(0, GFP_MOVABLE, -1, 0)
    m.page_free(pfn, 0, 1)
    assert parked(m, cpu=1) == [pfn]
    assert m.page_alloc(0, GFP_MOVABLE, -1, 0) == START + 1
    assert m.page_alloc(0, GFP_MOVABLE, -1, 1) == pfn


def test_every_order_and_type_has_its_own_list() -> None:
    m = machine(2, 1000)
    for order in range(4):
        for mt, gfp in ((UNMOVABLE, 0), (MOVABLE, GFP_MOVABLE), (RECLAIMABLE, GFP_BIT_RECLAIMABLE)):
            assert parked(m, order, mt) == []
            m.page_alloc(order, gfp, -1, 0)
            assert len(parked(m, order, mt)) == 1
    assert count(m) == 3 * (1 + 2 + 4 + 8)


@pytest.mark.parametrize("order", [4, 5, 8, 10])
def test_large_orders_pass_the_lists_by(order: int) -> None:
    m = machine(8, 1000)
    pfn = m.page_alloc(order, GFP_MOVABLE, -1, 0)
    assert m.it.path == PATH_PAGE_ALLOC_BUDDY
    m.it.reset()
    m.page_free(pfn, order, 0)
    assert m.it.path == PATH_PAGE_FREE_BUDDY
    assert count(m) == 0
    assert free_list(m, m.pages.zones[0], 10, MOVABLE)[0] == START


def test_huge_pages_have_lists_when_pageblocks_are_order_9() -> None:
    """Order 9 is transparent huge pages: a list for Movable, one for the others; refills of two."""
    m = machine(8, 5000)
    pfn = m.page_alloc(9, GFP_MOVABLE, -1, 0)
    assert m.it.path == PATH_PAGE_ALLOC_REFILL
    assert parked(m, 9) == [pfn + 512]
    assert count(m) == 512
    m.page_free(pfn, 9, 0)
    assert parked(m, 9) == [pfn, pfn + 512]
    other = m.page_alloc(9, 0, -1, 0)
    assert parked(m, 9, UNMOVABLE) == [other + 512]
    assert parked(m, 9) == [pfn, pfn + 512]


def test_no_lists_for_order_9_without_huge_pages() -> None:
    m = machine(8, 5000, pageblock_order=10)
    m.page_alloc(9, GFP_MOVABLE, -1, 0)
    assert m.it.path == PATH_PAGE_ALLOC_BUDDY
    assert count(m) == 0


def freed_until_drain(m: Machine, pages: list[int]) -> int:
    """Free pages one by one until some go back to the buddy system; how many did."""
    for pfn in iter(pages.pop, None):
        before = count(m)
        m.it.reset()
        m.page_free(pfn, 0, 0)
        if m.it.path == PATH_PAGE_FREE_DRAIN:
            return before + 1 - count(m)
    return 0


def test_drains_double_up_to_high_less_batch() -> None:
    """batch 4, high 40: 4, 8, 16, 32, then no more than 40 - 4 = 36; and never more than batch << 5."""
    m = machine(4, 40)
    pages = [m.page_alloc(0, GFP_MOVABLE, -1, 0) for _ in range(240)]
    m.pages.drain_all_pages()
    assert [freed_until_drain(m, pages) for _ in range(6)] == [4, 8, 16, 32, 36, 36]
    # Every allocation halves the factor: 4 -> 2 -> 1, so the next drain is 4 << 1.
    assert m.pages.zones[0].pcp[0].free_factor == 4
    taken = [m.page_alloc(0, GFP_MOVABLE, -1, 0) for _ in range(2)]
    assert m.pages.zones[0].pcp[0].free_factor == 1
    assert freed_until_drain(m, pages + taken) == 8


def test_drain_factor_stops_at_five() -> None:
    """batch 1: 1, 2, 4, .. 32 and then 32 for ever."""
    m = machine(1, 200)
    pages = [m.page_alloc(0, GFP_MOVABLE, -1, 0) for _ in range(400)]
    assert [freed_until_drain(m, pages) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 32, 32]


@pytest.mark.parametrize(("batch", "high"), [(4, 0), (8, 3)])
def test_lists_that_may_hold_nothing(batch: int, high: int) -> None:
    """Below a batch one page goes for one that comes; with high 0 at every free."""
    m = machine(batch, high)
    m.page_alloc(0, GFP_MOVABLE, -1, 0)
    held = count(m)
    m.page_free(START, 0, 0)
    assert m.it.path == PATH_PAGE_FREE_DRAIN
    assert count(m) == held


@pytest.mark.parametrize("order", [1, 2, 3])
def test_large_blocks_after_a_drain_empty_the_lists(order: int) -> None:
    """Freeing orders 1 to 3 while the drain factor is up hands everything back (MODEL 3.4 free_high)."""
    m = machine(4, 40)
    pages = [m.page_alloc(0, GFP_MOVABLE, -1, 0) for _ in range(60)]
    blocks = [m.page_alloc(order, GFP_MOVABLE, -1, 0) for _ in range(2)]
    m.page_free(blocks[0], order, 0)
    assert count(m) > 0, "without a drain before it the block stays"
    freed_until_drain(m, pages)
    assert m.pages.zones[0].pcp[0].free_factor == 1
    m.page_free(blocks[1], order, 0)
    assert count(m) == 0


def test_order_0_after_a_drain_does_not_empty_the_lists() -> None:
    m = machine(4, 40)
    pages = [m.page_alloc(0, GFP_MOVABLE, -1, 0) for _ in range(60)]
    freed_until_drain(m, pages)
    held = count(m)
    m.page_free(pages.pop(), 0, 0)
    assert count(m) == held + 1


def test_drain_takes_the_oldest_of_the_list_just_freed_to() -> None:
    """A drain empties that list before it goes on to the next one (MODEL 3.5)."""
    m = machine(4, 12)
    movable = [m.page_alloc(0, GFP_MOVABLE, -1, 0) for _ in range(16)]
    assert count(m) == 0
    pair = m.page_alloc(1, GFP_MOVABLE, -1, 0)  # leaves the second block of a refill of two
    m.page_free(pair, 1, 0)
    assert parked(m, 1) == [pair, pair + 2]
    for pfn in movable[:8]:
        m.page_free(pfn, 0, 0)
    # 12 pages: the drain of 4 takes the oldest four of order 0 and leaves order 1 alone.
    assert parked(m) == [movable[i] for i in (7, 6, 5, 4)]
    assert parked(m, 1) == [pair, pair + 2]


def test_drain_goes_on_with_the_next_list() -> None:
    """Order 1 is freed to and holds too little: the drain goes round to order 0, and reports blocks."""
    m = machine(4, 12)
    movable = [m.page_alloc(0, GFP_MOVABLE, -1, 0) for _ in range(16)]
    pair = m.page_alloc(1, GFP_MOVABLE, -1, 0)
    assert m.page_alloc(1, GFP_MOVABLE, -1, 0) == pair + 2
    for pfn in movable[:10]:
        m.page_free(pfn, 0, 0)
    m.it.reset()
    m.page_free(pair, 1, 0)
    assert parked(m, 1) == []
    assert parked(m) == [movable[i] for i in range(9, 1, -1)]
    assert steps(m)[-1] == (0, COST_PCP_DRAIN, 3)


def test_a_page_goes_to_the_list_of_its_pageblock() -> None:
    """Not of the type it was asked for with (MODEL 3.4)."""
    m = machine(1, 1000)
    pfn = m.page_alloc(0, GFP_MOVABLE, -1, 0)
    m.pages.zones[0].pageblock_type[0] = RECLAIMABLE
    m.page_free(pfn, 0, 0)
    assert parked(m, 0, RECLAIMABLE) == [pfn]


def test_pages_of_the_reserve_wait_with_movable_ones() -> None:
    """HighAtomic pages have no lists; the buddy system gets them as what they were when they were freed."""
    m = machine(1, 1000)
    zone = m.pages.zones[0]
    pfn = m.page_alloc(0, GFP_MOVABLE, -1, 0)
    zone.pageblock_type[0] = HIGHATOMIC
    m.page_free(pfn, 0, 0)
    assert parked(m) == [pfn]
    zone.pageblock_type[0] = UNMOVABLE
    m.pages.drain_all_pages()
    # It merges with the rest of its pageblock, which is on another list.
    assert free_list(m, zone, 9, HIGHATOMIC) == [pfn]


def test_isolated_pages_go_straight_back() -> None:
    m = machine(1, 1000)
    zone = m.pages.zones[0]
    pfn = m.page_alloc(0, GFP_MOVABLE, -1, 0)
    zone.pageblock_type[0] = ISOLATE
    m.page_free(pfn, 0, 0)
    assert m.it.path == PATH_PAGE_FREE_BUDDY
    assert free_list(m, zone, 9, ISOLATE) == [pfn]


def test_drain_all_pages() -> None:
    """Every list of every CPU goes back, and the memory is whole again."""
    m = machine(16, 1000, cpus=2)
    whole = free_lists(m, m.pages.zones[0])
    for cpu in range(2):
        pages = [(m.page_alloc(order, gfp, -1, cpu), order) for order in range(4) for gfp in (0, GFP_MOVABLE)]
        for pfn, order in pages:
            m.page_free(pfn, order, cpu)
    assert count(m, 0) > 0
    assert count(m, 1) > 0
    m.pages.drain_all_pages()
    assert (count(m, 0), count(m, 1)) == (0, 0)
    assert nr_free(m.pages.zones[0]) == [0] * 10 + [8]
    assert sum(len(pfns) for pfns in free_lists(m, m.pages.zones[0]).values()) == len(whole[10, MOVABLE])
    m.validate()


def test_reclaim_makes_the_lists_small() -> None:
    """While kswapd runs, lists hold four batches at most (MODEL 3.4)."""
    m = machine(4, 100)
    pages = [m.page_alloc(0, GFP_MOVABLE, -1, 0) for _ in range(60)]
    m.pages.drain_all_pages()
    m.pages.zones[0].reclaim_active = True
    assert freed_until_drain(m, pages) == 4
    assert count(m) == 12
    # N = clamp(batch << factor, batch, 16 - 4)
    assert [freed_until_drain(m, pages) for _ in range(3)] == [8, 12, 12]
