"""kswapd in time: it waits as long as the trace's own frees come, and works when they do not (MODEL 10.6)."""

from __future__ import annotations

import random
from typing import Any

import pytest

from memtrace.mm.gfp import GFP_HIGHUSER_MOVABLE, GFP_KERNEL, GFP_NOWAIT
from memtrace.schedule.clock import play
from memtrace.schedule.costs import CostTable
from memtrace.schedule.dispatch import Dispatcher
from memtrace.schedule.reclaim_daemons import reclaim_daemons
from memtrace.trace.requests import (
    FLAG_LAST,
    RQ_DRAIN_ALL,
    RQ_KMALLOC,
    RQ_KSWAPD_BEGIN,
    RQ_KSWAPD_END,
    RQ_PAGE_ALLOC,
    RQ_PAGE_FREE,
    Requests,
)

from .machines import CPUS, rows, small_machine

MS = 1_000_000


class Unwatched:
    def sample(self, t_ns: int) -> None: ...

    def marker(self, t_ns: int, row: int, text: int) -> None: ...


def played(
    requests: Requests, engine: str = "fused", pages: int = 2048, recorded: tuple[int, ...] = (), lists: bool = False
) -> Dispatcher:
    """A dispatcher that has played these on a machine of two nodes, which keep pages on per-CPU lists if ``lists``."""
    machine, cache_map = small_machine(pages)
    for zone in machine.pages.zones:
        for pcp in zone.pcp:
            pcp.high, pcp.batch = (24, 6) if lists else (0, 1)
    dispatcher = Dispatcher(machine, cache_map)
    play(dispatcher, [requests], CostTable.load(), Unwatched(), cpus=CPUS, nr_locks=machine.nr_locks(),
         sample_ns=1000 * MS, end_ns=int(requests.ts_ns[-1]), engine=engine, daemons=reclaim_daemons(machine, recorded))
    machine.validate()
    return dispatcher


def events(dispatcher: Dispatcher, *kinds: str) -> list[tuple[int, str]]:
    return [(t_ns, kind) for t_ns, _, _, kind, _ in dispatcher.events if kind in kinds]


def cache_pages(n: int, every_ns: int, first: int = 0) -> list[dict[str, Any]]:
    """Requests for page cache, on node 0."""
    return [{"op": RQ_PAGE_ALLOC, "handle": first + i, "ts_ns": i * every_ns, "gfp": GFP_HIGHUSER_MOVABLE, "node": 0}
            for i in range(n)]


def test_a_workload_that_does_not_fit() -> None:
    """Nobody frees; requests never fail, because kswapd and direct reclaim take back the oldest pages."""
    requests = rows(*cache_pages(6000, MS), {"op": RQ_PAGE_FREE, "handle": 0, "ts_ns": 6001 * MS, "flags": FLAG_LAST},
                    {"op": RQ_PAGE_FREE, "handle": 5999, "ts_ns": 6002 * MS, "flags": FLAG_LAST})
    dispatcher = played(requests)
    counts = dispatcher.counts()
    assert counts["model_page_alloc_failed"] == 0
    assert counts["model_reclaimed"] > 6000 - 2048
    assert counts["freed_by_reclaim"] == 1, "the first page was taken back long ago, the last one was not"
    assert counts["free_of_nothing"] == 0
    woken = events(dispatcher, "kswapd_wake")
    assert len(events(dispatcher, "kswapd_done")) >= len(woken) - 2 > 10
    assert dispatcher.machine.pages.zones[0].watermark_min < dispatcher.machine.pages.zones[0].free_pages


def test_while_the_trace_frees_kswapd_only_looks() -> None:
    """The recorded kernel reclaimed: its frees are in the trace, in time, and the model takes back nothing."""
    given = cache_pages(1000, MS) + cache_pages(980, MS, 1000)
    for i in range(980):
        given[1000 + i]["ts_ns"] = (1000 + i) * MS
    frees = [{"op": RQ_PAGE_FREE, "handle": i, "ts_ns": (950 + i) * MS, "flags": FLAG_LAST} for i in range(1000)]
    both = sorted(given + frees, key=lambda row: int(row["ts_ns"]))
    dispatcher = played(rows(*both), pages=2048)
    assert dispatcher.counts()["model_reclaimed"] == 0
    assert dispatcher.counts()["model_page_alloc_failed"] == 0


def test_kswapd_falls_asleep_a_tenth_of_a_second_after_its_last_run() -> None:
    requests = rows(*cache_pages(2100, MS), {"op": RQ_KMALLOC, "handle": 0, "size": 8, "ts_ns": 9000 * MS})
    dispatcher = played(requests)
    last = events(dispatcher, "kswapd_done")[-1][0]
    assert (last + 100 * MS, "kswapd_sleep") in events(dispatcher, "kswapd_sleep")


def test_nothing_to_take_back_is_the_end() -> None:
    """Unmovable pages only: kswapd gives up, requests fail as the flags say, and the run comes to its end."""
    given = [{"op": RQ_PAGE_ALLOC, "handle": i, "ts_ns": i * MS, "gfp": GFP_KERNEL if i % 2 else GFP_NOWAIT}
             for i in range(2300)]
    dispatcher = played(rows(*given))
    reasons = {failure[-1] for failure in dispatcher.take_failures()}
    assert len(reasons) == 2
    assert events(dispatcher, "oom")
    assert sum(node.kswapd_failures for node in dispatcher.machine.pages.nodes) >= 1


def pressure(seed: int, kswapd: bool = False) -> Requests:
    """Blocks of all kinds on a machine that has room for half of them; ``kswapd``: with recorded runs and drains."""
    rng = random.Random(seed)
    given: list[dict[str, Any]] = []
    live: list[tuple[int, int]] = []
    on = [False, False]
    t_ns = 0
    for i in range(4000):
        t_ns += rng.choice([0, 10, 1000, MS])
        at = {"ts_ns": t_ns, "cpu": rng.randrange(CPUS)}
        if kswapd and rng.random() < 0.05:
            node = rng.randrange(2)
            on[node] = not on[node]
            given.append({**at, "op": RQ_KSWAPD_BEGIN if on[node] else RQ_KSWAPD_END, "node": node})
            continue
        if kswapd and rng.random() < 0.01:
            given.append({**at, "op": RQ_DRAIN_ALL})
            continue
        if live and rng.random() < 0.25:
            handle, order = live.pop(rng.randrange(len(live)))
            given.append({**at, "op": RQ_PAGE_FREE, "handle": handle, "size": order, "flags": FLAG_LAST})
            continue
        order = rng.choice([0, 0, 0, 0, 1, 2, 3, 4])
        gfp = rng.choice([GFP_HIGHUSER_MOVABLE, GFP_HIGHUSER_MOVABLE, GFP_HIGHUSER_MOVABLE, GFP_KERNEL, GFP_NOWAIT])
        live.append((i, order))
        given.append({**at, "op": RQ_PAGE_ALLOC, "handle": i, "size": order, "gfp": gfp})
    return rows(*given)


@pytest.mark.parametrize("recorded", [(), (0, 1)])
@pytest.mark.parametrize("seed", range(4))
def test_both_engines_are_equally_short_of_memory(seed: int, recorded: tuple[int, ...]) -> None:
    fused, reference = (played(pressure(seed, bool(recorded)), engine, recorded=recorded, lists=bool(recorded))
                        for engine in ("fused", "reference"))
    assert fused.counts() == reference.counts()
    assert fused.events == reference.events
    assert fused.take_failures() == reference.take_failures()
    assert fused.counts()["model_reclaimed"] > 100
    kinds = {event[3] for event in fused.events}
    assert {"kswapd_wake", "kswapd_done", "direct_reclaim"} <= kinds
    assert recorded or "compaction" in kinds


def test_a_wake_up_is_left_to_the_recorded_kswapd() -> None:
    """It runs as recorded, 50 ms later, and not before; without a recorded run the model's own begins after 100 ms."""
    last = {"op": RQ_KMALLOC, "handle": 0, "size": 8, "ts_ns": 900 * MS}
    given = cache_pages(2100, 10_000)
    woken = events(played(rows(*given), recorded=(0, 1)), "kswapd_wake")[0][0]
    given = [request for request in given if request["ts_ns"] <= woken]
    alone = played(rows(*given, last), recorded=(0, 1))
    assert events(alone, "kswapd_done")[0][0] >= woken + 100 * MS
    run = [{"op": kind, "node": node, "ts_ns": woken + after * MS}
           for kind, after in ((RQ_KSWAPD_BEGIN, 50), (RQ_KSWAPD_END, 60)) for node in (0, 1)]
    followed = played(rows(*given, *run, last), recorded=(0, 1))
    assert events(followed, "kswapd_done") == [(woken + 60 * MS, "kswapd_done")] * 2
    assert followed.counts()["model_reclaimed"] == 0


def test_a_recorded_drain_empties_all_lists_of_pages() -> None:
    filled = [{"op": RQ_PAGE_ALLOC, "handle": cpu, "size": 0, "gfp": GFP_KERNEL, "cpu": cpu, "ts_ns": cpu}
              for cpu in range(CPUS)]
    for given, empty in ((filled, False), ([*filled, {"op": RQ_DRAIN_ALL, "cpu": 1, "ts_ns": 9}], True)):
        zones = played(rows(*given), lists=True).machine.pages.zones
        assert (sum(pcp.count for zone in zones for pcp in zone.pcp) == 0) is empty


def test_a_recorded_run_keeps_lists_short_and_ends_boosts() -> None:
    machine, _ = small_machine(2048)
    first, other = machine.pages.zones
    first.boost = other.boost = 500
    machine.pages.kswapd_follow(0, True)
    assert (first.reclaim_active, other.reclaim_active) == (True, False)
    first.boost += 20  # of after its beginning: stays
    machine.pages.kswapd_follow(0, False)
    assert (first.reclaim_active, first.boost, other.boost) == (False, 20, 500)
