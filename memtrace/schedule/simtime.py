"""In which order SimPy runs what happens at one instant."""

from __future__ import annotations

import simpy
from simpy.events import EventPriority

PRIORITY_DECIDE = EventPriority(0)  # first, requests of this instant are decided,
PRIORITY_ENDS = EventPriority(1)  # SimPy's own: steps end, CPUs go on, locks are let go,
PRIORITY_START = EventPriority(2)  # in closed timing, operations that are ready start,
PRIORITY_LOCKS = EventPriority(3)  # then the instant's requests for locks join their queues,
PRIORITY_DAEMON = EventPriority(4)  # then whoever runs beside the CPUs does its work,
PRIORITY_SAMPLE = EventPriority(5)  # and a sample sees everything decided up to and including its instant.


def at(env: simpy.Environment, t_ns: int, priority: EventPriority) -> simpy.Event:
    """An event that happens at ``t_ns``, not before now, in the given order among those of that instant."""
    event = env.event()
    event._ok = True
    event._value = None
    env.schedule(event, priority, t_ns - env.now)
    return event
