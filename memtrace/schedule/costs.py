"""
What work costs: one number or two for each cost class of ``mm.paths.COSTS``, each with its source.

A step of class c done n times costs ``fixed_ns[c] + n * per_ns[c]``, rounded half up to a whole ns and at
least 1 ns. Prices are kept in whole picoseconds, so that 5.5 ns is exact and sums do not depend on a
machine's floating point.
"""

from __future__ import annotations

import difflib
import tomllib
from array import array
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..mm.paths import COSTS

PS_PER_NS = 1000
MAX_NS = 1e9
"""No single step is dearer than a second: beyond it a table is a mistake, and sums could overflow."""

_FIELDS = ("fixed_ns", "per_ns", "assumed", "source")


@dataclass(frozen=True, slots=True)
class Cost:
    """Price of one cost class: ``fixed_ns`` once a step and ``per_ns`` for each thing it counts."""

    name: str
    fixed_ns: float
    per_ns: float
    assumed: bool
    source: str


@dataclass(frozen=True, slots=True)
class CostTable:
    """Prices of all cost classes, in the order of ``COSTS``."""

    costs: tuple[Cost, ...]
    path: str

    @classmethod
    def load(cls, path: str | Path | None = None) -> CostTable:
        """
        Read a cost table.

        Parameters
        ----------
        path
            A TOML file with one table a cost class; None means the table that comes with memtrace.

        Raises
        ------
        ConfigError
            When the file cannot be read, names an unknown class or key, lacks one, or holds a bad value.
        """
        place = "memtrace/data/costs.toml" if path is None else str(path)
        try:
            if path is None:
                text = resources.files("memtrace").joinpath("data", "costs.toml").read_text(encoding="utf-8")
            else:
                text = Path(path).read_text(encoding="utf-8")
            tables = tomllib.loads(text)
        except OSError as error:
            raise ConfigError(f"{place}: {error.strerror}; expected a cost table. Give a TOML file's path.") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{place}: not TOML ({error}); expected a cost table. Correct the file.") from None
        for name in tables:
            _refuse_unknown(place, "cost class", name, COSTS)
        missing = [name for name in COSTS if name not in tables]
        if missing:
            raise ConfigError(f"{place}: no table for {', '.join(missing)}; expected one for each cost class. Add it.")
        return cls(tuple(_cost(place, name, tables[name]) for name in COSTS), place)

    @property
    def assumed(self) -> list[str]:
        """Names of the classes whose price no measurement stands behind."""
        return [cost.name for cost in self.costs if cost.assumed]

    def as_rows(self) -> list[dict[str, Any]]:
        """One dict a cost class, for the manifest and the report."""
        return [{name: getattr(cost, name) for name in ("name", *_FIELDS)} for cost in self.costs]

    def step_ns(self, cls: int, count: int) -> int:
        """Cost in ns of one step of class ``cls`` done ``count`` times."""
        cost = self.costs[cls]
        return max(1, (_ps(cost.fixed_ns) + count * _ps(cost.per_ns) + PS_PER_NS // 2) // PS_PER_NS)

    def fixed_ps(self) -> array[int]:
        """``fixed_ns`` by class, in ps, for compiled code."""
        return array("q", [_ps(cost.fixed_ns) for cost in self.costs])

    def per_ps(self) -> array[int]:
        """``per_ns`` by class, in ps, for compiled code."""
        return array("q", [_ps(cost.per_ns) for cost in self.costs])


def _ps(value_ns: float) -> int:
    return round(value_ns * PS_PER_NS)


def _cost(place: str, name: str, table: Any) -> Cost:
    """Check one table of the file."""
    if not isinstance(table, dict):
        raise ConfigError(f"{place}: {name} is {table!r}; expected a table [{name}] with {', '.join(_FIELDS)}.")
    for key in table:
        _refuse_unknown(f"{place}: [{name}]", "key", key, _FIELDS)
    missing = [key for key in ("fixed_ns", "per_ns") if key not in table]
    if missing:
        raise ConfigError(f"{place}: [{name}] has no {' and no '.join(missing)}; expected a number of ns. Add it.")
    for key in ("fixed_ns", "per_ns"):
        value = table[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_NS:
            raise ConfigError(f"{place}: [{name}] {key} = {value!r}; expected 0 to {MAX_NS:.0f} ns. Correct it.")
    source = table.get("source", "")
    if not isinstance(source, str):
        raise ConfigError(f"{place}: [{name}] source = {source!r}; expected a text. Put it in quotes.")
    # A price that nobody can look up is an assumption, whatever the file calls it.
    assumed = table.get("assumed", not source)
    if not isinstance(assumed, bool):
        raise ConfigError(f"{place}: [{name}] assumed = {assumed!r}; expected true or false.")
    return Cost(name, table["fixed_ns"], table["per_ns"], assumed or not source, source)


def _refuse_unknown(place: str, what: str, name: str, known: tuple[str, ...]) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(name, known, 1)
    hint = f'did you mean "{near[0]}"?' if near else f"expected one of {', '.join(known)}."
    raise ConfigError(f'{place}: no {what} "{name}"; {hint}')
