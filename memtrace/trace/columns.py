"""The columns of one chunk, and what its vocabulary codes mean, as compiled loops read them."""

from __future__ import annotations

import cython
import numpy as np

from memtrace.mm.gfp import GFP_BIT_ACCOUNT, GFP_BIT_DMA, GFP_BIT_RECLAIMABLE
from memtrace.trace.arrays import filled, view
from memtrace.trace.cache_text import parse_cache_text
from memtrace.trace.causes import (
    KMALLOC_CGROUP,
    KMALLOC_DMA,
    KMALLOC_NORMAL,
    KMALLOC_RECLAIM,
    PTR_FRAME,
    PTR_FRAME_MASK,
    TEXT_ALLOC,
    TEXT_BULK_ALLOC,
    TEXT_FREE,
    TEXT_ISOLATED,
    TEXT_NONE,
    TEXT_OTHER,
)
from memtrace.trace.gfp import is_slab_page_mask, parse_gfp
from memtrace.trace.percpu_events import percpu_page_mask
from memtrace.trace.schema import EventChunk, TraceVocab


@cython.cclass
class Columns:
    """
    Typed views of one chunk's columns, bound chunk after chunk, and tables by vocabulary code.

    A table has its entry for "no such field" (code -1) first, so it is read at ``code + 1``.

    Attributes
    ----------
    gfp_mask
        By vocab.gfp code: the mask in the bits of 6.1.
    gfp_kmalloc
        By vocab.gfp code: KMALLOC_*, which of a size's caches serves a kmalloc (MODEL 5.2).
    gfp_slab
        By vocab.gfp code: whose page may carry it, MASK_* of ``causes``.
    level
        By vocab.ctx code: 0 task, 1 softirq, 2 hardirq, 3 hardirq inside softirq.
    text_kind
        By vocab.text code: one of TEXT_*.
    cache_args
        By vocab.text code: what it says of a cache that is created (``cache_text.parse_cache_text``).
    """

    n: cython.longlong
    row0: cython.longlong
    ts_ns: cython.longlong[:]
    cpu: cython.short[:]
    event: cython.uchar[:]
    call_site: cython.int[:]
    ptr: cython.ulonglong[:]
    name: cython.int[:]
    bytes_req: cython.longlong[:]
    bytes_alloc: cython.longlong[:]
    gfp: cython.int[:]
    node: cython.short[:]
    order: cython.short[:]
    pfn: cython.longlong[:]
    ctx: cython.int[:]
    text: cython.int[:]
    gfp_mask: cython.longlong[:]
    gfp_kmalloc: cython.uchar[:]
    gfp_slab: cython.uchar[:]
    level: cython.uchar[:]
    text_kind: cython.uchar[:]
    texts: list
    """By vocab.text code: the text."""
    cache_args: cython.longlong[:]

    def __init__(self) -> None:
        self.n = 0
        self.row0 = 0
        self.gfp_mask = filled(1, np.int64)
        self.gfp_kmalloc = filled(1, np.uint8)
        self.gfp_slab = filled(1, np.uint8)
        self.level = filled(1, np.uint8)
        self.text_kind = filled(1, np.uint8)
        self.texts = []
        self.cache_args = filled(1, np.int64)

    def bind(self, chunk: EventChunk, vocab: TraceVocab) -> None:
        """Take the columns of a chunk, and the codes that its vocabularies gained."""
        self.n = len(chunk)
        self.row0 = chunk.row0
        self.ts_ns = _view(chunk.ts_ns, np.int64)
        self.cpu = _view(chunk.cpu, np.int16)
        self.event = _view(chunk.event, np.uint8)
        self.call_site = _view(chunk.call_site, np.int32)
        self.ptr = _view(chunk.ptr, np.uint64)
        self.name = _view(chunk.name, np.int32)
        self.bytes_req = _view(chunk.bytes_req, np.int64)
        self.bytes_alloc = _view(chunk.bytes_alloc, np.int64)
        self.gfp = _view(chunk.gfp_flags, np.int32)
        self.node = _view(chunk.node, np.int16)
        self.order = _view(chunk.order, np.int16)
        self.pfn = _view(chunk.pfn, np.int64)
        self.ctx = _view(chunk.ctx, np.int32)
        self.text = _view(chunk.text, np.int32)
        self.texts = vocab.text.names
        known = len(self.gfp_mask) - 1
        masks = [parse_gfp(text, vocab.gfp_era) for text in vocab.gfp.names[known:]]
        self.gfp_mask = _extended(self.gfp_mask, masks)
        self.gfp_kmalloc = _extended(self.gfp_kmalloc, [_kmalloc_kind(mask) for mask in masks])
        self.gfp_slab = _extended(
            self.gfp_slab,
            [is_slab_page_mask(mask) | (bool(mask & GFP_BIT_RECLAIMABLE) << 1) | percpu_page_mask(mask)
             for mask in masks],
        )
        texts = vocab.text.names[len(self.text_kind) - 1 :]
        self.level = _extended(self.level, [_ctx_level(text) for text in vocab.ctx.names[len(self.level) - 1 :]])
        self.text_kind = _extended(self.text_kind, [_text_kind(text) for text in texts])
        self.cache_args = _extended(self.cache_args, [parse_cache_text(text) for text in texts])

    @cython.cfunc
    @cython.exceptval(check=False)
    def page_frame(self, i: cython.longlong) -> cython.longlong:
        """Frame number of a page event: its pfn, or one made of its pointer, or -1 when it failed."""
        if self.pfn[i] > 0:
            return self.pfn[i]
        if self.ptr[i] == 0:
            return -1
        return PTR_FRAME | cython.cast(cython.longlong, self.ptr[i] & PTR_FRAME_MASK)


def _view(column: np.ndarray, dtype: type[np.generic]) -> memoryview:
    """A contiguous, writable view: C memoryviews want both, and the interpreter reads plain ints from it."""
    return view(np.require(column, dtype, ["C", "W"]))


def _extended(table: object, more: list[int]) -> memoryview:
    old = np.asarray(table)
    return view(np.concatenate([old, np.array(more, old.dtype)]))


def _kmalloc_kind(mask: int) -> int:
    """Kernel: kmalloc_type(): of several reasons the first of these counts."""
    if mask & GFP_BIT_DMA:
        return KMALLOC_DMA
    if mask & GFP_BIT_RECLAIMABLE:
        return KMALLOC_RECLAIM
    return KMALLOC_CGROUP if mask & GFP_BIT_ACCOUNT else KMALLOC_NORMAL


def _ctx_level(ctx: str) -> int:
    """The third letter of ftrace's context: s softirq, h hardirq, H hardirq in softirq, z and Z NMI."""
    return {"s": 1, "h": 2, "H": 3, "z": 2, "Z": 3}.get(ctx[2:3], 0)


def _text_kind(text: str) -> int:
    if text == "alloc":
        return TEXT_ALLOC
    if text == "free":
        return TEXT_FREE
    if text.startswith("op=isolate_free"):
        return TEXT_ISOLATED
    if text.startswith("op="):
        return TEXT_BULK_ALLOC if text.startswith("op=bulk_alloc") else TEXT_OTHER
    return TEXT_NONE
