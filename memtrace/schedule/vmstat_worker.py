"""The vmstat worker of a CPU: once a second it lets the CPU's page lists shrink (MODEL 3.6)."""

from __future__ import annotations

import simpy

from ..mm.machine import Machine
from .daemons import Daemon, Steps, sleep_until

STAT_INTERVAL_NS = 1_000_000_000  # vm.stat_interval
STAGGER_NS = 12_000_000  # round_jiffies(): three ticks for each CPU, HZ = 250


class VmstatWorker(Daemon):
    """
    One CPU's worker, of kernels whose lists tune themselves (6.7 and later).

    Kernel: vmstat_update(), refresh_cpu_vm_stats(), decay_pcp_high()
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
            for zone in self.machine.pages.zones:
                self.machine.pages.decay_pcp_high(zone, self.cpu)
            t_ns += STAT_INTERVAL_NS
