"""Arrays that compiled loops fill: memoryviews over numpy, so that interpreted loops read plain ints from them."""

from __future__ import annotations

from typing import Any

import numpy as np


def filled(n: int, dtype: Any, value: int = 0) -> memoryview:
    """n numbers, all the same."""
    return np.full(n, value, dtype).data


def view(array: np.ndarray) -> memoryview:
    """A view of an array as it is; what is written shows in both."""
    return array.data


def doubled(old: Any, value: int = 0) -> memoryview:
    """A copy of a memoryview, twice as long, the new half filled with ``value``."""
    array = np.asarray(old)
    return np.concatenate([array, np.full(len(array), value, array.dtype)]).data
