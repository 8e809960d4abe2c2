"""
``report.html``: one file, no scripts, no network, for somebody with five minutes.

Everything that comes from the trace goes through ``esc`` (or, inside figures, is drawn as outlines).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import matplotlib

from . import style, tables
from .frames import RunFrames
from .headline import Card, headline
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
    drawn = []
    for name, module in FIGURES:
        if progress is not None:
            progress(module.TITLE)
        with matplotlib.rc_context(style.RC):
            drawn.append((name, module.TITLE, module.sentence(run), style.svg_text(module.draw(run))))
    page = render(run, drawn)
    figures = run.path / "figures"
    figures.mkdir(exist_ok=True)
    for name, _, _, svg in drawn:
        _replace(figures / f"{name}.svg", svg)
    out = run.path / "report.html"
    _replace(out, page)
    return out


def render(run: RunFrames, drawn: list[tuple[str, str, str, str]]) -> str:
    """The page's HTML; ``drawn`` holds name, title, sentence and SVG document of each figure."""
    parts = [
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        # Whatever the trace holds: nothing on this page may run or be fetched.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src \'unsafe-inline\'; '
        'img-src data:">',
        f"<title>{esc(_title(run))}</title><style>{CSS}</style></head><body><main>",
        f"<header><h1>{esc(_title(run))}</h1>{tables.what_ran(run)}</header>",
        _cards(headline(run)),
        "".join(_figure(*figure) for figure in drawn),
        _section("Caches", tables.caches(run)),
        _section("Call sites by waste", tables.callsites(run)),
        _section("What was left out, inferred or compared", tables.counts(run)),
        _section("What this run cannot tell", tables.notes(run)),
        _section("What work costs", tables.costs(run)),
        f"<footer>{tables.footer(run)}</footer></main></body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _title(run: RunFrames) -> str:
    trace = run.manifest.get("trace", {})
    name = Path(str(trace.get("path", "") if isinstance(trace, dict) else trace)).name
    return f"memtrace: {style.shorten(style.visible(name), 80)}" if name else "memtrace"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{esc(title)}</h2>{body}</section>" if body else ""


def _cards(cards: list[Card]) -> str:
    inner = "".join(
        f'<div class="card{" warn" if card.warn else ""}"><div class="what">{esc(card.what)}</div>'
        f'<div class="value">{esc(card.value)}</div><div class="more">{_text(card.more)}</div></div>' for card in cards)
    return f'<section class="cards" aria-label="The numbers that matter">{inner}</section>'


def _text(text: str) -> str:
    """Escaped, with no line broken between a number and its percent sign."""
    return esc(text).replace(" %", "&nbsp;%")


def _figure(name: str, title: str, sentence: str, svg: str) -> str:
    shown = _text(sentence)
    picture = style.inline_svg(svg, name, esc(title))
    return (f'<section><h2>{esc(title)}</h2><figure><div class="picture">{picture}</div>'
            f"<figcaption>{shown}</figcaption></figure></section>")


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all; its bytes never depend on the platform's line ends."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(text.encode("utf-8", "backslashreplace"))
    os.replace(part, path)


CSS = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#57606a;--grid:#d0d4d9;--page:#f4f6f8;--card:#ffffff;
--line:#dfe3e7;--accent:#0072b2;--warn:#b45309}
@media (prefers-color-scheme:dark){:root{--ink:#e4e7eb;--soft:#a3abb5;--grid:#3d444d;--page:#12161b;--card:#1c2128;
--line:#343b44;--accent:#56b4e9;--warn:#e69f00}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Noto Sans",sans-serif}
main{max-width:1040px;margin:0 auto;padding:20px 16px 48px}
h1{font-size:1.5rem;line-height:1.25;margin:.4em 0 .5em;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:0 0 .6em;break-after:avoid}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:16px 20px;margin:0 0 18px}
header{margin-bottom:18px}
dl.facts{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;margin:0}
dl.facts dt{color:var(--soft)}dl.facts dd{margin:0;overflow-wrap:anywhere}
section.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(270px,1fr));gap:12px;padding:0;border:0;
background:none}
.card{background:var(--card);border:1px solid var(--line);border-top:4px solid var(--accent);border-radius:10px;
padding:12px 14px}
.card.warn{border-top-color:var(--warn)}
.card .what{font-size:.85rem;color:var(--soft)}
.card .value{font-size:1.6rem;font-weight:650;line-height:1.3;font-variant-numeric:tabular-nums}
.card .more{font-size:.85rem;color:var(--soft);overflow-wrap:anywhere}
figure{margin:0}
.picture{overflow-x:auto}
.picture svg{display:block;width:100%;min-width:620px;height:auto}
figcaption{margin-top:10px;overflow-wrap:anywhere}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.875rem}
th,td{padding:4px 10px 4px 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:600}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}td.n{white-space:nowrap}
td.name{white-space:nowrap;font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
td.long{white-space:normal;overflow-wrap:anywhere;min-width:18em}
.soft,p.under{color:var(--soft)}p.under{margin:.6em 0 0;font-size:.875rem}
.mark{color:var(--warn);font-weight:600;white-space:nowrap}
ul{margin:0;padding-left:1.2em}li{overflow-wrap:anywhere}
footer{color:var(--soft);font-size:.85rem;overflow-wrap:anywhere}
@media (max-width:560px){dl.facts{grid-template-columns:1fr}dl.facts dt{margin-top:.4em}section{padding:14px}}
@media print{:root{--ink:#000;--soft:#444;--grid:#ccc;--page:#fff;--card:#fff;--line:#ccc}
body{font-size:11pt}main{max-width:none;padding:0}section{break-inside:avoid;border:0;padding:4px 0}
section:has(table){break-inside:auto}tr{break-inside:avoid}section.cards{grid-template-columns:repeat(3,1fr)}
.card{border:1px solid #ccc}.picture,.scroll{overflow:visible}.picture svg{min-width:0}}
""".replace("\n", "")
