"""
The model forced along recordings that the model itself made: nothing may be wrong, and what is made wrong is counted.

A random workload runs on a small machine, and its page events are written as a kernel would: a burst before the
request that it was for, drains behind the free, frees of several pages announced first.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from small_machines import booted, kernel, open_zone

from memtrace.fidelity import forced_pages as fp
from memtrace.fidelity.positions import COLUMNS, read_positions
from memtrace.fidelity.recording import Snapshot
from memtrace.fidelity.table import Table
from memtrace.mm.constants import NR_PCP_LISTS
from memtrace.mm.gfp import GFP_BIT_RECLAIMABLE, GFP_HIGHUSER_MOVABLE, GFP_KERNEL
from memtrace.mm.machine import Machine
from memtrace.mm.page_place import PagePlaces
from memtrace.mm.paths import PATH_PAGE_ALLOC_BUDDY, PATH_PAGE_ALLOC_REFILL, PATH_PAGE_FREE_DRAIN
from memtrace.snapshot.exact_dump import ExactDump, ExactPcp, ExactZone
from memtrace.trace.source import open_trace

KERNEL = kernel(batch=7, high=40)
REQUESTS = [(GFP_KERNEL, 0), (GFP_HIGHUSER_MOVABLE, 1), (GFP_KERNEL | GFP_BIT_RECLAIMABLE, 2)]
"""gfp mask and its migratetype."""
ORDERS = [0] * 12 + [1, 1, 2, 3, 3, 5]
BLOCK = 6
"""Pageblock order: small blocks run out often, so that there are fallbacks."""
HEADER = "ts_ns,cpu,event,ptr,pfn,order,migratetype,text"


class Recorder:
    """A machine whose page events are written down."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.machine: Machine = booted(
            open_zone("DMA", 4, 4), open_zone("DMA32", 16, 12), cpus=2, pageblock_order=BLOCK, batch=7, high=40
        )
        self.places = PagePlaces(self.machine.pages)
        self.rows: list[str] = []
        self.live: list[tuple[int, int]] = []

    def row(self, cpu: int, event: str, pfn: int, order: int, mt: int = -2, text: str = "") -> None:
        shown = str(mt) if mt >= 0 else ""
        self.rows.append(f"{len(self.rows) * 1000},{cpu},{event},,{pfn},{order},{shown},{text}")

    def lists(self, pfn: int, cpu: int) -> list[list[int]]:
        """The per-CPU lists of a page's zone."""
        zone = self.machine.pages.zones[self.machine.pages.zone_of(pfn)]
        return [self.machine.frames.members(zone.pcp[cpu].list0 + i) for i in range(NR_PCP_LISTS)]

    def alloc(self) -> None:
        cpu, order = self.rng.randrange(2), self.rng.choice(ORDERS)
        gfp, mt = self.rng.choice(REQUESTS)
        self.machine.pages.events.clear()
        pfn = self.machine.page_alloc(order, gfp, -1, cpu)
        if pfn < 0:
            return
        for _, e in self.machine.pages.events:
            fields = " ".join(f"{name}={int(e[name])}" for name in (
                "pfn", "alloc_order", "fallback_order", "alloc_migratetype", "fallback_migratetype",
                "change_ownership"))  # fmt: skip
            self.row(cpu, "mm_page_alloc_extfrag", e["pfn"], order, text=fields)
        path = self.machine.it.path
        if path in (PATH_PAGE_ALLOC_REFILL, PATH_PAGE_ALLOC_BUDDY):
            burst = [pfn]
            if path == PATH_PAGE_ALLOC_REFILL:
                burst += self.lists(pfn, cpu)[self.machine.pages.free_pindex(order, mt)]
            for p in burst:
                self.row(cpu, "mm_page_alloc_zone_locked", p, order, mt)
        self.row(cpu, "mm_page_alloc", pfn, order, mt)
        self.live.append((pfn, order))

    def free(self) -> None:
        cpu = self.rng.randrange(2)
        chosen = [self.live.pop(self.rng.randrange(len(self.live))) for _ in range(min(len(self.live), 4))]
        together = [block for block in chosen if block[1] == 0] if self.rng.random() < 0.5 else []
        for pfn, order in together:
            self.row(cpu, "mm_page_free", pfn, order)
        for pfn, order in chosen:
            self.row(cpu, "mm_page_free_batched" if (pfn, order) in together else "mm_page_free", pfn, order)
            mt = self.places.block_type(pfn)
            before = self.lists(pfn, cpu)
            self.machine.page_free(pfn, order, cpu)
            if self.machine.it.path == PATH_PAGE_FREE_DRAIN:
                first = self.machine.pages.free_pindex(order, mt)
                before[first].insert(0, pfn)
                self.drained(cpu, before, self.lists(pfn, cpu), first)

    def drained(self, cpu: int, before: list[list[int]], after: list[list[int]], first: int) -> None:
        for i in (*range(first, NR_PCP_LISTS), *range(first)):
            for p in reversed(before[i][len(after[i]):]):
                self.row(cpu, "mm_page_pcpu_drain", p, i // 3)

    def run(self, operations: int, frees: float) -> None:
        for _ in range(operations):
            if self.short() or (self.live and self.rng.random() < frees):
                self.free()
            else:
                self.alloc()

    def short(self) -> bool:
        """Little is left: the next request could drain all lists, which this recorder does not see."""
        return self.machine.pages.zones[-1].free_pages < 200

    def dump(self, name: str) -> ExactDump:
        """The machine's pages as an exact dump has them."""
        dump = ExactDump("here", 1, name, 0)
        for zone in self.machine.pages.zones:
            known = ExactZone(
                zone.node, zone.name, zone.zone_idx, zone.start_pfn, zone.spanned, zone.present, zone.managed, 0, 0, 0,
                zone.boost, zone.free_pages, 0, (0, 0, 0, 0), free_lists=self.places.lists(zone), pageblock_order=BLOCK,
                pageblocks=tuple(self.places.pageblock_types(zone)),
            )  # fmt: skip
            for cpu, pcp in enumerate(zone.pcp):
                lists = {(i // 3, i % 3): members for i in range(12)
                         if (members := self.machine.frames.members(pcp.list0 + i))}  # fmt: skip
                known.pcp.append(ExactPcp(cpu, pcp.count, pcp.high, pcp.batch, pcp.free_factor, 0, lists))
            dump.zones.append(known)
        return dump


def force(rows: list[str], begin: int, start: ExactDump, end: ExactDump, folder: Path) -> Table:
    """The table of a made recording whose rows from ``begin`` on are forced."""
    (folder / "trace.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    table = Table()
    driver = fp.PageDriver(start, KERNEL, table)
    with open_trace(folder / "trace.csv", columns=COLUMNS) as reader:
        positions = read_positions(reader, begin, driver.refill_size, driver.zone_index)
    driver.play(positions, [Snapshot("end", folder, len(rows), end, False)])
    driver.report()
    return table


def by_name(table: Table) -> dict[str, tuple[int, int]]:
    return {row.what: (row.compared, row.wrong) for row in table.rows}


def made(seed: int) -> tuple[Recorder, int, ExactDump, ExactDump]:
    recorder = Recorder(seed)
    recorder.run(1600, 0.05)
    begin, start = len(recorder.rows), recorder.dump("start")
    recorder.run(2500, 0.2)
    return recorder, begin, start, recorder.dump("end")


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_wrong_in_what_the_model_recorded(seed: int, tmp_path: Path) -> None:
    recorder, begin, start, end = made(seed)
    table = force(recorder.rows, begin, start, end, tmp_path)
    found = by_name(table)
    assert [d for d in table.differences if d.what != fp.BLOCK_TYPES] == []
    assert table.repairs == {}
    for what, least in ((fp.PAGES, 1000), (fp.REFILLS, 100), (fp.DRAINS, 5), (fp.FALLBACKS, 1), (fp.FREE_LISTS, 5)):
        compared, wrong = found[what]
        assert (compared >= least, wrong) == (True, 0), (what, compared)


def swap(rows: list[str], a: int, b: int) -> None:
    """Exchange the pages of two rows."""
    one, other = rows[a].split(","), rows[b].split(",")
    one[4], other[4] = other[4], one[4]
    rows[a], rows[b] = ",".join(one), ",".join(other)


def test_two_pages_that_changed_places_are_counted_and_put_right(tmp_path: Path) -> None:
    """As an interrupt between an event and its list operation does it: both were to come from the same list."""
    recorder, begin, start, end = made(11)
    rows = recorder.rows
    fields: list[Any] = [row.split(",") for row in rows]
    plain = [i for i in range(begin, len(rows) - 1)
             if fields[i][2] == fields[i + 1][2] == "mm_page_alloc" and fields[i][1] == fields[i + 1][1]
             and fields[i][5:7] == fields[i + 1][5:7] and fields[i - 1][2] != "mm_page_alloc_zone_locked"]  # fmt: skip
    at = plain[len(plain) // 2]
    before = by_name(force(rows, begin, start, end, tmp_path))
    swap(rows, at, at + 1)
    table = force(rows, begin, start, end, tmp_path)
    after = by_name(table)
    assert before[fp.PAGES][1] == 0
    assert after[fp.PAGES][1] == 1
    assert table.repairs == {fp.REPAIR_ORDER: 1}
    assert after[fp.FREE_LISTS][1] == 0, "nothing follows from it"


def test_lost_rows_do_not_break_it(tmp_path: Path) -> None:
    """Every tenth page event is missing, as when a buffer overran."""
    recorder, begin, start, end = made(12)
    rows = [row for i, row in enumerate(recorder.rows) if i < begin or i % 10]
    found = by_name(force(rows, begin, start, end, tmp_path))
    assert found[fp.PAGES][0] > 1000
    assert 0 < found[fp.PAGES][1] < found[fp.PAGES][0] / 2
