"""Drains of all per-CPU lists by a recorded request: found in rows, and given to the model as requests."""

from __future__ import annotations

import random
from pathlib import Path

from memtrace.trace.census import take_census
from memtrace.trace.drain_all import RECLAIM_END, DrainsOfAll
from memtrace.trace.pairing import RequestStream
from memtrace.trace.requests import RQ_DRAIN_ALL
from memtrace.trace.source import open_trace

FIELDS = {
    RECLAIM_END: "nr_reclaimed=32",
    "mm_page_pcpu_drain": "page=0x1 pfn=0x1000 order=0 migratetype=0",
    "mm_page_free": "page=0x2 pfn=0x2000 order=0",
}


def written(folder: Path, events: list[tuple[int, str]]) -> Path:
    """A text trace of (CPU, event), one a microsecond."""
    path = folder / "trace.txt"
    path.write_text("".join(f" wl-7 [{cpu:03d}] ..... 1.{i:06d}: {event}: {FIELDS[event]}\n"
                            for i, (cpu, event) in enumerate(events)), encoding="utf-8")  # fmt: skip
    return path


def plain(events: list[tuple[int, str]]) -> list[int]:
    """Drains whose CPU's row before is the end of direct reclaim."""
    found = []
    for i, (cpu, event) in enumerate(events):
        before = next((name for other, name in reversed(events[:i]) if other == cpu), "")
        if event == "mm_page_pcpu_drain" and before == RECLAIM_END:
            found.append(i)
    return found


def test_random_traces_in_chunks_of_any_size(tmp_path: Path) -> None:
    for seed in range(20):
        rng = random.Random(seed)
        events = [(rng.randrange(3), rng.choice(list(FIELDS))) for _ in range(60)]
        with open_trace(written(tmp_path, events)) as reader:
            census = take_census(reader)
            assert census.drain_all == plain(events)
            for rows in (1, 7, 1000):
                chunks = RequestStream(reader, census, rows_per_chunk=rows)
                got = [(int(row), int(cpu)) for chunk in chunks for op, row, cpu in zip(
                    chunk.op, chunk.row, chunk.cpu, strict=True) if op == RQ_DRAIN_ALL]  # fmt: skip
                assert got == [(row, events[row][0]) for row in plain(events)]


def test_the_end_of_reclaim_and_the_drain_may_be_in_two_chunks(tmp_path: Path) -> None:
    events = [(0, RECLAIM_END), (1, "mm_page_pcpu_drain"), (0, "mm_page_pcpu_drain"), (0, "mm_page_pcpu_drain")]
    with open_trace(written(tmp_path, events)) as reader:
        drains = DrainsOfAll(reader.vocab.event)
        for chunk in reader.chunks(rows_per_chunk=1):
            drains.feed(chunk)
        assert drains.finish() == [2]
