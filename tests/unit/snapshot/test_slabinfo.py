"""Are rows of slabinfo joined with the right folder of /sys/kernel/slab?"""

from __future__ import annotations

import json
from pathlib import Path

import kernel_files as kf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace.snapshot.slabinfo import ProcCache, read_caches


def attrs(size: int, objs: int, order: int, slabs: int, **more: str) -> dict[str, str]:
    return {"object_size": str(size - 8), "slab_size": str(size), "objs_per_slab": str(objs), "order": str(order),
            "slabs": f"{slabs} N0={slabs}", "partial": "3 N0=1 N1=2", "align": "8", **more}  # fmt: skip


Row = tuple[str, int, int, int, int]


def read(folder: Path, rows: list[Row], sysfs: object, links: str = "") -> dict[str, ProcCache]:
    kf.write(folder, slabinfo=kf.slabinfo(rows), sysfs=json.dumps(sysfs), links=links)
    return {cache.name: cache for cache in read_caches(folder)}


def test_by_name_then_by_link(tmp_path: Path) -> None:
    caches = read(
        tmp_path,
        [("cred", 192, 21, 1, 7), ("own", 192, 21, 1, 8)],
        {":A-0000192": attrs(192, 21, 0, 7), "own": attrs(192, 21, 0, 8), ":0000192": attrs(192, 21, 0, 7)},
        "cred -> :A-0000192\nkey -> :A-0000192\n",
    )
    assert (caches["cred"].joined, caches["cred"].sysfs_name) == ("link", ":A-0000192")
    assert caches["cred"].aliases == ("key",)
    assert caches["cred"].account is True
    assert caches["cred"].reclaim_account is False
    assert (caches["own"].joined, caches["own"].sysfs_name) == ("name", "own")
    assert caches["own"].reclaim_account is None  # neither an attribute nor a made-up name tells


def test_by_geometry_the_nearest_number_of_slabs_wins(tmp_path: Path) -> None:
    caches = read(
        tmp_path,
        [("big", 192, 21, 1, 100), ("small", 192, 21, 1, 3), ("odd", 200, 20, 1, 3)],
        {":0000192": attrs(192, 21, 0, 4), ":a-0000192": attrs(192, 21, 0, 98), ":0000200": attrs(200, 20, 1, 3)},
    )
    assert (caches["big"].joined, caches["big"].sysfs_name) == ("geometry", ":a-0000192")
    assert caches["big"].reclaim_account is True
    assert caches["small"].sysfs_name == ":0000192"
    assert caches["odd"].joined == "none"  # same size, other order
    assert caches["odd"].object_size == -1


@given(st.permutations(range(6)), st.lists(st.integers(0, 1000), min_size=6, max_size=6))
def test_no_folder_is_given_twice(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], slabs: list[int]
) -> None:
    folders = {f":{letter}0000064": attrs(64, 64, 0, slabs[i]) for i, letter in enumerate(("", "a-", "A-", "d-"))}
    caches = read(tmp_path_factory.mktemp("s"), [(f"c{i}", 64, 64, 1, slabs[i]) for i in order], folders)
    given_out = [cache.sysfs_name for cache in caches.values() if cache.sysfs_name]
    assert sorted(given_out) == sorted(folders)


def test_attributes_become_numbers_and_flags(tmp_path: Path) -> None:
    more = {"slabs_cpu_partial": "340(4) C0=170(2) C2=170(2)", "destroy_by_rcu": "1", "cache_dma": "0",
            "ctor": "init_once+0x0/0x20", "cpu_slabs": "6 N0=2 N1=4", "objects_partial": "9", "cpu_partial": "52"}
    cache = read(tmp_path, [("a cache", 64, 64, 1, 2)], {"a cache": attrs(64, 64, 0, 2, **more)})["a cache"]
    assert cache.cpu_partial_slabs == (2, 0, 2)
    assert cache.partial_node == (1, 2)
    assert cache.nr_partial == 3
    assert cache.cpu_slabs_node == (2, 4)
    assert cache.objects_partial_node == (9,)
    assert (cache.object_size, cache.order, cache.align, cache.cpu_partial) == (56, 0, 8, 52)
    assert (cache.destroy_by_rcu, cache.cache_dma, cache.ctor, cache.hwcache_align) == (True, False, True, None)


def test_order_is_slabinfos_and_slob_has_none(tmp_path: Path) -> None:
    rows = [("z", 64, 64, 1, 1), ("a", 32, 128, 1, 1), ("m", 16, 256, 1, 1)]
    kf.write(tmp_path, slabinfo=kf.slabinfo(rows))
    assert [cache.name for cache in read_caches(tmp_path)] == ["z", "a", "m"]
    (tmp_path / "slabinfo").write_text("!err 2\n")
    assert read_caches(tmp_path) == ()


def test_slab_debug_columns_are_read_over(tmp_path: Path) -> None:
    line = kf.slabinfo([("dentry", 192, 21, 1, 4)]).splitlines()[2]
    text = "slabinfo - version: 2.1 (statistics)\n" + line + " : globalstat 1 2 3 : cpustat 4 5 6 7\n"
    kf.write(tmp_path, slabinfo=text)
    (cache,) = read_caches(tmp_path)
    assert (cache.name, cache.num_slabs, cache.num_objs) == ("dentry", 4, 84)


def test_bundled_snapshot_joins_every_cache(bundled: Path) -> None:
    caches = read_caches(bundled / "build-and-serve-6.18" / "start")
    assert len(caches) == 235
    assert {cache.joined for cache in caches} == {"name", "link"}
    for cache in caches:
        assert (1 << cache.order) == cache.pagesperslab
        assert cache.object_size <= cache.size
