"""The array of a bulk free, collected from the rows that tell of its objects."""

from __future__ import annotations

from array import array

import cython

PAGE_SHIFT = 12


@cython.cclass
class BulkArray:
    """Objects of a bulk free that is not complete yet."""

    addrs: cython.longlong[:]
    n: cython.int
    size: cython.int

    def __init__(self) -> None:
        self.n = 0
        self.size = 64
        self.addrs = array("q", [0]) * 64

    @cython.cfunc
    def add(self, addr: cython.longlong) -> cython.void:
        i: cython.int
        old: cython.longlong[:] = self.addrs
        if self.n == self.size:
            self.size *= 2
            self.addrs = array("q", [0]) * self.size
            for i in range(self.n):
                self.addrs[i] = old[i]
        self.addrs[self.n] = addr
        self.n += 1

    def take_over(self, other: BulkArray) -> None:
        """Take the objects of another array, which is empty then."""
        i: cython.int
        for i in range(other.n):
            self.add(other.addrs[i])
        other.n = 0

    @cython.ccall
    def restore_order(self, slab_of: cython.int[:]) -> cython.void:
        """
        From the order of the trace to the order in the kernel's array.

        The kernel frees an array from its end, slab by slab, and notes each slab's objects as they lie in the array
        (EXACT C1): so the trace has the array's slabs backwards and the objects of each slab forwards.
        """
        first: cython.int = 0
        end: cython.int
        self.reverse(0, self.n)
        while first < self.n:
            end = first + 1
            while end < self.n and slab_of[self.addrs[end] >> PAGE_SHIFT] == slab_of[self.addrs[first] >> PAGE_SHIFT]:
                end += 1
            self.reverse(first, end)
            first = end

    @cython.cfunc
    @cython.exceptval(check=False)
    def reverse(self, first: cython.int, end: cython.int) -> cython.void:
        """Turn the objects of [first, end) around."""
        addr: cython.longlong
        while first < end - 1:
            end -= 1
            addr = self.addrs[first]
            self.addrs[first] = self.addrs[end]
            self.addrs[end] = addr
            first += 1
