"""The fused engine writes the same tables as the reference, byte for byte, on every bundled trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from memtrace.run import replay


@pytest.mark.parametrize(
    ("trace", "start"),
    [
        ("hello.csv", None),
        ("build-and-serve-6.18-first20k.csv", None),
        ("build-and-serve-6.18.parquet", "build-and-serve-6.18/start"),
    ],
)
def test_equal_tables(bundled: Path, tmp_path: Path, trace: str, start: str | None) -> None:
    runs = [
        replay(bundled / trace, start=bundled / start if start else None, engine=engine, out=tmp_path / engine,
               report=False)
        for engine in ("fused", "reference")
    ]
    fused, reference = (sorted((run.path / "metrics").iterdir()) for run in runs)
    assert [file.name for file in fused] == [file.name for file in reference]
    assert len(fused) >= 12
    for a, b in zip(fused, reference, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name
