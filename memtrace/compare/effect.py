"""How small a difference may be and still count: in percent, and in each measure's own unit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import ConfigError
from ..units import format_size
from .measures import Measure, find_measure

LEAST_PCT = 1.0
"""Of the larger value: a free-running replay is itself off by up to 1.5 % of a recorded kernel."""
LEAST_BYTES = 32 << 10
"""One slab of order 3, the largest usual: a single object more or less may cost or save it."""
LEAST_POINTS = 0.1
"""Of measures that are percentages."""
LEAST_NS = 0.1
"""Of times of one operation, of which each step takes whole nanoseconds in the model."""
LEAST_COUNT = 10
"""Of counts: 3 failures of a million against 2 say nothing."""
LEAST_OF_BUSY = 0.001
"""Of sums of time, as a share of all time in the allocators: to wait 3 µs or 2 µs in a second makes no difference."""
_FORM = re.compile(r"\s*(?:([a-z0-9_]+)\s*=)?\s*([0-9]+(?:\.[0-9]+)?)\s*(%|[A-Za-z]*)\s*")
_SUMS = ("busy_ns", "wait_ns")


@dataclass(frozen=True)
class Least:
    """
    Smallest differences that count.

    Attributes
    ----------
    pct
        Of the larger of two values, in percent.
    by_measure
        In the measure's own unit, where it is not the usual one.
    """

    pct: float = LEAST_PCT
    by_measure: Mapping[str, float] = field(default_factory=dict)

    def counts(self, measure: Measure, a: float, b: float, busy_ns: float) -> bool:
        """Whether two values differ enough; ``busy_ns`` is the time in the allocators, the larger of the two."""
        apart = abs(a - b)
        return apart > 0 and 100.0 * apart >= self.pct * max(abs(a), abs(b)) and apart >= self.of(measure, busy_ns)

    def of(self, measure: Measure, busy_ns: float) -> float:
        """The smallest difference of a measure, in its unit."""
        if measure.name in self.by_measure:
            return self.by_measure[measure.name]
        if measure.name in _SUMS:
            return LEAST_OF_BUSY * busy_ns
        return {"bytes": LEAST_BYTES, "%": LEAST_POINTS, "ns": LEAST_NS}.get(measure.unit, LEAST_COUNT)

    def sentence(self) -> str:
        """What is said about it."""
        usual = (f"{format_size(LEAST_BYTES)}, {LEAST_POINTS:g} percentage points, {LEAST_NS:g} ns an operation, "
                 f"{100 * LEAST_OF_BUSY:g} % of all time in the allocators or {LEAST_COUNT} failures")
        own = "".join(f" Of {name}, {find_measure(name, '').show(value)} is the least."
                      for name, value in self.by_measure.items())
        return f"Differences below {self.pct:g} %, or below {usual}, are too small to count.{own}"


def parse_least(texts: Sequence[str]) -> Least:
    """
    ``2%`` for all measures, ``peak_slab_bytes=64K`` for one, in its unit.

    Raises
    ------
    ConfigError
        It is neither, or there is no such measure.
    """
    pct, by_measure = LEAST_PCT, {}
    for text in texts:
        where = f"--least {text}"
        match = _FORM.fullmatch(text)
        if match is None or (match[1] is None and match[3] != "%"):
            raise ConfigError(f"{where}: not a smallest difference; expected one like 2% or peak_slab_bytes=64K.")
        if match[1] is None:
            pct = float(match[2])
        else:
            measure = find_measure(match[1], where)
            by_measure[measure.name] = measure.amount(match[2], match[3], where)
    return Least(pct, by_measure)
