"""
Shrinkers: caches of the kernel that give objects back when memory is short (MODEL 10.4).

In a replay there are none: what the recorded kernel's shrinkers freed is in the trace.
"""

from __future__ import annotations

from collections.abc import Callable

DEF_PRIORITY = 12
"""Where a reclaim begins: a small share of what there is; 0 is all of it."""
DEFAULT_SEEKS = 2
SHRINK_BATCH = 128


class Shrinker:
    """
    One cache's hook. Kernel: struct shrinker.

    Parameters
    ----------
    count_objects
        How many objects could be freed now.
    scan_objects
        Look at so many objects and free what is not in use; how many were freed, or -1 to stop.
    seeks
        How many disk accesses it takes to have an object again; 0: none.
    batch
        Objects looked at in one call.
    """

    def __init__(
        self, count_objects: Callable[[], int], scan_objects: Callable[[int], int], seeks: int = DEFAULT_SEEKS,
        batch: int = SHRINK_BATCH,
    ) -> None:
        self.count_objects = count_objects
        self.scan_objects = scan_objects
        self.seeks = seeks
        self.batch = batch
        self.deferred = 0

    def do_shrink_slab(self, priority: int) -> int:
        """
        Kernel: do_shrink_slab(): look at the share of the objects that a priority asks for; how many were freed.

        Less than a batch is put off until it has added up to one.
        """
        freeable = self.count_objects()
        if freeable <= 0:
            return 0
        deferred, self.deferred = self.deferred, 0
        delta = ((freeable >> priority) * 4) // self.seeks if self.seeks else freeable // 2
        total = min((deferred >> priority) + delta, 2 * freeable)
        scanned = freed = 0
        while total >= self.batch or total >= freeable:
            count = min(self.batch, total)
            if count == 0:
                break
            got = self.scan_objects(count)
            if got < 0:
                break
            freed += got
            total -= count
            scanned += count
        self.deferred += min(max(deferred + delta - scanned, 0), 2 * freeable)
        return freed
