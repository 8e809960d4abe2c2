"""Handles: small numbers for things alive, reused as soon as they are free."""

from __future__ import annotations

import cython
import numpy as np

from memtrace.trace.arrays import doubled, filled


@cython.cclass
class HandlePool:
    """
    Numbers from 0 up; the one given back last is handed out first.

    Attributes
    ----------
    top
        Numbers ever handed out.
    """

    stack: cython.int[:]
    n_stack: cython.int
    top: cython.int

    def __init__(self, taken: cython.int) -> None:
        self.stack = filled(1024, np.int32)
        self.n_stack = 0
        self.top = taken

    @cython.cfunc
    def take(self) -> cython.int:
        if self.n_stack > 0:
            self.n_stack -= 1
            return self.stack[self.n_stack]
        self.top += 1
        return self.top - 1

    @cython.cfunc
    def give_back(self, handle: cython.int) -> cython.void:
        if self.n_stack == len(self.stack):
            self.stack = doubled(self.stack)
        self.stack[self.n_stack] = handle
        self.n_stack += 1
