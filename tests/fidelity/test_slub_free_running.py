"""
SLUB free-running from the `start` dump: do slabs, and every cache's and CPU's fast and slow calls, stay the kernel's?

Single objects part early and for good; these numbers must not (EXACT C 1.4). Two nodes are let twice the tolerance,
a machine under pressure four times.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from memtrace.fidelity import free_running as fr
from memtrace.fidelity.recording import Recording, read_recording
from memtrace.fidelity.table import Row, Table
from memtrace.run import Run
from memtrace.trace.census import take_census
from memtrace.trace.pairing import RequestStream
from memtrace.trace.requests import RQ_CACHE_ALLOC
from memtrace.trace.source import open_trace

TOLERANCE = {"slub_std_512m": 1, "slub_std_numa2_1g": 2, "slub_press_256m": 4}
FAST_SLOW = 0.005
"""Measured: 0.09 %, 0.06 % and 0."""
PAGE_EVENTS = 0.04
"""Measured: refills 1.6 %, drains 2.0 % and 1.3 %."""
TOTAL = 0.01
"""Measured: at most 0.15 %."""
MANY, EACH, MOST = 20, 0.05, 0.9
"""
Caches of so many slabs, how far each may be off, and how many of them must be within that, over both dumps. Measured:
31 of 34, 39 of 41 within 5 %, and 30 of 30. On slub_std_512m maple_node is off by 3 of 29 slabs after the workload and
kmalloc-512 by 4 of 69: a virtual CPU that the host had stopped between a row and its operation.
"""


class Replayed:
    """A recording and what its free-running replay came to."""

    def __init__(self, recording: Recording, table: Table, run: Run, tolerance: int) -> None:
        self.recording = recording
        self.table = table
        self.run = run
        self.tolerance = tolerance

    def rows(self, what: str) -> list[Row]:
        """One row for each later dump."""
        found = [row for row in self.table.rows if row.what == what]
        assert {row.where for row in found} == {"after", "end"}
        return found


def slabs_at(run: Run, marker: str) -> dict[str, int]:
    """Slabs by cache at a dump's marker; "" for the beginning."""
    markers, frame = run.table("markers"), run.table("caches")
    t_ns = markers[markers.text.str.strip() == marker].t_ns.iloc[0] if marker else frame.t_ns.min()
    frame = frame[frame.t_ns == t_ns]
    return {str(name): int(n) for name, n in zip(frame.cache, frame.num_slabs, strict=True)}


@pytest.fixture(scope="module", params=TOLERANCE)
def replayed(
    request: pytest.FixtureRequest, ground_truth: Path, tmp_path_factory: pytest.TempPathFactory
) -> Replayed:
    """A replay compared at every dump."""
    folder = ground_truth / request.param
    recording = read_recording(folder / "trace.parquet", folder / "snapshots")
    table = Table()
    run = fr.run_free(recording, table, tmp_path_factory.mktemp("free") / "run", lambda *_: None)
    return Replayed(recording, table, run, TOLERANCE[request.param])


def test_refills_and_drains_under_pressure(replayed: Replayed) -> None:
    """The recorded runs of kswapd say when lists are short and boosts end (without them 25 % of the drains are off)."""
    if replayed.recording.start is None or "press" not in replayed.recording.start.folder.parts[-3]:
        pytest.skip("a quiet recording")
    for what in (fr.REFILL_COUNT, fr.DRAIN_COUNT):
        for row in replayed.rows(what):
            assert row.wrong <= PAGE_EVENTS * row.compared, row


def test_fast_and_slow_calls(replayed: Replayed) -> None:
    """Summed absolute difference over caches and CPUs, maple_node apart."""
    for row in replayed.rows(fr.FAST_SLOW):
        assert row.compared > 250_000
        assert row.wrong <= FAST_SLOW * replayed.tolerance * row.compared, row


def test_slabs_of_all_caches(replayed: Replayed) -> None:
    for row in replayed.rows(fr.TOTAL_SLABS):
        assert row.compared > 2000
        assert row.wrong <= TOTAL * replayed.tolerance * row.compared, row


def test_slabs_of_each_large_cache(replayed: Replayed) -> None:
    large = within = 0
    for snapshot in replayed.recording.later:
        assert snapshot.dump is not None
        ours = slabs_at(replayed.run, snapshot.dump.marker)
        for name, real in fr.slabs_of(snapshot.dump).items():
            if real >= MANY:
                large += 1
                within += abs(ours.get(name, 0) - real) <= EACH * replayed.tolerance * real
    assert large >= 20
    assert within >= MOST * large


@pytest.fixture(scope="module")
def plain(ground_truth: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A recording as an unmodified kernel would have written it, and the name of each kmem_cache_alloc's cache."""
    table = pq.read_table(ground_truth / "slub_std_512m" / "trace.parquet")
    event = table["event"].cast(pa.string())
    keep = pc.invert(pc.starts_with(event, "gt_"))
    truth = table["gt_name"].cast(pa.string()).filter(pc.equal(event, "kmem_cache_alloc")).to_pylist()
    path = tmp_path_factory.mktemp("plain") / "trace.parquet"
    pq.write_table(table.drop(["gt_name"]).filter(keep), path)
    return path, truth


def test_caches_of_a_plain_trace(plain: tuple[Path, list[str]]) -> None:
    """Measured: all but 0.08 % of the allocations have their cache's name, and none a wrong one."""
    path, truth = plain
    with open_trace(path) as reader:
        census = take_census(reader)
        caches = [r.cache[(r.op == RQ_CACHE_ALLOC) & (r.flags == 0)] for r in RequestStream(reader, census)]
    names = np.array([cache.name for cache in census.caches])[np.concatenate(caches)]
    assert len(names) == len(truth) > 300_000
    unknown = np.char.startswith(names, "unknown:")
    assert unknown.mean() <= 0.005
    assert ((names != np.array(truth)) & ~unknown).mean() <= 0.0005


def test_change_of_slabs_of_a_plain_trace(
    plain: tuple[Path, list[str]], ground_truth: Path, tmp_path: Path
) -> None:
    """From `start` to `after`, all caches together, without a row on bulk operations."""
    recording = read_recording(plain[0], ground_truth / "slub_std_512m" / "snapshots")
    run = fr.run_free(recording, Table(), tmp_path / "run", lambda *_: None)
    assert recording.start is not None
    first, after = recording.start.dump, recording.later[0].dump
    assert first is not None
    assert after is not None
    real = sum(fr.slabs_of(after).values()) - sum(fr.slabs_of(first).values())
    ours = sum(slabs_at(run, after.marker).values()) - sum(slabs_at(run, "").values())
    assert real > 600
    assert abs(ours - real) <= 0.03 * real
