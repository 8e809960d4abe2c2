"""
The census of recorded kernels, held against what the instrumented ones wrote down.

``gt_slab`` rows say which page blocks became slabs, ``gt_name`` which cache every object came from.
"""

from __future__ import annotations

import runpy
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from memtrace.trace.causes import PAGE_SLAB
from memtrace.trace.census import take_census
from memtrace.trace.gfp import unknown_gfp_names
from memtrace.trace.pairing import RequestStream
from memtrace.trace.schema import (
    EV_CACHE_ALLOC,
    EV_GT_SLAB,
    EV_KFREE,
    EV_KMALLOC,
    EV_PAGE_ALLOC,
    EV_PAGE_FREE,
    EV_PERCPU_ALLOC,
    EV_PERCPU_DESTROY_CHUNK,
    EventChunk,
)
from memtrace.trace.source import open_trace

SLOW = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "property" / "slow_pairing.py")))
X86 = 0xFFFF888000000000
BASES = {
    "slub_std_512m": X86,
    "slab_std_512m": X86,
    "slob_std_512m": X86,
    "i386_slub_std_1536m": 0xC0000000,
    "debcloud_std_512m": 0xFF11000000000000,
    "linux-6.18_find_tar": X86,
}
INSTRUMENTED = ("slub_std_512m", "slab_std_512m", "slob_std_512m", "i386_slub_std_1536m")


@pytest.fixture(scope="module", params=BASES)
def recording(request: pytest.FixtureRequest, ground_truth: Path) -> Any:
    """(name, reader, census) of a recording."""
    reader = open_trace(str(ground_truth / request.param / "trace.parquet"))
    return request.param, reader, take_census(reader)


def columns(reader: Any, *names: str) -> SimpleNamespace:
    """Whole columns of a recording."""
    chunks: list[EventChunk] = list(reader.chunks(1 << 18))
    return SimpleNamespace(**{name: np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in names})


def verdicts(census: Any, n: int) -> np.ndarray:
    k = np.arange(n)
    return census.plan.page_verdict[k >> 2] >> ((k & 3) << 1) & 3


def test_direct_map_base(recording: Any) -> None:
    name, _, census = recording
    assert census.direct_map_base == BASES[name]
    # SLOB's page requests carry no marks of their own, so other buffers are among the pages looked at.
    assert census.base_support > (0.5 if name.startswith("slob") else 0.99)


def test_every_printed_gfp_flag_is_understood(recording: Any) -> None:
    _, reader, _ = recording
    assert [text for text in reader.vocab.gfp.names if unknown_gfp_names(text)] == []


def test_slab_pages_are_those_that_the_kernel_recorded(recording: Any) -> None:
    """Measured: no error in 105,222 (SLUB), 106,166 (SLAB), 103,306 (i386) allocations; 6 of 200,104 (SLOB)."""
    name, reader, census = recording
    if name not in INSTRUMENTED:
        pytest.skip("this kernel is not instrumented: nothing says which pages were slabs")
    c = columns(reader, "event", "pfn", "text", "ptr", "bytes_alloc")
    is_new = np.array([text.startswith("new") for text in reader.vocab.text.names] + [False])
    page_rows = np.flatnonzero((c.event == EV_PAGE_ALLOC) | (c.event == EV_PAGE_FREE))
    judged = dict(zip(page_rows.tolist(), (verdicts(census, len(page_rows)) == PAGE_SLAB).tolist(), strict=True))
    born: dict[int, int] = {}
    slabs: set[int] = set()
    truth: dict[int, bool] = {}
    for i in np.flatnonzero(np.isin(c.event, (EV_PAGE_ALLOC, EV_PAGE_FREE, EV_GT_SLAB, EV_KMALLOC))).tolist():
        event, pfn = c.event[i], int(c.pfn[i])
        if event == EV_PAGE_ALLOC:
            born[pfn] = i
            truth[i] = False
        elif event == EV_PAGE_FREE:
            truth[i] = pfn in slabs
            slabs.discard(pfn)
            born.pop(pfn, None)
        else:
            if event == EV_KMALLOC:  # a large one: its page is the allocator's too, but no slab
                pfn = (int(c.ptr[i]) - census.direct_map_base) >> 12 if c.bytes_alloc[i] > 8192 else -1
            elif not is_new[c.text[i]]:
                continue
            if pfn in born or event == EV_GT_SLAB:
                slabs.add(pfn)
                truth[born.get(pfn, -1)] = True
    truth.pop(-1, None)
    wrong = [i for i, slab in truth.items() if judged[i] != slab]
    # SLOB sends kmallocs of one page to 8 KiB to the page allocator without a gt_slab row: right, though "wrong".
    assert len(wrong) <= (10 if name.startswith("slob") else 0)
    assert Counter(judged.values())[True] > 5000


def test_cache_names_inferred_without_gt_name(recording: Any) -> None:
    """EXACT C 1.5: 99.81 % named and 0 wrong on slub_std_512m; unnamed caches are never freed by name."""
    name, reader, census = recording
    if name not in INSTRUMENTED:
        pytest.skip("no gt_name to compare with")
    c = columns(reader, "event", "ptr", "gt_name")
    rows = np.flatnonzero((c.event == EV_CACHE_ALLOC) & (c.ptr > 16))
    given = np.full(len(c.event), -1)
    for chunk in RequestStream(reader, census):
        alloc = chunk.op == 3
        given[chunk.row[alloc]] = chunk.cache[alloc]
    names = np.array([cache.name for cache in census.caches])[given[rows]]
    truth = np.array(reader.vocab.name.names)[c.gt_name[rows]]
    unknown = np.char.startswith(names, "unknown:")
    wrong = int(((names != truth) & ~unknown).sum())
    assert 1 - unknown.mean() >= (0.997 if name.startswith("slob") else 0.998)
    assert wrong <= 0.0005 * len(rows)
    # One made-up name may stand for several caches of one size that one call site uses (mempools).
    lumped = sum(int((names == made).sum()) for made in np.unique(names[unknown]) if len(set(truth[names == made])) > 1)
    assert lumped <= 0.0005 * len(rows)


def test_the_first_rows_pair_as_the_slow_twin_says(recording: Any) -> None:
    _, reader, _ = recording
    n = 30_000
    whole = SLOW.rows_of(reader, n)
    head = Head(reader, n)
    census = take_census(head)
    base = census.direct_map_base
    expected, found = SLOW.slow_requests(whole, base, census.plan)
    got = SLOW.fast_requests(RequestStream(head, census))
    # A missed free's operation depends on the cache of what is freed, which the twin does not know for all.
    assert [(r[0], *r[2:]) for r in got] == [(r[0], *r[2:]) for r in expected]
    assert [r[1] for r in got if not r[2] & 2] == [r[1] for r in expected if not r[2] & 2]
    assert census.start_addr.tolist() == [ptr - base for ptr in found.start_ptr]


class Head:
    """The first rows of a reader; percpu events, of which the slow twin knows nothing, as unknown ones."""

    def __init__(self, reader: Any, n: int) -> None:
        self.vocab, self._reader, self._n = reader.vocab, reader, n

    def chunks(self, rows_per_chunk: int) -> Any:
        for chunk in self._reader.chunks(rows_per_chunk):
            left = self._n - chunk.row0
            if left <= 0:
                return
            names = [name for name in EventChunk.__slots__ if name != "row0"]
            head = EventChunk(chunk.row0, **{name: getattr(chunk, name)[:left].copy() for name in names})
            head.event[(head.event >= EV_PERCPU_ALLOC) & (head.event <= EV_PERCPU_DESTROY_CHUNK)] = 0
            yield head


def test_handles_of_a_whole_recording(recording: Any) -> None:
    """Handed out only while free, never beyond the census's bounds, freed as what they were handed out for."""
    name, reader, census = recording
    if name not in ("slub_std_512m", "linux-6.18_find_tar"):
        pytest.skip("slow; one instrumented kernel and one as people run it are enough")
    stream = RequestStream(reader, census)
    SLOW.check_handles(stream, census)
    kfree = sum(int((chunk.event == EV_KFREE).sum()) for chunk in reader.chunks(1 << 18))
    assert stream.counts["kfree_null"] < kfree
