"""Serving a type from another's blocks (MODEL 2.5, 2.8.5)."""

from __future__ import annotations

import pytest
from small_machines import (
    HIGHATOMIC,
    MOVABLE,
    RECLAIMABLE,
    UNMOVABLE,
    booted,
    empty,
    free_lists,
    open_zone,
    put_free,
    put_used,
    zone,
)

from memtrace.mm.constants import WAKE_KSWAPD
from memtrace.mm.gfp import GFP_BIT_KSWAPD_RECLAIM, GFP_BIT_MOVABLE, GFP_BIT_RECLAIMABLE, GFP_KERNEL, GFP_NOWAIT
from memtrace.mm.machine import Machine

START = 16 << 8
GFP_OF = {UNMOVABLE: 0, MOVABLE: GFP_BIT_MOVABLE, RECLAIMABLE: GFP_BIT_RECLAIMABLE}
"""Requests that wake nobody and reclaim nothing, by type."""


@pytest.fixture
def tiny_zone() -> Machine:
    """16 MiB in one zone, none of it free; per-CPU lists take one block at a time."""
    return empty(open_zone("DMA32", 16, 16), batch=1, high=100)


def types(machine: Machine, owner: int = 0) -> list[int]:
    return list(machine.pages.zones[owner].pageblock_type)


def fallbacks(machine: Machine) -> list[tuple[int, int, int, int]]:
    """(pfn, order asked for, order found, type found) of the fallbacks since the last call."""
    return [
        (args["pfn"], args["alloc_order"], args["fallback_order"], args["fallback_migratetype"])
        for kind, args in machine.take_events() if kind == "extfrag"
    ]


@pytest.mark.parametrize(("wanted", "first", "second"), [
    (UNMOVABLE, RECLAIMABLE, MOVABLE),
    (RECLAIMABLE, UNMOVABLE, MOVABLE),
    (MOVABLE, RECLAIMABLE, UNMOVABLE),
])
def test_order_of_types(tiny_zone: Machine, wanted: int, first: int, second: int) -> None:
    """At one order the first other type that has a block gives it, then the second, then nobody."""
    blocks = tiny_zone.pages.zones[0]
    for i, mt in enumerate((first, second, HIGHATOMIC)):
        put_free(tiny_zone, START + 512 * i, 5, mt)
        blocks.pageblock_type[i] = mt
    taken = [tiny_zone.page_alloc(5, GFP_OF[wanted], -1, 0) for _ in range(3)]
    assert taken == [START, START + 512, -1]
    assert [event[3] for event in fallbacks(tiny_zone)] == [first, second]


def test_own_type_comes_first(tiny_zone: Machine) -> None:
    """However large the block that must be split, another type's is left alone."""
    put_free(tiny_zone, START, 10, UNMOVABLE)
    put_free(tiny_zone, START + 1024, 5, MOVABLE)
    assert tiny_zone.page_alloc(5, GFP_OF[UNMOVABLE], -1, 0) == START
    assert fallbacks(tiny_zone) == []


def test_largest_block_is_claimed(tiny_zone: Machine) -> None:
    """The search goes from order 10 down, so that what is taken fragments as little as possible."""
    put_free(tiny_zone, START, 6, MOVABLE)
    put_free(tiny_zone, START + 512, 7, MOVABLE)
    put_free(tiny_zone, START + 1024, 5, MOVABLE)
    assert tiny_zone.page_alloc(5, GFP_OF[UNMOVABLE], -1, 0) == START + 512
    assert fallbacks(tiny_zone) == [(START + 512, 5, 7, MOVABLE)]


@pytest.mark.parametrize(("order", "claimed"), [(9, 1), (10, 2)])
def test_whole_pageblocks_change_hands(tiny_zone: Machine, order: int, claimed: int) -> None:
    """A block of a pageblock or more takes its pageblocks' type along, without a boost."""
    put_free(tiny_zone, START, order, MOVABLE)
    assert tiny_zone.page_alloc(4, GFP_OF[UNMOVABLE], -1, 0) == START
    assert types(tiny_zone) == [UNMOVABLE] * claimed + [MOVABLE] * (8 - claimed)
    assert free_lists(tiny_zone, tiny_zone.pages.zones[0]) == {
        (o, UNMOVABLE): [START + (1 << o)] for o in range(4, order)
    }
    assert tiny_zone.pages.zones[0].boost == 0


@pytest.mark.parametrize(("order", "own"), [(3, False), (4, True)])
def test_movable_steals_pageblocks_from_order_4(tiny_zone: Machine, order: int, own: bool) -> None:
    """Movable pages can be moved out again later, so small blocks are borrowed and not claimed."""
    blocks = tiny_zone.pages.zones[0]
    blocks.pageblock_type[0] = UNMOVABLE
    put_free(tiny_zone, START, order, UNMOVABLE)
    put_free(tiny_zone, START + 64, 0, UNMOVABLE)
    put_used(tiny_zone, START + 65, 447, MOVABLE)
    assert tiny_zone.page_alloc(order, GFP_OF[MOVABLE], -1, 0) == START
    # With the pageblock comes its other free page, too.
    assert free_lists(tiny_zone, blocks) == {(0, MOVABLE if own else UNMOVABLE): [START + 64]}
    assert types(tiny_zone)[0] == (MOVABLE if own else UNMOVABLE)


def test_movable_borrows_the_smallest_block_that_fits(tiny_zone: Machine) -> None:
    """If no block is large enough to claim, the search is made again from below."""
    put_free(tiny_zone, START, 3, UNMOVABLE)
    put_free(tiny_zone, START + 512, 2, UNMOVABLE)
    put_free(tiny_zone, START + 1024, 0, UNMOVABLE)
    assert tiny_zone.page_alloc(1, GFP_OF[MOVABLE], -1, 0) == START + 512
    assert fallbacks(tiny_zone) == [(START + 512, 1, 2, UNMOVABLE)]
    lists = free_lists(tiny_zone, tiny_zone.pages.zones[0])
    assert lists == {(3, UNMOVABLE): [START], (0, UNMOVABLE): [START + 1024], (1, MOVABLE): [START + 514]}


@pytest.mark.parametrize("wanted", [UNMOVABLE, RECLAIMABLE])
def test_others_claim_whatever_they_find(tiny_zone: Machine, wanted: int) -> None:
    """All free blocks of the pageblock move to the tails of the wanted type's lists, ascending."""
    put_free(tiny_zone, START + 32, 0, MOVABLE)
    put_free(tiny_zone, START + 2, 1, MOVABLE)
    put_free(tiny_zone, START + 16, 0, MOVABLE)
    put_used(tiny_zone, START + 64, 448, MOVABLE)
    tiny_zone.pages.zones[0].pageblock_type[1] = wanted
    assert tiny_zone.page_alloc(0, GFP_OF[wanted], -1, 0) == START + 16
    assert free_lists(tiny_zone, tiny_zone.pages.zones[0]) == {(0, wanted): [START + 32], (1, wanted): [START + 2]}
    # 4 free pages and 448 Movable ones: far from half alike, so the pageblock stays Movable.
    assert types(tiny_zone)[0] == MOVABLE


@pytest.mark.parametrize(("movable", "claimed"), [(256, True), (257, False)])
def test_half_of_the_pageblock(tiny_zone: Machine, movable: int, claimed: bool) -> None:
    """A Movable pageblock goes to Unmovable when at most half of its 512 pages are Movable ones in use."""
    put_free(tiny_zone, START, 4, MOVABLE)
    put_used(tiny_zone, START + 16, movable, MOVABLE)
    put_used(tiny_zone, START + 16 + movable, 512 - 16 - movable, UNMOVABLE)
    assert tiny_zone.page_alloc(4, GFP_OF[UNMOVABLE], -1, 0) == START
    assert types(tiny_zone)[0] == (UNMOVABLE if claimed else MOVABLE)


@pytest.mark.parametrize(("movable", "claimed"), [(240, True), (239, False)])
def test_half_of_the_pageblock_for_movable(tiny_zone: Machine, movable: int, claimed: bool) -> None:
    """An Unmovable pageblock goes to Movable when free and Movable pages are half of it or more."""
    tiny_zone.pages.zones[0].pageblock_type[0] = UNMOVABLE
    put_free(tiny_zone, START, 4, UNMOVABLE)
    put_used(tiny_zone, START + 16, movable, MOVABLE)
    put_used(tiny_zone, START + 16 + movable, 512 - 16 - movable, UNMOVABLE)
    assert tiny_zone.page_alloc(4, GFP_OF[MOVABLE], -1, 0) == START
    assert types(tiny_zone)[0] == (MOVABLE if claimed else UNMOVABLE)


@pytest.mark.parametrize(("free", "claimed"), [(256, True), (255, False)])
def test_between_unmovable_and_reclaimable_only_free_pages_count(
    tiny_zone: Machine, free: int, claimed: bool
) -> None:
    """Neither type can be moved: pages in use say nothing for the other."""
    tiny_zone.pages.zones[0].pageblock_type[0] = RECLAIMABLE
    put_free(tiny_zone, START, 7, RECLAIMABLE)
    for pfn in range(START + 128, START + free):
        put_free(tiny_zone, pfn, 0, RECLAIMABLE)
    put_used(tiny_zone, START + free, 512 - free, UNMOVABLE)
    assert tiny_zone.page_alloc(7, GFP_OF[UNMOVABLE], -1, 0) == START
    assert types(tiny_zone)[0] == (UNMOVABLE if claimed else RECLAIMABLE)


def test_block_of_a_reserve_on_an_ordinary_list(tiny_zone: Machine) -> None:
    """A free block whose pageblock has become HighAtomic moves alone."""
    put_free(tiny_zone, START, 5, MOVABLE)
    put_free(tiny_zone, START + 64, 5, HIGHATOMIC)
    tiny_zone.pages.zones[0].pageblock_type[0] = HIGHATOMIC
    assert tiny_zone.page_alloc(4, GFP_OF[UNMOVABLE], -1, 0) == START
    assert types(tiny_zone)[0] == HIGHATOMIC
    assert free_lists(tiny_zone, tiny_zone.pages.zones[0]) == {
        (4, UNMOVABLE): [START + 16], (5, HIGHATOMIC): [START + 64],
    }
    assert tiny_zone.pages.zones[0].boost == 0


def test_pageblock_that_ends_beyond_the_zone() -> None:
    """Of the last, cut-off pageblock only the found block moves (EXACT B 2.11)."""
    machine = empty(open_zone("DMA32", 16, 5), batch=1, high=100, pageblock_order=10)
    last = START + 1024
    put_free(machine, last, 5, MOVABLE)
    put_free(machine, last + 64, 0, MOVABLE)
    assert machine.page_alloc(5, GFP_OF[UNMOVABLE], -1, 0) == last
    assert free_lists(machine, machine.pages.zones[0]) == {(0, MOVABLE): [last + 64]}
    assert types(machine)[1] == MOVABLE


def test_boosts_add_up_to_one_and_a_half_times_high() -> None:
    """Four fallbacks into small blocks: 512, 1,024, then the limit of 1,200 pages."""
    machine = empty(zone("DMA32", 16, 32, min=0, low=0, high=800, lowmem_reserve=(0,) * 4), batch=1, high=0)
    owner = machine.pages.zones[0]
    put_free(machine, START + 8 * 512, 10, HIGHATOMIC)
    put_free(machine, START + 10 * 512, 10, HIGHATOMIC)
    for block in range(4):
        put_free(machine, START + 512 * block, 4, MOVABLE)
        put_used(machine, START + 512 * block + 16, 496, MOVABLE)
    seen = []
    for _ in range(4):
        assert machine.page_alloc(4, 0, -1, 0) > 0
        seen.append(owner.boost)
    assert seen == [512, 1024, 1200, 1200]


def test_low_high_mark_still_allows_one_pageblock() -> None:
    """The limit is at least a pageblock; without any high mark there is no boost at all."""
    for high, boost in ((0, 0), (10, 512), (341, 512), (400, 600)):
        machine = empty(zone("DMA32", 16, 16, min=0, low=0, high=high, lowmem_reserve=(0,) * 4), batch=1, high=0)
        owner = machine.pages.zones[0]
        put_free(machine, START + 2048, 10, HIGHATOMIC)
        for block in range(2):
            put_free(machine, START + 512 * block, 4, MOVABLE)
            put_used(machine, START + 512 * block + 16, 496, MOVABLE)
            assert machine.page_alloc(4, 0, -1, 0) > 0
        assert owner.boost == boost


@pytest.mark.parametrize(("size_mb", "boost"), [(7, 0), (8, 512)])
def test_small_zones_are_not_boosted(size_mb: int, boost: int) -> None:
    """A zone of fewer than four pageblocks would lose too much of itself."""
    machine = empty(zone("DMA32", 16, size_mb, min=0, low=0, high=400, lowmem_reserve=(0,) * 4), batch=1, high=0)
    machine.pages.mobility_grouping = True
    put_free(machine, START, 4, MOVABLE)
    put_free(machine, START + 512, 9, HIGHATOMIC)
    assert machine.page_alloc(4, 0, -1, 0) == START
    assert machine.pages.zones[0].boost == boost


def test_the_end_of_kswapds_run_takes_the_boost_away(tiny_zone: Machine) -> None:
    """A fallback boosts the marks and wakes kswapd; the boost lasts until the end of its run (MODEL 10.2)."""
    machine = empty(zone("DMA32", 16, 16, min=0, low=0, high=400, lowmem_reserve=(0,) * 4), batch=1, high=0)
    put_free(machine, START, 4, MOVABLE)
    put_used(machine, START + 16, 496, MOVABLE)
    assert GFP_NOWAIT & GFP_BIT_KSWAPD_RECLAIM
    assert machine.page_alloc(4, GFP_NOWAIT, -1, 0) == START
    assert machine.pages.zones[0].boost == 512
    assert ("kswapd_wake", {"zone": 0, "order": 0, "boost": 512}) in machine.take_events()
    assert machine.it.take_wakes() == [(WAKE_KSWAPD, 0)]
    machine.pages.kswapd_begin(0)
    machine.pages.zones[0].boost += 7
    machine.pages.kswapd_end(0, False)
    assert machine.pages.zones[0].boost == 7, "what was added during the run stays"


def test_nofragment_leaves_the_highest_zone_whole() -> None:
    """Unmovable requests go to DMA32 rather than break a Movable pageblock of Normal (MODEL 2.7)."""
    machine = empty(open_zone("DMA32", 16, 16), open_zone("Normal", 32, 16), batch=1, high=0)
    low, normal = START, START + 4096
    put_free(machine, normal, 8, MOVABLE)
    put_free(machine, low, 4, UNMOVABLE)
    assert machine.page_alloc(4, GFP_KERNEL, -1, 0) == low
    # DMA32 has nothing either: the restriction is dropped and the walk begins again at Normal.
    assert machine.page_alloc(4, GFP_KERNEL, -1, 0) == normal


def test_nofragment_applies_to_the_lower_zone_too() -> None:
    """Of DMA32 a small Movable block would be broken as well, so Normal's is taken in the second round."""
    machine = empty(open_zone("DMA32", 16, 16), open_zone("Normal", 32, 16), batch=1, high=0)
    put_free(machine, START + 4096, 8, MOVABLE)
    put_free(machine, START, 8, MOVABLE)
    assert machine.page_alloc(4, GFP_KERNEL, -1, 0) == START + 4096


def test_nofragment_still_claims_whole_pageblocks() -> None:
    """Normal has a whole Movable pageblock to give: that fragments nothing."""
    machine = empty(open_zone("DMA32", 16, 16), open_zone("Normal", 32, 16), batch=1, high=0)
    put_free(machine, START + 4096, 9, MOVABLE)
    put_free(machine, START, 4, UNMOVABLE)
    assert machine.page_alloc(4, GFP_KERNEL, -1, 0) == START + 4096


def test_without_dma32_nothing_is_spared() -> None:
    """NOFRAGMENT is only for Normal above DMA32: else there is nowhere else to go."""
    machine = empty(open_zone("DMA", 1, 15), open_zone("Normal", 32, 16), batch=1, high=0)
    put_free(machine, START + 4096, 8, MOVABLE)
    put_free(machine, 1 << 8, 4, UNMOVABLE)
    assert machine.page_alloc(4, GFP_KERNEL, -1, 0) == START + 4096


def test_refill_falls_back_for_every_block() -> None:
    """One refill of a per-CPU list may claim block after block under one hold of the zone's lock."""
    machine = empty(open_zone("DMA32", 16, 16), batch=4, high=100)
    for block in range(4):
        put_free(machine, START + 512 * block, 0, MOVABLE)
        put_used(machine, START + 512 * block + 1, 511, MOVABLE)
    assert machine.page_alloc(0, 0, -1, 0) == START
    assert len(fallbacks(machine)) == 4
    assert machine.pages.zones[0].pcp[0].count == 3


def test_grouping_is_off_on_tiny_machines() -> None:
    """Below five pageblocks everything is Unmovable (MODEL 1.4)."""
    machine = booted(open_zone("DMA32", 16, 8), batch=1, high=0)
    assert machine.pages.mobility_grouping == 0
    pfn = machine.page_alloc(4, GFP_OF[MOVABLE], -1, 0)
    assert machine.frames.mt[pfn] == UNMOVABLE
    assert booted(open_zone("DMA32", 16, 10)).pages.mobility_grouping == 1
