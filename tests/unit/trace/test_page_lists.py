"""Per-CPU page lists at a trace's start, as its rows tell."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from memtrace.trace.census import take_census
from memtrace.trace.page_lists import REFILL_SHIFT, PageLists, PageListsSeen
from memtrace.trace.source import open_trace

ALLOC, FREE, LOCKED, DRAIN = "mm_page_alloc", "mm_page_free", "mm_page_alloc_zone_locked", "mm_page_pcpu_drain"
Row = tuple[int, str, int, int, int]
"""CPU, event, pfn, order, migratetype."""


def written(folder: Path, rows: list[Row]) -> Path:
    path = folder / "trace.txt"
    path.write_text("".join(
        f" wl-7 [{cpu:03d}] ..... 1.{i:06d}: {event}: page=0x1 pfn={pfn:#x} order={order}"
        + (f" migratetype={mt}" if event != FREE else "") + (" gfp_flags=GFP_KERNEL" if event == ALLOC else "")
        + (" percpu_refill=1" if event == LOCKED else "") + "\n"
        for i, (cpu, event, pfn, order, mt) in enumerate(rows)), encoding="utf-8")  # fmt: skip
    return path


def read(path: Path, rows_per_chunk: int) -> PageLists:
    seen = PageListsSeen()
    with open_trace(path) as reader:
        for chunk in reader.chunks(rows_per_chunk):
            seen.feed(chunk)
    return seen.finish()


def plain(rows: list[Row]) -> PageLists:
    """The same row by row."""
    found = PageLists()
    named = set()
    for cpu, event, pfn, order, mt in rows:
        mt = mt if mt < 3 else 1
        key = (cpu, order, mt)
        listed = order in (0, 1, 2, 3, 9)
        if event == LOCKED and listed:
            found.refilled.add((*key, pfn >> REFILL_SHIFT))
        if event != FREE:
            found.types.setdefault(pfn >> 9, mt)
        if pfn not in named and listed and event in (ALLOC, DRAIN):
            (found.first if event == ALLOC else found.last).setdefault(key, []).append(pfn)
        named.add(pfn)
    return found if any(event == LOCKED for _, event, *_ in rows) else PageLists()


@pytest.mark.parametrize("seed", range(10))
def test_random_traces_in_chunks_of_any_size(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    rows = [(rng.randrange(2), rng.choice((ALLOC, ALLOC, FREE, LOCKED, DRAIN)),
             rng.choice((1, 5000, 1 << 20)) * rng.randrange(1, 40), rng.choice((0, 0, 0, 1, 3, 4, 9)), rng.randrange(4))
            for _ in range(80)]  # fmt: skip
    path = written(tmp_path, rows)
    for chunk in (1, 7, 1000):
        assert read(path, chunk) == plain(rows)
    with open_trace(path) as reader:
        assert take_census(reader).page_lists == plain(rows)


def test_a_list_by_hand(tmp_path: Path) -> None:
    """3, 2 and 9 lay on CPU 0's list, 3 at its head and 9 at its tail; 4 came with a refill, 5 was in use."""
    rows = [(0, ALLOC, 3, 0, 1), (0, ALLOC, 2, 0, 1), (0, FREE, 5, 0, -1), (0, DRAIN, 9, 0, 1), (0, FREE, 3, 0, -1),
            (0, LOCKED, 4, 0, 1), (0, ALLOC, 4, 0, 1), (0, ALLOC, 3, 0, 1)]  # fmt: skip
    found = read(written(tmp_path, rows), 100)
    assert (found.first, found.last) == ({(0, 0, 1): [3, 2]}, {(0, 0, 1): [9]})
    assert found.refilled == {(0, 0, 1, 0)} and found.types == {0: 1}


def test_a_trace_without_rows_of_the_buddy_system_tells_nothing(tmp_path: Path) -> None:
    """Then every page handed out would seem to have been on a list."""
    assert read(written(tmp_path, [(0, ALLOC, 3, 0, 1)]), 100) == PageLists()
