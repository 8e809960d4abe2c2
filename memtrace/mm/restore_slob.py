"""Laying an exact dump of SLOB out: caches, and the pages of the three lists in their order (EXACT D 1.5, 4.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cython

from memtrace.mm.constants import PAGE_USED
from memtrace.mm.machine import Machine
from memtrace.mm.slob import Slob

if TYPE_CHECKING:
    from memtrace.snapshot.exact_dump import ExactDump

SLOB_LIST_KINDS = ("small", "medium", "large")
_STATIC = ("kmem_cache", 64)
"""SLOB's cache of caches is on no list, so no dump has it (EXACT C8)."""


def restore_slob(machine: Machine, dump: ExactDump) -> None:
    """
    Caches, oldest first, and the pages with free space.

    What lies on those pages the dump does not tell: it is held by nobody known until the trace frees it. Pages that
    were full are on no list; the first object of theirs that the trace frees shows them.
    """
    slob: Slob = cython.cast(Slob, machine.slab)
    slob.create_cache(*_STATIC)
    for known in reversed(dump.slob):
        index = slob.create_cache(known.name, known.object_size, known.align, known.flags, known.ctor)
        slob.caches[index].align = known.align
        slob.caches[index].size = known.size
    for which, name in enumerate(SLOB_LIST_KINDS):
        for page in dump.slob_lists.get(name, []):
            machine.frames.kind[page.pfn] = PAGE_USED
            machine.frames.order[page.pfn] = 0
            slob.restore_page(page.pfn, which, page.free)


def hide_slob_pages(machine: Machine, counted: int) -> None:
    """Say how many pages SLOB held in all: those on no list were full, or objects of a page or more."""
    slob: Slob = cython.cast(Slob, machine.slab)
    slob.hide_pages(max(0, counted - sum(slob.list_pages)))
