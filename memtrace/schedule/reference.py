"""
The definition of simulated time: every CPU a SimPy process, every lock a resource, one timeout a step.

Short and plain, and some hundred times slower than ``data_plane``, which must give the same results. What
is decided comes from the same ``Decider``; nothing of how it is played is shared.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol

import simpy

from ..trace.requests import RQ_MARKER, Requests
from .costs import CostTable
from .decider import Decider
from .latency import LatencyTable
from .locks import LockTable
from .simtime import PRIORITY_DECIDE, PRIORITY_LOCKS, at


class Watcher(Protocol):
    """Whoever wants to know what is being decided."""

    at: int

    def marker(self, i: int) -> None: ...

    def decided(self) -> None: ...


class Job(NamedTuple):
    """One operation, as its CPU plays it; ``steps`` are (lock or -1, ns)."""

    row: int
    path: int
    cache: int
    site: int
    steps: list[tuple[int, int]]


class Reference:
    """
    The reference engine; see ``DataPlane`` for the parameters.

    ``watcher`` is told which request of the loaded chunk is being decided.
    """

    def __init__(self, env: simpy.Environment, decider: Decider, costs: CostTable, latency: LatencyTable,
                 locks: LockTable, cpus: int, watcher: Watcher) -> None:
        self.env = env
        self.decider = decider
        self.costs = costs
        self.latency = latency
        self.lock_table = locks
        self.watcher = watcher
        self.locks: dict[int, simpy.Resource] = {}
        self.asking: list[tuple[int, int, simpy.Event]] = []
        self.jobs = [simpy.Store(env) for _ in range(cpus)]
        for cpu in range(cpus):
            env.process(self.cpu(cpu))

    def feed(self, chunks: Iterable[Requests]) -> Generator[simpy.Event, Any, None]:
        """Decide every request at its recorded time, in row order, and hand its itinerary to its CPU."""
        for requests in chunks:
            self.decider.load(requests)
            for i in range(len(requests)):
                ts = int(requests.ts_ns[i])
                if ts > self.env.now:
                    yield at(self.env, ts, PRIORITY_DECIDE)
                self.watcher.at = i
                if requests.op[i] == RQ_MARKER:
                    self.watcher.marker(i)
                    continue
                path = self.decider.decide(i)
                steps = list(self.steps())
                if steps:
                    self.jobs[requests.cpu[i]].put(
                        Job(int(requests.row[i]), path, self.decider.cache, self.decider.site, steps))
                self.watcher.decided()

    def steps(self) -> Iterator[tuple[int, int]]:
        """The decider's itinerary with its costs."""
        it = self.decider.it
        for k in range(it.n):
            yield it.lock[k], self.costs.step_ns(it.cls[k], it.count[k])

    def cpu(self, cpu: int) -> Generator[simpy.Event, Any, None]:
        """One CPU: one operation after the other."""
        while True:
            job = yield self.jobs[cpu].get()
            yield from self.play(cpu, job)

    def play(self, cpu: int, job: Job) -> Generator[simpy.Event, Any, None]:
        """One operation on its CPU, step after step."""
        start = self.env.now
        waited = 0
        for lock, ns in job.steps:
            if lock < 0:
                yield self.env.timeout(ns)
                continue
            asked = self.env.now
            request = yield self.ask(job.row, lock)
            wait = int(self.env.now - asked)
            yield self.env.timeout(ns)
            self.locks[lock].release(request)
            self.lock_table.count(lock, wait, ns)
            waited += wait
        self.latency.record(job.path, cpu, job.cache, int(self.env.now - start))
        if waited:
            self.decider.waited(job.site, waited)

    def ask(self, row: int, lock: int) -> simpy.Event:
        """
        Ask for a lock; the event happens when it is granted.

        Requests of one instant must queue in row order, whatever order SimPy runs their CPUs in: they are
        collected, and join their queues when everything else of the instant has happened.
        """
        granted = self.env.event()
        if not self.asking:
            at(self.env, int(self.env.now), PRIORITY_LOCKS).callbacks.append(self.join_queues)
        self.asking.append((row, lock, granted))
        return granted

    def join_queues(self, _: simpy.Event) -> None:
        asking, self.asking = self.asking, []
        for _row, lock, granted in sorted(asking, key=lambda one: one[0]):
            if lock not in self.locks:
                self.locks[lock] = simpy.Resource(self.env, capacity=1)
            request = self.locks[lock].request()
            request.callbacks.append(partial(grant, granted))


def grant(granted: simpy.Event, request: simpy.Event) -> None:
    """Tell a CPU that its request for a lock was served."""
    granted.succeed(request)
