"""
Slab caches of a snapshot folder: ``/proc/slabinfo`` joined with ``/sys/kernel/slab``.

Merged caches
-------------
SLUB serves caches of equal layout from one ``kmem_cache`` (MODEL 6.11). ``slabinfo`` prints it once, under the
name of its first creator; ``/sys/kernel/slab`` holds it as a folder with a made-up name such as ``:0000192`` or
``:a-0000136`` (flag letters, then the size), and every cache name, the first creator's too, as a symbolic link
to it. A row of slabinfo is joined with its folder in this order, and ``ProcCache.joined`` says which it was:

``name``      a folder of that name (a cache that is not merged);
``link``      the link of that name (``sys_kernel_slab_links.txt``);
``geometry``  no links recorded: a made-up folder of the same size, objects and pages per slab that no other row
              has taken; the one nearest in number of slabs wins, reading rows in slabinfo's order;
``none``      no folder (SLAB, or no sysfs recorded): fields that only sysfs has are -1.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from memtrace.errors import TraceError

from .lines import bad_line, read_lines


@dataclass(frozen=True, slots=True)
class ProcCache:
    """One slab cache: its row of slabinfo, and its sysfs folder where there is one (see the module).

    ``size`` is slabinfo's objsize (with padding), ``object_size`` what was asked for (-1 unknown).
    ``*_node`` are by node; ``cpu_partial_slabs[cpu]`` counts slabs on that CPU's partial list.
    ``cpu_partial`` and ``min_partial`` are the tunables. Flags are None when not known.
    """

    name: str
    active_objs: int
    num_objs: int
    size: int
    objperslab: int
    pagesperslab: int
    num_slabs: int
    object_size: int = -1
    order: int = -1
    align: int = -1
    min_partial: int = -1
    cpu_partial: int = -1
    nr_partial: int = -1
    objects_partial: int = -1
    cpu_slabs: int = -1
    slabs_node: tuple[int, ...] = ()
    partial_node: tuple[int, ...] = ()
    objects_partial_node: tuple[int, ...] = ()
    cpu_slabs_node: tuple[int, ...] = ()
    cpu_partial_slabs: tuple[int, ...] = ()
    reclaim_account: bool | None = None
    destroy_by_rcu: bool | None = None
    hwcache_align: bool | None = None
    cache_dma: bool | None = None
    account: bool | None = None
    ctor: bool | None = None
    sysfs_name: str = ""
    joined: str = "none"
    aliases: tuple[str, ...] = ()
    """Other names served by this cache, sorted."""
    limit: int = -1
    """Largest number of objects in a CPU's array: SLAB's tunable, 0 under SLUB."""
    sysfs: dict[str, str] = field(default_factory=dict)
    """All recorded attributes as text (SLUB_STATS counters are here)."""


_ROW = re.compile(
    r"(.+?) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+) : tunables +(\d+) .*: slabdata +(\d+) +(\d+) "
)


def read_caches(folder: Path) -> tuple[ProcCache, ...]:
    rows = _read_slabinfo(folder / "slabinfo")
    sysfs = _read_sysfs(folder / "sys_kernel_slab.json")
    links = _read_links(folder / "sys_kernel_slab_links.txt")
    free_folders = {name for name in sysfs if name.startswith(":")}
    joined: dict[str, tuple[str, str]] = {}
    for row in rows:
        if row.name in sysfs:
            joined[row.name] = (row.name, "name")
        elif links.get(row.name) in sysfs:
            joined[row.name] = (links[row.name], "link")
            free_folders.discard(links[row.name])
    for row in rows:
        if row.name not in joined:
            nearest = _nearest_folder(row, free_folders, sysfs)
            joined[row.name] = (nearest, "geometry" if nearest else "none")
            free_folders.discard(nearest)
    aliases: dict[str, list[str]] = {}
    for alias, target in links.items():
        aliases.setdefault(target, []).append(alias)
    return tuple(
        _join(row, *joined[row.name], sysfs, tuple(sorted(set(aliases.get(joined[row.name][0], ())) - {row.name})))
        for row in rows
    )


def _read_slabinfo(path: Path) -> list[ProcCache]:
    """Rows of slabinfo, in order; an empty list for a kernel without slab caches in it (SLOB)."""
    lines = read_lines(path)
    if not lines or not lines[0].startswith("slabinfo"):
        return []
    rows: list[ProcCache] = []
    for number, line in enumerate(lines, 1):
        if line.startswith(("slabinfo", "#")) or not line.strip():
            continue
        # Cache names may hold blanks and colons, so the numbers are found from the first " : ".
        match = _ROW.match(line)
        if match is None:
            raise bad_line(path, number, line, "name, five numbers, tunables and slabdata (slabinfo 2.x)")
        n = [int(part) for part in match.groups()[1:]]
        rows.append(ProcCache(match[1], n[0], n[1], n[2], n[3], n[4], n[7], limit=n[5]))
    return rows


def _read_sysfs(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    try:
        return {str(k): dict(v) for k, v in json.loads(path.read_text(encoding="utf-8", errors="replace")).items()}
    except (ValueError, AttributeError, TypeError):
        raise TraceError(
            "not a JSON object {cache: {attribute: text}}; expected the attributes under /sys/kernel/slab.", path
        ) from None


def _read_links(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    links = {}
    for line in read_lines(path):
        alias, arrow, target = line.partition(" -> ")
        if arrow:
            links[alias.strip()] = target.strip().rsplit("/", 1)[-1]
    return links


def _nearest_folder(row: ProcCache, folders: set[str], sysfs: dict[str, dict[str, str]]) -> str:
    """The unclaimed merged folder of this row's geometry, "" when there is none."""
    best, best_distance = "", -1
    for name in sorted(folders):
        attrs = sysfs[name]
        pages = 1 << _number(attrs.get("order"), 0)
        if (_number(attrs.get("slab_size")), _number(attrs.get("objs_per_slab")), pages) != (
            row.size, row.objperslab, row.pagesperslab,
        ):  # fmt: skip
            continue
        distance = abs(_number(attrs.get("slabs"), 0) - row.num_slabs)
        if not best or distance < best_distance:
            best, best_distance = name, distance
    return best


def _number(text: str | None, default: int = -1) -> int:
    """The leading integer of an attribute such as ``294 N0=103 N1=191`` or ``340(4) C0=…``."""
    match = re.match(r"-?\d+", text.strip()) if text else None
    return int(match[0]) if match else default


def _by_node(text: str | None) -> tuple[int, ...]:
    """Per node from ``294 N0=103 N1=191``; kernels without NUMA print only the total: node 0."""
    if not text:
        return ()
    found = {int(node): int(count) for node, count in re.findall(r"N(\d+)=(\d+)", text)}
    if not found:
        return (_number(text, 0),)
    return tuple(found.get(node, 0) for node in range(max(found) + 1))


def _cpu_partial_slabs(text: str | None) -> tuple[int, ...]:
    """Slabs per CPU from ``340(4) C0=170(2) C1=170(2)``: the bracketed number counts slabs (5.16 and later)."""
    found = {int(cpu): int(slabs) for cpu, slabs in re.findall(r"C(\d+)=\d+\((\d+)\)", text or "")}
    return tuple(found.get(cpu, 0) for cpu in range(max(found) + 1)) if found else ()


def _flag(attrs: dict[str, str], key: str) -> bool | None:
    return None if key not in attrs else attrs[key].strip() not in ("", "0")


def _join(
    row: ProcCache, folder: str, how: str, sysfs: dict[str, dict[str, str]], aliases: tuple[str, ...]
) -> ProcCache:
    if how == "none":
        return row
    attrs = sysfs[folder]
    letters = folder[1:].split("-")[0] if folder.startswith(":") and "-" in folder else ""
    made_up = folder.startswith(":")
    reclaim, dma, account = _flag(attrs, "reclaim_account"), _flag(attrs, "cache_dma"), None
    if made_up:  # the letters of a merged folder's name are its flags: d DMA, a reclaim, A account
        reclaim = ("a" in letters) if reclaim is None else reclaim
        dma = ("d" in letters) if dma is None else dma
        account = "A" in letters
    return replace(
        row,
        object_size=_number(attrs.get("object_size")), order=_number(attrs.get("order")),
        align=_number(attrs.get("align")), min_partial=_number(attrs.get("min_partial")),
        cpu_partial=_number(attrs.get("cpu_partial")), nr_partial=_number(attrs.get("partial")),
        objects_partial=_number(attrs.get("objects_partial")), cpu_slabs=_number(attrs.get("cpu_slabs")),
        slabs_node=_by_node(attrs.get("slabs")), partial_node=_by_node(attrs.get("partial")),
        objects_partial_node=_by_node(attrs.get("objects_partial")), cpu_slabs_node=_by_node(attrs.get("cpu_slabs")),
        cpu_partial_slabs=_cpu_partial_slabs(attrs.get("slabs_cpu_partial")), reclaim_account=reclaim,
        destroy_by_rcu=_flag(attrs, "destroy_by_rcu"), hwcache_align=_flag(attrs, "hwcache_align"), cache_dma=dma,
        account=account, ctor=None if "ctor" not in attrs else bool(attrs["ctor"].strip()),
        sysfs_name=folder, joined=how, aliases=aliases, sysfs=attrs,
    )  # fmt: skip
