"""Zones, zonelists, watermarks, boot hand-over (MODEL 1.1-1.8, 2.8, 3.2)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from small_machines import MOVABLE, booted, config, empty, free_lists, kernel, nr_free, zone

from memtrace.config import MachineConfig, VmParams
from memtrace.errors import ConfigError
from memtrace.mm.boot import boot, build, free_ranges, min_free_kbytes, pcp_batch, pcp_high

# -- hand-over ----------------------------------------------------------------------------------------------------


def test_memory_is_handed_over_in_the_largest_blocks() -> None:
    """Ascending, each block to its list's tail; what is not aligned comes in smaller pieces."""
    machine = booted(replace(zone("DMA32", 16, 16), start_pfn=4096 + 3, spanned=2045, present=2045, managed=2045))
    assert free_lists(machine, machine.pages.zones[0]) == {
        (0, MOVABLE): [4099], **{(o, MOVABLE): [4096 + (1 << o)] for o in range(2, 10)}, (10, MOVABLE): [5120],
    }
    assert machine.pages.zones[0].given_pages == 2045
    machine.validate()


def test_pfn_0_is_aligned_to_everything() -> None:
    machine = booted(replace(zone("DMA", 0, 8), managed=2048))
    assert nr_free(machine.pages.zones[0]) == [0] * 10 + [2]


def test_holes_are_not_handed_over() -> None:
    known = replace(zone("DMA32", 16, 8), present=1748, managed=1748)
    machine = boot(config(known, holes=((4196, 4496),)), kernel())
    blocks = {p for (o, _), pfns in free_lists(machine, machine.pages.zones[0]).items()
              for first in pfns for p in range(first, first + (1 << o))}
    assert blocks == set(range(4096, 4196)) | set(range(4496, 6144))


@pytest.mark.parametrize(("name", "kept"), [("DMA", range(4096 + 100, 4096 + 2048)), ("DMA32", range(4096, 6044))])
def test_what_boot_keeps_is_at_the_end(name: str, kept: range) -> None:
    """At the low end of DMA, at the high end elsewhere (MODEL 1.8)."""
    known = replace(zone(name, 16, 8), managed=1948)
    assert [p for start, end in free_ranges(known, ()) for p in range(start, end)] == list(kept)


def test_unknown_allocator() -> None:
    with pytest.raises(ConfigError, match='allocator "slib"'):
        build(config(zone("DMA32", 16, 16)), kernel(), allocator="slib")


# -- zonelists ----------------------------------------------------------------------------------------------------


def nodes_in_turn(machine_config: MachineConfig) -> list[list[int]]:
    pages = build(machine_config, kernel()).pages
    return [list(dict.fromkeys(z.node for z in zonelist)) for zonelist in pages.zonelists]


def test_equally_far_nodes_take_turns() -> None:
    """
    Four nodes, all 20 apart (MODEL 1.2).

    From node n on, lower nodes cost one more; a node that was chosen first has a load, so that not every node
    spills to the same one. Node 0: 1, 2, 3. Node 1: 2 and 3 before 0. Node 2: 3, then 0 and 1. Node 3: the load of 1,
    2 and 3 is one each, so 0 is first.
    """
    four = config(*(zone("Normal", 16 + 16 * n, 16, n) for n in range(4)), cpus=4)
    assert nodes_in_turn(four) == [[0, 1, 2, 3], [1, 2, 3, 0], [2, 3, 0, 1], [3, 0, 1, 2]]


def test_distance_decides() -> None:
    three = config(*(zone("Normal", 16 + 16 * n, 16, n) for n in range(3)), cpus=3,
                   distance=((10, 40, 20), (40, 10, 30), (20, 30, 10)))
    assert nodes_in_turn(three) == [[0, 2, 1], [1, 2, 0], [2, 0, 1]]


def test_nodes_without_cpus_are_preferred_among_equals() -> None:
    """Its own CPUs would compete for its memory."""
    given = config(*(zone("Normal", 16 + 16 * n, 16, n) for n in range(3)), cpus=2)
    given = replace(given, node_cpus=((0,), (1,), ()))
    assert nodes_in_turn(given)[0] == [0, 2, 1]


def test_zones_of_a_node_from_the_highest() -> None:
    machine = empty(zone("DMA", 2, 4), zone("DMA32", 16, 8), zone("Normal", 32, 8), zone("Normal", 48, 8, 1), cpus=2)
    pages = machine.pages
    assert [[(z.node, z.name) for z in zl] for zl in pages.zonelists] == [
        [(0, "Normal"), (0, "DMA32"), (0, "DMA"), (1, "Normal")],
        [(1, "Normal"), (0, "Normal"), (0, "DMA32"), (0, "DMA")],
    ]
    assert [[z.name for z in zl] for zl in pages.local_zonelists] == [["Normal", "DMA32", "DMA"], ["Normal"]]
    assert list(pages.cpu_node) == [0, 1]


# -- watermarks and reserves --------------------------------------------------------------------------------------


def marks(machine_config: MachineConfig, vm: VmParams | None = None) -> list[tuple[int, int, int]]:
    machine = build(machine_config, kernel(vm=vm))
    return [(z.watermark_min, z.watermark_low, z.watermark_high) for z in machine.pages.zones]


@pytest.mark.parametrize(("size_mb", "kbytes"), [(1, 128), (16, 512), (512, 2896), (1024, 4096), (1 << 22, 262144)])
def test_min_free_kbytes(size_mb: int, kbytes: int) -> None:
    """sqrt(16 * KiB), from 128 KiB to 256 MiB."""
    given = config(zone("DMA32", 16, 16))
    given = replace(given, zones=(replace(given.zones[0], spanned=size_mb << 8, present=size_mb << 8,
                                          managed=size_mb << 8),))
    assert min_free_kbytes(given, VmParams()) == kbytes


def test_marks() -> None:
    """256 + 768 MiB: 1,024 pages, a quarter of them DMA32's; steps of a quarter of that, or of 1/1000 of the zone."""
    given = config(zone("DMA32", 16, 256), zone("Normal", 512, 768))
    assert marks(given) == [(256, 321, 386), (768, 964, 1160)]


def test_marks_follow_the_sysctls() -> None:
    given = config(zone("DMA32", 16, 256), zone("Normal", 512, 768))
    assert marks(given, VmParams(min_free_kbytes=40_000)) == [(2500, 3125, 3750), (7500, 9375, 11250)]
    assert marks(given, VmParams(watermark_scale_factor=100)) == [(256, 911, 1566), (768, 2734, 4700)]


def test_recorded_marks_win_over_the_rule() -> None:
    """But not over what the user sets."""
    given = config(zone("DMA32", 16, 256, min=5, low=6, high=7))
    assert marks(given) == [(5, 6, 7)]
    assert marks(given, VmParams(min_free_kbytes=4000)) == [(1000, 1250, 1500)]


def test_lowmem_reserve() -> None:
    """What lies above it on the node, divided by the zone's ratio: 256, 256, 32 (MODEL 2.8.4)."""
    machine = empty(zone("DMA", 2, 8), zone("DMA32", 16, 256), zone("Normal", 512, 512), zone("Normal", 2048, 512, 1),
                    cpus=2)
    assert [list(z.lowmem_reserve)[:4] for z in machine.pages.zones] == [
        [0, 256, 768, 768], [0, 0, 512, 512], [0, 0, 0, 0], [0, 0, 0, 0],
    ]


# -- per-CPU lists ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("managed", "batch"), [(3840, 1), (8 << 10, 1), (16 << 10, 3), (114_917, 31), (1 << 18, 63), (1 << 24, 63)]
)
def test_batch(managed: int, batch: int) -> None:
    assert pcp_batch(managed) == batch


def test_high() -> None:
    """The low mark shared among the node's CPUs, at least four batches; or a fraction of the zone."""
    machine = empty(zone("DMA32", 16, 1024, min=0, low=1000, high=2000), cpus=4)
    owner = machine.pages.zones[0]
    assert (owner.pcp[0].batch, owner.pcp[0].high) == (63, 252)
    assert pcp_high(owner, 7, 4, 0) == 250
    assert pcp_high(owner, 7, 4, 8) == (1024 << 8) // 8 // 4


def test_set_and_recorded_limits() -> None:
    """What is set wins over what is recorded, and that over the rule; a set batch makes a recorded high moot."""
    given = zone("DMA32", 16, 1024, pcp_batch=17, pcp_high=300)
    limits = {}
    for name, tunables in (("recorded", {}), ("high", {"high": 5}), ("batch", {"batch": 9})):
        pcp = empty(given, cpus=4, **tunables).pages.zones[0].pcp[3]
        limits[name] = (pcp.batch, pcp.high)
    assert limits["recorded"] == (17, 300)
    assert limits["high"] == (17, 5)
    assert limits["batch"][0] == 9
    assert limits["batch"][1] != 300
