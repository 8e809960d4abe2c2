"""What a percpu event says: its arguments travel as text (docs/trace-formats.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .causes import MASK_PERCPU, MASK_PERCPU_WORKER
from .gfp import parse_gfp

if TYPE_CHECKING:
    from .columns import Columns

_POPULATE_KEEPS = 0xCC0 | 0x10000 | 0x2000
"""GFP_KERNEL, NORETRY and NOWARN: what a page request keeps of the area's flags."""
_HIGHMEM = 0x2
_WORKER = 0xC00 | 0x10000 | 0x2000 | _HIGHMEM
"""GFP_NOIO, NORETRY, NOWARN and HIGHMEM: EXACT B 2.14; nobody else's in any recording."""
_DIRECT_RECLAIM = 0x400
_GFP_KERNEL = 0xCC0
_ALIGN = 8
"""Where nobody says: that of a pointer or a counter."""

_FIELD = re.compile(r"(\w+)=(\S+)")
_CPU = re.compile(r"\bcpu(?:id)?=(\d{1,5})\b")
_HEX = frozenset(("base_addr", "ptr"))


@dataclass(frozen=True, slots=True)
class PercpuFields:
    """
    Fields of a percpu event; -1, or None, where it has no such field.

    ``size``, ``align`` and ``off`` are bytes, ``off`` within a unit of the chunk at ``base_addr``; ``bytes_alloc``
    (since 5.19) is what the area takes on all CPUs. ``gfp`` is a mask in the bits of 6.1.
    """

    size: int = -1
    align: int = -1
    reserved: bool = False
    atomic: bool = False
    base_addr: int = -1
    off: int = -1
    ptr: int | None = None
    bytes_alloc: int = -1
    gfp: int = -1


def parse_percpu(text: str) -> PercpuFields:
    """
    The fields in an event's text; what cannot be read is left out.

    Examples
    --------
    >>> parse_percpu("base_addr=ffffe8ffffc00000 off=16 ptr=0000000000029da8").off
    16
    """
    found: dict[str, str] = dict(_FIELD.findall(text))

    def number(name: str) -> int:
        try:
            return int(found[name], 16 if name in _HEX else 0)
        except (KeyError, ValueError):
            return -1

    return PercpuFields(
        size=number("size"),
        align=number("align"),
        reserved=number("reserved") == 1,
        atomic=number("is_atomic") == 1,
        base_addr=number("base_addr"),
        off=number("off"),
        ptr=number("ptr") if number("ptr") >= 0 else None,
        bytes_alloc=number("bytes_alloc"),
        gfp=parse_gfp(found["gfp_flags"]) if "gfp_flags" in found else -1,
    )


def percpu_fields(columns: Columns, i: int) -> PercpuFields:
    """
    Row i's fields: of its text, and of columns what the text does not say, as in a trace written by hand
    (``ptr``, ``bytes_req``, ``gfp_flags``).
    """
    code = int(columns.text[i])
    fields = parse_percpu(columns.texts[code]) if code >= 0 else PercpuFields()
    ptr, size, gfp = int(columns.ptr[i]), int(columns.bytes_req[i]), int(columns.gfp[i])
    return replace(
        fields,
        ptr=fields.ptr if fields.ptr is not None else ptr,
        size=fields.size if fields.size >= 0 else size,
        align=max(fields.align, 1) if fields.align >= 0 else _ALIGN,
        gfp=fields.gfp if fields.gfp >= 0 else int(columns.gfp_mask[gfp + 1]) if gfp >= 0 else _GFP_KERNEL,
    )


def cpu_of_event(columns: Columns, i: int) -> int:
    """Which CPU a cpu_online or cpu_offline row is about: its text says so (``cpu=3``), else it is the row's own."""
    code = int(columns.text[i])
    found = _CPU.search(columns.texts[code]) if code >= 0 else None
    return int(found[1]) if found else int(columns.cpu[i])


def page_mask(gfp: int) -> int:
    """The mask of the page requests that populate an area asked for with ``gfp``. Kernel: pcpu_alloc_pages()."""
    return gfp & _POPULATE_KEEPS | _HIGHMEM


def percpu_page_mask(mask: int) -> int:
    """Whether the percpu allocator asks for pages with this mask: MASK_PERCPU_WORKER, MASK_PERCPU or 0."""
    if mask == _WORKER:
        return MASK_PERCPU_WORKER
    return MASK_PERCPU if mask & _DIRECT_RECLAIM and mask == page_mask(mask) else 0


class PercpuAreas:
    """
    Which areas are alive, as their events tell; the same in both readings.

    Attributes
    ----------
    start
        (pointer, base_addr, off) of the areas that pre-date the trace, by handle: first seen being freed.
    top
        Handles are below this.
    """

    def __init__(self, start: list[tuple[int, int, int]] | None = None) -> None:
        self.start = start if start is not None else []
        self.top = len(self.start)
        self._spare: list[int] = []
        self._live: dict[int, int] = {ptr: handle for handle, (ptr, _, _) in enumerate(self.start)}
        self._seen: set[int] = set()

    def alloc(self, ptr: int) -> tuple[int, int]:
        """(handle of the new area, handle of one whose free was missed or -1)."""
        missed = self._live.pop(ptr, -1)
        if missed >= 0:
            self._spare.append(missed)
        handle = self._spare.pop() if self._spare else self.top
        self.top = max(self.top, handle + 1)
        self._live[ptr] = handle
        self._seen.add(ptr)
        return handle, missed

    def free(self, ptr: int) -> int:
        """Handle of the area freed, -1 when none is alive there."""
        handle = self._live.pop(ptr, -1)
        if handle >= 0:
            self._spare.append(handle)
        return handle

    def pre_dates(self, fields: PercpuFields) -> bool:
        """In the first reading, of a pointer that no area is alive at: it has one that pre-dates the trace."""
        if fields.ptr is None or fields.ptr == 0 or fields.ptr in self._seen:
            return False
        self._seen.add(fields.ptr)
        self.start.append((fields.ptr, fields.base_addr, fields.off))
        return True
