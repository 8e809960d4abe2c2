"""
Bits of allocation flags in kernels other than 6.1 (MODEL 1.6.1): what a mask that is printed as a number means.

The bits were dealt anew between 4.19 and 6.1; 2.6.24 had one bit for both kinds of reclaim. 6.18 differs from 6.1
in bits that place nothing: 0x200 has no meaning any more.
"""

from __future__ import annotations

from memtrace.mm import gfp as bits

_LOW = {  # the same in all of them
    0x1: bits.GFP_BIT_DMA,
    0x2: bits.GFP_BIT_HIGHMEM,
    0x4: bits.GFP_BIT_DMA32,
    0x20: bits.GFP_BIT_HIGH,
    0x40: bits.GFP_BIT_IO,
    0x80: bits.GFP_BIT_FS,
}
_OLD = {
    0x200: bits.GFP_BIT_NOWARN,
    0x400: bits.GFP_BIT_RETRY_MAYFAIL,
    0x800: bits.GFP_BIT_NOFAIL,
    0x1000: bits.GFP_BIT_NORETRY,
    0x4000: bits.GFP_BIT_COMP,
    0x8000: bits.GFP_BIT_ZERO,
    0x10000: bits.GFP_BIT_NOMEMALLOC,
    0x20000: bits.GFP_BIT_HARDWALL,
    0x40000: bits.GFP_BIT_THISNODE,
}
_NEW = {bit: bit for name, bit in vars(bits).items() if name.startswith("GFP_BIT_")}

GFP_ERAS: dict[str, dict[int, int]] = {
    "2.6.24": _LOW | _OLD | {
        0x10: bits.GFP_RECLAIM,
        0x80000: bits.GFP_BIT_RECLAIMABLE,
        0x100000: bits.GFP_BIT_MOVABLE,
    },
    "4.19": _LOW | _OLD | {
        0x8: bits.GFP_BIT_MOVABLE,
        0x10: bits.GFP_BIT_RECLAIMABLE,
        0x100: bits.GFP_BIT_WRITE,
        0x2000: bits.GFP_BIT_MEMALLOC,
        0x80000: bits.GFP_BIT_ATOMIC,
        0x100000: bits.GFP_BIT_ACCOUNT,
        0x200000: bits.GFP_BIT_DIRECT_RECLAIM,
        0x400000: bits.GFP_BIT_KSWAPD_RECLAIM,
    },
    "6.1": _NEW,
    "6.18": {bit: meaning for bit, meaning in _NEW.items() if bit != bits.GFP_BIT_ATOMIC},
}
"""Kernel -> its bit -> the bits of 6.1 that mean the same; what is missing places nothing."""


def from_era(mask: int, era: str) -> int:
    """A numeric mask of a kernel of ``GFP_ERAS``, in the bits of 6.1."""
    found = 0
    for bit, meaning in GFP_ERAS[era].items():
        if mask & bit:
            found |= meaning
    return found
