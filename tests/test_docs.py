"""The documents' examples do what they say."""

from __future__ import annotations

import doctest
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_by_hand() -> None:
    found = doctest.testfile(str(DOCS / "by-hand.md"), module_relative=False, encoding="utf-8")
    assert found.attempted > 20
    assert found.failed == 0
