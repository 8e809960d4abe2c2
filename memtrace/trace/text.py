"""Any text input, block by block through a tokenizer: the memory it takes does not grow with the input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from memtrace.errors import TraceError

from .interner import Rows
from .schema import EventChunk

BLOCK_BYTES = 256 << 10
"""Read at a time: small enough to stay in a CPU's cache from reading to parsing."""
LONGEST_LINE_BYTES = 4 << 20
ROWS_PER_CHUNK = 131072


class Tokenizer(Protocol):
    """What `TextTokenizer` and `CsvTokenizer` have in common."""

    rows: Any
    path: Any
    line: int

    def parse(self, buf: bytearray, start: int, end: int, final: bool) -> int: ...


class ByteStream(Protocol):
    def read(self, size: int) -> bytes: ...


def parsed_chunks(stream: ByteStream, tokenizer: Tokenizer) -> Iterator[tuple[EventChunk, Any, np.ndarray]]:
    """
    Reads a stream to its end.

    Parameters
    ----------
    stream
        Decompressed bytes.
    tokenizer
        Fills its ``rows``.

    Yields
    ------
    As `Rows.take`: the chunk, its texts, the line of each row.

    Raises
    ------
    TraceError
        When a line is longer than LONGEST_LINE_BYTES, or the tokenizer says so.
    """
    rows: Rows = tokenizer.rows
    buf = bytearray(LONGEST_LINE_BYTES)
    used = 0
    row0 = 0
    final = False
    while not final:
        data = stream.read(min(BLOCK_BYTES, LONGEST_LINE_BYTES - used))
        buf[used : used + len(data)] = data
        used += len(data)
        final = not data
        pos = 0
        while True:
            pos = tokenizer.parse(buf, pos, used, final)
            if rows.n < rows.capacity:
                break
            taken = rows.take(row0)
            row0 += len(taken[0])
            yield taken
        if pos == 0 and used == LONGEST_LINE_BYTES:
            raise TraceError(f"not a trace: a line longer than {LONGEST_LINE_BYTES >> 20} MiB; expected text lines.",
                             tokenizer.path, tokenizer.line + 1)  # fmt: skip
        buf[: used - pos] = buf[pos:used]
        used -= pos
    if rows.n:
        yield rows.take(row0)
