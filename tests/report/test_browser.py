"""Pages in a real browser: no request, nothing on the console, and whatever names say is shown as text."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browser import CHROMIUM, Opened, open_page

import memtrace
from memtrace.compare.labels import short_names
from memtrace.compare.study import compare
from memtrace.report import page, style

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine to open pages in")

NAMES = (
    "<script>alert(1)</script>",
    "",
    "x" * 5000,
    "кэш-缓存-🐧-e\u0301\u0323",
    "\u202eevil\u202c",
    "شبكة",
    "a\x00b\x1b[31mc\nd",
    "$x_1$ & \"q\" 'r'",
    "--><!--",
    "</title></svg></style>",
    "<img src=http://example.com/x onerror=alert(1)>",
)
PLAIN = {
    "html", "head", "meta", "title", "style", "body", "main", "header", "footer", "section", "h1", "h2", "h3",
    "dl", "dt", "dd", "div", "figure", "figcaption", "table", "thead", "tbody", "tr", "th", "td", "p", "ul", "li",
    "span", "bdi", "b", "br", "code",
    "svg", "g", "defs", "path", "rect", "use", "clippath", "image", "pattern", "lineargradient",
}
"""Elements that our pages are made of."""


@pytest.fixture
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Opened]]:
    """Open a page, and hold it to what holds for every page."""

    def get(path: Path) -> Opened:
        seen = open_page(path, tmp_path_factory.mktemp("browser"))
        assert seen.console == []
        assert seen.requests == []
        assert not seen.dom.handlers
        assert all(url.startswith("data:image/png;base64,") for url in seen.dom.fetched)
        assert seen.dom.tags <= PLAIN, f"elements out of a name: {seen.dom.tags - PLAIN}"
        return seen

    yield get


def shown(name: str, width: int = 64) -> str:
    """How a name stands on the pages: what cannot be seen spelled out, long ones cut in the middle."""
    return style.shorten(style.visible(name), width)


def file_name(name: str) -> str:
    """The nearest to ``name`` that a file can be called."""
    return name.replace("/", "∕").replace("\0", "␀")[:200]


def in_notebook(folder: Path, html: str) -> Path:
    """A page around what a notebook shows of an object: a notebook has no policy against scripts."""
    place = folder / "cell.html"
    place.write_text(f'<!DOCTYPE html><html><head><meta charset="utf-8"></head><body>{html}</body></html>',
                     encoding="utf-8")
    return place


def write_trace(path: Path) -> Path:
    """A trace in which everything that has a name has each of NAMES."""
    rows: list[dict[str, Any]] = []
    for at, name in enumerate(NAMES):
        for turn in range(30):
            ptr = 0x1000_0000 + ((at * 30 + turn) << 8)
            rows.append({"event": "kmem_cache_alloc", "ptr": ptr, "name": name, "call_site": name, "bytes_req": 100,
                         "bytes_alloc": 128, "gfp_flags": name if turn == 29 else "GFP_KERNEL"})
            rows.append({"event": "kmalloc", "ptr": ptr + 8, "call_site": name, "bytes_req": 65})
        rows.append({"event": "marker", "text": name})
        rows.append({"event": f"event {name}", "text": name})
    columns = {"ts_ns": pa.array(range(0, 1000 * len(rows), 1000), pa.int64()),
               "cpu": pa.array([at % 2 for at in range(len(rows))], pa.int16()),
               "task": pa.array([at % 7 for at in range(len(rows))], pa.int32())}
    for key, kind in (("event", pa.string()), ("ptr", pa.uint64()), ("name", pa.string()), ("call_site", pa.string()),
                      ("bytes_req", pa.int64()), ("bytes_alloc", pa.int64()), ("gfp_flags", pa.string()),
                      ("text", pa.string())):
        columns[key] = pa.array([row.get(key) for row in rows], kind)
    pq.write_table(pa.table(columns), path)
    return path


def test_the_browser_would_tell(tmp_path: Path) -> None:
    """The tests below can fail: a page that asks, complains and runs something is seen to."""
    bad = tmp_path / "bad.html"
    bad.write_text("<html><head></head><body><img src='http://example.com/x.png'><script>document.body.append("
                   "document.createElement('hr')); console.warn('seen')</script></body></html>", encoding="utf-8")
    seen = open_page(bad, tmp_path / "one")
    assert seen.requests == ["http://example.com/x.png"]
    assert len(seen.console) == 1 and "seen" in seen.console[0]
    assert {"hr", "script"} <= seen.dom.tags
    refused = bad.read_text(encoding="utf-8").replace(
        "<head>", "<head><meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'\">")
    bad.write_text(refused, encoding="utf-8")
    seen = open_page(bad, tmp_path / "two")
    assert seen.requests == [] and len(seen.console) == 2, "what the policy refuses is complained of"


@pytest.mark.parametrize("shape", ["tiny", "hostile"])
def test_a_made_up_report(
    folder_of: Callable[[str], Path], synthetic: Any, tmp_path: Path, opened: Callable[[Path], Opened], shape: str
) -> None:
    folder = tmp_path / shape
    shutil.copytree(folder_of(shape), folder)
    seen = opened(page.write_report(folder))
    assert seen.html.count("<figure>") == len(page.FIGURES)
    if shape == "hostile":
        # Of 300 caches and 412 call sites the first are in the tables; each of these names is large enough.
        assert sum(shown(name) in seen.dom.text for name in synthetic.HOSTILE_NAMES) > len(synthetic.HOSTILE_NAMES) / 2


def test_a_replay_of_hostile_names(tmp_path: Path, opened: Callable[[Path], Opened]) -> None:
    trace = write_trace(tmp_path / f"{file_name(NAMES[0])}.parquet")
    run = memtrace.replay(trace, out=tmp_path / "run", command=["replay", *NAMES])
    seen = opened(run.path / "report.html")
    for name in NAMES:
        assert shown(name) in seen.dom.text
    assert "<script>alert(1)<∕script>.parquet" in seen.dom.text
    assert "<script>alert(1)<∕script>.parquet" in opened(in_notebook(tmp_path, run._repr_html_())).dom.text
    for figure in (run.path / "figures").iterdir():
        assert ElementTree.parse(figure).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        assert "alert(1)" not in figure.read_text(encoding="utf-8"), "names in figures are outlines"


def test_a_comparison_of_hostile_names(tmp_path: Path, opened: Callable[[Path], Opened]) -> None:
    trace = write_trace(tmp_path / "t.parquet")
    traces = [trace]
    for name in NAMES:
        place = tmp_path / f"{file_name(name)}.parquet"
        shutil.copy(trace, place)
        traces.append(place)
    machine = tmp_path / "<b>$m_1$.toml"
    machine.write_text('name = "<i>m</i>"\ncpus = 2\nmemory = "64M"\nnodes = 1\n', encoding="utf-8")
    study = compare(traces, machine=[str(machine), "vm-512m-4cpu"], out=tmp_path / "study")
    seen = opened(study.path / "report.html")
    for name in short_names(map(str, traces)).values():
        assert name in seen.dom.text
    assert "<b>$m_1$.toml" in seen.dom.text

    seen = opened(in_notebook(tmp_path, study._repr_html_()))
    assert shown(traces[1].name, 40) in seen.dom.text and "mathjax_ignore" in seen.html


def test_a_kernel_in_a_notebook(tmp_path: Path, opened: Callable[[Path], Opened]) -> None:
    k = memtrace.Kernel(cpus=1, memory="64M")
    for at, name in enumerate(NAMES):
        # Of sizes that differ: caches of one size become one.
        cache = k.kmem_cache_create(name, 200 + 64 * at)
        k.kmem_cache_alloc(cache)
    seen = opened(in_notebook(tmp_path, k._repr_html_()))
    for name in NAMES:
        assert shown(name) in seen.dom.text
    assert "mathjax_ignore" in seen.html
