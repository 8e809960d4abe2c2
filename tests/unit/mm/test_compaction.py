"""Compaction: what is moved where, when it is worth trying, and when it is put off (MODEL 4.1, 10.5)."""

from __future__ import annotations

import random
from typing import Any

import pytest
from small_machines import booted, nr_free, zone

from memtrace.config import VmParams
from memtrace.mm.constants import COMPACT_CONTINUE, COMPACT_SKIPPED, COMPACT_SUCCESS
from memtrace.mm.gfp import GFP_BIT_MEMALLOC, GFP_BIT_ZERO, GFP_HIGHUSER_MOVABLE, GFP_KERNEL, GFP_NOWAIT
from memtrace.mm.machine import Machine
from memtrace.mm.paths import PATH_PAGE_ALLOC_COMPACT

START = 16 << 8
PAGES = 4096
CACHE = GFP_HIGHUSER_MOVABLE
ANONYMOUS = GFP_HIGHUSER_MOVABLE | GFP_BIT_ZERO


def fragmented(
    every: int = 2, least: int = 50, gfp: int = ANONYMOUS, pinned: bool = False, **vm: Any
) -> tuple[Machine, set[int]]:
    """16 MiB of movable pages of which every n-th is free; the others can be moved, but not taken back."""
    machine = booted(zone("DMA32", 16, 16, min=least, low=60, high=70, lowmem_reserve=(0,) * 4), batch=1, high=0,
                     vm=VmParams(watermark_boost_factor=0, **vm))
    z = machine.pages.zones[0]
    pfns = [machine.page_alloc(0, GFP_HIGHUSER_MOVABLE | GFP_BIT_MEMALLOC, -1, 0) for _ in range(PAGES)]
    held = set()
    for pfn in pfns:
        if pfn % every:
            if not pinned:
                machine.pages.lru_add(z, pfn, gfp)
            held.add(pfn)
        else:
            machine.page_free(pfn, 0, 0)
    machine.take_events()
    return machine, held


def moved(machine: Machine, held: set[int]) -> set[int]:
    """Where the pages are now, after what the journal says; none may be moved onto another."""
    for pfn, new in machine.pages.take_journal():
        held.remove(pfn)
        assert new not in held
        if new >= 0:
            held.add(new)
    return held


@pytest.mark.parametrize("order", [1, 3, 4, 9])
def test_a_block_is_made(order: int) -> None:
    """Enough is free, but in single pages: pages move up, and the request gets an aligned block at the lower end."""
    machine, held = fragmented()
    assert nr_free(machine.pages.zones[0])[1:] == [0] * 10
    pfn = machine.page_alloc(order, GFP_HIGHUSER_MOVABLE, -1, 0)
    assert pfn >= 0
    assert machine.it.path == PATH_PAGE_ALLOC_COMPACT
    held = moved(machine, held)
    assert not held & set(range(pfn, pfn + (1 << order)))
    assert len(held) == PAGES // 2
    assert [arguments["success"] for kind, arguments in machine.take_events() if kind == "compaction"][-1]
    machine.validate()


def test_those_who_may_not_wait_do_not_compact() -> None:
    machine, _ = fragmented()
    assert machine.page_alloc(3, GFP_NOWAIT, -1, 0) == -1
    assert machine.pages.take_journal() == []


def test_compaction_can_be_absent() -> None:
    """As before 2.6.35: then page cache is taken back until a block forms, or a task would be killed."""
    machine, _ = fragmented(gfp=GFP_HIGHUSER_MOVABLE, compaction=False)
    machine.page_alloc(3, GFP_KERNEL, -1, 0)
    assert all(new == -1 for _, new in machine.pages.take_journal())
    assert "compaction" not in [kind for kind, _ in machine.take_events()]


def test_suitable() -> None:
    """Needless with a block free; pointless without pages to move to, or when memory is short rather than torn."""
    machine, _ = fragmented()
    z = machine.pages.zones[0]
    suitable = machine.pages.compaction_suitable
    assert suitable(z, 0, 0, 3, z.free_pages) == COMPACT_SUCCESS
    assert suitable(z, 3, 0, 3, z.free_pages) == COMPACT_CONTINUE
    z.watermark_min = 2048 - 8  # order 3 needs 2 * 8 single pages above min
    assert suitable(z, 3, 0, 3, z.free_pages) == COMPACT_SKIPPED
    assert machine.pages.fragmentation_index(z, 0) == -1000
    # 2,048 single pages: 1000 - (1000 + 2048 * 1000 // 512) // 2048 = 998
    assert machine.pages.fragmentation_index(z, 9) == 998
    machine.pages.extfrag_threshold = 999
    z.watermark_min = 50
    assert suitable(z, 9, 0, 3, z.free_pages) == COMPACT_SKIPPED


def test_failures_put_further_attempts_off() -> None:
    """Nothing can be moved: attempts are counted, then made only now and then; a success forgets that."""
    machine, _ = fragmented(pinned=True)
    z = machine.pages.zones[0]
    shifts = []
    for _ in range(40):
        machine.pages.nodes[0].kcompactd_order = 3
        machine.pages.nodes[0].kcompactd_highest_zoneidx = 3
        machine.pages.kcompactd_run(0, 0)
        shifts.append(z.compact_defer_shift)
    assert shifts == sorted(shifts)
    assert shifts[0] == 1
    attempts = sum(kind == "compaction" for kind, _ in machine.take_events())
    assert attempts == 5  # the first, then after 2, 4, 8 and 16 more considerations
    assert z.compact_order_failed <= 3


def test_kcompactd() -> None:
    machine, held = fragmented()
    machine.pages.nodes[0].kcompactd_order = 6
    machine.pages.nodes[0].kcompactd_highest_zoneidx = 3
    machine.pages.kcompactd_run(0, 0)
    assert sum(nr_free(machine.pages.zones[0])[6:]) > 0
    moved(machine, held)
    machine.validate()


def test_random_streams_lose_no_page() -> None:
    """Blocks and single pages, some movable, on a machine that is short of memory; a stream's number is its seed."""
    migrated = reclaimed = 0
    for seed in range(30):
        rng = random.Random(seed)
        machine, held = fragmented(rng.choice([2, 3, 5]), rng.choice([0, 50, 200]), rng.choice([ANONYMOUS, CACHE]))
        blocks: list[tuple[int, int]] = []
        for _ in range(150):
            order = rng.choice([0, 0, 0, 1, 2, 3, 5, 9])
            gfp = rng.choice([GFP_KERNEL, GFP_HIGHUSER_MOVABLE, GFP_NOWAIT])
            if rng.random() < 0.6:
                pfn = machine.page_alloc(order, gfp, -1, 0)
                for old, new in machine.pages.take_journal():
                    held.remove(old)
                    migrated += new >= 0
                    reclaimed += new < 0
                    held |= {new} if new >= 0 else set()
                if pfn >= 0 and order == 0 and gfp == GFP_HIGHUSER_MOVABLE:
                    machine.pages.lru_add(machine.pages.zones[0], pfn, gfp)
                    held.add(pfn)
                elif pfn >= 0:
                    blocks.append((pfn, order))
            elif blocks and rng.random() < 0.5:
                machine.page_free(*blocks.pop(rng.randrange(len(blocks))), 0)
            elif held:
                pfn = rng.choice(sorted(held))
                held.remove(pfn)
                machine.page_free(pfn, 0, 0)
        machine.validate()
        z = machine.pages.zones[0]
        assert sorted(machine.frames.members(z.lru0) + machine.frames.members(z.lru0 + 1)) == sorted(held)
        assert machine.pages.zones[0].used_pages == len(held) + sum(1 << order for _, order in blocks)
    assert migrated > 1000
    assert reclaimed > 100
