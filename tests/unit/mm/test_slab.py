"""SLAB step by step on small machines: what each rule of MODEL 7 does, and what a dump lays out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from small_machines import config, kernel, open_zone

from memtrace.config import SlabParams
from memtrace.errors import ConfigError, ModelError
from memtrace.mm.boot import boot, build
from memtrace.mm.constants import SLAB_HWCACHE_ALIGN, SLABS_FREE, SLABS_FULL, SLABS_PARTIAL
from memtrace.mm.gfp import GFP_ATOMIC, GFP_DMA, GFP_KERNEL
from memtrace.mm.machine import Machine
from memtrace.mm.restore import restore_exact
from memtrace.mm.slab_geometry import OBJFREELIST, ON_SLAB, geometry, is_early, kmalloc_size, stride
from memtrace.mm.stats import NR_SLAB_STATS, SLAB_STATS
from memtrace.snapshot.exact_dump import ArrayCache, ExactDump, ExactPcp, ExactZone, SlabCache, SlabNode, SlabPage

HZ = 250


def machine(cpus: int = 1, nodes: int = 1, **params: int) -> Machine:
    zones = [open_zone("Normal", 16 * (n + 1), 16, n) for n in range(nodes)]
    return boot(config(*zones, cpus=cpus), replace(kernel(), slab=SlabParams(**params)), 0, "slab")


def counters(m: Machine, cache: int) -> dict[str, int]:
    stat = list(m.slab.caches[cache].stat)
    sums = {name: sum(stat[i::NR_SLAB_STATS]) for i, name in enumerate(SLAB_STATS)}
    return {name: n for name, n in sums.items() if n}


def array_of(m: Machine, cache: int, cpu: int = 0) -> list[int]:
    ac = m.slab.caches[cache].cpu_cache[cpu]
    return list(ac.entry)[: ac.avail]


WORKED = [
    # MODEL 7.2: object size, kind, stride, order, objects, bytes left
    (8, 2, 16, 0, 240, 16), (32, 2, 32, 0, 124, 4), (64, 0, 64, 0, 64, 0), (96, 0, 96, 0, 42, 64),
    (128, 0, 128, 0, 32, 0), (192, 0, 192, 0, 21, 64), (256, 0, 256, 0, 16, 0), (320, 0, 320, 0, 12, 256),
    (448, 0, 448, 0, 9, 64), (512, 0, 512, 0, 8, 0), (640, 0, 640, 0, 6, 256), (704, 0, 704, 1, 11, 448),
    (1024, 0, 1024, 0, 4, 0), (1152, 0, 1152, 1, 7, 128), (1536, 0, 1536, 1, 5, 512), (2048, 0, 2048, 0, 2, 0),
    (2304, 0, 2304, 1, 3, 1280), (4096, 0, 4096, 0, 1, 0), (6144, 0, 6144, 1, 1, 2048), (8192, 0, 8192, 1, 1, 0),
]


@pytest.mark.parametrize(("object_size", "kind", "size", "order", "num", "left"), WORKED)
def test_worked_geometry(object_size: int, kind: int, size: int, order: int, num: int, left: int) -> None:
    assert stride(object_size, 8, 8) == size
    assert geometry(size, object_size, False, False, False, 1) == (kind, order, num, left)


def test_geometry_of_constructed_and_reclaimable_objects() -> None:
    assert geometry(64, 64, True, False, False, 1) == (ON_SLAB, 0, 63, 1)
    assert geometry(600, 600, True, False, True, 1) == (ON_SLAB, 0, 6, 490)
    assert geometry(704, 704, False, False, True, 1)[:2] == (OBJFREELIST, 0), "reclaimable caches keep to order 0"
    assert geometry(704, 704, False, False, False, 0)[1] == 0, "small machines keep to order 0"


def test_kmalloc_classes() -> None:
    """Nothing below 32 bytes; 96 has the stride of 128 (MODEL 5.1, EXACT D C9)."""
    m = machine()
    sizes = {}
    for size in (1, 8, 32, 33, 64, 65, 96, 97, 128, 129, 192, 193, 4097, 8192):
        m.kmalloc(size, GFP_KERNEL, -1, 0)
        sizes[size] = m.last_bytes
        assert kmalloc_size(size) == m.last_bytes
    assert sizes == {1: 32, 8: 32, 32: 32, 33: 64, 64: 64, 65: 128, 96: 128, 97: 128, 128: 128, 129: 192, 192: 192,
                     193: 256, 4097: 8192, 8192: 8192}
    m.kmalloc(70, GFP_DMA | GFP_KERNEL, -1, 0)
    assert m.cache_names[m.last_cache] == "dma-kmalloc-96"


def test_first_allocation_grows_and_takes_sixteen() -> None:
    """A new array counts as idle, so its first refill takes 16; objects are popped from the top (MODEL 7.4)."""
    m = machine()
    cache = m.slab.create_cache("probe", 64, merge=False)
    first = m.cache_alloc(cache, GFP_KERNEL, -1, 0)
    assert array_of(m, cache) == [first - 64 * i for i in range(15, 0, -1)]
    assert counters(m, cache) == {"alloc_slowpath": 1, "alloc_slab": 1, "allocmiss": 1, "listallocs": 16}
    for _ in range(16):
        m.cache_alloc(cache, GFP_KERNEL, -1, 0)
    assert counters(m, cache)["listallocs"] == 16 + 48, "the second takes what the slab has"
    assert m.slab.slabs_on(cache, 0, SLABS_FULL) and not m.slab.slabs_on(cache, 0, SLABS_PARTIAL)


def test_colours_go_round() -> None:
    """The first slab has colour 1, and then they wrap (MODEL 7.6)."""
    m = machine()
    cache = m.slab.create_cache("probe", 640, merge=False)  # four colours, six objects
    pages = [m.cache_alloc(cache, GFP_KERNEL, -1, 0) for _ in range(54)]
    offsets = {addr >> 12: addr % 4096 % 640 for addr in pages}
    assert [offset % 256 for offset in offsets.values()][:5] == [64, 128, 192, 0, 64]


def test_full_array_is_flushed_to_the_shared_one_then_to_slabs() -> None:
    m = machine(cpus=2, limit=4, batchcount=2, shared=1)
    cache = m.slab.create_cache("probe", 64, merge=False)
    addrs = [m.cache_alloc(cache, GFP_KERNEL, -1, 0) for _ in range(12)]
    node = m.slab.caches[cache].nodes[0]
    m.slab.drain_cpu_caches(m.slab.caches[cache], 0)
    for addr in addrs[:5]:
        m.cache_free(addr, 0)
    assert list(node.shared.entry)[: node.shared.avail] == addrs[:2], "the oldest batch"
    assert array_of(m, cache) == addrs[2:5]
    for addr in addrs[5:8]:
        m.cache_free(addr, 0)
    assert node.shared.avail == 2, "full: the next batch went to its slabs"
    assert counters(m, cache)["freemiss"] == 2
    m.validate()


def test_shared_array_refills_another_cpu() -> None:
    m = machine(cpus=2, limit=4, batchcount=2, shared=2)
    cache = m.slab.create_cache("probe", 64, merge=False)
    addrs = [m.cache_alloc(cache, GFP_KERNEL, -1, 0) for _ in range(5)]
    for addr in addrs:
        m.cache_free(addr, 0)
    newest = m.slab.caches[cache].nodes[0].shared.entry[1]
    assert m.cache_alloc(cache, GFP_KERNEL, -1, 1) == newest


def test_free_limit_destroys_slabs() -> None:
    """(CPUs + 1) batches and a slab's worth may lie free; no more (MODEL 7.3, 7.5)."""
    m = machine(limit=2, batchcount=1, shared=0)
    cache = m.slab.create_cache("probe", 1024, merge=False)
    node = m.slab.caches[cache].nodes[0]
    assert node.free_limit == 2 * 1 + 4
    addrs = [m.cache_alloc(cache, GFP_KERNEL, -1, 0) for _ in range(40)]
    for addr in addrs:
        m.cache_free(addr, 0)
    assert node.free_objects <= 6
    assert node.total_slabs == 2
    assert counters(m, cache)["free_slab"] == 8
    assert m.slab.caches[m.slab.find_cache("kmalloc-64")].nodes[0].free_limit == 1 + 64, "older than the last CPU"
    assert is_early("dentry")
    assert not is_early("ext4_inode_cache")


def test_remote_objects_go_home_by_the_alien_array() -> None:
    m = machine(cpus=2, nodes=2)
    cache = m.slab.create_cache("probe", 1024, merge=False)
    addrs = [m.cache_alloc(cache, GFP_KERNEL, -1, 0) for _ in range(14)]
    for addr in addrs:
        m.cache_free(addr, 1)
    alien = m.slab.caches[cache].nodes[1].alien[0]
    assert list(alien.entry)[: alien.avail] == addrs[12:], "twelve fit; the thirteenth drains them"
    seen = counters(m, cache)
    assert (seen["remotefrees"], seen["alienoverflow"], seen["free_slowpath"]) == (14, 1, 14)
    home = m.slab.caches[cache].nodes[0].shared
    assert list(home.entry)[: home.avail] == addrs[:12]
    m.validate()


def test_a_request_for_another_node_passes_the_array() -> None:
    m = machine(cpus=2, nodes=2)
    cache = m.slab.create_cache("probe", 1024, merge=False)
    addr = m.cache_alloc(cache, GFP_KERNEL, 1, 0)
    assert m.pages.zones[m.pages.zone_of(addr >> 12)].node == 1
    m.cache_alloc(cache, GFP_KERNEL, 1, 0)
    assert counters(m, cache) == {"alloc_slowpath": 2, "alloc_slab": 1, "nodeallocs": 1}


def test_fallback_to_another_node() -> None:
    """The exact node first, without trying hard; then any (MODEL 7.7)."""
    m = machine(cpus=2, nodes=2)
    while m.page_alloc(0, 0x200000, 0, 0) >= 0:  # THISNODE
        pass
    cache = m.slab.create_cache("probe", 1024, merge=False)
    addr = m.cache_alloc(cache, GFP_KERNEL, -1, 0)
    assert m.pages.zones[m.pages.zone_of(addr >> 12)].node == 1
    while m.page_alloc(0, 0x200000, 1, 0) >= 0:
        pass
    assert [m.cache_alloc(cache, GFP_ATOMIC, -1, 0) for _ in range(5)][3:] == [0, 0]


@pytest.mark.parametrize("size", [0, 8])
def test_a_cache_of_tiny_objects_can_be_used_and_reaped(size: int) -> None:
    """As a trace of SLUB names one, or one that it only shows being freed: SLAB's smallest objects have 16 bytes."""
    m = machine()
    cache = m.slab.create_cache("tiny", 1, 8, 0, merge=False, size=size)
    addr = m.cache_alloc(cache, GFP_KERNEL, 0, 0)
    assert (m.slab.caches[cache].size, m.slab.caches[cache].objects) == (16, 240)
    m.cache_free(addr, 0)
    for run in range(20):
        m.slab.cache_reap(0, 10 + 4 * run * HZ)
    assert m.slab.caches[cache].nodes[0].total_slabs == 0
    m.validate()


def test_reaper_takes_a_fifth_of_an_idle_array_and_then_slabs() -> None:
    m = machine(limit=20, batchcount=10, shared=0)
    cache = m.slab.create_cache("probe", 1024, merge=False)
    s = m.slab.caches[cache]
    addrs = [m.cache_alloc(cache, GFP_KERNEL, -1, 0) for _ in range(20)]
    for addr in addrs:
        m.cache_free(addr, 0)
    held = array_of(m, cache)
    m.slab.cache_reap(0, 10)
    assert array_of(m, cache) == held, "it was in use since the last run"
    m.slab.cache_reap(0, 10 + 2 * HZ)
    assert array_of(m, cache) == held[4:], "(limit + 4) // 5 of the oldest"
    m.slab.cache_reap(0, 10 + 4 * HZ)
    m.slab.cache_reap(0, 10 + 8 * HZ)
    assert counters(m, cache)["reaped"] > 0
    for run in range(3, 20):
        m.slab.cache_reap(0, 10 + 4 * run * HZ)
    assert (s.cpu_cache[0].avail, s.nodes[0].total_slabs) == (0, 0), "half of the rest each time, to the last"
    m.validate()


def test_tuning() -> None:
    """As writing to /proc/slabinfo: old contents go to their slabs."""
    m = machine(cpus=2)
    cache = m.slab.create_cache("probe", 64, merge=False)
    live = [m.cache_alloc(cache, GFP_KERNEL, -1, cpu) for cpu in (0, 0, 1)]
    m.slab.tune_cpucache(cache, 8, 4, 2, 0)
    s = m.slab.caches[cache]
    assert [ac.avail for ac in s.cpu_cache] == [0, 0]
    assert (s.limit, s.batchcount, s.nodes[0].shared.limit, s.nodes[0].free_limit) == (8, 4, 8, 3 * 4 + 64)
    m.validate()
    for addr in live:
        m.cache_free(addr, 0)
    m.validate()


def test_cpus_that_go_and_come() -> None:
    m = machine(cpus=2, nodes=2)
    cache = m.slab.create_cache("probe", 64, merge=False)
    node = m.slab.caches[cache].nodes[1]
    addrs = [m.cache_alloc(cache, GFP_KERNEL, -1, cpu) for cpu in (1, 1, 0)]
    m.cache_free(addrs[2], 1)
    limit = node.free_limit
    m.slab.cpu_dead(1, 0)
    assert array_of(m, cache, 1) == []
    assert (node.free_limit, node.shared.limit, node.alien) == (limit - 60, 0, [])
    m.validate()
    m.slab.cpu_prepare(1)
    assert node.free_limit == 60 + 64, "the CPU itself is not counted yet (EXACT D C1)"
    assert node.shared.limit == 480
    m.cache_free(addrs[0], 1)
    m.validate()


def test_shrink_and_destroy() -> None:
    m = machine(cpus=2)
    cache = m.slab.create_cache("probe", 1024, merge=False)
    s = m.slab.caches[cache]
    addrs = [m.cache_alloc(cache, GFP_KERNEL, -1, cpu % 2) for cpu in range(9)]
    for addr in addrs[1:]:
        m.cache_free(addr, 0)
    slabs = s.nodes[0].total_slabs
    assert m.slab.shrink_cache(s, 0) == slabs - 1
    assert not m.slab.destroy_cache(s, 0)
    m.cache_free(addrs[0], 0)
    assert m.slab.destroy_cache(s, 0)
    m.validate()


def test_a_double_free_is_found() -> None:
    m = machine()
    addr = m.kmalloc(64, GFP_KERNEL, -1, 0)
    m.kfree(addr, 0)
    m.kfree(addr, 0)
    with pytest.raises(ModelError, match="no live object"):
        m.validate()


@pytest.mark.parametrize("breakage", ["avail", "free_objects", "state", "list"])
def test_the_validator_sees(breakage: str) -> None:
    m = machine()
    cache = m.slab.create_cache("probe", 64, merge=False)
    m.cache_alloc(cache, GFP_KERNEL, -1, 0)
    s = m.slab.caches[cache]
    if breakage == "avail":
        s.cpu_cache[0].avail -= 1
    elif breakage == "free_objects":
        s.nodes[0].free_objects += 1
    elif breakage == "state":
        m.slab.obj_state[m.slab.sl_seg[0]] = 0
    else:
        s.nodes[0].first[SLABS_FREE] = 0
    with pytest.raises(ModelError):
        m.validate()


BASE = 0xFFFF888000000000


def dumped(m: Machine) -> ExactDump:
    """What the dump of a real kernel holds."""
    dump = ExactDump("a test", 0, "now", 0, allocator="slab")
    for z in m.pages.zones:
        dump.zones.append(ExactZone(
            z.node, z.name, z.zone_idx, z.start_pfn, z.spanned, z.present, z.managed, 0, 0, 0, 0, z.free_pages, 0,
            (0, 0, 0, 0), pcp=[ExactPcp(cpu, 0, p.high, p.batch, 0, 0) for cpu, p in enumerate(z.pcp)],
            pageblock_order=z.pageblock_order, pageblocks=tuple(z.pageblock_type),
        ))

    def held(ac: object) -> ArrayCache:
        entries = [BASE + addr for addr in list(ac.entry)[: ac.avail]]
        return ArrayCache(ac.avail, ac.limit, ac.batchcount, int(ac.touched), entries)

    def page(s: object, pfn: int) -> SlabPage:
        row = m.frames.slab[pfn]
        seg, active = m.slab.sl_seg[row], m.slab.sl_active[row]
        return SlabPage(pfn, active, m.slab.sl_mem[row] - (pfn << 12),
                        [m.slab.obj_index[seg + i] for i in range(active, s.objects)])

    for s in m.slab.caches:
        nodes = {
            at: SlabNode(n.total_slabs, n.free_slabs, n.free_objects, n.free_limit, n.colour_next,
                         int(n.free_touched), held(n.shared) if n.shared.limit else None,
                         {o: held(a) for o, a in enumerate(n.alien) if a is not None},
                         *([page(s, pfn) for pfn in m.slab.slabs_on(s.index, at, which)]
                           for which in (SLABS_PARTIAL, SLABS_FULL, SLABS_FREE)))
            for at, n in enumerate(s.nodes)
        }
        dump.slab.insert(0, SlabCache(
            s.name, s.size, s.object_size, s.align, s.objects, s.order, s.colour, s.colour_off, 0, s.batchcount,
            s.limit, s.shared, s.flags, s.allocflags, 1, bool(s.ctor), s.kind == 1, s.kind == 0,
            cpu_caches={cpu: held(ac) for cpu, ac in enumerate(s.cpu_cache)}, nodes=nodes,
        ))
    return dump


def worn(nodes: int = 2) -> Machine:
    m = machine(cpus=2, nodes=nodes)
    m.slab.create_cache("probe", 64, 64, SLAB_HWCACHE_ALIGN, merge=False)
    caches = [m.slab.find_cache("probe"), m.slab.find_cache("kmalloc-1k")]
    addrs = [m.cache_alloc(caches[i % 2], GFP_KERNEL, i % 3 - 1 if nodes > 1 else -1, i % 2) for i in range(400)]
    for i, addr in enumerate(addrs):
        if i % 5 > 1:
            m.cache_free(addr, i % 2)
    m.slab.cache_reap(0, 5)
    return m


def test_a_dump_laid_out_goes_on_the_same_way() -> None:
    """Every list and array in its order: the next objects are the same."""
    old = worn()
    new = build(config(*(open_zone("Normal", 16 * (n + 1), 16, n) for n in range(2)), cpus=2), kernel(), 0, "slab")
    restore_exact(new, dumped(old))
    for s in new.slab.caches:
        for at, n in enumerate(s.nodes):
            for which in (SLABS_PARTIAL, SLABS_FULL, SLABS_FREE):
                assert new.slab.slabs_on(s.index, at, which) == old.slab.slabs_on(s.index, at, which)
            assert n.free_limit == old.slab.caches[s.index].nodes[at].free_limit
    probe = old.slab.find_cache("probe")
    for i in range(30):
        assert new.cache_alloc(probe, GFP_KERNEL, -1, i % 2) == old.cache_alloc(probe, GFP_KERNEL, -1, i % 2)


def test_smaller_arrays_than_the_dump_has() -> None:
    """What does not fit goes to the slabs."""
    old = worn()
    tunables = replace(kernel(), slab=SlabParams(limit=3, batchcount=2, shared=0))
    new = build(config(*(open_zone("Normal", 16 * (n + 1), 16, n) for n in range(2)), cpus=2), tunables, 0, "slab")
    restore_exact(new, dumped(old))
    s = new.slab.caches[new.slab.find_cache("probe")]
    assert s.live == old.slab.caches[old.slab.find_cache("probe")].live
    assert all(ac.avail <= 3 for ac in s.cpu_cache)
    new.slab.validate()


def test_a_dump_of_another_allocator_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected slub"):
        restore_exact(build(config(open_zone("Normal", 16, 16)), kernel()), dumped(machine()))
