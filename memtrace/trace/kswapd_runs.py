"""
When the recorded kernel's kswapd ran.

A run begins with ``mm_vmscan_kswapd_wake``; its end has no event (MODEL 10.2, EXACT B 2.8). kswapd does nothing between
its runs, so a run ends behind the last row of that task before the next wake-up or sleep.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from .schema import EventChunk, Vocab

KSWAPD_WAKE = "mm_vmscan_kswapd_wake"
KSWAPD_SLEEP = "mm_vmscan_kswapd_sleep"
_NODE = re.compile(r"\bnid=(\d+)")

KswapdEdge = tuple[int, int, bool]
"""(row, node, begins): a run begins at this row, or was over before it."""


class KswapdRuns:
    """
    Finds the runs while a trace is read.

    Parameters
    ----------
    names
        Event names of the trace. A trace without tasks shows no runs.
    """

    def __init__(self, names: Vocab) -> None:
        self._names = names
        self._node_of: dict[int, int] = {}
        self._last: dict[int, int] = {}
        self._running: set[int] = set()
        self._found: list[KswapdEdge] = []

    def feed(self, chunk: EventChunk, text: Callable[[int], str]) -> None:
        """Look at a chunk's rows of kswapd tasks; ``text`` gives the arguments of its i-th row."""
        wake = self._names.codes.get(KSWAPD_WAKE, -2)
        if wake < 0:
            return
        name, task = chunk.event_name, chunk.task
        sleep = self._names.codes.get(KSWAPD_SLEEP, -2)
        tasks = set(self._node_of) | set(task[(name == wake) | (name == sleep)].tolist())
        tasks.discard(-1)
        if not tasks:
            return
        for i in np.flatnonzero(np.isin(task, list(tasks))).tolist():
            who, row = int(task[i]), chunk.row0 + i
            if name[i] == wake:
                self._end(who)
                found = _NODE.search(text(i))
                self._node_of[who] = int(found.group(1)) if found else 0
                self._running.add(who)
                self._found.append((row, self._node_of[who], True))
            elif name[i] == sleep:
                self._end(who)
            self._last[who] = row

    def _end(self, who: int) -> None:
        if who in self._running:
            self._running.discard(who)
            self._found.append((self._last[who] + 1, self._node_of[who], False))

    def finish(self) -> list[KswapdEdge]:
        """Beginning and end of every run, by row."""
        for who in list(self._running):
            self._end(who)
        return sorted(self._found, key=lambda edge: edge[0])
