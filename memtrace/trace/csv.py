"""
Canonical CSV, in both directions.

A header row names the columns of ``schema.CHUNK_COLUMNS`` in any order; a hand-written trace needs
``ts_ns,cpu,event,ptr`` and what its events need (docs/trace-formats.md). Lines that begin with ``#`` and
blank lines are skipped. An empty value means that the event has no such field; ``""`` is an empty string.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from memtrace.files import NewFile
from memtrace.trace.csv_tokenizer import CSV_COLUMNS
from memtrace.trace.schema import (
    CHUNK_COLUMNS,
    EV_CACHE_ALLOC,
    EV_CACHE_FREE,
    EV_KFREE,
    EV_KMALLOC,
    EventChunk,
    TraceVocab,
)

_VOCABS = {"event": "event", "call_site": "call_site", "name": "name", "gfp_flags": "gfp", "ctx": "ctx",
           "gt_name": "name", "text": "text"}  # fmt: skip
"""Column -> attribute of TraceVocab that its codes belong to."""


class CsvTraceWriter:
    """
    Writes canonical CSV: under a temporary name, put in place by `close`.

    Parameters
    ----------
    path
        Where to; an existing file is replaced.
    vocab
        Of the chunks that will be written.
    columns
        Those to write; all of ``CSV_COLUMNS`` when not given.
    """

    def __init__(self, path: str | Path, vocab: TraceVocab, columns: tuple[str, ...] = CSV_COLUMNS) -> None:
        self._new = NewFile(path)
        self._vocab = vocab
        self._columns = columns
        self._quoted: dict[str, list[str]] = {}
        with self._new.writing() as part:
            self._file = open(part, "wb")  # noqa: SIM115 (closed by close or abort)
            self._file.write(",".join(columns).encode() + b"\n")

    def write(self, chunk: EventChunk, text: Any = None) -> None:
        """Appends rows; ``text`` is a pyarrow string array that replaces the chunk's own column."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if not len(chunk):
            return
        fields = [self._field(column, chunk, text) for column in self._columns]
        ended = pc.binary_join_element_wise(fields[-1], pa.scalar(""), pa.scalar("\n"))
        lines = pc.binary_join_element_wise(*fields[:-1], ended, pa.scalar(","))
        _, offsets, data = lines.buffers()
        ends = np.frombuffer(offsets, np.int32)[lines.offset : lines.offset + len(lines) + 1]
        with self._new.writing():
            self._file.write(memoryview(data)[ends[0] : ends[-1]])

    def close(self) -> None:
        """Puts the file in place."""
        with self._new.writing():
            self._file.close()
        self._new.put_in_place()

    def abort(self) -> None:
        """Leaves nothing behind."""
        with contextlib.suppress(OSError):  # of a full disk, once more
            self._file.close()
        self._new.discard()

    def _field(self, column: str, chunk: EventChunk, text: Any) -> Any:
        """One column as a pyarrow string array without nulls."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if column == "text" and text is not None:
            return pa.array([quote(value) for value in text.to_pylist()], pa.string())
        if column == "ptr":
            return pa.array(self._pointers(chunk), pa.string())
        vocab = _VOCABS.get(column)
        if vocab:
            codes = chunk.event_name if column == "event" else getattr(chunk, column)
            quoted = self._quoted.setdefault(vocab, [""])
            quoted += [quote(name) for name in getattr(self._vocab, vocab).names[len(quoted) - 1 :]]
            return pa.array(quoted, pa.string()).take(pa.array(codes + 1))
        values = getattr(chunk, column)
        absent = next(fill for name, _, fill in CHUNK_COLUMNS if name == column)
        if column in ("ts_ns", "cpu"):
            return pc.cast(pa.array(values), pa.string())
        return pc.fill_null(pc.cast(pa.array(values, mask=values == absent), pa.string()), "")

    @staticmethod
    def _pointers(chunk: EventChunk) -> list[str]:
        """Hexadecimal; 0 is NULL where the event has a pointer, and nothing where it has none."""
        objects = np.isin(chunk.event, (EV_KMALLOC, EV_KFREE, EV_CACHE_ALLOC, EV_CACHE_FREE))
        absent = (chunk.ptr == 0) & ~objects
        return ["" if none else hex(value) for value, none in zip(chunk.ptr.tolist(), absent.tolist(), strict=True)]


def quote(value: str | None) -> str:
    """A CSV value; quoted only where it must be, so that what people read stays plain."""
    if value is None:
        return ""
    if not value or value != value.strip() or any(c in value for c in ',"\n\r#'):
        return '"' + value.replace('"', '""') + '"'
    return value
