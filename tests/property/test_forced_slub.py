"""
SLUB forced along recordings that the model itself made: nothing may be wrong, and what was disturbed is put right.

A random workload runs on a small machine of two CPUs, and is written as an instrumented kernel would: a slab's page
before the object that it was for, its free behind the free that caused it.
"""

from __future__ import annotations

import random
from array import array
from pathlib import Path
from typing import Any, cast

import pytest
from small_machines import booted, open_zone

from memtrace.config import SlubParams
from memtrace.fidelity.slub_driver import ForcedSlub, SlubDriver
from memtrace.fidelity.slub_lists import chain, slabs_from
from memtrace.fidelity.slub_script import write_script
from memtrace.mm.gfp import GFP_KERNEL
from memtrace.mm.machine import Machine
from memtrace.mm.slub import Slub
from memtrace.mm.slub_validate import validate_slub
from memtrace.snapshot.exact_dump import ExactDump
from memtrace.start import map_caches
from memtrace.trace.source import open_trace

BASE = 0xFFFF888000000000
HEADER = "ts_ns,cpu,event,ctx,call_site,ptr,name,bytes_req,bytes_alloc,gfp_flags,node,pfn,order,text"
NAMED = "things"
CPUS = 2


def fresh() -> Machine:
    """A machine that keeps few partial slabs, so that slabs come and go."""
    machine = booted(open_zone("DMA", 4, 4), open_zone("DMA32", 16, 16), cpus=CPUS,
                     slub=SlubParams(cpu_partial=2, min_partial=1))
    machine.slab.create_cache(NAMED, 700)
    return machine


class Recorder:
    """A machine whose requests and slab pages are written down."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.machine = fresh()
        self.slub = cast(Slub, self.machine.slab)
        self.things = self.machine.find_cache(NAMED)
        self.rows: list[str] = []
        self.live: list[tuple[int, bool]] = []

    def row(self, cpu: int, event: str, **known: Any) -> None:
        columns = HEADER.split(",")[3:]
        shown = ",".join(str(known.get(column, "")) for column in columns)
        self.rows.append(f"{len(self.rows) * 1000},{cpu},{event},{shown}")

    def slabs(self) -> dict[int, int]:
        """First pfn -> order of every slab."""
        slub = self.slub
        return {slub.sl_pfn[i]: slub.sl_order[i] for i in range(slub.nr_rows) if slub.sl_pfn[i] >= 0}

    def pages(self, cpu: int, before: dict[int, int], event: str) -> None:
        """Write the slabs that are in only one of ``before`` and now."""
        now = self.slabs()
        old, new = (before, now) if event == "mm_page_alloc" else (now, before)
        for pfn in new.keys() - old.keys():
            flags = "GFP_KERNEL|__GFP_NOWARN|__GFP_NORETRY" if event == "mm_page_alloc" else ""
            self.row(cpu, event, pfn=pfn, order=new[pfn], gfp_flags=flags)

    def alloc(self, cpu: int) -> None:
        before, size = self.slabs(), self.rng.choice((0, 400, 1000, 3000))
        if size:
            addr = self.machine.kmalloc(size, GFP_KERNEL, -1, cpu)
        else:
            addr = self.machine.cache_alloc(self.things, GFP_KERNEL, -1, cpu)
        self.pages(cpu, before, "mm_page_alloc")
        known: dict[str, Any] = {"ptr": hex(BASE + addr), "gfp_flags": "GFP_KERNEL", "node": -1,
                                 "bytes_alloc": self.machine.last_bytes, "call_site": f"f{size}"}
        if size:
            self.row(cpu, "kmalloc", bytes_req=size, **known)
        else:
            self.row(cpu, "kmem_cache_alloc", name=NAMED, bytes_req=700, **known)
        self.live.append((addr, size > 0))

    def bulk_alloc(self, cpu: int) -> None:
        """Objects that the CPU has; a page in the middle of an array is another test's business."""
        s = self.slub.caches[self.things]
        has = len(chain(self.slub, s.c_slab[cpu], s.c_freelist[cpu])) if s.c_slab[cpu] >= 0 else 0
        for _ in range(self.rng.randint(0, has)):
            addr = self.machine.bulk_alloc_one(self.things, GFP_KERNEL, cpu)
            self.row(cpu, "gt_bulk_obj", ptr=hex(BASE + addr), name=NAMED, call_site="bulk_in", text="alloc")
            self.live.append((addr, False))

    def free(self, cpu: int) -> None:
        addr, plain = self.live.pop(self.rng.randrange(len(self.live)))
        before = self.slabs()
        self.row(cpu, "kfree" if plain else "kmem_cache_free", ptr=hex(BASE + addr), name="" if plain else NAMED)
        self.machine.kfree(addr, cpu)
        self.pages(cpu, before, "mm_page_free")

    def bulk_free(self, cpu: int) -> None:
        """Some objects of one slab."""
        slab = self.machine.frames.slab
        known = [addr for addr, plain in self.live if not plain]
        if not known:
            return
        one = self.rng.choice(known)
        addrs = [addr for addr in known if slab[addr >> 12] == slab[one >> 12]][:4]
        before = self.slabs()
        self.row(cpu, "rcu_invoke_kfree_bulk_callback")  # else nothing tells two arrays apart
        for addr in addrs:
            self.live.remove((addr, False))
            self.row(cpu, "gt_bulk_obj", ptr=hex(BASE + addr), name=NAMED, call_site="bulk_out", text="free")
        self.machine.bulk_free(array("q", addrs), len(addrs), cpu)
        self.pages(cpu, before, "mm_page_free")

    def work(self, steps: int) -> None:
        """Phases of growth and of shrinking, so that partial lists overflow."""
        for step in range(steps):
            grows = step % 600 < 320
            cpu = self.rng.randrange(CPUS)
            if not self.live or self.rng.random() < (0.75 if grows else 0.15):
                self.rng.choice((self.alloc, self.alloc, self.alloc, self.bulk_alloc))(cpu)
            else:
                self.rng.choice((self.free, self.free, self.free, self.bulk_free))(cpu)


def force(rows: list[str], path: Path) -> tuple[Slub, ForcedSlub]:
    """Force a fresh machine along these rows."""
    path.write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    machine = fresh()
    with open_trace(path) as reader:
        script = write_script(reader, 0)
    assert script.census.direct_map_base == BASE
    driver = SlubDriver(machine, script, map_caches(machine, script.census), {}, ExactDump("", 0, "", 0))
    return cast(Slub, machine.slab), driver.run()


def state(slub: Slub) -> dict[str, Any]:
    """Every list of every cache, in order, and its counters."""
    found: dict[str, Any] = {}
    for s in slub.caches:
        for cpu in range(slub.nr_cpus):
            row = s.c_slab[cpu]
            found[f"{s.name} cpu {cpu}"] = (
                slub.sl_pfn[row] if row >= 0 else -1, chain(slub, row, s.c_freelist[cpu]) if row >= 0 else [],
                [slub.sl_pfn[at] for at in slabs_from(slub, s.c_partial[cpu])],
            )
        found[f"{s.name} node"] = [
            (slub.sl_pfn[at], chain(slub, at, slub.sl_free[at])) for at in slabs_from(slub, s.n_first[0])
        ]
        found[f"{s.name} counters"] = [s.stat[i] for i in range(len(s.stat))]
    return found


@pytest.mark.parametrize("seed", range(6))
def test_a_recording_of_the_model_itself_is_repeated(seed: int, tmp_path: Path) -> None:
    """Every object, slab and list, without one repair."""
    recorder = Recorder(seed)
    recorder.work(2500)
    slub, found = force(recorder.rows, tmp_path / "trace.csv")
    assert found.repairs == {}
    assert found.wrong == []
    assert sum(found.objects.values()) + sum(found.bulk.values()) > 1000
    assert found.new_slabs == found.new_slabs_right
    assert found.freed == found.freed_right >= 4
    assert state(slub) == state(recorder.slub)
    validate_slub(slub)


def disturbed(rows: list[str], rng: random.Random, times: int) -> list[str]:
    """The rows, with some frees moved before what the other CPU did just before, as stalls and interrupts do."""
    out = [row.split(",") for row in rows]
    done = 0
    while done < times:
        i = rng.randrange(1, len(out) - 1)
        row = out[i]
        if row[2] not in ("kfree", "kmem_cache_free") or out[i + 1][2] == "mm_page_free":
            continue
        for _ in range(rng.randint(1, 8)):
            before = out[i - 1]
            if i == 1 or before[1] == row[1] or before[5] == row[5]:
                break
            out[i - 1], out[i] = row, before
            i -= 1
        done += 1
    return [",".join([str(n * 1000), *row[1:]]) for n, row in enumerate(out)]


@pytest.mark.parametrize("seed", range(10))
def test_a_disturbed_recording_is_put_right(seed: int, tmp_path: Path) -> None:
    """Whatever was wrong, the state stays whole and holds what the recording holds; few objects are wrong."""
    recorder = Recorder(seed)
    recorder.work(2500)
    rows = disturbed(recorder.rows, random.Random(seed), 200)
    slub, found = force(rows, tmp_path / "trace.csv")
    validate_slub(slub)
    assert all(slub.is_live(addr) for addr, _ in recorder.live)
    assert sum(found.repairs.values()) < 100
    assert len(found.wrong) < 0.1 * sum(found.objects.values())


def test_disturbing_shows(tmp_path: Path) -> None:
    """The disturbance of the test above is one that needs repairs."""
    repairs = 0
    for seed in range(4):
        recorder = Recorder(seed)
        recorder.work(1500)
        _, found = force(disturbed(recorder.rows, random.Random(seed), 200), tmp_path / f"{seed}.csv")
        repairs += sum(found.repairs.values())
    assert repairs > 0
