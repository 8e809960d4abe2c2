"""
The naive design, to be faster than: SimPy does everything.

Every CPU is a process that walks its own rows, every lock is a ``simpy.Resource``, and each operation costs one
timeout (more when it takes locks). It decides with the same model as memtrace does, so the difference is what
playing the operations costs, not what they do.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

import numpy as np
import simpy

from memtrace.schedule.costs import CostTable
from memtrace.schedule.decider import Decider
from memtrace.trace.requests import RQ_MARKER, Requests


def play(decider: Decider, chunks: Iterable[Requests], costs: CostTable) -> tuple[int, int]:
    """
    Play all requests.

    Returns
    -------
    Operations played, and the simulated time at the end in ns.
    """
    env = simpy.Environment()
    locks: dict[int, simpy.Resource] = {}
    played = 0
    for requests in chunks:
        decider.load(requests)
        rows = [np.flatnonzero((requests.cpu == cpu) & (requests.op != RQ_MARKER)) for cpu in np.unique(requests.cpu)]
        walks = [env.process(_cpu(env, decider, requests, own.tolist(), costs, locks)) for own in rows]
        env.run(env.all_of(walks))
        played += sum(len(own) for own in rows)
    return played, int(env.now)


def _cpu(
    env: simpy.Environment, decider: Decider, requests: Requests, rows: list[int], costs: CostTable,
    locks: dict[int, simpy.Resource],
) -> Generator[simpy.Event, Any, None]:  # fmt: skip
    """One CPU: wait for the row's time, decide, then spend what it costs."""
    for i in rows:
        wait = int(requests.ts_ns[i]) - env.now
        if wait > 0:
            yield env.timeout(wait)
        decider.decide(i)
        it = decider.it
        free_ns = 0
        held = []
        for k in range(it.n):
            ns = costs.step_ns(it.cls[k], it.count[k])
            if it.lock[k] < 0:
                free_ns += ns
            else:
                held.append((it.lock[k], ns))
        yield env.timeout(free_ns)
        for lock, ns in held:
            resource = locks.setdefault(lock, simpy.Resource(env))
            with resource.request() as request:
                yield request
                yield env.timeout(ns)
