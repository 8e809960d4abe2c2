"""
Where in a trace each step of the page allocator happened.

An allocation is written when it is over, a free before it begins, and what both did to the zone stands in rows of
their own. This module reads a trace once and says, row by row, what a driver has to do (EXACT B 2.1-2.3, 4.1, 4.6):

* a *burst* of ``mm_page_alloc_zone_locked`` rows is one refill (or one block taken past the per-CPU lists), and acts
  at its first row; the ``mm_page_alloc`` of its first page is the request that caused it;
* a request without a burst took the head of a per-CPU list, at its own row;
* a page freed alone goes to its per-CPU list at its ``mm_page_free`` row; one freed with others at its
  ``mm_page_free_batched`` row, with the type its pageblock had at the former;
* consecutive ``mm_page_pcpu_drain`` rows are one drain and act at the first. It belongs to the free just before it
  on that CPU, else nobody in the trace asked for it (drain_all, the vmstat worker).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from memtrace.trace.kswapd_runs import KswapdEdge, KswapdRuns
from memtrace.trace.schema import (
    EV_EXTFRAG,
    EV_GT_PAGE,
    EV_OTHER,
    EV_PAGE_ALLOC,
    EV_PAGE_FREE,
    EV_PAGE_FREE_BATCHED,
    EV_PCPU_DRAIN,
    EV_ZONE_LOCKED,
    EventChunk,
    Vocab,
)
from memtrace.trace.source import TraceReader

COLUMNS = ("ts_ns", "cpu", "task", "event", "gfp_flags", "order", "migratetype", "pfn", "text")
"""Columns of a trace that `read_positions` needs."""
PCP_ORDERS = 4
PCP_TYPES = 3
MAX_ORDER = 10
_PAGE_EVENTS = np.array([EV_PAGE_ALLOC, EV_PAGE_FREE, EV_PAGE_FREE_BATCHED, EV_ZONE_LOCKED, EV_PCPU_DRAIN, EV_EXTFRAG,
                         EV_GT_PAGE])
_NUMBER = re.compile(r"(\w+)=(0x[0-9a-f]+|-?\d+)")
_FALLBACK = ("pfn", "alloc_order", "fallback_order", "alloc_migratetype", "fallback_migratetype", "change_ownership")

Fallback = tuple[int, ...]
"""The fields of one mm_page_alloc_extfrag that the kernel decides on: ``_FALLBACK``."""


@dataclass(slots=True)
class Pop:
    """A request served by the head of a per-CPU list, at its own row. ``bulk``: one of alloc_pages_bulk()."""

    row: int
    cpu: int
    pfn: int
    order: int
    mt: int
    bulk: bool = False


@dataclass(slots=True)
class Burst:
    """
    Blocks taken from the buddy system under one hold of the zone's lock.

    ``asked`` is the row of the request it was for (-1: none is in the trace), ``bulk`` whether that was one of
    alloc_pages_bulk().
    """

    row: int
    cpu: int
    order: int
    mt: int
    pfns: list[int]
    fallbacks: list[Fallback] = field(default_factory=list)
    asked: int = -1
    bulk: bool = False


@dataclass(slots=True)
class Drain:
    """Blocks moved from per-CPU lists to the buddy system in one go. ``free`` is the free that caused it."""

    row: int
    cpu: int
    pfns: list[int]
    orders: list[int]
    free: Free | None = None


@dataclass(slots=True)
class Free:
    """
    A freed block.

    ``row`` is where it enters its per-CPU list, ``typed_row`` where its pageblock's type was read. ``straight``:
    it went to the buddy system at once although its order has per-CPU lists, as its next row shows (EXACT B 2.5).
    """

    row: int
    cpu: int
    pfn: int
    order: int
    typed_row: int
    straight: bool = False
    drain: Drain | None = None


@dataclass(slots=True)
class Typed:
    """The row at which the type of a page that is freed with others was read; ``Free.row`` comes later."""

    row: int
    free: Free


@dataclass(slots=True)
class Taken:
    """A free block that compaction took, or (``back``) gave back."""

    row: int
    pfn: int
    order: int
    mt: int
    back: bool


@dataclass(slots=True)
class Reclaim:
    """kswapd of a node begins or ends a run."""

    row: int
    node: int
    active: bool


Action = Pop | Burst | Drain | Free | Typed | Taken | Reclaim


@dataclass(slots=True)
class Positions:
    """
    What a driver of the page allocator has to do, in order of ``row``.

    Attributes
    ----------
    owners
        Blocks in use at ``first_row`` that earlier rows of the trace account for: (pfn, order, migratetype asked for).
    requests
        ``mm_page_alloc`` rows that got a page, bulk pages included.
    ignored
        Rows of pages that no zone holds.
    """

    actions: list[Action]
    owners: list[tuple[int, int, int]]
    requests: int
    ignored: int = 0


@dataclass(slots=True)
class _Rows:
    """The page rows of a trace as lists; ``seq`` numbers all rows of a CPU, ``text`` is there for few events."""

    row: list[int]
    cpu: list[int]
    seq: list[int]
    event: list[int]
    pfn: list[int]
    order: list[int]
    mt: list[int]
    text: dict[int, str]
    kswapd: list[KswapdEdge]


def read_positions(
    reader: TraceReader, first_row: int, refill: Callable[[int, int], int], zone_of: Callable[[int], int],
    progress: Callable[[int], None] | None = None,
) -> Positions:
    """
    Read a trace and link what belongs together.

    Parameters
    ----------
    reader
        Opened with at least ``COLUMNS``.
    first_row
        First row to act on, the one behind the dump's marker.
    refill
        Blocks that a refill takes at most, by (pfn, order): bursts that follow one another are told apart by it. 1 for
        an order without per-CPU lists.
    zone_of
        Zone index of a pfn; a drain does not cross zones.
    """
    rows = _page_rows(reader, progress)
    begin = int(np.searchsorted(np.array(rows.row, np.int64), first_row))
    linker = _Linker(rows, begin, refill, zone_of)
    linker.run()
    return Positions(linker.actions(first_row), _owners(rows, begin), linker.requests, linker.ignored)


def _page_rows(reader: TraceReader, progress: Callable[[int], None] | None) -> _Rows:
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("row", "cpu", "seq", "event", "pfn", "order", "mt")}
    text: dict[int, str] = {}
    counted: dict[int, int] = {}
    runs, reclaim = KswapdRuns(reader.vocab.event), _ReclaimRows(reader.vocab.event)
    for chunk, texts in reader.chunks_with_text():
        seq = np.zeros(len(chunk), np.int64)
        for cpu in np.unique(chunk.cpu).tolist():
            on = np.flatnonzero(chunk.cpu == cpu)
            seq[on] = np.arange(len(on)) + counted.get(cpu, 0)
            counted[cpu] = counted.get(cpu, 0) + len(on)
        runs.feed(chunk, partial(_text, texts))
        keep = np.flatnonzero(np.isin(chunk.event, _PAGE_EVENTS) | reclaim.among(chunk))
        for name, values in (("row", keep + chunk.row0), ("cpu", chunk.cpu[keep]), ("seq", seq[keep]),
                             ("event", chunk.event[keep]), ("pfn", chunk.pfn[keep]), ("order", chunk.order[keep]),
                             ("mt", chunk.migratetype[keep])):  # fmt: skip
            columns[name].append(values)
        for i in np.flatnonzero((chunk.event == EV_EXTFRAG) | (chunk.event == EV_GT_PAGE)).tolist():
            text[chunk.row0 + i] = texts[i].as_py() or ""
        if progress is not None:
            progress(chunk.row0 + len(chunk))
    lists = {name: np.concatenate(parts).tolist() for name, parts in columns.items()}
    return _Rows(**lists, text=text, kswapd=runs.finish())


def _text(texts: Any, i: int) -> str:
    return texts[i].as_py() or ""


class _ReclaimRows:
    """Rows of reclaim and compaction: a drain behind one of them does not belong to the free before it."""

    def __init__(self, names: Vocab) -> None:
        self._names = names
        self._known: dict[int, bool] = {}

    def among(self, chunk: EventChunk) -> np.ndarray:
        """Mask of a chunk's rows."""
        codes: np.ndarray = chunk.event_name
        for code in np.unique(codes).tolist():
            if code not in self._known:
                name = self._names.names[code] if code >= 0 else ""
                self._known[code] = name.startswith(("mm_vmscan", "mm_compaction"))
        return np.isin(codes, [code for code, yes in self._known.items() if yes])


def _owners(rows: _Rows, begin: int) -> list[tuple[int, int, int]]:
    """Blocks allocated before the first row and not freed, with the type they were asked for."""
    live: dict[int, tuple[int, int]] = {}
    for i in range(begin):
        if rows.event[i] == EV_PAGE_ALLOC and rows.pfn[i] > 0:
            live[rows.pfn[i]] = (rows.order[i], rows.mt[i])
        elif rows.event[i] == EV_PAGE_FREE:
            _disown(live, rows.pfn[i], rows.order[i])
    return [(pfn, order, mt) for pfn, (order, mt) in live.items()]


def _disown(live: dict[int, tuple[int, int]], pfn: int, order: int) -> None:
    """Forget a freed block; when it was a piece of one that was split, the other pieces stay."""
    if live.pop(pfn, (order, 0))[0] == order and pfn not in live:
        for up in range(order + 1, MAX_ORDER + 1):
            head = pfn >> up << up
            if live.get(head, (-1, 0))[0] == up:
                mt = live.pop(head)[1]
                live.update({p: (order, mt) for p in range(head, head + (1 << up), 1 << order) if p != pfn})
                return


class _Linker:
    """One walk over the page rows; ``done`` collects the actions."""

    def __init__(
        self, rows: _Rows, begin: int, refill: Callable[[int, int], int], zone_of: Callable[[int], int]
    ) -> None:
        self._rows = rows
        self._begin = begin
        self._refill = refill
        self._zone_of = zone_of
        self._done: list[Action] = []
        self._open_burst: dict[int, tuple[Burst, int]] = {}
        self._open_drain: dict[int, tuple[Drain, int]] = {}
        self._unclaimed: dict[int, Burst] = {}
        self._unbatched: dict[int, Free] = {}
        self._last: dict[int, Free | None] = {}
        self._extfrags: dict[int, list[tuple[int, int, Fallback]]] = {}
        self.requests = 0
        self.ignored = 0

    def run(self) -> None:
        """Link all rows from the first on."""
        rows = self._rows
        straight = _straight(rows, self._begin)
        handlers = {EV_ZONE_LOCKED: self._locked, EV_EXTFRAG: self._extfrag, EV_PCPU_DRAIN: self._drain,
                    EV_PAGE_ALLOC: self._alloc, EV_PAGE_FREE_BATCHED: self._batched, EV_GT_PAGE: self._lab}
        for i in range(self._begin, len(rows.row)):
            event, cpu, pfn = rows.event[i], rows.cpu[i], rows.pfn[i]
            if pfn > 0 and (self._zone_of(pfn) < 0 or rows.order[i] > MAX_ORDER):
                self.ignored += 1
                continue
            if event not in (EV_ZONE_LOCKED, EV_EXTFRAG):
                self._open_burst.pop(cpu, None)
                self._extfrags.pop(cpu, None)
            if event == EV_PAGE_FREE:
                self._free(i, straight[i - self._begin])
            elif event == EV_OTHER:
                self._last[cpu] = None
            else:
                handlers[event](i)

    def actions(self, first_row: int) -> list[Action]:
        """All of them in order; of equal rows, the type of a page is read first."""
        done = self._done + [Reclaim(row, node, on) for row, node, on in self._rows.kswapd if row >= first_row]
        done.sort(key=lambda action: action.row)
        return done

    def _locked(self, i: int) -> None:
        rows = self._rows
        cpu, pfn, order, mt = rows.cpu[i], rows.pfn[i], rows.order[i], rows.mt[i]
        burst, seq = self._open_burst.get(cpu, (None, 0))
        extfrags = self._extfrags.pop(cpu, [])
        follows = seq + len(extfrags) + 1 == rows.seq[i]
        if (
            burst is None or not follows or (burst.order, burst.mt) != (order, mt)
            or self._zone_of(pfn) != self._zone_of(burst.pfns[0]) or len(burst.pfns) >= self._most(burst)
        ):  # fmt: skip
            begin = extfrags[0][0] if extfrags else rows.row[i]
            burst = Burst(begin, cpu, order, mt, [])
            self._done.append(burst)
            self._unclaimed[pfn] = burst
        burst.pfns.append(pfn)
        burst.fallbacks += [fallback for _, _, fallback in extfrags]
        self._open_burst[cpu] = (burst, rows.seq[i])
        self._last[cpu] = None

    def _most(self, burst: Burst) -> int:
        if burst.mt >= PCP_TYPES:
            return 1
        return self._refill(burst.pfns[0], burst.order)

    def _extfrag(self, i: int) -> None:
        rows = self._rows
        found = dict(_NUMBER.findall(rows.text.get(rows.row[i], "")))
        fields = tuple(int(found.get(name, "-1"), 0) for name in _FALLBACK)
        self._extfrags.setdefault(rows.cpu[i], []).append((rows.row[i], rows.seq[i], fields))
        self._last[rows.cpu[i]] = None

    def _alloc(self, i: int) -> None:
        rows = self._rows
        if rows.pfn[i] > 0:
            self._asked(i, rows.pfn[i], rows.order[i], rows.mt[i], bulk=False)
        self._last[rows.cpu[i]] = None

    def _asked(self, i: int, pfn: int, order: int, mt: int, bulk: bool) -> None:
        rows = self._rows
        self.requests += 1
        self._unbatched.pop(pfn, None)
        burst = self._unclaimed.pop(pfn, None)
        if burst is not None and burst.order == order:
            burst.asked, burst.bulk = rows.row[i], bulk
        else:
            self._done.append(Pop(rows.row[i], rows.cpu[i], pfn, order, mt, bulk))

    def _free(self, i: int, straight: bool) -> None:
        rows = self._rows
        free = Free(rows.row[i], rows.cpu[i], rows.pfn[i], rows.order[i], rows.row[i], straight)
        self._unclaimed.pop(free.pfn, None)
        self._unbatched[free.pfn] = free
        self._done.append(free)
        self._last[free.cpu] = free

    def _batched(self, i: int) -> None:
        rows = self._rows
        free = self._unbatched.pop(rows.pfn[i], None)
        if free is not None and free.cpu == rows.cpu[i]:
            free.row, free.straight = rows.row[i], False
            self._done.append(Typed(free.typed_row, free))
        self._last[rows.cpu[i]] = free

    def _drain(self, i: int) -> None:
        rows = self._rows
        cpu, pfn = rows.cpu[i], rows.pfn[i]
        drain, seq = self._open_drain.get(cpu, (None, 0))
        if drain is None or seq + 1 != rows.seq[i] or self._zone_of(pfn) != self._zone_of(drain.pfns[0]):
            drain = Drain(rows.row[i], cpu, [], [])
            free = self._last.get(cpu)
            if free is not None and free.drain is None and self._zone_of(free.pfn) == self._zone_of(pfn):
                drain.free, free.drain = free, drain
            self._done.append(drain)
        drain.pfns.append(pfn)
        drain.orders.append(rows.order[i])
        if drain.free is not None:
            # Nobody's drains go from one CPU's lists to the next and let go of the lock between: one by one.
            self._open_drain[cpu] = (drain, rows.seq[i])
        self._last[cpu] = None

    def _lab(self, i: int) -> None:
        rows = self._rows
        text = rows.text.get(rows.row[i], "")
        found = {key: int(value, 0) for key, value in _NUMBER.findall(text)}
        pfn, order, mt = found.get("pfn", -1), found.get("order", 0), found.get("migratetype", 0)
        if "op=bulk_alloc" in text:
            self._asked(i, pfn, order, mt, bulk=True)
        else:
            self._done.append(Taken(rows.row[i], pfn, order, mt, back="putback" in text))
        self._last[rows.cpu[i]] = None


def _straight(rows: _Rows, begin: int) -> list[bool]:
    """
    By page row: is it a free of a block with per-CPU lists whose page next shows up coming out of the buddy system?

    Between, it cannot have been on a per-CPU list: it would have left that by a request or a drain, in the trace.
    """
    top = max((pfn + (1 << max(order, 0)) for pfn, order in zip(rows.pfn, rows.order, strict=True)), default=0)
    from_buddy = np.zeros(top + 1, bool)
    found = [False] * (len(rows.row) - begin)
    for i in range(len(rows.row) - 1, begin - 1, -1):
        event, pfn, order = rows.event[i], rows.pfn[i], rows.order[i]
        if pfn < 0 or event in (EV_OTHER, EV_EXTFRAG, EV_PAGE_FREE_BATCHED):
            continue
        if event == EV_PAGE_FREE:
            found[i - begin] = order < PCP_ORDERS and bool(from_buddy[pfn])
        taken = event == EV_ZONE_LOCKED or (event == EV_GT_PAGE and "isolate_free" in rows.text.get(rows.row[i], ""))
        if order > 0:
            from_buddy[pfn : pfn + (1 << order)] = taken
        else:
            from_buddy[pfn] = taken
    return found
