"""Do the other kernels' rules of falling back, tuning and checking do what their descriptions say?"""

from __future__ import annotations

from dataclasses import replace

import pytest
from small_machines import (
    MOVABLE,
    RECLAIMABLE,
    UNMOVABLE,
    booted,
    config,
    empty,
    free_list,
    free_lists,
    kernel,
    open_zone,
    pcp_list,
    put_free,
    put_used,
    zone,
)

from memtrace.config import KernelConfig, PcpParams, VmParams
from memtrace.kernels import load_kernel
from memtrace.mm.boot import boot, min_free_kbytes, set_pcp
from memtrace.mm.gfp import GFP_ATOMIC, GFP_HIGHUSER_MOVABLE, GFP_KERNEL
from memtrace.mm.machine import Machine

CLAIM = VmParams(fallback="claim_steal")
OLD = VmParams(fallback="2.6.24", watermark_boost_factor=0)
BASE = 16 * 256  # first pfn of the small machines' zone


def small(vm: VmParams, **tunables: object) -> Machine:
    """One zone of 16 MiB, nothing on per-CPU lists, no page given yet."""
    return empty(open_zone("DMA32", 16, 16), batch=1, high=0, vm=vm, **tunables)


# -- claim, else steal ---------------------------------------------------------------------------------------------


def test_a_whole_pageblock_is_claimed() -> None:
    machine = small(CLAIM)
    put_free(machine, BASE, 10, MOVABLE)
    pfn = machine.page_alloc(0, GFP_KERNEL, 0, 0)
    (owner,) = machine.pages.zones
    assert pfn == BASE
    assert list(owner.pageblock_type[:2]) == [UNMOVABLE, UNMOVABLE]
    assert free_lists(machine, owner) == {(o, UNMOVABLE): [BASE + (1 << o)] for o in range(10)}
    assert machine.pages.events[-1][1]["change_ownership"]


def test_half_a_pageblock_that_suits_is_claimed() -> None:
    machine = small(CLAIM)
    put_free(machine, BASE, 8, MOVABLE)
    put_used(machine, BASE + 256, 256, MOVABLE)
    pfn = machine.page_alloc(0, GFP_KERNEL, 0, 0)
    (owner,) = machine.pages.zones
    assert pfn == BASE
    assert owner.pageblock_type[0] == UNMOVABLE


def test_less_than_half_is_stolen_block_by_block_and_the_rest_keeps_its_type() -> None:
    machine = small(CLAIM)
    put_free(machine, BASE, 5, MOVABLE)
    put_free(machine, BASE + 64, 3, MOVABLE)
    put_used(machine, BASE + 128, 384, MOVABLE)
    pfn = machine.page_alloc(0, GFP_KERNEL, 0, 0)
    (owner,) = machine.pages.zones
    assert pfn == BASE + 64, "the smallest block, not the largest"
    assert owner.pageblock_type[0] == MOVABLE
    assert free_list(machine, owner, 2, MOVABLE) == [BASE + 64 + 4]
    assert not any(mt == UNMOVABLE for _, mt in free_lists(machine, owner))
    assert not machine.pages.events[-1][1]["change_ownership"]


def test_a_refill_that_had_to_steal_goes_on_stealing() -> None:
    """Two blocks of another type; then a claimable pageblock would have been there for the third page."""
    machine = empty(open_zone("DMA32", 16, 16), batch=4, high=100, vm=CLAIM)
    put_free(machine, BASE, 1, RECLAIMABLE)
    put_used(machine, BASE + 2, 510, RECLAIMABLE)
    machine.pages.zones[0].pageblock_type[0] = RECLAIMABLE
    put_free(machine, BASE + 1024, 2, MOVABLE)
    put_used(machine, BASE + 1028, 508, MOVABLE)
    assert machine.page_alloc(0, GFP_KERNEL, 0, 0) == BASE
    assert pcp_list(machine, machine.pages.zones[0], 0, 0, UNMOVABLE) == [BASE + 1, BASE + 1024, BASE + 1025]
    assert list(machine.pages.zones[0].pageblock_type[:3]) == [RECLAIMABLE, MOVABLE, MOVABLE]


def test_pages_that_leave_a_per_cpu_list_go_to_their_pageblocks_list() -> None:
    machine = empty(open_zone("DMA32", 16, 16), batch=2, high=100, vm=CLAIM)
    put_free(machine, BASE, 1, MOVABLE)
    put_used(machine, BASE + 2, 510, MOVABLE)
    first = machine.page_alloc(0, GFP_KERNEL, 0, 0)
    machine.pages.drain_all_pages()
    (owner,) = machine.pages.zones
    assert free_lists(machine, owner) == {(0, MOVABLE): [BASE + 1]}
    machine.page_free(first, 0, 0)
    machine.pages.drain_all_pages()
    assert free_lists(machine, owner) == {(1, MOVABLE): [BASE]}


# -- 2.6.24 --------------------------------------------------------------------------------------------------------


def test_2_6_24_breaks_the_largest_block_and_moves_what_is_free() -> None:
    machine = small(OLD)
    put_free(machine, BASE, 4, MOVABLE)
    put_free(machine, BASE + 64, 2, MOVABLE)
    put_used(machine, BASE + 128, 384, MOVABLE)
    assert machine.page_alloc(0, GFP_KERNEL, 0, 0) == BASE
    (owner,) = machine.pages.zones
    assert free_list(machine, owner, 2, UNMOVABLE) == [BASE + 4, BASE + 64], "rest of the block in front"
    assert owner.pageblock_type[0] == MOVABLE, "not half of it was free"


def test_2_6_24_takes_only_the_piece_of_a_small_block() -> None:
    machine = small(OLD)
    put_free(machine, BASE, 2, MOVABLE)
    put_used(machine, BASE + 4, 508, MOVABLE)
    assert machine.page_alloc(0, GFP_KERNEL, 0, 0) == BASE
    (owner,) = machine.pages.zones
    assert free_lists(machine, owner) == {(0, MOVABLE): [BASE + 1], (1, MOVABLE): [BASE + 2]}


def test_2_6_24_keeps_a_reserve_and_gives_it_last() -> None:
    machine = boot(config(zone("DMA32", 16, 16)), replace(kernel(batch=1, high=0), vm=replace(OLD, reserve="reserve")))
    (owner,) = machine.pages.zones
    reserved = [block for block, mt in enumerate(owner.pageblock_type) if mt == 3]
    assert len(reserved) == -(-owner.watermark_min // 512) == 1
    seen = []
    while (pfn := machine.page_alloc(0, GFP_ATOMIC, 0, 0)) >= 0:
        seen.append(pfn)
    outside = [pfn for pfn in seen if pfn >= BASE + 1024]  # the first free block spans two pageblocks
    assert seen[: len(outside)] == outside, "the reserve is touched when nothing else is left"
    assert len(seen) > len(outside)


def test_one_list_for_all_types() -> None:
    machine = empty(open_zone("DMA32", 16, 16), vm=OLD)
    params = PcpParams(batch=3, high=18, lists="mixed", orders=1, thp=False, limit="six_batches")
    machine = boot(config(open_zone("DMA32", 16, 16)), KernelConfig(pcp=params, vm=OLD))
    (owner,) = machine.pages.zones
    kernel_page = machine.page_alloc(0, GFP_KERNEL, 0, 0)
    user_page = machine.page_alloc(0, GFP_HIGHUSER_MOVABLE, 0, 0)
    assert len(pcp_list(machine, owner, 0, 0, 0)) == 4
    assert machine.page_alloc(0, GFP_KERNEL, 0, 0) == kernel_page + 1
    assert machine.page_alloc(0, GFP_HIGHUSER_MOVABLE, 0, 0) == user_page + 1
    big = machine.page_alloc(1, GFP_KERNEL, 0, 0)
    machine.page_free(big, 1, 0)
    assert owner.pcp[0].count == 2, "larger blocks have no list"
    pages = [machine.page_alloc(0, GFP_KERNEL, 0, 0) for _ in range(40)]
    for pfn in pages:
        machine.page_free(pfn, 0, 0)
        assert owner.pcp[0].count < 18
    machine.validate()


# -- per-CPU lists that tune themselves ----------------------------------------------------------------------------


def tuned(size_mb: int = 512, cpus: int = 1) -> Machine:
    return booted(zone("DMA32", 16, size_mb), cpus=cpus, vm=CLAIM, pcp=PcpParams(limit="auto"))


def refills(machine: Machine, requests: int) -> list[int]:
    """Pages that each refill took while nothing was freed."""
    pcp = machine.pages.zones[0].pcp[0]
    sizes = []
    for _ in range(requests):
        before = pcp.count
        machine.page_alloc(0, GFP_KERNEL, 0, 0)
        if pcp.count >= before:
            sizes.append(pcp.count - before + 1)
    return sizes


def test_refills_double_until_the_limit() -> None:
    machine = tuned()
    pcp = machine.pages.zones[0].pcp[0]
    assert (pcp.batch, pcp.high) == (31, pcp.high_min)
    assert refills(machine, 3000)[:7] == [31, 62, 124, 248, 496, 992, 992]


def test_the_limit_rises_with_refills_and_falls_again_with_time() -> None:
    machine = tuned()
    (owner,) = machine.pages.zones
    pcp = owner.pcp[0]
    refills(machine, 5000)
    assert pcp.high_min < pcp.high <= pcp.high_max == owner.managed // 8
    heights = []
    for _ in range(60):
        heights.append(pcp.high)
        machine.pages.decay_pcp_high(owner, 0)
        assert pcp.count <= pcp.high
    assert heights == sorted(heights, reverse=True)
    assert pcp.high == pcp.high_min
    machine.validate()


def test_what_is_given_back_is_no_drain() -> None:
    """A drain is a free that sent pages back. The worker's pages, and those of drain_all, are counted apart."""
    machine = tuned()
    (owner,) = machine.pages.zones
    pcp = owner.pcp[0]
    refills(machine, 5000)
    pcp.high_min = 100
    pcp.high = pcp.count + (pcp.count >> 2)  # an eighth less is still enough
    held = pcp.count
    machine.pages.decay_pcp_high(owner, 0)
    assert (pcp.given_back, pcp.count) == (0, held)
    pcp.high = held
    machine.pages.decay_pcp_high(owner, 0)
    assert pcp.given_back == held - pcp.count == held - pcp.high == held >> 3
    machine.pages.drain_all_pages()
    assert (pcp.given_back, pcp.count, pcp.drains) == (held, 0, 0)


def test_drains_grow_with_what_was_freed_in_a_row() -> None:
    machine = tuned()
    (owner,) = machine.pages.zones
    pages = [machine.page_alloc(0, GFP_KERNEL, 0, 0) for _ in range(20000)]
    machine.pages.drain_all_pages()
    owner.pcp[0].high = owner.pcp[0].high_min
    owner.pcp[0].free_count = 0
    drained = []
    for pfn in pages:
        before = owner.pcp[0].count
        machine.page_free(pfn, 0, 0)
        if owner.pcp[0].count <= before:
            drained.append(before + 1 - owner.pcp[0].count)
    assert drained == sorted(drained)
    assert drained[-1] > drained[0] >= 31
    assert owner.pcp[0].free_count == 31 << 5


def test_drains_as_a_6_18_kernel_recorded_them() -> None:
    """
    A CPU of a machine of 24 GiB, whose lists had come to their limit of 30,053 pages, freed and did not allocate: it
    drained 181, 362, 724, 1,448 and 2,016 pages, each time what was freed in a row, up to 32 batches.
    """
    recorded = [181, 362, 724, 1448, 2016]
    machine = tuned()
    (owner,) = machine.pages.zones
    pcp = owner.pcp[0]
    pages = [machine.page_alloc(0, GFP_KERNEL, 0, 0) for _ in range(33000)]
    machine.pages.drain_all_pages()
    pcp.batch, pcp.high_min, pcp.high_max, pcp.high = 63, 10081, 337141, 30053
    while pcp.count < pcp.high - recorded[0]:
        machine.page_free(pages.pop(), 0, 0)
    pcp.free_count = 0
    drained: list[int] = []
    while len(drained) < len(recorded):
        before, drains = pcp.count, pcp.drains
        machine.page_free(pages.pop(), 0, 0)
        if pcp.drains > drains:
            assert before + 1 == pcp.high == 30053
            drained.append(before + 1 - pcp.count)
    assert drained == recorded


def test_a_zone_below_its_high_mark_keeps_its_lists_short() -> None:
    machine = tuned(64)
    (owner,) = machine.pages.zones
    pages = []
    while owner.free_pages > owner.watermark_high - 100:
        pages.append(machine.page_alloc(0, GFP_KERNEL, 0, 0))
    machine.page_alloc(0, GFP_KERNEL, 0, 0)
    for _ in range(owner.pcp[0].count + 1):
        pages.append(machine.page_alloc(0, GFP_KERNEL, 0, 0))
    assert owner.below_high
    for pfn in pages:
        machine.page_free(pfn, 0, 0)
    assert not owner.below_high
    machine.validate()


# -- arithmetic ----------------------------------------------------------------------------------------------------


def test_limits_by_era() -> None:
    """512 MiB, 4 CPUs: 6 batches of 31; the low mark by CPU; and up to an eighth of the zone."""
    described = config(zone("DMA32", 16, 512), cpus=4)
    found = {}
    for limit in ("six_batches", "low_mark", "auto"):
        machine = boot(described, KernelConfig(pcp=PcpParams(limit=limit)))
        pcp = machine.pages.zones[0].pcp[0]
        found[limit] = (pcp.high_min, pcp.high, pcp.high_max)
    low = machine.pages.zones[0].watermark_low
    assert found == {
        "six_batches": (186,) * 3, "low_mark": (low // 4,) * 3, "auto": (low // 4, low // 4, 131072 // 8 // 4),
    }


@pytest.mark.parametrize(("size_mb", "new", "old"), [(256, 15, 15), (512, 31, 31), (1024, 63, 31), (4096, 63, 31)])
def test_batches_by_era(size_mb: int, new: int, old: int) -> None:
    described = config(zone("DMA32", 16, 16))
    described = replace(described, zones=(replace(described.zones[0], spanned=size_mb << 8, present=size_mb << 8,
                                                  managed=size_mb << 8),))  # fmt: skip
    for limit_kb, expected in ((1024, new), (512, old)):
        machine = boot(config(zone("DMA32", 16, 16)), KernelConfig())
        machine.pages.zones[0].managed = size_mb << 8
        set_pcp(machine.pages.zones, described, PcpParams(batch_limit_kb=limit_kb))
        assert machine.pages.zones[0].pcp[0].batch == expected


def test_low_and_high_marks_by_era() -> None:
    described = config(zone("DMA32", 16, 512))
    marks = {}
    for rule in ("quarters", "scale"):
        (owner,) = boot(described, KernelConfig(vm=VmParams(watermarks=rule, watermark_scale_factor=1000))).pages.zones
        marks[rule] = (owner.watermark_min, owner.watermark_low, owner.watermark_high)
    least = marks["scale"][0]
    assert marks["quarters"] == (least, least + least // 4, least + least // 2)
    assert marks["scale"] == (least, least + 13107, least + 2 * 13107)


def test_huge_pages_raise_min_free_kbytes() -> None:
    """DMA, DMA32 and Normal of a machine with enough memory: 16,896 pages."""
    zones = (zone("DMA", 0, 16), zone("DMA32", 16, 4080), zone("Normal", 4096, 4096))
    described = config(*zones)
    assert min_free_kbytes(described, VmParams(khugepaged=True)) == 67584
    assert min_free_kbytes(described, VmParams()) < 67584


def test_old_checks_do_not_count_small_blocks() -> None:
    """A zone whose free memory is all single pages passes the new check for order 1 only with a block of it."""
    for rule, expected in (("any_block", True), ("halving", False)):
        vm = VmParams(watermark_check=rule)
        machine = empty(zone("DMA32", 16, 16, min=100, low=100, high=100, lowmem_reserve=(0, 0, 0, 0)), batch=1, high=0,
                        vm=vm)  # fmt: skip
        for i in range(400):
            put_free(machine, BASE + 2 * i, 0, UNMOVABLE)
        put_free(machine, BASE + 1024, 1, UNMOVABLE)
        assert (machine.page_alloc(1, GFP_KERNEL, 0, 0) >= 0) is expected


@pytest.mark.parametrize("spared", [True, False])
def test_the_first_attempt_spares_pageblocks_of_other_types(spared: bool) -> None:
    """Normal has only Movable pages in small blocks, DMA32 has some of the wanted type."""
    machine = empty(open_zone("DMA32", 16, 16), open_zone("Normal", 4096, 16), batch=1, high=0,
                    vm=VmParams(nofragment=spared))  # fmt: skip
    put_free(machine, BASE, 3, UNMOVABLE)
    put_free(machine, 4096 * 256, 3, MOVABLE)
    assert machine.page_alloc(0, GFP_KERNEL, 0, 0) == (BASE if spared else 4096 * 256)


@pytest.mark.parametrize(("thp", "parked"), [(True, 512), (False, 0)])
def test_huge_pages_have_lists_where_they_exist(thp: bool, parked: int) -> None:
    machine = booted(open_zone("DMA32", 16, 32), pcp=PcpParams(batch=63, high=5000, thp=thp))
    machine.page_free(machine.page_alloc(9, GFP_HIGHUSER_MOVABLE, 0, 0), 9, 0)
    assert machine.pages.zones[0].pcp[0].count == 2 * parked  # a refill takes two


def test_reserves_by_era() -> None:
    """16 MiB: one percent is less than a pageblock, so since 6.12 nothing is reserved."""
    for rule, blocks in (("highatomic", 1), ("highatomic_free", 0)):
        machine = booted(open_zone("DMA32", 16, 16), batch=1, high=0, vm=VmParams(reserve=rule))
        (owner,) = machine.pages.zones
        owner.watermark_min, owner.watermark_low = 4090, 4096
        machine.page_alloc(1, GFP_ATOMIC, 0, 0)
        assert owner.nr_reserved_highatomic == 512 * blocks


@pytest.mark.parametrize("name", ["2.6.24", "6.18"])
def test_profiles_boot_and_keep_their_books(name: str) -> None:
    machine = boot(config(zone("DMA32", 16, 64), cpus=2), load_kernel(name))
    held = [(machine.page_alloc(o % 4, gfp, 0, o % 2), o % 4) for o in range(1500)
            for gfp in (GFP_KERNEL, GFP_HIGHUSER_MOVABLE)]  # fmt: skip
    machine.validate()
    for i, (pfn, order) in enumerate(held):
        if pfn >= 0:
            machine.page_free(pfn, order, i % 2)
    machine.validate()
    machine.pages.drain_all_pages()
    machine.validate()
