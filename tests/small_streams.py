"""What random streams of requests on small machines are made of."""

from __future__ import annotations

import random

from small_machines import open_zone, zone

from memtrace.config import ZoneConfig

FLAGS = {
    "DMA": 0x1, "HIGHMEM": 0x2, "DMA32": 0x4, "MOVABLE": 0x8, "RECLAIMABLE": 0x10, "HIGH": 0x20,
    "DIRECT_RECLAIM": 0x400, "KSWAPD": 0x800, "MEMALLOC": 0x20000, "NOMEMALLOC": 0x80000, "THISNODE": 0x200000,
}
KERNEL = frozenset({"DIRECT_RECLAIM", "KSWAPD"})
ATOMIC = frozenset({"HIGH", "KSWAPD"})
REQUESTS = [
    KERNEL, KERNEL, KERNEL, ATOMIC, frozenset({"KSWAPD"}), frozenset(), KERNEL | {"THISNODE"}, KERNEL | {"RECLAIMABLE"},
    KERNEL | {"MOVABLE", "HIGHMEM"}, KERNEL | {"MOVABLE"}, KERNEL | {"DMA"}, KERNEL | {"DMA32"}, frozenset({"HIGH"}),
    frozenset({"MEMALLOC"}), KERNEL | {"NOMEMALLOC"}, ATOMIC | {"MOVABLE"},
]
LAYOUTS = [
    [("DMA32", 16, 4, 0)],
    [("DMA32", 16, 12, 0)],
    [("DMA", 2, 3, 0), ("DMA32", 16, 8, 0)],
    [("DMA", 1, 7, 0), ("DMA32", 8, 9, 0), ("Normal", 17, 7, 0)],
    [("DMA32", 16, 6, 0), ("Normal", 32, 6, 1)],
    [("DMA32", 16, 4, 0), ("Normal", 20, 8, 0), ("Normal", 32, 12, 1)],
]


def marked(rng: random.Random, layout: list[tuple[str, int, int, int]]) -> list[ZoneConfig]:
    """Zones without marks, with the kernel's, or with a low mark that is soon reached."""
    kind = rng.choice(["open", "kernel", "wide"])
    if kind == "open":
        return [open_zone(*args) for args in layout]
    if kind == "kernel":
        return [zone(*args) for args in layout]
    return [
        zone(name, start, size, node, min=rng.randint(20, 200), low=128 * size, high=160 * size,
             lowmem_reserve=(0, 0, *sorted(rng.choices(range(100), k=2))))
        for name, start, size, node in layout
    ]
