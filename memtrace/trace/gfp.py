"""
Printed allocation flags of every kernel era, as one mask in the bits of Linux 6.1 (MODEL 1.6).

The kernel prints a mask as names joined with ``|``: composites first, then single bits, in an order that
changed with time; bits that it has no name for as hex. Order and prefix do not matter here.
"""

from __future__ import annotations

from functools import cache

from memtrace.mm import gfp as bits

from .gfp_eras import from_era

_BITS = {name.removeprefix("GFP_BIT_"): bit for name, bit in vars(bits).items() if name.startswith("GFP_BIT_")} | {
    "RECLAIM": bits.GFP_RECLAIM,
    # Names of earlier kernels (MODEL 12.2, 1.6.1) and of bits that place nothing.
    "WAIT": bits.GFP_RECLAIM,  # until 4.3 one bit meant both kinds of reclaim
    "REPEAT": bits.GFP_BIT_RETRY_MAYFAIL,  # RETRY_MAYFAIL since 4.13
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
_TRANSHUGE_LIGHT = (
    bits.GFP_HIGHUSER_MOVABLE | bits.GFP_BIT_COMP | bits.GFP_BIT_NOMEMALLOC | bits.GFP_BIT_NOWARN
) & ~bits.GFP_RECLAIM
_COMPOSITES = {
    "GFP_ATOMIC": bits.GFP_ATOMIC,
    "GFP_KERNEL": bits.GFP_KERNEL,
    "GFP_KERNEL_ACCOUNT": bits.GFP_KERNEL_ACCOUNT,
    "GFP_NOWAIT": bits.GFP_NOWAIT,
    "GFP_NOIO": bits.GFP_NOIO,
    "GFP_NOFS": bits.GFP_NOFS,
    "GFP_TEMPORARY": bits.GFP_KERNEL | bits.GFP_BIT_RECLAIMABLE,  # until 4.14
    "GFP_USER": bits.GFP_USER,
    "GFP_HIGHUSER": bits.GFP_HIGHUSER,
    "GFP_HIGHUSER_MOVABLE": bits.GFP_HIGHUSER_MOVABLE,
    "GFP_TRANSHUGE": _TRANSHUGE_LIGHT | bits.GFP_BIT_DIRECT_RECLAIM,
    "GFP_TRANSHUGE_LIGHT": _TRANSHUGE_LIGHT,
    "none": 0,
    "(none)": 0,
    "": 0,
}

# What a slab's page request may carry: what it keeps of its caller's flags, and its cache's own (MODEL 12.5).
_SLAB_MAY = (
    bits.GFP_SLAB_KEEPS | bits.GFP_BIT_COMP | bits.GFP_BIT_RECLAIMABLE | bits.GFP_BIT_DMA | bits.GFP_BIT_DMA32
)


@cache
def parse_gfp(text: str, era: str = "6.1") -> int:
    """
    The mask of a printed ``gfp_flags``.

    Parameters
    ----------
    text
        Names with ``|`` between them, hex for what has no name, or one number.
        A name that no kernel printed counts as no bit; `unknown_gfp_names` lists those.
    era
        Kernel whose bits numbers are, of `gfp_eras.GFP_ERAS`. Names say themselves what they mean.
    """
    mask = 0
    for name in text.split("|"):
        mask |= _name_mask(name.strip(), era) or 0
    return mask


def unknown_gfp_names(text: str) -> list[str]:
    """The parts of a printed ``gfp_flags`` that mean nothing to `parse_gfp`."""
    return [name for name in map(str.strip, text.split("|")) if _name_mask(name) is None]


def _name_mask(name: str, era: str = "6.1") -> int | None:
    found = _COMPOSITES.get(name)
    if found is None:
        # 3.x kernels printed single bits as GFP_x too (GFP_WAIT, GFP_COMP, GFP_ZERO).
        found = _BITS.get(name.removeprefix("__GFP_").removeprefix("GFP_"))
    if found is None:
        try:
            found = from_era(int(name, 0), era) if name[:1].isdigit() else None
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
    slab_first = mask & bits.GFP_BIT_THISNODE and mask & bits.GFP_BIT_COMP and not mask & bits.GFP_RECLAIM
    return bool(mask & bits.GFP_BIT_NORETRY or slab_first)
