"""
Drives a model's SLUB along a recorded one, request by request, and puts each wrong choice right.

After a wrong choice the recorded one is forced and counted, so that each is judged from the kernel's own state
(EXACT C).
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from memtrace.fidelity.recorded_pages import RecordedPages
from memtrace.fidelity.slub_forcing import SlubForcing
from memtrace.fidelity.slub_lists import DumpComparison, chain, compare_dump
from memtrace.fidelity.slub_script import (
    DO_ALLOC,
    DO_BULK_ALLOC,
    DO_BULK_EARLY,
    DO_BULK_FREE,
    DO_BYPASS,
    DO_DUMP,
    DO_FREE,
    DO_HOLD,
    DO_PAGE_ALLOC,
    DO_PAGE_FREE,
    RequestedCaches,
    Script,
)
from memtrace.mm.constants import SLAB_TYPESAFE_BY_RCU
from memtrace.mm.machine import Machine
from memtrace.mm.slub import Slub
from memtrace.snapshot.exact_dump import ExactDump

BURST_ROWS = 3000
"""Wrong objects of one cache less than this many rows apart have one cause."""


@dataclass(slots=True)
class ForcedSlub:
    """
    What a forced replay found.

    Attributes
    ----------
    objects, objects_right
        Objects allocated one by one, by cache index: compared, and at the recorded address.
    bulk, bulk_right
        The same of bulk allocations.
    new_slabs, new_slabs_right
        Slabs that the kernel took, by cache index; of these, when the model had no free object either.
    freed, freed_right
        Slabs that the kernel gave back; of these, by the same operation in the model.
    repairs
        Kind -> times.
    order
        Kind -> times that a part of an operation stood before an interrupt whose rows stand before its own.
    other_frees
        Frees of what lies in no slab: large kmallocs.
    wrong
        (row, cache index) of each wrong object.
    dumps
        What lists and counters were like at each later dump.
    """

    objects: Counter[int] = field(default_factory=Counter)
    objects_right: Counter[int] = field(default_factory=Counter)
    bulk: Counter[int] = field(default_factory=Counter)
    bulk_right: Counter[int] = field(default_factory=Counter)
    new_slabs: Counter[int] = field(default_factory=Counter)
    new_slabs_right: Counter[int] = field(default_factory=Counter)
    freed: int = 0
    freed_right: int = 0
    repairs: Counter[str] = field(default_factory=Counter)
    order: Counter[str] = field(default_factory=Counter)
    other_frees: int = 0
    wrong: list[tuple[int, int]] = field(default_factory=list)
    dumps: list[DumpComparison] = field(default_factory=list)

    @property
    def bursts(self) -> int:
        """Wrong objects, those of one cache less than ``BURST_ROWS`` rows apart counted once."""
        last: dict[int, int] = {}
        n = 0
        for row, cache in self.wrong:
            n += row - last.get(cache, -BURST_ROWS) >= BURST_ROWS
            last[cache] = row
        return n


class SlubDriver:
    """
    One forced replay.

    Parameters
    ----------
    machine
        Laid out from the dump ``start``, its counters zero; its page allocator is replaced.
    cache_map
        By index into the census's caches: the machine's.
    dumps
        Later dumps by the vocab.text code of their marker.
    """

    def __init__(self, machine: Machine, script: Script, cache_map: np.ndarray, dumps: dict[int, ExactDump],
                 start: ExactDump) -> None:
        self.script = script
        self.slub = cast(Slub, machine.slab)
        self.pages = RecordedPages(machine.pages)
        self.slub.pages = self.pages
        self.slub.defrag_ratio = 1023
        self.forcing = SlubForcing(self.slub, self.pages)
        self.caches = RequestedCaches(script, cache_map, self.forcing.kmalloc_cache)
        self.dumps = dumps
        self.start = start
        self.out = ForcedSlub()
        self.held: set[int] = set()
        self.done: set[int] = set()
        """Bulk allocations' objects that have been handed out."""
        self.early: set[int] = set()
        """Slabs that the model has given back and whose recorded mm_page_free is still to come."""
        self.group: dict[tuple[int, int], array[int]] = defaultdict(lambda: array("q"))
        self.row = 0

    def run(self) -> ForcedSlub:
        script = self.script
        do = {
            DO_ALLOC: self.alloc, DO_BULK_ALLOC: self.bulk_alloc, DO_FREE: self.free, DO_BULK_FREE: self.bulk_free,
            DO_HOLD: self.hold, DO_BYPASS: self.bypass, DO_BULK_EARLY: self.bulk_early,
            DO_PAGE_ALLOC: self.page_alloc, DO_PAGE_FREE: self.page_free, DO_DUMP: self.dump,
        }
        for action, argument, row in zip(script.action, script.argument, script.row, strict=True):
            self.row = row
            do[action](argument)
        return self.out

    # -- allocations ------------------------------------------------------------------------------

    def alloc(self, i: int) -> None:
        """One object, compared with the recorded one."""
        script, forcing = self.script, self.forcing
        rq = script.requests
        cpu, node, want = rq["cpu"][i], rq["node"][i], rq["addr"][i]
        bulk = script.array_begin[i] >= 0
        cache = self.caches.of(i)
        page = script.page.get(i)
        if page is not None:
            if i not in self.held:
                self.hold(i)
            self.held.discard(i)
            got = forcing.finish(cache, node, cpu, *page)
        else:
            got = forcing.alloc(cache, node, cpu, bulk)
        if self.pages.freed:
            self.note_freed(cache)
        if want < 0:
            return
        compared, right = (self.out.bulk, self.out.bulk_right) if bulk else (self.out.objects, self.out.objects_right)
        compared[cache] += 1
        if got == want:
            right[cache] += 1
        else:
            self.out.wrong.append((self.row, cache))
            self.put_right(cache, node, cpu, bulk, want, got)

    def bulk_alloc(self, i: int) -> None:
        """All objects of a bulk allocation at the row of the first: the rows follow the whole operation."""
        if i not in self.done:
            for j in self.script.array[self.script.array_begin[i]]:
                if j not in self.done:
                    self.alloc(j)
                    self.done.add(j)

    def put_right(self, cache: int, node: int, cpu: int, bulk: bool, want: int, got: int) -> None:
        """The kernel handed out ``want``, the model ``got`` (0: nothing)."""
        forcing, slub, repairs = self.forcing, self.slub, self.out.repairs
        refill = forcing.was_refill()
        if got:
            forcing.give_back(cache, got, cpu)
        slab = forcing.slab_at(want)
        if slab < 0 or slub.caches[slub.sl_cache[slab]].index != cache:
            repairs["object of a slab that the model does not have"] += 1
            return
        if slub.is_live(want) and not self.end_group_of(want):
            repairs["object that the model holds handed out"] += 1
            return
        s = slub.caches[cache]
        if got and s.c_slab[cpu] != slab and self.had_nothing_left(cache, cpu):
            got = forcing.alloc(cache, node, cpu, bulk)
            if got == want:
                return
            refill = forcing.was_refill()
            if got:
                forcing.give_back(cache, got, cpu)
        if s.c_slab[cpu] != slab:
            if forcing.exchange(cache, want, cpu):
                repairs["another slab"] += 1
                refill = True
            else:
                repairs["object of another CPU's slab"] += 1
        else:
            repairs["another object of the slab"] += 1
        if not (refill and forcing.is_refill_below(cache, want, cpu)):
            forcing.take_out(want)

    def had_nothing_left(self, cache: int, cpu: int) -> bool:
        """
        The model found an object in the cpu slab, the kernel did not. Whether that has been put right.

        The request is then as if it had not been made.
        """
        forcing = self.forcing
        if forcing.was_fast():
            forcing.uncount(cache, cpu)
            forcing.use_up(cache, cpu)
            self.out.repairs["cpu slab was used up"] += 1
            return True
        if forcing.was_refill():
            freer = self.script.futures.freed_by(forcing.first_freed(cache, cpu), self.row)
            if freer >= 0 and freer != cpu:
                forcing.uncount(cache, cpu)
                forcing.free_after_bypass(cache, cpu, freer)
                self.out.repairs["cpu slab was full before others freed"] += 1
                return True
        return False

    def hold(self, i: int) -> None:
        """What allocation i does before it asks for a page, at the place where it asks."""
        script, forcing = self.script, self.forcing
        rq = script.requests
        cpu, node = rq["cpu"][i], rq["node"][i]
        cache = self.caches.of(i)
        begin = script.array_begin[i]
        if begin >= 0:
            for j in script.array[begin]:
                if j < i and j not in self.done:
                    self.alloc(j)
                    self.done.add(j)
        self.out.new_slabs[cache] += 1
        right = True
        while not forcing.hold(cache, node, cpu):
            right = False
            if forcing.was_from_node():
                forcing.undo_node_partial(cache, cpu)
                break
            if not self.had_nothing_left(cache, cpu):
                forcing.uncount(cache, cpu)
                forcing.use_up(cache, cpu)
        self.out.new_slabs_right[cache] += right
        if not right:
            self.out.repairs["new slab although the model had objects"] += 1
        self.held.add(i)

    def bypass(self, i: int) -> None:
        if i not in self.done and self.forcing.bypass(self.caches.of(i), self.script.requests["cpu"][i]):
            self.out.order["slow path begun before an interrupt"] += 1

    def bulk_early(self, i: int) -> None:
        """
        What the kernel had done of the bulk allocation of request i before the interrupt at this row.

        The CPU takes interrupts where its freelist is exhausted or the array is full (EXACT C4); the recorded objects
        tell how far it was.
        """
        script, done = self.script, self.done
        rq = script.requests
        cpu, begin, cache = rq["cpu"][i], script.array_begin[i], self.caches.of(i)
        left = [j for j in script.array[begin] if j not in done]
        while left:
            objects = self.next_objects(cache, cpu)
            wanted = left[: len(objects)]
            if not objects or [rq["addr"][j] for j in wanted] != objects[: len(wanted)] or any(
                    j in script.page for j in wanted):
                break
            for j in wanted:
                self.alloc(j)
                done.add(j)
            self.out.order["bulk allocation begun before an interrupt"] += 1
            left = left[len(wanted) :]
        if left and left[0] != begin:
            self.bypass(left[0])

    def next_objects(self, cache: int, cpu: int) -> list[int]:
        """What a CPU would hand out from the slabs that there are until it has to look for more."""
        slub = self.slub
        s = slub.caches[cache]
        slab, idx = s.c_slab[cpu], s.c_freelist[cpu]
        if slab >= 0 and idx < 0:
            idx = slub.sl_free[slab]
        if slab < 0 or idx < 0:
            slab = s.c_partial[cpu]
            if slab < 0:
                slab = s.n_first[self.pages.cpu_node[cpu]]
            if slab < 0:
                return []
            idx = slub.sl_free[slab]
        return [(slub.sl_pfn[slab] << 12) + n * s.size for n in chain(slub, slab, idx)]

    # -- frees ------------------------------------------------------------------------------------

    def free(self, i: int) -> None:
        rq = self.script.requests
        addr = rq["addr"][i]
        slab = self.forcing.slab_at(addr)
        if slab < 0:
            self.out.other_frees += 1
            return
        self.see_live(addr)
        self.slub.slab_free(slab, addr, rq["cpu"][i])
        if self.pages.freed:
            self.note_freed(self.slub.last_cache)

    def see_live(self, addr: int) -> None:
        """The kernel frees this object, so it was handed out."""
        if not self.slub.is_live(addr):
            self.forcing.take_out(addr)
            self.out.repairs["free of an object that the model holds free"] += 1

    def bulk_free(self, i: int) -> None:
        """One object of a bulk free; the objects of one slab are freed together, at the row of the last."""
        script, forcing = self.script, self.forcing
        rq = script.requests
        addr, cpu = rq["addr"][i], rq["cpu"][i]
        slab = forcing.slab_at(addr)
        if slab < 0:
            self.out.other_frees += 1
            return
        self.see_live(addr)
        group = self.group[cpu, slab]
        group.append(addr)
        after = script.next_in_array[i]
        if after < 0 or forcing.slab_at(after) != slab:
            self.end_group(cpu, slab)

    def end_group(self, cpu: int, slab: int) -> None:
        """Free the objects of one slab that a bulk free on a CPU has named so far."""
        group = self.group.pop((cpu, slab))
        self.slub.bulk_free(group, len(group), cpu)
        if self.pages.freed:
            self.note_freed(self.slub.last_cache)

    def end_group_of(self, addr: int) -> bool:
        """An object is handed out that a bulk free has named: that free was over. Whether there is one."""
        for (cpu, slab), group in self.group.items():
            if addr in group:
                self.end_group(cpu, slab)
                self.out.order["bulk free over before its last row"] += 1
                return True
        return False

    # -- pages ------------------------------------------------------------------------------------

    def note_freed(self, cache: int) -> None:
        """The model has given slabs back: did the kernel, in the same operation?"""
        futures = self.script.futures
        s = self.slub.caches[cache]
        freed, self.pages.freed = self.pages.freed, []
        kept = []
        for back, pfn in enumerate(reversed(freed)):
            row = futures.next_free(pfn, self.row)
            known = row < futures.next_object(pfn, s.order, self.row)
            # Slabs of TYPESAFE_BY_RCU caches leave after a grace period, others in the operation itself.
            if known and (s.flags & SLAB_TYPESAFE_BY_RCU or futures.follows(self.row, row)):
                self.early.add(pfn)
            else:
                kept.append((pfn, self.forcing.freed_slab(cache, back)))
        for pfn, objects in reversed(kept):
            self.out.repairs["slab that the kernel kept"] += 1
            self.forcing.revive(cache, pfn, s.order, objects)

    def page_free(self, i: int) -> None:
        """An mm_page_free: of a slab that the model has just given back, or still has, or of something else."""
        pfn = int(self.script.pfn[i])
        if pfn in self.early:
            self.early.remove(pfn)
            self.out.freed += 1
            self.out.freed_right += 1
            return
        slab = self.forcing.slab_at(pfn << 12)
        if slab >= 0 and self.slub.sl_pfn[slab] == pfn:
            self.out.freed += 1
            self.out.repairs["slab that the model kept"] += 1
            self.forcing.drop_slab(slab)

    def page_alloc(self, i: int) -> None:
        """An mm_page_alloc: no slab of the model can be there any more."""
        pfn = int(self.script.pfn[i])
        if pfn <= 0:
            return
        self.early.discard(pfn)
        for p in range(pfn, pfn + (1 << int(self.script.order[i]))):
            slab = self.forcing.slab_at(p << 12)
            if slab >= 0:
                self.out.repairs["slab on a page that the kernel allocated"] += 1
                self.forcing.drop_slab(slab)

    def dump(self, text: int) -> None:
        dump = self.dumps.get(text)
        if dump is not None:
            self.out.dumps.append(compare_dump(self.slub, dump, self.start))
