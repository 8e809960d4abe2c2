"""
Sheaves as plain lists, written from MODEL 6.13 without looking at the model.

What comes out of the slabs when a sheaf is refilled is taken over from the model; all else is decided here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

LIMIT = 10


@dataclass
class PlainSheaves:
    """One cache of one node with sheaves of ``capacity`` objects."""

    capacity: int
    cpus: int
    main: list[list[int]] = field(default_factory=list)
    spare: list[list[int] | None] = field(default_factory=list)
    rcu: list[list[int] | None] = field(default_factory=list)
    full: list[list[int]] = field(default_factory=list)
    empty: int = 0
    waiting: list[list[int]] = field(default_factory=list)
    flushed: list[int] = field(default_factory=list)
    """Objects given to the slabs by the last operation."""
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.main = [[] for _ in range(self.cpus)]
        self.spare = [None] * self.cpus
        self.rcu = [None] * self.cpus

    def alloc(self, cpu: int, may_wait: bool) -> int | str:
        """The object handed out; "refill" or "slab" when the slabs must say."""
        self.flushed = []
        if not self.main[cpu]:
            if self.spare[cpu]:
                self.main[cpu], self.spare[cpu] = self.spare[cpu] or [], self.main[cpu]
            elif self.full:
                self.empty += 1
                self.main[cpu] = self.full.pop()
                self.counts["barn_get"] += 1
            else:
                self.counts["barn_get_fail"] += 1
                return "refill" if may_wait else "slab"
        self.counts["alloc_cpu_sheaf"] += 1
        return self.main[cpu].pop()

    def refilled(self, cpu: int, objects: list[int]) -> int:
        """The main sheaf was refilled to ``objects``; the one on top is handed out."""
        if self.spare[cpu] is not None:
            self.spare[cpu] = None
        elif self.empty:
            self.empty -= 1
        self.empty += 1  # the old main
        self.main[cpu] = list(objects)
        self.counts["sheaf_refill"] += len(objects)
        self.counts["alloc_cpu_sheaf"] += 1
        return self.main[cpu].pop()

    def free(self, cpu: int, obj: int) -> None:
        self.flushed = []
        if len(self.main[cpu]) == self.capacity:
            self.make_room(cpu)
        self.main[cpu].append(obj)
        self.counts["free_cpu_sheaf"] += 1

    def make_room(self, cpu: int) -> None:
        spare = self.spare[cpu]
        if spare is None:
            self.empty = max(0, self.empty - 1)
            self.spare[cpu], self.main[cpu] = self.main[cpu], []
        elif len(spare) < self.capacity:
            self.main[cpu], self.spare[cpu] = spare, self.main[cpu]
        elif len(self.full) >= LIMIT:
            self.counts["barn_put_fail"] += 1
            self.flushed = spare
            self.counts["sheaf_flush"] += len(spare)
            self.spare[cpu], self.main[cpu] = self.main[cpu], []
        else:
            self.empty = max(0, self.empty - 1)
            self.full.append(self.main[cpu])
            self.main[cpu] = []
            self.counts["barn_put"] += 1

    def free_rcu(self, cpu: int, obj: int) -> None:
        self.flushed = []
        collecting = self.rcu[cpu]
        if collecting is None:
            if self.spare[cpu] == []:
                self.spare[cpu] = None
            else:
                self.empty = max(0, self.empty - 1)
            collecting = self.rcu[cpu] = []
        collecting.append(obj)
        self.counts["free_rcu_sheaf"] += 1
        if len(collecting) == self.capacity:
            self.rcu[cpu] = None
            self.waiting.append(collecting)

    def grace_period(self) -> None:
        """The oldest full sheaf that waits is due."""
        self.flushed = []
        if not self.waiting:
            return
        sheaf = self.waiting.pop(0)
        if len(self.full) < LIMIT:
            self.full.append(sheaf)
            self.counts["barn_put"] += 1
            return
        self.counts["barn_put_fail"] += 1
        self.counts["sheaf_flush"] += len(sheaf)
        self.flushed = sheaf
        self.empty = min(LIMIT, self.empty + 1) if self.empty < LIMIT else self.empty
