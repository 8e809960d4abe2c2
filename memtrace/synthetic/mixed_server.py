"""
mixed-server: requests of a network server that also opens files.

Source: our own mixture, in the proportions of the bundled recording of a build and a web server (traces/): small
kmallocs dominate and live for the request; buffers, files, sockets and pages come with it; a few objects belong to a
session and stay for long; some requests end on another CPU than they began on. A round is one request.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .tape import Tape
from .workload import Parameter, Rounds, Workload

SIZES = (8, 16, 24, 32, 48, 64, 96, 128, 200, 256, 512, 1000, 2048, 4096, 12000)
WEIGHTS = (3, 8, 8, 14, 8, 16, 8, 10, 6, 7, 5, 3, 2, 1.5, 0.5)
FIXED = (
    ("filp", 192, "alloc_empty_file", "GFP_KERNEL_ACCOUNT"), ("dentry", 192, "d_alloc", "GFP_KERNEL|__GFP_RECLAIMABLE"),
    ("names_cache", 4096, "getname_flags", "GFP_KERNEL"), ("skbuff_head_cache", 232, "__alloc_skb", "GFP_KERNEL"),
    ("skbuff_head_cache", 232, "__build_skb", "GFP_ATOMIC"), ("eventpoll_epi", 128, "ep_insert", "GFP_KERNEL_ACCOUNT"),
)  # fmt: skip


def _rows(values: Mapping[str, int], cpus: int) -> int:
    return 2 * (values["small"] + len(FIXED) + values["pages"])


def _period_ns(values: Mapping[str, int], cpus: int) -> int:
    return values["gap"]


def _play(tape: Tape, rounds: Rounds) -> None:
    n, small, pages, life = len(rounds), rounds["small"], rounds["pages"], rounds["life"]
    begins = rounds.rng.integers(0, rounds.cpus, (n, 1))
    moved = rounds.share(rounds["moved"], (n, 1))
    ends = np.where(moved, rounds.rng.integers(0, rounds.cpus, (n, 1)), begins)
    lasts = rounds.lives(life, (n,))
    if small:
        asked = rounds.times(small, 0) + rounds.rng.integers(0, lasts[:, None], (n, small))
        session = rounds.share(rounds["sessions"], (n, small))
        until = rounds.times(small, 100, lasts + 1) + np.where(session, rounds.lives(rounds["session"], (n, small)), 0)
        tape.objects(asked, until, size=rounds.pick(SIZES, WEIGHTS, (n, small)), cpu=begins, free_cpu=ends,
                     site="handle_request", free_site="finish_request", gfp="GFP_KERNEL")  # fmt: skip
    for k, (cache, size, site, gfp) in enumerate(FIXED):
        tape.objects(rounds.times(1, 0, k * 200), rounds.times(1, 0, lasts + (len(FIXED) + k) * 200), size=size,
                     cpu=begins, free_cpu=ends, cache=cache, site=site, free_site=f"{cache}_free", gfp=gfp)  # fmt: skip
    if pages:
        asked = rounds.times(pages, 150, 2000)
        tape.pages(asked, asked + lasts[:, None] + rounds.lives(8 * life, (n, pages)), cpu=begins, free_cpu=ends)


WORKLOAD = Workload(
    name="mixed-server",
    about="requests with small buffers, files, packets and pages; sessions that last; some end on another CPU",
    source="our own mixture, after the bundled recording of a build and a web server",
    parameters=(
        Parameter("small", "24", "count", "small kmallocs of a request", 0, 100_000),
        Parameter("pages", "4", "count", "pages of a request", 0, 100_000),
        Parameter("life", "1ms", "time", "of a request, on average"),
        Parameter("sessions", "3", "percent", "kmallocs that belong to a session"),
        Parameter("session", "500ms", "time", "of a session, on average"),
        Parameter("moved", "30", "percent", "requests that may end on another CPU"),
        Parameter("gap", "50us", "time", "from one request to the next, over all CPUs"),
    ),
    rows=_rows,
    period_ns=_period_ns,
    play=_play,
)
