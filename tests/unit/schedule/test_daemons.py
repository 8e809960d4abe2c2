"""Daemons: both engines run them at the same instants, seeing the same decisions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import simpy

from memtrace.mm.paths import COSTS
from memtrace.schedule.clock import play
from memtrace.schedule.costs import Cost, CostTable
from memtrace.schedule.daemons import Daemon, Doorbell, Steps, sleep_until
from memtrace.schedule.decider import Decider
from memtrace.trace.requests import REQUEST_COLUMNS, RQ_KMALLOC, Requests

ENGINES = pytest.mark.parametrize("engine", ["fused", "reference"])
COSTS_1_NS = CostTable(tuple(Cost(name, 0, 1, True, "") for name in COSTS), "test")
BUSY_NS = 7
KIND, OTHER_KIND = 5, 6


class Waker(Decider):
    """Every request takes a few nanoseconds; those of CPU 1 ask for a daemon."""

    def __init__(self, kind: int = KIND) -> None:
        super().__init__()
        self.kind = kind
        self.log: list[tuple[Any, ...]] = []

    def decide(self, i: int) -> int:
        self.it.reset()
        self.it.locked(0, 0, BUSY_NS)
        self.log.append(("row", self.row[i]))
        if self.cpu[i] == 1:
            self.it.wake(self.kind, self.row[i])
        return 0


class Sampled:
    def __init__(self, log: list[tuple[Any, ...]]) -> None:
        self.log = log

    def sample(self, t_ns: int) -> None:
        self.log.append(("sample", t_ns))

    def marker(self, t_ns: int, row: int, text: int) -> None: ...


class Sleeper(Daemon):
    """Works when woken, and once more 30 ns later; then wakes another daemon."""

    kinds = (KIND,)

    def __init__(self, decider: Waker) -> None:
        self.decider = decider

    def process(self, env: simpy.Environment, until_ns: int) -> Steps:
        while True:
            yield self.bell.wait()
            self.decider.log.append(("woken", int(env.now)))
            if env.now + 30 > until_ns:
                return
            yield sleep_until(env, int(env.now) + 30)
            self.decider.log.append(("again", int(env.now)))
            self.decider.it.wake(OTHER_KIND, 0)

    def woken(self, kind: int, argument: int, t_ns: int) -> None:
        self.decider.log.append(("asked", argument, t_ns))
        super().woken(kind, argument, t_ns)


class Other(Sleeper):
    kinds = (OTHER_KIND,)

    def process(self, env: simpy.Environment, until_ns: int) -> Steps:
        yield self.bell.wait()
        self.decider.log.append(("other", int(env.now)))


def requests(*given: tuple[int, int]) -> Requests:
    columns = {name: np.zeros(len(given), dtype) for name, dtype in REQUEST_COLUMNS}
    for i, (ts, cpu) in enumerate(given):
        columns["row"][i], columns["ts_ns"][i], columns["cpu"][i], columns["op"][i] = i, ts, cpu, RQ_KMALLOC
    return Requests(**columns)


def log_of(engine: str, given: Requests, end_ns: int) -> list[tuple[Any, ...]]:
    decider = Waker()
    play(decider, [given], COSTS_1_NS, Sampled(decider.log), cpus=2, nr_locks=1, sample_ns=100, end_ns=end_ns,
         engine=engine, daemons=[Sleeper(decider), Other(decider)])
    return decider.log


@ENGINES
def test_a_daemon_runs_after_its_instant_and_before_the_sample(engine: str) -> None:
    assert log_of(engine, requests((0, 0), (100, 1), (100, 0), (110, 0), (130, 0), (140, 1), (200, 0)), 250) == [
        ("row", 0), ("sample", 0),
        ("row", 1), ("asked", 1, 100), ("row", 2), ("woken", 100), ("sample", 100),
        ("row", 3), ("row", 4), ("again", 130), ("asked", 0, 130), ("other", 130),
        ("row", 5), ("asked", 5, 140), ("woken", 140), ("again", 170), ("asked", 0, 170),
        ("row", 6), ("sample", 200), ("sample", 250),
    ]


@pytest.mark.parametrize("seed", range(20))
def test_engines_agree_on_random_wakes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(0, 600, 80)).tolist()
    given = requests(*zip(times, rng.integers(0, 2, 80).tolist(), strict=True))
    assert log_of("fused", given, 700) == log_of("reference", given, 700)


def test_a_ring_that_nobody_waits_for_is_kept() -> None:
    env = simpy.Environment()
    bell = Doorbell(env)
    bell.ring(5)
    bell.ring(9)
    env.run(bell.wait())
    assert env.now == 9
