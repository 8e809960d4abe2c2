"""With SLAB and its reaper, both engines write the same bytes; so does every trace replayed under it."""

from __future__ import annotations

from pathlib import Path

import memtrace as mt
from memtrace.metrics.schema import TABLES


def test_fused_equals_reference(root: Path, tmp_path: Path) -> None:
    """A recorded build and its server: 5 s, so that the reaper runs on every CPU."""
    trace = root / "traces" / "build-and-serve-6.18-first20k.csv"
    runs = [mt.replay(trace, allocator="slab", engine=engine, report=False, check=True, out=tmp_path / engine,
                      settings=["slab.limit=20"], memory="2G")
            for engine in ("fused", "reference")]
    assert runs[0].table("cpu_caches").allocmiss.max() > 10
    for table in TABLES:
        parts = [(run.path / "metrics" / f"{table.name}.parquet").read_bytes() for run in runs]
        assert parts[0] == parts[1], table.name
