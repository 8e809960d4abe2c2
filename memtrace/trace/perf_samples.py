"""Records of a perf.data file, into the columns of an `EventChunk`: the compiled loops."""

from __future__ import annotations

from collections.abc import Callable

import cython
import numpy as np

from memtrace.trace.arrays import filled
from memtrace.trace.interner import Interner, Rows
from memtrace.trace.perf_spec import (
    AT_PLACE,
    AT_SIZE,
    FIELDS,
    KEY_BYTES_ALLOC,
    KEY_BYTES_REQ,
    KEY_CALL_SITE,
    KEY_GFP,
    KEY_MIGRATETYPE,
    KEY_NAME,
    KEY_NODE,
    KEY_ORDER,
    KEY_PAGE,
    KEY_PFN,
    KEY_PTR,
    NR_KEYS,
    PLACE_REL,
    PLACE_SIGNED,
    RECORD_COMPRESSED,
    RECORD_LOST,
    RECORD_LOST_SAMPLES,
    RECORD_ROUND,
    RECORD_SAMPLE,
    PerfSpec,
)
from memtrace.trace.perf_text import LittleEndian, PlainText
from memtrace.trace.ptrmap import PtrMap
from memtrace.trace.schema import EV_OTHER, Vocab

MAX_CPU = 4095
MAX_NODE = 1023
MAX_ORDER = 30
NS_BITS = 52
KEY_TWIST = 0x3A5C96E17B24D8F1  # a number's key in a map, which must not be 0


@cython.cclass
class PerfSamples(LittleEndian):
    """
    Walks the records, and decodes samples in the order that it is told.

    Parameters
    ----------
    buf
        The whole file; writable, as views of it are shared with an `Interner`.
    spec
        Where everything stands.
    rows
        Where rows go.
    names
        Vocabulary of cache names.
    code_of_site, code_of_gfp, code_of_ctx
        Vocabulary codes of numbers, asked once for each number.
    text_of
        The arguments of an event that is kept with its text, by (event, beginning of its data, end).

    Attributes
    ----------
    next
        Where `index` goes on.
    round_end
        Whether `index` stopped behind the end of one of perf's rounds.
    broken, compressed, other
        Records that cannot be read, that are compressed, that are no tracepoint's.
    lost
        Events that perf or the kernel lost.
    summed
        The same as perf adds it up at the end, event by event, where it does.
    """

    rows: Rows
    names: Interner
    code_of_site: Callable[[int], int]
    code_of_gfp: Callable[[int, int], int]
    code_of_ctx: Callable[[int], int]
    text_of: Callable[[int, int, int], bytes]
    plain: PlainText
    sites: PtrMap
    gfps: PtrMap
    tasks: PtrMap
    ids: PtrMap
    ctxs: cython.int[:]
    spec_of: cython.short[:]
    table: cython.int[:]
    kinds: cython.uchar[:]
    events: cython.int[:]
    keeps_text: cython.uchar[:]
    orders: cython.short[:]
    time_at: cython.longlong
    tid_at: cython.longlong
    cpu_at: cython.longlong
    id_at: cython.longlong
    fixed_end: cython.longlong
    lost_time: cython.longlong
    lost_cpu: cython.longlong
    reads: cython.bint
    read_group: cython.bint
    read_head: cython.longlong
    read_each: cython.longlong
    callchain: cython.bint
    lost_code: cython.int
    next: cython.longlong
    round_end: cython.bint
    n_tasks: cython.int
    broken: cython.longlong
    compressed: cython.longlong
    other: cython.longlong
    lost: cython.longlong
    summed: cython.longlong
    last_ns: cython.longlong

    def __init__(
        self, buf: np.ndarray, spec: PerfSpec, rows: Rows, names: Vocab, code_of_site: Callable[[int], int],
        code_of_gfp: Callable[[int, int], int], code_of_ctx: Callable[[int], int],
        text_of: Callable[[int, int, int], bytes],
    ) -> None:  # fmt: skip
        self.buf = buf.data
        self.rows = rows
        self.names = Interner(names)
        self.names.buf = self.buf
        self.code_of_site = code_of_site
        self.code_of_gfp = code_of_gfp
        self.code_of_ctx = code_of_ctx
        self.text_of = text_of
        self.plain = PlainText(buf, spec.plain)
        self.sites = PtrMap()
        self.gfps = PtrMap()
        self.tasks = PtrMap()
        self.ids = PtrMap()
        for number in spec.ids:
            self.ids.put(number ^ KEY_TWIST, 1)
        self.ctxs = filled(1 << 16, np.int32, -1)
        self.spec_of = spec.spec_of.data
        self.table = spec.table.data
        self.kinds = spec.kinds.data
        self.events = spec.events.data
        self.keeps_text = spec.keeps_text.data
        self.orders = spec.orders.data
        self.time_at = spec.time_at
        self.tid_at = spec.tid_at
        self.cpu_at = spec.cpu_at
        self.id_at = spec.id_at
        self.fixed_end = spec.fixed_end
        self.lost_time = spec.lost_time
        self.lost_cpu = spec.lost_cpu
        self.reads = spec.reads
        self.read_group = spec.read_group
        self.read_head = spec.read_head
        self.read_each = spec.read_each
        self.callchain = spec.callchain
        self.lost_code = spec.lost_code
        self.next = spec.begin
        self.round_end = False
        self.n_tasks = 0
        self.broken = 0
        self.compressed = 0
        self.other = 0
        self.lost = 0
        self.summed = 0
        self.last_ns = 0

    @cython.ccall
    def index(
        self, end: cython.longlong, offsets: cython.longlong[:], times: cython.longlong[:], least: cython.longlong
    ) -> cython.longlong:
        """
        Notes the places and times of samples and losses, from ``next`` on.

        Stops behind the first round that ends when ``least`` are noted, at ``end``, or where the arrays are full.

        Returns
        -------
        How many.
        """
        n: cython.longlong = 0
        at: cython.longlong = self.next
        room: cython.longlong = len(offsets)
        self.round_end = False
        while at + 8 <= end and n < room:
            kind: cython.ulonglong = self.number(at, 4)
            size: cython.longlong = self.number(at + 6, 2)
            if size < 8 or at + size > end:
                self.broken += 1
                at = end
                break
            if kind == RECORD_SAMPLE:
                if size < self.fixed_end + 4:
                    self.broken += 1
                elif self.ids.used > 0 and self.ids.get(self.number(at + self.id_at, 8) ^ KEY_TWIST) < 0:
                    self.other += 1
                else:
                    offsets[n] = at
                    times[n] = cython.cast(cython.longlong, self.number(at + self.time_at, 8))
                    self.last_ns = max(self.last_ns, times[n])
                    n += 1
            elif kind == RECORD_LOST_SAMPLES and self.is_summary(at, size):
                self.summed += cython.cast(cython.longlong, self.number(at + 8, 8))
            elif kind in (RECORD_LOST, RECORD_LOST_SAMPLES):
                offsets[n] = at
                times[n] = self.last_ns
                if self.lost_time > 0 and size >= self.lost_time + 16:
                    times[n] = cython.cast(cython.longlong, self.number(at + size - self.lost_time, 8))
                n += 1
            elif kind == RECORD_COMPRESSED:
                self.compressed += 1
            at += size
            if kind == RECORD_ROUND and n >= least:
                self.round_end = True
                break
        self.next = at
        return n

    @cython.ccall
    def decode(
        self, offsets: cython.longlong[:], times: cython.longlong[:], start: cython.longlong, n: cython.longlong
    ) -> cython.longlong:
        """Makes rows of records ``start`` to ``n`` until ``rows`` is full; where to go on."""
        i: cython.longlong = start
        while i < n and self.rows.n < self.rows.capacity:
            if self.number(offsets[i], 4) == RECORD_SAMPLE:
                self.sample(offsets[i], times[i])
            else:
                self.loss(offsets[i], times[i])
            i += 1
        return i

    @cython.cfunc
    @cython.exceptval(check=False)
    def is_summary(self, at: cython.longlong, size: cython.longlong) -> cython.bint:
        """Whether losses are perf's own sum at its end, which has no time: most of them have been told before."""
        return self.lost_time > 0 and size >= self.lost_time + 16 and self.number(at + size - self.lost_time, 8) == 0

    @cython.ccall
    def rest_of_losses(self) -> cython.int:
        """A row for what perf's sum has more than the losses that were told in their place."""
        if self.summed > self.lost:
            self.lost_row(self.last_ns, self.summed - self.lost)
        return 0

    @cython.cfunc
    def lost_row(self, time: cython.longlong, lost: cython.longlong) -> cython.int:
        rows: Rows = self.rows
        rows.event[rows.n] = EV_OTHER
        rows.event_name[rows.n] = self.lost_code
        rows.ts_ns[rows.n] = time
        rows.set_text(b"%d" % lost)
        rows.finish(0)
        self.lost += lost
        return 0

    @cython.cfunc
    def loss(self, at: cython.longlong, time: cython.longlong) -> cython.int:
        """A row where events were lost; its text is their number."""
        size: cython.longlong = self.number(at + 6, 2)
        n_at: cython.longlong = at + 16 if self.number(at, 4) == RECORD_LOST else at + 8
        lost: cython.longlong = cython.cast(cython.longlong, self.number(n_at, 8))
        if self.lost_cpu > 0 and size >= self.lost_cpu + 16:
            rows: Rows = self.rows
            cpu: cython.longlong = self.number(at + size - self.lost_cpu, 4)
            rows.cpu[rows.n] = cython.cast(cython.short, min(cpu, MAX_CPU))
        return self.lost_row(time, lost)

    @cython.cfunc
    @cython.exceptval(check=False)
    def raw_at(self, at: cython.longlong, size: cython.longlong) -> cython.longlong:
        """Where the tracepoint's own data begin in a sample, behind their length; 0 when they do not."""
        here: cython.longlong = at + self.fixed_end
        end: cython.longlong = at + size
        n: cython.longlong
        if self.reads:
            if self.read_group:
                if here + 8 > end:
                    return 0
                n = self.number(here, 4)
                here += 8 + 8 * self.read_head + 8 * self.read_each * n
            else:
                here += 8 * (self.read_head + self.read_each)
        if self.callchain:
            if here + 8 > end:
                return 0
            n = self.number(here, 4)
            here += 8 + 8 * n
        if here + 12 > end or here + 4 + cython.cast(cython.longlong, self.number(here, 4)) > end:
            return 0
        return here + 4

    @cython.cfunc
    def sample(self, at: cython.longlong, time: cython.longlong) -> cython.int:
        rows: Rows = self.rows
        n: cython.int = rows.n
        raw: cython.longlong = self.raw_at(at, self.number(at + 6, 2))
        spec: cython.int = -1
        cpu: cython.longlong = self.number(at + self.cpu_at, 4)
        if raw > 0:
            spec = self.spec_of[self.number(raw, 2)]
        if spec < 0 or cpu > MAX_CPU:
            self.broken += 1
            return 0
        end: cython.longlong = raw + self.number(raw - 4, 4)
        key: cython.int
        for key in range(NR_KEYS):
            if self.table[(spec * NR_KEYS + key) * FIELDS + AT_SIZE] > 0 and not self.field(spec, key, raw, end):
                self.broken += 1
                rows.clear()
                return 0
        if self.orders[spec] >= 0:
            rows.order[n] = self.orders[spec]
        rows.event[n] = self.kinds[spec]
        rows.event_name[n] = self.events[spec]
        rows.ts_ns[n] = time
        rows.cpu[n] = cython.cast(cython.short, cpu)
        if self.tid_at > 0:
            rows.task[n] = self.task(self.number(at + self.tid_at + 4, 4))
        flags: cython.longlong = self.number(raw + 2, 2)
        if self.ctxs[flags] < 0:
            self.ctxs[flags] = self.code_of_ctx(flags)
        rows.ctx[n] = self.ctxs[flags]
        if self.keeps_text[spec]:
            self.keep_text(spec, raw, end)
        rows.finish(0)
        return 0

    @cython.cfunc
    def keep_text(self, spec: cython.int, raw: cython.longlong, end: cython.longlong) -> cython.int:
        plain: PlainText = self.plain
        n: cython.int = plain.write(spec, raw, end)
        if n < 0:
            self.rows.set_text(self.text_of(spec, raw, end))
        else:
            self.rows.set_text(bytes(plain.store[:n]))
        return 0

    @cython.cfunc
    def task(self, tid: cython.ulonglong) -> cython.int:
        code: cython.int = self.tasks.get(tid + 1)
        if code < 0:
            code = self.n_tasks
            self.n_tasks += 1
            self.tasks.put(tid + 1, code)
        return code

    @cython.cfunc
    def field(self, spec: cython.int, key: cython.int, raw: cython.longlong, end: cython.longlong) -> cython.bint:
        """One field into its column of row n; whether it could be read."""
        rows: Rows = self.rows
        n: cython.int = rows.n
        base: cython.longlong = (spec * NR_KEYS + key) * FIELDS
        at: cython.longlong = raw + self.table[base]
        size: cython.longlong = self.table[base + AT_SIZE]
        place: cython.int = self.table[base + AT_PLACE]
        if at + size > end:
            return False
        value: cython.ulonglong = self.number(at, size)
        if key == KEY_NAME:
            begin: cython.longlong = (at + size if place & PLACE_REL else raw) + (value & 0xFFFF)
            length: cython.longlong = value >> 16 & 0xFFFF
            if begin + length > end:
                return False
            i: cython.longlong = begin
            while i < begin + length and self.buf[i] != 0:
                i += 1
            rows.name[n] = self.names.code(begin, i)
        elif key == KEY_CALL_SITE:
            rows.call_site[n] = self.site(value)
        elif key == KEY_GFP:
            rows.gfp_flags[n] = self.gfp(spec, value)
        elif key == KEY_PTR:
            rows.ptr[n] = value
        elif key == KEY_BYTES_REQ:
            rows.bytes_req[n] = cython.cast(cython.longlong, value)
            return not value >> 63
        elif key == KEY_BYTES_ALLOC:
            rows.bytes_alloc[n] = cython.cast(cython.longlong, value)
            return not value >> 63
        elif key == KEY_NODE:
            if place & PLACE_SIGNED and value >> (8 * size - 1):
                rows.node[n] = -1
            else:
                rows.node[n] = cython.cast(cython.short, min(value, MAX_NODE + 1))
                return value <= MAX_NODE
        elif key == KEY_PFN:  # that of a failed allocation is -1
            rows.pfn[n] = 0 if value >> NS_BITS else cython.cast(cython.longlong, value)
        elif key == KEY_PAGE:
            rows.ptr[n] = value
        elif value > MAX_ORDER:
            return False
        elif key == KEY_ORDER:
            rows.order[n] = cython.cast(cython.short, value)
        elif key == KEY_MIGRATETYPE:
            rows.migratetype[n] = cython.cast(cython.short, value)
        return True

    @cython.cfunc
    def site(self, address: cython.ulonglong) -> cython.int:
        code: cython.int = self.sites.get(address ^ KEY_TWIST)
        if code < 0:
            code = self.code_of_site(address)
            self.sites.put(address ^ KEY_TWIST, code)
        return code

    @cython.cfunc
    def gfp(self, spec: cython.int, mask: cython.ulonglong) -> cython.int:
        code: cython.int = self.gfps.get(mask ^ KEY_TWIST)
        if code < 0:
            code = self.code_of_gfp(spec, mask)
            self.gfps.put(mask ^ KEY_TWIST, code)
        return code
