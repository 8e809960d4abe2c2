"""
SLOB forced along a recording: does it put every object where the kernel did (EXACT D 1.5, 4.5)?

Each recorded allocation is asked of the model first; then the recorded block is taken, whatever the answer was, so
that every step is judged from the true state. New pages are the recorded ones. A block of a TYPESAFE_BY_RCU object
is given back when the recording shows it: its place is handed out again, or its page goes back.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memtrace.machines import machine_from_exact
from memtrace.mm.boot import build
from memtrace.mm.constants import NIL, PAGE_SIZE, SLAB_TYPESAFE_BY_RCU
from memtrace.mm.restore import restore_exact
from memtrace.mm.restore_slob import SLOB_LIST_KINDS
from memtrace.run import REPLAYED
from memtrace.start import map_caches
from memtrace.trace.census import take_census
from memtrace.trace.pairing import RequestStream
from memtrace.trace.reading import CHUNK_ROWS
from memtrace.trace.requests import RQ_CACHE_ALLOC, RQ_CACHE_FREE, RQ_KFREE, RQ_KMALLOC
from memtrace.trace.schema import EV_PAGE_ALLOC, EV_PAGE_FREE
from memtrace.trace.window import TraceWindow

from .table import FORCED, SHOWN, Table

if TYPE_CHECKING:
    from memtrace.mm.machine import Machine
    from memtrace.mm.slob import Slob
    from memtrace.snapshot.exact_dump import ExactDump
    from memtrace.trace.requests import Census, Requests
    from memtrace.trace.schema import EventChunk

    from .recording import Recording

HEADER = 8
PAGE_TAKEN = 100
PAGE_GIVEN = 101
_OPS = (RQ_KMALLOC, RQ_CACHE_ALLOC, RQ_KFREE, RQ_CACHE_FREE)
_COLUMNS = {"row": "row", "kind": "op", "cpu": "cpu", "addr": "addr", "size": "size", "cache": "cache", "node": "node",
            "handle": "handle"}
"""Field of Step -> column of Requests."""


class Block(NamedTuple):
    """A block that is taken: address and bytes, header included; the CPU that freed it, while it waits for RCU."""

    addr: int
    size: int
    rcu: bool
    cpu: int = -1


class Asked(NamedTuple):
    """An allocation: the recorded block, and how it is to be aligned."""

    block: Block
    align: int
    offset: int


class Step(NamedTuple):
    """
    One row of the recording: ``kind`` is an ``RQ_*`` or ``PAGE_*`` code; ``addr`` a recorded address or a pfn.

    ``first`` is the allocation that a page was taken for.
    """

    row: int
    kind: int
    cpu: int
    addr: int
    size: int = 0
    cache: int = -1
    node: int = -1
    handle: int = -1
    first: Step | None = None


OBJECTS = "objects at the recorded address"
NEW_PAGES = "SLOB pages taken when the kernel took one"
FREED = "SLOB pages given back by the recorded free"
GAPS = "SLOB pages on the recorded list with the recorded free blocks"
ORDER = "SLOB pages followed by the recorded one"
WHOLE = "whole trace"


def force_slob(recording: Recording, table: Table) -> None:
    """
    Force SLOB from the start dump to the end of the trace, and compare its lists at every later dump.

    Needs exact dumps of a SLOB kernel; without one it adds a note to the table instead of rows.
    """
    start = recording.start
    if start is None or start.dump is None or not start.dump.slob:
        table.notes.append("SLOB was not forced: that needs an exact dump of a SLOB kernel to start from.")
        return
    machine = build(machine_from_exact(start.dump), recording.kernel, 0, "slob")
    restore_exact(machine, start.dump)
    with recording.open(REPLAYED) as reader:
        source = TraceWindow(reader, recording.first_row, None)
        census = take_census(source)
        driver = SlobDriver(machine, map_caches(machine, census).tolist(), census)
        steps = read_steps(RequestStream(source, census), source.chunks(CHUNK_ROWS))
    begin = 0
    for snapshot in recording.later:
        if snapshot.dump is not None and snapshot.row >= 0:
            end = bisect_left(steps, snapshot.row, lo=begin, key=lambda step: step.row)
            driver.play(steps[begin:end])
            driver.compare(snapshot.dump, snapshot.name)
            begin = end
    driver.play(steps[begin:])
    driver.out.report(table)


@dataclass(slots=True)
class ForcedSlob:
    """
    What a forced run found.

    Attributes
    ----------
    objects, objects_right
        Objects of less than a page that were allocated; of these, where the kernel put them.
    new_pages, new_pages_right
        Pages that the kernel took for them; of these, when the model had no room either.
    freed, freed_right
        Pages that the kernel gave back and the model knew; of these, those that the same free emptied in the model.
    repairs
        Kind -> times.
    wrong
        Rows of objects put elsewhere.
    gaps, order
        By (dump, list): pages compared; of these, on that list with the recorded gaps; followed by the recorded page.
    """

    objects: int = 0
    objects_right: int = 0
    new_pages: int = 0
    new_pages_right: int = 0
    freed: int = 0
    freed_right: int = 0
    repairs: Counter[str] = field(default_factory=Counter)
    wrong: list[int] = field(default_factory=list)
    gaps: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    order: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    def report(self, table: Table) -> None:
        """Add it to the fidelity table."""
        table.decisions(OBJECTS, FORCED, WHOLE, self.objects, self.objects_right)
        table.decisions(NEW_PAGES, FORCED, WHOLE, self.new_pages, self.new_pages_right)
        table.decisions(FREED, FORCED, WHOLE, self.freed, self.freed_right)
        for row in self.wrong[:SHOWN]:
            table.differ(OBJECTS, FORCED, WHOLE, "object", "elsewhere", "its place", 1, row)
        for what, counts in ((GAPS, self.gaps), (ORDER, self.order)):
            for (name, which), (compared, equal) in counts.items():
                table.decisions(f"{what}: {which}", FORCED, name, compared, equal)
        for kind, n in self.repairs.items():
            table.repair(f"SLOB: {kind}", n)


class SlobDriver:
    """A SLOB in the state of a dump, and what was found while it was forced."""

    def __init__(self, machine: Machine, cache_map: list[int], census: Census) -> None:
        self.slob: Slob = machine.slab  # type: ignore[assignment]
        self.frames = machine.frames
        self.cache_map = cache_map
        self.out = ForcedSlob()
        self.taken: dict[int, Block] = {}
        """By handle."""
        self.waiting: dict[int, deque[Block]] = {}
        """By CPU, oldest first: callbacks run in the order in which they were queued."""
        self.waiting_on: dict[int, set[Block]] = {}
        """By pfn."""
        self.pending: dict[int, bool] = {}
        """pfn -> did the model find room when it was asked? Of pages just taken from the page allocator."""
        self.emptied: set[int] = set()
        """Pages that the model gave back and the kernel has yet to."""
        for handle, (addr, cache) in enumerate(
            zip(census.start_addr.tolist(), census.start_cache.tolist(), strict=True)
        ):
            if cache >= 0 and addr >= 0:
                s = self.slob.caches[cache_map[cache]]
                if s.size < PAGE_SIZE:
                    self.taken[handle] = Block(addr, s.size, bool(s.flags & SLAB_TYPESAFE_BY_RCU))

    def play(self, steps: Sequence[Step]) -> None:
        """Follow the recording."""
        for step in steps:
            if step.kind == PAGE_TAKEN:
                self.page_taken(step)
            elif step.kind == PAGE_GIVEN:
                self.page_given(step)
            elif step.kind in (RQ_KMALLOC, RQ_CACHE_ALLOC):
                asked = self.asked(step)
                if asked is not None:
                    self.alloc(step, asked)
            else:
                self.free(step)

    # -- allocations ------------------------------------------------------------------------------

    def asked(self, step: Step) -> Asked | None:
        """What an allocation asks for, if it is for less than a page."""
        if step.kind == RQ_CACHE_ALLOC:
            s = self.slob.caches[self.cache_map[step.cache]]
            if s.size >= PAGE_SIZE or step.addr < 0:
                return None
            return Asked(Block(step.addr, s.size, bool(s.flags & SLAB_TYPESAFE_BY_RCU)), s.align, 0)
        size = step.size
        if not 0 < size < PAGE_SIZE - HEADER or step.addr < 0:
            return None
        align = max(HEADER, size if size & (size - 1) == 0 else HEADER)
        return Asked(Block(step.addr - HEADER, size + HEADER, False), align, HEADER)

    def find(self, step: Step, asked: Asked) -> bool:
        """Would the model find room on its pages?"""
        units = (asked.block.size + 1) >> 1
        which = self.slob.list_of(asked.block.size)
        return bool(self.slob.find_block(which, units, asked.align, step.node, asked.offset))

    def alloc(self, step: Step, asked: Asked) -> None:
        """Ask the model for a block, then take the recorded one."""
        slob, out, block = self.slob, self.out, asked.block
        units, pfn = (block.size + 1) >> 1, block.addr >> 12
        searched = self.pending.pop(pfn, None)
        if searched is not None and self.frames.slab[pfn] == NIL:
            out.new_pages += 1
            out.new_pages_right += not searched
            slob.open_page(pfn, slob.list_of(block.size))
            right = not searched and slob.find_in_page_of(pfn, units, asked.align, asked.offset)
            right = right and slob.found_address() == block.addr
        else:
            self.make_room(block)
            right = self.find(step, asked) and slob.found_address() == block.addr
        out.objects += 1
        out.objects_right += bool(right)
        if not right:
            out.wrong.append(step.row)
            self.point_at(block)
        slob.take_found(units)
        self.taken[step.handle] = block

    def point_at(self, block: Block) -> None:
        """Let the model's next step take the recorded block, which must be made free if it is not."""
        units = (block.size + 1) >> 1
        if self.slob.find_place(block.addr, units):
            return
        self.out.repairs["block free in the kernel only"] += 1
        if self.frames.slab[block.addr >> 12] == NIL:
            self.slob.reveal_slab(self.slob.caches[0], block.addr >> 12, 0, 0)
        for start, size in self.slob.taken_parts(block.addr, units):
            self.slob.free_block(start, size)
        if not self.slob.find_place(block.addr, units):
            # Making the block free emptied its page.
            self.slob.open_page(block.addr >> 12, self.slob.list_of(block.size))
            self.slob.find_place(block.addr, units)

    # -- frees ------------------------------------------------------------------------------------

    def free(self, step: Step) -> None:
        block = self.taken.pop(step.handle, None)
        if block is None:
            return
        if block.rcu:
            block = block._replace(cpu=step.cpu)
            self.waiting.setdefault(step.cpu, deque()).append(block)
            self.waiting_on.setdefault(block.addr >> 12, set()).add(block)
        else:
            self.release(block)

    def release(self, block: Block) -> None:
        """Give a block back."""
        pfn = block.addr >> 12
        if self.frames.slab[pfn] == NIL:
            if pfn in self.emptied:
                self.out.repairs["block freed on a page that the model gave back"] += 1
                return
            self.slob.reveal_slab(self.slob.caches[0], pfn, 0, 0)
        if self.slob.free_block(block.addr, block.size):
            self.emptied.add(pfn)

    def release_waiting(self, block: Block) -> None:
        """A waiting block is shown to be free: its CPU has run all callbacks up to it."""
        queue = self.waiting[block.cpu]
        while True:
            first = queue.popleft()
            self.waiting_on[first.addr >> 12].discard(first)
            self.release(first)
            if first is block:
                return

    def make_room(self, block: Block) -> None:
        """End the wait of blocks whose place is handed out again."""
        for other in list(self.waiting_on.get(block.addr >> 12, ())):
            overlaps = other.addr < block.addr + block.size and block.addr < other.addr + other.size
            if overlaps and other in self.waiting_on[other.addr >> 12]:
                self.release_waiting(other)

    # -- pages ------------------------------------------------------------------------------------

    def page_taken(self, step: Step) -> None:
        self.emptied.discard(step.addr)
        if self.frames.slab[step.addr] != NIL:
            self.out.repairs["page taken that the model still held"] += 1
            self.slob.drop_page(self.frames.slab[step.addr])
        if step.first is not None:
            # The kernel had looked for room before it asked for a page.
            asked = self.asked(step.first)
            if asked is not None:
                self.pending[step.addr] = self.find(step.first, asked)

    def page_given(self, step: Step) -> None:
        pfn = step.addr
        self.pending.pop(pfn, None)
        if pfn not in self.emptied and self.frames.slab[pfn] == NIL:
            return
        self.out.freed += 1
        for block in list(self.waiting_on.get(pfn, ())):
            if block in self.waiting_on[pfn]:
                self.release_waiting(block)
        if pfn in self.emptied:
            self.out.freed_right += 1
            self.emptied.discard(pfn)
        else:
            self.out.repairs["page given back that is not empty in the model"] += 1
            self.slob.drop_page(self.frames.slab[pfn])

    # -- dumps ------------------------------------------------------------------------------------

    def compare(self, dump: ExactDump, name: str) -> None:
        """Pages on the lists, with their gaps, and in which order they stand."""
        for which, kind in enumerate(SLOB_LIST_KINDS):
            ours = self.slob.pages_of(which)
            real = [(page.pfn, page.free) for page in dump.slob_lists.get(kind, [])]
            longer, known = max(len(real), len(ours)), dict(real)
            self.out.gaps[name, kind] = longer, sum(known.get(pfn) == gaps for pfn, gaps in ours)
            after = {a: b for (a, _), (b, _) in pairwise([*real, (NIL, [])])}
            follows = sum(after.get(a) == b for (a, _), (b, _) in pairwise([*ours, (NIL, [])]))
            self.out.order[name, kind] = longer, follows


def read_steps(requests: Iterable[Requests], chunks: Iterable[EventChunk]) -> list[Step]:
    """Requests of objects, and the rows that take and give single pages, in row order."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in _COLUMNS}
    for part in requests:
        keep = np.isin(part.op, _OPS)
        for name, column in _COLUMNS.items():
            parts[name].append(getattr(part, column)[keep].astype(np.int64))
    for chunk in chunks:
        for event, kind in ((EV_PAGE_ALLOC, PAGE_TAKEN), (EV_PAGE_FREE, PAGE_GIVEN)):
            at = np.flatnonzero((chunk.event == event) & (chunk.pfn > 0) & (chunk.order == 0))
            none = np.full(len(at), -1)
            known = {"row": chunk.row0 + at, "kind": np.full(len(at), kind), "cpu": chunk.cpu[at],
                     "addr": chunk.pfn[at]}
            for name in _COLUMNS:
                parts[name].append(known.get(name, none).astype(np.int64))
    whole = [np.concatenate(parts[name]) for name in _COLUMNS]
    order = np.argsort(whole[0], kind="stable")
    steps = [Step(*values) for values in zip(*(column[order].tolist() for column in whole), strict=True)]
    _match_pages(steps)
    return steps


def _match_pages(steps: list[Step]) -> None:
    """Tell each row that takes a page which allocation it was for: the next one in it, by the same CPU."""
    taken: dict[int, int] = {}
    for i, step in enumerate(steps):
        if step.kind == PAGE_TAKEN:
            taken[step.addr] = i
        elif step.kind == PAGE_GIVEN:
            taken.pop(step.addr, None)
        elif step.kind in (RQ_KMALLOC, RQ_CACHE_ALLOC):
            at = taken.pop(step.addr >> 12, -1)
            if at >= 0 and steps[at].cpu == step.cpu:
                steps[at] = steps[at]._replace(first=step)
