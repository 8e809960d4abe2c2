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
    from .errors import ConfigError, MemtraceError, MetricsError, TraceError
    from .run import Run, replay

__version__ = "0.1.0"

__all__ = ["ConfigError", "MemtraceError", "MetricsError", "Run", "TraceError", "__version__", "replay"]

_HOME = {
    "ConfigError": "errors",
    "MemtraceError": "errors",
    "MetricsError": "errors",
    "TraceError": "errors",
    "Run": "run",
    "replay": "run",
}

if os.environ.get("MEMTRACE_INTERPRETED") == "1":
    # Before any module of the core is imported: afterwards it would be too late to choose.
    from .compiled import run_sources

    run_sources()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
