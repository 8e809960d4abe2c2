"""Progress bars: on standard error, only on a terminal, only for work that takes longer than a second."""

from __future__ import annotations

import sys
import time
from typing import TextIO

WAIT_S = 1.0
"""Nothing is shown before; short work should not flicker."""
EVERY_S = 0.1
WIDTH = 30


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
    stream
        Where to; standard error when not given.

    Examples
    --------
    >>> with Progress("reading", unit="B") as progress:  # doctest: +SKIP
    ...     reader = open_trace(path, progress=progress)
    """

    def __init__(self, label: str, total: int = 0, unit: str = "rows", stream: TextIO | None = None) -> None:
        self._label = label
        self._total = total
        self._unit = unit
        self._stream = stream if stream is not None else sys.stderr
        self._shown = self._stream.isatty()
        self._start = time.monotonic()
        self._next = self._start + WAIT_S
        self._drawn = False

    def __call__(self, done: int, total: int | None = None) -> None:
        """``done`` of ``total`` so far."""
        if not self._shown:
            return
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + EVERY_S
        self._drawn = True
        line = self.line(done, self._total if total is None else total, now - self._start)
        self._stream.write(f"\r{line}\x1b[K")
        self._stream.flush()

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
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._drawn = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _short(number: float) -> str:
    for unit in ("", "k", "M"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}G"
