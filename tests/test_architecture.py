"""The import rules of docs/design.md: a file imports lower floors or its own folder, nothing above."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from memtrace.pxd import Package

PACKAGE = Path(__file__).resolve().parents[1] / "memtrace"
FILES = sorted(PACKAGE.rglob("*.py"))
SOURCES = Package(PACKAGE)

# What each folder must never import: a part of memtrace by its name in it, an outside package by its own.
FORBIDDEN = {
    "mm": {"simpy", "pyarrow", "pandas", "numpy", "matplotlib", "trace", "schedule", "metrics", "report", "fidelity",
           "byhand", "compare", "cli", "run"},
    "trace": {"simpy", "mm", "schedule", "metrics", "report", "fidelity", "byhand", "compare", "cli", "run"},
    "snapshot": {"simpy", "mm", "schedule", "metrics", "report", "fidelity", "byhand", "compare", "cli", "run"},
    "schedule": {"report", "fidelity", "byhand", "compare", "cli", "run"},
    "metrics": {"simpy", "report", "fidelity", "byhand", "compare", "cli", "run"},
    "fidelity": {"simpy", "byhand", "compare", "cli"},
    "compare": {"simpy", "mm", "schedule", "trace", "fidelity", "byhand", "cli"},
    "record": {"simpy", "mm", "schedule", "metrics", "report", "fidelity", "byhand", "cli", "run"},
    "byhand": {"simpy", "trace", "metrics", "fidelity", "compare", "cli", "run"},
    "report": {"simpy", "mm", "schedule", "trace", "fidelity", "byhand", "compare", "cli", "run"},
    "synthetic": {"simpy", "mm", "schedule", "metrics", "report", "fidelity", "byhand", "compare", "cli", "run"},
}
# Bits and their names are vocabulary, not machinery.
VOCABULARY = {("trace", "mm.gfp"), ("trace", "mm.constants")}


def name_of(path: Path) -> str:
    """``mm.slub`` from the path of its source."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name or "") of each import anywhere in a file; memtrace's own modules without ``memtrace.``."""
    here = ["memtrace", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name.removeprefix("memtrace."), "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{module}.{alias.name}" if _is_module(f"{module}.{alias.name}") else module
                yield full.removeprefix("memtrace."), alias.name


def _is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return name.startswith("memtrace.") and (path.with_suffix(".py").is_file() or path.is_dir())


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_file_imports_only_lower_floors(path: Path) -> None:
    folder = path.relative_to(PACKAGE).parts[0]
    for module, _ in imports(path):
        top = module.partition(".")[0]
        if top in FORBIDDEN.get(folder, set()) and (folder, module) not in VOCABULARY:
            pytest.fail(f"{name_of(path)} imports {module}; docs/design.md forbids that to {folder}/")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_schedule_and_run_know_simpy(path: Path) -> None:
    if path.relative_to(PACKAGE).parts[0] not in ("schedule", "run.py"):
        assert "simpy" not in {module.partition(".")[0] for module, _ in imports(path)}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_what_notebooks_load_knows_ipython(path: Path) -> None:
    # It is there where a notebook is, and nowhere else: nothing that others import may need it.
    if path.name not in ("jupyter.py", "progress.py"):
        assert not {module.partition(".")[0] for module, _ in imports(path)} & {"IPython", "ipykernel", "jupyter"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_run_and_cli_know_trace_schedule_and_mm_together(path: Path) -> None:
    if path.relative_to(PACKAGE).parts[0] not in ("run.py", "cli"):
        known = {module.partition(".")[0] for module, _ in imports(path)} & {"trace", "schedule", "mm"}
        assert len(known) < 3 or path.relative_to(PACKAGE).parts[0] == "schedule"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_constant_comes_from_a_compiled_module(path: Path) -> None:
    for module, name in imports(path):
        found = SOURCES.module(f"memtrace.{module}")
        if found is not None and found.compiled and SOURCES.constant(found, name) is not None:
            pytest.fail(
                f"{name_of(path)} imports {name} from {module}, where compiled it is a C number that Python "
                "cannot see; numbers live in plain modules"
            )


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_star_imports(path: Path) -> None:
    assert all(name != "*" for _, name in imports(path))
