"""An anonymised trace replays to the same tables, and nothing of its names and addresses is in it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from memtrace import compiled
from memtrace.cli.convert import command
from memtrace.mm.slab_geometry import EARLY_CACHES
from memtrace.run import replay
from memtrace.trace.anonymize import known_caches
from memtrace.trace.pointer_map import PLAIN_BELOW, PointerMap

GB, TB = 1 << 30, 1 << 40
Row = dict[str, str]
BASE = 0xFFFF888000000000
KASLR = 0xFFFF9A1740000000
OUT_OF_TREE = {"filp": "acme_secret", "lsm_file_cache": "AAA_acme", "vm_area_struct": "zz_acme"}
SECRET = ("acme", "secret", "ffff9a1", "hush")


def randomised(row: Row) -> None:
    """A kernel with another direct map, per-CPU areas and text elsewhere, and a cache and call sites of a module."""
    if int(row["ptr"] or "0", 0) >= BASE:
        row["ptr"] = hex(int(row["ptr"], 0) - BASE + KASLR)
    row["name"] = OUT_OF_TREE.get(row["name"], row["name"])
    row["call_site"] = re.sub(r"^(alloc_|sk_)", r"acme_\1", row["call_site"])
    if row["event"] == "marker":
        row["text"] = "hush, " + row["text"]


def unnamed(row: Row) -> None:
    """An earlier kernel: caches are inferred, and told by what function asked."""
    randomised(row)
    if row["event"] == "kmem_cache_alloc":
        row["name"] = ""
    row["call_site"] = row["call_site"].replace("security_file_alloc+", "__kmem_cache_create+")


def hashed(row: Row) -> None:
    """Pointers that say nothing."""
    randomised(row)
    if row["ptr"] and int(row["ptr"], 0) > 16:
        row["ptr"] = hex(int(row["ptr"], 0) * 0x9E3779B97F4A7C15 % (1 << 32) | 1 << 20)


def without_pages(row: Row) -> None:
    """Nothing shows where the direct map is."""
    randomised(row)
    if row["event"].startswith("mm_page"):
        row["event"], row["text"] = "acme:probe", f"owner=acme p={KASLR + 4096:x}"


def changed(source: Path, target: Path, change: Callable[[Row], None]) -> None:
    with source.open(newline="") as file, target.open("w", newline="") as out:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        writer = csv.DictWriter(out, [*(rows.fieldnames or ()), *({"text"} - set(rows.fieldnames or ()))], restval="")
        writer.writeheader()
        for row in rows:
            row.setdefault("text", "")
            change(row)
            writer.writerow(row)


def rows_of(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("allocator", ["slub", "slab"])
@pytest.mark.parametrize("change", [randomised, unnamed, hashed, without_pages])
def test_it_replays_to_the_same_tables(
    change: Callable[[Row], None], allocator: str, bundled: Path, tmp_path: Path
) -> None:
    if compiled.status() != "compiled" and (change, allocator) != (randomised, "slub"):
        pytest.skip("a quarter of a minute without a compiler; one of them runs")
    trace, public, mapping = tmp_path / "trace.csv", tmp_path / "public.parquet", tmp_path / "mapping.json"
    changed(bundled / "build-and-serve-6.18-first20k.csv", trace, change)
    said = CliRunner().invoke(command, [str(trace), str(public), "--anonymize", "--mapping", str(mapping)])
    assert said.exit_code == 0, said.output
    back = {new: old for kind in ("call_sites", "caches", "events", "markers")
            for new, old in json.loads(mapping.read_text())[kind].items()}  # fmt: skip
    runs = [tmp_path / name for name in ("of-trace", "of-public")]
    for run, source in zip(runs, (trace, public), strict=True):
        replay(source, out=run, allocator=allocator, report=False)
    tables = sorted(path.relative_to(runs[0]) for path in runs[0].rglob("*.parquet"))
    assert len(tables) > 10
    for table in tables:
        ours, theirs = (pq.read_table(run / table).to_pydict() for run in runs)
        for column, values in theirs.items():
            if any(isinstance(value, str) for value in values):
                theirs[column] = [re.sub(r"(\w+\+)?(site|cache|event|marker)_\d{4,}", lambda m: back[m[0]], value)
                                  if value is not None else None for value in values]  # fmt: skip
        assert theirs == ours, table


@pytest.mark.parametrize("change", [randomised, unnamed, without_pages])
def test_nothing_private_is_left(change: Callable[[Row], None], bundled: Path, tmp_path: Path) -> None:
    trace, public = tmp_path / "trace.csv", tmp_path / "public.csv"
    changed(bundled / "build-and-serve-6.18-first20k.csv", trace, change)
    text = trace.read_text()
    assert all(word in text for word in SECRET)
    assert CliRunner().invoke(command, [str(trace), str(public), "--anonymize"]).exit_code == 0
    text = public.read_text()
    sites = {row["call_site"] for row in rows_of(trace) if row["call_site"]}
    assert not [word for word in (*SECRET, *sites) if word in text]
    assert ",dentry," in text and sorted(path.name for path in tmp_path.iterdir()) == ["public.csv", "trace.csv"]
    again = tmp_path / "again.csv"
    assert CliRunner().invoke(command, [str(trace), str(again), "--anonymize"]).exit_code == 0
    assert again.read_text() == text


def test_addresses_in_arguments_move_with_those_in_columns(tmp_path: Path) -> None:
    trace, public = tmp_path / "trace.csv", tmp_path / "public.csv"
    trace.write_text(
        "ts_ns,cpu,event,ptr,task,text,bytes_req\n"
        f"0,0,kmalloc,{KASLR + 64:#x},70000,,8\n"
        f"1,0,percpu_alloc_percpu,0x29da8,4242,call_site=acme+0x1/0x9 size=4 align=4 base_addr={KASLR + 4096:x} off=8 "
        "ptr=0000000000029da8 gfp_flags=GFP_KERNEL comm=acme,\n"
        "2,0,sched_switch,,4242,prev_comm=acme prev_pid=4242,\n3,1,marker,,,acme begins,\n"
        "4,1,marker,,,SNAP_BEGIN start,\n5,1,lost_events,,,17,\n6,1,cpu_offline,,,cpu=1,\n"
        "7,1,marker,,,SNAP_FILE /proc/slabinfo,\n"
    )
    said = CliRunner().invoke(command, [str(trace), str(public), "--anonymize"])
    assert said.exit_code == 0, said.output
    base = BASE + KASLR % GB
    rows = rows_of(public)
    assert [row["task"] for row in rows] == ["0", "1", "1", "", "", "", "", ""]
    assert rows[0]["ptr"] == hex(base + 64) and rows[1]["ptr"] == "0x29da8"
    assert [row["text"] for row in rows[1:]] == [
        f"call_site=site_0001 size=4 align=4 base_addr={base + 4096:x} off=8 ptr=0000000000029da8 gfp_flags=GFP_KERNEL",
        "", "marker_0001", "SNAP_BEGIN start", "17", "cpu=1", "SNAP_FILE /proc/slabinfo",
    ]  # fmt: skip
    assert rows[2]["event"] == "event_0001"


pointers = st.one_of(
    st.integers(0, (1 << 64) - 1), st.integers(0, PLAIN_BELOW + 9000), st.integers(BASE, BASE + 8 * GB),
    st.integers(0xFF11000000000000, 0xFF11000000000000 + GB), st.integers((1 << 64) - GB, (1 << 64) - 1),
)  # fmt: skip
bases = st.one_of(st.just(0), st.integers(1, (1 << 43) - 1).map(lambda n: n << 21), st.just(BASE), st.just(0xC0000000))


@given(st.lists(pointers, min_size=1, max_size=40), bases, st.integers(-1, 1 << 36))
def test_the_map_keeps_order_pages_and_frames(values: list[int], base: int, max_pfn: int) -> None:
    old = np.array(sorted(set(values)), np.uint64)
    pointer_map = PointerMap()
    pointer_map.see(old)
    pointer_map.settle(base, max_pfn)
    new = pointer_map.map(old)
    assert (np.diff(new.astype(object)) > 0).all()
    for (a, b), (x, y) in zip(zip(old.tolist(), old.tolist()[1:], strict=False),
                              zip(new.tolist(), new.tolist()[1:], strict=False), strict=True):  # fmt: skip
        assert (a >> 12 == b >> 12) == (x >> 12 == y >> 12)
    for a, x in zip(old.tolist(), new.tolist(), strict=True):
        assert a % 4096 == x % 4096
        if base:  # what the census makes of a pointer: its page frame, or that it has none
            assert (a >= base) == (x >= pointer_map.new_base)
            assert (0 <= a - base < 1 << 52) == (0 <= x - pointer_map.new_base < 1 << 52)
            if 0 <= a - base <= max_pfn << 12:
                assert x - pointer_map.new_base == a - base


def test_one_layout_whatever_was_randomised() -> None:
    images = []
    for shift in (0, 37 * GB, 5 * TB):
        pointer_map = PointerMap()
        seen = np.array([BASE + shift + n for n in (64, 4096, 3 * GB)] + [0xFFFFE8FFFFC00010 + shift // 64], np.uint64)
        pointer_map.see(seen)
        pointer_map.settle(BASE + shift, 1 << 20)
        images.append(pointer_map.map(seen).tolist())
    assert images[0] == images[1] == images[2]


def test_known_caches() -> None:
    known = known_caches()
    for name in (*EARLY_CACHES, "kmalloc-8k", "kmalloc-rnd-03-96", "size-32(DMA)", "bio-264", "dentry"):
        assert known.fullmatch(name), name
    for name in ("acme", "dentry2", "kmalloc-acme", "dentry(12:ssh)", "", "#"):
        assert not known.fullmatch(name), name


def test_a_mapping_is_never_overwritten(tmp_path: Path, bundled: Path) -> None:
    mapping = tmp_path / "m.json"
    mapping.write_text("{}")
    arguments = [str(bundled / "hello.csv"), str(tmp_path / "t.csv"), "--mapping", str(mapping)]
    said = CliRunner().invoke(command, [*arguments, "--anonymize"])
    assert said.exit_code == 1 and mapping.read_text() == "{}" and not (tmp_path / "t.csv").exists()
    assert CliRunner().invoke(command, arguments).exit_code == 2
