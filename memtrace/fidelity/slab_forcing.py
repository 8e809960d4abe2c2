"""A SLAB whose state can be put right: what ``forced_slab`` does to it when the record shows another choice."""

from __future__ import annotations

import cython

from memtrace.config import SlabParams
from memtrace.mm.constants import (
    NIL,
    OBJECT_CACHED,
    OBJECT_FREE,
    OBJECT_LIVE,
    PAGE_SHIFT,
    SLABS_FREE,
    SLABS_NONE,
    SLABS_PARTIAL,
)
from memtrace.mm.kmem_cache import KmemCache
from memtrace.mm.slab import Slab
from memtrace.mm.slab_slabs import ArrayCache, KmemCacheNode, SlabCache


@cython.cclass
class SlabForcing(Slab):
    """
    SLAB on recorded pages. New slabs get the page in ``page``, or none; slabs are not destroyed but ``doomed``.

    Attributes
    ----------
    page
        First pfn for the next new slab; -1 for none.
    doomed
        Rows of slabs that SLAB has given up, in that order; ``bury`` or ``revive`` each.
    """

    page: cython.int
    doomed: list

    def __init__(self, real: Slab, params: SlabParams, possible_cpus: cython.int) -> None:
        Slab.__init__(
            self, real.pages, real.nr_cpus, real.nr_nodes, real.memcg, params, real.word, possible_cpus
        )
        self.set_kmalloc(real.kmalloc_params)
        self.page = NIL
        self.doomed = []

    @cython.ccall
    def slab_pages(
        self, s: KmemCache, gfp: cython.longlong, node: cython.int, cpu: cython.int
    ) -> cython.int:
        """The recorded page instead of a new one."""
        pfn: cython.int = self.page
        self.page = NIL
        return pfn

    @cython.ccall
    def index_alloc(
        self, s: KmemCache, gfp: cython.longlong, node: cython.int, cpu: cython.int
    ) -> cython.longlong:
        """The trace has the kmalloc of an index array as a request of its own."""
        return 1

    @cython.cfunc
    @cython.exceptval(check=False)
    def slab_destroy(self, s: SlabCache, slab: cython.int, cpu: cython.int) -> cython.void:
        """Keep it aside until the record has been asked."""
        self.doomed.append(slab)

    @cython.ccall
    def bury(self, slab: cython.int) -> cython.void:
        """Destroy a doomed slab."""
        s: SlabCache = self.caches[self.sl_cache[slab]]
        self.spare_row(s, slab, s.order)

    @cython.ccall
    def revive(self, slab: cython.int) -> cython.void:
        """The kernel has kept it: back to the tail of the free list, whence it was taken."""
        s: SlabCache = self.caches[self.sl_cache[slab]]
        n: KmemCacheNode = s.nodes[self.sl_node[slab]]
        self.link(n, slab, SLABS_FREE, True)
        n.total_slabs += 1
        n.free_objects += s.objects

    # -- looking ahead ----------------------------------------------------------------------------

    @cython.ccall
    def kmalloc_index(self, size: cython.longlong, gfp: cython.longlong) -> cython.int:
        """Cache that serves a kmalloc."""
        return self.kmalloc_slab(size, gfp)

    @cython.ccall
    def row_at(self, addr: cython.longlong) -> cython.int:
        """Slab that an address lies in, or -1."""
        pfn: cython.longlong = addr >> PAGE_SHIFT
        if pfn < 0 or pfn >= self.frames.nr_frames:
            return NIL
        return self.frames.slab[pfn]

    @cython.ccall
    def top(self, cache: cython.int, cpu: cython.int) -> cython.longlong:
        """The object that a hit of this CPU would get, 0 for an empty array."""
        s: SlabCache = self.caches[cache]
        ac: ArrayCache = s.cpu_cache[cpu]
        return ac.entry[ac.avail - 1] if ac.avail else 0

    @cython.ccall
    def shared_top(self, cache: cython.int, cpu: cython.int) -> cython.longlong:
        """The object that a refill from the node's shared array would hand out, 0 when that is empty."""
        s: SlabCache = self.caches[cache]
        n: KmemCacheNode = s.nodes[self.pages.cpu_node[cpu]]
        return n.shared.entry[n.shared.avail - 1] if n.shared.avail else 0

    @cython.ccall
    def last_of_batch(self, cache: cython.int, cpu: cython.int, batch: cython.int) -> cython.longlong:
        """The object that a refill of ``batch`` from slabs would hand out, 0 when they have none."""
        s: SlabCache = self.caches[cache]
        n: KmemCacheNode = s.nodes[self.pages.cpu_node[cpu]]
        which: cython.int
        found: cython.longlong = 0
        for which in (SLABS_PARTIAL, SLABS_FREE):
            slab: cython.int = n.first[which]
            while slab != NIL and batch > 0:
                taken: cython.int = min(batch, s.objects - self.sl_active[slab])
                idx: cython.longlong = self.obj_index[self.sl_seg[slab] + self.sl_active[slab] + taken - 1]
                found = self.sl_mem[slab] + idx * s.size
                batch -= taken
                slab = self.sl_next[slab]
        return found

    @cython.ccall
    def set_touched(self, cache: cython.int, cpu: cython.int, touched: cython.bint) -> cython.void:
        """Whether the CPU's array counts as used since the reaper's last run."""
        s: SlabCache = self.caches[cache]
        ac: ArrayCache = s.cpu_cache[cpu]
        ac.touched = touched

    @cython.ccall
    def batch_of(self, cache: cython.int, touched: cython.bint) -> cython.int:
        """Objects that a refill takes."""
        s: SlabCache = self.caches[cache]
        return s.batchcount if touched else min(16, s.batchcount)

    # -- putting right ----------------------------------------------------------------------------

    @cython.ccall
    def put_back(self, cache: cython.int, addr: cython.longlong, cpu: cython.int) -> cython.void:
        """Undo the hand-out of an object: on top of the CPU's array again."""
        s: SlabCache = self.caches[cache]
        ac: ArrayCache = s.cpu_cache[cpu]
        self.obj_state[self.object_at(self.row_at(addr), addr)] = OBJECT_CACHED
        s.live -= 1
        if ac.avail == ac.limit:
            self.give_back(s, ac, self.pages.cpu_node[cpu], 1, cpu)
        ac.entry[ac.avail] = addr
        ac.avail += 1

    @cython.ccall
    def take_out(self, addr: cython.longlong) -> cython.bint:
        """Hand out an object wherever it is free; False when it is not."""
        slab: cython.int = self.row_at(addr)
        at: cython.longlong = self.object_at(slab, addr) if slab != NIL else -1
        if at < 0 or self.obj_state[at] == OBJECT_LIVE:
            return False
        s: SlabCache = self.caches[self.sl_cache[slab]]
        if self.obj_state[at] == OBJECT_CACHED:
            self.out_of_array(s, addr)
        else:
            self.out_of_slab(s, slab, at)
        self.obj_state[at] = OBJECT_LIVE
        s.live += 1
        return True

    @cython.cfunc
    def out_of_array(self, s: SlabCache, addr: cython.longlong) -> cython.void:
        ac: ArrayCache
        n: KmemCacheNode
        for ac in s.cpu_cache:
            if self.remove(ac, addr):
                return
        for n in s.nodes:
            if self.remove(n.shared, addr):
                return
            for other in n.alien:
                if other is not None and self.remove(other, addr):
                    return

    @cython.cfunc
    def remove(self, ac: ArrayCache, addr: cython.longlong) -> cython.bint:
        i: cython.int
        j: cython.int
        for i in range(ac.avail):
            if ac.entry[i] == addr:
                ac.avail -= 1
                for j in range(i, ac.avail):
                    ac.entry[j] = ac.entry[j + 1]
                return True
        return False

    @cython.cfunc
    def out_of_slab(self, s: SlabCache, slab: cython.int, at: cython.longlong) -> cython.void:
        """An object from the middle of its slab's stack; the slab goes where a refill puts it."""
        n: KmemCacheNode = s.nodes[self.sl_node[slab]]
        seg: cython.longlong = self.sl_seg[slab]
        i: cython.int = self.sl_active[slab]
        while self.obj_index[seg + i] != at - seg:
            i += 1
        while i > self.sl_active[slab]:
            self.obj_index[seg + i] = self.obj_index[seg + i - 1]
            i -= 1
        self.sl_active[slab] += 1
        s.num_active += 1
        n.free_objects -= 1
        self.fixup_slab_list(s, n, slab)

    @cython.ccall
    def empty_array(self, cache: cython.int, cpu: cython.int) -> cython.void:
        """What the reaper did in the kernel and not here: the array's objects are on their slabs."""
        s: SlabCache = self.caches[cache]
        ac: ArrayCache = s.cpu_cache[cpu]
        self.give_back(s, ac, self.pages.cpu_node[cpu], ac.avail, cpu)

    @cython.ccall
    def depth_on_slab(self, addr: cython.longlong) -> cython.int:
        """Objects of its slab that would be taken before this free one; -1 when it is not on its slab."""
        slab: cython.int = self.row_at(addr)
        at: cython.longlong = self.object_at(slab, addr) if slab != NIL else -1
        if at < 0 or self.obj_state[at] != OBJECT_FREE:
            return -1
        s: SlabCache = self.caches[self.sl_cache[slab]]
        i: cython.int
        for i in range(self.sl_active[slab], s.objects):
            if self.obj_index[self.sl_seg[slab] + i] == at - self.sl_seg[slab]:
                return i - self.sl_active[slab]
        return -1

    @cython.ccall
    def refill_up_to(self, cache: cython.int, cpu: cython.int, addr: cython.longlong) -> cython.void:
        """
        Fill an empty array from the slab of this object, still on it, up to the object itself, and hand that out.

        What the kernel took of other slabs before is not known.
        """
        s: SlabCache = self.caches[cache]
        ac: ArrayCache = s.cpu_cache[cpu]
        slab: cython.int = self.row_at(addr)
        n: KmemCacheNode = s.nodes[self.sl_node[slab]]
        self.alloc_block(s, ac, slab, min(ac.limit, self.depth_on_slab(addr) + 1), cpu)
        self.fixup_slab_list(s, n, slab)
        n.free_objects -= ac.avail
        ac.touched = True
        ac.avail -= 1
        self.hand_out(s, ac.entry[ac.avail])

    @cython.ccall
    def depth_in_shared(self, cache: cython.int, cpu: cython.int, addr: cython.longlong) -> cython.int:
        """Objects above this one in the node's shared array; -1 when it is not there."""
        s: SlabCache = self.caches[cache]
        n: KmemCacheNode = s.nodes[self.pages.cpu_node[cpu]]
        i: cython.int
        for i in range(n.shared.avail):
            if n.shared.entry[n.shared.avail - 1 - i] == addr:
                return i
        return -1

    @cython.ccall
    def refill_from_depth(self, cache: cython.int, cpu: cython.int, depth: cython.int) -> cython.void:
        """Fill an empty array from the shared one as if its ``depth`` newest objects were not there yet, and pop."""
        s: SlabCache = self.caches[cache]
        ac: ArrayCache = s.cpu_cache[cpu]
        n: KmemCacheNode = s.nodes[self.pages.cpu_node[cpu]]
        shared: ArrayCache = n.shared
        newest: list = [shared.entry[shared.avail - depth + i] for i in range(depth)]
        shared.avail -= depth
        self.transfer_objects(ac, shared, self.batch_of(cache, ac.touched))
        for addr in newest:
            shared.entry[shared.avail] = addr
            shared.avail += 1
        ac.touched = True
        ac.avail -= 1
        self.hand_out(s, ac.entry[ac.avail])

    @cython.ccall
    def empty_shared(self, cache: cython.int, cpu: cython.int) -> cython.void:
        """The same for the node's shared array."""
        s: SlabCache = self.caches[cache]
        node: cython.int = self.pages.cpu_node[cpu]
        n: KmemCacheNode = s.nodes[node]
        self.give_back(s, n.shared, node, n.shared.avail, cpu)

    @cython.ccall
    def grow_for(self, cache: cython.int, pfn: cython.int, cpu: cython.int) -> cython.longlong:
        """A new slab although slabs have free objects: what the kernel handed out of it, by the rule of a refill."""
        s: SlabCache = self.caches[cache]
        ac: ArrayCache = s.cpu_cache[cpu]
        batch: cython.int = self.batch_of(cache, ac.touched)
        self.page = pfn
        slab: cython.int = self.cache_grow_begin(s, 0, self.pages.cpu_node[cpu], cpu)
        self.alloc_block(s, ac, slab, min(batch, ac.limit - ac.avail), cpu)
        self.cache_grow_end(s, slab, cpu)
        ac.touched = True
        ac.avail -= 1
        return self.hand_out(s, ac.entry[ac.avail])

    @cython.ccall
    def drop_slab(self, slab: cython.int) -> cython.int:
        """The kernel has given this slab's pages back: its objects leave their arrays; how many were in use here."""
        s: SlabCache = self.caches[self.sl_cache[slab]]
        n: KmemCacheNode = s.nodes[self.sl_node[slab]]
        used: cython.int = 0
        i: cython.int
        at: cython.longlong
        for i in range(s.objects):
            at = self.sl_seg[slab] + i
            if self.obj_state[at] == OBJECT_CACHED:
                self.out_of_array(s, self.sl_mem[slab] + i * cython.cast(cython.longlong, s.size))
            elif self.obj_state[at] == OBJECT_LIVE:
                s.live -= 1
                used += 1
            self.obj_state[at] = OBJECT_FREE
        if self.sl_list[slab] != SLABS_NONE:
            s.num_active -= self.sl_active[slab]
            n.free_objects -= s.objects - self.sl_active[slab]
            n.total_slabs -= 1
            self.unlink(n, slab)
        self.bury(slab)
        return used

    def array_of(self, cache: int, cpu: int) -> list[int]:
        """Objects in a CPU's array, the next one last."""
        ac = self.caches[cache].cpu_cache[cpu]
        return list(ac.entry)[: ac.avail]

