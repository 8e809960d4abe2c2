"""A small machine and random requests for it, for tests of what drives the model."""

from __future__ import annotations

from typing import Any

import numpy as np

from memtrace.config import MachineConfig, ZoneConfig
from memtrace.kernels import load_kernel
from memtrace.mm.boot import boot
from memtrace.mm.machine import Machine
from memtrace.trace.requests import (
    FLAG_LAST,
    REQUEST_COLUMNS,
    RQ_BULK_ALLOC,
    RQ_BULK_FREE,
    RQ_CACHE_ALLOC,
    RQ_CACHE_FREE,
    RQ_KFREE,
    RQ_KFREE_NULL,
    RQ_KMALLOC,
    RQ_MARKER,
    RQ_PAGE_ALLOC,
    RQ_PAGE_FREE,
    Requests,
)

GFP_KERNEL = 0xCC0
CPUS = 4


def small_machine(pages: int = 8192) -> tuple[Machine, np.ndarray]:
    """Two nodes of two CPUs and two caches of its own; the machine and the map of trace caches to them."""
    half = pages // 2
    zones = tuple(ZoneConfig(node, "DMA32", 1, 4096 + node * half, half, half, half) for node in (0, 1))
    config = MachineConfig("small", CPUS, ((0, 1), (2, 3)), zones, distance=((10, 20), (20, 10)))
    machine = boot(config, load_kernel("6.1"))
    return machine, np.array([machine.slab.create_cache("dentry", 200), machine.slab.create_cache("inode_cache", 600)])


def rows(*given: dict[str, Any]) -> Requests:
    """Requests from dicts of columns; row i at 10 * i ns, node any, nothing recorded, unless said otherwise."""
    columns = {name: np.zeros(len(given), dtype) for name, dtype in REQUEST_COLUMNS}
    for i, row in enumerate(given):
        defaults = {"row": i, "ts_ns": 10 * i, "node": -1, "handle": -1, "cache": -1, "site": -1, "addr": -1,
                    "gfp": GFP_KERNEL}
        for name, value in {**defaults, **row}.items():
            columns[name][i] = value
    return Requests(**columns)


def random_requests(seed: int, n: int) -> Requests:
    """Well-formed requests: every kind, many at one instant, objects freed on any CPU, some page blocks in pieces."""
    rng = np.random.default_rng(seed)
    given: list[dict[str, Any]] = []
    live: list[tuple[int, str]] = []
    blocks: list[tuple[int, int]] = []
    free_handles, free_blocks = list(range(n)), list(range(n))
    ts = 0
    while len(given) < n:
        ts += int(rng.choice([0, 0, 3, 50, 2000]))
        cpu = int(rng.integers(CPUS))
        at = {"ts_ns": ts, "cpu": cpu, "site": int(rng.integers(6))}
        kind = rng.random()
        if kind < 0.5:
            what = str(rng.choice(["kmalloc", "cache", "bulk"]))
            op = {"kmalloc": RQ_KMALLOC, "cache": RQ_CACHE_ALLOC, "bulk": RQ_BULK_ALLOC}[what]
            size = int(rng.choice([8, 60, 500, 4000, 9000, 40_000])) if what == "kmalloc" else 0
            handle = free_handles.pop()
            live.append((handle, what))
            given.append({**at, "op": op, "handle": handle, "size": size,
                          "cache": -1 if what == "kmalloc" else int(rng.integers(2)),
                          "addr": int(rng.integers(1 << 24, 1 << 25)) & ~7})
        elif kind < 0.8 and live:
            handle, what = live.pop(int(rng.integers(len(live))))
            op = {"kmalloc": RQ_KFREE, "cache": RQ_CACHE_FREE, "bulk": RQ_BULK_FREE}[what]
            given.append({**at, "op": op, "handle": handle, "flags": FLAG_LAST if rng.random() < 0.3 else 0})
            free_handles.append(handle)
        elif kind < 0.9:
            order = int(rng.choice([0, 0, 0, 1, 3, 4]))
            handle = free_blocks.pop()
            blocks.append((handle, order))
            given.append({**at, "op": RQ_PAGE_ALLOC, "handle": handle, "size": order,
                          "gfp": int(rng.choice([GFP_KERNEL, 0x100CCA, 0xDC0]))})
        elif kind < 0.97 and blocks:
            handle, order = blocks.pop(int(rng.integers(len(blocks))))
            free_blocks.append(handle)
            pieces = 2 if order and rng.random() < 0.5 else 1
            for piece in range(pieces):
                size = order - (pieces - 1)
                given.append({**at, "op": RQ_PAGE_FREE, "handle": handle, "size": size, "offset": piece << size,
                              "flags": FLAG_LAST if piece == pieces - 1 else 0})
        else:
            given.append({**at, "op": RQ_KFREE_NULL} if rng.random() < 0.8 else {**at, "op": RQ_MARKER, "size": 0})
    return rows(*given)
