"""Numbers of a perf.data record, and the text of events whose fields are all plain numbers: compiled."""

from __future__ import annotations

import cython
import numpy as np

from memtrace.trace.perf_spec import TEXT_HEX, TEXT_SIGNED, PlainFields

LONGEST_NUMBER = 24
MINUS = 45
ZERO = 48
LETTER_A = 97
LETTER_X = 120


@cython.cclass
class LittleEndian:
    """Bytes of which numbers are read; ``buf`` is the whole file."""

    buf: cython.uchar[::1]

    @cython.cfunc
    @cython.exceptval(check=False)
    def low(self, at: cython.longlong) -> cython.ulonglong:
        """A number of 4 bytes; C compilers make one load of this."""
        return (
            cython.cast(cython.ulonglong, self.buf[at])
            | cython.cast(cython.ulonglong, self.buf[at + 1]) << 8
            | cython.cast(cython.ulonglong, self.buf[at + 2]) << 16
            | cython.cast(cython.ulonglong, self.buf[at + 3]) << 24
        )

    @cython.cfunc
    @cython.exceptval(check=False)
    def number(self, at: cython.longlong, size: cython.longlong) -> cython.ulonglong:
        """A number of ``size`` bytes, without its sign."""
        if size == 8:
            return self.low(at) | self.low(at + 4) << 32
        if size == 4:
            return self.low(at)
        value: cython.ulonglong = 0
        i: cython.longlong = size
        while i > 0:
            i -= 1
            value = value << 8 | self.buf[at + i]
        return value


@cython.cclass
class PlainText(LittleEndian):
    """
    Writes ``name=value name=value`` of a record.

    Parameters
    ----------
    buf
        The whole file.
    fields
        By format: what to write.
    """

    first: cython.int[::1]
    at: cython.int[::1]
    size: cython.int[::1]
    how: cython.int[::1]
    word_end: cython.int[::1]
    words: cython.uchar[::1]
    need: cython.int[::1]
    store: bytearray
    """The text that `write` made."""
    out: cython.uchar[::1]

    def __init__(self, buf: np.ndarray, fields: PlainFields) -> None:
        self.buf = buf.data
        self.first = fields.first
        self.at = fields.at
        self.size = fields.size
        self.how = fields.how
        self.word_end = fields.word_end
        self.words = bytearray(fields.words)
        self.need = fields.need
        self.store = bytearray(len(fields.words) + LONGEST_NUMBER * len(fields.at) + 1)
        self.out = self.store

    @cython.cfunc
    @cython.exceptval(check=False)
    def write(self, spec: cython.int, begin: cython.longlong, end: cython.longlong) -> cython.int:
        """Bytes written; -1 when the format is not plain, or the record is too short for it."""
        if self.need[spec] < 0 or end - begin < self.need[spec]:
            return -1
        n: cython.int = 0
        i: cython.int
        for i in range(self.first[spec], self.first[spec + 1]):
            w: cython.int
            for w in range(self.word_end[i], self.word_end[i + 1]):
                self.out[n] = self.words[w]
                n += 1
            value: cython.ulonglong = self.number(begin + self.at[i], self.size[i])
            if self.how[i] & TEXT_HEX:
                n = self.hexadecimal(value, n)
                continue
            if self.how[i] & TEXT_SIGNED and value >> (8 * self.size[i] - 1):
                self.out[n] = MINUS
                n += 1
                value = self.negated(value, self.size[i])
            n = self.decimal(value, n)
        return n

    @cython.cfunc
    @cython.exceptval(check=False)
    def negated(self, value: cython.ulonglong, size: cython.int) -> cython.ulonglong:
        """The amount of a negative number of ``size`` bytes, in two's complement."""
        mask: cython.ulonglong = 0xFFFFFFFFFFFFFFFF
        return ((value ^ mask) + 1) & (mask >> (64 - 8 * size))

    @cython.cfunc
    @cython.exceptval(check=False)
    def decimal(self, value: cython.ulonglong, n: cython.int) -> cython.int:
        """Writes a number at ``n`` of ``out``; where it ends."""
        length: cython.int = 1
        rest: cython.ulonglong = value // 10
        while rest:
            length += 1
            rest //= 10
        i: cython.int = n + length
        while i > n:
            i -= 1
            self.out[i] = cython.cast(cython.uchar, ZERO + value % 10)
            value //= 10
        return n + length

    @cython.cfunc
    @cython.exceptval(check=False)
    def hexadecimal(self, value: cython.ulonglong, n: cython.int) -> cython.int:
        """The same with 0x before it."""
        self.out[n] = ZERO
        self.out[n + 1] = LETTER_X
        n += 2
        length: cython.int = 1
        rest: cython.ulonglong = value >> 4
        while rest:
            length += 1
            rest >>= 4
        i: cython.int = n + length
        digit: cython.int
        while i > n:
            i -= 1
            digit = cython.cast(cython.int, value & 15)
            self.out[i] = cython.cast(cython.uchar, ZERO + digit if digit < 10 else LETTER_A + digit - 10)
            value >>= 4
        return n + length
