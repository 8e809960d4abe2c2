"""``memtrace stat``: by hand, and against ``perf kmem stat`` on a fresh recording."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from perf_recording import perf, record, sorted_wholly

from memtrace.cli.stat import command
from memtrace.errors import ConfigError

HEADER = "ts_ns,cpu,event,ptr,call_site,bytes_req,bytes_alloc,order,pfn,migratetype,gfp_flags\n"
SLAB = HEADER + (
    "0,0,kmalloc,16,a,60,64,,,,\n"
    "10,0,kmalloc,32,a,30,64,,,,\n"
    "20,1,kfree,16,f,,,,,,\n"  # from another CPU
    "30,1,kmalloc,16,b,100,128,,,,\n"
    "40,1,kfree,16,f,,,,,,\n"
    "50,1,kfree,99,f,,,,,,\n"  # never allocated
)
PAGES = HEADER + (
    "0,0,mm_page_alloc,,,,,0,7,1,GFP_KERNEL|__GFP_ZERO\n"
    "1,0,mm_page_alloc,,,,,2,8,0,GFP_KERNEL\n"
    "2,0,mm_page_free,,,,,0,7,,\n"
    "3,0,mm_page_free,,,,,1,99,,\n"
    "4,0,mm_page_alloc,,,,,3,0,0,GFP_ATOMIC\n"  # failed
)


def stat(trace: Path, *args: object) -> dict[str, Any]:
    result = CliRunner().invoke(command, [str(trace), *map(str, args), "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture
def slab_trace(tmp_path: Path) -> Path:
    path = tmp_path / "slab.csv"
    path.write_text(SLAB)
    return path


@pytest.fixture
def page_trace(tmp_path: Path) -> Path:
    path = tmp_path / "pages.csv"
    path.write_text(PAGES)
    return path


def test_slab_by_hand(slab_trace: Path) -> None:
    found = stat(slab_trace, "--caller", "--alloc")["slab"]
    assert found["summary"] | {"fragmentation_pct": 0} == {
        "bytes_requested": 190, "bytes_allocated": 256, "bytes_freed": 192, "bytes_net": 64, "bytes_wasted": 66,
        "fragmentation_pct": 0, "allocs": 3, "frees": 3, "unmatched_frees": 1, "allocs_naming_a_node": 0,
    }  # fmt: skip
    first, second = found["caller"]  # a wastes more
    assert (first["callsite"], first["hit"], first["pingpong"], first["bytes_alloc"]) == ("a", 2, 1, 128)
    assert (first["live_alloc"], first["max_alloc"], first["max_req"], first["max_waste"]) == (64, 128, 90, 38)
    assert (second["callsite"], second["pingpong"], second["live_alloc"]) == ("b", 0, 0)
    assert [(row["ptr"], row["hit"], row["pingpong"]) for row in found["alloc"]] == [(32, 1, 0), (16, 2, 1)]


def test_pages_by_hand(page_trace: Path) -> None:
    found = stat(page_trace, "--page", "--caller", "--alloc")["page"]
    assert {key: n for key, n in found["summary"].items() if not key.endswith("bytes")} == {
        "allocs": 3, "frees": 2, "alloc_freed": 1, "alloc_only": 2, "free_only": 1, "fails": 1
    }  # fmt: skip
    assert [(row["page"], row["bytes"], row["gfp"]) for row in found["alloc"]] == [(8, 16384, "K"), (7, 4096, "K|Z")]
    assert found["orders"] == [
        {"order": 0, "migratetype": 1, "blocks": 1}, {"order": 2, "migratetype": 0, "blocks": 1}
    ]  # fmt: skip
    live = stat(page_trace, "--page", "--alloc", "--live")["page"]
    assert [row["page"] for row in live["alloc"]] == [8]


def test_sort_lines_and_time(slab_trace: Path) -> None:
    def callers(*args: object) -> list[str]:
        return [row["callsite"] for row in stat(slab_trace, "--caller", *args)["slab"]["caller"]]

    assert callers("-s", "pingpong,bytes", "-l", 1) == ["a"]
    assert callers("-s", "callsite") == ["b", "a"]
    assert stat(slab_trace, "--time", "10ns,30ns")["slab"]["summary"]["allocs"] == 2
    assert stat(slab_trace, "--time", ",0ns")["slab"]["summary"]["allocs"] == 1


def test_csv_is_one_table(slab_trace: Path) -> None:
    result = CliRunner().invoke(command, [str(slab_trace), "--csv", "--caller", "-l", "1"])
    lines = result.stdout.splitlines()
    assert lines[0].startswith("callsite,bytes_alloc,bytes_req,hit") and lines[1].startswith("a,128,90,2,1,")
    assert CliRunner().invoke(command, [str(slab_trace), "--csv"]).exit_code == 2


def test_hostile_names_are_text(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(SLAB.replace(",a,", ",\x1b[2J<b>,"))
    shown = CliRunner().invoke(command, [str(path), "--caller", "--peak"]).stdout
    assert "\x1b" not in shown and "\\u001b[2J<b>" in shown


@pytest.mark.parametrize("arguments", [["-s", "nope"], ["--page", "-s", "frag"], ["--time", "5"], ["--time", "2,1"]])
def test_wrong_values_name_what_was_expected(slab_trace: Path, arguments: list[str]) -> None:
    result = CliRunner().invoke(command, [str(slab_trace), *arguments])
    assert isinstance(result.exception, ConfigError) and "expected" in str(result.exception)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A perf.data, sorted wholly, and its text."""
    folder = tmp_path_factory.mktemp("perf")
    data = sorted_wholly(record(folder))
    text = folder / "perf.txt"
    text.write_text(perf("script", "-i", data, "--ns"), encoding="utf-8")
    return data, text


Row = tuple[str, int, int, int, int, float]
"""Name, allocated, requested, hits, ping-pongs, share of what was allocated that nobody asked for in percent."""


def perf_rows(text: str) -> list[Row]:
    """The rows of a slab table of perf kmem."""
    row = re.compile(r" (\S+) +\| +(\d+)/\d+ +\| +(\d+)/\d+ +\| +(\d+) \| +(\d+) \| +([\d.]+)%")
    found = filter(None, map(row.match, text.splitlines()))
    return [(name, int(alloc), int(req), int(hit), int(pingpong), float(frag))
            for name, alloc, req, hit, pingpong, frag in (match.groups() for match in found)]  # fmt: skip


def our_rows(rows: list[dict[str, Any]], key: str = "callsite") -> list[Row]:
    return [(f"{row[key]:#018x}" if key == "ptr" else row[key].replace("+0x", "+").split(" ")[0], row["bytes_alloc"],
             row["bytes_req"], row["hit"], row["pingpong"], round(row["frag_pct"], 3)) for row in rows]  # fmt: skip


def by_name(rows: list[Row]) -> dict[str, list[int]]:
    """Sums: the kernel has functions of one name, which perf tells apart by their addresses."""
    sums: dict[str, list[int]] = {}
    for name, *numbers, _ in rows:
        sums[name] = [a + b for a, b in zip(sums.get(name, (0, 0, 0, 0)), numbers, strict=True)]
    return sums


def by_frag_hit_bytes(rows: list[Row]) -> list[tuple[float, int, int]]:
    """What rows are sorted by: rows that are equal in it stand in any order."""
    return [(row[5], row[3], row[1]) for row in rows]


def test_slab_equals_perf_kmem(recording: tuple[Path, Path]) -> None:
    data, text = recording
    theirs = perf("kmem", "-i", data, "--slab", "--caller", "stat")
    ours = stat(text, "--caller", "--alloc")["slab"]
    said = [int(n) for n in re.findall(r"^Total bytes.*: +(\d+)$", theirs, re.MULTILINE)]
    summary = ours["summary"]
    assert said == [summary[key] for key in ("bytes_requested", "bytes_allocated", "bytes_freed", "bytes_wasted")]
    assert f"/{summary['allocs']}" in theirs.splitlines()[-1]
    rows = perf_rows(theirs)
    assert len(rows) > 20
    assert by_name(rows) == by_name(our_rows(ours["caller"]))
    direct = stat(data.with_name("perf.data"), "--caller")["slab"]  # as recorded, and read without perf
    assert direct["summary"] == summary
    theirs = perf("kmem", "-i", data, "--slab", "--alloc", "-s", "bytes,hit,frag", "-l", 50, "stat")
    mine = stat(text, "--alloc", "-s", "bytes,hit,frag", "-l", 50)["slab"]["alloc"]
    assert perf_rows(theirs) == our_rows(mine, "ptr")


def test_call_sites_as_addresses_equal_perf_kmem(recording: tuple[Path, Path], slab_trace: Path) -> None:
    """Addresses have no second name, so every row must be the same, its name too."""
    data, _ = recording
    theirs = perf_rows(perf("kmem", "-i", data, "--slab", "--caller", "--raw-ip", "stat"))
    ours = our_rows(stat(data, "--caller", "--raw-ip")["slab"]["caller"])
    assert Counter(theirs) == Counter(ours)
    assert by_frag_hit_bytes(theirs) == by_frag_hit_bytes(ours)
    told = CliRunner().invoke(command, [str(slab_trace), "--raw-ip"])
    assert told.exit_code == 0 and "is csv" in told.stderr


def test_pages_equal_perf_kmem(recording: tuple[Path, Path]) -> None:
    data, text = recording
    theirs = perf("kmem", "-i", data, "--page", "--caller", "stat")
    ours = stat(text, "--page", "--caller")["page"]
    totals = [int(n) for n in re.findall(r"^Total .*: +(\d+) +\[", theirs, re.MULTILINE)]
    keys = ("allocs", "frees", "alloc_freed", "alloc_only", "free_only", "fails")
    assert totals == [ours["summary"][key] for key in keys]
    row = re.compile(r" +(\d+) \| +(\d+) \| +(\d+) \| +\S+ \| (\S+) +\| (.*)")
    # perf splits by where in the kernel the event fired, which a trace does not have.
    hits: tuple[Counter[tuple[int, str]], ...] = (Counter(), Counter())
    kilobytes: tuple[Counter[tuple[int, str]], ...] = (Counter(), Counter())
    for match in filter(None, map(row.match, theirs.splitlines())):
        hits[0][int(match[3]), match[4]] += int(match[2])
        kilobytes[0][int(match[3]), match[4]] += int(match[1])
    for one in ours["caller"]:
        hits[1][one["order"], one["gfp"]] += one["hit"]
        kilobytes[1][one["order"], one["gfp"]] += one["bytes"] // 1024
    assert hits[0] and hits[0] == hits[1]
    assert kilobytes[0] == kilobytes[1]


def test_requests_alone_waste_nothing(tmp_path: Path) -> None:
    """A trace written by hand says what was asked for, not what was given."""
    trace = tmp_path / "hand.csv"
    trace.write_text("ts_ns,cpu,event,ptr,bytes_req,call_site\n0,0,kmalloc,0x1000,100,f\n5,0,kfree,0x1000,,f\n")
    result = CliRunner().invoke(command, [str(trace), "--slab", "--json"])
    assert result.exit_code == 0, result.output
    assert "1 allocations do not say" in result.stderr
    slab = json.loads(result.stdout)["slab"]
    summary = slab.get("summary", slab)
    assert summary["bytes_requested"] == summary["bytes_allocated"] == 100
