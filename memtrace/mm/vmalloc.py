"""Memory that is contiguous in virtual addresses only: vmalloc(), and kvmalloc() which falls back to it (MODEL 5.4)."""

from __future__ import annotations

from bisect import bisect, insort
from dataclasses import dataclass

from memtrace.mm.constants import PAGE_SHIFT, PAGE_SIZE
from memtrace.mm.gfp import (
    GFP_BIT_DIRECT_RECLAIM,
    GFP_BIT_DMA,
    GFP_BIT_DMA32,
    GFP_BIT_HIGHMEM,
    GFP_BIT_NOFAIL,
    GFP_BIT_NORETRY,
    GFP_BIT_NOWARN,
    GFP_BIT_RETRY_MAYFAIL,
    GFP_BIT_ZERO,
    GFP_SLAB_KEEPS,
)
from memtrace.mm.machine import Machine

VMALLOC_START = 1 << 52
"""Above every simulated physical address."""
INT_MAX = 0x7FFFFFFF


@dataclass(slots=True)
class VmArea:
    """One area: its pages in the order of their addresses, and the array that lists them."""

    pages: list[int]
    array: int
    """Address of the array of page pointers."""


class Vmalloc:
    """
    The vmalloc area of a machine.

    Departs: no vm_struct, no page tables, no huge mappings; an area's addresses are free again at once, not after a
    lazy flush
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.areas: dict[int, VmArea] = {}
        self._starts: list[int] = []

    def vmalloc(self, size: int, gfp: int, node: int, cpu: int) -> int:
        """
        Map ``size`` bytes of single pages; address, or 0 when memory is short.

        Kernel: __vmalloc_node_range(), __vmalloc_area_node(), 6.1
        Departs: pages are taken one by one; the kernel's bulk allocator takes the same ones from the CPU's lists
        """
        pages = (size + PAGE_SIZE - 1) >> PAGE_SHIFT
        if size == 0 or pages > sum(zone.managed for zone in self.machine.pages.zones):
            return 0
        array_bytes = pages * self.machine.slab.word
        nested = (gfp & GFP_SLAB_KEEPS) | GFP_BIT_ZERO
        if array_bytes > PAGE_SIZE:
            array = self.vmalloc(array_bytes, nested, node, cpu)
        else:
            array = self.machine.kmalloc(array_bytes, nested, node, cpu)
        if array == 0:
            return 0
        gfp |= GFP_BIT_NOWARN | (0 if gfp & (GFP_BIT_DMA | GFP_BIT_DMA32) else GFP_BIT_HIGHMEM)
        area = VmArea([], array)
        while len(area.pages) < pages:
            pfn = self.machine.page_alloc(0, gfp, node, cpu)
            if pfn < 0:
                self._give_back(area, cpu)
                return 0
            area.pages.append(pfn)
        addr = self._place(pages)
        self.areas[addr] = area
        insort(self._starts, addr)
        return addr

    def vfree(self, addr: int, cpu: int) -> None:
        """Kernel: vfree(); ``addr`` is the start of an area."""
        area = self.areas.pop(addr)
        self._starts.pop(bisect(self._starts, addr) - 1)
        self._give_back(area, cpu)

    def size_of(self, addr: int) -> int:
        """Bytes of the area that begins at ``addr``."""
        return len(self.areas[addr].pages) << PAGE_SHIFT

    def _give_back(self, area: VmArea, cpu: int) -> None:
        for pfn in area.pages:
            self.machine.page_free(pfn, 0, cpu)
        if area.array >= VMALLOC_START:
            self.vfree(area.array, cpu)
        else:
            self.machine.kfree(area.array, cpu)

    def _place(self, pages: int) -> int:
        """The lowest gap that holds the pages and the guard page behind them."""
        addr = VMALLOC_START
        for start in self._starts:
            if start - addr >= (pages + 1) << PAGE_SHIFT:
                break
            addr = start + self.size_of(start) + PAGE_SIZE
        return addr

    def kvmalloc(self, size: int, gfp: int, node: int, cpu: int) -> int:
        """
        Contiguous memory if it can be had without trouble, else pages from everywhere; address or 0.

        Kernel: kvmalloc_node(), 6.1
        """
        flags = gfp
        if size > PAGE_SIZE:
            flags |= GFP_BIT_NOWARN
            if not flags & GFP_BIT_RETRY_MAYFAIL:
                flags |= GFP_BIT_NORETRY
            flags &= ~GFP_BIT_NOFAIL
        addr = self.machine.kmalloc(size, flags, node, cpu)
        if addr or size <= PAGE_SIZE or not gfp & GFP_BIT_DIRECT_RECLAIM or size > INT_MAX:
            return addr
        return self.vmalloc(size, gfp, node, cpu)

    def kvfree(self, addr: int, cpu: int) -> None:
        """Kernel: kvfree(): whichever of the two it was."""
        if addr >= VMALLOC_START:
            self.vfree(addr, cpu)
        else:
            self.machine.kfree(addr, cpu)
