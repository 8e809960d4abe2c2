"""Replays in which CPUs come and go: by option and by trace event, the same in both engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from memtrace.errors import ConfigError
from memtrace.run import Run, replay

TRACE = "build-and-serve-6.18-first20k.csv"


def tables(run: Run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run.path / "metrics").iterdir()}


@pytest.mark.parametrize("allocator", ["slub", "slab", "slob"])
def test_engines_agree_while_cpus_come_and_go(bundled: Path, tmp_path: Path, allocator: str) -> None:
    fused, reference = (
        replay(bundled / TRACE, engine=engine, out=tmp_path / engine, report=False, check=True, allocator=allocator,
               hotplug=["cpu1 off @5ms, cpu1 on @20ms", "cpu0 off @30ms"])
        for engine in ("fused", "reference")
    )
    assert tables(fused) == tables(reference)
    events = fused.table("events")
    hotplug = events[events.kind == "hotplug"]
    assert hotplug.t_ns.tolist() == [5_000_000, 20_000_000, 30_000_000]
    assert hotplug.cpu.tolist() == [1, 1, 0]
    assert "taker=0" in hotplug.arguments.iloc[0]
    assert fused.manifest["counts"]["moved_to_online_cpu"] > 1000
    assert any("offline" in note for note in fused.manifest["notes"])


def test_an_offline_cpu_does_nothing(bundled: Path, tmp_path: Path) -> None:
    run = replay(bundled / TRACE, out=tmp_path / "run", report=False, hotplug=["cpu1 off @0"])
    assert set(run.table("latency").cpu) == {0}
    plain = replay(bundled / TRACE, out=tmp_path / "plain", report=False)
    assert set(plain.table("latency").cpu) == {0, 1}
    assert run.manifest["operations"] == plain.manifest["operations"]


def test_trace_events(tmp_path: Path) -> None:
    """cpu_offline in a trace; the last CPU online stays, and is counted."""
    rows = ["ts_ns,cpu,event,ptr,bytes_req,text"]
    for i in range(40):
        rows.append(f"{1000 * i},{i % 2},kmalloc,{4096 + 64 * i},64,")
    rows.insert(11, "9500,0,cpu_offline,,,cpu=1")
    rows.insert(20, "17500,0,cpu_offline,,,cpu=0")
    rows.insert(31, "27500,0,cpu_online,,,cpu=1")
    trace = tmp_path / "t.csv"
    trace.write_text("\n".join(rows) + "\n")
    runs = [replay(trace, cpus=2, memory="64M", engine=engine, out=tmp_path / engine, report=False, check=True)
            for engine in ("fused", "reference")]
    assert tables(runs[0]) == tables(runs[1])
    counts = runs[0].manifest["counts"]
    assert counts["cpu_event"] == 3
    assert counts["cpu_event_ignored"] == 1
    events = runs[0].table("events")
    assert events[events.kind == "hotplug"].t_ns.tolist() == [9500, 27500]
    assert counts["moved_to_online_cpu"] == 9


def test_the_last_cpu_is_refused_before_anything_is_read(bundled: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="last online CPU"):
        replay(bundled / TRACE, out=tmp_path / "run", hotplug=["cpu0 off @1ms", "cpu1 off @1ms"])
