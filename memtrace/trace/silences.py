"""Silences of single CPUs that look like lost events: a suspicion, since a CPU may also have had nothing to do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .schema import EventChunk

MISSED_EVENTS = 1000
"""A silence in which the CPU would have had fewer events, at its usual rate, is not worth a word."""
STANDS_OUT = 10
"""How many times longer than the CPU's next longest silence it must be: idle CPUs are silent often."""
OTHERS_GO_ON = 0.5
"""Share of their usual rate that the other CPUs must keep meanwhile: else the whole machine was idle."""


@dataclass(frozen=True, slots=True)
class Silence:
    """
    A time in which a CPU has no events, though one would expect some.

    Attributes
    ----------
    cpu
        The CPU.
    from_ns, span_ns
        When, since the trace's first event, and how long.
    expected
        Events that the CPU would have had at the rate it has in the rest of the trace.
    others
        Events that the other CPUs had meanwhile.
    where
        ``start`` and ``end`` of the trace (typical of a ring buffer that was overwritten), or ``middle``.
    """

    cpu: int
    from_ns: int
    span_ns: int
    expected: int
    others: int
    where: str


@dataclass(slots=True)
class _Cpu:
    """What was seen of a CPU: its events, its last one, and its two longest silences."""

    rows: int = 0
    last_ns: int = 0
    last_row: int = -1
    longest: tuple[int, int, int, int] = (0, 0, -1, 0)  # span_ns, from_ns, row before, row after
    second_ns: int = 0

    def silent(self, span_ns: int, from_ns: int, before: int, after: int) -> None:
        if span_ns > self.longest[0]:
            self.second_ns = self.longest[0]
            self.longest = (span_ns, from_ns, before, after)
        else:
            self.second_ns = max(self.second_ns, span_ns)


class Silences:
    """Watches every CPU over one pass; `suspicious` says what was found."""

    def __init__(self) -> None:
        self._cpus: dict[int, _Cpu] = {}
        self._rows = 0
        self._end_ns = 0

    def add(self, chunk: EventChunk) -> None:
        """Take the next rows."""
        order = np.argsort(chunk.cpu, kind="stable")
        cpus, begins = np.unique(chunk.cpu[order], return_index=True)
        for cpu, rows in zip(cpus.tolist(), np.split(order, begins[1:]), strict=True):
            self._add_cpu(self._cpus.setdefault(cpu, _Cpu()), chunk.ts_ns[rows], chunk.row0 + rows)
        self._rows += len(chunk)
        self._end_ns = int(chunk.ts_ns[-1])

    @staticmethod
    def _add_cpu(cpu: _Cpu, ts: np.ndarray, row: np.ndarray) -> None:
        spans = np.diff(ts, prepend=cpu.last_ns)
        for i in np.argpartition(spans, -2)[-2:].tolist() if len(spans) > 2 else range(len(spans)):
            before = int(row[i - 1]) if i else cpu.last_row
            cpu.silent(int(spans[i]), int(ts[i] - spans[i]), before, int(row[i]))
        cpu.rows += len(ts)
        cpu.last_ns, cpu.last_row = int(ts[-1]), int(row[-1])

    def suspicious(self) -> list[Silence]:
        """The longest silence of each CPU where it looks like a loss, by CPU."""
        found = []
        for number, cpu in sorted(self._cpus.items()):
            cpu.silent(self._end_ns - cpu.last_ns, cpu.last_ns, cpu.last_row, self._rows)
            span, begin, before, after = cpu.longest
            loud_ns = self._end_ns - span
            if loud_ns <= 0 or span < STANDS_OUT * cpu.second_ns:
                continue
            expected = cpu.rows * span // loud_ns
            others = after - before - 1
            usual = (self._rows - cpu.rows - others) * span / loud_ns
            if expected >= MISSED_EVENTS and others > 0 and others >= OTHERS_GO_ON * usual:
                where = "start" if before < 0 else "end" if after == self._rows else "middle"
                found.append(Silence(number, begin, span, expected, others, where))
        return found
