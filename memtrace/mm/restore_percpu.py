"""
The percpu allocator in a recorded state: from /sys/kernel/debug/percpu_stats, which counts and names no places.

Laid out is what decides: the free bytes of each chunk, its first free bit, its largest free run and its empty pages.
The areas themselves are synthetic, as many as were counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memtrace.mm.percpu import PercpuAllocator
from memtrace.mm.percpu_chunk import PcpuChunk
from memtrace.mm.percpu_layout import BLOCK_BITS

if TYPE_CHECKING:
    from memtrace.snapshot.percpu import ChunkStats, PercpuStats

_LARGEST_HOLE = 16
"""Bits of the free runs that lie scattered between areas, at most: smaller than what is usually asked for."""


def restore_percpu(percpu: PercpuAllocator, stats: PercpuStats) -> None:
    """
    Lay the chunks out.

    Departs: where areas lie is synthetic; frames of populated pages are not known, and stay with whoever has them
    """
    # Lists are printed head first; a chunk goes to its list's tail when areas are placed in it.
    for known in stats.chunks:
        if known.first:
            _lay_out(percpu, percpu.first_chunk, known)
            continue
        chunk = percpu.create_chunk()
        used = _used(chunk, known)
        pages = {bit // BLOCK_BITS for start, end in used for bit in (*range(start, end, BLOCK_BITS), end - 1)}
        empty = [page for page in range(chunk.nr_pages) if page not in pages][: max(known.empty_pop_pages, 0)]
        percpu.mark_populated(chunk, sorted([*pages, *empty]))
        _lay_out(percpu, chunk, known)
    percpu.reset_statistics()


def _lay_out(percpu: PercpuAllocator, chunk: PcpuChunk, known: ChunkStats) -> None:
    used = _used(chunk, known)
    total = sum(end - start for start, end in used)
    each = max(1, total // max(1, known.nr_alloc))
    left = known.nr_alloc
    for start, end in used:
        while start < end:
            # The last of the areas counted takes what is left of its run.
            stop = min(start + each, end) if left > 1 else end
            if end - stop < each // 2:
                stop = end
            percpu.occupy(chunk, start, stop - start)
            left -= 1
            start = stop


def _used(chunk: PcpuChunk, known: ChunkStats) -> list[tuple[int, int]]:
    """Runs [start, end) of bits to be taken: all but the chunk's last free run and small holes before it."""
    begin = chunk.hints.first_free
    free = min(known.free_bytes // 4, chunk.nr_bits - begin)
    largest = min(known.contig_bytes // 4, free)
    first = max(begin, min(known.first_bit, chunk.nr_bits))
    last = chunk.nr_bits - largest
    holes = _holes(first, last, free - largest)
    edges = [begin, *(edge for hole in holes for edge in hole), last]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]


def _holes(first: int, last: int, bits: int) -> list[tuple[int, int]]:
    """``bits`` free bits between ``first`` and ``last``, the first of them at ``first``, evenly apart."""
    if bits <= 0 or last <= first:
        return []
    bits = min(bits, last - first)
    size = _LARGEST_HOLE if bits <= (last - first) // 2 else bits
    count = -(-bits // size)
    step = (last - first) // count
    holes = []
    for i in range(count):
        n = min(size, bits - i * size)
        holes.append((first + i * step, first + i * step + n))
    return holes
