"""
Pairing written a second time, slowly: dicts, sets and lists, looking ahead wherever that is simpler.

Only what both need to agree on is the same: the rules of memtrace.trace.requests. Rows are plain objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from memtrace.trace.requests import (
    FLAG_LAST,
    FLAG_MISSED,
    FLAG_UNTRACED_PAGE,
    RQ_BULK_ALLOC,
    RQ_BULK_FREE,
    RQ_CACHE_ALLOC,
    RQ_CACHE_FREE,
    RQ_KFREE,
    RQ_KFREE_NULL,
    RQ_KMALLOC,
    RQ_MARKER,
    RQ_PAGE_ALLOC,
    RQ_PAGE_FREE,
)
from memtrace.trace.schema import EVENT_CODES, EventChunk, TraceVocab

TAKEN = ("op=bulk_alloc", "op=isolate_free")
OBJECT_ALLOCS = {"kmalloc": RQ_KMALLOC, "kmem_cache_alloc": RQ_CACHE_ALLOC, "bulk_alloc": RQ_BULK_ALLOC}
OBJECT_FREES = {"kfree": RQ_KFREE, "kmem_cache_free": RQ_CACHE_FREE, "bulk_free": RQ_BULK_FREE}
VOCABS = {"call_site": "call_site", "name": "name", "gfp_flags": "gfp", "ctx": "ctx", "text": "text"}


class ListReader:
    """A trace in memory: a list of dicts of the fields that each event has."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.vocab = TraceVocab()
        self.columns = EventChunk.empty(len(rows))
        for i, row in enumerate(rows):
            self.columns.event[i] = EVENT_CODES.get(row["event"], 0)
            self.columns.event_name[i] = self.vocab.event.code(row["event"])
            self.columns.ts_ns[i] = row.get("ts_ns", 1000 * i)
            for field, value in row.items():
                if field in VOCABS:
                    value = getattr(self.vocab, VOCABS[field]).code(value)
                if field not in ("event", "ts_ns"):
                    getattr(self.columns, field)[i] = value

    def chunks(self, rows_per_chunk: int) -> Iterator[EventChunk]:
        """The rows, so many at a time."""
        names = [name for name in EventChunk.__slots__ if name != "row0"]
        for first in range(0, len(self.columns), rows_per_chunk):
            part = slice(first, first + rows_per_chunk)
            yield EventChunk(first, **{name: getattr(self.columns, name)[part] for name in names})


def rows_of(reader: Any, n: int | None = None) -> list[SimpleNamespace]:
    """The first n rows of a reader, one object a row, codes turned into text, gt_bulk_obj told apart."""
    names = {code: name for name, code in EVENT_CODES.items()}
    rows = []
    for chunk in reader.chunks(1 << 16):
        for i in range(len(chunk)):
            if n is not None and chunk.row0 + i >= n:
                return rows
            text = reader.vocab.text.names[chunk.text[i]] if chunk.text[i] >= 0 else ""
            event = names.get(int(chunk.event[i]), "other")
            if event == "gt_bulk_obj":
                event = f"bulk_{text}"
            ctx = reader.vocab.ctx.names[chunk.ctx[i]] if chunk.ctx[i] >= 0 else ""
            rows.append(SimpleNamespace(
                row=chunk.row0 + i, ts_ns=int(chunk.ts_ns[i]), event=event, text=text, cpu=int(chunk.cpu[i]),
                ptr=int(chunk.ptr[i]), pfn=int(chunk.pfn[i]), order=int(chunk.order[i]),
                bytes_req=int(chunk.bytes_req[i]), bytes_alloc=int(chunk.bytes_alloc[i]),
                text_code=int(chunk.text[i]), name=int(chunk.name[i]),
                site=int(chunk.call_site[i]), level={"s": 1, "h": 2, "H": 3, "z": 2, "Z": 3}.get(ctx[2:3], 0),
            ))
            if event == "gt_page" and text.startswith("op=isolate_free") and rows[-1].pfn > 0:
                # Compaction takes a block, and uses its pages one by one.
                block = rows.pop()
                for pfn in range(block.pfn, block.pfn + (1 << block.order)):
                    rows.append(SimpleNamespace(**{**vars(block), "pfn": pfn, "order": 0}))
    return rows


class Life:
    """A page block from its allocation to its free."""

    def __init__(self, row: int | None, frames: set[int], slab: bool, start: bool) -> None:
        self.row, self.frames, self.slab, self.start = row, frames, slab, start
        self.objects: list[int] = []


def judge(rows: list[SimpleNamespace], base: int) -> SimpleNamespace:
    """What needs later rows: which page rows are the slab allocator's, what was there at the start."""
    at: dict[int, Life | None] = {}  # frame -> its life; None once freed
    live: dict[int, bool] = {}  # pointer -> is it live
    found = SimpleNamespace(slab=set(), start_ptr=[], start_pages=[], doubled=set(), accepted=set(), ended={})
    previous: dict[int, SimpleNamespace] = {}
    free_rows = []

    def touch(ptr: int) -> Life | None:
        if not base or ptr < base:
            return None
        frame = (ptr - base) >> 12
        life = at.get(frame)
        if life is None:
            life = at[frame] = Life(None, {frame}, True, frame not in at)
        if life.row is not None:
            life.slab = True
            found.slab.add(life.row)
        if ptr not in life.objects:
            life.objects.append(ptr)
        return life

    def end(life: Life, row: int) -> None:
        """The page is gone, and so are its objects; the youngest acquaintance first."""
        found.ended.setdefault(row, []).extend(ptr for ptr in reversed(life.objects) if live.get(ptr))
        for ptr in life.objects:
            live.pop(ptr, None)
        life.objects = []

    def release(frames: range, row: int) -> tuple[bool, bool, bool]:
        lives = [at.get(frame, "never") for frame in frames]
        for frame in frames:
            life = at.get(frame)
            if life is not None:
                life.frames.discard(frame)
                end(life, row)
            at[frame] = None
        slab = any(isinstance(life, Life) and life.slab for life in lives)
        used = any(isinstance(life, Life) and not life.slab for life in lives)
        return slab, used, all(life == "never" for life in lives)

    for row in rows:
        before = previous.get(row.cpu)
        if row.event in OBJECT_ALLOCS and row.ptr not in (0, 16):
            previous[row.cpu] = row
            if (row.event == "kmalloc" and row.bytes_alloc > 8192 and before is not None and before.event == "kmalloc"
                    and (before.ptr, before.bytes_alloc) == (row.ptr, row.bytes_alloc)):
                found.doubled.add(before.row)
                previous.pop(row.cpu)
                continue
            touch(row.ptr)
            live[row.ptr] = True
            found.accepted.add(row.row)
        elif row.event in OBJECT_FREES and row.ptr not in (0, 16):
            previous[row.cpu] = row
            life = touch(row.ptr)
            if row.ptr not in live and (life is None or life.start):
                found.start_ptr.append(row.ptr)
                found.accepted.add(row.row)
            elif live.get(row.ptr):
                found.accepted.add(row.row)
            live[row.ptr] = False
        elif row.event == "mm_page_alloc" or (row.event == "gt_page" and row.text.startswith(TAKEN)):
            if row.event == "mm_page_alloc":
                previous[row.cpu] = row
            if row.pfn <= 0:
                continue
            frames = range(row.pfn, row.pfn + (1 << row.order))
            for old in {id(at[frame]): at[frame] for frame in frames if at.get(frame) is not None}.values():
                end(old, row.row)
                for frame in old.frames:
                    at[frame] = None
            life = Life(row.row if row.event == "mm_page_alloc" else None, set(frames), False, False)
            at.update(dict.fromkeys(frames, life))
        elif row.event == "mm_page_free" and row.pfn > 0:
            previous[row.cpu] = row
            slab, used, never = release(range(row.pfn, row.pfn + (1 << row.order)), row.row)
            if slab:
                found.slab.add(row.row)
            else:
                free_rows.append(row)
                if not used and never:
                    found.start_pages.append((row.pfn, row.order))
        elif row.event == "mm_page_free_batched" and row.pfn > 0 and at.get(row.pfn) is not None:
            release(range(row.pfn, row.pfn + 1), row.row)
    found.batched = batched_frees(rows, free_rows)
    return found


def batched_frees(rows: list[SimpleNamespace], frees: list[SimpleNamespace]) -> set[int]:
    """Rows of frees that a batched row of the same page follows before anything else happens to that page."""
    waiting: dict[int, int] = {}
    wanted = {row.row for row in frees}
    batched = set()
    for row in rows:
        if row.event == "mm_page_free":
            waiting[row.pfn] = row.row if row.row in wanted else -1
        elif row.event == "mm_page_alloc" or row.text.startswith(TAKEN):
            waiting.pop(row.pfn, None)
        elif row.event == "mm_page_free_batched" and waiting.pop(row.pfn, -1) >= 0:
            batched.add(max(r.row for r in frees if r.pfn == row.pfn and r.row < row.row))
    return batched


def last_of_arrays(rows: list[SimpleNamespace], accepted: set[int]) -> set[int]:
    """Bulk rows that end their array: the next object event of their CPU and level is of another."""
    streams: dict[tuple[int, int], list[SimpleNamespace]] = {}
    for row in rows:
        if row.row in accepted or row.event == "rcu_invoke_kfree_bulk_callback" or (
                row.event in ("kfree", "kmem_cache_free") and row.ptr not in (0, 16)):
            streams.setdefault((row.cpu, row.level), []).append(row)

    def array(row: SimpleNamespace) -> tuple[Any, ...]:
        return (row.event, row.site, row.name if row.event == "bulk_alloc" else 0)

    return {
        row.row
        for stream in streams.values()
        for row, after in zip(stream, [*stream[1:], None], strict=True)
        if row.event in ("bulk_alloc", "bulk_free") and (after is None or array(row) != array(after))
    }


def slow_requests(
    rows: list[SimpleNamespace], base: int, plan: Any
) -> tuple[list[tuple[int, ...]], SimpleNamespace]:
    """
    The requests as (row, op, flags, cpu, size, addr, offset), and what `judge` found.

    Of the plan only the requests with estimated times are taken.
    """
    extras = list(zip(plan.extra_ns.tolist(), plan.extra_row.tolist(), plan.extra_ptr.tolist(),
                      plan.extra_cache.tolist(), plan.extra_cpu.tolist(), strict=True))
    found = judge(rows, base)
    last = last_of_arrays(rows, found.accepted)
    kinds = dict.fromkeys(found.start_ptr, RQ_CACHE_FREE)  # what a missed free of a start object would look like
    live = set(found.start_ptr)
    blocks: dict[int, SimpleNamespace] = {}  # frame -> its block
    out: list[tuple[int, ...]] = []

    def new_block(pfn: int, order: int) -> None:
        frames = set(range(pfn, pfn + (1 << order)))
        blocks.update(dict.fromkeys(frames, SimpleNamespace(pfn=pfn, order=order, frames=frames, pending=order)))

    def free_piece(row: SimpleNamespace, block: SimpleNamespace, pfn: int, order: int, flags: int = 0) -> None:
        for frame in range(pfn, pfn + (1 << order)):
            block.frames.discard(frame)
            del blocks[frame]
        flags |= 0 if block.frames else FLAG_LAST
        out.append((row.row, RQ_PAGE_FREE, flags, row.cpu, order, pfn << 12, pfn - block.pfn))

    def free_pages(row: SimpleNamespace, pfn: int, order: int) -> None:
        frames = range(pfn, pfn + (1 << order))
        block = blocks.get(pfn)
        if block is not None and all(frame in block.frames for frame in frames):
            free_piece(row, block, pfn, order)
            return
        for frame in frames:
            if frame in blocks:
                free_piece(row, blocks[frame], frame, 0)

    def free_missed(row: SimpleNamespace, order: int) -> None:
        for frame in range(row.pfn, row.pfn + (1 << order)):
            block = blocks.get(frame)
            if block is not None and len(block.frames) == 1 << block.order:
                free_piece(row, block, block.pfn, block.order, FLAG_MISSED)
            elif block is not None:
                for piece in sorted(block.frames):
                    free_piece(row, block, piece, 0, FLAG_MISSED)

    for pfn, order in found.start_pages:
        new_block(pfn, order)
    for row in rows:
        addr = row.ptr - base if base and row.ptr >= base else -1
        while extras and row.ts_ns >= extras[0][0] and row.row >= extras[0][1]:
            _, _, ptr, cache, cpu = extras.pop(0)
            if cache < 0 and ptr in live:
                live.discard(ptr)
                out.append((row.row, kinds[ptr], FLAG_MISSED, cpu, -1, ptr - base, 0))
            elif cache >= 0 and ptr not in live:
                live.add(ptr)
                kinds[ptr] = RQ_CACHE_FREE
                out.append((row.row, RQ_BULK_ALLOC, FLAG_MISSED | FLAG_LAST, cpu, -1, ptr - base, 0))
        for ptr in found.ended.get(row.row, ()):
            if ptr in live:
                live.discard(ptr)
                out.append((row.row, kinds[ptr], FLAG_MISSED, row.cpu, -1, ptr - base, 0))
        if row.event == "marker":
            out.append((row.row, RQ_MARKER, 0, row.cpu, row.text_code, -1, 0))
        elif row.event in OBJECT_ALLOCS and row.row in found.accepted and row.row not in found.doubled:
            if row.ptr in live:
                out.append((row.row, kinds[row.ptr], FLAG_MISSED, row.cpu, -1, addr, 0))
            live.add(row.ptr)
            kinds[row.ptr] = RQ_KFREE if row.event == "kmalloc" else RQ_CACHE_FREE
            size = row.bytes_req if row.event == "kmalloc" else -1
            out.append((row.row, OBJECT_ALLOCS[row.event], FLAG_LAST * (row.row in last), row.cpu, size, addr, 0))
        elif row.event == "kmalloc" and row.row not in found.accepted and row.ptr not in (0, 16):
            # The second of a doubled pair stands for both.
            if row.ptr in live:
                out.append((row.row, kinds[row.ptr], FLAG_MISSED, row.cpu, -1, addr, 0))
            live.add(row.ptr)
            kinds[row.ptr] = RQ_KFREE
            out.append((row.row, RQ_KMALLOC, 0, row.cpu, row.bytes_req, addr, 0))
        elif row.event in OBJECT_FREES and row.ptr in (0, 16):
            if row.event == "kfree":
                out.append((row.row, RQ_KFREE_NULL, 0, row.cpu, -1, -1, 0))
        elif row.event in OBJECT_FREES and row.ptr in live:
            live.discard(row.ptr)
            out.append((row.row, OBJECT_FREES[row.event], FLAG_LAST * (row.row in last), row.cpu, -1, addr, 0))
        elif row.event in ("mm_page_alloc", "gt_page") and row.pfn > 0:
            if row.event == "gt_page" and not row.text.startswith(TAKEN):
                continue
            free_missed(row, row.order)
            if row.row not in found.slab:
                new_block(row.pfn, row.order)
                flags = FLAG_UNTRACED_PAGE if row.event == "gt_page" else 0
                out.append((row.row, RQ_PAGE_ALLOC, flags, row.cpu, row.order, row.pfn << 12, 0))
                blocks[row.pfn].pending = 0
        elif row.event == "mm_page_free" and row.pfn > 0:
            if row.row not in found.batched:
                free_pages(row, row.pfn, row.order)
            elif row.pfn in blocks:
                blocks[row.pfn].pending = row.order
        elif row.event == "mm_page_free_batched" and row.pfn in blocks:
            free_pages(row, row.pfn, blocks[row.pfn].pending)
    return out, found


def fast_requests(chunks: Any) -> list[tuple[int, ...]]:
    """A RequestStream's requests in the form of `slow_requests`."""
    columns = ("row", "op", "flags", "cpu", "size", "addr", "offset")
    parts = [np.stack([getattr(chunk, name).astype(np.int64) for name in columns], 1) for chunk in chunks]
    return [tuple(request) for part in parts for request in part.tolist()]


def check_handles(chunks: Any, census: Any) -> None:
    """
    Every handle is free when handed out, below the census's bound, and frees what it was handed out for.

    Raises
    ------
    AssertionError
        With the row.
    """
    objects = dict(enumerate(census.start_addr.tolist()))
    pages = {
        handle: (pfn << 12 if pfn >= 0 else -1, 1 << order)
        for handle, (pfn, order) in enumerate(zip(census.start_pfn.tolist(), census.start_order.tolist(), strict=True))
    }
    for chunk in chunks:
        fields = (chunk.row, chunk.op, chunk.flags, chunk.handle, chunk.size, chunk.addr, chunk.offset)
        for row, op, flags, handle, size, addr, offset in zip(*(f.tolist() for f in fields), strict=True):
            if op in (RQ_KMALLOC, RQ_CACHE_ALLOC, RQ_BULK_ALLOC):
                assert handle not in objects and 0 <= handle < census.max_handles, row
                objects[handle] = addr
            elif op in (RQ_KFREE, RQ_CACHE_FREE, RQ_BULK_FREE):
                assert objects.pop(handle) == addr, row
            elif op == RQ_PAGE_ALLOC:
                assert handle not in pages and 0 <= handle < census.max_page_handles, row
                pages[handle] = (addr, 1 << size)
            elif op == RQ_PAGE_FREE:
                head, left = pages.pop(handle)
                if addr >= 0:
                    assert head + (offset << 12) == addr, row
                    left -= 1 << size
                else:
                    left = 0
                assert (left == 0) == bool(flags & FLAG_LAST), row
                if left:
                    pages[handle] = (head, left)
