"""
Traces of at most 30 events, followed by hand: every number below can be checked with a pencil.

The machine is the preset vm-512m-4cpu: zone DMA32 begins at pfn 4096, per-CPU page lists are filled with 31 blocks of
a page (kernel 6.1, MODEL 3.2: 116,224 pages // 1024 // 4 = 28; 2^floor(log2(42)) - 1).
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import memtrace as mt

HERE = Path(__file__).parent
_LAST = -1


def at_sample(run: mt.Run, table: str, t_ns: int = _LAST) -> pd.DataFrame:
    """Rows of one sample; the last one, unless said otherwise."""
    frame = run.table(table)
    return frame[frame.t_ns == (frame.t_ns.max() if t_ns == _LAST else t_ns)]


def stages(run: mt.Run, cache: str, cpu: int) -> dict[str, int]:
    """Counters of a cache on a CPU that are not zero."""
    frame = at_sample(run, "cpu_caches")
    row = frame[(frame.cache == cache) & (frame.cpu == cpu)].iloc[0].drop(["t_ns", "cpu", "cache"])
    return {name: int(n) for name, n in row.items() if n}


def free_blocks(run: mt.Run, t_ns: int = _LAST) -> dict[str, list[int]]:
    """Free blocks of DMA32 by type, from order 0 to 10; types without any are left out."""
    frame = at_sample(run, "buddy", t_ns)
    frame = frame[frame.zone == "DMA32"].sort_values("order")
    by_type = {str(mt): list(rows.nr_free) for mt, rows in frame.groupby("migratetype", observed=True)}
    return {name: blocks for name, blocks in by_type.items() if any(blocks)}


def zone(run: mt.Run, column: str, t_ns: int = _LAST) -> int:
    frame = at_sample(run, "zones", t_ns)
    return int(frame[frame.zone == "DMA32"][column].iloc[0])


# -- traces/hello.csv: the walk through it is traces/hello.md -----------------------------------------------------


@pytest.fixture(scope="module")
def hello(bundled: Path, tmp_path_factory: pytest.TempPathFactory) -> mt.Run:
    return mt.replay(bundled / "hello.csv", machine="vm-512m-4cpu", out=tmp_path_factory.mktemp("g") / "hello",
                     sample="1s", report=False, check=True)


def test_hello_objects(hello: mt.Run) -> None:
    # kmalloc-128 on CPU 0: 1001 makes a slab (slow), 1002 and 1004 are fast; the free of 1002 is fast.
    assert stages(hello, "kmalloc-128", 0) == {
        "alloc_fastpath": 2, "alloc_slowpath": 1, "alloc_slab": 1, "free_fastpath": 1,
    }
    # On CPU 1: 1005 makes a slab; the free of 1001 goes to CPU 0's slab, which is frozen.
    assert stages(hello, "kmalloc-128", 1) == {
        "alloc_slowpath": 1, "alloc_slab": 1, "free_slowpath": 1, "free_frozen": 1,
    }
    assert stages(hello, "kmalloc-192", 0) == {"alloc_slowpath": 1, "alloc_slab": 1}
    assert stages(hello, "dentry", 0) == {
        "alloc_fastpath": 1, "alloc_slowpath": 1, "alloc_slab": 1, "free_fastpath": 1,
    }


def test_hello_caches(hello: mt.Run) -> None:
    frame = at_sample(hello, "caches").set_index("cache")
    frame = frame[frame.num_slabs > 0]
    columns = ["size", "objperslab", "num_slabs", "num_objs", "active_objs", "bytes_requested", "bytes_allocated"]
    assert {name: tuple(int(n) for n in row) for name, row in frame[columns].iterrows()} == {
        # Alive: 1004 (97 bytes) and 1005 (100). /proc counts what lies in CPU slabs as active.
        "kmalloc-128": (128, 32, 2, 64, 64, 97 + 100, 2 * 128),
        "kmalloc-192": (192, 21, 1, 21, 21, 129, 192),
        "dentry": (192, 21, 1, 21, 21, 192, 192),
    }


def test_hello_pages(hello: mt.Run) -> None:
    # Boot gave DMA32 116,224 pages: 113 blocks of 1,024 and one of 512, all Movable.
    assert free_blocks(hello, 0) == {"Movable": [0] * 9 + [1, 113]}
    # The first Unmovable request claims the first block of 1,024 (pfn 4096). Of it, CPU 0's list gets 31 pages and
    # CPU 1's 31; 7 blocks of order 2 go to CPU 0's list for kmalloc(10000). Page 62 to 1,023 of it:
    #   62..63 order 1; 64..91 the seven blocks; 92..95 order 2; 96..127 order 5; then orders 7, 8 and 9.
    # Movable pages come from the smallest block that will do, the one of 512: 31 pages leave orders 0, 5, 6, 7, 8.
    assert free_blocks(hello) == {
        "Unmovable": [0, 1, 1, 0, 0, 1, 0, 1, 1, 1, 0],
        "Movable": [1, 0, 0, 0, 0, 1, 1, 1, 1, 0, 112],
    }
    lists = at_sample(hello, "pcp")
    lists = lists[lists.zone == "DMA32"].sort_values("cpu")
    # CPU 0: 31 - 3 slabs, 7 blocks of 4 pages (one came back), 31 - 2 + 1 Movable; CPU 1: 31 - 1 slab.
    assert list(lists["count"]) == [28 + 28 + 30, 30, 0, 0]
    assert list(lists.refills) == [3, 1, 0, 0]
    assert zone(hello, "slab_pages") == 4
    # All but the lists' pages, the slabs and page 4002, which is still in use.
    assert zone(hello, "free_pages") == 116_224 - (86 + 30) - 4 - 1


def test_hello_latency_paths(hello: mt.Run) -> None:
    frame = hello.table("latency")
    counted = {(row.op, row.path, row.cpu): 0 for row in frame.itertuples()}
    for row in frame.itertuples():
        counted[row.op, row.path, row.cpu] += row.count
    assert counted == {
        ("alloc", "fastpath", 0): 3, ("alloc", "new_slab", 0): 3, ("alloc", "new_slab", 1): 1, ("alloc", "large", 0): 1,
        ("free", "fastpath", 0): 2, ("free", "slowpath", 1): 1, ("free", "large", 0): 1, ("free", "nothing", 0): 1,
        ("page_alloc", "pcp_refill", 0): 1, ("page_alloc", "pcp", 0): 1, ("page_alloc", "buddy", 1): 1,
        ("page_free", "pcp", 0): 1, ("page_free", "buddy", 1): 1,
    }


def test_hello_zone_lock(hello: mt.Run) -> None:
    # 4 refills; before CPU 0's first one, the fallback's move of the block; and an order-4 block taken and given.
    (lock,) = hello.table("locks").itertuples()
    assert (lock.lock, lock.acquisitions, lock.contended) == ("zone->lock N0 DMA32", 7, 0)


# -- two_cpus.csv: how an object freed by another CPU comes back --------------------------------------------------


@pytest.fixture(scope="module")
def two_cpus(tmp_path_factory: pytest.TempPathFactory) -> mt.Run:
    return mt.replay(HERE / "two_cpus.csv", machine="vm-512m-4cpu", out=tmp_path_factory.mktemp("g") / "two_cpus",
                     sample="1s", report=False, check=True)


def test_two_cpus(two_cpus: mt.Run) -> None:
    """
    kmalloc-8k has four objects in a slab of eight pages, and may keep three slabs on a CPU's partial list.

    CPU 0: objects 1 to 4 fill a slab (one slow, three fast); 5 finds it full (bypass) and makes a second one.
    CPU 1 frees 2: the first slab was full, so it is frozen for CPU 1 (cpu_partial_free). It frees 3: frozen.
    CPU 0 frees 5, fast.
    CPU 1 allocates 6: no slab of its own, but one waiting (cpu_partial_alloc), whose two objects become its freelist
    (alloc_refill); 7 is fast; 8 finds it full (bypass), nobody has a partial slab, so a third one is made.
    CPU 0 frees 1: the first slab is full again, since CPU 1 forgot it, and is frozen for CPU 0. 9 is fast: CPU 0
    has its second slab still. CPU 1 frees 9: that is CPU 0's slab, frozen.
    """
    assert stages(two_cpus, "kmalloc-8k", 0) == {
        "alloc_fastpath": 4, "alloc_slowpath": 2, "alloc_slab": 2, "deactivate_bypass": 1, "free_fastpath": 1,
        "free_slowpath": 1, "cpu_partial_free": 1,
    }
    assert stages(two_cpus, "kmalloc-8k", 1) == {
        "alloc_fastpath": 1, "alloc_slowpath": 2, "alloc_slab": 1, "alloc_refill": 1, "deactivate_bypass": 1,
        "cpu_partial_alloc": 1, "free_slowpath": 3, "free_frozen": 2, "cpu_partial_free": 1,
    }
    cache = at_sample(two_cpus, "caches").set_index("cache").loc["kmalloc-8k"]
    # Slabs: the second is CPU 0's, the third CPU 1's, the first waits on CPU 0's partial list. Alive: 4, 6, 7, 8.
    assert (cache.num_slabs, cache.num_objs, cache.cpu_slabs, cache.nr_partial) == (3, 12, 3, 0)
    assert (cache.bytes_requested, cache.bytes_allocated) == (4 * 8192, 4 * 8192)
    lists = at_sample(two_cpus, "pcp")
    # A refill of order 3 takes 31 >> 3 = 3 blocks. CPU 0 used two of them, CPU 1 one.
    assert list(lists[lists.zone == "DMA32"].sort_values("cpu")["count"]) == [8, 16, 0, 0]


# -- pages.csv: splitting, merging, claiming ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> mt.Run:
    """With 64 MiB, DMA32 has 3,328 pages to give (4096..7423), and lists take single blocks (batch 1, high 97)."""
    return mt.replay(HERE / "pages.csv", machine="vm-512m-4cpu", memory="64M", cpus=1,
                     out=tmp_path_factory.mktemp("g") / "pages", sample="1s", report=False, check=True)


def test_pages_split(pages: mt.Run) -> None:
    assert free_blocks(pages, 0) == {"Movable": [0] * 8 + [1, 0, 3]}
    # Two blocks of order 4 come out of the block of 256; the first is free again, but its buddy is in use.
    assert free_blocks(pages, 4000) == {"Movable": [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 3]}
    assert zone(pages, "free_pages", 4000) == 3328 - 16


def test_pages_claim(pages: mt.Run) -> None:
    # The first Unmovable page claims the block of 1,024 at 4096, that is two pageblocks. Pages 0 and 1 are taken, and
    # the block of order 3 at 8: what is left begins at 2 (order 1), 4 (order 2), 16, 32, .. 512.
    assert free_blocks(pages, 8000) == {
        "Unmovable": [0, 1, 1, 0, 1, 1, 1, 1, 1, 1, 0], "Movable": [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 2],
    }
    types = at_sample(pages, "pageblock_types", 8000)
    types = types[types.zone == "DMA32"].set_index("migratetype").nr_blocks
    assert (types["Unmovable"], types["Movable"]) == (2, 22)


def test_pages_merge(pages: mt.Run) -> None:
    # The second block of order 4 makes the 256 whole again. The three Unmovable blocks wait on the CPU's lists, so
    # theirs stays in pieces. A request for 1,024 pages claims another block; one for 2,048 is impossible.
    assert free_blocks(pages) == {
        "Unmovable": [0, 1, 1, 0, 1, 1, 1, 1, 1, 1, 0], "Movable": [0] * 8 + [1, 0, 1],
    }
    assert zone(pages, "pcp_pages") == 1 + 1 + 8
    assert zone(pages, "free_pages") == 3328 - 10 - 1024
    (failure,) = pages.table("failures").itertuples()
    assert (failure.row, failure.order, failure.event) == (14, 11, "mm_page_alloc")
    moved = pages.table("events")
    assert [(row.kind, row.row, row.pfn) for row in moved.itertuples()] == [("extfrag", 5, 4096), ("extfrag", 13, 5120)]


# -- caches.csv ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["fused", "reference"])
def caches(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> mt.Run:
    return mt.replay(HERE / "caches.csv", machine="vm-512m-4cpu", out=tmp_path_factory.mktemp("g") / "caches",
                     sample="1s", report=False, check=True, engine=request.param)


def hand_made(run: mt.Run, t_ns: int) -> dict[str, tuple[int, ...]]:
    """(object_size, size, num_slabs) of the caches that the trace creates, as they are at a marker."""
    frame = at_sample(run, "caches", t_ns).set_index("cache")
    columns = ["object_size", "size", "num_slabs"]
    return {name: tuple(frame.loc[name, columns]) for name in ("hand", "twin", "late") if name in frame.index}


@pytest.mark.parametrize("allocator", ["slab", "slob"])
def test_caches_come_and_go_under_every_allocator(allocator: str, tmp_path: Path) -> None:
    """SLAB keeps a cache in use, SLOB cannot tell; neither loses an object."""
    run = mt.replay(HERE / "caches.csv", machine="vm-512m-4cpu", out=tmp_path / "run", sample="1s", report=False,
                    check=True, allocator=allocator)
    counts = run.manifest["counts"]
    assert counts.get("cache_destroy_refused", 0) == (1 if allocator == "slab" else 0)
    assert "free_of_nothing" not in counts


def test_created_caches(caches: mt.Run) -> None:
    """``hand`` has a constructor, so it is alone; ``late`` and ``twin`` become aliases of a cache of 256 bytes."""
    assert hand_made(caches, 0) == {"hand": (200, 256, 0)}
    assert hand_made(caches, 7000) == {"hand": (200, 256, 2)}, "others were merged into kmalloc-256"
    frame = at_sample(caches, "caches", 7000).set_index("cache")
    assert frame.loc["kmalloc-256", "num_slabs"] == 1


def test_destroyed_caches(caches: mt.Run) -> None:
    """A cache with live objects stays for good; one that merged is only forgotten; a new one has its own sizes."""
    assert hand_made(caches, 11000) == {"hand": (200, 256, 2)}
    assert hand_made(caches, 16000) == {"hand": (200, 256, 2)}
    assert hand_made(caches, 18000) == {"hand": (200, 256, 2), "twin": (250, 512, 1)}
    counts = caches.manifest["counts"]
    assert counts["cache_destroy_refused"] == 1
    assert counts["cache_not_there"] == 1  # the allocation at 13 us
    # The shrink took both CPUs' slabs away, each by itself.
    flushes = at_sample(caches, "cpu_caches").query("cache == 'hand'").set_index("cpu").cpuslab_flush
    assert dict(flushes) == {0: 1, 1: 1}
