"""
SLUB's partial slabs: the nodes' lists, each CPU's list, and how a CPU gives back what it holds (MODEL 6.6-6.8).
"""

from __future__ import annotations

import cython

from memtrace.mm.constants import NIL, OBJ_END
from memtrace.mm.mmzone import Zone
from memtrace.mm.paths import (
    COST_SLUB_CPU_PARTIAL,
    COST_SLUB_NODE,
    PATH_FREE_CPU_PARTIAL,
    PATH_FREE_CPU_PARTIAL_DRAIN,
    PATH_FREE_DISCARD,
    PATH_FREE_NODE_PARTIAL,
)
from memtrace.mm.slub_slabs import SlubCache, SlubSlabs
from memtrace.mm.stats import (
    ALLOC_FROM_PARTIAL,
    CPU_PARTIAL_DRAIN,
    CPU_PARTIAL_FREE,
    CPU_PARTIAL_NODE,
    CPUSLAB_FLUSH,
    DEACTIVATE_EMPTY,
    DEACTIVATE_FULL,
    DEACTIVATE_REMOTE_FREES,
    DEACTIVATE_TO_HEAD,
    DEACTIVATE_TO_TAIL,
    FREE_ADD_PARTIAL,
    FREE_SLAB,
)


@cython.cclass
class SlubPartials(SlubSlabs):
    """Partial slabs on their way between nodes and CPUs."""

    # -- from a node to a CPU ---------------------------------------------------------------------

    @cython.cfunc
    def get_partial(self, s: SlubCache, node: cython.int, cpu: cython.int) -> cython.int:
        """Kernel: get_partial(): a slab from the wanted node's list, else by chance from another's (6.6 F, G)."""
        here: cython.int = node if node >= 0 else self.pages.cpu_node[cpu]
        slab: cython.int = self.get_partial_node(s, here, cpu)
        if slab != NIL or node >= 0:
            return slab
        return self.get_any_partial(s, here, cpu)

    @cython.cfunc
    def get_any_partial(self, s: SlubCache, here: cython.int, cpu: cython.int) -> cython.int:
        """Kernel: get_any_partial(): by chance, a slab of another node that has more than it must keep."""
        zone: Zone
        slab: cython.int
        if self.nr_nodes == 1:
            return NIL
        if self.defrag_ratio == 0 or self.roll() % 1024 > self.defrag_ratio:
            return NIL
        for zone in self.pages.zonelists[here]:
            if s.nr_partial[zone.node] > s.min_partial:
                slab = self.get_partial_node(s, zone.node, cpu)
                if slab != NIL:
                    return slab
        return NIL

    @cython.cfunc
    def get_partial_node(self, s: SlubCache, node: cython.int, cpu: cython.int) -> cython.int:
        """Kernel: get_partial_node(): the first slab, and some more for the CPU's partial list; or NIL."""
        first: cython.int = s.n_first[node]
        extra: cython.int = 0
        if first == NIL:
            return NIL
        self.remove_partial(s, first)
        self.sl_cpu[first] = cpu
        self.count(s, cpu, ALLOC_FROM_PARTIAL)
        while s.n_first[node] != NIL and self.partial_lists and (self.partials_frozen or s.cpu_partial_slabs > 0):
            slab: cython.int = s.n_first[node]
            self.remove_partial(s, slab)
            self.sl_frozen[slab] = 1
            self.sl_cpu[slab] = cpu
            self.push_cpu_partial(s, slab, cpu)
            self.count(s, cpu, CPU_PARTIAL_NODE)
            extra += 1
            if extra > s.cpu_partial_slabs // 2:
                break
        self.it.locked(self.list_lock(s, node), COST_SLUB_NODE, 1 + extra)
        return first

    # -- onto the lists ---------------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(check=False)
    def push_cpu_partial(self, s: SlubCache, slab: cython.int, cpu: cython.int) -> cython.void:
        """Put a frozen slab in front of the CPU's partial list; the head knows the list's length."""
        old: cython.int = s.c_partial[cpu]
        self.sl_slabs[slab] = 1 + (self.sl_slabs[old] if old != NIL else 0)
        self.sl_next[slab] = old
        s.c_partial[cpu] = slab

    @cython.cfunc
    @cython.exceptval(check=False)
    def put_node_partial(self, s: SlubCache, slab: cython.int, cpu: cython.int) -> cython.void:
        """Without CPU partial lists, a slab that was full goes to the node's list, or back when it is empty now."""
        node: cython.int = self.sl_node[slab]
        self.it.path = PATH_FREE_NODE_PARTIAL
        self.it.locked(self.list_lock(s, node), COST_SLUB_NODE, 1)
        if self.sl_inuse[slab] == 0 and (self.discard_remote or s.nr_partial[node] >= s.min_partial):
            self.count(s, cpu, FREE_SLAB)
            self.discard_slab(s, slab, cpu)
            self.it.path = PATH_FREE_DISCARD
            return
        self.add_partial(s, slab, True)
        self.count(s, cpu, FREE_ADD_PARTIAL)

    @cython.cfunc
    @cython.exceptval(check=False)
    def put_cpu_partial(self, s: SlubCache, slab: cython.int, cpu: cython.int) -> cython.void:
        """Kernel: put_cpu_partial() with drain: a list that is long enough goes to the node first."""
        old: cython.int = s.c_partial[cpu]
        self.it.path = PATH_FREE_CPU_PARTIAL
        self.it.step(COST_SLUB_CPU_PARTIAL, 1)
        if old != NIL and self.sl_slabs[old] >= s.cpu_partial_slabs:
            s.c_partial[cpu] = NIL
            self.push_cpu_partial(s, slab, cpu)
            self.unfreeze_partials(s, old, cpu)
            self.count(s, cpu, CPU_PARTIAL_DRAIN)
            self.it.path = PATH_FREE_CPU_PARTIAL_DRAIN
        else:
            self.push_cpu_partial(s, slab, cpu)
        self.count(s, cpu, CPU_PARTIAL_FREE)

    @cython.cfunc
    @cython.exceptval(check=False)
    def unfreeze_partials(self, s: SlubCache, slab: cython.int, cpu: cython.int) -> cython.void:
        """Kernel: __unfreeze_partials(): a CPU's list to the node lists; surplus empty slabs are discarded."""
        discard: cython.int = NIL
        node: cython.int = NIL
        moved: cython.int = 0
        while slab != NIL:
            after: cython.int = self.sl_next[slab]
            if self.sl_node[slab] != node:
                if moved:
                    self.it.locked(self.list_lock(s, node), COST_SLUB_NODE, moved)
                node = self.sl_node[slab]
                moved = 0
            moved += 1
            self.sl_frozen[slab] = 0
            if self.sl_inuse[slab] == 0 and s.nr_partial[node] >= s.min_partial:
                self.sl_next[slab] = discard
                discard = slab
            else:
                self.add_partial(s, slab, True)
                self.count(s, cpu, FREE_ADD_PARTIAL)
            slab = after
        if moved:
            self.it.locked(self.list_lock(s, node), COST_SLUB_NODE, moved)
        while discard != NIL:
            after = self.sl_next[discard]
            self.count(s, cpu, DEACTIVATE_EMPTY)
            self.count(s, cpu, FREE_SLAB)
            self.discard_slab(s, discard, cpu)
            discard = after

    # -- what a CPU holds -------------------------------------------------------------------------

    @cython.cfunc
    @cython.exceptval(check=False)
    def flush_cpu_slab(self, s: SlubCache, owner: cython.int, cpu: cython.int) -> cython.void:
        """
        Take the cpu slab of CPU ``owner`` away; counted on ``cpu``.

        Kernel: deactivate_slab(), 6.1 (MODEL 6.8)
        """
        slab: cython.int = s.c_slab[owner]
        idx: cython.int = s.c_freelist[owner]
        seg: cython.longlong = self.sl_seg[slab]
        to_tail: cython.bint = False
        s.c_slab[owner] = NIL
        s.c_freelist[owner] = OBJ_END
        if self.sl_free[slab] >= 0:
            self.count(s, cpu, DEACTIVATE_REMOTE_FREES)
            to_tail = True
        if idx >= 0:
            # The CPU's freelist goes in front of what others freed.
            last: cython.int = idx
            n: cython.int = 1
            while self.obj_next[seg + last] >= 0:
                last = self.obj_next[seg + last]
                n += 1
            self.obj_next[seg + last] = self.sl_free[slab]
            self.sl_free[slab] = idx
            self.sl_inuse[slab] -= n
        self.sl_frozen[slab] = 0
        node: cython.int = self.sl_node[slab]
        if self.sl_inuse[slab] == 0 and s.nr_partial[node] >= s.min_partial:
            self.count(s, cpu, DEACTIVATE_EMPTY)
            self.count(s, cpu, FREE_SLAB)
            self.it.locked(self.list_lock(s, node), COST_SLUB_NODE, 0)
            self.discard_slab(s, slab, cpu)
        elif self.sl_free[slab] >= 0:
            if self.discard_remote:
                # 2.6.24: only an empty slab waits behind the others (MODEL 6.15).
                to_tail = self.sl_inuse[slab] == 0
            self.add_partial(s, slab, to_tail)
            self.count(s, cpu, DEACTIVATE_TO_TAIL if to_tail else DEACTIVATE_TO_HEAD)
            self.it.locked(self.list_lock(s, node), COST_SLUB_NODE, 1)
        else:
            self.count(s, cpu, DEACTIVATE_FULL)

    @cython.ccall
    @cython.exceptval(check=False)
    def flush_cpu(self, s: SlubCache, owner: cython.int, cpu: cython.int) -> cython.void:
        """Kernel: __flush_cpu_slab(): the slab and the partial list of CPU ``owner``, to the nodes, on ``cpu``."""
        if s.c_slab[owner] != NIL:
            self.count(s, cpu, CPUSLAB_FLUSH)
            self.flush_cpu_slab(s, owner, cpu)
        if s.c_partial[owner] != NIL:
            slab: cython.int = s.c_partial[owner]
            s.c_partial[owner] = NIL
            self.unfreeze_partials(s, slab, cpu)

    @cython.ccall
    @cython.exceptval(check=False)
    def flush_all(self, index: cython.int) -> cython.void:
        """
        Kernel: flush_all(): every CPU gives its part of one cache to the nodes, by itself (MODEL 6.12).

        Departs: at once, one CPU after the other; in the kernel by work queued on each
        """
        s: SlubCache = self.caches[index]
        owner: cython.int
        for owner in range(self.nr_cpus):
            self.flush_cpu(s, owner, owner)

    @cython.ccall
    def cpu_dead(self, cpu: cython.int, by: cython.int) -> cython.void:
        """Kernel: slub_cpu_dead(): flush the CPU's slab and partial list of every cache, newest cache first."""
        i: cython.int
        s: SlubCache
        for i in range(len(self.caches) - 1, -1, -1):
            s = cython.cast(SlubCache, self.caches[i])
            if not s.gone:
                self.flush_cpu(s, cpu, by)
