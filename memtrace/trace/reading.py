"""What a reading needs of a reader, and the one way in which rows are walked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from memtrace.errors import TraceError

from .causes import MAX_CPUS
from .schema import EventChunk, TraceVocab

CHUNK_ROWS = 1 << 17


class TraceReader(Protocol):
    """What this folder's readers offer; see `memtrace.trace.source`."""

    @property
    def vocab(self) -> TraceVocab: ...

    def chunks(self, rows_per_chunk: int) -> Iterator[EventChunk]: ...


def chunks_from(reader: TraceReader, start_row: int, rows_per_chunk: int = CHUNK_ROWS) -> Iterator[EventChunk]:
    """
    The rows of a trace from ``start_row`` on.

    Raises
    ------
    TraceError
        When a cpu number is negative; such a trace was not read by our readers.
    """
    for chunk in reader.chunks(rows_per_chunk):
        first = start_row - chunk.row0
        if first >= len(chunk):
            continue
        if first > 0:
            columns = {name: getattr(chunk, name)[first:] for name in EventChunk.__slots__ if name != "row0"}
            chunk = EventChunk(start_row, **columns)
        if len(chunk):
            lowest = int(chunk.cpu.min())
            if lowest < 0:
                row = chunk.row0 + int(chunk.cpu.argmin())
                raise TraceError(f"cpu is {lowest}; expected 0 to {MAX_CPUS - 1}. Correct the row.", "trace", row + 1)
            yield chunk
