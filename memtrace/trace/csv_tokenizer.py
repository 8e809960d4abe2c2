"""Rows of canonical CSV, as bytes, into the columns of an `EventChunk`; the form is described in ``csv``."""

from __future__ import annotations

import difflib

import cython
import numpy as np

from memtrace.errors import TraceError
from memtrace.trace.interner import Interner, Numbers, Rows
from memtrace.trace.schema import (
    CHUNK_COLUMNS,
    EV_CACHE_ALLOC,
    EV_CACHE_FREE,
    EV_KFREE,
    EV_KMALLOC,
    EV_OTHER,
    EV_PAGE_ALLOC,
    EV_PAGE_FREE,
    EVENT_ALIASES,
    EVENT_CODES,
    TraceVocab,
)

COL_SKIP = 0
COL_TS = 1
COL_CPU = 2
COL_TASK = 3
COL_EVENT = 4
COL_CALL_SITE = 5
COL_PTR = 6
COL_NAME = 7
COL_BYTES_REQ = 8
COL_BYTES_ALLOC = 9
COL_GFP = 10
COL_NODE = 11
COL_ORDER = 12
COL_MIGRATETYPE = 13
COL_PFN = 14
COL_CTX = 15
COL_TEXT = 16
COL_GT_NAME = 17

CSV_COLUMNS = tuple(name for name, _, _ in CHUNK_COLUMNS if name != "event_name")
REQUIRED = ("ts_ns", "cpu", "event", "ptr")
MAX_EVENT_NAMES = 4096

# Largest value, and what the message says was expected.
LIMITS: dict[int, tuple[int, str]] = {
    COL_TS: ((1 << 63) - 1, "nanoseconds since the trace began, 0 or more"),
    COL_CPU: (4095, "0..4095"),
    COL_TASK: ((1 << 31) - 1, "a small integer per task, 0 or more"),
    COL_PTR: ((1 << 64) - 1, "a decimal number, 0x and hexadecimal digits, or (null)"),
    COL_BYTES_REQ: ((1 << 63) - 1, "bytes, 0..2^63-1"),
    COL_BYTES_ALLOC: ((1 << 63) - 1, "bytes, 0..2^63-1"),
    COL_NODE: (1023, "a node number 0..1023, or -1 for any"),
    COL_ORDER: (30, "0..30"),
    COL_MIGRATETYPE: (30, "0..30"),
    COL_PFN: ((1 << 52) - 1, "a page frame number, decimal or 0x"),
}
ADVICE = "Correct the value, or leave it empty when the event has no such field."


@cython.cclass
class CsvTokenizer:
    """
    Parses whole CSV rows into ``rows``; the first row is the header.

    Parameters
    ----------
    rows
        Where rows go.
    vocab
        Gets the strings.
    path
        For messages.

    Raises
    ------
    TraceError
        With file and line, at the first value that is not what its column needs.
    """

    rows: Rows
    path: object
    vocab: TraceVocab
    events: Interner
    sites: Interner
    names: Interner
    gfps: Interner
    ctxs: Interner
    numbers: Numbers
    buf: cython.uchar[::1]
    kinds: cython.uchar[::1]
    limits: cython.ulonglong[::1]
    columns: cython.int[::1]
    n_columns: cython.int
    header: list
    unknown_columns: list
    line: cython.longlong
    row_lines: cython.longlong
    seen: cython.int
    # the field being read: where its value is, whether it was quoted, where the next one begins
    start: cython.Py_ssize_t
    end: cython.Py_ssize_t
    quoted: cython.bint
    next: cython.Py_ssize_t

    def __init__(self, rows: Rows, vocab: TraceVocab, path: str) -> None:
        self.rows = rows
        self.path = path
        self.vocab = vocab
        self.events = Interner(vocab.event, EVENT_ALIASES)
        self.sites = Interner(vocab.call_site)
        self.names = Interner(vocab.name)
        self.gfps = Interner(vocab.gfp)
        self.ctxs = Interner(vocab.ctx)
        self.numbers = Numbers()
        self.kinds = np.full(MAX_EVENT_NAMES, 255, np.uint8)
        limits = np.zeros(32, np.uint64)
        for column, (largest, _) in LIMITS.items():
            limits[column] = largest
        self.limits = limits
        self.columns = np.zeros(1, np.int32)
        self.n_columns = 0
        self.header = []
        self.unknown_columns = []
        self.line = 1

    @cython.ccall
    def parse(
        self, buf: bytearray, start: cython.Py_ssize_t, end: cython.Py_ssize_t, final: cython.bint
    ) -> cython.Py_ssize_t:
        """
        Reads rows of buf[start:end] until they end or ``rows`` is full; where to go on.

        Parameters
        ----------
        buf
            The text; quoted values are unquoted in place.
        start, end
            The part of it to read.
        final
            The input ends here: a last row without a newline is whole.
        """
        self.buf = buf
        for interner in (self.events, self.sites, self.names, self.gfps, self.ctxs):
            cython.cast(Interner, interner).buf = self.buf
        self.numbers.buf = self.buf
        pos: cython.Py_ssize_t = start
        while pos < end and self.rows.n < self.rows.capacity:
            eol: cython.Py_ssize_t = self.row_end(pos, end)
            if eol < 0:
                if not final:
                    break
                eol = end
            last: cython.Py_ssize_t = eol
            if last > pos and self.buf[last - 1] == 13:  # \r
                last -= 1
            if not self.skipped(pos, last):
                if self.n_columns == 0:
                    self.read_header(bytes(self.buf[pos:last]))
                else:
                    self.row(pos, last)
            self.line += self.row_lines
            pos = eol + 1
        return min(pos, end)

    @cython.cfunc
    @cython.exceptval(check=False)
    def skipped(self, start: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.bint:
        """Whether this is a blank line or a comment."""
        while start < end and (self.buf[start] == 32 or self.buf[start] == 9):
            start += 1
        return start == end or self.buf[start] == 35

    @cython.cfunc
    @cython.exceptval(check=False)
    def row_end(self, start: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.Py_ssize_t:
        """The newline that ends the row, or -1 when it is not there yet; counts lines into ``row_lines``."""
        inside: cython.bint = False
        quoted: cython.bint = False  # the field began with a quote; elsewhere quotes mean nothing
        fresh: cython.bint = True
        i: cython.Py_ssize_t = start
        while i < end and (self.buf[i] == 32 or self.buf[i] == 9):
            i += 1
        comment: cython.bint = i < end and self.buf[i] == 35
        self.row_lines = 1
        c: cython.int
        for i in range(start, end):
            c = self.buf[i]
            if c == 10:
                if not inside:
                    return i
                self.row_lines += 1
            elif comment:
                continue
            elif c == 34 and (fresh or quoted):
                quoted = True
                inside = not inside  # a doubled quote closes and opens
            fresh = c == 44 and not inside
            if fresh:
                quoted = False
        return -1

    def read_header(self, raw: bytes) -> None:
        """Which column stands where."""
        names = [name.strip().strip('"') for name in raw.decode("utf-8", "replace").lstrip("\ufeff").split(",")]
        known = {name: code for code, name in enumerate(CSV_COLUMNS, start=1)}
        for name in REQUIRED:
            if name not in names:
                near = difflib.get_close_matches(name, names, 1, 0.5)
                hint = f' (is "{near[0]}" meant to be it?)' if near else ""
                raise TraceError(
                    f'no column "{name}"{hint}; expected a header row with at least {",".join(REQUIRED)}. '
                    f"Add the column, see docs/trace-formats.md.",
                    self.path,
                    int(self.line),
                )
        for name in names:
            if name in known and names.count(name) > 1:
                raise TraceError(f'column "{name}" stands twice in the header; expected once. Remove one.',
                                 self.path, int(self.line))
        self.header = names
        self.unknown_columns = [name for name in names if name not in known]
        self.columns = np.array([known.get(name, COL_SKIP) for name in names], np.int32)
        self.n_columns = len(names)

    @cython.cfunc
    def row(self, pos: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.int:
        rows: Rows = self.rows
        self.seen = 0
        n_fields: cython.int = 0
        self.next = pos
        while self.next <= end:
            if n_fields == self.n_columns:
                n_fields += 1
                break
            self.split(end)
            column: cython.int = self.columns[n_fields]
            n_fields += 1
            if column != COL_SKIP and (self.end > self.start or self.quoted):
                self.seen |= 1 << column
                if column in (COL_CALL_SITE, COL_NAME, COL_GFP) or column >= COL_CTX:
                    self.string(column)
                elif column == COL_EVENT:
                    self.event()
                else:
                    self.numeric(column)
        if n_fields != self.n_columns:
            raise TraceError(
                f"{'more than ' if n_fields > self.n_columns else ''}{min(n_fields, self.n_columns)} values; "
                f"expected {self.n_columns}, as in the header. Quote values that hold a comma.",
                self.path, int(self.line),
            )  # fmt: skip
        self.check_complete(rows.event[rows.n])
        rows.finish(self.line)
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def split(self, end: cython.Py_ssize_t) -> cython.void:
        """Sets ``start``, ``end``, ``quoted`` and ``next`` for the field that begins at ``next``."""
        at: cython.Py_ssize_t = self.next
        self.quoted = at < end and self.buf[at] == 34
        if self.quoted:
            at += 1
            self.start = at
            put: cython.Py_ssize_t = at
            while at < end:
                if self.buf[at] == 34:
                    if at + 1 == end or self.buf[at + 1] != 34:
                        break
                    at += 1
                self.buf[put] = self.buf[at]
                put += 1
                at += 1
            self.end = put
            while at < end and self.buf[at] != 44:
                at += 1
        else:
            self.start = at
            while at < end and self.buf[at] != 44:
                at += 1
            self.end = at
            while self.start < self.end and (self.buf[self.start] == 32 or self.buf[self.start] == 9):
                self.start += 1
            while self.end > self.start and (self.buf[self.end - 1] == 32 or self.buf[self.end - 1] == 9):
                self.end -= 1
        self.next = at + 1

    @cython.cfunc
    def string(self, column: cython.int) -> cython.int:
        rows: Rows = self.rows
        n: cython.int = rows.n
        if column == COL_CALL_SITE:
            rows.call_site[n] = self.sites.code(self.start, self.end)
        elif column == COL_NAME:
            rows.name[n] = self.names.code(self.start, self.end)
        elif column == COL_GFP:
            rows.gfp_flags[n] = self.gfps.code(self.start, self.end)
        elif column == COL_CTX:
            rows.ctx[n] = self.ctxs.code(self.start, self.end)
        elif column == COL_GT_NAME:
            rows.gt_name[n] = self.names.code(self.start, self.end)
        else:
            rows.set_text(bytes(self.buf[self.start : self.end]))
        return 0

    @cython.cfunc
    def event(self) -> cython.int:
        code: cython.int = self.events.code(self.start, self.end)
        if code >= MAX_EVENT_NAMES:
            raise TraceError(f"more than {MAX_EVENT_NAMES} kinds of event; expected names of tracepoints.",
                             self.path, self.line)
        if self.kinds[code] == 255:
            self.kinds[code] = EVENT_CODES.get(self.vocab.event.names[code], EV_OTHER)
        self.rows.event_name[self.rows.n] = code
        self.rows.event[self.rows.n] = self.kinds[code]
        return 0

    @cython.cfunc
    def numeric(self, column: cython.int) -> cython.int:
        rows: Rows = self.rows
        n: cython.int = rows.n
        numbers: Numbers = self.numbers
        good: cython.bint
        if self.buf[self.start] == 40:
            good = numbers.pointer(self.start, self.end)
        else:
            good = numbers.any_base(self.start, self.end)
        if not good or (numbers.negative and column != COL_NODE) or numbers.value > self.limits[column]:
            self.bad_value(column)
        if column == COL_TS:
            rows.ts_ns[n] = cython.cast(cython.longlong, numbers.value)
        elif column == COL_CPU:
            rows.cpu[n] = cython.cast(cython.short, numbers.value)
        elif column == COL_TASK:
            rows.task[n] = cython.cast(cython.int, numbers.value)
        elif column == COL_PTR:
            rows.ptr[n] = numbers.value
        elif column == COL_BYTES_REQ:
            rows.bytes_req[n] = cython.cast(cython.longlong, numbers.value)
        elif column == COL_BYTES_ALLOC:
            rows.bytes_alloc[n] = cython.cast(cython.longlong, numbers.value)
        elif column == COL_NODE:
            if numbers.negative and numbers.value != 1:
                self.bad_value(column)
            rows.node[n] = -1 if numbers.negative else cython.cast(cython.short, numbers.value)
        elif column == COL_ORDER:
            rows.order[n] = cython.cast(cython.short, numbers.value)
        elif column == COL_MIGRATETYPE:
            rows.migratetype[n] = cython.cast(cython.short, numbers.value)
        else:
            rows.pfn[n] = cython.cast(cython.longlong, numbers.value)
        return 0

    def bad_value(self, column: int) -> None:
        """Raises what is wrong with the field just read."""
        text = bytes(self.buf[self.start : min(self.end, self.start + 60)]).decode("utf-8", "replace")
        name = CSV_COLUMNS[column - 1]
        raise TraceError(f"{name} is {text!r}; expected {LIMITS[column][1]}. {ADVICE}", self.path, int(self.line))

    @cython.cfunc
    def check_complete(self, kind: cython.int) -> cython.int:
        """Whether the row has what its event needs."""
        missing: cython.int = 0
        if not self.seen >> COL_TS & 1:
            missing = COL_TS
        elif not self.seen >> COL_CPU & 1:
            missing = COL_CPU
        elif not self.seen >> COL_EVENT & 1:
            missing = COL_EVENT
        elif kind in (EV_KMALLOC, EV_KFREE, EV_CACHE_ALLOC, EV_CACHE_FREE):
            if not self.seen >> COL_PTR & 1:
                missing = COL_PTR
            elif kind == EV_KMALLOC and not self.seen >> COL_BYTES_REQ & 1:
                missing = COL_BYTES_REQ
        elif kind in (EV_PAGE_ALLOC, EV_PAGE_FREE):
            if not self.seen >> COL_PTR & 1 and not self.seen >> COL_PFN & 1:
                missing = COL_PFN
            elif kind == EV_PAGE_ALLOC and not self.seen >> COL_ORDER & 1:
                missing = COL_ORDER
        if missing:
            code: cython.int = self.rows.event_name[self.rows.n]
            event = self.vocab.event.names[code] if code >= 0 else "a row"
            raise TraceError(
                f"{event} without {CSV_COLUMNS[missing - 1]}; expected a value. Add it, see docs/trace-formats.md.",
                self.path, int(self.line),
            )  # fmt: skip
        return 0
