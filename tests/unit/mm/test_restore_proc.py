"""A state laid out from /proc counts: counts met exactly, nothing where no memory is."""

from __future__ import annotations

from pathlib import Path

import pytest

from memtrace.config import KernelConfig
from memtrace.machines import machine_from_proc
from memtrace.mm.boot import build
from memtrace.mm.machine import Machine
from memtrace.mm.restore_proc import SeenPages, group_seen, restore_caches, restore_proc
from memtrace.snapshot.proc import ProcSnapshot, read_proc


@pytest.fixture(scope="module")
def snapshot() -> ProcSnapshot:
    return read_proc(Path(__file__).parents[3] / "traces" / "build-and-serve-6.18" / "start")


@pytest.fixture(scope="module")
def machine(snapshot: ProcSnapshot) -> Machine:
    machine = build(machine_from_proc(snapshot), KernelConfig(memcg=True))
    restore_caches(machine, snapshot)
    restore_proc(machine, snapshot, [], SeenPages())
    return machine


def test_sound(machine: Machine) -> None:
    machine.validate()


def test_free_blocks_as_counted(machine: Machine, snapshot: ProcSnapshot) -> None:
    for zone in machine.pages.zones:
        known = next(z for z in snapshot.zones if (z.node, z.name) == (zone.node, zone.name))
        for order, by_type in enumerate(known.nr_free):
            for mt, blocks in enumerate(by_type[:3]):
                assert zone.nr_free_mt[order * 5 + mt] == blocks, (zone.name, order, mt)


def test_no_free_block_in_a_hole(machine: Machine) -> None:
    holes = machine.config.holes
    assert holes, "this machine has a hole below 4 GiB"
    for zone in machine.pages.zones:
        for number in range(55):
            order = number // 5
            for pfn in machine.frames.members(zone.list0 + number):
                assert not any(pfn < end and start < pfn + (1 << order) for start, end in holes), hex(pfn)


def test_slabs_as_counted(machine: Machine, snapshot: ProcSnapshot) -> None:
    for known in snapshot.caches:
        cache = machine.slab.caches[machine.find_cache(known.name)]
        assert sum(cache.nr_slabs) == known.num_slabs, known.name
        if known.nr_partial >= 0 and known.num_objs > known.active_objs:
            assert sum(cache.nr_partial) == known.nr_partial, known.name


def test_a_seen_slab_lies_where_it_was(snapshot: ProcSnapshot) -> None:
    machine = build(machine_from_proc(snapshot), KernelConfig(memcg=True))
    restore_caches(machine, snapshot)
    dentry = machine.find_cache("dentry")
    size = machine.slab.caches[dentry].size
    base = 0x120000 << 12
    seen = group_seen(machine, [(base, dentry)], [(base + 3 * size, dentry, 1), (base + size, dentry, 1)])
    restore_proc(machine, snapshot, seen, SeenPages())
    machine.validate()
    assert machine.adopt_object(base, dentry) == base
    # The CPU that took the free objects gets them again, in the same order.
    assert [machine.cache_alloc(dentry, 0xCC0, -1, 1) for _ in range(2)] == [base + 3 * size, base + size]
