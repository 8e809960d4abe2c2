"""
A slow, plain page allocator: lists, dicts and sets, written from MODEL 1 to 3 without looking at the model.

It is the reference that ``memtrace.mm`` is compared with. A block is its first pfn; ``lists[order, type]`` holds
free blocks, head first. kswapd never runs, so boosts stay; compaction is not allowed (no request may do I/O).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

UNMOVABLE, MOVABLE, RECLAIMABLE, HIGHATOMIC, ISOLATE = range(5)
FALLBACKS = {
    UNMOVABLE: (RECLAIMABLE, MOVABLE), RECLAIMABLE: (UNMOVABLE, MOVABLE), MOVABLE: (RECLAIMABLE, UNMOVABLE),
}
ORDERS = range(11)


@dataclass
class Pcp:
    """One CPU's lists of one zone: (first pfn, type when freed), head first."""

    batch: int
    high: int
    factor: int = 0
    lists: dict[tuple[int, int], list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))

    def count(self) -> int:
        return sum(len(blocks) << order for (order, _), blocks in self.lists.items())


@dataclass
class PlainZone:
    name: str
    node: int
    index: int
    start: int
    end: int
    marks: dict[str, int]
    reserve: tuple[int, ...]
    block_order: int
    spares_blocks: bool
    pcp: list[Pcp]
    boost: int = 0
    reserved: int = 0
    lists: dict[tuple[int, int], list[int]] = field(default_factory=lambda: defaultdict(list))
    where: dict[int, tuple[int, int]] = field(default_factory=dict)
    types: dict[int, int] = field(default_factory=lambda: defaultdict(lambda: MOVABLE))

    def free(self) -> int:
        return sum(1 << order for order, _ in self.where.values())

    def type_of(self, pfn: int) -> int:
        return self.types[pfn >> self.block_order]

    def put(self, pfn: int, order: int, mt: int, to_tail: bool) -> None:
        self.where[pfn] = order, mt
        self.lists[order, mt].insert(len(self.lists[order, mt]) if to_tail else 0, pfn)

    def take(self, pfn: int) -> int:
        order, mt = self.where.pop(pfn)
        self.lists[order, mt].remove(pfn)
        return order

    def is_free(self, pfn: int, order: int) -> bool:
        return self.start <= pfn < self.end and pfn in self.where and self.where[pfn][0] == order

    def smallest(self, order: int, mt: int) -> int | None:
        """2.2 and 2.3."""
        for cur in range(order, 11):
            if self.lists[cur, mt]:
                pfn = self.lists[cur, mt][0]
                self.take(pfn)
                while cur > order:
                    cur -= 1
                    self.put(pfn + (1 << cur), cur, mt, to_tail=False)
                return pfn
        return None

    def free_one(self, pfn: int, order: int, mt: int, to_tail: bool = False) -> None:
        """2.4."""
        while order < 10:
            buddy = pfn ^ (1 << order)
            if not self.is_free(buddy, order):
                break
            if order >= self.block_order:
                other = self.type_of(buddy)
                if other != mt and not (other <= RECLAIMABLE and mt <= RECLAIMABLE):
                    break
            self.take(buddy)
            pfn &= buddy
            order += 1
        if order < 9 and not to_tail:
            parent = pfn & ~(1 << order)
            to_tail = self.is_free(parent ^ (1 << (order + 1)), order + 1)
        self.put(pfn, order, mt, to_tail)

    def move(self, pfn: int, mt: int) -> None:
        """To the tail of another type's list."""
        self.put(pfn, self.take(pfn), mt, to_tail=True)

    def move_blocks(self, start: int, end: int, mt: int) -> int:
        """All free blocks that begin in [start, end), ascending; pages moved."""
        inside = sorted(p for p in self.where if start <= p < end)
        for pfn in inside:
            self.move(pfn, mt)
        return sum(1 << self.where[pfn][0] for pfn in inside)


class PlainPages:
    """All zones, and who holds which page."""

    def __init__(self, zones: list[PlainZone], cpu_node: list[int], grouping: bool, huge: bool) -> None:
        self.zones = zones
        self.cpu_node = cpu_node
        self.grouping = grouping
        self.huge = huge
        self.asked: dict[int, int] = {}
        """Page -> type it was asked for with; slab pages are not in here."""
        self.cache: dict[int, list[int]] = {zone.start: [] for zone in zones}
        """By a zone's start: single pages asked for as movable, the oldest first."""
        self.reserves = 0
        """Pageblocks ever reserved for urgent requests."""

    def boot(self) -> None:
        """1.8: largest aligned blocks, ascending, to the tails."""
        for zone in self.zones:
            pfn = zone.start
            while pfn < zone.end:
                order = max(o for o in ORDERS if pfn % (1 << o) == 0 and pfn + (1 << o) <= zone.end)
                zone.free_one(pfn, order, MOVABLE, to_tail=True)
                pfn += 1 << order

    def zone_of(self, pfn: int) -> PlainZone:
        return next(zone for zone in self.zones if zone.start <= pfn < zone.end)

    def type_asked(self, flags: set[str]) -> int:
        if not self.grouping:
            return UNMOVABLE
        return MOVABLE if "MOVABLE" in flags else RECLAIMABLE if "RECLAIMABLE" in flags else UNMOVABLE

    # -- 2.5 ------------------------------------------------------------------------------------------------------

    def can_steal(self, zone: PlainZone, order: int, wanted: int) -> bool:
        return order >= zone.block_order // 2 or wanted != MOVABLE or not self.grouping

    def fallback(self, zone: PlainZone, order: int, wanted: int, mode: set[str]) -> bool:
        def suitable(cur: int) -> int | None:
            return next((mt for mt in FALLBACKS.get(wanted, ()) if zone.lists[cur, mt]), None)

        least = zone.block_order if "NOFRAGMENT" in mode and order < zone.block_order else order
        found = next((cur for cur in range(10, least - 1, -1) if suitable(cur) is not None), None)
        if found is None:
            return False
        if not self.can_steal(zone, found, wanted) and wanted == MOVABLE and found > order:
            found = next(cur for cur in range(order, 11) if suitable(cur) is not None)
        mt = suitable(found)
        assert mt is not None
        self.steal(zone, zone.lists[found, mt][0], found, wanted, mode)
        return True

    def steal(self, zone: PlainZone, pfn: int, cur: int, wanted: int, mode: set[str]) -> None:
        old = zone.type_of(pfn)
        size = 1 << zone.block_order
        if old == HIGHATOMIC:
            zone.move(pfn, wanted)
            return
        if cur >= zone.block_order:
            for block in range(pfn >> zone.block_order, (pfn + (1 << cur)) >> zone.block_order):
                zone.types[block] = wanted
            zone.move(pfn, wanted)
            return
        if 4 * size <= zone.end - zone.start and zone.marks["high"]:
            zone.boost = min(zone.boost + size, max(size, zone.marks["high"] * 3 // 2))
        if zone.boost and "KSWAPD" in mode:
            mode.add("BOOSTED")
        end = (pfn // size + 1) * size
        # EXACT B 2.11: where the pageblock begins outside the zone, only what lies behind the found page counts.
        start = end - size if end - size >= zone.start else pfn
        if not self.can_steal(zone, cur, wanted) or end > zone.end:
            zone.move(pfn, wanted)
            return
        movable = sum(self.asked.get(p) == MOVABLE for p in range(start, end))
        free = zone.move_blocks(start, end, wanted)
        alike = movable if wanted == MOVABLE else size - free - movable if old == MOVABLE else 0
        if free + alike >= size // 2 or not self.grouping:
            zone.types[pfn >> zone.block_order] = wanted

    def rmqueue(self, zone: PlainZone, order: int, mt: int, mode: set[str]) -> int | None:
        while (pfn := zone.smallest(order, mt)) is None:
            if not self.fallback(zone, order, mt, mode):
                return None
        return pfn

    # -- 3 --------------------------------------------------------------------------------------------------------

    def pcp_key(self, order: int, mt: int) -> tuple[int, int] | None:
        if order < 4:
            return order, mt
        if order == 9 and self.huge:
            return 9, MOVABLE if mt == MOVABLE else UNMOVABLE
        return None

    def pcp_alloc(self, zone: PlainZone, cpu: int, order: int, mt: int, mode: set[str]) -> int | None:
        key = self.pcp_key(order, mt)
        if key is None:
            return None
        pcp = zone.pcp[cpu]
        pcp.factor //= 2
        if not pcp.lists[key]:
            for _ in range(max(pcp.batch >> order, 2) if pcp.batch > 1 else pcp.batch):
                pfn = self.rmqueue(zone, order, mt, mode)
                if pfn is None:
                    break
                pcp.lists[key].append((pfn, mt))
        return pcp.lists[key].pop(0)[0] if pcp.lists[key] else None

    def release(self, pfn: int, order: int, cpu: int) -> None:
        """3.4."""
        for page in range(pfn, pfn + (1 << order)):
            self.asked.pop(page, None)
        zone = self.zone_of(pfn)
        if pfn in self.cache[zone.start]:
            self.cache[zone.start].remove(pfn)
        mt = zone.type_of(pfn)
        key = self.pcp_key(order, mt if mt <= RECLAIMABLE else MOVABLE)
        if key is None or mt == ISOLATE:
            zone.free_one(pfn, order, mt)
            return
        pcp = zone.pcp[cpu]
        pcp.lists[key].insert(0, (pfn, mt))
        empties = pcp.factor != 0 and 1 <= order <= 3
        high = 0 if empties else pcp.high
        if pcp.count() < high:
            return
        if empties:
            n = pcp.count()
        elif high < pcp.batch:
            n = 1
        else:
            n = pcp.batch << pcp.factor
            if n < high - pcp.batch and pcp.factor < 5:
                pcp.factor += 1
            n = max(pcp.batch, min(n, high - pcp.batch))
        self.pcp_free(zone, pcp, n, key)

    def pcp_free(self, zone: PlainZone, pcp: Pcp, n: int, first: tuple[int, int]) -> None:
        """3.5."""
        keys = [(order, mt) for order in range(4) for mt in range(3)] + [(9, UNMOVABLE), (9, MOVABLE)]
        n = min(n, pcp.count())
        at = keys.index(first)
        while n > 0:
            while n > 0 and pcp.lists[keys[at]]:
                pfn, mt = pcp.lists[keys[at]].pop()
                n -= 1 << keys[at][0]
                zone.free_one(pfn, keys[at][0], mt)
            at = (at + 1) % len(keys)

    def drain_all(self) -> None:
        """3.6: in steps of batch << 5, each beginning at list 0."""
        for cpu in range(len(self.cpu_node)):
            for zone in self.zones:
                while zone.pcp[cpu].count():
                    self.pcp_free(zone, zone.pcp[cpu], zone.pcp[cpu].batch << 5, (0, UNMOVABLE))

    # -- 2.9 to 2.11 ----------------------------------------------------------------------------------------------

    def allows(
        self, zone: PlainZone, order: int, highest: int, mode: set[str], boost: int, cache: int = 0
    ) -> bool:
        least = zone.marks[next(mark for mark in ("min", "low", "high") if mark in mode)] + boost
        free = zone.free() + cache - (1 << order) + 1
        if not mode & {"NON_BLOCK", "MIN_RESERVE", "HIGHATOMIC"}:
            free -= zone.reserved
        if "MIN_RESERVE" in mode:
            least -= least // 2
            if "NON_BLOCK" in mode:
                least -= least // 4
        if free <= least + zone.reserve[highest]:
            return False
        kinds = {UNMOVABLE, MOVABLE, RECLAIMABLE} | ({HIGHATOMIC} if "HIGHATOMIC" in mode else set())
        return order == 0 or any(o >= order and mt in kinds for o, mt in self.where_free(zone))

    @staticmethod
    def where_free(zone: PlainZone) -> set[tuple[int, int]]:
        return set(zone.where.values())

    def fits(self, zone: PlainZone, order: int, highest: int, mode: set[str]) -> bool:
        if "ALL" in mode or self.allows(zone, order, highest, mode, zone.boost):
            return True
        return order == 0 and "min" in mode and "MIN_RESERVE" in mode and self.allows(zone, 0, highest, mode, 0)

    @staticmethod
    def highest(flags: set[str]) -> int:
        """Highest zone type that a request may have."""
        return 0 if "DMA" in flags else 1 if "DMA32" in flags else 3 if {"MOVABLE", "HIGHMEM"} <= flags else 2

    def zonelist(self, flags: set[str], node: int) -> list[PlainZone]:
        """Zones that a request may use, in the order of their distance."""
        zones = [zone for zone in self.zones if zone.index <= self.highest(flags)]
        return sorted(zones, key=lambda z: (z.node != node, z.node, -z.index))

    def get_page(self, flags: set[str], order: int, node: int, cpu: int, mode: set[str]) -> int | None:
        """2.10."""
        highest = self.highest(flags)
        mt = self.type_asked(flags)
        walk = self.zonelist(flags, node)
        if "THISNODE" in flags:
            walk = [zone for zone in walk if zone.node == node]
        if not walk or not walk[0].spares_blocks:
            mode = mode - {"NOFRAGMENT"}
        for zone in walk:
            if "NOFRAGMENT" in mode and zone.node != walk[0].node:
                break
            if not self.fits(zone, order, highest, mode):
                continue
            pfn = self.pcp_alloc(zone, cpu, order, mt, mode)
            if pfn is None and "HIGHATOMIC" in mode:
                pfn = zone.smallest(order, HIGHATOMIC)
            if pfn is None:
                pfn = self.rmqueue(zone, order, mt, mode)
            if pfn is None and "NON_BLOCK" in mode:
                pfn = zone.smallest(order, HIGHATOMIC)
            if pfn is None:
                continue
            if "HIGHATOMIC" in mode:
                self.reserve(zone, pfn)
            for page in range(pfn, pfn + (1 << order)):
                self.asked[page] = mt
            if order == 0 and "MOVABLE" in flags:
                self.cache[zone.start].append(pfn)
            return pfn
        return self.get_page(flags, order, node, cpu, mode - {"NOFRAGMENT"}) if "NOFRAGMENT" in mode else None

    def reserve(self, zone: PlainZone, pfn: int) -> None:
        """2.6."""
        size = 1 << zone.block_order
        start = pfn // size * size
        inside = zone.start <= start and start + size <= zone.end
        if zone.reserved < (zone.end - zone.start) // 100 + size and zone.type_of(pfn) <= RECLAIMABLE and inside:
            zone.reserved += size
            self.reserves += 1
            zone.types[pfn >> zone.block_order] = HIGHATOMIC
            zone.move_blocks(start, start + size, HIGHATOMIC)

    def unreserve(self, flags: set[str], node: int, force: bool) -> bool:
        """2.6."""
        highest = 0 if "DMA" in flags else 1 if "DMA32" in flags else 3
        walk = sorted((z for z in self.zones if z.index <= highest), key=lambda z: (z.node != node, z.node, -z.index))
        for zone in walk:
            size = 1 << zone.block_order
            if zone.reserved <= size and not force:
                continue
            pfn = next((zone.lists[order, HIGHATOMIC][0] for order in ORDERS if zone.lists[order, HIGHATOMIC]), None)
            if pfn is None:
                continue
            if zone.type_of(pfn) == HIGHATOMIC:
                zone.reserved = max(0, zone.reserved - size)
            zone.types[pfn >> zone.block_order] = self.type_asked(flags)
            zone.move_blocks(pfn // size * size, (pfn // size + 1) * size, self.type_asked(flags))
            return True
        return False

    def alloc(self, flags: set[str], order: int, node: int, cpu: int) -> int | None:
        """2.11."""
        node = node if node >= 0 else self.cpu_node[cpu]
        wakes = {"KSWAPD"} & flags
        pfn = self.get_page(flags, order, node, cpu, {"low", "NOFRAGMENT"} | wakes)
        if pfn is not None:
            return pfn
        mode = {"min"} | wakes
        if "HIGH" in flags:
            mode.add("MIN_RESERVE")
        if not flags & {"DIRECT_RECLAIM", "NOMEMALLOC"}:
            mode.add("NON_BLOCK")
            if order > 0 and "HIGH" in flags:
                mode.add("HIGHATOMIC")
        pfn = self.get_page(flags, order, node, cpu, mode)
        if pfn is not None:
            return pfn
        if "MEMALLOC" in flags and "NOMEMALLOC" not in flags:
            mode = {"min", "ALL"} | wakes
            pfn = self.get_page(flags, order, node, cpu, mode)
        if pfn is not None or "DIRECT_RECLAIM" not in flags:
            return pfn
        return self.reclaim_and_retry(flags, order, node, cpu, mode)

    def reclaim_and_retry(self, flags: set[str], order: int, node: int, cpu: int, mode: set[str]) -> int | None:
        """2.11, s6 to s11, without compaction."""
        idle = 0
        while True:
            taken = self.direct_reclaim(flags, order, node, cpu)
            pfn = self.get_page(flags, order, node, cpu, mode) if taken else None
            if taken and pfn is None:
                self.unreserve(flags, node, force=False)
                self.drain_all()
                pfn = self.get_page(flags, order, node, cpu, mode)
            if pfn is not None:
                return pfn
            if order > 3 or "NORETRY" in flags:
                return None
            idle = 0 if taken else idle + 1
            if not (idle <= 16 and self.would_do(flags, order, node, mode)) and not self.unreserve(flags, node, True):
                self.drain_all()
                pfn = self.get_page(flags, order, node, cpu, mode)
                return pfn if pfn is not None else self.get_page(flags, order, node, cpu, {"high"})
            pfn = self.get_page(flags, order, node, cpu, mode)
            if pfn is not None:
                return pfn

    def walk(self, flags: set[str], node: int) -> list[PlainZone]:
        highest = 0 if "DMA" in flags else 1 if "DMA32" in flags else 3 if {"MOVABLE", "HIGHMEM"} <= flags else 2
        zones = sorted((z for z in self.zones if z.index <= highest), key=lambda z: (z.node != node, z.node, -z.index))
        return [zone for zone in zones if zone.node == node or "THISNODE" not in flags]

    def direct_reclaim(self, flags: set[str], order: int, node: int, cpu: int) -> int:
        """10.6, rule 3; at least what the nearest zone lacks."""
        highest = 0 if "DMA" in flags else 1 if "DMA32" in flags else 3 if {"MOVABLE", "HIGHMEM"} <= flags else 2
        taken = 0
        for zone in self.walk(flags, node):
            zone.boost = 0
        for first in self.walk(flags, node)[:1]:
            least = first.marks["min"] + first.reserve[highest] + first.reserved
            want = max(32, least + (1 << order) - first.free())
        for zone in self.walk(flags, node):
            while taken < want and self.cache[zone.start]:
                self.release(self.cache[zone.start][0], 0, cpu)
                taken += 1
        return taken

    def would_do(self, flags: set[str], order: int, node: int, mode: set[str]) -> bool:
        """10.3: were all page cache free."""
        highest = 0 if "DMA" in flags else 1 if "DMA32" in flags else 3 if {"MOVABLE", "HIGHMEM"} <= flags else 2
        return any(
            self.allows(zone, order, highest, (mode - {"ALL"}) | {"min"}, zone.boost, len(self.cache[zone.start]))
            for zone in self.walk(flags, node)
        )

    def verify(self) -> None:
        """Every page is in one place; free blocks are aligned, and merged as far as one list's rule goes."""
        for zone in self.zones:
            seen: set[int] = set()
            blocks = [(pfn, order) for pfn, (order, _) in zone.where.items()]
            blocks += [(pfn, key[0]) for pcp in zone.pcp for key, held in pcp.lists.items() for pfn, _ in held]
            for pfn, order in blocks:
                assert pfn % (1 << order) == 0
                pages = set(range(pfn, pfn + (1 << order)))
                assert not pages & seen
                assert not pages & self.asked.keys()
                seen |= pages
            for (order, mt), pfns in zone.lists.items():
                assert all(zone.where[pfn] == (order, mt) for pfn in pfns)
                if order < zone.block_order:
                    assert not any(zone.is_free(pfn ^ (1 << order), order) for pfn in pfns)
            assert sum(map(len, zone.lists.values())) == len(zone.where)
