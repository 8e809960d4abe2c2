"""
Distributions of operation times, counted while the trace plays.

One histogram for each (path, cpu, cache) that occurs, made when it first occurs. Buckets are logarithmic
with 8 to an octave: exact below 16 ns, at most 1/8 of their lower bound wide above. A percentile is the
middle of its bucket, kept within the minimum and maximum seen, so it is off by at most 6.25 %.
"""

from __future__ import annotations

from array import array

import cython
import numpy as np

from memtrace.mm.paths import NR_PATHS

NR_BUCKETS = 320  # the last begins at 2**41 ns, 37 minutes
SUMS = 4  # count, sum, min, max stand before a histogram's buckets
STRIDE = NR_BUCKETS + SUMS
NO_MIN = 0x7FFFFFFFFFFFFFFF

PERCENTILES = (("p50_ns", 500), ("p90_ns", 900), ("p99_ns", 990), ("p999_ns", 999))
"""Column, and rank in thousandths."""


@cython.cclass
class LatencyTable:
    """
    Histograms by (path, cpu, cache).

    Parameters
    ----------
    cpus
        CPUs of the machine.
    """

    cpus: cython.int
    width: cython.int
    """Caches, and one for "no cache", that ``slots`` has room for in each row."""
    rows: cython.int[:]
    """By path * cpus + cpu: first of its ``width`` entries in ``slots``, or -1."""
    slots: cython.int[:]
    """By row + cache + 1: histogram number, or -1."""
    nr_slots: cython.int
    keys: cython.longlong[:]
    """By histogram: (path * cpus + cpu) * 2**32 + cache + 1."""
    nr_histograms: cython.int
    words: cython.longlong[:]
    """By histogram * STRIDE: count, sum, min, max, buckets."""

    def __init__(self, cpus: int) -> None:
        self.cpus = cpus
        self.width = 16
        self.rows = array("i", [-1]) * (NR_PATHS * cpus)
        self.slots = array("i")
        self.nr_slots = 0
        self.keys = array("q", [0]) * 16
        self.nr_histograms = 0
        self.words = array("q", [0]) * (16 * STRIDE)

    @cython.ccall
    @cython.exceptval(check=False)
    def record(self, path: cython.int, cpu: cython.int, cache: cython.int, ns: cython.longlong) -> cython.void:
        """Count one operation that took ``ns`` >= 0; ``cache`` -1 when it belongs to none."""
        row: cython.int
        slot: cython.int = -1
        if cache + 1 < self.width:
            row = self.rows[path * self.cpus + cpu]
            if row >= 0:
                slot = self.slots[row + cache + 1]
        if slot < 0:
            slot = self.new_histogram(path, cpu, cache)
        base: cython.longlong = slot * cython.cast(cython.longlong, STRIDE)
        # Not through a local variable: taking a reference to a memoryview costs an atomic operation.
        self.words[base] += 1
        self.words[base + 1] += ns
        if ns < self.words[base + 2]:
            self.words[base + 2] = ns
        if ns > self.words[base + 3]:
            self.words[base + 3] = ns
        octave: cython.int = 0
        value: cython.longlong = ns
        while value >= 256:
            value >>= 4
            octave += 4
        while value >= 16:
            value >>= 1
            octave += 1
        bucket: cython.longlong = octave * 8 + value
        if bucket >= NR_BUCKETS:
            bucket = NR_BUCKETS - 1
        self.words[base + SUMS + bucket] += 1

    @cython.cfunc
    def new_histogram(self, path: cython.int, cpu: cython.int, cache: cython.int) -> cython.int:
        """Make room for a (path, cpu, cache) that has not occurred yet; its number."""
        if cache + 1 >= self.width:
            self.widen(cache + 2)
        place: cython.int = path * self.cpus + cpu
        if self.rows[place] < 0:
            self.rows[place] = self.nr_slots
            self.slots = _longer(self.slots, "i", self.nr_slots, self.width, -1)
            self.nr_slots += self.width
        slot: cython.int = self.nr_histograms
        if slot == len(self.keys):
            self.keys = _longer(self.keys, "q", slot, slot, 0)
            self.words = _longer(self.words, "q", slot * STRIDE, slot * STRIDE, 0)
        self.slots[self.rows[place] + cache + 1] = slot
        self.keys[slot] = (cython.cast(cython.longlong, place) << 32) + cache + 1
        self.words[cython.cast(cython.longlong, slot) * STRIDE + 2] = NO_MIN
        self.nr_histograms = slot + 1
        return slot

    @cython.cfunc
    def widen(self, wanted: cython.int) -> cython.void:
        """Lay ``slots`` out anew for at least ``wanted`` caches."""
        i: cython.int
        old: cython.int = self.width
        self.width = max(2 * old, wanted)
        place: cython.int
        moved = array("i", [-1]) * (self.nr_slots // old * self.width)
        new: cython.int[:] = moved
        for place in range(NR_PATHS * self.cpus):
            if self.rows[place] >= 0:
                for i in range(old):
                    new[self.rows[place] // old * self.width + i] = self.slots[self.rows[place] + i]
                self.rows[place] = self.rows[place] // old * self.width
        self.slots = new
        self.nr_slots = len(moved)

    def columns(self) -> dict[str, object]:
        """
        The histograms as columns, sorted by path, cpu and cache.

        Returns
        -------
        path (index into PATHS), cpu, cache (-1 none), count, sum_ns, min_ns, max_ns, p50_ns, p90_ns, p99_ns,
        p999_ns as int64 arrays; ``bucket_ns`` (lower bounds of the buckets that are not empty) and
        ``bucket_count`` as lists of int64 arrays.
        """
        n: int = self.nr_histograms
        keys = np.array(self.keys, np.int64)[:n]
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        words = np.array(self.words, np.int64)[: n * STRIDE].reshape(n, STRIDE)[order]
        place = keys >> 32
        out: dict[str, object] = {
            "path": place // self.cpus,
            "cpu": place % self.cpus,
            "cache": (keys & 0xFFFFFFFF) - 1,
            "count": words[:, 0],
            "sum_ns": words[:, 1],
            "min_ns": words[:, 2],
            "max_ns": words[:, 3],
        }
        bounds = bucket_bounds()
        middles = bounds + (np.diff(bounds, append=bounds[NR_BUCKETS - 1]) - 1).clip(0) // 2
        counts = words[:, SUMS:]
        upto = counts.cumsum(axis=1)
        for name, rank in PERCENTILES:
            # The smallest time that at least rank/1000 of the operations do not exceed.
            needed = -(-words[:, 0] * rank // 1000)
            bucket = (upto >= needed[:, None]).argmax(axis=1) if n else np.zeros(0, np.int64)
            out[name] = np.clip(middles[bucket], words[:, 2], words[:, 3])
        used = [np.flatnonzero(row) for row in counts]
        out["bucket_ns"] = [bounds[which] for which in used]
        out["bucket_count"] = [row[which] for row, which in zip(counts, used, strict=True)]
        return out


def bucket_bounds() -> np.ndarray:
    """Lower bounds of all buckets in ns, int64: 0..15, then 8 to an octave."""
    bucket = np.arange(NR_BUCKETS, dtype=np.int64)
    octave = np.maximum(bucket // 8 - 1, 0)
    return (bucket - 8 * octave) << octave


def _longer(old: object, typecode: str, used: int, more: int, fill: int) -> array:
    """A copy of the first ``used`` items of a typed array with ``more`` items of ``fill`` behind them."""
    new = array(typecode)
    new.frombytes(memoryview(old)[:used].tobytes())  # type: ignore[arg-type]
    new.extend(array(typecode, [fill]) * more)
    return new
