"""The notebooks run from top to bottom, and are kept without output; memtrace's own part in a notebook."""

from __future__ import annotations

import re
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from traitlets.config import Config

from memtrace import compiled

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
SECONDS = 1800
"""For a cell: so that a kernel that hangs ends, however busy the machine is."""
TEMPORARY = tempfile.gettempdir()
PLACES = re.compile(r"""["'(\s](/(home|Users|root|tmp|work|mnt|var)/|[A-Z]:\\)""")
"""Beginnings of paths that only one computer has."""


@pytest.fixture
def here(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run in, laid out as the project, and nothing of the user's own Jupyter."""
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(variable, str(tmp_path / "settings"))
    (tmp_path / "traces").symlink_to(root / "traces")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / "notebooks"


def execute(notebook: Any, folder: Path, **options: Any) -> None:
    """Without ports, which another kernel that starts at the same time may take."""
    # A socket's path has to be short.
    with tempfile.TemporaryDirectory(prefix="k", dir=TEMPORARY) as sockets:
        config = Config({"KernelManager": {"transport": "ipc", "connection_file": f"{sockets}/k"}})
        NotebookClient(notebook, config=config, timeout=SECONDS, startup_timeout=SECONDS, kernel_name="python3",
                       resources={"metadata": {"path": str(folder)}}, **options).execute()


def outputs(cell: Any) -> str:
    """All text that a cell has shown."""
    said = []
    for output in cell.get("outputs", ()):
        said += [output.get("text", ""), *output.get("data", {}).values(), *output.get("traceback", ())]
    return "\n".join(map(str, said))


def tag(cell: Any) -> str:
    return next(iter(cell.metadata.get("tags", ())), "")


def another(answer: Any) -> Any:
    """An answer of the same kind that is wrong."""
    if isinstance(answer, tuple):
        return tuple(another(part) for part in answer)
    if isinstance(answer, set):
        return {another(part) for part in answer}
    return answer + " or so" if isinstance(answer, str) else 2 * answer + 1


def tried(notebook: Any) -> Any:
    """
    A notebook in which each exercise is checked thrice: without an answer, with a wrong one and with the right one.

    The right answers are those of the cell that holds the solution. All else is as the reader runs it.
    """
    [solution] = [cell for cell in notebook.cells if tag(cell) == "solution"]
    solved: dict[str, Any] = {}
    exec(solution.source, solved)
    answers = {name: value for name, value in solved.items() if name.startswith("answer_")}
    asked: list[str] = []
    cells = []
    for cell in notebook.cells:
        cells += [] if cell is solution else [cell]
        if tag(cell) == "answer":
            asked.append(cell.source.partition("=")[0].strip())
            assert "None" in cell.source, "an exercise that is answered already"
        elif tag(cell) == "check":
            for answer in (another(answers[asked[-1]]), answers[asked[-1]]):
                cells.append(deepcopy(cell))
                cells[-1].id += f"-{len(cells)}"
                cells[-1].source = f"{asked[-1]} = {answer!r}\n{cell.source}"
    assert asked == list(answers), "exercises and answers"
    return nbformat.from_dict({**notebook, "cells": cells})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, here: Path) -> None:
    """From top to bottom; and its exercises know right from wrong."""
    notebook = nbformat.read(path, as_version=4)
    if compiled.status() != "compiled" and any(word in str(notebook) for word in ("build-and-serve", "mt.synth")):
        pytest.skip("replays hundreds of thousands of events, which takes minutes without a compiled core")
    notebook = tried(notebook)
    execute(notebook, here)
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    for output in shown:
        assert output.get("name") != "stderr", f"a warning: {output['text']}"
    checks = [(cell.source, outputs(cell)) for cell in notebook.cells if tag(cell) == "check"]
    assert len(checks) >= 9
    for (_, unanswered), (wrong, refused), (right, taken) in zip(checks[::3], checks[1::3], checks[2::3], strict=True):
        assert unanswered.startswith("Not answered yet"), wrong
        assert refused and not refused.startswith(("Right", "Not answered")), wrong
        assert taken.startswith("Right"), right
    assert sum("image/png" in output.get("data", {}) for output in shown) >= 2, "a notebook has pictures"
    assert not list(here.iterdir()), "it leaves things beside the notebooks"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_kept_without_output(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None, "clear all outputs before you save"
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert not PLACES.search(text)


def test_every_notebook_is_listed(root: Path) -> None:
    listed = (root / "notebooks" / "README.md").read_text(encoding="utf-8")
    assert NOTEBOOKS and all(f"({path.name})" in listed for path in NOTEBOOKS)


TRACE = "ts_ns,cpu,event,ptr,bytes_req\n0,0,kmalloc,1,100\n1000,0,kmalloc,2,100\n2000,0,kfree,1,\n"


@pytest.fixture
def session(here: Path) -> dict[str, Any]:
    """Cells by name, after they ran, one after the other, whatever each raised."""
    (here / "tiny.csv").write_text(TRACE, encoding="utf-8")
    sources = {
        "load": "%load_ext memtrace",
        "cell": f"%%memtrace -n tiny --cpus 2 --memory 64M\n{TRACE}",
        "kept": "tiny.hit_rate()",
        "line": "run = %memtrace replay tiny.csv --memory 64M --no-report -n other\nrun is other",
        "figure": "tiny.plot.cache_memory();",
        "command": "%memtrace info tiny.csv",
        "help": "%memtrace replay --help",
        "cell help": f"%%memtrace --help\n{TRACE}",
        "wrong row": f"%%memtrace --memory 64M\n{TRACE}3000,0,kfree,moon,\n",
        "wrong option": f"%%memtrace --memroy 64M\n{TRACE}",
        "wrong value": f"%%memtrace --memory 64Q\n{TRACE}",
        "two traces": f"%%memtrace tiny.csv\n{TRACE}",
        "wrong name": f"%%memtrace -n 7up\n{TRACE}",
        "open quotation": "%memtrace replay 'tiny.csv",
        "no file": "%memtrace replay gone.csv",
        "no command": "%memtrace repaly tiny.csv",
        "call": "import memtrace as mt\nmt.replay('gone.csv')",
        "hostile": "raise mt.MetricsError('a\\x1b[31m\\nb')",
        "bar": "from memtrace import progress\nprogress.WAIT_S = 0\n"
               "with progress.told(None) as tell:\n    tell('replaying', 1, 4)\n    print('shown')",
    }
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources.values()])
    execute(notebook, here, allow_errors=True)
    return dict(zip(sources, notebook.cells, strict=True))


def test_the_extension(session: dict[str, Any]) -> None:
    assert not outputs(session["load"])
    shown = session["cell"].outputs[-1]["data"]
    assert "<b>cell.csv</b>: 3 rows" in shown["text/html"] and "report.html" in shown["text/html"]
    assert "cell.csv: 3 rows" in shown["text/plain"]
    assert outputs(session["kept"]).strip().endswith("0.5")
    assert "True" in outputs(session["line"])
    assert "image/png" in session["figure"].outputs[0]["data"], "a figure is shown without asking"
    assert len(session["figure"].outputs) == 1
    assert "kmalloc" in outputs(session["command"])
    assert "-n NAME" in outputs(session["help"]) and "TRACE" in outputs(session["help"])
    assert "--allocator" in outputs(session["cell help"])
    for name, expected in {
        "wrong row": r'TraceError: cell\.csv:5: .*moon',
        "wrong option": r"ConfigError: .*--memroy.* \(`%%memtrace --help` explains\)",
        "wrong value": r"ConfigError: --memory.*64Q",
        "two traces": r"ConfigError: .*unexpected extra argument",
        "wrong name": r"ConfigError: -n 7up: no name of a variable",
        "open quotation": r"ConfigError: %memtrace replay 'tiny\.csv: No closing quotation",
        "no file": r"TraceError: gone\.csv: no such file",
        "no command": r'ConfigError: no command "repaly"; expected one of replay,',
        "call": r"TraceError: gone\.csv: no such file",
        "hostile": r"MetricsError: a\\x1b\[31m b",
    }.items():
        said = outputs(session[name]).strip()
        assert re.fullmatch(expected + r".*", said), f"{name}: {said}"
    bar = session["bar"].outputs
    assert bar[0]["output_type"] == "display_data" and not bar[0]["data"]["text/plain"], "the bar is taken away"
