"""CPUs come and go at random times: nothing is lost, the books balance, and an offline CPU keeps nothing."""

from __future__ import annotations

import random

import pytest
from small_machines import config, kernel, open_zone

from memtrace.errors import ConfigError
from memtrace.mm.boot import boot
from memtrace.mm.gfp import GFP_KERNEL
from memtrace.mm.hotplug import cpu_offline, cpu_online, online_cpus
from memtrace.mm.machine import Machine


def machine(allocator: str, nodes: int, cpus: int = 4) -> Machine:
    zones = [open_zone("DMA32", 16 + 32 * node, 32, node) for node in range(nodes)]
    return boot(config(*zones, cpus=cpus), kernel(), 0, allocator)


@pytest.mark.parametrize("allocator", ["slub", "slab", "slob"])
@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost(allocator: str, nodes: int, seed: int) -> None:
    rng = random.Random(seed)
    made = machine(allocator, nodes)
    objects: dict[int, int] = {}
    pages: list[tuple[int, int]] = []
    areas: list[int] = []
    for step in range(2000):
        cpu = rng.choice(online_cpus(made))
        draw = rng.random()
        if draw < 0.35:
            size = rng.choice((8, 64, 100, 192, 1024, 9000))
            addr = made.kmalloc(size, GFP_KERNEL, -1, cpu)
            assert addr and addr not in objects
            objects[addr] = size
        elif draw < 0.65 and objects:
            addr = rng.choice(sorted(objects))
            del objects[addr]
            made.kfree(addr, cpu)
        elif draw < 0.75:
            order = rng.choice((0, 0, 1, 3))
            pages.append((made.page_alloc(order, GFP_KERNEL, -1, cpu), order))
        elif draw < 0.88 and pages:
            made.page_free(*pages.pop(rng.randrange(len(pages))), cpu)
        elif draw < 0.92:
            areas.append(made.alloc_percpu(rng.choice((8, 640)), 8, GFP_KERNEL, cpu))
        elif draw < 0.95 and areas:
            made.free_percpu(areas.pop(rng.randrange(len(areas))), cpu)
        elif draw < 0.98 and len(online_cpus(made)) > 1:
            going = rng.choice(online_cpus(made))
            cpu_offline(made, going)
            assert all(zone.pcp[going].count == 0 for zone in made.pages.zones)
            assert made.runs_on[going] in online_cpus(made)
        else:
            cpu_online(made, rng.randrange(4))
        if step % 200 == 0:
            made.validate()
    made.validate()
    for cpu in range(4):
        cpu_online(made, cpu)
    for addr in objects:
        made.kfree(addr, 0)
    for pfn, order in pages:
        made.page_free(pfn, order, 1)
    for ptr in areas:
        made.free_percpu(ptr, 2)
    assert made.slab.bad_frees == 0
    assert made.percpu.bad_frees == 0
    made.validate()


def test_work_goes_to_the_next_cpu_of_the_node_and_comes_back() -> None:
    made = machine("slub", 2)
    assert list(made.runs_on) == [0, 1, 2, 3]
    assert cpu_offline(made, 3)["taker"] == 2
    assert cpu_offline(made, 2)["taker"] == 0, "its node has no CPU left"
    assert list(made.runs_on) == [0, 1, 0, 0]
    cpu_offline(made, 0)
    assert list(made.runs_on) == [1, 1, 1, 1]
    with pytest.raises(ConfigError, match="last online CPU"):
        cpu_offline(made, 1)
    cpu_online(made, 3)
    assert list(made.runs_on) == [1, 1, 3, 3]


def test_slub_gives_back_what_the_cpu_held() -> None:
    made = machine("slub", 1)
    addrs = [made.kmalloc(64, GFP_KERNEL, -1, 3) for _ in range(200)]
    cache = made.slab.caches[made.slab.cache_of(addrs[0]).index]
    assert cache.c_slab[3] >= 0
    for addr in addrs[::3]:
        made.kfree(addr, 3)
    cpu_offline(made, 3)
    assert cache.c_slab[3] < 0
    assert cache.c_partial[3] < 0
    made.validate()


def test_fewer_cpus_share_the_limit_of_the_page_lists() -> None:
    made = boot(config(open_zone("DMA32", 16, 512), cpus=4), kernel())
    for zone in made.pages.zones:
        zone.watermark_low = 8000
    cpu_offline(made, 3)
    assert [pcp.high for pcp in made.pages.zones[0].pcp] == [8000 // 3] * 4
    cpu_online(made, 3)
    assert [pcp.high for pcp in made.pages.zones[0].pcp] == [2000] * 4


def test_deferred_work_waits_for_the_cpu_to_come_back() -> None:
    """Whoever waits for it (SLAB's reaper) would wait for ever if it were forgotten."""
    made = machine("slab", 1)
    made.defer(3)
    cpu_offline(made, 3)
    cpu_online(made, 3)
    assert made.deferred[3]
    assert made.nr_deferred == 1
