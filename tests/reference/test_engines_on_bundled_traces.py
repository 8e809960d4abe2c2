"""The fused engine writes the same tables as the reference, byte for byte, on every bundled trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from memtrace.compiled import status
from memtrace.run import Run, replay


@pytest.mark.parametrize(
    ("trace", "start"),
    [
        ("hello.csv", None),
        ("build-and-serve-6.18-first20k.csv", None),
        pytest.param("build-and-serve-6.18.parquet", "build-and-serve-6.18/start", marks=pytest.mark.skipif(
            status() != "compiled", reason="half a million events, which take minutes without a compiler")),
    ],
)
def test_equal_tables(bundled: Path, tmp_path: Path, trace: str, start: str | None) -> None:
    runs = [
        replay(bundled / trace, start=bundled / start if start else None, engine=engine, out=tmp_path / engine,
               report=False)
        for engine in ("fused", "reference")
    ]
    assert_equal_tables(*runs)


@pytest.mark.parametrize(("kernel", "allocator"), [
    ("6.18", "slub"), ("2.6.24", "slub"), ("2.6.24", "slab"), ("2.6.24", "slob"),
])
def test_equal_tables_under_other_kernels(bundled: Path, tmp_path: Path, kernel: str, allocator: str) -> None:
    """With the daemons of those, and the validators content."""
    runs = [
        replay(bundled / "build-and-serve-6.18-first20k.csv", engine=engine, kernel=kernel, allocator=allocator,
               out=tmp_path / engine, report=False, check=True)
        for engine in ("fused", "reference")
    ]
    assert_equal_tables(*runs)


@pytest.mark.parametrize("speed", [0.0, 1.0])
def test_equal_tables_closed(bundled: Path, tmp_path: Path, speed: float) -> None:
    """And nothing is freed that was not there in recorded timing, however far the CPUs drift apart."""
    runs = [
        replay(bundled / "build-and-serve-6.18-first20k.csv", engine=engine, out=tmp_path / engine, report=False,
               timing="closed", speed=speed, check=True)
        for engine in ("fused", "reference")
    ]
    assert_equal_tables(*runs)
    recorded = replay(bundled / "build-and-serve-6.18-first20k.csv", out=tmp_path / "recorded", report=False)
    assert runs[0].manifest["counts"]["free_of_nothing"] == recorded.manifest["counts"]["free_of_nothing"]


def assert_equal_tables(*runs: Run) -> None:
    fused, reference = (sorted((run.path / "metrics").iterdir()) for run in runs)
    assert [file.name for file in fused] == [file.name for file in reference]
    assert len(fused) >= 12
    for a, b in zip(fused, reference, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name
