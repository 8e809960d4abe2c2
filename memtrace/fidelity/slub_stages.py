"""
SLUB one stage at a time (EXACT C2, C4).

Every decision is `mm.slub.Slub`'s; what stands here calls its stages when a recording shows that the kernel was there.
"""

from __future__ import annotations

import cython

from memtrace.fidelity.recorded_pages import RecordedPages
from memtrace.mm.constants import NIL, PAGE_SHIFT
from memtrace.mm.paths import PATH_ALLOC_FAST, PATH_ALLOC_NODE_PARTIAL, PATH_ALLOC_REFILL
from memtrace.mm.slub import Slub
from memtrace.mm.slub_slabs import SlubCache


@cython.cclass
class SlubStages:
    """
    Calls a `Slub` whose pages come from a record.

    Addresses are physical; caches are given by index.
    """

    slub: Slub
    pages: RecordedPages

    def __init__(self, slub: Slub, pages: RecordedPages) -> None:
        self.slub = slub
        self.pages = pages

    @cython.ccall
    def kmalloc_cache(self, size: cython.longlong, gfp: cython.longlong) -> cython.int:
        """Cache index of a kmalloc of 1..8192 bytes."""
        return self.slub.kmalloc_slab(size, gfp)

    @cython.ccall
    def alloc(self, cache: cython.int, node: cython.int, cpu: cython.int, bulk: cython.bint) -> cython.longlong:
        """An object from the slabs that there are, or 0."""
        s: SlubCache = self.slub.caches[cache]
        if bulk:
            return self.slub.bulk_alloc_one(s, 0, cpu)
        return self.slub.slab_alloc(s, 0, node, cpu)

    @cython.ccall
    def hold(self, cache: cython.int, node: cython.int, cpu: cython.int) -> cython.bint:
        """What a request does before it asks for a page; whether it does ask. If not, nothing has changed but D."""
        s: SlubCache = self.slub.caches[cache]
        return self.slub.find_objects(s, node, cpu) < 0

    @cython.ccall
    def finish(
        self, cache: cython.int, node: cython.int, cpu: cython.int, pfn: cython.int, order: cython.int
    ) -> cython.longlong:
        """What a request does with the block that it got; its object."""
        s: SlubCache = self.slub.caches[cache]
        self.pages.pfn = pfn
        self.pages.order = order
        idx: cython.int = self.slub.add_slab(s, 0, node, cpu)
        self.pages.pfn = NIL
        return 0 if idx < 0 else self.slub.take(s, s.c_slab[cpu], idx, cpu)

    @cython.ccall
    def bypass(self, cache: cython.int, cpu: cython.int) -> cython.bint:
        """Stage D of a request that an interrupt came into, where it finds nothing; whether it did."""
        s: SlubCache = self.slub.caches[cache]
        slab: cython.int = s.c_slab[cpu]
        if slab == NIL or s.c_freelist[cpu] >= 0 or self.slub.sl_free[slab] >= 0:
            return False
        self.slub.get_freelist(s, slab, cpu)
        return True

    @cython.ccall
    def next_object(self, cache: cython.int, cpu: cython.int) -> cython.longlong:
        """The object that a request of this CPU would get from the slabs that there are on its node, or 0."""
        s: SlubCache = self.slub.caches[cache]
        slab: cython.int = s.c_slab[cpu]
        if slab != NIL:
            if s.c_freelist[cpu] >= 0:
                return self.address(s, slab, s.c_freelist[cpu])
            if self.slub.sl_free[slab] >= 0:
                return self.address(s, slab, self.slub.sl_free[slab])
        slab = s.c_partial[cpu]
        if slab == NIL:
            slab = s.n_first[self.pages.cpu_node[cpu]]
        return 0 if slab == NIL else self.address(s, slab, self.slub.sl_free[slab])

    @cython.cfunc
    @cython.exceptval(check=False)
    def address(self, s: SlubCache, slab: cython.int, idx: cython.int) -> cython.longlong:
        return (cython.cast(cython.longlong, self.slub.sl_pfn[slab]) << PAGE_SHIFT) + cython.cast(
            cython.longlong, idx
        ) * s.size

    @cython.cfunc
    @cython.exceptval(check=False)
    def index_in(self, s: SlubCache, slab: cython.int, addr: cython.longlong) -> cython.int:
        return cython.cast(
            cython.int, (addr - (cython.cast(cython.longlong, self.slub.sl_pfn[slab]) << PAGE_SHIFT)) // s.size
        )

    @cython.ccall
    def slab_at(self, addr: cython.longlong) -> cython.int:
        """Row of the slab that an address lies in, or -1."""
        if addr < 0 or addr >> PAGE_SHIFT >= self.slub.frames.nr_frames:
            return NIL
        return self.slub.frames.slab[cython.cast(cython.int, addr >> PAGE_SHIFT)]

    @cython.cfunc
    def owner(self, s: SlubCache, slab: cython.int) -> cython.int:
        """The CPU whose cpu slab this is, or -1."""
        cpu: cython.int
        for cpu in range(self.slub.nr_cpus):
            if s.c_slab[cpu] == slab:
                return cpu
        return NIL

    @cython.ccall
    def was_fast(self) -> cython.bint:
        """Did the last request take the first object of its CPU's freelist?"""
        return self.slub.it.path == PATH_ALLOC_FAST

    @cython.ccall
    def was_refill(self) -> cython.bint:
        """Did the last request take over what others had freed to its CPU's slab?"""
        return self.slub.it.path == PATH_ALLOC_REFILL

    @cython.ccall
    def was_from_node(self) -> cython.bint:
        """Did the last request take a slab from its node's list?"""
        return self.slub.it.path == PATH_ALLOC_NODE_PARTIAL
