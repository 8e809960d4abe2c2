"""
A slow, plain SLOB, written from MODEL 8 without looking at the model: a page is a map of 2,048 units, free or not.

New pages are the caller's: ``alloc`` says that it needs one by returning None, and is then given its pfn.
"""

from __future__ import annotations

UNITS = 2048


class PlainSlob:
    """``lists``: pfns of the pages small, medium, large, head first. ``free[pfn]``: the page's map."""

    def __init__(self) -> None:
        self.lists: list[list[int]] = [[], [], []]
        self.free: dict[int, list[bool]] = {}

    @staticmethod
    def which(size: int) -> int:
        return 0 if size < 256 else 1 if size < 1024 else 2

    def fit(self, pfn: int, units: int, align: int, offset: int) -> int | None:
        """First unit of the first gap's aligned place that is large enough."""
        page = self.free[pfn]
        start = 0
        while start < UNITS:
            if not page[start]:
                start += 1
                continue
            end = start
            while end < UNITS and page[end]:
                end += 1
            place = (pfn << 12) + 2 * start + offset
            place = ((place + align - 1) // align * align - offset - (pfn << 12)) // 2
            if place + units <= end:
                return place
            start = end
        return None

    def take(self, pfn: int, which: int, size: int, align: int, offset: int) -> int | None:
        units = (size + 1) // 2
        at = self.fit(pfn, units, align, offset) if sum(self.free[pfn]) >= units else None
        if at is None:
            return None
        self.free[pfn][at : at + units] = [False] * units
        pages = self.lists[which]
        if not any(self.free[pfn]):
            pages.remove(pfn)
        else:
            i = pages.index(pfn)
            pages[:] = pages[i:] + pages[:i]
        return (pfn << 12) + 2 * at

    def alloc(self, size: int, align: int, offset: int, new_page: int | None = None) -> int | None:
        """A block's address; None when no page has room (call again with a new page)."""
        which = self.which(size)
        if new_page is None:
            for pfn in list(self.lists[which]):
                block = self.take(pfn, which, size, align, offset)
                if block is not None:
                    return block
            return None
        self.free[new_page] = [True] * UNITS
        self.lists[which].insert(0, new_page)
        return self.take(new_page, which, size, align, offset)

    def release(self, block: int, size: int) -> bool:
        """Free a block; whether its page went back."""
        pfn, at, units = block >> 12, block % 4096 // 2, (size + 1) // 2
        page = self.free[pfn]
        was_full = not any(page)
        assert not any(page[at : at + units])
        page[at : at + units] = [True] * units
        if all(page):
            for pages in self.lists:
                if pfn in pages:
                    pages.remove(pfn)
            del self.free[pfn]
            return True
        if was_full:
            self.lists[self.which(size)].insert(0, pfn)
        return False
