"""The kernel's two indexes of external fragmentation, from free blocks by order (MODEL 4.1)."""

from __future__ import annotations

import numpy as np


def indexes(nr_free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Unusable free index and fragmentation index, in thousandths.

    Parameters
    ----------
    nr_free
        Free blocks, int64, shape (..., orders).

    Returns
    -------
    Two int64 arrays of the same shape. Every division is of non-negative numbers, so numpy's rounding down
    and C's truncation agree.
    """
    order = np.arange(nr_free.shape[-1], dtype=np.int64)
    pages = nr_free << order
    free = pages.sum(axis=-1, keepdims=True)
    blocks = nr_free.sum(axis=-1, keepdims=True)
    usable = np.flip(np.flip(pages, -1).cumsum(axis=-1), -1)
    unusable = np.where(free == 0, 1000, (free - usable) * 1000 // np.maximum(free, 1))
    scarce = 1000 - (1000 + 1000 * free // (1 << order)) // np.maximum(blocks, 1)
    fragmentation = np.where(blocks == 0, 0, np.where(usable >= 1 << order, -1000, scarce))
    return unusable, fragmentation
