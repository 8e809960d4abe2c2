"""Per-CPU page lists laid out from /proc files and from what a trace shows of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from memtrace.kernels import load_kernel
from memtrace.machines import machine_from_proc
from memtrace.mm.boot import build
from memtrace.mm.machine import Machine
from memtrace.mm.restore_lists import SeenList, SeenLists
from memtrace.mm.restore_proc import SeenPages, restore_caches, restore_proc
from memtrace.snapshot.proc import ProcSnapshot, read_proc

GFP_MOVABLE, GFP_KERNEL = 0x100CCA, 0xCC0
BASE = 0x120000
"""A page that nothing of the snapshot lies at."""


@pytest.fixture(scope="module")
def snapshot() -> ProcSnapshot:
    return read_proc(Path(__file__).parents[3] / "traces" / "build-and-serve-6.18" / "start")


def laid_out(snapshot: ProcSnapshot, lists: SeenLists, types: dict[int, int] | None = None) -> Machine:
    machine = build(machine_from_proc(snapshot), load_kernel("6.18"))
    restore_caches(machine, snapshot)
    counts = restore_proc(machine, snapshot, [], SeenPages(lists=lists, types=types or {}))
    assert counts.listed == sum(len(s.first + s.last) << key[2] for key, s in lists.items())
    machine.validate()
    return machine


def members(machine: Machine, cpu: int, order: int, mt: int) -> list[int]:
    pcp = machine.pages.zones[machine.pages.zone_of(BASE)].pcp[cpu]
    return machine.frames.members(pcp.list0 + machine.pages.free_pindex(order, mt))


def counted(snapshot: ProcSnapshot, cpu: int) -> int:
    return next(zone.pcp[cpu].count for zone in snapshot.zones if zone.name == "Normal")


def zone_of_base(snapshot: ProcSnapshot) -> int:
    return build(machine_from_proc(snapshot), load_kernel("6.18")).pages.zone_of(BASE)


def test_seen_pages_lie_at_both_ends(snapshot: ProcSnapshot) -> None:
    zone = zone_of_base(snapshot)
    first, last = [BASE + 3, BASE + 1], [BASE + 9, BASE + 7]
    machine = laid_out(snapshot, {(zone, 0, 0, 1): SeenList(first, last)})
    held = members(machine, 0, 0, 1)
    assert held[:2] == first and held[-2:] == last and len(held) == counted(snapshot, 0)
    assert machine.page_alloc(0, GFP_MOVABLE, 0, 0) == BASE + 3


def test_a_refilled_list_held_no_more_than_was_seen(snapshot: ProcSnapshot) -> None:
    """What remains is put on the next list that may have held it; the count stays the file's."""
    zone = zone_of_base(snapshot)
    machine = laid_out(snapshot, {(zone, 1, 0, 1): SeenList([BASE], whole=True), (zone, 1, 1, 0): SeenList([BASE + 4])})
    assert members(machine, 1, 0, 1) == [BASE]
    assert members(machine, 1, 1, 0) == [BASE + 4]
    assert len(members(machine, 1, 0, 0)) == counted(snapshot, 1) - 3
    assert machine.pages.zones[zone].pcp[1].count == counted(snapshot, 1)


def test_larger_blocks_hold_what_single_pages_cannot(snapshot: ProcSnapshot) -> None:
    zone = zone_of_base(snapshot)
    machine = laid_out(snapshot, {(zone, 0, 0, mt): SeenList(whole=True) for mt in range(3)})
    huge = members(machine, 0, 9, 1)
    assert len(huge) == counted(snapshot, 0) >> 9 and all(pfn % 512 == 0 for pfn in huge)
    left = counted(snapshot, 0) - (len(huge) << 9)
    assert len(members(machine, 0, 3, 1)) == left >> 3
    assert counted(snapshot, 0) - machine.pages.zones[zone].pcp[0].count < 2


def test_more_was_seen_than_counted(snapshot: ProcSnapshot) -> None:
    """The trace is later than the snapshot: it is believed."""
    zone, n = zone_of_base(snapshot), counted(snapshot, 0)
    pages = list(range(BASE, BASE + n + 10))
    machine = laid_out(snapshot, {(zone, 0, 0, 0): SeenList(pages)})
    assert members(machine, 0, 0, 0) == pages and members(machine, 0, 0, 1) == []
    assert [machine.page_alloc(0, GFP_KERNEL, 0, 0) for _ in range(2)] == pages[:2]


def test_pageblocks_of_seen_pages_have_the_types_that_the_trace_shows(snapshot: ProcSnapshot) -> None:
    block, zone_index = BASE >> 9, zone_of_base(snapshot)
    for mt in range(3):
        lists = {(zone_index, 0, 0, mt): SeenList([BASE]), (zone_index, 0, 0, 2): SeenList([BASE + 512])}
        if mt == 2:
            lists = {(zone_index, 0, 0, 2): SeenList([BASE, BASE + 512])}
        machine = laid_out(snapshot, lists, {block: mt, block + 1: 2})
        zone = machine.pages.zones[zone_index]
        assert [zone.pageblock_type[block + i - zone.pageblock0] for i in range(2)] == [mt, 2]
