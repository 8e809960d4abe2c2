"""Locks as FIFO servers, and what waiting for them cost."""

from __future__ import annotations

from array import array

import cython
import numpy as np

STRIDE = 6
FREE_AT = 0
ACQUISITIONS = 1
CONTENDED = 2
WAIT = 3
HOLD = 4
MAX_WAIT = 5


@cython.cclass
class LockTable:
    """
    The locks of a machine, by the numbers that itineraries name them with.

    Parameters
    ----------
    nr_locks
        How many there are at the start; later ones are added when first taken.
    """

    words: cython.longlong[:]
    """By lock * STRIDE: when it is free again (ns), then the statistics."""
    nr: cython.int

    def __init__(self, nr_locks: int) -> None:
        self.nr = nr_locks
        self.words = array("q", [0]) * (max(1, nr_locks) * STRIDE)

    @cython.ccall
    def take(self, lock: cython.int, asked_ns: cython.longlong, hold_ns: cython.longlong) -> cython.longlong:
        """Queue for a lock at ``asked_ns``, hold it for ``hold_ns``; the time at which it was granted."""
        if lock >= self.nr:
            self.grow(lock + 1)
        granted: cython.longlong = self.words[lock * STRIDE + FREE_AT]
        if granted < asked_ns:
            granted = asked_ns
        self.words[lock * STRIDE + FREE_AT] = granted + hold_ns
        self.count(lock, granted - asked_ns, hold_ns)
        return granted

    @cython.ccall
    def count(self, lock: cython.int, wait_ns: cython.longlong, hold_ns: cython.longlong) -> cython.void:
        """Enter one acquisition in the statistics."""
        if lock >= self.nr:
            self.grow(lock + 1)
        at: cython.int = lock * STRIDE
        self.words[at + ACQUISITIONS] += 1
        self.words[at + HOLD] += hold_ns
        if wait_ns > 0:
            self.words[at + CONTENDED] += 1
            self.words[at + WAIT] += wait_ns
            if wait_ns > self.words[at + MAX_WAIT]:
                self.words[at + MAX_WAIT] = wait_ns

    @cython.cfunc
    def grow(self, wanted: cython.int) -> cython.void:
        bigger = array("q", memoryview(self.words).tolist())
        bigger.extend(array("q", [0]) * (wanted * STRIDE - len(bigger)))
        self.words = bigger
        self.nr = wanted

    def columns(self) -> dict[str, np.ndarray]:
        """lock (number), acquisitions, contended, wait_ns, hold_ns, max_wait_ns: int64, one row a lock ever taken."""
        table = np.array(self.words, np.int64)[: self.nr * STRIDE].reshape(self.nr, STRIDE)
        taken = np.flatnonzero(table[:, ACQUISITIONS])
        return {
            "lock": taken,
            "acquisitions": table[taken, ACQUISITIONS],
            "contended": table[taken, CONTENDED],
            "wait_ns": table[taken, WAIT],
            "hold_ns": table[taken, HOLD],
            "max_wait_ns": table[taken, MAX_WAIT],
        }
