"""Each workload does to the allocators what it says."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from memtrace.run import Run, replay
from memtrace.synthetic.write import synth


def run_of(folder: Path, name: str, allocator: str = "slub", events: int = 20_000, cpus: int = 4,
           **settings: str) -> Run:  # fmt: skip
    trace = synth(name, folder / f"{name}.parquet", events=events, cpus=cpus, settings=settings, force=True)
    return replay(trace, allocator=allocator, out=folder / "run", force=True, report=False)


def last_of(run: Run, table: str) -> pd.DataFrame:
    rows = run.table(table)
    return rows[rows["t_ns"] == rows["t_ns"].max()]


def test_ping_pong_frees_everything_on_another_cpu(tmp_path: Path) -> None:
    sites = run_of(tmp_path, "ping-pong", cpus=2).table("callsites")
    assert (sites["pingpong"] == sites["allocs"]).all() and sites["allocs"].sum() > 9000
    assert run_of(tmp_path, "ping-pong", cpus=1).table("callsites")["pingpong"].sum() == 0


@pytest.mark.parametrize("allocator", ["slab", "slob"])
def test_slab_test_meets_at_locks_only_when_cpus_are_several(allocator: str, tmp_path: Path) -> None:
    assert run_of(tmp_path, "slab-test", allocator, cpus=1).table("locks")["wait_ns"].sum() == 0
    assert run_of(tmp_path, "slab-test", allocator, cpus=4).table("locks")["wait_ns"].sum() > 0


def test_pins_keep_slabs_that_are_nearly_empty(tmp_path: Path) -> None:
    def used(**settings: str) -> float:
        """Share of the slabs' room that is in use when only pins are left."""
        rows = run_of(tmp_path, "long-lived-pins", pages="0", **settings).table("caches")
        rows = rows[(rows["cache"] == "kmalloc-cg-192") | (rows["cache"] == "kmalloc-192")]
        late = rows[rows["t_ns"] > rows["t_ns"].max() // 2].iloc[0]
        return float(late["bytes_allocated"] / (late["num_objs"] * late["size"]))

    short = {"life": "20ms", "pinned": "5000"}
    assert 0 < used(every="16", **short) < 0.3 < used(every="1", **short)


def test_spike_comes_and_goes(tmp_path: Path) -> None:
    run = run_of(tmp_path, "bonwick-spike", events=1)
    at = run.table("markers").set_index("text")["t_ns"]
    zones = run.table("zones").groupby("t_ns")["slab_pages"].sum()
    before, spike, after = (zones[at[f"{name} 1"]] for name in ("before spike", "spike", "after spike"))
    assert spike - before > 256 * 4 and after < spike  # a process has well over four pages of objects
    tasks = run.table("caches").query("cache == 'task_struct'").set_index("t_ns")["bytes_requested"]
    assert tasks[at["spike 1"]] == 256 * 5824 and tasks.iloc[-1] == 0


def test_net_rx_allocates_in_bulk_and_frees_both_ways(tmp_path: Path) -> None:
    """A bulk free is one operation: of 64 packets of a poll 16 are dropped, and freed in one."""
    done = run_of(tmp_path, "net-rx").table("latency").groupby("op")["count"].sum()
    polls = 20_000 // (4 * 64 + 2 * 4)
    assert done["alloc"] == 2 * 64 * polls and done["alloc"] - done["free"] == 15 * polls


def test_page_cache_churn_is_of_pages(tmp_path: Path) -> None:
    pcp = last_of(run_of(tmp_path, "page-cache-churn", keep="60"), "pcp")
    assert pcp["refills"].sum() > 10 and pcp["drains"].sum() > 10


def test_boot_leaves_nearly_all_it_took(tmp_path: Path) -> None:
    sites = run_of(tmp_path, "embedded-boot", cpus=1).table("callsites")
    kept = sites[sites["call_site"] == "device_add"]
    assert kept["frees"].sum() == 0 and kept["allocs"].sum() > 5000


def test_moved_processes_and_requests_end_elsewhere(tmp_path: Path) -> None:
    for name in ("fork-storm", "mixed-server"):
        there = run_of(tmp_path, name, moved="100").table("callsites")["pingpong"].sum()
        here = run_of(tmp_path, name, moved="0").table("callsites")["pingpong"].sum()
        assert here == 0 < there


def test_busy_dentries_hold_on_to_their_slabs(tmp_path: Path) -> None:
    def left(busy: str) -> int:
        run = run_of(tmp_path, "dentry-storm", events=30_000, keep="20", busy=busy)
        rows = run.table("caches").query("cache == 'dentry'").set_index("t_ns")["num_slabs"]
        return int(rows[rows.index > rows.index.max() * 0.75].iloc[0])

    assert left("4") > left("0")
