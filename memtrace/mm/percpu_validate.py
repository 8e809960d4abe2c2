"""Validators of the percpu allocator: its books recounted from bitmaps and lists (see ``validate.py``)."""

from __future__ import annotations

from memtrace.errors import ModelError
from memtrace.mm.constants import PAGE_USED
from memtrace.mm.mmzone import Frames
from memtrace.mm.percpu import PercpuAllocator
from memtrace.mm.percpu_chunk import PcpuChunk
from memtrace.mm.percpu_layout import BLOCK_BITS


def validate_percpu(percpu: PercpuAllocator) -> None:
    """Every chunk, and what is counted over all of them."""
    empty = areas = bits = 0
    for chunk in percpu.live_chunks():
        where = f"percpu chunk {chunk.index}"
        _validate_bits(where, chunk)
        _validate_pages(where, chunk, percpu)
        if chunk is not percpu.reserved_chunk:
            _expect(f"{where}: times on its list", percpu.slots[chunk.slot].count(chunk), 1)
            if not chunk.isolated:
                empty += chunk.nr_empty_pop_pages
        areas += len(chunk.areas)
        bits += sum(chunk.areas.values())
    _expect("percpu: empty populated pages", percpu.nr_empty_pop_pages, empty)
    _expect("percpu: areas", percpu.nr_areas, areas)
    _expect("percpu: bits of areas", percpu.area_bits, bits)
    listed = sum(len(slot) for slot in percpu.slots)
    _expect("percpu: chunks on lists", listed, len(percpu.live_chunks()) - (percpu.reserved_chunk is not None))


def _validate_bits(where: str, chunk: PcpuChunk) -> None:
    """Areas lie apart, their bits are taken, and the hints promise nothing that is not there."""
    end = 0
    for bit, bits in sorted(chunk.areas.items()):
        if bit < end:
            raise ModelError(f"{where}: area at bit {bit}: found within another that ends at {end}, expected apart")
        end = bit + bits
        if chunk.taken.find(b"\0", bit, end) >= 0:
            raise ModelError(f"{where}: area of {bits} bits at {bit}: found free bits in it, expected none")
    _expect(f"{where}: free bytes", chunk.free_bytes, 4 * chunk.taken.count(b"\0"))
    first = chunk.taken.find(b"\0")
    _expect(f"{where}: first free bit", chunk.hints.first_free, first if first >= 0 else chunk.nr_bits)
    start, bits = chunk.hints.contig_hint_start, chunk.hints.contig_hint
    if bits and chunk.taken.find(b"\1", start, start + bits) >= 0:
        raise ModelError(f"{where}: largest free run of {bits} bits at {start}: found taken bits, expected none")


def _validate_pages(where: str, chunk: PcpuChunk, percpu: PercpuAllocator) -> None:
    """A populated page has a frame for every possible CPU, an unpopulated one none."""
    frames: Frames = percpu.pages.frames
    empty = 0
    for page in range(chunk.nr_pages):
        begin = page * BLOCK_BITS
        if chunk.populated[page] and chunk.taken.find(b"\1", begin, begin + BLOCK_BITS) < 0:
            empty += 1
        if chunk.immutable:
            continue
        for cpu in range(percpu.possible):
            pfn = chunk.pfns[percpu.unit_of[cpu] * chunk.nr_pages + page]
            if (pfn != -1) != bool(chunk.populated[page]):
                raise ModelError(f"{where} page {page} of CPU {cpu}: frame {pfn}, populated {chunk.populated[page]}")
            if pfn >= 0:
                _expect(f"{where} page {page} of CPU {cpu}: kind of frame {pfn:#x}", frames.kind[pfn], PAGE_USED)
    _expect(f"{where}: empty populated pages", chunk.nr_empty_pop_pages, empty)
    _expect(f"{where}: populated pages", chunk.nr_populated, sum(chunk.populated))


def _expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise ModelError(f"{what}: found {found}, expected {expected}")
