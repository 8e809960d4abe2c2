"""Writes /proc files as kernels print them, so that the readers can be tested with any contents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

TYPES = ("Unmovable", "Movable", "Reclaimable", "HighAtomic")


@dataclass
class Zone:
    """What the test put into a zone; ``nr_free[type][order]``."""

    node: int
    name: str
    start_pfn: int
    present: int
    nr_free: list[list[int]]
    pageblocks: list[int]
    boost: int = 0
    pcp: list[tuple[int, int, int]] = field(default_factory=lambda: [(0, 7, 1)])

    @property
    def free(self) -> int:
        return sum(count << order for counts in self.nr_free for order, count in enumerate(counts))


def zoneinfo(zones: Sequence[Zone], era: str = "6.1") -> str:
    """Text of /proc/zoneinfo (MODEL 4.5); ``era`` is 3.0, 6.1 or 6.18."""
    text = []
    for i, zone in enumerate(zones):
        text.append(f"Node {zone.node}, zone {zone.name:>8}")
        if era != "3.0" and (i == 0 or zones[i - 1].node != zone.node):
            text += ["  per-node stats", f"      {'nr_slab_reclaimable':<12} {100 + zone.node}"]
        text.append(f"  pages free     {zone.free}")
        rows = {"boost": zone.boost, "min": 10, "low": 20, "high": 30, "promo": 40, "scanned": 0,
                "spanned": zone.present, "present": zone.present, "managed": zone.present - 5}  # fmt: skip
        absent = {"3.0": ("boost", "promo", "managed"), "6.1": ("promo", "scanned"), "6.18": ("scanned",)}[era]
        text += [f"        {key:<8} {value}" for key, value in rows.items() if key not in absent]
        if era == "3.0":
            text += ["    nr_free_pages 1", "        protection: (0, 5, 6)"]
        else:
            text += ["        cma      0", "        protection: (0, 5, 6)", f"      nr_free_pages {zone.free}"]
        text.append("  pagesets")
        for cpu, (count, high, batch) in enumerate(zone.pcp):
            text += [f"    cpu: {cpu}", f"              count: {count}", f"              high:  {high}",
                     f"              batch: {batch}"]  # fmt: skip
            if era == "6.18":
                text += [f"              high_min: {high}", f"              high_max: {high * 9}"]
            text.append("  vm stats threshold: 6")
        text += ["  node_unreclaimable:  0", f"  start_pfn:           {zone.start_pfn}"]
    return "\n".join(text) + "\n"


def buddyinfo(zones: Sequence[Zone]) -> str:
    """Text of /proc/buddyinfo (MODEL 4.3)."""
    return "".join(
        f"Node {zone.node}, zone {zone.name:>8} "
        + "".join(f"{sum(counts[order] for counts in zone.nr_free):>6} " for order in range(len(zone.nr_free[0])))
        + "\n"
        for zone in zones
    )


def pagetypeinfo(zones: Sequence[Zone], types: Sequence[str] = TYPES, printed: Sequence[str] | None = None) -> str:
    """Text of /proc/pagetypeinfo (MODEL 4.4); ``printed`` is another order or naming of the types."""
    names = list(printed or types)
    rows = [list(types).index({"Reserve": "HighAtomic"}.get(name, name)) for name in names]
    text = ["Page block order: 9", "Pages per block:  512", "", "Free pages count per migrate type at order       0 "]
    for zone in zones:
        for name, row in zip(names, rows, strict=True):
            counts = "".join(f"{'>' if n >= 100000 else ''}{n:>6} " for n in zone.nr_free[row])
            text.append(f"Node {zone.node:>4}, zone {zone.name:>8}, type {name:>12} {counts}")
    text += ["", f"{'Number of blocks type ':<23}" + "".join(f"{name:>12} " for name in names)]
    for zone in zones:
        text.append(f"Node {zone.node}, zone {zone.name:>8} " + "".join(f"{zone.pageblocks[r]:>12} " for r in rows))
    return "\n".join(text) + "\n"


def slabinfo(rows: Sequence[tuple[str, int, int, int, int]]) -> str:
    """Text of /proc/slabinfo for (name, size, objects per slab, pages per slab, slabs) (MODEL 4.6)."""
    text = ["slabinfo - version: 2.1", "# name            <active_objs> <num_objs> <objsize> …"]
    for name, size, objs, pages, slabs in rows:
        text.append(
            f"{name:<17} {objs * slabs:>6} {objs * slabs:>6} {size:>6} {objs:>4} {pages:>4} : tunables "
            f"{0:>4} {0:>4} {0:>4} : slabdata {slabs:>6} {slabs:>6} {0:>6}"
        )
    return "\n".join(text) + "\n"


def write(folder: Path, **files: str) -> Path:
    """Write files into a new snapshot folder; ``sysfs`` and ``links`` stand for their long names."""
    folder.mkdir(parents=True, exist_ok=True)
    long = {"sysfs": "sys_kernel_slab.json", "links": "sys_kernel_slab_links.txt"}
    for name, text in files.items():
        (folder / long.get(name, name)).write_text(text)
    return folder
