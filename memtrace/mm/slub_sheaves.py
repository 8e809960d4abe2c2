"""
SLUB with sheaves, as in Linux 6.18: how objects are handed out and taken back (MODEL 6.13).

A sheaf is an array of free objects in front of the slabs of some caches; see ``slub_barns``.
"""

from __future__ import annotations

import cython

from memtrace.mm.constants import NIL, OBJ_LIVE, OBJ_SHEAF, PAGE_SHIFT
from memtrace.mm.gfp import GFP_BIT_DIRECT_RECLAIM
from memtrace.mm.kmem_cache import KmemCache, SlabStat
from memtrace.mm.paths import (
    COST_SLUB_SHEAF,
    PATH_ALLOC_BARN,
    PATH_ALLOC_SHEAF,
    PATH_ALLOC_SHEAF_REFILL,
    PATH_FREE_BARN,
    PATH_FREE_SHEAF,
    PATH_FREE_SHEAF_FLUSH,
)
from memtrace.mm.slub import Slub
from memtrace.mm.slub_barns import Barns, Sheaf, SheafCache
from memtrace.mm.stats import (
    ALLOC_CPU_SHEAF,
    BARN_GET,
    BARN_GET_FAIL,
    BARN_PUT,
    BARN_PUT_FAIL,
    FREE_CPU_SHEAF,
    SHEAF_FREE,
    SHEAF_REFILL,
)


@cython.cclass
class SheafSlub(Barns):
    """SLUB whose caches may have sheaves."""

    # -- allocation -------------------------------------------------------------------------------

    @cython.ccall
    def slab_alloc(
        self, s: KmemCache, gfp: cython.longlong, node: cython.int, cpu: cython.int
    ) -> cython.longlong:
        """Kernel: slab_alloc_node(), 6.18: from the CPU's sheaf if the cache has some (MODEL 6.13.1)."""
        cache: SheafCache = cython.cast(SheafCache, s)
        addr: cython.longlong
        if cache.capacity and (node < 0 or node == self.pages.cpu_node[cpu]):
            addr = self.alloc_from_sheaf(cache, gfp, node, cpu)
            if addr:
                return addr
        return Slub.slab_alloc(self, s, gfp, node, cpu)

    @cython.cfunc
    def alloc_from_sheaf(
        self, s: SheafCache, gfp: cython.longlong, node: cython.int, cpu: cython.int
    ) -> cython.longlong:
        """Kernel: alloc_from_pcs(): the object on top of the main sheaf, or 0."""
        main: Sheaf = s.c_main[cpu]
        path: cython.int = PATH_ALLOC_SHEAF
        if main.size == 0:
            path = self.swap_empty_main(s, cpu)
            if path == NIL:
                if not gfp & GFP_BIT_DIRECT_RECLAIM or not self.refill_main(s, gfp, cpu):
                    return 0
                path = PATH_ALLOC_SHEAF_REFILL
            main = s.c_main[cpu]
        addr: cython.longlong = main.objects[main.size - 1]
        if node >= 0:
            slab: cython.int = self.frames.slab[cython.cast(cython.int, addr >> PAGE_SHIFT)]
            if self.sl_node[slab] != node:
                return 0
        main.size -= 1
        self.mark(addr, OBJ_LIVE)
        s.live += 1
        self.note(s, cpu, ALLOC_CPU_SHEAF, 1)
        self.it.path = path
        self.it.step(COST_SLUB_SHEAF, 1)
        return addr

    @cython.cfunc
    def swap_empty_main(self, s: SheafCache, cpu: cython.int) -> cython.int:
        """Kernel: __pcs_replace_empty_main(), first half: the spare sheaf, else a full one of the barn; path or NIL."""
        main: Sheaf = s.c_main[cpu]
        spare: Sheaf | None = s.c_spare[cpu]
        node: cython.int = self.pages.cpu_node[cpu]
        if spare is not None and spare.size > 0:
            s.c_main[cpu] = spare
            s.c_spare[cpu] = main
            return PATH_ALLOC_SHEAF
        if not s.full[node]:
            self.note(s, cpu, BARN_GET_FAIL, 1)
            return NIL
        s.empty[node].append(main)
        s.c_main[cpu] = s.full[node].pop()
        self.note(s, cpu, BARN_GET, 1)
        self.barn_step(s, node)
        return PATH_ALLOC_BARN

    @cython.cfunc
    def refill_main(self, s: SheafCache, gfp: cython.longlong, cpu: cython.int) -> cython.bint:
        """
        Kernel: __pcs_replace_empty_main(), second half: an empty sheaf is filled from the slabs and becomes main.

        Departs: the CPU is the same before and after
        """
        node: cython.int = self.pages.cpu_node[cpu]
        sheaf: Sheaf | None = s.c_spare[cpu]
        if sheaf is not None:
            s.c_spare[cpu] = None
        elif s.empty[node]:
            sheaf = s.empty[node].pop()
            self.barn_step(s, node)
        else:
            sheaf = self.new_sheaf(s, cpu)
        while sheaf.size < s.capacity:
            addr: cython.longlong = Slub.bulk_alloc_one(self, s, gfp, cpu)
            if addr == 0:
                break
            sheaf.objects[sheaf.size] = addr
            sheaf.size += 1
            self.mark(addr, OBJ_SHEAF)
            s.live -= 1
        self.note(s, cpu, SHEAF_REFILL, sheaf.size)
        if sheaf.size < s.capacity:
            self.flush_sheaf(s, sheaf, cpu)
            self.note(s, cpu, SHEAF_FREE, 1)
            return False
        s.empty[node].append(s.c_main[cpu])
        self.barn_step(s, node)
        s.c_main[cpu] = sheaf
        return True

    @cython.ccall
    def bulk_alloc_one(self, s: KmemCache, gfp: cython.longlong, cpu: cython.int) -> cython.longlong:
        """
        One object of a kmem_cache_alloc_bulk(): from main, spare or barn, else from the slabs (MODEL 6.13.3).

        Departs: the kernel copies a run of the array in its order, here each object is popped
        """
        cache: SheafCache = cython.cast(SheafCache, s)
        if cache.capacity:
            main: Sheaf = cache.c_main[cpu]
            if main.size > 0 or self.swap_empty_main(cache, cpu) != NIL:
                self.last_cache = s.index
                self.last_bytes = s.size
                return self.alloc_from_sheaf(cache, gfp, NIL, cpu)
        return Slub.bulk_alloc_one(self, s, gfp, cpu)

    # -- free -------------------------------------------------------------------------------------

    @cython.ccall
    @cython.exceptval(check=False)
    def slab_free(self, slab: cython.int, addr: cython.longlong, cpu: cython.int) -> cython.void:
        """Kernel: slab_free(), 6.18: to the CPU's sheaf when the object is of its node (MODEL 6.13.2)."""
        s: SheafCache = self.caches[self.sl_cache[slab]]
        if s.capacity == 0 or self.sl_node[slab] != self.pages.cpu_node[cpu]:
            Slub.slab_free(self, slab, addr, cpu)
            return
        self.last_cache = s.index
        self.last_bytes = s.size
        if not self.is_live(addr):
            self.bad_frees += 1
            return
        main: Sheaf = s.c_main[cpu]
        path: cython.int = PATH_FREE_SHEAF
        if main.size == s.capacity:
            path = self.replace_full_main(s, cpu)
            main = s.c_main[cpu]
        self.push(s, main, addr)
        self.note(s, cpu, FREE_CPU_SHEAF, 1)
        self.last_cache = s.index
        self.last_bytes = s.size
        self.it.path = path
        self.it.step(COST_SLUB_SHEAF, 1)

    @cython.cfunc
    def swap_full_main(self, s: SheafCache, cpu: cython.int) -> cython.int:
        """Make room with the spare sheaf, an empty one of the barn, or an exchange with it; path, or NIL: all full."""
        main: Sheaf = s.c_main[cpu]
        spare: Sheaf | None = s.c_spare[cpu]
        node: cython.int = self.pages.cpu_node[cpu]
        if spare is None:
            if not s.empty[node]:
                return NIL
            s.c_spare[cpu] = main
            s.c_main[cpu] = s.empty[node].pop()
            self.barn_step(s, node)
            return PATH_FREE_BARN
        if spare.size < s.capacity:
            s.c_main[cpu] = spare
            s.c_spare[cpu] = main
            return PATH_FREE_SHEAF
        if len(s.full[node]) >= self.barn_full or not s.empty[node]:
            return NIL
        s.full[node].append(main)
        s.c_main[cpu] = s.empty[node].pop()
        self.note(s, cpu, BARN_PUT, 1)
        self.barn_step(s, node)
        return PATH_FREE_BARN

    @cython.cfunc
    def replace_full_main(self, s: SheafCache, cpu: cython.int) -> cython.int:
        """Kernel: __pcs_replace_full_main(), __pcs_install_empty_sheaf(): room in the main sheaf; the path taken."""
        path: cython.int = self.swap_full_main(s, cpu)
        if path != NIL:
            return path
        main: Sheaf = s.c_main[cpu]
        spare: Sheaf | None = s.c_spare[cpu]
        node: cython.int = self.pages.cpu_node[cpu]
        if spare is None:
            s.c_spare[cpu] = main
            s.c_main[cpu] = self.new_sheaf(s, cpu)
            return PATH_FREE_BARN
        if len(s.full[node]) >= self.barn_full:
            self.note(s, cpu, BARN_PUT_FAIL, 1)
            self.flush_sheaf(s, spare, cpu)
            s.c_spare[cpu] = main
            s.c_main[cpu] = spare
            return PATH_FREE_SHEAF_FLUSH
        s.full[node].append(main)
        s.c_main[cpu] = self.new_sheaf(s, cpu)
        self.note(s, cpu, BARN_PUT, 1)
        self.barn_step(s, node)
        return PATH_FREE_BARN

    @cython.ccall
    @cython.exceptval(check=False)
    def bulk_free(self, addrs: cython.longlong[:], n: cython.int, cpu: cython.int) -> cython.void:
        """
        Kernel: kmem_cache_free_bulk(), 6.18: to sheaves as far as there is room, the rest to the slabs (MODEL 6.13.3).

        ``addrs`` is overwritten.
        """
        i: cython.int
        for i in range(n):
            if addrs[i] <= 16:
                continue
            slab: cython.int = self.frames.slab[cython.cast(cython.int, addrs[i] >> PAGE_SHIFT)]
            if slab == NIL:
                continue
            s: SheafCache = self.caches[self.sl_cache[slab]]
            if s.capacity == 0 or self.sl_node[slab] != self.pages.cpu_node[cpu] or not self.is_live(addrs[i]):
                continue
            main: Sheaf = s.c_main[cpu]
            if main.size == s.capacity:
                if self.swap_full_main(s, cpu) == NIL:
                    self.note(s, cpu, BARN_PUT_FAIL, 1)
                    break
                main = s.c_main[cpu]
            self.push(s, main, addrs[i])
            self.note(s, cpu, FREE_CPU_SHEAF, 1)
            self.last_cache = s.index
            self.last_bytes = s.size
            self.it.path = PATH_FREE_SHEAF
            self.it.step(COST_SLUB_SHEAF, 1)
            addrs[i] = 0
        Slub.bulk_free(self, addrs, n, cpu)

    # -- for samples and --check ----------------------------------------------------------------------

    def stat_reader(self) -> SlabStat:
        from memtrace.mm.slub_sheaves_stat import SheafStat

        return SheafStat(self)

    def validate(self) -> None:
        from memtrace.mm.slub_sheaves_stat import validate_sheaves

        Slub.validate(self)
        validate_sheaves(self)
