"""A part of a trace, by row and by time, as a reader of its own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .reading import TraceReader, chunks_from
from .schema import EventChunk, TraceVocab


class TraceWindow:
    """
    The rows of ``reader`` from ``first_row`` on whose time lies in ``[begin, end)``; row numbers stay.

    Parameters
    ----------
    window_ns
        (begin, end), ns since the trace's first event; None for all.
    """

    def __init__(self, reader: TraceReader, first_row: int, window_ns: tuple[int, int] | None) -> None:
        self._reader = reader
        self._first_row = first_row
        self._window_ns = window_ns

    @property
    def vocab(self) -> TraceVocab:
        return self._reader.vocab

    @property
    def problems(self) -> dict[str, int]:
        return getattr(self._reader, "problems", {})

    def chunks(self, rows_per_chunk: int) -> Iterator[EventChunk]:
        for chunk in chunks_from(self._reader, self._first_row, rows_per_chunk):
            if self._window_ns is None:
                yield chunk
                continue
            begin, end = (int(i) for i in np.searchsorted(chunk.ts_ns, self._window_ns))
            if begin < end:
                columns = {name: getattr(chunk, name)[begin:end] for name in EventChunk.__slots__ if name != "row0"}
                yield EventChunk(chunk.row0 + begin, **columns)
            if end < len(chunk):
                return
