"""A clock that somebody turns by hand: time passes for the daemons, and for nobody else."""

from __future__ import annotations

from collections.abc import Sequence

import simpy

from ..mm.itinerary import Itinerary
from .daemons import Daemon, Daemons

_FOREVER_NS = (1 << 62) - 1


class _Nobody:
    """In the place of a decider: nobody's pages move when daemons work."""

    def __init__(self, it: Itinerary) -> None:
        self.it = it

    def settle(self, t_ns: int) -> None: ...


class HandClock:
    """Simulated time from 0, and the daemons that live in it."""

    def __init__(self, daemons: Sequence[Daemon], it: Itinerary) -> None:
        self._env = simpy.Environment()
        self._daemons = Daemons(daemons, _Nobody(it))
        self._daemons.start(self._env, _FOREVER_NS)
        self.advance(0)

    @property
    def now_ns(self) -> int:
        """Simulated time."""
        return int(self._env.now)

    def advance(self, step_ns: int) -> None:
        """Let daemons do what is due, up to and including the time ``step_ns`` from now."""
        until = self.now_ns + step_ns
        while self._env.peek() <= until:
            self._env.step()
        if until > self._env.now:
            self._env.run(until=until)

    def pass_on(self) -> None:
        """Tell the daemons that the model asked for."""
        self._daemons.pass_on(self.now_ns)
