"""A fresh recording of this machine with perf, for tests that compare with perf's own programs."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

FINISHED_ROUND = 68
EVENT_TYPE = 65
"""A kind of record that perf passes over, since only old files of pipes have it."""


def perf(*args: object, cwd: Path | None = None) -> str:
    """What perf prints; its warnings go elsewhere."""
    run = subprocess.run(["perf", *map(str, args)], capture_output=True, text=True, cwd=cwd, errors="replace")
    assert run.returncode == 0, run.stderr
    return run.stdout


def record(folder: Path) -> Path:
    """
    A perf.data of the kmem events of all CPUs while some files are read; skips where perf cannot record.

    Returns
    -------
    The file.
    """
    if shutil.which("perf") is None:
        pytest.skip("perf is not installed")
    out = folder / "perf.data"
    command = ["perf", "record", "-q", "-m", "4M", "-e", "kmem:*", "-a", "-o", str(out), "--"]
    work = ["sh", "-c", "for i in 1 2 3; do ls -lR /usr/bin /etc >/dev/null 2>&1; done"]
    run = subprocess.run([*command, *work], capture_output=True, text=True)
    if run.returncode != 0 or not out.exists():
        pytest.skip(f"perf cannot record here: {' '.join(run.stderr.split())[:200]}")
    return out


def sorted_wholly(data: Path) -> Path:
    """
    The same recording, of which perf puts all events in order of time before it looks at any.

    perf sorts by rounds: when it has emptied all buffers twice, it takes what it has up to the first time for complete.
    A CPU of a busy (virtual) machine that is stopped between taking an event's time and publishing it comes later
    than that, and perf then handles the event where it happens to be. Without marks of rounds it sorts at the end.
    """
    out = data.with_name("sorted.data")
    content = bytearray(data.read_bytes())
    at, length = struct.unpack_from("<QQ", content, 40)
    end = at + length
    while at < end:
        kind, _, size = struct.unpack_from("<IHH", content, at)
        if kind == FINISHED_ROUND:
            struct.pack_into("<I", content, at, EVENT_TYPE)
        at += size
    out.write_bytes(content)
    return out
