"""``--fail-if``: bounds on what may change, for continuous integration."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ..errors import ConfigError
from .measures import Measure, find_measure

_FORM = re.compile(r"\s*([a-z0-9_]+)\s*([<>])\s*([+-]?)\s*([0-9.]+)\s*(%|[A-Za-z]*)\s*")


@dataclass(frozen=True, slots=True)
class Gate:
    """
    One condition under which a comparison fails.

    ``waste_pct>+2%`` is about the change, relative to A; ``failures>+0`` about the change itself; ``hit_pct<95``,
    without a sign, about B alone.
    """

    text: str
    measure: Measure
    above: bool
    bound: float
    of_change: bool
    relative: bool

    def broken(self, a: float, b: float) -> bool:
        """Whether the condition holds of these two values, so that the comparison fails."""
        if not self.of_change:
            value = b
        elif self.relative:
            value = _relative(a, b)
        else:
            value = b - a
        # What cannot be measured must not pass unnoticed.
        return value != value or (value > self.bound if self.above else value < self.bound)

    def sentence(self, a: float, b: float) -> str:
        """What is said when it fails."""
        show = self.measure.show
        return f"{self.text}: {self.measure.name} was {show(a)} in A and is {show(b)} in B."


def _relative(a: float, b: float) -> float:
    """Change in percent of ``a``; from nothing to something is more than any share of nothing."""
    if a == b:
        return 0.0
    return 100.0 * (b - a) / abs(a) if a else math.copysign(math.inf, b - a)


def parse_gate(text: str) -> Gate:
    """
    Read one condition.

    Raises
    ------
    ConfigError
        It is not one, or there is no such measure.
    """
    where = f'--fail-if "{text}"'
    match = _FORM.fullmatch(text)
    if match is None:
        raise ConfigError(f"{where}: not a condition; expected MEASURE>BOUND or MEASURE<BOUND, "
                          "like waste_pct>+2%, peak_slab_bytes>+1M, failures>+0 or hit_pct<95%.")
    name, sign, plus, number, unit = match.groups()
    measure = find_measure(name, where)
    if unit == "%" and not plus and measure.unit != "%":
        raise ConfigError(f"{where}: {name} is not in percent; write {name}{sign}+{number}% to bound its change.")
    relative = unit == "%" and bool(plus)
    bound = measure.amount(number, "" if relative else unit, where)
    return Gate(text, measure, sign == ">", -bound if plus == "-" else bound, bool(plus), relative)
