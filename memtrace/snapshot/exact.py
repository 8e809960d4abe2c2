"""
An exact dump (``gt_snap.txt`` or ``.gz``): every free list, per-CPU list and slab of a kernel at one instant.

The dump was taken with the machine stopped, so all its parts agree. Lists keep the kernel's order, head first:
the next allocation takes the first of a zone's or a CPU's page list. Object indices count from the start of a
slab; freelists are in hand-out order.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from memtrace.errors import TraceError

from .exact_dump import (
    ArrayCache,
    CpuSlab,
    ExactDump,
    ExactPcp,
    ExactSlab,
    ExactZone,
    NodeSlabs,
    SlabCache,
    SlabNode,
    SlabPage,
    SlobCache,
    SlobPage,
    SlubCache,
)


def read_exact(path: str | Path) -> ExactDump:
    """
    Read an exact dump.

    Parameters
    ----------
    path
        ``gt_snap.txt``, plain or gzip-compressed (told by its first bytes, not by its name).

    Raises
    ------
    TraceError
        The file is missing, is not a dump, is cut off, or overflowed its buffer when it was taken.
    """
    parser = _Parser(Path(path))
    for parser.line, text in enumerate(_read_text(Path(path)).splitlines(), 1):
        parser.feed(text)
    return parser.finish()


@dataclass(frozen=True, slots=True)
class StartFiles:
    """What a snapshot folder can start a replay from, and which marker event names its row of the trace.

    ``exact`` is the dump's file, or None; ``proc`` tells whether read_proc can read the folder.
    ``exact_marker`` and ``proc_marker`` are the marker texts ("" for what is not there).
    """

    path: Path
    exact: Path | None
    proc: bool
    exact_marker: str
    proc_marker: str


def find_start(directory: str | Path) -> StartFiles:
    """
    Say what a snapshot folder holds.

    The folder's own name is the snapshot's name: /proc files of ``.../start`` were read at the marker
    ``SNAP_BEGIN start``. An exact dump has its marker's number and name inside.

    Raises
    ------
    TraceError
        The folder is missing or holds neither a dump nor zoneinfo and buddyinfo.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise TraceError("no such snapshot folder; expected a folder of /proc files or with gt_snap.txt.gz.", folder)
    dumps = [path for path in (folder / "gt_snap.txt.gz", folder / "gt_snap.txt") if path.is_file()]
    proc = all((folder / name).is_file() for name in ("zoneinfo", "buddyinfo"))
    if not dumps and not proc:
        raise TraceError(
            "nothing to start from in it; expected zoneinfo and buddyinfo, or gt_snap.txt.gz. "
            "Copy them from /proc, or leave out --from.",
            folder,
        )
    marker = ""
    if dumps:
        head = re.match(r"=== SNAP (\d+) (\S+)", _read_text(dumps[0])[:200])
        if head is None:
            raise TraceError('does not begin with "=== SNAP number name"; expected an exact dump.', dumps[0], 1)
        marker = f"GT_SNAP {head[1]} {head[2]}"
    return StartFiles(
        folder, dumps[0] if dumps else None, proc, marker, f"SNAP_BEGIN {folder.resolve().name}" if proc else ""
    )


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except OSError as error:
        reason = error.strerror or "not a complete gzip file"
        raise TraceError(f"cannot be read: {reason}. Check the path and the file.", path) from None
    except (EOFError, zlib.error):
        raise TraceError("is cut off or damaged; expected a whole gzip file. Copy it again.", path) from None
    return data.decode("ascii", errors="replace")


def _fields(text: str) -> dict[str, str]:
    """``key=value`` words of a record."""
    return dict(word.split("=", 1) for word in text.split() if "=" in word)


def _hexes(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def _split(rest: str) -> tuple[str, str]:
    """A record's words and its list, on both sides of the colon."""
    words, _, listed = rest.partition(":")
    return words, listed


class _Parser:
    """One pass over the lines; ``zone`` and the caches are the ones that following records belong to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = 0
        self.dump: ExactDump | None = None
        self.ended = False
        self.cache_text: dict[str, str] = {}
        self.last_slob_list: list[SlobPage] = []
        self.records: dict[str, Callable[[ExactDump, str], None]] = {
            "ZONE": self._zone, "VMSTATDIFF": self._vmstat_diff, "FREE": self._free, "PCP": self._pcp,
            "PCPL": self._pcp_list, "PAGEBLOCKS": self._pageblocks, "CACHE": self._cache, "STAT": self._stat,
            "CPUSLAB": self._cpu_slab, "CPUFREE": self._cpu_free, "CPUPARTIAL": self._cpu_partial,
            "NODE": self._node, "NODEPARTIAL": self._node_partial, "CPUCACHE": self._cpu_cache,
            "SHARED": self._shared, "ALIEN": self._alien, "PARTIAL": self._slab_partial, "FULL": self._slab_full,
            "FREE_SLAB": self._slab_free, "SLOBUNIT": self._slob_unit, "SLOBLIST": self._slob_list,
            "SLOBPAGE": self._slob_page,
        }  # fmt: skip

    def error(self, message: str) -> TraceError:
        return TraceError(f"{message} Give a gt_snap.txt as the dump wrote it.", self.path, self.line)

    def feed(self, text: str) -> None:
        if text.startswith("==="):
            self._frame(text)
            return
        kind, _, rest = text.partition(" ")
        if self.dump is None:
            raise self.error(f'begins with "{text[:40]}"; expected "=== SNAP number name".')
        record = self.records.get(kind)
        if record is None:
            raise self.error(f'unknown record "{kind[:40]}"; expected one of {", ".join(sorted(self.records))}.')
        try:
            record(self.dump, rest)
        except (KeyError, ValueError, IndexError, TypeError, AttributeError):
            raise self.error(f'"{text[:60]}" is not a whole {kind} record.') from None

    def finish(self) -> ExactDump:
        if self.dump is None or not self.ended:
            what = "is empty" if self.dump is None else 'has no "=== END" line, so it is cut off'
            raise TraceError(f"{what}; expected a whole dump. Copy the file again.", self.path)
        if not self.dump.zones:
            raise TraceError("has no ZONE record; expected at least one. Copy the file again.", self.path)
        return self.dump

    def _frame(self, text: str) -> None:
        begin = re.match(r"=== SNAP (\d+) (\S+)(?: clock=(\d+))?", text)
        if begin:
            self.dump = ExactDump(str(self.path), int(begin[1]), begin[2], int(begin[3] or 0))
        elif text.startswith("=== END"):
            self.ended = True
        if not re.search(r"overflow=0\b", text):
            raise self.error(f'"{text[:60]}" says that the dump overflowed its buffer, so a part of it is missing.')

    # zones and pages

    def _zone(self, dump: ExactDump, rest: str) -> None:
        f = _fields(rest)
        f.setdefault("highatomic", "0")
        f["index"] = f.pop("idx")
        reserve = tuple(int(part) for part in f["lowmem_reserve"].split(","))
        dump.zones.append(ExactZone(**_values(ExactZone, f), lowmem_reserve=reserve))

    def _vmstat_diff(self, dump: ExactDump, rest: str) -> None:
        dump.zones[-1].vmstat_diff = tuple(int(part) for part in rest.split())

    def _free(self, dump: ExactDump, rest: str) -> None:
        words, listed = _split(rest)
        f = _fields(words)
        dump.zones[-1].free_lists[int(f["order"]), int(f["mt"])] = _hexes(listed)

    def _pcp(self, dump: ExactDump, rest: str) -> None:
        f = {key: int(value) for key, value in _fields(rest).items()}
        dump.zones[-1].pcp.append(
            ExactPcp(f["cpu"], f["count"], f["high"], f["batch"], f["free_factor"], f["expire"])
        )

    def _pcp_list(self, dump: ExactDump, rest: str) -> None:
        words, listed = _split(rest)
        f = _fields(words)
        by_cpu = {pcp.cpu: pcp for pcp in dump.zones[-1].pcp}
        by_cpu[int(f["cpu"])].lists[int(f["order"]), int(f["mt"])] = _hexes(listed)

    def _pageblocks(self, dump: ExactDump, rest: str) -> None:
        words, listed = _split(rest)
        zone = dump.zones[-1]
        zone.pageblock_order = int(_fields(words)["order"])
        zone.pageblocks = tuple(-1 if digit == "-" else int(digit) for digit in listed.strip())

    # caches

    def _cache(self, dump: ExactDump, rest: str) -> None:
        f = _fields(rest)
        if "cpu_partial" in f:
            dump.slub.append(SlubCache(**_values(SlubCache, f)))
        elif "gfporder" in f:
            dump.slab.append(SlabCache(**_values(SlabCache, f)))
        else:
            dump.slob.append(SlobCache(**_values(SlobCache, f)))
        dump.allocator = "slub" if dump.slub else "slab" if dump.slab else "slob"

    def _stat(self, dump: ExactDump, rest: str) -> None:
        if dump.slab:
            dump.slab[-1].stats = {key: int(value) for key, value in _fields(rest).items()}
        else:
            counter, *values = rest.split()
            dump.slub[-1].stats[counter] = tuple(int(value) for value in values)

    def _node(self, dump: ExactDump, rest: str) -> None:
        f = _fields(rest)
        if dump.slab:
            dump.slab[-1].nodes[int(f["node"])] = SlabNode(**_values(SlabNode, f))
        else:
            dump.slub[-1].nodes[int(f["node"])] = NodeSlabs(**_values(NodeSlabs, f))

    def _cpu_slab(self, dump: ExactDump, rest: str) -> None:
        f, slab = _slub_slab(rest)
        dump.slub[-1].cpu_slabs[int(f["cpu"])] = CpuSlab(slab)

    def _cpu_free(self, dump: ExactDump, rest: str) -> None:
        words, listed = _split(rest)
        f = _fields(words)
        cpu_slab = dump.slub[-1].cpu_slabs[int(f["cpu"])]
        if cpu_slab.slab.pfn != int(f["pfn"], 16):
            raise ValueError(rest)
        cpu_slab.cpu_freelist = _hexes(listed)

    def _cpu_partial(self, dump: ExactDump, rest: str) -> None:
        f, slab = _slub_slab(rest)
        cache, cpu = dump.slub[-1], int(f["cpu"])
        cache.cpu_partials.setdefault(cpu, []).append(slab)
        cache.cpu_partial_counts.setdefault(cpu, []).append(int(f["slabs"]))

    def _node_partial(self, dump: ExactDump, rest: str) -> None:
        f, slab = _slub_slab(rest)
        dump.slub[-1].nodes[int(f["node"])].partial.append(slab)

    # SLAB

    def _cpu_cache(self, dump: ExactDump, rest: str) -> None:
        cpu, _, array = _array_cache(rest)
        dump.slab[-1].cpu_caches[cpu] = array

    def _shared(self, dump: ExactDump, rest: str) -> None:
        node, _, array = _array_cache(rest)
        dump.slab[-1].nodes[node].shared = array

    def _alien(self, dump: ExactDump, rest: str) -> None:
        node, other, array = _array_cache(rest)
        dump.slab[-1].nodes[node].alien[other] = array

    def _slab_partial(self, dump: ExactDump, rest: str) -> None:
        node, page = _slab_page(rest)
        dump.slab[-1].nodes[node].partial.append(page)

    def _slab_full(self, dump: ExactDump, rest: str) -> None:
        node, page = _slab_page(rest)
        dump.slab[-1].nodes[node].full.append(page)

    def _slab_free(self, dump: ExactDump, rest: str) -> None:
        node, page = _slab_page(rest)
        dump.slab[-1].nodes[node].free.append(page)

    # SLOB

    def _slob_unit(self, dump: ExactDump, rest: str) -> None:
        dump.slob_unit_bytes = int(rest)

    def _slob_list(self, dump: ExactDump, rest: str) -> None:
        self.last_slob_list = dump.slob_lists.setdefault(rest.strip(), [])

    def _slob_page(self, dump: ExactDump, rest: str) -> None:
        words, _, listed = rest.partition("free(off:units):")
        f = _fields(words)
        gaps = [tuple(int(part, 16) for part in gap.split(":")) for gap in listed.split()]
        self.last_slob_list.append(
            SlobPage(int(f["pfn"], 16), int(f["units"]), [(offset, length) for offset, length in gaps])
        )


def _values(kind: type, f: dict[str, str]) -> dict[str, Any]:
    """The scalar fields of a record's class that have no default; one missing in ``f`` raises KeyError."""
    convert: dict[str, Callable[[str], Any]] = {
        "int": lambda text: int(text, 0), "bool": lambda text: text != "0", "str": str,
    }  # fmt: skip
    return {fld.name: convert[str(fld.type)](f[fld.name]) for fld in fields(kind)
            if str(fld.type) in convert and fld.default is MISSING}


def _slub_slab(rest: str) -> tuple[dict[str, str], ExactSlab]:
    words, _, listed = rest.partition("free:")
    f = _fields(words)
    slab = ExactSlab(
        int(f["pfn"], 16), int(f["order"]), int(f["inuse"]), int(f["objects"]), f["frozen"] == "1", _hexes(listed)
    )
    return f, slab


def _array_cache(rest: str) -> tuple[int, int, ArrayCache]:
    """(CPU or node, other node or -1, array) of a CPUCACHE, SHARED or ALIEN record."""
    words, listed = _split(rest)
    first, second, *_ = words.split()
    f = {key: int(value) for key, value in _fields(words).items()}
    entries = _hexes(listed)
    if len(entries) != f["avail"]:
        raise ValueError(rest)
    return int(first), int(second), ArrayCache(f["avail"], f["limit"], f["batchcount"], f["touched"], entries)


def _slab_page(rest: str) -> tuple[int, SlabPage]:
    words, _, listed = rest.partition("free:")
    f = _fields(words)
    # Offsets are hexadecimal: only so are they all multiples of the cache's colour_off.
    return int(f["node"]), SlabPage(int(f["pfn"], 16), int(f["active"]), int(f["s_mem_off"], 16), _hexes(listed))
