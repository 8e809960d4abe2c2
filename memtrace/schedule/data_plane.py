"""
All CPUs' operations played in simulated time, in one compiled loop: the fused engine.

It must equal ``reference`` to the nanosecond. The rules are those of docs/design.md, "Two ways of playing
it"; this is why the loop below keeps them:

* A CPU plays one itinerary at a time, so its future is known until that itinerary asks for a lock. There
  the CPU is *parked*: its request, keyed by (time, row), waits in a heap.
* Every step costs at least 1 ns, so whatever a request leads to happens later than the request. When no
  row at or before the request's time is left to be decided, the least request of the heap is therefore the
  next one to arrive at its lock, and can be granted: at max(its time, when the lock is free).
* A row at the same time as a parked request comes later in the trace, so the request goes first.
"""

from __future__ import annotations

from array import array

import cython

from memtrace.errors import ModelError
from memtrace.mm.itinerary import Itinerary
from memtrace.schedule.costs import PS_PER_NS, CostTable
from memtrace.schedule.decider import Decider
from memtrace.schedule.exits import EXIT_CHECK, EXIT_CHUNK, EXIT_HORIZON, EXIT_MARKER, EXIT_WAKE
from memtrace.schedule.latency import LatencyTable
from memtrace.schedule.locks import LockTable
from memtrace.trace.requests import RQ_MARKER

HALF_NS = 500
HEAD = 5  # row, path, cache, site, number of steps; then (lock, ns) for each step


@cython.cclass
class Backlog:
    """
    Itineraries of one CPU that are not played to their end: the parked one first, then those behind it.

    ``start_ns`` and ``wait_ns`` are of the parked one, ``step`` is its step that waits for a lock, and
    ``asked_ns`` is when it asked.
    """

    words: cython.longlong[:]
    size: cython.longlong
    head: cython.longlong
    tail: cython.longlong
    start_ns: cython.longlong
    wait_ns: cython.longlong
    asked_ns: cython.longlong
    step: cython.int

    def __init__(self) -> None:
        self.size = 256
        self.words = array("q", [0]) * 256
        self.head = 0
        self.tail = 0
        self.start_ns = 0
        self.wait_ns = 0
        self.asked_ns = 0
        self.step = 0

    @cython.cfunc
    def make_room(self, wanted: cython.longlong) -> cython.void:
        """See that ``wanted`` words fit behind the tail: move what is kept to the front, or double."""
        i: cython.longlong
        kept: cython.longlong = self.tail - self.head
        new: cython.longlong[:] = self.words
        if self.head < self.size // 2 or kept + wanted > self.size:
            self.size = 2 * self.size + wanted
            new = array("q", [0]) * self.size
        for i in range(kept):
            new[i] = self.words[self.head + i]
        self.words = new
        self.head = 0
        self.tail = kept

    @cython.cfunc
    @cython.exceptval(check=False)
    def next(self) -> cython.bint:
        """Drop the first itinerary; whether another stands behind it."""
        self.head += HEAD + 2 * self.words[self.head + 4]
        if self.head < self.tail:
            return True
        self.head = 0
        self.tail = 0
        return False


@cython.cclass
class DataPlane:
    """
    The fused engine.

    Parameters
    ----------
    decider
        Decides the requests; its chunk is played.
    costs
        Prices of the steps.
    latency, locks
        Where measurements go.
    cpus
        CPUs of the machine.
    check_every
        Return ``EXIT_CHECK`` every so many operations; 0 never.
    """

    decider: Decider
    latency: LatencyTable
    locks: LockTable
    fixed_ps: cython.longlong[:]
    per_ps: cython.longlong[:]
    cpus: cython.int
    next_i: cython.int
    """Request of the loaded chunk that is played next."""
    operations: cython.longlong
    check_every: cython.longlong
    until_check: cython.longlong
    backlogs: list
    short_ns: cython.longlong[:]
    """By 2 * cost class + count: nanoseconds of a step of count 0 or 1, which nearly all are."""
    end_ns: cython.longlong[:]
    """By CPU: when it has played all that was given to it, unless it is parked."""
    heap_ns: cython.longlong[:]
    heap_row: cython.longlong[:]
    heap_cpu: cython.int[:]
    parked: cython.int
    """CPUs in the heap."""

    def __init__(self, decider: Decider, costs: CostTable, latency: LatencyTable, locks: LockTable, cpus: int,
                 check_every: int = 0) -> None:
        self.decider = decider
        self.latency = latency
        self.locks = locks
        self.fixed_ps = costs.fixed_ps()
        self.per_ps = costs.per_ps()
        self.short_ns = array("q", [costs.step_ns(cls, count) for cls in range(len(self.per_ps)) for count in (0, 1)])
        self.cpus = cpus
        self.next_i = 0
        self.operations = 0
        self.check_every = check_every
        self.until_check = check_every
        self.backlogs = [Backlog() for _ in range(cpus)]
        self.end_ns = array("q", [0]) * cpus
        self.heap_ns = array("q", [0]) * cpus
        self.heap_row = array("q", [0]) * cpus
        self.heap_cpu = array("i", [0]) * cpus
        self.parked = 0

    def load(self) -> None:
        """
        Begin the chunk that the decider has just loaded.

        Raises
        ------
        ModelError
            When a request is on a CPU that the machine does not have.
        """
        i: cython.int
        for i in range(self.decider.n):
            if self.decider.cpu[i] < 0 or self.decider.cpu[i] >= self.cpus:
                raise ModelError(f"a request on CPU {self.decider.cpu[i]}; expected 0 to {self.cpus - 1}",
                                 self.decider.row[i], self.decider.ts_ns[i])
        self.next_i = 0

    @cython.ccall
    def run_until(self, horizon_ns: cython.longlong) -> cython.int:
        """
        Play until all that happens at or before ``horizon_ns`` has been decided.

        Returns
        -------
        ``EXIT_HORIZON`` when it has; ``EXIT_CHUNK`` when the chunk has ended before; ``EXIT_MARKER`` behind a
        marker (request ``next_i - 1``); ``EXIT_CHECK`` when the validators are due; ``EXIT_WAKE`` when
        the operation asked for a daemon.
        """
        decider: Decider = self.decider
        ts_ns: cython.longlong[:] = decider.ts_ns
        op: cython.uchar[:] = decider.op
        n: cython.int = decider.n
        i: cython.int
        ts: cython.longlong
        next_ts: cython.longlong
        path: cython.int
        while True:
            i = self.next_i
            if i == n:
                return EXIT_CHUNK
            ts = ts_ns[i]
            if ts > horizon_ns:
                self.resolve(horizon_ns)
                return EXIT_HORIZON
            if self.parked > 0 and self.heap_ns[0] <= ts:
                self.resolve(ts)
            self.next_i = i + 1
            if op[i] == RQ_MARKER:
                return EXIT_MARKER
            path = decider.decide(i)
            if decider.it.n > 0:
                next_ts = ts - 1
                if i + 1 < n:
                    next_ts = ts_ns[i + 1]
                    if next_ts > horizon_ns:
                        next_ts = horizon_ns
                self.play(i, ts, path, next_ts)
            self.operations += 1
            if self.check_every > 0:
                self.until_check -= 1
                if self.until_check == 0:
                    self.until_check = self.check_every
                    return EXIT_CHECK
            if decider.it.woken:
                return EXIT_WAKE

    @cython.ccall
    def finish(self) -> cython.void:
        """Play out what is still waiting; nothing more will be decided."""
        while self.parked > 0:
            self.resolve(self.heap_ns[0])

    @cython.cfunc
    @cython.exceptval(check=False)
    def cost_ns(self, cls: cython.int, count: cython.int) -> cython.longlong:
        if count <= 1:
            return self.short_ns[2 * cls + count]
        ns: cython.longlong = (self.fixed_ps[cls] + count * self.per_ps[cls] + HALF_NS) // PS_PER_NS
        return ns if ns > 0 else 1

    @cython.cfunc
    def play(self, i: cython.int, ts: cython.longlong, path: cython.int, next_ts: cython.longlong) -> cython.int:
        """
        Begin the itinerary of request i on its CPU.

        Requests for locks up to ``next_ts`` are granted at once when no CPU is parked: no other can come
        before them.
        """
        decider: Decider = self.decider
        it: Itinerary = decider.it
        cpu: cython.int = decider.cpu[i]
        backlog: Backlog = self.backlogs[cpu]
        if backlog.tail > 0:
            self.keep(backlog, i, path, 0)
            return 0
        start: cython.longlong = self.end_ns[cpu]
        if start < ts:
            start = ts
        now: cython.longlong = start
        wait: cython.longlong = 0
        granted: cython.longlong
        cost: cython.longlong
        k: cython.int
        for k in range(it.n):
            cost = self.cost_ns(it.cls[k], it.count[k])
            if it.lock[k] >= 0:
                if self.parked > 0 or now > next_ts:
                    self.keep(backlog, i, path, k)
                    backlog.start_ns = start
                    backlog.wait_ns = wait
                    backlog.asked_ns = now
                    backlog.step = 0
                    self.park(now, decider.row[i], cpu)
                    return 0
                granted = self.locks.take(it.lock[k], now, cost)
                wait += granted - now
                now = granted
            now += cost
        self.end_ns[cpu] = now
        self.latency.record(path, cpu, decider.cache, now - start)
        if wait > 0:
            decider.waited(decider.site, wait)
        return 0

    @cython.cfunc
    def keep(self, backlog: Backlog, i: cython.int, path: cython.int, k: cython.int) -> cython.int:
        """Put the decider's itinerary, from step k on, at the end of a backlog."""
        decider: Decider = self.decider
        it: Itinerary = decider.it
        wanted: cython.longlong = HEAD + 2 * (it.n - k)
        if backlog.tail + wanted > backlog.size:
            backlog.make_room(wanted)
        words: cython.longlong[:] = backlog.words
        at: cython.longlong = backlog.tail
        words[at] = decider.row[i]
        words[at + 1] = path
        words[at + 2] = decider.cache
        words[at + 3] = decider.site
        words[at + 4] = it.n - k
        at += HEAD
        j: cython.int
        for j in range(k, it.n):
            words[at] = it.lock[j]
            words[at + 1] = self.cost_ns(it.cls[j], it.count[j])
            at += 2
        backlog.tail = at
        return 0

    @cython.cfunc
    def resolve(self, limit_ns: cython.longlong) -> cython.int:
        """Grant, in order of (time, row), every request made at or before ``limit_ns``."""
        cpu: cython.int
        while self.parked > 0 and self.heap_ns[0] <= limit_ns:
            cpu = self.heap_cpu[0]
            if not self.advance(cpu, self.backlogs[cpu]):
                self.unpark()
        return 0

    @cython.cfunc
    def advance(self, cpu: cython.int, backlog: Backlog) -> cython.bint:
        """
        Grant a parked CPU its lock and play on until it asks for another, or has nothing more to do.

        The CPU stands at the top of the heap; with its next request it sinks to its new place there.

        Returns
        -------
        Whether it is parked again.
        """
        words: cython.longlong[:] = backlog.words
        base: cython.longlong = backlog.head
        n: cython.int = words[base + 4]
        k: cython.int = backlog.step
        at: cython.longlong = base + HEAD + 2 * k
        granted: cython.longlong = self.locks.take(words[at], backlog.asked_ns, words[at + 1])
        start: cython.longlong = backlog.start_ns
        wait: cython.longlong = backlog.wait_ns + granted - backlog.asked_ns
        now: cython.longlong = granted + words[at + 1]
        k += 1
        while True:
            while k < n:
                at = base + HEAD + 2 * k
                if words[at] >= 0:
                    backlog.start_ns = start
                    backlog.wait_ns = wait
                    backlog.asked_ns = now
                    backlog.step = k
                    self.sink(now, words[base], cpu, self.parked)
                    return True
                now += words[at + 1]
                k += 1
            self.latency.record(words[base + 1], cpu, words[base + 2], now - start)
            if wait > 0:
                self.decider.waited(words[base + 3], wait)
            if not backlog.next():
                self.end_ns[cpu] = now
                return False
            # It was decided while this CPU's request lay in the future, so its recorded time is past.
            base = backlog.head
            n = words[base + 4]
            start = now
            wait = 0
            k = 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def park(self, ns: cython.longlong, row: cython.longlong, cpu: cython.int) -> cython.void:
        """Put a CPU's request into the heap."""
        at: cython.int = self.parked
        up: cython.int
        self.parked = at + 1
        while at > 0:
            up = (at - 1) // 2
            if self.heap_ns[up] < ns or (self.heap_ns[up] == ns and self.heap_row[up] < row):
                break
            self.heap_ns[at] = self.heap_ns[up]
            self.heap_row[at] = self.heap_row[up]
            self.heap_cpu[at] = self.heap_cpu[up]
            at = up
        self.heap_ns[at] = ns
        self.heap_row[at] = row
        self.heap_cpu[at] = cpu

    @cython.cfunc
    @cython.exceptval(check=False)
    def unpark(self) -> cython.void:
        """Take the least request out of the heap."""
        last: cython.int = self.parked - 1
        self.parked = last
        if last > 0:
            self.sink(self.heap_ns[last], self.heap_row[last], self.heap_cpu[last], last)

    @cython.cfunc
    @cython.exceptval(check=False)
    def sink(self, ns: cython.longlong, row: cython.longlong, cpu: cython.int, n: cython.int) -> cython.void:
        """Replace the least of the heap's first n requests by another."""
        at: cython.int = 0
        down: cython.int = 1
        while down < n:
            if down + 1 < n and (self.heap_ns[down + 1] < self.heap_ns[down] or (
                    self.heap_ns[down + 1] == self.heap_ns[down] and self.heap_row[down + 1] < self.heap_row[down])):
                down += 1
            if ns < self.heap_ns[down] or (ns == self.heap_ns[down] and row < self.heap_row[down]):
                break
            self.heap_ns[at] = self.heap_ns[down]
            self.heap_row[at] = self.heap_row[down]
            self.heap_cpu[at] = self.heap_cpu[down]
            at = down
            down = 2 * at + 1
        self.heap_ns[at] = ns
        self.heap_row[at] = row
        self.heap_cpu[at] = cpu
