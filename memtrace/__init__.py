"""
Replay a Linux kernel memory trace through a simulated machine.

>>> import memtrace as mt
>>> run = mt.replay("trace.parquet", memory="512M")  # doctest: +SKIP

The names below are loaded when first used, so that ``import memtrace`` and ``memtrace --help`` are quick.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .byhand import NULL, Cache, Kernel
    from .compare.study import Study, compare
    from .errors import ConfigError, MemtraceError, MetricsError, MisuseError, OutputError, TraceError
    from .mm.gfp import (
        GFP_ATOMIC,
        GFP_DMA,
        GFP_DMA32,
        GFP_HIGHUSER,
        GFP_HIGHUSER_MOVABLE,
        GFP_KERNEL,
        GFP_KERNEL_ACCOUNT,
        GFP_NOFS,
        GFP_NOIO,
        GFP_NOWAIT,
        GFP_USER,
    )
    from .report.result import Run
    from .run import replay
    from .synthetic.write import synth

__version__ = "0.1.0"

__all__ = [
    "GFP_ATOMIC",
    "GFP_DMA",
    "GFP_DMA32",
    "GFP_HIGHUSER",
    "GFP_HIGHUSER_MOVABLE",
    "GFP_KERNEL",
    "GFP_KERNEL_ACCOUNT",
    "GFP_NOFS",
    "GFP_NOIO",
    "GFP_NOWAIT",
    "GFP_USER",
    "NULL",
    "Cache",
    "ConfigError",
    "Kernel",
    "MemtraceError",
    "MetricsError",
    "MisuseError",
    "OutputError",
    "Run",
    "Study",
    "TraceError",
    "__version__",
    "compare",
    "replay",
    "synth",
]

_HOME = {
    "NULL": "byhand",
    "Cache": "byhand",
    "ConfigError": "errors",
    "Kernel": "byhand",
    "MemtraceError": "errors",
    "MetricsError": "errors",
    "MisuseError": "errors",
    "OutputError": "errors",
    "TraceError": "errors",
    "Run": "report.result",
    "Study": "compare.study",
    "compare": "compare.study",
    "load_ipython_extension": "jupyter",
    "replay": "run",
    "synth": "synthetic.write",
}

if os.environ.get("MEMTRACE_INTERPRETED") == "1":
    # Before any module of the core is imported: afterwards it would be too late to choose.
    from .compiled import run_sources

    run_sources()


def __getattr__(name: str) -> Any:
    if name.startswith("__GFP_"):
        # The kernel's names of single flags; outside a class body Python leaves them as they are.
        return getattr(importlib.import_module(".mm.gfp", __name__), "GFP_BIT_" + name[6:])
    for prefix, home in (("GFP_", ".mm.gfp"), ("SLAB_", ".mm.constants")):
        if name.startswith(prefix):
            return getattr(importlib.import_module(home, __name__), name)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
