"""The percpu allocator against a plain first-fit, and its own books, over random histories."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from plain_percpu import PlainChunk
from small_machines import config, kernel, open_zone

from memtrace.kernel_params import PercpuParams
from memtrace.mm.boot import boot
from memtrace.mm.gfp import GFP_ATOMIC, GFP_KERNEL
from memtrace.mm.machine import Machine
from memtrace.mm.percpu_chunk import PcpuChunk

SIZES = (1, 4, 8, 12, 44, 136, 640, 1008, 4096, 9000)
ALIGNS = (1, 4, 8, 64, 4096)


def machine(cpus: int = 2, nodes: int = 1, **percpu: Any) -> Machine:
    zones = [open_zone("DMA32", 16 + 32 * node, 32, node) for node in range(nodes)]
    params = PercpuParams(**{"reserved_size": 0, "atom_size": 4096, "static_size": 4000, **percpu})
    return boot(config(*zones, cpus=cpus), replace(kernel(), percpu=params))


def balance(made: Machine) -> None:
    """What the daemon does when it is woken."""
    if any(kind for kind, _ in made.it.take_wakes()):
        made.percpu.balance(0)


@pytest.mark.parametrize("seed", range(20))
def test_without_frees_areas_of_words_lie_where_a_plain_first_fit_puts_them(seed: int) -> None:
    rng = random.Random(seed)
    chunk, plain = PcpuChunk(0, 6, 1), PlainChunk(6 * 4096)
    for _ in range(300):
        bits = rng.choice((1, 2, 3, 11, 34, 160, 1024, 1500))
        start = chunk.find_block_fit(bits, 1, False)
        found = chunk.first_fit(bits, 1, start) if start >= 0 else -1
        expected = plain.first_fit(4 * bits, 4)
        assert 4 * found == expected if found >= 0 else expected == -1
        if found >= 0:
            chunk.take_area(found, bits)
            plain.take(4 * found, 4 * bits)


@pytest.mark.parametrize("seed", range(20))
def test_an_area_is_free_aligned_and_never_before_the_first_fit(seed: int) -> None:
    rng = random.Random(seed)
    chunk, plain = PcpuChunk(0, 5, 1), PlainChunk(5 * 4096)
    for _ in range(400):
        if plain.areas and rng.random() < 0.45:
            at = rng.choice(sorted(plain.areas))
            plain.free(at)
            chunk.free_area(at // 4)
        bits, align = rng.choice((1, 3, 34, 160, 1024)), rng.choice((1, 2, 16, 1024))
        start = chunk.find_block_fit(bits, align, False)
        found = chunk.first_fit(bits, align, start) if start >= 0 else -1
        if found >= 0:
            assert found % align == 0
            assert 4 * found >= plain.first_fit(4 * bits, 4 * align) >= 0
            chunk.take_area(found, bits)
            plain.take(4 * found, 4 * bits)
        largest = max((b - a for a, b in plain.runs()), default=0)
        assert 4 * chunk.hints.contig_hint <= largest
        assert chunk.free_bytes == sum(b - a for a, b in plain.runs())
        assert [chunk.contig[k] for k in range(5)] == [largest_in_page(plain, k) // 4 for k in range(5)]


def largest_in_page(plain: PlainChunk, page: int) -> int:
    cut = [(max(a, 4096 * page), min(b, 4096 * (page + 1))) for a, b in plain.runs()]
    return max((b - a for a, b in cut if a < b), default=0)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("nodes", [1, 2])
def test_books_balance_whatever_is_asked_and_all_of_it_comes_back(seed: int, nodes: int) -> None:
    rng = random.Random(seed)
    made = machine(cpus=4, nodes=nodes)
    free = sum(int(zone.free_pages) for zone in made.pages.zones)
    live: dict[int, int] = {}
    for step in range(600):
        if live and rng.random() < (0.35 if step < 300 else 0.65):
            ptr = rng.choice(sorted(live))
            del live[ptr]
            made.free_percpu(ptr, rng.randrange(4))
        else:
            size = rng.choice(SIZES)
            ptr = made.alloc_percpu(size, rng.choice(ALIGNS), rng.choice((GFP_KERNEL, GFP_ATOMIC)), rng.randrange(4))
            if ptr:
                live[ptr] = -(-size // 4) * 4
        if rng.random() < 0.5:
            balance(made)
        if step % 50 == 0:
            made.validate()
            check_apart(made, live)
    for ptr in live:
        made.free_percpu(ptr, 0)
    balance(made)
    made.percpu.balance(0)
    made.validate()
    assert made.percpu.nr_areas == 0
    assert made.percpu.bad_frees == 0
    held = sum(chunk.nr_populated for chunk in made.percpu.live_chunks() if not chunk.immutable) * 4
    for zone in made.pages.zones:
        for cpu in range(4):
            made.pages.drain_pages_zone(zone, cpu)
    assert sum(int(zone.free_pages) for zone in made.pages.zones) == free - held


def check_apart(made: Machine, live: dict[int, int]) -> None:
    """No CPU's copy of an area overlaps another's."""
    spans = sorted((made.percpu_ptr(ptr, cpu), size) for ptr, size in live.items() for cpu in range(4))
    for (at, size), (after, _) in pairwise(spans):
        assert at + size <= after
    for ptr, size in live.items():
        assert made.percpu.size_of(ptr) == size


def test_every_possible_cpu_has_a_copy_not_only_those_that_exist() -> None:
    made = machine(cpus=2, possible_cpus=5, dyn_size=12 << 10)
    before = sum(int(zone.used_pages) for zone in made.pages.zones)
    while made.percpu.find_area(1024, 1, False, False) >= 0:
        pass
    made.alloc_percpu(4096, 4096, GFP_KERNEL, 0)
    made.validate()
    populated = sum(c.nr_populated for c in made.percpu.live_chunks() if not c.immutable)
    assert populated > 0
    assert sum(int(zone.used_pages) for zone in made.pages.zones) - before == 5 * populated


def test_sizes_that_the_kernel_refuses() -> None:
    made = machine()
    for size, align in ((0, 4), (32769, 4), (8, 8192), (8, 24)):
        assert made.alloc_percpu(size, align, GFP_KERNEL, 0) == 0
    made.free_percpu(0, 0)
    made.free_percpu(12345, 0)
    assert made.percpu.bad_frees == 1
    made.validate()


def test_an_atomic_request_takes_populated_pages_only_and_asks_for_more() -> None:
    made = machine()
    ptrs = [made.alloc_percpu(4096, 4, GFP_ATOMIC, 0) for _ in range(12)]
    assert 0 in ptrs
    assert len(made.percpu.live_chunks()) == 1
    balance(made)
    assert made.percpu.nr_empty_pop_pages >= 4
    assert made.alloc_percpu(4096, 4, GFP_ATOMIC, 0)
    made.validate()


def test_no_memory_is_a_null_pointer_and_leaves_nothing_behind() -> None:
    made = machine()
    while made.page_alloc(0, GFP_KERNEL, -1, 0) >= 0:
        pass
    while made.alloc_percpu(32768, 4, GFP_KERNEL, 0):
        pass
    assert made.percpu.alloc_failures == 1
    made.it.take_wakes()
    made.percpu.balance(0)
    made.validate()
