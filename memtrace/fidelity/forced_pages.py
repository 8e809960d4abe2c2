"""
The page allocator forced along a recording.

Recorded requests, at their recorded positions (``positions.py``), drive the methods that a replay uses. Each is asked
first what it would do; then the recorded block moves, whatever the answer was, so that every step is judged from the
true state. The zone of a request is the recorded page's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memtrace.machines import machine_from_exact
from memtrace.mm.boot import build
from memtrace.mm.constants import (
    ALLOC_WMARK_LOW,
    MIGRATE_PCPTYPES,
    NIL,
    NR_PCP_LISTS,
    PCP_AUTO,
    PCP_BATCH_SCALE_MAX,
    PCP_ORDERS,
)
from memtrace.mm.page_place import PagePlaces
from memtrace.mm.restore import forget_owners, restore_zone

from .positions import COLUMNS, Burst, Drain, Free, Pop, Reclaim, Taken, Typed, read_positions
from .table import FORCED, Table

if TYPE_CHECKING:
    from memtrace.config import KernelConfig, MachineConfig
    from memtrace.mm.machine import Machine
    from memtrace.mm.mmzone import PerCpuPages, Zone
    from memtrace.snapshot.exact_dump import ExactDump, ExactPcp, ExactZone

    from .positions import Fallback, Positions
    from .recording import Recording, Snapshot

WHOLE = "whole trace"
PAGES = "page allocations at the recorded pfn"
REFILLS = "refills with the recorded blocks"
DIRECT = "blocks taken past the per-CPU lists"
DRAINS = "drains with the recorded blocks"
FALLBACKS = "fallbacks with all fields"
OUTSIDE = "drains nobody in the trace asked for: block at its list's tail"
ISOLATED = "blocks isolated by compaction, free as recorded"
FREE_LISTS = "free lists identical in order"
PCP_LISTS = "per-CPU page lists identical in order"
BLOCK_TYPES = "pageblock types"

REPAIR_ORDER = "page on the right per-CPU list, not at its head (EXACT B 4.7 a)"
REPAIR_STRAIGHT = "freed page went straight to the buddy system (EXACT B 4.7 b)"
REPAIR_PAST = "request passed its per-CPU lists by"
REPAIR_FREE = "page freed that the model had as free"
REPAIR_ELSEWHERE = "page taken from where the model had it"


def force_pages(recording: Recording, table: Table) -> None:
    """
    Force the page allocator from the start dump to the end of the trace, and compare at every later dump.

    Needs exact dumps; without one it adds a note to the table instead of rows.
    """
    if recording.start is None or recording.start.dump is None:
        table.notes.append("Pages were not forced: that needs an exact dump to start from.")
        return
    driver = PageDriver(recording.start.dump, recording.kernel, table)
    positions = driver.read(recording)
    if positions.ignored:
        table.notes.append(f"{positions.ignored:,} rows name pages that no zone of the start dump holds; left out.")
    driver.play(positions, recording.later)
    driver.report()


class _Score:
    """Of how many decisions how many were right."""

    __slots__ = ("compared", "equal")

    def __init__(self) -> None:
        self.compared = 0
        self.equal = 0

    def add(self, equal: bool) -> bool:
        self.compared += 1
        self.equal += equal
        return equal


class PageView:
    """A machine's zones, as far as reading a trace needs them."""

    def __init__(self, config: MachineConfig, kernel: KernelConfig) -> None:
        self.machine: Machine = build(config, kernel, 0)
        self.pages = self.machine.pages

    def zone_index(self, pfn: int) -> int:
        """Zone that holds a page, -1 for none."""
        return self.pages.zone_of(pfn)

    def zone_name(self, pfn: int) -> str:
        """``node 0 DMA32``."""
        zone = self.pages.zones[self.pages.zone_of(pfn)]
        return f"node {zone.node} {zone.name}"

    def has_lists(self, order: int, mt: int) -> bool:
        """Whether CPUs keep blocks of this order, asked for with this type, on lists."""
        return mt < MIGRATE_PCPTYPES and self.pages.free_pindex(order, mt) != NIL

    def refill_size(self, pfn: int, order: int) -> int:
        """Blocks that a refill of this page's zone takes at most, or one at a time past the lists."""
        if not self.has_lists(order, 0):
            return 1
        zone = self.pages.zones[self.pages.zone_of(pfn)]
        batch = zone.pcp[0].batch
        if self.pages.pcp_form == PCP_AUTO:
            batch <<= PCP_BATCH_SCALE_MAX
        return max(batch >> order, 2) if batch > 1 else 1

    def read(self, recording: Recording) -> Positions:
        """The positions of a recording on this machine."""
        with recording.open(COLUMNS) as reader:
            return read_positions(reader, recording.first_row, self.refill_size, self.zone_index)


class PageDriver(PageView):
    """
    A machine's pages in the state of a dump, and what was found while they were forced.

    Attributes
    ----------
    scores
        By name of a row of the table.
    """

    def __init__(self, dump: ExactDump, kernel: KernelConfig, table: Table) -> None:
        super().__init__(machine_from_exact(dump), kernel)
        self.places = PagePlaces(self.pages)
        self.table = table
        self.scores = {what: _Score() for what in (PAGES, REFILLS, DIRECT, DRAINS, FALLBACKS, OUTSIDE, ISOLATED)}
        self._types: dict[int, int] = {}
        self._due: dict[int, tuple[int, int]] = {}
        self._handlers = {Pop: self.pop, Burst: self.burst, Free: self.free, Drain: self.drain, Typed: self.typed,
                          Taken: self.taken, Reclaim: self.reclaim}  # fmt: skip
        for zone in self.pages.zones:
            restore_zone(self.machine, zone, _zone_of(dump, zone))
            forget_owners(self.machine, zone)

    def play(self, positions: Positions, dumps: list[Snapshot]) -> None:
        """Do all actions, comparing at each dump when its row has come."""
        for pfn, order, mt in positions.owners:
            if self.pages.zone_of(pfn) >= 0:
                self.places.own(pfn, order, mt)
        waiting = [snapshot for snapshot in dumps if snapshot.dump is not None and snapshot.row >= 0]
        next_row = waiting[0].row if waiting else 1 << 62
        for action in positions.actions:
            while action.row > next_row:
                self.compare(waiting.pop(0))
                next_row = waiting[0].row if waiting else 1 << 62
            self._handlers[type(action)](action)  # type: ignore[operator]
        for snapshot in waiting:
            self.compare(snapshot)

    # -- requests ----------------------------------------------------------------------------------------------------

    def pop(self, pop: Pop) -> None:
        """A request without a burst: the head of the CPU's list."""
        zone = self.pages.zones[self.pages.zone_of(pop.pfn)]
        if self.pages.free_pindex(pop.order, pop.mt) == NIL:
            self._wrong_page(pop.row, pop.pfn, NIL, pop.order, pop.mt, zone)
            return
        pcp = zone.pcp[pop.cpu]
        if not pop.bulk:
            self.pages.begin_pcp_alloc(pcp, pop.order, pop.mt)
        self._hand_out(zone, pcp, pop.row, pop.pfn, pop.order, pop.mt)

    def _hand_out(self, zone: Zone, pcp: PerCpuPages, row: int, pfn: int, order: int, mt: int) -> None:
        head = self.places.pcp_head(pcp, order, mt)
        if head == pfn:
            self.scores[PAGES].add(True)
            self.pages.take_from_pcp(pcp, pfn, order, mt)
        else:
            self._wrong_page(row, pfn, head, order, mt, zone)

    def _wrong_page(self, row: int, pfn: int, predicted: int, order: int, mt: int, zone: Zone) -> None:
        self.scores[PAGES].add(False)
        parked = self.places.parked_on(pfn)
        self.table.repair(REPAIR_ORDER if parked != NIL and predicted != NIL else REPAIR_ELSEWHERE)
        self.table.differ(PAGES, FORCED, WHOLE, f"{zone.name} order {order} type {mt}", hex(pfn),
                          hex(predicted) if predicted != NIL else "a refill", row=row)  # fmt: skip
        self.places.take(pfn, order, mt)

    def burst(self, burst: Burst) -> None:
        """A refill and the request behind it, or one block past the lists."""
        pages = self.pages
        zone = pages.zones[pages.zone_of(burst.pfns[0])]
        pages.events.clear()
        if pages.free_pindex(burst.order, burst.mt) == NIL:
            right = self._rmqueue(zone, burst, 1)
            self.scores[DIRECT].add(right)
            self._count_request(burst, right)
            return
        pcp = zone.pcp[burst.cpu]
        if not burst.bulk:
            pages.begin_pcp_alloc(pcp, burst.order, burst.mt)
        head = self.places.pcp_head(pcp, burst.order, burst.mt)
        wanted = pages.begin_refill(zone, pcp, burst.order)
        if len(burst.pfns) == 1 and wanted > 1 and head != NIL:
            # Its trylock failed: the list is not empty, and one block came.
            self.table.repair(REPAIR_PAST)
            self._count_request(burst, self._rmqueue(zone, burst, 1))
            return
        right = self._rmqueue(zone, burst, wanted)
        if not self.scores[REFILLS].add(right and head == NIL):
            self.table.differ(REFILLS, FORCED, WHOLE, f"{zone.name} order {burst.order} type {burst.mt}",
                              f"{len(burst.pfns)} blocks", "none, the list holds some" if head != NIL else wanted,
                              row=burst.row)  # fmt: skip
        for pfn in burst.pfns:
            self.places.park(pcp, pfn, burst.order, burst.mt, True)
        if burst.asked >= 0:
            self._hand_out(zone, pcp, burst.asked, burst.pfns[0], burst.order, burst.mt)
        else:
            pages.take_from_pcp(pcp, burst.pfns[0], burst.order, burst.mt)

    def _count_request(self, burst: Burst, right: bool) -> None:
        if burst.asked >= 0:
            self.scores[PAGES].add(right)

    def _rmqueue(self, zone: Zone, burst: Burst, wanted: int) -> bool:
        """Take the recorded blocks one after another, asking for each; whether all and their number were right."""
        right = True
        for pfn in burst.pfns:
            predicted = self.pages.rmqueue(zone, burst.order, burst.mt, ALLOC_WMARK_LOW)
            if predicted != pfn:
                right = False
                if predicted != NIL:
                    self.places.unsplit(zone, predicted, burst.order)
                self.places.take(pfn, burst.order, burst.mt)
        if len(burst.pfns) < wanted:
            # The recorded refill ended early: then there was nothing left to take.
            predicted = self.pages.rmqueue(zone, burst.order, burst.mt, ALLOC_WMARK_LOW)
            if predicted != NIL:
                right = False
                self.places.unsplit(zone, predicted, burst.order)
        self._compare_fallbacks(burst)
        return right

    def _compare_fallbacks(self, burst: Burst) -> None:
        """The recorded fallbacks of a burst against those that the model has just made."""
        made: list[Fallback] = [
            (e["pfn"], e["alloc_order"], e["fallback_order"], e["alloc_migratetype"], e["fallback_migratetype"],
             int(e["change_ownership"])) for kind, e in self.pages.events if kind == "extfrag"
        ]  # fmt: skip
        for i in range(max(len(made), len(burst.fallbacks))):
            real = burst.fallbacks[i] if i < len(burst.fallbacks) else None
            ours = made[i] if i < len(made) else None
            if not self.scores[FALLBACKS].add(real == ours):
                self.table.differ(FALLBACKS, FORCED, WHOLE, "pfn, orders, types, owned", real, ours, row=burst.row)

    # -- frees -------------------------------------------------------------------------------------------------------

    def typed(self, typed: Typed) -> None:
        """Remember a page's type for its later row."""
        self._types[typed.free.pfn] = self.places.block_type(typed.free.pfn)

    def free(self, free: Free) -> None:
        """A block goes to its CPU's list or to the buddy system; a drain that is due waits for its own row."""
        zone = self.pages.zones[self.pages.zone_of(free.pfn)]
        mt = self._types.pop(free.pfn, NIL) if free.typed_row != free.row else NIL
        if mt == NIL:
            mt = self.places.block_type(free.pfn)
        if not self.places.in_use(free.pfn, free.order):
            self.table.repair(REPAIR_FREE)
            self.places.take(free.pfn, free.order, mt)
        self.places.split_for_free(free.pfn, free.order)
        pindex = self.pages.free_pindex(free.order, mt)
        if pindex == NIL or free.straight:
            if pindex != NIL:
                self.table.repair(REPAIR_STRAIGHT)
            self.pages.free_one_page(zone, free.pfn, free.order, mt, False)
            return
        pcp = zone.pcp[free.cpu]
        due = self.pages.free_unref_page_commit(zone, pcp, free.pfn, free.order, mt)
        if free.drain is not None:
            self._due[free.row] = (min(due, pcp.count), pindex)
        elif due:
            self.scores[DRAINS].add(False)
            self.table.differ(DRAINS, FORCED, WHOLE, f"{zone.name} CPU {free.cpu}", "none", f"{due} pages",
                              row=free.row)  # fmt: skip

    def drain(self, drain: Drain) -> None:
        """Recorded blocks leave their lists, each compared with the one that the rule takes next."""
        if drain.free is None:
            self._outside(drain)
            return
        zone = self.pages.zones[self.pages.zone_of(drain.pfns[0])]
        pcp = zone.pcp[drain.cpu]
        left, index = self._due.pop(drain.free.row, (0, 0))
        due, right = left, left > 0
        for pfn, order in zip(drain.pfns, drain.orders, strict=True):
            if left > 0 and pcp.count > 0:
                index = self.pages.drained_list(pcp, index)
                right = right and self.places.pcp_tail(pcp, index) == pfn
            else:
                right = False
            left -= 1 << order
            self._drain_block(zone, drain.cpu, pfn, order)
        if not self.scores[DRAINS].add(right and left <= 0):
            pages = sum(1 << order for order in drain.orders)
            self.table.differ(DRAINS, FORCED, WHOLE, f"{zone.name} CPU {drain.cpu}", f"{pages} pages", f"{due} pages",
                              row=drain.row)  # fmt: skip

    def _drain_block(self, zone: Zone, cpu: int, pfn: int, order: int) -> None:
        parked = self.places.parked_on(pfn)
        if parked != NIL:
            self.pages.drain_block(zone, zone.pcp[parked // NR_PCP_LISTS], pfn)
            return
        self.table.repair(REPAIR_ELSEWHERE)
        mt = self.places.block_type(pfn)
        self.places.take(pfn, order, mt)
        self.pages.free_one_page(zone, pfn, order, mt, False)

    def _outside(self, drain: Drain) -> None:
        """drain_all or the vmstat worker: any CPU's lists; only that each block is its list's last can be checked."""
        for pfn, order in zip(drain.pfns, drain.orders, strict=True):
            zone = self.pages.zones[self.pages.zone_of(pfn)]
            parked = self.places.parked_on(pfn)
            at_tail = parked != NIL and self.places.pcp_tail(
                zone.pcp[parked // NR_PCP_LISTS], parked % NR_PCP_LISTS) == pfn  # fmt: skip
            if not self.scores[OUTSIDE].add(at_tail):
                self.table.differ(OUTSIDE, FORCED, WHOLE, f"{zone.name} {pfn:#x}", "tail", "elsewhere", row=drain.row)
            self._drain_block(zone, drain.cpu, pfn, order)

    # -- what others do ----------------------------------------------------------------------------------------------

    def taken(self, taken: Taken) -> None:
        """Compaction takes a free block, or puts one back."""
        zone = self.pages.zones[self.pages.zone_of(taken.pfn)]
        if taken.back:
            if not self.places.in_use(taken.pfn, taken.order):
                self.places.take(taken.pfn, taken.order, taken.mt)
            self.pages.free_one_page(zone, taken.pfn, taken.order, taken.mt, True)
            return
        exact = self.places.isolate(zone, taken.pfn, taken.order)
        if not self.scores[ISOLATED].add(exact):
            self.table.differ(ISOLATED, FORCED, WHOLE, f"{zone.name} {taken.pfn:#x}", f"order {taken.order}",
                              f"order {self.places.free_block_order(taken.pfn)}", row=taken.row)  # fmt: skip

    def reclaim(self, reclaim: Reclaim) -> None:
        """kswapd begins or ends a run on a node."""
        self.places.set_reclaim_active(reclaim.node, reclaim.active)

    # -- comparing ---------------------------------------------------------------------------------------------------

    def compare(self, snapshot: Snapshot) -> None:
        """Every list of every zone against a dump."""
        assert snapshot.dump is not None
        free, pcp, types = _Score(), _Score(), _Score()
        for zone in self.pages.zones:
            known = _zone_of(snapshot.dump, zone)
            self._compare_lists(free, FREE_LISTS, snapshot.name, zone.name, known.free_lists, self.places.lists(zone))
            for state in known.pcp:
                ours = self._pcp_lists(zone, state)
                self._compare_lists(pcp, PCP_LISTS, snapshot.name, f"{zone.name} CPU {state.cpu}", state.lists, ours)
            for real, mt in zip(known.pageblocks, self.places.pageblock_types(zone), strict=False):
                if real >= 0:
                    types.add(real == mt)
        for what, score in ((FREE_LISTS, free), (PCP_LISTS, pcp), (BLOCK_TYPES, types)):
            self.table.decisions(what, FORCED, snapshot.name, score.compared, score.equal)

    def _pcp_lists(self, zone: Zone, state: ExactPcp) -> dict[tuple[int, int], list[int]]:
        lists = {}
        for order in range(PCP_ORDERS):
            for mt in range(MIGRATE_PCPTYPES):
                head = zone.pcp[state.cpu].list0 + self.pages.free_pindex(order, mt)
                members = self.machine.frames.members(head)
                if members:
                    lists[order, mt] = members
        return lists

    def _compare_lists(
        self, score: _Score, what: str, where: str, name: str, real: dict[tuple[int, int], list[int]],
        ours: dict[tuple[int, int], list[int]],
    ) -> None:
        for order, mt in sorted(real.keys() | ours.keys()):
            a, b = real.get((order, mt), []), ours.get((order, mt), [])
            if not score.add(a == b):
                first = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
                self.table.differ(what, FORCED, where, f"{name} order {order} type {mt} from {first}",
                                  f"{len(a)} blocks", f"{len(b)} blocks", len(set(a) ^ set(b)) + 1)  # fmt: skip

    def report(self) -> None:
        """Add the rows of the whole trace to the table."""
        for what, score in self.scores.items():
            if score.compared or what in (PAGES, REFILLS, DRAINS, FALLBACKS):
                self.table.decisions(what, FORCED, WHOLE, score.compared, score.equal)


def _zone_of(dump: ExactDump, zone: Zone) -> ExactZone:
    return next(known for known in dump.zones if (known.node, known.name) == (zone.node, zone.name))
