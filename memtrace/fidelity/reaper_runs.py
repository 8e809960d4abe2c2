"""
When a recorded SLAB kernel's reaper ran, as far as a trace shows it: slabs that went without an object being freed.

The timer is set on whole seconds of the kernel's clock, which began at another time than the trace's; how far apart the
two are shows in the recorded runs, since most of them are a few milliseconds late (EXACT D C10).
"""

from __future__ import annotations

from collections.abc import Iterable

from memtrace.schedule.slab_reaper import LATENCY_NS, NS_PER_S, REAPTIMEOUT_AC_NS, SKEW_TICKS, round_jiffies

from .slub_script import DO_ALLOC, DO_BULK_ALLOC, DO_BULK_FREE, DO_FREE, DO_PAGE_FREE, Script

SAME_NS = 2_000_000
"""A slab goes within this time of the free that emptied it, and of its reaper run's other slabs."""
WINDOW_NS = 50_000_000
"""Runs are looked for within this time behind the second they were due at."""


def recorded_runs(
    script: Script, slabs: Iterable[int], ts_ns: list[int], row_cpu: list[int], cpus: int
) -> list[list[int]]:
    """
    Times of the runs that show, ns, ascending, by CPU.

    Parameters
    ----------
    slabs
        First pfns of the slabs there are at the beginning.
    ts_ns, row_cpu
        Of every row from ``script.row0`` on.
    """
    known = set(slabs)
    freed_ns = [-SAME_NS] * cpus
    runs: list[list[int]] = [[] for _ in range(cpus)]
    for action, argument, row in zip(script.action, script.argument, script.row, strict=True):
        cpu, now = row_cpu[row - script.row0], ts_ns[row - script.row0]
        if action in (DO_ALLOC, DO_BULK_ALLOC):
            page = script.page.get(argument)
            if page is not None:
                known.add(page[0])
        elif action in (DO_FREE, DO_BULK_FREE):
            freed_ns[cpu] = now
        elif action == DO_PAGE_FREE:
            pfn = int(script.pfn[argument])
            if pfn in known:
                known.remove(pfn)
                if now - freed_ns[cpu] > SAME_NS and not (runs[cpu] and now - runs[cpu][-1] < NS_PER_S // 2):
                    runs[cpu].append(now)
    return runs


def clock_phase(runs: list[list[int]], hz: int) -> int:
    """Where in the trace's seconds the kernel's begin, ns: so that most runs are a little late; 0 without runs."""
    late = sorted((t + cpu * SKEW_TICKS * NS_PER_S // hz) % NS_PER_S for cpu, times in enumerate(runs) for t in times)
    best, most = LATENCY_NS, 0
    for begin in late:
        inside = sum((t - begin) % NS_PER_S < WINDOW_NS for t in late)
        if inside > most:
            best, most = begin, inside
    return (best - LATENCY_NS) % NS_PER_S


class RunTimes:
    """When the next run of each CPU is due: at a recorded one near the grid's next time, else at that time."""

    def __init__(self, runs: list[list[int]], begin_ns: int, hz: int) -> None:
        self.runs = runs
        self.hz = hz
        self.phase_ns = clock_phase(runs, hz)
        self.next_ns = [self.after(cpu, begin_ns - NS_PER_S) for cpu in range(len(runs))]

    def after(self, cpu: int, ran_ns: int) -> int:
        """Time from which the run after one at ``ran_ns`` takes place."""
        due = round_jiffies(ran_ns + REAPTIMEOUT_AC_NS - self.phase_ns, cpu, self.hz) + self.phase_ns + LATENCY_NS
        seen = next((t for t in self.runs[cpu] if t > ran_ns), None)
        if seen is not None and seen - due < NS_PER_S:
            return seen
        return due

    def is_due(self, cpu: int, now_ns: int) -> bool:
        """Whether the CPU's reaper runs now; then its next run is due later."""
        if cpu >= len(self.next_ns) or now_ns < self.next_ns[cpu]:
            return False
        self.next_ns[cpu] = self.after(cpu, now_ns)
        return True
