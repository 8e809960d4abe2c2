"""
Whose work runs where while CPUs are offline.

Requests name the CPU that they were recorded on. When CPUs come and go, the CPUs of the requests still to be decided
are rewritten in the loaded chunk, so that deciding and playing them need not ask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..mm.hotplug import cpu_offline, cpu_online
from ..mm.machine import Machine
from ..trace.requests import Requests

if TYPE_CHECKING:
    from .bulk_array import BulkArray

PluggedEvent = tuple[int, int, int, str, dict[str, int]]


class WorkMoves:
    """
    Takes CPUs offline and online, and moves their work.

    Parameters
    ----------
    machine
        The model.
    bulk
        By CPU: objects of a bulk free that is not complete; they go with the work.

    Attributes
    ----------
    moved
        Requests of chunks that are played which ran elsewhere.
    ignored
        Recorded events that the machine could not follow.
    """

    def __init__(self, machine: Machine, bulk: list[BulkArray]) -> None:
        self.machine = machine
        self.bulk = bulk
        self.moved = 0
        self.ignored = 0
        self.requests: Requests | None = None
        self._recorded: np.ndarray | None = None

    def load(self, requests: Requests | None) -> None:
        """The loaded chunk has been played, and this is the next one; None when there is no more."""
        if self._recorded is not None and self.requests is not None:
            self.moved += int(np.count_nonzero(self._recorded != self.requests.cpu))
        self._recorded = None
        self.requests = requests
        if self.machine.nr_offline:
            self._move(0)

    def recorded(self, cpu: int, online: bool, t_ns: int, row: int, first: int) -> PluggedEvent | None:
        """A recorded event, behind which requests from ``first`` on follow; None when nothing came of it."""
        machine = self.machine
        last = machine.nr_offline == machine.nr_cpus - 1
        if not 0 <= cpu < machine.nr_cpus or (not online and last and machine.online[cpu]):
            self.ignored += 1
            return None
        return self._change(cpu, online, t_ns, row, first)

    def asked(self, cpu: int, online: bool, t_ns: int) -> PluggedEvent | None:
        """
        A change that somebody asked for, when all requests up to ``t_ns`` are decided; None when it is so already.

        Raises
        ------
        ConfigError
            It is the last CPU online.
        """
        first = 0
        if self.requests is not None:
            first = int(np.searchsorted(self.requests.ts_ns, t_ns, side="right"))
        return self._change(cpu, online, t_ns, -1, first)

    def _change(self, cpu: int, online: bool, t_ns: int, row: int, first: int) -> PluggedEvent | None:
        """Change the model, then who does the work from ``first`` on."""
        if bool(self.machine.online[cpu]) == online:
            return None
        told = cpu_online(self.machine, cpu) if online else cpu_offline(self.machine, cpu)
        if not online:
            self.bulk[self.machine.runs_on[cpu]].take_over(self.bulk[cpu])
        self._move(first)
        return (t_ns, row, cpu, "hotplug", told)

    def _move(self, first: int) -> None:
        """Requests of the loaded chunk, from ``first`` on, run where the work of their CPUs is done now."""
        if self.requests is None:
            return
        if self._recorded is None:
            self._recorded = self.requests.cpu.copy()
        runs_on = np.asarray(self.machine.runs_on, np.int16)
        self.requests.cpu[first:] = runs_on[self._recorded[first:]]
