"""
Three boots of one 32-bit 3.x kernel, one under each allocator: what kmalloc gave, and what it would have given.

The workloads are nearly the same, so the log of one allocator predicts what the others waste.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import memtrace as mt
from memtrace.kernels import load_kernel
from memtrace.machines import load_machine
from memtrace.mm.boot import boot
from memtrace.mm.gfp import GFP_KERNEL
from memtrace.trace.schema import EV_KMALLOC
from memtrace.trace.source import open_trace

ALLOCATORS = ("slab", "slub", "slob")
RECORDED = {"slab": 33.67, "slub": 25.93, "slob": 26.56}
"""Waste of kmalloc in each log: bytes given and not asked for, in percent of the bytes given."""
POINTS = 0.2
"""How far a prediction may be off. Measured from the SLAB log: SLUB 25.95, SLOB 26.48."""


def log(ground_truth: Path, allocator: str) -> Path:
    return ground_truth / "linux-3.x_boot" / f"kmem_{allocator.upper()}.log.gz"


def kmalloc_waste(run: mt.Run) -> float:
    """In percent. A kmalloc belongs to a kmalloc cache, to one of SLOB's lists, or to no cache."""
    sites = run.table("callsites")
    names = sites.cache.astype(str)
    own = sites[sites.cache.isna() | names.str.startswith("kmalloc-") | names.str.startswith("slob ")]
    return float(100 - 100 * own.bytes_requested.sum() / own.bytes_allocated.sum())


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_every_kmalloc(ground_truth: Path, allocator: str) -> None:
    """bytes_alloc of every row."""
    machine = boot(load_machine("vm-512m-4cpu", 1, None, None), load_kernel("6.1"), 0, allocator)
    rows = wrong = 0
    with open_trace(log(ground_truth, allocator), columns=("event", "bytes_req", "bytes_alloc")) as reader:
        for chunk in reader.chunks(1 << 16):
            at = chunk.event == EV_KMALLOC
            for asked, given in zip(chunk.bytes_req[at].tolist(), chunk.bytes_alloc[at].tolist(), strict=True):
                machine.it.reset()
                machine.kmalloc(asked, GFP_KERNEL, -1, 0)
                rows += 1
                wrong += machine.last_bytes != given
    assert rows > 2000
    assert wrong == 0


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_waste_from_its_own_log_and_from_slab_s(ground_truth: Path, tmp_path: Path, allocator: str) -> None:
    own = mt.replay(log(ground_truth, allocator), allocator=allocator, out=tmp_path / "own", report=False, check=True)
    assert kmalloc_waste(own) == pytest.approx(RECORDED[allocator], abs=0.005)
    other = mt.replay(log(ground_truth, "slab"), allocator=allocator, out=tmp_path / "other", report=False)
    assert kmalloc_waste(other) == pytest.approx(RECORDED[allocator], abs=POINTS)
