"""Pointers without what gives a machine's memory layout away: a map that keeps order, pages and page frames."""

from __future__ import annotations

import numpy as np

PLAIN_BELOW = 1 << 32
"""Smaller pointers stay: NULL, numbers, hashes, and the addresses of 32-bit kernels, which randomise none."""
PAGE_BASE = 0xFFFF888000000000
"""Where Linux on x86-64 has its direct map when nothing is randomised."""
PAGE_BASE_5 = 0xFF11000000000000
"""The same with five levels of page tables, for traces that span more than four levels can."""
REACH = 1 << 46
REACH_5 = 1 << 52
"""How much memory lies behind these bases at most."""
_TB = 1 << 40
_GB = 1 << 30


class PointerMap:
    """
    Maps kernel addresses to those of a kernel with a fixed layout.

    The direct map moves as a whole, by a multiple of 1 GiB, so the page frame of an object stays what it was. Every
    other address keeps its offset in its page; its page becomes the next one of a region of their own. The map is
    strictly monotonic, so all comparisons stay what they were. First `see` all pointers, then `settle`, then `map`.
    """

    def __init__(self) -> None:
        self._pages = np.zeros(0, np.uint64)
        self._others = self._pages
        self._images = self._pages
        self.base = 0
        self.new_base = PAGE_BASE
        self._top = 0

    def see(self, pointers: np.ndarray) -> None:
        """Take uint64 pointers that will be mapped."""
        self._pages = np.union1d(self._pages, pointers[pointers >= PLAIN_BELOW] >> np.uint64(12))

    def settle(self, base: int, max_pfn: int) -> None:
        """
        Decide.

        Parameters
        ----------
        base
            Of the direct map, as the trace shows it; 0 when it does not: then it is taken to be where most pages are.
        max_pfn
            Highest page frame of the trace. The direct map ends with the tebibyte that it lies in; what is behind
            that is something else (the kernel keeps such regions at least so far apart).
        """
        reach = min(-(-((max_pfn + 1) << 12) // _TB) * _TB, REACH_5)
        if not base:
            base, reach = self._guessed() if len(self._pages) else (0, reach)
        self.base, self._top = base, min(base + reach, 1 << 64)
        none_far = not len(self._pages) or int(self._pages[-1]) << 12 < base + REACH_5
        high, limit = (PAGE_BASE, REACH) if none_far and reach < REACH else (PAGE_BASE_5, REACH_5)
        self.new_base = high + base % _GB if base >= PLAIN_BELOW else base
        pages, first, top = self._pages, np.uint64(base >> 12), (self._top - 1) >> 12
        inside = (pages >= first) & (pages <= np.uint64(max(top, 0))) if base else np.zeros(len(pages), bool)
        self._others = pages[~inside]
        # Below the base, behind the direct map, and behind all that an address may be an offset of.
        below = np.searchsorted(self._others, first) if base else len(self._others)
        far = np.searchsorted(self._others, np.uint64(min(base + REACH_5, (1 << 64) - 1) >> 12)) if base else below
        rank = np.arange(len(self._others), dtype=np.uint64)
        start = np.full(len(rank), PLAIN_BELOW >> 12, np.uint64)
        start[below:] = np.uint64((self.new_base + limit - (_TB if limit == REACH_5 else 0)) >> 12)
        if limit == REACH_5:
            start[far:] = np.uint64((self.new_base + REACH_5 + _TB) >> 12)
        self._images = start + rank

    def _guessed(self) -> tuple[int, int]:
        """(base, length) of the longest of the groups of pages with no hole of a tebibyte in them."""
        cuts = np.flatnonzero(np.diff(self._pages) >= np.uint64(_TB >> 12)) + 1
        group = max(np.split(self._pages, cuts), key=len)
        base = int(group[0]) << 12 & -_GB
        return base, min((int(group[-1]) + 1 << 12) - base, REACH_5)

    def map(self, pointers: np.ndarray) -> np.ndarray:
        """Their images; all of them must have been seen."""
        found = pointers.copy()
        high = pointers >= PLAIN_BELOW
        if not high.any():
            return found
        last = np.uint64(max(self._top - 1, 0))
        inside = high & (pointers >= np.uint64(self.base)) & (pointers <= last) if self.base else np.zeros_like(high)
        found[inside] = pointers[inside] - np.uint64(self.base) + np.uint64(self.new_base)
        rest = high & ~inside
        index = np.searchsorted(self._others, pointers[rest] >> np.uint64(12))
        found[rest] = self._images[index] << np.uint64(12) | pointers[rest] & np.uint64(0xFFF)
        return found

    def known(self) -> dict[str, str]:
        """New addresses and what they stand for: the direct map's base, and each page outside it."""
        pairs = {f"{new << 12:#x}": f"{old << 12:#x}"
                 for new, old in zip(self._images.tolist(), self._others.tolist(), strict=True)}  # fmt: skip
        return {f"{self.new_base:#x}": f"{self.base:#x}"} | pairs if self.base else pairs
