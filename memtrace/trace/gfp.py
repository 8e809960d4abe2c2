"""
Printed allocation flags of every kernel era, as one mask in the bits of Linux 6.1 (MODEL 1.6).

The kernel prints a mask as names joined with ``|``: composites first, then single bits, in an order that
changed with time; bits that it has no name for as hex. Order and prefix do not matter here.
"""

from __future__ import annotations

from functools import cache

_BITS = {
    "DMA": 0x1,
    "HIGHMEM": 0x2,
    "DMA32": 0x4,
    "MOVABLE": 0x8,
    "RECLAIMABLE": 0x10,
    "HIGH": 0x20,
    "IO": 0x40,
    "FS": 0x80,
    "ZERO": 0x100,
    "ATOMIC": 0x200,
    "DIRECT_RECLAIM": 0x400,
    "KSWAPD_RECLAIM": 0x800,
    "WRITE": 0x1000,
    "NOWARN": 0x2000,
    "RETRY_MAYFAIL": 0x4000,
    "NOFAIL": 0x8000,
    "NORETRY": 0x10000,
    "MEMALLOC": 0x20000,
    "COMP": 0x40000,
    "NOMEMALLOC": 0x80000,
    "HARDWALL": 0x100000,
    "THISNODE": 0x200000,
    "ACCOUNT": 0x400000,
    "ZEROTAGS": 0x800000,
    "RECLAIM": 0xC00,
    # Names of earlier kernels (MODEL 12.2, 1.6.1) and of bits that place nothing.
    "WAIT": 0xC00,  # until 4.3 one bit meant both kinds of reclaim
    "REPEAT": 0x4000,  # RETRY_MAYFAIL since 4.13
    "COLD": 0,
    "NOTRACK": 0,
    "NO_KSWAPD": 0,
    "OTHER_NODE": 0,
    "NOLOCKDEP": 0,
    "NO_OBJ_EXT": 0,
    "SKIP_ZERO": 0,
    "SKIP_KASAN": 0,
    "SKIP_KASAN_POISON": 0,
    "SKIP_KASAN_UNPOISON": 0,
}
_KERNEL = 0xCC0
_USER = _KERNEL | 0x100000
_HIGHUSER = _USER | 0x2
_TRANSHUGE_LIGHT = (_HIGHUSER | 0x8 | 0x40000 | 0x80000 | 0x2000) & ~0xC00
_COMPOSITES = {
    "GFP_ATOMIC": 0xA20,
    "GFP_KERNEL": _KERNEL,
    "GFP_KERNEL_ACCOUNT": _KERNEL | 0x400000,
    "GFP_NOWAIT": 0x800,
    "GFP_NOIO": 0xC00,
    "GFP_NOFS": 0xC40,
    "GFP_TEMPORARY": _KERNEL | 0x10,  # until 4.14
    "GFP_USER": _USER,
    "GFP_DMA": 0x1,
    "GFP_DMA32": 0x4,
    "GFP_HIGHUSER": _HIGHUSER,
    "GFP_HIGHUSER_MOVABLE": _HIGHUSER | 0x8,
    "GFP_TRANSHUGE": _TRANSHUGE_LIGHT | 0x400,
    "GFP_TRANSHUGE_LIGHT": _TRANSHUGE_LIGHT,
    "none": 0,
    "(none)": 0,
    "": 0,
}

_NORETRY = 0x10000
_THISNODE = 0x200000
_COMP = 0x40000
_RECLAIM = 0xC00
# What a slab's page request may carry: RECLAIM_MASK, CONSTRAINT_MASK and its cache's own (MODEL 1.6.4, 12.5).
_SLAB_MAY = 0xC00 | 0x20 | 0x40 | 0x80 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x20000 | 0x80000 | 0x200 | 0x300000
_SLAB_MAY |= 0x40000 | 0x10 | 0x1 | 0x4


@cache
def parse_gfp(text: str) -> int:
    """
    The mask of a printed ``gfp_flags``.

    Parameters
    ----------
    text
        Names with ``|`` between them, hex for what has no name, or one number (taken as bits of 6.1).
        A name that no kernel printed counts as no bit; `unknown_gfp_names` lists those.
    """
    mask = 0
    for name in text.split("|"):
        mask |= _name_mask(name.strip()) or 0
    return mask


def unknown_gfp_names(text: str) -> list[str]:
    """The parts of a printed ``gfp_flags`` that mean nothing to `parse_gfp`."""
    return [name for name in map(str.strip, text.split("|")) if _name_mask(name) is None]


def _name_mask(name: str) -> int | None:
    found = _COMPOSITES.get(name)
    if found is None:
        # 3.x kernels printed single bits as GFP_x too (GFP_WAIT, GFP_COMP, GFP_ZERO).
        found = _BITS.get(name.removeprefix("__GFP_").removeprefix("GFP_"))
    if found is None:
        try:
            found = int(name, 0) & 0xFFFFFF if name[:1].isdigit() else None
        except ValueError:
            found = None
    return found


def may_be_slab_page(mask: int) -> bool:
    """Whether a page request with this mask can be a slab allocator's: it has no bit that those never have."""
    return not mask & ~_SLAB_MAY


def is_slab_page_mask(mask: int) -> bool:
    """
    Whether a page request with this mask looks like a slab allocator's own (MODEL 12.5).

    True for SLUB's first attempt at a new slab, and for SLAB's on a NUMA build. Other masks of theirs
    (a retry at the lowest order, all of SLOB's) look like anybody's.
    """
    if not may_be_slab_page(mask):
        return False
    slab_first = mask & _THISNODE and mask & _COMP and not mask & _RECLAIM
    return bool(mask & _NORETRY or slab_first)
