"""What a percpu event says: its arguments travel as text (docs/trace-formats.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .gfp import parse_gfp

_FIELD = re.compile(r"(\w+)=(\S+)")
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
