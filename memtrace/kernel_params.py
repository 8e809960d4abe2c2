"""
The components of a kernel profile: every tunable and feature switch, its meaning, and where the rule comes from.

A component is a frozen dataclass whose defaults are Linux 6.1's; a profile (data/kernels/*.toml) names what differs.
Everything printed about a switch (``memtrace info --kernel``), and every check of a value given with
``--set component.name=value``, is taken from the fields below.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LARGEST_ORDER = 10
"""Of a block of pages (mm.constants.MAX_ORDER), and so of a slab."""
_LARGEST_AREA = 1 << 24
"""Bytes: more than any kernel has for each CPU."""
AUTO = -1
"""Value of a tunable that the kernel works out by its own rule."""


def setting(
    default: Any, meaning: str, *, choices: tuple[str, ...] = (), auto: str = "", source: str = "",
    least: int | None = None, most: int = (1 << 31) - 1, power_of_two: bool = False,
) -> Any:
    """
    A field of a component.

    Parameters
    ----------
    meaning
        What it does, for people.
    choices
        Values it may have, when it is a word.
    auto
        What -1 stands for, when it may be -1.
    source
        Where the rule stands in the kernel, and since or until when it holds.
    least, most
        Smallest number allowed, -1 when there is an ``auto``, else 0; and the largest.
    power_of_two
        Other numbers than -1 are not allowed.
    """
    low = (AUTO if auto else 0) if least is None else least
    return field(default=default, metadata={
        "meaning": meaning, "choices": choices, "auto": auto, "source": source, "least": low,
        "most": most, "power_of_two": power_of_two,
    })  # fmt: skip


@dataclass(frozen=True, slots=True)
class SlubParams:
    """SLUB."""

    max_order: int = setting(3, "largest order that a slab is given for little waste", source="slub_max_order=",
                             most=LARGEST_ORDER)
    min_order: int = setting(0, "smallest order of a slab", source="slub_min_order=", most=LARGEST_ORDER)
    min_objects: int = setting(
        0, "objects that a slab should have at least; 0: 4 * (fls(CPUs) + 1)", source="slub_min_objects="
    )
    cpu_partial: int = setting(
        AUTO, "free objects that a CPU's partial list aims at", auto="6, 24, 52 or 120 by object size",
        source="/sys/kernel/slab/<cache>/cpu_partial; counted in slabs since 5.16",
    )
    min_partial: int = setting(
        AUTO, "partial slabs that a node keeps even when they are empty", auto="log2(size) / 2, between 5 and 10",
        source="/sys/kernel/slab/<cache>/min_partial",
    )
    remote_node_defrag_ratio: int = setting(
        1000, "of 1024 allocations without a local partial slab, how many look on other nodes",
        source="/sys/kernel/slab/<cache>/remote_node_defrag_ratio, which prints a tenth",
    )
    freelist_random: bool = setting(
        False, "objects of a new slab are linked in random order", source="CONFIG_SLAB_FREELIST_RANDOM"
    )
    merge: bool = setting(True, "caches of equal layout share one", source="slab_nomerge turns it off")
    order_rule: str = setting(
        "6.1", "how a slab's order is chosen", choices=("2.6.24", "6.1", "6.8"),
        source="calculate_order(): 2.6.24 halves the wanted objects, 6.1 lowers them one by one, 6.8 allows more waste",
    )
    cpu_partial_lists: bool = setting(
        True, "CPUs keep lists of partial slabs", source="CONFIG_SLUB_CPU_PARTIAL, since 3.2"
    )
    frozen_partials: bool = setting(
        True, "slabs on a CPU's partial list are frozen, so that frees to them never look at the node's list",
        source="until 6.7",
    )
    remote_empty: str = setting(
        "min_partial", "what becomes of a slab that a free empties while no CPU holds it",
        choices=("min_partial", "discard"), source="discarded at once until 2.6.24, then kept up to min_partial",
    )
    min_order_fallback: bool = setting(
        True, "when no block of the preferred order is free, the smallest order is tried", source="since 2.6.26"
    )
    comp_always: bool = setting(False, "single slab pages are asked for with __GFP_COMP too", source="seen in 6.12")
    try_node_first: bool = setting(
        False, "a request for a node tries that node alone first, without waiting", source="seen in 6.12"
    )
    free_pointer: str = setting(
        "middle", "where a free object holds its link", choices=("start", "middle"), source="in the middle since 5.7"
    )
    sheaf_capacity: int = setting(0, "objects in a sheaf, a CPU's array of free objects; 0: no sheaves",
                                  source="percpu sheaves, since 6.18")
    sheaf_caches: tuple[str, ...] = setting(
        ("vm_area_struct", "maple_node"), "caches that have sheaves", source="kmem_cache_args.sheaf_capacity"
    )
    barn_full: int = setting(10, "full sheaves that a node keeps for each cache", source="MAX_FULL_SHEAVES")
    barn_empty: int = setting(10, "empty sheaves that a node keeps for each cache", source="MAX_EMPTY_SHEAVES")
    rcu_delay_ms: int = setting(20, "ms for which a full sheaf of kfree_rcu()'s waits; assumed, no trace shows it",
                                source="call_rcu() in __kfree_rcu_sheaf()")


@dataclass(frozen=True, slots=True)
class SlabParams:
    """SLAB."""

    limit: int = setting(AUTO, "objects in a CPU's array, of every cache", auto="8, 24, 54 or 120 by object size",
                         source="/proc/slabinfo tunables")
    batchcount: int = setting(AUTO, "objects moved at a time", auto="half of the limit",
                              source="/proc/slabinfo tunables")
    shared: int = setting(
        AUTO, "batches that the array shared by a node's CPUs holds; 0: none",
        auto="8 for objects up to a page on machines of several CPUs", source="/proc/slabinfo tunables",
    )
    max_order: int = setting(AUTO, "largest order that a slab is given for little waste",
                             auto="1 with more than 32 MiB of memory, else 0", source="slab_max_order=",
                             most=LARGEST_ORDER)
    reap: bool = setting(True, "idle objects and slabs are given back every few seconds", source="cache_reap()")
    hz: int = setting(250, "timer ticks a second, which the reaper's times are rounded to", least=100,
                      source="CONFIG_HZ")


@dataclass(frozen=True, slots=True)
class KmallocParams:
    """kmalloc's caches."""

    largest: int = setting(8192, "SLUB: bytes of the largest cache; what is larger takes whole pages", least=8,
                           power_of_two=True,
                           source="half a page until 2.6.24, then two pages; SLAB and SLOB go by rules of their own")
    reclaim_caches: bool = setting(True, "requests for reclaimable memory have caches of their own",
                                   source="kmalloc-rcl-*, since 4.20")
    aligned_classes: bool = setting(False, "the classes 96 and 192 are aligned to 32 and 64 bytes", source="since 6.10")
    short_names: bool = setting(True, "kmalloc-1k, not kmalloc-1024", source="since 4.20")


@dataclass(frozen=True, slots=True)
class SlobParams:
    """SLOB."""

    lists: str = setting(
        "by_size", "how pages with free space are kept", choices=("one", "by_size"),
        source="one list for blocks of all sizes until 2.6.24; small, medium and large ones apart since 2.6.25",
    )
    rcu_delay_ms: int = setting(
        20, "ms for which a freed object of a TYPESAFE_BY_RCU cache keeps its block; assumed, no trace shows it",
        source="call_rcu() in kmem_cache_free(); until 6.3",
    )


@dataclass(frozen=True, slots=True)
class PcpParams:
    """Per-CPU page lists."""

    batch: int = setting(AUTO, "pages moved at a time", auto="about 1/4096 of the zone, 2^n - 1", least=AUTO,
                         most=1 << 20,
                         source="zone_batchsize()")
    high: int = setting(AUTO, "pages on a CPU's lists at which some go back", auto="see pcp.limit",
                        source="zone_highsize()")
    percpu_pagelist_high_fraction: int = setting(
        0, "high is this fraction of the zone, shared by the node's CPUs; 0: see pcp.limit",
        source="vm.percpu_pagelist_high_fraction",
    )
    limit: str = setting(
        "low_mark", "what high is when nobody sets it", choices=("six_batches", "low_mark", "auto"),
        source="6 batches until 5.13; the low watermark shared by the node's CPUs; since 6.7 tuned at run time "
               "between that and an eighth of the zone",
    )
    batch_limit_kb: int = setting(1024, "most kB that a batch is worth, times four", least=4,
                                  source="zone_batchsize(): 512 KiB until 4.18, then 1 MiB")
    orders: int = setting(4, "orders 0 to this, exclusive, have per-CPU lists", least=1,
                          source="1 until 5.12, then up to PAGE_ALLOC_COSTLY_ORDER")
    thp: bool = setting(True, "blocks of order 9 have per-CPU lists", source="CONFIG_TRANSPARENT_HUGEPAGE, since 5.13")
    lists: str = setting(
        "by_type", "how a CPU's pages are kept", choices=("mixed", "by_type"),
        source="one list for all migratetypes until 2.6.31, then one for each",
    )
    free_high_after: str = setting(
        "half_min", "lists that tune themselves: pages freed in a row after which blocks of high orders are given back",
        choices=("batch", "half_min"), source="a batch from 6.7 to 6.15; a batch and half of high_min since 6.16",
    )
    cache_slice_kb: int = setting(
        1024, "kB of data cache that a CPU has for itself; beyond three batches, blocks of high orders are kept longer",
        source="PCPF_FREE_HIGH_BATCH, since 6.7; assumed",
    )


@dataclass(frozen=True, slots=True)
class VmParams:
    """The page allocator."""

    min_free_kbytes: int = setting(AUTO, "what the min watermarks add up to, in kB", auto="4 * sqrt(low memory in kB)",
                                   source="vm.min_free_kbytes")
    watermark_scale_factor: int = setting(
        10, "distance of the low and high watermarks, in 1/10,000 of the zone", source="vm.watermark_scale_factor",
        most=3000,
    )
    watermark_boost_factor: int = setting(
        15000, "how far a fallback may raise the watermarks, in 1/10,000 of high; 0: never",
        source="vm.watermark_boost_factor, since 5.0",
    )
    lowmem_reserve_ratio: tuple[int, ...] = setting(
        (256, 256, 32, 0, 0), "what DMA, DMA32, Normal, HighMem and Movable keep from requests that could go higher",
        source="vm.lowmem_reserve_ratio",
    )
    compaction: bool = setting(True, "movable pages are moved together to make large blocks", source="since 2.6.35")
    extfrag_threshold: int = setting(
        500, "no compaction for large orders when the fragmentation index is below this; 0 to 1000",
        source="vm.extfrag_threshold",
    )
    min_free_kbytes_limit: int = setting(262144, "most that min_free_kbytes is set to by itself", least=128,
                                         source="64 MiB until 5.7, then 256 MiB")
    khugepaged: bool = setting(
        False, "transparent huge pages raise min_free_kbytes", source="set_recommended_min_free_kbytes()"
    )
    watermarks: str = setting(
        "scale", "where the low and high watermarks lie above min", choices=("quarters", "scale"),
        source="a quarter and a half of min until 4.5; by watermark_scale_factor since 4.6",
    )
    watermark_check: str = setting(
        "any_block", "how a zone is checked for a block of some order", choices=("halving", "any_block"),
        source="until 4.3 smaller blocks did not count and the mark was halved for each order",
    )
    fallback: str = setting(
        "6.1", "how a request takes memory of another migratetype", choices=("2.6.24", "6.1", "claim_steal"),
        source="__rmqueue_fallback() of 2.6.24; steal_suitable_fallback() from 4.x to 6.9; claim a whole pageblock, "
               "else steal one block, since 6.15, with which lists and pageblocks have the same type",
    )
    nofragment: bool = setting(
        True, "the first attempt takes memory of a lower zone before it breaks another migratetype's pageblock",
        source="ALLOC_NOFRAGMENT, since 5.0",
    )
    tail_merge: bool = setting(
        True, "a freed block whose neighbours may soon merge waits at its list's tail", source="since 2.6.35"
    )
    reserve: str = setting(
        "highatomic", "pageblocks kept for urgent requests", choices=("reserve", "highatomic", "highatomic_free"),
        source="MIGRATE_RESERVE, set aside at boot, until 4.3; HighAtomic, taken by urgent requests, counted whole "
               "against others; since 6.12 only its free pages are, and a zone too small for one has none",
    )


@dataclass(frozen=True, slots=True)
class PercpuParams:
    """The percpu allocator."""

    static_size: int = setting(
        AUTO, "bytes of the kernel's own per-CPU variables, for each CPU; differs from build to build",
        auto="171432, or 91860 on 32-bit machines", source="__per_cpu_end - __per_cpu_start",
        most=_LARGEST_AREA,
    )
    reserved_size: int = setting(8192, "bytes kept for modules' own variables", source="PERCPU_MODULE_RESERVE",
                                 most=_LARGEST_AREA)
    dyn_size: int = setting(
        AUTO, "bytes of the first chunk for areas, at least", auto="28 KiB, or 20 KiB on 32-bit machines",
        source="PERCPU_DYNAMIC_RESERVE", most=_LARGEST_AREA,
    )
    atom_size: int = setting(
        AUTO, "bytes that units are gathered into", auto="2 MiB on 64-bit machines, else a page",
        source="pcpu_embed_first_chunk(): PMD_SIZE with large pages", power_of_two=True, most=_LARGEST_AREA,
    )
    possible_cpus: int = setting(0, "CPUs that have a unit; 0: those of the machine", source="possible_cpus=")
