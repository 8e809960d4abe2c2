"""
Reading canonical Parquet; ``parquet_writer`` writes it.

It takes what other tools write too: dictionary or plain strings, other integer types, nulls or
"no such field" values, missing optional columns, a ``pid`` instead of a ``task``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from memtrace.errors import TraceError

from .kswapd_runs import KSWAPD_WAKE
from .schema import (
    CHUNK_COLUMNS,
    EV_CACHE_CREATE,
    EV_CPU_OFFLINE,
    EV_CPU_ONLINE,
    EV_GT_BULK_OBJ,
    EV_GT_PAGE,
    EV_GT_SLAB,
    EV_MARKER,
    EV_OTHER,
    EV_PERCPU_ALLOC,
    EV_PERCPU_CREATE_CHUNK,
    EV_PERCPU_DESTROY_CHUNK,
    EV_PERCPU_FREE,
    EVENT_ALIASES,
    EVENT_CODES,
    EventChunk,
    TraceVocab,
    Vocab,
)
from .tokenizer import LOST_EVENTS

STRING_COLUMNS = {"event": "event", "call_site": "call_site", "name": "name", "gfp_flags": "gfp", "ctx": "ctx",
                  "gt_name": "name"}  # fmt: skip
"""Column -> attribute of TraceVocab."""
OPTIONAL_COLUMNS = ("task", "ctx", "text", "gt_name")
REQUIRED_COLUMNS = ("ts_ns", "cpu", "event", "ptr")
DTYPES = {name: dtype for name, dtype, _ in CHUNK_COLUMNS}
ABSENT = {name: fill for name, _, fill in CHUNK_COLUMNS}
# Smallest and largest value of the columns that have limits; below 0 only what stands for "no such field".
LIMITS = {
    "cpu": (0, 4095, "0..4095"),
    "task": (-1, (1 << 31) - 1, "a small integer per task"),
    "bytes_req": (-1, (1 << 63) - 1, "bytes, 0..2^63-1, or null"),
    "bytes_alloc": (-1, (1 << 63) - 1, "bytes, 0..2^63-1, or null"),
    "node": (-2, 1023, "a node 0..1023, -1 for any, or null"),
    "order": (-1, 30, "0..30, or null"),
    "migratetype": (-2, 30, "0..30, or null"),
    "pfn": (-1, (1 << 52) - 1, "a page frame number, or null"),
}
MAX_PID = 1 << 22  # the kernel's PID_MAX_LIMIT
TEXT_EVENTS = np.zeros(256, bool)
TEXT_EVENTS[[EV_MARKER, EV_GT_BULK_OBJ, EV_GT_PAGE, EV_GT_SLAB, EV_PERCPU_ALLOC, EV_PERCPU_FREE,
             EV_PERCPU_CREATE_CHUNK, EV_PERCPU_DESTROY_CHUNK, EV_CPU_ONLINE, EV_CPU_OFFLINE,
             EV_CACHE_CREATE]] = True  # fmt: skip

_DICTIONARY = pa.dictionary(pa.int32(), pa.string())
ARROW_TYPES = {
    name: _DICTIONARY if name in STRING_COLUMNS else pa.string() if name == "text" else pa.from_numpy_dtype(dtype)
    for name, dtype, _ in CHUNK_COLUMNS
    if name != "event_name"
}


class ParquetTrace:
    """
    The rows of a Parquet trace, decoded to chunks.

    Parameters
    ----------
    path
        The file.
    vocab
        Gets the strings.
    columns
        Columns to read; the others keep their "no such field" value. All when not given.
    shown_as
        Name for messages, when it is not ``path``.

    Raises
    ------
    TraceError
        When it is not Parquet, is cut off, or lacks a column.
    """

    def __init__(
        self, path: str | Path, vocab: TraceVocab, columns: Sequence[str] | None = None, shown_as: str = ""
    ) -> None:
        self.path = path
        self.shown_as = shown_as or str(path)
        self.vocab = vocab
        self._file = self._open(path)
        self._thread = ThreadPoolExecutor(1, "memtrace-parquet")
        self.rows: int = self._file.metadata.num_rows
        self.names: list[str] = self._file.schema_arrow.names
        self._check_columns()
        wanted = [name for name in ARROW_TYPES if name in self.names and (columns is None or name in columns)]
        self._from_pid = "pid" in self.names and not self._is_integer("task")
        if self._from_pid or not self._is_integer("task"):
            wanted = [name for name in wanted if name != "task"]
        if self._from_pid and (columns is None or "task" in columns):
            wanted.append("pid")
        self._columns = list(dict.fromkeys([*REQUIRED_COLUMNS, *wanted]))
        self._pids = np.full(MAX_PID + 1, -1, np.int32)
        self._n_pids = 0
        self._luts: dict[str, tuple[Any, np.ndarray]] = {}
        self._kinds = np.zeros(0, np.uint8)

    def batches(self, rows: int, texts: bool = False) -> Iterator[tuple[EventChunk, Any]]:
        """
        The rows, in chunks of at most ``rows``; a second thread decompresses the next while one is used.

        Parameters
        ----------
        rows
            Rows per chunk.
        texts
            Also give every row's text, as a pyarrow string array; else it is None, and ``chunk.text`` has
            the texts of TEXT_EVENTS alone.
        """
        row0 = 0
        try:
            batches = self._file.iter_batches(rows, columns=self._columns, use_threads=False)
            coming = self._thread.submit(next, batches, None)
            while (batch := coming.result()) is not None:
                coming = self._thread.submit(next, batches, None)
                if batch.num_rows:
                    yield self._decode(batch, row0, texts)
                    row0 += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            message = f"damaged Parquet at row {row0 + 1} or later ({_first_line(error)}); expected {self.rows} rows."
            raise TraceError(f"{message} Copy or record it again.", self.shown_as) from error

    def has(self, name: str) -> bool:
        """Whether a column has a value in any row, as far as the file's statistics tell."""
        source = "pid" if name == "task" and self._from_pid else name
        if source not in self._columns:
            return False
        metadata = self._file.metadata
        index = [metadata.schema.column(i).path for i in range(metadata.num_columns)].index(source)
        for group in range(metadata.num_row_groups):
            statistics = metadata.row_group(group).column(index).statistics
            nulls = statistics.null_count if statistics is not None and statistics.has_null_count else 0
            if nulls < metadata.row_group(group).num_rows:
                return True
        return False

    def close(self) -> None:
        self._thread.shutdown()
        self._file.close()

    def _open(self, path: str | Path) -> pq.ParquetFile:
        try:
            schema = pq.read_schema(path)
            # Of another type, like a list, a column has no such path; _check_columns says so afterwards.
            strings = [field.name for field in schema if field.name in STRING_COLUMNS and not field.type.num_fields]
            return pq.ParquetFile(path, read_dictionary=strings, pre_buffer=False, buffer_size=1 << 20)
        except UnicodeEncodeError:
            raise TraceError("a name that is not UTF-8; expected one that is. Give the file another name.",
                             self.shown_as) from None  # fmt: skip
        except (pa.ArrowException, OSError) as error:
            raise TraceError(f"not a whole Parquet file ({_first_line(error)}); expected a footer at its end. "
                             "It was probably cut off: copy or record it again.", self.shown_as) from error  # fmt: skip

    def _check_columns(self) -> None:
        for name in REQUIRED_COLUMNS:
            if name not in self.names:
                raise TraceError(f'no column "{name}"; expected at least {", ".join(REQUIRED_COLUMNS)}, '
                                 f"found {', '.join(self.names) or 'none'}. See docs/trace-formats.md.",
                                 self.shown_as)  # fmt: skip
        for name in self.names:
            if self.names.count(name) > 1:
                raise TraceError(f'column "{name}" stands twice; expected once. Remove one.', self.shown_as)
            kind = self._file.schema_arrow.field(name).type
            if name in STRING_COLUMNS or name == "text":
                values = kind.value_type if pa.types.is_dictionary(kind) else kind
                good = pa.types.is_string(values) or pa.types.is_large_string(values) or pa.types.is_null(values)
                expected = "strings"
            elif name == "ptr":
                good = pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
                expected = "uint64, int64 or hexadecimal strings"
            elif name in DTYPES and name not in ("task", "event_name"):
                good = pa.types.is_integer(kind) or pa.types.is_null(kind)
                expected = "integers"
            else:
                continue
            if not good or (name in REQUIRED_COLUMNS and pa.types.is_null(kind)):
                raise TraceError(f'column "{name}" is of type {kind}; expected {expected}. '
                                 "Write it with that type (in pandas: Int64, string).", self.shown_as)  # fmt: skip

    def _is_integer(self, name: str) -> bool:
        return name in self.names and pa.types.is_integer(self._file.schema_arrow.field(name).type)

    def _decode(self, batch: pa.RecordBatch, row0: int, texts: bool) -> tuple[EventChunk, Any]:
        n = batch.num_rows
        arrays: dict[str, np.ndarray] = {}
        for name in self._columns:
            column = batch.column(name)
            if name == "event":
                arrays["event_name"] = self._codes(name, column)
                arrays["event"] = self._event_kinds(arrays["event_name"], row0)
            elif name in STRING_COLUMNS:
                arrays[name] = self._codes(name, column)
            elif name == "pid":
                arrays["task"] = self._tasks(column)
            elif name == "ptr":
                arrays[name] = self._pointers(column, row0)
            elif name != "text":
                arrays[name] = self._integers(name, column, row0)
        text = batch.column("text") if "text" in self._columns else None
        if text is not None and not texts:
            arrays["text"] = self._text_codes(text, arrays["event"], arrays["event_name"])
        for name, dtype, absent in CHUNK_COLUMNS:
            if name not in arrays:
                arrays[name] = np.full(n, absent, dtype)
        if texts and text is None:
            text = pa.nulls(n, pa.string())
        return EventChunk(row0, **arrays), text if texts else None

    def _integers(self, name: str, column: pa.Array, row0: int) -> np.ndarray:
        """A column as its dtype of CHUNK_COLUMNS, always a copy: chunks may be written to."""
        if pa.types.is_null(column.type):
            return np.full(len(column), ABSENT[name], DTYPES[name])
        values, absent = _values(column)
        if absent is not None:
            if name in ("ts_ns", "cpu"):
                raise TraceError(f"{name} is null; expected a value in every row.",
                                 self.shown_as, row0 + int(absent.argmax()) + 1)  # fmt: skip
            values = np.where(absent, values.dtype.type(0), values)
        low, high, expected = LIMITS.get(name, (0, (1 << 63) - 1, "nanoseconds, 0 or more"))
        if int(values.min()) < low or int(values.max()) > high:
            row = int(np.flatnonzero((values < low) | (values > high))[0])
            raise TraceError(f"{name} is {values[row]}; expected {expected}. Correct the value.",
                             self.shown_as, row0 + row + 1)  # fmt: skip
        found = values.astype(DTYPES[name])
        if absent is not None:
            np.copyto(found, ABSENT[name], where=absent)
        if name == "migratetype":
            np.maximum(found, -1, out=found)
        return found

    def _pointers(self, column: pa.Array, row0: int) -> np.ndarray:
        if pa.types.is_integer(column.type):
            values, absent = _values(column)
            found = values.astype(np.int64).view(np.uint64) if values.dtype.kind == "i" else values.astype(np.uint64)
            if absent is not None:
                np.copyto(found, 0, where=absent)
            return found
        encoded = pc.dictionary_encode(column)
        numbers = []
        for text in encoded.dictionary.to_pylist():
            try:
                numbers.append(0 if text in ("", "(null)", "(nil)") else int(text, 16))
            except ValueError:
                numbers.append(-1)
            if not 0 <= numbers[-1] < 1 << 64:
                row = pc.index(column, pa.scalar(text, column.type)).as_py()
                raise TraceError(f"ptr is {text!r}; expected hexadecimal digits, with or without 0x. "
                                 "Correct the value.", self.shown_as, row0 + row + 1)  # fmt: skip
        return np.array([*numbers, 0], np.uint64)[_indices(encoded)]

    def _codes(self, name: str, column: pa.Array) -> np.ndarray:
        """Vocabulary codes of a string column; -1 for null."""
        if not pa.types.is_dictionary(column.type):
            if pa.types.is_null(column.type):
                return np.full(len(column), -1, np.int32)
            column = pc.dictionary_encode(column)
        dictionary = column.dictionary
        known = self._luts.get(name)
        # The kept dictionary keeps its memory, so an equal address is the same dictionary.
        if known is None or len(known[0]) != len(dictionary) or _address(known[0]) != _address(dictionary):
            vocab: Vocab = getattr(self.vocab, STRING_COLUMNS[name])
            names = dictionary.to_pylist()
            if name == "event":
                names = [EVENT_ALIASES.get(text, text) for text in names]
            lut = np.array([*(-1 if text is None else vocab.code(text) for text in names), -1], np.int32)
            known = self._luts[name] = (dictionary, lut)
        indices, absent = _values(column.indices)
        codes = known[1].take(indices, mode="clip")  # what stands at a null may be any number
        if absent is not None:
            np.copyto(codes, -1, where=absent)
        return codes

    def _event_kinds(self, codes: np.ndarray, row0: int) -> np.ndarray:
        if len(self._kinds) < len(self.vocab.event):
            self._kinds = np.array([EVENT_CODES.get(name, EV_OTHER) for name in self.vocab.event.names], np.uint8)
        if int(codes.min()) < 0:
            row = int(codes.argmin())
            raise TraceError("event is null; expected a name in every row.", self.shown_as, row0 + row + 1)
        return self._kinds.take(codes)

    def _tasks(self, column: pa.Array) -> np.ndarray:
        """Pids as small integers, in order of first appearance; the pids themselves are not kept."""
        pids, absent = _values(column)
        if absent is not None:
            pids = np.where(absent, pids.dtype.type(0), pids)
        unknown = absent if absent is not None else np.zeros(len(pids), bool)
        if int(pids.min()) < 0 or int(pids.max()) >= MAX_PID:  # perf prints -1 for a thread it does not know
            unknown = unknown | (pids < 0) | (pids >= MAX_PID)
        if unknown.any():
            pids = np.where(unknown, MAX_PID, pids)
        tasks = self._pids.take(pids)
        new = np.flatnonzero((tasks < 0) & ~unknown) if int(tasks.min()) < 0 else ()
        if len(new):
            values, first = np.unique(pids[new], return_index=True)
            values = values[np.argsort(first)]
            self._pids[values] = np.arange(self._n_pids, self._n_pids + len(values))
            self._n_pids += len(values)
            tasks = self._pids.take(pids)
        return tasks

    def _text_codes(self, column: pa.Array, event: np.ndarray, event_name: np.ndarray) -> np.ndarray:
        codes = np.full(len(column), -1, np.int32)
        wanted = TEXT_EVENTS[event]
        for name in (LOST_EVENTS, KSWAPD_WAKE):
            code = self.vocab.event.codes.get(name, -1)
            if code >= 0:
                wanted = wanted | (event_name == code)
        rows = np.flatnonzero(wanted)
        if len(rows):
            encoded = pc.dictionary_encode(column.take(_int64(rows)))
            lut = np.array([*(self.vocab.text.code(text) for text in encoded.dictionary.to_pylist()), -1], np.int32)
            codes[rows] = lut[_indices(encoded)]
        return codes


def _values(array: pa.Array) -> tuple[np.ndarray, np.ndarray | None]:
    """An integer array's values without a copy, whatever stands where it is null; and where that is, or None."""
    n, first = len(array), array.offset
    valid, data = array.buffers()
    if data is None:
        return np.zeros(n, np.int64), np.ones(n, bool)
    values = np.frombuffer(data, array.type.to_pandas_dtype(), first + n)[first:]
    if not array.null_count:
        return values, None
    bits = np.frombuffer(valid, np.uint8)[first // 8 : (first + n + 7) // 8]
    present = np.unpackbits(bits, bitorder="little")[first % 8 : first % 8 + n]
    return values, present == 0


def _indices(encoded: pa.DictionaryArray) -> np.ndarray:
    """Indices into the dictionary, -1 for null."""
    indices, absent = _values(encoded.indices)
    return indices if absent is None else np.where(absent, -1, indices)


def _int64(values: np.ndarray) -> pa.Array:
    """An Arrow array of these numbers; pa.array would import pandas, which takes half a second."""
    values = np.ascontiguousarray(values, np.int64)
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(values)])


def _address(array: pa.Array) -> int:
    buffer = array.buffers()[-1]
    return 0 if buffer is None else buffer.address


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
