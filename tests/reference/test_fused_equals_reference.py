"""The fused engine equals the SimPy reference to the nanosecond, whatever the itineraries and their timing."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memtrace.mm.paths import COSTS, PATHS
from memtrace.schedule.clock import play
from memtrace.schedule.costs import Cost, CostTable
from memtrace.schedule.decider import Decider
from memtrace.trace.requests import REQUEST_COLUMNS, RQ_KMALLOC, RQ_MARKER, Requests

NR_LOCKS = 5


class Scripted(Decider):
    """Plays given itineraries instead of asking a machine; remembers what it was told."""

    def __init__(self, scripts: list[list[tuple[int, int, int]]], paths: list[int]) -> None:
        super().__init__()
        self.scripts = scripts
        self.paths = paths
        self.decided: list[int] = []
        self.waits: dict[int, int] = {}

    def decide(self, i: int) -> int:
        row = self.row[i]
        self.decided.append(row)
        self.it.reset()
        for lock, cls, count in self.scripts[row]:
            self.it.locked(lock, cls, count)
        self.cache = self.paths[row] % 3 - 1
        self.site = row % 7
        return self.paths[row]

    def waited(self, site: int, wait_ns: int) -> None:
        self.waits[site] = self.waits.get(site, 0) + wait_ns


class Seen:
    """A recorder that notes when it was called, and how many requests were decided by then."""

    def __init__(self, decider: Scripted) -> None:
        self.decider = decider
        self.calls: list[tuple[Any, ...]] = []

    def sample(self, t_ns: int) -> None:
        self.calls.append(("sample", t_ns, len(self.decider.decided)))

    def marker(self, t_ns: int, row: int, text: int) -> None:
        self.calls.append(("marker", t_ns, row, text, len(self.decider.decided)))


def requests_of(ts_ns: np.ndarray, cpu: np.ndarray, op: np.ndarray, chunks: int) -> list[Requests]:
    """Requests cut into so many chunks; what the engines do not look at is zero."""
    n = len(ts_ns)
    columns = {name: np.zeros(n, dtype) for name, dtype in REQUEST_COLUMNS}
    columns |= {"row": np.arange(n), "ts_ns": ts_ns.astype(np.int64), "cpu": cpu.astype(np.int16),
                "op": op.astype(np.uint8), "size": np.arange(n) * 3}
    edges = np.linspace(0, n, chunks + 1).astype(int)
    return [Requests(**{name: column[a:b].copy() for name, column in columns.items()})
            for a, b in pairwise(edges)]


def hostile(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[Any], list[int], CostTable]:
    """Random requests made to collide: small times, many ties, few locks, steps of a few ns."""
    n = int(rng.integers(1, 120))
    cpus = int(rng.integers(1, 9))
    ts = np.cumsum(rng.integers(0, int(rng.integers(1, 30)), n)) + int(rng.integers(0, 100))
    op = np.where(rng.random(n) < 0.05, RQ_MARKER, RQ_KMALLOC)
    locked = rng.random()
    scripts = [[(int(rng.integers(NR_LOCKS)) if rng.random() < locked else -1, int(rng.integers(len(COSTS))),
                 int(rng.integers(4))) for _ in range(rng.integers(0, 6))] for _ in range(n)]
    paths = rng.integers(0, len(PATHS), n).tolist()
    costs = CostTable(tuple(Cost(name, float(rng.integers(0, 12)) / 2, float(rng.integers(0, 9)), True, "")
                            for name in COSTS), "test")
    return ts, rng.integers(0, cpus, n), op, scripts, paths, costs


def played(engine: str, ts: np.ndarray, cpu: np.ndarray, op: np.ndarray, scripts: list[Any], paths: list[int],
           costs: CostTable, sample_ns: int, chunks: int) -> dict[str, Any]:
    """Everything that an engine leaves behind, as plain Python."""
    decider = Scripted(scripts, paths)
    seen = Seen(decider)
    result = play(decider, requests_of(ts, cpu, op, chunks), costs, seen, cpus=8, nr_locks=NR_LOCKS,
                  sample_ns=sample_ns, end_ns=int(ts[-1]) + 7, engine=engine)
    plain = {
        table: {name: np.asarray(column).tolist() if isinstance(column, np.ndarray) else [c.tolist() for c in column]
                for name, column in columns.items()}
        for table, columns in (("latency", result.latency.columns()), ("locks", result.locks.columns()))
    }
    return {**plain, "decided": decider.decided, "waits": decider.waits, "calls": seen.calls,
            "operations": result.operations}


@pytest.mark.parametrize("block", range(8))
def test_random_requests(block: int) -> None:
    """Eight blocks of 50 request streams with many CPUs, ties and contended locks."""
    waited = 0
    for number in range(block * 50, block * 50 + 50):
        rng = np.random.default_rng(number)
        case = hostile(rng)
        sample_ns = int(rng.integers(1, 60))
        chunks = int(rng.integers(1, 4))
        fused = played("fused", *case, sample_ns, chunks)
        reference = played("reference", *case, sample_ns, chunks)
        assert fused == reference, f"stream {number}"
        waited += sum(fused["waits"].values())
    assert waited > 1000, "streams that never wait for a lock prove nothing"


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_chunks_do_not_matter(number: int) -> None:
    """Where a trace is cut into chunks changes nothing."""
    case = hostile(np.random.default_rng(number))
    assert played("fused", *case, 10, 1) == played("fused", *case, 10, 5)


def test_all_at_once() -> None:
    """64 operations of one instant, all under one lock: each waits for all before it in row order."""
    n = 64
    zero = np.zeros(n, int)
    costs = CostTable(tuple(Cost(name, 10.0, 0.0, True, "") for name in COSTS), "test")
    case = (zero, np.arange(n)[::-1] % 8, zero + RQ_KMALLOC, [[(2, 0, 0)]] * n, [0] * n, costs)
    fused = played("fused", *case, 50, 1)
    assert fused == played("reference", *case, 50, 1)
    # Eight CPUs: the first round waits 0, 10 .. 70 ns, every later operation for the seven before it.
    assert fused["locks"] == {"lock": [2], "acquisitions": [64], "contended": [63], "wait_ns": [280 + 56 * 70],
                              "hold_ns": [640], "max_wait_ns": [70]}
