"""Reading run folders, and the frames behind the figures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace.errors import MetricsError
from memtrace.metrics.schema import FORMAT_VERSION
from memtrace.report import frames
from memtrace.report.frames import RunFrames
from memtrace.report.page import write_report
from memtrace.report.plots import memory_map
from memtrace.units import PAGE_SIZE


def test_stack_adds_up_to_all_slab_memory(any_folder: Path) -> None:
    run = RunFrames(any_folder)
    rows = run.table("caches")
    whole = (rows["num_slabs"] * rows["pagesperslab"] * PAGE_SIZE).groupby(rows["t_ns"]).sum()
    for top in (1, 10, 1000):
        wide, others = frames.df_cache_bytes(run, top)
        assert wide.shape[1] <= top + 1
        assert (others > 0) == (frames.OTHER_CACHES in wide.columns)
        assert wide.sum(axis=1).tolist() == whole.tolist()


def test_free_pages_are_the_zones(any_folder: Path) -> None:
    run = RunFrames(any_folder)
    zones = run.table("zones").groupby("t_ns")["free_pages"].sum()
    assert frames.df_free_pages(run).sum(axis=1).tolist() == zones.tolist()


def test_unusable_index_of_one_zone_is_the_tables(folder_of) -> None:
    run = RunFrames(folder_of("tiny"))
    table = run.table("fragmentation").pivot_table(index="t_ns", columns="order", values="unusable_index")
    assert np.allclose(frames.df_unusable(run), table / 1000, atol=0.001)
    assert (frames.df_unusable(run).diff(axis=1).iloc[:, 1:] >= -1e-12).all(axis=None), "grows with the order"


def test_nothing_free_is_wholly_unusable(folder_of, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFrames(folder_of("tiny"))
    monkeypatch.setattr(frames, "df_free_pages", lambda _: pd.DataFrame({0: [0], 1: [0]}, index=[5]))
    assert (frames.df_unusable(run) == 1.0).all(axis=None)


def test_memory_map_keeps_every_page(any_folder: Path) -> None:
    run = RunFrames(any_folder)
    whole = run.read("pageblock_map").to_pandas()
    for rows in (7, 384):
        found = frames.df_memory_map(run, rows, samples=1000)
        assert found.pages.shape == (len(found.row_pages), len(found.t_ns), 6)
        assert len(found.row_pages) <= rows
        sums = whole.groupby("t_ns")[list(frames.MAP_CONTENTS)].sum()
        assert np.allclose(found.pages.sum(axis=0), sums)
        at_once = whole[whole["t_ns"] == whole["t_ns"].min()]["pages"].sum()
        assert found.row_pages.sum() + found.left_out_pages == pytest.approx(at_once)
        assert (found.pages.sum(axis=2) <= found.row_pages[:, None] * (1 + 1e-9)).all()
        assert found.runs["at"].is_monotonic_increasing and found.runs["at"].max() < len(found.row_pages)


def test_memory_map_leaves_out_what_was_never_memory(folder_of, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFrames(folder_of("tiny"))
    read = run.read

    def with_hole(table: str, *args: object, **options: object) -> pa.Table:
        frame = read(table, *args, **options).to_pandas()
        if "free" in frame:
            frame.loc[frame["start_pfn"].between(1024, 2047), list(frames.MAP_CONTENTS)] = 0
        return pa.Table.from_pandas(frame)

    monkeypatch.setattr(run, "read", with_hole)
    found = frames.df_memory_map(run)
    assert found.left_out_pages == 1024
    assert "4 MiB of addresses with no managed page are left out" in memory_map.sentence(run)


@given(st.lists(st.lists(st.integers(1, 10**9), min_size=1, max_size=40), min_size=1, max_size=5))
def test_merged_percentiles_are_within_a_bucket(groups: list[list[int]]) -> None:
    rows = []
    for values in groups:
        octave = np.maximum(np.floor(np.log2(values)).astype(np.int64) - 3, 0)
        bounds, counts = np.unique((np.array(values) >> octave) << octave, return_counts=True)
        rows.append((min(values), max(values), bounds, counts))
    found = frames.percentiles(pd.DataFrame(rows, columns=["min_ns", "max_ns", "bucket_ns", "bucket_count"]))
    everything = sorted(value for values in groups for value in values)
    for name, rank in frames.PERCENTILES.items():
        true = everything[-(-len(everything) * rank // 1000) - 1]
        assert abs(found[name] - true) <= 0.0625 * true + 1


def test_hits_and_locks_and_waste(folder_of) -> None:
    run = RunFrames(folder_of("normal"))
    hits = frames.df_hits(run)
    last = run.last("cpu_caches")
    assert hits["allocs"].sum() == last["alloc_fastpath"].sum() + last["alloc_slowpath"].sum()
    assert set(last["t_ns"]) == {run.end_ns}, "counters are cumulative: only the last sample counts"
    assert frames.df_locks(run)["wait_ns"].is_monotonic_decreasing
    assert frames.df_waste(run)["waste_bytes"].is_monotonic_decreasing


def test_strangers_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(MetricsError, match=r"no readable manifest\.json; expected a folder"):
        RunFrames(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(MetricsError, match="not JSON"):
        RunFrames(tmp_path)


def test_broken_tables_are_refused_in_one_line(tmp_path: Path, folder_of) -> None:
    folder = tmp_path / "run"
    shutil.copytree(folder_of("tiny"), folder)
    whole = (folder / "metrics" / "cpu_caches.parquet").read_bytes()
    # The columns' data destroyed, the footer whole: found when the rows are read.
    half = len(whole) // 2
    (folder / "metrics" / "cpu_caches.parquet").write_bytes(b"PAR1" + bytes(half) + whole[4 + half :])
    (folder / "metrics" / "locks.parquet").write_bytes((folder / "metrics" / "locks.parquet").read_bytes()[:40])
    run = RunFrames(folder)
    for read in (lambda: run.table("locks"), lambda: run.sample("cpu_caches", 900)):
        with pytest.raises(MetricsError, match=r"\.parquet: not readable as Parquet") as caught:
            read()
        assert "\n" not in str(caught.value)
    with pytest.raises(MetricsError, match='no column "free_pagse"; did you mean "free_pages"'):
        run.read("zones", ["free_pagse"])
    with pytest.raises(MetricsError, match='did you mean "zones"'):
        run.sample("zone", 900)


def test_a_manifest_with_little_in_it_is_enough(tmp_path: Path, folder_of) -> None:
    folder = tmp_path / "run"
    shutil.copytree(folder_of("tiny"), folder)
    (folder / "manifest.json").write_text(json.dumps({"memtrace_run": FORMAT_VERSION}))
    run = RunFrames(folder)
    assert (run.cpus, run.trace_rows, run.unused_rows, run.counts, run.start_text) == (1, 0, None, {}, "")
    assert (folder / "report.html") == write_report(folder)


def test_nulls_are_named(folder_of, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFrames(folder_of("tiny"))
    rows = run.table("callsites").assign(call_site=[None], cache=[None])
    monkeypatch.setitem(run._tables, "callsites", rows)
    first = frames.df_waste(run).iloc[0]
    assert (first["call_site"], first["cache"]) == ("(no call site)", "(large kmalloc)")
