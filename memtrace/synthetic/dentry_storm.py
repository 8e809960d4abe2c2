"""
dentry-storm: a walk over a large directory tree, and the shrinker that follows it.

Source: updatedb, find and backup runs; Bonwick's "find" test (The Slab Allocator, 1994, 5.2). Each name costs a
dentry and an inode, a long one a piece of kmalloc as well, each look-up a page for the path. Directories leave in the
order of their last use, but some entries stay in use: their slabs cannot be given back, which is how a dentry cache
ends with much memory and few objects. A round is one directory.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .tape import Tape
from .workload import Parameter, Rounds, Workload

SHRINK_NS = 100  # between two frees of the shrinker


def _rows(values: Mapping[str, int], cpus: int) -> int:
    return 8 * values["files"]


def _period_ns(values: Mapping[str, int], cpus: int) -> int:
    return values["files"] * values["gap"]


def _play(tape: Tape, rounds: Rounds) -> None:
    files, gap = rounds["files"], rounds["gap"]
    shape = (len(rounds), files)
    found = rounds.times(files, gap)
    walker = (rounds.number // 16 % rounds.cpus)[:, None]  # the scheduler moves the walk now and then
    shrinker = (rounds.number % rounds.cpus)[:, None]
    kept = rounds["keep"] * files * gap
    used = rounds.share(rounds["busy"], shape)
    gone = rounds.times(files, 3 * SHRINK_NS, kept) + np.where(used, 9 * kept, 0)
    gone = np.maximum(gone, found + gap)
    tape.objects(found, found + max(1, gap // 2), size=4096, cpu=walker, cache="names_cache", site="getname_flags",
                 free_site="putname")  # fmt: skip
    reclaimable = "GFP_KERNEL|__GFP_RECLAIMABLE"
    tape.objects(found + gap // 8, gone, size=192, cpu=walker, free_cpu=shrinker, cache="dentry", site="d_alloc",
                 free_site="prune_dcache_sb", gfp=reclaimable)  # fmt: skip
    long = rounds.share(rounds["long"], shape)
    length = rounds.rng.integers(40, 120, shape)
    tape.objects((found + gap // 8)[long], (gone + SHRINK_NS)[long], size=(length + 24)[long],
                 cpu=np.broadcast_to(walker, shape)[long], free_cpu=np.broadcast_to(shrinker, shape)[long],
                 site="d_alloc", free_site="prune_dcache_sb", gfp=reclaimable)  # fmt: skip
    tape.objects(found + gap // 4, gone + 2 * SHRINK_NS, size=1128, cpu=walker, free_cpu=shrinker,
                 cache="ext4_inode_cache", site="ext4_alloc_inode", free_site="prune_icache_sb",
                 gfp="GFP_NOFS|__GFP_RECLAIMABLE")  # fmt: skip


WORKLOAD = Workload(
    name="dentry-storm",
    about="a walk over a tree fills the dentry and inode caches; the shrinker empties them, all but entries in use",
    source="find and updatedb; Bonwick 1994, 5.2",
    parameters=(
        Parameter("files", "50", "count", "names in a directory", most=100_000),
        Parameter("keep", "200", "count", "directories that stay before the shrinker takes them"),
        Parameter("busy", "4", "percent", "entries in use, which stay ten times as long"),
        Parameter("long", "20", "percent", "names of 40 bytes and more, kept outside of the dentry"),
        Parameter("gap", "5us", "time", "between two names"),
    ),
    rows=_rows,
    period_ns=_period_ns,
    play=_play,
)
