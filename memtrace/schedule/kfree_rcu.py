"""When kfree_rcu()'s batches are handed over and freed (MODEL 5.5)."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import simpy

from ..mm.constants import WAKE_KFREE_RCU, WAKE_KFREE_RCU_PAGES
from ..mm.kfree_rcu import KfreeRcu
from .daemons import Daemon, Steps, happen, sleep_until

JIFFY_NS = 4_000_000  # HZ = 250
KFREE_DRAIN_NS = 5_000_000_000  # KFREE_DRAIN_JIFFIES
GRACE_PERIOD_NS = 20_000_000  # assumed: a few tens of ms on an idle machine, longer on a busy one
NOT_DUE = -1


class KfreeRcuWork(Daemon):
    """
    The monitor and the RCU work of every CPU, and the work that fetches pages for them.

    Departs: a grace period always lasts as long; work takes no time and is never late
    """

    kinds = (WAKE_KFREE_RCU, WAKE_KFREE_RCU_PAGES)

    def __init__(self, rcu: KfreeRcu) -> None:
        self.rcu = rcu
        self.due: list[tuple[int, int, Callable[[], None]]] = []
        self.orders = 0
        self.monitor_ns = [NOT_DUE] * len(rcu.cpus)
        """When each CPU's monitor is to run."""
        self.waiting: simpy.Event | None = None

    def process(self, env: simpy.Environment, until_ns: int) -> Steps:
        self.env = env
        while True:
            self.waiting = env.event()
            yield self.waiting
            while self.due and self.due[0][0] <= env.now:
                heapq.heappop(self.due)[2]()

    def woken(self, kind: int, argument: int, t_ns: int) -> None:
        if kind == WAKE_KFREE_RCU_PAGES:
            self.at(t_ns, lambda: self.rcu.fill_pages(argument))
        else:
            self.schedule_monitor(argument, t_ns)

    def at(self, t_ns: int, work: Callable[[], None]) -> None:
        """Do this work at that time."""
        self.orders += 1
        heapq.heappush(self.due, (t_ns, self.orders, work))
        sleep_until(self.env, t_ns).callbacks.append(lambda _: self.go_on())

    def go_on(self) -> None:
        """Let the process look at what is due."""
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            happen(waiting)

    def schedule_monitor(self, cpu: int, t_ns: int) -> None:
        """Kernel: schedule_delayed_monitor_work(): sooner when an array is full, never later than it was to run."""
        t_ns += JIFFY_NS if self.rcu.is_full(cpu) else KFREE_DRAIN_NS
        if self.monitor_ns[cpu] == NOT_DUE or t_ns < self.monitor_ns[cpu]:
            self.monitor_ns[cpu] = t_ns
            self.at(t_ns, lambda: self.monitor(cpu, t_ns))

    def monitor(self, cpu: int, t_ns: int) -> None:
        """Run a CPU's monitor, unless it was put forward in the meantime."""
        if self.monitor_ns[cpu] != t_ns:
            return
        self.monitor_ns[cpu] = NOT_DUE
        batch = self.rcu.monitor(cpu)
        if batch >= 0:
            self.at(t_ns + GRACE_PERIOD_NS, lambda: self.rcu.free_batch(cpu, batch))
        if self.rcu.has_collected(cpu):
            self.schedule_monitor(cpu, t_ns)
