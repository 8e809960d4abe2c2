"""
When a request of the recorded kernel emptied all per-CPU page lists.

Direct reclaim brought something back, and still the request could not be served: then the kernel drains the lists of
all CPUs before it looks once more (``__alloc_pages_direct_reclaim()``). The drained pages' rows follow the reclaim's
end on that CPU; no free asked for them (EXACT B 2.9).
"""

from __future__ import annotations

import numpy as np

from .schema import EV_PCPU_DRAIN, EventChunk, Vocab

RECLAIM_END = "mm_vmscan_direct_reclaim_end"


class DrainsOfAll:
    """
    Finds them while a trace is read.

    Parameters
    ----------
    names
        Event names of the trace. One without the end of direct reclaim, or without drains, shows none.
    """

    def __init__(self, names: Vocab) -> None:
        self._names = names
        self._ended: set[int] = set()
        self._found: list[int] = []

    def feed(self, chunk: EventChunk) -> None:
        """Look at a chunk: whose next row on the CPU is a drain?"""
        end = self._names.codes.get(RECLAIM_END, -2)
        if end < 0:
            return
        ended = chunk.event_name == end
        waiting = self._ended
        for cpu in sorted(waiting | set(chunk.cpu[ended].tolist())):
            rows = np.flatnonzero(chunk.cpu == cpu)
            if not len(rows):
                continue
            behind = np.concatenate([[cpu in waiting], ended[rows]])
            drains = rows[behind[:-1] & (chunk.event[rows] == EV_PCPU_DRAIN)]
            self._found += (drains + chunk.row0).tolist()
            (waiting.add if behind[-1] else waiting.discard)(cpu)

    def finish(self) -> list[int]:
        """First row of each, ascending."""
        return sorted(self._found)
