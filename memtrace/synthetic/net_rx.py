"""
net-rx: a packet's life from the card to the reader.

Source: the receive path of net/core as of 6.x: a NAPI poll takes its sk_buffs with kmem_cache_alloc_bulk, 16 at a
time (NAPI_SKB_CACHE_BULK), their data lie in fragments of large page blocks (page_frag), and the reader frees each
on its own CPU; packets that end in the poll itself (forwarded, dropped, merged) go back with kmem_cache_free_bulk.
Figures to compare with: J. D. Brouer's bulk series, linux-mm 2015 and 2016. A round is one poll.
"""

from __future__ import annotations

from collections.abc import Mapping

from .tape import Tape
from .workload import Parameter, Rounds, Workload

BULK = 16
FRAGMENTS = 16  # 2 KiB each, of a block of 8 pages
HEAD_BYTES = 704  # head room, 128 bytes of headers, skb_shared_info


def _blocks(values: Mapping[str, int]) -> int:
    return -(-values["budget"] // FRAGMENTS)


def _rows(values: Mapping[str, int], cpus: int) -> int:
    return 4 * values["budget"] + 2 * _blocks(values)


def _period_ns(values: Mapping[str, int], cpus: int) -> int:
    return max(1, values["budget"] * values["gap"] // cpus)


def _play(tape: Tape, rounds: Rounds) -> None:
    budget, gap = rounds["budget"], rounds["gap"]
    here = rounds.cpu[:, None]
    reader = ((rounds.number + rounds.number // rounds.cpus % max(1, rounds.cpus - 1) + 1) % rounds.cpus)[:, None]
    poll_ns = budget * gap
    ended = budget * rounds["dropped"] // 100
    read_ns = poll_ns + rounds.lives(rounds["wait"], (len(rounds),))
    blocks = _blocks(rounds.values)
    # The kernel's flags lack __GFP_ZERO; with them alone the block could be taken for a slab.
    tape.pages(rounds.times(blocks, 1), rounds.times(blocks, 1, read_ns + poll_ns + gap), cpu=here, free_cpu=reader,
               order=3, gfp="GFP_ATOMIC|__GFP_NOWARN|__GFP_COMP|__GFP_ZERO")  # fmt: skip
    for first in range(0, budget, BULK):
        in_bulk = min(BULK, budget - first)
        taken = rounds.times(in_bulk, 0, first * gap)
        drop = max(0, min(first + in_bulk, ended) - first)
        if drop:
            tape.objects(taken[:, :drop], rounds.times(drop, 0, poll_ns), size=232, cpu=here, gfp="GFP_ATOMIC",
                         cache="skbuff_head_cache", site="napi_skb_cache_get", free_site="napi_skb_cache_put",
                         bulk_alloc=True, bulk_free=True)  # fmt: skip
        if in_bulk > drop:
            tape.objects(taken[:, drop:], rounds.times(in_bulk - drop, gap, read_ns + first * gap), size=232, cpu=here,
                         free_cpu=reader, cache="skbuff_head_cache", site="napi_skb_cache_get",
                         free_site="kfree_skbmem", gfp="GFP_ATOMIC", bulk_alloc=True)  # fmt: skip
    data = rounds.times(budget, gap, 1)
    if ended:
        tape.objects(data[:, :ended], rounds.times(ended, 1, poll_ns + 1), size=HEAD_BYTES, cpu=here,
                     site="__napi_alloc_skb", free_site="skb_release_data", gfp="GFP_ATOMIC|__GFP_NOWARN")  # fmt: skip
    if budget > ended:
        tape.objects(data[:, ended:], rounds.times(budget - ended, gap, read_ns + ended * gap + 1), size=HEAD_BYTES,
                     cpu=here, free_cpu=reader, site="__napi_alloc_skb", free_site="skb_release_data",
                     gfp="GFP_ATOMIC|__GFP_NOWARN")  # fmt: skip


WORKLOAD = Workload(
    name="net-rx",
    about="packets: sk_buffs in bulk, data beside them, blocks of 8 pages; freed by a reader on another CPU",
    source="net/core's NAPI receive path, 6.x; J. D. Brouer's bulk series, linux-mm 2015-2016",
    parameters=(
        Parameter("budget", "64", "count", "packets of one poll", most=10_000),
        Parameter("dropped", "25", "percent", "packets that end in the poll and are freed in bulk"),
        Parameter("wait", "100us", "time", "until the reader comes, on average"),
        Parameter("gap", "500ns", "time", "between two packets"),
    ),
    rows=_rows,
    period_ns=_period_ns,
    play=_play,
)
