"""
kswapd and kcompactd of each node (MODEL 10.1-10.6).

What they do to memory is in ``mm/vmscan.py`` and ``mm/compaction.py``; here is when.
"""

from __future__ import annotations

from collections.abc import Collection, Generator
from typing import Any

import simpy

from ..mm.constants import SWAP_CLUSTER_MAX, WAKE_KCOMPACTD, WAKE_KSWAPD, WAKE_KSWAPD_RUN
from ..mm.machine import Machine
from ..mm.paths import COST_RECLAIM
from .costs import CostTable
from .daemons import Daemon, Steps, sleep_until
from .simtime import PRIORITY_DAEMON, at

WAKEUP_NS = 10_000
"""From being woken to running. Assumed: a context switch on a CPU that is not idle-asleep."""
LOOK_NS = 100_000
"""How often kswapd looks whether the trace's own frees have helped. Assumed: a few rounds of 32 pages."""
PATIENCE_NS = 100_000_000
"""Trace frees no page cache for so long: its kernel was not reclaiming. HZ/10, a nap of kswapd's."""


class Kswapd(Daemon):
    """
    kswapd of one node.

    In a replay the recorded kernel's kswapd is in the trace, as frees: as long as they come, this one only keeps its
    state (lists are short, boosts stay until its end) and looks. It takes pages back by itself once, in its
    present run, requests had to take back more by direct reclaim than the trace freed, or when the trace has freed
    none for ``PATIENCE_NS``. The next run begins with looking again: one that works by itself ends long before the
    trace's frees would come, so it tells nothing about them.

    Where the trace shows the runs of the recorded kswapd (``recorded``), they are requests: they keep lists short and
    end boosts at their own times. Then this one leaves each wake-up to the next of them, and has a run of its own only
    under the same two conditions, and none while a recorded one is on.
    """

    kinds = (WAKE_KSWAPD, WAKE_KSWAPD_RUN)

    def __init__(self, machine: Machine, node: int, cpu: int, costs: CostTable, recorded: bool = False) -> None:
        self.machine = machine
        self.pages = machine.pages
        self.node = node
        self.cpu = cpu
        self.costs = costs
        self.runs = 0
        self.wanted = False
        self.recorded = recorded
        self.begun = 0
        self.following = False

    def woken(self, kind: int, argument: int, t_ns: int) -> None:
        if kind == WAKE_KSWAPD_RUN:
            if argument >> 1 == self.node:
                self.following = bool(argument & 1)
                self.begun += self.following
        elif argument == self.node:
            self.wanted = True
            self.bell.ring(t_ns)

    def process(self, env: simpy.Environment, until_ns: int) -> Steps:
        """Sleep, run, sleep."""
        while True:
            yield self.bell.wait()
            if not self.wanted:
                # Nobody has woken it since its nap began: it falls asleep for good.
                self.pages.kswapd_sleep(self.node)
                continue
            self.wanted = False
            if env.now + WAKEUP_NS > until_ns:
                return
            yield sleep_until(env, int(env.now) + WAKEUP_NS)
            if self.recorded:
                left = yield from self.leave(env, until_ns)
                if left is None:
                    return
                if left:
                    continue
            self.runs += 1
            begun = self.begun
            self.pages.kswapd_begin(self.node)
            failed = yield from self.run(env, until_ns)
            if failed is None:
                return
            if self.begun != begun:
                continue
            self.pages.kswapd_end(self.node, failed)
            self.nap(env, until_ns)

    def leave(self, env: simpy.Environment, until_ns: int) -> Generator[simpy.Event, Any, bool | None]:
        """Wait for the recorded kswapd; whether it began a run (it may be over). None when the trace ends first."""
        freed_before, taken_before = self.pages.lru_counts(self.node)
        begun, since_ns = self.begun - self.following, int(env.now)
        while self.begun == begun:
            freed, taken = self.pages.lru_counts(self.node)
            if taken - taken_before > freed - freed_before or env.now - since_ns >= PATIENCE_NS:
                return False
            if env.now + LOOK_NS > until_ns:
                return None
            yield sleep_until(env, int(env.now) + LOOK_NS)
        return True

    def run(self, env: simpy.Environment, until_ns: int) -> Generator[simpy.Event, Any, bool | None]:
        """One run; whether it found nothing to take back. None when the trace ends first."""
        freed_before, taken_before = self.pages.lru_counts(self.node)
        last_freed, quiet_since_ns, begun = freed_before, int(env.now), self.begun
        while self.begun == begun and (want := self.pages.kswapd_wants(self.node)) > 0:
            freed, taken = self.pages.lru_counts(self.node)
            if freed != last_freed:
                last_freed, quiet_since_ns = freed, int(env.now)
            short = taken - taken_before > freed - freed_before
            if short or env.now - quiet_since_ns >= PATIENCE_NS:
                done = self.pages.kswapd_shrink(self.node, min(want, SWAP_CLUSTER_MAX), self.machine.runs_on[self.cpu])
                if not done:
                    return True
                next_ns = int(env.now) + self.costs.step_ns(COST_RECLAIM, done)
            else:
                next_ns = int(env.now) + LOOK_NS
            if next_ns > until_ns:
                return None
            yield sleep_until(env, next_ns)
        return False

    def nap(self, env: simpy.Environment, until_ns: int) -> None:
        """Look again after HZ/10, unless it has run again by then."""
        t_ns, runs = int(env.now) + PATIENCE_NS, self.runs
        if t_ns <= until_ns:
            at(env, t_ns, PRIORITY_DAEMON).callbacks.append(lambda _: self.end_nap(runs, t_ns))

    def end_nap(self, runs: int, t_ns: int) -> None:
        if runs == self.runs:
            self.bell.ring(t_ns)


class Kcompactd(Daemon):
    """kcompactd of one node: a run takes no time."""

    kinds = (WAKE_KCOMPACTD,)

    def __init__(self, machine: Machine, node: int, cpu: int) -> None:
        self.machine = machine
        self.pages = machine.pages
        self.node = node
        self.cpu = cpu

    def woken(self, kind: int, argument: int, t_ns: int) -> None:
        if argument == self.node:
            self.bell.ring(t_ns)

    def process(self, env: simpy.Environment, until_ns: int) -> Steps:
        """Run when woken."""
        while True:
            yield self.bell.wait()
            if env.now + WAKEUP_NS > until_ns:
                return
            yield sleep_until(env, int(env.now) + WAKEUP_NS)
            self.pages.kcompactd_run(self.node, self.machine.runs_on[self.cpu])


def reclaim_daemons(machine: Machine, recorded: Collection[int] = ()) -> list[Daemon]:
    """kswapd and kcompactd of every node with memory; ``recorded``: nodes whose kswapd's runs are requests."""
    costs = CostTable.load()
    daemons: list[Daemon] = []
    for node in machine.pages.nodes:
        if not node.zones:
            continue
        own = [cpu for cpu in range(machine.nr_cpus) if machine.pages.cpu_node[cpu] == node.node]
        cpu = own[0] if own else 0
        daemons += [Kswapd(machine, node.node, cpu, costs, node.node in recorded), Kcompactd(machine, node.node, cpu)]
    return daemons
