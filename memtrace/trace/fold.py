"""Requests recorded on one number of CPUs and nodes, replayed on another."""

from __future__ import annotations

import numpy as np

from .requests import RQ_CPU_OFFLINE, RQ_CPU_ONLINE, Census, Requests


class Fold:
    """
    Gives requests CPUs and nodes that the machine has; called with each chunk and the task of each request.

    On a machine with fewer CPUs than the trace, or with more when the trace has tasks, work goes by task (task
    modulo CPUs), without tasks by CPU number. A node that the machine does not have becomes "any".
    """

    def __init__(self, census: Census, cpus: int, nodes: int) -> None:
        self._cpus = cpus
        self._nodes = nodes
        self._deals = census.cpus > cpus or (census.has_tasks and census.cpus < cpus)
        self.notes: list[str] = []
        if self._deals:
            how = "by task" if census.has_tasks else "by CPU number"
            self.notes.append(f"Recorded on {census.cpus} CPUs, replayed on {cpus}: work was dealt to CPUs {how}.")

    def __call__(self, requests: Requests, task: np.ndarray) -> None:
        if self._deals:
            plug = (requests.op == RQ_CPU_OFFLINE) | (requests.op == RQ_CPU_ONLINE)
            requests.size = np.where(plug, np.int64(-1), requests.size)  # a recorded CPU is none of the machine's
            requests.cpu = (np.where(task >= 0, task, requests.cpu) % self._cpus).astype(np.int16)
        if int(requests.node.max()) >= self._nodes:
            requests.node = np.where(requests.node >= self._nodes, np.int16(-1), requests.node)
