"""
What a recorded SLUB kernel did, in the order in which it did it (EXACT C2, C4, C 4.1-4.5).

A row of a trace stands after an allocation and before a free. Most allocations may be taken to happen at their row.
Where the trace shows that a part of one happened earlier, the script says so: what precedes a page request stands
at the first row of that request's burst, and what precedes an interrupt before that interrupt's first row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from memtrace.trace.census import take_census
from memtrace.trace.columns import Columns
from memtrace.trace.pairing import RequestStream
from memtrace.trace.reading import TraceReader, chunks_from
from memtrace.trace.requests import (
    FLAG_LAST,
    REQUEST_COLUMNS,
    RQ_BULK_ALLOC,
    RQ_BULK_FREE,
    RQ_CACHE_ALLOC,
    RQ_CACHE_FREE,
    RQ_KFREE,
    RQ_KMALLOC,
    RQ_MARKER,
    Census,
)
from memtrace.trace.schema import EV_EXTFRAG, EV_PAGE_ALLOC, EV_PAGE_FREE, EV_ZONE_LOCKED

# What is to be done; the argument is a request's number unless said otherwise.
DO_ALLOC = 0
DO_BULK_ALLOC = 1
DO_FREE = 2
DO_BULK_FREE = 3
DO_HOLD = 4  # all of an allocation that precedes its page request
DO_BYPASS = 5  # stage D of an allocation, if it finds nothing
DO_BULK_EARLY = 6  # as much of a bulk allocation as the recorded pointers show to have happened
DO_PAGE_ALLOC = 7  # argument: trace row
DO_PAGE_FREE = 8  # argument: trace row
DO_DUMP = 9  # argument: vocab.text code of the marker

LARGE_KMALLOC = 8192
_LOOK_AHEAD = 1000
"""Allocations of a CPU that are searched for the first object of a new slab."""
_FREES = (RQ_KFREE, RQ_CACHE_FREE, RQ_BULK_FREE)
NEVER = 1 << 62
_REQUESTS = ("row", "op", "flags", "cpu", "node", "cache", "gfp", "size", "addr")


@dataclass(slots=True)
class Script:
    """
    The requests of a trace, and what to do when.

    Attributes
    ----------
    requests
        By column of ``Requests``: one value a request, as Python lists.
    page
        Request -> (pfn, order) of the new slab whose first object it got.
    next_in_array
        By request: address of the next object of the same bulk free, -1 at its end.
    array
        First request of a bulk allocation -> all of them.
    array_begin
        By request: the first request of the same bulk allocation, -1 for other requests.
    action, argument, row
        What to do, in order, and at which trace row.
    pfn, order
        By trace row - ``row0``, of all rows.
    """

    census: Census
    row0: int
    requests: dict[str, list[int]]
    page: dict[int, tuple[int, int]]
    next_in_array: list[int]
    array: dict[int, list[int]]
    array_begin: list[int]
    action: list[int]
    argument: list[int]
    row: list[int]
    pfn: np.ndarray
    order: np.ndarray
    futures: Futures = field(repr=False)


class RequestedCaches:
    """
    The machine's cache of each recorded allocation.

    Parameters
    ----------
    cache_map
        By index into the census's caches: the machine's.
    kmalloc
        The machine's cache for a size and gfp bits.
    """

    def __init__(self, script: Script, cache_map: np.ndarray, kmalloc: Callable[[int, int], int]) -> None:
        self._requests = script.requests
        self._cache_map: list[int] = cache_map.tolist()
        self._kmalloc = lru_cache(maxsize=None)(kmalloc)

    def of(self, i: int) -> int:
        """Cache of request i."""
        rq = self._requests
        if rq["op"][i] != RQ_KMALLOC:
            return self._cache_map[rq["cache"][i]]
        return self._kmalloc(rq["size"][i], rq["gfp"][i])


class Futures:
    """
    What the trace shows of a page before and after a given row.

    Parameters
    ----------
    requests
        All requests, by column.
    objects
        Numbers of those that allocate or free an object at a known address, ascending.
    pfn, free_row
        Of each mm_page_free, in row order.
    row_cpu
        CPU of every trace row from ``row0`` on.
    """

    def __init__(
        self, requests: dict[str, np.ndarray], objects: np.ndarray, pfn: np.ndarray, free_row: np.ndarray,
        row_cpu: np.ndarray, row0: int,
    ) -> None:
        frame = requests["addr"][objects] >> 12
        by_frame = np.argsort(frame, kind="stable")
        self._requests = requests
        self._frame, self._object = frame[by_frame], objects[by_frame]
        self._object_row = requests["row"][self._object]
        by_pfn = np.argsort(pfn, kind="stable")
        self._pfn, self._free_row = pfn[by_pfn], free_row[by_pfn]

        cpu, rows = requests["cpu"][objects], requests["row"][objects]
        self._object_rows = [rows[cpu == c] for c in range(int(row_cpu.max(initial=-1)) + 1)]
        self._row_cpu = row_cpu
        self._row0 = row0

    @staticmethod
    def _after(keys: np.ndarray, rows: np.ndarray, key: int, row: int) -> tuple[int, int, int]:
        """(first, next, last + 1): places of a key, and of its first row after ``row``."""
        low, high = (int(np.searchsorted(keys, key, side)) for side in ("left", "right"))
        return low, low + int(np.searchsorted(rows[low:high], row, "right")), high

    def next_free(self, pfn: int, row: int) -> int:
        """Row of the block's next mm_page_free; ``NEVER`` when there is none."""
        _, at, end = self._after(self._pfn, self._free_row, pfn, row)
        return int(self._free_row[at]) if at < end else NEVER

    def next_object(self, pfn: int, order: int, row: int) -> int:
        """Row of the next object allocated or freed in the block; ``NEVER`` when there is none."""
        found = NEVER
        for p in range(pfn, pfn + (1 << order)):
            _, at, end = self._after(self._frame, self._object_row, p, row)
            if at < end:
                found = min(found, int(self._object_row[at]))
        return found

    def follows(self, row: int, later: int) -> bool:
        """Does a row belong to the request of an earlier row: the same CPU asks for no object between them?"""
        cpu = int(self._row_cpu[row - self._row0])
        if cpu != self._row_cpu[later - self._row0]:
            return False
        low, high = np.searchsorted(self._object_rows[cpu], (row + 1, later))
        return bool(low == high)

    def freed_by(self, addr: int, row: int) -> int:
        """CPU that freed an object last before ``row``, -1 when the trace does not show it."""
        begin, at, _ = self._after(self._frame, self._object_row, addr >> 12, row)
        for request in self._object[begin:at][::-1].tolist():
            if self._requests["addr"][request] == addr and self._requests["op"][request] in _FREES:
                return int(self._requests["cpu"][request])
        return -1


class _Rows:
    """All rows of a trace: what tells when things happened. Index i is trace row ``row0 + i``."""

    def __init__(self, reader: TraceReader, start_row: int) -> None:
        columns = Columns()
        parts: dict[str, list[np.ndarray]] = defaultdict(list)
        for chunk in chunks_from(reader, start_row):
            columns.bind(chunk, reader.vocab)
            level = np.asarray(columns.level)
            parts["level"].append(level[chunk.ctx + 1])
            for name in ("event", "cpu", "pfn", "order"):
                parts[name].append(getattr(chunk, name))
        self.row0 = start_row
        self.event, self.cpu, self.level, self.pfn, self.order = (
            np.concatenate(parts[name]) for name in ("event", "cpu", "level", "pfn", "order")
        )
        by_cpu = np.argsort(self.cpu, kind="stable")
        before = np.full(len(by_cpu), -1, np.int64)
        before[by_cpu[1:]] = np.where(self.cpu[by_cpu[1:]] == self.cpu[by_cpu[:-1]], by_cpu[:-1], -1)
        self.before = before
        """The row of the same CPU before each, -1 none."""

    def burst_begin(self, i: int) -> int:
        """First row of the burst of a page request that ends at row i."""
        while self.before[i] >= 0 and self.event[self.before[i]] in (EV_ZONE_LOCKED, EV_EXTFRAG):
            i = int(self.before[i])
        return i

    def interrupts(self, i: int) -> list[int]:
        """Rows of the interrupts that stand directly before row i on its CPU, in order."""
        found = []
        at = int(self.before[i])
        while at >= 0 and self.level[at] > self.level[i]:
            found.append(at)
            at = int(self.before[at])
        return found[::-1]


def write_script(reader: TraceReader, start_row: int) -> Script:
    """
    Read a trace (three times) and put what it shows in order.

    Parameters
    ----------
    reader
        An open trace with at least the columns ctx, pfn, order and text.
    start_row
        The row after the marker of the dump that the replay starts from.
    """
    census = take_census(reader, start_row=start_row)
    parts: dict[str, list[np.ndarray]] = {name: [] for name, _ in REQUEST_COLUMNS}
    for chunk in RequestStream(reader, census, start_row=start_row):
        for name in _REQUESTS:
            parts[name].append(getattr(chunk, name))
    requests = {name: np.concatenate(parts[name]) for name in _REQUESTS}
    rows = _Rows(reader, start_row)
    return _Writer(census, requests, rows).write()


class _Writer:
    """Puts the requests of a trace in order."""

    def __init__(self, census: Census, requests: dict[str, np.ndarray], rows: _Rows) -> None:
        self.census = census
        self.rq = requests
        self.rows = rows
        self.at = requests["row"] - rows.row0
        op, size = requests["op"], requests["size"]
        self.single = (op == RQ_CACHE_ALLOC) | ((op == RQ_KMALLOC) & (size <= LARGE_KMALLOC))
        self.bulk = op == RQ_BULK_ALLOC
        self.level = rows.level[self.at]
        self.array_begin = self._arrays()
        pages_in = np.flatnonzero(rows.event == EV_PAGE_FREE)
        objects = np.flatnonzero((self.single | self.bulk | np.isin(op, _FREES)) & (requests["addr"] >= 0))
        self.futures = Futures(requests, objects, rows.pfn[pages_in], pages_in + rows.row0, rows.cpu,
                               rows.row0)
        self.page: dict[int, tuple[int, int]] = {}
        self.extra: list[tuple[int, int, int]] = []
        """(row index, action, argument) of what happens before the action of that row."""

    def write(self) -> Script:
        self._new_slabs()
        self._interrupts()
        rows, rq = self.rows, self.rq
        op = rq["op"]
        pages_out = np.flatnonzero(rows.event == EV_PAGE_ALLOC)
        pages_in = np.flatnonzero(rows.event == EV_PAGE_FREE)
        frees = np.isin(op, (RQ_KFREE, RQ_CACHE_FREE))
        lists = [
            (self.at[mask], action, np.flatnonzero(mask))
            for mask, action in ((self.single, DO_ALLOC), (self.bulk, DO_BULK_ALLOC), (frees, DO_FREE),
                                 (op == RQ_BULK_FREE, DO_BULK_FREE))
        ]
        markers = op == RQ_MARKER
        lists.append((self.at[markers], DO_DUMP, rq["size"][markers]))
        lists.append((pages_out, DO_PAGE_ALLOC, pages_out))
        lists.append((pages_in, DO_PAGE_FREE, pages_in))
        at = np.concatenate([part[0] for part in lists])
        action = np.concatenate([np.full(len(part[0]), part[1]) for part in lists])
        argument = np.concatenate([part[2] for part in lists])
        extra = np.array(self.extra, np.int64).reshape(-1, 3)
        first = np.concatenate([np.ones(len(at), np.int64), np.zeros(len(extra), np.int64)])
        at = np.concatenate([at, extra[:, 0]])
        action = np.concatenate([action, extra[:, 1]])
        argument = np.concatenate([argument, extra[:, 2]])
        # Extras in the order in which they were noted; two requests of one row in their own.
        array: dict[int, list[int]] = defaultdict(list)
        for i in np.flatnonzero(self.bulk).tolist():
            array[int(self.array_begin[i])].append(i)
        order = np.lexsort((np.where(first == 1, argument, np.arange(len(at))), first, at))
        return Script(
            self.census, rows.row0, {name: column.tolist() for name, column in rq.items()}, self.page,
            self._next_in_array(), array, self.array_begin.tolist(), action[order].tolist(), argument[order].tolist(),
            (at[order] + rows.row0).tolist(), rows.pfn, rows.order, self.futures,
        )

    def _arrays(self) -> np.ndarray:
        """By request: the first one of its bulk allocation."""
        begin = np.full(len(self.at), -1, np.int64)
        open_array: dict[tuple[int, int], int] = {}
        for i in np.flatnonzero(self.bulk).tolist():
            key = (int(self.rq["cpu"][i]), int(self.level[i]))
            begin[i] = open_array.setdefault(key, i)
            if self.rq["flags"][i] & FLAG_LAST:
                del open_array[key]
        return begin

    def _next_in_array(self) -> list[int]:
        after = [-1] * len(self.at)
        following: dict[tuple[int, int], int] = {}
        for i in np.flatnonzero(self.rq["op"] == RQ_BULK_FREE)[::-1].tolist():
            key = (int(self.rq["cpu"][i]), int(self.level[i]))
            after[i] = -1 if self.rq["flags"][i] & FLAG_LAST else following.get(key, -1)
            following[key] = int(self.rq["addr"][i])
        return after

    def _new_slabs(self) -> None:
        """Find the request that each new slab was for: the first of its CPU that got an object of it."""
        allocs = np.flatnonzero(self.single | self.bulk)
        pages = np.flatnonzero((self.rows.event == EV_PAGE_ALLOC) & (self.rows.pfn > 0))
        for cpu in np.unique(self.rows.cpu[pages]).tolist():
            mine = allocs[self.rq["cpu"][allocs] == cpu]
            at, frame = self.at[mine], self.rq["addr"][mine] >> 12
            for i in pages[self.rows.cpu[pages] == cpu].tolist():
                pfn, order = int(self.rows.pfn[i]), int(self.rows.order[i])
                first = int(np.searchsorted(at, i))
                window = frame[first : first + _LOOK_AHEAD]
                found = np.flatnonzero((window >= pfn) & (window < pfn + (1 << order)))
                if len(found) == 0:
                    continue
                request = int(mine[first + found[0]])
                if self.futures.next_free(pfn, i + self.rows.row0) > self.rq["row"][request]:
                    self._new_slab(i, request, pfn, order)

    def _new_slab(self, i: int, request: int, pfn: int, order: int) -> None:
        self.page[request] = (pfn, order)
        begin = self.rows.burst_begin(i)
        self._interrupt(begin, request)
        self.extra.append((begin, DO_HOLD, request))

    def _interrupts(self) -> None:
        """Find the allocations that have an interrupt directly before them."""
        for i in np.flatnonzero(self.single | (self.bulk & (self.array_begin == np.arange(len(self.at))))).tolist():
            at = int(self.at[i])
            before = self.rows.before[at]
            if before >= 0 and self.rows.level[before] > self.rows.level[at]:
                self._interrupt(at, i)

    def _interrupt(self, at: int, request: int) -> None:
        """Note where ``request``, which ends at row ``at`` or asks for a page there, may have been interrupted."""
        rows = self.rows.interrupts(at)
        if self.bulk[request]:
            # There may be several interrupts in a row: whose first row it was is told by the objects.
            self.extra += [(row, DO_BULK_EARLY, request) for row in rows]
        elif rows:
            self.extra.append((rows[0], DO_BYPASS, request))
