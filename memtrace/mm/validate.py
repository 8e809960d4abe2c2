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
    PAGE_BUDDY,
    PAGE_PCP,
    PCP_ORDERS,
)
from memtrace.mm.machine import Machine
from memtrace.mm.mmzone import Frames, PerCpuPages, Zone
from memtrace.mm.percpu_validate import validate_percpu


def validate_machine(machine: Machine) -> None:
    """Every validator over every zone and cache."""
    zone: Zone
    for zone in machine.pages.zones:
        validate_free_lists(machine, zone)
        validate_pcp(machine, zone)
        validate_pages_conserved(machine, zone)
    machine.slab.validate()
    validate_percpu(machine.percpu)


def fail(what: str, found: object, expected: object) -> None:
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
                    fail(f"zone {zone.name} order {order} type {mt}: list length", "a loop", "an end")
                pfn = frames.next[pfn]
            if length != zone.nr_free_mt[order * MIGRATE_TYPES + mt]:
                fail(
                    f"zone {zone.name} order {order} type {mt}: blocks counted",
                    zone.nr_free_mt[order * MIGRATE_TYPES + mt], length,
                )
            blocks += length
        if blocks != zone.nr_free[order]:
            fail(f"zone {zone.name} order {order}: nr_free", zone.nr_free[order], blocks)
        free += blocks << order
    if free != zone.free_pages:
        fail(f"zone {zone.name}: free_pages", zone.free_pages, free)


@cython.cfunc
def _validate_block(
    machine: Machine, zone: Zone, pfn: cython.int, order: cython.int, mt: cython.int
) -> cython.void:
    frames: Frames = machine.frames
    p: cython.int
    where = f"zone {zone.name}: free block {pfn:#x} order {order}"
    if pfn & ((1 << order) - 1):
        fail(where, "misaligned", "aligned to its size")
    if pfn < zone.start_pfn or pfn + (1 << order) > zone.end_pfn:
        fail(where, "outside the zone", f"within {zone.start_pfn:#x}..{zone.end_pfn:#x}")
    if frames.kind[pfn] != PAGE_BUDDY or frames.order[pfn] != order or frames.mt[pfn] != mt:
        fail(where, (frames.kind[pfn], frames.order[pfn], frames.mt[pfn]), (PAGE_BUDDY, order, mt))
    for p in range(pfn + 1, pfn + (1 << order)):
        if frames.kind[p] != 0:
            fail(f"{where}: kind of page {p:#x} inside it", frames.kind[p], 0)
    for p in range(pfn, pfn + (1 << order)):
        if frames.slab[p] != NIL:
            fail(f"{where}: slab of page {p:#x}", frames.slab[p], NIL)
    may_merge: cython.bint = order < MAX_ORDER and order < zone.pageblock_order
    if may_merge and machine.pages.is_free_block(zone, pfn ^ (1 << order), order):
        fail(where, "its buddy is free too", "merged")


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
                    fail(
                        f"zone {zone.name} CPU {cpu}: page {pfn:#x} on per-CPU list {index}",
                        (frames.kind[pfn], frames.order[pfn]), (PAGE_PCP, order),
                    )
                pages += 1 << order
        if pages != pcp.count:
            fail(f"zone {zone.name} CPU {cpu}: per-CPU count", pcp.count, pages)


@cython.ccall
def validate_pages_conserved(machine: Machine, zone: Zone) -> cython.void:
    """Free, parked and used pages add up to what the zone was given."""
    pcp: PerCpuPages
    total: cython.longlong = zone.free_pages + zone.used_pages
    for pcp in zone.pcp:
        total += pcp.count
    if total != zone.given_pages:
        fail(f"zone {zone.name}: free + per-CPU + used pages", total, zone.given_pages)
