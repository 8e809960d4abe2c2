"""Requests reach the model, and what it returns is found again by handle."""

from __future__ import annotations

import numpy as np
import pytest

from memtrace.errors import ModelError
from memtrace.schedule.causes import CAUSES
from memtrace.schedule.dispatch import Dispatcher
from memtrace.trace.requests import (
    FLAG_LAST,
    RQ_BULK_ALLOC,
    RQ_BULK_FREE,
    RQ_CACHE_ALLOC,
    RQ_CACHE_FREE,
    RQ_KFREE,
    RQ_KFREE_NULL,
    RQ_KMALLOC,
    RQ_PAGE_ALLOC,
    RQ_PAGE_FREE,
    Census,
    Requests,
)

from .machines import GFP_KERNEL, random_requests, rows, small_machine


def decided(requests: Requests) -> tuple[Dispatcher, list[int]]:
    """A dispatcher that has executed these on a small machine, and the paths."""
    dispatcher = Dispatcher(*small_machine())
    dispatcher.load(requests)
    return dispatcher, [dispatcher.decide(i) for i in range(len(requests))]


def sites(dispatcher: Dispatcher) -> dict[tuple[int, str], dict[str, int]]:
    """The call sites' sums by (site, cache name)."""
    columns = dispatcher.sites.columns()
    names = [*dispatcher.machine.cache_names, ""]
    sums = [name for name in columns if name not in ("call_site", "cache")]
    return {(int(columns["call_site"][i]), names[columns["cache"][i]]): {name: int(columns[name][i]) for name in sums}
            for i in range(len(columns["cache"]))}


def test_sums_of_a_call_site() -> None:
    """Two objects of 60 bytes in kmalloc-64, one of them freed on another CPU."""
    dispatcher, _ = decided(rows(
        {"op": RQ_KMALLOC, "handle": 0, "size": 60, "site": 7},
        {"op": RQ_KMALLOC, "handle": 1, "size": 60, "site": 7},
        {"op": RQ_KFREE, "handle": 0, "cpu": 1},
        {"op": RQ_KMALLOC, "handle": 2, "size": 60, "site": 8},
    ))
    dispatcher.waited(0, 25)
    found = sites(dispatcher)
    assert found[7, "kmalloc-64"] == {"allocs": 2, "frees": 1, "bytes_requested": 120, "bytes_allocated": 128,
                                      "live_bytes": 64, "peak_bytes": 128, "pingpong": 1, "slowpath": 2, "wait_ns": 25}
    assert found[8, "kmalloc-64"]["live_bytes"] == 64
    requested, allocated = dispatcher.live_bytes(dispatcher.machine.nr_caches)
    index = dispatcher.machine.find_cache("kmalloc-64")
    assert (requested[index], allocated[index]) == (120, 128)
    assert requested.sum() == 120


def test_caches_are_mapped_and_large_kmallocs_have_none() -> None:
    dispatcher, _ = decided(rows(
        {"op": RQ_CACHE_ALLOC, "handle": 0, "cache": 1, "site": 1},
        {"op": RQ_KMALLOC, "handle": 1, "size": 20_000, "site": 1},
        {"op": RQ_KFREE, "handle": 1},
        {"op": RQ_CACHE_FREE, "handle": 0},
        {"op": RQ_KFREE_NULL},
    ))
    found = sites(dispatcher)
    assert set(found) == {(1, "inode_cache"), (1, "")}
    assert found[1, ""]["bytes_allocated"] == 32768
    assert all(site["live_bytes"] == 0 for site in found.values())
    dispatcher.machine.validate()


def test_a_bulk_free_happens_at_its_last_object() -> None:
    """Until then the objects live; and what another CPU frees meanwhile is an array of its own."""
    dispatcher = Dispatcher(*small_machine())
    alloc = [{"op": RQ_BULK_ALLOC, "handle": i, "cache": 0} for i in range(5)]
    frees = [{"op": RQ_BULK_FREE, "handle": i, "cpu": 1 if i == 2 else 0, "flags": FLAG_LAST if i in (2, 3) else 0}
             for i in range(5)]
    dispatcher.load(rows(*alloc, *frees))
    steps = []
    for i in range(10):
        dispatcher.decide(i)
        steps.append(dispatcher.it.n > 0)
    assert steps == [True] * 5 + [False, False, True, True, False]
    assert dispatcher.counts()["bulk_free_without_end"] == 0
    dispatcher.flush()
    assert dispatcher.counts()["bulk_free_without_end"] == 1
    assert dispatcher.live_bytes(dispatcher.machine.nr_caches)[1].sum() == 0
    dispatcher.machine.validate()


def test_bulk_frees_are_repeated_in_the_traces_order() -> None:
    """
    The kernel frees an array from its end, slab by slab, and notes each slab's objects in array order (EXACT C1).

    Three full slabs get free objects, one slab after the other: each goes on top of CPU 0's partial list, so the last
    one is used first, and of each the object that was noted last.
    """
    dispatcher = Dispatcher(*small_machine())
    n = dispatcher.machine.slab.caches[dispatcher.machine.find_cache("inode_cache")].objects
    alloc = [{"op": RQ_BULK_ALLOC, "handle": i, "cache": 1} for i in range(4 * n)]
    order = [2, 0, n, n + 5, n + 1, 2 * n + 3]
    frees = [{"op": RQ_BULK_FREE, "handle": i, "flags": FLAG_LAST if i == order[-1] else 0} for i in order]
    again = [{"op": RQ_CACHE_ALLOC, "handle": 4 * n + i, "cache": 1} for i in range(len(order))]
    dispatcher.load(rows(*alloc, *frees, *again))
    for i in range(len(alloc)):
        dispatcher.decide(i)
    was_at = {i: dispatcher.objects[4 * i] for i in order}  # four words a handle, the first is the address
    for i in range(len(alloc), len(alloc) + len(frees) + len(again)):
        dispatcher.decide(i)
    now_at = [dispatcher.objects[4 * (4 * n + i)] for i in range(len(order))]
    assert now_at == [was_at[i] for i in (2 * n + 3, n + 1, n + 5, n, 0, 2)]
    dispatcher.machine.validate()


def test_a_block_freed_in_pieces() -> None:
    dispatcher, _ = decided(rows(
        {"op": RQ_PAGE_ALLOC, "handle": 3, "size": 2},
        {"op": RQ_PAGE_FREE, "handle": 3, "size": 1, "offset": 2},
        {"op": RQ_PAGE_FREE, "handle": 3, "size": 0, "offset": 0},
        {"op": RQ_PAGE_FREE, "handle": 3, "size": 0, "offset": 1, "flags": FLAG_LAST},
        {"op": RQ_PAGE_FREE, "handle": 3, "size": 0, "flags": FLAG_LAST},
    ))
    assert dispatcher.counts()["free_of_nothing"] == 1
    dispatcher.machine.validate()
    with pytest.raises(ModelError, match=r"a free of 2\*\*1 pages at offset 3 of a block of order 2"):
        decided(rows({"op": RQ_PAGE_ALLOC, "handle": 0, "size": 2},
                     {"op": RQ_PAGE_FREE, "handle": 0, "size": 1, "offset": 3}))


def test_failures_are_kept_and_their_frees_do_nothing() -> None:
    """An order that no machine serves, and a kmalloc of 64 MiB on a machine of 32."""
    dispatcher, _ = decided(rows(
        {"op": RQ_PAGE_ALLOC, "handle": 0, "size": 11, "cpu": 2},
        {"op": RQ_PAGE_FREE, "handle": 0, "size": 11, "flags": FLAG_LAST},
        {"op": RQ_KMALLOC, "handle": 0, "size": 64 << 20, "site": 4},
        {"op": RQ_KFREE, "handle": 0},
    ))
    assert dispatcher.take_failures() == [
        (0, 0, 2, RQ_PAGE_ALLOC, 11, GFP_KERNEL, 11, -1, 1), (20, 2, 0, RQ_KMALLOC, -1, GFP_KERNEL, 64 << 20, -1, 1)]
    assert dispatcher.take_failures() == []
    counts = dispatcher.counts()
    assert (counts["model_page_alloc_failed"], counts["model_alloc_failed"], counts["free_of_nothing"]) == (1, 1, 2)
    dispatcher.machine.validate()


def test_addresses_are_compared_and_not_obeyed() -> None:
    machine, cache_map = small_machine()
    dispatcher = Dispatcher(machine, cache_map)
    dispatcher.load(rows({"op": RQ_PAGE_ALLOC, "handle": 0}))
    dispatcher.decide(0)
    pfn = int(np.asarray(dispatcher.blocks)[0])
    dispatcher, _ = decided(rows({"op": RQ_PAGE_ALLOC, "handle": 0, "addr": pfn << 12},
                                 {"op": RQ_PAGE_ALLOC, "handle": 1, "addr": pfn << 12},
                                 {"op": RQ_KMALLOC, "handle": 0, "size": 8, "addr": 8}))
    counts = dispatcher.counts()
    assert (counts["page_compared"], counts["page_at_recorded_pfn"]) == (2, 1)
    assert (counts["object_compared"], counts["object_at_recorded_address"]) == (1, 0)


def test_start_objects() -> None:
    """They take the first handles, cost no time, and are frees of the unknown call site."""
    dispatcher = Dispatcher(*small_machine())
    dispatcher.create_start_objects(Census(
        start_addr=np.array([-1, -1, -1]), start_cache=np.array([0, -1, -1], np.int32),
        start_size=np.array([0, 0, 40_000]), start_pfn=np.array([77]), start_order=np.array([1], np.int16)))
    assert dispatcher.it.n == 0
    dispatcher.load(rows(*({"op": RQ_KFREE, "handle": i} for i in range(3)),
                         {"op": RQ_PAGE_FREE, "handle": 0, "size": 1, "flags": FLAG_LAST}))
    for i in range(4):
        dispatcher.decide(i)
    counts = dispatcher.counts()
    assert (counts["start_object_placed"], counts["start_object_unplaced"]) == (2, 1)
    assert (counts["start_page_placed"], counts["start_page_unplaced"]) == (1, 0)
    assert counts["free_of_nothing"] == 1
    found = sites(dispatcher)
    assert found[-1, "dentry"] == {"allocs": 0, "frees": 1, "bytes_requested": 0, "bytes_allocated": 0, "live_bytes": 0,
                                   "peak_bytes": 200, "pingpong": 0, "slowpath": found[-1, "dentry"]["slowpath"],
                                   "wait_ns": 0}
    assert found[-1, ""]["peak_bytes"] == 65536
    dispatcher.machine.validate()


@pytest.mark.parametrize(("row", "message"), [
    ({"op": 11}, "operation 11"),
    ({"op": RQ_KMALLOC, "cpu": 4}, "CPU 4"),
    ({"op": RQ_KMALLOC, "node": 2}, "node 2"),
    ({"op": RQ_KMALLOC, "handle": -2}, "handle -2"),
    ({"op": RQ_CACHE_ALLOC, "cache": 2}, "trace cache 2"),
    ({"op": RQ_CACHE_ALLOC, "cache": -1}, "trace cache -1"),
    ({"op": RQ_PAGE_ALLOC, "size": 21}, "size 21"),
    ({"op": RQ_PAGE_FREE, "size": -1}, "size -1"),
    ({"op": RQ_PAGE_FREE, "offset": -1}, "page offset -1"),
])
def test_bad_requests(row: dict[str, int], message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        decided(rows({"op": RQ_KFREE_NULL}, row))
    assert error.value.row == 1


def test_a_trace_cache_without_a_cache() -> None:
    machine, _ = small_machine()
    with pytest.raises(ModelError, match="trace cache 1 has no cache"):
        Dispatcher(machine, np.array([0, -1]))


def test_random_requests_leave_a_sound_machine() -> None:
    """Live bytes equal what the handles hold; every count has a meaning."""
    requests = random_requests(3, 3000)
    dispatcher, _ = decided(requests)
    dispatcher.machine.validate()
    live = dispatcher.live_bytes(dispatcher.machine.nr_caches)[1].sum()
    by_site = sites(dispatcher)
    assert live == sum(site["live_bytes"] for (_, cache), site in by_site.items() if cache)
    assert sum(site["allocs"] for site in by_site.values()) + dispatcher.counts()["model_alloc_failed"] == int(
        np.isin(requests.op, (RQ_KMALLOC, RQ_CACHE_ALLOC, RQ_BULK_ALLOC)).sum())
    # What closed timing leaves out is gone before requests come here.
    assert list(dispatcher.counts()) == [name for name, _ in CAUSES if not name.endswith("_left_out")]
