"""Do the benchmarks measure what they say?"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import naive
from loop_trace import loop_trace
from perf_text import write_perf_text
from stage import NoRecorder, Stage

from memtrace.schedule.clock import play
from memtrace.schedule.costs import CostTable
from memtrace.trace.source import open_trace


@pytest.fixture(scope="module")
def small(bundled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "small.parquet"
    pq.write_table(pq.read_table(bundled / "build-and-serve-6.18.parquet").slice(30_000, 4_000), path)
    return path


def test_the_naive_design_does_the_same_work(small: Path) -> None:
    stage = Stage(small)
    plain, fused = stage.dispatcher(), stage.dispatcher()
    operations, end_ns = naive.play(plain, stage, CostTable.load())
    played = play(
        fused, stage, CostTable.load(), NoRecorder(), cpus=stage.cpus, nr_locks=fused.machine.nr_locks(),
        sample_ns=10**7, end_ns=stage.end_ns,
    )  # fmt: skip
    assert operations == played.operations > 2_000
    assert end_ns >= stage.end_ns


def test_a_looped_trace_repeats_itself_later(small: Path, tmp_path: Path) -> None:
    one = pq.read_table(small)
    rows = loop_trace(small, tmp_path / "long.parquet", 10_000)
    long = pq.read_table(tmp_path / "long.parquet")
    assert rows == len(long) == 3 * len(one)
    times = long["ts_ns"].to_numpy()
    assert (times[1:] >= times[:-1]).all()
    assert long["ptr"].slice(2 * len(one)).combine_chunks().equals(one["ptr"].combine_chunks())
    assert pq.ParquetFile(tmp_path / "long.parquet").num_row_groups == 3


def test_perf_text_reads_back_to_the_same_rows(small: Path, tmp_path: Path) -> None:
    write_perf_text(small, tmp_path / "trace.txt")
    with open_trace(small) as a, open_trace(tmp_path / "trace.txt") as b:
        before, after = next(a.chunks()), next(b.chunks())
        names = [a.vocab.event.names[code] for code in before.event_name]
        written = np.array([not name.startswith(("percpu", "marker")) for name in names])
        assert written.sum() == len(after) > 3_000
        for column in ("event", "ptr", "cpu", "bytes_req", "bytes_alloc", "order", "migratetype", "pfn"):
            assert (getattr(before, column)[written] == getattr(after, column)).all(), column
