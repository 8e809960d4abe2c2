"""``validate``: every comparison that a recording allows, in one table."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from memtrace import __version__, compiled
from memtrace.files import scratch_folder
from memtrace.metrics.run_folder import check_destination, create

from .forced_pages import force_pages
from .forced_slab import force_slab
from .forced_slob import force_slob
from .forced_slub import force_slub
from .free_running import run_free
from .percpu import force_percpu
from .recording import Recording
from .sizes import compare_sizes
from .table import Table

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, in all)."""

FORCED_DRIVERS: dict[str, tuple[Callable[[Recording, Table], None], ...]] = {
    "slub": (force_pages, force_slub),
    "slab": (force_pages, force_slab),
    "slob": (force_pages, force_slob),
}
"""By allocator: what is forced along a recording, one driver after the other."""


def validate(
    recording: Recording, *, forced: bool = True, free_running: bool = True, out: str | Path | None = None,
    force: bool = False, progress: Progress | None = None, command: Sequence[str] = (),
) -> Table:
    """
    Hold the model against a recorded kernel.

    Parameters
    ----------
    forced, free_running
        Which of the two ways; see ``forced_pages`` and ``free_running``.
    out
        Folder to write: ``fidelity.json``, ``fidelity.parquet``, ``differences.parquet``, and the free-running
        replay's run folder ``run``. Nothing is written when it is None.
    force
        Replace a folder that an earlier validation wrote.

    Raises
    ------
    ConfigError, TraceError
        The input is wrong.
    """
    compiled.check()
    if out is None:
        with scratch_folder() as scratch:
            return _compare(recording, forced, free_running, Path(scratch) / "run", progress or _silent)[0]
    check_destination(out, force)
    with create(out, force) as new:
        table, timings = _compare(recording, forced, free_running, new.folder / "run", progress or _silent)
        table.write(new.folder)
        new.write_manifest(_manifest(recording, timings, command))
    return table


def _silent(doing: str, done: int, total: int) -> None:
    """Tell nobody."""


def _compare(
    recording: Recording, forced: bool, free_running: bool, run: Path, progress: Progress
) -> tuple[Table, dict[str, float]]:
    table, timings = Table(), {}
    compare_sizes(recording, table)
    if forced:
        force_percpu(recording, table)
    if forced:
        for driver in FORCED_DRIVERS[recording.allocator]:
            since = time.perf_counter()
            progress(driver.__name__.replace("_", " "), 0, 0)
            driver(recording, table)
            timings[driver.__name__] = time.perf_counter() - since
    if free_running:
        since = time.perf_counter()
        run_free(recording, table, run, progress)
        timings["run_free"] = time.perf_counter() - since
    return table, timings


def _manifest(recording: Recording, timings: dict[str, float], command: Sequence[str]) -> dict[str, Any]:
    """What was compared, and with what."""
    start = recording.start
    return json.loads(json.dumps({
        "kind": "validation", "version": __version__, "compiled": compiled.status() == "compiled",
        "trace": recording.trace.name, "allocator": recording.allocator, "kernel": recording.kernel.name,
        "settings": list(recording.settings), "start": start.name if start is not None else "",
        "snapshots": [snapshot.name for snapshot in recording.later], "command": list(command), "timings": timings,
    }))  # fmt: skip
