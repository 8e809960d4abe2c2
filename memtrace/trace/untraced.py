"""
Operations that left no event, told by what does.

Bulk allocation, bulk free and kfree_rcu have no tracepoint (MODEL 12.6), but what they did shows: an object is freed
that nothing allocated, a pointer is handed out while in use, a slab's page is freed under live objects. When exactly
it happened does not show; here it is estimated from this trace's own objects whose whole lives were seen.
"""

from __future__ import annotations

import cython
import numpy as np

from memtrace.trace.arrays import doubled, filled
from memtrace.trace.causes import AGE_BUCKETS, AGE_OCTAVES, AGE_STEPS
from memtrace.trace.objects_seen import ObjectsSeen
from memtrace.trace.ptrmap import PtrMap

LEAST_SILENT = 8
"""Objects of a call site that must have ended without an event before the site is believed to free so."""
SILENT_SHARE = 0.9
"""Share of a call site's ended objects that must have ended without an event."""
SITE_KEY = 1 << 62


@cython.cclass
class Untraced:
    """
    What the census notes, and what follows from it.

    Attributes
    ----------
    ended_row, ended_ptr
        Frees that a page's free proves, by row of that free: the first ``n_ended``.
    wanted_*
        Frees of objects that nothing allocated (the first ``n_wanted``): name, call site, time, pointer and CPU of the
        free, time and row before which the object was certainly not allocated, and whether that was a free of it.
    bulk_names
        By vocab.name code: an object of this cache was certainly allocated without an event.
    ages
        By (key's row) * AGE_BUCKETS + bucket: objects of that age at their end.
    """

    ended_row: cython.longlong[:]
    ended_ptr: cython.ulonglong[:]
    n_ended: cython.longlong
    wanted_name: cython.int[:]
    wanted_site: cython.int[:]
    wanted_ns: cython.longlong[:]
    wanted_ptr: cython.ulonglong[:]
    wanted_cpu: cython.short[:]
    wanted_bound_ns: cython.longlong[:]
    wanted_bound_row: cython.longlong[:]
    wanted_again: cython.uchar[:]
    n_wanted: cython.longlong
    bulk_names: cython.uchar[:]
    ages: cython.int[:]
    age_keys: PtrMap
    n_keys: cython.int
    site_traced: cython.int[:]
    site_silent: cython.int[:]

    def __init__(self) -> None:
        n = 256
        self.ended_row = filled(n, np.int64)
        self.ended_ptr = filled(n, np.uint64)
        self.n_ended = 0
        self.wanted_name = filled(n, np.int32)
        self.wanted_site = filled(n, np.int32)
        self.wanted_ns = filled(n, np.int64)
        self.wanted_ptr = filled(n, np.uint64)
        self.wanted_cpu = filled(n, np.int16)
        self.wanted_bound_ns = filled(n, np.int64)
        self.wanted_bound_row = filled(n, np.int64)
        self.wanted_again = filled(n, np.uint8)
        self.n_wanted = 0
        self.bulk_names = filled(n, np.uint8)
        self.ages = filled(n * AGE_BUCKETS, np.int32)
        self.age_keys = PtrMap(10)
        self.n_keys = 0
        self.site_traced = filled(n, np.int32)
        self.site_silent = filled(n, np.int32)

    @cython.ccall
    def reserve(self, n_names: cython.longlong, n_sites: cython.longlong) -> cython.void:
        """Make room for these many codes of names and call sites."""
        while n_names > len(self.bulk_names):
            self.bulk_names = doubled(self.bulk_names)
        while n_sites > len(self.site_traced):
            self.site_traced = doubled(self.site_traced)
            self.site_silent = doubled(self.site_silent)

    @cython.cfunc
    def age(self, key: cython.ulonglong, ns: cython.longlong) -> cython.void:
        """An object of this kind ended at this age."""
        row: cython.int = self.age_keys.get(key)
        octave: cython.int = 0
        at: cython.longlong
        if row < 0:
            row = self.n_keys
            self.n_keys += 1
            self.age_keys.put(key, row)
            if (row + 1) * AGE_BUCKETS > len(self.ages):
                self.ages = doubled(self.ages)
        while octave < AGE_OCTAVES - 1 and ns >> (octave + 1) > 0:
            octave += 1
        at = (ns >> (octave - 2)) & 3 if octave >= 2 else 0
        at += cython.cast(cython.longlong, row) * AGE_BUCKETS + octave * AGE_STEPS
        self.ages[at] = self.ages[at] + 1

    @cython.cfunc
    def freed(self, name: cython.int, free_site: cython.int, alloc_site: cython.int,
              ns: cython.longlong) -> cython.void:
        """A traced allocation found its traced free."""
        if alloc_site >= 0:
            self.site_traced[alloc_site] = self.site_traced[alloc_site] + 1
        if name >= 0:
            self.age(
                (cython.cast(cython.ulonglong, name + 1) << 32) | cython.cast(cython.ulonglong, free_site + 1), ns)

    @cython.cfunc
    def silent(self, alloc_site: cython.int, ns: cython.longlong) -> cython.void:
        """A traced object turned out to have ended, at the latest at this age."""
        if alloc_site >= 0:
            self.site_silent[alloc_site] = self.site_silent[alloc_site] + 1
            self.age(cython.cast(cython.ulonglong, SITE_KEY) | cython.cast(cython.ulonglong, alloc_site), ns)

    @cython.cfunc
    def ended(self, row: cython.longlong, ptr: cython.ulonglong) -> cython.void:
        """The object's page is freed in this row."""
        if self.n_ended == len(self.ended_row):
            self.ended_row = doubled(self.ended_row)
            self.ended_ptr = doubled(self.ended_ptr)
        self.ended_row[self.n_ended] = row
        self.ended_ptr[self.n_ended] = ptr
        self.n_ended += 1

    @cython.cfunc
    def want(self, name: cython.int, site: cython.int, ns: cython.longlong, ptr: cython.ulonglong, cpu: cython.int,
             bound_ns: cython.longlong, bound_row: cython.longlong, again: cython.bint) -> cython.void:
        """An object is freed that nothing allocated."""
        k: cython.longlong = self.n_wanted
        if k == len(self.wanted_name):
            self.wanted_name = doubled(self.wanted_name)
            self.wanted_site = doubled(self.wanted_site)
            self.wanted_ns = doubled(self.wanted_ns)
            self.wanted_ptr = doubled(self.wanted_ptr)
            self.wanted_cpu = doubled(self.wanted_cpu)
            self.wanted_bound_ns = doubled(self.wanted_bound_ns)
            self.wanted_bound_row = doubled(self.wanted_bound_row)
            self.wanted_again = doubled(self.wanted_again)
        self.wanted_name[k] = name
        self.wanted_site[k] = site
        self.wanted_ns[k] = ns
        self.wanted_ptr[k] = ptr
        self.wanted_cpu[k] = cpu
        self.wanted_bound_ns[k] = bound_ns
        self.wanted_bound_row[k] = bound_row
        self.wanted_again[k] = again
        self.n_wanted = k + 1


def median_age(counts: np.ndarray) -> float:
    """The median of ages counted by bucket, in ns; NaN when there are none."""
    total = int(counts.sum())
    if total == 0:
        return float("nan")
    bucket = int(np.searchsorted(np.cumsum(counts), (total + 1) // 2))
    octave, part = divmod(bucket, AGE_STEPS)
    return float(2**octave * (1 + (part + 0.5) / AGE_STEPS)) if octave >= 2 else float(2**octave)


def missing_allocs(untraced: Untraced) -> tuple[np.ndarray, np.ndarray]:
    """
    Allocations that left no event: which of the ``wanted_*`` they are, and when they happened.

    Only for caches of which one object was certainly allocated so; elsewhere such a free is a double free. The
    object is taken to have lived as long as traced objects of its cache that were freed by the same call site do
    (median), but not longer than possible.

    Returns
    -------
    Indexes into ``wanted_*``; times in ns.
    """
    n = untraced.n_wanted
    names = np.asarray(untraced.wanted_name)[:n]
    sites = np.asarray(untraced.wanted_site)[:n]
    ages = np.asarray(untraced.ages).reshape(-1, AGE_BUCKETS)
    by_site: dict[tuple[int, int], np.ndarray] = {}
    by_name: dict[int, np.ndarray] = {}
    for key, row in untraced.age_keys.items():
        if key < SITE_KEY:
            name, site = (key >> 32) - 1, (key & 0xFFFFFFFF) - 1
            by_site[name, site] = ages[row]
            by_name[name] = by_name.get(name, 0) + ages[row]
    lived = np.full(n, np.nan)
    for name, site in {*zip(names.tolist(), sites.tolist(), strict=True)}:
        counts = by_site.get((name, site), by_name.get(name))
        if counts is not None:
            lived[(names == name) & (sites == site)] = median_age(counts)
    taken = np.flatnonzero((np.asarray(untraced.bulk_names)[names] > 0) & ~np.isnan(lived))
    born = np.asarray(untraced.wanted_ns)[taken] - lived[taken].astype(np.int64)
    return taken, np.maximum(born, np.asarray(untraced.wanted_bound_ns)[taken])


def silent_ends(untraced: Untraced, objects: ObjectsSeen, end_ns: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Objects that nothing ends, of call sites whose objects end without an event (kfree_rcu): when they ended.

    Returns
    -------
    Records; times in ns, before ``end_ns``.
    """
    live = np.flatnonzero(np.asarray(objects.cls)[: objects.n] >= 0)
    site = np.asarray(objects.site)[live]
    silent = np.asarray(untraced.site_silent)
    traced = np.asarray(untraced.site_traced)
    believed = (silent >= LEAST_SILENT) & (silent >= SILENT_SHARE * (silent + traced))
    at = np.full(len(live), end_ns, np.int64)
    ages = np.asarray(untraced.ages).reshape(-1, AGE_BUCKETS)
    for code in np.unique(site[site >= 0]).tolist():
        if believed[code]:
            of_site = site == code
            age = median_age(ages[untraced.age_keys.get(SITE_KEY | code)])
            at[of_site] = np.asarray(objects.ns)[live[of_site]] + int(age)
    ended = at < end_ns
    return live[ended], at[ended]
