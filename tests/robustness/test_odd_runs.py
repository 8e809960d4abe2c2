"""Odd names, odd values and broken run folders: one clear line and exit code 1, or a result that holds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import memtrace
from memtrace.cli.main import cli, guarded

HEADER = "ts_ns,cpu,event,ptr,bytes_req\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, bundled: Path) -> Path:
    """A run folder, not to be changed."""
    return memtrace.replay(bundled / "hello.csv", out=tmp_path_factory.mktemp("run") / "run", report=False).path


def fails(capfd: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a refused command writes."""
    capfd.readouterr()
    code = guarded(lambda: cli.main([str(a) for a in arguments], prog_name="memtrace", standalone_mode=False))
    out, err = capfd.readouterr()
    assert (code, out) == (1, ""), err
    lines = [line for line in err.splitlines() if not line.startswith(("drawing: ", "kernel: "))]
    assert len(lines) == 1 and lines[0].startswith("memtrace: error: ")
    return lines[0]


def swap(folder: Path) -> None:
    shutil.copy(folder / "metrics" / "zones.parquet", folder / "metrics" / "caches.parquet")


def change(**keys: object) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        place = folder / "manifest.json"
        place.write_text(json.dumps({**json.loads(place.read_text(encoding="utf-8")), **keys}), encoding="utf-8")

    return do


@pytest.mark.parametrize(("spoil", "said"), [
    (change(config=5), '"config" is int; expected dict'),
    (change(notes={}), '"notes" is dict; expected list'),
    (lambda folder: (folder / "manifest.json").write_text("[" * 100_000, encoding="utf-8"), "not JSON"),
    (swap, 'has no column "cache"'),
])
@pytest.mark.parametrize("command", ["report", "show", "compare"])
def test_a_spoiled_run_folder(
    whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], spoil: Callable[[Path], object], said: str,
    command: str,
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    spoil(folder)
    more = {"report": (), "show": ("slabinfo",), "compare": (whole,)}[command]
    assert said in fails(capfd, command, folder, *more)
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(("options", "said"), [
    (("--seed", "99999999999999999999"), "--seed 99999999999999999999: expected"),
    (("--sample", "0"), "--sample 0: expected 1 ns at least"),
    (("--memory", "0"), "--memory 0: expected the machine's memory"),
    (("--time", "100s,200s"), "no row of the trace"),
])
def test_values_that_no_replay_can_have(
    bundled: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    assert said in fails(capfd, "replay", bundled / "hello.csv", "-o", tmp_path / "run", *options)
    assert list(tmp_path.iterdir()) == []


def test_a_start_without_its_snapshots(bundled: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "--start zz: without --snapshots" in fails(capfd, "validate", bundled / "hello.csv", "--start", "zz")


def test_a_name_that_is_not_utf8(bundled: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It is replayed and shown; a study, whose tables hold names, refuses it before anything is run."""
    place = os.path.join(os.fsencode(tmp_path), b"a\xff\xfeb.csv")
    shutil.copy(bundled / "hello.csv", place)
    run = memtrace.replay(os.fsdecode(place), out=tmp_path / "run")
    assert run.manifest["trace"]["path"] == os.fsdecode(b"a\xff\xfeb.csv")
    assert "a\\udcff\\udcfeb.csv" in (run.path / "report.html").read_text(encoding="utf-8")
    study = tmp_path / "study"
    assert "not UTF-8" in fails(capfd, "compare", os.fsdecode(place), "--allocator", "slub,slab", "-o", study)
    assert not study.exists()


def test_a_column_of_lists(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "t.parquet"
    columns = {"ts_ns": [0], "cpu": [0], "event": [["kmalloc"]], "ptr": pa.array([16], pa.uint64())}
    pq.write_table(pa.table(columns), place)
    assert 'column "event" is of type list' in fails(capfd, "info", place)


def test_sizes_that_no_machine_has_do_not_overflow(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "t.csv"
    place.write_text(HEADER + "".join(f"{i},0,kmalloc,{i + 16},{(1 << 63) - 1}\n" for i in range(9)), encoding="utf-8")
    assert guarded(lambda: cli.main(["info", str(place)], standalone_mode=False)) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this machine")
def test_standard_output_that_is_full(bundled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-m", "memtrace", "info", bundled / "hello.csv"], stdout=full,
                              stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "No space left" in done.stderr
