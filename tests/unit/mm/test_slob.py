"""SLOB's caches and kmalloc: sizes, headers, footers, and what pre-dates the trace."""

from __future__ import annotations

import random

import pytest
from small_machines import config, empty, kernel, open_zone

from memtrace.mm.boot import boot, build
from memtrace.mm.constants import SLAB_HWCACHE_ALIGN, SLAB_TYPESAFE_BY_RCU
from memtrace.mm.gfp import GFP_KERNEL
from memtrace.mm.machine import Machine
from memtrace.mm.restore import restore_exact
from memtrace.snapshot.exact_dump import ExactDump, ExactZone, SlobCache, SlobPage

FIRST_PFN = 16 * 256


@pytest.fixture
def machine() -> Machine:
    return slob()


def slob(bits: int = 64) -> Machine:
    return boot(config(open_zone("DMA32", 16, 16), cpus=2, bits=bits), kernel(), 0, "slob")


def kmalloc(machine: Machine, size: int) -> int:
    machine.it.reset()
    return int(machine.kmalloc(size, GFP_KERNEL, -1, 0))


@pytest.mark.parametrize(
    ("size", "given"), [(1, 9), (22, 30), (4087, 4095), (4088, 4096), (4096, 4096), (4097, 8192), (40_000, 65_536)]
)
def test_kmalloc_gives(machine: Machine, size: int, given: int) -> None:
    """EXACT D 1.2: 8 bytes more, and whole pages from PAGE_SIZE - 8 on."""
    assert kmalloc(machine, size)
    assert machine.last_bytes == given


def test_powers_of_two_are_aligned(machine: Machine) -> None:
    for size in (16, 64, 256, 1024, 2048):
        kmalloc(machine, 24)
        assert kmalloc(machine, size) % size == 0


def test_usable_size(machine: Machine) -> None:
    """ksize: what was asked for in whole units; a large one's pages."""
    assert [machine.slab.ksize(kmalloc(machine, size)) for size in (0, 13, 100, 5000)] == [0, 14, 100, 8192]
    machine.validate()


@pytest.mark.parametrize(("bits", "footer"), [(64, 24), (32, 12)])
def test_cache_sizes(bits: int, footer: int) -> None:
    """EXACT C12: an odd size is rounded up to a unit, a TYPESAFE_BY_RCU cache has a footer; no padding, no merging."""
    slab = slob(bits).slab
    plain, odd, safe, twin = (
        slab.caches[slab.create_cache(name, size, 8, flags)]
        for name, size, flags in (
            ("plain", 112, 0), ("odd", 13, 0), ("safe", 112, SLAB_TYPESAFE_BY_RCU), ("twin", 112, 0),
        )
    )
    assert [s.size for s in (plain, odd, safe, twin)] == [112, 14, 112 + footer, 112]
    assert twin.index != plain.index


def test_cache_line_alignment(machine: Machine) -> None:
    """SLAB_HWCACHE_ALIGN: halved as long as the object still fits."""
    slab = machine.slab
    aligns = [slab.caches[slab.create_cache(f"c{n}", n, 8, SLAB_HWCACHE_ALIGN)].align for n in (12, 24, 33, 200)]
    assert aligns == [16, 32, 64, 64]


def test_objects_of_a_page_or_more(machine: Machine) -> None:
    index = machine.slab.create_cache("stack", 5128)
    addr = machine.cache_alloc(index, GFP_KERNEL, -1, 0)
    assert addr % 4096 == 0
    assert machine.pages.zones[0].slab_pages == 2
    machine.kfree(addr, 0)
    assert machine.pages.zones[0].slab_pages == 0
    machine.validate()


def test_a_typesafe_block_stays_until_the_grace_period_is_over(machine: Machine) -> None:
    index = machine.slab.create_cache("safe", 96, 8, SLAB_TYPESAFE_BY_RCU)
    first = machine.cache_alloc(index, GFP_KERNEL, -1, 0)
    second = machine.cache_alloc(index, GFP_KERNEL, -1, 0)
    machine.kfree(first, 0)
    assert not machine.slab.is_live(first)
    assert machine.cache_alloc(index, GFP_KERNEL, -1, 0) > second
    machine.slab.grace_period_over(1)
    assert machine.cache_alloc(index, GFP_KERNEL, -1, 0) == first
    machine.validate()


def test_double_frees_are_noticed(machine: Machine) -> None:
    addr, _ = kmalloc(machine, 100), kmalloc(machine, 100)
    machine.kfree(addr, 0)
    machine.kfree(addr, 0)
    assert machine.slab.bad_frees == 1


def test_memory_runs_out(machine: Machine) -> None:
    given = []
    while addr := kmalloc(machine, 4000):
        given.append(addr)
    assert len(given) == 16 * 256
    for addr in given:
        machine.kfree(addr, 0)
    machine.validate()


def dump_of(machine: Machine, zone: ExactZone) -> ExactDump:
    """The lists of a machine as a dump has them."""
    dump = ExactDump("test", 1, "start", 0, [zone], "slob", slob_unit_bytes=2)
    dump.slob = [SlobCache("probe", 136, 136, 8, 0, False)]
    for which, kind in enumerate(("small", "medium", "large")):
        dump.slob_lists[kind] = [
            SlobPage(pfn, sum(units for _, units in gaps), gaps) for pfn, gaps in machine.slab.pages_of(which)
        ]
    return dump


def test_a_dump_is_laid_out_as_it_is() -> None:
    """List after list, page after page, gap after gap; and what is allocated next is the same."""
    rng = random.Random(3)
    real = slob()
    probe = real.slab.create_cache("probe", 136)
    objects = []
    for _ in range(900):
        if objects and rng.random() < 0.45:
            real.kfree(objects.pop(rng.randrange(len(objects))), 0)
        elif rng.random() < 0.5:
            objects.append(real.cache_alloc(probe, GFP_KERNEL, -1, 0))
        else:
            objects.append(kmalloc(real, rng.choice([20, 300, 1100])))
    free = {(10, 1): [FIRST_PFN + 3072]}
    zone = ExactZone(0, "DMA32", 1, FIRST_PFN, 4096, 4096, 4096, 0, 0, 0, 0, 1024, 0, (0, 0, 0, 0), free_lists=free,
                     pageblock_order=9, pageblocks=(1,) * 8)
    copy = build(config(open_zone("DMA32", 16, 16), cpus=2), kernel(), 0, "slob")
    restore_exact(copy, dump_of(real, zone))
    copy.validate()
    assert [copy.slab.pages_of(which) for which in range(3)] == [real.slab.pages_of(which) for which in range(3)]
    for size in (20, 300, 1100, 64, 700):
        assert kmalloc(copy, size) == kmalloc(real, size)

    # Objects that the trace frees: on a listed page, on a page that was full, and where nothing can be.
    own = copy.find_cache("probe")
    alive = [addr for addr in objects if real.slab.cache_of(addr).name == "probe"]
    known = [addr for addr in alive if copy.adopt_object(addr, own) == addr]
    assert len(known) == len(alive) > 20
    assert copy.adopt_object(alive[0] + 2, own) == 0
    assert copy.adopt_object(alive[0], -1) == 0
    for addr in known:
        copy.kfree(addr, 1)
        real.kfree(addr, 1)
    copy.validate()
    assert [copy.slab.pages_of(which) for which in range(3)] == [real.slab.pages_of(which) for which in range(3)]


def test_another_allocator_s_kmalloc_caches(machine: Machine) -> None:
    """``kmalloc-rcl-1k`` stands for a kmalloc of 1024 bytes; other names stand for nothing."""
    index = machine.slab.kmalloc_home("kmalloc-rcl-1k")
    assert machine.cache_alloc(index, GFP_KERNEL, -1, 0) % 1024 == 0
    assert machine.last_bytes == 1032
    assert machine.slab.kmalloc_home("kmalloc-") == machine.slab.kmalloc_home("dentry") == -1
    other = empty(open_zone("DMA32", 16, 16)).slab
    other.create_kmalloc_caches()
    assert other.caches[other.kmalloc_home("dma-kmalloc-96")].name == "dma-kmalloc-96"
    assert other.kmalloc_home("kmalloc-16k") == -1
