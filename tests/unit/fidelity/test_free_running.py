"""When a snapshot's files are compared with a free-running replay."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest

from memtrace.fidelity.free_running import DRAIN_COUNT, GIVEN_BACK, REFILL_COUNT, UNKNOWN_LIMITS, _Comparison
from memtrace.fidelity.recording import Recording, Snapshot
from memtrace.fidelity.table import Table
from memtrace.kernels import load_kernel
from memtrace.snapshot.proc import read_proc

MARKERS = pd.DataFrame({
    "t_ns": [10, 20, 50, 60, 70, 90],
    "row": [1, 2, 5, 6, 7, 9],
    "text": ["SNAP_BEGIN start", "SNAP_FILE /proc/slabinfo", "SNAP_BEGIN end", "SNAP_FILE /proc/buddyinfo",
             "SNAP_FILE /proc/slabinfo", "SNAP_END end"],
})
LAST_SAMPLE = 100


@pytest.mark.parametrize(
    ("row", "file", "t_ns"),
    [
        (5, "/proc/slabinfo", 70),      # its own marker, not that of the snapshot before
        (1, "/proc/slabinfo", 20),
        (5, "/proc/zoneinfo", 50),      # none: when the snapshot was begun, for reading it is in the trace behind that
        (-1, "/proc/slabinfo", LAST_SAMPLE),
    ],
)
def test_a_file_is_compared_when_it_was_read(row: int, file: str, t_ns: int) -> None:
    tables = {"markers": MARKERS, "zones": pd.DataFrame({"t_ns": [0, LAST_SAMPLE]})}
    start = SimpleNamespace(dump=object(), folder=Path())
    comparison = _Comparison(cast(Any, SimpleNamespace(start=start)), cast(Any, None),
                             cast(Any, SimpleNamespace(table=tables.__getitem__)))
    assert comparison.file_ns(Snapshot("end", Path(), row, None, True), file) == t_ns


PAGES = ("mm_page_alloc_zone_locked", "mm_page_alloc", "mm_page_free", "mm_page_pcpu_drain")


def page_rows(folder: Path, rows: list[tuple[int, int, int]]) -> Path:
    """A text trace of (index into PAGES, pfn, order) on CPU 0."""
    path = folder / "trace.txt"
    path.write_text("".join(
        f" wl-7 [000] ..... 1.{i:06d}: {PAGES[event]}: page=0x1 pfn={pfn:#x} order={order}"
        + (" migratetype=1" if event != 2 else "") + (" gfp_flags=GFP_KERNEL" if event == 1 else "")
        + (" percpu_refill=1" if event == 0 else "") + "\n"
        for i, (event, pfn, order) in enumerate(rows)), encoding="utf-8")  # fmt: skip
    return path


def test_drains_that_no_free_caused_are_compared_in_pages(tmp_path: Path) -> None:
    """
    One refill of two huge pages and one of two pages; a drain of three blocks behind a free; and, behind a row that is
    no free, what the statistics worker gave back: 512 + 1 pages.
    """
    rows = [(0, 0x10000, 9), (0, 0x10200, 9), (1, 0x10000, 9), (0, 0x5000, 0), (0, 0x5001, 0), (1, 0x5000, 0),
            (2, 0x5000, 0), (3, 0x5001, 0), (3, 0x6000, 0), (3, 0x7000, 0),
            (1, 0x8000, 0), (3, 0x10200, 9), (3, 0x9000, 0)]  # fmt: skip
    known = read_proc(Path(__file__).parents[3] / "traces" / "build-and-serve-6.18" / "start")
    recording = Recording(page_rows(tmp_path, rows), "slub", load_kernel("6.18"))
    model = pd.DataFrame({"t_ns": [5], "node": [0], "zone": ["DMA32"], "cpu": [0], "refills": [3], "drains": [1],
                          "given_back": [500]})
    run = SimpleNamespace(table={"markers": MARKERS, "pcp": model}.__getitem__)
    table = Table()
    comparison = _Comparison(recording, table, cast(Any, run))
    comparison.first_proc = known
    comparison.count_page_events()
    assert [(row.what, row.compared, row.wrong) for row in table.rows] == [
        (REFILL_COUNT, 2, 1), (DRAIN_COUNT, 1, 0), (GIVEN_BACK, 513, 13)]
    assert table.notes == [UNKNOWN_LIMITS]
