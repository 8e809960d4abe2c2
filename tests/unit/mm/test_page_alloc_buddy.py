"""Splitting and merging (MODEL 2.1-2.4)."""

from __future__ import annotations

import pytest
from small_machines import HIGHATOMIC, ISOLATE, MOVABLE, RECLAIMABLE, UNMOVABLE, empty, free_lists, open_zone, put_free

from memtrace.mm.machine import Machine

START = 16 << 8
"""First pfn of the zone; aligned to the largest block."""


@pytest.fixture
def tiny_zone() -> Machine:
    """16 MiB in one zone, none of it free."""
    return empty(open_zone("DMA32", 16, 16))


def take(machine: Machine, order: int, mt: int = MOVABLE) -> int:
    return machine.pages.rmqueue_smallest(machine.pages.zones[0], order, mt)


def give(machine: Machine, pfn: int, order: int, mt: int = MOVABLE, to_tail: bool = False) -> None:
    machine.pages.free_one_page(machine.pages.zones[0], pfn, order, mt, to_tail)


def lists(machine: Machine) -> dict[tuple[int, int], list[int]]:
    return free_lists(machine, machine.pages.zones[0])


def test_expand_keeps_the_lower_half(tiny_zone: Machine) -> None:
    """One page of a block of 1,024 leaves its upper halves on the lists of their orders."""
    put_free(tiny_zone, START, 10, MOVABLE)
    assert take(tiny_zone, 0) == START
    assert lists(tiny_zone) == {(order, MOVABLE): [START + (1 << order)] for order in range(10)}
    assert tiny_zone.pages.zones[0].free_pages == 1023


@pytest.mark.parametrize("order", range(11))
def test_requests_ascend(tiny_zone: Machine, order: int) -> None:
    """Successive requests of one order cut a block up from its low end."""
    put_free(tiny_zone, START, 10, MOVABLE)
    size = 1 << order
    assert [take(tiny_zone, order) for _ in range(1024 // size)] == list(range(START, START + 1024, size))
    assert take(tiny_zone, order) == -1
    assert tiny_zone.pages.zones[0].free_pages == 0


def test_smallest_sufficient_block_is_taken(tiny_zone: Machine) -> None:
    """The lowest order that has a block serves, and of its list the head."""
    put_free(tiny_zone, START, 10, MOVABLE)
    put_free(tiny_zone, START + 1024, 3, MOVABLE)
    put_free(tiny_zone, START + 1040, 3, MOVABLE)
    assert take(tiny_zone, 2) == START + 1024
    assert lists(tiny_zone) == {
        (10, MOVABLE): [START], (3, MOVABLE): [START + 1040], (2, MOVABLE): [START + 1028],
    }


def test_only_the_type_asked_for(tiny_zone: Machine) -> None:
    """rmqueue_smallest() never falls back."""
    put_free(tiny_zone, START, 10, MOVABLE)
    assert take(tiny_zone, 0, UNMOVABLE) == -1
    assert take(tiny_zone, 0, RECLAIMABLE) == -1


def test_buddies_merge_all_the_way(tiny_zone: Machine) -> None:
    """The last page to come back makes the whole block again."""
    put_free(tiny_zone, START, 10, MOVABLE)
    pages = [take(tiny_zone, 0) for _ in range(1024)]
    for pfn in pages[1:] + pages[:1]:
        give(tiny_zone, pfn, 0)
    assert lists(tiny_zone) == {(10, MOVABLE): [START]}


def test_no_merge_beyond_max_order(tiny_zone: Machine) -> None:
    """Two neighbouring blocks of order 10 stay two."""
    give(tiny_zone, START, 10)
    give(tiny_zone, START + 1024, 10)
    assert lists(tiny_zone) == {(10, MOVABLE): [START + 1024, START]}


def test_a_neighbour_of_another_order_is_no_buddy(tiny_zone: Machine) -> None:
    """Page START's buddy is START + 1, which is the first page of nothing here."""
    put_free(tiny_zone, START + 2, 1, MOVABLE)
    give(tiny_zone, START, 0)
    assert lists(tiny_zone) == {(1, MOVABLE): [START + 2], (0, MOVABLE): [START]}


def test_a_neighbour_that_is_no_buddy(tiny_zone: Machine) -> None:
    """Pages 1 and 2 are adjacent, but belong to different pairs."""
    give(tiny_zone, START + 1, 0)
    give(tiny_zone, START + 2, 0)
    assert lists(tiny_zone) == {(0, MOVABLE): [START + 2, START + 1]}


def test_no_merge_across_zones() -> None:
    """The last block of a zone does not merge with its buddy in the next zone."""
    machine = empty(open_zone("DMA32", 16, 2), open_zone("Normal", 18, 2))
    low, high = machine.pages.zones
    machine.pages.free_one_page(low, START, 9, MOVABLE, False)
    machine.pages.free_one_page(high, START + 512, 9, MOVABLE, False)
    assert free_lists(machine, low) == {(9, MOVABLE): [START]}
    assert free_lists(machine, high) == {(9, MOVABLE): [START + 512]}


def test_merging_inside_a_pageblock_ignores_the_buddys_list(tiny_zone: Machine) -> None:
    """After partial steals a buddy may be on another type's list; the result gets the freed page's type."""
    put_free(tiny_zone, START + 1, 0, UNMOVABLE)
    give(tiny_zone, START, 0, MOVABLE)
    assert lists(tiny_zone) == {(1, MOVABLE): [START]}


@pytest.mark.parametrize("other", [UNMOVABLE, MOVABLE, RECLAIMABLE])
def test_whole_pageblocks_of_mergeable_types_merge(tiny_zone: Machine, other: int) -> None:
    """From pageblock order on types are looked at, but the three ordinary ones may mix."""
    tiny_zone.pages.zones[0].pageblock_type[1] = other
    put_free(tiny_zone, START + 512, 9, other)
    give(tiny_zone, START, 9, MOVABLE)
    assert lists(tiny_zone) == {(10, MOVABLE): [START]}


@pytest.mark.parametrize("other", [HIGHATOMIC, ISOLATE])
def test_reserved_pageblocks_stay_apart(tiny_zone: Machine, other: int) -> None:
    """HighAtomic and Isolate blocks merge with their own kind only, in both directions."""
    tiny_zone.pages.zones[0].pageblock_type[1] = other
    put_free(tiny_zone, START + 512, 9, other)
    give(tiny_zone, START, 9, MOVABLE)
    assert lists(tiny_zone) == {(9, MOVABLE): [START], (9, other): [START + 512]}


def test_reserved_pageblocks_of_one_type_merge(tiny_zone: Machine) -> None:
    """Two HighAtomic pageblocks are one block of order 10."""
    zone = tiny_zone.pages.zones[0]
    zone.pageblock_type[0] = zone.pageblock_type[1] = HIGHATOMIC
    put_free(tiny_zone, START + 512, 9, HIGHATOMIC)
    give(tiny_zone, START, 9, HIGHATOMIC)
    assert lists(tiny_zone) == {(10, HIGHATOMIC): [START]}


@pytest.mark.parametrize("order", range(11))
def test_freed_blocks_go_to_the_head(tiny_zone: Machine, order: int) -> None:
    """Without a free neighbour one level up, last in is first out."""
    put_free(tiny_zone, START + 2048, order, MOVABLE)
    give(tiny_zone, START, order)
    assert lists(tiny_zone) == {(order, MOVABLE): [START, START + 2048]}


@pytest.mark.parametrize("order", range(10))
@pytest.mark.parametrize("upper", [False, True])
def test_merge_likely_goes_to_the_tail(tiny_zone: Machine, order: int, upper: bool) -> None:
    """
    A block waits at the tail when the order above it would be whole but for this block's buddy.

    The pair (START, START + 2^order) has the buddy START + 2^(order + 1), which is free. Orders 9 and 10 have
    no such rule: nothing merges above 10.
    """
    size = 1 << order
    put_free(tiny_zone, START + 2 * size, order + 1, MOVABLE)
    put_free(tiny_zone, START + 3072, order, MOVABLE)
    freed = START + size if upper else START
    give(tiny_zone, freed, order)
    on_list = [START + 3072, freed] if order < 9 else [freed, START + 3072]
    assert lists(tiny_zone)[order, MOVABLE] == on_list


def test_merge_likely_looks_at_the_block_as_merged(tiny_zone: Machine) -> None:
    """Pages 0 and 1 merge; the pair's own pair (2..3) is in use, but 4..7 is free: so to the tail of order 1."""
    put_free(tiny_zone, START + 1, 0, MOVABLE)
    put_free(tiny_zone, START + 4, 2, MOVABLE)
    put_free(tiny_zone, START + 512, 1, MOVABLE)
    give(tiny_zone, START, 0)
    assert lists(tiny_zone)[1, MOVABLE] == [START + 512, START]


@pytest.mark.parametrize("order", range(11))
def test_boot_frees_to_the_tail(tiny_zone: Machine, order: int) -> None:
    put_free(tiny_zone, START + 2048, order, MOVABLE)
    give(tiny_zone, START, order, to_tail=True)
    assert lists(tiny_zone) == {(order, MOVABLE): [START + 2048, START]}
