"""Watermarks, zone walk, reserves, slow path (MODEL 1.2, 1.3, 2.6-2.11)."""

from __future__ import annotations

import pytest
from small_machines import (
    HIGHATOMIC,
    MOVABLE,
    RECLAIMABLE,
    UNMOVABLE,
    booted,
    empty,
    free_list,
    free_lists,
    open_zone,
    pcp_list,
    put_free,
    zone,
)

from memtrace.mm.gfp import (
    GFP_ATOMIC,
    GFP_BIT_HIGH,
    GFP_BIT_MEMALLOC,
    GFP_BIT_MOVABLE,
    GFP_BIT_NOMEMALLOC,
    GFP_BIT_THISNODE,
    GFP_BIT_ZERO,
    GFP_DMA,
    GFP_DMA32,
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL,
    GFP_NOWAIT,
)
from memtrace.mm.machine import Machine
from memtrace.mm.paths import COST_ZERO_PAGE, COST_ZONE_CHECK, PATH_PAGE_ALLOC_FAILED

START = 16 << 8


def marked(low: int = 0, least: int = 0, reserve: tuple[int, ...] = (0, 0, 0, 0)) -> Machine:
    """16 MiB with these marks; per-CPU lists keep nothing, so that every page counts."""
    return booted(
        zone("DMA32", 16, 16, min=least, low=low, high=low, lowmem_reserve=reserve), batch=1, high=0,
    )


def drain_to(machine: Machine, free: int, owner: int = 0) -> None:
    """Take pages without regard for watermarks until so many are free."""
    z = machine.pages.zones[owner]
    while z.free_pages > free:
        order = min(10, (z.free_pages - free).bit_length() - 1)
        while machine.page_alloc(order, GFP_BIT_MEMALLOC, z.node, 0) < 0:
            order -= 1
    assert z.free_pages == free


def last_free(machine: Machine, gfp: int, owner: int = 0) -> int:
    """Free pages left when requests of one page with these flags begin to fail."""
    while machine.page_alloc(0, gfp, -1, 0) >= 0:
        pass
    return machine.pages.zones[owner].free_pages


# -- watermarks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gfp", "left"), [
    (GFP_KERNEL, 1000),
    (GFP_NOWAIT, 1000),
    (GFP_BIT_HIGH, 375),
    (GFP_BIT_HIGH | GFP_BIT_NOMEMALLOC, 500),
    (GFP_KERNEL | GFP_BIT_HIGH, 500),
    (GFP_ATOMIC, 375),
    (GFP_BIT_MEMALLOC, 0),
])
def test_how_far_down_requests_may_go(gfp: int, left: int) -> None:
    """
    min for all; half of it with __GFP_HIGH, 3/8 if the caller cannot wait either; all with MEMALLOC.

    A request succeeds when more than the mark is free, so that exactly the mark remains.
    """
    assert last_free(marked(2000, 1000), gfp) == left


def test_first_attempt_stops_at_low_and_the_second_at_min() -> None:
    """Between the two marks the slow path serves; it is visible as one more look at the zone."""
    machine = marked(2000, 1000)
    drain_to(machine, 2001)
    machine.it.reset()
    machine.page_alloc(0, GFP_KERNEL, -1, 0)
    assert COST_ZONE_CHECK not in list(machine.it.cls[: machine.it.n])
    machine.it.reset()
    machine.page_alloc(0, GFP_KERNEL, -1, 0)
    assert COST_ZONE_CHECK in list(machine.it.cls[: machine.it.n])


def test_odd_marks_round_in_the_requests_disfavour() -> None:
    """MODEL 2.9: 1,001 - 500 = 501; 501 - 125 = 376."""
    assert last_free(marked(1001, 1001), GFP_ATOMIC) == 376
    assert last_free(marked(1001, 1001), GFP_KERNEL | GFP_BIT_HIGH) == 501


def test_reserve_against_higher_zones() -> None:
    """lowmem_reserve[j] counts on top of the mark, j being the highest zone the request could use."""
    reserve = (0, 0, 300, 700)
    assert last_free(marked(0, 0, reserve), GFP_DMA32) == 0
    assert last_free(marked(0, 0, reserve), GFP_KERNEL) == 300
    assert last_free(marked(0, 0, reserve), GFP_HIGHUSER_MOVABLE) == 700


def test_reserves_and_marks_add_up() -> None:
    assert last_free(marked(1000, 1000, (0, 0, 300, 700)), GFP_ATOMIC) == 375 + 300


def test_a_block_is_counted_less_its_last_page() -> None:
    """Order 4 with a mark of 100: 116 free pages are enough, 115 are not (free - 15 must exceed 100)."""
    for free, served in ((116, True), (115, False)):
        machine = empty(zone("DMA32", 16, 16, min=100, low=100, high=100, lowmem_reserve=(0,) * 4), high=0)
        for block in range(7):
            put_free(machine, START + 32 * block, 4, UNMOVABLE)
        for page in range(free - 7 * 16):
            put_free(machine, START + 512 + 2 * page, 0, UNMOVABLE)
        assert (machine.page_alloc(4, GFP_NOWAIT, -1, 0) >= 0) == served


def test_enough_pages_but_no_block() -> None:
    """Fragmented memory: 1,000 single pages and no pair."""
    machine = empty(open_zone("DMA32", 16, 16), batch=1, high=0)
    for i in range(1000):
        put_free(machine, START + 2 * i, 0, UNMOVABLE)
    assert machine.page_alloc(1, GFP_KERNEL, -1, 0) == -1
    assert machine.it.path == PATH_PAGE_ALLOC_FAILED
    assert machine.page_alloc(0, GFP_KERNEL, -1, 0) == START


def test_a_boost_raises_every_mark() -> None:
    machine = marked(0, 0)
    machine.pages.zones[0].boost = 500
    # GFP_NOWAIT would wake kswapd, which takes the boost away; no flags at all wake nobody.
    assert last_free(machine, 0) == 500


def test_urgent_single_pages_ignore_the_boost_of_min() -> None:
    """__GFP_HIGH requests of order 0 are checked again without the boost (MODEL 2.9)."""
    machine = marked(1000, 1000)
    machine.pages.zones[0].boost = 2000
    assert last_free(machine, GFP_BIT_HIGH) == 375
    machine = marked(1000, 1000)
    machine.pages.zones[0].boost = 2000
    while machine.page_alloc(1, GFP_BIT_HIGH, -1, 0) >= 0:
        pass
    assert machine.pages.zones[0].free_pages > 375


# -- impossible requests ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "gfp"), [(11, GFP_KERNEL), (0, GFP_DMA | GFP_DMA32), (0, 0x3), (0, 0xF)])
def test_impossible_requests_fail(order: int, gfp: int) -> None:
    """Beyond MAX_ORDER, or with contradictory zone bits."""
    machine = marked()
    assert machine.page_alloc(order, gfp, -1, 0) == -1
    assert machine.it.path == PATH_PAGE_ALLOC_FAILED
    assert machine.pages.alloc_failures == 1


def test_zeroing_costs_by_the_page() -> None:
    machine = marked()
    machine.page_alloc(5, GFP_KERNEL | GFP_BIT_ZERO, -1, 0)
    n = machine.it.n
    assert (machine.it.cls[n - 1], machine.it.count[n - 1]) == (COST_ZERO_PAGE, 32)


# -- zones --------------------------------------------------------------------------------------------------------


@pytest.fixture
def three_zones() -> Machine:
    """DMA, DMA32 and Normal on one node, without marks."""
    return booted(open_zone("DMA", 4, 4), open_zone("DMA32", 16, 16), open_zone("Normal", 32, 16), batch=1, high=0)


@pytest.mark.parametrize(("gfp", "zones"), [
    (GFP_KERNEL, [2, 1, 0]),
    (GFP_HIGHUSER_MOVABLE, [2, 1, 0]),
    (GFP_BIT_MOVABLE, [2, 1, 0]),
    (GFP_DMA32, [1, 0]),
    (GFP_DMA32 | GFP_BIT_MOVABLE, [1, 0]),
    (GFP_DMA, [0]),
    (GFP_DMA | GFP_BIT_MOVABLE, [0]),
])
def test_zone_order(three_zones: Machine, gfp: int, zones: list[int]) -> None:
    """From the highest zone allowed down, each until it is empty."""
    seen = []
    while (pfn := three_zones.page_alloc(6, gfp, -1, 0)) >= 0:
        at = three_zones.pages.zone_of(pfn)
        if at not in seen:
            seen.append(at)
    assert seen == zones
    assert [z.free_pages for z in three_zones.pages.zones] == [
        0 if i in zones else size for i, size in enumerate((1024, 4096, 4096))
    ]


def test_zone_of(three_zones: Machine) -> None:
    zone_of = three_zones.pages.zone_of
    assert [zone_of(mb << 8) for mb in (3, 4, 7, 8, 16, 31, 32, 47, 48)] == [-1, 0, 0, -1, 1, 1, 2, 2, -1]


# -- nodes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_nodes() -> Machine:
    """DMA32 on node 0, Normal on both; CPU 0 on node 0, CPU 1 on node 1."""
    return booted(
        open_zone("DMA32", 16, 8), open_zone("Normal", 32, 8), open_zone("Normal", 48, 8, node=1),
        cpus=2, batch=1, high=0,
    )


def zones_in_turn(machine: Machine, gfp: int, node: int, cpu: int) -> list[tuple[int, str]]:
    seen = []
    while (pfn := machine.page_alloc(6, gfp, node, cpu)) >= 0:
        z = machine.pages.zones[machine.pages.zone_of(pfn)]
        if (z.node, z.name) not in seen:
            seen.append((z.node, z.name))
    return seen


@pytest.mark.parametrize(("node", "cpu", "zones"), [
    (-1, 0, [(0, "Normal"), (0, "DMA32"), (1, "Normal")]),
    (-1, 1, [(1, "Normal"), (0, "Normal"), (0, "DMA32")]),
    (0, 1, [(0, "Normal"), (0, "DMA32"), (1, "Normal")]),
    (1, 0, [(1, "Normal"), (0, "Normal"), (0, "DMA32")]),
])
def test_nearest_node_first(two_nodes: Machine, node: int, cpu: int, zones: list[tuple[int, str]]) -> None:
    """The node asked for, or the CPU's own; all its zones, then the other node's."""
    assert zones_in_turn(two_nodes, GFP_KERNEL, node, cpu) == zones


def test_thisnode_stays(two_nodes: Machine) -> None:
    assert zones_in_turn(two_nodes, GFP_KERNEL | GFP_BIT_THISNODE, 1, 0) == [(1, "Normal")]
    assert zones_in_turn(two_nodes, GFP_KERNEL | GFP_BIT_THISNODE, -1, 0) == [(0, "Normal"), (0, "DMA32")]


def test_better_a_fragmented_node_than_a_far_one() -> None:
    """NOFRAGMENT ends where the walk would leave the node (MODEL 2.7)."""
    machine = empty(
        open_zone("DMA32", 16, 8), open_zone("Normal", 32, 8), open_zone("Normal", 48, 8, node=1),
        cpus=2, batch=1, high=0,
    )
    put_free(machine, 32 << 8, 5, MOVABLE)
    put_free(machine, 48 << 8, 5, UNMOVABLE)
    assert machine.page_alloc(5, GFP_KERNEL, 0, 0) == 32 << 8


def test_a_node_without_dma32_spares_nothing() -> None:
    """
    NOFRAGMENT needs a DMA32 zone below Normal on that node (MODEL 2.7).

    A refill of two pages on node 1: the second one comes out of a small Movable block, which NOFRAGMENT would
    not have allowed.
    """
    machine = empty(
        open_zone("DMA32", 16, 8), open_zone("Normal", 32, 8), open_zone("Normal", 48, 8, node=1),
        cpus=2, batch=2, high=100,
    )
    put_free(machine, 48 << 8, 0, UNMOVABLE)
    put_free(machine, (48 << 8) + 512, 0, MOVABLE)
    assert machine.page_alloc(0, GFP_KERNEL, 1, 1) == 48 << 8
    assert pcp_list(machine, machine.pages.zones[2], 1, 0, UNMOVABLE) == [(48 << 8) + 512]


# -- HighAtomic reserve -------------------------------------------------------------------------------------------


def reserved(machine: Machine) -> int:
    return machine.pages.zones[0].nr_reserved_highatomic


def urgent(machine: Machine, order: int = 4) -> int:
    """A high-order atomic request that has to take the slow path."""
    return machine.page_alloc(order, GFP_ATOMIC, -1, 0)


def test_first_urgent_block_reserves_its_pageblock() -> None:
    """It happens below the low mark only: the fast attempt does not know of the reserve (MODEL 2.6)."""
    machine = marked(0, 0)
    pfn = urgent(machine)
    zone0 = machine.pages.zones[0]
    assert reserved(machine) == 0
    zone0.watermark_low = 4096
    pfn = urgent(machine, 6)
    assert reserved(machine) == 512
    assert zone0.pageblock_type[(pfn >> 9) - zone0.pageblock0] == HIGHATOMIC
    assert all(mt == HIGHATOMIC for (_, mt), pfns in free_lists(machine, zone0).items()
               for p in pfns if p >> 9 == pfn >> 9)
    machine.validate()


def test_single_urgent_pages_reserve_nothing() -> None:
    """The reserve is for blocks: single pages can always be found."""
    machine = marked(4096, 0)
    assert urgent(machine, 0) >= 0
    assert reserved(machine) == 0


def test_the_reserve_is_limited() -> None:
    """One per cent of the zone and a pageblock: 4,096 // 100 + 512 = 552, so two pageblocks at most."""
    machine = marked(4096, 0)
    while urgent(machine, 8) >= 0:
        pass
    assert reserved(machine) == 1024
    assert list(machine.pages.zones[0].pageblock_type).count(HIGHATOMIC) == 2


def test_the_reserve_is_for_urgent_requests_first() -> None:
    """Others see less memory by the whole reserve."""
    machine = marked(4096, 0)
    urgent(machine)
    assert reserved(machine) == 512
    # All is gone but 16 pages and the reserve, of which the first request has 16.
    assert last_free(machine, GFP_BIT_NOMEMALLOC) == 512
    pfn = urgent(machine, 8)
    assert machine.pages.zones[0].pageblock_type[(pfn - START) >> 9] == HIGHATOMIC


def test_single_urgent_pages_may_use_the_reserve() -> None:
    """A request that cannot wait takes from it when all else fails."""
    machine = marked(4096, 0)
    urgent(machine)
    assert last_free(machine, GFP_ATOMIC) == 0


def test_requests_that_can_wait_open_the_reserve() -> None:
    """Short of memory, direct reclaim turns reserved pageblocks to the type it needs (MODEL 2.6)."""
    machine = marked(4096, 0)
    urgent(machine)
    last_free(machine, GFP_BIT_NOMEMALLOC)
    assert machine.page_alloc(0, GFP_HIGHUSER_MOVABLE, -1, 0) >= 0
    assert reserved(machine) == 0
    assert HIGHATOMIC not in list(machine.pages.zones[0].pageblock_type)
    assert MOVABLE in list(machine.pages.zones[0].pageblock_type)


def test_only_zones_the_request_can_use_are_opened() -> None:
    """A DMA request gains nothing from Normal's reserve."""
    machine = booted(open_zone("DMA", 4, 4), open_zone("Normal", 32, 16), batch=1, high=0)
    normal = machine.pages.zones[1]
    normal.nr_reserved_highatomic = 512
    normal.pageblock_type[0] = HIGHATOMIC
    machine.pages.rmqueue_smallest(normal, 10, MOVABLE)
    machine.pages.free_one_page(normal, 32 << 8, 9, HIGHATOMIC, False)
    assert last_free(machine, GFP_DMA | GFP_KERNEL) == 0
    assert normal.nr_reserved_highatomic == 512


# -- slow path ----------------------------------------------------------------------------------------------------


def test_short_of_memory_all_lists_are_drained() -> None:
    """Pages parked on another CPU's lists serve a request that may wait, but not one that may not."""
    machine = booted(open_zone("DMA32", 16, 16), cpus=2, batch=64, high=5000)
    parked = [machine.page_alloc(0, GFP_NOWAIT, -1, 1) for _ in range(64)]
    while machine.page_alloc(0, GFP_BIT_MEMALLOC, -1, 0) >= 0:
        pass
    for pfn in parked:
        machine.page_free(pfn, 0, 1)
    assert machine.page_alloc(0, GFP_NOWAIT, -1, 0) == -1
    assert machine.page_alloc(0, GFP_KERNEL, -1, 0) >= 0
    assert machine.pages.zones[0].pcp[1].count == 0
    machine.validate()


def test_split_page() -> None:
    """Every piece of a split block can be freed alone, and the whole comes back (MODEL 2.13)."""
    machine = marked()
    pfn = machine.page_alloc(5, GFP_KERNEL, -1, 0)
    machine.pages.split_page(pfn, 5, 1)
    assert [machine.frames.order[p] for p in range(pfn, pfn + 32, 2)] == [1] * 16
    for piece in range(pfn + 30, pfn - 2, -2):
        machine.page_free(piece, 1, 0)
    machine.pages.drain_all_pages()
    assert free_list(machine, machine.pages.zones[0], 10, UNMOVABLE) == [pfn]
    machine.validate()


def test_reclaimable_requests_have_their_own_pageblocks() -> None:
    machine = marked()
    pfn = machine.page_alloc(0, GFP_KERNEL | 0x10, -1, 0)
    assert machine.pages.zones[0].pageblock_type[(pfn - START) >> 9] == RECLAIMABLE
    assert machine.frames.mt[pfn] == RECLAIMABLE
