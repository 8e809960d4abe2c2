"""A SLUB put right after each wrong prediction: things move to where a recording shows them (EXACT C 4.4)."""

from __future__ import annotations

import cython

from memtrace.fidelity.recorded_pages import RecordedPages
from memtrace.fidelity.slub_stages import SlubStages
from memtrace.mm.constants import NIL, OBJ_END, OBJ_LIVE
from memtrace.mm.mmzone import Zone
from memtrace.mm.paths import PATH_ALLOC_FAST
from memtrace.mm.slub import Slub
from memtrace.mm.slub_slabs import SlubCache
from memtrace.mm.stats import (
    ALLOC_FASTPATH,
    ALLOC_REFILL,
    ALLOC_SLOWPATH,
    DEACTIVATE_BYPASS,
    FREE_FROZEN,
    NR_SLUB_STATS,
)


@cython.cclass
class SlubForcing(SlubStages):
    """What undoes and mends decisions of a `Slub`."""

    def __init__(self, slub: Slub, pages: RecordedPages) -> None:
        SlubStages.__init__(self, slub, pages)

    # -- objects --------------------------------------------------------------------------------

    @cython.ccall
    def give_back(self, cache: cython.int, addr: cython.longlong, cpu: cython.int) -> cython.void:
        """Undo the last step of an allocation: the object is the first of the CPU's freelist again."""
        s: SlubCache = self.slub.caches[cache]
        slab: cython.int = s.c_slab[cpu]
        idx: cython.int = self.index_in(s, slab, addr)
        self.slub.obj_next[self.slub.sl_seg[slab] + idx] = s.c_freelist[cpu]
        s.c_freelist[cpu] = idx
        s.live -= 1

    @cython.ccall
    def take_out(self, addr: cython.longlong) -> cython.bint:
        """Hand out a free object wherever it stands on its slab's freelists; False when it is not on one."""
        slub: Slub = self.slub
        slab: cython.int = self.slab_at(addr)
        s: SlubCache = slub.caches[slub.sl_cache[slab]]
        seg: cython.longlong = slub.sl_seg[slab]
        want: cython.int = self.index_in(s, slab, addr)
        cpu: cython.int = self.owner(s, slab)
        before: cython.int = OBJ_END
        idx: cython.int
        if cpu != NIL:
            idx = s.c_freelist[cpu]
            while idx >= 0 and idx != want:
                before = idx
                idx = slub.obj_next[seg + idx]
            if idx == want:
                if before == OBJ_END:
                    s.c_freelist[cpu] = slub.obj_next[seg + want]
                else:
                    slub.obj_next[seg + before] = slub.obj_next[seg + want]
                slub.obj_next[seg + want] = OBJ_LIVE
                s.live += 1
                return True
        before = OBJ_END
        idx = slub.sl_free[slab]
        while idx >= 0 and idx != want:
            before = idx
            idx = slub.obj_next[seg + idx]
        if idx != want:
            return False
        if before == OBJ_END:
            slub.sl_free[slab] = slub.obj_next[seg + want]
        else:
            slub.obj_next[seg + before] = slub.obj_next[seg + want]
        slub.obj_next[seg + want] = OBJ_LIVE
        slub.sl_inuse[slab] += 1
        s.live += 1
        if slub.sl_listed[slab]:
            s.partial_free[slub.sl_node[slab]] -= 1
            if slub.sl_free[slab] < 0:
                slub.remove_partial(s, slab)
        elif slub.sl_free[slab] < 0 and cpu == NIL:
            self.leave_cpu_partial(s, slab)
            slub.sl_frozen[slab] = 0
        return True

    @cython.ccall
    def is_refill_below(self, cache: cython.int, addr: cython.longlong, cpu: cython.int) -> cython.bint:
        """
        After a refill: the kernel got ``addr``, which lies deeper on the CPU's freelist.

        What lies above it was freed by others after the kernel's refill, so it goes back to the slab's own
        freelist (EXACT C 4.4). Whether it was so.
        """
        slub: Slub = self.slub
        s: SlubCache = slub.caches[cache]
        slab: cython.int = s.c_slab[cpu]
        seg: cython.longlong = slub.sl_seg[slab]
        want: cython.int = self.index_in(s, slab, addr)
        idx: cython.int = s.c_freelist[cpu]
        last: cython.int = OBJ_END
        n: cython.int = 0
        while idx >= 0 and idx != want:
            last = idx
            n += 1
            idx = slub.obj_next[seg + idx]
        if idx != want or last == OBJ_END or slub.sl_free[slab] >= 0:
            return False
        slub.obj_next[seg + last] = OBJ_END
        slub.sl_free[slab] = s.c_freelist[cpu]
        slub.sl_inuse[slab] -= n
        s.c_freelist[cpu] = slub.obj_next[seg + want]
        slub.obj_next[seg + want] = OBJ_LIVE
        s.live += 1
        return True

    @cython.ccall
    def use_up(self, cache: cython.int, cpu: cython.int) -> cython.int:
        """
        The kernel had nothing left in this CPU's slab: what the model still has there counts as handed out.

        Returns
        -------
        Objects.
        """
        slub: Slub = self.slub
        s: SlubCache = slub.caches[cache]
        slab: cython.int = s.c_slab[cpu]
        n: cython.int = 0
        if slab == NIL:
            return 0
        seg: cython.longlong = slub.sl_seg[slab]
        while s.c_freelist[cpu] >= 0:
            idx: cython.int = s.c_freelist[cpu]
            s.c_freelist[cpu] = slub.obj_next[seg + idx]
            slub.obj_next[seg + idx] = OBJ_LIVE
            n += 1
        while slub.sl_free[slab] >= 0:
            idx = slub.sl_free[slab]
            slub.sl_free[slab] = slub.obj_next[seg + idx]
            slub.obj_next[seg + idx] = OBJ_LIVE
            slub.sl_inuse[slab] += 1
            n += 1
        s.c_freelist[cpu] = OBJ_END
        slub.sl_free[slab] = OBJ_END
        s.live += n
        return n

    # -- slabs -----------------------------------------------------------------------------------

    @cython.cfunc
    def leave_cpu_partial(self, s: SlubCache, slab: cython.int) -> cython.int:
        """Take a slab out of whatever CPU's partial list it is on: the CPU, or -1."""
        cpu: cython.int
        at: cython.int
        before: cython.int
        for cpu in range(self.slub.nr_cpus):
            before = NIL
            at = s.c_partial[cpu]
            while at != NIL and at != slab:
                before = at
                at = self.slub.sl_next[at]
            if at == NIL:
                continue
            if before == NIL:
                s.c_partial[cpu] = self.slub.sl_next[slab]
            else:
                self.slub.sl_next[before] = self.slub.sl_next[slab]
                self.renumber(s, cpu)
            return cpu
        return NIL

    @cython.cfunc
    @cython.exceptval(check=False)
    def renumber(self, s: SlubCache, cpu: cython.int) -> cython.void:
        """Each slab of a CPU's partial list knows how many there are from it on."""
        n: cython.int = 0
        at: cython.int = s.c_partial[cpu]
        while at != NIL:
            n += 1
            at = self.slub.sl_next[at]
        at = s.c_partial[cpu]
        while at != NIL:
            self.slub.sl_slabs[at] = n
            n -= 1
            at = self.slub.sl_next[at]

    @cython.ccall
    def undo_node_partial(self, cache: cython.int, cpu: cython.int) -> cython.void:
        """Put the slabs that a request has just taken from the node's list back to its front."""
        slub: Slub = self.slub
        s: SlubCache = slub.caches[cache]
        slab: cython.int
        while s.c_partial[cpu] != NIL:
            slab = s.c_partial[cpu]
            s.c_partial[cpu] = slub.sl_next[slab]
            slub.sl_frozen[slab] = 0
            slub.add_partial(s, slab, False)
        slab = s.c_slab[cpu]
        self.close(s, slab, cpu)
        slub.sl_frozen[slab] = 0
        slub.add_partial(s, slab, False)

    @cython.cfunc
    @cython.exceptval(check=False)
    def close(self, s: SlubCache, slab: cython.int, cpu: cython.int) -> cython.void:
        """Take the cpu slab away from its CPU: the CPU's freelist goes before the slab's own."""
        slub: Slub = self.slub
        seg: cython.longlong = slub.sl_seg[slab]
        idx: cython.int = s.c_freelist[cpu]
        last: cython.int = OBJ_END
        while idx >= 0:
            last = idx
            slub.sl_inuse[slab] -= 1
            idx = slub.obj_next[seg + idx]
        if last >= 0:
            slub.obj_next[seg + last] = slub.sl_free[slab]
            slub.sl_free[slab] = s.c_freelist[cpu]
        s.c_slab[cpu] = NIL
        s.c_freelist[cpu] = OBJ_END

    @cython.ccall
    def first_freed(self, cache: cython.int, cpu: cython.int) -> cython.longlong:
        """Of the objects on a CPU's freelist, the one that was freed first: the last; 0 when there is none."""
        s: SlubCache = self.slub.caches[cache]
        idx: cython.int = s.c_freelist[cpu]
        if idx < 0:
            return 0
        seg: cython.longlong = self.slub.sl_seg[s.c_slab[cpu]]
        while self.slub.obj_next[seg + idx] >= 0:
            idx = self.slub.obj_next[seg + idx]
        return self.address(s, s.c_slab[cpu], idx)

    @cython.ccall
    def free_after_bypass(self, cache: cython.int, cpu: cython.int, freer: cython.int) -> cython.void:
        """
        After a refill: the kernel had found its slab full and forgotten it; only then others freed objects of it.

        The first of them, ``freer``, put the slab on its own partial list.
        """
        slub: Slub = self.slub
        s: SlubCache = slub.caches[cache]
        slab: cython.int = s.c_slab[cpu]
        self.close(s, slab, cpu)
        s.stat[cpu * NR_SLUB_STATS + ALLOC_REFILL] -= 1
        s.stat[cpu * NR_SLUB_STATS + DEACTIVATE_BYPASS] += 1
        s.stat[freer * NR_SLUB_STATS + FREE_FROZEN] -= 1
        slub.put_cpu_partial(s, slab, freer)

    @cython.ccall
    def exchange(self, cache: cython.int, addr: cython.longlong, cpu: cython.int) -> cython.bint:
        """
        The kernel took another slab than the model: they change places.

        The slab of ``addr`` becomes the CPU's and the CPU's goes where that one was. False when it is not on a
        list of this kind.
        """
        slub: Slub = self.slub
        s: SlubCache = slub.caches[cache]
        slab: cython.int = self.slab_at(addr)
        mine: cython.int = s.c_slab[cpu]
        node: cython.int = slub.sl_node[slab]
        before: cython.int = NIL
        listed: cython.bint = slub.sl_listed[slab] != 0
        other: cython.int = NIL
        if self.owner(s, slab) != NIL:
            return False
        if mine != NIL:
            self.close(s, mine, cpu)
        if listed:
            before = slub.sl_prev[slab]
            slub.remove_partial(s, slab)
        else:
            other = self.leave_cpu_partial(s, slab)
        if mine != NIL and slub.sl_free[mine] >= 0:
            if listed:
                slub.sl_frozen[mine] = 0
                slub.add_partial(s, mine, False)
                if before != NIL and slub.sl_node[mine] == node:
                    self.move_behind(s, mine, before)
            else:
                slub.sl_frozen[mine] = 1
                slub.push_cpu_partial(s, mine, cpu if other == NIL else other)
        elif mine != NIL:
            slub.sl_frozen[mine] = 0
        slub.use_slab(s, slab, cpu)
        return True

    @cython.cfunc
    @cython.exceptval(check=False)
    def move_behind(self, s: SlubCache, slab: cython.int, before: cython.int) -> cython.void:
        """Move the first slab of a node's list behind another one of it."""
        slub: Slub = self.slub
        node: cython.int = slub.sl_node[slab]
        s.n_first[node] = slub.sl_next[slab]
        slub.list_del(slab)
        slub.list_add(slab, before, slub.sl_next[before])
        if slub.sl_next[slab] == NIL:
            s.n_last[node] = slab

    @cython.ccall
    def drop_slab(self, slab: cython.int) -> cython.int:
        """The kernel freed this slab and the model did not: it goes, uncounted; its objects that were handed out."""
        slub: Slub = self.slub
        s: SlubCache = slub.caches[slub.sl_cache[slab]]
        cpu: cython.int = self.owner(s, slab)
        idx: cython.int
        live: cython.int = 0
        if cpu != NIL:
            self.close(s, slab, cpu)
        if slub.sl_listed[slab]:
            slub.remove_partial(s, slab)
        else:
            self.leave_cpu_partial(s, slab)
        for idx in range(slub.sl_objects[slab]):
            if slub.obj_next[slub.sl_seg[slab] + idx] == OBJ_LIVE:
                live += 1
        s.live -= live
        slub.discard_slab(s, slab, 0)
        self.pages.freed.pop()
        return live

    def freed_slab(self, cache: int, back: int) -> list[int]:
        """Freelist of a slab that the last operation gave back; ``back`` others of the cache went after it."""
        slub = self.slub
        slab = slub.caches[cache].spare
        for _ in range(back):
            slab = slub.sl_next[slab]
        chain = []
        idx = slub.sl_free[slab]
        while idx >= 0:
            chain.append(idx)
            idx = slub.obj_next[slub.sl_seg[slab] + idx]
        return chain

    @cython.ccall
    def revive(self, cache: cython.int, pfn: cython.int, order: cython.int, chain: list) -> cython.void:
        """The kernel kept the slab that the model has just freed: back to the tail of its node's list."""
        slub: Slub = self.slub
        s: SlubCache = slub.caches[cache]
        zone: Zone = self.pages.zones[self.pages.zone_of(pfn)]
        slab: cython.int = slub.build_slab(s, pfn, order, zone.node)
        before: cython.int = OBJ_END
        idx: cython.int
        for idx in reversed(chain):
            slub.obj_next[slub.sl_seg[slab] + idx] = before
            before = idx
            slub.sl_inuse[slab] -= 1
        slub.sl_free[slab] = before
        slub.add_partial(s, slab, True)

    # -- counters ---------------------------------------------------------------------------------

    @cython.ccall
    def uncount(self, cache: cython.int, cpu: cython.int) -> cython.void:
        """The request is decided again, so it has not been counted yet."""
        s: SlubCache = self.slub.caches[cache]
        which: cython.int = ALLOC_FASTPATH if self.slub.it.path == PATH_ALLOC_FAST else ALLOC_SLOWPATH
        s.stat[cpu * NR_SLUB_STATS + which] -= 1
