"""
A start across allocators: a state recorded under one slab allocator, carried over to another.

The recorded slabs go back to the buddy system and their live objects are allocated again, cache by cache, the oldest
cache first. Objects that lay in one slab are allocated one after the other: those that the trace frees get their
handles, the others stay for good.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from memtrace.mm.constants import (
    NIL,
    PAGE_SHIFT,
    SLAB_ACCOUNT,
    SLAB_CACHE_DMA,
    SLAB_CACHE_DMA32,
    SLAB_HWCACHE_ALIGN,
    SLAB_NOLEAKTRACE,
    SLAB_RECLAIM_ACCOUNT,
    SLAB_TYPESAFE_BY_RCU,
)
from memtrace.mm.gfp import GFP_KERNEL
from memtrace.mm.restore import find_and_give_back, give_back

if TYPE_CHECKING:
    from memtrace.mm.machine import Machine
    from memtrace.snapshot.exact_dump import ExactDump, SlabCache, SlubCache
    from memtrace.snapshot.slabinfo import ProcCache

# Flags that a creator gives; the others in a dump say how its allocator laid the cache out.
_CREATORS = (
    SLAB_HWCACHE_ALIGN | SLAB_CACHE_DMA | SLAB_CACHE_DMA32 | SLAB_RECLAIM_ACCOUNT | SLAB_TYPESAFE_BY_RCU
    | SLAB_NOLEAKTRACE | SLAB_ACCOUNT
)


@dataclass(slots=True)
class Population:
    """
    A cache of the recorded kernel: what it was created with, its slabs, and how many objects were alive.

    ``slabs`` are (first pfn, live objects) of those whose place is known, ``hidden[node]`` counts the others.
    """

    name: str
    object_size: int
    align: int
    flags: int
    ctor: bool
    order: int = 0
    objects: int = 1
    live: int = 0
    slabs: list[tuple[int, int]] = field(default_factory=list)
    hidden: list[int] = field(default_factory=list)
    aliases: tuple[str, ...] = ()


@dataclass(slots=True)
class Moved:
    """What a start across allocators did: slabs and pages given back, objects allocated again, and what could not."""

    slabs: int = 0
    pages: int = 0
    objects: int = 0
    slabs_not_found: int = 0
    objects_failed: int = 0

    def count(self, order: int, wanted: int, done: int) -> None:
        """Of so many slabs wanted back, so many were."""
        self.slabs += done
        self.pages += done << order
        self.slabs_not_found += wanted - done


def populations_of(dump: ExactDump) -> list[Population]:
    """
    Caches of an exact dump, oldest first.

    SLOB's pages do not tell which objects lie in them, so its caches are empty here.
    """
    slob = [Population(c.name, c.object_size, c.align, c.flags & _CREATORS, c.ctor) for c in dump.slob]
    every = [*(_of_slub(c) for c in dump.slub), *(_of_slab(c) for c in dump.slab), *slob]
    return every[::-1]


def _of_slub(cache: SlubCache) -> Population:
    known = [(s.pfn, s.inuse) for node in cache.nodes.values() for s in node.partial]
    known += [(s.pfn, s.inuse) for slabs in cache.cpu_partials.values() for s in slabs]
    # The objects on a CPU's own freelist count as in use.
    known += [(a.slab.pfn, a.slab.inuse - len(a.cpu_freelist)) for a in cache.cpu_slabs.values()]
    objects = sum(node.total_objects for node in cache.nodes.values())
    listed = sum(a.slab.objects for a in cache.cpu_slabs.values())
    listed += sum(s.objects for node in cache.nodes.values() for s in node.partial)
    listed += sum(s.objects for slabs in cache.cpu_partials.values() for s in slabs)
    hidden = [node.nr_slabs for _, node in sorted(cache.nodes.items())]
    hidden[0] -= len(known)  # which node a listed slab is of shows in its pfn; the search below looks at every node
    return Population(
        cache.name, cache.object_size, cache.align, cache.flags & _CREATORS, cache.ctor, cache.order, cache.objs,
        objects - listed + sum(live for _, live in known), known, hidden,
    )


def _of_slab(cache: SlabCache) -> Population:
    known, cached = [], sum(array.avail for array in cache.cpu_caches.values())
    for node in cache.nodes.values():
        known += [(slab.pfn, slab.active) for slab in (*node.partial, *node.full, *node.free)]
        cached += node.shared.avail if node.shared is not None else 0
        cached += sum(array.avail for array in node.alien.values())
    return Population(
        cache.name, cache.object_size, cache.align, cache.flags & _CREATORS, cache.ctor, cache.gfporder, cache.num,
        sum(live for _, live in known) - cached, known, [],
    )


def populations_of_proc(caches: tuple[ProcCache, ...]) -> list[Population]:
    """Caches of /proc/slabinfo, oldest first; which of their objects are alive it counts from above (MODEL 4.6)."""
    found = []
    for known in reversed(caches):
        flags = 0
        for flag, on in (
            (SLAB_RECLAIM_ACCOUNT, known.reclaim_account), (SLAB_TYPESAFE_BY_RCU, known.destroy_by_rcu),
            (SLAB_HWCACHE_ALIGN, known.hwcache_align), (SLAB_CACHE_DMA, known.cache_dma),
            (SLAB_ACCOUNT, known.account),
        ):
            flags |= flag if on else 0
        object_size = known.object_size if known.object_size > 0 else known.size
        found.append(Population(
            known.name, object_size, max(8, known.align), flags, bool(known.ctor),
            max(0, known.pagesperslab.bit_length() - 1), known.objperslab, known.active_objs, [],
            list(known.slabs_node) or [known.num_slabs], known.aliases,
        ))
    return found


def create_caches(machine: Machine, populations: list[Population], merge: bool) -> None:
    """
    kmalloc's caches, then the recorded ones with the geometry that the machine's allocator gives them.

    ``merge``: the recorded allocator merged none, so the machine's does as it would have.
    """
    slab = machine.slab
    slab.create_kmalloc_caches()
    for known in populations:
        if slab.kmalloc_home(known.name) != NIL:
            continue
        index = slab.create_cache(
            known.name, max(1, known.object_size), max(8, known.align), known.flags, known.ctor, merge=merge
        )
        for alias in known.aliases:
            slab.by_name.setdefault(alias, index)


def carry_over(machine: Machine, populations: list[Population], seen: list[tuple[int, str, int]]) -> Moved:
    """
    Give the recorded slabs back and allocate their objects again.

    Parameters
    ----------
    machine
        Its zones laid out, all that is neither free nor known marked as somebody's (``settle_pages``), its caches
        created.
    seen
        (recorded address, recorded cache's name, machine cache) of objects that were alive and that the trace frees.

    Notes
    -----
    Where a slab lay that the recording counts and does not place is taken from the high end of its zone downwards:
    blocks of pages that nobody is known to own.
    """
    moved = Moved()
    groups: dict[str, dict[int, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
    order_of = {name: p.order for p in populations for name in (p.name, *p.aliases)}
    root_of = {alias: p.name for p in populations for alias in p.aliases}
    for addr, name, cache in seen:
        pfn = addr >> PAGE_SHIFT >> order_of.get(name, 0) << order_of.get(name, 0)
        groups[root_of.get(name, name)][pfn].append((addr, cache))
    hidden: list[tuple[int, int, int]] = []
    for known in populations:
        placed = {pfn for pfn, _ in known.slabs}
        shown = [pfn for pfn in groups[known.name] if pfn not in placed] if known.hidden else []
        for pfn in sorted([*placed, *shown]):
            moved.count(known.order, 1, give_back(machine, pfn, known.order))
        for node, count in enumerate(known.hidden):
            hidden.append((node, known.order, count - (len(shown) if node == 0 else 0)))
    for node, order, count in sorted(hidden, key=lambda one: -one[1]):
        if count > 0:
            moved.count(order, count, find_and_give_back(machine, node, order, count))
    for known in populations:
        index = machine.slab.kmalloc_home(known.name)
        _allocate(machine, index if index != NIL else machine.find_cache(known.name), known,
                  groups.pop(known.name, {}), moved)
    for slabs in groups.values():
        # A cache that the snapshot does not have: only what the trace frees of it is known.
        for objects in slabs.values():
            for addr, cache in objects:
                _one(machine, cache, 0, addr, moved)
    machine.reset_statistics()
    return moved


def _allocate(
    machine: Machine, cache: int, known: Population, slabs: dict[int, list[tuple[int, int]]], moved: Moved
) -> None:
    """A cache's live objects, slab after slab; each CPU allocates its share in one go."""
    live_in = dict(known.slabs)
    shown = sum(len(objects) for objects in slabs.values())
    total = max(known.live, shown)
    strangers = total - shown
    plan: list[tuple[int, list[tuple[int, int]]]] = []
    for pfn, objects in sorted(slabs.items()):
        beside = min(strangers, max(0, live_in.get(pfn, known.objects) - len(objects)))
        strangers -= beside
        plan.append((beside, objects))
    done = 0
    for beside, objects in [(strangers, []), *plan]:
        for addr, _ in [*((-1, 0) for _ in range(beside)), *objects]:
            _one(machine, cache, done * machine.nr_cpus // total, addr, moved)
            done += 1


def _one(machine: Machine, cache: int, cpu: int, addr: int, moved: Moved) -> None:
    machine.it.reset()
    found = machine.cache_alloc(cache, GFP_KERNEL, NIL, cpu)
    if found == 0:
        moved.objects_failed += 1
        return
    moved.objects += 1
    if addr >= 0:
        machine.moved[addr] = (found, machine.slab.last_cache, machine.slab.last_bytes)
