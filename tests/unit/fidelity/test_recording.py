"""Which snapshots belong to a trace, in which order, and which allocator they show."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from memtrace.errors import ConfigError
from memtrace.fidelity.recording import read_recording


def test_bare_trace(bundled: Path) -> None:
    recording = read_recording(bundled / "hello.csv")
    assert (recording.allocator, recording.start, recording.later, recording.first_row) == ("slub", None, [], 0)


def test_snapshots_without_markers_stand_at_the_ends(bundled: Path, tmp_path: Path) -> None:
    """By their names: what is called start is before the trace, anything else behind it."""
    proc = bundled / "build-and-serve-6.18" / "start"
    for name in ("end", "start", "after"):
        shutil.copytree(proc, tmp_path / name)
    recording = read_recording(bundled / "hello.csv", tmp_path)
    assert recording.start is not None
    assert recording.start.name == "start"
    assert [later.name for later in recording.later] == ["after", "end"]
    assert recording.first_row == 0


def test_one_snapshot_folder(bundled: Path) -> None:
    recording = read_recording(bundled / "hello.csv", bundled / "build-and-serve-6.18" / "start")
    assert recording.start is not None
    assert (recording.start.name, recording.later) == ("start", [])


def test_allocator_as_the_files_show(bundled: Path, tmp_path: Path) -> None:
    shutil.copytree(bundled / "build-and-serve-6.18" / "start", tmp_path / "start")
    for name in ("sys_kernel_slab.json", "slabinfo"):
        (tmp_path / "start" / name).unlink(missing_ok=True)
    slabinfo = "slabinfo - version: 2.1 (statistics)\na 1 1 8 1 1 : tunables 1 1 1 : slabdata 1 1 0 : globalstat 1\n"
    (tmp_path / "start" / "slabinfo").write_text(slabinfo)
    assert read_recording(bundled / "hello.csv", tmp_path).allocator == "slab"
    assert read_recording(bundled / "hello.csv", tmp_path, allocator="slob").allocator == "slob"


def test_no_such_snapshot(bundled: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        read_recording(bundled / "hello.csv", tmp_path / "none")
    with pytest.raises(ConfigError, match='no snapshot "later"'):
        read_recording(bundled / "hello.csv", bundled / "build-and-serve-6.18" / "start", begin="later")
