"""
Daemons: what runs beside the CPUs, each a SimPy process.

A daemon acts on the model at simulated times, when all requests of that instant are decided and before samples of
that instant are taken; so both engines give it the same state. Its work costs the CPUs no time unless it says so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Generator, Sequence
from typing import Any, Protocol

import simpy

from ..config import ReplayConfig
from ..mm.constants import WAKE_PERCPU, WAKE_RCU
from ..mm.itinerary import Itinerary
from ..mm.machine import Machine
from .simtime import PRIORITY_DAEMON, at

Steps = Generator[simpy.Event, Any, None]


class Doorbell:
    """Lets a daemon wait until it is woken; rings that nobody waits for are kept, as one."""

    def __init__(self, env: simpy.Environment) -> None:
        self.env = env
        self._waiting: simpy.Event | None = None
        self._rung_ns = -1

    def ring(self, t_ns: int) -> None:
        """Wake whoever waits, at ``t_ns``."""
        if self._waiting is None:
            self._rung_ns = t_ns
            return
        waiting, self._waiting = self._waiting, None
        at(self.env, t_ns, PRIORITY_DAEMON).callbacks.append(lambda _: happen(waiting))

    def wait(self) -> simpy.Event:
        """The event of the next ring."""
        if self._rung_ns >= 0:
            t_ns, self._rung_ns = max(self._rung_ns, int(self.env.now)), -1
            return at(self.env, t_ns, PRIORITY_DAEMON)
        self._waiting = self.env.event()
        return self._waiting


def happen(event: simpy.Event) -> None:
    """Make an event happen within another: succeed() would put it behind everything else of the instant."""
    event._ok = True
    event._value = None
    callbacks, event.callbacks = event.callbacks, None  # type: ignore[assignment]
    for callback in callbacks:
        callback(event)


class Daemon:
    """
    Base of all daemons.

    Attributes
    ----------
    kinds
        Which ``WAKE_*`` of ``mm.constants`` it is to be told of.
    bell
        Rung when it is; a daemon that nobody wakes does not wait for it.
    """

    kinds: tuple[int, ...] = ()
    bell: Doorbell

    def process(self, env: simpy.Environment, until_ns: int) -> Steps:
        """
        What it does, from the beginning of the trace; nothing later than ``until_ns``, and nothing before it first
        waits, which the two engines let it do at different moments.

        Yields events of this environment, made by ``sleep_until`` or ``bell.wait``.
        """
        raise NotImplementedError

    def woken(self, kind: int, argument: int, t_ns: int) -> None:
        """Be told that the model asked for it, at ``t_ns``, which SimPy's clock may not have reached yet."""
        self.bell.ring(t_ns)


def sleep_until(env: simpy.Environment, t_ns: int) -> simpy.Event:
    """The event of a daemon's next turn."""
    return at(env, t_ns, PRIORITY_DAEMON)


class Settler(Protocol):
    """Who must know what daemons did to the model: the decider, in a replay."""

    it: Itinerary

    def settle(self, t_ns: int) -> None: ...


class Daemons:
    """All daemons of a run: starts them, and passes on who was woken."""

    def __init__(self, daemons: Sequence[Daemon], decider: Settler) -> None:
        self.decider = decider
        self.it = decider.it
        self.by_kind: dict[int, list[Daemon]] = {}
        self.daemons = list(daemons)
        for daemon in daemons:
            for kind in daemon.kinds:
                self.by_kind.setdefault(kind, []).append(daemon)

    def start(self, env: simpy.Environment, until_ns: int) -> None:
        """Begin the processes of all daemons."""
        for daemon in self.daemons:
            daemon.bell = Doorbell(env)
            env.process(self.watched(env, daemon.process(env, until_ns)))

    def watched(self, env: simpy.Environment, steps: Steps) -> Steps:
        """A daemon's steps; after each, what it did is noted, and those whom it woke are told."""
        for event in steps:
            self.stepped(int(env.now))
            yield event
        self.stepped(int(env.now))

    def stepped(self, t_ns: int) -> None:
        self.decider.settle(t_ns)
        self.pass_on(t_ns)

    def pass_on(self, t_ns: int) -> None:
        """Tell daemons that the model asked for them."""
        if not self.it.woken:
            return
        for kind, argument in self.it.take_wakes():
            for daemon in self.by_kind.get(kind, ()):
                daemon.woken(kind, argument, t_ns)


class GracePeriods(Daemon):
    """
    RCU as the slab allocator sees it: a free that waits (``WAKE_RCU``) is due a fixed time later.

    Kernel: call_rcu() (EXACT D 3.6)
    Departs: a grace period ends when every CPU has been seen idle or switching, which no trace shows
    """

    kinds = (WAKE_RCU,)

    def __init__(self, machine: Machine, delay_ns: int) -> None:
        self.slab = machine.slab
        self.delay_ns = delay_ns
        self.due: deque[tuple[int, int]] = deque()

    def woken(self, kind: int, argument: int, t_ns: int) -> None:
        self.due.append((t_ns + self.delay_ns, argument))
        self.bell.ring(t_ns)

    def process(self, env: simpy.Environment, until_ns: int) -> Steps:
        while True:
            yield self.bell.wait()
            while self.due:
                t_ns = self.due[0][0]
                if t_ns > until_ns:
                    return
                yield sleep_until(env, t_ns)
                while self.due and self.due[0][0] == t_ns:
                    self.slab.it.reset()
                    self.slab.grace_period_over(self.due.popleft()[1])


class PercpuBalance(Daemon):
    """
    The percpu allocator's worker.

    Kernel: pcpu_balance_work
    Departs: it works at once, on the CPU that asked
    """

    kinds = (WAKE_PERCPU,)

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.cpu = 0

    def woken(self, kind: int, argument: int, t_ns: int) -> None:
        """Remember on which CPU the work is queued."""
        self.cpu = argument
        Daemon.woken(self, kind, argument, t_ns)

    def process(self, env: simpy.Environment, until_ns: int) -> Steps:
        """Balance whenever it is asked for."""
        while True:
            yield self.bell.wait()
            self.machine.it.reset()
            self.machine.percpu.balance(self.machine.runs_on[self.cpu])
            self.machine.it.reset()


def make_daemons(machine: Machine, config: ReplayConfig, kswapd: Collection[int] = ()) -> list[Daemon]:
    """The daemons that this machine's kernel runs; ``kswapd``: nodes whose kswapd's runs are requests."""
    from .reclaim_daemons import reclaim_daemons
    from .slab_reaper import SlabReaper
    from .vmstat_worker import VmstatWorker

    daemons = [PercpuBalance(machine), *reclaim_daemons(machine, kswapd)]
    if config.allocator == "slab" and config.kernel.slab.reap:
        daemons += [SlabReaper(machine, cpu, config.kernel.slab.hz) for cpu in range(machine.nr_cpus)]
    if config.allocator == "slob":
        daemons.append(GracePeriods(machine, config.kernel.slob.rcu_delay_ms * 1_000_000))
    if config.allocator == "slub" and config.kernel.slub.sheaf_capacity:
        daemons.append(GracePeriods(machine, config.kernel.slub.rcu_delay_ms * 1_000_000))
    if config.kernel.pcp.limit == "auto" or machine.nr_nodes > 1:
        daemons += [VmstatWorker(machine, cpu) for cpu in range(machine.nr_cpus)]
    return daemons
