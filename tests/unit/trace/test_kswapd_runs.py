"""Runs of the recorded kswapd: found in rows, and given to the model as requests between the others."""

from __future__ import annotations

import random
from pathlib import Path

from memtrace.trace.census import take_census
from memtrace.trace.pairing import RequestStream
from memtrace.trace.requests import RQ_KSWAPD_BEGIN, RQ_KSWAPD_END, RQ_PAGE_ALLOC
from memtrace.trace.source import open_trace

WAKE, SLEEP = "mm_vmscan_kswapd_wake", "mm_vmscan_kswapd_sleep"
KINDS = (WAKE, SLEEP, "mm_page_alloc", "other")


def written(folder: Path, events: list[tuple[str, str, int]]) -> Path:
    """A text trace of (task, event, node of a wake-up), one a microsecond."""
    lines = []
    for i, (task, event, node) in enumerate(events):
        fields = {WAKE: f"nid={node} order=0", SLEEP: f"nid={node}",
                  "mm_page_alloc": f"page=0x{i} pfn=0x{4096 + i:x} order=0 migratetype=0 gfp_flags=GFP_KERNEL",
                  "other": "x=1"}[event]  # fmt: skip
        lines.append(f" {task} [{i % 3:03d}] ..... 1.{i:06d}: {event}: {fields}\n")
    path = folder / "trace.txt"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def plain_runs(events: list[tuple[str, str, int]]) -> list[tuple[int, int, bool]]:
    """(row, node, begins), by looking from each wake-up for the task's next one, or sleep."""
    found = []
    for i, (task, event, node) in enumerate(events):
        if event != WAKE:
            continue
        own = [j for j in range(i + 1, len(events)) if events[j][0] == task]
        stop = next((j for j in own if events[j][1] in (WAKE, SLEEP)), len(events))
        found += [(i, node, True), (max([i, *(j for j in own if j < stop)]) + 1, node, False)]
    return sorted(found, key=lambda edge: edge[0])


def test_a_run_ends_behind_its_last_row(tmp_path: Path) -> None:
    events = [("kswapd0-30", WAKE, 0), ("kswapd0-30", "other", 0), ("wl-7", "mm_page_alloc", 0),
              ("kswapd0-30", SLEEP, 0)]
    with open_trace(written(tmp_path, events)) as reader:
        assert take_census(reader).kswapd == [(0, 0, True), (2, 0, False)]


def test_without_kswapd_there_are_no_runs(tmp_path: Path) -> None:
    with open_trace(written(tmp_path, [("wl-7", "mm_page_alloc", 0)] * 5)) as reader:
        assert take_census(reader).kswapd == []


def test_random_traces_in_chunks_of_any_size(tmp_path: Path) -> None:
    """Two nodes' kswapd and another task; every request stands where its row does, whatever the chunks."""
    for seed in range(20):
        rng = random.Random(seed)
        tasks = (("kswapd0-30", 0), ("kswapd1-31", 1), ("wl-7", 0))
        events = []
        for _ in range(60):
            task, node = rng.choice(tasks)
            events.append((task, rng.choice(KINDS if task != "wl-7" else KINDS[2:]), node))
        with open_trace(written(tmp_path, events)) as reader:
            census = take_census(reader)
            runs = plain_runs(events)
            assert sorted(census.kswapd) == sorted(runs)
            for rows in (1, 7, 1000):
                got = [(int(op), int(row), int(node), int(ts)) for chunk in RequestStream(
                    reader, census, rows_per_chunk=rows) for op, row, node, ts in zip(
                    chunk.op, chunk.row, chunk.node, chunk.ts_ns, strict=True)]
                assert [row for _, row, _, _ in got] == sorted(row for _, row, _, _ in got)
                assert [ts for *_, ts in got] == sorted(ts for *_, ts in got)
                begins = [(row, node) for op, row, node, _ in got if op == RQ_KSWAPD_BEGIN]
                ends = [(row + 1, node) for op, row, node, _ in got if op == RQ_KSWAPD_END]
                assert begins == [(row, node) for row, node, on in runs if on]
                assert sorted(ends) == sorted((row, node) for row, node, on in runs if not on)
                asked = [row for op, row, _, _ in got if op == RQ_PAGE_ALLOC]
                assert asked == [i for i, event in enumerate(events) if event[1] == "mm_page_alloc"]
