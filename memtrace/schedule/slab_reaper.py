"""
SLAB's reaper: when each CPU gives its idle objects back (MODEL 7.8, EXACT D C10, 4.3).

A run is due at whole seconds of the kernel's clock less three ticks for each CPU before, so that CPUs take turns. The
timer does not wake an idle CPU: the run comes with whatever the CPU does next, and the next one is due two seconds
after that, rounded.
"""

from __future__ import annotations

import simpy

from ..mm.constants import WAKE_DEFERRED
from ..mm.machine import Machine
from .daemons import Daemon, Steps, sleep_until

NS_PER_S = 1_000_000_000
FIRST_NS = NS_PER_S
REAPTIMEOUT_AC_NS = 2 * NS_PER_S
SKEW_TICKS = 3
LATENCY_NS = 6_000_000
"""From a timer that has expired to its work, by which the recorded runs are late (EXACT D 4.3)."""


def round_jiffies(t_ns: int, cpu: int, hz: int) -> int:
    """
    The whole second that a timer is moved to.

    Kernel: round_jiffies_common(): down when it lies less than a quarter of a second behind, else up; each CPU's
    seconds begin three ticks earlier than those of the one before.
    """
    skew = cpu * SKEW_TICKS * NS_PER_S // hz
    second, rest = divmod(t_ns + skew, NS_PER_S)
    return (second + (rest >= NS_PER_S // 4)) * NS_PER_S - skew


class SlabReaper(Daemon):
    """The reaper of one CPU. Its work takes no simulated time."""

    kinds = (WAKE_DEFERRED,)

    def __init__(self, machine: Machine, cpu: int, hz: int) -> None:
        self.machine = machine
        self.cpu = cpu
        self.hz = hz
        self.ran_ns = -1

    def process(self, env: simpy.Environment, until_ns: int) -> Steps:
        due_ns = round_jiffies(int(env.now) + FIRST_NS, self.cpu, self.hz)
        while due_ns + LATENCY_NS <= until_ns:
            yield sleep_until(env, due_ns + LATENCY_NS)
            self.machine.defer(self.cpu)
            yield self.bell.wait()
            due_ns = round_jiffies(self.ran_ns + REAPTIMEOUT_AC_NS, self.cpu, self.hz)

    def woken(self, kind: int, argument: int, t_ns: int) -> None:
        """The deferred work of some CPU was done at ``t_ns``."""
        if argument == self.cpu:
            self.ran_ns = t_ns
            self.bell.ring(t_ns)
