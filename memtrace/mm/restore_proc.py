"""
Laying out a state of which only counts are known: /proc and /sys files (MODEL 1.8 "recommended practice").

What the files count is met exactly: slabs per cache, slabs on node and CPU partial lists, free blocks per zone,
order and type, pages on per-CPU lists, pageblocks per type. *Where* all that lies they do not tell. Slab pages
that the trace itself shows lie where it shows them: an object first seen being freed was alive at the start, one
first seen being allocated was free, and the CPU that allocated it held its slab. The rest is placed
synthetically, and the report says so.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from memtrace.mm.constants import (
    MAX_ORDER,
    MIGRATE_MOVABLE,
    MIGRATE_RECLAIMABLE,
    MIGRATE_UNMOVABLE,
    NIL,
    SLAB_ACCOUNT,
    SLAB_CACHE_DMA,
    SLAB_HWCACHE_ALIGN,
    SLAB_RECLAIM_ACCOUNT,
    SLAB_TYPESAFE_BY_RCU,
)
from memtrace.mm.restore import add_partial, place_free, push_cpu_partial, restore_slab, settle_pages
from memtrace.mm.restore_lists import SeenLists, blocks_on, fill_lists

if TYPE_CHECKING:
    from memtrace.mm.machine import Machine
    from memtrace.mm.mmzone import Zone
    from memtrace.mm.slub_slabs import SlubCache
    from memtrace.snapshot.proc import ProcSnapshot, ProcZone
    from memtrace.snapshot.slabinfo import ProcCache


TYPE_SHIFT = 9
"""Of a pageblock of order 10 its first half tells the type."""
_HOLE = 3
"""Mark of pages that do not exist, beside 0 unknown, 1 seen in use and 2 placed free."""


@dataclass(slots=True)
class SeenSlab:
    """A slab that pre-dates the trace, as the trace shows it.

    ``free`` lists the objects that were free, in the order in which they were handed out; ``cpu`` is the CPU
    that took the first of them, ``rank`` tells which slab was taken from earlier.
    """

    cache: int
    pfn: int
    free: list[int] = field(default_factory=list)
    cpu: int = NIL
    rank: int = -1


@dataclass(slots=True)
class SeenPages:
    """
    Pages that the trace shows.

    Attributes
    ----------
    used
        (first pfn, order) of blocks in use: slabs, and pages.
    lists
        Blocks on per-CPU lists.
    types
        Migratetypes of pageblocks, by pfn >> TYPE_SHIFT.
    """

    used: list[tuple[int, int]] = field(default_factory=list)
    lists: SeenLists = field(default_factory=dict)
    types: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class LayoutCounts:
    """How much of a layout rests on the trace and how much was placed synthetically."""

    slabs: int = 0
    slabs_seen: int = 0
    slabs_beyond: int = 0
    """Slabs seen in the trace beyond what slabinfo counts."""
    blocks_unplaced: int = 0
    """Free blocks that found no room between pages known to be in use."""
    listed: int = 0
    """Pages on per-CPU lists, as the trace shows them."""


@dataclass(slots=True)
class _Slab:
    """A slab in the form ``restore_slab`` reads."""

    pfn: int
    order: int
    inuse: int
    objects: int
    frozen: bool
    freelist: list[int]


def restore_caches(machine: Machine, snapshot: ProcSnapshot) -> None:
    """Create the snapshot's caches, oldest first, with their geometry and limits."""
    slub: Any = machine.slab
    for known in reversed(snapshot.caches):
        flags = 0
        for flag, on in (
            (SLAB_RECLAIM_ACCOUNT, known.reclaim_account or known.name.startswith("kmalloc-rcl-")),
            (SLAB_TYPESAFE_BY_RCU, known.destroy_by_rcu),
            (SLAB_HWCACHE_ALIGN, known.hwcache_align),
            (SLAB_CACHE_DMA, known.cache_dma or known.name.startswith("dma-kmalloc-")),
            (SLAB_ACCOUNT, known.account or known.name.startswith("kmalloc-cg-")),
        ):
            flags |= flag if on else 0
        object_size = known.object_size if known.object_size > 0 else known.size
        index = slub.create_cache(
            known.name, object_size, max(8, known.align), flags, bool(known.ctor), merge=False, size=known.size,
            order=max(0, known.pagesperslab.bit_length() - 1),
        )
        cache = slub.caches[index]
        for alias in known.aliases:
            cache.aliases.append(alias)
            slub.by_name.setdefault(alias, index)
        if known.min_partial >= 0 and slub.set_min_partial < 0:
            cache.min_partial = known.min_partial
        if known.cpu_partial >= 0 and slub.set_cpu_partial < 0:
            cache.cpu_partial = known.cpu_partial
            cache.cpu_partial_slabs = -(-2 * known.cpu_partial // cache.objects)
    slub.create_kmalloc_caches()


def group_seen(
    machine: Machine, live: list[tuple[int, int]], free: list[tuple[int, int, int]]
) -> list[SeenSlab]:
    """
    Slabs that the trace shows to be older than itself.

    Parameters
    ----------
    live
        (address, machine cache) of objects alive at the start.
    free
        (address, machine cache, CPU) of objects free at the start, in the order they were handed out.
    """
    slabs: dict[int, SeenSlab] = {}

    def slab_of(addr: int, cache: int) -> SeenSlab | None:
        s = machine.slab.caches[cache]
        pfn = (addr >> 12) >> s.order << s.order
        found = slabs.get(pfn)
        if found is None and machine.pages.zone_of(pfn) != NIL:
            found = slabs[pfn] = SeenSlab(cache, pfn)
        return found if found is not None and found.cache == cache else None

    for addr, cache in live:
        if addr >= 0 and cache >= 0:
            slab_of(addr, cache)
    for rank, (addr, cache, cpu) in enumerate(free):
        if addr < 0 or cache < 0:
            continue
        slab = slab_of(addr, cache)
        if slab is None:
            continue
        s = machine.slab.caches[cache]
        idx, rest = divmod(addr - (slab.pfn << 12), s.size)
        if rest == 0 and idx < s.objects and idx not in slab.free:
            slab.free.append(idx)
            if slab.cpu == NIL:
                slab.cpu, slab.rank = min(cpu, machine.nr_cpus - 1), rank
    return list(slabs.values())


def restore_proc(
    machine: Machine, snapshot: ProcSnapshot, seen: list[SeenSlab], pages: SeenPages
) -> LayoutCounts:
    """
    Lay the counted state out in an empty machine whose caches exist (``restore_caches``).

    Parameters
    ----------
    seen
        Slabs whose place is known from the trace (``group_seen``).
    pages
        What the trace shows of pages at the start; slabs are added to it here.
    """
    counts = LayoutCounts()
    by_cache: dict[int, list[SeenSlab]] = defaultdict(list)
    for slab in seen:
        by_cache[slab.cache].append(slab)
    slabs = [(slab.pfn, machine.slab.caches[slab.cache].order) for slab in seen]
    restore_zones_proc(machine, snapshot, replace(pages, used=[*pages.used, *slabs]), counts)
    by_name = {known.name: known for known in snapshot.caches}
    for cache in machine.slab.caches:
        known_cache = by_name.get(cache.name)
        _place_cache(machine, cache, known_cache, by_cache.get(cache.index, []), counts)
    machine.exact = bool(seen)
    return counts


def restore_zones_proc(
    machine: Machine, snapshot: ProcSnapshot, seen: SeenPages, counts: LayoutCounts
) -> None:
    """Free blocks, per-CPU pages and pageblock types of every zone, beside what the trace shows to lie elsewhere."""
    taken = bytearray(machine.frames.nr_frames)
    for start, end in machine.config.holes:
        taken[start:end] = bytes([_HOLE]) * (min(end, len(taken)) - start)
    for pfn, order in (*seen.used, *blocks_on(seen.lists)):
        taken[pfn : pfn + (1 << order)] = b"\1" * (1 << order)
    for zone in machine.pages.zones:
        known = next((z for z in snapshot.zones if (z.node, z.name) == (zone.node, zone.name)), None)
        if known is not None:
            _ZoneLayout(machine, zone, known, taken, seen, counts).place()
    settle_pages(machine)


# Slabs -------------------------------------------------------------------------------------------------------------


def _place_cache(
    machine: Machine, s: SlubCache, known: ProcCache | None, seen: list[SeenSlab], counts: LayoutCounts
) -> None:
    """Put a cache's seen slabs where they were, and the rest of what slabinfo counts on the same lists."""
    cpu_lists, node_list, full = _deal(machine, known, seen)
    slub: Any = machine.slab
    for cpu, slabs in enumerate(cpu_lists):
        for position, slab in enumerate(slabs):
            free = slab.free if position == 0 else []
            row = restore_slab(machine, s, _slab(s, slab, [] if position == 0 else slab.free, True), free)
            slub.sl_cpu[row] = cpu
            if position == 0:
                s.c_slab[cpu] = row
                s.c_freelist[cpu] = free[0] if free else -1
        for slab in reversed(slabs[1:]):
            push_cpu_partial(slub, s, slub.frames.slab[slab.pfn], cpu)
    for slab in node_list:
        add_partial(slub, s, restore_slab(machine, s, _slab(s, slab, slab.free, False), []))
    for slab in full:
        restore_slab(machine, s, _slab(s, slab, [], False), [])
    placed = sum(s.nr_slabs)
    counts.slabs_seen += placed
    total = known.num_slabs if known is not None else placed
    counts.slabs += max(total, placed)
    counts.slabs_beyond += max(0, placed - total)
    if known is None or placed >= total:
        return
    missing = total - placed
    missing -= _synthetic_partials(machine, s, known, missing)
    for node, share in enumerate(_shares(known.slabs_node, missing, machine.nr_nodes)):
        slub.hide_slabs(s, node, share)


def _deal(
    machine: Machine, known: ProcCache | None, seen: list[SeenSlab]
) -> tuple[list[list[SeenSlab]], list[SeenSlab], list[SeenSlab]]:
    """Seen slabs by list: per CPU (its active slab first), node partial, full.

    A slab with free objects was on some list. The first that a CPU took from was its active slab, the next ones
    its partial list, as many as sysfs counts there; the others came from the node's list.
    """
    cpu_lists: list[list[SeenSlab]] = [[] for _ in range(machine.nr_cpus)]
    node_list: list[SeenSlab] = []
    room = [1 + (known.cpu_partial_slabs[cpu] if known and cpu < len(known.cpu_partial_slabs) else 0)
            for cpu in range(machine.nr_cpus)]
    for slab in sorted((slab for slab in seen if slab.free), key=lambda slab: slab.rank):
        if len(cpu_lists[slab.cpu]) < room[slab.cpu]:
            cpu_lists[slab.cpu].append(slab)
        else:
            node_list.append(slab)
    return cpu_lists, node_list, [slab for slab in seen if not slab.free]


def _slab(s: SlubCache, slab: SeenSlab, freelist: list[int], frozen: bool) -> _Slab:
    """In ``inuse`` the objects of a CPU's own freelist count as used."""
    return _Slab(slab.pfn, s.order, s.objects - len(freelist), s.objects, frozen, freelist)


def _synthetic_partials(machine: Machine, s: SlubCache, known: ProcCache, missing: int) -> int:
    """Partial slabs that sysfs counts and the trace does not show, on unknown pages; how many were placed."""
    idle = known.num_objs - known.active_objs - sum(s.partial_free)
    wanted = min(missing, max(0, known.nr_partial - sum(s.nr_partial)))
    placed = 0
    while placed < wanted:
        share = max(1, min(s.objects, round(idle / (wanted - placed)))) if idle > 0 else 1
        pfn = machine.unknown_block(s.order)
        if pfn == NIL:
            break
        slab = SeenSlab(s.index, pfn, list(range(min(share, s.objects))))
        add_partial(machine.slab, s, restore_slab(machine, s, _slab(s, slab, slab.free, False), []))
        idle -= share
        placed += 1
    return placed


def _shares(weights: tuple[int, ...], total: int, parts: int) -> list[int]:
    """``total`` dealt to ``parts`` in proportion to ``weights`` (evenly to the first when there are none)."""
    known = [*weights[:parts], *([0] * (parts - len(weights)))]
    whole = sum(known)
    if whole == 0:
        return [total] + [0] * (parts - 1)
    dealt = [total * weight // whole for weight in known]
    dealt[known.index(max(known))] += total - sum(dealt)
    return dealt


# Pages -------------------------------------------------------------------------------------------------------------


class _ZoneLayout:
    """
    Places the free blocks of one zone.

    Pageblocks have the types that the trace shows. The others get theirs in ascending order: those that hold seen slabs
    first, then Unmovable, Reclaimable and Movable as many as counted. Whole blocks of the largest order go to the end
    of their type's pageblocks, smaller ones to the beginning, each beside pages in use, so that no two of them would
    have merged.
    """

    def __init__(
        self, machine: Machine, zone: Zone, known: ProcZone, taken: bytearray, seen: SeenPages, counts: LayoutCounts
    ) -> None:
        self.machine = machine
        self.zone = zone
        self.known = known
        self.taken = taken
        self.seen = seen
        self.counts = counts
        self.left: list[int] = []

    def place(self) -> None:
        self.assign_types()
        zone = self.zone
        types = (MIGRATE_UNMOVABLE, MIGRATE_MOVABLE, MIGRATE_RECLAIMABLE)
        for mt in types:
            self.left = [by_type[mt] if mt < len(by_type) else 0 for by_type in self.known.nr_free]
            blocks = [b for b in range(zone.nr_pageblocks) if zone.pageblock_type[b] == mt]
            for order in range(MAX_ORDER, zone.pageblock_order - 1, -1):
                self.place_whole(mt, order, blocks)
            for block in blocks:
                if not any(self.left):
                    break
                start = (zone.pageblock0 + block) << zone.pageblock_order
                if not self.is_clear(start, start + (1 << zone.pageblock_order)) and self.is_full(start):
                    continue
                self.fill(start, zone.pageblock_order, mt)
            self.counts.blocks_unplaced += sum(self.left)
        self.counts.listed += fill_lists(self.machine, zone, self.known.pcp, self.seen.lists, self.taken)

    def assign_types(self) -> None:
        """Pageblocks of seen pages have the types that the trace shows; the rest as many as counted."""
        zone = self.zone
        quota = {mt: n for mt, n in enumerate(self.known.pageblocks) if mt <= MIGRATE_RECLAIMABLE}
        fixed: dict[int, int] = {}
        held = []
        for block in range(zone.nr_pageblocks):
            start = (zone.pageblock0 + block) << zone.pageblock_order
            if self.taken.find(1, start, start + (1 << zone.pageblock_order)) < 0:
                continue
            mt = self.seen.types.get(start >> TYPE_SHIFT, NIL)
            if mt == NIL:
                held.append(block)
                continue
            fixed[block] = mt
            quota[mt] = quota.get(mt, 0) - 1
        for block in held:
            for mt in (MIGRATE_UNMOVABLE, MIGRATE_RECLAIMABLE):
                if quota.get(mt, 0) > 0:
                    fixed[block] = mt
                    quota[mt] -= 1
                    break
        for block in range(zone.nr_pageblocks):
            mt = fixed.get(block, NIL)
            if mt == NIL:
                mt = next((t for t in (MIGRATE_UNMOVABLE, MIGRATE_RECLAIMABLE) if quota.get(t, 0) > 0), MIGRATE_MOVABLE)
                quota[mt] = quota.get(mt, 0) - 1
            zone.pageblock_type[block] = mt

    def place_whole(self, mt: int, order: int, blocks: list[int]) -> None:
        """Blocks of at least a pageblock, from the end of the zone."""
        zone = self.zone
        owned = set(blocks)
        span = 1 << (order - zone.pageblock_order)
        for block in reversed(blocks):
            if self.left[order] == 0:
                return
            first = zone.pageblock0 + block
            if first % span or any(block + i not in owned for i in range(span)):
                continue
            start = first << zone.pageblock_order
            if start < zone.start_pfn or start + (1 << order) > zone.end_pfn:
                continue
            # A block whose buddy is free already would have merged with it.
            merged = order < MAX_ORDER and self.is_free(start ^ (1 << order))
            if merged or not self.is_clear(start, start + (1 << order)):
                continue
            self.put(start, order, mt)

    def fill(self, start: int, order: int, mt: int) -> None:
        """Put smaller free blocks into [start, start + 2**order), leaving at least one page in use."""
        while order > 0 and any(self.left[:order]):
            order -= 1
            upper = start + (1 << order)
            if self.left[order] and self.is_clear(start, upper):
                self.put(start, order, mt)
                start = upper
            elif self.left[order] and self.is_clear(upper, upper + (1 << order)):
                self.put(upper, order, mt)
            else:
                self.fill(start, order, mt)
                start = upper

    def put(self, pfn: int, order: int, mt: int) -> None:
        place_free(self.machine, self.zone, pfn, order, mt)
        self.taken[pfn : pfn + (1 << order)] = b"\2" * (1 << order)
        self.left[order] -= 1

    def is_clear(self, start: int, end: int) -> bool:
        """Is nothing known to lie in [start, end), and is all of it in the zone?"""
        if start < self.zone.start_pfn or end > self.zone.end_pfn:
            return False
        return self.taken.count(0, start, end) == end - start

    def is_free(self, pfn: int) -> bool:
        return 0 <= pfn < len(self.taken) and self.taken[pfn] == 2

    def is_full(self, start: int) -> bool:
        """Is no page of this pageblock left to place anything in?"""
        end = min(start + (1 << self.zone.pageblock_order), self.zone.end_pfn)
        return self.taken.find(0, max(start, self.zone.start_pfn), end) < 0
