"""/sys/kernel/debug/percpu_stats: how many areas and chunks the percpu allocator has, and how they stand (MODEL 9)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from memtrace.errors import TraceError

_FIELD = re.compile(r"\s*(\w+)\s*:\s*(-?\d+)\s*$")
_PER_CHUNK = "Per Chunk Stats"
NAME = "percpu_stats"


def read_percpu_stats(path: str | Path) -> dict[str, int]:
    """
    The numbers before the chunks' own.

    Returns
    -------
    ``nr_cur_alloc``, ``nr_chunks``, ``empty_pop_pages``, ``unit_size`` … as the kernel names them; empty when
    there is no such file (it needs CONFIG_PERCPU_STATS).
    """
    file = Path(path)
    if not file.is_file():
        return {}
    text = file.read_text(encoding="ascii", errors="replace").partition(_PER_CHUNK)[0]
    return {found[1]: int(found[2]) for line in text.splitlines() if (found := _FIELD.match(line))}


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


def read_percpu_chunks(folder: str | Path) -> PercpuStats | None:
    """
    The file in a snapshot folder; None when there is none, or it is empty.

    Raises
    ------
    TraceError
        It is there, and lacks a number that every kernel prints.
    """
    path = Path(folder) / NAME
    whole = read_percpu_stats(path)
    if not whole:
        return None
    parts: list[dict[str, int]] = []
    first: list[bool] = []
    for line in path.read_text(encoding="ascii", errors="replace").partition(_PER_CHUNK)[2].splitlines():
        if line.startswith("Chunk:"):
            parts.append({})
            first.append("First Chunk" in line)
        elif parts and (found := _FIELD.match(line)):
            parts[-1][found[1]] = int(found[2])
    try:
        totals = {name: whole[name] for name in PercpuStats.__dataclass_fields__ if name != "chunks"}
        chunks = tuple(
            ChunkStats(is_first, **{name: part[name] for name in ChunkStats.__dataclass_fields__ if name != "first"})
            for part, is_first in zip(parts, first, strict=True)
        )
    except KeyError as missing:
        raise TraceError(f"no line {missing}; expected /sys/kernel/debug/percpu_stats as the kernel prints it.",
                         path) from None
    return PercpuStats(**totals, chunks=chunks)
