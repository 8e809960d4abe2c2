"""The driver: when samples are taken, what they see, checks, and a timing worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from memtrace.errors import ConfigError, ModelError
from memtrace.mm.paths import COSTS
from memtrace.schedule.clock import play, round_sample_ns
from memtrace.schedule.costs import Cost, CostTable
from memtrace.schedule.decider import Decider
from memtrace.trace.requests import REQUEST_COLUMNS, RQ_KMALLOC, RQ_MARKER, Requests

ENGINES = pytest.mark.parametrize("engine", ["fused", "reference"])
ONE_NS = CostTable(tuple(Cost(name, 0, 1, True, "") for name in COSTS), "test")
"""A step of count n takes n ns."""


class Script(Decider):
    """Row i does ``steps[i]``: (lock or -1, ns) each."""

    def __init__(self, steps: list[list[tuple[int, int]]]) -> None:
        super().__init__()
        self.steps = steps
        self.decided = 0

    def decide(self, i: int) -> int:
        self.it.reset()
        self.cache = self.row[i]  # so that the latency table tells the rows apart
        self.decided += 1
        for lock, ns in self.steps[self.row[i]]:
            self.it.locked(lock, 0, ns)
        return 0


class Calls:
    """A recorder that notes its calls and how many requests were decided by then."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.calls: list[tuple[Any, ...]] = []

    def sample(self, t_ns: int) -> None:
        self.calls.append(("sample", t_ns, self.script.decided))

    def marker(self, t_ns: int, row: int, text: int) -> None:
        self.calls.append(("marker", t_ns, row, text))


def rows(*given: tuple[int, int, int]) -> Requests:
    """Requests from (ts_ns, cpu, op)."""
    columns = {name: np.zeros(len(given), dtype) for name, dtype in REQUEST_COLUMNS}
    for i, (ts, cpu, op) in enumerate(given):
        columns["row"][i], columns["ts_ns"][i], columns["cpu"][i], columns["op"][i] = i, ts, cpu, op
        columns["size"][i] = 70 + i
    return Requests(**columns)


def run(script: Script, requests: Requests, engine: str, sample_ns: int = 10**9, **options: Any) -> Any:
    calls = Calls(script)
    options.setdefault("end_ns", int(requests.ts_ns[-1]))
    result = play(script, [requests], ONE_NS, calls, cpus=4, nr_locks=2, sample_ns=sample_ns, engine=engine, **options)
    return result, calls.calls


@ENGINES
def test_ten_operations_by_hand(engine: str) -> None:
    """
    Two locks, three CPUs, worked out on paper.

    row ts cpu steps      what happens
     0   0  0  5, A 10    asks A at 5, held by row 2 until 6: 6 to 16; 16 ns
     1   0  1  5, A 10    asks A at 5 too, the later row: 16 to 26; 26 ns
     2   2  2  A 4        asks A at 2, first of all: 2 to 6; 4 ns
     3   3  0  7          CPU 0 is busy until 16: 16 to 23; 7 ns
     4   8  2  B 6, 1     B is free: 8 to 14, ends 15; 7 ns
     5  10  1  B 2        CPU 1 is busy until 26: 26 to 28; 2 ns
     6  23  0  A 1        asks A at 23, held by row 1 until 26: 26 to 27; 4 ns
     7  26  2  A 3        asks A at 26, behind row 6: 27 to 30; 4 ns
     8  27  0  1          CPU 0 is free at 27; 1 ns
     9  40  1             no step: no time, and no row in the latency table
    """
    a, b = 0, 1
    script = Script([[(-1, 5), (a, 10)], [(-1, 5), (a, 10)], [(a, 4)], [(-1, 7)], [(b, 6), (-1, 1)], [(b, 2)], [(a, 1)],
                     [(a, 3)], [(-1, 1)], []])
    requests = rows((0, 0, 1), (0, 1, 1), (2, 2, 1), (3, 0, 1), (8, 2, 1), (10, 1, 1), (23, 0, 1), (26, 2, 1),
                    (27, 0, 1), (40, 1, 1))
    result, calls = run(script, requests, engine)
    latency = result.latency.columns()
    by_row = dict(zip(latency["cache"].tolist(), latency["sum_ns"].tolist(), strict=True))
    assert by_row == {0: 16, 1: 26, 2: 4, 3: 7, 4: 7, 5: 2, 6: 4, 7: 4, 8: 1}
    locks = {name: column.tolist() for name, column in result.locks.columns().items()}
    assert locks == {"lock": [a, b], "acquisitions": [5, 2], "contended": [4, 0], "wait_ns": [1 + 11 + 3 + 1, 0],
                     "hold_ns": [28, 8], "max_wait_ns": [11, 0]}
    assert result.operations == 10
    assert calls == [("sample", 0, 2), ("sample", 40, 10)]


@ENGINES
def test_samples_see_their_instant_and_nothing_later(engine: str) -> None:
    script = Script([[(-1, 100)]] * 6)
    requests = rows((0, 0, 1), (10, 0, 1), (10, 1, 1), (11, 0, 1), (35, 0, 1), (35, 1, 1))
    _, calls = run(script, requests, engine, sample_ns=10, end_ns=52)
    assert calls == [("sample", 0, 1), ("sample", 10, 3), ("sample", 20, 4), ("sample", 30, 4), ("sample", 40, 6),
                     ("sample", 50, 6), ("sample", 52, 6)]


@ENGINES
def test_a_marker_is_sampled_at_its_time(engine: str) -> None:
    script = Script([[(-1, 1)]] * 4)
    requests = rows((3, 0, 1), (7, 0, RQ_MARKER), (7, 1, 1), (9, 0, 1))
    _, calls = run(script, requests, engine, sample_ns=100)
    assert calls == [("sample", 0, 0), ("marker", 7, 1, 71), ("sample", 7, 2), ("sample", 9, 3)]


@ENGINES
def test_a_late_start_costs_no_samples(engine: str) -> None:
    """A trace that begins at 10 s is not sampled from 0 on."""
    script = Script([[(-1, 1)]])
    _, calls = run(script, rows((10_000_000_123, 0, 1)), engine, sample_ns=1000)
    assert calls == [("sample", 10_000_000_000, 0), ("sample", 10_000_000_123, 1)]


@ENGINES
def test_checks(engine: str) -> None:
    """Every so many operations, and at the end; what is found carries the row and the time."""
    script = Script([[(-1, 1)]] * 7)
    requests = rows(*((5 * i, 0, RQ_KMALLOC) for i in range(7)))
    seen: list[int] = []
    run(script, requests, engine, check=lambda: seen.append(script.decided), check_every=3)
    assert seen == [3, 6, 7]

    def broken() -> None:
        raise ModelError("free_pages is 3; expected 4")

    with pytest.raises(ModelError, match=r"expected 4 \(trace row 2, t=10 ns\)") as error:
        run(Script([[(-1, 1)]] * 7), requests, engine, check=broken, check_every=3)
    assert (error.value.row, error.value.t_ns) == (2, 10)


@ENGINES
def test_progress_and_an_empty_trace(engine: str) -> None:
    script = Script([[(-1, 1)]] * 3)
    told: list[int] = []
    run(script, rows((0, 0, 1), (1, 0, 1), (2, 0, 1)), engine, progress=told.append)
    assert told == [2]
    calls = Calls(script)
    result = play(script, [rows()], ONE_NS, calls, cpus=1, nr_locks=1, sample_ns=10, end_ns=0, engine=engine)
    assert result.operations == 0
    assert calls.calls[-1][:2] == ("sample", 0)


@ENGINES
def test_bad_requests(engine: str) -> None:
    script = Script([[(-1, 1)]] * 3)
    with pytest.raises(ModelError, match="follows a later one"):
        run(script, rows((0, 0, 1), (5, 0, 1), (4, 0, 1)), engine)
    with pytest.raises(ModelError, match="after the trace's end at 3 ns"):
        run(script, rows((0, 0, 1), (5, 0, 1)), engine, end_ns=3)
    with pytest.raises(ConfigError, match="expected fused or reference"):
        run(script, rows((0, 0, 1)), "quick")
    with pytest.raises(ConfigError, match="at least 1 ns"):
        run(script, rows((0, 0, 1)), engine, sample_ns=0)


def test_a_cpu_that_the_machine_lacks() -> None:
    with pytest.raises(ModelError, match="CPU 4; expected 0 to 3"):
        run(Script([[(-1, 1)]]), rows((0, 4, 1)), "fused")


@pytest.mark.parametrize(("span", "step"), [(0, 1), (200, 1), (201, 2), (1000, 5), (28_000_000_000, 200_000_000),
                                            (2_000_000_000, 10_000_000)])
def test_round_sample_ns(span: int, step: int) -> None:
    assert round_sample_ns(span) == step
