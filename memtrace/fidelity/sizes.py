"""What the allocator says an object takes: the recorded bytes_alloc of every kmalloc against the model's."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from memtrace.machines import load_machine, machine_from_exact, machine_from_proc
from memtrace.mm.boot import boot
from memtrace.snapshot.proc import read_proc
from memtrace.trace.gfp import parse_gfp
from memtrace.trace.schema import EV_KMALLOC

from .table import FORCED, Table

if TYPE_CHECKING:
    from memtrace.config import MachineConfig

    from .recording import Recording

SIZES = "kmalloc bytes_alloc"
WHOLE = "whole trace"
_COLUMNS = ("ts_ns", "cpu", "event", "ptr", "bytes_req", "bytes_alloc", "gfp_flags")


def compare_sizes(recording: Recording, table: Table) -> None:
    """Every kmalloc of the trace, asked for once more by its size and flags; exact, so every one must be equal."""
    asked: Counter[tuple[int, int, int]] = Counter()
    with recording.open(_COLUMNS) as reader:
        for chunk in reader.chunks():
            rows = (chunk.event == EV_KMALLOC) & (chunk.ptr != 0)
            columns = np.stack([chunk.bytes_req[rows], chunk.bytes_alloc[rows], chunk.gfp_flags[rows].astype(np.int64)])
            values, counts = np.unique(columns, axis=1, return_counts=True)
            for (req, alloc, gfp), n in zip(values.T.tolist(), counts.tolist(), strict=True):
                asked[req, alloc, gfp] += n
        names = reader.vocab.gfp.names
    machine = boot(_config(recording), recording.kernel, 0, recording.allocator)
    compared = equal = 0
    for (req, alloc, gfp), n in asked.items():
        if alloc < 0 or req < 0:
            continue
        addr = machine.kmalloc(req, parse_gfp(names[gfp]) if gfp >= 0 else 0, -1, 0)
        ours = machine.last_bytes
        compared += n
        if ours == alloc:
            equal += n
        else:
            table.differ(SIZES, FORCED, WHOLE, f"kmalloc({req})", alloc, ours, n)
        if addr:
            machine.kfree(addr, 0)
    table.decisions(SIZES, FORCED, WHOLE, compared, equal)


def _config(recording: Recording) -> MachineConfig:
    start = recording.start
    if start is None:
        return load_machine("vm-512m-4cpu")
    return machine_from_exact(start.dump) if start.dump is not None else machine_from_proc(read_proc(start.folder))
