"""``report.html`` of a run: for somebody with five minutes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import matplotlib

from . import style, tables
from .frames import RunFrames
from .headline import Card, headline
from .page_parts import Drawn, document, drawn, figure, section, sentence, write_page
from .plots import (
    cache_memory,
    callsite_waste,
    fragmentation,
    free_blocks,
    hit_rates,
    latency,
    lock_waits,
    memory_map,
    percpu_memory,
)
from .tables import esc

FIGURES: tuple[tuple[str, ModuleType], ...] = (
    ("cache_memory", cache_memory),
    ("hit_rates", hit_rates),
    ("latency", latency),
    ("lock_waits", lock_waits),
    ("callsite_waste", callsite_waste),
    ("free_blocks", free_blocks),
    ("fragmentation", fragmentation),
    ("memory_map", memory_map),
    ("percpu_memory", percpu_memory),
)
"""Figures of the report in order: file name under figures/, and module."""


def write_report(run_dir: str | Path, progress: Callable[[str], None] | None = None) -> Path:
    """
    Draw the figures of a run folder and write its page.

    Parameters
    ----------
    run_dir
        A folder that ``memtrace replay`` wrote; report.html and figures/ in it are replaced.
    progress
        Called with the title of each figure before it is drawn.

    Returns
    -------
    Path of report.html.

    Raises
    ------
    MetricsError
        When the folder is not a run, or a table of it is missing or broken. Nothing is written then.
    """
    run = RunFrames(run_dir)
    figures = []
    for name, module in FIGURES:
        if progress is not None:
            progress(module.TITLE)
        with matplotlib.rc_context(style.RC):
            figures.append(drawn(name, module.TITLE, module.sentence(run), module.draw(run)))
    return write_page(run.path, render(run, figures), figures)


def render(run: RunFrames, figures: list[Drawn]) -> str:
    """The page's HTML."""
    return document(_title(run), [
        f"<header><h1>{esc(_title(run))}</h1>{tables.what_ran(run)}</header>",
        _cards(headline(run)),
        *map(figure, figures),
        section("Caches", tables.caches(run)),
        section("Call sites by waste", tables.callsites(run)),
        section("What was left out, inferred or compared", tables.counts(run)),
        section("What this run cannot tell", tables.notes(run)),
        section("What work costs", tables.costs(run)),
        f"<footer>{tables.footer(run)}</footer>",
    ])


def _title(run: RunFrames) -> str:
    trace = run.manifest.get("trace", {})
    name = Path(str(trace.get("path", "") if isinstance(trace, dict) else trace)).name
    return f"memtrace: {style.shorten(style.visible(name), 80)}" if name else "memtrace"


def _cards(cards: list[Card]) -> str:
    inner = "".join(
        f'<div class="card{" warn" if card.warn else ""}"><div class="what">{esc(card.what)}</div>'
        f'<div class="value">{esc(card.value)}</div><div class="more">{sentence(card.more)}</div></div>'
        for card in cards)
    return f'<section class="cards" aria-label="The numbers that matter">{inner}</section>'
