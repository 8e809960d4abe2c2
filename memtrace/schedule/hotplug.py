"""CPU hotplug as asked for with ``--hotplug``: a SimPy process that applies each event at its time."""

from __future__ import annotations

from collections.abc import Sequence

import simpy

from ..hotplug import HotplugEvent
from .daemons import Daemon, Steps, sleep_until
from .dispatch import Dispatcher


class Hotplug(Daemon):
    """
    Takes CPUs offline and online.

    Events at time 0 happen at once, so that a CPU can be offline from the start.

    Parameters
    ----------
    dispatcher
        Moves the work.
    events
        By time.
    """

    def __init__(self, dispatcher: Dispatcher, events: Sequence[HotplugEvent]) -> None:
        self.dispatcher = dispatcher
        self.events = [event for event in events if event.t_ns > 0]
        for event in events:
            if event.t_ns <= 0:
                dispatcher.hotplug(event.cpu, event.online, 0)

    def process(self, env: simpy.Environment, until_ns: int) -> Steps:
        """Wait for each event's time; what lies before the first request happens with it."""
        for event in self.events:
            if event.t_ns > until_ns:
                return
            yield sleep_until(env, max(event.t_ns, int(env.now)))
            self.dispatcher.hotplug(event.cpu, event.online, int(env.now))
