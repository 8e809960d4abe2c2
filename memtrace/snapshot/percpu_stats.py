"""/sys/kernel/debug/percpu_stats: how the percpu allocator stands (4.13 and later, CONFIG_PERCPU_STATS)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from memtrace.errors import TraceError

from .lines import read_lines

NAME = "percpu_stats"
_PAIR = re.compile(r"\s*(\w+)\s*:\s*(-?\d+)\s*$")


@dataclass(frozen=True, slots=True)
class ChunkStats:
    """One chunk; sizes in bytes of one unit, ``first_bit`` in units of 4 bytes."""

    first: bool
    nr_alloc: int
    free_bytes: int
    contig_bytes: int
    first_bit: int
    empty_pop_pages: int
    cur_med_alloc: int


@dataclass(frozen=True, slots=True)
class PercpuStats:
    """
    The file.

    Attributes
    ----------
    static_size, reserved_size, dyn_size, atom_size, unit_size
        How the first chunk is divided, in bytes.
    nr_alloc, nr_dealloc, nr_cur_alloc
        Areas ever allocated, ever freed, alive.
    chunks
        As printed: by slot.
    """

    static_size: int
    reserved_size: int
    dyn_size: int
    atom_size: int
    unit_size: int
    nr_alloc: int
    nr_dealloc: int
    nr_cur_alloc: int
    empty_pop_pages: int
    chunks: tuple[ChunkStats, ...]


def read_percpu_stats(folder: str | Path) -> PercpuStats | None:
    """
    The file in a snapshot folder; None when there is none, or it is empty.

    Raises
    ------
    TraceError
        It is there, and lacks a number that every kernel prints.
    """
    path = Path(folder) / NAME
    if not path.is_file():
        return None
    parts: list[dict[str, int]] = [{}]
    first: list[bool] = []
    for line in read_lines(path):
        pair = _PAIR.match(line)
        if pair is not None:
            parts[-1][pair[1]] = int(pair[2])
        elif line.startswith("Chunk:"):
            parts.append({})
            first.append("First Chunk" in line)
    if not parts[0]:
        return None
    try:
        whole = {name: parts[0][name] for name in PercpuStats.__dataclass_fields__ if name != "chunks"}
        chunks = tuple(
            ChunkStats(is_first, **{name: part[name] for name in ChunkStats.__dataclass_fields__ if name != "first"})
            for part, is_first in zip(parts[1:], first, strict=True)
        )
    except KeyError as missing:
        raise TraceError(f"no line {missing}; expected /sys/kernel/debug/percpu_stats as the kernel prints it.",
                         path) from None
    return PercpuStats(**whole, chunks=chunks)
