"""Blocks that wait for RCU go back at the same instants under both engines, and not before their time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_machines import config, kernel, open_zone

from memtrace.mm.boot import boot
from memtrace.mm.constants import SLAB_TYPESAFE_BY_RCU
from memtrace.mm.gfp import GFP_KERNEL
from memtrace.mm.machine import Machine
from memtrace.schedule.clock import play
from memtrace.schedule.costs import CostTable
from memtrace.schedule.daemons import GracePeriods
from memtrace.schedule.dispatch import Dispatcher
from memtrace.trace.requests import REQUEST_COLUMNS, RQ_CACHE_ALLOC, RQ_CACHE_FREE, Census, Requests, TraceCache

DELAY_NS = 5_000


class Waiting:
    """A recorder that notes how many blocks wait at each sample."""

    def __init__(self, machine: Machine) -> None:
        self.slab = machine.slab
        self.seen: list[tuple[int, int]] = []

    def sample(self, t_ns: int) -> None:
        self.seen.append((t_ns, len(self.slab.waiting) - self.slab.nr_released))

    def marker(self, t_ns: int, row: int, text: int) -> None: ...


def random_requests(rng: np.random.Generator, n: int) -> Requests:
    """Allocations and frees of one cache's objects, a few hundred nanoseconds apart."""
    columns = {name: np.full(n, -1 if name in ("node", "site", "addr", "handle") else 0, dtype)
               for name, dtype in REQUEST_COLUMNS}
    columns["row"] = np.arange(n)
    columns["ts_ns"] = np.cumsum(rng.integers(0, 600, n))
    columns["cpu"] = rng.integers(0, 2, n).astype(np.int16)
    columns["gfp"][:] = GFP_KERNEL
    alive: list[int] = []
    spare = list(range(n))
    for i in range(n):
        if alive and rng.random() < 0.45:
            columns["op"][i], columns["handle"][i] = RQ_CACHE_FREE, alive.pop(int(rng.integers(len(alive))))
        else:
            columns["op"][i], columns["handle"][i] = RQ_CACHE_ALLOC, spare.pop()
            alive.append(int(columns["handle"][i]))
    return Requests(**columns)


def played(engine: str, requests: Requests) -> tuple[list[tuple[int, int]], Any]:
    machine = boot(config(open_zone("DMA32", 16, 16), cpus=2), kernel(), 0, "slob")
    machine.slab.create_cache("probe", 96, 64, SLAB_TYPESAFE_BY_RCU)
    dispatcher = Dispatcher(machine, np.array([machine.find_cache("probe")], np.int32))
    dispatcher.create_start_objects(Census(caches=[TraceCache("probe")], max_handles=len(requests)))
    seen = Waiting(machine)
    result = play(dispatcher, [requests], CostTable.load(), seen, cpus=2, nr_locks=machine.nr_locks(), sample_ns=100,
                  end_ns=int(requests.ts_ns[-1]) + 2 * DELAY_NS, engine=engine, check=machine.validate, check_every=50,
                  daemons=[GracePeriods(machine, DELAY_NS)])
    state = (machine.slab.pages_of(0), result.operations,
             {name: np.asarray(column).tolist() for name, column in result.locks.columns().items()})
    return seen.seen, state


@pytest.mark.parametrize("seed", range(5))
def test_engines_agree(seed: int) -> None:
    requests = random_requests(np.random.default_rng(seed), 400)
    fused, state = played("fused", requests)
    assert (fused, state) == played("reference", requests)
    freed = requests.ts_ns[requests.op == RQ_CACHE_FREE]
    for t_ns, waiting in fused:
        assert waiting == ((freed <= t_ns) & (freed > t_ns - DELAY_NS)).sum(), t_ns
    assert max(waiting for _, waiting in fused) > 5
    assert fused[-1][1] == 0
