"""reports/: the page that is kept there is what its command writes, and needs nothing but itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from memtrace.cli.main import cli

PAGE = "three-allocators.html"


def command_of(root: Path) -> list[str]:
    text = (root / "reports" / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^    memtrace (compare .*)$", text, re.M)
    assert found is not None
    return found[1].split()


def outline(page: str) -> tuple[list[str], set[tuple[str, ...]]]:
    """Headings, and which replays the page lists: all that does not change with the model."""
    replays = re.findall(r">(build-and-serve-6\.18\.parquet|hello\.csv)<.{0,80}?>(slub|slab|slob)<", page)
    return re.findall(r"<h2>(.*?)</h2>", page), set(replays)


def test_page_has_every_trace_and_allocator_and_fetches_nothing(root: Path) -> None:
    page = (root / "reports" / PAGE).read_text(encoding="utf-8")
    headings, replays = outline(page)
    assert headings[:2] == ["What follows", "Winners"] and len(headings) > 8
    assert len(replays) == 6
    assert not re.search(r"(src|href)=[\"']?(https?:)?//|<script|@import", page)
    assert "(no name)" not in page


def test_makefile_runs_the_documented_command(root: Path) -> None:
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^reports:.*\n\t\$\(BIN\)/memtrace (.*)\n", makefile, re.M)
    assert recipe is not None
    line = recipe[1]
    for name, value in re.findall(r"^(\w+) := (.*)$", makefile, re.M):
        line = line.replace(f"$({name})", value)
    assert line.split() == command_of(root)


@pytest.mark.slow
def test_page_is_what_the_command_writes(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers follow the model; `make reports` brings them up to date. What is compared must be the same."""
    monkeypatch.chdir(root)
    arguments = [*command_of(root)[:-1], str(tmp_path / "study")]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.exception
    written = (tmp_path / "study" / "report.html").read_text(encoding="utf-8")
    assert outline(written) == outline((root / "reports" / PAGE).read_text(encoding="utf-8"))
