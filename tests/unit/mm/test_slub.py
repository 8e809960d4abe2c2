"""
SLUB's stages, frees and bulk operations, each reached and counted as MODEL 6.5-6.14 names it.

The cache of most tests has four objects of 1,024 bytes in a slab of one page, CPU partial lists of two slabs, and
keeps one partial slab on the node.
"""

from __future__ import annotations

from array import array

import pytest
from small_machines import (
    booted,
    counted,
    cpu_freelist,
    cpu_partial,
    cpu_slab,
    empty,
    free_everything_idle,
    freelist,
    node_partial,
    nr_free,
    open_zone,
    put_free,
    stats,
)

from memtrace.config import SlubParams
from memtrace.mm.gfp import GFP_BIT_THISNODE, GFP_KERNEL, GFP_NOWAIT
from memtrace.mm.machine import Machine
from memtrace.mm.paths import (
    COST_SLUB_COLD,
    COST_SLUB_NEW_SLAB,
    COST_SLUB_NODE,
    PATH_ALLOC_CPU_PARTIAL,
    PATH_ALLOC_FAILED,
    PATH_ALLOC_FAST,
    PATH_ALLOC_NEW_SLAB,
    PATH_ALLOC_NODE_PARTIAL,
    PATH_ALLOC_REFILL,
    PATH_FREE_CPU_PARTIAL,
    PATH_FREE_CPU_PARTIAL_DRAIN,
    PATH_FREE_DISCARD,
    PATH_FREE_FAST,
    PATH_FREE_NODE_PARTIAL,
    PATH_FREE_SLOW,
)

SIZE = 1024
OBJECTS = 4
START = 16 << 8
SMALL = SlubParams(max_order=0, cpu_partial=4, min_partial=1)


class Probe:
    """A machine, one cache of it, and what happened to that cache since ``since`` was last called."""

    def __init__(self, machine: Machine, size: int = SIZE) -> None:
        self.machine = machine
        self.cache = machine.slab.create_cache("probe", size, merge=False)
        self.before: dict[str, int] = {}

    def alloc(self, cpu: int = 0, n: int = 1, node: int = -1, gfp: int = GFP_KERNEL) -> list[int]:
        self.machine.it.reset()
        return [self.machine.cache_alloc(self.cache, gfp, node, cpu) for _ in range(n)]

    def free(self, *addrs: int, cpu: int = 0) -> None:
        self.machine.it.reset()
        for addr in addrs:
            self.machine.cache_free(addr, cpu)

    def since(self) -> dict[str, int]:
        """Counters that changed since the last call."""
        changed = counted(self.machine, self.cache, self.before)
        self.before = stats(self.machine, self.cache)
        return changed

    @property
    def path(self) -> int:
        return self.machine.it.path

    @property
    def steps(self) -> list[tuple[int, int, int]]:
        it = self.machine.it
        return [(it.lock[i], it.cls[i], it.count[i]) for i in range(it.n)]

    def lock(self, node: int = 0) -> int:
        """Number of the cache's list_lock."""
        return self.machine.nr_zones + self.cache * self.machine.nr_nodes + node

    def slabs(self, n: int, cpu: int = 0) -> list[list[int]]:
        """Allocate n slabs full; their objects, slab by slab."""
        addrs = self.alloc(cpu, n * OBJECTS)
        grouped = [addrs[i : i + OBJECTS] for i in range(0, n * OBJECTS, OBJECTS)]
        assert all(len({addr >> 12 for addr in group}) == 1 for group in grouped)
        return grouped

    def on_node(self, free: list[int]) -> list[list[int]]:
        """Slabs on the node's partial list with so many free objects each, in this order; their live objects."""
        grouped = self.slabs(len(free))
        for group, n in zip(grouped, free, strict=True):
            self.free(*group[:n])
            self.machine.slab.flush_all(self.cache)
        assert node_partial(self.machine, self.cache) == [group[0] >> 12 for group in grouped]
        self.since()
        return [group[n:] for group, n in zip(grouped, free, strict=True)]


def one_node(cpus: int = 2, slub: SlubParams = SMALL) -> Probe:
    return Probe(booted(open_zone("DMA32", 16, 16), cpus=cpus, batch=1, high=0, slub=slub))


@pytest.fixture
def two_cpus() -> Probe:
    return one_node()


def two_nodes(defrag: int) -> Probe:
    """CPU 0 on node 0, CPU 1 on node 1, 16 MiB each."""
    slub = SlubParams(max_order=0, cpu_partial=4, min_partial=1, remote_node_defrag_ratio=defrag)
    zones = (open_zone("DMA32", 16, 16), open_zone("DMA32", 32, 16, node=1))
    return Probe(booted(*zones, cpus=2, batch=1, high=0, slub=slub))


def pfn(addr: int) -> int:
    return addr >> 12


# -- fast path ----------------------------------------------------------------------------------------------------


def test_a_new_slab_is_handed_out_ascending(two_cpus: Probe) -> None:
    """One slow allocation makes a slab; the rest of it comes from the CPU's freelist."""
    first = two_cpus.alloc()[0]
    assert two_cpus.path == PATH_ALLOC_NEW_SLAB
    assert (-1, COST_SLUB_NEW_SLAB, OBJECTS) in two_cpus.steps
    assert two_cpus.since() == {"alloc_slowpath": 1, "alloc_slab": 1}
    assert two_cpus.alloc(n=3) == [first + SIZE * i for i in (1, 2, 3)]
    assert two_cpus.path == PATH_ALLOC_FAST
    assert two_cpus.since() == {"alloc_fastpath": 3}
    assert first == START << 12


def test_freelist_is_last_in_first_out(two_cpus: Probe) -> None:
    addrs = two_cpus.alloc(n=3)
    two_cpus.since()
    two_cpus.free(*addrs)
    assert two_cpus.path == PATH_FREE_FAST
    assert two_cpus.since() == {"free_fastpath": 3}
    assert two_cpus.alloc(n=3) == addrs[::-1]


def test_it_is_the_freeing_cpu_that_matters(two_cpus: Probe) -> None:
    """An object of CPU 0's slab freed on CPU 1 takes the slow path; back on CPU 0 it would be fast."""
    a, b = two_cpus.alloc(n=2)
    two_cpus.since()
    two_cpus.free(a, cpu=1)
    assert two_cpus.path == PATH_FREE_SLOW
    assert two_cpus.since() == {"free_slowpath": 1, "free_frozen": 1}
    two_cpus.free(b, cpu=0)
    assert two_cpus.since() == {"free_fastpath": 1}


def test_a_slab_last_touched_by_another_cpu_is_cold(two_cpus: Probe) -> None:
    """The first remote free fetches its cache line, the next does not."""
    a, b, _ = two_cpus.alloc(n=3)
    two_cpus.free(a, cpu=1)
    assert COST_SLUB_COLD in [step[1] for step in two_cpus.steps]
    two_cpus.free(b, cpu=1)
    assert COST_SLUB_COLD not in [step[1] for step in two_cpus.steps]


# -- slow allocation, stages A to I -------------------------------------------------------------------------------


def test_d_full_slab_is_forgotten(two_cpus: Probe) -> None:
    """Its objects are all out: it is on no list, and a new slab is made (stages D, H)."""
    old = two_cpus.alloc(n=OBJECTS)
    two_cpus.since()
    new = two_cpus.alloc()[0]
    assert two_cpus.since() == {"alloc_slowpath": 1, "deactivate_bypass": 1, "alloc_slab": 1}
    assert pfn(new) != pfn(old[0])
    assert node_partial(two_cpus.machine, two_cpus.cache) == []
    assert cpu_partial(two_cpus.machine, two_cpus.cache) == []
    row = two_cpus.machine.frames.slab[pfn(old[0])]
    assert two_cpus.machine.slab.sl_frozen[row] == 0


def test_d_refill_from_the_own_slab(two_cpus: Probe) -> None:
    """What other CPUs freed in the meantime is taken at once, last freed first."""
    addrs = two_cpus.alloc(n=OBJECTS)
    two_cpus.free(addrs[0], addrs[2], cpu=1)
    two_cpus.since()
    assert two_cpus.alloc() == [addrs[2]]
    assert two_cpus.path == PATH_ALLOC_REFILL
    assert two_cpus.since() == {"alloc_slowpath": 1, "alloc_refill": 1}
    assert cpu_freelist(two_cpus.machine, two_cpus.cache) == [0]
    assert freelist(two_cpus.machine, pfn(addrs[0])) == []


def test_e_cpu_partial(two_cpus: Probe) -> None:
    """A full slab that gets a free object waits on the freeing CPU's list, and is used next."""
    first, _ = two_cpus.slabs(2)
    two_cpus.free(first[1])
    two_cpus.since()
    assert two_cpus.alloc() == [first[1]]
    assert two_cpus.path == PATH_ALLOC_CPU_PARTIAL
    assert two_cpus.since() == {
        "alloc_slowpath": 1, "deactivate_bypass": 1, "cpu_partial_alloc": 1, "alloc_refill": 1,
    }
    assert cpu_partial(two_cpus.machine, two_cpus.cache) == []


def test_f_node_partial(two_cpus: Probe) -> None:
    """
    The first slab of the list becomes the CPU slab; then slabs are moved until more than half of the limit are.

    Limit 2: two further slabs. The CPU's list is last in, first out.
    """
    two_cpus.on_node([1, 2, 3, 1, 1])
    on_list = node_partial(two_cpus.machine, two_cpus.cache)
    addr = two_cpus.alloc()[0]
    assert pfn(addr) == on_list[0]
    assert two_cpus.path == PATH_ALLOC_NODE_PARTIAL
    assert two_cpus.since() == {"alloc_slowpath": 1, "alloc_from_partial": 1, "cpu_partial_node": 2}
    assert cpu_slab(two_cpus.machine, two_cpus.cache) == on_list[0]
    assert cpu_partial(two_cpus.machine, two_cpus.cache) == [on_list[2], on_list[1]]
    assert node_partial(two_cpus.machine, two_cpus.cache) == on_list[3:]
    assert (two_cpus.lock(), COST_SLUB_NODE, 3) in two_cpus.steps
    two_cpus.machine.validate()


@pytest.mark.parametrize(("cpu_partial_objects", "slabs"), [(0, 1), (2, 1), (4, 2), (6, 2), (8, 3), (12, 4)])
def test_f_how_many_slabs(cpu_partial_objects: int, slabs: int) -> None:
    """cpu_partial_slabs // 2 + 1 further slabs, as far as there are any."""
    probe = one_node(slub=SlubParams(max_order=0, cpu_partial=cpu_partial_objects, min_partial=1))
    probe.on_node([1] * 6)
    probe.alloc()
    assert probe.since()["cpu_partial_node"] == slabs


def test_f_takes_the_whole_freelist(two_cpus: Probe) -> None:
    two_cpus.on_node([3])
    row_pfn = node_partial(two_cpus.machine, two_cpus.cache)[0]
    two_cpus.alloc()
    assert freelist(two_cpus.machine, row_pfn) == []
    assert len(cpu_freelist(two_cpus.machine, two_cpus.cache)) == 2


@pytest.mark.parametrize(("ratio", "remote"), [(1024, True), (0, False)])
def test_g_other_nodes(ratio: int, remote: bool) -> None:
    """Another node's partial slabs serve if it has more than min_partial of them, and as the dice fall."""
    probe = two_nodes(ratio)
    probe.on_node([1, 1])
    addr = probe.alloc(cpu=1)[0]
    assert (probe.machine.pages.zone_of(pfn(addr)) == 0) == remote
    expected = {"alloc_from_partial": 1, "cpu_partial_node": 1} if remote else {"alloc_slab": 1}
    assert probe.since() == {"alloc_slowpath": 1, **expected}


def test_g_leaves_other_nodes_their_minimum() -> None:
    probe = two_nodes(1024)
    probe.on_node([1])
    assert probe.machine.pages.zone_of(pfn(probe.alloc(cpu=1)[0])) == 1
    assert probe.since() == {"alloc_slowpath": 1, "alloc_slab": 1}


def test_g_the_dice_follow_the_ratio() -> None:
    """A ratio of 512 of 1,024 sends half of the tries to another node (MODEL 6.6 G)."""
    slub = SlubParams(max_order=0, cpu_partial=0, min_partial=0, remote_node_defrag_ratio=512)
    zones = (open_zone("DMA32", 16, 16), open_zone("DMA32", 32, 16, node=1))
    probe = Probe(booted(*zones, cpus=2, batch=1, high=0, slub=slub))
    probe.on_node([1] * 300)
    remote = 0
    for _ in range(200):
        addr = probe.alloc(cpu=1)[0]
        if probe.machine.pages.zone_of(pfn(addr)) == 0:
            remote += 1
        else:
            probe.free(addr, cpu=1)  # else the new slab would be on node 1's list the next time
        probe.machine.slab.flush_all(probe.cache)
    assert 75 <= remote <= 125  # 100 expected; 25 are 3.5 standard deviations, and the dice are seeded


def test_b_node_mismatch() -> None:
    """The CPU's slab is put away when another node is asked for."""
    probe = two_nodes(0)
    first = probe.alloc(cpu=0)[0]
    probe.since()
    other = probe.alloc(cpu=0, node=1)[0]
    assert probe.machine.pages.zone_of(pfn(other)) == 1
    assert probe.since() == {
        "alloc_slowpath": 1, "alloc_node_mismatch": 1, "deactivate_to_head": 1, "alloc_slab": 1,
    }
    assert node_partial(probe.machine, probe.cache, 0) == [pfn(first)]
    # The same node again is no mismatch, and -1 takes whatever the CPU has.
    probe.alloc(cpu=0, node=1)
    probe.alloc(cpu=0)
    assert probe.since() == {"alloc_fastpath": 2}


def test_b_slab_of_the_node_asked_for_is_taken_from_its_list() -> None:
    probe = two_nodes(0)
    probe.on_node([1])
    other = probe.alloc(cpu=1, node=0)[0]
    assert probe.machine.pages.zone_of(pfn(other)) == 0
    assert probe.since() == {"alloc_slowpath": 1, "alloc_from_partial": 1}


def test_h_falls_back_to_the_smallest_order() -> None:
    """Fragmented memory has no block of order 3: a page will do, with fewer objects (MODEL 6.3)."""
    machine = empty(open_zone("DMA32", 16, 16), batch=1, high=0)
    for i in range(64):
        put_free(machine, START + 2 * i, 0, 0)
    probe = Probe(machine)
    s = machine.slab.caches[probe.cache]
    assert (s.order, s.objects, s.min_order, s.min_objects) == (1, 8, 0, 4)
    probe.alloc()
    assert probe.since() == {"alloc_slowpath": 1, "alloc_slab": 1, "order_fallback": 1}
    assert len(cpu_freelist(machine, probe.cache)) == 3
    assert (s.nr_slabs[0], s.total_objects[0]) == (1, 4)
    machine.validate()


def test_h_first_try_is_not_worth_an_effort() -> None:
    """For the preferred order nobody is drained or woken, even if the caller can wait (MODEL 2.11)."""
    machine = booted(open_zone("DMA32", 16, 16), cpus=2, batch=1, high=1000)
    while machine.page_alloc(0, GFP_NOWAIT, -1, 1) >= 0:
        pass
    for page in (*range(START, START + 64, 2), START + 129):
        machine.page_free(page, 0, 1)
    machine.pages.drain_all_pages()
    machine.page_free(START + 128, 0, 1)  # with 129 this would be a block of order 1
    probe = Probe(machine)
    assert pfn(probe.alloc()[0]) != START + 128
    assert probe.since() == {"alloc_slowpath": 1, "alloc_slab": 1, "order_fallback": 1}
    assert machine.pages.zones[0].pcp[1].count == 1


def test_i_out_of_memory() -> None:
    """NULL, counted as a slow allocation and as nothing else; frees make it work again."""
    machine = booted(open_zone("DMA32", 16, 16), batch=1, high=0, slub=SMALL)
    probe = Probe(machine)
    addrs = []
    while (addr := probe.alloc()[0]) != 0:
        addrs.append(addr)
    assert len(addrs) == 4096 * OBJECTS
    assert len(set(addrs)) == len(addrs)
    assert probe.path == PATH_ALLOC_FAILED
    probe.since()
    assert probe.alloc() == [0]
    assert probe.since() == {"alloc_slowpath": 1}
    assert machine.pages.alloc_failures > 0
    probe.free(addrs[0])
    assert probe.alloc() == [addrs[0]]
    machine.validate()


# -- slow frees, the rows of MODEL 6.7 ----------------------------------------------------------------------------


def test_row_1_frozen(two_cpus: Probe) -> None:
    """A slab that some CPU holds, as its slab or on its partial list: the object goes to the slab's freelist."""
    first, second = two_cpus.slabs(2)
    two_cpus.free(first[0])  # first is now on CPU 0's partial list
    two_cpus.since()
    two_cpus.free(first[1], second[0], cpu=1)
    assert two_cpus.since() == {"free_slowpath": 2, "free_frozen": 2}
    assert freelist(two_cpus.machine, pfn(first[0])) == [1, 0]
    assert freelist(two_cpus.machine, pfn(second[0])) == [0]


def test_row_1_even_when_it_becomes_empty(two_cpus: Probe) -> None:
    """Empty slabs on CPU partial lists stay there (MODEL 6.9)."""
    first, _ = two_cpus.slabs(2)
    two_cpus.free(*first)
    assert cpu_partial(two_cpus.machine, two_cpus.cache) == [pfn(first[0])]
    assert two_cpus.machine.slab.caches[two_cpus.cache].nr_slabs[0] == 2


def test_row_2_full_slab(two_cpus: Probe) -> None:
    """A full slab is frozen for the CPU that frees, whoever allocated it."""
    first, _ = two_cpus.slabs(2)
    two_cpus.since()
    two_cpus.free(first[2], cpu=1)
    assert two_cpus.path == PATH_FREE_CPU_PARTIAL
    assert two_cpus.since() == {"free_slowpath": 1, "cpu_partial_free": 1}
    assert cpu_partial(two_cpus.machine, two_cpus.cache, 1) == [pfn(first[0])]


def test_row_2_single_object() -> None:
    """Even a slab that the free makes empty: with one object a slab every free is of this kind."""
    probe = Probe(booted(open_zone("DMA32", 16, 16), batch=1, high=0, slub=SMALL), size=4096)
    a, _ = probe.alloc(n=2)
    probe.since()
    probe.free(a)
    assert probe.since() == {"free_slowpath": 1, "cpu_partial_free": 1}
    assert cpu_partial(probe.machine, probe.cache) == [pfn(a)]


def test_row_3_still_in_use(two_cpus: Probe) -> None:
    """A slab on the node's list takes objects back without a lock."""
    (live,) = two_cpus.on_node([1])
    two_cpus.free(live[0])
    assert two_cpus.path == PATH_FREE_SLOW
    assert two_cpus.since() == {"free_slowpath": 1}
    assert all(lock < 0 for lock, _, _ in two_cpus.steps)
    assert two_cpus.machine.slab.caches[two_cpus.cache].partial_free[0] == 2


def test_row_4_empty_slab_beyond_the_minimum(two_cpus: Probe) -> None:
    """The node keeps min_partial slabs; the next one that becomes empty goes back to the page allocator."""
    live = two_cpus.on_node([3, 1, 1])
    free = two_cpus.machine.pages.zones[0].free_pages
    two_cpus.free(*live[0])
    assert two_cpus.path == PATH_FREE_DISCARD
    assert two_cpus.since() == {"free_slowpath": 1, "free_remove_partial": 1, "free_slab": 1}
    assert len(node_partial(two_cpus.machine, two_cpus.cache)) == 2
    assert two_cpus.machine.pages.zones[0].free_pages == free + 1
    assert two_cpus.machine.frames.slab[pfn(live[0][0])] == -1
    assert (two_cpus.lock(), COST_SLUB_NODE, 1) in two_cpus.steps
    two_cpus.machine.validate()


def test_row_4_the_last_slabs_stay_in_their_place() -> None:
    """Below min_partial an empty slab stays on the list where it is."""
    probe = one_node(slub=SlubParams(max_order=0, cpu_partial=4, min_partial=4))
    live = probe.on_node([1, 3, 1])
    on_list = node_partial(probe.machine, probe.cache)
    probe.free(*live[1])
    assert probe.path == PATH_FREE_NODE_PARTIAL
    assert probe.since() == {"free_slowpath": 1}
    assert node_partial(probe.machine, probe.cache) == on_list
    assert (probe.lock(), COST_SLUB_NODE, 0) in probe.steps


def test_row_4_is_at_the_minimum_itself() -> None:
    """nr_partial >= min_partial is enough to discard: the list then is one shorter than the minimum."""
    probe = one_node(slub=SlubParams(max_order=0, cpu_partial=4, min_partial=3))
    live = probe.on_node([1, 3, 1])
    probe.free(*live[1])
    assert probe.since()["free_slab"] == 1
    assert len(node_partial(probe.machine, probe.cache)) == 2


def test_put_cpu_partial_drains_a_long_list_first(two_cpus: Probe) -> None:
    """A list of two is as long as allowed: it goes to the node before the third slab begins a new one."""
    groups = two_cpus.slabs(4)
    two_cpus.free(groups[0][0], groups[1][0])
    assert cpu_partial(two_cpus.machine, two_cpus.cache) == [pfn(groups[1][0]), pfn(groups[0][0])]
    two_cpus.since()
    two_cpus.free(groups[2][0])
    assert two_cpus.path == PATH_FREE_CPU_PARTIAL_DRAIN
    assert two_cpus.since() == {
        "free_slowpath": 1, "cpu_partial_free": 1, "cpu_partial_drain": 1, "free_add_partial": 2,
    }
    assert cpu_partial(two_cpus.machine, two_cpus.cache) == [pfn(groups[2][0])]
    # From its head, each to the tail: the list keeps its order.
    assert node_partial(two_cpus.machine, two_cpus.cache) == [pfn(groups[1][0]), pfn(groups[0][0])]
    assert (two_cpus.lock(), COST_SLUB_NODE, 2) in two_cpus.steps
    two_cpus.machine.validate()


def test_limit_zero_still_holds_one_slab() -> None:
    """With cpu_partial 0 every further slab drains the one before it."""
    probe = one_node(slub=SlubParams(max_order=0, cpu_partial=0, min_partial=9))
    groups = probe.slabs(4)
    probe.since()
    probe.free(groups[0][0])
    assert probe.since() == {"free_slowpath": 1, "cpu_partial_free": 1}
    probe.free(groups[1][0])
    assert probe.since()["cpu_partial_drain"] == 1
    assert cpu_partial(probe.machine, probe.cache) == [pfn(groups[1][0])]


def test_unfreeze_discards_what_the_node_does_not_need(two_cpus: Probe) -> None:
    """
    min_partial is tested while the list grows, and discarded slabs leave last first (EXACT C8).

    Two empty slabs and then one with live objects on the node: the first empty one still finds room.
    """
    groups = two_cpus.slabs(5)
    for group in groups[:2]:
        two_cpus.free(*group)
    two_cpus.since()
    two_cpus.free(groups[2][0])
    # nr_partial is 0 for the head (slab 1), which is added; then 1, so slab 0 is discarded.
    assert two_cpus.since() == {
        "free_slowpath": 1, "cpu_partial_free": 1, "cpu_partial_drain": 1, "free_add_partial": 1,
        "deactivate_empty": 1, "free_slab": 1,
    }
    assert node_partial(two_cpus.machine, two_cpus.cache) == [pfn(groups[1][0])]
    assert two_cpus.machine.frames.slab[pfn(groups[0][0])] == -1


def test_several_discarded_slabs_leave_in_reverse_order() -> None:
    """The last one set aside is freed first, so its page lies deepest in the CPU's list of pages."""
    probe = Probe(booted(open_zone("DMA32", 16, 16), batch=16, high=1000,
                         slub=SlubParams(max_order=0, cpu_partial=8, min_partial=0)))
    groups = probe.slabs(6)
    for group in groups[:4]:
        probe.free(*group)
    assert len(cpu_partial(probe.machine, probe.cache)) == 4
    probe.free(groups[4][0])
    # Set aside from the list's head: 3, 2, 1, 0. Freed 0, 1, 2, 3; the next pages asked for are 3, 2, 1, 0.
    pages = [probe.machine.page_alloc(0, GFP_KERNEL, -1, 0) for _ in range(4)]
    assert pages == [pfn(groups[i][0]) for i in (3, 2, 1, 0)]


# -- putting CPU slabs away (MODEL 6.8) ---------------------------------------------------------------------------


def flushed(probe: Probe) -> dict[str, int]:
    probe.since()
    probe.machine.slab.flush_all(probe.cache)
    probe.machine.validate()
    return probe.since()


def test_flush_to_head(two_cpus: Probe) -> None:
    """A slab that only its CPU touched goes in front: it is warm."""
    two_cpus.on_node([1])
    old = node_partial(two_cpus.machine, two_cpus.cache)
    new = two_cpus.alloc(cpu=1, n=2)[1]
    assert pfn(new) != old[0], "the old slab's only free object came first"
    two_cpus.free(new, cpu=1)
    first = two_cpus.slabs(1)[0]
    two_cpus.free(first[0])
    assert flushed(two_cpus) == {"cpuslab_flush": 2, "deactivate_to_head": 1, "deactivate_empty": 1, "free_slab": 1}
    assert node_partial(two_cpus.machine, two_cpus.cache) == [pfn(first[0])]


def test_flush_to_tail_after_remote_frees() -> None:
    """Objects that others freed make a slab cold: it goes behind the rest, with the CPU's own objects in front."""
    probe = one_node(slub=SlubParams(max_order=0, cpu_partial=4, min_partial=9))
    (live,) = probe.on_node([1])
    # The old slab is full again, and CPU 1 has a new one.
    a, b, c = probe.alloc(n=4, cpu=1)[1:]
    probe.free(live[0])  # frees the old slab's object to CPU 0's partial list
    probe.free(b, cpu=0)
    probe.free(c, cpu=1)
    assert flushed(probe) == {
        "cpuslab_flush": 1, "deactivate_remote_frees": 1, "deactivate_to_tail": 1, "free_add_partial": 1,
    }
    # CPU 0's partial list was moved to the list first, CPU 1's slab is behind it.
    assert node_partial(probe.machine, probe.cache) == [pfn(live[0]), pfn(a)]
    assert freelist(probe.machine, pfn(a)) == [2, 3, 1]


def test_flush_of_a_full_slab(two_cpus: Probe) -> None:
    two_cpus.alloc(n=OBJECTS)
    assert flushed(two_cpus) == {"cpuslab_flush": 1, "deactivate_full": 1}
    assert cpu_slab(two_cpus.machine, two_cpus.cache) == -1


def test_flush_of_an_empty_slab(two_cpus: Probe) -> None:
    """It is kept while the node has fewer than min_partial; then comes the CPU's partial list, and is too much."""
    two_cpus.free(*two_cpus.alloc())
    assert flushed(two_cpus) == {"cpuslab_flush": 1, "deactivate_to_head": 1}
    addrs = two_cpus.alloc(n=OBJECTS + 1)
    two_cpus.free(*addrs)
    assert flushed(two_cpus) == {"cpuslab_flush": 1, "deactivate_to_head": 1, "deactivate_empty": 1, "free_slab": 1}


def test_flush_discards_beyond_the_minimum() -> None:
    probe = one_node(slub=SlubParams(max_order=0, cpu_partial=4, min_partial=0))
    probe.free(*probe.alloc())
    assert flushed(probe) == {"cpuslab_flush": 1, "deactivate_empty": 1, "free_slab": 1}
    assert nr_free(probe.machine.pages.zones[0])[10] == 4


# -- bulk ---------------------------------------------------------------------------------------------------------


def bulk_free(probe: Probe, *addrs: int, cpu: int = 0) -> None:
    probe.machine.it.reset()
    probe.machine.bulk_free(array("q", addrs), len(addrs), cpu)


def test_bulk_alloc_counts_its_refills_only(two_cpus: Probe) -> None:
    """Ten objects of slabs of four: three slow allocations, no fast one (MODEL 6.12, EXACT C5)."""
    addrs = [two_cpus.machine.bulk_alloc_one(two_cpus.cache, GFP_KERNEL, 0) for _ in range(10)]
    assert two_cpus.since() == {"alloc_slowpath": 3, "alloc_slab": 3, "deactivate_bypass": 2}
    assert [addr - addrs[0] for addr in addrs] == [SIZE * i for i in range(10)]
    assert two_cpus.machine.last_bytes == SIZE


def test_bulk_free_to_the_own_slab(two_cpus: Probe) -> None:
    """One operation; the object nearest to the array's end is served first (EXACT C1)."""
    addrs = two_cpus.alloc(n=4)
    two_cpus.since()
    bulk_free(two_cpus, addrs[2], addrs[0], addrs[3])
    assert two_cpus.since() == {"free_fastpath": 1}
    assert cpu_freelist(two_cpus.machine, two_cpus.cache) == [3, 0, 2]


def test_bulk_free_equals_single_frees_in_array_order(two_cpus: Probe) -> None:
    """To the order of the slab's freelist; the counters differ."""
    first, second, _ = two_cpus.slabs(3)
    bulk_free(two_cpus, first[1], first[3], first[0])
    two_cpus.free(second[1], second[3], second[0])
    assert freelist(two_cpus.machine, pfn(first[0])) == freelist(two_cpus.machine, pfn(second[0])) == [0, 3, 1]


def test_bulk_free_groups_by_slab(two_cpus: Probe) -> None:
    """Three slabs mixed: three operations, begun from the end of the array."""
    a, b, c, _ = two_cpus.slabs(4)
    two_cpus.since()
    bulk_free(two_cpus, a[0], a[1], b[0], c[0], b[1], c[1], cpu=1)
    # c, then b, then a. With a limit of two, the third free of a full slab drains the list of the other two.
    assert two_cpus.since() == {
        "free_slowpath": 3, "cpu_partial_free": 3, "cpu_partial_drain": 1, "free_add_partial": 2,
    }
    assert cpu_partial(two_cpus.machine, two_cpus.cache, 1) == [pfn(a[0])]
    assert node_partial(two_cpus.machine, two_cpus.cache) == [pfn(b[0]), pfn(c[0])]
    assert two_cpus.machine.slab.caches[two_cpus.cache].live == 16 - 6


def test_bulk_free_looks_past_two_objects_only(two_cpus: Probe) -> None:
    """At the third object of another slab the search ends: what lies before it is a group of its own."""
    a, b, _ = two_cpus.slabs(3)
    two_cpus.since()
    bulk_free(two_cpus, a[0], b[0], b[1], a[1], cpu=1)
    assert two_cpus.since()["free_slowpath"] == 2
    c, d, _ = two_cpus.slabs(3)
    two_cpus.since()
    bulk_free(two_cpus, c[0], d[0], d[1], d[2], c[1], cpu=1)
    assert two_cpus.since()["free_slowpath"] == 3


def test_bulk_free_of_other_things(two_cpus: Probe) -> None:
    """NULLs are passed over, large objects go to the page allocator (kfree_bulk)."""
    a, _ = two_cpus.slabs(2)
    large = two_cpus.machine.kmalloc(20000, GFP_KERNEL, -1, 0)
    used = two_cpus.machine.pages.zones[0].used_pages
    bulk_free(two_cpus, 0, a[0], large, 16, a[1])
    assert two_cpus.machine.pages.zones[0].used_pages == used - 8
    assert freelist(two_cpus.machine, pfn(a[0])) == [1, 0]
    two_cpus.machine.validate()


# -- freelist order -----------------------------------------------------------------------------------------------


def test_random_freelists() -> None:
    """One fixed permutation a cache, begun at a random place in each slab; seeded (MODEL 6.10)."""
    def orders(seed: int) -> list[list[int]]:
        machine = booted(open_zone("DMA32", 16, 16), batch=1, high=0, seed=seed, slub=SlubParams(freelist_random=True))
        probe = Probe(machine, size=128)
        n = machine.slab.caches[probe.cache].objects
        addrs = probe.alloc(n=3 * n)
        machine.validate()
        return [[addr % 4096 // 128 for addr in addrs[i : i + n]] for i in range(0, 3 * n, n)]

    first, second, third = orders(7)
    assert orders(7) == [first, second, third]
    assert orders(8) != [first, second, third]
    assert sorted(first) == list(range(32))
    assert first != list(range(32))
    for other in (second, third):
        at = first.index(other[0])
        assert other == first[at:] + first[:at]


def test_random_freelists_of_smaller_slabs() -> None:
    """A slab of the smallest order skips the indexes that it does not have."""
    machine = empty(open_zone("DMA32", 16, 16), batch=1, high=0, slub=SlubParams(freelist_random=True))
    for i in range(4):
        put_free(machine, START + 2 * i, 0, 0)
    probe = Probe(machine)
    addrs = probe.alloc(n=4)
    assert sorted(addr % 4096 // SIZE for addr in addrs) == [0, 1, 2, 3]
    machine.validate()


# -- growth and reuse ---------------------------------------------------------------------------------------------


def test_many_slabs() -> None:
    """More slabs and objects than the first arrays hold; all come back, and their rows are used again."""
    probe = Probe(booted(open_zone("DMA32", 16, 16), cpus=2, batch=1, high=0, slub=SMALL), size=64)
    addrs = probe.alloc(n=64 * 1500)
    assert len(set(addrs)) == len(addrs)
    rows = probe.machine.slab.nr_rows
    probe.machine.validate()
    probe.free(*addrs)
    free_everything_idle(probe.machine)
    probe.machine.validate()
    assert nr_free(probe.machine.pages.zones[0])[10] >= 3
    assert len(set(probe.alloc(n=64 * 1500))) == 64 * 1500
    assert probe.machine.slab.nr_rows == rows


def test_frees_of_what_is_not_there(two_cpus: Probe) -> None:
    """A second free changes nothing but a count that the validators look at."""
    a, b = two_cpus.alloc(n=2)
    two_cpus.free(a)
    two_cpus.since()
    two_cpus.free(a)
    bulk_free(two_cpus, a)
    assert two_cpus.since() == {}
    assert two_cpus.machine.slab.bad_frees == 2
    assert two_cpus.machine.slab.is_live(b)
    assert not two_cpus.machine.slab.is_live(a)
    assert not two_cpus.machine.slab.is_live(b + 8)


def test_requests_for_one_node_only_fail_when_it_is_full() -> None:
    probe = two_nodes(1024)
    while probe.machine.page_alloc(0, GFP_NOWAIT | GFP_BIT_THISNODE, 1, 1) >= 0:
        pass
    assert probe.alloc(cpu=1, node=1, gfp=GFP_NOWAIT | GFP_BIT_THISNODE) == [0]
    addr = probe.alloc(cpu=1, node=1, gfp=GFP_NOWAIT)[0]
    assert probe.machine.pages.zone_of(pfn(addr)) == 0
