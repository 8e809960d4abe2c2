"""What a reader found wrong with a trace and could go on with: counted by cause, the first place kept."""

from __future__ import annotations

import numpy as np

from .schema import EV_OTHER, EventChunk


class Problems:
    """
    Counts by cause, with the first line or row of each.

    Attributes
    ----------
    counts
        How many, by cause; docs/trace-formats.md explains each.
    rows
        Line of a text file, or row of a table, of the first one; counted from 1, 0 when it has no place.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.rows: dict[str, int] = {}

    def add(self, cause: str, n: int = 1, row: int = 0) -> None:
        if n:
            self.counts[cause] = self.counts.get(cause, 0) + n
            self.rows.setdefault(cause, row)

    def copy(self) -> Problems:
        other = Problems()
        other.counts.update(self.counts)
        other.rows.update(self.rows)
        return other


class Settler:
    """
    Makes the rows of a trace what `EventChunk` promises: time from 0, never going back.

    Rows keep the order of the file; a time that goes back is set to the one before it.

    Parameters
    ----------
    problems
        Gets ``time_backwards`` and ``unknown_event``.
    lost_code
        Code in the event vocabulary of rows that stand for lost events: not unknown.
    """

    def __init__(self, problems: Problems, lost_code: int) -> None:
        self._problems = problems
        self._lost_code = lost_code
        self._t0_ns: int | None = None
        self._last_ns = 0

    def settle(self, chunk: EventChunk, line: np.ndarray | None = None) -> None:
        """Corrects ``chunk.ts_ns`` in place; ``line`` is each row's line, else rows are counted."""
        if not len(chunk):
            return
        if self._t0_ns is None:
            self._t0_ns = int(chunk.ts_ns[0])
        ts = chunk.ts_ns
        if self._t0_ns:
            ts -= self._t0_ns
        if ts[0] < self._last_ns or (len(ts) > 1 and (ts[1:] < ts[:-1]).any()):
            wanted = np.maximum(np.maximum.accumulate(ts), self._last_ns)
            late = np.flatnonzero(ts < wanted)
            self._problems.add("time_backwards", len(late), self._place(chunk, line, late[0]))
            chunk.ts_ns = ts = wanted
        self._last_ns = int(ts[-1])
        other = (chunk.event == EV_OTHER) & (chunk.event_name != self._lost_code)
        if other.any():
            self._problems.add(
                "unknown_event", int(np.count_nonzero(other)), self._place(chunk, line, int(other.argmax()))
            )

    @staticmethod
    def _place(chunk: EventChunk, line: np.ndarray | None, i: int) -> int:
        return int(line[i]) if line is not None else chunk.row0 + int(i) + 1
