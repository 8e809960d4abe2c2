"""
What sheaves held when a /proc snapshot was taken (MODEL 6.13): no file tells, but the trace and the counts do.

Slabs are only asked when main, spare and barn are empty, so what a CPU hands out first came from sheaves. Objects in
sheaves count as active in /proc/slabinfo: where more objects were free than it counts as inactive, and CPUs' slabs
can have held, the rest was in sheaves too.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from memtrace.mm.slub_barns import Barns

if TYPE_CHECKING:
    from memtrace.mm.machine import Machine
    from memtrace.snapshot.proc import ProcSnapshot

InSheaves = dict[tuple[int, int], list[int]]
"""(cache, CPU) -> addresses, in the order in which they were handed out."""


def part_sheaves(
    machine: Machine, snapshot: ProcSnapshot, free: list[tuple[int, int, int]]
) -> tuple[list[tuple[int, int, int]], InSheaves]:
    """
    Tell objects that were in sheaves from those that were free in their slabs.

    Parameters
    ----------
    free
        (address, machine cache, CPU) of objects free at the start, in the order they were handed out.

    Returns
    -------
    Those that were free in slabs, and those in sheaves: each CPU's first main sheaf, and, in order, as many more as
    the slabs cannot have held.
    """
    found: InSheaves = defaultdict(list)
    slub: Any = machine.slab
    if not isinstance(slub, Barns):
        return free, found
    more = _beyond_slabs(slub, snapshot, free)
    rest = []
    for addr, cache, cpu in free:
        capacity = slub.caches[cache].capacity if cache >= 0 else 0
        held = found[cache, min(cpu, machine.nr_cpus - 1)] if capacity else []
        if capacity and addr >= 0 and (len(held) < capacity or more[cache] > 0):
            more[cache] -= len(held) >= capacity
            held.append(addr)
        else:
            rest.append((addr, cache, cpu))
    return rest, found


def _beyond_slabs(slub: Barns, snapshot: ProcSnapshot, free: list[tuple[int, int, int]]) -> dict[int, int]:
    """By cache: objects beyond each CPU's main sheaf that slabs cannot have held as free."""
    known = {cache.name: cache for cache in snapshot.caches}
    by_cpu: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for _, cache, cpu in free:
        by_cpu[cache][cpu] += 1
    more: dict[int, int] = defaultdict(int)
    for cache, counts in by_cpu.items():
        s = slub.caches[cache]
        counted = known.get(s.name)
        if not s.capacity or counted is None:
            continue
        # A CPU's slab and partial list are taken to be half full, as the kernel itself takes them to be.
        in_slabs = counted.num_objs - counted.active_objs + max(0, counted.cpu_slabs) * s.objects // 2
        in_main = sum(min(n, s.capacity) for n in counts.values())
        room = (slub.barn_full * slub.nr_nodes + slub.nr_cpus) * s.capacity
        more[cache] = min(room, max(0, sum(counts.values()) - in_slabs - in_main))
    return more


def fill_sheaves(machine: Machine, in_sheaves: InSheaves) -> int:
    """Put the objects, which lie in slabs as live ones, into sheaves; how many were put there."""
    slub: Any = machine.slab
    return sum(
        slub.fill_sheaves(slub.caches[cache], cpu, [addr for addr in addrs if slub.is_live(addr)])
        for (cache, cpu), addrs in in_sheaves.items()
    )
