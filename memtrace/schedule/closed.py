"""
What must be known of a trace to play it closed: who follows whom, and who must wait for whom.

In closed timing a CPU's next operation begins when its last one has ended and the recorded gap between the two has
passed, so CPUs drift apart and rows no longer tell the order of decisions. What a trace's order promised has to be
kept otherwise: an operation waits for the one that it needs.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

import cython
import numpy as np

from memtrace.trace.requests import (
    REQUEST_COLUMNS,
    RQ_BULK_ALLOC,
    RQ_CACHE_ALLOC,
    RQ_CACHE_CREATE,
    RQ_CACHE_DESTROY,
    RQ_CACHE_SHRINK,
    RQ_CPU_OFFLINE,
    RQ_CPU_ONLINE,
    RQ_DRAIN_ALL,
    RQ_KMALLOC,
    RQ_KSWAPD_BEGIN,
    RQ_KSWAPD_END,
    RQ_MARKER,
    RQ_PAGE_ALLOC,
    RQ_PAGE_FREE,
    RQ_PERCPU_ALLOC,
    RQ_PERCPU_FREE,
    Requests,
)

NOBODY = -1


def gather(chunks: Iterable[Requests]) -> tuple[Requests, dict[str, int]]:
    """
    All requests of a trace as one chunk, without CPU hotplug and what the recorded reclaim did.

    The columns are copied: playing closed changes times and handles.

    Returns
    -------
    The requests, and by cause what was left out.
    """
    parts = list(chunks)
    columns = {
        name: np.concatenate([np.zeros(0, kind), *(getattr(part, name) for part in parts)]).astype(kind)
        for name, kind in REQUEST_COLUMNS
    }
    plugged = np.isin(columns["op"], (RQ_CPU_OFFLINE, RQ_CPU_ONLINE))
    runs = columns["op"] == RQ_KSWAPD_BEGIN
    drains = columns["op"] == RQ_DRAIN_ALL
    kept = ~(plugged | runs | drains | (columns["op"] == RQ_KSWAPD_END))
    left_out = {"cpu_event_left_out": int(plugged.sum()), "kswapd_run_left_out": int(runs.sum()),
                "drain_all_left_out": int(drains.sum())}
    return Requests(**{name: column[kept] for name, column in columns.items()}), left_out


@cython.cclass
class ClosedOrder:
    """
    Who follows and who waits, by request of the one chunk that ``gather`` made.

    Handles are renamed, each allocation's its own: a handle that the trace recycles would make an allocation wait for
    the free that its number came from.

    Parameters
    ----------
    requests
        Their ``handle`` column is changed.
    cpus
        Of the machine.
    speed
        The gaps between a CPU's operations are multiplied by it; 0 leaves none.

    Attributes
    ----------
    first
        By CPU: its first request, or -1.
    after
        By request: the next one of its CPU, or -1.
    gap_ns
        By request: from the end of the last one of its CPU (of a CPU's first: from the beginning) to its start.
    needs
        By request: the one that must have ended before it begins, or -1. A free needs its allocation, a piece of a
        page block the piece before it, use of a cache its creation.
    needs_all
        By request: all before it in the trace must have ended (a cache is destroyed).
    """

    first: cython.longlong[:]
    after: cython.longlong[:]
    gap_ns: cython.longlong[:]
    needs: cython.longlong[:]
    needs_all: cython.uchar[:]
    begin_ns: cython.longlong
    n: cython.longlong

    def __init__(self, requests: Requests, cpus: int, speed: float) -> None:
        n = len(requests)
        self.n = n
        self.begin_ns = int(requests.ts_ns[0]) if n else 0
        self.first = array("q", [NOBODY]) * cpus
        self.after = np.full(max(n, 1), NOBODY, np.int64).data
        self.gap_ns = np.zeros(max(n, 1), np.int64).data
        self.needs = np.full(max(n, 1), NOBODY, np.int64).data
        self.needs_all = np.zeros(max(n, 1), np.uint8).data
        self._queues(requests, speed)
        self._needs(requests)

    def _queues(self, requests: Requests, speed: float) -> None:
        """Each CPU's requests, and the recorded time between their beginnings."""
        gaps = np.asarray(self.gap_ns)
        after = np.asarray(self.after)
        for cpu in np.unique(requests.cpu).tolist():
            mine = np.flatnonzero(requests.cpu == cpu)
            self.first[cpu] = int(mine[0])
            after[mine[: len(mine) - 1]] = mine[1:]
            gaps[mine] = np.diff(requests.ts_ns[mine], prepend=self.begin_ns)
        gaps[:] = np.rint(gaps * speed).astype(np.int64)

    def _needs(self, requests: Requests) -> None:
        spaces: dict[str, Any] = {name: _Handles(requests.handle) for name in ("object", "page", "area")}
        made: dict[int, int] = {}
        op: cython.uchar[:] = requests.op.data
        handle: cython.int[:] = requests.handle.data
        cache: cython.int[:] = requests.cache.data
        i: cython.longlong
        code: cython.int
        objects: _Handles = spaces["object"]
        blocks: _Handles = spaces["page"]
        areas: _Handles = spaces["area"]
        for i in range(self.n):
            code = op[i]
            if code in (RQ_KMALLOC, RQ_CACHE_ALLOC, RQ_BULK_ALLOC):
                if made and code != RQ_KMALLOC:
                    self.needs[i] = made.get(cache[i], NOBODY)
                objects.take(handle, i)
            elif code == RQ_PAGE_ALLOC:
                blocks.take(handle, i)
            elif code == RQ_PERCPU_ALLOC:
                areas.take(handle, i)
            elif code == RQ_PAGE_FREE:
                self.needs[i] = blocks.use(handle, i)
            elif code == RQ_PERCPU_FREE:
                self.needs[i] = areas.use(handle, i)
            elif code in (RQ_CACHE_CREATE, RQ_CACHE_DESTROY, RQ_CACHE_SHRINK):
                self.needs[i] = made.get(cache[i], NOBODY)
                self.needs_all[i] = code == RQ_CACHE_DESTROY
                if code != RQ_CACHE_SHRINK:
                    made[cache[i]] = i
            elif code != RQ_MARKER:
                self.needs[i] = objects.use(handle, i)


@cython.cclass
class _Handles:
    """One space of handles: what each is called now, and who used it last."""

    name: cython.int[:]
    user: cython.longlong[:]
    """By new name."""
    names: cython.int

    def __init__(self, handles: np.ndarray) -> None:
        top = int(handles.max(initial=NOBODY)) + 1
        self.name = np.arange(max(top, 1), dtype=np.int32).data
        self.user = np.full(top + len(handles) + 1, NOBODY, np.int64).data
        self.names = top

    @cython.cfunc
    def take(self, handle: cython.int[:], i: cython.longlong) -> cython.void:
        """Request i allocates: its handle gets a new name."""
        if handle[i] < 0:
            return
        self.name[handle[i]] = self.names
        handle[i] = self.names
        self.user[self.names] = i
        self.names += 1

    @cython.cfunc
    def use(self, handle: cython.int[:], i: cython.longlong) -> cython.longlong:
        """Request i frees, the whole or a piece; who used it before, or -1."""
        if handle[i] < 0:
            return NOBODY
        handle[i] = self.name[handle[i]]
        before: cython.longlong = self.user[handle[i]]
        self.user[handle[i]] = i
        return before
