"""The workloads by name; a file of one's own counts as one."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from pathlib import Path

from memtrace.errors import ConfigError

from .workload import Workload

NAMES = (
    "slab-test", "ping-pong", "fork-storm", "dentry-storm", "net-rx", "page-cache-churn", "long-lived-pins",
    "bonwick-spike", "mixed-server", "embedded-boot",
)  # fmt: skip
"""In the order of ``memtrace synth --list``: from one allocator's paths to whole systems."""


def load_workload(name: str) -> Workload:
    """
    A workload by its name, or from a Python file that defines ``WORKLOAD``. The file is run: it is code.

    Raises
    ------
    ConfigError
        When there is none.
    """
    if name in NAMES:
        module = importlib.import_module(f"memtrace.synthetic.{name.replace('-', '_')}")
        assert isinstance(module.WORKLOAD, Workload)
        return module.WORKLOAD
    if name.endswith(".py"):
        return _from_file(Path(name))
    near = difflib.get_close_matches(name, NAMES, 1)
    hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(NAMES)}, or a file ending in .py."
    raise ConfigError(f'workload "{name}": not known; {hint} `memtrace synth --list` describes them.')


def _from_file(path: Path) -> Workload:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; expected Python with a WORKLOAD. See docs/workloads.md.")
    spec = importlib.util.spec_from_file_location("memtrace_workload", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file raises is about the user's file
        raise ConfigError(f"{path}: cannot be run ({type(error).__name__}: {error}); expected Python with a "
                          "WORKLOAD. See docs/workloads.md.") from error  # fmt: skip
    found = getattr(module, "WORKLOAD", None)
    if not isinstance(found, Workload):
        raise ConfigError(f"{path}: no WORKLOAD in it; expected WORKLOAD = Workload(…). See docs/workloads.md.")
    return found
