"""
Lines of ftrace and of ``perf script``, as bytes, into the columns of an `EventChunk`.

Both print the same thing after their prefixes::

    init-1  [000] .N..     0.150000: kmalloc: call_site=c104dd2f ptr=c147dd20 bytes_req=29 ...     ftrace
    perf  7502 [000]  1187.409321:  kmem:kmalloc: call_site=sched_setaffinity+0x10c ptr=0x...      perf script

Fields are read as key=value, whatever the event and its order of fields; unknown keys are skipped, unknown
events kept by name. The fields and their history: MODEL 12.1, 12.2.
"""

from __future__ import annotations

import re

import cython
import numpy as np

from memtrace.errors import TraceError
from memtrace.trace.interner import Interner, Numbers, Rows
from memtrace.trace.prefix import LinePrefix
from memtrace.trace.schema import (
    EV_CACHE_ALLOC,
    EV_CACHE_FREE,
    EV_EXTFRAG,
    EV_KFREE,
    EV_KMALLOC,
    EV_MARKER,
    EV_OTHER,
    EV_PAGE_ALLOC,
    EV_PAGE_FREE,
    EV_PAGE_FREE_BATCHED,
    EV_PCPU_DRAIN,
    EV_ZONE_LOCKED,
    EVENT_ALIASES,
    EVENT_CODES,
    TraceVocab,
    Vocab,
)

KEYS = ("call_site", "ptr", "name", "bytes_req", "bytes_alloc", "gfp_flags", "node", "order", "migratetype", "pfn",
        "page")  # fmt: skip
KEY_CALL_SITE = 0
KEY_PTR = 1
KEY_NAME = 2
KEY_BYTES_REQ = 3
KEY_BYTES_ALLOC = 4
KEY_GFP = 5
KEY_NODE = 6
KEY_ORDER = 7
KEY_MIGRATETYPE = 8
KEY_PFN = 9
KEY_PAGE = 10
KEY_SLOTS = 64
KEY_MULTIPLIER = 2

# Without these an event cannot be used. ``page`` stands in for ``pfn``.
NEEDED = {
    EV_KMALLOC: 1 << KEY_PTR | 1 << KEY_BYTES_REQ,
    EV_KFREE: 1 << KEY_PTR,
    EV_CACHE_ALLOC: 1 << KEY_PTR,
    EV_CACHE_FREE: 1 << KEY_PTR,
    EV_PAGE_ALLOC: 1 << KEY_PFN | 1 << KEY_ORDER,
    EV_PAGE_FREE: 1 << KEY_PFN,
    EV_PAGE_FREE_BATCHED: 1 << KEY_PFN,
    EV_ZONE_LOCKED: 1 << KEY_PFN,
    EV_PCPU_DRAIN: 1 << KEY_PFN,
    EV_EXTFRAG: 1 << KEY_PFN,
}
# Their columns say everything; of all other events the arguments are kept as text.
PLAIN = frozenset(
    (EV_KMALLOC, EV_KFREE, EV_CACHE_ALLOC, EV_CACHE_FREE, EV_PAGE_ALLOC, EV_PAGE_FREE, EV_PAGE_FREE_BATCHED,
     EV_PCPU_DRAIN)
)  # fmt: skip
MARKER_EVENTS = {"tracing_mark_write": "marker", "print": "marker"}
LOST_EVENTS = "lost_events"
"""Name of the row that stands where the recorder says that it lost events; its text is their number."""

GOOD = 0
BAD_LINE = 1
BAD_NUMBER = 2
BAD_POINTER = 3
NO_FIELD = 4
CAUSES = ("", "unparsed_line", "bad_number", "unreadable_pointer", "missing_field")

MAX_CPU = 4095  # the kernel's largest NR_CPUS is 8192; the trace's column is int16
MAX_NODE = 1023  # MAX_NUMNODES
MAX_ORDER_SEEN = 30
MAX_EVENT_NAMES = 4096

_LOST = re.compile(rb"lost\s+(?:EVENTS|(\d+))|(?:(\d+)\s+)?EVENTS\s+DROPPED", re.IGNORECASE)
_LOST_CPU = re.compile(rb"CPU:\s*(\d+)|\[(\d+)\]")
_WRITTEN = re.compile(rb"#\s*entries-in-buffer/entries-written:\s*(\d+)/(\d+)")
_EXPLAINED = re.compile(
    rb"\s*(cpus=\d+|CPU \d+ is empty|version = .*|trace-cmd .*|\[ perf .*|[0-9a-f]{5,16} .*\(.*\)"
    rb"|.*\bPERF_RECORD_\w+\b.*)"
)


@cython.cclass
class TextTokenizer(LinePrefix):
    """
    Parses whole lines into ``rows``.

    Parameters
    ----------
    rows
        Where rows go.
    vocab
        Gets the strings.
    path
        For messages.

    Attributes
    ----------
    line
        Lines read so far.
    count, first_line
        Lines not used, and the first of them, by cause (index into ``CAUSES``).
    lost
        Events that the recorder says it lost; ``overwritten``: those its ring buffer no longer had.
    """

    rows: Rows
    path: object
    vocab: TraceVocab
    events: Interner
    sites: Interner
    names: Interner
    gfps: Interner
    ctxs: Interner
    tasks: Interner
    key_text: cython.uchar[::1]
    """KEYS behind one another, each followed by ``=``."""
    key_start: cython.int[::1]
    key_slots: cython.int[::1]
    """A key's code, or -1, by `key_slot`."""
    numbers: Numbers
    kinds: cython.uchar[::1]
    needs: cython.int[::1]
    keeps_text: cython.uchar[::1]
    line: cython.longlong
    count: cython.longlong[::1]
    first_line: cython.longlong[::1]
    lost: cython.longlong
    lost_line: cython.longlong
    overwritten: cython.longlong
    started: cython.bint
    t0_ns: cython.longlong
    last_ns: cython.longlong
    perf: cython.bint
    # of the line being parsed
    seen: cython.int
    page: cython.ulonglong

    def __init__(self, rows: Rows, vocab: TraceVocab, path: str) -> None:
        LinePrefix.__init__(self)
        self.rows = rows
        self.path = path
        self.vocab = vocab
        self.events = Interner(vocab.event, {**EVENT_ALIASES, **MARKER_EVENTS})
        self.sites = Interner(vocab.call_site)
        self.names = Interner(vocab.name)
        self.gfps = Interner(vocab.gfp)
        self.ctxs = Interner(vocab.ctx)
        self.tasks = Interner(Vocab())
        self.key_text = bytearray("=".join((*KEYS, "")).encode())
        self.key_start = np.cumsum([0, *(len(key) + 1 for key in KEYS)], dtype=np.int32)
        self.key_slots = np.full(KEY_SLOTS, -1, np.int32)
        for code in range(len(KEYS)):
            self.buf = self.key_text
            self.key_slots[self.key_slot(self.key_start[code], self.key_start[code + 1] - 1)] = code
        self.numbers = Numbers()
        self.kinds = np.full(MAX_EVENT_NAMES, 255, np.uint8)
        self.needs = np.zeros(256, np.int32)
        self.keeps_text = np.ones(256, np.uint8)
        for event, needed in NEEDED.items():
            self.needs[event] = needed
        for event in PLAIN:
            self.keeps_text[event] = 0
        self.line = 0
        self.count = np.zeros(len(CAUSES), np.int64)
        self.first_line = np.zeros(len(CAUSES), np.int64)
        self.lost = 0
        self.lost_line = 0
        self.overwritten = 0
        self.started = False
        self.t0_ns = 0
        self.last_ns = 0
        self.perf = False

    @cython.ccall
    def parse(
        self, buf: bytearray, start: cython.Py_ssize_t, end: cython.Py_ssize_t, final: cython.bint
    ) -> cython.Py_ssize_t:
        """
        Reads lines of buf[start:end] until they end or ``rows`` is full.

        Parameters
        ----------
        buf
            The text.
        start, end
            The part of it to read.
        final
            The input ends here: a last line without a newline is whole.

        Returns
        -------
        Where to go on: behind the last line read.
        """
        self.buf = buf
        for interner in (self.events, self.sites, self.names, self.gfps, self.ctxs, self.tasks):
            cython.cast(Interner, interner).buf = self.buf
        self.numbers.buf = self.buf
        newlines: cython.longlong[::1] = np.flatnonzero(np.frombuffer(buf, np.uint8)[start:end] == 10)
        n_newlines: cython.Py_ssize_t = len(newlines)
        i: cython.Py_ssize_t = 0
        pos: cython.Py_ssize_t = start
        eol: cython.Py_ssize_t
        while pos < end and self.rows.n < self.rows.capacity:
            if i < n_newlines:
                eol = start + newlines[i]
            elif final:
                eol = end
            else:
                break
            i += 1
            self.line += 1
            self.parse_line(pos, eol)
            pos = eol + 1
        return min(pos, end)

    @cython.cfunc
    def parse_line(self, start: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.int:
        if end > start and self.buf[end - 1] == 13:  # \r
            end -= 1
        if end == start or self.buf[start] == 9:  # blank, or a frame of a call chain
            return 0
        if self.buf[start] == 35:  # '#'
            self.comment(start, end)
            return 0
        at: cython.Py_ssize_t = self.prefix(start, end)
        event: cython.int = -1
        if at >= 0:
            name_end: cython.Py_ssize_t = at
            while name_end < end and self.buf[name_end] != 32:
                name_end += 1
            event = self.event_code(at, name_end)
            at = name_end
        if event < 0:
            self.odd_line(start, end)
            return 0
        if self.cpu > MAX_CPU:
            raise TraceError(f"cpu {self.cpu}; expected 0..{MAX_CPU}. Is this line part of the trace?",
                             self.path, self.line)
        rows: Rows = self.rows
        n: cython.int = rows.n
        kind: cython.int = self.kinds[event]
        while at < end and self.buf[at] == 32:
            at += 1
        bad: cython.int = GOOD
        if kind != EV_MARKER:
            bad = self.fields(at, end)
            if self.seen & (1 << KEY_PAGE) and not self.seen & (1 << KEY_PFN):
                rows.ptr[n] = self.page
                self.seen |= 1 << KEY_PFN
            if kind == EV_OTHER:
                bad = GOOD
            elif bad == GOOD and (self.seen & self.needs[kind]) != self.needs[kind]:
                bad = NO_FIELD
        if bad != GOOD:
            self.reject(bad)
            rows.clear()
            return 0
        rows.event[n] = kind
        rows.event_name[n] = event
        if self.keeps_text[kind]:
            self.keep_text(at, end, kind)
        self.stamp()
        rows.finish(self.line)
        return 0

    @cython.cfunc
    def stamp(self) -> cython.int:
        """The prefix's columns, of a line that is a row."""
        rows: Rows = self.rows
        n: cython.int = rows.n
        if not self.started:
            self.started = True
            self.t0_ns = self.time_ns
        self.last_ns = self.time_ns - self.t0_ns
        rows.ts_ns[n] = self.last_ns
        rows.cpu[n] = self.cpu
        if self.task_end > self.task_start:
            rows.task[n] = self.tasks.code(self.task_start, self.task_end)
        if self.ctx_end > self.ctx_start:
            rows.ctx[n] = self.ctxs.code(self.ctx_start, self.ctx_end)
        return 0

    @cython.cfunc
    def event_code(self, start: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.int:
        """Code of an event printed as ``kmalloc:`` or ``kmem:kmalloc:``, or -1."""
        if end <= start + 1 or self.buf[end - 1] != 58:
            return -1
        end -= 1
        i: cython.Py_ssize_t = end
        while i > start and self.buf[i - 1] != 58:
            i -= 1
        if i > start:
            self.perf = True
        if i == end:
            return -1
        code: cython.int = self.events.code(i, end)
        if code >= MAX_EVENT_NAMES:
            raise TraceError(f"more than {MAX_EVENT_NAMES} kinds of event; expected a kernel trace.",
                             self.path, self.line)
        if self.kinds[code] == 255:
            self.kinds[code] = EVENT_CODES.get(self.vocab.event.names[code], EV_OTHER)
        return code

    @cython.cfunc
    def fields(self, at: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.int:
        """Reads key=value up to the end of the line into row n; why it cannot be used, or GOOD."""
        bad: cython.int = GOOD
        self.seen = 0
        self.page = 0
        while at < end:
            while at < end and self.buf[at] == 32:
                at += 1
            start: cython.Py_ssize_t = at
            while at < end and self.buf[at] != 32 and self.buf[at] != 61:
                at += 1
            if at == end or self.buf[at] == 32:
                continue
            key: cython.int = self.key_code(start, at)
            at += 1
            start = at
            while at < end and self.buf[at] == 32:
                at += 1
            if at == end or self.buf[at] != 40:  # only "ptr=  (null)" has blanks before its value
                at = start
            start = at
            while at < end and self.buf[at] != 32:
                at += 1
            if key in (KEY_NAME, KEY_CALL_SITE):
                at = self.extend(at, end, key == KEY_CALL_SITE)
            if key >= 0:
                result: cython.int = self.field(key, start, at)
                self.seen |= 1 << key
                if result != GOOD:
                    bad = result
        return bad

    @cython.cfunc
    @cython.exceptval(check=False)
    def key_slot(self, start: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.int:
        """A hash of a key of three bytes or more, different for all of KEYS (a test checks that)."""
        return (self.buf[start] + KEY_MULTIPLIER * self.buf[start + 2] + cython.cast(cython.int, end - start)) & (
            KEY_SLOTS - 1
        )

    @cython.cfunc
    @cython.exceptval(check=False)
    def key_code(self, start: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.int:
        """Index into KEYS of buf[start:end], or -1."""
        if end - start < 3:
            return -1
        code: cython.int = self.key_slots[self.key_slot(start, end)]
        if code < 0:
            return -1
        base: cython.Py_ssize_t = self.key_start[code]
        if self.key_start[code + 1] - 1 - base != end - start:
            return -1
        i: cython.Py_ssize_t
        for i in range(end - start):
            if self.key_text[base + i] != self.buf[start + i]:
                return -1
        return code

    @cython.cfunc
    @cython.exceptval(check=False)
    def extend(self, at: cython.Py_ssize_t, end: cython.Py_ssize_t, module_only: cython.bint) -> cython.Py_ssize_t:
        """The end of a value with blanks in it: words without ``=``, or only the ``[module]`` of a call site."""
        while at < end:
            i: cython.Py_ssize_t = at
            while i < end and self.buf[i] == 32:
                i += 1
            if i == end or (module_only and self.buf[i] != 91):
                return at
            while i < end and self.buf[i] != 32 and self.buf[i] != 61:
                i += 1
            if i < end and self.buf[i] == 61:
                return at
            at = i
        return at

    @cython.cfunc
    def field(self, key: cython.int, start: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.int:
        """One value into its column of row n."""
        rows: Rows = self.rows
        numbers: Numbers = self.numbers
        n: cython.int = rows.n
        if key == KEY_CALL_SITE:
            rows.call_site[n] = self.sites.code(start, end)
            return GOOD
        if key == KEY_NAME:
            rows.name[n] = self.names.code(start, end)
            return GOOD
        if key == KEY_GFP:
            rows.gfp_flags[n] = self.gfps.code(start, end)
            return GOOD
        if key in (KEY_PTR, KEY_PAGE):
            if not numbers.pointer(start, end):
                return BAD_POINTER
            if key == KEY_PTR:
                rows.ptr[n] = numbers.value
            else:
                self.page = numbers.value
            return GOOD
        if self.buf[end - 1] == 44:  # "order=0, mode=..."
            end -= 1
        if not numbers.any_base(start, end):
            return BAD_NUMBER
        value: cython.ulonglong = numbers.value
        if key == KEY_NODE:
            if numbers.negative:
                rows.node[n] = -1
            elif value > MAX_NODE:
                return BAD_NUMBER
            else:
                rows.node[n] = cython.cast(cython.short, value)
            return GOOD
        if key == KEY_PFN:  # a failed allocation may print pfn -1
            rows.pfn[n] = 0 if numbers.negative or value >> 52 else cython.cast(cython.longlong, value)
            return GOOD
        return self.count_field(key)

    @cython.cfunc
    @cython.exceptval(check=False)
    def count_field(self, key: cython.int) -> cython.int:
        """The number just read into a column that cannot be negative."""
        rows: Rows = self.rows
        n: cython.int = rows.n
        value: cython.ulonglong = self.numbers.value
        if self.numbers.negative or value >> 63:
            return BAD_NUMBER
        if key == KEY_BYTES_REQ:
            rows.bytes_req[n] = cython.cast(cython.longlong, value)
        elif key == KEY_BYTES_ALLOC:
            rows.bytes_alloc[n] = cython.cast(cython.longlong, value)
        elif value > MAX_ORDER_SEEN:
            return BAD_NUMBER
        elif key == KEY_ORDER:
            rows.order[n] = cython.cast(cython.short, value)
        else:
            rows.migratetype[n] = cython.cast(cython.short, value)
        return GOOD

    @cython.cfunc
    def keep_text(self, start: cython.Py_ssize_t, end: cython.Py_ssize_t, kind: cython.int) -> cython.int:
        """The arguments as text; never those that tell a recorded system's processes apart by name or pid."""
        text = bytes(self.buf[start:end])
        if kind == EV_MARKER:
            self.rows.set_text(text.removeprefix(b"tracing_mark_write: "))
        elif b"comm=" not in text and b"pid=" not in text:
            self.rows.set_text(text)
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def reject(self, cause: cython.int) -> cython.void:
        if self.count[cause] == 0:
            self.first_line[cause] = self.line
        self.count[cause] += 1

    def comment(self, start: int, end: int) -> None:
        """A ``#`` line; one of them says what the ring buffer no longer had."""
        match = _WRITTEN.match(bytes(self.buf[start:end]))
        if match:
            self.overwritten += max(0, int(match[2]) - int(match[1]))

    def odd_line(self, start: int, end: int) -> None:
        """A line that is no event: what the recorder says of itself, or junk."""
        text = bytes(self.buf[start : min(end, start + 4096)])
        match = _LOST.search(text)
        if match:
            lost = int(match[1] or match[2] or 1)
            where = _LOST_CPU.search(text)
            rows = self.rows
            code = self.vocab.event.code(LOST_EVENTS)
            rows.event[rows.n] = EV_OTHER
            rows.event_name[rows.n] = code
            rows.ts_ns[rows.n] = self.last_ns
            rows.cpu[rows.n] = min(int(where[1] or where[2]), MAX_CPU) if where else 0
            rows.set_text(b"%d" % lost)
            rows.finish(self.line)
            self.lost_line = self.lost_line or self.line
            self.lost += lost
        elif text.strip() and not _EXPLAINED.fullmatch(text):
            self.reject(BAD_LINE)
