"""A study: cells kept by content, resumed after a kill, the same in parallel; and what it calls a difference."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest

from memtrace.compare.cells import Namer
from memtrace.compare.grid import Cell, Grid, read_study, split_starts
from memtrace.compare.labels import roles
from memtrace.compare.places import Copies
from memtrace.compare.study import compare, run_study
from memtrace.errors import ConfigError, MetricsError
from memtrace.metrics.run_folder import hold
from memtrace.run import replay

SETTINGS = {"pcp.batch": ("1", "31")}


def fingerprint(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a study but the cells' manifests, which hold wall-clock times."""
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "manifest.json"}


@pytest.fixture(scope="module")
def trace(bundled: Path) -> str:
    return str(bundled / "hello.csv")


@pytest.fixture(scope="module")
def serial(trace: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three allocators by two settings, run one cell after the other."""
    folder = tmp_path_factory.mktemp("serial") / "study"
    assert compare(trace, allocator=["slub", "slab", "slob"], settings=SETTINGS, out=folder).ran == 6
    return folder


def test_a_finished_study_runs_nothing_again_and_changes_nothing(serial: Path, trace: str) -> None:
    before = fingerprint(serial)
    assert compare(trace, allocator=["slub", "slab", "slob"], settings=SETTINGS, out=serial).ran == 0
    assert fingerprint(serial) == before


def stopped_by(sign: str, trace: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """
    The study of ``serial`` in two processes; all processes of its group get a signal after three cells.

    Sent by its own look at the cells, so at a moment that does not depend on the clock.
    """
    script = folder.with_name("stopped.py")
    script.write_text(
        "import os, signal, sys\nfrom memtrace.compare import study\n"
        f"def progress(doing, done, total):\n    if done == 3: os.killpg(0, signal.{sign})\n"
        "if __name__ == '__main__':\n"
        "    study.compare(sys.argv[1], allocator=['slub', 'slab', 'slob'], jobs=2, out=sys.argv[2],\n"
        "                  settings={'pcp.batch': ('1', '31')}, progress=progress)\n"
    )
    return subprocess.run([sys.executable, script, trace, str(folder)], capture_output=True, start_new_session=True,
                          text=True)


def test_killed_with_all_its_processes_it_goes_on_where_it_was(serial: Path, trace: str, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    assert stopped_by("SIGKILL", trace, folder).returncode == -signal.SIGKILL
    there = {cell: os.stat(cell) for cell in (folder / "cells").glob("[!.]*")}
    assert 3 <= len(there) <= 5 and not (folder / "dataset").exists()
    command = [sys.executable, "-m", "memtrace", "compare", trace, "--allocator", "slub,slab,slob",
               "--set", "pcp.batch=1,31", "-o", str(folder), "-j", "2"]
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith(f"6 replays: {6 - len(there)} run now, {len(there)} were there, 0 refused")
    for cell, then in there.items():
        assert (os.stat(cell).st_ino, os.stat(cell).st_mtime_ns) == (then.st_ino, then.st_mtime_ns)
    assert fingerprint(folder) == fingerprint(serial)


def test_ctrl_c_stops_all_processes_and_leaves_nothing_half_written(trace: str, tmp_path: Path) -> None:
    stopped = stopped_by("SIGINT", trace, tmp_path / "study")
    assert stopped.returncode == -signal.SIGINT
    assert stopped.stderr.count("Traceback") == 1  # the script's own; the workers say nothing
    assert 3 <= len(list((tmp_path / "study/cells").iterdir())) <= 5
    assert not list((tmp_path / "study/cells").glob(".partial-*"))


class Deadly(Cell):
    """A cell at which the process that takes it dies, as when the system kills it for want of memory."""

    def __reduce__(self) -> Any:
        return signal.raise_signal, (signal.SIGKILL,)


def test_a_cell_whose_process_dies_is_named_and_the_rest_goes_on(
    trace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Grid.cells

    def with_a_deadly_one(grid: Grid) -> list[Cell]:
        return [Deadly(cell.axes, cell.common) if cell.value("allocator") == "slab" else cell for cell in whole(grid)]

    monkeypatch.setattr(Grid, "cells", with_a_deadly_one)
    told: list[int] = []
    study = compare(trace, allocator=["slab", "slub", "slob"], jobs=2, out=tmp_path / "study", report=False,
                    progress=lambda doing, done, total: told.append(done))
    assert [(refused.cell, refused.lost) for refused in study.refused] == [("allocator slab", True)]
    assert "killed by signal 9" in study.refused[0].message
    assert set(study.measures["allocator"]) == {"slub", "slob"} and told[:4] == [0, 1, 2, 3]
    monkeypatch.undo()
    again = compare(trace, allocator=["slab", "slub", "slob"], jobs=2, out=tmp_path / "study", report=False)
    assert again.ran == 1 and not again.refused


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(trace: str, tmp_path: Path) -> None:
    cells = tmp_path / "study" / "cells"
    compare(trace, out=tmp_path / "study", report=False)
    abandoned, held = cells / ".partial-0123-999999", cells / ".partial-4567-999998"
    abandoned.mkdir()
    held.mkdir()
    lock = hold(held)
    compare(trace, out=tmp_path / "study", report=False)
    assert held.is_dir() and not abandoned.exists()
    assert lock is not None
    os.close(lock)


def test_two_studies_do_not_work_in_one_folder_at_once(serial: Path, trace: str) -> None:
    lock = hold(serial)
    assert lock is not None
    with pytest.raises(ConfigError, match="at work in this folder"):
        compare(trace, allocator=["slub", "slab", "slob"], settings=SETTINGS, out=serial)
    os.close(lock)
    assert compare(trace, allocator=["slub", "slab", "slob"], settings=SETTINGS, out=serial).ran == 0


def test_a_study_needs_a_file_system_with_locks(
    trace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two studies at work in one folder would spoil each other's results."""
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(ConfigError, match="its file system has no locks"):
        compare(trace, out=tmp_path / "study")
    assert not any((tmp_path / "study").iterdir())


def test_another_study_in_the_folder_leaves_no_results_of_the_last_one(
    serial: Path, trace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "study"
    shutil.copytree(serial, folder)
    monkeypatch.setattr("memtrace.compare.study.run_cells", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        compare(trace, allocator="slub", out=folder, force=True)
    assert sorted(path.name for path in folder.iterdir()) == ["cells", "study.json"]
    assert json.loads((folder / "study.json").read_text())["complete"] is False


def test_half_a_cell_is_not_taken_for_one(serial: Path, trace: str, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(serial, folder)
    victim = sorted((folder / "cells").iterdir())[0]
    os.remove(victim / "manifest.json")
    shutil.move(victim, victim.with_name(f".partial-{victim.name}-999999"))
    assert compare(trace, allocator=["slub", "slab", "slob"], settings=SETTINGS, out=folder).ran == 1
    assert fingerprint(folder) == fingerprint(serial)


def test_the_dataset_holds_every_row_of_every_cell(serial: Path, trace: str) -> None:
    study = compare(trace, allocator=["slub", "slab", "slob"], settings=SETTINGS, out=serial, report=False)
    for table in ("caches", "latency", "callsites", "failures"):
        whole = study.table(table)
        assert list(whole.columns[:2]) == ["cell", "trace"]
        for cell in study.measures["cell"]:
            own = study.run(cell).table(table)
            mine = whole[whole["cell"] == cell].reset_index(drop=True)[list(own.columns)]
            assert len(mine) == len(own)
            for column in own.columns.difference(["bucket_ns", "bucket_count"]):
                assert mine[column].astype(object).equals(own[column].astype(object)) or own[column].isna().any()
    assert set(study.table("caches")["pcp.batch"]) == {"1", "31"}


def test_a_cells_name_follows_content_and_nothing_else(trace: str, tmp_path: Path) -> None:
    copy = tmp_path / "hello.csv"
    shutil.copy(trace, copy)
    cell, moved = (Grid((str(path),)).cells()[0] for path in (trace, copy))
    name = Namer(Copies()).key(cell)
    assert Namer(Copies()).key(moved) == name
    copy.write_text(copy.read_text() + "\n")
    assert Namer(Copies()).key(moved) != name
    others = [Grid((trace,), memory=("1G",)), Grid((trace,), allocator=("slab",)), Grid((trace,), cpus=(3,)),
              Grid((trace,), common={"timing": "closed"}), Grid((trace,), settings={"slub.cpu_partial": ("0",)})]
    assert len({name, *(Namer(Copies()).key(grid.cells()[0]) for grid in others)}) == 6


def test_chance_is_replicated_and_what_has_none_is_not(trace: str, tmp_path: Path) -> None:
    study = compare(trace, settings={"slub.freelist_random": (True, False)}, replications=3, out=tmp_path / "study",
                    report=False)
    assert study.measures["random"].tolist() == [True, True, True, False]
    assert study.measures["seed"].tolist() == [0, 1, 2, 0]
    assert set(study.winners["verdict"]) <= {"none", "small", "significant", "untested"}
    assert "3 seeds" in " ".join(study.basis)


def test_a_setting_that_an_allocator_does_not_look_at_is_no_other_replay(trace: str, tmp_path: Path) -> None:
    settings = {"slub.cpu_partial": ("0", "30")}
    study = compare(trace, allocator=["slub", "slob"], settings=settings, out=tmp_path / "study", report=False)
    assert study.ran == 3 and study.measures["key"].nunique() == 3
    assert study.measures["choice"].tolist() == ["slub cpu_partial=0", "slub cpu_partial=30", "slob", "slob"]
    assert study.measures["slub.cpu_partial"].tolist() == ["0", "30", "0", "30"]
    # What it says is true: the replay is the same with the setting.
    runs = [replay(trace, allocator="slob", settings=[f"slub.cpu_partial={value}"], out=tmp_path / value, report=False)
            for value in settings["slub.cpu_partial"]]
    for table in ("caches", "latency", "zones"):
        pd.testing.assert_frame_equal(runs[0].table(table), runs[1].table(table))
    only = compare(trace, allocator="slob", settings=settings, out=tmp_path / "only", report=False)
    assert only.ran == 1 and only.winners.empty and "nothing to compare" in only.conclusions[0]


def test_a_combination_that_no_kernel_had_is_left_out_and_named(trace: str, tmp_path: Path) -> None:
    study = compare(trace, allocator=["slub", "slob"], kernel=["6.1", "6.18"], out=tmp_path / "study")
    assert len(study.measures) == 3
    assert [refused.cell for refused in study.refused] == ["allocator slob, kernel 6.18"]
    assert "has only slub" in (tmp_path / "study/report.html").read_text()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"kernel": "9.9"}, "9.9"),
        ({"settings": {"slub.cpu_parial": (0,)}}, "did you mean slub.cpu_partial"),
        ({"cpus": [1, 1]}, "--cpus 1, 1: expected each value once"),
        ({"memory": "many"}, "many"),
        ({"allocator": "slurb"}, "no cell could be replayed"),
        ({"jobs": 0}, "-j 0"),
    ],
)
def test_wrong_grids_are_said_before_anything_is_kept(
    wrong: dict[str, object], words: str, trace: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        compare(trace, out=tmp_path / "study", **wrong)  # type: ignore[arg-type]


def test_a_folder_that_holds_something_else_is_left_alone(trace: str, serial: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(ConfigError, match="other things than a study"):
        compare(trace, out=tmp_path, force=True)
    with pytest.raises(ConfigError, match="holds another study"):
        compare(trace, out=serial)


def test_a_study_file_says_the_same_as_options(serial: Path, trace: str, tmp_path: Path) -> None:
    place = tmp_path / "study.toml"
    shutil.copy(trace, tmp_path / "hello.csv")
    place.write_text('traces = "hello.csv"\nallocator = ["slub", "slab", "slob"]\n'
                     '[set]\n"pcp.batch" = [1, 31]\n')
    grid = read_study(place)
    assert [Namer(Copies()).key(cell) for cell in grid.cells()] == [
        Namer(Copies()).key(cell) for cell in Grid((trace,), ("slub", "slab", "slob"), settings=SETTINGS).cells()]
    place.write_text("traces = 'hello.csv'\nalocator = 'slub'\n")
    with pytest.raises(ConfigError, match='unknown key "alocator"'):
        read_study(place)


def test_each_trace_may_have_a_start_of_its_own(bundled: Path, tmp_path: Path) -> None:
    traces, start = [str(bundled / "build-and-serve-6.18.parquet"), str(bundled / "hello.csv")], tmp_path / "start"
    snapshot = str(bundled / "build-and-serve-6.18/start")
    assert split_starts([f"build-and-serve-6.18.parquet={snapshot}"], traces) == (None, {traces[0]: snapshot})
    assert split_starts([snapshot], traces) == (snapshot, {})
    with pytest.raises(ConfigError, match="is none of them"):
        split_starts([snapshot, "hallo.csv=x"], traces)
    with pytest.raises(ConfigError, match="two starts"):
        split_starts(["hello.csv=a", f"{traces[1]}=b"], traces)
    grid = Grid(tuple(traces), starts={traces[0]: snapshot})
    assert [cell.arguments().get("start") for cell in grid.cells()] == [snapshot, None]
    place = tmp_path / "study.toml"
    place.write_text(f"traces = {traces!r}\n[start]\n{traces[0]!r} = {snapshot!r}\n")
    keys = [[Namer(Copies()).key(cell) for cell in one.cells()] for one in (read_study(place), grid)]
    assert keys[0] == keys[1]
    with pytest.raises(ConfigError, match="not a trace of this study"):
        Grid((traces[1],), starts={traces[0]: str(start)})
    study = compare(traces, allocator=["slub", "slob"], start={traces[0]: snapshot}, window="0s,0.01s",
                    out=tmp_path / "study")
    sentences = [study.run(int(cell)).manifest["start"] for cell in study.measures["cell"]]
    assert "snapshot" in sentences[0] and sentences[0] != sentences[2]
    assert "hello.csv at a fresh boot" in (tmp_path / "study/report.html").read_text()


def test_traces_and_machines_are_circumstances_unless_nothing_else_is_varied(trace: str) -> None:
    assert roles(Grid((trace, "b"), ("slub", "slab"), cpus=(1, 2))) == (["trace", "cpus"], ["allocator"])
    assert roles(Grid((trace, "b"), cpus=(1, 2))) == (["trace"], ["cpus"])
    assert roles(Grid((trace, "b"), ("slub", "slab"), pool_traces=True)) == ([], ["allocator"])


def test_pooled_traces_are_each_others_replications(bundled: Path, trace: str, tmp_path: Path) -> None:
    second = tmp_path / "again.csv"
    second.write_text((bundled / "hello.csv").read_text().replace("kmalloc,", "kmalloc,", 1))
    study = run_study(Grid((trace, str(second)), ("slub", "slob"), pool_traces=True), tmp_path / "study", report=False)
    assert set(study.measures["circumstance"]) == {"the pooled traces"}
    assert "recordings of one workload" in study.basis[0]
    assert not (study.winners["verdict"] == "exact").any()


def test_the_page_is_whole_and_shows_hostile_names_as_text(tmp_path: Path, trace: str) -> None:
    place = tmp_path / "<script>alert(1)<!--.csv"
    shutil.copy(trace, place)
    study = compare([trace, str(place)], allocator=["slub", "slob"], out=tmp_path / "study")
    page = (study.path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    assert page.count("<figure>") == len(list((study.path / "figures").glob("*.svg"))) > 5
    assert "<script" not in study._repr_html_()


def test_figures_on_axes_of_ones_own(trace: str, tmp_path: Path) -> None:
    matplotlib.use("Agg")
    study = compare(trace, allocator=["slub", "slab"], memory=["64M", "128M"], out=tmp_path / "study", report=False)
    figure, (left, right) = plt.subplots(1, 2, layout="constrained")
    try:
        first, second = study.plot.circumstances
        assert study.plot.measure("peak_slab_bytes", left, circumstance=second) == [left]
        assert study.plot.slab_memory(right, circumstance=first) == [right]
        figure.draw_without_rendering()
        by_choice = study.measures[study.measures["circumstance"] == second].set_index("choice")["peak_slab_bytes"]
        assert [bar.get_width() for bar in left.patches] == [by_choice[choice] for choice in study.plot.choices]
        assert [text.get_text() for text in right.get_legend().get_texts()] == study.plot.choices
        panels = study.plot.measure("hit_pct")
        assert [axes.get_title() for axes in panels] == [first, second]
        assert [axes.get_title("left") for axes in panels] == ["", ""], "it would stand beside a caller's own"
        assert repr(study).startswith("<memtrace.Study of 4 replays: 2 of allocator, 2 of memory; ")
        assert panels[0].figure is not figure
        for name in ("circumstance", "expected one"):
            with pytest.raises((MetricsError, ConfigError), match=name):
                study.plot.slab_memory(left, circumstance="moon" if name == "circumstance" else None)
    finally:
        plt.close("all")


def test_traces_of_one_name_are_not_taken_for_one(tmp_path: Path, trace: str) -> None:
    """Their cells are other circumstances, not replications of one."""
    text = Path(trace).read_text(encoding="utf-8").splitlines(keepends=True)
    places = [tmp_path / name / "t.csv" for name in ("a", "b")]
    for place, rows in zip(places, (text, text[:12]), strict=True):
        place.parent.mkdir()
        place.write_text("".join(rows), encoding="utf-8")
    study = compare(places, allocator=["slub", "slob"], out=tmp_path / "study", report=False)
    assert list(dict.fromkeys(study.measures["circumstance"])) == ["a/t.csv", "b/t.csv"]
    assert {"a/t.csv", "b/t.csv"} == set(study.winners["circumstance"])


def test_measures_are_those_of_the_tables(serial: Path, trace: str) -> None:
    study = compare(trace, allocator=["slub", "slab", "slob"], settings=SETTINGS, out=serial, report=False)
    for row in study.measures.to_dict("records"):
        zones = study.run(row["cell"]).table("zones")
        used = (zones["managed"] - zones["free_pages"] - zones["pcp_pages"]).groupby(zones["t_ns"]).sum() * 4096
        assert row["peak_used_bytes"] == used.max()
    written = pd.read_parquet(serial / "dataset/measures.parquet")
    assert written["peak_used_bytes"].tolist() == study.measures["peak_used_bytes"].tolist()
