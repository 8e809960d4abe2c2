"""Progress bars: on a terminal or in a Jupyter notebook, only for work that takes longer than a second."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

WAIT_S = 1.0
"""Nothing is shown before; short work should not flicker."""
EVERY_S = 0.1
WIDTH = 30

Told = Callable[[str, int, int], None]
"""Called with (what is being done, how much of it is done, how much there is)."""


class Screen(Protocol):
    """Where a bar is shown: one line, written over again and again."""

    shown: bool

    def write(self, line: str) -> None:
        """Show this line in the place of the last one."""

    def wipe(self) -> None:
        """Take the line away."""


class Terminal:
    """The last line of a terminal; a stream that is none shows nothing."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self.shown = self._stream.isatty()

    def write(self, line: str) -> None:
        self._stream.write(f"\r{line}\x1b[K")
        self._stream.flush()

    def wipe(self) -> None:
        self._stream.write("\r\x1b[K")
        self._stream.flush()


class Notebook:
    """An output of the running cell."""

    shown = True

    def __init__(self) -> None:
        self._output: Any = None

    def write(self, line: str) -> None:
        from IPython.display import display

        content = {"text/plain": line, "text/html": f"<pre>{html.escape(line)}</pre>"}
        if self._output is None:
            self._output = display(content, raw=True, display_id=True)
        else:
            self._output.update(content, raw=True)

    def wipe(self) -> None:
        if self._output is not None:
            self._output.update({"text/plain": "", "text/html": ""}, raw=True)


class Progress:
    """
    One bar, as a context manager; the object itself is the callback that libraries call.

    Parameters
    ----------
    label
        What is being done: ``reading``, ``replaying``.
    total
        How much there is, 0 when unknown; a second argument of the callback overrides it.
    unit
        Of what: ``rows``, ``B``.
    screen
        Where to; standard error when not given.

    Examples
    --------
    >>> with Progress("reading", unit="B") as progress:  # doctest: +SKIP
    ...     reader = open_trace(path, progress=progress)
    """

    def __init__(self, label: str, total: int = 0, unit: str = "rows", screen: Screen | None = None) -> None:
        self._label = label
        self._total = total
        self._unit = unit
        self._screen = screen if screen is not None else Terminal()
        self._start = time.monotonic()
        self._next = self._start + WAIT_S
        self._drawn = False

    def __call__(self, done: int, total: int | None = None) -> None:
        """``done`` of ``total`` so far."""
        if not self._screen.shown:
            return
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + EVERY_S
        self._drawn = True
        self._screen.write(self.line(done, self._total if total is None else total, now - self._start))

    def line(self, done: int, total: int, seconds: float) -> str:
        """The bar as text, or only what is done when the total is unknown."""
        rate = _short(done / seconds if seconds > 0 else 0)
        said = f"{_short(done)}{self._unit if self._unit == 'B' else ' ' + self._unit}, {rate}/s"
        if total <= 0:
            return f"{self._label}: {said}"
        share = min(done / total, 1.0)
        bar = "#" * int(share * WIDTH)
        left = seconds / share - seconds if share > 0 else 0.0
        return f"{self._label} [{bar:<{WIDTH}}] {share:4.0%}  {said}, {left:.0f} s left"

    def close(self) -> None:
        """Takes the bar away."""
        if self._drawn:
            self._screen.wipe()
            self._drawn = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Stages:
    """
    Bars for work of several stages, one at a time; the object is the callback.

    Parameters
    ----------
    unit
        Of what there is, in every stage.
    screen
        Where to; standard error when not given.
    """

    def __init__(self, unit: str = "rows", screen: Screen | None = None) -> None:
        self._unit, self._screen = unit, screen
        self._doing = ""
        self._bar: Progress | None = None

    def __call__(self, doing: str, done: int, total: int) -> None:
        """``done`` of ``total`` in the stage that is called ``doing``."""
        if self._bar is None or doing != self._doing:
            self.close()
            self._doing, self._bar = doing, Progress(doing, unit=self._unit, screen=self._screen)
        self._bar(done, total)

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Stages:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def in_notebook() -> bool:
    """Whether this process is the kernel of a Jupyter notebook."""
    # Whoever is in a notebook has imported IPython already.
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_ipython is not None and getattr(get_ipython(), "kernel", None) is not None


def silent(doing: str, done: int, total: int) -> None:
    """Tells nobody."""


@contextmanager
def told(progress: Told | None, unit: str = "rows") -> Iterator[Told]:
    """Whom to tell of progress: ``progress``; without one a bar in a notebook, and elsewhere nobody."""
    if progress is not None:
        yield progress
    elif in_notebook():
        with Stages(unit, Notebook()) as stages:
            yield stages
    else:
        yield silent


def _short(number: float) -> str:
    for unit in ("", "k", "M"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}G"
