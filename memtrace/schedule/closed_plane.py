"""
The fused engine of closed timing: all CPUs in one compiled loop. It must equal ``closed_reference`` to the nanosecond.

Each CPU is in one of four states: *ready* (its next operation's start is known), *parked* (its operation asks for a
lock, as in ``data_plane``), *blocked* (its next operation needs one that has not ended) or done. What happens next is
the least of all starts and requests by (time, start before request, row): every step takes at least 1 ns, so
whatever follows from an event lies behind it, but for the next start of a CPU whose operation takes no time.
"""

from __future__ import annotations

from array import array

import cython

from memtrace.mm.itinerary import Itinerary
from memtrace.schedule.closed import ClosedOrder
from memtrace.schedule.costs import CostTable
from memtrace.schedule.data_plane import Backlog, DataPlane
from memtrace.schedule.decider import Decider
from memtrace.schedule.exits import EXIT_CHECK, EXIT_CHUNK, EXIT_HORIZON, EXIT_MARKER, EXIT_WAKE
from memtrace.schedule.latency import LatencyTable
from memtrace.schedule.locks import LockTable
from memtrace.trace.requests import RQ_MARKER

NEVER = 0x7FFFFFFFFFFFFFFF
NOBODY = -1


@cython.cclass
class ClosedPlane(DataPlane):
    """
    The engine; see ``DataPlane`` for what it is given besides the order.

    Attributes
    ----------
    at
        Request that was decided last.
    last_ns
        When the last operation so far ended.
    """

    order: ClosedOrder
    at: cython.longlong
    last_ns: cython.longlong
    ended_ns: cython.longlong[:]
    """By request: when it ended, which may lie ahead; -1 unknown."""
    now_at: cython.longlong[:]
    """By CPU: the request that it plays, or is to play next."""
    wanted_ns: cython.longlong[:]
    """By CPU: when that could start if it needed nobody."""
    ready_ns: cython.longlong[:]
    """By CPU: when it starts; NEVER unless the CPU is ready."""
    blocked: cython.uchar[:]
    nr_blocked: cython.int
    prefix: cython.longlong
    """All requests before this one have ended, the last at ``prefix_ns``."""
    prefix_ns: cython.longlong

    def __init__(self, order: ClosedOrder, decider: Decider, costs: CostTable, latency: LatencyTable, locks: LockTable,
                 cpus: int, check_every: int = 0) -> None:
        DataPlane.__init__(self, decider, costs, latency, locks, cpus, check_every)
        self.order = order
        self.at = NOBODY
        self.last_ns = order.begin_ns
        self.ended_ns = array("q", [NOBODY]) * max(1, order.n)
        self.now_at = array("q", [NOBODY]) * cpus
        self.wanted_ns = array("q", [0]) * cpus
        self.ready_ns = array("q", [NEVER]) * cpus
        self.blocked = array("B", [0]) * cpus
        self.nr_blocked = 0
        self.prefix = 0
        self.prefix_ns = order.begin_ns
        for cpu in range(cpus):
            self.follow(cpu, order.first[cpu], order.begin_ns)

    @cython.ccall
    def run_until(self, horizon_ns: cython.longlong) -> cython.int:
        """As ``DataPlane.run_until``; ``EXIT_CHUNK`` when all requests have ended."""
        decider: Decider = self.decider
        cpu: cython.int
        ts: cython.longlong
        i: cython.longlong
        while True:
            cpu = self.first_ready()
            ts = self.ready_ns[cpu] if cpu >= 0 else NEVER
            if self.parked > 0 and self.heap_ns[0] < ts:
                if self.heap_ns[0] > horizon_ns:
                    return EXIT_HORIZON
                self.grant(self.heap_cpu[0])
                continue
            if cpu < 0:
                return EXIT_CHUNK
            if ts > horizon_ns:
                return EXIT_HORIZON
            self.ready_ns[cpu] = NEVER
            i = self.now_at[cpu]
            self.at = i
            decider.ts_ns[i] = ts
            if decider.op[i] == RQ_MARKER:
                self.ended(cpu, ts)
                return EXIT_MARKER
            self.begin(cpu, i, ts, decider.decide(cython.cast(cython.int, i)))
            self.operations += 1
            if self.check_every > 0:
                self.until_check -= 1
                if self.until_check == 0:
                    self.until_check = self.check_every
                    return EXIT_CHECK
            if decider.it.woken:
                return EXIT_WAKE

    @cython.cfunc
    @cython.exceptval(check=False)
    def first_ready(self) -> cython.int:
        """The CPU that starts next, ties by row; -1 when none is ready."""
        best: cython.int = NOBODY
        cpu: cython.int
        for cpu in range(self.cpus):
            if self.ready_ns[cpu] == NEVER:
                continue
            if best < 0 or self.ready_ns[cpu] < self.ready_ns[best] or (
                    self.ready_ns[cpu] == self.ready_ns[best] and self.now_at[cpu] < self.now_at[best]):
                best = cpu
        return best

    @cython.cfunc
    def begin(self, cpu: cython.int, i: cython.longlong, ts: cython.longlong, path: cython.int) -> cython.int:
        """Play what has just been decided, up to its first request for a lock."""
        it: Itinerary = self.decider.it
        backlog: Backlog = self.backlogs[cpu]
        now: cython.longlong = ts
        k: cython.int = 0
        while k < it.n and it.lock[k] < 0:
            now += self.cost_ns(it.cls[k], it.count[k])
            k += 1
        if k < it.n:
            self.keep(backlog, cython.cast(cython.int, i), path, k)
            backlog.start_ns = ts
            backlog.wait_ns = 0
            backlog.asked_ns = now
            backlog.step = 0
            self.park(now, self.decider.row[i], cpu)
            return 0
        if it.n > 0:
            self.latency.record(path, cpu, self.decider.cache, now - ts)
        self.ended(cpu, now)
        return 0

    @cython.cfunc
    def grant(self, cpu: cython.int) -> cython.int:
        """Grant the least request; its CPU, which may ask again, plays on."""
        if not self.advance(cpu, self.backlogs[cpu]):
            self.unpark()
            self.ended(cpu, self.end_ns[cpu])
        return 0

    @cython.cfunc
    def ended(self, cpu: cython.int, ns: cython.longlong) -> cython.int:
        """A CPU's operation has ended, or is known to end at ``ns``: its next may be ready, and whoever needed it."""
        order: ClosedOrder = self.order
        i: cython.longlong = self.now_at[cpu]
        other: cython.int
        self.ended_ns[i] = ns
        if ns > self.last_ns:
            self.last_ns = ns
        while self.prefix < order.n and self.ended_ns[self.prefix] >= 0:
            if self.ended_ns[self.prefix] > self.prefix_ns:
                self.prefix_ns = self.ended_ns[self.prefix]
            self.prefix += 1
        self.follow(cpu, order.after[i], ns)
        if self.nr_blocked > 0:
            for other in range(self.cpus):
                if self.blocked[other]:
                    self.blocked[other] = False
                    self.nr_blocked -= 1
                    self.make_ready(other)
        return 0

    @cython.cfunc
    def follow(self, cpu: cython.int, i: cython.longlong, ns: cython.longlong) -> cython.int:
        """Request i is next on a CPU whose last one ended at ``ns``; -1 when there is none."""
        self.now_at[cpu] = i
        if i >= 0:
            self.wanted_ns[cpu] = ns + self.order.gap_ns[i]
            self.make_ready(cpu)
        return 0

    @cython.cfunc
    def make_ready(self, cpu: cython.int) -> cython.int:
        """When a CPU's next operation starts, or else that it is blocked."""
        order: ClosedOrder = self.order
        i: cython.longlong = self.now_at[cpu]
        needed: cython.longlong = order.needs[i]
        ts: cython.longlong = self.wanted_ns[cpu]
        if (needed >= 0 and self.ended_ns[needed] < 0) or (order.needs_all[i] and self.prefix < i):
            self.blocked[cpu] = True
            self.nr_blocked += 1
            return 0
        if needed >= 0 and self.ended_ns[needed] > ts:
            ts = self.ended_ns[needed]
        if order.needs_all[i] and self.prefix_ns > ts:
            ts = self.prefix_ns
        self.ready_ns[cpu] = ts
        return 0
