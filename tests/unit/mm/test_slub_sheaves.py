"""Do sheaves and barns hold and hand out what a plain model of them says?"""

from __future__ import annotations

import random
from array import array

import pytest
from plain_sheaves import PlainSheaves
from small_machines import booted, open_zone

from memtrace.config import SlubParams
from memtrace.mm.gfp import GFP_ATOMIC, GFP_KERNEL
from memtrace.mm.machine import Machine
from memtrace.mm.slub import Slub
from memtrace.mm.slub_sheaves import SheafSlub
from memtrace.mm.stats import NR_CACHE_FIELDS, NR_SHEAF_STATS, SHEAF_STATS

CAPACITY = 4
PARAMS = SlubParams(sheaf_capacity=CAPACITY, sheaf_caches=("maple_node",))


def machine(cpus: int = 2, nodes: int = 1, params: SlubParams = PARAMS) -> tuple[Machine, int]:
    """A machine with the cache ``maple_node``, 16 objects a slab."""
    zones = [open_zone("DMA32", 16, 64)] if nodes == 1 else [
        open_zone("DMA32", 16, 64), open_zone("Normal", 4096, 64, node=1)
    ]
    made = booted(*zones, cpus=cpus, slub=params)
    return made, made.slab.create_cache("maple_node", 256, 256)


def counts(made: Machine, cache: int) -> dict[str, int]:
    raw = list(made.slab.caches[cache].sheaf_stat)
    return {name: n for i, name in enumerate(SHEAF_STATS)
            if (n := sum(raw[c * NR_SHEAF_STATS + i] for c in range(made.nr_cpus)))}  # fmt: skip


def sheaf(held: object) -> list[int] | None:
    return None if held is None else list(held.objects[: held.size])  # type: ignore[attr-defined]


def test_only_named_caches_have_sheaves() -> None:
    made, cache = machine()
    other = made.slab.create_cache("other", 256, 256)
    assert isinstance(made.slab, SheafSlub)
    assert made.slab.caches[cache].capacity == CAPACITY
    assert made.slab.caches[other].capacity == 0
    assert other != cache, "a cache with sheaves is not merged"
    plain = booted(open_zone("DMA32", 16, 64))
    assert isinstance(plain.slab, Slub)
    assert not isinstance(plain.slab, SheafSlub)


def test_a_refill_takes_a_sheaf_full_and_hands_the_last_out_first() -> None:
    made, cache = machine()
    first = made.cache_alloc(cache, GFP_KERNEL, -1, 0)
    s = made.slab.caches[cache]
    base = first - 3 * 256
    assert sheaf(s.c_main[0]) == [base, base + 256, base + 512]
    assert counts(made, cache) == {
        "alloc_cpu_sheaf": 1, "sheaf_refill": 4, "sheaf_alloc": 3, "barn_get_fail": 1,
    }
    assert list(s.stat).count(0) < len(s.stat), "the slabs below count the refill"
    made.validate()


def test_who_may_not_wait_goes_to_the_slabs() -> None:
    made, cache = machine()
    made.cache_alloc(cache, GFP_ATOMIC, -1, 0)
    assert counts(made, cache) == {"sheaf_alloc": 2, "barn_get_fail": 1}
    made.validate()


def test_an_object_of_another_node_goes_to_its_slab() -> None:
    made, cache = machine(cpus=2, nodes=2)
    addr = made.cache_alloc(cache, GFP_KERNEL, 1, 0)
    assert made.slab.sl_node[made.frames.slab[addr >> 12]] == 1
    assert "alloc_cpu_sheaf" not in counts(made, cache)
    made.cache_free(addr, 0)
    assert "free_cpu_sheaf" not in counts(made, cache)
    local = made.cache_alloc(cache, GFP_KERNEL, 1, 1)
    made.cache_free(local, 1)
    assert counts(made, cache)["free_cpu_sheaf"] == 1
    made.validate()


def test_a_double_free_is_seen() -> None:
    made, cache = machine()
    addr = made.cache_alloc(cache, GFP_KERNEL, -1, 0)
    made.cache_free(addr, 0)
    assert not made.slab.is_live(addr)
    made.cache_free(addr, 0)
    assert made.slab.bad_frees == 1


def test_objects_in_sheaves_count_as_active() -> None:
    made, cache = machine()
    held = [made.cache_alloc(cache, GFP_KERNEL, -1, 0) for _ in range(16)]
    reader = made.slab.stat_reader()
    rows = array("q", [0]) * (NR_CACHE_FIELDS * made.nr_caches)
    for addr in held[:8]:
        made.cache_free(addr, 0)
    reader.caches(rows)
    active, total = rows[NR_CACHE_FIELDS * cache + 4], rows[NR_CACHE_FIELDS * cache + 5]
    assert active == total
    assert made.slab.caches[cache].live == 8


def test_a_flush_gives_everything_to_the_slabs() -> None:
    made, cache = machine()
    held = [made.cache_alloc(cache, GFP_KERNEL, -1, c % 2) for c in range(60)]
    for i, addr in enumerate(held):
        made.cache_free(addr, i % 2)
    for addr in [made.cache_alloc(cache, GFP_KERNEL, -1, 0) for _ in range(5)]:
        assert made.slab.free_rcu_sheaf(addr, 0)
    made.validate()
    assert made.slab.shrink_cache(made.slab.caches[cache], 0) >= 0
    assert made.slab.sheaf_objects(made.slab.caches[cache]) == []
    assert sum(made.slab.caches[cache].nr_slabs) == 0
    made.validate()


def test_kfree_rcu_waits_for_a_full_sheaf_and_a_grace_period() -> None:
    made, cache = machine(cpus=1)
    held = [made.cache_alloc(cache, GFP_KERNEL, -1, 0) for _ in range(CAPACITY)]
    for addr in held:
        assert made.slab.free_rcu_sheaf(addr, 0)
    assert made.it.take_wakes() != []
    s = made.slab.caches[cache]
    assert not s.full[0]
    made.slab.grace_period_over(1)
    assert sheaf(s.full[0][0]) == held
    assert not made.slab.free_rcu_sheaf(made.kmalloc(64, GFP_KERNEL, -1, 0), 0), "no sheaves: the classic way"
    made.validate()


def test_a_starting_state_is_handed_out_in_its_order() -> None:
    made, cache = machine(cpus=1)
    slab = made.slab
    pfn = made.page_alloc(0, GFP_KERNEL, 0, 0)
    slab.build_slab(slab.caches[cache], pfn, 0, 0)
    slab.caches[cache].live += 16
    wanted = [(pfn << 12) + 256 * i for i in (3, 1, 4, 15, 9, 2, 6, 5, 12, 8, 7)]
    assert slab.fill_sheaves(slab.caches[cache], 0, list(wanted)) == len(wanted)
    slab.validate()
    assert [made.cache_alloc(cache, GFP_KERNEL, -1, 0) for _ in wanted] == wanted


@pytest.mark.parametrize("seed", range(8))
def test_sheaves_equal_plain_ones(seed: int) -> None:
    """Random traffic on two CPUs; the plain model predicts every object, sheaf and counter."""
    rng = random.Random(seed)
    made, cache = machine()
    s = made.slab.caches[cache]
    plain = PlainSheaves(CAPACITY, 2)
    live: list[int] = []
    greed = 0.5
    for step in range(1500):
        if step % 150 == 0:  # in half of the runs tides that fill a barn and empty it
            greed = rng.choice((0.15, 0.5, 0.85)) if seed % 2 else (0.95, 0.05)[step // 150 % 2]
        cpu = rng.randrange(2)
        if rng.random() < greed or not live:
            may_wait = rng.random() < 0.8
            wanted = plain.alloc(cpu, may_wait)
            addr = made.cache_alloc(cache, GFP_KERNEL if may_wait else GFP_ATOMIC, -1, cpu)
            if wanted == "refill":
                wanted = plain.refilled(cpu, [*(sheaf(s.c_main[cpu]) or []), addr])
            elif wanted == "slab":
                wanted = addr
            assert addr == wanted
            live.append(addr)
        else:
            addr = live.pop(rng.randrange(len(live)))
            if rng.random() < 0.2:
                plain.free_rcu(cpu, addr)
                assert made.slab.free_rcu_sheaf(addr, cpu)
            else:
                plain.free(cpu, addr)
                made.cache_free(addr, cpu)
        if rng.random() < 0.05:
            plain.grace_period()
            made.slab.grace_period_over(1)
        assert [sheaf(x) for x in s.c_main] == plain.main
        assert [sheaf(x) for x in s.c_spare] == plain.spare
        assert [sheaf(x) for x in s.c_rcu_free] == plain.rcu
        assert [sheaf(x) for x in s.full[0]] == plain.full
        assert len(s.empty[0]) == plain.empty
        assert not any(made.slab.is_live(obj) for obj in plain.flushed)
    made.validate()
    found = counts(made, cache)
    found.pop("sheaf_alloc", 0)
    found.pop("sheaf_free", 0)
    assert found == dict(plain.counts)
    assert plain.counts["sheaf_flush"] or seed % 2
    assert s.live == len(live)
