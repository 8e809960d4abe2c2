"""What a study says: configurations against one another, winners with margins, and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from ..report.wording import shorten, visible
from .grid import Grid
from .measures import BY_NAME, MEASURES, Measure
from .places import base_name
from .statistics import Sample, holm, p_value

SIGNIFICANT = 0.05
LEAST_EFFECT_PCT = 1.0
"""Smaller differences are called none: a free-running replay is itself off by up to 1.5 % of a recorded kernel."""
SHOWN = ("peak_used_bytes", "peak_slab_bytes", "waste_pct", "hit_pct", "frag_pct", "alloc_mean_ns", "alloc_p99_ns",
         "free_mean_ns", "busy_ns", "wait_ns", "failures")
"""Measures that have winners; the others follow from these."""
NAME_WIDTH = 40
"""Characters of the name of a trace or a machine in a label."""
_CIRCUMSTANCES = ("trace", "machine", "cpus", "memory")


@dataclass(frozen=True)
class Winner:
    """
    The best choice of one measure under one circumstance.

    ``verdict`` is ``exact`` (nothing is random, and it is better by the least effect), ``significant``, ``none`` (no
    difference shown, or a smaller one than the least effect) or ``untested`` (too few replications). ``p`` is corrected
    for the number of questions the study asks. ``margin_pct`` is of the second's value; nan when that is 0.
    """

    circumstance: str
    measure: Measure
    best: str
    second: str
    value: float
    second_value: float
    margin_pct: float
    p: float | None
    verdict: str


def roles(grid: Grid) -> tuple[list[str], list[str]]:
    """
    Axes that are circumstances, and axes that are choices.

    The traces, and what machine there is, are circumstances, as long as anything else is varied; a study of nothing but
    machines chooses among machines. Pooled traces are neither.
    """
    varied = [axis for axis in grid.varied() if axis != "trace" or not grid.pool_traces]
    choices = [axis for axis in varied if axis not in _CIRCUMSTANCES]
    if not choices:
        choices = [axis for axis in varied if axis != "trace"]
    if not choices:
        choices = varied
    return [axis for axis in varied if axis not in choices], choices


def labels(frame: pd.DataFrame, axes: Sequence[str], otherwise: str) -> pd.Series:
    """How the values of some axes are called, row by row."""
    if not axes:
        return pd.Series(otherwise, index=frame.index, dtype=object)
    said = [_said(axis, frame[axis].tolist()) for axis in axes]
    return pd.Series([", ".join(row) for row in zip(*said, strict=True)], index=frame.index, dtype=object)


def _said(axis: str, values: Sequence[Any]) -> list[str]:
    """How the values of one axis are called: values that differ differ in name."""
    names = _told_apart([str(value) for value in values if not _missing(value)]) if axis in ("trace", "machine") else {}

    def say(value: Any) -> str:
        if _missing(value):
            return f"{axis} as recorded"
        if axis == "cpus":
            return f"{int(value)} CPU{'' if int(value) == 1 else 's'}"
        if axis == "kernel":
            return f"kernel {value}"
        if axis in ("allocator", "memory"):
            return str(value)
        return names[str(value)] if names else f"{axis.partition('.')[2] or axis}={value}"

    return [say(value) for value in values]


def _missing(value: Any) -> bool:
    return value is None or value != value


def _told_apart(paths: Sequence[str]) -> dict[str, str]:
    """By path or address its last part, or as many last parts as tell all of them apart."""
    known = list(dict.fromkeys(paths))
    for parts in range(1, 1 + max((len(PurePosixPath(path).parts) for path in known), default=0)):
        names = {path: shorten(visible("/".join(PurePosixPath(path).parts[-parts:])), NAME_WIDTH) for path in known}
        if len(set(names.values())) == len(known):
            return names
    return {path: f"{shorten(visible(base_name(path)), NAME_WIDTH)} ({at})" for at, path in enumerate(known, 1)}


def samples(cells: pd.DataFrame, measure: str, pooled: bool) -> dict[tuple[str, str], Sample]:
    """By (circumstance, choice) the values of a measure; what has no value is left out."""
    out: dict[tuple[str, str], Sample] = {}
    known = cells[cells[measure].notna()]
    for (circumstance, choice), part in known.groupby(["circumstance", "choice"], sort=False):
        values = part.groupby("trace", sort=True)[measure].mean() if pooled else part.sort_values("seed")[measure]
        out[circumstance, choice] = Sample(tuple(map(float, values)), bool(part["random"].any()), pooled)
    return out


def winners(cells: pd.DataFrame, grid: Grid, least_effect_pct: float = LEAST_EFFECT_PCT) -> list[Winner]:
    """The best of each measure under each circumstance, against the second best."""
    found: list[tuple[str, Measure, str, Sample, str, Sample]] = []
    for name in SHOWN:
        measure = BY_NAME[name]
        by = samples(cells, name, grid.pool_traces)
        for circumstance in dict.fromkeys(key[0] for key in by):
            ranked = sorted(((choice, sample) for (where, choice), sample in by.items() if where == circumstance),
                            key=lambda item: -measure.better * item[1].mean)
            if len(ranked) > 1 and any(sample.mean for _, sample in ranked):
                found.append((circumstance, measure, *_best_two(ranked)))
    corrected = holm([p_value(best, second) for _, _, _, best, _, second in found])
    out = []
    for (circumstance, measure, choice, best, other, second), p in zip(found, corrected, strict=True):
        apart = abs(best.mean - second.mean)
        margin = 100.0 * apart / abs(second.mean) if second.mean else float("nan")
        larger = max(abs(best.mean), abs(second.mean))
        exact = not (best.random or second.random or best.paired)
        if not apart or 100.0 * apart < least_effect_pct * larger:
            verdict = "none"
        elif exact:
            verdict = "exact"
        else:
            verdict = "untested" if p is None else "significant" if p < SIGNIFICANT else "none"
        out.append(Winner(circumstance, measure, choice, other, best.mean, second.mean, margin, None if exact else p,
                          verdict))
    order = {measure.name: i for i, measure in enumerate(MEASURES)}
    where = {circumstance: i for i, circumstance in enumerate(dict.fromkeys(w.circumstance for w in out))}
    return sorted(out, key=lambda w: (where[w.circumstance], order[w.measure.name]))


def _best_two(ranked: Sequence[tuple[str, Sample]]) -> tuple[str, Sample, str, Sample]:
    """
    The best, and the next that is not the very same.

    Choices with equal values share a place, as where a setting is one that an allocator does not read.
    """
    _, best = ranked[0]
    same = [choice for choice, sample in ranked if sample.values == best.values]
    others = [(choice, sample) for choice, sample in ranked if sample.values != best.values]
    if not others:
        return ranked[0][0], best, *ranked[1]
    name = same[0] if len(same) == 1 else f"{same[0]} (and {len(same) - 1} with equal values)"
    return name, best, *others[0]


def sentences(found: Sequence[Winner], cells: pd.DataFrame, grid: Grid, least_effect_pct: float) -> list[str]:
    """What follows, in plain words."""
    out = []
    for circumstance in dict.fromkeys(winner.circumstance for winner in found):
        here = [winner for winner in found if winner.circumstance == circumstance]
        won: dict[str, list[str]] = {}
        for winner in here:
            if winner.verdict in ("exact", "significant"):
                won.setdefault(winner.best, []).append(f"{winner.measure.title.lower()} ({_margin(winner)})")
        said = [f"{choice} is best in {_list(what)}" for choice, what in won.items()]
        equal = [winner.measure.title.lower() for winner in here if winner.verdict == "none"]
        if equal:
            said.append(f"no difference between the two best was shown in {_list(equal)}")
        untested = [winner.measure.title.lower() for winner in here if winner.verdict == "untested"]
        if untested:
            said.append(f"too few replications to tell in {_list(untested)}")
        out.append(f"On {circumstance}: {'; '.join(said)}." if said else f"On {circumstance}: nothing to tell apart.")
    if not found:
        out.append("There is nothing to compare: no two choices have a measure in common.")
    return [*out, basis(cells, grid, least_effect_pct)]


def _margin(winner: Winner) -> str:
    """``324 KiB, 50.3 % less than slab``."""
    measure = winner.measure
    if winner.margin_pct != winner.margin_pct:
        return f"{measure.show(winner.value)} against {measure.show(winner.second_value)} with {winner.second}"
    word = "less" if measure.better < 0 else "more"
    return f"{measure.show(winner.value)}, {winner.margin_pct:.1f} % {word} than {winner.second}"


def basis(cells: pd.DataFrame, grid: Grid, least_effect_pct: float) -> str:
    """What the words rest on."""
    small = (f"Differences below {least_effect_pct:g} % are called none. Times are simulated and rest on a table of "
             "costs, part of which is assumed.")
    if grid.pool_traces:
        traces = cells["trace"].nunique()
        return (f"The {traces} traces are taken as recordings of one workload: intervals are of their mean (95 %), "
                f"differences tested pairwise, p corrected for all questions at once (Holm). {small}")
    if not len(cells) or not cells["random"].any():
        return ("Nothing in these cells is left to chance: a replay of them gives the same numbers each time, so they "
                f"have no intervals, and differences are exact for these traces, not for others. {small}")
    some = "" if cells["random"].all() else "Some cells leave nothing to chance and have no interval. "
    return (f"{some}Random cells were run with {grid.replications} seeds: 95 % intervals of the mean, differences "
            f"tested (Welch), p corrected for all questions at once (Holm). {small}")


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
