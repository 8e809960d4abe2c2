"""Which kernel, and which slab allocator, recorded a trace: what speaks for it, and how surely."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .causes import LARGE_KMALLOC_BYTES
from .naming import KMALLOC_SIZES
from .schema import (
    EV_CACHE_ALLOC,
    EV_CACHE_FREE,
    EV_KMALLOC,
    EV_PERCPU_ALLOC,
    EventChunk,
    TraceVocab,
)

Version = tuple[int, ...]

SMALL_BYTES = 16
"""SLUB has kmalloc caches of 8 and 16 bytes, SLAB's smallest is of 32 (where DMA wants no larger alignment)."""
ENOUGH_KMALLOCS = 20
ODD_SHARE = 0.05
"""Share of kmallocs with sizes of no cache, from which on only SLOB comes into question."""
DOUBLED_LARGE = 3

# Names of flags that some kernels only print: first and last kernel; None is open.
_FLAG_ERAS: dict[str, tuple[Version | None, Version | None]] = {
    "GFP_WAIT": (None, (4, 3)),
    "__GFP_WAIT": (None, (4, 3)),
    "__GFP_REPEAT": (None, (4, 12)),
    "GFP_TEMPORARY": (None, (4, 13)),
    "__GFP_COLD": (None, (4, 14)),
    "__GFP_DIRECT_RECLAIM": ((4, 4), None),
    "__GFP_KSWAPD_RECLAIM": ((4, 4), None),
    "__GFP_ATOMIC": ((4, 4), (6, 2)),
    "__GFP_ACCOUNT": ((4, 5), None),
    "GFP_KERNEL_ACCOUNT": ((4, 5), None),
    "__GFP_RETRY_MAYFAIL": ((4, 13), None),
    "__GFP_SKIP_ZERO": ((5, 18), None),
    "__GFP_NO_OBJ_EXT": ((6, 10), None),
}
_FIRST_KMEM: Version = (2, 6, 31)
_SLAB_GONE: Version = (6, 8)


@dataclass
class Guess:
    """
    What is concluded, and from what.

    Attributes
    ----------
    what
        ``6.1 to 6.17``, ``slub``, … or ``unknown``.
    sure
        ``sure``, ``likely``, ``contradictory`` (what speaks for it cannot all be true) or ``unknown``.
    evidence
        What speaks for it, as parts of a sentence.
    """

    what: str = "unknown"
    sure: str = "unknown"
    evidence: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Clue:
    first: Version | None
    last: Version | None
    why: str


class Evidence:
    """Collects, chunk by chunk, what tells a kernel and its allocator apart (MODEL 12.2)."""

    def __init__(self, vocab: TraceVocab) -> None:
        self._vocab = vocab
        self._small: dict[int, int] = {}
        self._kmallocs = 0
        self._odd_kmallocs = 0
        self._percpu_sizes = False

    def add(self, chunk: EventChunk) -> None:
        """Take the next rows."""
        sized = (chunk.event == EV_KMALLOC) & (chunk.bytes_req > 0) & (chunk.bytes_alloc > 0)
        requested, allocated = chunk.bytes_req[sized], chunk.bytes_alloc[sized]
        sizes, counts = np.unique(allocated, return_counts=True)
        for size, n in zip(sizes.tolist(), counts.tolist(), strict=True):
            self._kmallocs += n
            self._odd_kmallocs += n if size <= LARGE_KMALLOC_BYTES and size not in KMALLOC_SIZES else 0
        sizes, counts = np.unique(allocated[requested <= SMALL_BYTES], return_counts=True)
        for size, n in zip(sizes.tolist(), counts.tolist(), strict=True):
            self._small[size] = self._small.get(size, 0) + n
        if not self._percpu_sizes:
            texts = chunk.text[(chunk.event == EV_PERCPU_ALLOC) & (chunk.text >= 0)]
            self._percpu_sizes = any("bytes_alloc=" in self._vocab.text.names[code] for code in texts[:16].tolist())

    def kernel(self, kinds: np.ndarray, named: np.ndarray, with_node: np.ndarray, doubled: int) -> Guess:
        """
        The range of kernels that prints what the trace has.

        Parameters
        ----------
        kinds, named, with_node
            Rows by EV_*: all, those with a cache name, those with a node.
        doubled
            Large kmallocs that were written twice.
        """
        clues = [*self._fields(kinds, named, with_node, doubled), *self._flags()]
        if not clues:
            return Guess()
        first = max((clue.first for clue in clues if clue.first is not None), default=_FIRST_KMEM)
        last = min((clue.last for clue in clues if clue.last is not None), default=None)
        evidence = [clue.why for clue in clues if first == clue.first or (last is not None and last == clue.last)]
        if last is not None and first > last:
            return Guess("unknown", "contradictory", evidence)
        what = f"{_text(first)} or later" if last is None else f"{_text(first)} to {_text(last)}"
        return Guess(what, "sure" if len(clues) > 1 else "likely", evidence)

    @staticmethod
    def _fields(kinds: np.ndarray, named: np.ndarray, with_node: np.ndarray, doubled: int) -> list[_Clue]:
        clues = []
        if named[EV_CACHE_ALLOC]:
            clues.append(_Clue((6, 18), None, "kmem_cache_alloc has the cache's name"))
        elif kinds[EV_CACHE_ALLOC]:
            clues.append(_Clue(None, (6, 17), "kmem_cache_alloc has no name"))
        if named[EV_CACHE_FREE]:
            clues.append(_Clue((5, 12), None, "kmem_cache_free has the cache's name"))
        elif kinds[EV_CACHE_FREE]:
            clues.append(_Clue(None, (5, 11), "kmem_cache_free has no name"))
        if kinds[EV_KMALLOC]:
            if with_node[EV_KMALLOC] == kinds[EV_KMALLOC]:
                clues.append(_Clue((6, 1), None, "every kmalloc has a node"))
            else:
                clues.append(_Clue(None, (6, 0), "not every kmalloc has a node"))
        if doubled >= DOUBLED_LARGE:
            clues.append(_Clue((6, 12), None, "large kmallocs are written twice"))
        return clues

    def _flags(self) -> list[_Clue]:
        """Clues of flags' names and of texts; of several that say the same, the first."""
        names = sorted({name for text in self._vocab.gfp.names for name in text.split("|")} & _FLAG_ERAS.keys())
        best: dict[tuple[Version | None, Version | None], str] = {}
        for name in names:
            best.setdefault(_FLAG_ERAS[name], name)
        clues = [_Clue(first, last, f"flags are called {name}") for (first, last), name in best.items()]
        if self._percpu_sizes:
            clues.append(_Clue((5, 19), None, "percpu_alloc_percpu has bytes_alloc"))
        return clues

    def allocator(self, kernel: Guess) -> Guess:
        """Which slab allocator gave the sizes that are recorded."""
        if kernel.sure in ("sure", "likely") and _version(kernel.what) >= _SLAB_GONE:
            return Guess("slub", "sure", ["kernels since 6.8 have no other"])
        names = self._vocab.name.codes
        small, enough = self._small, self._kmallocs >= ENOUGH_KMALLOCS
        if enough and self._odd_kmallocs > ODD_SHARE * self._kmallocs:
            return Guess("slob", "sure", [f"{self._odd_kmallocs:,} of {self._kmallocs:,} kmallocs got a size that "
                                          "no cache has"])  # fmt: skip
        found = Guess("slub", "likely")
        if "kmem_cache_node" in names:
            found.evidence.append("there is a cache kmem_cache_node")
        if small.get(8, 0) + small.get(16, 0):
            found.evidence.append("kmallocs of up to 16 bytes got 8 or 16, which SLAB does not have")
        if found.evidence:
            found.sure = "sure" if len(found.evidence) > 1 or enough else "likely"
            return found
        if small and set(small) == {32} and small[32] >= ENOUGH_KMALLOCS:
            return Guess("slab", "likely", [f"all {small[32]:,} kmallocs of up to 16 bytes got 32"])
        return Guess()


def _text(version: Version) -> str:
    return ".".join(map(str, version))


def _version(what: str) -> Version:
    """The first kernel of a range that `Evidence.kernel` named."""
    return tuple(int(part) for part in what.split()[0].split("."))
