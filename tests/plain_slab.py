"""
A slow, plain SLAB over the plain page allocator, written from MODEL 7 and EXACT D without looking at the model.

A slab is an object with a stack of free indexes; a cache holds slabs and arrays in Python lists. Tops are last.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from plain_pages import PlainPages


@dataclass(eq=False)
class Slab:
    """``free`` is the stack of free object indexes, top last."""

    pfn: int
    offset: int
    node: int
    free: list[int]
    index: int = 0
    """Address of an index array of its own, or 0."""
    list: str = ""


@dataclass(eq=False)
class Array:
    limit: int
    objects: list[int] = field(default_factory=list)
    touched: bool = False


@dataclass(eq=False)
class Node:
    """``lists`` are head first."""

    free_limit: int
    shared: Array | None
    alien: dict[int, Array]
    lists: dict[str, list[Slab]] = field(default_factory=lambda: {"partial": [], "full": [], "free": []})
    colour: int = 0
    free_touched: bool = False
    next_reap: int = 0

    def slabs(self) -> int:
        return sum(map(len, self.lists.values()))

    def idle(self) -> int:
        return sum(len(slab.free) for slabs in self.lists.values() for slab in slabs)

    def move(self, slab: Slab, name: str, front: bool) -> None:
        if slab.list:
            self.lists[slab.list].remove(slab)
        slab.list = name
        if name:
            self.lists[name].insert(0 if front else len(self.lists[name]), slab)


@dataclass(eq=False)
class Cache:
    """What a cache is created with; arrays by CPU, nodes by number."""

    name: str
    size: int
    num: int
    order: int
    colours: int
    colour_off: int
    batch: int
    flags: frozenset[str]
    index_cache: Cache | None
    arrays: list[Array]
    nodes: list[Node]
    counts: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    most_free: int = 0


class PlainSlab:
    """Caches over ``pages``; ``newest`` lists them newest first, as the reaper visits them."""

    def __init__(self, pages: PlainPages, caches: list[Cache], nodes: int, cpus: int) -> None:
        self.pages = pages
        self.caches = caches
        self.nr_nodes = nodes
        self.slab_at: dict[int, tuple[Cache, Slab]] = {}
        self.live: set[int] = set()
        self.reap_node = [(pages.cpu_node[cpu] + 1) % nodes for cpu in range(cpus)]

    # -- allocation, 7.4 and 7.7 ------------------------------------------------------------------

    def alloc(self, cache: Cache, flags: set[str], node: int, cpu: int) -> int:
        here = self.pages.cpu_node[cpu]
        count = cache.counts[cpu]
        addr = 0
        if node in (-1, here):
            array = cache.arrays[cpu]
            if array.objects:
                count["alloc_fastpath"] += 1
                array.touched = True
                addr = array.objects.pop()
                self.live.add(addr)
                return addr
            count["allocmiss"] += 1
            addr = self.refill(cache, flags, here, cpu)
        count["alloc_slowpath"] += 1
        if not addr:
            addr = self.from_node(cache, flags, here if node == -1 else node, cpu)
        if addr:
            self.live.add(addr)
        return addr

    def refill(self, cache: Cache, flags: set[str], here: int, cpu: int) -> int:
        array, node = cache.arrays[cpu], cache.nodes[here]
        want = cache.batch if array.touched else min(16, cache.batch)
        shared = node.shared
        if shared is not None and shared.objects:
            n = min(want, len(shared.objects))
            array.objects += shared.objects[-n:]
            del shared.objects[-n:]
            shared.touched = True
        elif node.idle():
            while want:
                slab = self.first(node)
                if slab is None:
                    break
                want -= self.take(cache, slab, array.objects, want, cpu)
                node.move(slab, "partial" if slab.free else "full", True)
        if not array.objects:
            slab = self.grow(cache, self.exact(flags), here, cpu)
            if slab is None:
                return 0
            self.take(cache, slab, array.objects, want, cpu)
            self.add(cache, slab, cpu)
        array.touched = True
        return array.objects.pop()

    def first(self, node: Node) -> Slab | None:
        if node.lists["partial"]:
            return node.lists["partial"][0]
        node.free_touched = True
        return node.lists["free"][0] if node.lists["free"] else None

    def take(self, cache: Cache, slab: Slab, into: list[int], most: int, cpu: int) -> int:
        n = min(most, len(slab.free))
        for _ in range(n):
            into.append(self.address(cache, slab, slab.free.pop()))
        cache.counts[cpu]["listallocs"] += n
        return n

    def address(self, cache: Cache, slab: Slab, index: int) -> int:
        return (slab.pfn << 12) + slab.offset + index * cache.size

    @staticmethod
    def exact(flags: set[str]) -> set[str]:
        return (set(flags) | {"THISNODE"}) - {"DIRECT_RECLAIM", "KSWAPD"}

    def from_node(self, cache: Cache, flags: set[str], at: int, cpu: int) -> int:
        node = cache.nodes[at]
        slab = self.first(node)
        if slab is not None:
            cache.counts[cpu]["nodeallocs"] += 1
        else:
            slab = self.grow(cache, self.exact(flags), at, cpu)
            if slab is None:
                return self.fallback(cache, flags, cpu)
            addr = self.address(cache, slab, slab.free.pop())
            self.add(cache, slab, cpu)
            return addr
        addr = self.address(cache, slab, slab.free.pop())
        node.move(slab, "partial" if slab.free else "full", True)
        return addr

    def fallback(self, cache: Cache, flags: set[str], cpu: int) -> int:
        if "THISNODE" in flags:
            return 0
        for zone in self.pages.zonelist(flags, self.pages.cpu_node[cpu]):
            if cache.nodes[zone.node].idle():
                addr = self.from_node(cache, self.exact(flags), zone.node, cpu)
                if addr:
                    return addr
        slab = self.grow(cache, set(flags), self.pages.cpu_node[cpu], cpu)
        if slab is None:
            return 0
        self.add(cache, slab, cpu)
        return self.from_node(cache, self.exact(flags), slab.node, cpu)

    def grow(self, cache: Cache, flags: set[str], node: int, cpu: int) -> Slab | None:
        keep = {"DIRECT_RECLAIM", "KSWAPD", "HIGH", "MEMALLOC", "NOMEMALLOC", "THISNODE"}
        pfn = self.pages.alloc((flags & keep) | cache.flags, cache.order, node, cpu)
        if pfn is None:
            return None
        at = self.pages.zone_of(pfn).node
        owner = cache.nodes[at]
        owner.colour = owner.colour + 1 if owner.colour + 1 < cache.colours else 0
        index = 0
        if cache.index_cache is not None:
            index = self.alloc(cache.index_cache, (flags & keep) - {"THISNODE"}, at, cpu)
            if not index:
                self.pages.release(pfn, cache.order, cpu)
                return None
        slab = Slab(pfn, owner.colour * cache.colour_off, at, list(range(cache.num))[::-1], index)
        for page in range(pfn, pfn + (1 << cache.order)):
            self.slab_at[page] = cache, slab
            del self.pages.asked[page]
        return slab

    def add(self, cache: Cache, slab: Slab, cpu: int) -> None:
        cache.counts[cpu]["alloc_slab"] += 1
        if len(slab.free) == cache.num:
            cache.nodes[slab.node].move(slab, "free", False)
        else:
            cache.nodes[slab.node].move(slab, "partial" if slab.free else "full", True)

    # -- free, 7.5 --------------------------------------------------------------------------------

    def free(self, addr: int, cpu: int) -> None:
        cache, slab = self.slab_at[addr >> 12]
        here = self.pages.cpu_node[cpu]
        count = cache.counts[cpu]
        self.live.remove(addr)
        if slab.node != here:
            count["free_slowpath"] += 1
            count["remotefrees"] += 1
            alien = cache.nodes[here].alien[slab.node]
            if len(alien.objects) == alien.limit:
                count["alienoverflow"] += 1
                self.send_home(cache, alien, slab.node, cpu)
            alien.objects.append(addr)
            return
        array = cache.arrays[cpu]
        if len(array.objects) < array.limit:
            count["free_fastpath"] += 1
        else:
            count["free_slowpath"] += 1
            count["freemiss"] += 1
            self.flush(cache, array, here, cpu)
        array.objects.append(addr)

    def flush(self, cache: Cache, array: Array, here: int, cpu: int) -> None:
        shared = cache.nodes[here].shared
        room = shared.limit - len(shared.objects) if shared is not None else 0
        n = min(cache.batch, room) if room else cache.batch
        oldest = array.objects[:n]
        if room:
            shared.objects += oldest
            gone = []
        else:
            gone = self.put_back(cache, here, oldest)
        cache.most_free = max(cache.most_free, len(cache.nodes[here].lists["free"]))
        del array.objects[:n]
        self.destroy(cache, gone, cpu)

    def put_back(self, cache: Cache, at: int, objects: list[int]) -> list[Slab]:
        """Objects into their slabs; the slabs to be destroyed, in that order."""
        node = cache.nodes[at]
        for addr in objects:
            _, slab = self.slab_at[addr >> 12]
            slab.free.append((addr - (slab.pfn << 12) - slab.offset) // cache.size)
            if len(slab.free) == cache.num:
                node.move(slab, "free", True)
            else:
                node.move(slab, "partial", False)
        gone: list[Slab] = []
        while node.idle() > node.free_limit and node.lists["free"]:
            slab = node.lists["free"][-1]
            node.move(slab, "", False)
            gone.insert(0, slab)
        return gone

    def destroy(self, cache: Cache, slabs: list[Slab], cpu: int) -> None:
        for slab in slabs:
            cache.counts[cpu]["free_slab"] += 1
            for page in range(slab.pfn, slab.pfn + (1 << cache.order)):
                del self.slab_at[page]
            self.pages.release(slab.pfn, cache.order, cpu)
            if slab.index:
                self.free(slab.index, cpu)

    def send_home(self, cache: Cache, alien: Array, owner: int, cpu: int) -> None:
        shared = cache.nodes[owner].shared
        objects, alien.objects = alien.objects, []
        if shared is not None and objects:
            n = min(len(objects), shared.limit - len(shared.objects))
            shared.objects += objects[len(objects) - n :]
            objects = objects[: len(objects) - n]
        self.destroy(cache, self.put_back(cache, owner, objects), cpu)

    # -- 7.8 and 7.9 ------------------------------------------------------------------------------

    def reap(self, cpu: int, jiffies: int, hz: int) -> None:
        here, other = self.pages.cpu_node[cpu], self.reap_node[cpu]
        for cache in reversed(self.caches):
            node = cache.nodes[here]
            if other in node.alien:
                self.send_home(cache, node.alien[other], other, cpu)
            self.drain(cache, cache.arrays[cpu], here, cpu)
            if node.next_reap > jiffies:
                continue
            node.next_reap = jiffies + 4 * hz
            if node.shared is not None:
                self.drain(cache, node.shared, here, cpu)
            if node.free_touched:
                node.free_touched = False
            else:
                quota = -(-node.free_limit // (5 * cache.num))
                cache.counts[cpu]["reaped"] += self.free_slabs(cache, node, quota, cpu)
        self.reap_node[cpu] = (other + 1) % self.nr_nodes

    def drain(self, cache: Cache, array: Array, at: int, cpu: int) -> None:
        if not array.objects:
            return
        if array.touched:
            array.touched = False
            return
        n = (array.limit + 4) // 5
        if n > len(array.objects):
            n = (len(array.objects) + 1) // 2
        self.empty(cache, array, at, n, cpu)

    def empty(self, cache: Cache, array: Array, at: int, n: int, cpu: int) -> None:
        gone = self.put_back(cache, at, array.objects[:n])
        del array.objects[:n]
        self.destroy(cache, gone, cpu)

    def free_slabs(self, cache: Cache, node: Node, most: int, cpu: int) -> int:
        n = 0
        while n < most and node.lists["free"]:
            slab = node.lists["free"][-1]
            node.move(slab, "", False)
            self.destroy(cache, [slab], cpu)
            n += 1
        return n

    def shrink(self, cache: Cache, cpu: int) -> int:
        before = sum(node.slabs() for node in cache.nodes)
        for owner, array in enumerate(cache.arrays):
            self.empty(cache, array, self.pages.cpu_node[owner], len(array.objects), cpu)
        for node in cache.nodes:
            for other, alien in node.alien.items():
                self.send_home(cache, alien, other, cpu)
        for at, node in enumerate(cache.nodes):
            if node.shared is not None:
                self.empty(cache, node.shared, at, len(node.shared.objects), cpu)
        for node in cache.nodes:
            self.free_slabs(cache, node, 1 << 30, cpu)
        return before - sum(node.slabs() for node in cache.nodes)

    def bulk_free(self, addrs: list[int], cpu: int) -> None:
        for addr in addrs:
            self.free(addr, cpu)

    def verify(self) -> None:
        """Every object is live, in one array, or on its slab; lists hold what they may hold."""
        for cache in self.caches:
            arrays = [*cache.arrays, *(n.shared for n in cache.nodes if n.shared is not None)]
            arrays += [alien for n in cache.nodes for alien in n.alien.values()]
            parked = [addr for array in arrays for addr in array.objects]
            assert len(parked) == len(set(parked))
            assert not self.live & set(parked)
            for node in cache.nodes:
                for name, slabs in node.lists.items():
                    for slab in slabs:
                        assert slab.list == name
                        free = len(slab.free)
                        assert name == ("full" if free == 0 else "free" if free == cache.num else "partial")
