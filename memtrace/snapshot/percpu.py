"""/sys/kernel/debug/percpu_stats, its global part: how many areas and chunks the percpu allocator has (MODEL 9)."""

from __future__ import annotations

import re
from pathlib import Path

_FIELD = re.compile(r"\s*(\w+)\s*:\s*(-?\d+)\s*$")
_PER_CHUNK = "Per Chunk Stats"


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
