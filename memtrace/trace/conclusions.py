"""What can and cannot be concluded from a trace, as sentences that follow from what is in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from memtrace.units import format_time

from .scan import TraceScan
from .schema import (
    EV_CACHE_ALLOC,
    EV_CACHE_FREE,
    EV_EXTFRAG,
    EV_GT_BULK_OBJ,
    EV_GT_PAGE,
    EV_GT_SLAB,
    EV_KFREE,
    EV_KMALLOC,
    EV_PAGE_ALLOC,
    EV_PAGE_FREE,
    EV_PAGE_FREE_BATCHED,
    EV_PCPU_DRAIN,
    EV_PERCPU_ALLOC,
    EV_ZONE_LOCKED,
)
from .silences import Silence

SHORT_NS = 10**9
COARSE_NS = 1000
_HEX = re.compile(r"(?:0x)?[0-9a-fA-F]+")


def can_tell(scan: TraceScan) -> Iterator[str]:
    """What the trace is good for."""
    kinds = scan.kinds
    if _allocs(kinds) and _frees(kinds):
        yield "Slab: objects are seen being allocated and freed, so SLUB, SLAB and SLOB can be compared on them."
    if kinds[EV_PAGE_ALLOC] and _page_frees(kinds):
        yield "Pages: blocks are seen being taken and given back, so buddy system and fragmentation can be judged."
    if kinds[EV_ZONE_LOCKED] or kinds[EV_EXTFRAG] or kinds[EV_PCPU_DRAIN]:
        yield ("Outcomes: the recorded kernel's own refills, drains or fallbacks are there to hold the model against "
               "(memtrace validate).")
    if scan.pointer_kind().startswith("addresses"):
        yield "Places: pointers are addresses, so it shows which objects shared a page."
    if scan.having["call_site"][[EV_KMALLOC, EV_CACHE_ALLOC]].any():
        yield "Culprits: allocations name their call sites, so waste and growth can be laid at somebody's door."
    if kinds[EV_PERCPU_ALLOC]:
        yield "Per-CPU areas: their allocations are there."
    if kinds[EV_GT_BULK_OBJ] or kinds[EV_GT_PAGE] or kinds[EV_GT_SLAB]:
        yield "An instrumented kernel: gt_* rows show what ordinary tracing does not."


def cannot_tell(scan: TraceScan, problems: Mapping[str, int], silences: Sequence[Silence]) -> Iterator[str]:
    """What is missing, and what follows from that."""
    yield from _missing_slab(scan)
    yield from _missing_pages(scan)
    if len(np.flatnonzero(scan.cpus)) == 1:
        yield "One CPU: no lock is ever waited for."
    if scan.step_ns >= COARSE_NS:
        yield f"Times are multiples of {scan.step_ns} ns: shorter waits cannot be compared with the recording."
    if scan.last_ns < SHORT_NS:
        yield f"It lasts {format_time(scan.last_ns)}: growth over time, and what grows only slowly, cannot be judged."
    if not len(scan.tasks):
        yield "No tasks: replayed on fewer CPUs, operations are folded by CPU number."
    if problems.get("lost_events"):
        yield "Events were lost while recording: everything after the first loss is uncertain."
    if problems.get("overwritten_before_start"):
        yield "The ring buffer was overwritten: what happened before the first event is gone."
    for silence in silences:
        yield silence_sentence(silence)


def silence_sentence(silence: Silence) -> str:
    """The suspicion about one CPU."""
    span, begin = format_time(silence.span_ns), format_time(silence.from_ns)
    when = {"start": f"has no event in the first {span}", "end": f"has no event in the last {span}",
            "middle": f"has no event for {span} from {begin}"}[silence.where]  # fmt: skip
    return (f"Perhaps lost: CPU {silence.cpu} {when}, where about {silence.expected:,} would be usual and the others "
            f"had {silence.others:,}. It was idle, or its events are missing; the trace does not say which.")


def _allocs(kinds: np.ndarray) -> bool:
    return bool(kinds[EV_KMALLOC] or kinds[EV_CACHE_ALLOC])


def _frees(kinds: np.ndarray) -> bool:
    return bool(kinds[EV_KFREE] or kinds[EV_CACHE_FREE])


def _page_frees(kinds: np.ndarray) -> bool:
    return bool(kinds[EV_PAGE_FREE] or kinds[EV_PAGE_FREE_BATCHED])


def _missing_slab(scan: TraceScan) -> Iterator[str]:
    kinds = scan.kinds
    if not _allocs(kinds):
        yield "No slab allocations: nothing can be said about caches."
    elif not _frees(kinds):
        yield "No frees: every object lives to the end."
    pointers = scan.pointer_kind()
    if pointers == "hashed":
        yield ("Pointers are hashed: objects can be told apart, but not where they lie, so slab pages are recognised "
               "by flags alone. Record with perf, or with trace option hash-ptr off.")
    elif pointers == "small numbers":
        yield "Pointers are numbers, not addresses: where the recorded kernel had its objects is not known."
    if kinds[EV_CACHE_ALLOC] and not scan.having["name"][EV_CACHE_ALLOC]:
        yield "Allocations carry no cache name: caches are inferred from frees, neighbours and call sites."
    if _allocs(kinds) and not scan.having["call_site"][[EV_KMALLOC, EV_CACHE_ALLOC]].any():
        yield "No call sites: who allocates what cannot be said."
    elif _allocs(kinds) and all(_HEX.fullmatch(name) for name in scan.vocab.call_site.names):
        yield ("Call sites are numbers: which functions they are is not known. Convert again with the machine's "
               "/proc/kallsyms (memtrace convert --kallsyms).")
    if _frees(kinds) and not (kinds[EV_GT_BULK_OBJ] or kinds[EV_GT_PAGE] or kinds[EV_GT_SLAB]):
        yield ("Bulk allocations and frees (maple_node, kfree_rcu, network buffers) leave no events: some objects "
               "appear or vanish unseen.")


def _missing_pages(scan: TraceScan) -> Iterator[str]:
    kinds = scan.kinds
    if not kinds[EV_PAGE_ALLOC]:
        yield ("No mm_page_alloc events: only what the slab allocator needs is known of the page allocator, so "
               "fragmentation and shortage cannot be judged.")
        return
    if not _page_frees(kinds):
        yield "No mm_page_free events: pages are never given back, so memory only fills."
    if not scan.having["pfn"][EV_PAGE_ALLOC]:
        yield "Page events have no pfn: which page frames the recorded kernel used is not known."
    if not scan.having["gfp_flags"][EV_PAGE_ALLOC]:
        yield "Page requests have no gfp_flags: their zone and mobility are taken to be the ordinary ones."
