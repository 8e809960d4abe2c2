"""The parts of an exact dump as plain data, read by ``exact.py``."""

from __future__ import annotations

from dataclasses import dataclass, field

PageLists = dict[tuple[int, int], list[int]]
"""(order, migratetype) -> first pfns of the blocks, head to tail; empty lists are absent."""


@dataclass(slots=True)
class ExactPcp:
    """One CPU's page lists of one zone. ``count`` in pages."""

    cpu: int
    count: int
    high: int
    batch: int
    free_factor: int
    expire: int
    lists: PageLists = field(default_factory=dict)


@dataclass(slots=True)
class ExactZone:
    """One populated zone; page counts, marks without boost.

    ``pageblocks[i]`` is the migratetype of the block that begins at pfn
    ``((start_pfn >> pageblock_order) + i) << pageblock_order``, or -1 for a hole. ``vmstat_diff[cpu]`` is that
    CPU's part of NR_FREE_PAGES not yet folded into ``free``.
    """

    node: int
    name: str
    index: int
    start_pfn: int
    spanned: int
    present: int
    managed: int
    min: int
    low: int
    high: int
    boost: int
    free: int
    highatomic: int
    lowmem_reserve: tuple[int, ...]
    vmstat_diff: tuple[int, ...] = ()
    free_lists: PageLists = field(default_factory=dict)
    pcp: list[ExactPcp] = field(default_factory=list)
    pageblock_order: int = 9
    pageblocks: tuple[int, ...] = ()


@dataclass(slots=True)
class ExactSlab:
    """A SLUB slab: ``freelist`` is the slab's own list (for a CPU slab: objects that other CPUs freed)."""

    pfn: int
    order: int
    inuse: int
    objects: int
    frozen: bool
    freelist: list[int]


@dataclass(slots=True)
class CpuSlab:
    """A CPU's active slab and its own freelist."""

    slab: ExactSlab
    cpu_freelist: list[int] = field(default_factory=list)


@dataclass(slots=True)
class NodeSlabs:
    """SLUB's per-node state; ``partial`` in list order."""

    nr_slabs: int
    total_objects: int
    nr_partial: int
    partial: list[ExactSlab] = field(default_factory=list)


@dataclass(slots=True)
class SlubCache:
    """A SLUB cache: all fields of its CACHE line, statistics and slabs, by CPU or node number.

    ``stats[counter][cpu]``; counters that are zero everywhere are absent.
    """

    name: str
    size: int
    object_size: int
    offset: int
    align: int
    order: int
    objs: int
    min_order: int
    min_objs: int
    min_partial: int
    cpu_partial: int
    cpu_partial_slabs: int
    flags: int
    refcount: int
    ctor: bool
    allocflags: int
    remote_node_defrag_ratio: int
    stats: dict[str, tuple[int, ...]] = field(default_factory=dict)
    cpu_slabs: dict[int, CpuSlab] = field(default_factory=dict)
    cpu_partials: dict[int, list[ExactSlab]] = field(default_factory=dict)
    cpu_partial_counts: dict[int, list[int]] = field(default_factory=dict)
    """The ``slabs`` count stored in each member of ``cpu_partials``; the head's is the list's."""
    nodes: dict[int, NodeSlabs] = field(default_factory=dict)


@dataclass(slots=True)
class ArrayCache:
    """SLAB: an array of free objects by address; the next allocation takes the last."""

    avail: int
    limit: int
    batchcount: int
    touched: int
    entries: list[int]


@dataclass(slots=True)
class SlabPage:
    """SLAB: one slab page block; ``freelist`` holds the free indices in hand-out order."""

    pfn: int
    active: int
    s_mem_off: int
    freelist: list[int]


@dataclass(slots=True)
class SlabNode:
    """SLAB's per-node state, lists in order."""

    total_slabs: int
    free_slabs: int
    free_objects: int
    free_limit: int
    colour_next: int
    free_touched: int
    shared: ArrayCache | None = None
    alien: dict[int, ArrayCache] = field(default_factory=dict)
    partial: list[SlabPage] = field(default_factory=list)
    full: list[SlabPage] = field(default_factory=list)
    free: list[SlabPage] = field(default_factory=list)


@dataclass(slots=True)
class SlabCache:
    """A SLAB cache: its CACHE line, statistics, per-CPU arrays and nodes."""

    name: str
    size: int
    object_size: int
    align: int
    num: int
    gfporder: int
    colour: int
    colour_off: int
    freelist_size: int
    batchcount: int
    limit: int
    shared: int
    flags: int
    allocflags: int
    refcount: int
    ctor: bool
    off_slab: bool
    objfreelist: bool
    stats: dict[str, int] = field(default_factory=dict)
    cpu_caches: dict[int, ArrayCache] = field(default_factory=dict)
    nodes: dict[int, SlabNode] = field(default_factory=dict)


@dataclass(slots=True)
class SlobCache:
    """A SLOB cache: nothing but sizes; its objects live on the shared page lists."""

    name: str
    size: int
    object_size: int
    align: int
    flags: int
    ctor: bool


@dataclass(slots=True)
class SlobPage:
    """SLOB: a partly free page; ``free`` lists its gaps as (offset, length) in SLOB units, by address."""

    pfn: int
    units: int
    free: list[tuple[int, int]]


@dataclass(slots=True)
class ExactDump:
    """One dump. ``allocator`` is "slub", "slab" or "slob", as its records show ("" when it has no caches)."""

    path: str
    number: int
    name: str
    clock_ns: int
    zones: list[ExactZone] = field(default_factory=list)
    allocator: str = ""
    slub: list[SlubCache] = field(default_factory=list)
    slab: list[SlabCache] = field(default_factory=list)
    slob: list[SlobCache] = field(default_factory=list)
    slob_unit_bytes: int = 0
    slob_lists: dict[str, list[SlobPage]] = field(default_factory=dict)

    @property
    def cpus(self) -> int:
        return max((pcp.cpu + 1 for zone in self.zones for pcp in zone.pcp), default=1)

    @property
    def nodes(self) -> int:
        return 1 + max(zone.node for zone in self.zones)

    @property
    def marker(self) -> str:
        """Text of the marker event that stands at the dump's place in its trace."""
        return f"GT_SNAP {self.number} {self.name}"
