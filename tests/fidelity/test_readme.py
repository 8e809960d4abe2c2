"""The README's fidelity tables are what the recordings give today (``make fidelity RECORDINGS=…`` writes them)."""

from __future__ import annotations

from pathlib import Path

import pytest

from memtrace.fidelity.readme import BEGIN, END, rewritten, tables


@pytest.mark.slow
def test_tables_are_current(ground_truth: Path, root: Path) -> None:
    text = (root / "README.md").read_text(encoding="utf-8")
    assert rewritten(text, tables(ground_truth)) == text


def test_only_what_is_between_the_comments_changes() -> None:
    text = f"a\n{BEGIN}\nold\n{END}\nb\n"
    once = rewritten(text, ["new"])
    assert once == f"a\n{BEGIN}\n\nnew\n\n{END}\nb\n"
    assert rewritten(once, ["new"]) == once
    with pytest.raises(SystemExit, match="expected both"):
        rewritten("no comments", [])
