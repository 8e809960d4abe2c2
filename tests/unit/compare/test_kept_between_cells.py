"""Cells of one trace read it once between them, and come to what each of them comes to alone."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace.compare.grid import Cell, Grid
from memtrace.compare.places import Copies, Remote
from memtrace.compare.pool import _Todo
from memtrace.compare.study import Study, compare, run_study
from memtrace.run import replay
from memtrace.trace import kept

AXES: dict[str, Any] = {"allocator": ("slub", "slob"), "cpus": (None, 1), "settings": {"pcp.batch": ("1", "31")}}
PLUGGED = ["ts_ns,cpu,event,ptr,bytes_req,text",
           *(f"{1000 * i},{i % 2},kmalloc,{4096 + 64 * i},64," for i in range(40))]
PLUGGED[12:12] = ["10500,0,cpu_offline,,,cpu=1"]
PLUGGED[31:31] = ["28500,0,cpu_online,,,cpu=1"]


@pytest.fixture(scope="module")
def traces(bundled: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """One in which a CPU goes and comes back, and the beginning of a real one."""
    folder = tmp_path_factory.mktemp("traces")
    (folder / "plugged.csv").write_text("\n".join(PLUGGED) + "\n", encoding="utf-8")
    real = (bundled / "build-and-serve-6.18-first20k.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "real.csv").write_text("".join(real[:2000]), encoding="utf-8")
    return [str(folder / "plugged.csv"), str(folder / "real.csv")]


@pytest.fixture(scope="module")
def serial(traces: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of all, one cell after the other; each trace was opened once, and its census taken once."""
    folder = tmp_path_factory.mktemp("serial") / "study"
    did: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("open_trace", "take_census"):
            function = getattr(kept, name)
            patch.setattr(kept, name, lambda *args, _f=function, **more: did.append(_f.__name__) or _f(*args, **more))
        assert compare(traces, **AXES, out=folder, report=False).ran == 16
    assert Counter(did) == {"open_trace": 2, "take_census": 2}
    return folder


def fingerprint(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but the manifests of runs, which hold wall-clock times."""
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "manifest.json"}


def test_each_cell_is_what_it_is_alone(serial: Path, traces: list[str], tmp_path: Path) -> None:
    study = compare(traces, **AXES, out=serial, report=False)
    check(study, Grid(tuple(traces), AXES["allocator"], cpus=AXES["cpus"], settings=AXES["settings"]), tmp_path)


def test_each_cell_from_a_snapshot_is_what_it_is_alone(bundled: Path, traces: list[str], tmp_path: Path) -> None:
    grid = Grid((traces[1],), ("slub", "slab"), settings={"pcp.batch": ("1", "31")},
                common={"start": str(bundled / "build-and-serve-6.18/start")})
    check(run_study(grid, tmp_path / "study", report=False), grid, tmp_path)


def check(study: Study, grid: Grid, tmp_path: Path) -> None:
    """The runs of a study's cells equal replays that share nothing."""
    assert len(study.measures) == len(grid.cells())
    for number, cell in enumerate(grid.cells()):
        alone = replay(cell.value("trace"), **cell.arguments(), out=tmp_path / str(number), report=False)
        mine = study.run(number)
        assert fingerprint(mine.path) == fingerprint(alone.path)
        manifests = [{key: value for key, value in run.manifest.items() if key != "timings"} for run in (mine, alone)]
        assert manifests[0] == manifests[1]


@pytest.mark.parametrize("there", [0, 7])
def test_two_processes_come_to_the_same_also_when_some_cells_were_there(
    serial: Path, traces: list[str], tmp_path: Path, there: int
) -> None:
    folder = tmp_path / "study"
    shutil.copytree(serial, folder)
    cells = sorted((folder / "cells").iterdir())
    for cell in cells[there:]:
        shutil.rmtree(cell)
    assert compare(traces, **AXES, jobs=2, out=folder, report=False).ran == 16 - there
    assert fingerprint(folder) == fingerprint(serial)


def test_what_lies_elsewhere_is_fetched_once_for_all_processes(
    traces: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files in memory are this process's alone: the others can have nothing but its copies."""
    fsspec = pytest.importorskip("fsspec", reason="needs the extra cluster")
    memory = fsspec.filesystem("memory")
    memory.pipe("/traces/real.csv", Path(traces[1]).read_bytes())
    memory.pipe("/traces/plugged.csv", Path(traces[0]).read_bytes())
    asked: list[str] = []
    get = Remote.get
    monkeypatch.setattr(Remote, "get", lambda self, *args: asked.append(self.url) or get(self, *args))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    urls = ["memory://traces/plugged.csv", "memory://traces/real.csv"]
    for jobs in (1, 2):
        asked.clear()
        study = compare(urls, allocator=["slub", "slob"], jobs=jobs, out=tmp_path / f"study-{jobs}", report=False)
        assert (study.ran, not study.refused, asked) == (4, True, urls)
        assert not list((tmp_path / "scratch").iterdir())
    home = compare(traces, allocator=["slub", "slob"], out=tmp_path / "home", report=False)
    assert fingerprint(tmp_path / "study-2/cells") == fingerprint(tmp_path / "home/cells")
    assert list(home.measures["key"]) == list(study.measures["key"])


def test_a_trace_that_changes_under_a_study_is_read_again(
    traces: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "trace.csv"
    shutil.copy(traces[1], place)

    def change(doing: str, done: int, total: int) -> None:
        if (doing, done) == ("replaying", 1):
            shutil.copy(traces[0], place)

    grid = Grid((str(place),), settings={"pcp.batch": ("1", "31")})
    study = run_study(grid, tmp_path / "study", report=False, progress=change)
    rows = [study.run(number).manifest["trace"]["rows"] for number in study.measures["cell"]]
    assert rows == [1999, len(PLUGGED) - 1]


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), jobs=st.integers(1, 5), data=st.data())
def test_every_cell_is_taken_once_and_traces_are_read_by_few(lengths: list[int], jobs: int, data: Any) -> None:
    cells = [(Cell((("trace", f"t{i}"),), ()), f"{i}-{n}") for i, length in enumerate(lengths) for n in range(length)]
    todo = _Todo(cells)
    at = [""] * jobs
    read: set[tuple[int, str]] = set()
    taken = []
    while todo:
        who = data.draw(st.integers(0, jobs - 1))
        left = {cell.value("trace") for cell, key in cells if key not in taken}
        cell, key = todo.take(at[who], [trace for other, trace in enumerate(at) if other != who])
        trace = cell.value("trace")
        if trace != at[who]:
            assert at[who] not in left
            assert trace not in at or not left - set(at)  # nobody's, unless each has somebody
        at[who] = trace
        read.add((who, trace))
        taken.append(key)
    assert sorted(taken) == sorted(key for _, key in cells)
    assert len(read) <= len(lengths) + jobs * (jobs - 1)


def test_copies_of_another_process_are_used_and_left(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="needs the extra cluster")
    fsspec.filesystem("memory").pipe("/shared/one", b"1")
    with Copies() as mine:
        place = Path(mine.local("memory://shared/one"))
        with Copies(mine.folder) as theirs:
            fsspec.filesystem("memory").rm("/shared/one")
            assert theirs.local("memory://shared/one") == str(place)
        assert place.read_bytes() == b"1"
    assert not place.exists()
