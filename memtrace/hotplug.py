"""When CPUs are to go offline and come online: the words of ``--hotplug``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .errors import ConfigError
from .units import parse_time

_EVENT = re.compile(r"cpu(\d{1,5})(?:-(\d{1,5}))?\s+(on|off)(?:line)?\s*@\s*(\S+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class HotplugEvent:
    """CPU ``cpu`` comes online, or goes offline, at ``t_ns`` of simulated time; at 0: before the first operation."""

    t_ns: int
    cpu: int
    online: bool

    def __str__(self) -> str:
        return f"cpu{self.cpu} {'on' if self.online else 'off'} @{self.t_ns}ns"


def parse_hotplug(texts: Iterable[str]) -> tuple[HotplugEvent, ...]:
    """
    Events by time, those of one time as they were given.

    Parameters
    ----------
    texts
        Lists with commas, like ``cpu3 off @1.5s, cpu3 on @2s``; ``cpu2-3`` is a range.

    Raises
    ------
    ConfigError
        One is not of this form.
    """
    events = []
    for text in ",".join(texts).split(","):
        if not text.strip():
            continue
        found = _EVENT.fullmatch(text.strip())
        if found is None:
            raise ConfigError(f'--hotplug "{text.strip()}": expected CPU, on or off, and when, like "cpu3 off @1.5s".')
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise ConfigError(f'--hotplug "{text.strip()}": the range ends before it begins; expected "cpu2-3".')
        t_ns = 0 if found[4] == "0" else parse_time(found[4], "--hotplug")
        events += [HotplugEvent(t_ns, cpu, found[3].lower() == "on") for cpu in range(first, last + 1)]
    return tuple(sorted(events, key=lambda event: event.t_ns))


def check_hotplug(events: Iterable[HotplugEvent], cpus: int) -> None:
    """Raise ConfigError when the machine has no such CPU, or would be left without any."""
    online = set(range(cpus))
    for event in events:
        if event.cpu >= cpus:
            raise ConfigError(f'--hotplug "{event}": the machine has {cpus} CPUs, 0 to {cpus - 1}.')
        if event.online:
            online.add(event.cpu)
            continue
        online.discard(event.cpu)
        if not online:
            raise ConfigError(f'--hotplug "{event}": the machine\'s last online CPU; expected another online.')
