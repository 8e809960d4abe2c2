"""Does read_exact find every list in a dump, in its order, and refuse a dump that is not whole?"""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace.errors import TraceError
from memtrace.snapshot.exact import find_start, read_exact
from memtrace.snapshot.proc import read_proc

SLUB = """\
=== SNAP 3 start clock=27993753501 overflow=0
ZONE node=0 name=DMA32 idx=1 start_pfn=0x1000 spanned=4096 present=4096 managed=4000 min=463 low=578 high=693 boost=7 \
free=13 lowmem_reserve=0,451,451,451 highatomic=0 compact_considered=0
VMSTATDIFF 0 5 0 -1
FREE order=0 mt=1 : 1f431 1f4b1 a
FREE order=2 mt=0 : 100
PCP cpu=0 count=6 high=9 batch=1 free_factor=2 expire=3
PCPL cpu=0 order=0 mt=1 : 7 5
PCPL cpu=0 order=2 mt=0 : c
PCP cpu=1 count=0 high=9 batch=1 free_factor=0 expire=0
PAGEBLOCKS order=10 :01-2
CACHE name=mqueue_inode_cache size=960 object_size=896 offset=896 align=64 order=2 objs=17 min_order=0 min_objs=4 \
min_partial=5 cpu_partial=52 cpu_partial_slabs=7 flags=0x40002000 refcount=1 ctor=1 allocflags=0x40000 \
remote_node_defrag_ratio=1000
STAT alloc_fastpath 524 0 0 1
CPUSLAB cpu=1 pfn=207ff order=2 inuse=17 objects=17 frozen=1 free: 3
CPUFREE cpu=1 pfn=207ff : e 10 f
CPUPARTIAL cpu=1 slabs=2 pfn=c892 order=2 inuse=15 objects=17 frozen=1 free: 1 0
CPUPARTIAL cpu=1 slabs=1 pfn=c89f order=2 inuse=16 objects=17 frozen=1 free: 5
NODE node=0 nr_slabs=4 total_objects=68 nr_partial=1
NODEPARTIAL node=0 pfn=c86c order=2 inuse=15 objects=17 frozen=0 free: 10 0
=== END 3 start overflow=0
"""

SLAB = """\
=== SNAP 1 start clock=5 overflow=0
ZONE node=0 name=DMA idx=0 start_pfn=0x1 spanned=4095 present=3998 managed=3840 min=0 low=0 high=0 boost=0 free=0 \
lowmem_reserve=0,0,0,0
CACHE name=kmalloc-64 size=64 object_size=64 align=64 num=64 gfporder=0 colour=0 colour_off=64 freelist_size=64 \
batchcount=60 limit=120 shared=8 flags=0x40003000 allocflags=0x40000 refcount=1 ctor=0 off_slab=0 objfreelist=1
STAT num_active=42332 grown=663
CPUCACHE 0 -1 avail=2 limit=120 batchcount=60 touched=1 : ffff88800e5dc000 ffff88800e5dc040
NODE node=0 total_slabs=3 free_slabs=1 free_objects=100 free_limit=304 colour_next=0 free_touched=0
SHARED 0 -1 avail=1 limit=480 batchcount=3131961357 touched=0 : ffff88800e60d900
ALIEN 0 1 avail=0 limit=12 batchcount=3 touched=0 :
PARTIAL node=0 pfn=5cf3 active=63 s_mem_off=140 free: 31
FULL node=0 pfn=f5ae active=64 s_mem_off=0 free:
FREE_SLAB node=0 pfn=e2aa active=0 s_mem_off=0 free: 0 1 2
=== END 1 start overflow=0
"""

SLOB = """\
=== SNAP 1 start clock=5 overflow=0
ZONE node=0 name=DMA idx=0 start_pfn=0x1 spanned=4095 present=3998 managed=3840 min=0 low=0 high=0 boost=0 free=0 \
lowmem_reserve=0,0,0,0
CACHE name=bio-96 size=120 object_size=96 align=64 flags=0x82000 ctor=0
SLOBUNIT 2
SLOBLIST small
SLOBPAGE pfn=ecbc units=52 free(off:units): 10c:4 450:30
SLOBLIST large
=== END 1 start overflow=0
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "gt_snap.txt"
    path.write_text(text)
    return path


def test_zones_and_page_lists(tmp_path: Path) -> None:
    dump = read_exact(write(tmp_path, SLUB))
    assert (dump.number, dump.name, dump.clock_ns, dump.marker) == (3, "start", 27993753501, "GT_SNAP 3 start")
    assert (dump.cpus, dump.nodes, dump.allocator) == (2, 1, "slub")
    (zone,) = dump.zones
    assert (zone.index, zone.start_pfn, zone.managed, zone.boost) == (1, 0x1000, 4000, 7)
    assert zone.lowmem_reserve == (0, 451, 451, 451)
    assert zone.vmstat_diff == (0, 5, 0, -1)
    assert zone.free_lists == {(0, 1): [0x1F431, 0x1F4B1, 0xA], (2, 0): [0x100]}
    assert zone.pcp[0].lists == {(0, 1): [7, 5], (2, 0): [0xC]}
    assert (zone.pcp[0].free_factor, zone.pcp[0].expire) == (2, 3)
    assert (zone.pageblock_order, zone.pageblocks) == (10, (0, 1, -1, 2))


def test_slub_cache(tmp_path: Path) -> None:
    (cache,) = read_exact(write(tmp_path, SLUB)).slub
    assert (cache.name, cache.size, cache.offset, cache.ctor) == ("mqueue_inode_cache", 960, 896, True)
    assert (cache.flags, cache.remote_node_defrag_ratio) == (0x40002000, 1000)
    assert cache.stats == {"alloc_fastpath": (524, 0, 0, 1)}
    assert cache.cpu_slabs[1].slab.freelist == [3]
    assert cache.cpu_slabs[1].cpu_freelist == [0xE, 0x10, 0xF]
    assert [slab.pfn for slab in cache.cpu_partials[1]] == [0xC892, 0xC89F]
    assert cache.cpu_partial_counts[1] == [2, 1]
    assert cache.nodes[0].nr_slabs == 4
    assert [(slab.pfn, slab.frozen, slab.freelist) for slab in cache.nodes[0].partial] == [(0xC86C, False, [0x10, 0])]


def test_slab_cache(tmp_path: Path) -> None:
    dump = read_exact(write(tmp_path, SLAB))
    assert dump.allocator == "slab"
    (cache,) = dump.slab
    assert (cache.gfporder, cache.limit, cache.off_slab, cache.objfreelist) == (0, 120, False, True)
    assert cache.stats == {"num_active": 42332, "grown": 663}
    assert cache.cpu_caches[0].entries == [0xFFFF88800E5DC000, 0xFFFF88800E5DC040]
    node = cache.nodes[0]
    assert node.shared is not None
    assert (node.shared.avail, node.alien[1].limit, node.free_limit) == (1, 12, 304)
    assert [page.pfn for page in (*node.partial, *node.full, *node.free)] == [0x5CF3, 0xF5AE, 0xE2AA]
    assert (node.partial[0].s_mem_off, node.partial[0].freelist) == (0x140, [0x31])


def test_slob_lists(tmp_path: Path) -> None:
    dump = read_exact(write(tmp_path, SLOB))
    assert (dump.allocator, dump.slob_unit_bytes) == ("slob", 2)
    assert dump.slob_lists["large"] == []
    (page,) = dump.slob_lists["small"]
    assert (page.pfn, page.free) == (0xECBC, [(0x10C, 4), (0x450, 0x30)])
    assert page.units == sum(units for _, units in page.free)


@given(cut=st.integers(1, SLUB.count("\n") - 1))
def test_a_dump_cut_off_after_any_line_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    text = "".join(SLUB.splitlines(keepends=True)[:cut])
    with pytest.raises(TraceError, match="cut off"):
        read_exact(write(tmp_path_factory.mktemp("cut"), text))


@given(
    line=st.integers(0, SLUB.count("\n") - 1),
    junk=st.sampled_from(["ZONE x", "FREE 1", "PCPL cpu=9 order=0 mt=0 : 1", "?"]),
)
def test_a_wrong_line_is_named_with_its_number(
    tmp_path_factory: pytest.TempPathFactory, line: int, junk: str
) -> None:
    lines = SLUB.splitlines()
    lines.insert(line, junk)
    path = write(tmp_path_factory.mktemp("junk"), "\n".join(lines))
    with pytest.raises(TraceError, match=f":{line + 1}: "):
        read_exact(path)


def test_what_is_no_dump_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="is empty"):
        read_exact(write(tmp_path, ""))
    with pytest.raises(TraceError, match="overflowed"):
        read_exact(write(tmp_path, SLUB.replace("overflow=0", "overflow=1")))
    with pytest.raises(TraceError, match="cannot be read"):
        read_exact(tmp_path / "nothing")
    with pytest.raises(TraceError, match="cannot be read"):
        read_exact(tmp_path)
    packed = tmp_path / "gt_snap.txt.gz"
    packed.write_bytes(gzip.compress(SLUB.encode())[:-60])
    with pytest.raises(TraceError, match="cut off or damaged"):
        read_exact(packed)


def test_find_start_names_the_markers(tmp_path: Path) -> None:
    folder = tmp_path / "after"
    folder.mkdir()
    with pytest.raises(TraceError, match="nothing to start from"):
        find_start(folder)
    (folder / "gt_snap.txt.gz").write_bytes(gzip.compress(SLUB.encode()))
    start = find_start(folder)
    assert (start.exact, start.proc) == (folder / "gt_snap.txt.gz", False)
    assert (start.exact_marker, start.proc_marker) == ("GT_SNAP 3 start", "")
    for name in ("zoneinfo", "buddyinfo"):
        (folder / name).write_text("")
    assert find_start(folder).proc_marker == "SNAP_BEGIN after"
    with pytest.raises(TraceError, match="no such snapshot folder"):
        find_start(tmp_path / "nowhere")


def test_bundled_snapshot_is_proc_files_only(bundled: Path) -> None:
    start = find_start(bundled / "build-and-serve-6.18" / "start")
    assert (start.exact, start.proc, start.proc_marker) == (None, True, "SNAP_BEGIN start")


def test_recorded_dumps_are_whole(ground_truth: Path) -> None:
    paths = sorted(ground_truth.glob("*/snapshots/*/gt_snap.txt.gz"))
    assert len(paths) > 15
    for path in paths:
        dump = read_exact(path)
        for zone in dump.zones:
            listed = sum(len(pfns) << order for (order, _), pfns in zone.free_lists.items())
            assert listed == zone.free + sum(zone.vmstat_diff), path
            for pcp in zone.pcp:
                assert pcp.count == sum(len(pfns) << order for (order, _), pfns in pcp.lists.items()), path
        for cache in dump.slub:
            for node in cache.nodes.values():
                assert len(node.partial) == node.nr_partial, path
                for slab in node.partial:
                    assert len(slab.freelist) == slab.objects - slab.inuse, path


def test_recorded_dumps_agree_with_the_proc_files_beside_them(ground_truth: Path) -> None:
    for path in sorted(ground_truth.glob("*/snapshots/start/gt_snap.txt.gz")):
        dump, proc = read_exact(path), read_proc(path.parent)
        assert [(z.node, z.name, z.start_pfn, z.managed, z.min, z.low, z.high) for z in dump.zones] == [
            (z.node, z.name, z.start_pfn, z.managed, z.min, z.low, z.high) for z in proc.zones
        ]
        by_name = {cache.name: cache for cache in proc.caches}
        for cache in dump.slub:
            row = by_name[cache.name]
            assert (row.size, row.objperslab, row.order) == (cache.size, cache.objs, cache.order)
            assert (row.min_partial, row.cpu_partial) == (cache.min_partial, cache.cpu_partial)
