"""A fresh recording of this machine with perf, for tests that compare with perf's own programs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


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
