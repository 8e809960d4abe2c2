"""Running the cells of a study: here, or in several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from ..errors import MetricsError
from .cells import Done, run_cell, stop_with_parent
from .grid import Cell

Work = Sequence[tuple[Cell, str]]
"""Cells with their keys."""
Told = Callable[[Done], None]


def run_cells(work: Work, cells: str, jobs: int, told: Told) -> dict[str, Done]:
    """
    Run cells.

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

    Returns
    -------
    By key.

    Raises
    ------
    MetricsError
        A worker process died, for example because the computer ran out of memory. Finished cells stay.
    """
    if jobs == 1 or len(work) < 2:
        out = {}
        for cell, key in work:
            out[key] = run_cell(cell, key, cells)
            told(out[key])
        return out
    # Spawned, not forked: arrow and numpy have threads that a forked process would lack.
    context = multiprocessing.get_context("spawn")
    done: dict[str, Done] = {}
    with ProcessPoolExecutor(min(jobs, len(work)), mp_context=context, initializer=stop_with_parent) as pool:
        futures = {pool.submit(run_cell, cell, key, cells): key for cell, key in work}
        try:
            for future in as_completed(futures):
                done[futures[future]] = future.result()
                told(done[futures[future]])
        except BrokenProcessPool:
            raise MetricsError(
                f"a worker process died after {len(done)} of {len(work)} cells, perhaps for lack of memory; finished "
                "cells are kept. Run the same again with a smaller -j (a script that calls compare() with jobs needs "
                "`if __name__ == '__main__':` around what it does)."
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return done
