"""
How much the per-CPU page lists hold and move at a time (MODEL 3.2 to 3.4), in the forms of three eras.

Fixed: a batch at a time. 6.1: drains grow while nothing is allocated (``free_factor``). Since 6.7 the limit itself
moves between ``high_min`` and ``high_max``: refills raise it, a zone short of memory and the vmstat worker lower it.
"""

from __future__ import annotations

import cython

from memtrace.mm.constants import PCP_AUTO, PCP_BATCH_SCALE_MAX, PCP_FIXED, PCP_FREE_FACTOR, PCP_ORDERS
from memtrace.mm.mmzone import Frames, PerCpuPages, Zone
from memtrace.mm.page_alloc_forms import FallbackForms


@cython.cclass
class PcpTuning(FallbackForms):
    """Sizes of refills and drains of the kernel that ``pcp_form`` names."""

    pcp_form: cython.int
    free_high_late: cython.bint
    """Blocks of high orders go back only after half of high_min was freed in a row (6.16 and later)."""
    cache_slice: cython.int
    """Pages of the data cache that one CPU has for itself."""

    def __init__(self, frames: Frames, zones: list) -> None:
        FallbackForms.__init__(self, frames, zones)
        self.pcp_form = PCP_FREE_FACTOR
        self.free_high_late = True
        self.cache_slice = 256

    @cython.cfunc
    @cython.exceptval(check=False)
    def nr_pcp_alloc(self, zone: Zone, pcp: PerCpuPages, order: cython.int) -> cython.int:
        """Kernel: nr_pcp_alloc(): blocks that a refill of this order takes."""
        n: cython.int = pcp.batch
        if self.pcp_form == PCP_AUTO:
            n = self.auto_pcp_alloc(zone, pcp, order)
        if n > 1:
            n = max(n >> order, 2)
        return n

    @cython.cfunc
    @cython.exceptval(check=False)
    def auto_pcp_alloc(self, zone: Zone, pcp: PerCpuPages, order: cython.int) -> cython.int:
        """Kernel: nr_pcp_alloc(), 6.7 and later: pages; single pages take twice as many each time."""
        n: cython.int = pcp.batch
        pcp.high = min(max(pcp.high, pcp.high_min), pcp.high_max)
        if pcp.high < n:
            return 1
        if order == 0:
            n <<= pcp.alloc_factor
        if pcp.high_min != pcp.high_max and not zone.below_high:
            pcp.high = min(pcp.high + n, pcp.high_max)
        if order == 0:
            most: cython.int = max(pcp.high - pcp.count - pcp.batch, pcp.batch)
            if n <= most and pcp.alloc_factor < PCP_BATCH_SCALE_MAX:
                pcp.alloc_factor += 1
            n = min(n, most)
        return n

    @cython.cfunc
    @cython.exceptval(check=False)
    def note_pcp_free(self, pcp: PerCpuPages, order: cython.int) -> cython.bint:
        """
        Take note of a block put on the lists; whether blocks of high orders are to be given back now.

        Kernel: the middle of free_unref_page_commit(), 6.1, and of free_frozen_page_commit(), 6.18
        """
        free_high: cython.bint = False
        high_order: cython.bint = order >= 1 and order < PCP_ORDERS
        if self.pcp_form != PCP_AUTO:
            return pcp.free_factor != 0 and high_order
        pcp.alloc_factor >>= 1
        if high_order:
            enough: cython.int = pcp.batch + (pcp.high_min // 2 if self.free_high_late else 0)
            free_high = (
                pcp.free_count >= enough
                and pcp.prev_free_high_order
                and (self.cache_slice <= 3 * pcp.batch or pcp.count >= pcp.batch)
            )
        pcp.prev_free_high_order = high_order
        if pcp.free_count < pcp.batch << PCP_BATCH_SCALE_MAX:
            pcp.free_count += 1 << order
        return free_high

    @cython.cfunc
    @cython.exceptval(check=False)
    def nr_pcp_high(self, zone: Zone, pcp: PerCpuPages, free_high: cython.bint) -> cython.int:
        """Kernel: nr_pcp_high(): the count at which a drain starts (MODEL 3.4, EXACT B 2.8)."""
        if self.pcp_form == PCP_AUTO:
            return self.auto_pcp_high(zone, pcp, free_high)
        if pcp.high == 0 or free_high:
            return 0
        if zone.reclaim_active and self.pcp_form == PCP_FREE_FACTOR:
            return min(pcp.batch << 2, pcp.high)
        return pcp.high

    @cython.cfunc
    @cython.exceptval(check=False)
    def auto_pcp_high(self, zone: Zone, pcp: PerCpuPages, free_high: cython.bint) -> cython.int:
        """Kernel: nr_pcp_high(), 6.7 and later; moves ``high`` too."""
        high: cython.int = min(max(pcp.high, pcp.high_min), pcp.high_max)
        freed: cython.int = max(pcp.free_count, pcp.batch)
        pcp.high = high
        if high == 0:
            return 0
        if free_high:
            pcp.high = max(high - (pcp.batch << PCP_BATCH_SCALE_MAX), pcp.high_min)
            return 0
        if zone.reclaim_active:
            pcp.high = max(high - freed, pcp.high_min)
            return min(pcp.batch << 2, pcp.high)
        if pcp.high_min == pcp.high_max:
            return high
        if zone.below_high:
            pcp.high = max(high - freed, pcp.high_min)
            return max(pcp.count, pcp.high_min)
        if pcp.count >= high and high < pcp.free_count + pcp.batch:
            pcp.high = min(max(pcp.free_count + pcp.batch, pcp.high_min), pcp.high_max)
        return high

    @cython.cfunc
    @cython.exceptval(check=False)
    def nr_pcp_free(self, pcp: PerCpuPages, high: cython.int, free_high: cython.bint) -> cython.int:
        """Kernel: nr_pcp_free(): pages that a drain frees; grows with consecutive drains."""
        if self.pcp_form == PCP_FIXED:
            return pcp.batch
        if free_high:
            return min(pcp.count, pcp.batch << PCP_BATCH_SCALE_MAX) if self.pcp_form == PCP_AUTO else pcp.count
        if high < pcp.batch:
            return 1
        most: cython.int = high - pcp.batch
        if self.pcp_form == PCP_AUTO:
            # clamp(): the lower bound wins when the bounds cross.
            return max(pcp.batch, min(pcp.free_count, most))
        want: cython.int = pcp.batch << pcp.free_factor
        if want < most and pcp.free_factor < PCP_BATCH_SCALE_MAX:
            pcp.free_factor += 1
        return max(pcp.batch, min(want, most))
