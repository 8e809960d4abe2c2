"""What a study shows: the best choice of each measure under each circumstance, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from .effect import Least
from .grid import Grid
from .measures import BY_NAME, MEASURES, Measure
from .statistics import Sample, holm, p_value

SIGNIFICANT = 0.05
SHOWN = ("peak_used_bytes", "peak_slab_bytes", "waste_pct", "hit_pct", "frag_pct", "alloc_mean_ns", "alloc_p99_ns",
         "free_mean_ns", "busy_ns", "wait_ns", "failures")
"""Measures that have winners; the others follow from these."""
CLEAR = ("exact", "significant")
"""Verdicts that make a winner."""


@dataclass(frozen=True)
class Winner:
    """
    The best choice of one measure under one circumstance.

    ``also`` are choices with the very same values; ``second`` is the best that differs. ``verdict`` is ``exact``
    (nothing is random, and it is better by enough), ``significant``, ``small`` (a difference too small to count),
    ``none`` (none, or none that was shown) or ``untested`` (too few replications). ``p`` is corrected for the number of
    questions the study asks. ``margin_pct`` is of the second's value; nan when that is 0.
    """

    circumstance: str
    measure: Measure
    best: str
    also: tuple[str, ...]
    second: str
    value: float
    second_value: float
    margin_pct: float
    p: float | None
    verdict: str


@dataclass(frozen=True)
class _Pair:
    """The two best of a measure under a circumstance; ``busy_ns`` is the larger of their times in the allocators."""

    circumstance: str
    measure: Measure
    names: tuple[str, ...]
    best: Sample
    second_name: str
    second: Sample
    busy_ns: float


def samples(cells: pd.DataFrame, measure: str, pooled: bool) -> dict[tuple[str, str], Sample]:
    """By (circumstance, choice) the values of a measure; what has no value is left out."""
    out: dict[tuple[str, str], Sample] = {}
    # Cells that differ only in what their allocator does not look at are one replay, which counts once.
    known = cells[cells[measure].notna()].drop_duplicates(["circumstance", "choice", "trace", "seed"])
    for (circumstance, choice), part in known.groupby(["circumstance", "choice"], sort=False):
        values = part.groupby("trace", sort=True)[measure].mean() if pooled else part.sort_values("seed")[measure]
        out[circumstance, choice] = Sample(tuple(map(float, values)), bool(part["random"].any()), pooled)
    return out


def winners(cells: pd.DataFrame, grid: Grid, least: Least) -> list[Winner]:
    """The best of each measure under each circumstance, against the best that differs."""
    pairs = _pairs(cells, grid)
    corrected = holm([p_value(pair.best, pair.second) for pair in pairs])
    out = [_judged(pair, p, least) for pair, p in zip(pairs, corrected, strict=True)]
    order = {measure.name: i for i, measure in enumerate(MEASURES)}
    where = {circumstance: i for i, circumstance in enumerate(dict.fromkeys(w.circumstance for w in out))}
    return sorted(out, key=lambda w: (where[w.circumstance], order[w.measure.name]))


def _pairs(cells: pd.DataFrame, grid: Grid) -> list[_Pair]:
    found = []
    busy = samples(cells, "busy_ns", grid.pool_traces)
    for name in SHOWN:
        measure = BY_NAME[name]
        by = samples(cells, name, grid.pool_traces)
        for circumstance in dict.fromkeys(key[0] for key in by):
            ranked = sorted(((choice, sample) for (where, choice), sample in by.items() if where == circumstance),
                            key=lambda item: -measure.better * item[1].mean)
            if len(ranked) < 2 or not any(sample.mean for _, sample in ranked):
                continue
            first = ranked[0][1]
            same = tuple(choice for choice, sample in ranked if sample.values == first.values)
            second_name, second = next((item for item in ranked if item[0] not in same), ranked[1])
            at_work = max(busy[circumstance, choice].mean for choice in (same[0], second_name))
            found.append(_Pair(circumstance, measure, same, first, second_name, second, at_work))
    return found


def _judged(pair: _Pair, p: float | None, least: Least) -> Winner:
    best, second = pair.best, pair.second
    exact = not (best.random or second.random or best.paired)
    if best.mean == second.mean:
        verdict = "none"
    elif not least.counts(pair.measure, best.mean, second.mean, pair.busy_ns):
        verdict = "small"
    elif exact:
        verdict = "exact"
    else:
        verdict = "untested" if p is None else "significant" if p < SIGNIFICANT else "none"
    margin = 100.0 * abs(best.mean - second.mean) / abs(second.mean) if second.mean else float("nan")
    return Winner(pair.circumstance, pair.measure, pair.names[0], pair.names[1:], pair.second_name, best.mean,
                  second.mean, margin, None if exact else p, verdict)
