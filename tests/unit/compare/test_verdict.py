"""What is called a difference, and in which words."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from memtrace.compare.conclusions import findings, table_text
from memtrace.compare.effect import parse_least
from memtrace.compare.grid import Grid
from memtrace.compare.labels import Labels, short_names
from memtrace.compare.measures import MEASURES
from memtrace.compare.verdict import Winner, winners
from memtrace.errors import ConfigError

GRID = Grid(("a.csv", "b.csv"), ("slub", "slab"))


def judged(*cells: dict[str, Any], least: tuple[str, ...] = ()) -> list[Winner]:
    """Verdicts over cells of which only what matters is given."""
    usual = {"circumstance": "a.csv", "choice": "slub", "trace": "a.csv", "seed": 0, "random": False,
             **{measure.name: 0.0 for measure in MEASURES}, "busy_ns": 1e9}
    return winners(pd.DataFrame([{**usual, **cell} for cell in cells]), GRID, parse_least(least))


@pytest.mark.parametrize(
    ("measure", "a", "b", "verdict"),
    [
        ("failures", 2, 3, "small"),  # a third less, and nothing
        ("failures", 2, 12, "exact"),
        ("peak_slab_bytes", 4 << 10, 12 << 10, "small"),
        ("peak_slab_bytes", 4 << 10, 36 << 10, "exact"),
        ("peak_slab_bytes", 100 << 20, (100 << 20) + (512 << 10), "small"),  # more than a slab, less than 1 %
        ("waste_pct", 0.02, 0.03, "small"),
        ("waste_pct", 2.0, 2.2, "exact"),
        ("alloc_mean_ns", 1.0, 1.05, "small"),
        ("alloc_mean_ns", 10.0, 10.2, "exact"),
        ("wait_ns", 2_000.0, 3_000.0, "small"),  # of a second in the allocators
        ("wait_ns", 2e6, 3.1e6, "exact"),
        ("wait_ns", 2e6, 2e6, "none"),
    ],
)
def test_tiny_differences_are_no_wins_however_large_in_percent(measure: str, a: float, b: float, verdict: str) -> None:
    found = judged({measure: a}, {"choice": "slab", measure: b})
    one = next(winner for winner in found if winner.measure.name == measure)
    assert (one.verdict, one.best) == (verdict, "slub")
    assert (f"best in {one.measure.title.lower()}" in " ".join(findings(found))) == (verdict == "exact")


def test_what_is_too_small_can_be_said() -> None:
    cells = {"peak_slab_bytes": 4096.0}, {"choice": "slab", "peak_slab_bytes": 12288.0}
    assert [w.verdict for w in judged(*cells, least=("peak_slab_bytes=4K",)) if w.measure.unit == "bytes"] == ["exact"]
    assert [w.verdict for w in judged(*cells, least=("peak_slab_bytes=4K", "70%")) if w.measure.unit == "bytes"] == [
        "small"]
    for wrong in ("2", "peak=2", "failures=2K", "wait_ns=2%", "peak_slab_bytes=x"):
        with pytest.raises(ConfigError, match="--least"):
            parse_least([wrong])


def test_small_differences_stay_small_with_any_number_of_seeds() -> None:
    cells = [{"choice": choice, "random": True, "seed": seed, "failures": value + seed / 100}
             for choice, value in (("slub", 2.0), ("slab", 5.0)) for seed in range(5)]
    one = next(winner for winner in judged(*cells) if winner.measure.name == "failures")
    assert one.p is not None and one.p < 1e-6 and one.verdict == "small"


def test_the_outcome_everywhere_is_said_once_and_first() -> None:
    found = judged(*({"circumstance": where, "choice": choice, "trace": where, "hit_pct": hit, "failures": failed}
                     for where, choice, hit, failed in (("a.csv", "slub", 90.0, 0), ("a.csv", "slab", 95.0, 50),
                                                        ("b.csv", "slub", 50.0, 50), ("b.csv", "slab", 60.0, 0))))
    said = findings(found)
    assert said[0] == "Under both circumstances, slab is best in fast-path hit rate."
    assert "On a.csv, slub is best in allocations that failed." in said
    assert "On b.csv, slab is best in allocations that failed." in said
    assert max(map(len, said)) < 160 and max(map(len, table_text(found))) < 120


def test_choices_of_equal_values_win_together() -> None:
    found = judged({"hit_pct": 90.0}, {"choice": "slab", "hit_pct": 90.0}, {"choice": "slob", "hit_pct": 80.0})
    one = next(winner for winner in found if winner.measure.name == "hit_pct")
    assert (one.best, one.also, one.second) == ("slub", ("slab",), "slob")
    assert findings(found)[0] == "On a.csv, slub and slab are best in fast-path hit rate."


def test_no_two_traces_share_a_name() -> None:
    long = "x" * 3000
    paths = ["a/t.parquet", "b/t.parquet", "c/d/t.parquet", "e/d/t.parquet", "<b>", f"{long}1{long}", f"{long}2{long}",
             "\u202e", "\x1b[31m", "s3://bucket/t.parquet", "", "$x_1$"]
    names = short_names(paths)
    assert len(set(names.values())) == len(paths)
    assert names["a/t.parquet"] == "a/t.parquet" and names["e/d/t.parquet"] == "e/d/t.parquet"
    assert all(0 < len(name) <= 50 and name.isprintable() for name in names.values())
    grid = Grid(("a/t.csv", "b/t.csv"), ("slub", "slab"))
    assert len({Labels(grid).circumstance(cell) for cell in grid.cells()}) == 2
