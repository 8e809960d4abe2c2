"""When a snapshot's files are compared with a free-running replay."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest

from memtrace.fidelity.free_running import _Comparison
from memtrace.fidelity.recording import Snapshot

MARKERS = pd.DataFrame({
    "t_ns": [10, 20, 50, 60, 70, 90],
    "row": [1, 2, 5, 6, 7, 9],
    "text": ["SNAP_BEGIN start", "SNAP_FILE /proc/slabinfo", "SNAP_BEGIN end", "SNAP_FILE /proc/buddyinfo",
             "SNAP_FILE /proc/slabinfo", "SNAP_END end"],
})
LAST_SAMPLE = 100


@pytest.mark.parametrize(
    ("row", "file", "t_ns"),
    [
        (5, "/proc/slabinfo", 70),      # its own marker, not that of the snapshot before
        (1, "/proc/slabinfo", 20),
        (5, "/proc/zoneinfo", 50),      # none: when the snapshot was begun, for reading it is in the trace behind that
        (-1, "/proc/slabinfo", LAST_SAMPLE),
    ],
)
def test_a_file_is_compared_when_it_was_read(row: int, file: str, t_ns: int) -> None:
    tables = {"markers": MARKERS, "zones": pd.DataFrame({"t_ns": [0, LAST_SAMPLE]})}
    start = SimpleNamespace(dump=object(), folder=Path())
    comparison = _Comparison(cast(Any, SimpleNamespace(start=start)), cast(Any, None),
                             cast(Any, SimpleNamespace(table=tables.__getitem__)))
    assert comparison.file_ns(Snapshot("end", Path(), row, None, True), file) == t_ns
