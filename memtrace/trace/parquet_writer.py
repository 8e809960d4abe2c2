"""Writing canonical Parquet: beside the thread that makes the rows, and under its name only when it is whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from memtrace.files import NewFile

from .parquet import ABSENT, ARROW_TYPES, OPTIONAL_COLUMNS, STRING_COLUMNS
from .schema import EventChunk, TraceVocab, Vocab


class ParquetTraceWriter:
    """
    Writes canonical Parquet: under a temporary name, put in place by `close`.

    Encoding and compression take as long as decoding a trace does: a second thread does them, one chunk behind.

    Parameters
    ----------
    path
        Where to; an existing file is replaced.
    vocab
        Of the chunks that will be written.
    metadata
        Key-value pairs for the file's footer.
    drop_empty
        Leave out those of OPTIONAL_COLUMNS that no row has. One that first turns up late, when rows are written
        already, costs writing these again.
    columns
        Write only these of ``ARROW_TYPES``, all of them; instead of ``drop_empty``, when it is known before.
    scratch
        The file is read again soon and then deleted: quick rather than small.

    Raises
    ------
    OutputError
        From each method: the file cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        vocab: TraceVocab,
        metadata: dict[str, str] | None = None,
        *,
        drop_empty: bool = True,
        columns: Sequence[str] | None = None,
        scratch: bool = False,
    ) -> None:
        self._new = NewFile(path)
        self._parts = [self._new.part, self._new.part.with_suffix(".part2")]
        self._vocab = vocab
        self._metadata = metadata
        self._scratch = scratch
        self._dictionaries: dict[str, pa.Array] = {}
        self._names = [name for name in ARROW_TYPES if columns is None or name in columns]
        self._missing = set(OPTIONAL_COLUMNS) if drop_empty and columns is None else set()
        self._writer: pq.ParquetWriter | None = None
        self._thread = ThreadPoolExecutor(1, "memtrace-parquet")
        self._running: Future[None] | None = None

    def write(self, chunk: EventChunk, text: Any = None) -> None:
        """
        Appends rows.

        Parameters
        ----------
        chunk
            Its arrays belong to the writer from now on: they are read after this returns.
        text
            A pyarrow string array that replaces the chunk's own column.
        """
        if not len(chunk):
            return
        columns = {name: self._column(name, chunk, text) for name in self._names}
        found = {name for name in self._missing if columns[name].null_count < len(chunk)}
        self._missing -= found
        schema = self._schema()
        table = pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)
        # The thread gets one call into C: each step in Python would wait until the compiled decoder lets others run.
        self._do(lambda: self._append(table, bool(found)))

    def close(self) -> None:
        """Puts the file in place."""
        self._do(self._end)
        self._wait()
        self._thread.shutdown()
        self._new.put_in_place(self._parts[0])

    def abort(self) -> None:
        """Leaves nothing behind."""
        self._thread.shutdown()
        # What is wrong with the file has been told already, or does not matter any more.
        with contextlib.suppress(OSError, pa.ArrowException):
            if self._writer is not None:
                self._writer.close()
        self._new.discard(*self._parts)

    def _do(self, work: Callable[[], None]) -> None:
        """Has the thread do it when it is done with what it has: at most two chunks are in memory."""
        self._wait()
        self._running = self._thread.submit(work)

    def _wait(self) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        with self._new.writing():
            running.result()

    def _schema(self) -> pa.Schema:
        """Of the columns that were found until now."""
        kept = [(name, ARROW_TYPES[name]) for name in self._names if name not in self._missing]
        return pa.schema(kept, metadata=self._metadata)

    def _append(self, table: pa.Table, more_columns: bool) -> None:
        if self._writer is None:
            self._writer = self._open(self._parts[0], table.schema)
        elif more_columns:
            self._writer = self._widened(self._writer, table.schema)
        self._writer.write_table(table)

    def _end(self) -> None:
        if self._writer is None:
            self._writer = self._open(self._parts[0], self._schema())
        self._writer.close()

    def _open(self, path: Path, schema: pa.Schema) -> pq.ParquetWriter:
        strings = [name for name in schema.names if name in STRING_COLUMNS]
        if self._scratch:
            return pq.ParquetWriter(path, schema, compression="lz4", use_dictionary=strings,
                                    write_statistics=list(OPTIONAL_COLUMNS))  # which `has` asks for
        return pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=[*strings, "text"])

    def _widened(self, old: pq.ParquetWriter, schema: pa.Schema) -> pq.ParquetWriter:
        """Writes what there is again, with the columns that turned up after it; what goes on there."""
        old.close()
        self._writer = new = self._open(self._parts[1], schema)
        strings = [name for name in old.schema.names if name in STRING_COLUMNS]
        with pq.ParquetFile(self._parts[0], read_dictionary=strings) as source:
            for group in range(source.num_row_groups):
                rows = source.read_row_group(group)
                columns = [
                    rows.column(name) if name in rows.column_names else pa.nulls(rows.num_rows, kind)
                    for name, kind in zip(schema.names, schema.types, strict=True)
                ]
                new.write_table(pa.Table.from_arrays(columns, schema=schema))
        self._parts[0].unlink()
        self._parts.reverse()
        return new

    def _column(self, name: str, chunk: EventChunk, text: Any) -> pa.Array:
        if name == "text":
            if text is None:
                text = pa.array([None, *self._vocab.text.names], pa.string()).take(pa.array(chunk.text + 1))
            return text.cast(pa.string())
        if name in STRING_COLUMNS:
            codes = chunk.event_name if name == "event" else getattr(chunk, name)
            vocab: Vocab = getattr(self._vocab, STRING_COLUMNS[name])
            strings = self._dictionaries.get(name)
            if strings is None or len(strings) != len(vocab):
                strings = self._dictionaries[name] = pa.array(vocab.names, pa.string())
            return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), strings)
        values = getattr(chunk, name)
        if name in ("ts_ns", "cpu", "ptr") or (self._scratch and name != "task"):  # "no such field" values do as well
            return pa.array(values)
        return pa.array(values, mask=values == ABSENT[name])
