"""
What the pages have in common: one HTML file each, no scripts, no network, light or dark, on a screen or on paper.

Everything that comes from a trace goes through ``esc`` (or, inside figures, is drawn as outlines).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from ..files import saying, write_text
from ..metrics.run_folder import FIGURES, REPORT
from . import style
from .tables import esc


@dataclass(frozen=True)
class Drawn:
    """
    A figure with its words.

    ``svg`` is its document; ``blank`` says that it holds no axes, only a sentence about why there is nothing to draw.
    """

    name: str
    title: str
    sentence: str
    svg: str
    blank: bool


def drawn(name: str, title: str, sentence: str, figure: Figure) -> Drawn:
    """Draw a figure; ``name`` becomes its file's name, and sets its ids apart from those of other figures."""
    return Drawn(name, title, sentence, style.svg_text(figure), not figure.axes)


def write_page(folder: Path, page: str, figures: Sequence[Drawn]) -> Path:
    """Write ``folder``/figures/*.svg and then ``folder``/report.html, each whole or not at all; path of the page."""
    pictures = folder / FIGURES
    with saying(pictures):
        pictures.mkdir(exist_ok=True)
        for stale in {path.stem for path in pictures.glob("*.svg")} - {figure.name for figure in figures}:
            (pictures / f"{stale}.svg").unlink()
    for figure in figures:
        write_text(pictures / f"{figure.name}.svg", figure.svg)
    write_text(folder / REPORT, page)
    return folder / REPORT


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page of ``parts``, which are HTML; empty ones are left out."""
    head = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        # Whatever the trace holds: nothing on this page may run or be fetched.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src \'unsafe-inline\'; '
        'img-src data:">',
        f"<title>{esc(title)}</title><style>{CSS}</style></head><body><main>",
    )
    return "\n".join([*head, *(part for part in parts if part), "</main></body></html>\n"])


def section(title: str, body: str) -> str:
    """A part of the page with a heading; nothing when there is nothing in it."""
    return f"<section><h2>{esc(title)}</h2>{body}</section>" if body else ""


def figure(shown: Drawn) -> str:
    """A figure above its sentence, or, where nothing could be drawn, the sentence alone."""
    svg = "" if shown.blank else style.inline_svg(shown.svg, shown.name, esc(shown.title))
    picture = f'<div class="picture">{svg}</div>' if svg else ""
    return section(shown.title, f"<figure>{picture}<figcaption>{sentence(shown.sentence)}</figcaption></figure>")


def sentence(text: str) -> str:
    """Escaped, with no line broken between a number and its percent sign."""
    return esc(text).replace(" %", "&nbsp;%")


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
h3{font-size:.95rem;margin:1em 0 .3em;overflow-wrap:anywhere;break-after:avoid}h2+h3{margin-top:0}
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
@media (max-width:560px){dl.facts{grid-template-columns:1fr}dl.facts dt{margin-top:.4em}section{padding:14px}
td.words{min-width:11em}}
@media print{:root{--ink:#000;--soft:#444;--grid:#ccc;--page:#fff;--card:#fff;--line:#ccc}
body{font-size:11pt}main{max-width:none;padding:0}section{break-inside:avoid;border:0;padding:4px 0}
section:has(table){break-inside:auto}tr{break-inside:avoid}section.cards{grid-template-columns:repeat(3,1fr)}
.card{border:1px solid #ccc}.picture,.scroll{overflow:visible}.picture svg{min-width:0}
table{font-size:7.5pt}td.long{min-width:0}}
""".replace("\n", "")
