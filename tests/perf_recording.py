"""A fresh recording of this machine with perf, for tests that compare with perf's own programs."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

LOST = 2
LOST_SAMPLES = 13
EVENT_TYPE = 65
"""A kind of record that perf passes over, since only old files of pipes have it."""
FINISHED_ROUND = 68
BUFFERS = ("4M", "16M", "64M")
"""Of each CPU: the next is tried when events were lost, as on a machine that does other things meanwhile."""
WORK = "ls -lR /usr/bin /etc >/dev/null 2>&1; :"


def _run(*args: object) -> subprocess.CompletedProcess[str]:
    """perf without the user's settings, numbers written without separators."""
    return subprocess.run(["perf", *map(str, args)], capture_output=True, encoding="utf-8", errors="replace",
                          env={**os.environ, "LC_ALL": "C", "PERF_CONFIG": os.devnull})  # fmt: skip


def perf(*args: object) -> str:
    """What perf prints; its warnings go elsewhere. Skips where perf was built without that program."""
    run = _run(*args)
    if "is not a perf-command" in run.stderr:
        pytest.skip(f"perf has no {args[0]} here")
    assert run.returncode == 0, run.stderr
    return run.stdout


def record(folder: Path) -> Path:
    """
    A perf.data of the kmem events of all CPUs while some files are read, from which none is lost.

    Skips where perf cannot record, or not name call sites, and where events are lost whatever the size of the buffers.
    """
    needs_symbols()
    lost = 0
    for size in BUFFERS:
        out = record_once(folder, size, WORK)
        lost = _lost(out.read_bytes())
        if not lost:
            return out
    pytest.skip(f"{lost} events were lost with buffers of {size} for each CPU: this machine is too busy")


def record_once(folder: Path, buffers: str = BUFFERS[0], work: str = "true") -> Path:
    """A perf.data of the kmem events of all CPUs during a command of the shell; skips where perf cannot record."""
    if shutil.which("perf") is None:
        pytest.skip("perf is not installed")
    out = folder / "perf.data"
    # Without build IDs: those would be copied to the user's own folder.
    run = _run("record", "-q", "-B", "-N", "-m", buffers, "-e", "kmem:*", "-a", "-o", out, "--", "sh", "-c", work)
    if run.returncode != 0 or not out.exists():
        pytest.skip(f"perf cannot record here: {' '.join(run.stderr.split())[:200]}")
    return out


def _records(content: bytes | bytearray) -> Iterator[tuple[int, int, int]]:
    """(place, kind, bytes) of each record."""
    at, length = struct.unpack_from("<QQ", content, 40)
    end = at + length
    while at < end:
        kind, _, size = struct.unpack_from("<IHH", content, at)
        yield at, kind, size
        at += size


def _lost(content: bytes) -> int:
    """Events that perf says it has lost; its sums at the end may count again what it said before."""
    places = {LOST: 16, LOST_SAMPLES: 8}
    return sum(struct.unpack_from("<Q", content, at + places[kind])[0] for at, kind, _ in _records(content)
               if kind in places)  # fmt: skip


def sorted_wholly(data: Path) -> Path:
    """
    The same recording, of which perf puts all events in order of time before it looks at any.

    perf sorts by rounds: when it has emptied all buffers twice, it takes what it has up to the first time for complete.
    A CPU of a busy (virtual) machine that is stopped between taking an event's time and publishing it comes later
    than that, and perf then handles the event where it happens to be. Without marks of rounds it sorts at the end.
    """
    out = data.with_name("sorted.data")
    content = bytearray(data.read_bytes())
    for at, kind, _ in _records(bytes(content)):
        if kind == FINISHED_ROUND:
            struct.pack_into("<I", content, at, EVENT_TYPE)
    out.write_bytes(content)
    return out


def needs_symbols() -> None:
    """Skips where the kernel hides the places of its functions, so that programs cannot name call sites."""
    if not any(place for places in _addresses().values() for place in places):
        pytest.skip("the kernel's symbols are hidden here (kptr_restrict, CAP_SYSLOG)")


@cache
def _addresses() -> dict[str, frozenset[int]]:
    """Each function of the running kernel: the addresses that have this name."""
    found: dict[str, set[int]] = {}
    try:
        lines = Path("/proc/kallsyms").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        address, _, name, *_ = line.split()
        found.setdefault(name, set()).add(int(address, 16))
    return {name: frozenset(places) for name, places in found.items()}


def same_place(ours: str, theirs: str) -> bool:
    """
    Whether two call sites, "function+0x1" and whatever stands behind it, are one place in the running kernel.

    A function may have several names, of which each program takes another; modules are named by some programs only.
    """
    one, other = (site.split(" ")[0].split("/")[0] for site in (ours, theirs))
    if one == other:
        return True
    (name, _, offset), (other_name, _, other_offset) = one.rpartition("+"), other.rpartition("+")
    places = _addresses()
    return offset == other_offset and bool(places.get(name, frozenset()) & places.get(other_name, frozenset()))
