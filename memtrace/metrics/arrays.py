"""Arrow arrays straight from numpy's memory; ``pyarrow.array`` would import pandas first, a quarter of a second."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa


def integers(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """An integer column of any width; not copied when the type is right already."""
    whole = np.ascontiguousarray(values, kind.to_pandas_dtype())
    return pa.Array.from_buffers(kind, len(whole), [None, pa.py_buffer(whole)])


def strings(values: Iterable[str]) -> pa.Array:
    """A text column."""
    encoded = [value.encode("utf-8", "backslashreplace") for value in values]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pa.Array.from_buffers(pa.string(), len(encoded), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))])


def lists(values: Sequence[np.ndarray]) -> pa.Array:
    """A column of lists of int64."""
    ends = np.cumsum([0, *map(len, values)], dtype=np.int32)
    flat = np.concatenate([np.zeros(0, np.int64), *values])
    return pa.ListArray.from_arrays(integers(ends, pa.int32()), integers(flat, pa.int64()))


def named(codes: np.ndarray, names: Sequence[str]) -> pa.DictionaryArray:
    """A column of names from codes into ``names``; null where the code is negative."""
    known = codes >= 0
    valid = None if known.all() else pa.py_buffer(np.packbits(known, bitorder="little"))
    index = np.ascontiguousarray(np.where(known, codes, 0), np.int32)
    return pa.DictionaryArray.from_arrays(
        pa.Array.from_buffers(pa.int32(), len(index), [valid, pa.py_buffer(index)]), strings(names))
