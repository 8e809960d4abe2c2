"""Printed allocation flags of every era become one mask."""

from __future__ import annotations

import pytest

from memtrace.mm.gfp import GFP_BIT_DIRECT_RECLAIM, GFP_BIT_HIGH, GFP_HIGHUSER_MOVABLE, GFP_KERNEL
from memtrace.trace.gfp import is_slab_page_mask, may_be_slab_page, parse_gfp, unknown_gfp_names
from memtrace.trace.gfp_eras import GFP_ERAS


@pytest.mark.parametrize(("text", "mask"), [
    ("none", 0),
    ("GFP_KERNEL", 0xCC0),
    ("GFP_KERNEL|__GFP_ZERO", 0xDC0),
    ("GFP_ATOMIC", 0xA20),
    ("GFP_NOWAIT|__GFP_NOWARN", 0x2800),
    ("GFP_KERNEL_ACCOUNT", 0x400CC0),
    ("GFP_HIGHUSER_MOVABLE|__GFP_COMP|__GFP_ZERO", 0x140DCA),  # 6.1 order
    ("GFP_HIGHUSER_MOVABLE|__GFP_ZERO|__GFP_COMP", 0x140DCA),  # 6.18 order
    ("__GFP_IO|__GFP_FS|__GFP_NOWARN|__GFP_NORETRY|__GFP_COMP|__GFP_NOMEMALLOC", 0xD20C0),
    ("GFP_TRANSHUGE", 0x1C24CA),  # 0x3d24ca without the SKIP_KASAN bits and NORETRY
    ("GFP_DMA", 0x1),
    ("GFP_DMA32|__GFP_HIGHMEM", 0x6),
    ("GFP_WAIT|GFP_ZERO|GFP_COMP", 0x40D00),  # 3.x printed single bits without the underscores
    ("__GFP_REPEAT", 0x4000),
    ("__GFP_WAIT|__GFP_COLD", 0xC00),
    ("GFP_KERNEL|0x1000000", 0xCC0),  # a bit with no name in 6.1 is nothing
    ("0xcc0", 0xCC0),
    ("3264", 0xCC0),
    ("GFP_KERNEL | __GFP_ZERO", 0xDC0),
])
def test_mask_of_a_printed_text(text: str, mask: int) -> None:
    assert parse_gfp(text) == mask
    assert unknown_gfp_names(text) == []


@pytest.mark.parametrize(("era", "kernel", "atomic", "movable"), [
    ("2.6.24", "0xd0", "0x20", "0x1200d2"),
    ("4.19", "0x6000c0", "0x480020", "0x6200ca"),
    ("6.1", "0xcc0", "0xa20", "0x100cca"),
    ("6.18", "0xcc0", "0x820", "0x100cca"),
])
def test_numbers_are_bits_of_an_era(era: str, kernel: str, atomic: str, movable: str) -> None:
    """GFP_KERNEL, GFP_ATOMIC and GFP_HIGHUSER_MOVABLE as each kernel's headers have them."""
    assert parse_gfp(kernel, era) == GFP_KERNEL
    assert parse_gfp(atomic, era) & GFP_BIT_HIGH
    assert not parse_gfp(atomic, era) & GFP_BIT_DIRECT_RECLAIM
    assert parse_gfp(movable, era) == GFP_HIGHUSER_MOVABLE
    assert parse_gfp("GFP_KERNEL", era) == GFP_KERNEL, "names say themselves what they mean"


def test_every_known_bit_means_something_else() -> None:
    for era, table in GFP_ERAS.items():
        meanings = list(table.values())
        assert len(set(meanings)) == len(meanings), era
        assert all(bit & (bit - 1) == 0 for bit in table)


def test_an_unknown_name_is_told_and_counts_as_nothing() -> None:
    assert parse_gfp("GFP_KERNEL|__GFP_NEVER_HEARD") == 0xCC0
    assert unknown_gfp_names("GFP_KERNEL|__GFP_NEVER_HEARD") == ["__GFP_NEVER_HEARD"]


@pytest.mark.parametrize(("text", "typical", "possible"), [
    ("GFP_KERNEL|__GFP_NOWARN|__GFP_NORETRY|__GFP_RECLAIMABLE", True, True),  # SLUB, order 0
    ("__GFP_IO|__GFP_FS|__GFP_NOWARN|__GFP_NORETRY|__GFP_COMP|__GFP_NOMEMALLOC", True, True),  # SLUB, higher
    ("__GFP_IO|__GFP_FS|__GFP_NOWARN|__GFP_COMP|__GFP_THISNODE", True, True),  # SLAB, NUMA build
    ("GFP_KERNEL", False, True),  # SLOB, or anybody
    ("GFP_KERNEL|__GFP_NORETRY|__GFP_ZERO", False, False),
    ("GFP_NOFS|__GFP_HIGHMEM|__GFP_NOWARN|__GFP_NORETRY|__GFP_COMP|__GFP_HARDWALL|__GFP_MOVABLE", False, False),
])
def test_which_masks_a_slab_page_has(text: str, typical: bool, possible: bool) -> None:
    assert is_slab_page_mask(parse_gfp(text)) is typical
    assert may_be_slab_page(parse_gfp(text)) is possible
