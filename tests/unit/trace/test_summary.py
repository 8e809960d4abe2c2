"""What ``memtrace info`` says."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from memtrace.cli.info import command
from memtrace.trace.source import open_trace
from memtrace.trace.summary import TraceInfo, summarise

HEADER = "ts_ns,cpu,event,call_site,ptr,name,bytes_req,bytes_alloc,node,pfn,order,text\n"


def info_of(tmp_path: Path, rows: str) -> TraceInfo:
    (tmp_path / "t.csv").write_text(HEADER + rows)
    with open_trace(tmp_path / "t.csv") as reader:
        return summarise(reader)


def test_counts_spans_and_sites(tmp_path: Path) -> None:
    info = info_of(
        tmp_path,
        "0,0,kmalloc,f,0x1000,,100,128,-1,,,\n"
        "10,2,kmalloc,g,0x2000,,8,8,-1,,,\n"
        "10,2,marker,,,,,,,,,half\n"
        "20,2,kmalloc,f,0x3000,,28,32,-1,,,\n"
        "70,0,kfree,h,0x1000,,,,,,,\n",
    )
    assert (info.rows, info.span_ns, info.cpus, info.rows_per_cpu, info.tasks) == (5, 70, [0, 2], [2, 3], 0)
    assert info.events == {"kmalloc": 3, "kfree": 1, "marker": 1}
    assert [(use.name, use.allocs, use.bytes_requested, use.bytes_allocated) for use in info.top_sites_by_bytes] == [
        ("f", 2, 128, 160), ("g", 1, 8, 8),
    ]  # fmt: skip
    assert info.markers == [(3, 10, "half")] and info.time_step_ns == 10
    assert json.loads(json.dumps(info.as_dict()))["rows"] == 5


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ("kmem_cache_alloc,f,0x1000,filp,8,8,-1,,,\n1,0,kfree,f,0x1000,,,,,,,", "6.18 or later"),
        ("kmalloc,f,0x1000,,8,8,-1,,,\n1,0,kmem_cache_free,f,0x1000,filp,,,,,,", "6.1 to 6.17"),
        ("kmalloc,f,0x1000,,8,8,,,,\n1,0,kmem_cache_free,f,0x1000,filp,,,,,,", "5.12 to 6.0"),
        ("kmalloc,f,0x1000,,8,8,,,,\n1,0,kmem_cache_free,f,0x1000,,,,,,,", "2.6.31 to 5.11"),
        ("mm_page_free,,,,,,,77,0,", "unknown (no slab events)"),
    ],
)
def test_the_kernel_is_known_by_its_fields(tmp_path: Path, event: str, expected: str) -> None:
    assert info_of(tmp_path, f"0,0,{event}\n").kernel.startswith(expected)


@pytest.mark.parametrize(
    ("base", "step", "expected"),
    [(0xFFFF888000000000, 64, "addresses (64-bit)"), (0xC1470000, 32, "addresses (32-bit)"), (32, 1, "small numbers"),
     (None, 0, "hashed")],
)  # fmt: skip
def test_hashed_pointers_are_recognised(tmp_path: Path, base: int | None, step: int, expected: str) -> None:
    rng = random.Random(3)
    ptrs = [rng.getrandbits(32) if base is None else base + i * step for i in range(60)]
    if expected == "small numbers":
        ptrs = ptrs[:10]
    info = info_of(tmp_path, "".join(f"{i},0,kmalloc,f,{ptr:#x},,8,8,-1,,,\n" for i, ptr in enumerate(ptrs)))
    assert info.pointers == expected
    assert any("hashed" in note for note in info.notes) == (expected == "hashed")


def test_the_command_prints_text_and_json(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(HEADER + "0,0,kmalloc,f,0x1000,,100,128,-1,,,\n5,0,odd,,,,,,,,,\n")
    said = CliRunner().invoke(command, [str(path)])
    assert said.exit_code == 0 and "2 rows in 5 ns" in said.output
    assert "1  unknown_event (first at line 3)" in said.output and "No frees: every object lives" in said.output
    told = json.loads(CliRunner().invoke(command, [str(path), "--json"]).output)
    assert told["events"] == {"kmalloc": 1, "odd": 1} and told["format"] == "csv"
