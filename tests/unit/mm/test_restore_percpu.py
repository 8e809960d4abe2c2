"""A percpu allocator from counts: the counts are met, whatever they are."""

from __future__ import annotations

import random

import pytest
from small_machines import config, kernel, open_zone

from memtrace.mm.boot import boot
from memtrace.mm.gfp import GFP_KERNEL
from memtrace.mm.restore_percpu import restore_percpu
from memtrace.snapshot.percpu import ChunkStats, PercpuStats

RECORDED = PercpuStats(
    171432, 8192, 29272, 2097152, 524288, 419, 26, 393, 4,
    (ChunkStats(True, 374, 308, 128, 6795, 0, 8), ChunkStats(False, 19, 518064, 517632, 358, 4, 192)),
)


def test_a_recorded_state() -> None:
    made = boot(config(open_zone("DMA32", 16, 64), cpus=4), kernel())
    percpu = made.percpu
    assert percpu.layout.dyn_size == 29272
    restore_percpu(percpu, RECORDED)
    made.validate()
    assert percpu.nr_empty_pop_pages == 4
    assert abs(percpu.nr_areas - 393) <= 2
    boots, other = (percpu.chunks[k] for k in (1, 2))
    assert boots.free_bytes == 308
    assert (other.free_bytes, other.hints.contig_hint * 4, other.hints.first_free) == (518064, 517632, 358)
    assert percpu.populated_pages() == 8 + 3 + 2 + 4, "boot's two chunks, then areas on two pages and four empty ones"
    ptr = made.alloc_percpu(640, 8, GFP_KERNEL, 0)
    assert percpu.offset_of(ptr) >= 524288 - 517632
    for chunk in (boots, other):
        for bit in list(chunk.areas):
            made.free_percpu(percpu.pointer(chunk, bit), 0)
    made.free_percpu(ptr, 0)
    made.validate()


@pytest.mark.parametrize("seed", range(30))
def test_any_state(seed: int) -> None:
    rng = random.Random(seed)
    made = boot(config(open_zone("DMA32", 16, 64), cpus=2), kernel())
    pages = made.percpu.layout.unit_size // 4096
    chunks = []
    for _ in range(3):
        free = rng.randrange(0, pages * 4096, 4)
        chunks.append(ChunkStats(not chunks, rng.randrange(0, 500), free if chunks else free % 20000,
                                 rng.randrange(0, free + 1, 4), rng.randrange(0, 5000), rng.randrange(4), 8))
    restore_percpu(made.percpu, PercpuStats(0, 0, 0, 0, 0, 0, 0, 0, 0, tuple(chunks)))
    made.validate()
    for _ in range(50):
        made.alloc_percpu(rng.choice((8, 100, 4096)), 8, GFP_KERNEL, 0)
    made.percpu.balance(0)
    made.validate()
