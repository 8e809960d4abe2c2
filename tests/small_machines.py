"""
Machines small enough to be reasoned about page by page, and probes that read their lists.

Probes look at what the model keeps and change nothing.
"""

from __future__ import annotations

from typing import Any

from memtrace.config import KernelConfig, MachineConfig, PcpParams, SlubParams, VmParams, ZoneConfig
from memtrace.mm.boot import boot, build
from memtrace.mm.constants import MIGRATE_TYPES
from memtrace.mm.machine import Machine
from memtrace.mm.mmzone import Zone
from memtrace.mm.restore import place_free
from memtrace.mm.stats import NR_SLUB_STATS, SLUB_STATS

UNMOVABLE, MOVABLE, RECLAIMABLE, HIGHATOMIC, ISOLATE = range(5)
MB = 256
"""Pages in a MiB."""


def zone(name: str, start_mb: int, size_mb: int, node: int = 0, **known: Any) -> ZoneConfig:
    """A zone without holes, all of whose pages the buddy system gets."""
    index = {"DMA": 0, "DMA32": 1, "Normal": 2}[name]
    return ZoneConfig(node, name, index, start_mb * MB, size_mb * MB, size_mb * MB, size_mb * MB, **known)


def open_zone(name: str, start_mb: int, size_mb: int, node: int = 0) -> ZoneConfig:
    """A zone with no watermarks and no reserve: every page of it can be had."""
    return zone(name, start_mb, size_mb, node, min=0, low=0, high=0, lowmem_reserve=(0, 0, 0, 0))


def config(*zones: ZoneConfig, cpus: int = 1, pageblock_order: int = 9, **other: Any) -> MachineConfig:
    """A machine of these zones; CPUs are dealt to the nodes in equal runs."""
    nodes = 1 + max(z.node for z in zones)
    each = cpus // nodes
    node_cpus = tuple(tuple(range(n * each, (n + 1) * each if n < nodes - 1 else cpus)) for n in range(nodes))
    return MachineConfig("small", cpus, node_cpus, zones, pageblock_order=pageblock_order, **other)


def kernel(
    batch: int = -1, high: int = -1, slub: SlubParams | None = None, vm: VmParams | None = None, memcg: bool = False,
    pcp: PcpParams | None = None,
) -> KernelConfig:
    """Kernel 6.1 with some tunables set."""
    return KernelConfig(
        memcg=memcg, slub=slub or SlubParams(), pcp=pcp or PcpParams(batch, high), vm=vm or VmParams()
    )


def booted(
    *zones: ZoneConfig, cpus: int = 1, pageblock_order: int = 9, seed: int = 0, bits: int = 64, **tunables: Any
) -> Machine:
    """A freshly booted machine; all pageblocks are Movable and free."""
    machine_config = config(*zones, cpus=cpus, pageblock_order=pageblock_order, bits=bits)
    return boot(machine_config, kernel(**tunables), seed)


def empty(*zones: ZoneConfig, cpus: int = 1, pageblock_order: int = 9, **tunables: Any) -> Machine:
    """A machine of which no page is free yet; ``put_free`` and ``put_used`` give it pages."""
    return build(config(*zones, cpus=cpus, pageblock_order=pageblock_order), kernel(**tunables))


def put_free(machine: Machine, pfn: int, order: int, mt: int) -> None:
    """Put a free block at the tail of a list, without merging."""
    owner = machine.pages.zones[machine.pages.zone_of(pfn)]
    place_free(machine, owner, pfn, order, mt)
    owner.given_pages += 1 << order


def put_used(machine: Machine, pfn: int, pages: int, mt: int) -> None:
    """Mark single pages as allocated with a request of this type."""
    owner = machine.pages.zones[machine.pages.zone_of(pfn)]
    for p in range(pfn, pfn + pages):
        machine.frames.kind[p] = 3
        machine.frames.order[p] = 0
        machine.frames.mt[p] = mt
    owner.used_pages += pages
    owner.given_pages += pages


def free_list(machine: Machine, owner: Zone, order: int, mt: int) -> list[int]:
    """First pfns of the blocks on a free list, head to tail."""
    return machine.frames.members(owner.list0 + order * MIGRATE_TYPES + mt)


def free_lists(machine: Machine, owner: Zone) -> dict[tuple[int, int], list[int]]:
    """All free lists of a zone that are not empty, by (order, type)."""
    every = {(order, mt): free_list(machine, owner, order, mt) for order in range(11) for mt in range(MIGRATE_TYPES)}
    return {key: pfns for key, pfns in every.items() if pfns}


def pcp_list(machine: Machine, owner: Zone, cpu: int, order: int, mt: int) -> list[int]:
    """First pfns of the blocks on a CPU's list, head to tail."""
    index = 3 * order + mt if order < 4 else 12 + (mt == MOVABLE)
    return machine.frames.members(owner.pcp[cpu].list0 + index)


def stats(machine: Machine, cache: int, cpu: int | None = None) -> dict[str, int]:
    """SLUB's counters of a cache that are not zero, of one CPU or of all together."""
    raw = list(machine.slab.caches[cache].stat)
    cpus = range(len(raw) // NR_SLUB_STATS) if cpu is None else (cpu,)
    sums = {name: sum(raw[c * NR_SLUB_STATS + i] for c in cpus) for i, name in enumerate(SLUB_STATS)}
    return {name: n for name, n in sums.items() if n}


def counted(machine: Machine, cache: int, before: dict[str, int]) -> dict[str, int]:
    """How a cache's counters changed since ``before``."""
    after = stats(machine, cache)
    return {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}


def node_partial(machine: Machine, cache: int, node: int = 0) -> list[int]:
    """pfns of the slabs on a node's partial list, head to tail."""
    return _slabs(machine, machine.slab.caches[cache].n_first[node])


def cpu_partial(machine: Machine, cache: int, cpu: int = 0) -> list[int]:
    """pfns of the slabs on a CPU's partial list, head to tail."""
    return _slabs(machine, machine.slab.caches[cache].c_partial[cpu])


def cpu_slab(machine: Machine, cache: int, cpu: int = 0) -> int:
    """pfn of a CPU's slab, or -1."""
    row = machine.slab.caches[cache].c_slab[cpu]
    return machine.slab.sl_pfn[row] if row >= 0 else -1


def freelist(machine: Machine, pfn: int) -> list[int]:
    """Free objects of a slab that are not a CPU's own, in hand-out order."""
    row = machine.frames.slab[pfn]
    return _objects(machine, row, machine.slab.sl_free[row])


def cpu_freelist(machine: Machine, cache: int, cpu: int = 0) -> list[int]:
    """Free objects of a CPU's slab that are its own, in hand-out order."""
    s = machine.slab.caches[cache]
    return _objects(machine, s.c_slab[cpu], s.c_freelist[cpu])


def free_everything_idle(machine: Machine) -> None:
    """Take away all that caches and CPUs legitimately keep: flushed and drained."""
    for cache in range(machine.nr_caches):
        machine.slab.flush_all(cache)
    machine.pages.drain_all_pages()


def nr_free(owner: Zone) -> list[int]:
    """Free blocks by order."""
    return list(owner.nr_free)




def _slabs(machine: Machine, row: int) -> list[int]:
    found = []
    while row >= 0:
        found.append(machine.slab.sl_pfn[row])
        row = machine.slab.sl_next[row]
    return found


def _objects(machine: Machine, row: int, idx: int) -> list[int]:
    found = []
    while idx >= 0:
        found.append(idx)
        idx = machine.slab.obj_next[machine.slab.sl_seg[row] + idx]
    return found
