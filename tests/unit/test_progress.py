"""Bars: only where they are seen, only on long work, one at a time, and gone afterwards."""

from __future__ import annotations

import io

import pytest

from memtrace.progress import Progress, Stages, Terminal, silent, told


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock: its only item is the time in seconds."""
    clock = [100.0]
    monkeypatch.setattr("memtrace.progress.time.monotonic", lambda: clock[0])
    return clock


def test_a_bar_waits_draws_and_goes_away(now: list[float]) -> None:
    out = Screen()
    with Progress("reading", 200, "rows", Terminal(out)) as progress:
        progress(10)
        assert out.getvalue() == ""  # nothing within the first second
        now[0] = 102.0
        progress(50)
        assert "reading [#######" in out.getvalue() and " 25%  50 rows, 25/s, 6 s left" in out.getvalue()
    assert out.getvalue().endswith("\r\x1b[K")
    file = io.StringIO()
    with Progress("reading", screen=Terminal(file)) as progress:
        now[0] = 110.0
        progress(50, 100)
    assert file.getvalue() == ""


def test_stages_have_one_bar_at_a_time(now: list[float]) -> None:
    out = Screen()
    with Stages("cells", Terminal(out)) as stages:
        for doing in ("reading", "replaying", "reading"):
            stages(doing, 0, 4)
            now[0] += 2
            stages(doing, 1, 4)
    drawn, wiped = out.getvalue().count("1 cells"), out.getvalue().count("\r\x1b[K")
    assert (drawn, wiped) == (3, 3)


def test_outside_a_notebook_nobody_is_told() -> None:
    with told(None) as tell:
        assert tell is silent
    with told(print) as tell:
        assert tell is print
