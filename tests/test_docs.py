"""The documents' commands, scripts and examples do what they say, each document in a folder of its own."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest
from documents import Block, blocks, lay_out, run_block

from memtrace import compiled

ROOT = Path(__file__).resolve().parents[1]
NAMES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in (".", "docs", "traces", "reports", "notebooks")
    for path in (ROOT / folder).glob("*.md")
)
BLOCKS = {name: list(blocks(ROOT / name, name)) for name in NAMES}
RUN = {name: [block for block in found if block.runs or "file" in block.notes] for name, found in BLOCKS.items()}
LEFT_OUT = [block for found in BLOCKS.values() for block in found if "not run" in block.notes]


def problems_of(todo: list[Block], folder: Path, slow: bool) -> list[str]:
    environment = lay_out(folder, ROOT)
    problems = []
    for block in todo:
        if "file" in block.notes:
            (folder / block.notes["file"]).write_text(block.text, encoding="utf-8")
        elif "not run" not in block.notes and (slow or "slow" not in block.notes):
            problems.append(run_block(block, folder, environment))
    return [problem for problem in problems if problem]


def is_slow(name: str) -> bool:
    return any("slow" in block.notes for block in RUN[name])


@pytest.mark.skipif(compiled.status() != "compiled", reason="minutes without a compiler")
@pytest.mark.parametrize("name", [name for name in NAMES if RUN[name]])
def test_commands_run_as_written(name: str, tmp_path: Path) -> None:
    problems = problems_of(RUN[name], tmp_path, slow=False)
    assert not problems, "\n\n".join(problems)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if is_slow(name)])
def test_slow_commands_run_as_written(name: str, tmp_path: Path) -> None:
    problems = problems_of(RUN[name], tmp_path, slow=True)
    assert not problems, "\n\n".join(problems)


@pytest.mark.parametrize("block", LEFT_OUT, ids=lambda block: block.place)
def test_what_is_not_run_says_why(block: Block) -> None:
    pytest.skip(block.notes["not run"])


@pytest.mark.parametrize("name", [name for name in NAMES if ">>>" in (ROOT / name).read_text(encoding="utf-8")])
def test_sessions(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path, ROOT)
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    found = doctest.testfile(str(ROOT / name), module_relative=False, encoding="utf-8", optionflags=doctest.ELLIPSIS)
    plt.close("all")
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    missing = [target for target in targets
               if target and "://" not in target and not (ROOT / name).parent.joinpath(target).exists()]
    assert not missing


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_a_wrong_document_is_noticed(tmp_path: Path) -> None:
    """The runner itself: a failing command, an exit code, output that is not there, files, continued lines."""
    document = tmp_path / "wrong.md"
    document.write_text(
        "    . .venv/bin/activate\n    false\n\n<!-- exit 3 -->\n```sh\nexit 3\n```\n\n"
        "<!-- file: a.txt -->\n```\nseven 7 and more\n```\n\n"
        "```console\n$ cat \\\n    a.txt\nseven … more\n$ cat a.txt\neight\n```\n\n"
        "<!-- not run: a reason -->\n    make coffee\n\n    │ a picture\n",
        encoding="utf-8",
    )
    found = [block for block in blocks(document, "wrong.md") if block.runs or "file" in block.notes]
    (tmp_path / "folder").mkdir()
    problems = problems_of(found, tmp_path / "folder", slow=False)
    assert [block.kind for block in found] == ["sh", "sh", "", "console", "sh"]
    assert len(problems) == 2
    assert "wrong.md:1: " in problems[0] and "ended with 1" in problems[0]
    assert 'did not print "eight"' in problems[1] and "cat a.txt" in problems[1]
