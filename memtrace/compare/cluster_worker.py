"""What a worker of a Dask cluster keeps while a study lasts; importable only where the extra ``cluster`` is."""

from __future__ import annotations

import queue
from typing import Any

from distributed import WorkerPlugin, get_worker

from .cells import Bench, Done, run_cell
from .grid import Cell
from .places import Copies


class Benches(WorkerPlugin):
    """
    A bench for each thread of a worker, as many as were at work at once; copies are of all threads.

    Parameters
    ----------
    name
        Of the study.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def setup(self, worker: Any) -> None:
        """On the worker, before any cell of the study."""
        self.copies = Copies()
        self.idle: queue.LifoQueue[Bench] = queue.LifoQueue()

    def teardown(self, worker: Any) -> None:
        """On the worker, when the study has ended, or the worker does."""
        while True:
            try:
                self.idle.get_nowait().__exit__()
            except queue.Empty:
                break
        self.copies.__exit__()

    def run(self, cell: Cell, key: str, cells: str, source: str) -> Done:
        """Run a cell at a bench that nobody is at."""
        try:
            bench = self.idle.get_nowait()
        except queue.Empty:
            bench = Bench(self.copies)
        try:
            return run_cell(cell, key, cells, bench, source)
        finally:
            self.idle.put(bench)


def run_there(study: str, cell: Cell, key: str, cells: str, source: str) -> Done:
    """Run a cell of a study on the worker that this is called on."""
    benches = get_worker().plugins[study]
    assert isinstance(benches, Benches)
    return benches.run(cell, key, cells, source)
