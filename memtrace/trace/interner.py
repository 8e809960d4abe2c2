"""
What both tokenizers stand on: byte strings as small integers, numbers, and the columns that rows go to.

Neither makes a Python object for a row; a string becomes one when it is first seen.
"""

from __future__ import annotations

from typing import Any

import cython
import numpy as np

from memtrace.trace.schema import CHUNK_COLUMNS, NO_NODE, EventChunk, Vocab

HASH_MULTIPLIER = 16777619  # FNV-1's prime
HASH_MASK = 0x7FFFFFFF
BILLION = 1000000000
MAX_HIGH = 1844674407  # 2**64-1 is 18446744073709551615
MAX_LOW = 3709551615


@cython.cclass
class Interner:
    """
    Bytes of a buffer to codes of a `Vocab`: an open-addressing table over the bytes themselves.

    ``buf`` is the buffer that `code` is given positions in; whoever changes the buffer sets it.

    Parameters
    ----------
    vocab
        Where new strings get their codes. Two byte strings may share a code (aliases, broken UTF-8).
    rename
        Older names of the same thing; see ``schema.EVENT_ALIASES``.
    """

    vocab: Vocab
    rename: dict
    buf: cython.uchar[::1]
    used: cython.int
    mask: cython.int
    pool_used: cython.int
    table: cython.int[::1]
    hashes: cython.int[::1]
    starts: cython.int[::1]
    lengths: cython.int[::1]
    codes: cython.int[::1]
    pool: cython.uchar[::1]
    last_hash: cython.int

    def __init__(self, vocab: Vocab, rename: dict[str, str] | None = None) -> None:
        self.vocab = vocab
        self.rename = rename or {}
        self.buf = bytearray(1)
        self.used = 0
        self.pool_used = 0
        self.mask = 1023
        self.last_hash = 0
        self.table = np.full(1024, -1, np.int32)
        self.hashes = np.zeros(512, np.int32)
        self.starts = np.zeros(512, np.int32)
        self.lengths = np.zeros(512, np.int32)
        self.codes = np.zeros(512, np.int32)
        self.pool = np.zeros(16384, np.uint8)

    @cython.cfunc
    @cython.exceptval(check=False)
    def slot(self, start: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.int:
        """Where in ``table`` the string buf[start:end] is, or belongs; leaves its hash in ``last_hash``."""
        value: cython.ulonglong = end - start
        word: cython.ulonglong
        i: cython.Py_ssize_t = start
        while i + 4 <= end:  # four bytes a step: the multiplications wait for one another, the loads do not
            word = (
                self.buf[i]
                | self.buf[i + 1] << 8
                | self.buf[i + 2] << 16
                | cython.cast(cython.ulonglong, self.buf[i + 3]) << 24
            )
            value = ((value ^ word) * HASH_MULTIPLIER) & HASH_MASK
            i += 4
        while i < end:
            value = ((value ^ self.buf[i]) * HASH_MULTIPLIER) & HASH_MASK
            i += 1
        value ^= value >> 15
        self.last_hash = cython.cast(cython.int, value)
        length: cython.Py_ssize_t = end - start
        at: cython.int = self.last_hash & self.mask
        while self.table[at] >= 0:
            entry: cython.int = self.table[at]
            if self.hashes[entry] == self.last_hash and self.lengths[entry] == length:
                base: cython.Py_ssize_t = self.starts[entry]
                if self.same(base, start, length):
                    return at
            at = (at + 1) & self.mask
        return at

    @cython.cfunc
    @cython.exceptval(check=False)
    def same(self, base: cython.Py_ssize_t, start: cython.Py_ssize_t, length: cython.Py_ssize_t) -> cython.bint:
        """Whether pool[base:] and buf[start:] agree in ``length`` bytes."""
        i: cython.Py_ssize_t = 0
        while i + 4 <= length:
            if (
                (self.pool[base + i] ^ self.buf[start + i])
                | (self.pool[base + i + 1] ^ self.buf[start + i + 1])
                | (self.pool[base + i + 2] ^ self.buf[start + i + 2])
                | (self.pool[base + i + 3] ^ self.buf[start + i + 3])
            ):
                return False
            i += 4
        while i < length:
            if self.pool[base + i] != self.buf[start + i]:
                return False
            i += 1
        return True

    @cython.ccall
    def code(self, start: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.int:
        """Code of buf[start:end]; a new string is added to the vocabulary."""
        at: cython.int = self.slot(start, end)
        entry: cython.int = self.table[at]
        if entry >= 0:
            return self.codes[entry]
        text = bytes(self.buf[start:end]).decode("utf-8", "replace")
        return self.add(start, end, at, self.vocab.code(self.rename.get(text, text)))

    @cython.cfunc
    def add(
        self, start: cython.Py_ssize_t, end: cython.Py_ssize_t, at: cython.int, code: cython.int
    ) -> cython.int:
        length: cython.Py_ssize_t = end - start
        if self.used == len(self.codes):
            self.hashes = np.concatenate([self.hashes, self.hashes])
            self.starts = np.concatenate([self.starts, self.starts])
            self.lengths = np.concatenate([self.lengths, self.lengths])
            self.codes = np.concatenate([self.codes, self.codes])
        while self.pool_used + length > len(self.pool):
            self.pool = np.concatenate([self.pool, self.pool])
        i: cython.Py_ssize_t
        for i in range(length):
            self.pool[self.pool_used + i] = self.buf[start + i]
        self.hashes[self.used] = self.last_hash
        self.starts[self.used] = self.pool_used
        self.lengths[self.used] = cython.cast(cython.int, length)
        self.codes[self.used] = code
        self.table[at] = self.used
        self.pool_used += cython.cast(cython.int, length)
        self.used += 1
        if self.used * 2 > self.mask:
            self.grow()
        return code

    @cython.cfunc
    def grow(self) -> cython.void:
        size: cython.int = (self.mask + 1) * 4
        self.mask = size - 1
        self.table = np.full(size, -1, np.int32)
        entry: cython.int
        for entry in range(self.used):
            at: cython.int = self.hashes[entry] & self.mask
            while self.table[at] >= 0:
                at = (at + 1) & self.mask
            self.table[at] = entry


@cython.cclass
class Numbers:
    """
    Reads numbers out of a buffer; the last one read is in ``value`` and ``negative``.

    ``buf`` is set by whoever changes the buffer, as for `Interner`.
    """

    buf: cython.uchar[::1]
    value: cython.ulonglong
    negative: cython.bint
    hex_digits: cython.uchar[::1]
    """Value of each byte as a hexadecimal digit, 16 where it is none: a table, since digits and letters
    alternate at random and branches on them are guessed wrong."""

    def __init__(self) -> None:
        self.buf = bytearray(1)
        self.value = 0
        self.negative = False
        digits = bytearray([16] * 256)
        for i in range(16):
            digits[ord(f"{i:x}")] = digits[ord(f"{i:X}")] = i
        self.hex_digits = digits

    @cython.ccall
    @cython.exceptval(check=False)
    def any_base(self, start: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.bint:
        """Decimal, or hexadecimal with 0x; at most 64 bits. Whether it is a number."""
        if end > start + 2 and self.buf[start] == 48 and (self.buf[start + 1] | 32) == 120:
            return self.pointer(start, end)
        self.value = 0
        self.negative = end > start and self.buf[start] == 45
        if self.negative:
            start += 1
        if start == end:
            return False
        while start < end - 1 and self.buf[start] == 48:
            start += 1
        if end - start > 20:
            return False
        digit: cython.int
        i: cython.Py_ssize_t
        for i in range(start, end):
            digit = self.buf[i] - 48
            if digit < 0 or digit > 9:
                return False
            if i - start == 19:  # the 20th digit may be one too many; in two halves, since C has nothing larger
                high: cython.longlong = cython.cast(cython.longlong, self.value // BILLION)
                low: cython.longlong = cython.cast(cython.longlong, self.value % BILLION)
                if high > MAX_HIGH or (high == MAX_HIGH and low * 10 + digit > MAX_LOW):
                    return False
            self.value = self.value * 10 + digit
        return True

    @cython.cfunc
    @cython.exceptval(check=False)
    def pointer(self, start: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.bint:
        """Hexadecimal with or without 0x, or ``(null)`` or ``(nil)``. Whether it is one."""
        self.value = 0
        self.negative = False
        if end > start + 3 and self.buf[start] == 40:  # not "(____ptrval____)": hashed too early to tell apart
            return (self.buf[start + 1] | 32) == 110 and self.buf[end - 1] == 41
        if end > start + 2 and self.buf[start] == 48 and (self.buf[start + 1] | 32) == 120:
            start += 2
        if start == end or end - start > 16:
            return False
        value: cython.ulonglong = 0
        digit: cython.ulonglong
        seen: cython.ulonglong = 0
        i: cython.Py_ssize_t
        for i in range(start, end):
            digit = self.hex_digits[self.buf[i]]
            seen |= digit
            value = value << 4 | digit
        self.value = value
        return seen < 16


@cython.cclass
class Rows:
    """
    The columns of one `EventChunk` while it is being filled, row by row, up to ``capacity`` rows.

    A tokenizer writes row ``n`` and then increments ``n``; `clear` undoes a row that turns out to be bad.
    """

    capacity: cython.int
    n: cython.int
    chunk: object
    line: cython.longlong[::1]
    """Line of the input that the row came from, counted from 1."""
    text_end: cython.int[::1]
    """The texts stand behind one another in ``texts``; element n+1 is where row n's ends."""
    has_text: cython.uchar[::1]
    texts: bytearray
    texts_bytes: cython.int
    ts_ns: cython.longlong[::1]
    cpu: cython.short[::1]
    task: cython.int[::1]
    event: cython.uchar[::1]
    event_name: cython.int[::1]
    call_site: cython.int[::1]
    ptr: cython.ulonglong[::1]
    name: cython.int[::1]
    bytes_req: cython.longlong[::1]
    bytes_alloc: cython.longlong[::1]
    gfp_flags: cython.int[::1]
    node: cython.short[::1]
    order: cython.short[::1]
    migratetype: cython.short[::1]
    pfn: cython.longlong[::1]
    ctx: cython.int[::1]
    gt_name: cython.int[::1]

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.renew()

    @cython.ccall
    def renew(self) -> cython.void:
        """New empty columns; the old chunk belongs to whoever took it."""
        chunk = EventChunk.empty(self.capacity)
        self.chunk = chunk
        self.n = 0
        self.line = np.zeros(self.capacity, np.int64)
        self.text_end = np.zeros(self.capacity + 1, np.int32)
        self.has_text = np.zeros(self.capacity, np.uint8)
        self.texts = bytearray()
        self.texts_bytes = 0
        self.ts_ns = chunk.ts_ns
        self.cpu = chunk.cpu
        self.task = chunk.task
        self.event = chunk.event
        self.event_name = chunk.event_name
        self.call_site = chunk.call_site
        self.ptr = chunk.ptr
        self.name = chunk.name
        self.bytes_req = chunk.bytes_req
        self.bytes_alloc = chunk.bytes_alloc
        self.gfp_flags = chunk.gfp_flags
        self.node = chunk.node
        self.order = chunk.order
        self.migratetype = chunk.migratetype
        self.pfn = chunk.pfn
        self.ctx = chunk.ctx
        self.gt_name = chunk.gt_name

    @cython.cfunc
    @cython.exceptval(check=False)
    def clear(self) -> cython.void:
        """Row n back to the "no such field" values of CHUNK_COLUMNS."""
        n: cython.int = self.n
        self.ts_ns[n] = 0
        self.cpu[n] = 0
        self.task[n] = -1
        self.event[n] = 0
        self.event_name[n] = -1
        self.call_site[n] = -1
        self.ptr[n] = 0
        self.name[n] = -1
        self.bytes_req[n] = -1
        self.bytes_alloc[n] = -1
        self.gfp_flags[n] = -1
        self.node[n] = NO_NODE
        self.order[n] = -1
        self.migratetype[n] = -1
        self.pfn[n] = -1
        self.ctx[n] = -1
        self.gt_name[n] = -1
        self.has_text[n] = 0

    @cython.cfunc
    def set_text(self, text: bytes) -> cython.void:
        """The text of row n; at most once a row, before `finish`."""
        self.texts += text
        self.texts_bytes = cython.cast(cython.int, len(self.texts))
        self.has_text[self.n] = 1

    @cython.cfunc
    @cython.exceptval(check=False)
    def finish(self, line: cython.longlong) -> cython.void:
        """Row n is complete."""
        self.line[self.n] = line
        self.n += 1
        self.text_end[self.n] = self.texts_bytes

    def take(self, row0: int) -> tuple[EventChunk, Any, np.ndarray]:
        """
        The rows filled so far, and new empty columns in their place.

        Returns
        -------
        The chunk (its ``text`` column is left empty), the texts as a pyarrow string array with nulls, and
        the line of each row.
        """
        import pyarrow as pa

        n = self.n
        full = self.chunk
        chunk = EventChunk(row0, **{name: getattr(full, name)[:n] for name, _, _ in CHUNK_COLUMNS})
        ends = np.asarray(self.text_end)[: n + 1]
        valid = np.asarray(self.has_text)[:n]
        data = bytes(self.texts)
        try:
            data.decode("utf-8")
            buffers = [
                pa.py_buffer(np.packbits(valid, bitorder="little").tobytes()),
                pa.py_buffer(ends.tobytes()),
                pa.py_buffer(data),
            ]
            text = pa.StringArray.from_buffers(n, buffers[1], buffers[2], buffers[0])
        except UnicodeDecodeError:
            text = pa.array(
                [data[ends[i] : ends[i + 1]].decode("utf-8", "replace") if valid[i] else None for i in range(n)],
                pa.string(),
            )
        line = np.asarray(self.line)[:n]
        self.renew()
        return chunk, text, line
