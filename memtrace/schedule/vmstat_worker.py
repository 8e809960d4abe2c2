"""The vmstat worker of a CPU: once a second it takes pages from lists that the CPU does not need (MODEL 3.6)."""

from __future__ import annotations

import simpy

from ..mm.machine import Machine
from .daemons import Daemon, Steps, sleep_until

STAT_INTERVAL_NS = 1_000_000_000  # vm.stat_interval
STAGGER_NS = 12_000_000  # round_jiffies(): three ticks for each CPU, HZ = 250


class VmstatWorker(Daemon):
    """
    One CPU's worker: where there are several nodes, or lists that tune themselves (6.7 and later).

    Kernel: vmstat_update(), refresh_cpu_vm_stats()
    Departs: its seconds begin with the trace, and it runs on an idle CPU too; it costs the CPU no time
    """

    def __init__(self, machine: Machine, cpu: int) -> None:
        self.machine = machine
        self.cpu = cpu

    def process(self, env: simpy.Environment, until_ns: int) -> Steps:
        t_ns = STAT_INTERVAL_NS * (1 + int(env.now) // STAT_INTERVAL_NS) + STAGGER_NS * self.cpu
        while t_ns <= until_ns:
            yield sleep_until(env, t_ns)
            self.machine.it.reset()
            self.machine.pages.refresh_cpu_vm_stats(self.cpu, self.machine.pages.cpu_node[self.cpu])
            t_ns += STAT_INTERVAL_NS
