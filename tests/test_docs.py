"""The documents' examples do what they say."""

from __future__ import annotations

import doctest
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_by_hand() -> None:
    found = doctest.testfile(str(DOCS / "by-hand.md"), module_relative=False, encoding="utf-8")
    assert found.attempted > 20
    assert found.failed == 0


def test_python(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    matplotlib.use("Agg")
    found = doctest.testfile(str(DOCS / "python.md"), module_relative=False, encoding="utf-8",
                             optionflags=doctest.ELLIPSIS)
    plt.close("all")
    assert found.attempted > 15
    assert found.failed == 0
