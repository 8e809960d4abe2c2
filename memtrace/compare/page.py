"""The comparison report: one file, no scripts, no network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import pandas as pd

from .. import __version__
from ..report import style, tables
from ..report.frames import RunFrames
from ..report.page_parts import Drawn, document, drawn, figure, section, write_page
from ..report.tables import esc
from .conclusions import VERDICTS, best_of, findings, margin
from .figures import CHOICES, PANELS, draw_measure, draw_slab_memory
from .folder import CELLS
from .grid import Grid
from .labels import short_names
from .measures import BY_NAME, slab_curve
from .verdict import SHOWN, samples

if TYPE_CHECKING:
    from .study import Study

CELLS_SHOWN = 200


def write_report(study: Study) -> Path:
    """Draw the figures, write DIR/figures/*.svg and DIR/report.html; path of the page."""
    cells = study.measures
    circumstances, choices = list(dict.fromkeys(cells["circumstance"])), list(dict.fromkeys(cells["choice"]))
    figures: list[Drawn] = []
    with matplotlib.rc_context(style.RC):
        left_out = _left_out(circumstances, choices, len(style.OKABE_ITO))
        sentence = f"Pages of all caches, at each sample. {left_out}".strip()
        figures.append(drawn("slab_memory", "Slab memory over time", sentence,
                             draw_slab_memory(curves(study), circumstances, choices)))
        for name in SHOWN:
            measure = BY_NAME[name]
            by = samples(cells, name, study.grid.pool_traces)
            if not by or not any(sample.mean for sample in by.values()):
                continue
            better = "less is better" if measure.better < 0 else "more is better"
            sentence = f"{measure.meaning[:1].upper()}{measure.meaning[1:]}; {better}."
            figures.append(drawn(name, measure.title,
                                 f"{sentence} {_left_out(circumstances, choices, CHOICES)}".strip(),
                                 draw_measure(measure, by, circumstances, choices)))
    return write_page(study.path, render(study, figures), figures)


def curves(study: Study) -> dict[tuple[str, str], pd.Series]:
    """Slab memory over time of the first cell of each circumstance and choice."""
    out: dict[tuple[str, str], pd.Series] = {}
    for row in study.measures.itertuples(index=False):
        if (row.circumstance, row.choice) not in out:
            out[row.circumstance, row.choice] = slab_curve(RunFrames(study.path / CELLS / row.key))
    return out


def _left_out(circumstances: list[str], choices: list[str], lines: int) -> str:
    left = []
    if len(circumstances) > PANELS:
        left.append(f"{len(circumstances) - PANELS} more circumstances")
    if len(choices) > lines:
        left.append(f"{len(choices) - lines} more choices")
    return f"Not drawn: {' and '.join(left)}; the dataset has them." if left else ""


def render(study: Study, figures: list[Drawn]) -> str:
    """The page's HTML."""
    facts = "".join(f"<dt>{esc(what)}</dt><dd>{esc(values)}</dd>" for what, values in _facts(study.grid))
    said = "".join(f"<li>{esc(sentence)}</li>" for sentence in findings(study.winner_list))
    basis = "".join(f'<p class="under">{esc(sentence)}</p>' for sentence in study.basis)
    return document("memtrace: comparison", [
        f"<header><h1>memtrace: comparison of {len(set(study.measures['key']))} replays</h1>"
        f'<dl class="facts">{facts}</dl></header>',
        section("What follows", f"<ul>{said}</ul>{basis}"),
        section("Winners", winner_table(study)),
        *map(figure, figures),
        section("Replays", _cells(study)),
        section("Without a result", _refused(study)),
        f"<footer>{esc(f'memtrace {__version__} · tables: dataset/*.parquet, run folders: cells/')}</footer>",
    ])


def _facts(grid: Grid) -> list[tuple[str, str]]:
    """What was varied, and where replays start."""
    names = {"trace": short_names(grid.traces), "machine": short_names(filter(None, grid.machine))}
    out = [(axis, ", ".join("as recorded" if value is None else names.get(axis, {}).get(value, str(value))
                            for value in grid.axes()[axis])) for axis in grid.varied() or ["trace"]]
    starts = short_names([*grid.starts.values(), *filter(None, [grid.common.get("start")])])
    if grid.starts:
        said = [f"{names['trace'][trace]} at the snapshot {starts[grid.starts[trace]]}" if trace in grid.starts else
                f"{names['trace'][trace]} at a fresh boot" for trace in grid.traces]
        out.append(("start", ", ".join(said)))
    else:
        out.append(("start", f"the snapshot {starts[grid.common['start']]}" if starts else "a fresh boot"))
    return out


def winner_table(study: Study) -> str:
    """The winners with their margins, as HTML: a table for each circumstance."""
    titles = ("measure", "winner", "best value", "next best", "its value", "margin", "verdict")
    rows: dict[str, list[tuple[object, ...]]] = {}
    for w in study.winner_list:
        verdict = VERDICTS[w.verdict] + (f" (p = {w.p:.2g})" if w.p is not None else "")
        rows.setdefault(w.circumstance, []).append((
            w.measure.title, best_of(w) or "–", w.measure.show(w.value), w.second, w.measure.show(w.second_value),
            margin(w), verdict))
    return "".join(f"<h3>{esc(where)}</h3>{tables.table(titles, found, names=(1, 3), words=(0, 6))}"
                   for where, found in rows.items())


def _cells(study: Study) -> str:
    # Cells that are one replay stand in one line.
    frame = study.measures.drop_duplicates(["circumstance", "choice", "key", "seed"])
    shown = [name for name in SHOWN if frame[name].notna().any()]
    seeds = ["seed"] if frame["random"].any() else []
    rows = [(int(row["cell"]), str(row["circumstance"]), str(row["choice"]), *(int(row[name]) for name in seeds),
             *(BY_NAME[name].show(row[name]) for name in shown), str(row["key"]))
            for row in frame.head(CELLS_SHOWN).to_dict("records")]
    left = len(frame) - len(rows)
    more = f'<p class="under">{left:,} more in dataset/measures.parquet.</p>' if left else ""
    titles = (BY_NAME[name].title.lower() for name in shown)
    return tables.table(("cell", "circumstance", "choice", *seeds, *titles, "folder"), rows,
                        names=(1, 2, 3 + len(seeds) + len(shown))) + more


def _refused(study: Study) -> str:
    if not study.refused:
        return ""
    return tables.table(("cell", "why"), [(r.cell, r.message) for r in study.refused], names=(0,), words=(1,))
