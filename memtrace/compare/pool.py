"""Running the cells of a study: here, or in several processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import TYPE_CHECKING

from ..ending import end_in_order

if TYPE_CHECKING:
    from .cells import Done
    from .grid import Cell
    from .places import Copies

Work = Sequence[tuple["Cell", str]]
"""Cells with their keys."""
Told = Callable[["Done"], None]

PRELOADED = (
    "memtrace.compare.cells", "memtrace.metrics.recorder", "memtrace.schedule.clock", "memtrace.schedule.dispatch",
    "memtrace.schedule.reclaim_daemons", "memtrace.trace.kept", "memtrace.compare.page",
)
"""What a replay and the report need: imported once, by the process that workers are forked from."""
PATIENCE_S = 10
"""For a worker that was told to end, before it is killed."""


def prepare() -> None:
    """Begin, in the background, what workers need first; optional, and no more than a head start."""
    if isinstance(_context(), ForkServerContext):
        forkserver.set_forkserver_preload(list(PRELOADED))
        # Ctrl-C is for this process: that one would print a traceback, as long as it is importing.
        resource_tracker.ensure_running()  # which unblocks the signal when it starts
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _context() -> ForkServerContext | SpawnContext:
    """Never a fork of this process: arrow and numpy have threads here that a fork would lack."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("forkserver")
    return multiprocessing.get_context("spawn")


def run_cells(work: Work, cells: str, jobs: int, told: Told, copies: Copies) -> dict[str, Done]:
    """
    Run cells.

    A cell whose process died (the system kills one when memory runs out) is run once more, alone, when the others are
    done; if that process dies too, the cell has no result, and says so.

    Parameters
    ----------
    work
        Cells with their keys; each key once.
    cells
        Folder of the cells' run folders.
    jobs
        Processes; with 1 no other process is started.
    told
        Called in this process with each cell that is done, in the order in which they finish.
    copies
        Of what lies elsewhere, for all processes.

    Returns
    -------
    By key.
    """
    from .cells import Bench, run_cell

    if jobs == 1 or len(work) < 2:
        out = {}
        with Bench(copies) as bench:
            for cell, key in work:
                out[key] = run_cell(cell, key, cells, bench)
                told(out[key])
        return out
    done, died = _in_processes(work, cells, min(jobs, len(work)), told, copies)
    again, lost = _in_processes([(cell, key) for cell, key in work if key in died], cells, 1, told, copies)
    for key, how in lost.items():
        again[key] = lost_cell(key, f"its process {how}, and again when it ran alone")
        told(again[key])
    return {**done, **again}


def lost_cell(key: str, what: str) -> Done:
    """What became of a cell whose process died."""
    from .cells import Done

    return Done(key, {}, f"{what}, perhaps for lack of memory. Run the same command again, with more memory or fewer "
                         "replays at a time: it runs only what is missing.", lost=True)


class _Todo:
    """
    Cells that are to be run, by trace: who has read a trace goes on with it, so that it is read by as few as can be.

    Who is done with his trace takes one that nobody is at, and when there is none, helps where most is left to do.
    """

    def __init__(self, work: Work) -> None:
        self._by_trace: dict[str, deque[tuple[Cell, str]]] = {}
        for cell, key in work:
            self._by_trace.setdefault(cell.value("trace"), deque()).append((cell, key))

    def __bool__(self) -> bool:
        return bool(self._by_trace)

    def take(self, trace: str, others: Collection[str]) -> tuple[Cell, str]:
        """A cell for who has read ``trace`` (\"\" none), while others are at theirs."""
        if trace not in self._by_trace:
            free = [name for name in self._by_trace if name not in others]
            trace = free[0] if free else max(self._by_trace, key=lambda name: len(self._by_trace[name]))
        cells = self._by_trace[trace]
        taken = cells.popleft()
        if not cells:
            del self._by_trace[trace]
        return taken


def _in_processes(
    work: Work, cells: str, jobs: int, told: Told, copies: Copies
) -> tuple[dict[str, Done], dict[str, str]]:
    """Results by key, and how the processes of the other keys died."""
    prepare()
    todo, done, died = _Todo(work), {}, {}
    workers: list[_Worker] = []
    try:
        while todo or workers:
            while todo and len(workers) < jobs:
                taken = todo.take("", [worker.trace for worker in workers])
                workers.append(_Worker(cells, copies.folder, *taken))
            for pipe in wait([worker.pipe for worker in workers]):
                worker = next(worker for worker in workers if worker.pipe is pipe)
                try:
                    done[worker.key] = worker.result()
                except EOFError:
                    died[worker.key] = worker.death()
                    workers.remove(worker)
                    continue
                told(done[worker.key])
                if todo:
                    worker.give(*todo.take(worker.trace, [other.trace for other in workers if other is not worker]))
                else:
                    workers.remove(worker)
                    worker.stop()
    finally:
        for worker in workers:
            worker.stop()
    return done, died


class _Worker:
    """A process that runs one cell after the other."""

    def __init__(self, cells: str, copies: str | None, cell: Cell, key: str) -> None:
        self.pipe, there = multiprocessing.Pipe()
        # The process that workers are forked from has the environment of the time when it began.
        self._process = _context().Process(target=_serve, args=(there, cells, copies, dict(os.environ)),
                                           daemon=True)
        self._process.start()
        there.close()
        self.give(cell, key)

    def give(self, cell: Cell, key: str) -> None:
        """Hand it a cell."""
        self.key, self.trace = key, cell.value("trace")
        with contextlib.suppress(OSError):  # it may have died; ``result`` will tell
            self.pipe.send((cell, key))

    def result(self) -> Done:
        """What became of its cell; EOFError when the process died."""
        try:
            outcome = self.pipe.recv()
        except OSError:
            raise EOFError from None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def death(self) -> str:
        """How it died, in words."""
        self.pipe.close()
        self._process.join()
        code = self._process.exitcode or 0
        if code < 0:
            return f"was killed by signal {-code} ({signal.strsignal(-code)})"
        return f"ended with code {code}"

    def stop(self) -> None:
        """End the process; one that is at a cell gives it up and takes back what it had begun to write."""
        self.pipe.close()
        self._process.terminate()
        self._process.join(PATIENCE_S)
        self._process.kill()
        self._process.join()


def _serve(pipe: Connection, cells: str, copies: str | None, environment: dict[str, str]) -> None:
    """Run cells until there are no more."""
    _begin_worker(environment)
    from .cells import Bench, run_cell
    from .places import Copies

    with Copies(copies) as here, Bench(here) as bench:
        while True:
            try:
                cell, key = pipe.recv()
            except (EOFError, OSError):
                return
            try:
                pipe.send(run_cell(cell, key, cells, bench))
            except Exception as error:
                # Whoever catches it there would not see where it happened here.
                error.add_note(traceback.format_exc())
                pipe.send(error)


@contextlib.contextmanager
def process_beside() -> Iterator[Executor]:
    """One process that works beside this one: for what threads of one process would wait for each other at."""
    prepare()
    with ProcessPoolExecutor(1, _context(), _begin_worker, (dict(os.environ),)) as beside:
        yield beside


def _begin_worker(environment: dict[str, str]) -> None:
    """What every process does first that is started here; ``environment`` is its starter's."""
    # Ctrl-C is for whoever started us; who ends us wants us to leave nothing half-written.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_in_order()
    os.environ.update(environment)
    _stop_with_parent()


def _stop_with_parent() -> None:
    """End when whoever started this process ends, however that ends; and leave other CPUs to others."""
    import pyarrow as pa

    parent = multiprocessing.parent_process()
    if parent is not None:
        def watch() -> None:
            wait([parent.sentinel])
            os.kill(os.getpid(), signal.SIGTERM)  # so that what was begun is taken back
            time.sleep(PATIENCE_S)
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
    pa.set_cpu_count(1)
