"""
Validators: walks over the whole state that prove its invariants, for ``--check`` and the tests.

Each ``validate_*`` raises ModelError at the first broken invariant, with the values found and expected.
They recount from the lists themselves and never use what the fast paths keep.
"""

from __future__ import annotations

import cython

from memtrace.errors import ModelError
from memtrace.mm.constants import (
    MAX_ORDER,
    MIGRATE_PCPTYPES,
    MIGRATE_TYPES,
    NIL,
    NR_ORDERS,
    NR_PCP_LISTS,
    OBJ_LIVE,
    PAGE_BUDDY,
    PAGE_PCP,
    PCP_ORDERS,
)
from memtrace.mm.machine import Machine
from memtrace.mm.mmzone import Frames, PerCpuPages, Zone
from memtrace.mm.slub import Slub, SlubCache


def validate_machine(machine: Machine) -> None:
    """Every validator over every zone and cache."""
    zone: Zone
    for zone in machine.pages.zones:
        validate_free_lists(machine, zone)
        validate_pcp(machine, zone)
        validate_pages_conserved(machine, zone)
    validate_slabs(machine)


def _fail(what: str, found: object, expected: object) -> None:
    raise ModelError(f"{what}: found {found}, expected {expected}")


@cython.ccall
def validate_free_lists(machine: Machine, zone: Zone) -> cython.void:
    """Free blocks are aligned, inside the zone, marked, merged as far as they can be, and counted."""
    frames: Frames = machine.frames
    order: cython.int
    mt: cython.int
    free: cython.longlong = 0
    for order in range(NR_ORDERS):
        blocks: cython.longlong = 0
        for mt in range(MIGRATE_TYPES):
            head: cython.int = zone.free_list(order, mt)
            pfn: cython.int = frames.next[head]
            length: cython.longlong = 0
            while pfn != head:
                _validate_block(machine, zone, pfn, order, mt)
                length += 1
                if length > frames.nr_frames:
                    _fail(f"zone {zone.name} order {order} type {mt}: list length", "a loop", "an end")
                pfn = frames.next[pfn]
            if length != zone.nr_free_mt[order * MIGRATE_TYPES + mt]:
                _fail(
                    f"zone {zone.name} order {order} type {mt}: blocks counted",
                    zone.nr_free_mt[order * MIGRATE_TYPES + mt], length,
                )
            blocks += length
        if blocks != zone.nr_free[order]:
            _fail(f"zone {zone.name} order {order}: nr_free", zone.nr_free[order], blocks)
        free += blocks << order
    if free != zone.free_pages:
        _fail(f"zone {zone.name}: free_pages", zone.free_pages, free)


@cython.cfunc
def _validate_block(
    machine: Machine, zone: Zone, pfn: cython.int, order: cython.int, mt: cython.int
) -> cython.void:
    frames: Frames = machine.frames
    p: cython.int
    where = f"zone {zone.name}: free block {pfn:#x} order {order}"
    if pfn & ((1 << order) - 1):
        _fail(where, "misaligned", "aligned to its size")
    if pfn < zone.start_pfn or pfn + (1 << order) > zone.end_pfn:
        _fail(where, "outside the zone", f"within {zone.start_pfn:#x}..{zone.end_pfn:#x}")
    if frames.kind[pfn] != PAGE_BUDDY or frames.order[pfn] != order or frames.mt[pfn] != mt:
        _fail(where, (frames.kind[pfn], frames.order[pfn], frames.mt[pfn]), (PAGE_BUDDY, order, mt))
    for p in range(pfn + 1, pfn + (1 << order)):
        if frames.kind[p] != 0:
            _fail(f"{where}: kind of page {p:#x} inside it", frames.kind[p], 0)
    for p in range(pfn, pfn + (1 << order)):
        if frames.slab[p] != NIL:
            _fail(f"{where}: slab of page {p:#x}", frames.slab[p], NIL)
    may_merge: cython.bint = order < MAX_ORDER and order < zone.pageblock_order
    if may_merge and machine.pages.is_free_block(zone, pfn ^ (1 << order), order):
        _fail(where, "its buddy is free too", "merged")


@cython.ccall
def validate_pcp(machine: Machine, zone: Zone) -> cython.void:
    """Blocks on per-CPU lists are marked, of their list's order, and counted."""
    frames: Frames = machine.frames
    pcp: PerCpuPages
    index: cython.int
    cpu: cython.int
    for cpu in range(len(zone.pcp)):
        pcp = zone.pcp[cpu]
        pages: cython.longlong = 0
        for index in range(NR_PCP_LISTS):
            order: cython.int = index // MIGRATE_PCPTYPES if index < MIGRATE_PCPTYPES * PCP_ORDERS else 9
            for pfn in frames.members(pcp.list0 + index):
                if frames.kind[pfn] != PAGE_PCP or frames.order[pfn] != order:
                    _fail(
                        f"zone {zone.name} CPU {cpu}: page {pfn:#x} on per-CPU list {index}",
                        (frames.kind[pfn], frames.order[pfn]), (PAGE_PCP, order),
                    )
                pages += 1 << order
        if pages != pcp.count:
            _fail(f"zone {zone.name} CPU {cpu}: per-CPU count", pcp.count, pages)


@cython.ccall
def validate_pages_conserved(machine: Machine, zone: Zone) -> cython.void:
    """Free, parked and used pages add up to what the zone was given."""
    pcp: PerCpuPages
    total: cython.longlong = zone.free_pages + zone.used_pages
    for pcp in zone.pcp:
        total += pcp.count
    if total != zone.given_pages:
        _fail(f"zone {zone.name}: free + per-CPU + used pages", total, zone.given_pages)


@cython.ccall
def validate_slabs(machine: Machine) -> cython.void:
    """Slabs own their pages, their lists hold each object once, and every counter equals a recount."""
    slub: Slub = machine.slab
    s: SlubCache
    cpu: cython.int
    node: cython.int
    row: cython.int
    if slub.bad_frees:
        _fail("frees of addresses that hold no live object", slub.bad_frees, 0)
    placed: list = [[0] * slub.nr_nodes for _ in slub.caches]
    live: list = [0] * len(slub.caches)
    private: dict = {}
    for s in slub.caches:
        for cpu in range(slub.nr_cpus):
            if s.c_slab[cpu] != NIL:
                if s.c_slab[cpu] in private:
                    _fail(f"cache {s.name}: slab at pfn {slub.sl_pfn[s.c_slab[cpu]]:#x}", "two CPUs'", "one's")
                private[s.c_slab[cpu]] = s.c_freelist[cpu]
            elif s.c_freelist[cpu] >= 0:
                _fail(f"cache {s.name} CPU {cpu}: freelist without a slab", s.c_freelist[cpu], -1)
    for row in range(slub.nr_rows):
        if slub.sl_pfn[row] == NIL:
            continue
        s = slub.caches[slub.sl_cache[row]]
        live[s.index] += _validate_slab(slub, s, row, private.get(row, -1))
        placed[s.index][slub.sl_node[row]] += 1
    for s in slub.caches:
        for node in range(slub.nr_nodes):
            _validate_node(slub, s, node)
            expected = placed[s.index][node] + s.hidden[node]
            if s.nr_slabs[node] != expected:
                _fail(f"cache {s.name} node {node}: nr_slabs", s.nr_slabs[node], expected)
            live[s.index] += s.hidden[node] * s.objects
        if s.live != live[s.index]:
            _fail(f"cache {s.name}: live objects", s.live, live[s.index])
        for cpu in range(slub.nr_cpus):
            _validate_cpu_partial(slub, s, cpu)


@cython.cfunc
def _validate_slab(slub: Slub, s: SlubCache, row: cython.int, private_head: cython.int) -> cython.int:
    """Walk both freelists of a slab; its live objects."""
    where = f"cache {s.name}: slab at pfn {slub.sl_pfn[row]:#x}"
    p: cython.int
    for p in range(slub.sl_pfn[row], slub.sl_pfn[row] + (1 << slub.sl_order[row])):
        if slub.frames.slab[p] != row:
            _fail(f"{where}: owner of page {p:#x}", slub.frames.slab[p], row)
    seen: set = set()
    own: cython.int = 0
    for start in (slub.sl_free[row], private_head):
        idx: cython.int = start
        while idx >= 0:
            if idx in seen or idx >= slub.sl_objects[row]:
                _fail(f"{where}: free object {idx}", "twice or beyond the slab", "once")
            seen.add(idx)
            idx = slub.obj_next[slub.sl_seg[row] + idx]
            if start == slub.sl_free[row] and start >= 0:
                own += 1
            if idx == OBJ_LIVE:
                _fail(f"{where}: a live object", "on a freelist", "off it")
        if start == slub.sl_free[row] and start == private_head and start >= 0:
            _fail(f"{where}: CPU and slab freelists", "the same", "apart")
    if slub.sl_objects[row] - own != slub.sl_inuse[row]:
        _fail(f"{where}: inuse", slub.sl_inuse[row], slub.sl_objects[row] - own)
    handed_out: cython.int = 0
    for idx in range(slub.sl_objects[row]):
        if slub.obj_next[slub.sl_seg[row] + idx] == OBJ_LIVE:
            handed_out += 1
    if handed_out + len(seen) != slub.sl_objects[row]:
        _fail(f"{where}: live + free objects", handed_out + len(seen), slub.sl_objects[row])
    return handed_out


@cython.cfunc
def _validate_node(slub: Slub, s: SlubCache, node: cython.int) -> cython.void:
    """A node's partial list: not frozen, not full, counted."""
    slab: cython.int = s.n_first[node]
    before: cython.int = NIL
    length: cython.int = 0
    idle: cython.longlong = 0
    while slab != NIL:
        where = f"cache {s.name} node {node}: partial slab at pfn {slub.sl_pfn[slab]:#x}"
        if slub.sl_prev[slab] != before or not slub.sl_listed[slab]:
            _fail(where, "badly linked", "linked both ways")
        if slub.sl_frozen[slab] or slub.sl_free[slab] < 0 or slub.sl_node[slab] != node:
            _fail(where, "frozen, full or of another node", "a partial slab of this node")
        idle += slub.sl_objects[slab] - slub.sl_inuse[slab]
        length += 1
        before = slab
        slab = slub.sl_next[slab]
    if length != s.nr_partial[node] or idle != s.partial_free[node]:
        _fail(
            f"cache {s.name} node {node}: nr_partial and free objects",
            (s.nr_partial[node], s.partial_free[node]), (length, idle),
        )


@cython.cfunc
def _validate_cpu_partial(slub: Slub, s: SlubCache, cpu: cython.int) -> cython.void:
    """A CPU's partial list: frozen slabs, and the head knows how many."""
    slab: cython.int = s.c_partial[cpu]
    if slab == NIL:
        return
    expected: cython.int = slub.sl_slabs[slab]
    length: cython.int = 0
    while slab != NIL:
        if not slub.sl_frozen[slab] or slub.sl_listed[slab]:
            _fail(f"cache {s.name} CPU {cpu}: slab at pfn {slub.sl_pfn[slab]:#x}", "not frozen", "frozen")
        length += 1
        slab = slub.sl_next[slab]
    if length != expected:
        _fail(f"cache {s.name} CPU {cpu}: length of the partial list", length, expected)
