"""What follows from a study, in plain sentences, each short."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ..report.wording import shorten
from .effect import Least
from .grid import Grid
from .verdict import CLEAR, Winner

VERDICTS = {"exact": "exact", "significant": "significant", "small": "too small to count", "none": "no difference",
            "untested": "too few replications"}
CIRCUMSTANCES_PRINTED = 6
NAMED = 3
"""Choices with equal values that are named one by one."""


def findings(found: Sequence[Winner]) -> list[str]:
    """What follows: first what holds under all circumstances, then, of each, what does not."""
    where = list(dict.fromkeys(winner.circumstance for winner in found))
    if not found:
        return ["There is nothing to compare: no two choices have a measure in common."]
    out, settled = [], set()
    if len(where) > 1:
        everywhere = _agreed(found, where)
        settled = {winner.measure.name for winner in everywhere}
        out += _about(f"Under {'both' if len(where) == 2 else f'all {len(where)}'} circumstances", everywhere)
    for circumstance in where:
        out += _about(f"On {circumstance}", [winner for winner in found if winner.circumstance == circumstance
                                             and winner.measure.name not in settled])
    return out


def _agreed(found: Sequence[Winner], where: Sequence[str]) -> list[Winner]:
    """Of each measure with the same outcome under all circumstances, the first."""
    out: dict[str, list[Winner]] = {}
    for winner in found:
        out.setdefault(winner.measure.name, []).append(winner)
    return [same[0] for same in out.values() if len(same) == len(where) and len({_outcome(w) for w in same}) == 1]


def _outcome(winner: Winner) -> tuple[str, ...]:
    if winner.verdict in CLEAR:
        return (winner.best, *winner.also)
    return ("", "untested" if winner.verdict == "untested" else "none")


def _about(where: str, found: Sequence[Winner]) -> list[str]:
    """A sentence for each choice that is best in something, and one for what has no winner."""
    won: dict[tuple[str, ...], list[str]] = {}
    for winner in found:
        won.setdefault(_outcome(winner), []).append(winner.measure.title.lower())
    equal, untested = won.pop(("", "none"), []), won.pop(("", "untested"), [])
    out = [f"{where}, {together(names)} {'are' if len(names) > 1 else 'is'} best in {_list(what)}."
           for names, what in won.items()]
    if equal:
        out.append(f"{where}, the best two do not differ enough to tell in {_list(equal)}.")
    if untested:
        out.append(f"{where}, there are too few replications to tell in {_list(untested)}.")
    return out


def best_of(winner: Winner) -> str:
    """Who is best, with those of equal values; empty where nobody is."""
    return together((winner.best, *winner.also)) if winner.verdict in CLEAR else ""


def together(names: Sequence[str]) -> str:
    """``slab``, ``slab and slob``, or ``slab and 5 others``."""
    if len(names) <= NAMED:
        return _list(names)
    return f"{names[0]} and {len(names) - 1} others"


def margin(winner: Winner) -> str:
    """``2.4 % less``, ``4.9 points more``; – where the second is 0 and so nothing is a share of it."""
    word = "less" if winner.measure.better < 0 else "more"
    if winner.measure.unit == "%":
        return f"{abs(winner.value - winner.second_value):.2f} points {word}"
    return f"{winner.margin_pct:.1f} % {word}" if winner.margin_pct == winner.margin_pct else "–"


def table_text(found: Sequence[Winner]) -> list[str]:
    """The winners as lines for a terminal, the first circumstances."""
    where = list(dict.fromkeys(winner.circumstance for winner in found))
    lines: list[str] = []
    for circumstance in where[:CIRCUMSTANCES_PRINTED]:
        lines += ([""] if lines else []) + [_row(circumstance, "best", "its value", "next", "margin")]
        for winner in found:
            if winner.circumstance == circumstance:
                show = winner.measure.show
                lines.append(_row(winner.measure.title, best_of(winner) or f"– {VERDICTS[winner.verdict]}",
                                  show(winner.value), show(winner.second_value), margin(winner)))
    left = len(where) - CIRCUMSTANCES_PRINTED
    return [*lines, "", f"{left} more circumstances in the report"] if left > 0 else lines


def _row(what: str, best: str, value: str, other: str, apart: str) -> str:
    return f"  {shorten(what, 34):<34} {shorten(best, 40):<40} {value:>10} {other:>10}  {apart}".rstrip()


def basis(cells: pd.DataFrame, grid: Grid, least: Least) -> list[str]:
    """What the words rest on."""
    if grid.pool_traces:
        how = [f"The {cells['trace'].nunique()} traces are taken as recordings of one workload.",
               "Intervals are of their mean (95 %); differences are tested in pairs, p corrected for all questions at "
               "once (Holm)."]
    elif not len(cells) or not cells["random"].any():
        how = ["Nothing here is left to chance: another replay gives the same numbers, so there are neither "
               "replications nor intervals.",
               "Differences are exact for these traces, and say nothing about others."]
    else:
        how = [f"Replays with chance in them were run with {grid.replications} seeds: 95 % intervals of the mean, "
               "differences tested (Welch), p corrected for all questions at once (Holm)."]
        if not cells["random"].all():
            how.append("Replays without chance were run once: they give the same numbers each time and have no "
                       "interval.")
    return [*how, least.sentence(), "Times are simulated, on costs of which some are assumed."]


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
