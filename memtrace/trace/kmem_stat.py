"""The tables of ``perf kmem stat``, and the peak columns of ``trace-cmd mem``, of any trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from memtrace.errors import ConfigError

from .kmem_core import PageSums, SlabSums
from .schema import EV_CACHE_ALLOC, EV_KMALLOC, EventChunk, TraceVocab
from .source import TraceReader

SLAB_SORTS = ("ptr", "callsite", "bytes", "hit", "pingpong", "frag")
PAGE_SORTS = ("page", "callsite", "bytes", "hit", "order", "migtype", "gfp")
SLAB_DEFAULT = ("frag", "hit", "bytes")
PAGE_DEFAULT = ("bytes", "hit")
SLAB_COLUMNS = ("bytes_alloc", "bytes_req", "hit", "pingpong", "frag_pct")
PEAK_COLUMNS = ("live_waste", "live_alloc", "live_req", "max_alloc", "max_req", "max_waste")
PAGE_COLUMNS = ("bytes", "hit", "order", "migtype", "gfp", "callsite")
UNKNOWN_SITE = "(not recorded)"
MIGRATE_NAMES = ("UNMOVABL", "MOVABLE", "RECLAIM", "HIGHATOM", "CMA", "ISOLATE")
MAX_PAGE_ORDER = 11
"""Rows of the table of orders, as in perf kmem."""

# perf kmem's short names of allocation flags.
_SHORT = {
    "GFP_TRANSHUGE": "THP", "GFP_TRANSHUGE_LIGHT": "THL", "GFP_HIGHUSER_MOVABLE": "HUM", "GFP_HIGHUSER": "HU",
    "GFP_USER": "U", "GFP_KERNEL_ACCOUNT": "KAC", "GFP_KERNEL": "K", "GFP_NOFS": "NF", "GFP_ATOMIC": "A",
    "GFP_NOIO": "NI", "GFP_NOWAIT": "NW", "GFP_DMA": "D", "GFP_DMA32": "D32", "__GFP_HIGHMEM": "HM",
    "__GFP_HIGH": "H", "__GFP_IO": "I", "__GFP_FS": "F", "__GFP_NOWARN": "NWR", "__GFP_RETRY_MAYFAIL": "R",
    "__GFP_NOFAIL": "NF", "__GFP_NORETRY": "NR", "__GFP_COMP": "C", "__GFP_ZERO": "Z", "__GFP_NOMEMALLOC": "NMA",
    "__GFP_MEMALLOC": "MA", "__GFP_HARDWALL": "HW", "__GFP_THISNODE": "TN", "__GFP_RECLAIMABLE": "RC",
    "__GFP_MOVABLE": "M", "__GFP_ACCOUNT": "AC", "__GFP_WRITE": "WR", "__GFP_RECLAIM": "R",
    "__GFP_DIRECT_RECLAIM": "DR", "__GFP_KSWAPD_RECLAIM": "KR",
}  # fmt: skip


@dataclass
class Table:
    """
    Rows that are sorted only when they are looked at, since there may be millions of pointers.

    Attributes
    ----------
    columns
        Name -> one value a row; int64, float64 or lists of strings.
    sorts
        Sort key -> column or array to sort by; the largest comes first.
    """

    key: str
    columns: dict[str, Any]
    sorts: dict[str, Any]
    order: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.order)

    def sort(self, keys: Sequence[str]) -> None:
        """By the first key, then the second …; among equals in the order of pointers, or names."""
        ties = np.argsort(np.asarray(self.sorts["tie"]), kind="stable")
        by = [-np.asarray(self.sorts[key])[ties] for key in reversed(keys)]
        self.order = ties[np.lexsort(by)] if by else ties

    def rows(self, lines: int = -1) -> list[dict[str, Any]]:
        """The first ``lines`` rows as plain data; all when negative."""
        order = self.order if lines < 0 else self.order[:lines]
        return [{name: _plain(column[i]) for name, column in self.columns.items()} for i in order.tolist()]


@dataclass
class SlabStat:
    """Totals of the slab events, in bytes, and the two tables."""

    requested: int
    allocated: int
    freed: int
    allocs: int
    frees: int
    unmatched_frees: int
    allocs_naming_a_node: int
    """Of these a trace does not tell whether the node was the CPU's own."""
    callers: Table
    pointers: Table

    def summary(self) -> dict[str, Any]:
        return {
            "bytes_requested": self.requested, "bytes_allocated": self.allocated, "bytes_freed": self.freed,
            "bytes_net": self.allocated - self.freed, "bytes_wasted": self.allocated - self.requested,
            "fragmentation_pct": frag(self.requested, self.allocated), "allocs": self.allocs, "frees": self.frees,
            "unmatched_frees": self.unmatched_frees, "allocs_naming_a_node": self.allocs_naming_a_node,
        }  # fmt: skip


@dataclass
class PageStat:
    """Totals of the page events, the blocks by order and migrate type, and the two tables."""

    totals: dict[str, int]
    orders: dict[tuple[int, int], int]
    """(order, migrate type) -> blocks."""
    callers: Table
    pages: Table
    gfp_flags: dict[str, str]
    """Compact name -> flags as recorded."""


def frag(requested: float, allocated: float) -> float:
    """Share of what was allocated that nobody asked for, in percent."""
    return 100.0 - 100.0 * requested / allocated if allocated else 0.0


def compact_gfp(flags: str) -> str:
    """
    Flags in perf kmem's short names.

    Examples
    --------
    >>> compact_gfp("GFP_HIGHUSER_MOVABLE|__GFP_ZERO")
    'HUM|Z'
    """
    return "|".join(_SHORT.get(name, name) for name in flags.split("|"))


class KmemStat:
    """
    Sums over a trace, chunk by chunk.

    Parameters
    ----------
    vocab
        That of the trace.
    live
        Of pages, count only those that were not freed by the end.
    """

    def __init__(self, vocab: TraceVocab, live: bool = False) -> None:
        self._vocab = vocab
        self._slab = SlabSums()
        self._pages = PageSums(live)
        self.without_size = 0
        """Allocations of objects whose events do not say how large they came out."""

    def add(self, chunk: EventChunk) -> None:
        self._slab.add(chunk, len(self._vocab.call_site))
        self.without_size += int(((chunk.bytes_alloc < 0) & np.isin(chunk.event, (EV_KMALLOC, EV_CACHE_ALLOC))).sum())
        self._pages.add(chunk)

    def slab(self) -> SlabStat:
        sums = self._slab
        return SlabStat(
            requested=int(np.sum(sums.site_req)), allocated=int(np.sum(sums.site_alloc)), freed=sums.freed,
            allocs=sums.nr_allocs, frees=sums.nr_frees, unmatched_frees=sums.nr_unmatched,
            allocs_naming_a_node=sums.nr_with_node, callers=self._slab_callers(), pointers=self._slab_pointers(),
        )  # fmt: skip

    def _site_names(self) -> list[str]:
        return [UNKNOWN_SITE, *self._vocab.call_site.names]

    def _slab_callers(self) -> Table:
        sums = self._slab
        names = self._site_names()
        hits = np.asarray(sums.site_hit)
        used = np.flatnonzero(hits)
        columns: dict[str, Any] = {"callsite": [names[i] for i in used.tolist()]}
        columns |= _slab_columns(sums.site_alloc, sums.site_req, hits, sums.site_pingpong, used)
        now_alloc, now_req = np.asarray(sums.now_alloc)[used], np.asarray(sums.now_req)[used]
        columns |= {"live_waste": now_alloc - now_req, "live_alloc": now_alloc, "live_req": now_req}
        for name in ("max_alloc", "max_req", "max_waste"):
            columns[name] = np.asarray(getattr(sums, name))[used]
        ranks = _ranks(columns["callsite"])
        return Table("callsite", columns, _slab_sorts(columns) | {"callsite": ranks, "ptr": ranks, "tie": ranks})

    def _slab_pointers(self) -> Table:
        sums = self._slab
        names = self._site_names()
        used = np.arange(sums.n)
        pointers = np.asarray(sums.ptr)[: sums.n]
        columns: dict[str, Any] = {"ptr": pointers}
        columns |= _slab_columns(sums.alloc, sums.req, sums.hit, sums.pingpong, used)
        sites = np.asarray(sums.site)[: sums.n]
        columns["callsite"] = _Names(names, sites)
        ranks = np.argsort(np.argsort(pointers))
        sorts = _slab_sorts(columns) | {"ptr": ranks, "callsite": _ranks(names)[sites], "tie": ranks}
        return Table("ptr", columns, sorts)

    def pages(self) -> PageStat:
        sums = self._pages
        freed = sums.nr_frees - sums.nr_unmatched
        freed_bytes = sums.free_bytes - sums.unmatched_bytes
        totals = {
            "allocs": sums.nr_allocs, "alloc_bytes": sums.alloc_bytes,
            "frees": sums.nr_frees, "free_bytes": sums.free_bytes,
            "alloc_freed": freed, "alloc_freed_bytes": freed_bytes,
            "alloc_only": sums.nr_allocs - freed, "alloc_only_bytes": sums.alloc_bytes - freed_bytes,
            "free_only": sums.nr_unmatched, "free_only_bytes": sums.unmatched_bytes,
            "fails": sums.nr_fails, "fail_bytes": sums.fail_bytes,
        }  # fmt: skip
        keys = np.asarray(sums.class_key)[: sums.n_classes]
        classes = _Classes(keys, self._vocab, self._site_names())
        blocks = np.asarray(sums.class_n)[: sums.n_classes]
        orders: dict[tuple[int, int], int] = {}
        for order, migtype, n in zip(classes.order.tolist(), classes.migtype.tolist(), blocks.tolist(), strict=True):
            orders[order, migtype] = orders.get((order, migtype), 0) + n
        kept = np.flatnonzero(blocks)
        callers = classes.table("callsite", kept, np.asarray(sums.class_bytes)[kept], blocks[kept], {}, kept)
        row_n = np.asarray(sums.row_n)[: sums.n_rows]
        rows = np.flatnonzero(row_n)
        page = np.asarray(sums.page)[np.asarray(sums.row_page)[rows]]
        which = np.asarray(sums.row_class)[rows]
        pages = classes.table("page", which, np.asarray(sums.row_bytes)[rows], row_n[rows], {"page": page}, page)
        flags = {compact_gfp(text): text for text in sorted(set(classes.gfp))}
        return PageStat(totals, orders, callers, pages, flags)


class _Names:
    """A column of strings that are looked up when read."""

    def __init__(self, names: list[str], codes: np.ndarray) -> None:
        self._names = names
        self._codes = codes

    def __getitem__(self, i: int) -> str:
        return self._names[self._codes[i]]


class _Classes:
    """What the keys of `PageSums.class_key` say."""

    def __init__(self, keys: np.ndarray, vocab: TraceVocab, sites: list[str]) -> None:
        gfps = ["(not recorded)", *vocab.gfp.names]
        self.migtype = (keys & 0xFF) - 1
        self.order = np.maximum((keys >> 8 & 0x3F) - 1, 0)
        self.gfp = [gfps[i] for i in (keys >> 14 & 0x3FFFFF).tolist()]
        self.site = [sites[i] for i in (keys >> 36 & 0x3FFFFFF).tolist()]

    def table(
        self, key: str, which: np.ndarray, n_bytes: np.ndarray, hits: np.ndarray, first: dict[str, Any], tie: np.ndarray
    ) -> Table:
        migrate = [MIGRATE_NAMES[i] if 0 <= i < len(MIGRATE_NAMES) else "UNKNOWN" for i in self.migtype.tolist()]
        short = [compact_gfp(text) for text in self.gfp]
        columns = first | {
            "bytes": n_bytes, "hit": hits, "order": self.order[which], "migtype": _Names(migrate, which),
            "gfp": _Names(short, which), "callsite": _Names(self.site, which),
        }  # fmt: skip
        sorts = {
            "bytes": n_bytes, "hit": hits, "order": self.order[which], "migtype": self.migtype[which],
            "gfp": _ranks(self.gfp)[which], "callsite": _ranks(self.site)[which],
            "page": np.argsort(np.argsort(tie)), "tie": tie,
        }  # fmt: skip
        return Table(key, columns, sorts)


def _slab_columns(alloc: Any, req: Any, hit: Any, pingpong: Any, used: np.ndarray) -> dict[str, Any]:
    allocated, requested = np.asarray(alloc)[used], np.asarray(req)[used]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(allocated > 0, 100.0 - 100.0 * requested / allocated, 0.0)
    values = (allocated, requested, np.asarray(hit)[used], np.asarray(pingpong)[used], share)
    return dict(zip(SLAB_COLUMNS, values, strict=True))


def _slab_sorts(columns: dict[str, Any]) -> dict[str, Any]:
    return {key: columns[name] for key, name in
            (("bytes", "bytes_alloc"), ("hit", "hit"), ("pingpong", "pingpong"), ("frag", "frag_pct"))}  # fmt: skip


def _ranks(names: list[str]) -> np.ndarray:
    """Place of each name among all, equal names sharing one."""
    place = {name: i for i, name in enumerate(sorted(set(names)))}
    return np.array([place[name] for name in names], np.int64)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def sort_keys(text: str | None, known: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
    """
    Sort keys as given with ``-s``.

    Raises
    ------
    ConfigError
        When a key is not known.
    """
    if text is None:
        return tuple(default)
    keys = tuple(key.strip() for key in text.split(",") if key.strip())
    for key in keys or ("",):
        if key not in known:
            raise ConfigError(f'-s "{key}": no such sort key; expected of {", ".join(known)}.')
    return keys


def kmem_stat(
    reader: TraceReader, *, live: bool = False, window: tuple[int, int | None] = (0, None),
    progress: Callable[[int], None] | None = None,
) -> KmemStat:  # fmt: skip
    """
    Reads a trace through.

    Parameters
    ----------
    reader
        The open trace.
    live
        As for `KmemStat`.
    window
        First and last ns since the trace's beginning that count, both included; None is its end.
    progress
        Called with the number of rows read.
    """
    stat = KmemStat(reader.vocab, live)
    first, last = window
    for chunk in reader.chunks():
        begin = int(np.searchsorted(chunk.ts_ns, first, "left"))
        end = len(chunk) if last is None else int(np.searchsorted(chunk.ts_ns, last, "right"))
        if begin < end:
            columns = {name: getattr(chunk, name)[begin:end] for name in EventChunk.__slots__ if name != "row0"}
            stat.add(EventChunk(chunk.row0 + begin, **columns))
        if progress is not None:
            progress(chunk.row0 + len(chunk))
        if end < len(chunk):
            break
    return stat
