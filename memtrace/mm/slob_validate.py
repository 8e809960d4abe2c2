"""Validators of SLOB: every page, gap and list, recounted."""

from __future__ import annotations

import cython

from memtrace.mm.constants import NIL, PAGE_SHIFT
from memtrace.mm.slob import Slob
from memtrace.mm.stats import NR_SLOB_LISTS, SLOB_LISTS
from memtrace.mm.validate import fail

_UNITS = 2048


@cython.ccall
def validate_slob(slob: Slob) -> cython.void:
    """Gaps are in order and apart, lists hold each page with a gap once, and every unit has one owner."""
    row: cython.int
    if slob.bad_frees:
        fail("frees of addresses that hold no live object", slob.bad_frees, 0)
    listed: dict = {}
    for head in range(NR_SLOB_LISTS):
        _validate_list(slob, head, listed)
    held: dict = _validate_objects(slob)
    pages: list = [0] * NR_SLOB_LISTS
    units: list = [0] * NR_SLOB_LISTS
    for row in range(NR_SLOB_LISTS, slob.nr_rows):
        if slob.sp_pfn[row] == NIL:
            continue
        which: cython.int = slob.sp_list[row]
        if (slob.sp_units[row] > 0) != (listed.get(row, -1) == which):
            fail(f"SLOB page {slob.sp_pfn[row]:#x} with {slob.sp_units[row]} free units: list",
                 listed.get(row), which if slob.sp_units[row] else None)
        _validate_page(slob, row, held.pop(row, 0))
        pages[which] += 1
        units[which] += slob.sp_units[row]
    if held:
        fail("live SLOB objects on pages that are not SLOB's", len(held), 0)
    for head in range(NR_SLOB_LISTS):
        counted = (slob.list_pages[head], slob.list_units[head])
        if counted != (pages[head], units[head]):
            fail(f"{SLOB_LISTS[head]}: pages and free units", counted, (pages[head], units[head]))


@cython.cfunc
def _validate_list(slob: Slob, head: cython.int, listed: dict) -> cython.void:
    before: cython.int = head
    row: cython.int = slob.sp_next[head]
    length: cython.int = 0
    while row != head:
        if slob.sp_prev[row] != before or row in listed:
            fail(f"{SLOB_LISTS[head]}: page {slob.sp_pfn[row]:#x}", "badly linked or listed twice", "linked once")
        listed[row] = head
        length += 1
        before = row
        row = slob.sp_next[row]
    if slob.sp_prev[head] != before or length != slob.list_partial[head]:
        fail(f"{SLOB_LISTS[head]}: length", slob.list_partial[head], length)


@cython.cfunc
def _validate_objects(slob: Slob) -> dict:
    """Units of live objects by page row; objects lie apart, and caches count theirs."""
    held: dict = {}
    live: dict = {}
    end: cython.longlong = 0
    for addr in sorted(slob.live):
        index, size = slob.live[addr] >> 16, slob.live[addr] & 0xFFFF
        if size == 0 and index < NR_SLOB_LISTS:
            continue
        block = addr - (8 if index < NR_SLOB_LISTS else 0)
        if block < end:
            fail(f"SLOB object at {addr:#x}", "overlaps the one before", f"begins at {end:#x} or later")
        live[index] = live.get(index, 0) + 1
        if size:
            end = block + ((size + 1) & ~1)
            row = slob.frames.slab[addr >> PAGE_SHIFT]
            held[row] = held.get(row, 0) + ((size + 1) >> 1)
    for s in slob.caches:
        if s.live != live.get(s.index, 0):
            fail(f"cache {s.name}: live objects", s.live, live.get(s.index, 0))
    return held


@cython.cfunc
def _validate_page(slob: Slob, row: cython.int, held: cython.int) -> cython.void:
    where = f"SLOB page {slob.sp_pfn[row]:#x}"
    end: cython.int = -1
    units: cython.int = 0
    gap: cython.int = slob.sp_first[row]
    while gap != NIL:
        if slob.gap_at[gap] <= end or slob.gap_units[gap] <= 0:
            fail(f"{where}: gap at unit {slob.gap_at[gap]}", "not behind the one before", "apart, ascending")
        end = slob.gap_at[gap] + slob.gap_units[gap]
        units += slob.gap_units[gap]
        gap = slob.gap_next[gap]
    if end > _UNITS:
        fail(f"{where}: gaps end at unit", end, _UNITS)
    if units != slob.sp_units[row]:
        fail(f"{where}: free units", slob.sp_units[row], units)
    if slob.frames.slab[slob.sp_pfn[row]] != row:
        fail(f"{where}: owner", slob.frames.slab[slob.sp_pfn[row]], row)
    if units + held + slob.sp_other[row] != _UNITS:
        fail(f"{where}: free, live and other units", (units, held, slob.sp_other[row]), f"{_UNITS} together")
