"""
Exercises of the notebooks check themselves: the shipped solution is right, and something else is not.

Cells run here as plain Python. A notebook with magics runs in test_notebooks.py alone, with the solution.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib import pyplot

from memtrace import compiled

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def tagged(path: Path) -> list[tuple[str, str]]:
    """(tag or "", source) of every code cell."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [(next(iter(cell["metadata"].get("tags", [])), ""), "".join(cell["source"]))
            for cell in cells if cell["cell_type"] == "code"]


def has_magics(path: Path) -> bool:
    return any(line.startswith("%") for _, source in tagged(path) for line in source.splitlines())


WITH_EXERCISES = [path for path in sorted(NOTEBOOKS.glob("*.ipynb"))
                  if any(tag == "check" for tag, _ in tagged(path)) and not has_magics(path)]


@pytest.fixture(autouse=True)
def _no_window(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = matplotlib.get_backend()
    pyplot.switch_backend("agg")
    # Where a reader starts Jupyter.
    monkeypatch.chdir(NOTEBOOKS)
    with matplotlib.rc_context({"figure.max_open_warning": 0}):
        yield
    pyplot.close("all")
    pyplot.switch_backend(before)


def said(source: str, names: dict[str, Any]) -> str:
    """What a cell prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(source, "cell", "exec"), names)
    return out.getvalue()


def another(answer: Any) -> Any:
    """An answer of the same kind that is wrong."""
    if isinstance(answer, tuple):
        return tuple(another(part) for part in answer)
    return answer + " or so" if isinstance(answer, str) else 2 * answer + 1


@pytest.mark.parametrize("path", WITH_EXERCISES, ids=lambda path: path.stem)
def test_exercises_know_right_from_wrong(path: Path) -> None:
    if compiled.status() != "compiled" and any("mt.synth" in source for _, source in tagged(path)):
        pytest.skip("hundreds of thousands of events take minutes without the compiled core")
    cells = tagged(path)
    [solution] = [source for tag, source in cells if tag == "solution"]
    solved: dict[str, Any] = {}
    exec(solution, solved)
    names: dict[str, Any] = {"__name__": "__main__"}
    asked = []
    for tag, source in cells:
        if tag == "answer":
            exec(source, names)
            asked.append(source.partition("=")[0].strip())
        elif tag == "check":
            assert said(source, names).startswith("Not answered yet"), asked[-1]
            names[asked[-1]] = solved[asked[-1]]
            assert said(source, names).startswith("Right"), asked[-1]
            names[asked[-1]] = another(solved[asked[-1]])
            assert not said(source, names).startswith(("Right", "Not answered")), asked[-1]
        elif tag != "solution":
            said(source, names)
    assert asked == [name for name in solved if name.startswith("answer_")]


def test_there_are_exercises() -> None:
    assert WITH_EXERCISES
