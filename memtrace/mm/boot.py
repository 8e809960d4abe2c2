"""Building a machine: zones, zonelists, watermarks, boot hand-over (MODEL 1.1-1.8, 2.8, 3.2)."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import replace
from math import isqrt

from memtrace.config import KernelConfig, MachineConfig, PcpParams, VmParams, ZoneConfig
from memtrace.errors import ConfigError
from memtrace.mm.constants import (
    KMALLOC_MAX_CACHED,
    MAX_ORDER,
    MIGRATE_PCPTYPES,
    MIGRATE_TYPES,
    NR_LRU_LISTS,
    NR_ORDERS,
    NR_PCP_LISTS,
    PCP_AUTO,
    PCP_FIXED,
    PCP_FREE_FACTOR,
    PCP_ORDERS,
)
from memtrace.mm.itinerary import Itinerary
from memtrace.mm.machine import Machine
from memtrace.mm.mmzone import Frames, PerCpuPages, Zone, nr_lists
from memtrace.mm.page_alloc import PageAllocator
from memtrace.mm.percpu import PercpuAllocator
from memtrace.mm.percpu_layout import percpu_layout
from memtrace.mm.slab import Slab
from memtrace.mm.slab_common import SlabAllocator
from memtrace.mm.slob import Slob
from memtrace.mm.slub import Slub
from memtrace.mm.slub_sheaves import SheafSlub

_MAX_NUMNODES = 1024
_AUTO_FRACTION = 8  # MIN_PERCPU_PAGELIST_HIGH_FRACTION: lists that tune themselves may hold this part of a zone


def build(config: MachineConfig, kernel: KernelConfig, seed: int = 0, allocator: str = "slub") -> Machine:
    """
    A machine with empty zones: no page is free yet and no cache exists.

    ``boot`` hands the memory over as a booting kernel does; ``restore`` lays out a recorded state.
    """
    nr_frames = max(zone.end_pfn for zone in config.zones)
    frames = Frames(nr_frames, nr_lists(len(config.zones), config.cpus))
    zones = [_zone(index, zone, config) for index, zone in enumerate(config.zones)]
    head = nr_frames
    for zone in zones:
        zone.list0 = head
        head += NR_ORDERS * MIGRATE_TYPES
        for _ in range(config.cpus):
            zone.pcp.append(PerCpuPages(head))
            head += NR_PCP_LISTS
        zone.lru0 = head
        head += NR_LRU_LISTS
    cpu_node = [0] * config.cpus
    for node, cpus in enumerate(config.node_cpus):
        for cpu in cpus:
            cpu_node[cpu] = node
    pages = PageAllocator(frames, zones, Itinerary(), cpu_node)
    pages.zonelists = build_zonelists(config, zones)
    pages.local_zonelists = [
        [zone for zone in zonelist if zone.node == node] for node, zonelist in enumerate(pages.zonelists)
    ]
    pages.gfp_zone = array("i", _gfp_zones(config))
    pages.mobility_grouping = config.managed_pages >= (5 << config.pageblock_order)
    set_features(pages, config, kernel)
    set_watermarks(zones, config, kernel.vm)
    set_pcp(zones, config, kernel.pcp)
    percpu = PercpuAllocator(pages, percpu_layout(config, kernel.percpu), kernel.memcg)
    slab = make_allocator(allocator, pages, config, kernel, seed)
    slab.set_kmalloc(kernel.kmalloc if allocator == "slub" else replace(kernel.kmalloc, largest=KMALLOC_MAX_CACHED))
    return Machine(pages, slab, percpu, config, kernel.pcp)


def set_features(pages: PageAllocator, config: MachineConfig, kernel: KernelConfig) -> None:
    """Make the page allocator that of the profile."""
    vm, pcp = kernel.vm, kernel.pcp
    pages.watermark_boost_factor = vm.watermark_boost_factor
    pages.compaction = vm.compaction
    pages.extfrag_threshold = vm.extfrag_threshold
    pages.set_fallback_form(vm.fallback)
    pages.tail_merge = vm.tail_merge
    pages.halving_check = vm.watermark_check == "halving"
    pages.highatomic = vm.reserve != "reserve"
    pages.count_free_reserve = vm.reserve == "highatomic_free"
    with_dma32 = {zone.node for zone in pages.zones if zone.name == "DMA32"}
    for zone in pages.zones:
        pages.nofragment[zone.index] = vm.nofragment and zone.name == "Normal" and zone.node in with_dma32
    pages.thp_lists = pcp.thp and config.pageblock_order == 9
    pages.pcp_orders = min(pcp.orders, PCP_ORDERS)
    pages.mixed_lists = pcp.lists == "mixed"
    pages.pcp_form = {"six_batches": PCP_FIXED, "low_mark": PCP_FREE_FACTOR, "auto": PCP_AUTO}[pcp.limit]
    pages.free_high_late = pcp.free_high_after == "half_min"
    pages.cache_slice = pcp.cache_slice_kb // 4


def make_allocator(
    name: str, pages: PageAllocator, config: MachineConfig, kernel: KernelConfig, seed: int
) -> SlabAllocator:
    """The one slab allocator of a machine."""
    if name not in ALLOCATORS:
        raise ConfigError(f'allocator "{name}": not modelled; this version knows {", ".join(ALLOCATORS)}.')
    return ALLOCATORS[name](pages, config, kernel, seed)


def _slub(pages: PageAllocator, config: MachineConfig, kernel: KernelConfig, seed: int) -> SlabAllocator:
    kind = SheafSlub if kernel.slub.sheaf_capacity else Slub
    return kind(pages, config.cpus, config.nodes, kernel.memcg, kernel.slub, seed, config.bits // 8)


def _slab(pages: PageAllocator, config: MachineConfig, kernel: KernelConfig, seed: int) -> SlabAllocator:
    word = config.bits // 8
    return Slab(pages, config.cpus, config.nodes, kernel.memcg, kernel.slab, word, config.possible_cpus)


def _slob(pages: PageAllocator, config: MachineConfig, kernel: KernelConfig, seed: int) -> SlabAllocator:
    slob = Slob(pages, config.cpus, config.nodes, kernel.memcg, config.bits // 8)
    slob.one_list = kernel.slob.lists == "one"
    return slob


ALLOCATORS = {"slub": _slub, "slab": _slab, "slob": _slob}
"""What makes each slab allocator, by the name that ``--allocator`` calls it (docs/add-an-allocator.md)."""


def boot(config: MachineConfig, kernel: KernelConfig, seed: int = 0, allocator: str = "slub") -> Machine:
    """A machine as the page allocator first sees it: all managed memory free, kmalloc caches made."""
    machine = build(config, kernel, seed, allocator)
    for zone, zone_config in zip(machine.pages.zones, config.zones, strict=True):
        for start, end in free_ranges(zone_config, config.holes):
            hand_over(machine.pages, zone, start, end)
        if kernel.vm.reserve == "reserve":
            machine.pages.reserve_pageblocks(zone)
    machine.slab.create_kmalloc_caches()
    return machine


def _zone(index: int, zone: ZoneConfig, config: MachineConfig) -> Zone:
    return Zone(
        index, zone.node, zone.index, zone.name, zone.start_pfn, zone.spanned, zone.present, zone.managed,
        config.pageblock_order,
    )


def free_ranges(zone: ZoneConfig, holes: tuple[tuple[int, int], ...]) -> Iterator[tuple[int, int]]:
    """
    Pfn ranges [start, end) that boot hands to the zone: its memory less what boot kept.

    What boot kept (kernel image, page structs, hash tables: ``present - managed`` pages) is taken from the
    zone's low end for DMA and from its high end elsewhere, where memblock takes it (MODEL 1.8).
    """
    ranges = [(zone.start_pfn, zone.end_pfn)]
    for hole_start, hole_end in sorted(holes):
        ranges = [
            piece
            for start, end in ranges
            for piece in ((start, min(end, hole_start)), (max(start, hole_end), end))
            if piece[0] < piece[1]
        ]
    surplus = sum(end - start for start, end in ranges) - zone.managed
    if zone.name == "DMA":
        ranges.sort()
    else:
        ranges.sort(reverse=True)
    kept = []
    for start, end in ranges:
        cut = min(max(surplus, 0), end - start)
        surplus -= cut
        piece = (start + cut, end) if zone.name == "DMA" else (start, end - cut)
        if piece[0] < piece[1]:
            kept.append(piece)
    yield from sorted(kept)


def hand_over(pages: PageAllocator, zone: Zone, start: int, end: int) -> None:
    """Kernel: __free_memory_core(): the largest aligned blocks, ascending, each to its list's tail."""
    while start < end:
        order = MAX_ORDER if start == 0 else min(MAX_ORDER, (start & -start).bit_length() - 1)
        while start + (1 << order) > end:
            order -= 1
        block = (start >> zone.pageblock_order) - zone.pageblock0
        pages.free_one_page(zone, start, order, zone.pageblock_type[block], True)
        zone.given_pages += 1 << order
        start += 1 << order


def _gfp_zones(config: MachineConfig) -> list[int]:
    """Highest zone type by the four low gfp bits (MODEL 1.3), -1 for invalid combinations."""
    names = config.zone_names
    dma, normal, movable = names.index("DMA"), names.index("Normal"), names.index("Movable")
    dma32 = names.index("DMA32") if "DMA32" in names else normal
    highmem = names.index("HighMem") if "HighMem" in names else normal
    table = [-1] * 16
    table[0], table[1], table[2], table[4] = normal, dma, highmem, dma32
    table[8], table[9], table[10], table[12] = normal, dma, movable, dma32
    return table


def build_zonelists(config: MachineConfig, zones: list[Zone]) -> list[list[Zone]]:
    """Kernel: build_zonelists(): all zones by node distance, highest type first (MODEL 1.2)."""
    load = [0] * config.nodes
    lists = []
    for local in range(config.nodes):
        order = [local]
        previous = local
        while len(order) < config.nodes:
            def value(n: int, local: int = local) -> tuple[int, int]:
                penalty = (1 if n < local else 0) + (1 if config.node_cpus[n] else 0)
                return ((_distance(config, local, n) + penalty) * _MAX_NUMNODES + load[n], n)

            best = min((n for n in range(config.nodes) if n not in order), key=value)
            if _distance(config, local, best) != _distance(config, local, previous):
                load[best] += 1
            order.append(best)
            previous = best
        lists.append([
            zone for node in order for zone in sorted(zones, key=lambda z: -z.zone_idx) if zone.node == node
        ])
    return lists


def _distance(config: MachineConfig, a: int, b: int) -> int:
    if config.distance:
        return config.distance[a][b]
    return 10 if a == b else 20


def is_highmem(name: str) -> bool:
    return name == "HighMem"


def min_free_kbytes(config: MachineConfig, vm: VmParams) -> int:
    """Kernel: calculate_min_free_kbytes(), and set_recommended_min_free_kbytes() with huge pages (MODEL 2.8.1)."""
    low = [zone for zone in config.zones if zone.name not in ("HighMem", "Movable")]
    pages = sum(zone.managed for zone in low)
    kbytes = max(128, min(vm.min_free_kbytes_limit, isqrt(16 * 4 * pages)))
    if vm.khugepaged:
        block = 1 << config.pageblock_order
        kbytes = max(kbytes, 4 * min(block * len(low) * (2 + MIGRATE_PCPTYPES * MIGRATE_PCPTYPES), pages // 20))
    return kbytes


def set_watermarks(zones: list[Zone], config: MachineConfig, vm: VmParams) -> None:
    """Kernel: __setup_per_zone_wmarks(), setup_per_zone_lowmem_reserve() (MODEL 2.8.2, 2.8.4)."""
    kbytes = max(vm.min_free_kbytes, config.min_free_kbytes)
    pages_min = (kbytes if kbytes >= 0 else min_free_kbytes(config, vm)) // 4
    lowmem = sum(zone.managed for zone in config.zones if not is_highmem(zone.name))
    for zone, known in zip(zones, config.zones, strict=True):
        share = pages_min * known.managed // lowmem
        least = max(32, min(128, known.managed // 1024)) if is_highmem(known.name) else share
        if vm.watermarks == "quarters":
            low, high = least + share // 4, least + share // 2
        else:
            step = max(share // 4, known.managed * vm.watermark_scale_factor // 10000)
            low, high = least + step, least + 2 * step
        overridden = known.min >= 0 and vm.min_free_kbytes < 0
        zone.watermark_min = known.min if overridden else least
        zone.watermark_low = known.low if overridden else low
        zone.watermark_high = known.high if overridden else high
        for j in range(5):
            zone.lowmem_reserve[j] = (
                known.lowmem_reserve[min(j, len(known.lowmem_reserve) - 1)]
                if known.lowmem_reserve
                else _reserve_against(known, j, config, vm)
            )


def _reserve_against(zone: ZoneConfig, j: int, config: MachineConfig, vm: VmParams) -> int:
    names = config.zone_names
    ratio = dict(zip(("DMA", "DMA32", "Normal", "HighMem", "Movable"), vm.lowmem_reserve_ratio, strict=True))[zone.name]
    if j <= zone.index or ratio == 0 or j >= len(names):
        return 0
    above = sum(z.managed for z in config.zones if z.node == zone.node and zone.index < z.index <= j)
    return above // ratio


def pcp_batch(managed: int, limit_kb: int = 1024) -> int:
    """Pages moved at a time: at least one."""
    return max(1, zone_batchsize(managed, limit_kb))


def zone_batchsize(managed: int, limit_kb: int) -> int:
    """Kernel: zone_batchsize() (MODEL 3.2): 0 for the smallest zones."""
    batch = max(1, min(managed // 1024, limit_kb // 4) // 4)
    return (1 << ((batch + batch // 2).bit_length() - 1)) - 1


def pcp_high(zone: Zone, batch: int, cpus: int, fraction: int) -> int:
    """Kernel: zone_highsize(), 6.1 (MODEL 3.2); ``cpus`` online on the zone's node."""
    total = int(zone.watermark_low) if fraction == 0 else zone.managed // fraction
    return max(total // max(1, cpus), 4 * batch)


def update_pcp(zones: list[Zone], online: list[int], params: PcpParams) -> None:
    """
    Work out anew how many pages a CPU's lists may hold; ``online`` CPUs by node.

    Kernel: zone_pcp_update() as page_alloc_cpu_dead() and page_alloc_cpu_online() call it (MODEL 13)
    """
    fraction = params.percpu_pagelist_high_fraction
    if params.high >= 0 or (params.limit == "six_batches" and not fraction):
        return
    for zone in zones:
        cpus = max(1, online[zone.node])
        for pcp in zone.pcp:
            pcp.high_min = pcp_high(zone, pcp.batch, cpus, fraction)
            if params.limit == "auto" and not fraction:
                pcp.high_max = pcp_high(zone, pcp.batch, cpus, _AUTO_FRACTION)
            else:
                pcp.high_max = pcp.high = pcp.high_min


def set_pcp(zones: list[Zone], config: MachineConfig, params: PcpParams) -> None:
    """Batch and high of every CPU's lists: as set, else as recorded, else by the kernel's rule (MODEL 3.2)."""
    for zone, known in zip(zones, config.zones, strict=True):
        cpus = len(config.node_cpus[zone.node]) or config.cpus
        ruled = pcp_batch(zone.managed, params.batch_limit_kb)
        batch = next(b for b in (params.batch, known.pcp_batch, ruled) if b > 0)
        fraction = params.percpu_pagelist_high_fraction
        if params.limit == "six_batches" and not fraction:
            base = 6 * (zone_batchsize(zone.managed, params.batch_limit_kb) if batch == ruled else batch)
        else:
            base = pcp_high(zone, batch, cpus, fraction)
        # What a kernel of another form printed says nothing about this one's limit.
        recorded = known.pcp_high if not fraction and params.batch <= 0 and params.limit != "six_batches" else -1
        high = next(h for h in (params.high, recorded, base) if h >= 0)
        tuned = params.limit == "auto" and params.high < 0 and not fraction
        for pcp in zone.pcp:
            pcp.batch = batch
            pcp.high_min = base if tuned else high
            pcp.high_max = pcp_high(zone, batch, cpus, _AUTO_FRACTION) if tuned else high
            pcp.high = high
