"""Each validator finds what it is there for: a sound machine is broken in one place, and must be refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from small_machines import MOVABLE, booted, open_zone

from memtrace.config import SlubParams
from memtrace.errors import ModelError
from memtrace.mm.gfp import GFP_HIGHUSER_MOVABLE, GFP_KERNEL
from memtrace.mm.machine import Machine

SLUB = SlubParams(max_order=0, cpu_partial=4, min_partial=1)


@pytest.fixture
def busy() -> Machine:
    """Slabs of every kind: a CPU's, on a CPU's partial list, on the node's, full; pages on lists and in use."""
    machine = booted(open_zone("DMA32", 16, 16), cpus=2, batch=4, high=100, slub=SLUB)
    cache = machine.slab.create_cache("probe", 1024, merge=False)
    addrs = [machine.cache_alloc(cache, GFP_KERNEL, -1, 0) for _ in range(22)]
    for i in (0, 4, 8, 9, 12):
        machine.cache_free(addrs[i], 0)
    pfns = [machine.page_alloc(0, GFP_HIGHUSER_MOVABLE, -1, 0) for _ in range(3)]
    machine.page_free(pfns[0], 0, 1)
    machine.validate()
    return machine


Breaks = Callable[[Machine], None]


def _set(array_of: Callable[[Machine], Any], index: Callable[[Machine], int], value: int) -> Breaks:
    """Write a wrong value into one place of an array."""

    def breaks(machine: Machine) -> None:
        array_of(machine)[index(machine)] = value

    return breaks


def _probe(machine: Machine) -> Any:
    return machine.slab.caches[machine.find_cache("probe")]


def _free_block(machine: Machine) -> int:
    zone = machine.pages.zones[0]
    return machine.frames.members(zone.list0 + 5 * 10 + MOVABLE)[0]


def _node_slab(machine: Machine) -> int:
    return _probe(machine).n_first[0]


def _cpu_slab(machine: Machine) -> int:
    return _probe(machine).c_slab[0]


def _waiting(machine: Machine) -> int:
    return _probe(machine).c_partial[0]


def _change(name: str, by: int) -> Breaks:
    """Miscount something of the zone."""

    def breaks(machine: Machine) -> None:
        zone = machine.pages.zones[0]
        setattr(zone, name, getattr(zone, name) + by)

    return breaks


def _count(machine: Machine) -> None:
    machine.pages.zones[0].pcp[1].count += 1


def _nr_partial(machine: Machine) -> None:
    _probe(machine).nr_partial[0] += 1


def _partial_free(machine: Machine) -> None:
    _probe(machine).partial_free[0] += 1


def _live(machine: Machine) -> None:
    _probe(machine).live += 1


def _nr_slabs(machine: Machine) -> None:
    _probe(machine).nr_slabs[0] += 1


def _two_cpus(machine: Machine) -> None:
    _probe(machine).c_slab[1] = _cpu_slab(machine)


def _unmerged(machine: Machine) -> None:
    zone, pages = machine.pages.zones[0], machine.pages
    pfn = pages.rmqueue_smallest(zone, 10, MOVABLE)
    for half in (pfn, pfn + 16):
        # As free_one_page() would, had it not looked at the buddy.
        machine.frames.kind[half ^ 16] = 0
        pages.free_one_page(zone, half, 4, MOVABLE, False)
        machine.frames.kind[half] = 0
    machine.frames.kind[pfn] = machine.frames.kind[pfn + 16] = 1
    zone.used_pages += 1024 - 32


def _double_free(machine: Machine) -> None:
    addr = machine.cache_alloc(machine.find_cache("probe"), GFP_KERNEL, -1, 0)
    machine.cache_free(addr, 0)
    machine.cache_free(addr, 0)


def _loop(machine: Machine) -> None:
    s = machine.slab
    row = _node_slab(machine)
    first = s.sl_free[row]
    s.obj_next[s.sl_seg[row] + first] = first


def _lost_object(machine: Machine) -> None:
    s = machine.slab
    row = _node_slab(machine)
    s.obj_next[s.sl_seg[row] + s.sl_free[row]] = -2


BREAKS = {
    "free_pages": (_change("free_pages", 1), "free_pages"),
    "used_pages": (_change("used_pages", 1), "free . per-CPU . used"),
    "nr_free": (_set(lambda m: m.pages.zones[0].nr_free, lambda _: 3, 7), "nr_free"),
    "nr_free of a type": (_set(lambda m: m.pages.zones[0].nr_free_mt, lambda _: 51, 7), "blocks counted"),
    "kind of a free block": (_set(lambda m: m.frames.kind, _free_block, 3), "free block"),
    "order of a free block": (_set(lambda m: m.frames.order, _free_block, 9), "free block"),
    "kind inside a free block": (_set(lambda m: m.frames.kind, lambda m: _free_block(m) + 5, 3), "inside it"),
    "slab in a free block": (_set(lambda m: m.frames.slab, lambda m: _free_block(m) + 5, 0), "slab of page"),
    "buddies that are not merged": (_unmerged, "buddy"),
    "per-CPU count": (_count, "per-CPU count"),
    "per-CPU page": (_set(lambda m: m.frames.kind, lambda m: m.frames.members(m.pages.zones[0].pcp[1].list0 + 1)[0], 1),
                     "per-CPU list"),
    "owner of a slab's page": (_set(lambda m: m.frames.slab, lambda m: m.slab.sl_pfn[_cpu_slab(m)], -1), "owner"),
    "inuse": (_set(lambda m: m.slab.sl_inuse, _node_slab, 1), "inuse"),
    "a freelist that loops": (_loop, "twice"),
    "a live object on a freelist": (_lost_object, "live"),
    "nr_partial": (_nr_partial, "nr_partial"),
    "partial_free": (_partial_free, "free objects"),
    "frozen on the node's list": (_set(lambda m: m.slab.sl_frozen, _node_slab, 1), "frozen"),
    "not frozen on a CPU's list": (_set(lambda m: m.slab.sl_frozen, _waiting, 0), "not frozen"),
    "length of a CPU's list": (_set(lambda m: m.slab.sl_slabs, _waiting, 5), "length"),
    "a slab of two CPUs": (_two_cpus, "two CPUs"),
    "nr_slabs": (_nr_slabs, "nr_slabs"),
    "live objects": (_live, "live objects"),
    "double free": (_double_free, "no live object"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_is_found(busy: Machine, name: str) -> None:
    breaks, message = BREAKS[name]
    breaks(busy)
    with pytest.raises(ModelError, match=message):
        busy.validate()
