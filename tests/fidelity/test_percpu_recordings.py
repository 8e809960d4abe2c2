"""Every per-CPU area of every recording, placed by the model where the kernel placed it."""

from __future__ import annotations

from pathlib import Path

import pytest

from memtrace.fidelity import percpu
from memtrace.fidelity.percpu import force_percpu
from memtrace.fidelity.recording import read_recording
from memtrace.fidelity.table import Row, Table

SLOW = pytest.mark.slow


def compared(ground_truth: Path, run: str) -> Table:
    folder = ground_truth / run
    table = Table()
    snapshots = folder / "snapshots"
    force_percpu(read_recording(folder / "trace.parquet", snapshots if snapshots.is_dir() else None), table)
    return table


def rows(table: Table, what: str) -> list[Row]:
    return [row for row in table.rows if row.what == what]


@pytest.mark.parametrize(
    ("run", "areas"),
    [
        ("slob_std_512m", 340),
        ("slub_std_512m", 400),
        pytest.param("slub_std_numa2_1g", 402, marks=SLOW),
        pytest.param("slub_press_256m", 384, marks=SLOW),
    ],
)
def test_areas_chunks_and_hints_are_the_kernels(ground_truth: Path, run: str, areas: int) -> None:
    table = compared(ground_truth, run)
    assert [(row.compared, row.equal) for row in rows(table, percpu.PLACES)] == [(areas, areas)]
    assert [(row.compared, row.equal) for row in rows(table, percpu.SIZES)] == [(areas, areas)]
    assert [(row.compared, row.equal) for row in rows(table, percpu.CHUNKS)] == [(1, 1)]
    assert len(rows(table, percpu.STATS)) == 3, "start, after, end"
    assert all(row.wrong == 0 for row in table.rows), table.differences


@pytest.mark.slow
def test_slab_differs_by_when_the_worker_came(ground_truth: Path) -> None:
    """Its two missing empty pages were populated by a run of the worker that came later than asked for."""
    table = compared(ground_truth, "slab_std_512m")
    assert [(row.compared, row.equal) for row in rows(table, percpu.PLACES)] == [(442, 442)]
    assert {(d.what, d.item, d.size) for d in table.differences} == {(percpu.STATS, "chunk 1 empty_pop_pages", 2)}


@pytest.mark.slow
@pytest.mark.parametrize(("run", "areas"), [("debcloud_std_512m", 786), ("linux-6.18_find_tar", 856)])
def test_kernels_as_people_run_them(ground_truth: Path, run: str, areas: int) -> None:
    """With memory control groups an area takes more, and what is older than the trace shows by being passed over."""
    table = compared(ground_truth, run)
    assert [(row.compared, row.equal) for row in rows(table, percpu.PLACES)] == [(areas, areas)]
    assert [(row.compared, row.equal) for row in rows(table, percpu.SIZES)] == [(areas, areas)]


@pytest.mark.slow
def test_thirty_two_bits(ground_truth: Path) -> None:
    """One free is recorded behind the allocations that used its room (the clock stood still): EXACT B 3.6."""
    table = compared(ground_truth, "i386_slub_std_1536m")
    (places,) = rows(table, percpu.PLACES)
    assert places.compared == 400
    assert places.equal >= 340
    assert rows(table, percpu.SIZES)[0].wrong == 0
    assert rows(table, percpu.LAYOUT)[0].wrong == 0
