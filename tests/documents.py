"""
The blocks of a Markdown document that can be run, and running them.

A block is fenced, or indented by four spaces behind a blank line. ``sh`` fences and indented blocks that begin with a
program's name are commands; in ``console`` fences commands begin with "$ ", and each line below must appear in what
they print, in that order, where "…" stands for anything. ``python`` fences are scripts, unless they hold ">>>". A
comment above a block changes that:

    <!-- not run: needs root -->      the reason, in words
    <!-- slow: replays for a minute -->      only `make test-all` runs it
    <!-- exit 3 -->                   how its last command must end
    <!-- file: study.toml -->         what the block holds is written to that file
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = (".", "cat", "cp", "git", "make", "memtrace", "perf", "pip", "python", "python3", "sudo")
_FENCE = re.compile(r"^```(\w*)\s*$")
_COMMENT = re.compile(r"^<!-- (not run|slow|exit|file):? ?(.+?) -->$")


@dataclass(frozen=True)
class Block:
    """One block: where it begins, what it is ("sh", "console", "python", ...), its lines and the comments above it."""

    document: str
    line: int
    kind: str
    lines: tuple[str, ...]
    notes: dict[str, str]

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"

    @property
    def runs(self) -> bool:
        return self.kind in ("sh", "console") or (self.kind == "python" and ">>>" not in self.text)


def blocks(path: Path, name: str) -> Iterator[Block]:
    """All blocks of a document, in order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    notes: dict[str, str] = {}
    at = 0
    while at < len(lines):
        begin, line = at, lines[at]
        at += 1
        if comment := _COMMENT.match(line):
            notes[comment[1]] = comment[2]
            continue
        if fence := _FENCE.match(line):
            while lines[at] != "```":
                at += 1
            yield Block(name, begin + 1, fence[1], tuple(lines[begin + 1 : at]), notes)
            at += 1
        elif line.startswith("    ") and (begin == 0 or not lines[begin - 1].strip() or notes):
            while at < len(lines) and (lines[at].startswith("    ") or not lines[at].strip()):
                at += 1
            body = tuple(line[4:] for line in lines[begin:at])
            yield Block(name, begin + 1, "sh" if body[0].split()[0] in PROGRAMS else "", body, notes)
        elif not line.strip():
            continue
        notes = {}


def lay_out(folder: Path, root: Path) -> dict[str, str]:
    """
    Make ``folder`` look like the project's after `make venv`; the environment to run commands in.

    `make` only says there whether it knows how to make what it is asked for: an environment and a test run inside the
    test run would show nothing.
    """
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    python = f'"{sys.executable}"'
    calls = {"memtrace": f"{python} -m memtrace", "python": python, "make": f'/usr/bin/make -nC "{root}"'}
    for name, call in calls.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {call} "$@"\n', encoding="utf-8")
        (programs / name).chmod(0o755)
    (programs / "activate").write_text(f'PATH="{programs}:$PATH"\n', encoding="utf-8")
    for name in ("traces", "benchmarks"):
        (folder / name).symlink_to(root / name)
    (folder / "reports").mkdir()
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(paths),
            "MPLBACKEND": "agg"}


def run_block(block: Block, folder: Path, environment: dict[str, str]) -> str:
    """Run a block in ``folder``; "" when it did what the document says, else what was wrong."""
    if block.kind == "python":
        return _run([sys.executable, "-c", block.text], block, folder, environment, ())
    if block.kind == "sh":
        return _run(["bash", "-euc", block.text], block, folder, environment, ())
    for command, printed in _dialogue(block.lines):
        if problem := _run(["bash", "-euc", command], block, folder, environment, printed):
            return problem
    return ""


def _dialogue(lines: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(command, lines below it) of a console block; a line that ends in a backslash goes on."""
    command, printed, open_line = "", [], False
    for line in lines:
        if open_line or line.startswith("$ "):
            if not open_line and command:
                yield command, tuple(printed)
                command, printed = "", []
            command += line.removeprefix("$ ") + "\n"
            open_line = line.endswith("\\")
        elif line.strip():
            printed.append(line)
    yield command, tuple(printed)


def _run(
    call: list[str], block: Block, folder: Path, environment: dict[str, str], printed: tuple[str, ...]
) -> str:
    ended = subprocess.run(
        call, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, encoding="utf-8",
    )
    where = f"{block.place}: {call[-1].strip()}"
    if ended.returncode != int(block.notes.get("exit", "0")):
        return f"{where}\nended with {ended.returncode}:\n{ended.stdout}"
    rest = ended.stdout
    for line in printed:
        found = re.search(re.escape(line.rstrip()).replace("…", ".*"), rest)
        if found is None:
            return f'{where}\ndid not print "{line}" (or not there):\n{ended.stdout}'
        rest = rest[found.end() :]
    return ""
