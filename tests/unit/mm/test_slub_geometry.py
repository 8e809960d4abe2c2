"""SLUB's arithmetic: orders and partial limits (MODEL 6.3, 6.4, 6.9)."""

from __future__ import annotations

import pytest
from small_machines import booted, open_zone

from memtrace.config import SlubParams
from memtrace.mm.slub_geometry import calculate_order, cpu_partial_objects, min_partial_slabs, slab_order

CPUS = (1, 2, 4, 8, 16, 32, 64)
"""Each column holds from this many CPUs up to one below the next."""

# order/objects/cpu_partial_slabs by size and number of CPUs; min_partial. MODEL 6.3; 235 caches of a running kernel.
TABLE = """
    8   0/512/1   0/512/1   0/512/1   0/512/1   0/512/1   0/512/1   0/512/1  5
   16   0/256/1   0/256/1   0/256/1   0/256/1   0/256/1   0/256/1   0/256/1  5
   32   0/128/2   0/128/2   0/128/2   0/128/2   0/128/2   0/128/2   0/128/2  5
   64    0/64/4    0/64/4    0/64/4    0/64/4    0/64/4    0/64/4    0/64/4  5
   96    0/42/6    0/42/6    0/42/6    0/42/6    0/42/6    0/42/6    0/42/6  5
  128    0/32/8    0/32/8    0/32/8    0/32/8    0/32/8    0/32/8    0/32/8  5
  192   0/21/12   0/21/12   0/21/12   0/21/12    1/42/6    1/42/6    1/42/6  5
  256    0/16/7    0/16/7    0/16/7    1/32/4    1/32/4    1/32/4    1/32/4  5
  320    0/12/9    0/12/9    1/25/5    1/25/5    1/25/5    2/51/3    2/51/3  5
  384   0/10/11    1/21/5    1/21/5    1/21/5    2/42/3    2/42/3    2/42/3  5
  448    0/9/12    1/18/6    1/18/6    2/36/3    2/36/3    2/36/3    2/36/3  5
  512    0/8/13    1/16/7    1/16/7    2/32/4    2/32/4    2/32/4    2/32/4  5
  576    1/14/8    1/14/8    2/28/4    2/28/4    2/28/4    2/28/4    3/56/2  5
  640    1/12/9    1/12/9    2/25/5    2/25/5    2/25/5    3/51/3    3/51/3  5
  704   1/11/10    2/23/5    2/23/5    2/23/5    3/46/3    3/46/3    3/46/3  5
  768   1/10/11    2/21/5    2/21/5    2/21/5    3/42/3    3/42/3    3/42/3  5
  832    2/19/6    2/19/6    2/19/6    3/39/3    3/39/3    3/39/3    3/39/3  5
  896    1/9/12    2/18/6    2/18/6    3/36/3    3/36/3    3/36/3    3/36/3  5
  960    1/8/13    2/17/7    2/17/7    3/34/4    3/34/4    3/34/4    3/34/4  5
 1024     1/8/6    2/16/3    2/16/3    3/32/2    3/32/2    3/32/2    3/32/2  5
 1088    2/15/4    2/15/4    3/30/2    3/30/2    3/30/2    3/30/2    3/30/2  5
 1152    2/14/4    2/14/4    3/28/2    3/28/2    3/28/2    3/28/2    3/28/2  5
 1280    2/12/4    2/12/4    3/25/2    3/25/2    3/25/2    3/25/2    3/25/2  5
 1344    2/12/4    2/12/4    3/24/2    3/24/2    3/24/2    3/24/2    3/24/2  5
 1408    2/11/5    3/23/3    3/23/3    3/23/3    3/23/3    3/23/3    3/23/3  5
 1472    2/11/5    3/22/3    3/22/3    3/22/3    3/22/3    3/22/3    3/22/3  5
 1536    2/10/5    3/21/3    3/21/3    3/21/3    3/21/3    3/21/3    3/21/3  5
 1600    2/10/5    3/20/3    3/20/3    3/20/3    3/20/3    3/20/3    3/20/3  5
 1728     2/9/6    3/18/3    3/18/3    3/18/3    3/18/3    3/18/3    3/18/3  5
 1856    3/17/3    3/17/3    3/17/3    3/17/3    3/17/3    3/17/3    3/17/3  5
 2048     2/8/6    3/16/3    3/16/3    3/16/3    3/16/3    3/16/3    3/16/3  5
 2112    3/15/4    3/15/4    3/15/4    3/15/4    3/15/4    3/15/4    3/15/4  5
 2240    3/14/4    3/14/4    3/14/4    3/14/4    3/14/4    3/14/4    3/14/4  5
 2496    3/13/4    3/13/4    3/13/4    3/13/4    3/13/4    3/13/4    3/13/4  5
 2816    3/11/5    3/11/5    3/11/5    3/11/5    3/11/5    3/11/5    3/11/5  5
 3072    3/10/5    3/10/5    3/10/5    3/10/5    3/10/5    3/10/5    3/10/5  5
 3456     3/9/6     3/9/6     3/9/6     3/9/6     3/9/6     3/9/6     3/9/6  5
 4096     3/8/2     3/8/2     3/8/2     3/8/2     3/8/2     3/8/2     3/8/2  6
 5120     3/6/2     3/6/2     3/6/2     3/6/2     3/6/2     3/6/2     3/6/2  6
 6144     3/5/3     3/5/3     3/5/3     3/5/3     3/5/3     3/5/3     3/5/3  6
 7168     3/4/3     3/4/3     3/4/3     3/4/3     3/4/3     3/4/3     3/4/3  6
 8192     3/4/3     3/4/3     3/4/3     3/4/3     3/4/3     3/4/3     3/4/3  6
 9216     3/3/4     3/3/4     3/3/4     3/3/4     3/3/4     3/3/4     3/3/4  6
10240     3/3/4     3/3/4     3/3/4     3/3/4     3/3/4     3/3/4     3/3/4  6
12288     3/2/6     3/2/6     3/2/6     3/2/6     3/2/6     3/2/6     3/2/6  6
16384     3/2/6     3/2/6     3/2/6     3/2/6     3/2/6     3/2/6     3/2/6  7
20480    3/1/12    3/1/12    3/1/12    3/1/12    3/1/12    3/1/12    3/1/12  7
32768    3/1/12    3/1/12    3/1/12    3/1/12    3/1/12    3/1/12    3/1/12  7
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_table(row: list[str]) -> None:
    """Every row, every column, at both ends of the column."""
    size = int(row[0])
    for column, first in enumerate(CPUS):
        for cpus in {first, 2 * first - 1}:
            order = calculate_order(size, 4 * (cpus.bit_length() + 1))
            objects = (4096 << order) // size
            slabs = -(-2 * cpu_partial_objects(size) // objects)
            assert f"{order}/{objects}/{slabs}" == row[1 + column], f"{cpus} CPUs"
    assert min_partial_slabs(size) == int(row[-1])


@pytest.mark.parametrize("row", ROWS[::4], ids=[row[0] for row in ROWS[::4]])
def test_caches_use_it(row: list[str]) -> None:
    """A cache of a machine with 4 and with 17 CPUs has the table's numbers."""
    for cpus, column in ((4, 3), (17, 5)):
        machine = booted(open_zone("DMA32", 16, 16), cpus=cpus)
        s = machine.slab.caches[machine.slab.create_cache("probe", int(row[0]), merge=False)]
        assert f"{s.order}/{s.objects}/{s.cpu_partial_slabs}" == row[column]
        assert (s.size, s.min_partial) == (int(row[0]), int(row[-1]))


def test_two_forms_differ_between_10928_and_12280() -> None:
    """6.1 gives order 2 with one object there, 6.8 and later order 3 with two (MODEL 6.3)."""
    orders = {size: calculate_order(size, 16) for size in range(10920, 12296, 8)}
    assert {orders[size] for size in range(10928, 12288, 8)} == {2}
    assert (orders[10920], orders[12288]) == (3, 3)


def test_waste_limit() -> None:
    """At most a 16th of the slab; 704 bytes in a page waste 576 of 4,096, more than an 8th."""
    assert slab_order(704, 1, 0, 3, 16) == 1
    assert slab_order(704, 1, 0, 3, 4) == 0
    assert slab_order(5000, 1, 0, 0, 4) == 1, "one above the highest order means none"


def test_no_slab_of_more_than_32767_objects() -> None:
    """``objects`` has 15 bits."""
    assert calculate_order(1, 16, min_order=4, max_order=4) == 2


def test_large_objects_get_the_order_that_holds_one() -> None:
    assert [calculate_order(size, 16) for size in (32769, 65536, 65537, 4 << 20)] == [4, 4, 5, 10]


@pytest.mark.parametrize(("size", "objects"), [(8, 120), (255, 120), (256, 52), (1023, 52), (1024, 24), (4095, 24),
                                               (4096, 6), (1 << 20, 6)])
def test_cpu_partial(size: int, objects: int) -> None:
    assert cpu_partial_objects(size) == objects


@pytest.mark.parametrize(("size", "slabs"), [(8, 5), (4095, 5), (4096, 6), (16383, 6), (16384, 7), (65535, 7),
                                             (65536, 8), (1 << 22, 10)])
def test_min_partial(size: int, slabs: int) -> None:
    assert min_partial_slabs(size) == slabs


def test_tunables() -> None:
    """slub_min_objects=, slub_max_order=, slub_min_order=, and what sysfs sets."""
    params = SlubParams(max_order=1, min_order=1, min_objects=2, cpu_partial=7, min_partial=3)
    machine = booted(open_zone("DMA32", 16, 16), cpus=4, slub=params)
    s = machine.slab.caches[machine.slab.create_cache("probe", 1000, merge=False)]
    assert (s.order, s.objects, s.cpu_partial, s.cpu_partial_slabs, s.min_partial) == (1, 8, 7, 2, 3)
    small = machine.slab.caches[machine.slab.create_cache("small", 64, merge=False)]
    assert small.order == 1
