"""
What stands before the event in a line of ftrace or ``perf script``: thread, CPU, interrupt context, time.

::

    comm-pid     [cpu] flags secs.frac: event: …            ftrace, trace-cmd report
    comm-pid (tgid) [cpu] flags secs.frac: event: …         ftrace with record-tgid
    comm pid/tid [cpu] secs.frac: period event: …           perf script, with some of these left out
"""

from __future__ import annotations

import cython

BILLION = 1000000000


@cython.cclass
class LinePrefix:
    """
    Reads the prefix of a line in ``buf``; what it found stays in the attributes.

    Attributes
    ----------
    cpu, time_ns
        As printed; the time in nanoseconds of the recorder's clock.
    task_start, task_end
        Where the thread's number stands; equal when there is none.
    ctx_start, ctx_end
        Where the interrupt context stands; equal when there is none.
    """

    buf: cython.uchar[::1]
    cpu: cython.int
    time_ns: cython.longlong
    task_start: cython.Py_ssize_t
    task_end: cython.Py_ssize_t
    ctx_start: cython.Py_ssize_t
    ctx_end: cython.Py_ssize_t

    def __init__(self) -> None:
        self.buf = bytearray(1)
        self.cpu = 0
        self.time_ns = 0
        self.task_start = 0
        self.task_end = 0
        self.ctx_start = 0
        self.ctx_end = 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def prefix(self, start: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.Py_ssize_t:
        """
        Finds ``[cpu] flags secs.frac:``; a task's name may hold brackets, so the first that fits counts.

        Returns
        -------
        Where the event's name begins, or -1.
        """
        at: cython.Py_ssize_t
        i: cython.Py_ssize_t = start
        while i < end:
            if self.buf[i] == 91:  # '['
                self.cpu = 0
                at = i + 1
                while at < end and at < i + 7 and 48 <= self.buf[at] <= 57:
                    self.cpu = self.cpu * 10 + self.buf[at] - 48
                    at += 1
                if at > i + 1 and at < end and self.buf[at] == 93:  # ']'
                    at = self.clock(at + 1, end)
                    if at >= 0:
                        self.task_before(start, i)
                        return at
            i += 1
        return -1

    @cython.cfunc
    @cython.exceptval(check=False)
    def task_before(self, start: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.void:
        """The thread's number in ``comm-12``, ``comm 12``, ``comm 12/12``, ``comm-12 (  10)``."""
        i: cython.Py_ssize_t = end
        while i > start and self.buf[i - 1] == 32:
            i -= 1
        if i > start and self.buf[i - 1] == 41:  # "(tgid)"
            while i > start and self.buf[i - 1] != 40:
                i -= 1
            i -= 1
            while i > start and self.buf[i - 1] == 32:
                i -= 1
        self.task_end = i
        while i > start and 48 <= self.buf[i - 1] <= 57:
            i -= 1
        self.task_start = i

    @cython.cfunc
    @cython.exceptval(check=False)
    def clock(self, at: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.Py_ssize_t:
        """Reads ``flags secs.frac:`` and the period that perf may print; where the event begins, or -1."""
        while at < end and self.buf[at] == 32:
            at += 1
        self.ctx_start = at
        self.ctx_end = at
        if at < end and not 48 <= self.buf[at] <= 57:
            while at < end and self.buf[at] != 32:
                at += 1
            self.ctx_end = at
            while at < end and self.buf[at] == 32:
                at += 1
        first: cython.Py_ssize_t = at
        secs: cython.longlong = 0
        while at < end and at < first + 9 and 48 <= self.buf[at] <= 57:
            secs = secs * 10 + self.buf[at] - 48
            at += 1
        if at in (first, end) or self.buf[at] != 46:  # '.'
            return -1
        at += 1
        first = at
        frac: cython.longlong = 0
        while at < end and at < first + 9 and 48 <= self.buf[at] <= 57:
            frac = frac * 10 + self.buf[at] - 48
            at += 1
        digits: cython.Py_ssize_t = at - first
        if digits == 0 or at == end or self.buf[at] != 58:  # ':'
            return -1
        while digits < 9:
            frac *= 10
            digits += 1
        self.time_ns = secs * BILLION + frac
        at += 1
        while at < end and self.buf[at] == 32:
            at += 1
        first = at
        while at < end and 48 <= self.buf[at] <= 57:
            at += 1
        if at == end or self.buf[at] != 32:
            return first
        while at < end and self.buf[at] == 32:
            at += 1
        return at
