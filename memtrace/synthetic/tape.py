"""What a workload plays onto: lifetimes go in, in any order; rows of a trace come out, in order of time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from memtrace.errors import ConfigError
from memtrace.trace.gfp import may_be_slab_page, parse_gfp, unknown_gfp_names
from memtrace.trace.percpu_events import percpu_page_mask
from memtrace.trace.schema import (
    EV_CACHE_ALLOC,
    EV_CACHE_ALLOC_BULK,
    EV_CACHE_CREATE,
    EV_CACHE_FREE,
    EV_CACHE_FREE_BULK,
    EV_KFREE,
    EV_KMALLOC,
    EV_MARKER,
    EV_PAGE_ALLOC,
    EV_PAGE_FREE,
    EV_PERCPU_ALLOC,
    EV_PERCPU_FREE,
    EVENT_CODES,
    EventChunk,
    TraceVocab,
)

LIVES = np.iinfo(np.int64).max
"""A ``free_ns`` that never comes: what is still in use when the trace ends."""
MAX_ORDER = 10
MAX_OBJECT_BYTES = 4 << 20
MAX_PERCPU_BYTES = 32 << 10  # the kernel's PCPU_MIN_UNIT_SIZE
MAX_NS = 1 << 62
FIRST_POINTER = 0x1000  # pointers are only numbers; small ones mean NULL and kmalloc(0)

Values = int | np.ndarray
_COLUMNS: dict[str, tuple[type[np.generic], int]] = {
    "ts_ns": (np.int64, 0), "cpu": (np.int16, 0), "event": (np.uint8, 0), "ptr": (np.uint64, 0),
    "call_site": (np.int32, -1), "name": (np.int32, -1), "bytes_req": (np.int64, -1), "gfp_flags": (np.int32, -1),
    "order": (np.int16, -1), "text": (np.int32, -1),
}  # fmt: skip
"""Columns that a tape fills, and what stands where a row has no such field."""
COLUMNS = tuple(_COLUMNS)


class Tape:
    """
    Collects what happens, and gives each object and each page block a number of its own.

    An allocation is added with its free, so that what is written always pairs: nothing is freed twice or before it
    was allocated. Arrays broadcast to the shape of ``alloc_ns``; rows of equal time keep the order in which they were
    added, and within an array the order of its elements.

    Parameters
    ----------
    cpus
        CPUs of the machine.
    """

    def __init__(self, cpus: int) -> None:
        self.cpus = cpus
        self.vocab = TraceVocab()
        self._added: list[dict[str, np.ndarray]] = []
        self._floor_ns = 0
        self._next_object = FIRST_POINTER
        self._next_page = FIRST_POINTER
        self._rows = 0
        self._event_codes = np.zeros(256, np.int32)
        for name, code in EVENT_CODES.items():
            self._event_codes[code] = self.vocab.event.code(name)

    def objects(
        self, alloc_ns: Values, free_ns: Values | None, *, size: Values, cpu: Values, site: str, cache: str = "",
        free_cpu: Values | None = None, free_site: str = "", gfp: str = "GFP_KERNEL", bulk_alloc: bool = False,
        bulk_free: bool = False,
    ) -> None:  # fmt: skip
        """
        Objects from ``kmalloc``, or from a cache.

        Parameters
        ----------
        alloc_ns, free_ns
            When each is allocated and freed, in ns since the trace's start; a free comes later than its
            allocation, or never: ``LIVES``, or None for all.
        size
            Bytes asked for.
        cpu, free_cpu
            On which CPU; ``free_cpu`` is the same one when not given.
        site, free_site
            Names of the functions that call; ``free_site`` is made of ``site`` when not given.
        cache
            Name of the cache; kmalloc and kfree when empty.
        gfp
            Flags as the kernel prints them.
        bulk_alloc, bulk_free
            By ``kmem_cache_alloc_bulk`` and ``kmem_cache_free_bulk``: those of one moment on one CPU that stand
            beside each other in the arrays are one call.

        Raises
        ------
        ConfigError
            When a time, a CPU or a size makes no sense.
        """
        what = f"{cache or 'kmalloc'} from {site}"
        if (bulk_alloc or bulk_free) and not cache:
            raise ConfigError(f"{what}: bulk operations are of a cache; expected its name.")
        shape = np.shape(alloc_ns)
        sizes = _flat(size, shape)
        _check(sizes, 1, MAX_OBJECT_BYTES, f"{what}: size", "bytes")
        ptr = np.arange(self._next_object, self._next_object + len(sizes))
        self._next_object += len(sizes)
        alloc_event = EV_CACHE_ALLOC_BULK if bulk_alloc else EV_CACHE_ALLOC if cache else EV_KMALLOC
        free_event = EV_CACHE_FREE_BULK if bulk_free else EV_CACHE_FREE if cache else EV_KFREE
        name = self.vocab.name.code(cache) if cache else -1
        asked: dict[str, Values] = {"event": alloc_event, "ptr": ptr, "name": name, "bytes_req": sizes,
                 "call_site": self.vocab.call_site.code(site), "gfp_flags": self._flags(gfp, what)}  # fmt: skip
        gone: dict[str, Values] = {"event": free_event, "ptr": ptr, "name": name,
                "call_site": self.vocab.call_site.code(free_site or f"{site}.free")}  # fmt: skip
        self._lifetimes(what, shape, (alloc_ns, free_ns), (cpu, cpu if free_cpu is None else free_cpu), asked, gone)

    def pages(
        self, alloc_ns: Values, free_ns: Values | None, *, cpu: Values, order: int = 0,
        gfp: str = "GFP_HIGHUSER_MOVABLE", free_cpu: Values | None = None,
    ) -> None:  # fmt: skip
        """
        Blocks of ``2**order`` pages; the parameters are those of `objects`.

        The flags must be such as no slab or per-CPU allocator asks with (``GFP_KERNEL|__GFP_ZERO`` and not
        ``GFP_KERNEL``): a reader would take the page for theirs.

        Raises
        ------
        ConfigError
            When a time, a CPU, the order or the flags make no sense.
        """
        what = f"pages of {gfp}"
        mask = parse_gfp(gfp)
        if may_be_slab_page(mask) or percpu_page_mask(mask):
            raise ConfigError(f"{what}: could be a slab's; expected flags that no allocator of objects asks with. "
                              "Add __GFP_ZERO, or take GFP_HIGHUSER_MOVABLE.")  # fmt: skip
        shape = np.shape(alloc_ns)
        count = int(np.prod(shape))
        _check(np.array([order]), 0, MAX_ORDER, f"{what}: order", "")
        # The numbers of a block's pages follow each other, so that blocks do not overlap.
        first = -(-self._next_page >> order) << order
        ptr = first + (np.arange(count) << order)
        self._next_page = first + (count << order)
        flags = self._flags(gfp, what)
        asked: dict[str, Values] = {"event": EV_PAGE_ALLOC, "ptr": ptr, "order": order, "gfp_flags": flags}
        gone: dict[str, Values] = {"event": EV_PAGE_FREE, "ptr": ptr, "order": order}
        self._lifetimes(what, shape, (alloc_ns, free_ns), (cpu, cpu if free_cpu is None else free_cpu), asked, gone)

    def percpu(self, alloc_ns: Values, free_ns: Values | None, *, size: Values, cpu: Values, site: str) -> None:
        """
        Per-CPU areas of ``size`` bytes for each CPU; the parameters are those of `objects`.

        Raises
        ------
        ConfigError
            When a time, a CPU or a size makes no sense.
        """
        what = f"alloc_percpu from {site}"
        shape = np.shape(alloc_ns)
        sizes = _flat(size, shape)
        _check(sizes, 1, MAX_PERCPU_BYTES, f"{what}: size", "bytes")
        ptr = np.arange(self._next_object, self._next_object + len(sizes))
        self._next_object += len(sizes)
        code = self.vocab.call_site.code(site)
        asked: dict[str, Values] = {"event": EV_PERCPU_ALLOC, "ptr": ptr, "bytes_req": sizes, "call_site": code}
        gone: dict[str, Values] = {"event": EV_PERCPU_FREE, "ptr": ptr}
        self._lifetimes(what, shape, (alloc_ns, free_ns), (cpu, cpu), asked, gone)

    def create_cache(self, t_ns: int, name: str, size: int, *, cpu: int = 0, text: str = "") -> None:
        """
        A ``kmem_cache_create``; no object of the cache may be asked for earlier.

        Parameters
        ----------
        text
            Alignment and flags, like ``align=64 flags=SLAB_HWCACHE_ALIGN``.
        """
        _check(np.array([size]), 1, MAX_OBJECT_BYTES, f"cache {name}: size", "bytes")
        row = {"event": EV_CACHE_CREATE, "name": self.vocab.name.code(name), "bytes_req": size,
               "text": self.vocab.text.code(text) if text else -1}  # fmt: skip
        self._add(f"cache {name}", _flat(t_ns, (1,)), _flat(cpu, (1,)), row)

    def marker(self, t_ns: int, text: str) -> None:
        """A marker: a replay takes a sample there."""
        row = {"event": EV_MARKER, "text": self.vocab.text.code(text)}
        self._add(f"marker {text}", _flat(t_ns, (1,)), _flat(0, (1,)), row)

    def rows_before(self, t_ns: int) -> EventChunk:
        """Takes all rows before ``t_ns`` off the tape, in order; nothing can be added there afterwards."""
        self._floor_ns = t_ns
        joined = {name: np.concatenate([np.empty(0, dtype), *(added[name] for added in self._added)])
                  for name, (dtype, _) in _COLUMNS.items()}  # fmt: skip
        order = np.argsort(joined["ts_ns"], kind="stable")
        ready = int(np.searchsorted(joined["ts_ns"], t_ns, sorter=order))
        self._added = [{name: column[order[ready:]] for name, column in joined.items()}]
        chunk = EventChunk.empty(ready, self._rows)
        for name, column in joined.items():
            setattr(chunk, name, column[order[:ready]])
        chunk.event_name = self._event_codes[chunk.event]
        self._rows += ready
        return chunk

    def _flags(self, gfp: str, what: str) -> int:
        if unknown := unknown_gfp_names(gfp):
            raise ConfigError(f'{what}: no flag is called "{unknown[0]}"; expected names like GFP_KERNEL|__GFP_ZERO.')
        return self.vocab.gfp.code(gfp)

    def _lifetimes(
        self, what: str, shape: tuple[int, ...], times: tuple[Values, Values | None], cpus: tuple[Values, Values],
        asked: Mapping[str, Values], gone: Mapping[str, Values],
    ) -> None:  # fmt: skip
        """Rows of the allocations and, of what does not live for ever, of the frees."""
        alloc_ns = _flat(times[0], shape)
        free_ns = _flat(LIVES if times[1] is None else times[1], shape)
        early = np.flatnonzero(free_ns <= alloc_ns)
        if len(early):
            raise ConfigError(f"{what}: freed at {free_ns[early[0]]:,} ns, allocated at {alloc_ns[early[0]]:,} ns; "
                              "expected the free to come later.")  # fmt: skip
        self._add(what, alloc_ns, _flat(cpus[0], shape), asked)
        ends = free_ns != LIVES
        if not ends.all():
            gone = {name: value[ends] if isinstance(value, np.ndarray) else value for name, value in gone.items()}
        self._add(what, free_ns[ends], _flat(cpus[1], shape)[ends], gone)

    def _add(self, what: str, ts_ns: np.ndarray, cpu: np.ndarray, row: Mapping[str, Values]) -> None:
        """Rows at these times; ``row`` has the other columns, as flat arrays or single values."""
        _check(ts_ns, self._floor_ns, MAX_NS, f"{what}: a time of", "ns (not before its round begins)")
        _check(cpu, 0, self.cpus - 1, f"{what}: CPU", "")
        given: dict[str, Values] = {"ts_ns": ts_ns, "cpu": cpu, **row}
        self._added.append({name: np.broadcast_to(np.asarray(given.get(name, absent), dtype), ts_ns.shape)
                            for name, (dtype, absent) in _COLUMNS.items()})  # fmt: skip


def _flat(values: Values, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.asarray(values, np.int64), shape).ravel()


def _check(values: np.ndarray, least: int, most: int, what: str, unit: str) -> None:
    """
    Raises
    ------
    ConfigError
        When a value is outside of ``least`` to ``most``.
    """
    wrong = np.flatnonzero((values < least) | (values > most))
    if len(wrong):
        raise ConfigError(f"{what} {values[wrong[0]]:,}; expected {least:,} to {most:,} {unit}".rstrip() + ".")
