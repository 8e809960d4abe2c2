"""What a workload is: a round that repeats, its parameters, and where it comes from."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from memtrace.errors import ConfigError
from memtrace.units import format_size, parse_size, parse_time

from .tape import Tape

Kind = Literal["count", "percent", "size", "time"]
MAX_PERIOD_NS = 10**15
"""A round of more than eleven days is a mistyped unit, and many of them would not fit into 64 bits."""


@dataclass(frozen=True)
class Parameter:
    """
    One number of a workload that ``--set`` changes.

    Attributes
    ----------
    name
        As given to ``--set name=value``.
    default
        As a user would write it: ``1000``, ``4K``, ``10us``.
    kind
        ``count``; ``percent`` (0 to 100); ``size``, in bytes; ``time``, in nanoseconds.
    meaning
        One line.
    least, most
        The values allowed, in the kind's unit.
    """

    name: str
    default: str
    kind: Kind
    meaning: str
    least: int = 1
    most: int = 1_000_000

    def parse(self, text: str | int) -> int:
        """
        The value as an integer in the kind's unit, from text or from such an integer.

        Raises
        ------
        ConfigError
            When it is no such value, or out of range.
        """
        where = f"--set {self.name}"
        if self.kind == "time":
            value, most = parse_time(text, where), max(self.most, MAX_PERIOD_NS)
        elif self.kind == "size":
            value, most = parse_size(text, where), self.most
        else:
            try:
                value = int(text)
            except ValueError:
                raise ConfigError(f'{where}={text}: not a whole number; expected one, like {self.default}.') from None
            most = 100 if self.kind == "percent" else self.most
        least = 0 if self.kind == "percent" else self.least
        if not least <= value <= most:
            unit = {"time": " ns", "size": " bytes", "percent": " %", "count": ""}[self.kind]
            raise ConfigError(f"{where}={text}: out of range; expected {least:,} to {most:,}{unit}.")
        return value


@dataclass(frozen=True)
class Workload:
    """
    A named workload.

    Attributes
    ----------
    name
        As given to ``memtrace synth``.
    about
        One line: what happens, and what it shows.
    source
        Where the workload comes from.
    parameters
        What ``--set`` changes.
    rows
        Rows that one round adds at most, from the parameters and the number of CPUs.
    period_ns
        From the start of one round to that of the next, likewise.
    play
        Puts some rounds on the tape. Nothing of a round may lie before its start.
    cpus
        When ``--cpus`` is not given.
    """

    name: str
    about: str
    source: str
    parameters: tuple[Parameter, ...]
    rows: Callable[[Mapping[str, int], int], int]
    period_ns: Callable[[Mapping[str, int], int], int]
    play: Callable[[Tape, Rounds], None]
    cpus: int = 4

    def values(self, settings: Mapping[str, str | int]) -> dict[str, int]:
        """
        All parameters by name, the defaults changed by ``settings``.

        Raises
        ------
        ConfigError
            On a parameter that the workload does not have, or a wrong value.
        """
        known = [parameter.name for parameter in self.parameters]
        for name in settings:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known) or 'none'}."
                raise ConfigError(f'--set {name}: workload "{self.name}" has no such parameter; {hint}')
        return {p.name: p.parse(settings.get(p.name, p.default)) for p in self.parameters}


@dataclass(frozen=True)
class Rounds:
    """
    The rounds that a workload is asked to play: ``n`` in a row.

    Attributes
    ----------
    number
        Their numbers, from 0 at the trace's start; int64, shape (n,).
    start_ns
        When each begins; int64, shape (n,).
    total
        Rounds in the whole trace.
    cpus
        CPUs of the machine.
    rng
        The one source of chance.
    values
        Parameters; ``rounds["size"]`` is one of them.
    """

    number: np.ndarray
    start_ns: np.ndarray
    total: int
    cpus: int
    rng: np.random.Generator
    values: Mapping[str, int]

    def __getitem__(self, name: str) -> int:
        return self.values[name]

    def __len__(self) -> int:
        return len(self.number)

    @property
    def cpu(self) -> np.ndarray:
        """Rounds in turn on each CPU; shape (n,)."""
        return self.number % self.cpus

    def times(self, count: int, gap_ns: int, after_ns: int | np.ndarray = 0) -> np.ndarray:
        """
        ``count`` moments in each round, ``gap_ns`` apart.

        Parameters
        ----------
        after_ns
            From the round's start to the first; one number, or one for each round.

        Returns
        -------
        int64, shape (n, count).
        """
        first = self.start_ns + np.asarray(after_ns, np.int64)
        return first[:, None] + np.arange(count, dtype=np.int64) * gap_ns

    def lives(self, mean_ns: int, shape: tuple[int, ...]) -> np.ndarray:
        """Exponential lifetimes, at least 1 ns and at most 20 times their mean; int64."""
        drawn = self.rng.exponential(mean_ns, shape)
        return np.clip(drawn, 1, 20 * mean_ns).astype(np.int64)

    def share(self, percent: int, shape: tuple[int, ...]) -> np.ndarray:
        """True for about that many per cent; bool."""
        return self.rng.random(shape) * 100 < percent

    def pick(self, values: Sequence[int], weights: Sequence[float], shape: tuple[int, ...]) -> np.ndarray:
        """Values drawn with these weights; int64."""
        edges = np.cumsum(weights) / np.sum(weights)
        drawn = np.searchsorted(edges, self.rng.random(shape), side="right")
        return np.asarray(values, np.int64)[np.minimum(drawn, len(values) - 1)]


def describe(workload: Workload, cpus: int) -> list[str]:
    """What ``memtrace synth --list NAME`` prints: the workload, its source and its parameters."""
    values = workload.values({})
    on = f"{cpus} CPU{'s' if cpus > 1 else ''}"
    lines = [f"{workload.name}: {workload.about}", f"source: {workload.source}",
             f"a round has at most {workload.rows(values, cpus):,} rows on {on}"]  # fmt: skip
    width = max((len(p.name) + len(p.default) for p in workload.parameters), default=0) + 1
    for p in workload.parameters:
        bytes_ = f" ({format_size(p.parse(p.default))})" if p.kind == "size" else ""
        per_cent = ", per cent" if p.kind == "percent" else ""
        lines.append(f"  {f'{p.name}={p.default}':<{width}}  {p.meaning}{per_cent}{bytes_}")
    return lines
