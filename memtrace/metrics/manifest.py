"""manifest.json: what ran, on what, starting from what, and what could not be done."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from ..errors import MetricsError
from .schema import FORMAT_VERSION

TIMINGS = "timings"
"""The one key that differs between equal runs."""
_KINDS: dict[type, tuple[str, ...]] = {
    dict: ("config", "versions", "trace", "counts", "causes", "rows", TIMINGS),
    list: ("notes", "costs"),
    str: ("start",),
}
"""Type -> the keys that hold it."""
_PACKAGES = ("numpy", "pandas", "pyarrow", "simpy")


def versions(memtrace: str) -> dict[str, str]:
    """Versions of everything that a run's numbers can depend on."""
    return {"memtrace": memtrace, "python": platform.python_version(),
            **{name: metadata.version(name) for name in _PACKAGES}}


def manifest(
    *,
    config: Mapping[str, Any],
    command: Sequence[str],
    versions: Mapping[str, str],
    compiled: bool,
    trace: Mapping[str, Any],
    start: str,
    counts: Mapping[str, int],
    causes: Mapping[str, str],
    unused_rows: int,
    notes: Sequence[str],
    costs: Sequence[Mapping[str, Any]],
    operations: int,
    rows: Mapping[str, int],
    timings: Mapping[str, float],
) -> dict[str, Any]:
    """
    The manifest of one run, as plain data.

    Parameters
    ----------
    config
        ``ReplayConfig.as_dict()``.
    command
        The command line, word by word.
    compiled
        Whether the core ran compiled.
    trace
        path, digest (sha256), rows, span_ns, format.
    start
        A sentence on the starting state, and what is synthetic about it.
    counts, causes
        Everything that could not be used or had to be inferred: how often, and what it means.
    unused_rows
        Rows that should have become requests and could not.
    notes
        Sentences: what this run cannot tell.
    costs
        ``CostTable.as_rows()``, with the marks of assumed prices.
    operations
        Requests that were executed.
    rows
        Rows written, by table.
    timings
        Wall-clock seconds, by phase; the only part that differs between equal runs.
    """
    return {
        "memtrace_run": FORMAT_VERSION,
        "command": list(command),
        "config": dict(config),
        "versions": dict(versions),
        "compiled": compiled,
        "trace": dict(trace),
        "start": start,
        "operations": operations,
        "counts": dict(counts),
        "causes": dict(causes),
        "unused_rows": unused_rows,
        "notes": list(notes),
        "costs": [dict(cost) for cost in costs],
        "rows": dict(rows),
        TIMINGS: dict(timings),
    }


def to_text(content: Mapping[str, Any]) -> str:
    """The file's text; the same for equal content."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def from_text(text: str, place: str) -> dict[str, Any]:
    """
    Read a manifest.

    Raises
    ------
    MetricsError
        When it is not one, or of another version.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MetricsError(f"{place}: not JSON ({error}); expected the file that `memtrace replay` wrote. "
                           "Replay the trace again.") from None
    version = content.get("memtrace_run") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise MetricsError(f"{place}: run format {version!r}; expected {FORMAT_VERSION}. "
                           "Replay the trace again with this memtrace.")
    for kind, keys in _KINDS.items():
        for key in keys:
            if not isinstance(content.get(key, kind()), kind):
                raise MetricsError(f'{place}: "{key}" is {type(content[key]).__name__}; expected {kind.__name__}, as '
                                   "`memtrace replay` writes it. Replay the trace again.")
    return dict(content)
