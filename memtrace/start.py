"""
Where a replay starts: a freshly booted machine, a snapshot's counts, or an exact dump, laid out in the model.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .config import KernelConfig, MachineConfig
from .errors import ConfigError
from .kernel_params import PercpuParams
from .kernels import load_profile
from .machines import load_machine, machine_from_exact, machine_from_proc
from .snapshot.beside import recorded_kernel
from .snapshot.exact import find_start, read_exact
from .snapshot.percpu import PercpuStats, read_percpu_chunks
from .snapshot.proc import ProcSnapshot, read_proc
from .trace.page_lists import REFILL_SHIFT
from .units import PAGE_SIZE, format_size

if TYPE_CHECKING:
    from .mm.kmem_cache import KmemCache
    from .mm.machine import Machine
    from .mm.restore_proc import SeenPages
    from .snapshot.exact_dump import ExactDump
    from .trace.requests import Census
    from .trace.source import TraceReader

_RECLAIM_ACCOUNT = 0x20000
_LEAST_MEMORY = 512 << 20
_BASE = "vm-512m-4cpu"
"""Preset whose CPUs and memory are changed when the user names sizes or nothing at all."""


@dataclass(slots=True)
class Start:
    """
    A starting state that is chosen but not yet laid out.

    Attributes
    ----------
    row
        First row of the trace to replay.
    machine
        None until the trace has been read, when the machine is to be derived from it.
    recorded_allocator
        Which slab allocator the snapshot's kernel had; "" when it does not show.
    slob_pages
        All pages that SLOB held, as /proc/vmstat counts them; 0 when not known.
    percpu
        How its percpu allocator stood, when the snapshot says so.
    sentence
        What the report says about it.
    """

    row: int = 0
    machine: MachineConfig | None = None
    dump: ExactDump | None = None
    proc: ProcSnapshot | None = None
    recorded_allocator: str = ""
    slob_pages: int = 0
    percpu: PercpuStats | None = None
    sentence: str = ""
    notes: list[str] = field(default_factory=list)


def choose_start(
    reader: TraceReader, folder: str | Path | None, machine: str | Path | None, cpus: int | None, memory: int | None,
    nodes: int | None,
) -> Start:
    """
    Decide where to start from what the user gave.

    Raises
    ------
    ConfigError
        When a snapshot and another machine's size are both asked for, or the snapshot cannot be used.
    """
    if folder is None:
        return _booted(machine, cpus, memory, nodes)
    if machine is not None or memory is not None or nodes is not None:
        raise ConfigError(
            "--from lays out the snapshot's own machine, so --machine, --memory and --nodes do not go with it; "
            "leave --from away to replay on another machine."
        )
    files = find_start(folder)
    if files.exact is not None:
        dump = read_exact(files.exact)
        start = Start(machine=machine_from_exact(dump), dump=dump, recorded_allocator=dump.allocator)
        if dump.slob and files.proc:
            start.slob_pages = sum(n for name, n in read_proc(folder).vmstat.items() if name.startswith("nr_slab_"))
        row = reader.find_marker((dump.marker,))
        start.sentence = f"the exact state of dump “{dump.name}”, every list in its order"
    else:
        proc = read_proc(folder)
        start = Start(machine=machine_from_proc(proc), proc=proc, recorded_allocator=proc.allocator)
        row = reader.find_marker((files.proc_marker, f"SNAP_BEGIN {Path(folder).name}"))
        start.sentence = (
            f"the counts of snapshot “{Path(folder).name}” (/proc and /sys files); where free blocks lie within a "
            "zone is synthetic, slabs that the trace does not touch are taken to be full or placed on its lists"
        )
        if proc.missing:
            start.notes.append(f"The snapshot has no {', '.join(proc.missing)}; what they tell is left at its default.")
    start.percpu = read_percpu_chunks(folder)
    if cpus is not None and start.machine is not None and cpus != start.machine.cpus:
        raise ConfigError(f"--cpus {cpus} with --from: the snapshot's machine has {start.machine.cpus} CPUs.")
    if row < 0:
        start.notes.append("The trace has no marker of this snapshot: the snapshot is taken to stand at its first row.")
    start.row = row + 1
    return start


def _booted(machine: str | Path | None, cpus: int | None, memory: int | None, nodes: int | None) -> Start:
    if machine is None and (cpus is None or memory is None):
        return Start(sentence="a freshly booted machine")
    config = load_machine(machine if machine is not None else _BASE, cpus, memory, nodes)
    return Start(machine=config, sentence="a freshly booted machine: all managed memory free")


def complete(start: Start, census: Census, cpus: int | None, memory: int | None, nodes: int | None) -> MachineConfig:
    """The machine, derived from the trace as far as nobody said: its CPUs, and memory up to its highest page."""
    if start.machine is not None:
        return start.machine
    reach = (census.max_pfn + 1) * PAGE_SIZE
    wanted = memory or max(_LEAST_MEMORY, 1 << max(reach - 1, 1).bit_length())
    if census.max_pfn >= 1 << 20 and memory is None:
        wanted = reach - (1 << 30)  # 64-bit machines have a hole of 1 GiB below 4 GiB
    config = load_machine(_BASE, cpus or census.cpus, wanted, nodes)
    said = "its CPUs, and memory up to its highest page" if memory is None else "its CPUs"
    config = replace(config, source=f"derived from the trace: {said}")
    start.machine = config
    start.sentence = f"a freshly booted machine of {format_size(wanted)}, {config.cpus} CPUs: all managed memory free"
    return config


def lay_out_start(
    start: Start, census: Census, kernel: KernelConfig, seed: int, allocator: str = "slub"
) -> tuple[Machine, np.ndarray, list[str]]:
    """
    Build the machine in its starting state.

    Returns
    -------
    The machine; by index into ``census.caches`` the machine's cache; sentences for the report.
    """
    from .mm.boot import boot, build
    from .mm.restore import restore_exact
    from .mm.restore_percpu import restore_percpu
    from .mm.restore_proc import group_seen, restore_caches, restore_proc
    from .mm.restore_sheaves import fill_sheaves, part_sheaves
    from .mm.restore_slob import hide_slob_pages

    if start.machine is None:
        raise ConfigError("no machine to start on.")
    if start.percpu is not None:
        kernel = replace(kernel, percpu=_percpu_as_recorded(kernel.percpu, start.percpu))
    if start.proc is not None and any(cache.name.startswith("kmalloc-cg-") for cache in start.proc.caches):
        kernel = replace(kernel, memcg=True)
    notes = list(start.notes)
    if start.proc is not None:
        notes += _other_kernel(start.proc.path, kernel.name, allocator)
    counted = start.proc is not None and allocator != "slub"
    if start.recorded_allocator not in ("", allocator) or counted:
        # SLAB's files do not tell which free objects lie in which array: its caches are filled anew as well.
        machine = build(start.machine, kernel, seed, allocator)
        cache_map = _carry_over(start, machine, census, notes)
    elif start.dump is not None:
        machine = build(start.machine, kernel, seed, allocator)
        restore_exact(machine, start.dump)
        if start.slob_pages:
            hide_slob_pages(machine, start.slob_pages)
        cache_map = map_caches(machine, census)
    elif start.proc is not None:
        machine = build(start.machine, kernel, seed, allocator)
        restore_caches(machine, start.proc)
        cache_map = map_caches(machine, census)
        live, free = seen_objects(machine, census, cache_map)
        free, in_sheaves = part_sheaves(machine, start.proc, free)
        live += [(addr, cache) for (cache, _), addrs in in_sheaves.items() for addr in addrs]
        counts = restore_proc(machine, start.proc, group_seen(machine, live, free), seen_pages(machine, census))
        parked = fill_sheaves(machine, in_sheaves)
        if parked:
            notes.append(f"{parked:,} objects are taken to have been in sheaves at the start: they were used first.")
        notes.append(
            f"Of {counts.slabs:,} slabs at the start the trace shows where {counts.slabs_seen:,} lay and what was free "
            f"in them; {counts.slabs_beyond:,} of these are more than slabinfo counted."
        )
        if counts.listed:
            notes.append(f"Of the pages on per-CPU lists at the start the trace shows where {counts.listed:,} lay.")
        if counts.blocks_unplaced:
            notes.append(f"{counts.blocks_unplaced:,} free blocks of the snapshot found no place between pages in use.")
    else:
        machine = boot(start.machine, kernel, seed, allocator)
        cache_map = map_caches(machine, census)
    if start.percpu is not None:
        if machine.percpu.layout.unit_size == start.percpu.unit_size:
            restore_percpu(machine.percpu, start.percpu)
        else:
            notes.append(f"The snapshot's percpu units have {start.percpu.unit_size:,} bytes, the machine's "
                         f"{machine.percpu.layout.unit_size:,}: per-CPU memory starts empty.")
    return machine, cache_map, notes


def _other_kernel(folder: str, kernel: str, allocator: str) -> list[str]:
    """What to say when the snapshot's own kernel has a profile that would do, and another one was taken."""
    known = recorded_kernel(folder)
    if known is None or known.profile == kernel or allocator not in load_profile(known.profile).allocators:
        return []
    return [f"The rules are those of Linux {kernel}, but {known.why}; --kernel {known.profile} is nearest to it."]


def _percpu_as_recorded(params: PercpuParams, stats: PercpuStats) -> PercpuParams:
    """Sizes as the snapshot has them, where nobody has set others."""
    recorded = {name: getattr(stats, name) for name in ("static_size", "reserved_size", "dyn_size", "atom_size")}
    plain = PercpuParams()
    unset = {name: value for name, value in recorded.items() if getattr(params, name) == getattr(plain, name)}
    return replace(params, **unset)


def seen_pages(machine: Machine, census: Census) -> SeenPages:
    """What the trace shows of pages at the start: in use and freed later, or on a per-CPU list, and pageblock types."""
    from .mm.restore_lists import SeenList, SeenLists
    from .mm.restore_proc import SeenPages

    zone_of, shown = machine.pages.zone_of, census.page_lists
    blocks = zip(census.start_pfn.tolist(), census.start_order.tolist(), strict=True)
    whole = {(zone_of(area << REFILL_SHIFT), cpu, order, mt) for cpu, order, mt, area in shown.refilled}
    lists: SeenLists = {key: SeenList(whole=True) for key in whole}
    for key, pfns in shown.first.items():
        for pfn in pfns:
            lists.setdefault((zone_of(pfn), *key), SeenList()).first.append(pfn)
    for key, pfns in shown.last.items():
        for pfn in reversed(pfns):
            lists.setdefault((zone_of(pfn), *key), SeenList()).last.append(pfn)
    return SeenPages(
        [(pfn, order) for pfn, order in blocks if zone_of(pfn) >= 0],
        {key: known for key, known in lists.items() if key[0] >= 0}, shown.types,
    )  # fmt: skip


def _carry_over(start: Start, machine: Machine, census: Census, notes: list[str]) -> np.ndarray:
    """
    Lay out a snapshot of another allocator than the machine's, or one of which only counts are known.

    Returns the machine's cache of each cache of the trace.
    """
    from .mm.restore import restore_zones, settle_pages
    from .mm.restore_across import carry_over, create_caches, populations_of, populations_of_proc
    from .mm.restore_proc import LayoutCounts, restore_zones_proc

    recorded = start.recorded_allocator
    if start.dump is not None:
        populations = populations_of(start.dump)
        restore_zones(machine, start.dump)
        settle_pages(machine)
    else:
        assert start.proc is not None
        populations = populations_of_proc(start.proc.caches)
    create_caches(machine, populations, merge=recorded == "slob")
    cache_map = map_caches(machine, census, own_sizes=recorded == machine.slab.name)
    caches = cache_map.tolist()
    columns = (census.start_addr, census.start_cache)
    seen = [
        (addr, census.caches[cache].name, caches[cache])
        for addr, cache in zip(*(column.tolist() for column in columns), strict=True)
        if cache >= 0 and caches[cache] >= 0 and addr >= 0 and machine.pages.zone_of(addr >> 12) >= 0
    ]
    if start.proc is not None:
        order_of = {name: p.order for p in populations for name in (p.name, *p.aliases)}
        slabs = {(a >> 12 >> order_of.get(n, 0) << order_of.get(n, 0), order_of.get(n, 0)) for a, n, _ in seen}
        pages = seen_pages(machine, census)
        restore_zones_proc(machine, start.proc, replace(pages, used=[*pages.used, *sorted(slabs)]), LayoutCounts())
    moved = carry_over(machine, populations, seen)
    start.sentence = start.sentence.partition(";")[0].partition(",")[0].replace("exact ", "")
    if recorded in ("", machine.slab.name):
        start.sentence += ", its caches filled anew"
    else:
        start.sentence += f" of a kernel with {recorded.upper()}, carried over to {str(machine.slab.name).upper()}"
    if recorded == "slob":
        start.sentence += (
            f": its {moved.objects:,} objects that the trace frees are allocated again, all other pages stay in use "
            "(SLOB's do not tell what lies in them)"
        )
    else:
        start.sentence += (
            f": its {moved.slabs:,} slabs ({moved.pages:,} pages) given back to the buddy system and their "
            f"{moved.objects:,} live objects allocated again, {len(machine.moved):,} of which the trace frees"
        )
    if moved.slabs_not_found:
        notes.append(f"{moved.slabs_not_found:,} slabs of the snapshot could not be given back: their place is taken.")
    if moved.objects_failed:
        notes.append(f"{moved.objects_failed:,} objects of the snapshot found no memory under the other allocator.")
    return cache_map


def map_caches(machine: Machine, census: Census, own_sizes: bool = True) -> np.ndarray:
    """
    The machine's cache of each cache of the trace; one that it does not have is created.

    ``own_sizes``: the trace is of the machine's allocator, so recorded sizes are sizes of its own.

    A cache that the trace itself creates is left out (-1) until it does.

    A cache that no event names is the one whose slabs an exact dump shows where its objects lie, or else takes the
    place of a cache of equal sizes that no event names either (``_unnamed``).
    """
    slab = machine.slab
    found = [slab.find_cache(cache.name) for cache in census.caches]
    places = caches_by_place(machine, census)
    for i, cache in enumerate(census.caches):
        if found[i] < 0:
            found[i] = places.get(i, slab.kmalloc_home(cache.name))
    taken = set(found)
    seen = Counter({cache.name: cache.allocs for cache in census.caches})
    for i, cache in enumerate(census.caches):
        if found[i] >= 0 or cache.created:
            continue
        if cache.inferred:
            free = [c for c in slab.caches
                    if c.index not in taken and (c.object_size, c.size) == (cache.object_size, cache.size)]
            unnamed = _unnamed(cache.name, free, seen)
            if unnamed is not None:
                found[i] = unnamed.index
                continue
        # SLOB's cache of caches says that its objects have no size (EXACT C8).
        object_size = max(cache.object_size or cache.size, 1)
        found[i] = slab.create_cache(
            cache.name, object_size, 8, _RECLAIM_ACCOUNT if cache.reclaimable else 0, merge=False,
            size=max(cache.size, (object_size + 7) & ~7) if own_sizes else 0,
        )
    return np.array(found, np.int32)


def _unnamed(name: str, candidates: list[KmemCache], allocs: Counter[str]) -> KmemCache | None:
    """
    Which of the caches of fitting sizes it is whose objects no event names: by its only known call site.

    The only one; or the one whose name the allocating function bears (``alloc_vmap_area``); or, since protocols
    have helper caches of equal size that are named after them (``tw_sock_TCP``), the one whose protocol's own
    cache the trace uses, and uses most.
    """
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    site = name.removeprefix("unknown:").partition("+")[0]
    named = [c for c in candidates if any(str(known) in site for known in (c.name, *c.aliases))]
    if len(named) == 1:
        return named[0]
    used = {allocs[str(c.name).rpartition("_")[2]]: c for c in candidates if "_" in str(c.name)}
    most = max(used, default=0)
    return used[most] if most else None


def caches_by_place(machine: Machine, census: Census) -> dict[int, int]:
    """The machine's cache of those that no event names, by their objects that were free in an exact dump."""
    places: dict[int, int] = {}
    if not machine.exact or machine.slab.name == "slob":
        return places  # SLOB's pages belong to no cache
    for addr, cache in zip(census.start_free_addr.tolist(), census.start_free_cache.tolist(), strict=True):
        if cache >= 0 and cache not in places and census.caches[cache].inferred and addr >= 0:
            pfn = addr >> 12
            if pfn < machine.frames.nr_frames and machine.frames.slab[pfn] >= 0:
                places[cache] = machine.slab.cache_of(addr).index
    return places


def seen_objects(
    machine: Machine, census: Census, cache_map: np.ndarray
) -> tuple[list[tuple[int, int]], list[tuple[int, int, int]]]:
    """Objects alive at the start as (address, cache), those free as (address, cache, CPU)."""
    caches = cache_map.tolist()
    live = [
        (addr, caches[cache])
        for addr, cache in zip(census.start_addr.tolist(), census.start_cache.tolist(), strict=True)
        if cache >= 0
    ]
    columns = (census.start_free_addr, census.start_free_cache, census.start_free_cpu)
    free = [
        (addr, caches[cache], cpu)
        for addr, cache, cpu in zip(*(column.tolist() for column in columns), strict=True)
        if cache >= 0
    ]
    return live, free
