"""The page and its figures: true, safe, self-contained, the same every time."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from browser import Reader, read_html
from hypothesis import given
from hypothesis import strategies as st

from memtrace.errors import MetricsError
from memtrace.mm.paths import COSTS, PATHS
from memtrace.report import assumed, page, style, tables
from memtrace.report.frames import RunFrames, df_cache_bytes, df_locks
from memtrace.report.headline import headline
from memtrace.report.plots import hit_rates, latency, lock_waits, memory_map


def read(path: Path) -> Reader:
    return read_html(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def reported(folder_of, tmp_path_factory: pytest.TempPathFactory):
    """Name of a shape -> its run folder with its report, written once; not to be changed."""
    made: dict[str, Path] = {}

    def get(shape: str) -> Path:
        if shape not in made:
            made[shape] = tmp_path_factory.mktemp("reported") / shape
            shutil.copytree(folder_of(shape), made[shape])
            page.write_report(made[shape])
        return made[shape]

    return get


@pytest.fixture
def copy_of(reported, tmp_path: Path):
    """Name of a shape -> a copy of its run folder, with its report written."""

    def get(shape: str) -> Path:
        return Path(shutil.copytree(reported(shape), tmp_path / shape))

    return get


@pytest.mark.parametrize("shape", ["normal", "tiny", "empty", "hostile"])
def test_page_is_whole_and_fetches_nothing(copy_of, shape: str) -> None:
    folder = copy_of(shape)
    reader = read(folder / "report.html")
    assert not {"script", "iframe", "object", "embed", "link", "form", "base"} & reader.tags
    assert not reader.handlers
    assert all(url.startswith("data:image/png;base64,") for url in reader.fetched)
    assert len(reader.ids) == len(set(reader.ids)), "figures share ids"
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(reader.ids)
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(reader.ids)
    assert len(re.findall("<figure>", text)) == len(page.FIGURES)
    assert sorted(path.name for path in (folder / "figures").iterdir()) == sorted(f"{n}.svg" for n, _ in page.FIGURES)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\x00\x1b]", text), "invisible characters of a name"
    for said in ("nan", "None", "inf "):
        assert not re.search(rf"\b{said}\b", reader.text)


def test_same_run_same_bytes(copy_of) -> None:
    folder = copy_of("normal")
    names = [folder / "report.html", *sorted((folder / "figures").iterdir())]
    first = [path.read_bytes() for path in names]
    page.write_report(folder)
    assert [path.read_bytes() for path in names] == first
    assert b"<dc:date>" not in b"".join(first)


def test_a_broken_run_leaves_the_old_report(copy_of) -> None:
    folder = copy_of("tiny")
    before = (folder / "report.html").read_bytes()
    (folder / "metrics" / "locks.parquet").unlink()
    with pytest.raises(MetricsError, match=r"no table metrics/locks\.parquet"):
        page.write_report(folder)
    assert (folder / "report.html").read_bytes() == before


def test_what_ran_is_on_the_page(copy_of) -> None:
    text = read(copy_of("normal") / "report.html").text
    for said in ("qemu-512m", "4 CPUs", "Linux 6.1", "SLUB", "fused engine", "compiled", "1,575,541 rows", "synthetic",
                 "free_of_unknown", "frees of objects that pre-date the trace", "assumed", "<script>alert(1)</script>"):
        assert said in text


@pytest.mark.parametrize("module", [module for _, module in page.FIGURES], ids=[name for name, _ in page.FIGURES])
def test_every_figure_says_one_thing_in_every_run(any_folder: Path, module) -> None:
    run = RunFrames(any_folder)
    sentence = module.sentence(run)
    assert sentence.endswith(".") and sentence[0] == sentence[0].upper()
    assert not re.search(r"\b(nan|inf|None)\b|\{|\}", sentence.replace("{", "", sentence.count("cache_{")))
    with matplotlib.rc_context(style.RC):
        figure = module.draw(run)
        figure.draw_without_rendering()
    assert figure.get_figwidth() == style.WIDTH_IN
    box = figure.get_tightbbox()
    assert box.x0 >= -0.02 and box.x1 <= style.WIDTH_IN + 0.02, "something is clipped"
    assert box.y0 >= -0.02 and box.y1 <= figure.get_figheight() + 0.02


def test_legends_cover_no_data(folder_of) -> None:
    run = RunFrames(folder_of("hostile"))
    for _, module in page.FIGURES:
        with matplotlib.rc_context(style.RC):
            figure = module.draw(run)
            figure.draw_without_rendering()
        for legend in figure.legends:
            for axes in figure.axes:
                assert not legend.get_window_extent().overlaps(axes.get_window_extent())


def test_figures_hold_the_tables_numbers(folder_of) -> None:
    run = RunFrames(folder_of("normal"))
    axes = importlib.import_module("memtrace.report.plots.fragmentation").draw(run).axes[0]
    assert len(axes.lines) == 10
    axes = lock_waits.draw(run).axes[0]
    assert [bar.get_width() for bar in axes.patches] == df_locks(run)["wait_ns"].head(lock_waits.TOP).tolist()
    wide, others = df_cache_bytes(run)
    legend = [text.get_text() for text in page.FIGURES[0][1].draw(run).legends[0].get_texts()]
    assert legend[0] == f"{others} others" and legend[::-1][: 10] == [style.label(name) for name in wide.columns[:10]]


def test_hundreds_of_caches_are_cut_and_counted(folder_of) -> None:
    run = RunFrames(folder_of("hostile"))
    axes = hit_rates.draw(run).axes[0]
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert len(labels) == hit_rates.TOP and max(map(len, labels)) <= 28
    assert f"{300 - hit_rates.TOP} less busy caches" in hit_rates.sentence(run)
    assert len(axes.get_xticks()) <= 32


def test_uncontended_is_said_plainly(folder_of) -> None:
    assert lock_waits.sentence(RunFrames(folder_of("tiny"))).startswith("Nothing was contended: ")
    assert lock_waits.sentence(RunFrames(folder_of("empty"))) == "No operation took a lock."
    assert {card.what: card.value for card in headline(RunFrames(folder_of("tiny")))}[
        "Time spent waiting for locks"] == "0 %"


def test_assumed_costs_are_marked(folder_of) -> None:
    run = RunFrames(folder_of("normal"))
    labels = [tick.get_text() for tick in latency.draw(run).axes[0].get_yticklabels()]
    assert "alloc fastpath" in labels and "alloc refill *" in labels
    assert assumed.is_assumed(run, "alloc", "a path nobody knows")
    run.manifest["costs"] = []
    assert assumed.is_assumed(run, "alloc", "fastpath"), "without a price list nothing is known to be measured"
    known = {name for names in assumed.PATH_COSTS.values() for name in names}
    run.manifest["costs"] = [{"name": name, "assumed": False} for name in known]
    assert not assumed.is_assumed(run, "alloc", "refill")


def test_map_shows_what_most_used_pages_are() -> None:
    #                  free pcp slab movable unmovable reclaimable
    pages = np.array([[[512, 0, 0, 0, 0, 0]], [[500, 0, 12, 0, 0, 0]], [[0, 0, 100, 0, 300, 0]], [[0] * 6]], float)
    kind, used = memory_map.kinds(pages, np.array([512.0, 512.0, 400.0, 512.0]))
    assert [memory_map.USED[k] if k >= 0 else "free" for k in kind[:, 0]] == ["free", "slab", "unmovable", "rest"]
    assert used[:, 0].tolist() == [0, 12 / 512, 1.0, 1.0]


@given(st.text(max_size=300), st.integers(5, 60))
def test_names_are_made_fit_to_show(text: str, width: int) -> None:
    for shown in (style.label(text, width), style.shorten(style.visible(text), width)):
        assert 0 < len(shown) <= max(width, len("(no name)"))
        assert shown.isprintable()
    html = tables.name(text)
    reader = Reader()
    reader.feed(html)
    assert reader.tags == {"bdi"} and not reader.handlers
    assert reader.text == style.shorten(style.visible(style.shorten(text, 4 * 64)), 64)


def test_names_keep_both_ends() -> None:
    assert style.shorten("abcdefghij", 5) == "ab…ij"
    assert style.shorten("abcdefghij", 6) == "abc…ij"
    assert style.shorten("abc", 3) == "abc"
    assert style.visible("") == style.visible(" ") == "(no name)"
    assert style.visible("a\u202eb\n") == "a\\u202eb\\u000a"


def test_every_path_has_its_costs() -> None:
    assert set(assumed.PATH_COSTS) == set(PATHS)
    assert {name for names in assumed.PATH_COSTS.values() for name in names} == set(COSTS)


def test_slob_has_no_hit_rate(folder_of, tmp_path: Path) -> None:
    """A table of zeros would say that it misses always."""
    folder = tmp_path / "slob"
    shutil.copytree(folder_of("normal"), folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["config"]["allocator"] = "slob"
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    run = RunFrames(folder)
    assert [card.value for card in headline(run) if card.what == "Fast-path hit rate"] == ["none"]
    assert not hit_rates.draw(run).axes[0].axison
    assert "SLOB" in hit_rates.sentence(run)
