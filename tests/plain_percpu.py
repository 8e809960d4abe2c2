"""A percpu chunk as plain as can be: intervals, and the first that fits."""

from __future__ import annotations


class PlainChunk:
    """Areas [start, end) in bytes within ``size``; no hints, every search looks at everything."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.areas: dict[int, int] = {}

    def first_fit(self, size: int, align: int) -> int:
        """First aligned offset at which ``size`` bytes are free, or -1."""
        at = 0
        for start, end in sorted(self.areas.items()):
            if -(-at // align) * align + size <= start:
                break
            at = end
        at = -(-at // align) * align
        return at if at + size <= self.size else -1

    def take(self, at: int, size: int) -> None:
        assert all(at + size <= start or end <= at for start, end in self.areas.items()), "areas overlap"
        self.areas[at] = at + size

    def free(self, at: int) -> None:
        del self.areas[at]

    def runs(self) -> list[tuple[int, int]]:
        """Free runs [start, end)."""
        edges = [0, *(edge for area in sorted(self.areas.items()) for edge in area), self.size]
        return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]
