"""
page-cache-churn: files stream through the page cache.

Source: cp, tar or dd over more data than memory, as in M. Gorman's page allocator benchmarks (mmtests "pagealloc"
and the sequential readers of his linux-mm series): readahead takes a window of single movable pages and a node of
the mapping's tree for every 64 of them; windows leave in the order in which they came. A round is one window.
"""

from __future__ import annotations

from collections.abc import Mapping

from .tape import Tape
from .workload import Parameter, Rounds, Workload

PAGES_PER_NODE = 64
EVICT_NS = 50  # between two pages that reclaim frees


def _nodes(values: Mapping[str, int]) -> int:
    return -(-values["window"] // PAGES_PER_NODE)


def _rows(values: Mapping[str, int], cpus: int) -> int:
    return 2 * (values["window"] + _nodes(values) + 1 + values["buffers"] * values["window"])


def _period_ns(values: Mapping[str, int], cpus: int) -> int:
    return max(1, values["window"] * values["gap"] // cpus)


def _play(tape: Tape, rounds: Rounds) -> None:
    window, gap = rounds["window"], rounds["gap"]
    reader = rounds.cpu[:, None]
    evictor = (rounds.number // 8 % rounds.cpus)[:, None]  # kswapd takes several windows at a time
    kept = window * gap + rounds["keep"] * _period_ns(rounds.values, rounds.cpus)
    read = rounds.times(window, gap)
    tape.pages(read, rounds.times(window, EVICT_NS, kept), cpu=reader, free_cpu=evictor,
               gfp="GFP_HIGHUSER_MOVABLE|__GFP_NOWARN|__GFP_NORETRY")  # fmt: skip
    nodes = _nodes(rounds.values)
    tape.objects(rounds.times(nodes, PAGES_PER_NODE * gap), rounds.times(nodes, EVICT_NS, kept + window * EVICT_NS),
                 size=576, cpu=reader, free_cpu=evictor, cache="radix_tree_node", site="xas_alloc",
                 free_site="xas_free_nodes", gfp="GFP_NOFS|__GFP_RECLAIMABLE")  # fmt: skip
    bio = rounds.times(1, 1)
    tape.objects(bio, bio + window * gap, size=184, cpu=reader, cache="bio-184", site="mempool_alloc",
                 free_site="mempool_free", gfp="GFP_NOIO")  # fmt: skip
    if rounds["buffers"]:
        heads = rounds["buffers"] * window
        tape.objects(rounds.times(heads, 1, window * gap), rounds.times(heads, 1, kept + 2 * window * EVICT_NS),
                     size=104, cpu=reader, free_cpu=evictor, cache="buffer_head", site="alloc_buffer_head",
                     free_site="free_buffer_head", gfp="GFP_NOFS|__GFP_RECLAIMABLE")  # fmt: skip


WORKLOAD = Workload(
    name="page-cache-churn",
    about="windows of file pages come and go in order: page lists, refills and drains; few slabs",
    source="sequential readers of M. Gorman's page allocator series, linux-mm and mmtests",
    parameters=(
        Parameter("window", "32", "count", "pages that readahead takes at once", most=65_536),
        Parameter("keep", "256", "count", "windows in the cache before the first is evicted"),
        Parameter("buffers", "0", "count", "buffer heads a page: 1 for a file system of 4-KiB blocks", 0, 8),
        Parameter("gap", "500ns", "time", "between two pages"),
    ),
    rows=_rows,
    period_ns=_period_ns,
    play=_play,
)
