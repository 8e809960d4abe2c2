"""Closed timing: both engines agree to the nanosecond, and keep what a trace's order promised."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memtrace.errors import ConfigError
from memtrace.metrics.recorder import Recorder
from memtrace.metrics.schema import TABLES
from memtrace.metrics.tables import TableWriters
from memtrace.mm.paths import COSTS
from memtrace.mm.vmstat import VmStat
from memtrace.run import replay as replay_trace
from memtrace.schedule.clock import play
from memtrace.schedule.closed import ClosedOrder, gather
from memtrace.schedule.costs import Cost, CostTable
from memtrace.schedule.decider import Decider
from memtrace.schedule.dispatch import Dispatcher
from memtrace.trace.requests import (
    FLAG_LAST,
    REQUEST_COLUMNS,
    RQ_CACHE_ALLOC,
    RQ_CACHE_CREATE,
    RQ_CACHE_DESTROY,
    RQ_CPU_OFFLINE,
    RQ_KFREE,
    RQ_KMALLOC,
    RQ_KSWAPD_BEGIN,
    RQ_KSWAPD_END,
    RQ_MARKER,
    RQ_PAGE_ALLOC,
    RQ_PAGE_FREE,
    Requests,
)

MACHINES = Path(__file__).parents[1] / "unit" / "schedule" / "machines.py"
_spec = importlib.util.spec_from_file_location("small_machines", MACHINES)
assert _spec is not None and _spec.loader is not None
machines = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(machines)

NR_LOCKS = 4
COSTS_1_NS = CostTable(tuple(Cost(name, 0, 1, True, "") for name in COSTS), "test")


class Scripted(Decider):
    """Plays given itineraries, by row; remembers when each request was decided, and what it was told."""

    def __init__(self, scripts: list[list[tuple[int, int]]]) -> None:
        super().__init__()
        self.scripts = scripts
        self.decided: list[tuple[int, int]] = []
        self.waits: dict[int, int] = {}

    def decide(self, i: int) -> int:
        row = self.row[i]
        self.decided.append((row, self.ts_ns[i]))
        self.it.reset()
        for lock, ns in self.scripts[row]:
            self.it.locked(lock, 0, ns)
        self.cache = row % 3 - 1
        self.site = row
        return 0

    def waited(self, site: int, wait_ns: int) -> None:
        self.waits[site] = wait_ns


class Seen:
    """A recorder that notes when it was called, and how many requests were decided by then."""

    def __init__(self, decider: Scripted) -> None:
        self.decider = decider
        self.calls: list[tuple[Any, ...]] = []

    def sample(self, t_ns: int) -> None:
        self.calls.append(("sample", t_ns, len(self.decider.decided)))

    def marker(self, t_ns: int, row: int, text: int) -> None:
        self.calls.append(("marker", t_ns, row, len(self.decider.decided)))


def requests_of(rows: list[dict[str, int]]) -> Requests:
    columns = {name: np.full(len(rows), -1 if name in ("handle", "cache", "node", "site", "addr") else 0, dtype)
               for name, dtype in REQUEST_COLUMNS}
    for i, row in enumerate(rows):
        columns["row"][i] = i
        for name, value in row.items():
            columns[name][i] = value
    return Requests(**columns)


def hostile(seed: int) -> tuple[list[dict[str, int]], list[list[tuple[int, int]]], int]:
    """Requests made to collide, frees on any CPU, recycled handles; and what each is to do."""
    rng = np.random.default_rng(seed)
    cpus = int(rng.integers(1, 6))
    live: list[int] = []
    free = list(range(200))
    rows: list[dict[str, int]] = []
    ts = int(rng.integers(0, 50))
    for _ in range(int(rng.integers(1, 150))):
        ts += int(rng.integers(0, 12))
        at = {"ts_ns": ts, "cpu": int(rng.integers(cpus))}
        kind = rng.random()
        if kind < 0.5:
            live.append(free.pop())
            rows.append({**at, "op": RQ_KMALLOC, "handle": live[-1]})
        elif kind < 0.92 and live:
            free.append(live.pop(int(rng.integers(len(live)))))
            rows.append({**at, "op": RQ_KFREE, "handle": free[-1]})
        elif kind < 0.95:
            rows.append({**at, "op": RQ_MARKER})
        else:
            rows.append({**at, "op": RQ_CACHE_DESTROY, "cache": 0})
    locked = rng.random()
    scripts = [[(int(rng.integers(NR_LOCKS)) if rng.random() < locked else -1, int(rng.integers(1, 9)))
                for _ in range(rng.integers(0, 5))] for _ in rows]
    return rows, scripts, cpus


def played(seed: int, engine: str, speed: float) -> tuple[Scripted, list[Any], int]:
    """Everything that can be seen of a closed run, and its end."""
    rows, scripts, cpus = hostile(seed)
    requests = requests_of(rows)
    decider = Scripted(scripts)
    seen = Seen(decider)
    result = play(decider, [requests], COSTS_1_NS, seen, cpus=cpus, nr_locks=NR_LOCKS, sample_ns=37,
                  end_ns=int(requests.ts_ns[-1]), engine=engine, speed=speed)
    tables = [*result.latency.columns().items(), *result.locks.columns().items()]
    columns = [(name, [np.asarray(cell).tolist() for cell in column]) for name, column in tables]
    return decider, [seen.calls, decider.waits, columns, result.operations, result.end_ns], result.end_ns


@pytest.mark.parametrize("speed", [0.0, 0.4, 1.0, 3.0])
def test_engines_agree(speed: float) -> None:
    for seed in range(60):
        fused, seen_fused, _ = played(seed, "fused", speed)
        reference, seen_reference, _ = played(seed, "reference", speed)
        assert fused.decided == reference.decided, f"seed {seed}"
        assert seen_fused == seen_reference, f"seed {seed}"


@pytest.mark.parametrize("speed", [0.0, 1.0])
def test_promises_of_the_order_are_kept(speed: float) -> None:
    """A CPU's operations follow each other by the gap; frees follow their allocations; destroying waits for all."""
    for seed in range(40):
        rows, scripts, _ = hostile(seed)
        decider, _, end_ns = played(seed, "fused", speed)
        start = dict(decider.decided)
        least = {i: ns + sum(max(1, cost) for _, cost in scripts[i]) for i, ns in start.items()}
        last: dict[int, int] = {}
        born: dict[int, int] = {}
        for i, row in enumerate(rows):
            before = last.get(row["cpu"])
            if i in start and before in start:
                gap = round((row["ts_ns"] - rows[before]["ts_ns"]) * speed)
                assert start[i] >= least[before] + gap
            last[row["cpu"]] = i
            if row["op"] == RQ_KMALLOC:
                born[row["handle"]] = i
            elif row["op"] == RQ_KFREE:
                assert start[i] >= least[born[row["handle"]]]
            elif row["op"] == RQ_CACHE_DESTROY:
                assert all(start[i] >= least[j] for j in range(i) if j in start)
        assert end_ns >= max(least.values(), default=0)


def test_without_work_closed_is_recorded() -> None:
    """Operations that take no time start when they did."""
    rows, scripts, cpus = hostile(7)
    requests = requests_of([row for row in rows if row["op"] != RQ_CACHE_DESTROY])
    decider = Scripted([[] for _ in scripts])
    play(decider, [requests], COSTS_1_NS, Seen(decider), cpus=cpus, nr_locks=0, sample_ns=100,
         end_ns=int(requests.ts_ns[-1]), speed=1.0)
    recorded = requests_of([row for row in rows if row["op"] != RQ_CACHE_DESTROY])
    assert decider.decided == [(i, int(ts)) for i, ts in enumerate(recorded.ts_ns) if recorded.op[i] != RQ_MARKER]


def test_needs() -> None:
    """Recycled handles are told apart; pieces follow each other; a cache is created before it is used."""
    requests, left_out = gather([requests_of([
        {"op": RQ_KMALLOC, "handle": 0},
        {"op": RQ_KFREE, "handle": 0},
        {"op": RQ_KMALLOC, "handle": 0, "cpu": 1},
        {"op": RQ_KFREE, "handle": 0},
        {"op": RQ_PAGE_ALLOC, "handle": 0, "size": 1},
        {"op": RQ_PAGE_FREE, "handle": 0},
        {"op": RQ_PAGE_FREE, "handle": 0, "offset": 1, "flags": FLAG_LAST},
        {"op": RQ_CACHE_CREATE, "cache": 2},
        {"op": RQ_CPU_OFFLINE},
        {"op": RQ_KSWAPD_BEGIN, "node": 0},
        {"op": RQ_KSWAPD_END, "node": 0},
        {"op": RQ_CACHE_ALLOC, "cache": 2, "handle": 1},
        {"op": RQ_CACHE_DESTROY, "cache": 2},
        {"op": RQ_KFREE, "handle": 3},
    ])])
    assert left_out == {"cpu_event_left_out": 1, "kswapd_run_left_out": 1, "drain_all_left_out": 0}
    order = ClosedOrder(requests, 2, 1.0)
    assert list(order.needs) == [-1, 0, -1, 2, -1, 4, 5, -1, 7, 7, -1]
    assert list(order.needs_all) == [0] * 9 + [1, 0]
    assert requests.handle[0] == requests.handle[1] != requests.handle[2] == requests.handle[3]
    assert requests.handle[-1] == 3, "an object that pre-dates the trace"
    assert list(order.first) == [0, 2]


def replay(folder: Path, engine: str, seed: int, speed: float) -> dict[str, int]:
    """Random requests to a small machine, as the tables of a run."""
    folder.mkdir(parents=True)
    machine, cache_map = machines.small_machine()
    dispatcher = Dispatcher(machine, cache_map)
    requests = machines.random_requests(seed, 1500)
    with TableWriters(folder) as writers:
        recorder = Recorder(writers, machine, VmStat(machine), dispatcher, ["a marker"], [f"site{i}" for i in range(6)],
                            50_000)
        result = play(dispatcher, [requests], CostTable.load(), recorder, cpus=machine.nr_cpus,
                      nr_locks=machine.nr_locks(), sample_ns=20_000, end_ns=int(requests.ts_ns[-1]), engine=engine,
                      check_every=500, check=machine.validate, speed=speed)
        recorder.finish(result.latency.columns(), result.locks.columns(), dispatcher.sites.columns())
    return dispatcher.counts()


@pytest.mark.parametrize("speed", [0.0, 1.0])
def test_engines_agree_on_a_machine(tmp_path: Path, speed: float) -> None:
    """To the byte; and whatever is freed had been allocated."""
    counts = replay(tmp_path / "fused", "fused", 5, speed)
    assert counts == replay(tmp_path / "reference", "reference", 5, speed)
    for table in TABLES:
        name = f"{table.name}.parquet"
        assert (tmp_path / "fused" / name).read_bytes() == (tmp_path / "reference" / name).read_bytes(), table.name
    assert counts["free_of_nothing"] <= counts["model_alloc_failed"] + counts["model_page_alloc_failed"]


@pytest.mark.parametrize(("given", "message"), [
    ({"timing": "closed", "speed": -1.0}, "--speed -1: expected 0 to"),
    ({"timing": "closed", "speed": float("nan")}, "--speed nan"),
    ({"speed": 2.0}, "use --timing closed"),
    ({"timing": "closed", "hotplug": ["cpu1 off @1ms"]}, "--hotplug with --timing closed"),
])
def test_what_does_not_go_together(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replay_trace("no-such-trace.csv", **given)


def test_what_closed_timing_leaves_out_is_counted(tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("ts_ns,cpu,event,ptr,bytes_req,text\n0,0,kmalloc,1,100,\n5,0,cpu_offline,,,1\n"
                     "9,0,cpu_online,,,1\n12,1,kfree,1,,\n", encoding="utf-8")
    counts = replay_trace(trace, cpus=2, timing="closed", out=tmp_path / "run").manifest["counts"]
    assert counts["cpu_event_left_out"] == 2 and "kswapd_run_left_out" not in counts
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "CPU hotplug events, which closed timing leaves out" in page
