"""The reaper's times (MODEL 7.8, EXACT D C10)."""

from __future__ import annotations

import pytest
import simpy

from memtrace.mm.constants import WAKE_DEFERRED
from memtrace.schedule.daemons import Doorbell
from memtrace.schedule.slab_reaper import LATENCY_NS, NS_PER_S, SlabReaper, round_jiffies

MS = 1_000_000


@pytest.mark.parametrize(("t_ms", "cpu", "rounded_ms"), [
    (2000, 0, 2000), (2249, 0, 2000), (2250, 0, 3000), (1999, 0, 2000),
    (1988, 1, 1988), (2237, 1, 1988), (2238, 1, 2988), (2000, 2, 1976),
])  # fmt: skip
def test_rounding(t_ms: int, cpu: int, rounded_ms: int) -> None:
    """Down in the first quarter of a second; each CPU's seconds begin 12 ms before its predecessor's."""
    assert round_jiffies(t_ms * MS, cpu, 250) == rounded_ms * MS


class Machine:
    """Counts what is deferred; the CPU does it ``after_ns`` later."""

    def __init__(self, env: simpy.Environment, after_ns: list[int]) -> None:
        self.env = env
        self.after_ns = after_ns
        self.at: list[int] = []
        self.reaper: SlabReaper

    def defer(self, cpu: int) -> None:
        self.at.append(int(self.env.now))
        ran_ns = int(self.env.now) + (self.after_ns.pop(0) if self.after_ns else 0)
        self.reaper.woken(WAKE_DEFERRED, cpu + 1, ran_ns - 1)  # another CPU's
        self.reaper.woken(WAKE_DEFERRED, cpu, ran_ns)


def test_every_two_seconds_and_late_on_an_idle_cpu() -> None:
    """A run that an idle CPU made 1.7 s late costs it one turn; the grid is kept."""
    env = simpy.Environment()
    machine = Machine(env, [0, 1700 * MS, 0])
    reaper = machine.reaper = SlabReaper(machine, 1, 250)
    reaper.bell = Doorbell(env)
    env.process(reaper.process(env, 10 * NS_PER_S))
    env.run()
    assert [t // MS for t in machine.at] == [ms + LATENCY_NS // MS for ms in (988, 2988, 6988, 8988)]
