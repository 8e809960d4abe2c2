"""Who allocates what: one row of sums for each (call site, cache) that occurs."""

from __future__ import annotations

from array import array

import cython
import numpy as np

NR_SUMS = 9
ALLOCS = 0
FREES = 1
REQUESTED = 2
ALLOCATED = 3
LIVE = 4
PEAK = 5
PINGPONG = 6
SLOWPATH = 7
WAIT = 8

SUM_NAMES = ("allocs", "frees", "bytes_requested", "bytes_allocated", "live_bytes", "peak_bytes", "pingpong",
             "slowpath", "wait_ns")

HASH_FACTOR = 0x9E3779B1  # 2**32 / golden ratio: spreads consecutive keys


@cython.cclass
class CallSiteTable:
    """
    Sums by (call site, cache); a number stands for each pair from its first appearance on.

    Call site -1 is "before the trace began", cache -1 is "pages, no cache".
    """

    nr: cython.int
    keys: cython.longlong[:]
    """By number: (site + 1) * 2**32 + cache + 1."""
    sums: cython.longlong[:]
    """By number * NR_SUMS."""
    buckets: cython.int[:]
    """Open addressing: a number, or -1."""
    mask: cython.int

    def __init__(self) -> None:
        self.nr = 0
        self.keys = array("q", [0]) * 256
        self.sums = array("q", [0]) * (256 * NR_SUMS)
        self.mask = 1023
        self.buckets = array("i", [-1]) * 1024

    @cython.ccall
    def find(self, site: cython.int, cache: cython.int) -> cython.int:
        """The number of a pair, new if need be."""
        key: cython.longlong = ((cython.cast(cython.longlong, site) + 1) << 32) + cache + 1
        at: cython.int = self.bucket_of(key)
        while self.buckets[at] >= 0:
            if self.keys[self.buckets[at]] == key:
                return self.buckets[at]
            at = (at + 1) & self.mask
        number: cython.int = self.nr
        if number == len(self.keys):
            self.grow()
            at = self.bucket_of(key)
            while self.buckets[at] >= 0:
                at = (at + 1) & self.mask
        self.buckets[at] = number
        self.keys[number] = key
        self.nr = number + 1
        return number

    @cython.cfunc
    @cython.exceptval(check=False)
    def bucket_of(self, key: cython.longlong) -> cython.int:
        # The site's low bits and the cache's both reach the bits that are kept.
        mixed: cython.longlong = ((key ^ (key >> 22)) & 0x3FFFFFFF) * HASH_FACTOR
        return (mixed >> 12) & self.mask

    @cython.cfunc
    def grow(self) -> cython.void:
        """Twice the room; a quarter of the buckets are in use at most."""
        i: cython.int
        at: cython.int
        keys = array("q", memoryview(self.keys).tolist())
        keys.extend(array("q", [0]) * len(keys))
        sums = array("q", memoryview(self.sums).tolist())
        sums.extend(array("q", [0]) * len(sums))
        self.keys = keys
        self.sums = sums
        self.mask = self.mask * 2 + 1
        self.buckets = array("i", [-1]) * (self.mask + 1)
        for i in range(self.nr):
            at = self.bucket_of(self.keys[i])
            while self.buckets[at] >= 0:
                at = (at + 1) & self.mask
            self.buckets[at] = i

    @cython.cfunc
    @cython.exceptval(check=False)
    def cache_of(self, number: cython.int) -> cython.int:
        """The cache of a pair."""
        return (self.keys[number] & 0xFFFFFFFF) - 1

    @cython.cfunc
    @cython.exceptval(check=False)
    def existed(self, number: cython.int, bytes_alloc: cython.longlong) -> cython.void:
        """Enter an object that was alive before the trace began."""
        at: cython.longlong = number * cython.cast(cython.longlong, NR_SUMS)
        self.sums[at + LIVE] += bytes_alloc
        self.sums[at + PEAK] += bytes_alloc

    @cython.cfunc
    @cython.exceptval(check=False)
    def allocated(self, number: cython.int, bytes_req: cython.longlong, bytes_alloc: cython.longlong,
                  slow: cython.bint) -> cython.void:
        """Enter one allocation."""
        at: cython.longlong = number * cython.cast(cython.longlong, NR_SUMS)
        self.sums[at + ALLOCS] += 1
        self.sums[at + REQUESTED] += bytes_req
        self.sums[at + ALLOCATED] += bytes_alloc
        self.sums[at + LIVE] += bytes_alloc
        if self.sums[at + LIVE] > self.sums[at + PEAK]:
            self.sums[at + PEAK] = self.sums[at + LIVE]
        if slow:
            self.sums[at + SLOWPATH] += 1

    @cython.cfunc
    @cython.exceptval(check=False)
    def freed(self, number: cython.int, bytes_alloc: cython.longlong, elsewhere: cython.bint,
              slow: cython.bint) -> cython.void:
        """Enter the free of an object that this pair allocated; ``elsewhere`` when on another CPU."""
        at: cython.longlong = number * cython.cast(cython.longlong, NR_SUMS)
        self.sums[at + FREES] += 1
        self.sums[at + LIVE] -= bytes_alloc
        if elsewhere:
            self.sums[at + PINGPONG] += 1
        if slow:
            self.sums[at + SLOWPATH] += 1

    @cython.ccall
    def waited(self, number: cython.int, wait_ns: cython.longlong) -> cython.void:
        """Enter time spent waiting for locks."""
        self.sums[number * cython.cast(cython.longlong, NR_SUMS) + WAIT] += wait_ns

    def columns(self) -> dict[str, np.ndarray]:
        """call_site (vocabulary code, -1 none), cache (-1 none) and the sums: int64, in order of first appearance."""
        n: int = self.nr
        keys = np.array(self.keys, np.int64)[:n]
        sums = np.array(self.sums, np.int64)[: n * NR_SUMS].reshape(n, NR_SUMS)
        out = {"call_site": (keys >> 32) - 1, "cache": (keys & 0xFFFFFFFF) - 1}
        for i, name in enumerate(SUM_NAMES):
            out[name] = sums[:, i]
        return out
