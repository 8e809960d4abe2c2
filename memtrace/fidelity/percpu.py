"""
The percpu allocator forced along a recording: every area where it was, each choice of the model's compared.

The trace says where each area lay (its chunk and offset). The model chooses by the same code as in a replay; when it
chose otherwise, the recorded place is forced. Areas older than the trace show only by being passed over: where the
model would place an area on bytes that no row has ever shown, something has been there all along (``HELD``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from memtrace.machines import load_machine, machine_from_exact, machine_from_proc
from memtrace.mm.boot import boot
from memtrace.mm.percpu import PercpuAllocator
from memtrace.mm.percpu_chunk import PcpuChunk
from memtrace.mm.percpu_layout import PCPU_EMPTY_POP_PAGES_LOW, percpu_layout
from memtrace.snapshot.percpu import PercpuStats, read_percpu_chunks
from memtrace.snapshot.proc import read_proc
from memtrace.trace.percpu_events import PercpuFields, page_mask, parse_percpu
from memtrace.trace.schema import EV_MARKER, EV_PERCPU_ALLOC, EV_PERCPU_CREATE_CHUNK, EV_PERCPU_FREE

from .table import FORCED, Table

if TYPE_CHECKING:
    from memtrace.config import MachineConfig

    from .recording import Recording

PLACES = "percpu areas at the recorded place"
SIZES = "percpu bytes_alloc"
LAYOUT = "percpu unit and first chunk, bytes"
CHUNKS = "percpu chunks created when recorded"
STATS = "percpu_stats of every chunk"
HELD = "percpu: bytes that something older than the trace takes, seen by being passed over"
WHOLE = "whole trace"
MEMORY = 1 << 30
"""Of the machine that the model's pages come from: where they come from is not compared here."""


def force_percpu(recording: Recording, table: Table) -> None:
    """Compare every percpu event of a trace from its first row, and percpu_stats at every snapshot that has it."""
    stats = {}
    for snapshot in [recording.start, *recording.later]:
        found = read_percpu_chunks(snapshot.folder) if snapshot is not None else None
        if snapshot is not None and found is not None:
            stats[snapshot.name] = found
    rows = list(_rows(recording))
    if not any(event == EV_PERCPU_ALLOC for _, event, _ in rows):
        return
    forced = _Forced(recording, next(iter(stats.values()), None), rows, table)
    for row, event, text in rows:
        if event == EV_MARKER:
            # The file's own marker stands just before it is read; the snapshot's before all its files.
            words = text.split()
            if words[:1] == ["SNAP_BEGIN"]:
                forced.snapshot = words[-1]
            elif text.endswith("percpu_stats") and forced.snapshot in stats:
                forced.compare_stats(stats[forced.snapshot])
        else:
            forced.event(row, event, parse_percpu(text))
    forced.finish()


def _rows(recording: Recording) -> Iterator[tuple[int, int, str]]:
    """(row, event, text) of percpu events and markers."""
    wanted = (EV_MARKER, EV_PERCPU_ALLOC, EV_PERCPU_FREE, EV_PERCPU_CREATE_CHUNK)
    with recording.open(("ts_ns", "cpu", "event", "text")) as reader:
        for chunk in reader.chunks():
            for i in np.flatnonzero(np.isin(chunk.event, wanted) & (chunk.text >= 0)).tolist():
                yield chunk.row0 + i, int(chunk.event[i]), reader.vocab.text.names[chunk.text[i]]


class _Forced:
    """The model's allocator, and what is known of the recorded one."""

    def __init__(self, recording: Recording, stats: PercpuStats | None, rows: list[tuple[int, int, str]],
                 table: Table) -> None:
        self.table = table
        self.snapshot = ""
        first = [parse_percpu(text) for _, event, text in rows if event == EV_PERCPU_ALLOC]
        config = _config(recording)
        cpus = config.possible_cpus
        if stats is not None:
            params = replace(
                recording.kernel.percpu, static_size=stats.static_size, reserved_size=stats.reserved_size,
                dyn_size=stats.dyn_size, atom_size=stats.atom_size)
        else:
            params = replace(recording.kernel.percpu, static_size=_static_size(first), reserved_size=0)
        memcg = any(f.bytes_alloc == _rounded(f.size) * (cpus + 2) for f in first)
        machine = boot(load_machine("vm-512m-4cpu", cpus, MEMORY, config.nodes), recording.kernel)
        self.percpu = PercpuAllocator(machine.pages, percpu_layout(config, params), memcg)
        self.extent: dict[int, int] = {}
        for fields in first:
            self.extent[fields.base_addr] = max(self.extent.get(fields.base_addr, 0), fields.off + fields.size)
        self.chunks: dict[int, PcpuChunk] = {}
        self.places: dict[int, tuple[PcpuChunk, int]] = {}
        self.held: dict[tuple[int, int], None] = {}
        self.shown: dict[int, bytearray] = {}
        self.unknown = self.compared = self.same = self.sized = self.created = self.foreseen = 0
        if stats is not None:
            layout = self.percpu.layout
            self.table.quantities(
                LAYOUT, FORCED, WHOLE, {"unit_size": stats.unit_size, "dyn_size": stats.dyn_size},
                {"unit_size": layout.unit_size, "dyn_size": layout.dyn_size})

    def event(self, row: int, event: int, fields: PercpuFields) -> None:
        """One row."""
        if event == EV_PERCPU_CREATE_CHUNK:
            newest = self.percpu.live_chunks()[-1]
            self.created += 1
            if any(newest is chunk for chunk in self.chunks.values()):
                newest = self.percpu.create_chunk()
            else:
                self.foreseen += 1
            self.chunks[fields.base_addr] = newest
            self.show(newest, 0, newest.nr_bits)  # nothing in it is older than the trace
        elif not self.fits(fields):
            self.unknown += 1
        elif event == EV_PERCPU_FREE:
            place = self.places.pop(fields.ptr or 0, None)
            if place is not None:
                self.percpu.release_area(*place)
            else:
                self.free_held(self.chunk(fields.base_addr), fields.off // 4)
        elif fields.size > 0:
            self.alloc(row, fields)

    def fits(self, fields: PercpuFields) -> bool:
        """Does the row say a place, in a chunk no larger than the model's?"""
        if fields.ptr is None or fields.off < 0:
            return False
        return 0 < self.extent.get(fields.base_addr, 0) <= self.percpu.unit_size

    def chunk(self, base_addr: int) -> PcpuChunk:
        """The chunk there; the first that any row names is the one of boot, if all that is seen in it fits there."""
        if base_addr not in self.chunks:
            boots = not self.chunks and self.extent[base_addr] <= self.percpu.first_chunk.nr_bits * 4
            self.chunks[base_addr] = self.percpu.first_chunk if boots else self.percpu.create_chunk()
        return self.chunks[base_addr]

    def alloc(self, row: int, fields: PercpuFields) -> None:
        """Let the model choose, compare, and put the area where it was."""
        percpu = self.percpu
        chunk, bit, bits = self.chunk(fields.base_addr), fields.off // 4, _rounded(fields.size) // 4
        if fields.bytes_alloc > 0:
            self.sized += percpu.full_size(fields.size) == fields.bytes_alloc
        self.compared += 1
        while True:
            found = percpu.find_area(bits, max(fields.align, 4) // 4, fields.reserved, fields.atomic)
            place = (percpu.found, found) if found >= 0 else None
            if place == (chunk, bit):
                self.same += 1
                break
            if place is not None:
                percpu.release_area(*place)
            if self.trim_held(chunk, bit, bits):
                continue
            if place is None or not self.may_be_held(*place, bits, chunk, bit):
                self.table.differ(PLACES, FORCED, WHOLE, f"{fields.size} bytes", f"{fields.base_addr:#x}+{fields.off}",
                                  place and f"chunk {place[0].index}+{4 * place[1]}", 1, row)
                percpu.occupy(chunk, bit, bits)
                break
            n = min(bits, bit - place[1]) if place[0] is chunk else bits
            percpu.occupy(*place, n)
            self.held[place[0].index, place[1]] = None
            self.table.repair(HELD, 4 * n)
        self.places[fields.ptr or 0] = (chunk, bit)
        self.show(chunk, bit, bits)
        if not fields.atomic:
            percpu.populate_area(chunk, bit, bits, page_mask(max(fields.gfp, 0)), 0)
        if percpu.nr_empty_pop_pages < PCPU_EMPTY_POP_PAGES_LOW:
            percpu.balance(0)

    def may_be_held(self, where: PcpuChunk, at: int, bits: int, chunk: PcpuChunk, bit: int) -> bool:
        """Would the kernel have found these bits before the recorded ones, and has no row ever shown them?"""
        if where is chunk and at > bit:
            return False
        return not any(self.shown.get(where.index, b"")[at : min(at + bits, bit) if where is chunk else at + bits])

    def show(self, chunk: PcpuChunk, bit: int, bits: int) -> None:
        shown = self.shown.setdefault(chunk.index, bytearray(chunk.nr_bits))
        shown[bit : bit + bits] = b"\1" * bits

    def free_held(self, chunk: PcpuChunk, bit: int) -> None:
        """An area older than the trace is freed; its size shows nowhere, so it is what was held from there on."""
        while (chunk.index, bit) in self.held:
            del self.held[chunk.index, bit]
            bits = chunk.areas[bit]
            self.percpu.release_area(chunk, bit)
            bit += bits

    def trim_held(self, chunk: PcpuChunk, bit: int, bits: int) -> bool:
        """More was taken to be held than was: leave off what a recorded area lies on. Whether there was any."""
        end = bit + bits
        wide = [start for index, start in self.held
                if index == chunk.index and start < end and bit < start + chunk.areas[start]]
        for start in wide:
            stop = start + chunk.areas[start]
            del self.held[chunk.index, start]
            self.percpu.release_area(chunk, start)
            for a, b in ((start, min(stop, bit)), (max(start, end), stop)):
                if a < b:
                    self.percpu.occupy(chunk, a, b - a)
                    self.held[chunk.index, a] = None
            self.table.repair(HELD, -4 * (min(stop, end) - max(start, bit)))
        return bool(wide)

    def compare_stats(self, stats: PercpuStats) -> None:
        """Chunk by chunk, in the order of the lists, as the file is printed."""
        ours = [chunk for slot in self.percpu.slots for chunk in slot]
        recorded: dict[str, int] = {"chunks": len(stats.chunks)}
        model: dict[str, int] = {"chunks": len(ours)}
        for i, real in enumerate(stats.chunks):
            recorded |= {f"chunk {i} free_bytes": real.free_bytes, f"chunk {i} contig_bytes": real.contig_bytes,
                         f"chunk {i} first_bit": real.first_bit, f"chunk {i} empty_pop_pages": real.empty_pop_pages}
        for i, chunk in enumerate(ours[: len(stats.chunks)]):
            model |= {f"chunk {i} free_bytes": chunk.free_bytes, f"chunk {i} first_bit": chunk.hints.first_free,
                      f"chunk {i} contig_bytes": 4 * chunk.hints.contig_hint,
                      f"chunk {i} empty_pop_pages": chunk.nr_empty_pop_pages}
        self.table.quantities(STATS, FORCED, self.snapshot, recorded, model)

    def finish(self) -> None:
        """The rows of the whole trace."""
        if self.unknown:
            self.table.notes.append(f"{self.unknown} percpu events could not be compared: no place in them, or none of "
                                    "the chunks known.")
        self.table.decisions(PLACES, FORCED, WHOLE, self.compared, self.same)
        self.table.decisions(SIZES, FORCED, WHOLE, self.compared, self.sized)
        self.table.decisions(CHUNKS, FORCED, WHOLE, self.created, self.foreseen)


def _rounded(size: int) -> int:
    return -(-size // 4) * 4


def _static_size(allocs: list[PercpuFields]) -> int:
    """
    Where areas begin in the first units, of a kernel that numbers per-CPU pointers from 0 (x86-64): the static and
    reserved parts; -1 when the pointers do not tell.
    """
    first = [f for f in allocs if f.base_addr == allocs[0].base_addr and f.ptr is not None]
    start = (first[0].ptr or 0) - first[0].off
    return start + min(f.off for f in first) if 0 < start < 16 << 20 else -1


def _config(recording: Recording) -> MachineConfig:
    start = recording.start
    if start is None:
        return load_machine("vm-512m-4cpu")
    return machine_from_exact(start.dump) if start.dump is not None else machine_from_proc(read_proc(start.folder))
