"""
Where the kernel's direct map lies: the relation between object addresses and page frames.

``pfn = (ptr - base) >> 12``. The base depends on the architecture, on paging depth and on KASLR, so it is
found in the data (MODEL 12.5): right after a slab allocator got a page it hands out an object of that page.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .gfp import is_slab_page_mask, may_be_slab_page, parse_gfp
from .reading import TraceReader, chunks_from
from .schema import EV_CACHE_ALLOC, EV_CACHE_FREE, EV_KFREE, EV_KMALLOC, EV_PAGE_ALLOC, EventChunk

ENOUGH_PAGES = 1024
"""Pages with a slab page's flags to look at: most of them agree on the true base."""
LEAST_PAGES = 8
"""Agreeing pages without which no base is believed."""
LEAST_SHARE = 0.05
"""Share of the pages that must agree: many are no slab pages (some buffer, then some allocation)."""
BASE_ALIGN = 1 << 21
"""Every kernel aligns its direct map at least to this (2 MiB; KASLR shifts it by 1 GiB)."""
OBJECTS_AFTER = 2
"""Allocations looked at after a page: the first may be the slab's own vector of extensions (MODEL 12.3)."""


@dataclass(frozen=True, slots=True)
class DirectMap:
    """
    The direct map's base.

    Attributes
    ----------
    base
        0 when the data do not show one (hashed pointers, no page events).
    support
        Share of the pages looked at that agree with it.
    pages
        How many were looked at.
    """

    base: int
    support: float
    pages: int


def find_direct_map(reader: TraceReader, start_row: int = 0) -> DirectMap:
    """
    The direct map's base, from the first rows of a trace that show enough of it.

    Pages with a slab page's typical flags are asked first; when they show nothing (SLOB's look like
    anybody's) all pages are that a slab allocator may have asked for.

    Kernel: page_offset_base, PAGE_OFFSET
    Cost: reads until `ENOUGH_PAGES` typical pages were seen
    """
    typical: list[np.ndarray] = []
    possible: list[np.ndarray] = []
    n_typical = 0
    for chunk in chunks_from(reader, start_row):
        masks = [parse_gfp(text, reader.vocab.gfp_era) for text in ("", *reader.vocab.gfp.names)]
        gfp = chunk.gfp_flags + 1
        typical.append(_candidates(chunk, np.array([is_slab_page_mask(mask) for mask in masks], bool)[gfp]))
        possible.append(_candidates(chunk, np.array([may_be_slab_page(mask) for mask in masks], bool)[gfp]))
        n_typical += len(typical[-1])
        if n_typical >= ENOUGH_PAGES:
            break
    found = _most_frequent(typical)
    return found if found.base else _most_frequent(possible)


def _most_frequent(candidates: list[np.ndarray]) -> DirectMap:
    bases = np.concatenate([*candidates, np.zeros((0, OBJECTS_AFTER), np.uint64)])
    n = len(bases)
    possible = bases[(bases % BASE_ALIGN == 0) & (bases > 0)]
    if len(possible) == 0:
        return DirectMap(0, 0.0, n)
    values, counts = np.unique(possible, return_counts=True)
    base = values[counts.argmax()]
    agree = int((bases == base).any(axis=1).sum())
    if agree < LEAST_PAGES or agree < LEAST_SHARE * n:
        return DirectMap(0, 0.0, n)
    return DirectMap(int(base), agree / n, n)


def _candidates(chunk: EventChunk, wanted: np.ndarray) -> np.ndarray:
    """
    Bases by every mm_page_alloc that an object allocation follows on its CPU.

    Parameters
    ----------
    wanted
        By row: look at this mm_page_alloc.

    Returns
    -------
    uint64, (pages, OBJECTS_AFTER): one base by each of the next allocations; 0 where something else follows.
    """
    event, cpu = chunk.event, chunk.cpu
    rows = np.flatnonzero(np.isin(event, (EV_KMALLOC, EV_CACHE_ALLOC, EV_KFREE, EV_CACHE_FREE, EV_PAGE_ALLOC)))
    rows = rows[np.argsort(cpu[rows], kind="stable")]
    page = rows[: -OBJECTS_AFTER or None]
    take = (event[page] == EV_PAGE_ALLOC) & (chunk.pfn[page] > 0) & wanted[page]
    page, at = page[take], np.flatnonzero(take)
    block = np.uint64(4096) << np.clip(chunk.order[page], 0, 20).astype(np.uint64)
    start = chunk.pfn[page].astype(np.uint64) << np.uint64(12)
    bases = np.zeros((len(page), OBJECTS_AFTER), np.uint64)
    follows = np.ones(len(page), bool)
    for k in range(OBJECTS_AFTER):
        after = rows[at + 1 + k]
        follows &= ((event[after] == EV_KMALLOC) | (event[after] == EV_CACHE_ALLOC)) & (cpu[after] == cpu[page])
        bases[:, k] = np.where(follows, (chunk.ptr[after] & ~(block - np.uint64(1))) - start, 0)
    return bases[bases[:, 0] > 0]
