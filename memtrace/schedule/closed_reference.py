"""
Closed timing's definition: each CPU a SimPy process that walks its own requests.

At each instant: steps end; then those who are ready start, the least trace row first, one after the other (who takes
no time may be ready again at once); then requests for locks join their queues, as in ``reference``.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator
from typing import Any

import simpy

from ..trace.requests import RQ_MARKER, Requests
from .closed import ClosedOrder
from .costs import CostTable
from .decider import Decider
from .latency import LatencyTable
from .locks import LockTable
from .reference import Job, Reference, Watcher
from .simtime import PRIORITY_ENDS, PRIORITY_START, at


class ClosedReference(Reference):
    """The reference engine of closed timing; see ``Reference`` for what it is given besides the order."""

    def __init__(self, env: simpy.Environment, order: ClosedOrder, requests: Requests, decider: Decider,
                 costs: CostTable, latency: LatencyTable, locks: LockTable, cpus: int, watcher: Watcher) -> None:
        self.order = order
        self.requests = requests
        self.has_ended = [False] * len(requests)
        self.prefix = 0
        self.ended = env.event()
        """Happens, and is made anew, whenever an operation has ended."""
        self.ready: list[tuple[int, simpy.Event]] = []
        self.starting = False
        self.running = cpus
        self.last_ns = order.begin_ns
        super().__init__(env, decider, costs, latency, locks, cpus, watcher)

    def cpu(self, cpu: int) -> Generator[simpy.Event, Any, None]:
        """One CPU: each operation when the last has ended, the gap has passed, and what it needs has ended."""
        order = self.order
        i = order.first[cpu]
        free_ns = order.begin_ns
        while i >= 0:
            start = free_ns + order.gap_ns[i]
            if start > self.env.now:
                yield at(self.env, start, PRIORITY_ENDS)
            while not self.may_start(i):
                yield self.ended
            job = yield self.start(i)
            if job is not None:
                yield from self.play(cpu, job)
            free_ns = self.last_ns = int(self.env.now)
            self.end(i)
            i = order.after[i]
        self.running -= 1

    def may_start(self, i: int) -> bool:
        """Has all that request i needs ended?"""
        needed = self.order.needs[i]
        return (needed < 0 or self.has_ended[needed]) and (not self.order.needs_all[i] or self.prefix >= i)

    def end(self, i: int) -> None:
        """Request i has ended: whoever waits may look again."""
        self.has_ended[i] = True
        while self.prefix < len(self.has_ended) and self.has_ended[self.prefix]:
            self.prefix += 1
        told, self.ended = self.ended, self.env.event()
        told.succeed()

    def start(self, i: int) -> simpy.Event:
        """Be ready; the event happens, with the job, when request i has been decided."""
        decided = self.env.event()
        heapq.heappush(self.ready, (i, decided))
        self.look_for_starts()
        return decided

    def look_for_starts(self) -> None:
        if self.ready and not self.starting:
            self.starting = True
            at(self.env, int(self.env.now), PRIORITY_START).callbacks.append(self.start_first)

    def start_first(self, _: simpy.Event) -> None:
        """Decide the first of those who are ready, and let what follows from that happen before the next."""
        i, decided = heapq.heappop(self.ready)
        self.starting = False
        self.decider.ts_ns[i] = int(self.env.now)
        self.watcher.at = i
        if self.requests.op[i] == RQ_MARKER:
            self.watcher.marker(i)
            decided.succeed(None)
        else:
            path = self.decider.decide(i)
            steps = list(self.steps())
            decided.succeed(
                Job(int(self.requests.row[i]), path, self.decider.cache, self.decider.site, steps) if steps else None)
            self.watcher.decided()
        self.look_for_starts()
