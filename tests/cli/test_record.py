"""``memtrace record``: what is missing is said on a made-up machine; recording itself runs where the rights are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from perf_recording import record_once

from memtrace.cli.record import command
from memtrace.errors import ConfigError
from memtrace.record.rights import NEEDED, USEFUL, Host, plan
from memtrace.record.snapshots import PROC_FILES, State
from memtrace.snapshot.proc import read_proc
from memtrace.trace.source import open_trace

CAP_PERFMON = 1 << 38


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A machine with perf, all rights and all events but the percpu ones."""
    for event in (*NEEDED, *USEFUL):
        if event.startswith("kmem:"):
            tmp_path.joinpath("tracing/events", *event.split(":")).mkdir(parents=True)
    (tmp_path / "tracing/instances").mkdir()
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/self").mkdir()
    (tmp_path / "proc/sys/kernel/perf_event_paranoid").write_text("2\n")
    return with_rights(tmp_path, CAP_PERFMON)


def with_rights(folder: Path, bits: int, perf: str | None = "/usr/bin/perf", version: tuple[int, ...] = (6, 1)) -> Host:
    (folder / "proc/self/status").write_text(f"Name:\tx\nCapEff:\t{bits:016x}\n")
    return Host(folder / "proc", folder / "sys", folder / "tracing", lambda _: perf, lambda: version)


def test_perf_is_preferred_and_missing_events_are_told(host: Host) -> None:
    chosen = plan(host)
    assert chosen.recorder == "perf"
    assert chosen.missing == tuple(event for event in USEFUL if event.startswith("percpu:"))
    assert chosen.events == tuple(event for event in (*NEEDED, *USEFUL) if event.startswith("kmem:"))


def test_tracefs_is_taken_without_perf(host: Host, tmp_path: Path) -> None:
    assert plan(with_rights(tmp_path, 0, perf=None)).recorder == "tracefs"
    assert plan(host, "tracefs").recorder == "tracefs"


@pytest.mark.parametrize(
    ("bits", "perf", "version", "words"),
    [
        (0, "/usr/bin/perf", (6, 1), ["perf_event_paranoid 2", "CAP_PERFMON", "sudo"]),
        (CAP_PERFMON, None, (6, 1), ["not installed", "linux-perf"]),
        (CAP_PERFMON, "/usr/bin/perf", (4, 9), ["version 4.9 is too old", "5.8"]),
    ],
)
def test_what_perf_lacks_is_named(
    tmp_path: Path, host: Host, bits: int, perf: str | None, version: tuple[int, ...], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        plan(with_rights(tmp_path, bits, perf, version), "perf")
    assert all(word in str(error.value) for word in words)


def test_no_tracefs_says_how_to_mount_it(tmp_path: Path, host: Host) -> None:
    (tmp_path / "tracing").rename(tmp_path / "gone")
    with pytest.raises(ConfigError, match="mount -t tracefs") as error:
        plan(host)
    assert "perf: " in str(error.value) and "tracefs: " in str(error.value)


def readable(name: str) -> bool:
    try:
        Path("/proc", name).read_bytes()
    except OSError:
        return False
    return True


def test_snapshot_of_this_machine_can_be_read_again(tmp_path: Path) -> None:
    state = State(Host())
    state.read_sys()
    state.read_proc()
    if not readable("zoneinfo"):
        pytest.skip("no zones to read here: " + " ".join(state.problems))
    state.write(tmp_path / "start")
    found = read_proc(tmp_path / "start")
    assert found.zones and found.vmstat and found.meminfo
    assert [line.partition(":")[0] for line in state.problems] == [
        f"/proc/{name}" for name in PROC_FILES if not readable(name)]


def test_a_cache_that_goes_while_it_is_read_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slab = tmp_path / "sys/kernel/slab"
    for name in ("gone", "stays"):
        (slab / name).mkdir(parents=True)
        (slab / name / "order").write_text("3\n")
    listed = Path.iterdir

    def iterdir(folder: Path) -> Iterator[Path]:
        if folder.name == "gone":
            shutil.rmtree(folder)
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    state = State(Host(tmp_path / "proc", tmp_path / "sys"))
    state.read_sys()
    state.write(tmp_path / "start")
    assert json.loads((tmp_path / "start/sys_kernel_slab.json").read_text()) == {"stays": {"order": "3"}}


@pytest.mark.parametrize("arguments", [["-o", "x.csv"], ["-o", "no/x.parquet"], ["--", "no-such-program-here"]])
def test_wrong_targets_are_refused_before_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(command, arguments)
    assert isinstance(result.exception, ConfigError) and "expected" in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "t.parquet"
    out.write_text("precious")
    result = CliRunner().invoke(command, ["-o", str(out), "--duration", "1ms"])
    assert isinstance(result.exception, ConfigError) and "--force" in str(result.exception)
    out.unlink()
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "thesis.tex").touch()
    result = CliRunner().invoke(command, ["-o", str(out), "--duration", "1ms", "--force"])
    assert isinstance(result.exception, ConfigError) and "not the snapshots" in str(result.exception)


def needs(recorder: str, scratch: Path) -> None:
    """Skips where this machine cannot record, which only trying tells: a container may refuse what root may do."""
    try:
        plan(Host(), recorder)
    except ConfigError as error:
        pytest.skip(f"no recording here: {error}")
    if recorder == "perf":
        record_once(scratch)
        return
    instance = Host().tracefs / "instances" / f"memtrace-test-{os.getpid()}"
    try:
        instance.mkdir()
        instance.rmdir()
    except OSError as error:
        pytest.skip(f"no ring buffer can be made here: {error}")


@pytest.mark.parametrize("recorder", ["perf", "tracefs"])
def test_a_command_is_recorded_with_its_snapshots(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, recorder: str
) -> None:
    needs(recorder, tmp_path_factory.mktemp("tried"))
    out = tmp_path / "t.parquet"
    arguments = ["-o", str(out), "--recorder", recorder, "--", "sh", "-c", "ls -lR /etc >/dev/null 2>&1; exit 3"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "sh ended with 3" in result.stderr and f"recorded with {recorder}" in result.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t", "t.parquet"]
    assert f"memtrace validate {out}" in result.stdout
    assert f"--from {tmp_path / 't' / 'start'} --kernel" in result.stdout
    for name in ("start", "end"):
        assert read_proc(tmp_path / "t" / name).caches
    with open_trace(out) as reader:
        names = set()
        for chunk in reader.chunks():
            names |= {reader.vocab.event.names[code] for code in chunk.event_name.tolist()}
    assert {"kmem_cache_alloc", "kmem_cache_free", "mm_page_alloc", "mm_page_free"} <= names
    table = pq.read_table(out, columns=["task", "text"])
    assert 0 < len(set(table["task"].to_pylist())) < 10000
    assert not any("comm=" in text or "pid=" in text for text in table["text"].to_pylist() if text)


UNPRIVILEGED = """
import os, sys
from memtrace.cli.main import main
import encodings.ascii, memtrace.cli.record, memtrace.record.record, memtrace.compiled, memtrace.units
# All of it now: where Python lies may be closed to that user.
try:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
except OSError as error:
    sys.exit(f"CANNOT: {error}")
sys.argv = ["memtrace", "record", "-o", "t.parquet", *sys.argv[1:], "--", "true"]
main()
"""


@pytest.mark.parametrize("recorder", ["auto", "perf", "tracefs"])
def test_a_process_without_rights_is_told_what_is_missing(recorder: str) -> None:
    """A real one: a user that may nothing, with no capability left."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to give up its rights")
    command = [sys.executable, "-c", UNPRIVILEGED, "--recorder", recorder]
    run = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
    if run.stderr.startswith("CANNOT"):  # a container that has no other users
        pytest.skip(run.stderr.strip())
    assert run.returncode == 1 and not run.stdout
    assert run.stderr.startswith("memtrace: error: cannot record on this machine. ") and run.stderr.count("\n") == 1
    for name in ("perf", "tracefs") if recorder == "auto" else (recorder,):
        assert f" {name}: " in run.stderr
    assert "expected" in run.stderr and ("root" in run.stderr or "Install" in run.stderr)
