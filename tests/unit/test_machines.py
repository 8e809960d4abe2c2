"""Do presets, files and snapshots give the machine that they describe?"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from memtrace.config import MachineConfig
from memtrace.errors import ConfigError
from memtrace.machines import (
    lay_out,
    load_machine,
    machine_from_exact,
    machine_from_proc,
    machine_to_toml,
    preset_names,
)
from memtrace.snapshot import find_start, read_exact, read_proc

MIB = 1 << 20
GIB = 1 << 30
HOLE_3G = (3 * GIB >> 12, 4 * GIB >> 12)


def hole_pages(machine: MachineConfig, start: int, end: int) -> int:
    return sum(max(0, min(end, b) - max(start, a)) for a, b in machine.holes)


@given(
    cpus=st.integers(4, 64), mib=st.integers(64, 200_000), nodes=st.integers(1, 4), bits=st.sampled_from([32, 64])
)
def test_a_laid_out_machine_has_the_memory_it_was_given(cpus: int, mib: int, nodes: int, bits: int) -> None:
    assume(bits == 64 or mib <= 3000)
    order = 9 if bits == 64 else 10
    try:
        machine = lay_out("m", cpus, mib * MIB, nodes, bits, reserved=8 * MIB, pageblock_order=order)
    except ConfigError:
        assert mib // nodes < 64 or bits == 32
        return
    # Page 0 and the video hole below 1 MiB are not memory.
    assert sum(zone.present for zone in machine.zones) == mib * 256 - 1 - 97
    assert sum(len(own) for own in machine.node_cpus) == cpus
    assert {zone.node for zone in machine.zones} == set(range(nodes))
    for zone in machine.zones:
        assert zone.present == zone.spanned - hole_pages(machine, zone.start_pfn, zone.end_pfn)
        limit = {"DMA": 16 * MIB, "DMA32": 4 * GIB, "Normal": 1 << 60 if bits == 64 else 896 * MIB, "HighMem": 1 << 60}
        assert zone.end_pfn << 12 <= limit[zone.name]
        assert machine.zone_names[zone.index] == zone.name
    ends = sorted((zone.start_pfn, zone.end_pfn) for zone in machine.zones)
    assert all(a[1] <= b[0] for a, b in pairwise(ends))


def test_zones_of_the_machines_in_the_book() -> None:
    """MODEL 1.1: the table of zones; the numbers of a real 64-bit machine's zoneinfo."""
    laptop = load_machine("laptop-16g-8cpu")
    assert [(z.name, z.start_pfn, z.spanned, z.present) for z in laptop.zones] == [
        ("DMA", 1, 4095, 3998),
        ("DMA32", 4096, 1044480, 782336),
        ("Normal", 1048576, 13 << 18, 13 << 18),
    ]
    assert HOLE_3G in laptop.holes
    small = load_machine("vm-512m-4cpu")
    assert [z.name for z in small.zones] == ["DMA", "DMA32"]
    old = load_machine("i386-1536m-4cpu")
    assert [(z.name, z.index) for z in old.zones] == [("DMA", 0), ("Normal", 1), ("HighMem", 2)]
    assert old.zones[2].start_pfn == 896 * 256
    server = load_machine("server-2node-64g-32cpu")
    assert [(z.node, z.name) for z in server.zones] == [(0, "DMA"), (0, "DMA32"), (0, "Normal"), (1, "Normal")]
    assert server.distance == ((10, 21), (21, 10))


def test_managed_is_near_what_recorded_kernels_had() -> None:
    """Managed pages of all zones after boot in the 6.1 recordings (zoneinfo); tolerance: other kernel sizes."""
    recorded = {("vm-512m-4cpu", "256M", 1): 3840 + 51724, ("vm-512m-4cpu", "512M", 1): 3840 + 116140,
                ("vm-512m-4cpu", "1G", 2): 3840 + 116477 + 128874,
                ("i386-1536m-4cpu", None, None): 3840 + 211314 + 167899}
    for (name, memory, nodes), managed in recorded.items():
        machine = load_machine(name, memory=memory, nodes=nodes)
        assert abs(machine.managed_pages - managed) < 400, (name, memory)


@pytest.mark.parametrize("name", preset_names())
def test_presets_change_as_asked(name: str) -> None:
    machine = load_machine(name)
    assert machine.cpus == int(name.split("-")[-1].removesuffix("cpu"))
    changed = load_machine(name, cpus=6, memory="2G", nodes=2)
    assert changed.node_cpus == ((0, 1, 2), (3, 4, 5))
    assert sum(zone.present for zone in changed.zones) == 2 * GIB // 4096 - 98
    assert "cpus=6" in changed.source
    assert "memory=2G" in changed.source


@pytest.mark.parametrize("name", preset_names())
def test_toml_keeps_everything(name: str, tmp_path: Path) -> None:
    machine = load_machine(name)
    path = tmp_path / "m.toml"
    path.write_text(machine_to_toml(machine))
    assert load_machine(path) == machine


def test_cpus_of_a_file_with_zones_can_change_and_memory_cannot(tmp_path: Path, bundled: Path) -> None:
    machine = machine_from_proc(read_proc(bundled / "build-and-serve-6.18" / "start"))
    path = tmp_path / "m.toml"
    path.write_text(machine_to_toml(machine))
    assert load_machine(path) == machine
    changed = load_machine(path, cpus=5)
    assert changed.node_cpus == ((0, 1, 2, 3, 4),)
    assert {zone.pcp_high for zone in changed.zones} == {-1}
    assert changed.zones[0].min == machine.zones[0].min
    with pytest.raises(ConfigError, match="cannot be changed"):
        load_machine(path, memory="1G")


def test_bundled_snapshot_as_a_machine(bundled: Path) -> None:
    machine = machine_from_proc(read_proc(bundled / "build-and-serve-6.18" / "start"))
    dma, dma32, normal = machine.zones
    assert (machine.cpus, machine.bits, machine.pageblock_order) == (2, 64, 9)
    assert machine.holes == ((159, 256), HOLE_3G)
    assert (dma.index, dma32.index, normal.index) == (0, 1, 2)
    # This kernel spans more than it has taken into use; what is not in use is not memory yet.
    assert normal.managed == normal.present == 622592
    assert "622592 of" in machine.source
    assert len(dma.lowmem_reserve) == 4
    assert dma.lowmem_reserve[0] == 0 < dma.lowmem_reserve[1] < dma.lowmem_reserve[2]


def test_printed_marks_hold_the_boost_and_high_is_the_mean(bundled: Path) -> None:
    snapshot = read_proc(bundled / "build-and-serve-6.18" / "start")
    normal = snapshot.zones[2]
    pcp = tuple(replace(one, high=high, high_min=10) for one, high in zip(normal.pcp, (100, 201), strict=True))
    boosted = replace(normal, boost=7, min=107, low=117, high=127, pcp=pcp)
    zone = machine_from_proc(replace(snapshot, zones=(*snapshot.zones[:2], boosted))).zones[2]
    assert (zone.min, zone.low, zone.high) == (100, 110, 120)
    assert zone.pcp_high == 150


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cpus = 2\n", 'no "memory"'),
        ('cpus = 2\nmemroy = "1G"\n', "did you mean memory"),
        ('cpus = 0\nmemory = "1G"\n', "cpus = 0"),
        ('cpus = "2"\nmemory = "1G"\n', "cpus = '2'"),
        ('cpus = 2\nmemory = "1X"\n', "is not a size"),
        ('cpus = 2\nmemory = "20M"\n', "20 MiB"),
        ('cpus = 2\nmemory = "2T"\n', "2 TiB"),
        ('cpus = 2\nmemory = "4G"\nnodes = 3\n', "2 CPU"),
        ('cpus = 2\nmemory = "1G"\nbits = 16\n', "bits = 16"),
        ('cpus = 2\nmemory = "1G"\nnodes = 2\ndistance = [[10]]\n', "distance"),
        ("cpus = \n", "not TOML"),
        ("cpus = 1\n[[zones]]\nnode = 0\n", "not a machine"),
        ("cpus = 1\n[[zones]]\nnode = 0\nnmae = 1\n", "did you mean name"),
    ],
)
def test_a_wrong_file_is_explained_in_one_line(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "m.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=expected) as caught:
        load_machine(path)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean laptop-16g-8cpu"):
        load_machine("laptop16g")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_machine("nowhere/m.toml")


def test_recorded_machines(ground_truth: Path) -> None:
    for folder in sorted(ground_truth.glob("*/snapshots/*")):
        files = find_start(folder)
        if files.exact is None:
            continue
        dump = read_exact(files.exact)
        exact = machine_from_exact(dump)
        if dump.name == "boot":
            assert all(zone.min == zone.pcp_high == -1 and not zone.lowmem_reserve for zone in exact.zones)
            continue
        proc = machine_from_proc(read_proc(folder))
        # Both views of one machine, by different tools; only names and sources differ.
        assert proc.zones == exact.zones, folder
        assert (proc.node_cpus, proc.holes, proc.bits) == (exact.node_cpus, exact.holes, exact.bits), folder
        assert proc.pageblock_order == exact.pageblock_order
