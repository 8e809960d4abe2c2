"""One pass over a trace that counts what `summary` tells."""

from __future__ import annotations

import numpy as np

from .causes import ZERO_SIZE_PTR
from .evidence import Evidence
from .schema import EV_CACHE_ALLOC, EV_KMALLOC, EV_MARKER, NO_NODE, EventChunk
from .silences import Silences
from .source import TraceReader

MAX_MARKERS = 200
MAX_CPUS = 4096
TICK_NS = 10_000_000
HAVING = {"name": -1, "node": NO_NODE, "call_site": -1, "gfp_flags": -1, "pfn": -1}
"""Columns whose presence is counted by kind of event, and their value where an event has no such field."""
_32_BITS = np.uint64(1 << 32)
_KIND_CODES = 256
_MAX_BYTES = 1 << 42
"""Of one allocation; nonsense beyond it would make sums overflow."""


class TraceScan:
    """The sums of one pass over the chunks, by which `summary` and `conclusions` speak."""

    def __init__(self, reader: TraceReader) -> None:
        self.vocab = reader.vocab
        self.rows = 0
        self.last_ns = 0
        self.step_ns = 0
        self.cpus = np.zeros(MAX_CPUS, np.int64)
        self.events = np.zeros(0, np.int64)
        self.kinds = np.zeros(_KIND_CODES, np.int64)
        self.having = {name: np.zeros(_KIND_CODES, np.int64) for name in HAVING}
        self.evidence = Evidence(reader.vocab)
        self.silences = Silences()
        self._ticks: list[np.ndarray] = []
        self._tick_rows: list[np.ndarray] = []
        self.tasks: np.ndarray = np.zeros(0, np.int32)
        self.sites = [np.zeros(0, np.int64) for _ in range(3)]
        self.caches: dict[str, list[int]] = {}
        self.pointers = 0
        self.high_pointers = 0
        self.aligned_pointers = 0
        self.largest_pointer = 0
        self.markers: list[tuple[int, int, str]] = []

    def add(self, chunk: EventChunk) -> None:
        self.rows += len(chunk)
        self.last_ns = int(chunk.ts_ns[-1])
        if self.step_ns != 1:
            self.step_ns = int(np.gcd(self.step_ns, np.gcd.reduce(chunk.ts_ns)))
        self.cpus += np.bincount(chunk.cpu, minlength=MAX_CPUS)
        self.events = _grown(self.events, np.bincount(chunk.event_name, minlength=len(self.vocab.event)))
        self.kinds += np.bincount(chunk.event, minlength=_KIND_CODES)
        for name, absent in HAVING.items():
            self.having[name] += np.bincount(chunk.event[getattr(chunk, name) != absent], minlength=_KIND_CODES)
        ticks, rows = np.unique(chunk.ts_ns // TICK_NS, return_counts=True)
        self._ticks.append(ticks)
        self._tick_rows.append(rows)
        self.evidence.add(chunk)
        self.silences.add(chunk)
        self.tasks = np.union1d(self.tasks, chunk.task[chunk.task >= 0])
        self._add_allocations(chunk)
        self._add_pointers(chunk)
        room = MAX_MARKERS - len(self.markers)
        for i in np.flatnonzero(chunk.event == EV_MARKER)[: max(room, 0)].tolist():
            code = int(chunk.text[i])
            text = self.vocab.text.names[code] if code >= 0 else ""
            self.markers.append((chunk.row0 + i + 1, int(chunk.ts_ns[i]), text))

    def _add_allocations(self, chunk: EventChunk) -> None:
        allocs = np.flatnonzero((chunk.event == EV_KMALLOC) | (chunk.event == EV_CACHE_ALLOC))
        if not len(allocs):
            return
        site = chunk.call_site[allocs] + 1
        requested = np.clip(chunk.bytes_req[allocs], 0, _MAX_BYTES)
        allocated = np.clip(chunk.bytes_alloc[allocs], 0, _MAX_BYTES)
        n = len(self.vocab.call_site) + 1
        for i, weights in enumerate((None, requested, allocated)):
            found = np.bincount(site, weights, minlength=n).astype(np.int64)  # exact below 2**53
            self.sites[i] = _grown(self.sites[i], found)

    def _add_pointers(self, chunk: EventChunk) -> None:
        objects = (chunk.event == EV_KMALLOC) | (chunk.event == EV_CACHE_ALLOC)
        pointers = chunk.ptr[objects & (chunk.ptr != 0) & (chunk.ptr != ZERO_SIZE_PTR)]
        if len(pointers):
            self.pointers += len(pointers)
            self.high_pointers += int(np.count_nonzero(pointers >= _32_BITS))
            self.aligned_pointers += int(np.count_nonzero(pointers % np.uint64(4) == 0))
            self.largest_pointer = max(self.largest_pointer, int(pointers.max()))

    def peak_second(self) -> tuple[int, int]:
        """(events, when it begins in ns) of the second with most events, to a hundredth of one."""
        ticks, rows = np.concatenate(self._ticks), np.concatenate(self._tick_rows)
        total = np.concatenate([[0], np.cumsum(rows)])
        end = np.searchsorted(ticks, ticks + 1_000_000_000 // TICK_NS)
        events = total[end] - total[:-1]
        best = int(events.argmax())
        return int(events[best]), int(ticks[best]) * TICK_NS

    def pointer_kind(self) -> str:
        """Whether pointers are addresses. Hashed ones are 32 random bits; slab objects are aligned to 4 at least."""
        if not self.pointers:
            return "none"
        if self.high_pointers:
            return "addresses (64-bit)"
        if self.aligned_pointers < 0.6 * self.pointers and self.pointers > 20:
            return "hashed"
        if self.largest_pointer >= 1 << 28:
            return "addresses (32-bit)"
        return "small numbers"


def _grown(old: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Sum of two arrays, as long as the longer one."""
    total = np.zeros(max(len(old), len(found)), np.int64)
    total[: len(old)] = old
    total[: len(found)] += found
    return total
