"""
The kernel's formulas, against what recorded kernels computed: sizes, slab geometry, watermarks, per-CPU list limits.

No tolerance: every number must be equal.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from memtrace.config import KernelConfig, SlubParams, VmParams
from memtrace.machines import load_machine, machine_from_exact
from memtrace.mm.boot import boot, build, min_free_kbytes
from memtrace.mm.machine import Machine
from memtrace.snapshot.exact import read_exact
from memtrace.snapshot.exact_dump import ExactDump
from memtrace.trace.gfp import parse_gfp
from memtrace.trace.schema import EV_KMALLOC
from memtrace.trace.source import open_trace

SLUB_RUNS = ("slub_std_512m", "slub_press_256m", "slub_std_numa2_1g", "i386_slub_std_1536m")
ALL_RUNS = (*SLUB_RUNS, "slab_std_512m", "slob_std_512m")
KMALLOC_TRACES = (*(f"{run}/trace.parquet" for run in SLUB_RUNS), "debcloud_std_512m/trace.parquet",
                  "linux-6.18_find_tar/trace.parquet", "linux-3.x_boot/kmem_SLUB.log.gz")
LATER = ("start", "after", "end")


GEOMETRY = ("size", "align", "offset", "order", "objs", "min_order", "min_objs", "min_partial", "cpu_partial",
            "cpu_partial_slabs", "allocflags")
OURS = {"objs": "objects", "min_objs": "min_objects"}
"""What the model calls fields that the dump names otherwise."""


@cache
def dump_of(folder: Path) -> ExactDump:
    return read_exact(folder / "gt_snap.txt.gz")


def dump(ground_truth: Path, run: str, name: str) -> ExactDump:
    return dump_of(ground_truth / run / "snapshots" / name)


# -- sizes --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def any_machine() -> Machine:
    return boot(load_machine("vm-512m-4cpu"), KernelConfig())


@pytest.mark.parametrize("trace", KMALLOC_TRACES, ids=[trace.split("/")[0] for trace in KMALLOC_TRACES])
def test_kmalloc_bytes_alloc(ground_truth: Path, any_machine: Machine, trace: str) -> None:
    """For every kmalloc of every SLUB kernel from 3.x to 6.18 (MODEL 5.1, 5.3)."""
    asked: dict[tuple[int, int, int], int] = {}
    with open_trace(ground_truth / trace) as reader:
        for chunk in reader.chunks():
            rows = chunk.event == EV_KMALLOC
            columns = np.stack([chunk.bytes_req[rows], chunk.bytes_alloc[rows], chunk.gfp_flags[rows].astype(np.int64)])
            for key, n in _unique(columns):
                asked[key] = asked.get(key, 0) + n
        gfp_names = reader.vocab.gfp.names
    wrong = 0
    for (bytes_req, bytes_alloc, gfp), n in asked.items():
        addr = any_machine.kmalloc(bytes_req, parse_gfp(gfp_names[gfp]), -1, 0)
        wrong += n * (any_machine.last_bytes != bytes_alloc)
        if addr:
            any_machine.kfree(addr, 0)
    assert sum(asked.values()) > 1000
    assert wrong == 0


def _unique(columns: np.ndarray) -> list[tuple[tuple[int, int, int], int]]:
    """Distinct columns and how often each occurs."""
    values, counts = np.unique(columns, axis=1, return_counts=True)
    return [((int(a), int(b), int(c)), int(n)) for (a, b, c), n in zip(values.T, counts, strict=True)]


# -- slab geometry ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", SLUB_RUNS)
def test_slab_geometry(ground_truth: Path, run: str) -> None:
    """Of every cache of every dump, from what its creator asked for (MODEL 6.2-6.4, 6.9)."""
    checked = 0
    machine = build(machine_from_exact(dump(ground_truth, run, "start")), KernelConfig(slub=SlubParams()))
    for name in ("boot", *LATER):
        for known in dump(ground_truth, run, name).slub:
            index = machine.slab.create_cache(
                f"{name} {known.name}", known.object_size, known.align, known.flags, known.ctor, merge=False
            )
            s = machine.slab.caches[index]
            found = {field: getattr(s, OURS.get(field, field)) for field in GEOMETRY}
            wanted = {field: getattr(known, field) for field in GEOMETRY}
            if known.refcount != 1:
                # The largest of the merged caches' object sizes; the free pointer is where the first one's size put it.
                found["offset"] = wanted["offset"]
            assert found == wanted, f"{run} {name}: {known.name}"
            checked += 1
    assert checked > 300


# -- zones --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ALL_RUNS)
def test_watermarks_and_list_limits(ground_truth: Path, run: str) -> None:
    """
    From the boot dump's ``managed``, which the kernel used; memory freed later changes nothing (EXACT B 2.4).

    min, low, high, lowmem_reserve, batch and high of every zone of every dump after boot.
    """
    config = machine_from_exact(dump(ground_truth, run, "boot"))
    machine = build(config, KernelConfig())
    checked = 0
    for name in LATER:
        for known in dump(ground_truth, run, name).zones:
            zone = next(z for z in machine.pages.zones if (z.node, z.name) == (known.node, known.name))
            where = f"{run} {name}: node {known.node} {known.name}"
            assert (zone.watermark_min, zone.watermark_low, zone.watermark_high) == (
                known.min, known.low, known.high), where
            assert tuple(zone.lowmem_reserve)[: len(known.lowmem_reserve)] == known.lowmem_reserve, where
            for pcp in known.pcp:
                assert (zone.pcp[pcp.cpu].batch, zone.pcp[pcp.cpu].high) == (pcp.batch, pcp.high), where
                checked += 1
    assert checked >= 3 * 2 * 4


@pytest.mark.parametrize("run", ALL_RUNS)
def test_min_free_kbytes(ground_truth: Path, run: str) -> None:
    """
    Not dumped, but the zones' marks bound it: each is its share of it, rounded down to a page.

    isqrt(16 * low memory in KiB), MODEL 2.8.1.
    """
    low = [z for z in dump(ground_truth, run, "start").zones if z.name not in ("HighMem", "Movable")]
    pages = sum(z.min for z in low)
    expected = min_free_kbytes(machine_from_exact(dump(ground_truth, run, "boot")), VmParams()) // 4
    assert pages <= expected <= pages + len(low) - 1
