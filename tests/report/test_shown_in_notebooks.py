"""A notebook shows every figure, not only the first; needs IPython, whose backend decides what is shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("IPython")
pytest.importorskip("matplotlib_inline")

FIRST = {
    "run": "memtrace.replay('hello.csv', report=False, out='OUT/run').plot.cache_memory()",
    "kernel": "memtrace.Kernel().plot.slabs()",
}
SHELL = """
from IPython.core.interactiveshell import InteractiveShell
import sys

shell = InteractiveShell.instance()
shell.run_cell("import memtrace").raise_error()
shell.run_cell(sys.argv[1]).raise_error()
shell.run_cell("import matplotlib; shown = matplotlib.is_interactive()").raise_error()
assert shell.user_ns["shown"], "no later figure would be shown"
"""


@pytest.mark.parametrize("first", list(FIRST))
def test_the_first_figure_does_not_hide_later_ones(first: str, bundled: Path, tmp_path: Path) -> None:
    cell = FIRST[first].replace("OUT", str(tmp_path))
    env = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline", "IPYTHONDIR": str(tmp_path / "ip")}
    done = subprocess.run([sys.executable, "-c", SHELL, cell], env=env, cwd=bundled, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
