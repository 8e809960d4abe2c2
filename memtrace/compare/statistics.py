"""When a difference is called one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Sample:
    """
    The values of one measure in one configuration.

    ``random`` is False when the model leaves nothing to chance there: then the one value is the value, and it has no
    interval. ``paired`` says that the n-th values of two samples belong together (the same recording).
    """

    values: tuple[float, ...]
    random: bool
    paired: bool = False

    @property
    def mean(self) -> float:
        return float(np.mean(self.values)) if self.values else math.nan

    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean by Student's t; None where there is none to tell."""
        if len(self.values) < 2 or not (self.random or self.paired):
            return None
        from scipy import stats

        half = stats.t.ppf((1 + CONFIDENCE) / 2, len(self.values) - 1) * stats.sem(self.values)
        return (self.mean - float(half), self.mean + float(half))


def p_value(a: Sample, b: Sample) -> float | None:
    """
    Probability of a difference of means at least as large if there were none.

    Paired t-test for pooled recordings, Welch's otherwise; against a value without randomness Student's of one
    sample. 0 when nothing is random: such a difference comes again each time. None when it cannot be told: one
    replication only.
    """
    x, y = np.asarray(a.values), np.asarray(b.values)
    if not (a.random or b.random or a.paired):
        return 0.0
    from scipy import stats  # here, since it takes longer to load than small studies to judge

    if a.paired and b.paired:
        if len(x) != len(y) or len(x) < 2:
            return None
        apart = x - y
        if np.ptp(apart) == 0:
            return 0.0 if apart[0] else 1.0
        return float(stats.ttest_rel(x, y).pvalue)
    if (a.random and len(x) < 2) or (b.random and len(y) < 2):
        return None
    if np.ptp(x) == 0 and np.ptp(y) == 0:
        return 1.0 if x[0] == y[0] else 0.0
    if not b.random:
        return float(stats.ttest_1samp(x, y[0]).pvalue)
    if not a.random:
        return float(stats.ttest_1samp(y, x[0]).pvalue)
    return float(stats.ttest_ind(x, y, equal_var=False).pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction for asking several questions at once; what cannot be told stays so and is not counted."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    out: list[float | None] = [None] * len(p_values)
    worst = 0.0
    for rank, (p, i) in enumerate(known):
        worst = max(worst, min(1.0, p * (len(known) - rank)))
        out[i] = worst
    return out
