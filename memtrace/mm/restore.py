"""
Laying a recorded state out in a machine.

``restore_exact`` takes an exact dump: every list in its order. Slabs that were full are on no list, so a dump
only counts them; the model holds them as ``hidden`` until an object of theirs turns up (EXACT C 4.8).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import cython

from memtrace.errors import ConfigError
from memtrace.mm.constants import MIGRATE_MOVABLE, MIGRATE_PCPTYPES, NIL, OBJ_END, PAGE_PCP, PAGE_TAIL, UNKNOWN_OWNER
from memtrace.mm.machine import Machine
from memtrace.mm.mmzone import Frames, PerCpuPages, Zone
from memtrace.mm.restore_slab import restore_slab_caches
from memtrace.mm.restore_slob import restore_slob
from memtrace.mm.slub import Slub
from memtrace.mm.slub_slabs import SlubCache

if TYPE_CHECKING:
    from memtrace.snapshot.exact_dump import ExactDump, ExactPcp, ExactZone
    from memtrace.snapshot.exact_dump import SlubCache as DumpedCache


class SlabLayout(Protocol):
    """A slab to be laid out: ``freelist`` are the object indexes on the slab's own list, in hand-out order."""

    pfn: int
    order: int
    inuse: int
    objects: int
    frozen: bool
    freelist: list[int]


def restore_exact(machine: Machine, dump: ExactDump) -> None:
    """
    Lay an exact dump out in an empty machine of the same zones (``boot.build``).

    Raises
    ------
    ConfigError
        The dump is of another allocator than the machine's (``restore_across`` is for that), or of other zones.
    """
    if dump.allocator not in ("", machine.slab.name):
        raise ConfigError(f"{dump.path}: a dump of a {dump.allocator} kernel; expected {machine.slab.name}.")
    restore_zones(machine, dump)
    for cache in reversed(dump.slub):  # a dump lists the newest cache first
        restore_slub_cache(machine, cache)
    if dump.slab:
        restore_slab_caches(machine, dump)
    if dump.slob:
        restore_slob(machine, dump)
    machine.slab.create_kmalloc_caches()
    settle_pages(machine)
    machine.exact = True


def restore_zones(machine: Machine, dump: ExactDump) -> None:
    """Free lists, per-CPU lists and pageblock types of every zone."""
    zone: Zone
    for zone in machine.pages.zones:
        known = next((z for z in dump.zones if (z.node, z.name) == (zone.node, zone.name)), None)
        if known is None:
            raise ConfigError(f"{dump.path}: no zone {zone.name} of node {zone.node}, which the machine has.")
        restore_zone(machine, zone, known)


def settle_pages(machine: Machine) -> None:
    """What has been laid out is all that is known: the other pages are somebody's, and all count as given."""
    zone: Zone
    for zone in machine.pages.zones:
        forget_owners(machine, zone)
        zone.given_pages = zone.managed
        zone.used_pages = zone.managed - zone.free_pages
        for pcp in zone.pcp:
            zone.used_pages -= pcp.count


def restore_zone(machine: Machine, zone: Zone, known: ExactZone) -> None:
    """Free lists, per-CPU lists and pageblock types of one zone."""
    zone.boost = known.boost
    zone.nr_reserved_highatomic = known.highatomic
    for block, mt in enumerate(known.pageblocks):
        zone.pageblock_type[block] = mt if mt >= 0 else MIGRATE_MOVABLE
    for (order, mt), pfns in known.free_lists.items():
        for pfn in pfns:
            place_free(machine, zone, pfn, order, mt)
    for state in known.pcp:
        if state.cpu < machine.nr_cpus:
            restore_pcp(machine, zone, state)


@cython.ccall
def place_free(machine: Machine, zone: Zone, pfn: cython.int, order: cython.int, mt: cython.int) -> cython.void:
    """Put a free block at the tail of its list as it stands, without merging."""
    machine.pages.add_to_free_list(zone, pfn, order, mt, True)
    zone.free_pages += 1 << order


def restore_pcp(machine: Machine, zone: Zone, state: ExactPcp) -> None:
    """One CPU's lists of one zone. A page's type is that of its list (pages of reserves sit on Movable's)."""
    pcp: PerCpuPages = zone.pcp[state.cpu]
    pcp.free_factor = state.free_factor
    for (order, mt), pfns in state.lists.items():
        if mt >= MIGRATE_PCPTYPES:
            raise ConfigError(f"zone {zone.name} CPU {state.cpu}: per-CPU list of type {mt}; expected 0 to 2.")
        add_pcp_pages(machine, pcp, order, mt, pfns)


@cython.ccall
def add_pcp_pages(
    machine: Machine, pcp: PerCpuPages, order: cython.int, mt: cython.int, pfns: list
) -> cython.void:
    """Append blocks to one per-CPU list."""
    frames: Frames = machine.frames
    pfn: cython.int
    pindex: cython.int = machine.pages.order_to_pindex(order, mt)
    for pfn in pfns:
        if pindex == NIL:
            # The kernel that is modelled keeps no such blocks.
            zone: Zone = machine.pages.zones[machine.pages.zone_of(pfn)]
            machine.pages.free_one_page(zone, pfn, order, mt, False)
            continue
        frames.kind[pfn] = PAGE_PCP
        frames.order[pfn] = order
        frames.mt[pfn] = mt
        frames.add_tail(pcp.list0 + pindex, pfn)
        pcp.count += 1 << order


@cython.ccall
def forget_owners(machine: Machine, zone: Zone) -> cython.void:
    """Pages that are neither free nor in a slab nor a hole belong to somebody the model does not know."""
    frames: Frames = machine.frames
    pfn: cython.int = zone.start_pfn
    while pfn < zone.end_pfn:
        if frames.kind[pfn] != PAGE_TAIL:
            pfn += 1 << frames.order[pfn]
        else:
            if frames.slab[pfn] == NIL:
                frames.mt[pfn] = UNKNOWN_OWNER
            pfn += 1
    for start, end in machine.config.holes:
        for pfn in range(max(start, zone.start_pfn), min(end, zone.end_pfn)):
            if frames.kind[pfn] == PAGE_TAIL:
                frames.mt[pfn] = 0


@cython.ccall
def give_back(machine: Machine, pfn: cython.int, order: cython.int) -> cython.int:
    """Pages of a slab that is not laid out go to the buddy system: 1, or 0 when somebody is known to have them."""
    if not machine.is_unknown(pfn, 1 << order):
        return 0
    zone: Zone = machine.pages.zones[machine.pages.zone_of(pfn)]
    machine.mark_used(pfn, order)
    machine.pages.free_one_page(zone, pfn, order, zone.get_pageblock_migratetype(pfn), True)
    zone.used_pages -= 1 << order
    return 1


@cython.ccall
def find_and_give_back(machine: Machine, node: cython.int, order: cython.int, count: cython.int) -> cython.int:
    """The same of ``count`` slabs of which the place is not known, from their node's high end downwards; how many."""
    zone: Zone
    size: cython.int = 1 << order
    found: cython.int = 0
    for zone in machine.pages.zonelists[node]:
        if zone.zone_idx > machine.pages.gfp_zone[0]:
            continue
        pfn: cython.int = (zone.end_pfn >> order << order) - size
        while found < count and pfn >= zone.start_pfn:
            found += give_back(machine, pfn, order)
            pfn -= size
    return found


def restore_slub_cache(machine: Machine, known: DumpedCache) -> None:
    """One cache with its CPU slabs, partial lists and counts; its counters start at zero."""
    slub: Slub = cython.cast(Slub, machine.slab)
    index = slub.create_cache(
        known.name, known.object_size, known.align, known.flags, known.ctor,
        merge=False, size=known.size, order=known.order,
    )
    s: SlubCache = slub.caches[index]
    s.offset = known.offset
    s.min_order = known.min_order
    s.min_objects = known.min_objs
    s.min_partial = known.min_partial if slub.set_min_partial < 0 else s.min_partial
    if slub.set_cpu_partial < 0:
        s.cpu_partial = known.cpu_partial
        s.cpu_partial_slabs = known.cpu_partial_slabs
    for cpu, active in known.cpu_slabs.items():
        row = restore_slab(machine, s, active.slab, active.cpu_freelist)
        slub.sl_cpu[row] = cpu
        s.c_slab[cpu] = row
        s.c_freelist[cpu] = active.cpu_freelist[0] if active.cpu_freelist else OBJ_END
    for cpu, slabs in known.cpu_partials.items():
        for slab in reversed(slabs):
            row = restore_slab(machine, s, slab, [])
            slub.sl_cpu[row] = cpu
            push_cpu_partial(slub, s, row, cpu)
    for state in known.nodes.values():
        for slab in state.partial:
            add_partial(slub, s, restore_slab(machine, s, slab, []))
    for node, state in known.nodes.items():
        slub.hide_slabs(s, node, state.nr_slabs - s.nr_slabs[node])


def restore_slab(machine: Machine, s: SlubCache, known: SlabLayout, cpu_freelist: list[int]) -> int:
    """Register a slab and link its freelists; its row. Objects on no freelist are live."""
    slub: Slub = cython.cast(Slub, machine.slab)
    zone: Zone = machine.pages.zones[machine.pages.zone_of(known.pfn)]
    row = slub.build_slab(s, known.pfn, known.order, zone.node)
    slub.sl_inuse[row] = known.inuse
    slub.sl_frozen[row] = int(known.frozen)
    seg = slub.sl_seg[row]
    for freelist in (known.freelist, cpu_freelist):
        for idx, after in zip(freelist, [*freelist[1:], OBJ_END], strict=False):
            slub.obj_next[seg + idx] = after
    slub.sl_free[row] = known.freelist[0] if known.freelist else OBJ_END
    s.live += slub.sl_objects[row] - len(known.freelist) - len(cpu_freelist)
    return row


@cython.ccall
def push_cpu_partial(slub: Slub, s: SlubCache, row: cython.int, cpu: cython.int) -> cython.void:
    """Put a slab in front of a CPU's partial list."""
    slub.push_cpu_partial(s, row, cpu)


@cython.ccall
def add_partial(slub: Slub, s: SlubCache, row: cython.int) -> cython.void:
    """Put a slab at the tail of its node's partial list."""
    slub.add_partial(s, row, True)
