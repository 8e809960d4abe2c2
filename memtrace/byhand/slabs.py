"""
Slabs of a machine that is called by hand, byte by byte: who holds which, under each allocator.

Whatever the allocator, a slab is drawn from pieces: objects in use, free ones, and what is no object at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..mm.constants import NIL, OBJ_LIVE, OBJ_SHEAF, OBJECT_CACHED, OBJECT_LIVE, PAGE_SHIFT, PAGE_SIZE
from ..mm.machine import Machine
from ..mm.slab import Slab
from ..mm.slob import Slob
from ..mm.slub_barns import SheafCache
from ..mm.slub_slabs import SlubCache, SlubSlabs
from ..mm.stats import NR_SLOB_LISTS, SLOB_LISTS

PieceState = Literal["live", "cached", "free", "header", "rest"]

_SLAB_LISTS = ("partial", "full", "free")
_SLOB_UNIT = 2
_SLOB_HEADER = 8


@dataclass(frozen=True, slots=True)
class Piece:
    """
    Some bytes of a slab.

    Attributes
    ----------
    offset, size
        In bytes, from the slab's start.
    state
        ``live``: an object in use; ``cached``: a free one that is kept for a CPU (SLUB's private freelist and sheaves,
        SLAB's arrays); ``free``: a free object, or a gap of SLOB's; ``header``: SLOB's note of a kmalloc's size;
        ``rest``: no object fits, colour, or not known.
    cpu
        For whom it is cached; -1 where that is no single CPU.
    owner
        Under SLOB the cache of a live object, or the list that it came from; else empty.
    """

    offset: int
    size: int
    state: PieceState
    cpu: int = -1
    owner: str = ""


@dataclass(frozen=True, slots=True)
class SlabView:
    """
    One slab, or one page of SLOB's.

    Attributes
    ----------
    cache
        Its cache, or SLOB's list.
    pfn, order, node
        The block of pages that it is.
    place
        Who has it: ``CPU 0``, ``CPU 0 partial``, ``node 0 partial``, ``full`` (on no list), …
    pieces
        By address, without gaps between them.
    """

    cache: str
    pfn: int
    order: int
    node: int
    place: str
    pieces: tuple[Piece, ...]

    def bytes_of(self, state: PieceState) -> int:
        """Bytes of all pieces of one state."""
        return sum(piece.size for piece in self.pieces if piece.state == state)

    def count(self, state: PieceState) -> int:
        """How many pieces are in one state."""
        return sum(piece.state == state for piece in self.pieces)


def slabs(machine: Machine, cache: int = NIL) -> list[SlabView]:
    """
    Slabs of a cache (-1: of all), by address.

    SLOB has none of its own for a cache: then those pages in which an object of it is in use.
    """
    allocator = machine.slab
    if isinstance(allocator, SlubSlabs):
        found = _slub(allocator, cache)
    elif isinstance(allocator, Slab):
        found = _slab(allocator, cache)
    elif isinstance(allocator, Slob):
        found = _slob(allocator, cache)
    else:
        raise NotImplementedError(f"slabs of {allocator.name} cannot be shown")
    return sorted(found, key=lambda view: view.pfn)


def _around(objects: list[Piece], total: int) -> tuple[Piece, ...]:
    """Objects by address, and between, before and behind them what is none."""
    pieces: list[Piece] = []
    at = 0
    for piece in objects:
        if piece.offset > at:
            pieces.append(Piece(at, piece.offset - at, "rest"))
        pieces.append(piece)
        at = piece.offset + piece.size
    if at < total:
        pieces.append(Piece(at, total - at, "rest"))
    return tuple(pieces)


# -- SLUB ---------------------------------------------------------------------------------------------------------


def _slub(slub: SlubSlabs, cache: int) -> Iterator[SlabView]:
    places: dict[int, str] = {}
    private: dict[int, tuple[int, int]] = {}
    keepers: dict[int, int] = {}
    for s in slub.caches:
        if cache in (NIL, s.index):
            _slub_places(slub, s, places, private)
            if isinstance(s, SheafCache):
                keepers.update(_sheaf_keepers(s))
    for row in range(slub.nr_rows):
        if slub.sl_pfn[row] == NIL or cache not in (NIL, slub.sl_cache[row]):
            continue
        s = slub.caches[slub.sl_cache[row]]
        seg = slub.sl_seg[row]
        cpu, idx = private.get(row, (-1, -1))
        held = set()
        while idx >= 0:
            held.add(idx)
            idx = slub.obj_next[seg + idx]
        objects = []
        for i in range(slub.sl_objects[row]):
            mark = slub.obj_next[seg + i]
            state: PieceState = "live" if mark == OBJ_LIVE else "cached" if mark == OBJ_SHEAF or i in held else "free"
            keeper = cpu if i in held else keepers.get((slub.sl_pfn[row] << PAGE_SHIFT) + i * s.size, -1)
            objects.append(Piece(i * s.size, s.size, state, keeper))
        order = int(slub.sl_order[row])
        yield SlabView(s.name, int(slub.sl_pfn[row]), order, int(slub.sl_node[row]), places.get(row, "full"),
                       _around(objects, PAGE_SIZE << order))


def _slub_places(
    slub: SlubSlabs, s: SlubCache, places: dict[int, str], private: dict[int, tuple[int, int]]
) -> None:
    """Note where each slab of a cache is that is not full, and the CPUs' private freelists (CPU, first object)."""
    for cpu in range(slub.nr_cpus):
        row = s.c_slab[cpu]
        if row != NIL:
            places[row] = f"CPU {cpu}"
            private[row] = (cpu, int(s.c_freelist[cpu]))
        row = s.c_partial[cpu]
        while row != NIL:
            places[row] = f"CPU {cpu} partial"
            row = slub.sl_next[row]
    for node in range(slub.nr_nodes):
        row = s.n_first[node]
        while row != NIL:
            places[row] = f"node {node} partial"
            row = slub.sl_next[row]


def _sheaf_keepers(s: SheafCache) -> Iterator[tuple[int, int]]:
    """Address of each object in a CPU's sheaf, and the CPU; what barns hold is no single CPU's."""
    for sheaves in (s.c_main, s.c_spare, s.c_rcu_free):
        for cpu, sheaf in enumerate(sheaves):
            if sheaf is not None:
                yield from ((int(sheaf.objects[i]), cpu) for i in range(sheaf.size))


# -- SLAB ---------------------------------------------------------------------------------------------------------


def _slab(slab: Slab, cache: int) -> Iterator[SlabView]:
    keepers: dict[int, int] = {}
    for s in slab.caches:
        if cache in (NIL, s.index) and not s.gone:
            keepers.update((int(array.entry[i]), cpu) for cpu, array in enumerate(s.cpu_cache)
                           for i in range(array.avail))
    for row in range(slab.nr_rows):
        if slab.sl_pfn[row] == NIL or cache not in (NIL, slab.sl_cache[row]):
            continue
        s = slab.caches[slab.sl_cache[row]]
        first = int(slab.sl_mem[row])
        start = int(slab.sl_pfn[row]) << PAGE_SHIFT
        objects = []
        for i in range(s.objects):
            state = slab.obj_state[slab.sl_seg[row] + i]
            name: PieceState = "live" if state == OBJECT_LIVE else "cached" if state == OBJECT_CACHED else "free"
            addr = first + i * s.size
            objects.append(Piece(addr - start, s.size, name, keepers.get(addr, -1)))
        place = f"node {slab.sl_node[row]} {_SLAB_LISTS[slab.sl_list[row]]}"
        yield SlabView(s.name, int(slab.sl_pfn[row]), s.order, int(slab.sl_node[row]), place,
                       _around(objects, PAGE_SIZE << s.order))


# -- SLOB ---------------------------------------------------------------------------------------------------------


def _slob(slob: Slob, cache: int) -> Iterator[SlabView]:
    by_row: dict[int, list[Piece]] = {}
    wanted: set[int] = set()
    for addr in sorted(slob.live):
        index, size = slob.live[addr] >> 16, slob.live[addr] & 0xFFFF
        row = int(slob.frames.slab[addr >> PAGE_SHIFT])
        if size == 0 or row == NIL:
            continue
        if index == cache:
            wanted.add(row)
        offset = addr & (PAGE_SIZE - 1)
        whole = -(-size // _SLOB_UNIT) * _SLOB_UNIT
        pieces = by_row.setdefault(row, [])
        if index < NR_SLOB_LISTS:
            pieces.append(Piece(offset - _SLOB_HEADER, _SLOB_HEADER, "header"))
            whole -= _SLOB_HEADER
        pieces.append(Piece(offset, whole, "live", owner=slob.caches[index].name))
    for row in range(NR_SLOB_LISTS, slob.nr_rows):
        which = int(slob.sp_list[row])
        if slob.sp_pfn[row] == NIL or not (cache in (NIL, which) or row in wanted):
            continue
        place = f"{SLOB_LISTS[which].removeprefix('slob ')} list" if slob.sp_units[row] else "full"
        pieces = sorted([*by_row.get(row, []), *_gaps(slob, row)], key=lambda piece: piece.offset)
        yield SlabView(SLOB_LISTS[which], int(slob.sp_pfn[row]), 0, int(slob.sp_node[row]), place,
                       _around(pieces, PAGE_SIZE))


def _gaps(slob: Slob, row: int) -> Iterator[Piece]:
    """Free space of one page, by address."""
    gap = slob.sp_first[row]
    while gap != NIL:
        yield Piece(_SLOB_UNIT * slob.gap_at[gap], _SLOB_UNIT * slob.gap_units[gap], "free")
        gap = slob.gap_next[gap]
