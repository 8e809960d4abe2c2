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
    assert (info.events_per_s, info.peak_second_events, info.peak_second_from_ns) == (pytest.approx(5e9 / 70), 5, 0)
    assert info.markers == [(3, 10, "half")] and info.time_step_ns == 10
    assert json.loads(json.dumps(info.as_dict()))["rows"] == 5


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ("kmem_cache_alloc,f,0x1000,filp,8,8,-1,,,\n1,0,kfree,f,0x1000,,,,,,,", "6.18 or later"),
        ("kmalloc,f,0x1000,,8,8,-1,,,\n1,0,kmem_cache_free,f,0x1000,filp,,,,,,", "6.1 or later"),
        ("kmem_cache_alloc,f,0x1000,,8,8,-1,,,\n1,0,kmalloc,f,0x2000,,8,8,-1,,,", "6.1 to 6.17"),
        ("kmalloc,f,0x1000,,8,8,,,,\n1,0,kmem_cache_free,f,0x1000,filp,,,,,,", "5.12 to 6.0"),
        ("kmalloc,f,0x1000,,8,8,,,,\n1,0,kmem_cache_free,f,0x1000,,,,,,,", "2.6.31 to 5.11"),
        ("mm_page_free,,,,,,,77,0,", "unknown"),
    ],
)
def test_the_kernel_is_known_by_its_fields(tmp_path: Path, event: str, expected: str) -> None:
    assert info_of(tmp_path, f"0,0,{event}\n").kernel.what == expected


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
    assert any("hashed" in note for note in info.cannot) == (expected == "hashed")


def test_the_command_prints_text_and_json(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(HEADER + "0,0,kmalloc,f,0x1000,,100,128,-1,,,\n5,0,odd,,,,,,,,,\n")
    said = CliRunner().invoke(command, [str(path)])
    assert said.exit_code == 0 and "2 rows in 5 ns" in said.output
    assert "1  unknown_event (first at line 3)" in said.output and "No frees: every object lives" in said.output
    told = json.loads(CliRunner().invoke(command, [str(path), "--json"]).output)
    assert told["events"] == {"kmalloc": 1, "odd": 1} and told["format"] == "csv"


def test_the_busiest_second_is_found(tmp_path: Path) -> None:
    times = [0, 10**9, *range(3_500_000_000, 4_400_000_000, 10**8), 4_600_000_000, 9 * 10**9]
    info = info_of(tmp_path, "".join(f"{t},0,kfree,f,0x1000,,,,,,,\n" for t in times))
    assert (info.peak_second_events, info.peak_second_from_ns) == (9, 3_500_000_000)  # 4.6 s is a second and a tenth on


def test_contradictory_fields_are_no_kernel(tmp_path: Path) -> None:
    info = info_of(tmp_path, "0,0,kmem_cache_alloc,f,0x1000,filp,8,8,-1,,,\n1,0,kmem_cache_free,f,0x1000,,,,,,,\n")
    assert (info.kernel.what, info.kernel.sure) == ("unknown", "contradictory")
    assert len(info.kernel.evidence) == 2


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([8, 16, 64], "slub"), ([32, 32, 64], "slab"), ([14, 21, 99], "slob"), ([64, 64, 64], "unknown")],
)
def test_the_allocator_is_known_by_what_small_kmallocs_get(tmp_path: Path, sizes: list[int], expected: str) -> None:
    rows = [f"{i},0,kmalloc,f,{0x1000 + 64 * i:#x},,{6 + i % 10},{sizes[i % 2]},-1,,,\n" for i in range(40)]
    info = info_of(tmp_path, "".join(rows) + f"41,0,kmalloc,f,0x9000,,60,{sizes[2]},-1,,,\n")
    assert info.allocator.what == expected


@pytest.mark.parametrize("lost", ["", "start", "middle", "end"])
def test_a_cpu_whose_events_are_missing_is_suspected(tmp_path: Path, lost: str) -> None:
    rng = random.Random(7)
    times = sorted(rng.sample(range(10**6), 24_000))
    window = range(*{"": (0, 0), "start": (0, 200_000), "middle": (400_000, 700_000), "end": (800_000, 10**6)}[lost])
    rows = [(t, cpu) for t in times if not ((cpu := rng.randrange(3)) == 1 and t in window)]
    info = info_of(tmp_path, "".join(f"{t * 1000},{cpu},kmalloc,f,0x1000,,8,8,-1,,,\n" for t, cpu in rows))
    assert [(silence.cpu, silence.where) for silence in info.silences] == ([(1, lost)] if lost else [])
    if lost:
        length = pytest.approx(len(window) * 1000, rel=0.1)
        assert info.silences[0].span_ns == length and info.silences[0].expected > 1000
        assert sum("Perhaps lost: CPU 1" in note for note in info.cannot) == 1


def test_an_idle_machine_is_not_suspected(tmp_path: Path) -> None:
    rows = [(t * 1000, t % 2) for t in [*range(5000), *range(20_000, 25_000)]]
    assert not info_of(tmp_path, "".join(f"{t},{cpu},kfree,f,0x1000,,,,,,,\n" for t, cpu in rows)).silences


def test_hostile_names_cannot_move_the_cursor(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    name = "\x1b[2J\u202eevil" + "x" * 5000
    path.write_text(HEADER + f"0,0,kmem_cache_alloc,{name},0x1000,{name},8,8,-1,,,\n1,0,marker,,,,,,,,,\x9b31m\n")
    said = CliRunner().invoke(command, [str(path)])
    assert said.exit_code == 0 and all(line.isprintable() and len(line) < 300 for line in said.output.splitlines())
    assert "\\u001b[2J\\u202eevilxx" in said.output and "xx…xx" in said.output and "\\u009b31m" in said.output


def test_snapshots_beside_the_trace_are_said(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(HEADER + "0,0,kmalloc,f,0x1000,,100,128,-1,,,\n")
    without = json.loads(CliRunner().invoke(command, [str(path), "--json"]).output)
    (tmp_path / "t" / "start").mkdir(parents=True)
    (tmp_path / "t" / "start" / "zoneinfo").write_text("")
    (tmp_path / "t" / "start" / "osrelease").write_text("6.12.9\n")
    told = json.loads(CliRunner().invoke(command, [str(path), "--json"]).output)
    assert not without["snapshots"] and any("No snapshot" in note for note in without["cannot"])
    assert told["snapshots"] == str(tmp_path / "t") and not any("No snapshot" in note for note in told["cannot"])
    assert told["kernel"]["sure"] == "sure" and "Linux 6.12.9" in told["kernel"]["evidence"][0]
