"""The note that the model leaves of an operation: which path, which steps, under which locks."""

from __future__ import annotations

from array import array

import cython

MAX_STEPS = 512


@cython.cclass
class Itinerary:
    """
    Steps of one operation, in order; played in simulated time by ``schedule``.

    Step i is work of cost class ``cls[i]``, ``count[i]`` times; when ``lock[i]`` >= 0 it is done while
    that lock is held (and the lock is let go at its end), else without a lock. No time in here.

    An operation may leave at most ``MAX_STEPS`` steps; further ones are added to the last (none of the
    kernel's paths comes near).
    """

    n: cython.int
    path: cython.int
    lock: cython.int[:]
    cls: cython.int[:]
    count: cython.int[:]
    woken: cython.bint
    """Somebody who runs beside the CPUs is to be woken: ``wakes`` says who."""
    wakes: list
    """(WAKE_* of ``constants``, argument) since they were last taken."""

    def __init__(self) -> None:
        self.n = 0
        self.path = 0
        self.lock = array("i", [0]) * MAX_STEPS
        self.cls = array("i", [0]) * MAX_STEPS
        self.count = array("i", [0]) * MAX_STEPS
        self.woken = False
        self.wakes = []

    @cython.ccall
    @cython.exceptval(check=False)
    def reset(self) -> cython.void:
        """Forget the last operation."""
        self.n = 0
        self.path = 0

    @cython.ccall
    @cython.exceptval(check=False)
    def step(self, cls: cython.int, count: cython.int) -> cython.void:
        """Add work done without a lock."""
        self.locked(-1, cls, count)

    @cython.ccall
    @cython.exceptval(check=False)
    def locked(self, lock: cython.int, cls: cython.int, count: cython.int) -> cython.void:
        """Add work done while ``lock`` is held."""
        i: cython.int = self.n
        if i == MAX_STEPS:
            self.count[i - 1] += count
            return
        self.lock[i] = lock
        self.cls[i] = cls
        self.count[i] = count
        self.n = i + 1

    @cython.ccall
    def wake(self, kind: cython.int, argument: cython.int) -> cython.void:
        """Ask for a daemon; it runs when everything of this instant is decided. A reset leaves this as it is."""
        self.woken = True
        self.wakes.append((kind, argument))

    def take_wakes(self) -> list:
        """(kind, argument) of all daemons asked for since the last call."""
        wakes = self.wakes
        self.wakes = []
        self.woken = False
        return wakes
