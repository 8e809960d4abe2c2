"""
A recorded SLAB kernel: the arithmetic of all its caches, and what a free-running replay makes of its requests.

Counters of the dumps are SLAB's own (STATS); slabs are counted on the lists of the dumps, which stand at their marker's
row. Tolerances are the project's; what was measured stands beside them.
"""

from __future__ import annotations

from pathlib import Path

from small_machines import config, kernel, open_zone

from memtrace.mm.boot import build
from memtrace.mm.slab_geometry import OBJFREELIST, OFF_SLAB
from memtrace.snapshot.exact import read_exact
from memtrace.snapshot.exact_dump import ExactDump

RUN = "slab_std_512m"
CFLGS = 0xC0000000
"""Bits of a recorded cache's flags that say where its index arrays are."""


def dumps(ground_truth: Path) -> dict[str, ExactDump]:
    folder = ground_truth / RUN / "snapshots"
    return {name: read_exact(folder / name / "gt_snap.txt.gz") for name in ("start", "after", "end")}


def test_geometry_and_tunables(ground_truth: Path) -> None:
    """Sizes, layout, arrays and limits of every cache of every dump, from what its creator said alone."""
    for dump in dumps(ground_truth).values():
        slab = build(config(open_zone("DMA32", 16, 64), cpus=4), kernel(), 0, "slab").slab
        for known in reversed(dump.slab):
            index = slab.create_cache(
                known.name, known.object_size, known.align, known.flags & ~CFLGS, known.ctor, merge=False
            )
            s = slab.caches[index]
            node, known_node = s.nodes[0], known.nodes[0]
            kind = OBJFREELIST if known.objfreelist else OFF_SLAB if known.off_slab else 2
            assert (
                s.size, s.objects, s.order, s.colour, s.colour_off, s.kind, s.limit, s.batchcount, s.shared,
                node.free_limit, node.shared.limit, s.allocflags,
            ) == (
                known.size, known.num, known.gfporder, known.colour, known.colour_off, kind, known.limit,
                known.batchcount, known.shared, known_node.free_limit,
                known_node.shared.limit if known_node.shared else 0, known.allocflags,
            ), known.name
            assert known_node.shared is None or known_node.shared.limit == known.shared * known.batchcount
            assert {array.limit for array in known.cpu_caches.values()} == {s.limit}
        assert len(dump.slab) > 80
