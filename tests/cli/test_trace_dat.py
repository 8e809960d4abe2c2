"""trace.dat is read through trace-cmd: the same events as in the text that the kernel itself prints of the same run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from perf_recording import needs_symbols, same_place

from memtrace.cli.convert import command
from memtrace.errors import TraceError
from memtrace.trace.gfp import parse_gfp
from memtrace.trace.source import open_trace

TRACEFS = Path("/sys/kernel/tracing")
TEXT = (
    "cpus=2\n"
    "          make-1 [000]     1.000000123: kmalloc:  call_site=f+0x1 ptr=0xffff888100000040 bytes_req=8 "
    "bytes_alloc=8 gfp_flags=GFP_KERNEL node=-1 accounted=false\n"
    "CPU:1 [EVENTS DROPPED]\n"
    "          make-1 [001]     1.000000456: kfree:    call_site=f+0x9 ptr=0xffff888100000040\n"
)


def tool(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch, code: int = 0) -> None:
    """A trace-cmd that prints a text, and notes its arguments."""
    (folder / "bin").mkdir()
    (folder / "text").write_text(text)
    script = folder / "bin" / "trace-cmd"
    script.write_text(f'#!/bin/sh\necho "$@" > {folder}/arguments\ncat {folder}/text\n'
                      f'echo "  the end is missing" >&2\nexit {code}\n')  # fmt: skip
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")


def test_its_text_is_read_with_nanoseconds_and_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = tmp_path / "-trace.dat", tmp_path / "t.csv"
    data.write_bytes(b"\x17\x08Dtracing6\0")
    tool(tmp_path, TEXT, monkeypatch)
    said = CliRunner().invoke(command, [str(data), str(out)])
    assert said.exit_code == 0 and "3 rows from trace.dat" in said.output and "lost_events: 1" in said.output
    assert (tmp_path / "arguments").read_text() == f"report -t -N -i {data}\n"
    assert [line.split(",")[0] for line in out.read_text().splitlines()[1:]] == ["0", "0", "333"]


def test_what_trace_cmd_complains_of_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "trace.dat"
    data.write_bytes(b"\x17\x08Dtracing6\0")
    tool(tmp_path, TEXT, monkeypatch, code=1)
    with pytest.raises(TraceError, match=r"trace\.dat: .* cannot read it \(the end is missing\); expected"):
        open_trace(data)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TraceError, match="trace-cmd, which is not installed"):
        open_trace(data)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(trace.dat, the kernel's own text) of the same events, recorded in a ring buffer of their own."""
    if shutil.which("trace-cmd") is None:
        pytest.skip("trace-cmd is not installed")
    needs_symbols()
    instance = TRACEFS / "instances" / f"memtrace-test-{os.getpid()}"
    folder = tmp_path_factory.mktemp("trace-dat")
    text = folder / "trace.txt"
    try:
        instance.mkdir()
        (instance / "buffer_size_kb").write_text("4096")
        (instance / "events/kmem/enable").write_text("1")
        subprocess.run(["sh", "-c", "ls -lR /etc > /dev/null 2>&1; echo half > $0", instance / "trace_marker"])
        (instance / "events/kmem/enable").write_text("0")
        text.write_bytes((instance / "trace").read_bytes())
        run = subprocess.run(["trace-cmd", "extract", "-B", instance.name, "-o", folder / "trace.dat"],
                             capture_output=True, text=True)  # fmt: skip
    except OSError as error:
        pytest.skip(f"nothing can be recorded in a ring buffer here: {error}")
    finally:
        if os.path.isdir(instance):  # trace-cmd extract has removed it; a folder that is closed to us is none
            instance.rmdir()
    if run.returncode or not (folder / "trace.dat").exists():
        pytest.skip(f"trace-cmd cannot write it here: {' '.join(run.stderr.split())[:200]}")
    return folder / "trace.dat", text


NUMBERS = ("ts_ns", "cpu", "task", "ptr", "bytes_req", "bytes_alloc", "node", "order", "migratetype", "pfn")


def columns(path: Path) -> dict[str, Any]:
    """Every column over the whole trace but rows of losses; codes as strings and flags as masks."""
    found: dict[str, list[np.ndarray]] = {}
    with open_trace(path) as reader:
        for chunk in reader.chunks():
            for name in NUMBERS:
                found.setdefault(name, []).append(getattr(chunk, name))
            for name, vocab in (("event_name", "event"), ("name", "name"), ("call_site", "call_site"),
                                ("gfp_flags", "gfp")):  # fmt: skip
                names = [*getattr(reader.vocab, vocab).names, ""]
                if name == "gfp_flags":
                    names = [parse_gfp(text) for text in names]
                found.setdefault(name, []).append(np.array(names, object)[getattr(chunk, name)])
    whole = {name: np.concatenate(parts) for name, parts in found.items()}
    kept = whole["event_name"] != "lost_events"
    return {name: values[kept] for name, values in whole.items()}


def test_it_equals_the_kernels_own_text(recording: tuple[Path, Path]) -> None:
    ours, theirs = columns(recording[0]), columns(recording[1])
    assert len(ours["ts_ns"]) > 1000 and "marker" in ours["event_name"]
    for name in ours:
        if name == "ts_ns":  # the text has microseconds
            assert np.abs(ours[name] - theirs[name]).max() <= 1000
        elif name == "call_site":  # the text has the function's size and module behind it
            sites = set(zip(ours[name].tolist(), theirs[name].tolist(), strict=True))
            assert [pair for pair in sites if not same_place(*pair)] == []
        elif name != "ptr":
            assert (ours[name] == theirs[name]).all(), name
    # The text's pointers are hashed where the kernel hashes them: they tell the same objects apart. A hash has 32 bits,
    # so that among 10 000 objects two are taken for one in one run of a hundred.
    pairs = set(zip(ours["ptr"].tolist(), theirs["ptr"].tolist(), strict=True))
    assert len(pairs) == len({ours for ours, _ in pairs}) <= len({theirs for _, theirs in pairs}) + 5
    assert ours["ptr"].max() >= 1 << 31
