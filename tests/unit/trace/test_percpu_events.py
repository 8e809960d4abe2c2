"""percpu rows become requests, and their pages stop being other people's."""

from __future__ import annotations

from pathlib import Path

import pytest

from memtrace.run import Run, replay
from memtrace.trace.causes import MASK_PERCPU, MASK_PERCPU_WORKER
from memtrace.trace.percpu_events import PercpuAreas, PercpuFields, parse_percpu, percpu_page_mask

HEAD = "ts_ns,cpu,event,ptr,bytes_req,gfp_flags,order,pfn,text"


def run_of(tmp_path: Path, *rows: str) -> Run:
    trace = tmp_path / "t.csv"
    trace.write_text("\n".join((HEAD, *rows)) + "\n")
    return replay(trace, cpus=2, memory="64M", out=tmp_path / "run", report=False, check=True)


def alloc(t: int, ptr: int, size: int, text: str = "") -> str:
    return f"{t},0,percpu_alloc_percpu,{ptr},{size},GFP_KERNEL,,,{text}"


def test_what_a_kernel_prints() -> None:
    fields = parse_percpu("call_site=alloc_desc+0x53/0x210 reserved=0 is_atomic=1 size=4 align=8 base_addr="
                          "ffff88801f429000 off=3496 ptr=0000000000029da8 bytes_alloc=16 gfp_flags=GFP_KERNEL")
    assert fields == PercpuFields(4, 8, False, True, 0xFFFF88801F429000, 3496, 0x29DA8, 16, 0xCC0)
    assert parse_percpu("base_addr=00000000f6238000 off=4 ptr=(null)") == PercpuFields(base_addr=0xF6238000, off=4)
    assert parse_percpu("size=x align=") == PercpuFields()


def test_masks_of_populating_pages() -> None:
    assert percpu_page_mask(0xC00 | 0x12000 | 2) == MASK_PERCPU_WORKER
    assert percpu_page_mask(0xCC0 | 2) == MASK_PERCPU
    for other in (0xCC0, 0x100CCA, 0xC00 | 2 | 0x100, 2, 0):
        assert percpu_page_mask(other) in (0, MASK_PERCPU) and percpu_page_mask(other) == 0


def test_handles_are_the_same_in_both_readings() -> None:
    first = PercpuAreas()
    assert first.free(9) == -1
    assert first.pre_dates(PercpuFields(ptr=9, base_addr=1, off=2))
    assert not first.pre_dates(PercpuFields(ptr=9)), "freed before in the trace, so no area pre-dates it any more"
    first.alloc(7)
    first.free(7)
    assert not first.pre_dates(PercpuFields(ptr=7))
    assert not first.pre_dates(PercpuFields(ptr=0))
    second = PercpuAreas(list(first.start))
    assert second.alloc(5) == (1, -1)
    assert second.free(9) == 0
    assert second.alloc(6) == (0, -1)
    assert second.alloc(5) == (1, 1), "a free was missed"
    assert second.top == 2


def test_areas_are_replayed(tmp_path: Path) -> None:
    run = run_of(tmp_path, alloc(0, 64, 100), alloc(10, 4096, 6), "20,1,percpu_free_percpu,64,,,,,",
                 "30,1,percpu_free_percpu,777,,,,,", "40,1,percpu_free_percpu,64,,,,,", alloc(50, 128, 40000))
    last = run.table("percpu").iloc[-1]
    assert (last.areas, last.units, last.bytes_requested, last.bytes_allocated) == (1, 2, 12, 16)
    counts = run.manifest["counts"]
    assert counts["percpu_free_of_unknown"] == 1
    assert counts["percpu_unusable"] == 1, "a second free"
    assert counts["model_percpu_failed"] == 1, "larger than the kernel serves"
    assert run.table("failures").event.tolist() == ["percpu_alloc_percpu"]


@pytest.mark.parametrize("shown", [True, False])
def test_pages_that_populate_belong_to_the_areas(tmp_path: Path, shown: bool) -> None:
    """Without percpu events the model has no reason to ask for these pages itself, so they stay requests."""
    worker = "GFP_NOIO|__GFP_HIGHMEM|__GFP_NOWARN|__GFP_NORETRY"
    pages = [f"{i},0,mm_page_alloc,,,{worker},0,{100 + i}," for i in range(4)]
    own = [f"{10 + i},0,mm_page_alloc,,,GFP_KERNEL|__GFP_HIGHMEM,0,{200 + i}," for i in range(2)]
    other = ["20,0,mm_page_alloc,,,GFP_KERNEL|__GFP_HIGHMEM,0,300,", "21,0,kmalloc,64,64,GFP_KERNEL,,,"]
    area = [alloc(15, 64, 100), alloc(25, 4096, 8)] if shown else []
    freed = ["30,0,mm_page_free,,,,0,100,", "31,0,mm_page_free,,,,0,300,"]
    rows = sorted([*pages, *own, *other, *area, *freed], key=lambda row: int(row.split(",")[0]))
    run = run_of(tmp_path, *rows)
    latency = run.table("latency")
    asked = int(latency[latency.op == "page_alloc"]["count"].sum())
    assert run.manifest["counts"]["percpu_page_owned"] == (7 if shown else 5)
    assert asked == (1 if shown else 7)
