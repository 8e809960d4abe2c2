"""
A recorded SLAB kernel, request by request: does the model hand out the same object, from the same place?

The model starts from an exact dump and gets the recorded pages. Every choice is made by SLAB's own code; after a wrong
one the recorded object is put in its place and counted, so that each choice is judged from nearly the kernel's own
state (EXACT D 1.4, 4.4). When the reaper ran, a trace tells only of runs that freed a slab (``reaper_runs``); others
are on the grid, and where the record shows an array empty that is not so here, its objects go to their slabs.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, cast

import numpy as np

from memtrace.machines import machine_from_exact
from memtrace.mm.boot import build
from memtrace.mm.machine import Machine
from memtrace.mm.restore import restore_exact
from memtrace.mm.slab import Slab
from memtrace.start import map_caches
from memtrace.trace.reading import chunks_from

from .forced_slub import BULK_OBJECTS, FREED_SLABS, OBJECTS
from .reaper_runs import RunTimes, recorded_runs
from .recorded_pages import RecordedPages
from .slab_forcing import SlabForcing
from .slab_lists import compare_lists
from .slub_script import (
    DO_ALLOC,
    DO_BULK_ALLOC,
    DO_BULK_FREE,
    DO_DUMP,
    DO_FREE,
    DO_PAGE_ALLOC,
    DO_PAGE_FREE,
    NEVER,
    RequestedCaches,
    write_script,
)
from .table import FORCED, Table

if TYPE_CHECKING:
    from memtrace.snapshot.exact_dump import ExactDump

    from .recording import Recording
    from .slub_script import Script

COLUMNS = ("ts_ns", "cpu", "task", "event", "call_site", "ptr", "name", "bytes_req", "bytes_alloc", "gfp_flags", "node",
           "order", "pfn", "ctx", "text")
WHOLE = "whole trace"
NEW_SLABS = "new slabs taken by the same allocation"


def force_slab(recording: Recording, table: Table) -> None:
    """
    Force SLAB's objects from the start dump to the end of the trace, and compare at every later dump.

    Needs exact dumps; without one it adds a note to the table instead of rows.
    """
    if recording.start is None or recording.start.dump is None:
        table.notes.append("Objects were not forced: that needs an exact dump to start from.")
        return
    dump = recording.start.dump
    with recording.open(COLUMNS) as reader:
        script = write_script(reader, recording.first_row)
        times, cpus = [], []
        for chunk in chunks_from(reader, recording.first_row):
            times.append(chunk.ts_ns)
            cpus.append(chunk.cpu)
        texts = reader.vocab.text.names
    machine = forcible_machine(recording, dump)
    cache_map = map_caches(machine, script.census)
    machine.reset_statistics()
    later = {snapshot.dump.marker: snapshot.dump for snapshot in recording.later if snapshot.dump is not None}
    dumps = {code: later[text.strip()] for code, text in enumerate(texts) if text.strip() in later}
    _Forced(machine, script, cache_map, dumps, np.concatenate(times), np.concatenate(cpus), table).run()


def forcible_machine(recording: Recording, dump: ExactDump) -> Machine:
    """The dump's machine, with a SLAB that can be put right on pages that the record gives."""
    config = machine_from_exact(dump)
    machine = build(config, recording.kernel, 0, "slab")
    slab = SlabForcing(cast(Slab, machine.slab), recording.kernel.slab, config.possible_cpus)
    machine.slab = slab
    restore_exact(machine, dump)
    slab.pages = RecordedPages(machine.pages)
    return machine


class _Forced:
    """One forced replay."""

    def __init__(self, machine: Machine, script: Script, cache_map: np.ndarray, dumps: dict[int, ExactDump],
                 ts_ns: np.ndarray, row_cpu: np.ndarray, table: Table) -> None:
        self.script = script
        self.slab = cast(SlabForcing, machine.slab)
        self.caches = RequestedCaches(script, cache_map, self.slab.kmalloc_index)
        self.dumps = dumps
        self.ts_ns = ts_ns.tolist()
        self.row_cpu = row_cpu.tolist()
        self.table = table
        self.compared: Counter[str] = Counter()
        self.right: Counter[str] = Counter()
        self.wrong_by_cache: Counter[str] = Counter()
        self.early: set[int] = set()
        """Slabs that the model has given back and whose recorded mm_page_free is still to come."""
        self.row = 0
        slabs = [int(pfn) for pfn in self.slab.sl_pfn[: self.slab.nr_rows] if pfn >= 0]
        runs = recorded_runs(script, slabs, self.ts_ns, self.row_cpu, machine.nr_cpus)
        self.reaper = RunTimes(runs, self.ts_ns[0] if self.ts_ns else 0, int(self.slab.hz))

    def run(self) -> None:
        script = self.script
        do = {DO_ALLOC: self.alloc, DO_BULK_ALLOC: self.alloc, DO_FREE: self.free, DO_BULK_FREE: self.free,
              DO_PAGE_ALLOC: self.page_alloc, DO_PAGE_FREE: self.page_free, DO_DUMP: self.dump}
        for action, argument, row in zip(script.action, script.argument, script.row, strict=True):
            if action not in do:
                continue  # what of an allocation came early: SLAB decides at its row
            self.row = row
            self.reap(self.row_cpu[row - script.row0], self.ts_ns[row - script.row0])
            do[action](argument)
        for what in (OBJECTS, BULK_OBJECTS, NEW_SLABS, FREED_SLABS):
            self.table.decisions(what, FORCED, WHOLE, self.compared[what], self.right[what])
        for name, n in self.wrong_by_cache.items():
            self.table.differ(OBJECTS, FORCED, WHOLE, name, "", "", n)

    def reap(self, cpu: int, t_ns: int) -> None:
        """Do the CPU's run of the reaper if it is due."""
        if self.reaper.is_due(cpu, t_ns):
            self.slab.deferred_work(cpu, t_ns)
            self.judge_doomed()

    def cache(self, i: int, addr: int) -> int:
        """The machine's cache of allocation i: that of its slab, or as the trace names it."""
        slab = self.slab.row_at(addr)
        if slab >= 0:
            return self.slab.sl_cache[slab]
        return self.caches.of(i)

    # -- allocations ------------------------------------------------------------------------------

    def alloc(self, i: int) -> None:
        """One object: what the model does, and what becomes of it when the kernel did something else."""
        rq = self.script.requests
        want, cpu, node = rq["addr"][i], rq["cpu"][i], rq["node"][i]
        if want < 0:
            return
        cache = self.cache(i, want)
        what = BULK_OBJECTS if self.script.array_begin[i] >= 0 else OBJECTS
        page = self.script.page.get(i)
        if page is not None and self.slab.row_at(page[0] << 12) >= 0:
            page = None
        self.compared[what] += 1
        if page is not None:
            self.compared[NEW_SLABS] += 1
        right = self.from_array(cache, cpu, node, want, page)
        if right is None:
            right = self.refilled(cache, cpu, node, want, page)
        self.right[what] += right
        if not right:
            self.wrong_by_cache[str(self.slab.caches[cache].name)] += 1
        self.judge_doomed()

    def from_array(self, cache: int, cpu: int, node: int, want: int, page: tuple[int, int] | None) -> bool | None:
        """The CPU's array has objects here; None when the kernel's had none (which is put right)."""
        slab = self.slab
        top = slab.top(cache, cpu)
        if not top:
            return None
        if top == want:
            slab.slab_alloc(slab.caches[cache], 0, node, cpu)
            return True
        if page is None and want not in self.refills(cache, cpu) and slab.depth_on_slab(want) <= 0:
            self.take(want)
            return False
        slab.empty_array(cache, cpu)
        self.table.repair("array had been emptied by the reaper")
        self.refilled(cache, cpu, node, want, page)
        return False

    def refills(self, cache: int, cpu: int) -> set[int]:
        """Objects that a refill could hand out: from the shared array, or a batch of either size from slabs."""
        slab = self.slab
        return {slab.shared_top(cache, cpu),
                *(slab.last_of_batch(cache, cpu, slab.batch_of(cache, touched)) for touched in (True, False))} - {0}

    def refilled(self, cache: int, cpu: int, node: int, want: int, page: tuple[int, int] | None) -> bool:
        """The CPU's array is empty: refill it as the kernel did; whether the model would have done so."""
        slab = self.slab
        s = slab.caches[cache]
        if page is not None:
            return self.grown(cache, cpu, node, want, page)
        shared = slab.shared_top(cache, cpu)
        ruled = bool(s.cpu_cache[cpu].touched)
        predicted = shared or slab.last_of_batch(cache, cpu, slab.batch_of(cache, ruled))
        if predicted == want:
            slab.slab_alloc(s, 0, node, cpu)
            return True
        other = 0 if shared else slab.last_of_batch(cache, cpu, slab.batch_of(cache, not ruled))
        if other == want:
            slab.set_touched(cache, cpu, not ruled)
            slab.slab_alloc(s, 0, node, cpu)
            self.table.repair("size of a batch: the reaper had, or had not, seen the array idle")
            return False
        depth = slab.depth_in_shared(cache, cpu, want)
        if depth > 0:
            slab.refill_from_depth(cache, cpu, depth)
            self.table.repair("refill before another CPU's flush (EXACT D 3.3)")
            return False
        if slab.depth_on_slab(want) > 0 or want in self.refills(cache, cpu):
            # A refill from slabs: nothing but one takes objects that are not on top of their slab.
            if shared:
                slab.empty_shared(cache, cpu)
                self.table.repair("shared array had been emptied by the reaper")
            if slab.depth_on_slab(want) >= 0:
                slab.refill_up_to(cache, cpu, want)
                self.table.repair("refill from other slabs")
                return False
        self.take(want)
        return False

    def grown(self, cache: int, cpu: int, node: int, want: int, page: tuple[int, int]) -> bool:
        """The kernel took a new slab."""
        slab = self.slab
        right = not slab.shared_top(cache, cpu) and not slab.last_of_batch(cache, cpu, 1)
        if right:
            slab.page = page[0]
            got = slab.slab_alloc(slab.caches[cache], 0, node, cpu)
        else:
            got = slab.grow_for(cache, page[0], cpu)
            self.table.repair("new slab although the model had objects")
        self.right[NEW_SLABS] += right
        if got != want:
            slab.put_back(cache, got, cpu)
            self.take(want)
        return right and got == want

    def take(self, want: int) -> None:
        """The kernel handed this object out, wherever it is here."""
        if self.slab.take_out(want):
            self.table.repair("another free object")
        else:
            self.table.repair("object that the model holds handed out, or does not have")

    # -- frees ------------------------------------------------------------------------------------

    def free(self, i: int) -> None:
        rq = self.script.requests
        addr = rq["addr"][i]
        slab = self.slab.row_at(addr)
        if slab < 0:
            return  # a large kmalloc, or the memory of a page that the record never showed to be a slab
        if not self.slab.is_live(addr) and self.slab.take_out(addr):
            self.table.repair("free of an object that the model holds free")
        self.slab.slab_free(slab, addr, rq["cpu"][i])
        self.judge_doomed()

    # -- slabs given back -------------------------------------------------------------------------

    def judge_doomed(self) -> None:
        """The model has given slabs up: the kernel did, unless one of their objects is used before the pages go."""
        if not self.slab.doomed:
            return
        doomed, self.slab.doomed = self.slab.doomed, []
        futures = self.script.futures
        for slab in doomed:
            pfn = self.slab.sl_pfn[slab]
            order = self.slab.caches[self.slab.sl_cache[slab]].order
            freed = futures.next_free(pfn, self.row)
            if freed < NEVER and freed < futures.next_object(pfn, order, self.row):
                self.early.add(pfn)
                self.slab.bury(slab)
            else:
                self.slab.revive(slab)
                self.table.repair("slab that the kernel kept")

    def page_free(self, i: int) -> None:
        """An mm_page_free: of a slab that the model has just given up, or still has, or of something else."""
        pfn = int(self.script.pfn[i])
        slab = self.slab.row_at(pfn << 12)
        if pfn in self.early:
            self.early.remove(pfn)
            self.compared[FREED_SLABS] += 1
            self.right[FREED_SLABS] += 1
        elif slab >= 0 and self.slab.sl_pfn[slab] == pfn:
            self.compared[FREED_SLABS] += 1
            self.slab.drop_slab(slab)
            self.table.repair("slab that the model kept")

    def page_alloc(self, i: int) -> None:
        """An mm_page_alloc: no slab of the model can be there any more."""
        pfn = int(self.script.pfn[i])
        if pfn <= 0:
            return
        self.early.discard(pfn)
        for p in range(pfn, pfn + (1 << int(self.script.order[i]))):
            slab = self.slab.row_at(p << 12)
            if slab >= 0:
                self.slab.drop_slab(slab)
                self.table.repair("slab on a page that the kernel allocated")

    def dump(self, text: int) -> None:
        dump = self.dumps.get(text)
        if dump is not None:
            compare_lists(self.slab, dump, self.table)
