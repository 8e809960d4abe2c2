"""The machine's face: calls, what they leave behind, what pre-dates a trace; and the samples taken of it."""

from __future__ import annotations

from array import array

import pytest
from small_machines import MOVABLE, booted, empty, open_zone, put_free, stats

from memtrace.config import SlubParams
from memtrace.mm.gfp import GFP_HIGHUSER_MOVABLE, GFP_KERNEL
from memtrace.mm.itinerary import Itinerary
from memtrace.mm.machine import Machine
from memtrace.mm.paths import PATH_ALLOC_FAST, PATH_FREE_FAST, PATHS
from memtrace.mm.restore import forget_owners
from memtrace.mm.stats import (
    CACHE_FIELDS,
    NR_SLUB_STATS,
    PAGEBLOCK_MAP_FIELDS,
    PCP_FIELDS,
    SLUB_STATS,
    ZONE_FIELDS,
)
from memtrace.mm.vmstat import VmStat

START = 16 << 8


@pytest.fixture
def two_nodes() -> Machine:
    return booted(open_zone("DMA32", 16, 16), open_zone("DMA32", 32, 16, node=1), cpus=2, batch=7, high=100,
                  slub=SlubParams(max_order=0, cpu_partial=4, min_partial=1))


def sampled(method: object, fields: tuple[str, ...], room: int = 4096) -> list[dict[str, int]]:
    """Rows of a sample as dicts."""
    buf = array("q", [-7]) * (room * len(fields))
    rows = method(buf)  # type: ignore[operator]
    assert all(n == -7 for n in buf[rows * len(fields) :]), "wrote beyond its rows"
    return [dict(zip(fields, buf[i * len(fields) : (i + 1) * len(fields)], strict=True)) for i in range(rows)]


# -- calls --------------------------------------------------------------------------------------------------------


def test_calls_tell_what_they_served(two_nodes: Machine) -> None:
    dentry = two_nodes.slab.create_cache("dentry", 200)
    addr = two_nodes.cache_alloc(dentry, GFP_KERNEL, -1, 0)
    assert (two_nodes.last_cache, two_nodes.last_bytes) == (dentry, 200)
    two_nodes.it.reset()
    two_nodes.cache_free(addr, 0)
    assert PATHS[two_nodes.it.path] == PATHS[PATH_FREE_FAST] == ("free", "fastpath")
    assert two_nodes.kmalloc(50, GFP_KERNEL, -1, 0)
    assert two_nodes.cache_names[two_nodes.last_cache] == "kmalloc-64"
    assert two_nodes.bulk_alloc_one(dentry, GFP_KERNEL, 0) == addr
    assert (two_nodes.it.path, two_nodes.last_cache) == (PATH_ALLOC_FAST, dentry)


def test_kfree_takes_objects_of_any_cache(two_nodes: Machine) -> None:
    dentry = two_nodes.slab.create_cache("dentry", 200)
    two_nodes.kfree(two_nodes.cache_alloc(dentry, GFP_KERNEL, -1, 0), 0)
    assert two_nodes.slab.caches[dentry].live == 0


def test_locks_have_names(two_nodes: Machine) -> None:
    names = [two_nodes.lock_name(i) for i in range(two_nodes.nr_locks())]
    assert names[:2] == ["zone->lock N0 DMA32", "zone->lock N1 DMA32"]
    assert len(names) == len(set(names)) == 2 + 2 * two_nodes.nr_caches
    assert names[2:4] == [f"list_lock {two_nodes.cache_names[0]} N{node}" for node in (0, 1)]
    assert (two_nodes.zone_node(1), two_nodes.zone_name(1)) == (1, "DMA32")


def test_statistics_are_forgotten_and_the_state_is_not(two_nodes: Machine) -> None:
    addr = two_nodes.kmalloc(50, GFP_KERNEL, -1, 0)
    index = two_nodes.last_cache
    two_nodes.page_alloc(11, GFP_KERNEL, -1, 0)
    assert stats(two_nodes, index)
    two_nodes.reset_statistics()
    assert stats(two_nodes, index) == {}
    assert two_nodes.take_events() == []
    assert two_nodes.pages.alloc_failures == 0
    assert two_nodes.pages.zones[0].pcp[0].misses == 0
    assert two_nodes.slab.is_live(addr)
    two_nodes.validate()


def test_an_itinerary_of_too_many_steps_keeps_their_work() -> None:
    it = Itinerary()
    room = len(it.lock)
    for i in range(room + 5):
        it.locked(i, 3, 2)
    assert it.n == room
    assert (it.lock[0], it.count[0]) == (0, 2)
    assert it.count[room - 1] == 2 * 6
    it.reset()
    assert (it.n, it.path) == (0, 0)


# -- what pre-dates the trace -------------------------------------------------------------------------------------


def test_without_an_exact_state_objects_are_allocated(two_nodes: Machine) -> None:
    """Where they lay is not known then, only to which cache they belonged."""
    dentry = two_nodes.slab.create_cache("dentry", 200)
    addr = two_nodes.adopt_object(0x12345678, dentry)
    assert two_nodes.slab.is_live(addr)
    assert two_nodes.slab.cache_of(addr).name == "dentry"
    assert two_nodes.adopt_object(-1, -1) == 0


def test_pages_of_unknown_owners_are_adopted() -> None:
    """Aligned blocks of pages that are neither free nor in a slab, ascending; when they run out, new ones."""
    machine = empty(open_zone("DMA32", 16, 1), batch=1, high=0)
    machine.pages.mobility_grouping = True
    put_free(machine, START + 128, 7, MOVABLE)
    put_free(machine, START, 3, MOVABLE)
    zone = machine.pages.zones[0]
    forget_owners(machine, zone)
    zone.used_pages += 120
    zone.given_pages += 120
    assert [machine.adopt_page(-1, order) for order in (3, 4, 5, 6)] == [START + 8, START + 16, START + 32, START + 64]
    taken = machine.adopt_page(-1, 2)
    assert taken == START, "none is left, so a new block is allocated"
    machine.page_free(START + 64, 6, 0)
    machine.validate()


# -- samples ------------------------------------------------------------------------------------------------------


def test_sample_of_caches(two_nodes: Machine) -> None:
    """A CPU's slab, two on its partial list, one on the node's with two free objects, one full."""
    cache = two_nodes.slab.create_cache("probe", 1024, merge=False)
    addrs = [two_nodes.cache_alloc(cache, GFP_KERNEL, -1, 0) for _ in range(21)]
    two_nodes.cache_free(addrs[0], 0)
    two_nodes.cache_free(addrs[1], 0)
    two_nodes.slab.flush_all(cache)
    addrs += [two_nodes.cache_alloc(cache, GFP_KERNEL, 1, 0) for _ in range(1)]
    two_nodes.cache_free(addrs[4], 0)
    row = sampled(VmStat(two_nodes).caches, CACHE_FIELDS)[cache]
    s = two_nodes.slab.caches[cache]
    assert row == {
        "object_size": 1024, "size": 1024, "objperslab": 4, "pagesperslab": 1,
        # /proc counts objects as active unless they are free on a node's list: 2 in one slab, 3 in another.
        "active_objs": 28 - 5, "num_objs": 28, "num_slabs": 7, "nr_partial": 2, "cpu_slabs": 2,
        # As /proc/slabinfo prints them for SLUB, and no such counts.
        "active_slabs": 7, "limit": 0, "batchcount": 0, "sharedfactor": 0, "sharedavail": 0, "maxobjs": 0,
        "maxfreeable": 0,
    }
    assert sum(s.nr_slabs) == 7


def test_sample_of_cpu_caches(two_nodes: Machine) -> None:
    """One row a CPU and cache that was used; SLUB's counters in their order."""
    cache = two_nodes.slab.create_cache("probe", 1024, merge=False)
    two_nodes.kfree(two_nodes.cache_alloc(cache, GFP_KERNEL, -1, 1), 1)
    rows = sampled(VmStat(two_nodes).cpu_caches, ("cpu", "cache", *SLUB_STATS))
    assert len(SLUB_STATS) == NR_SLUB_STATS
    assert [(row["cpu"], row["cache"]) for row in rows] == [(1, cache)]
    assert {name: n for name, n in rows[0].items() if n and name in SLUB_STATS} == stats(two_nodes, cache, 1)


def test_sample_of_zones_and_lists(two_nodes: Machine) -> None:
    two_nodes.kmalloc(50, GFP_KERNEL, -1, 0)
    two_nodes.page_alloc(0, GFP_HIGHUSER_MOVABLE, 1, 0)
    two_nodes.pages.zones[1].boost = 9
    zones = sampled(VmStat(two_nodes).zones, ZONE_FIELDS)
    assert zones[0] == {
        "free_pages": 4096 - 7, "pcp_pages": 6, "slab_pages": 1, "min": 0, "low": 0, "high": 0, "present": 4096,
        "managed": 4096, "spanned": 4096, "start_pfn": 4096, "boost": 0,
    }
    # /proc prints the marks with the boost in them.
    assert {name: zones[1][name] for name in ("min", "low", "high", "boost", "slab_pages")} == {
        "min": 9, "low": 9, "high": 9, "boost": 9, "slab_pages": 0,
    }
    lists = sampled(VmStat(two_nodes).pcp, PCP_FIELDS)
    assert [(row["zone_index"], row["cpu"], row["count"], row["misses"]) for row in lists] == [
        (0, 0, 6, 1), (0, 1, 0, 0), (1, 0, 6, 1), (1, 1, 0, 0),
    ]
    assert lists[0]["batch"] == 7


def test_sample_of_free_blocks(two_nodes: Machine) -> None:
    rows = sampled(VmStat(two_nodes).buddy, ("zone", "order", "type", "blocks"))
    assert len(rows) == 2 * 11 * 5
    assert [tuple(row.values()) for row in rows if row["blocks"]] == [(0, 10, MOVABLE, 4), (1, 10, MOVABLE, 4)]


def test_sample_of_pageblocks(two_nodes: Machine) -> None:
    two_nodes.page_alloc(4, GFP_KERNEL, 0, 0)
    rows = sampled(VmStat(two_nodes).pageblock_types, ("zone", "type", "blocks"))
    assert [row["blocks"] for row in rows] == [2, 6, 0, 0, 0, 0, 8, 0, 0, 0]


def test_map_of_memory(two_nodes: Machine) -> None:
    """What every page holds, by runs of pageblocks; together they are the zone."""
    two_nodes.kmalloc(50, GFP_KERNEL, 0, 0)
    two_nodes.page_alloc(5, GFP_HIGHUSER_MOVABLE, 0, 0)
    two_nodes.page_alloc(4, GFP_KERNEL | 0x10, 0, 0)
    stat = VmStat(two_nodes)
    rows = sampled(lambda buf: stat.pageblock_map(buf, 4), PAGEBLOCK_MAP_FIELDS)
    assert [(row["zone_index"], row["start_pfn"], row["pages"]) for row in rows] == [
        (z, first, 1024) for z, zone in enumerate((4096, 8192)) for first in range(zone, zone + 4096, 1024)
    ]
    held = {name: sum(row[name] for row in rows) for name in PAGEBLOCK_MAP_FIELDS[3:]}
    assert held == {"free": 8192 - 7 - 32 - 16, "pcp": 6, "slab": 1, "movable": 32, "unmovable": 0, "reclaimable": 16}
