"""Does read_proc find in the files what the kernel printed?"""

from __future__ import annotations

from pathlib import Path

import kernel_files as kf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace.errors import TraceError
from memtrace.snapshot.proc import read_proc

_count = st.integers(0, 99_999)


@st.composite
def zone_lists(draw: st.DrawFn) -> list[kf.Zone]:
    cpus = draw(st.integers(1, 3))
    zones = []
    keys = st.sampled_from([(0, "DMA32"), (0, "Normal"), (1, "Normal")])
    for node, name in draw(st.lists(keys, min_size=1, unique=True)):
        zones.append(
            kf.Zone(
                node, name, draw(st.integers(0, 1 << 40)), draw(st.integers(6, 1 << 30)),
                [draw(st.lists(_count, min_size=11, max_size=11)) for _ in kf.TYPES],
                draw(st.lists(_count, min_size=4, max_size=4)), draw(st.integers(0, 512)),
                [(draw(_count), draw(_count), draw(_count)) for _ in range(cpus)],
            )
        )
    return sorted(zones, key=lambda zone: (zone.node, zone.name))


@given(zone_lists(), st.sampled_from(["3.0", "6.1", "6.18"]))
def test_every_number_is_found(tmp_path_factory: pytest.TempPathFactory, zones: list[kf.Zone], era: str) -> None:
    folder = kf.write(
        tmp_path_factory.mktemp("snap"), zoneinfo=kf.zoneinfo(zones, era), buddyinfo=kf.buddyinfo(zones),
        pagetypeinfo=kf.pagetypeinfo(zones),
    )  # fmt: skip
    snapshot = read_proc(folder)
    assert snapshot.pageblock_order == 9
    assert snapshot.cpus == len(zones[0].pcp)
    assert len(snapshot.zones) == len(zones)
    for got, put in zip(snapshot.zones, zones, strict=True):
        assert (got.node, got.name, got.start_pfn, got.present) == (put.node, put.name, put.start_pfn, put.present)
        assert (got.free, got.min, got.low, got.high) == (put.free, 10, 20, 30)
        assert got.boost == (-1 if era == "3.0" else put.boost)
        assert got.managed == (put.present if era == "3.0" else put.present - 5)
        assert got.protection == (0, 5, 6)
        assert [list(counts) for counts in zip(*got.nr_free, strict=True)] == put.nr_free
        assert list(got.pageblocks) == put.pageblocks
        assert [(pcp.count, pcp.high, pcp.batch) for pcp in got.pcp] == put.pcp
        assert all(pcp.high_max == (pcp.high * 9 if era == "6.18" else -1) for pcp in got.pcp)


def small_zone() -> kf.Zone:
    nr_free = [[n] * 11 for n in (1, 2, 3, 4)]
    return kf.Zone(0, "DMA32", 4096, 100_000, nr_free, [5, 6, 7, 8])


def test_old_kernels_print_the_types_in_another_order(tmp_path: Path) -> None:
    printed = ("Unmovable", "Reclaimable", "Movable", "Reserve")
    zone = small_zone()
    kf.write(
        tmp_path, zoneinfo=kf.zoneinfo([zone], "3.0"), buddyinfo=kf.buddyinfo([zone]),
        pagetypeinfo=kf.pagetypeinfo([zone], printed=printed),
    )  # fmt: skip
    snapshot = read_proc(tmp_path)
    assert snapshot.migratetypes == kf.TYPES
    assert snapshot.zones[0].nr_free[0] == (1, 2, 3, 4)
    assert snapshot.zones[0].pageblocks == (5, 6, 7, 8)


def test_a_count_that_the_kernel_gave_up_on_is_taken_as_its_limit(tmp_path: Path) -> None:
    zone = small_zone()
    zone.nr_free[1][0] = 100_000
    kf.write(
        tmp_path, zoneinfo=kf.zoneinfo([zone]), buddyinfo=kf.buddyinfo([zone]), pagetypeinfo=kf.pagetypeinfo([zone])
    )
    assert read_proc(tmp_path).zones[0].nr_free[0][1] == 100_000


def test_without_pagetypeinfo_free_blocks_are_movable(tmp_path: Path) -> None:
    zone = small_zone()
    kf.write(tmp_path, zoneinfo=kf.zoneinfo([zone]), buddyinfo=kf.buddyinfo([zone]))
    snapshot = read_proc(tmp_path)
    assert snapshot.zones[0].nr_free == ((0, 10, 0, 0),) * 11
    assert snapshot.zones[0].pageblocks == ()
    assert snapshot.pageblock_order == -1
    assert "pagetypeinfo" in snapshot.missing


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("zoneinfo", "", "no populated zone"),
        ("zoneinfo", "hello\n", "not a line of zoneinfo"),
        ("zoneinfo", "Node 0, zone DMA\n  pages free 3\n", 'has no "min"'),
        ("zoneinfo", "Node 0, zone DMA\n  \x00\xff\x7f\n", "not a line of zoneinfo"),
        ("buddyinfo", "Node 0, zone Normal 1 x\n", "not a line of buddyinfo"),
        ("buddyinfo", "Node 0, zone Other 1 2\n", "not in buddyinfo"),
        ("pagetypeinfo", "nothing\n", "not a copy of /proc/pagetypeinfo"),
        ("slabinfo", "slabinfo - version: 2.1\ndentry 1 2\n", "not a line of slabinfo"),
        ("sys_kernel_slab.json", "[1, 2", "not a JSON object"),
        ("sys_kernel_slab.json", "[1, 2]", "not a JSON object"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, text: str, expected: str) -> None:
    zone = small_zone()
    slabinfo = kf.slabinfo([("a", 8, 512, 1, 1)])
    kf.write(tmp_path, zoneinfo=kf.zoneinfo([zone]), buddyinfo=kf.buddyinfo([zone]), slabinfo=slabinfo)
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(TraceError, match=expected) as caught:
        read_proc(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such snapshot folder"):
        read_proc(tmp_path / "nowhere")
    with pytest.raises(TraceError, match="no zoneinfo"):
        read_proc(tmp_path)


def test_bundled_snapshots_agree_with_themselves(bundled: Path) -> None:
    for name in ("start", "end"):
        snapshot = read_proc(bundled / "build-and-serve-6.18" / name)
        assert snapshot.missing == ()
        assert (snapshot.cpus, snapshot.nodes, snapshot.pageblock_order) == (2, 1, 9)
        assert [zone.name for zone in snapshot.zones] == ["DMA", "DMA32", "Normal"]
        assert snapshot.meminfo["MemTotal"] % 1024 == 0
        assert snapshot.vmstat["nr_free_pages"] > 0
        assert snapshot.node_stats[0]["nr_slab_reclaimable"] > 0
        for zone in snapshot.zones:
            listed = sum(sum(counts) << order for order, counts in enumerate(zone.nr_free))
            # Read one after the other on a live machine, so not quite equal.
            assert abs(listed - zone.free) < 600
            assert zone.free <= zone.managed <= zone.present <= zone.spanned


def test_recorded_snapshots_are_read_whole(ground_truth: Path) -> None:
    folders = [folder for folder in sorted(ground_truth.glob("*/snapshots/*")) if (folder / "zoneinfo").is_file()]
    assert len(folders) > 15
    for folder in folders:
        snapshot = read_proc(folder)
        for zone in snapshot.zones:
            listed = sum(sum(counts) << order for order, counts in enumerate(zone.nr_free))
            assert abs(listed - zone.free) < 100, folder
        with_sysfs = [cache for cache in snapshot.caches if cache.joined != "none"]
        assert len(with_sysfs) == (len(snapshot.caches) if "sys_kernel_slab.json" not in snapshot.missing else 0)
        # Not one instant: a few caches change between the reading of slabinfo and of sysfs.
        assert sum(sum(cache.slabs_node) != cache.num_slabs for cache in with_sysfs) < 10, folder
