"""The second reading of a trace: its rows as requests."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from memtrace.errors import ModelError

from .causes import CAUSE_NAMES
from .columns import Columns
from .pairing_core import Pairer
from .reading import CHUNK_ROWS, TraceReader, chunks_from
from .requests import REQUEST_COLUMNS, RQ_DRAIN_ALL, RQ_KSWAPD_BEGIN, RQ_KSWAPD_END, Census, Requests
from .schema import EventChunk


class RequestStream:
    """
    The requests of a trace, in row order, in chunks.

    Iterating reads the trace again from ``start_row``; it can be done more than once, and who iterates may write to the
    requests' CPUs, and to nothing else of them.

    Parameters
    ----------
    reader
        The reader that the census was taken of: its vocabulary codes are the census's.
    census
        Taken with the same ``start_row``.
    start_row
        Rows before this one are as if they were not there.
    rows_per_chunk
        Trace rows read at a time; the requests do not depend on it, only their division into chunks.
    keep_bytes
        Memory for the requests: when all fit, another iteration does not read the trace. 0 keeps none.

    Attributes
    ----------
    counts
        After iterating: rows that became no plain request, by cause (as in Census.counts, without those
        that only the first reading can tell).
    """

    def __init__(
        self, reader: TraceReader, census: Census, *, start_row: int = 0, rows_per_chunk: int = CHUNK_ROWS,
        keep_bytes: int = 0,
    ) -> None:
        if census.plan is None or census.first_row != start_row:
            raise ModelError(
                f"RequestStream from row {start_row} with a census from row {census.first_row}; "
                "expected the census of the same rows."
            )
        self._reader = reader
        self._census = census
        self._plan = census.plan
        self._start_row = start_row
        self._rows_per_chunk = rows_per_chunk
        self._keep_bytes = keep_bytes
        self._kept: list[tuple[Requests, np.ndarray]] | None = None
        self._reclaim = sorted(
            [(row - (not begins), row, node, RQ_KSWAPD_BEGIN if begins else RQ_KSWAPD_END)
             for row, node, begins in census.kswapd] + [(row, row, -1, RQ_DRAIN_ALL) for row in census.drain_all]
        )  # fmt: skip
        """(row that it stands at, row that it stands before, node, request) of what the kernel's reclaim did."""
        self.counts: dict[str, int] = {}

    def __iter__(self) -> Iterator[Requests]:
        return self.folded(None)

    def folded(self, fold: Callable[[Requests, np.ndarray], None] | None) -> Iterator[Requests]:
        """
        The requests, each chunk changed by ``fold``.

        Parameters
        ----------
        fold
            Called with a chunk and the task of each request (-1 unknown), to put other columns in place of the chunk's.
        """
        for requests, task in self._kept_or_made():
            if fold is not None:
                fold(requests, task)
            yield requests

    def _kept_or_made(self) -> Iterator[tuple[Requests, np.ndarray]]:
        if self._kept is not None:
            for requests, task in self._kept:
                yield replace(requests, cpu=requests.cpu.copy()), task
            return
        kept: list[tuple[Requests, np.ndarray]] = []
        room = self._keep_bytes  # all of it each time: who iterated before may have given up half-way
        for requests, task in self._made():
            if room > 0:
                # A copy: who gets the chunk may change it, and the pairer's arrays have room for more.
                columns = {name: getattr(requests, name).copy() for name, _ in REQUEST_COLUMNS}
                kept.append((Requests(**columns), task))
                room -= task.nbytes + sum(column.nbytes for column in columns.values())
                if room <= 0:
                    self._keep_bytes = 0  # there is no use in trying again
                    kept.clear()
            yield requests, task
        if room > 0:
            self._kept = kept

    def _made(self) -> Iterator[tuple[Requests, np.ndarray]]:
        """Chunks of requests with the tasks that made them, from the trace's rows."""
        census = self._census
        columns = Columns()
        pairer = Pairer(columns, census.direct_map_base, self._plan, census.start_cache, census.start_order)
        for chunk in chunks_from(self._reader, self._start_row, self._rows_per_chunk):
            columns.bind(chunk, self._reader.vocab)
            pairer.pair()
            self._check_bounds(pairer)
            requests = self._with_reclaim(_requests(pairer), chunk)
            if len(requests):
                yield requests, chunk.task[requests.row - chunk.row0]
        self.counts = {name: int(n) for name, n in zip(CAUSE_NAMES, pairer.counts, strict=True) if n}

    def _with_reclaim(self, requests: Requests, chunk: EventChunk) -> Requests:
        """What reclaim did among the requests of a chunk; a run's end stands behind all requests of its last row."""
        done = self._reclaim
        first = bisect_left(done, (chunk.row0,))
        done = done[first : bisect_left(done, (chunk.row0 + len(chunk),))]
        if not done:
            return requests
        at = np.searchsorted(requests.row, [before for _, before, _, _ in done])
        rows = np.array([row for row, _, _, _ in done], np.int64)
        values: dict[str, Any] = {name: -1 for name, _ in REQUEST_COLUMNS}
        values.update(
            row=rows, ts_ns=chunk.ts_ns[rows - chunk.row0], cpu=chunk.cpu[rows - chunk.row0], flags=0, gfp=0, size=0,
            offset=0, node=[node for _, _, node, _ in done], op=[op for _, _, _, op in done],
        )
        return Requests(**{name: np.insert(getattr(requests, name), at, values[name]) for name, _ in REQUEST_COLUMNS})

    def _check_bounds(self, pairer: Pairer) -> None:
        """Who replays sizes his tables by the census and does not look again."""
        census = self._census
        if pairer.handles.top > census.max_handles or pairer.page_handles.top > census.max_page_handles:
            raise ModelError(
                f"the second reading needs {pairer.handles.top} object and {pairer.page_handles.top} page handles; "
                f"the census counted {census.max_handles} and {census.max_page_handles}. "
                "Was the trace changed in between?"
            )


def _requests(pairer: Pairer) -> Requests:
    """The pairer's requests; it makes new arrays for the next chunk, so these need no copy."""
    n = pairer.n
    names = {"cache": "cache_out"}
    return Requests(
        **{column: np.asarray(getattr(pairer, names.get(column, column)))[:n] for column, _ in REQUEST_COLUMNS}
    )
