"""Run, as scripts and notebooks see it: every table, every figure on anybody's axes, and nothing unescaped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from memtrace.errors import MetricsError
from memtrace.metrics.schema import TABLES
from memtrace.report import page
from memtrace.report.result import Run
from memtrace.report.run_plots import RunPlots

NAMES = [name for name, _ in page.FIGURES]


@pytest.fixture(autouse=True)
def no_window() -> Iterator[None]:
    """Pyplot without a screen, and no figure left to the next test."""
    matplotlib.use("Agg")
    yield
    plt.close("all")


@pytest.fixture
def run_of(folder_of: Callable[[str], Path]) -> Callable[[str], Run]:
    return lambda shape: Run(folder_of(shape))


def test_every_table_is_a_property(run_of: Callable[[str], Run]) -> None:
    run = run_of("tiny")
    for table in TABLES:
        assert list(getattr(run, table.name).columns) == list(table.names)


def test_a_column_added_to_a_table_is_not_in_the_next(run_of: Callable[[str], Run]) -> None:
    run = run_of("tiny")
    caches = run.caches
    caches["mine"] = 1
    assert "mine" not in run.caches


def test_every_figure_of_the_report_is_a_method() -> None:
    methods = [name for name, value in vars(RunPlots).items() if callable(value) and not name.startswith("_")]
    assert methods == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_figures_on_axes_of_ones_own(any_folder: Path, name: str) -> None:
    # Whoever makes the axes has not switched formulas off, and two figures share one page.
    figure, (left, right) = plt.subplots(1, 2, figsize=(16, 5), layout="constrained")
    right.plot([0, 1], [0, 1], label="mine")
    got = getattr(Run(any_folder).plot, name)(ax=left)
    figure.draw_without_rendering()
    assert got is left
    assert not any(text.get_parse_math() for text in left.get_yticklabels() if "$" in text.get_text())
    assert not figure.legends, "a legend of the figure would be taken for both"
    assert len(right.lines) == 1
    assert plt.get_fignums() == [figure.number]


@pytest.mark.parametrize("name", NAMES)
def test_figures_of_their_own_are_the_reports(run_of: Callable[[str], Run], name: str) -> None:
    run = run_of("normal")
    axes = getattr(run.plot, name)()
    assert plt.get_fignums() == [axes.figure.number], "a notebook shows what pyplot knows"
    drawn = dict(page.FIGURES)[name].draw(run.frames)
    assert np.array_equal(axes.figure.get_size_inches(), drawn.get_size_inches())
    assert [type(artist) for artist in axes.get_children()] == [type(a) for a in drawn.axes[0].get_children()]


def test_top_draws_so_many(run_of: Callable[[str], Run]) -> None:
    plot = run_of("normal").plot
    assert len(plot.callsite_waste(top=3).patches) == 3
    assert len(plot.hit_rates(top=4).get_yticks()) == 4


def test_hit_rate_is_the_sum_of_the_counters(run_of: Callable[[str], Run]) -> None:
    run = run_of("normal")
    rows = run.cpu_caches[run.cpu_caches["t_ns"] == run.cpu_caches["t_ns"].max()]
    cache = str(rows["cache"].iloc[0])
    for cpu in (None, 1):
        for name in (None, cache):
            part = rows if name is None else rows[rows["cache"] == name]
            part = part if cpu is None else part[part["cpu"] == cpu]
            fast = part["alloc_fastpath"].sum() + part["alloc_cpu_sheaf"].sum()
            expected = fast / (fast + part["alloc_slowpath"].sum())
            assert run.hit_rate(name, cpu) == pytest.approx(expected)
    one = run.hit_rates().query("cpu == 1 and cache == @cache").iloc[0]
    assert one["rate"] == pytest.approx(run.hit_rate(cache, 1))


def test_hit_rate_where_there_is_none(run_of: Callable[[str], Run]) -> None:
    assert np.isnan(run_of("empty").hit_rate())
    run = run_of("tiny")
    with pytest.raises(MetricsError, match=r'no cache ".*x"; did you mean'):
        run.hit_rate(str(run.caches["cache"].iloc[0]) + "x")
    with pytest.raises(MetricsError, match="no CPU 99; expected 0 to"):
        run.hit_rate(cpu=99)


def test_summaries_show_names_as_text(any_folder: Path) -> None:
    run = Run(any_folder)
    said = run._repr_html_()
    assert "<script" not in said
    assert "\x00" not in said + repr(run) + str(run.plot) and "\u202e" not in said + repr(run) + str(run.plot)
    for sentence in ("rows", "under SLUB of Linux 6.1", "Fast-path hit rate"):
        assert sentence in said
    assert str(any_folder) in said


def test_show_is_the_kernels_format(run_of: Callable[[str], Run]) -> None:
    run = run_of("normal")
    assert run.show("slabinfo").startswith("slabinfo - version: 2.1\n")
    assert run.show("buddyinfo", at=int(run.buddy["t_ns"].min())) != run.show("buddyinfo")
