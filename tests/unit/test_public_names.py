"""What ``import memtrace as mt`` offers stays there, whatever else has been imported."""

from __future__ import annotations

import inspect
import subprocess
import sys

import memtrace as mt
from memtrace.compare.study import compare


def test_every_name_is_there() -> None:
    for name in mt.__all__:
        assert getattr(mt, name) is not None


def test_compare_is_called_whether_its_package_has_been_imported_or_not() -> None:
    # In a process of its own: here others have imported it.
    done = subprocess.run(
        [sys.executable, "-c", "import memtrace as mt\n"
         "for _ in range(2):\n"
         "    try: mt.compare('gone.csv', allocator='slub')\n"
         "    except mt.MemtraceError as error: print(error)\n"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, second = done.stdout.splitlines()
    assert "gone.csv" in first and first == second
    assert inspect.signature(mt.compare) == inspect.signature(compare)
