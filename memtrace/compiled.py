"""
Which form of the core runs: compiled, or the same files as plain Python.

Compiled files are left beside their sources, so an edited source could be hidden by its old compiled form.
The build therefore records the digest of each source (``_built.json``), and `check` compares. It is called
once by whatever is about to run the core.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from pathlib import Path
from types import ModuleType

from .errors import ConfigError
from .pxd import compiled_sources

VARIABLE = "MEMTRACE_INTERPRETED"
"""Set to 1, this environment variable makes the sources run even where compiled files exist."""
PACKAGE = Path(__file__).parent
_REBUILD = f"Run `make build` (or `pip install -e .`), or set {VARIABLE}=1 to run the sources."


def status(package: Path = PACKAGE) -> str:
    """``compiled``, ``interpreted``, or ``mixed`` when only some of the core is compiled for this Python."""
    if os.environ.get(VARIABLE) == "1":
        return "interpreted"
    found = {_extension(source) is not None for source in compiled_sources(package)}
    if len(found) == 2:
        return "mixed"
    return "compiled" if True in found else "interpreted"


def check(package: Path = PACKAGE) -> None:
    """
    Refuse a core whose compiled files are not what its sources say.

    Raises
    ------
    ConfigError
        When a source was edited since it was compiled, or when some modules are compiled and others are
        not: compiled modules call each other in C, so a half-compiled core cannot run.
    """
    if os.environ.get(VARIABLE) == "1":
        return
    record = package / "_built.json"
    digests = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    sources = {source: _extension(source) for source in compiled_sources(package)}
    if not any(sources.values()):
        return
    for source, extension in sources.items():
        if extension is None:
            raise ConfigError(f"{source}: not compiled, but other modules of the core are. {_REBUILD}")
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        if digests.get(extension.relative_to(package).as_posix()) != digest:
            raise ConfigError(f"{source}: edited since {extension.name} was compiled from it. {_REBUILD}")


def notice() -> str:
    """One line for standard error when the core is interpreted although nobody asked for that; else empty."""
    if status() != "interpreted" or os.environ.get(VARIABLE) == "1":
        return ""
    return (
        "memtrace: the core is not compiled, which makes this slow (same results). "
        "Install a C compiler and the Python headers, then install memtrace again."
    )


def _extension(source: Path) -> Path | None:
    """The compiled file beside a source that this Python would import instead of it."""
    for suffix in EXTENSION_SUFFIXES:
        path = source.with_name(source.stem + suffix)
        if path.exists():
            return path
    return None


class SourceFinder:
    """A meta path finder that takes memtrace's modules from their sources, never from compiled files."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if path is None or not name.startswith("memtrace."):
            return None
        for folder in path:
            source = Path(folder, name.rpartition(".")[2] + ".py")
            if source.is_file():
                return importlib.util.spec_from_file_location(name, source)
        return None


def run_sources() -> None:
    """Make every later import of a memtrace module take its source."""
    if SourceFinder not in sys.meta_path:
        sys.meta_path.insert(0, SourceFinder)
