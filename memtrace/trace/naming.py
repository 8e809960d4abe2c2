"""
Which cache an allocation came from, when its event does not say (kernels before 6.17).

The best of the rules measured in EXACT C 1.5: the call site. All allocations of one (call site, bytes_req,
bytes_alloc) class come from one cache; its name is printed when one of its objects is freed, or is that of
another class seen on the same slab page. Classes that no rule names get a name of their own making.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .causes import CLASS_KMALLOC, CLASS_NAMED, CLASS_SITE, LARGE_KMALLOC_BYTES

MIXED_PAGES_SHARE = 0.01
"""With more meetings of different sizes on one page than this, pages hold several caches (SLOB)."""
KMALLOC_PREFIXES = ("kmalloc-", "kmalloc-cg-", "kmalloc-rcl-", "dma-kmalloc-")
"""By KMALLOC_*."""
KMALLOC_SIZES = {96, 192, *(1 << shift for shift in range(3, 14))}


@dataclass(frozen=True, slots=True)
class AllocClass:
    """
    A class of allocations that share a cache.

    Attributes
    ----------
    kind
        CLASS_SITE (no name in the event), CLASS_KMALLOC, or CLASS_NAMED.
    site, name
        vocab.call_site code of its first row; vocab.name code of a named one, else -1.
    bytes_req, bytes_alloc
        The largest seen, -1 never.
    allocs
        Allocations seen.
    reclaimable
        One lay on a page asked for with __GFP_RECLAIMABLE.
    family
        KMALLOC_* of a kmalloc.
    """

    kind: int
    site: int
    name: int
    bytes_req: int
    bytes_alloc: int
    allocs: int
    reclaimable: bool
    family: int = 0


@dataclass(slots=True)
class Votes:
    """
    What spoke for a name.

    Attributes
    ----------
    by_free, by_page
        (class, vocab.name code) -> times an object of the class was freed by this name, or lay on a page
        of this name.
    links
        (class, class) -> times they met on one slab page.
    pages_mixed
        Whether slab pages hold several caches, so that pages say nothing.
    """

    by_free: dict[tuple[int, int], int]
    by_page: dict[tuple[int, int], int]
    links: dict[tuple[int, int], int]
    pages_mixed: bool


def name_classes(classes: list[AllocClass], votes: Votes) -> np.ndarray:
    """
    The name of every class, as vocab.name codes; -1 when nothing tells (and for kmalloc).

    Order of the rules: the event itself; the majority of the frees; the majority of the page's names;
    the name of a class of the same size that it met on a page.
    """
    names = np.full(len(classes), -1, np.int64)
    for i, cls in enumerate(classes):
        if cls.kind == CLASS_NAMED:
            names[i] = cls.name
    _elect(names, votes.by_free)
    if votes.pages_mixed:
        return names
    _elect(names, votes.by_page)
    changed = True
    while changed:
        linked: dict[tuple[int, int], int] = {}
        for (a, b), n in votes.links.items():
            for one, other in ((a, b), (b, a)):
                if names[one] < 0 <= names[other]:
                    key = (one, int(names[other]))
                    linked[key] = linked.get(key, 0) + n
        changed = _elect(names, linked)
    return names


def _elect(names: np.ndarray, votes: dict[tuple[int, int], int]) -> bool:
    """Give each class that has no name yet its majority; ties go to the name seen first. Whether any got one."""
    best: dict[int, tuple[int, int]] = {}
    for (cls, name), n in votes.items():
        if names[cls] < 0:
            best[cls] = max(best.get(cls, (0, 0)), (n, -name))
    for cls, (_, minus_name) in best.items():
        names[cls] = -minus_name
    return bool(best)


def unnamed_groups(classes: list[AllocClass], names: np.ndarray, votes: Votes) -> np.ndarray:
    """
    For every class that nothing names, the first class of its cache; -1 for the others.

    Classes of equal size that met on a slab page share a cache, as a slab page holds one.
    """
    group = np.array(
        [i if cls.kind == CLASS_SITE and names[i] < 0 else -1 for i, cls in enumerate(classes)], np.int64
    )

    def first(i: int) -> int:
        while group[i] != i:
            i = int(group[i])
        return i

    if not votes.pages_mixed:
        for a, b in votes.links:
            if group[a] >= 0 and group[b] >= 0:
                low, high = sorted((first(a), first(b)))
                group[high] = low
    for i in range(len(group)):
        if group[i] >= 0:
            group[i] = first(i)
    return group


DESCRIPTOR_CACHES = {"kmem_cache_create_usercopy": "kmem_cache", "__kmem_cache_create": "kmem_cache_node"}
"""Functions of 4.16 to 6.8 that allocate what describes a cache: hardly ever freed, and so hardly ever named."""


def name_by_function(site: str) -> str:
    """The cache that a function of the slab allocator itself allocates from; "" for all other call sites."""
    return DESCRIPTOR_CACHES.get(site.partition("+")[0], "")


def unknown_name(cls: AllocClass, site: str) -> str:
    """``unknown:<call_site>:<bytes_alloc>``, what a cache is called that no event names."""
    return f"unknown:{site}:{max(cls.bytes_alloc, 0)}"


def kmalloc_cache_name(cls: AllocClass) -> str:
    """
    The general-purpose cache of a kmalloc class, or "" when it has none (large, or SLOB's odd sizes).

    A kernel without a cache of that family serves it from kmalloc-N; whoever has the caches knows (``kmalloc_home``).
    """
    size = cls.bytes_alloc
    if cls.kind != CLASS_KMALLOC or size > LARGE_KMALLOC_BYTES or size not in KMALLOC_SIZES:
        return ""
    return KMALLOC_PREFIXES[cls.family] + (f"{size >> 10}k" if size >= 1024 else str(size))


def unpack_votes(items: Iterable[tuple[int, int]]) -> tuple[dict[tuple[int, int], int], dict[tuple[int, int], int]]:
    """(by_free, by_page) from the packed keys of `CensusScan.votes`."""
    by_free: dict[tuple[int, int], int] = {}
    by_page: dict[tuple[int, int], int] = {}
    for key, n in items:
        target = by_page if key & 1 else by_free
        target[((key >> 25) - 1, (key >> 1) & 0xFFFFFF)] = n
    return by_free, by_page


def unpack_links(items: Iterable[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """Pairs of classes from the packed keys of `CensusScan.links`."""
    return {((key >> 31) - 1, (key & 0x7FFFFFFF) - 1): n for key, n in items}
