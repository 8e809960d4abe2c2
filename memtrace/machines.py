"""
Machines: from a preset or TOML file, from a snapshot, and back to TOML.

Zones are laid out as firmware and kernel do it (MODEL 1.1): x86-64 has DMA below 16 MiB, DMA32 below 4 GiB with
the device hole from 3 to 4 GiB, and Normal above; 32-bit x86 has DMA, Normal below 896 MiB and HighMem. Nodes get
equal shares of the memory, in address order, so node 0 has the low zones.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from .config import ZONE_NAMES_32, ZONE_NAMES_64, MachineConfig, ZoneConfig
from .errors import ConfigError
from .snapshot.exact_dump import ExactDump
from .snapshot.proc import ProcSnapshot, ProcZone
from .units import PAGE_SIZE, format_size, parse_size

PRESETS = Path(__file__).parent / "data" / "machines"

_DMA_END = 0x1000  # 16 MiB
_DMA_HOLE = (159, 256)  # video memory and BIOS below 1 MiB: "present 3998" of every x86 zoneinfo
_DMA_RESERVED = 158  # present 3998 - managed 3840 in all recordings
_HOLE_START, _HOLE_END = 0xC0000, 0x100000  # 3 GiB to 4 GiB: devices
_HIGHMEM_START = 896 << 8  # 896 MiB, the end of the 32-bit kernel's direct map
_STRUCT_PAGE = {64: 64, 32: 32}  # bytes per page frame
_RESERVED = "34M"  # kernel image, hash tables, per-CPU areas: 8,451-8,749 pages in the 6.1 recordings
_MEMORY_MAX = 1 << 40

_SHORT_KEYS = ("name", "description", "cpus", "memory", "nodes", "bits", "pageblock_order", "reserved", "distance")
_LONG_KEYS = ("name", "description", "cpus", "possible_cpus", "node_cpus", "distance", "holes", "pageblock_order",
              "bits", "min_free_kbytes", "source", "zones")  # fmt: skip


def preset_names() -> list[str]:
    """Names that ``load_machine`` knows, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load_machine(
    name_or_path: str | Path, cpus: int | None = None, memory: int | str | None = None, nodes: int | None = None
) -> MachineConfig:
    """
    Load a machine from a preset's name or a TOML file, and change what is asked.

    Parameters
    ----------
    name_or_path
        One of ``preset_names()``, or the path of a TOML file (told by its suffix).
    cpus, nodes
        Counts to use instead; CPUs are dealt out to nodes in equal runs.
    memory
        Bytes, or text such as ``512M``, over all nodes.

    Raises
    ------
    ConfigError
        Unknown name or key, a value out of range, or a change that the file's explicit zones do not allow.
    """
    path = _find(name_or_path)
    data = _read_toml(path)
    if "zones" in data:
        return _explicit(path, data, cpus, memory, nodes)
    _check_keys(path, data, _SHORT_KEYS)
    for key in ("cpus", "memory"):
        if key not in data:
            raise ConfigError(f'{path}: no "{key}"; expected cpus and memory at least. Add it, as in {key} = …')
    n_bytes = parse_size(data["memory"] if memory is None else memory, "memory")
    n_cpus = _count(path, "cpus", data["cpus"] if cpus is None else cpus)
    n_nodes = _count(path, "nodes", data.get("nodes", 1) if nodes is None else nodes)
    bits = data.get("bits", 64)
    if bits not in (32, 64):
        raise ConfigError(f"{path}: bits = {bits!r}; expected 32 or 64.")
    changed = [f"{key}={value}" for key, value in (("cpus", cpus), ("memory", memory), ("nodes", nodes)) if value]
    return lay_out(
        str(data.get("name", path.stem)), n_cpus, n_bytes, n_nodes, bits,
        reserved=parse_size(data.get("reserved", _RESERVED), "reserved"),
        pageblock_order=data.get("pageblock_order", 9 if bits == 64 else 10),
        distance=_tuples(data.get("distance", ())) if nodes is None else (),
        source=f"{path.stem}{' with ' + ', '.join(changed) if changed else ''} "
        "(zones laid out by rule; managed = present - memory map - boot reservations)",
    )  # fmt: skip


def lay_out(
    name: str, cpus: int, memory: int, nodes: int, bits: int, *, reserved: int, pageblock_order: int,
    distance: tuple[tuple[int, ...], ...] = (), source: str = "laid out by rule",
) -> MachineConfig:  # fmt: skip
    """
    Lay out zones for a machine of ``memory`` bytes (MODEL 1.1, 1.8).

    ``managed`` is what remains of ``present`` after the memory map (64 bytes a page, taken from the node's highest
    zone; 32 bytes on 32-bit, all from node 0's low memory) and, on node 0, ``reserved`` bytes for the kernel image
    and boot-time tables. Recorded 6.1 machines of 256 MiB to 1.5 GiB fit this within 400 pages.
    """
    pages = memory // PAGE_SIZE
    least = _DMA_END + reserved // PAGE_SIZE + (1 << pageblock_order)
    share = pages // nodes >> pageblock_order << pageblock_order
    if memory > _MEMORY_MAX or share < least:
        raise ConfigError(
            f"machine {name}: memory {format_size(memory)} on {nodes} node(s); expected "
            f"{format_size(least * PAGE_SIZE)} (16 MiB DMA zone and {format_size(reserved)} for the kernel) a node, "
            f"to {format_size(_MEMORY_MAX)} in all. Use a larger memory, fewer nodes or another machine."
        )
    if cpus < nodes:
        raise ConfigError(f"machine {name}: {cpus} CPU(s) on {nodes} nodes; expected at least one a node.")
    zones: list[ZoneConfig] = []
    for node in range(nodes):
        first = node * share
        last = pages if node == nodes - 1 else first + share
        own = _node_zones(node, _physical(first, bits), _physical(last - 1, bits) + 1, bits)
        # A 32-bit kernel can only use low memory for itself, which node 0 has.
        mapped = last - first if bits == 64 else pages if node == 0 else 0
        map_pages = mapped * _STRUCT_PAGE[bits] // PAGE_SIZE
        zones += _reserve(name, own, map_pages + (reserved // PAGE_SIZE if node == 0 else 0))
    holes = tuple(hole for hole in (_DMA_HOLE, (_HOLE_START, _HOLE_END)) if hole[0] < zones[-1].end_pfn)
    return MachineConfig(
        name=name, cpus=cpus, node_cpus=_deal(cpus, nodes), zones=tuple(zones), distance=distance,
        holes=holes if bits == 64 else holes[:1], pageblock_order=pageblock_order, bits=bits, source=source,
    )  # fmt: skip


def _physical(page: int, bits: int) -> int:
    """pfn of the n-th page of RAM, counting over the hole below 4 GiB."""
    return page + _HOLE_END - _HOLE_START if bits == 64 and page >= _HOLE_START else page


def _node_zones(node: int, start: int, end: int, bits: int) -> list[ZoneConfig]:
    """Populated zones of a node that owns pfns [start, end), nothing reserved yet."""
    limits = (
        (("DMA", 0, 1, _DMA_END), ("DMA32", 1, _DMA_END, _HOLE_END), ("Normal", 2, _HOLE_END, 1 << 52))
        if bits == 64
        else (("DMA", 0, 1, _DMA_END), ("Normal", 1, _DMA_END, _HIGHMEM_START), ("HighMem", 2, _HIGHMEM_START, 1 << 52))
    )
    zones = []
    for name, index, low, high in limits:
        first, last = max(start, low), min(end, high)
        if first >= last:
            continue
        holes = (_DMA_HOLE, (_HOLE_START, _HOLE_END)) if bits == 64 else (_DMA_HOLE,)
        absent = sum(max(0, min(last, b) - max(first, a)) for a, b in holes)
        if absent == last - first:
            continue
        zones.append(ZoneConfig(node, name, index, first, last - first, last - first - absent, last - first - absent))
    return zones


def _reserve(name: str, zones: list[ZoneConfig], pages: int) -> list[ZoneConfig]:
    """Take the boot reservations: a little from DMA, the rest from the highest zone the kernel addresses, down."""
    taken = {}
    for zone in reversed([zone for zone in zones if zone.name != "HighMem"]):
        here = _DMA_RESERVED if zone.name == "DMA" else min(pages, zone.present * 3 // 4)
        taken[zone.name] = here
        pages -= 0 if zone.name == "DMA" else here
    if pages > 0:
        raise ConfigError(
            f"machine {name}: {pages * PAGE_SIZE >> 20} MiB of the memory map and the kernel do not fit into node "
            f"{zones[0].node}; expected more low memory. Use a larger memory."
        )
    return [replace(zone, managed=zone.present - taken.get(zone.name, 0)) for zone in zones]


def _deal(cpus: int, nodes: int) -> tuple[tuple[int, ...], ...]:
    """CPUs in equal runs, the first nodes getting one more when it does not divide."""
    runs, first = [], 0
    for node in range(nodes):
        size = cpus // nodes + (node < cpus % nodes)
        runs.append(tuple(range(first, first + size)))
        first += size
    return tuple(runs)


# From snapshots --------------------------------------------------------------------------------------------------


def machine_from_proc(snapshot: ProcSnapshot) -> MachineConfig:
    """
    Derive a machine from /proc files.

    Watermarks, lowmem_reserve, batch and high are the printed ones, not recalculated: the kernel computed them
    when ``managed`` was smaller (EXACT B 2.4). A zone's holes are put where firmware has them (below 1 MiB, below
    4 GiB), else at its end. Where a kernel has not yet taken all its memory into use, what pagetypeinfo counts as
    pageblocks is the zone's size. Which CPU is on which node /proc does not tell: equal runs are assumed.
    """
    bits = 64 if "DMA32" in snapshot.zone_names else 32
    names = ZONE_NAMES_64 if bits == 64 else ZONE_NAMES_32
    order = snapshot.pageblock_order if snapshot.pageblock_order >= 0 else (9 if bits == 64 else 10)
    zones, holes, notes = [], [], []
    for zone in sorted(snapshot.zones, key=lambda z: (z.node, names.index(_known_zone(snapshot.path, z.name, names)))):
        config = _zone_from_proc(zone, names, snapshot.zone_names)
        counted = sum(zone.pageblocks) << order
        if 0 < counted < zone.present - (1 << order):
            notes.append(f"{zone.name}: {counted} of {zone.present} pages in use")
            config = replace(config, spanned=counted, present=counted, managed=min(counted, zone.managed))
        elif zone.present < zone.spanned:
            holes.append(_hole(config))
        zones.append(config)
    cpus = snapshot.cpus
    if snapshot.nodes > 1:
        notes.append("CPUs dealt to nodes in equal runs")
    return MachineConfig(
        name=f"snapshot-{Path(snapshot.path).name}", cpus=cpus, node_cpus=_deal(cpus, snapshot.nodes),
        zones=tuple(zones), holes=tuple(sorted(holes)), pageblock_order=order, bits=bits,
        source="; ".join(["zoneinfo of the snapshot", *notes]),
    )  # fmt: skip


def _known_zone(where: str, name: str, names: tuple[str, ...]) -> str:
    if name not in names:
        raise ConfigError(f'{where}: zone "{name}"; expected {", ".join(names)}. Other zones are not modelled.')
    return name


def _zone_from_proc(zone: ProcZone, names: tuple[str, ...], printed: tuple[str, ...]) -> ZoneConfig:
    reserve = dict(zip(printed, zone.protection, strict=False))
    boost = max(zone.boost, 0)  # zoneinfo prints the marks with the boost already added
    highs = [pcp.high for pcp in zone.pcp]
    lows = [pcp.high_min for pcp in zone.pcp]
    return ZoneConfig(
        node=zone.node, name=zone.name, index=names.index(zone.name), start_pfn=zone.start_pfn,
        spanned=zone.spanned, present=zone.present, managed=zone.managed,
        min=zone.min - boost, low=zone.low - boost, high=zone.high - boost,
        # A kernel without some zone type prints fewer numbers: put them under the right index.
        lowmem_reserve=tuple(reserve.get(name, 0) for name in names) if reserve else (),
        pcp_batch=zone.pcp[0].batch if zone.pcp else -1,
        # Since 6.7 every CPU tunes its own high; the model has one a zone: their mean, at least high_min.
        pcp_high=max(round(sum(highs) / len(highs)), *lows, 0) if highs else -1,
    )  # fmt: skip


def _hole(zone: ZoneConfig) -> tuple[int, int]:
    """Where the missing pages of a zone are taken to be."""
    missing = zone.spanned - zone.present
    if zone.start_pfn <= _DMA_HOLE[0] and _DMA_HOLE[1] <= zone.end_pfn and missing == _DMA_HOLE[1] - _DMA_HOLE[0]:
        return _DMA_HOLE
    return zone.end_pfn - missing, zone.end_pfn


def machine_from_exact(dump: ExactDump) -> MachineConfig:
    """
    Derive a machine from an exact dump.

    At the ``boot`` dump the kernel has not computed its watermarks and per-CPU limits yet (all 0): they are left
    to the model, which gets them from this ``managed`` exactly as the kernel will (EXACT B 1.4). A CPU belongs to
    the node that most of its active slabs lie on; without slabs or on a tie, CPUs are dealt in equal runs.
    """
    bits = 64 if any(zone.name == "DMA32" for zone in dump.zones) else 32
    settled = any(zone.high for zone in dump.zones)
    zones, holes = [], []
    for zone in sorted(dump.zones, key=lambda z: (z.node, z.index)):
        config = ZoneConfig(
            zone.node, zone.name, zone.index, zone.start_pfn, zone.spanned, zone.present, zone.managed
        )
        if settled:
            config = replace(
                config, min=zone.min, low=zone.low, high=zone.high, lowmem_reserve=zone.lowmem_reserve,
                pcp_batch=zone.pcp[0].batch if zone.pcp else -1, pcp_high=zone.pcp[0].high if zone.pcp else -1,
            )  # fmt: skip
        if zone.present < zone.spanned:
            holes.append(_hole(config))
        zones.append(config)
    return MachineConfig(
        name=f"dump-{dump.name}", cpus=dump.cpus, node_cpus=_node_cpus(dump), zones=tuple(zones),
        holes=tuple(sorted(holes)), pageblock_order=dump.zones[0].pageblock_order, bits=bits,
        source=f"exact dump {dump.name}",
    )  # fmt: skip


def _node_cpus(dump: ExactDump) -> tuple[tuple[int, ...], ...]:
    dealt = _deal(dump.cpus, dump.nodes)
    if dump.nodes == 1:
        return dealt
    votes = [[0] * dump.nodes for _ in range(dump.cpus)]
    for cache in dump.slub:
        for cpu, cpu_slab in cache.cpu_slabs.items():
            for zone in dump.zones:
                if zone.start_pfn <= cpu_slab.slab.pfn < zone.start_pfn + zone.spanned:
                    votes[cpu][zone.node] += 1
    found: list[list[int]] = [[] for _ in range(dump.nodes)]
    for cpu, vote in enumerate(votes):
        if vote.count(max(vote)) > 1:
            return dealt
        found[vote.index(max(vote))].append(cpu)
    return tuple(tuple(cpus) for cpus in found)


# TOML --------------------------------------------------------------------------------------------------------------


def machine_to_toml(machine: MachineConfig) -> str:
    """The whole description as TOML text that ``load_machine`` reads back to an equal machine."""
    lines = [f"{key} = {_toml(value)}" for key, value in asdict(machine).items() if key != "zones"]
    for zone in machine.zones:
        lines += ["", "[[zones]]", *(f"{key} = {_toml(value)}" for key, value in asdict(zone).items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return str(value)


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.suffix == ".toml" or len(path.parts) > 1:
        return path
    names = preset_names()
    if str(name_or_path) not in names:
        near = difflib.get_close_matches(str(name_or_path), names, 1, 0.4)
        raise ConfigError(
            f'machine "{name_or_path}": no such preset{f"; did you mean {near[0]}?" if near else ";"} '
            f"expected one of {', '.join(names)}, or a .toml file."
        )
    return PRESETS / f"{name_or_path}.toml"


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}. Check the path and its permissions.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}. Presets such as {preset_names()[0]} show the form.") from None


def _check_keys(path: Path, data: dict[str, Any], known: tuple[str, ...]) -> None:
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise ConfigError(
                f'{path}: unknown key "{key}"{f"; did you mean {near[0]}?" if near else ";"} '
                f"expected {', '.join(known)}."
            )


def _count(path: Path, key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{path}: {key} = {value!r}; expected a whole number of at least 1.")
    return value


def _tuples(rows: Any) -> tuple[Any, ...]:
    return tuple(tuple(row) for row in rows)


def _explicit(
    path: Path, data: dict[str, Any], cpus: int | None, memory: int | str | None, nodes: int | None
) -> MachineConfig:
    """A file with [[zones]]; only the number of CPUs may be changed."""
    if memory is not None or nodes is not None:
        raise ConfigError(
            f"{path}: memory and nodes cannot be changed, since its zones are given one by one; "
            "expected no --memory and no --nodes. Edit the file, or use a preset."
        )
    _check_keys(path, data, _LONG_KEYS)
    zone_keys = tuple(field.name for field in fields(ZoneConfig))
    try:
        zones = []
        for table in data["zones"]:
            _check_keys(path, table, zone_keys)
            table["lowmem_reserve"] = tuple(table.get("lowmem_reserve", ()))
            zones.append(ZoneConfig(**table))
        n_nodes = 1 + max(zone.node for zone in zones)
        n_cpus = _count(path, "cpus", data["cpus"] if cpus is None else cpus)
        if cpus is not None or "node_cpus" not in data:
            node_cpus = _deal(n_cpus, n_nodes)
            # The limit of a per-CPU list depends on how many CPUs share the zone (MODEL 3.2).
            zones = [replace(zone, pcp_high=-1) for zone in zones] if cpus not in (None, data["cpus"]) else zones
        else:
            node_cpus = _tuples(data["node_cpus"])
        rest = {key: data[key] for key in ("pageblock_order", "bits", "min_free_kbytes", "source") if key in data}
        return MachineConfig(
            name=str(data.get("name", path.stem)), cpus=n_cpus, node_cpus=node_cpus, zones=tuple(zones),
            possible_cpus=max(data.get("possible_cpus", 0), n_cpus), distance=_tuples(data.get("distance", ())),
            holes=_tuples(data.get("holes", ())), **rest,
        )  # fmt: skip
    except (TypeError, KeyError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{path}: not a machine: {error}; expected cpus and [[zones]] with {', '.join(zone_keys[:7])}."
        ) from None
