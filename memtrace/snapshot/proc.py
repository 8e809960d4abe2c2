"""
A snapshot folder of /proc and /sys files, read as it stands: counts, no addresses.

Only ``zoneinfo`` and ``buddyinfo`` must be there; what else is missing is listed in ``ProcSnapshot.missing``.
Formats: MODEL 4.3-4.6, from 2.6.24 to 6.18.

Slab caches: see ``slabinfo.py``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from memtrace.errors import TraceError

from .lines import bad_line, read_lines
from .slabinfo import ProcCache, read_caches

# Names in the order of MIGRATE_* of 4.4 and later (MODEL 1.4); older kernels print Reclaimable before Movable and
# Reserve where HighAtomic is now. Types after these four keep the order in which the kernel printed them.
_CANONICAL_TYPES = ("Unmovable", "Movable", "Reclaimable", "HighAtomic")
_TYPE_ALIASES = {"Reserve": "HighAtomic"}

_PCP_KEYS = ("count", "high", "batch", "high_min", "high_max")
_MISSABLE = ("pagetypeinfo", "slabinfo", "sys_kernel_slab.json", "sys_kernel_slab_links.txt", "meminfo", "vmstat")


@dataclass(frozen=True, slots=True)
class PcpState:
    """One CPU's page list of one zone; ``high_min``/``high_max`` are -1 before 6.7."""

    cpu: int
    count: int
    high: int
    batch: int
    high_min: int = -1
    high_max: int = -1


@dataclass(frozen=True, slots=True)
class ProcZone:
    """One populated zone. All sizes in pages.

    ``nr_free[order][migratetype]`` counts blocks; ``pageblocks[migratetype]`` counts pageblocks; both follow
    ``ProcSnapshot.migratetypes``. Without pagetypeinfo every free block is put down as Movable and ``pageblocks``
    is empty. ``min``, ``low``, ``high`` and ``boost`` as printed (boost apart, -1 before 5.1);
    ``protection`` is lowmem_reserve, one entry a zone type.
    """

    node: int
    name: str
    free: int
    min: int
    low: int
    high: int
    boost: int
    spanned: int
    present: int
    managed: int
    protection: tuple[int, ...]
    start_pfn: int
    stats: dict[str, int]
    pcp: tuple[PcpState, ...]
    nr_free: tuple[tuple[int, ...], ...] = ()
    pageblocks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ProcSnapshot:
    """What a snapshot folder tells. ``caches`` in slabinfo's order, newest first; ``zones`` as printed."""

    path: str
    zones: tuple[ProcZone, ...]
    migratetypes: tuple[str, ...]
    pageblock_order: int
    """-1 when pagetypeinfo is missing."""
    zone_names: tuple[str, ...]
    """All zone types of node 0, in index order, populated or not."""
    caches: tuple[ProcCache, ...]
    meminfo: dict[str, int]
    """Bytes (meminfo prints kB), or plain counts."""
    vmstat: dict[str, int]
    node_stats: dict[int, dict[str, int]]
    missing: tuple[str, ...]

    @property
    def cpus(self) -> int:
        """CPUs online, from the pagesets."""
        return max((pcp.cpu + 1 for zone in self.zones for pcp in zone.pcp), default=1)

    @property
    def nodes(self) -> int:
        return 1 + max(zone.node for zone in self.zones)

    @property
    def allocator(self) -> str:
        """Which slab allocator the kernel had: only SLAB's slabinfo has limits, SLOB has none; "" when not known."""
        if self.caches:
            return "slab" if any(cache.limit > 0 for cache in self.caches) else "slub"
        return "" if "slabinfo" in self.missing else "slob"


def read_proc(directory: str | Path) -> ProcSnapshot:
    """
    Read the /proc and /sys files of a snapshot folder.

    Parameters
    ----------
    directory
        Holds ``zoneinfo`` and ``buddyinfo``, and, as far as recorded, ``pagetypeinfo``, ``slabinfo``,
        ``sys_kernel_slab.json`` ({cache: {attribute: text}}), ``sys_kernel_slab_links.txt``
        (``alias -> folder`` lines), ``meminfo`` and ``vmstat``.

    Raises
    ------
    TraceError
        The folder or one of the two needed files is missing, or a file is not what its name says.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise TraceError(
            "no such snapshot folder; expected one with zoneinfo and buddyinfo. Give the folder, not a file in it.",
            folder,
        )
    for name in ("zoneinfo", "buddyinfo"):
        if not (folder / name).is_file():
            raise TraceError(
                f"no {name}; expected zoneinfo and buddyinfo at least. Copy /proc/{name} into the folder.", folder
            )
    missing = tuple(name for name in _MISSABLE if not (folder / name).is_file())

    zones, zone_names, node_stats = _read_zoneinfo(folder / "zoneinfo")
    buddy = _read_buddyinfo(folder / "buddyinfo")
    types: _PageTypes = _PageTypes(_CANONICAL_TYPES, -1, {}, {})
    if "pagetypeinfo" not in missing:
        types = _read_pagetypeinfo(folder / "pagetypeinfo")
    caches: tuple[ProcCache, ...] = ()
    if "slabinfo" not in missing:
        caches = read_caches(folder)
    return ProcSnapshot(
        path=str(folder),
        zones=tuple(_with_counts(folder, zone, buddy, types) for zone in zones),
        migratetypes=types.names,
        pageblock_order=types.pageblock_order,
        zone_names=zone_names,
        caches=caches,
        meminfo={} if "meminfo" in missing else _read_meminfo(folder / "meminfo"),
        vmstat={} if "vmstat" in missing else _read_pairs(folder / "vmstat"),
        node_stats=node_stats,
        missing=missing,
    )


# zoneinfo ------------------------------------------------------------------------------------------------------

_ZONE_LINE = re.compile(r"Node (\d+), zone +(\S+)$")
_NUMBER_LINE = re.compile(r" +(?:pages )?([a-z_0-9]+):? +(-?\d+)$")


def _read_zoneinfo(path: Path) -> tuple[list[ProcZone], tuple[str, ...], dict[int, dict[str, int]]]:
    """Populated zones in printed order, the zone types of the first node, and per-node statistics."""
    zones: list[ProcZone] = []
    names: list[str] = []
    node_stats: dict[int, dict[str, int]] = {}
    block: list[tuple[int, str]] = []
    head: tuple[int, str] | None = None

    def finish() -> None:
        if head is None:
            return
        if head[0] == first_node:
            names.append(head[1])
        zone = _parse_zone(path, head[0], head[1], block, node_stats)
        if zone.present > 0:
            zones.append(zone)

    first_node = -1
    for number, line in enumerate(read_lines(path), 1):
        match = _ZONE_LINE.match(line)
        if match:
            finish()
            head = (int(match[1]), match[2])
            first_node = head[0] if first_node < 0 else first_node
            block = []
        elif head is None and line.strip():
            raise bad_line(path, number, line, '"Node 0, zone DMA"')
        else:
            block.append((number, line))
    finish()
    if not zones:
        raise TraceError("no populated zone in it; expected a copy of /proc/zoneinfo. Record it again.", path)
    return zones, tuple(names), node_stats


def _parse_zone(
    path: Path, node: int, name: str, block: list[tuple[int, str]], node_stats: dict[int, dict[str, int]]
) -> ProcZone:
    pages: dict[str, int] = {}
    stats: dict[str, int] = {}
    pcp: list[dict[str, int]] = []
    protection: tuple[int, ...] = ()
    in_node_stats = False
    for number, line in block:
        text = line.strip()
        if text == "per-node stats":
            in_node_stats = True
        elif text in ("", "pagesets") or text.startswith("vm stats threshold"):
            continue
        elif text.startswith("protection:"):
            protection = tuple(int(part) for part in re.findall(r"-?\d+", text))
        elif text.startswith("cpu:"):
            pcp.append({"cpu": int(text.split(":")[1].split()[0])})
        else:
            match = _NUMBER_LINE.match(line)
            if match is None:
                raise bad_line(path, number, line, "a name and a number")
            key, value = match[1], int(match[2])
            if text.startswith("pages free"):
                in_node_stats = False
                pages["free"] = value
            elif in_node_stats:
                node_stats.setdefault(node, {})[key] = value
            elif pcp and key in _PCP_KEYS:
                pcp[-1][key] = value
            elif key in ("node_unreclaimable", "start_pfn") or not protection:
                pages[key] = value
            else:
                stats[key] = value
    absent = [key for key in ("free", "min", "low", "high", "spanned", "present") if key not in pages]
    if absent:
        raise TraceError(
            f"node {node} zone {name} has no \"{absent[0]}\"; expected a copy of /proc/zoneinfo. Record it again.", path
        )
    present = pages["present"]
    return ProcZone(
        node=node, name=name, free=pages["free"], min=pages["min"], low=pages["low"], high=pages["high"],
        boost=pages.get("boost", -1), spanned=pages["spanned"], present=present,
        # Before 3.9 there is no "managed", and the kernel's own formulas use present pages (MODEL 1.1).
        managed=pages.get("managed", present), protection=protection, start_pfn=pages.get("start_pfn", 0),
        stats=stats, pcp=tuple(_pcp_state(fields_) for fields_ in pcp),
    )  # fmt: skip


def _pcp_state(values: dict[str, int]) -> PcpState:
    return PcpState(
        values["cpu"], values.get("count", 0), values.get("high", 0), values.get("batch", 1),
        values.get("high_min", -1), values.get("high_max", -1),
    )  # fmt: skip


# buddyinfo and pagetypeinfo --------------------------------------------------------------------------------------


class _PageTypes(NamedTuple):
    """pagetypeinfo: counts by (node, zone name), each in the order of ``names``."""

    names: tuple[str, ...]
    pageblock_order: int
    free: dict[tuple[int, str], dict[str, tuple[int, ...]]]
    blocks: dict[tuple[int, str], dict[str, int]]


def _read_buddyinfo(path: Path) -> dict[tuple[int, str], tuple[int, ...]]:
    """Free blocks by order, by (node, zone name)."""
    counts: dict[tuple[int, str], tuple[int, ...]] = {}
    for number, line in enumerate(read_lines(path), 1):
        match = re.match(r"Node (\d+), zone +(\S+) +([\d ]+)$", line)
        if match is None:
            raise bad_line(path, number, line, '"Node 0, zone DMA" and a count for each order')
        counts[int(match[1]), match[2]] = tuple(int(part) for part in match[3].split())
    return counts


def _read_pagetypeinfo(path: Path) -> _PageTypes:
    names: list[str] = []
    free: dict[tuple[int, str], dict[str, tuple[int, ...]]] = {}
    blocks: dict[tuple[int, str], dict[str, int]] = {}
    order = -1
    printed: list[str] = []
    for line in read_lines(path):
        if line.startswith("Page block order:"):
            order = int(line.split(":")[1])
        elif line.startswith("Number of blocks type"):
            printed = [_TYPE_ALIASES.get(name, name) for name in line.split()[4:]]
        elif match := re.match(r"Node +(\d+), zone +(\S+), type +(\S+) +([>\d ]+)$", line):
            name = _TYPE_ALIASES.get(match[3], match[3])
            if name not in names:
                names.append(name)
            # ">100000" is where the kernel stops counting a long list: the true count is not known.
            free.setdefault((int(match[1]), match[2]), {})[name] = tuple(
                int(part) for part in match[4].replace(">", "").split()
            )
        elif match := re.match(r"Node +(\d+), zone +(\S+) +([\d ]+)$", line):
            blocks[int(match[1]), match[2]] = dict(
                zip(printed, (int(part) for part in match[3].split()), strict=False)
            )
    if order < 0 or not free:
        raise TraceError("not a copy of /proc/pagetypeinfo (no page block order). Record it again, as root.", path)
    return _PageTypes(
        _CANONICAL_TYPES + tuple(n for n in names if n not in _CANONICAL_TYPES), order, free, blocks
    )


def _with_counts(
    folder: Path, zone: ProcZone, buddy: dict[tuple[int, str], tuple[int, ...]], types: _PageTypes
) -> ProcZone:
    key = (zone.node, zone.name)
    if key not in buddy:
        raise TraceError(
            f"node {zone.node} zone {zone.name} is in zoneinfo but not in buddyinfo; expected both from one machine.",
            folder,
        )
    orders = len(buddy[key])
    by_type = types.free.get(key) or {"Movable": buddy[key]}
    nr_free = tuple(
        tuple(by_type[name][order] if name in by_type else 0 for name in types.names) for order in range(orders)
    )
    blocks = types.blocks.get(key)
    return replace(
        zone, nr_free=nr_free, pageblocks=tuple(blocks.get(name, 0) for name in types.names) if blocks else ()
    )



# meminfo and vmstat ----------------------------------------------------------------------------------------------


def _read_meminfo(path: Path) -> dict[str, int]:
    values = {}
    for line in read_lines(path):
        name, _, rest = line.partition(":")
        parts = rest.split()
        if parts and parts[0].isdigit():
            values[name] = int(parts[0]) * (1024 if parts[1:] == ["kB"] else 1)
    return values


def _read_pairs(path: Path) -> dict[str, int]:
    values = {}
    for line in read_lines(path):
        parts = line.split()
        if len(parts) == 2 and parts[1].lstrip("-").isdigit():
            values[parts[0]] = int(parts[1])
    return values
