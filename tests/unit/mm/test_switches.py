"""Does every switch of a kernel profile change what the model does?"""

from __future__ import annotations

import random
from dataclasses import fields
from typing import Any

import pytest
from small_machines import config, zone

from memtrace.config import KernelConfig, MachineConfig, ReplayConfig
from memtrace.mm.boot import boot, build
from memtrace.mm.constants import SLAB_RECLAIM_ACCOUNT
from memtrace.mm.gfp import GFP_ATOMIC, GFP_HIGHUSER_MOVABLE, GFP_KERNEL, GFP_NOWAIT
from memtrace.mm.machine import Machine
from memtrace.schedule.daemons import make_daemons

COMPONENTS = ("slub", "kmalloc", "slob", "pcp", "vm")
SETTINGS = {
    f"{part}.{f.name}": f for part, params in KernelConfig().components().items() if part in COMPONENTS
    for f in fields(params)
}
ELSEWHERE = {
    "slub.remote_node_defrag_ratio": "test_slub", "slub.min_order_fallback": "test_slub_forms",
    "slub.try_node_first": "test_slub_forms", "slub.barn_full": "test_slub_forms", "slub.barn_empty": "test_slub_forms",
    "slub.order_rule": "test_slub_forms", "pcp.cache_slice_kb": "test_slub_forms", "pcp.lists": "test_page_alloc_forms",
    "pcp.thp": "test_page_alloc_forms",
    "vm.watermark_check": "test_page_alloc_forms", "vm.reserve": "test_page_alloc_forms",
    "vm.watermark_boost_factor": "test_page_alloc_fallback", "vm.nofragment": "test_page_alloc_forms",
    "vm.compaction": "test_compaction", "vm.extfrag_threshold": "test_compaction",
}
"""Switches that matter in corners which this load does not come to, and the file that does."""
SHEAVES = {"slub.sheaf_capacity": "4"}
TUNED = {"pcp.limit": "auto"}
# What else must be set for a switch to matter, and a value other than the default that does.
OTHERS: dict[str, tuple[dict[str, str], str]] = {
    "slub.min_order": ({}, "1"),
    "slub.max_order": ({}, "1"),
    "slub.min_objects": ({}, "4"),
    "slub.cpu_partial": ({}, "0"),
    "slub.min_partial": ({}, "0"),
    "slub.sheaf_capacity": ({}, "4"),
    "slub.sheaf_caches": (SHEAVES, "vm_area_struct"),
    "slub.rcu_delay_ms": (SHEAVES, "7"),
    "slub.remote_empty": ({}, "discard"),
    "slub.free_pointer": ({}, "start"),
    "kmalloc.largest": ({}, "2048"),
    "slob.lists": ({}, "one"),
    "slob.rcu_delay_ms": ({}, "7"),
    "pcp.batch": ({}, "5"),
    "pcp.high": ({}, "3"),
    "pcp.percpu_pagelist_high_fraction": ({}, "50"),
    "pcp.limit": ({}, "auto"),
    "pcp.batch_limit_kb": ({}, "16"),
    "pcp.orders": ({}, "1"),
    "pcp.free_high_after": (TUNED, "batch"),
    "vm.min_free_kbytes": ({}, "4000"),
    "vm.watermark_scale_factor": ({}, "500"),
    "vm.lowmem_reserve_ratio": ({}, "2:2:2:2:2"),
    "vm.min_free_kbytes_limit": ({}, "500"),
    "vm.watermarks": ({"vm.watermark_scale_factor": "1000"}, "quarters"),
    "vm.fallback": ({}, "claim_steal"),
}


def described() -> MachineConfig:
    """Two nodes of 4 + 6 and 4 MiB, four CPUs: little enough to be filled."""
    low, high = zone("DMA32", 16, 4), zone("Normal", 4096, 6)
    return config(low, high, zone("Normal", 4104, 4, node=1), cpus=4)


def work(machine: Machine, rng: random.Random) -> list[int]:
    """A mixed load that fills memory several times; the addresses and pages it got."""
    slab = machine.slab
    caches = [
        slab.create_cache("maple_node", 256, 256), slab.create_cache("vm_area_struct", 192),
        slab.create_cache("inode", 600, flags=SLAB_RECLAIM_ACCOUNT), slab.create_cache("like-64", 60),
        slab.create_cache("odd", 11200), slab.create_cache("large", 1500), slab.create_cache("rcu", 120, flags=0x80000),
    ]
    got: list[int] = []
    objects: list[int] = []
    pages: list[tuple[int, int]] = []
    for step in range(4000):
        cpu, node = rng.randrange(4), rng.choice((-1, -1, -1, 0, 1))
        gfp = rng.choice((GFP_KERNEL, GFP_KERNEL, GFP_ATOMIC, GFP_NOWAIT))
        filling = step // 700 % 2 == 0
        kind = rng.random()
        if kind < (0.45 if filling else 0.1):
            addr = machine.cache_alloc(rng.choice(caches), gfp, node, cpu)
        elif kind < (0.6 if filling else 0.15):
            addr = machine.kmalloc(rng.choice((8, 90, 170, 500, 3000, 8000, 9000)), gfp | rng.choice((0, 16)), node,
                                   cpu)
        elif kind < (0.8 if filling else 0.2):
            order = rng.choice((0, 0, 0, 1, 2, 3, 4, 9))
            wanted = rng.choice((gfp, GFP_HIGHUSER_MOVABLE))
            pfn = machine.page_alloc(order, wanted, node, cpu)
            got.append(pfn)
            if pfn >= 0:
                pages.append((pfn, order))
            continue
        elif kind < 0.9 and objects:
            addr = objects.pop(rng.randrange(len(objects)))
            if rng.random() < 0.2 and slab.free_rcu_sheaf(addr, cpu):
                continue
            machine.kfree(addr, cpu)
            continue
        else:
            if pages:
                machine.page_free(*pages.pop(rng.randrange(len(pages))), cpu)
            continue
        got.append(addr)
        if addr > 16:
            objects.append(addr)
        if step % 100 == 0:
            slab.grace_period_over(1)
    return got


def behaviour(settings: dict[str, str], allocator: str) -> tuple[Any, ...]:
    """All that can be seen of a machine with these settings and of what it does."""
    kernel = KernelConfig()
    for key, value in settings.items():
        kernel = kernel.with_setting(key, value)
    replayed = ReplayConfig(described(), kernel, allocator)
    machine = boot(replayed.machine, kernel, 0, allocator)
    zones = machine.pages.zones
    marks = [(z.watermark_min, z.watermark_low, z.watermark_high, *z.lowmem_reserve) for z in zones]
    large = build(config(zone("DMA32", 16, 512)), kernel).pages.zones
    lists = [(z.pcp[0].batch, z.pcp[0].high, z.pcp[0].high_max) for z in [*zones, *large]]
    daemons = [(type(daemon).__name__, getattr(daemon, "delay_ns", 0)) for daemon in make_daemons(machine, replayed)]
    got = work(machine, random.Random(1))
    machine.validate()
    kept = [(s.name, s.size, s.align, s.order, s.offset, s.allocflags, s.live) for s in machine.slab.caches]
    left = [(z.free_pages, list(z.nr_free_mt), z.pcp[0].count, z.nr_reserved_highatomic) for z in zones]
    held = [len(s.empty[n]) for s in machine.slab.caches if hasattr(s, "empty") for n in range(2)]
    counted = [list(s.stat) for s in machine.slab.caches if hasattr(s, "stat")]
    costs = (machine.pages.page_path, machine.it.n)
    return marks, lists, daemons, got, kept, left, held, counted, costs


def allocator_of(key: str) -> str:
    return "slob" if key.startswith("slob.") else "slub"


@pytest.mark.parametrize("key", [key for key in SETTINGS if key not in ELSEWHERE])
def test_it_changes_something(key: str) -> None:
    default = SETTINGS[key].default
    needed, value = OTHERS.get(key, ({}, "no" if default is True else "yes"))
    allocator = allocator_of(key)
    assert behaviour(needed | {key: value}, allocator) != behaviour(needed, allocator)


@pytest.mark.parametrize(
    "key", [key for key, field in SETTINGS.items() if field.metadata["choices"] and key not in ELSEWHERE]
)
def test_each_choice_is_another_kernel(key: str) -> None:
    needed, _ = OTHERS.get(key, ({}, ""))
    seen = [behaviour(needed | {key: choice}, allocator_of(key)) for choice in SETTINGS[key].metadata["choices"]]
    for i, one in enumerate(seen):
        assert one not in seen[:i], SETTINGS[key].metadata["choices"][i]
