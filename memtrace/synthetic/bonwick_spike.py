"""
bonwick-spike: 256 processes at once, and what is left when they have gone.

Source: J. Bonwick, "The Slab Allocator: An Object-Caching Kernel Memory Allocator", USENIX Summer 1994, 5.2: a
spike of memory use made by eight rounds of fork, so that 2^8 = 256 processes exist, each of which makes a socket and
waits, until all exit. Waste afterwards, of the memory that the allocator has: slab 13 %, SunOS 4.1.3's sequential fit
19 %, 4.4BSD's powers of two 43 %, SVr4's buddies 45 %. A round is one spike; markers name its stages.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .fork_storm import TASK, areas
from .tape import Tape
from .workload import Parameter, Rounds, Workload

SOCKET = (
    ("sock_inode_cache", 832, "sock_alloc_inode"), ("TCP", 2368, "sk_prot_alloc"), ("filp", 192, "alloc_empty_file"),
    ("dentry", 192, "d_alloc_pseudo"),
)  # fmt: skip
VMAS = 16
PAGES = 12  # stack, page tables, pages touched
STEP_NS = 300
FORK_NS = 20_000  # from one child to the next on the same CPU


def _objects() -> tuple[tuple[str, int, str, int], ...]:
    return (*((*row, 1) for row in TASK), *areas(VMAS), *((*row, 1) for row in SOCKET))


def _rows(values: Mapping[str, int], cpus: int) -> int:
    return 2 * (1 << values["forks"]) * (sum(count for *_, count in _objects()) + PAGES) + 3


def _period_ns(values: Mapping[str, int], cpus: int) -> int:
    return _spread_ns(values) + values["stay"] + _spread_ns(values) + values["rest"]


def _spread_ns(values: Mapping[str, int]) -> int:
    """How long the forks take, and the exits."""
    return (1 << values["forks"]) * FORK_NS + FORK_NS


def _play(tape: Tape, rounds: Rounds) -> None:
    n = 1 << rounds["forks"]
    spread = _spread_ns(rounds.values)
    process = np.arange(n)
    cpu = np.broadcast_to(process % rounds.cpus, (len(rounds), n))
    born = rounds.times(n, FORK_NS)
    # They exit in an order of their own: what lay together does not go together.
    turn = rounds.rng.permuted(np.broadcast_to(process, (len(rounds), n)), axis=1)
    dies = rounds.start_ns[:, None] + spread + rounds["stay"] + turn * FORK_NS
    at = 0
    for k in range(PAGES):
        tape.pages(born + k * STEP_NS, dies + k * STEP_NS, cpu=cpu,
                   gfp="GFP_KERNEL_ACCOUNT|__GFP_ZERO" if k < PAGES // 2 else "GFP_HIGHUSER_MOVABLE")  # fmt: skip
    for cache, size, site, count in _objects():
        step = (PAGES + at + np.arange(count)) * STEP_NS
        tape.objects(born[:, :, None] + step, dies[:, :, None] + step, size=size, cpu=cpu[:, :, None], cache=cache,
                     site=site, free_site="do_exit", gfp="GFP_KERNEL_ACCOUNT")  # fmt: skip
        at += count
    for number, start in zip(rounds.number.tolist(), rounds.start_ns.tolist(), strict=True):
        tape.marker(start, f"before spike {number + 1}")
        tape.marker(start + spread + rounds["stay"] // 2, f"spike {number + 1}")
        tape.marker(start + 2 * spread + rounds["stay"] + rounds["rest"] // 2, f"after spike {number + 1}")


WORKLOAD = Workload(
    name="bonwick-spike",
    about="eight rounds of fork make 256 processes with a socket each; they wait, and exit in random order",
    source="J. Bonwick, The Slab Allocator, USENIX Summer 1994, 5.2",
    parameters=(
        Parameter("forks", "8", "count", "rounds of fork: 2 to the power of it processes", 0, 14),
        Parameter("stay", "60s", "time", "for which all processes wait"),
        Parameter("rest", "60s", "time", "from the last exit to the next spike"),
    ),
    rows=_rows,
    period_ns=_period_ns,
    play=_play,
)
