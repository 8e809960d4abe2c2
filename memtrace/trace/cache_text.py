"""What a ``kmem_cache_create`` row says in its text: alignment, flags, constructor."""

from __future__ import annotations

from memtrace.mm import constants

_FLAGS = {name: bit for name, bit in vars(constants).items() if name.startswith("SLAB_")}
ALIGN_SHIFT = 32
"""The alignment stands above the 32 bits of flags."""
CTOR_BIT = 1 << 62
_MAX_ALIGN = 1 << 22


def parse_cache_text(text: str) -> int:
    """
    The arguments of a kmem_cache_create(), as one number.

    Parameters
    ----------
    text
        Words such as ``align=64``, ``flags=SLAB_HWCACHE_ALIGN|SLAB_ACCOUNT`` (or a number) and ``ctor``, in any
        order; others mean nothing here, nor do flags that place no object.

    Returns
    -------
    Flags in the bits of 6.1, alignment << ``ALIGN_SHIFT``, and ``CTOR_BIT``.
    """
    found = 0
    for word in text.split():
        key, _, value = word.partition("=")
        if key == "align":
            align = _number(value)
            if 0 < align <= _MAX_ALIGN and align & (align - 1) == 0:
                found |= align << ALIGN_SHIFT
        elif key == "flags":
            for flag in value.split("|"):
                found |= _FLAGS.get(flag, _number(flag) & 0xFFFFFFFF)
        elif key == "ctor" and value not in ("0", "no"):
            found |= CTOR_BIT
    return found


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        return 0
