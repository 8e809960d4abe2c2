"""Two compiled maps: any 64-bit identity to a number, and page frame to a number."""

from __future__ import annotations

import cython
import numpy as np

from memtrace.trace.arrays import doubled, filled

NIL = -1

HASH_MULTIPLIER = 0x1E3779B97F4A7C15  # odd, from the golden ratio; below 2**63 so that C takes it as it is
HASH_BITS = 62
HASH_MASK = (1 << 62) - 1
FRAME_BITS = 9  # page frames a piece of a FrameMap
FRAME_MASK = 511
FRAMES = 512


@cython.cclass
class PtrMap:
    """
    Open-addressing hash from a non-zero 64-bit key to an int, NIL until set. Keys are never removed.

    Cost: 12 bytes a slot; the table doubles when 3/5 full.

    Attributes
    ----------
    keys, vals
        The slots; a key of 0 is an empty one. Rebuilt when the table grows, so a slot number is good
        until the next call of ``slot``.
    used
        Keys in the table.
    """

    keys: cython.ulonglong[:]
    vals: cython.int[:]
    used: cython.longlong
    mask: cython.longlong
    shift: cython.longlong

    def __init__(self, bits: cython.int = 10) -> None:
        self.used = 0
        self._allocate(bits)

    @cython.cfunc
    def _allocate(self, bits: cython.longlong) -> cython.void:
        self.keys = filled(1 << bits, np.uint64)
        self.vals = filled(1 << bits, np.int32, NIL)
        self.mask = (1 << bits) - 1
        self.shift = HASH_BITS - bits

    @cython.cfunc
    @cython.exceptval(check=False)
    def find(self, key: cython.ulonglong) -> cython.longlong:
        """Slot of the key, or NIL."""
        i: cython.longlong = ((key * HASH_MULTIPLIER) & HASH_MASK) >> self.shift
        while self.keys[i] != 0:
            if self.keys[i] == key:
                return i
            i = (i + 1) & self.mask
        return NIL

    @cython.cfunc
    def slot(self, key: cython.ulonglong) -> cython.longlong:
        """Slot of the key, which is put in when it is not there."""
        i: cython.longlong = ((key * HASH_MULTIPLIER) & HASH_MASK) >> self.shift
        while self.keys[i] != 0:
            if self.keys[i] == key:
                return i
            i = (i + 1) & self.mask
        if self.used * 5 > self.mask * 3:
            self._grow()
            return self.slot(key)
        self.keys[i] = key
        self.used += 1
        return i

    @cython.ccall
    def get(self, key: cython.ulonglong) -> cython.int:
        """Value of the key, or NIL."""
        i: cython.longlong = self.find(key)
        return NIL if i < 0 else self.vals[i]

    @cython.ccall
    def put(self, key: cython.ulonglong, value: cython.int) -> cython.void:
        """Set the value of a non-zero key."""
        i: cython.longlong = self.slot(key)
        self.vals[i] = value

    @cython.cfunc
    def count(self, key: cython.ulonglong) -> cython.void:
        """Add one to the value of the key, which starts at 0."""
        i: cython.longlong = self.slot(key)
        self.vals[i] = 1 if self.vals[i] < 0 else self.vals[i] + 1

    @cython.cfunc
    def _grow(self) -> cython.void:
        keys: cython.ulonglong[:] = self.keys
        vals: cython.int[:] = self.vals
        n: cython.longlong = self.mask + 1
        i: cython.longlong
        j: cython.longlong
        self._allocate(HASH_BITS - self.shift + 1)
        for i in range(n):
            if keys[i] != 0:
                j = ((keys[i] * HASH_MULTIPLIER) & HASH_MASK) >> self.shift
                while self.keys[j] != 0:
                    j = (j + 1) & self.mask
                self.keys[j] = keys[i]
                self.vals[j] = vals[i]

    def items(self) -> list[tuple[int, int]]:
        """(key, value) of all keys, by key."""
        keys = np.asarray(self.keys)
        found = np.flatnonzero(keys)
        found = found[np.argsort(keys[found])]
        return list(zip(keys[found].tolist(), np.asarray(self.vals)[found].tolist(), strict=True))


@cython.cclass
class FrameMap:
    """
    Page frame number (>= 0, any) to an int, NIL until set; memory only where frames were set.

    Cost: 2 KiB for each 512 neighbouring frames of which one was set.
    """

    pieces: PtrMap
    pool: cython.int[:]
    n_pieces: cython.longlong
    last_key: cython.ulonglong
    last_base: cython.longlong

    def __init__(self) -> None:
        self.pieces = PtrMap(6)
        self.pool = filled(FRAMES * 16, np.int32, NIL)
        self.n_pieces = 0
        self.last_key = 0
        self.last_base = 0

    @cython.ccall
    @cython.exceptval(check=False)
    def get(self, frame: cython.longlong) -> cython.int:
        """Value of the frame, or NIL."""
        key: cython.ulonglong = (frame >> FRAME_BITS) + 1
        i: cython.longlong
        if key != self.last_key:
            i = self.pieces.find(key)
            if i < 0:
                return NIL
            self.last_key = key
            self.last_base = cython.cast(cython.longlong, self.pieces.vals[i]) << FRAME_BITS
        return self.pool[self.last_base + (frame & FRAME_MASK)]

    @cython.ccall
    def put(self, frame: cython.longlong, value: cython.int) -> cython.void:
        """Set the value of a frame."""
        key: cython.ulonglong = (frame >> FRAME_BITS) + 1
        i: cython.longlong
        if key != self.last_key:
            i = self.pieces.slot(key)
            if self.pieces.vals[i] < 0:
                if self.n_pieces << FRAME_BITS == len(self.pool):
                    self.pool = doubled(self.pool, NIL)
                self.pieces.vals[i] = self.n_pieces
                self.n_pieces += 1
            self.last_key = key
            self.last_base = cython.cast(cython.longlong, self.pieces.vals[i]) << FRAME_BITS
        self.pool[self.last_base + (frame & FRAME_MASK)] = value

