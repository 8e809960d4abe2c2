"""The first reading of a trace: what is in it, which cache and which owner everything has."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .causes import (
    C_DOUBLE_FREE,
    C_FREE_OF_UNTRACED_ALLOC,
    C_PERCPU_PAGE_OWNED,
    C_UNTRACED_ALLOC,
    C_UNTRACED_FREE_BY_PAGE,
    C_UNTRACED_FREE_BY_SITE,
    CAUSE_NAMES,
    CLASS_KMALLOC,
    CLASS_NAMED,
    CLASS_SITE,
    LARGE_KMALLOC_BYTES,
    PTR_FRAME,
)
from .census_core import CensusScan
from .columns import Columns
from .drain_all import DrainsOfAll
from .kswapd_runs import KswapdRuns
from .naming import (
    MIXED_PAGES_SHARE,
    AllocClass,
    Votes,
    kmalloc_cache_name,
    name_by_function,
    name_classes,
    unknown_name,
    unnamed_groups,
    unpack_links,
    unpack_votes,
)
from .ownership import DirectMap, find_direct_map
from .page_lists import PageListsSeen
from .reading import TraceReader, chunks_from
from .requests import Census, PairingPlan, TraceCache
from .schema import EventChunk, TraceVocab
from .untraced import missing_allocs, silent_ends

LARGE_KMALLOC_ORDER = 2
"""The smallest block of a large kmalloc: more than two pages."""


def take_census(
    reader: TraceReader, *, start_row: int = 0, progress: Callable[[int], None] | None = None
) -> Census:
    """
    Read a trace once and find out what its second reading must know beforehand.

    Parameters
    ----------
    reader
        An open trace; its chunks can be read again.
    start_row
        Rows before this one are as if they were not there.
    progress
        Called after each chunk with the number of rows read.

    Returns
    -------
    The census, with the plan that `RequestStream` follows.

    Raises
    ------
    TraceError
        When a row cannot be (a negative cpu).
    """
    direct_map = find_direct_map(reader, start_row)
    columns = Columns()
    scan = CensusScan(columns, direct_map.base)
    census = Census(first_row=start_row, direct_map_base=direct_map.base, base_support=direct_map.support)
    kswapd, drains = KswapdRuns(reader.vocab.event), DrainsOfAll(reader.vocab.event)
    page_lists = PageListsSeen()
    events = np.zeros(0, np.int64)
    first_ts = last_ts = 0
    for chunk in chunks_from(reader, start_row):
        if census.rows == 0:
            first_ts = int(chunk.ts_ns[0])
        last_ts = int(chunk.ts_ns[-1])
        columns.bind(chunk, reader.vocab)
        scan.untraced.reserve(len(reader.vocab.name), len(reader.vocab.call_site))
        scan.scan()
        kswapd.feed(chunk, partial(_text_of, chunk, reader.vocab))
        drains.feed(chunk)
        page_lists.feed(chunk)
        seen = np.bincount(chunk.event_name + 1, minlength=len(events))
        seen[: len(events)] += events
        events = seen
        census.rows += len(chunk)
        census.cpus = max(census.cpus, int(chunk.cpu.max()) + 1)
        census.has_tasks = census.has_tasks or bool(chunk.task.max() >= 0)
        census.max_pfn = max(census.max_pfn, int(chunk.pfn.max()))
        if progress is not None:
            progress(census.rows)
    scan.finish()
    census.kswapd = kswapd.finish()
    census.drain_all = drains.finish()
    census.page_lists = page_lists.finish()
    census.span_ns = last_ts - first_ts
    census.end_ns = last_ts
    census.events = {
        reader.vocab.event.names[code - 1] if code else "(no name)": int(n) for code, n in enumerate(events) if n
    }
    census.lost = getattr(reader, "problems", {}).get("lost_events", 0)
    _name_caches(census, scan, reader.vocab)
    census.max_handles += scan.n_start + scan.peak
    census.start_percpu = scan.percpu.start
    census.percpu = scan.percpu_allocs > 0
    census.max_page_handles = scan.pages.n_start + scan.pages.peak + scan.pages.max_delay
    if not census.percpu:
        census.max_page_handles += scan.counts[C_PERCPU_PAGE_OWNED]  # then these are ordinary pages
    census.counts.update({name: int(n) for name, n in zip(CAUSE_NAMES, scan.counts, strict=True) if n})
    if census.lost:
        census.counts["lost_events"] = census.lost
    census.notes = _notes(census, direct_map)
    return census


def _text_of(chunk: EventChunk, vocab: TraceVocab, i: int) -> str:
    return vocab.text.names[chunk.text[i]] if chunk.text[i] >= 0 else ""


def _classes(scan: CensusScan) -> list[AllocClass]:
    seen = scan.classes
    return [
        AllocClass(
            seen.c_kind[i], seen.c_site[i], seen.c_name[i] if seen.c_kind[i] == CLASS_NAMED else -1,
            seen.c_req[i], seen.c_alloc[i], seen.c_allocs[i], bool(seen.c_reclaimable[i]),
            seen.c_family[i],
        )
        for i in range(seen.n_classes)
    ]


class _Caches:
    """The caches of a trace, made in the order in which they are asked for."""

    def __init__(self) -> None:
        self.list: list[TraceCache] = []
        self._index: dict[str, int] = {}

    def index(self, name: str, inferred: bool = False) -> int:
        found = self._index.get(name)
        if found is None:
            found = self._index[name] = len(self.list)
            self.list.append(TraceCache(name, inferred=inferred))
        return found


def _name_caches(census: Census, scan: CensusScan, vocab: TraceVocab) -> None:
    """Give every class, name and object its cache, and leave the plan for the second reading."""
    classes = _classes(scan)
    by_free, by_page = unpack_votes(scan.classes.votes.items())
    mixed = scan.classes.met > 0 and scan.classes.mixed > MIXED_PAGES_SHARE * scan.classes.met
    votes = Votes(by_free, by_page, unpack_links(scan.classes.links.items()), mixed)
    names = name_classes(classes, votes)
    groups = unnamed_groups(classes, names, votes)

    caches = _Caches()
    cache_of_name = np.full(len(vocab.name), -1, np.int32)
    for code in scan.classes.names_seen[: scan.classes.n_names]:
        cache_of_name[code] = caches.index(vocab.name.names[code])
    cache_of_class = np.full(len(classes), -1, np.int32)
    for i, cls in enumerate(classes):
        if names[i] >= 0:
            cache_of_class[i] = cache_of_name[names[i]]
        elif cls.kind == CLASS_SITE:
            first = classes[groups[i]]
            site = vocab.call_site.names[first.site] if first.site >= 0 else "?"
            name = name_by_function(site) or unknown_name(first, site)
            cache_of_class[i] = caches.index(name, inferred=True)
    _describe(caches.list, classes, cache_of_class)
    for name_code, object_size in scan.created:
        created = caches.list[cache_of_name[name_code]]
        created.created = True
        created.object_size = object_size
    _count_inferred(census, classes, names)
    kmalloc_cache = np.array(
        [caches.index(name) if (name := kmalloc_cache_name(cls)) else -1 for cls in classes], np.int32
    )
    _start_objects(census, scan, classes, cache_of_name, np.where(kmalloc_cache >= 0, kmalloc_cache, cache_of_class))
    census.caches = caches.list
    for cls, cache in zip(classes, kmalloc_cache, strict=True):
        if cache >= 0:
            census.caches[cache].size = cls.bytes_alloc
            census.caches[cache].object_size = cls.bytes_alloc
            census.caches[cache].allocs += cls.allocs

    extra = _extra_requests(census, scan, cache_of_name)
    ended = slice(scan.untraced.n_ended)
    site = np.array([cls.kind == CLASS_SITE for cls in classes], bool)
    frames = np.array(scan.pages.start_pfn[: scan.pages.n_start], np.int64)
    census.start_pfn = np.where(frames >= PTR_FRAME, -1, frames)
    census.start_order = np.array(scan.pages.start_order[: scan.pages.n_start], np.int16)
    census.plan = PairingPlan(
        start_ptr=np.array(scan.start_ptr[: scan.n_start], np.uint64),
        start_frame=frames,
        cache_of_name=cache_of_name,
        class_keys=np.array(scan.classes.c_key[: scan.classes.n_classes], np.uint64)[site],
        class_cache=cache_of_class[site],
        page_verdict=np.array(scan.pages.verdict[: scan.pages.ordinal // 4 + 1], np.uint8),
        bulk_last=np.array(scan.bulk_last[: scan.n_bulk // 8 + 1], np.uint8),
        doubled_rows=np.sort(np.array(scan.doubled_rows[: scan.n_doubled], np.int64)),
        ended_row=np.array(scan.untraced.ended_row[ended], np.int64),
        ended_ptr=np.array(scan.untraced.ended_ptr[ended], np.uint64),
        extra_ns=extra[0], extra_row=extra[1], extra_ptr=extra[2], extra_cache=extra[3], extra_cpu=extra[4],
        start_percpu=scan.percpu.start,
        owns_percpu=scan.percpu_allocs > 0,
    )


def _extra_requests(census: Census, scan: CensusScan, cache_of_name: np.ndarray) -> tuple[np.ndarray, ...]:
    """Requests that left no event and whose time is estimated, in order: PairingPlan.extra_*."""
    untraced, objects = scan.untraced, scan.objects
    taken, born = missing_allocs(untraced)
    ended, end = silent_ends(untraced, objects, census.end_ns)
    name = np.asarray(untraced.wanted_name)[taken]
    again = int(np.asarray(untraced.wanted_again)[taken].sum())
    scan.counts[C_UNTRACED_ALLOC] += len(taken)
    scan.counts[C_DOUBLE_FREE] -= again
    scan.counts[C_FREE_OF_UNTRACED_ALLOC] -= len(taken) - again
    scan.counts[C_UNTRACED_FREE_BY_PAGE] += untraced.n_ended
    scan.counts[C_UNTRACED_FREE_BY_SITE] += len(ended)
    # All that live at once, at most: each from its allocation to its free.
    changes = np.concatenate([born, np.asarray(untraced.wanted_ns)[taken]])
    order = np.lexsort((np.arange(len(changes)), changes))
    alive = np.cumsum(np.where(order < len(born), 1, -1))
    census.max_handles += int(alive.max(initial=0))
    ns = np.concatenate([born, end])
    row = np.concatenate([np.asarray(untraced.wanted_bound_row)[taken], np.asarray(objects.row)[ended]]) + 1
    ptr = np.concatenate([np.asarray(untraced.wanted_ptr)[taken], np.asarray(objects.ptr)[ended]])
    cache = np.concatenate([cache_of_name[name], np.full(len(ended), -1, np.int32)])
    cpu = np.concatenate([np.asarray(untraced.wanted_cpu)[taken], np.asarray(objects.cpu)[ended]])
    order = np.lexsort((row, ns))
    return (ns[order], row[order], ptr[order].astype(np.uint64), cache[order].astype(np.int32),
            cpu[order].astype(np.int16))


def _describe(caches: list[TraceCache], classes: list[AllocClass], cache_of_class: np.ndarray) -> None:
    for cls, index in zip(classes, cache_of_class, strict=True):
        if index < 0:
            continue
        cache = caches[index]
        cache.object_size = max(cache.object_size, cls.bytes_req)
        cache.size = max(cache.size, cls.bytes_alloc)
        cache.reclaimable |= cls.reclaimable
        cache.allocs += cls.allocs


def _count_inferred(census: Census, classes: list[AllocClass], names: np.ndarray) -> None:
    """Allocations whose cache no event of theirs named: found by rule, and not found at all."""
    inferred = sum(cls.allocs for cls, name in zip(classes, names, strict=True)
                   if cls.kind == CLASS_SITE and name >= 0)
    unknown = sum(cls.allocs for cls, name in zip(classes, names, strict=True) if cls.kind == CLASS_SITE and name < 0)
    for cause, n in (("cache_inferred", inferred), ("cache_unknown", unknown)):
        if n:
            census.counts[cause] = n


def _start_objects(
    census: Census, scan: CensusScan, classes: list[AllocClass], cache_of_name: np.ndarray, cache_of_class: np.ndarray
) -> None:
    """Objects alive and objects free at the start: where they lie, which cache they are of, how large."""
    n = scan.n_start
    base = np.uint64(census.direct_map_base)
    census.start_addr = _addresses(np.array(scan.start_ptr[:n], np.uint64), base)
    life = np.array(scan.start_life[:n], np.int64)
    n_lives = scan.pages.n_lives
    page_name = _or_none(scan.pages.name[:n_lives])[life]
    page_class = _or_none(scan.pages.cls[:n_lives])[life]
    name = np.array(scan.start_name[:n], np.int64)
    name = np.where(name >= 0, name, page_name)
    by_class = _or_none(cache_of_class)[page_class]
    census.start_cache = np.where(name >= 0, _or_none(cache_of_name)[name], by_class).astype(np.int32)
    census.start_size = np.array([*(max(cls.bytes_alloc, 0) for cls in classes), 0], np.int64)[page_class]
    # The only object ever seen on its page, at its first byte, and the page was freed as a large block.
    order = np.maximum(_or_none(scan.pages.order[:n_lives])[life], 0)
    alone = np.bincount(life[life >= 0], minlength=n_lives + 1)[life] == 1
    large = (page_class < 0) & (name < 0) & (order >= LARGE_KMALLOC_ORDER) & alone & (census.start_addr % 4096 == 0)
    census.start_size = np.where(large, np.int64(4096) << order, census.start_size).astype(np.int64)

    free_class = np.array(scan.free_class[: scan.n_free], np.int64)
    small = np.array([cls.kind != CLASS_KMALLOC or cls.bytes_alloc <= LARGE_KMALLOC_BYTES for cls in classes], bool)
    kept = small[free_class]
    census.start_free_addr = _addresses(np.array(scan.free_ptr[: scan.n_free], np.uint64), base)[kept]
    census.start_free_cache = cache_of_class[free_class][kept].astype(np.int32)
    census.start_free_cpu = np.array(scan.free_cpu[: scan.n_free], np.int16)[kept]


def _or_none(table: Any) -> np.ndarray:
    """A table that gives -1 for index -1."""
    return np.append(np.asarray(table, np.int64), -1)


def _addresses(ptr: np.ndarray, base: np.uint64) -> np.ndarray:
    if base == 0:
        return np.full(len(ptr), -1, np.int64)
    return np.where((ptr >= base) & (ptr - base < 1 << 52), (ptr - base).astype(np.int64), -1)


def _notes(census: Census, direct_map: DirectMap) -> list[str]:
    notes = []
    counts = census.counts
    if not direct_map.base and counts.get("slab_page_by_flags"):
        notes.append(
            "Addresses do not tell page frames (hashed pointers?): the slab allocator's own pages were told by "
            "their flags and the event that follows, and what was free at the start is unknown."
        )
    if counts.get("free_of_untraced_alloc") or counts.get("page_free_of_free"):
        notes.append(
            "Some objects or pages are freed that no event allocated (bulk allocation leaves none); such frees "
            "are left out."
        )
    if counts.get("alloc_of_live_pointer"):
        notes.append(
            "Some pointers are handed out while in use: their frees left no event (bulk free, kfree_rcu) and are "
            "inserted at the latest possible time."
        )
    if census.lost:
        notes.append(f"{census.lost} events were lost while recording.")
    return notes
