"""
A slow, plain SLUB over the plain page allocator, written from MODEL 5 and 6 without looking at the model.

A slab is an object that knows its free indexes; a cache holds slabs in Python lists, head first.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from plain_pages import PlainPages


@dataclass(eq=False)
class Slab:
    """``free`` is the slab's own freelist; objects on a CPU's private list count as in use."""

    pfn: int
    order: int
    node: int
    objects: int
    free: list[int] = field(default_factory=list)
    live: set[int] = field(default_factory=set)
    frozen: bool = False
    discarded: bool = False


@dataclass(eq=False)
class Cache:
    """What a cache is created with, and its lists by CPU and by node."""

    name: str
    size: int
    order: int
    min_order: int
    min_partial: int
    cpu_partial_slabs: int
    flags: frozenset[str]
    slab: dict[int, Slab] = field(default_factory=dict)
    private: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    waiting: dict[int, list[Slab]] = field(default_factory=lambda: defaultdict(list))
    partial: dict[int, list[Slab]] = field(default_factory=lambda: defaultdict(list))
    slabs: set[Slab] = field(default_factory=set)
    counts: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))


class PlainSlub:
    """Caches over ``pages``. ``remote`` says whether other nodes' slabs are always or never tried."""

    def __init__(self, pages: PlainPages, caches: list[Cache], remote: bool) -> None:
        self.pages = pages
        self.caches = caches
        self.remote = remote
        self.slab_at: dict[int, tuple[Cache, Slab]] = {}

    # -- allocation, 6.5 and 6.6 ------------------------------------------------------------------

    def alloc(self, cache: Cache, flags: set[str], node: int, cpu: int, bulk: bool = False) -> int:
        slab = cache.slab.get(cpu)
        if cache.private[cpu] and slab is not None and node in (-1, slab.node):
            if not bulk:
                cache.counts[cpu]["alloc_fastpath"] += 1
        else:
            slab = self.find(cache, flags, node, cpu)
            if slab is None:
                return 0
        idx = cache.private[cpu].pop(0)
        slab.live.add(idx)
        return (slab.pfn << 12) + idx * cache.size

    def find(self, cache: Cache, flags: set[str], node: int, cpu: int) -> Slab | None:
        """A CPU slab with a nonempty private list."""
        count = cache.counts[cpu]
        count["alloc_slowpath"] += 1
        while True:
            slab = cache.slab.get(cpu)
            if slab is not None and node not in (-1, slab.node):
                count["alloc_node_mismatch"] += 1
                self.deactivate(cache, cpu, cpu)
            elif slab is not None and slab.free:
                count["alloc_refill"] += 1
                self.load(cache, slab, cpu)
                return slab
            elif slab is not None:
                count["deactivate_bypass"] += 1
                slab.frozen = False
                del cache.slab[cpu]
            if not cache.waiting[cpu]:
                break
            cache.slab[cpu] = cache.waiting[cpu].pop(0)
            count["cpu_partial_alloc"] += 1
        slab = self.from_nodes(cache, node, cpu)
        if slab is None:
            slab = self.new(cache, flags, node, cpu)
        if slab is not None:
            slab.frozen = True
            cache.slab[cpu] = slab
            self.load(cache, slab, cpu)
        return slab

    @staticmethod
    def load(cache: Cache, slab: Slab, cpu: int) -> None:
        cache.private[cpu], slab.free = slab.free, []

    def from_nodes(self, cache: Cache, node: int, cpu: int) -> Slab | None:
        here = node if node >= 0 else self.pages.cpu_node[cpu]
        slab = self.from_node(cache, here, cpu)
        if slab is None and node < 0 and self.remote:
            for other in range(1 + max(zone.node for zone in self.pages.zones)):
                if slab is None and len(cache.partial[other]) > cache.min_partial:
                    slab = self.from_node(cache, other, cpu)
        return slab

    def from_node(self, cache: Cache, node: int, cpu: int) -> Slab | None:
        partial = cache.partial[node]
        if not partial:
            return None
        first = partial.pop(0)
        cache.counts[cpu]["alloc_from_partial"] += 1
        for _ in range(min(len(partial), cache.cpu_partial_slabs // 2 + 1)):
            slab = partial.pop(0)
            slab.frozen = True
            cache.waiting[cpu].insert(0, slab)
            cache.counts[cpu]["cpu_partial_node"] += 1
        return first

    def new(self, cache: Cache, flags: set[str], node: int, cpu: int) -> Slab | None:
        keep = {"DIRECT_RECLAIM", "KSWAPD", "HIGH", "MEMALLOC", "NOMEMALLOC", "THISNODE"}
        wanted = (flags & keep) | cache.flags
        first = wanted | {"NORETRY"}
        if "DIRECT_RECLAIM" in wanted and cache.order > cache.min_order:
            first = (first | {"NOMEMALLOC"}) - {"DIRECT_RECLAIM", "KSWAPD"}
        order = cache.order
        pfn = self.pages.alloc(first, order, node, cpu)
        if pfn is None:
            order = cache.min_order
            pfn = self.pages.alloc(wanted, order, node, cpu)
            if pfn is None:
                return None
            cache.counts[cpu]["order_fallback"] += 1
        cache.counts[cpu]["alloc_slab"] += 1
        n = (4096 << order) // cache.size
        slab = Slab(pfn, order, self.pages.zone_of(pfn).node, n, list(range(n)))
        cache.slabs.add(slab)
        for page in range(pfn, pfn + (1 << order)):
            self.slab_at[page] = cache, slab
            del self.pages.asked[page]
        return slab

    # -- free, 6.5 and 6.7 ------------------------------------------------------------------------

    def free(self, addr: int, cpu: int) -> None:
        cache, slab = self.slab_at[addr >> 12]
        self.free_chain(cache, slab, [(addr - (slab.pfn << 12)) // cache.size], cpu)

    def free_chain(self, cache: Cache, slab: Slab, chain: list[int], cpu: int) -> None:
        """Free objects of one slab in one operation; ``chain[0]`` is on top afterwards."""
        count = cache.counts[cpu]
        slab.live -= set(chain)
        if slab is cache.slab.get(cpu):
            count["free_fastpath"] += 1
            cache.private[cpu][:0] = chain
            return
        count["free_slowpath"] += 1
        was_full = not slab.free
        slab.free[:0] = chain
        if slab.frozen:
            count["free_frozen"] += 1
        elif was_full:
            slab.frozen = True
            self.wait(cache, slab, cpu)
        elif len(slab.free) == slab.objects and len(cache.partial[slab.node]) >= cache.min_partial:
            cache.partial[slab.node].remove(slab)
            count["free_remove_partial"] += 1
            self.discard(cache, slab, cpu)

    def wait(self, cache: Cache, slab: Slab, cpu: int) -> None:
        """put_cpu_partial with drain."""
        count = cache.counts[cpu]
        count["cpu_partial_free"] += 1
        old: list[Slab] = []
        if cache.waiting[cpu] and len(cache.waiting[cpu]) >= cache.cpu_partial_slabs:
            old, cache.waiting[cpu] = cache.waiting[cpu], []
            count["cpu_partial_drain"] += 1
        cache.waiting[cpu].insert(0, slab)
        self.unfreeze(cache, old, cpu)

    def unfreeze(self, cache: Cache, slabs: list[Slab], cpu: int) -> None:
        surplus = []
        for slab in slabs:
            slab.frozen = False
            if len(slab.free) == slab.objects and len(cache.partial[slab.node]) >= cache.min_partial:
                surplus.append(slab)
            else:
                cache.partial[slab.node].append(slab)
                cache.counts[cpu]["free_add_partial"] += 1
        for slab in reversed(surplus):
            cache.counts[cpu]["deactivate_empty"] += 1
            self.discard(cache, slab, cpu)

    def discard(self, cache: Cache, slab: Slab, cpu: int) -> None:
        cache.counts[cpu]["free_slab"] += 1
        cache.slabs.remove(slab)
        slab.discarded = True
        for page in range(slab.pfn, slab.pfn + (1 << slab.order)):
            del self.slab_at[page]
        self.pages.release(slab.pfn, slab.order, cpu)

    # -- 6.8 and 6.12 -----------------------------------------------------------------------------

    def deactivate(self, cache: Cache, owner: int, cpu: int) -> None:
        count = cache.counts[cpu]
        slab = cache.slab.pop(owner)
        remote = bool(slab.free)
        if remote:
            count["deactivate_remote_frees"] += 1
        slab.free = cache.private[owner] + slab.free
        cache.private[owner] = []
        slab.frozen = False
        partial = cache.partial[slab.node]
        if len(slab.free) == slab.objects and len(partial) >= cache.min_partial:
            count["deactivate_empty"] += 1
            self.discard(cache, slab, cpu)
        elif slab.free:
            count["deactivate_to_tail" if remote else "deactivate_to_head"] += 1
            partial.insert(len(partial) if remote else 0, slab)
        else:
            count["deactivate_full"] += 1

    def flush(self, cache: Cache, cpus: int) -> None:
        for cpu in range(cpus):
            if cpu in cache.slab:
                cache.counts[cpu]["cpuslab_flush"] += 1
                self.deactivate(cache, cpu, cpu)
            slabs, cache.waiting[cpu] = cache.waiting[cpu], []
            self.unfreeze(cache, slabs, cpu)

    def bulk_free(self, addrs: list[int], cpu: int) -> None:
        """Groups of one slab from the array's end; at the third object of another slab a search ends."""
        left: list[int | None] = list(addrs)
        while left:
            last = left.pop()
            if last is None:
                continue
            cache, slab = self.slab_at[last >> 12]
            chain = [(last - (slab.pfn << 12)) // cache.size]
            others = 0
            for i in range(len(left) - 1, -1, -1):
                addr = left[i]
                if addr is None:
                    continue
                if self.slab_at[addr >> 12][1] is slab:
                    chain.append((addr - (slab.pfn << 12)) // cache.size)
                    left[i] = None
                else:
                    others += 1
                    if others == 3:
                        break
            self.free_chain(cache, slab, chain, cpu)

    def verify(self) -> None:
        """Every object is live or free once; lists hold what they may hold."""
        for cache in self.caches:
            private = {id(slab): cache.private[cpu] for cpu, slab in cache.slab.items()}
            for slab in cache.slabs:
                free = slab.free + private.get(id(slab), [])
                assert len(free) == len(set(free))
                assert sorted([*free, *slab.live]) == list(range(slab.objects))
            waiting = [slab for slabs in cache.waiting.values() for slab in slabs]
            partial = [slab for slabs in cache.partial.values() for slab in slabs]
            assert len({*waiting, *partial, *cache.slab.values()}) == len(waiting) + len(partial) + len(cache.slab)
            assert all(slab.frozen for slab in [*waiting, *cache.slab.values()])
            assert all(slab.free and not slab.frozen for slab in partial)
            assert not any(slab.discarded for slab in [*waiting, *partial, *cache.slab.values()])
