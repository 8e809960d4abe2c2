"""Run folders appear whole or not at all, and say what is wrong with them when opened."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from memtrace.errors import ConfigError, MetricsError, OutputError
from memtrace.metrics.manifest import TIMINGS, manifest, to_text
from memtrace.metrics.run_folder import NoLocks, RunFolder, check_destination, create, hold
from memtrace.metrics.schema import TABLES
from memtrace.metrics.tables import TableWriters


def write(path: Path, force: bool = False, note: str = "") -> None:
    """A run with one marker and otherwise empty tables."""
    with create(path, force) as new:
        with TableWriters(new.metrics) as writers:
            writers.add("markers", {"t_ns": [5], "row": [1], "text": [note]})
        new.write_manifest({"memtrace_run": 1, "note": note})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_whole_run(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "run", note="µx")
    assert names(tmp_path / "deep") == ["run"]
    run = RunFolder.open(tmp_path / "deep" / "run")
    assert run.manifest["note"] == "µx"
    assert run.tables == sorted(table.name for table in TABLES)
    assert run.table("markers").to_pylist() == [{"t_ns": 5, "row": 1, "text": "µx"}]
    assert run.table("caches", ["size"]).num_rows == 0


def test_nothing_is_left_when_the_run_raises(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="in the middle"), create(tmp_path / "run") as new:
        (new.metrics / "caches.parquet").write_bytes(b"half")
        raise RuntimeError("in the middle")
    assert names(tmp_path) == []


def test_a_run_without_a_manifest_is_not_complete(tmp_path: Path) -> None:
    with pytest.raises(MetricsError, match="not complete"), create(tmp_path / "run"):
        pass
    assert names(tmp_path) == []


def test_a_killed_run(tmp_path: Path) -> None:
    """It leaves only its partial folder, and the next run to the same place removes that."""
    code = ("import os, signal, sys\n"
            "from memtrace.metrics.run_folder import create\n"
            "with create(sys.argv[1]) as new:\n"
            "    (new.metrics / 'caches.parquet').write_bytes(b'half')\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n")
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=False)
    assert killed.returncode == -9
    (left,) = names(tmp_path)
    assert left.startswith(".partial-run-")
    write(tmp_path / "run")
    assert names(tmp_path) == ["run"]


def test_runs_side_by_side(tmp_path: Path) -> None:
    """A run that is still being written is not taken for an abandoned one."""
    ours = f".partial-run-{os.getpid()}"
    with create(tmp_path / "run") as new:
        code = ("import sys\n"
                "from memtrace.metrics.run_folder import create\n"
                "with create(sys.argv[1]) as new:\n"
                "    new.write_manifest({'memtrace_run': 1})\n")
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=True)
        assert names(tmp_path) == [ours, "run"]
        new.write_manifest({"memtrace_run": 1})
        with pytest.raises(ConfigError, match="holds a run already"):
            check_destination(tmp_path / "run", force=False)
        (tmp_path / "run" / "manifest.json").unlink()
        (tmp_path / "run" / "metrics").rmdir()
    assert names(tmp_path) == ["run"]


def without_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_run_on_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It is written all the same; what a killed one left stays, even one of the same process number."""
    left = tmp_path / f".partial-run-{os.getpid()}"
    (left / "metrics").mkdir(parents=True)
    without_locks(monkeypatch, number)
    write(tmp_path / "run", note="x")
    assert names(tmp_path) == [left.name, "run"]
    assert RunFolder.open(tmp_path / "run").manifest["note"] == "x"


def test_what_a_lock_fails_by_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_locks(monkeypatch, errno.EIO)
    with pytest.raises(OutputError, match=r"run: cannot be written .Input/output"):
        write(tmp_path / "run")
    with pytest.raises(OSError, match="Input/output"):
        hold(tmp_path)
    without_locks(monkeypatch, errno.ENOLCK)
    with pytest.raises(NoLocks, match="its file system has no locks"):
        hold(tmp_path)


def test_force_replaces_only_after_success(tmp_path: Path) -> None:
    write(tmp_path / "run", note="old")
    with pytest.raises(ConfigError, match="holds a run already; expected a new folder for -o"):
        write(tmp_path / "run", note="new")
    with pytest.raises(RuntimeError), create(tmp_path / "run", force=True):
        raise RuntimeError
    assert RunFolder.open(tmp_path / "run").manifest["note"] == "old"
    write(tmp_path / "run", force=True, note="new")
    assert RunFolder.open(tmp_path / "run").manifest["note"] == "new"
    assert names(tmp_path) == ["run"]


def test_force_never_removes_what_is_not_a_run(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    with pytest.raises(ConfigError, match="holds other things than a run"):
        write(tmp_path / "home", force=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="not a folder"):
        write(tmp_path / "file", force=True)
    (tmp_path / "link").symlink_to(tmp_path / "home")
    with pytest.raises(ConfigError, match="not a folder"):
        write(tmp_path / "link", force=True)
    with pytest.raises(ConfigError, match="not a folder that you may write to"):
        write(tmp_path / "file" / "run")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years"


def test_equal_runs_have_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, note="same")
    for file in (tmp_path / "a").rglob("*.*"):
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes(), file


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda run: (run / "manifest.json").unlink(), "no readable manifest.json"),
    (lambda run: (run / "manifest.json").write_text("{"), "not JSON"),
    (lambda run: (run / "manifest.json").write_text("[]"), "run format None; expected 1"),
    (lambda run: (run / "manifest.json").write_text('{"memtrace_run": 99}'), "run format 99; expected 1"),
    (lambda run: (run / "metrics" / "markers.parquet").write_bytes(b"PAR1"), "not readable as Parquet"),
    (lambda run: (run / "metrics" / "markers.parquet").unlink(), "no table metrics/markers.parquet"),
])
def test_broken_runs(tmp_path: Path, spoil: object, message: str) -> None:
    write(tmp_path / "run")
    spoil(tmp_path / "run")  # type: ignore[operator]
    with pytest.raises(MetricsError, match=message) as error:
        RunFolder.open(tmp_path / "run").table("markers")
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_near_names(tmp_path: Path) -> None:
    write(tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    with pytest.raises(MetricsError, match='"alloc_fastpth"; did you mean "alloc_fastpath"'):
        run.table("cpu_caches", ["alloc_fastpth"])
    with pytest.raises(MetricsError, match='did you mean "cpu_caches"'):
        run.table("cpu_cache")


def test_only_timings_differ() -> None:
    common = {"config": {"seed": 0}, "command": ["memtrace"], "versions": {}, "compiled": True, "trace": {},
              "start": "", "counts": {}, "causes": {}, "unused_rows": 0, "notes": [], "costs": [], "operations": 1,
              "rows": {}}
    a, b = (manifest(**common, timings={"replay_s": s}) for s in (1.0, 2.0))
    assert a != b
    a.pop(TIMINGS), b.pop(TIMINGS)
    assert to_text(a) == to_text(b)
