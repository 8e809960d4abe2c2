"""SLUB's arithmetic: order, partial limits (MODEL 6.3, 6.4). Pure functions of sizes."""

from __future__ import annotations

from memtrace.mm.constants import MAX_ORDER, PAGE_SHIFT, PAGE_SIZE

MAX_OBJS_PER_PAGE = 32767


def _get_order(size: int) -> int:
    return max(0, ((size - 1) >> PAGE_SHIFT).bit_length())


def slab_order(size: int, min_objects: int, min_order: int, max_order: int, fraction: int) -> int:
    """Lowest order that wastes at most 1/fraction of the slab. Kernel: slab_order(), 6.1."""
    if (PAGE_SIZE << min_order) // size > MAX_OBJS_PER_PAGE:
        return _get_order(size * MAX_OBJS_PER_PAGE) - 1
    for order in range(max(min_order, _get_order(min_objects * size)), max_order + 1):
        slab = PAGE_SIZE << order
        if slab % size <= slab // fraction:
            return order
    return max_order + 1


def calculate_order(size: int, min_objects: int, min_order: int = 0, max_order: int = 3, rule: str = "6.1") -> int:
    """
    Order of a slab of objects of ``size`` bytes, by the rule of slub.order_rule.

    Kernel: calculate_order(), mm/slub.c (MODEL 6.3; 6.1 and 6.8: 235 of 235 caches of a 6.18 machine)
    """
    if rule == "2.6.24":
        return _halving_order(size, min_objects, min_order, max_order)
    if rule == "6.8":
        return _wasteful_order(size, min_objects, min_order, max_order)
    least = min(min_objects, max(1, (PAGE_SIZE << max_order) // size))
    while least > 1:
        for fraction in (16, 8, 4):
            order = slab_order(size, least, min_order, max_order, fraction)
            if order <= max_order:
                return order
        least -= 1
    order = slab_order(size, 1, min_order, max_order, 1)
    if order <= max_order:
        return order
    return slab_order(size, 1, min_order, MAX_ORDER, 1)


def _halving_order(size: int, min_objects: int, min_order: int, max_order: int) -> int:
    """2.6.24 (MODEL 6.3): half as many objects each time, at most a quarter wasted."""
    least = min_objects
    while least > 1:
        for fraction in (8, 4):
            order = slab_order(size, least, min_order, max_order, fraction)
            if order <= max_order:
                return order
        least //= 2
    order = slab_order(size, 1, min_order, max_order, 1)
    return order if order <= max_order else slab_order(size, 1, min_order, MAX_ORDER, 1)


def _wasteful_order(size: int, min_objects: int, min_order: int, max_order: int) -> int:
    """6.8 and later (MODEL 6.3): never fewer objects than wanted, up to half wasted."""
    least = min(min_objects, max(1, (PAGE_SIZE << max_order) // size))
    first = max(min_order, _get_order(least * size))
    for fraction in (16, 8, 4, 2):
        order = slab_order(size, 1, first, max_order, fraction)
        if order <= max_order:
            return order
    return _get_order(size)


def cpu_partial_objects(size: int) -> int:
    """Objects a CPU's partial list aims at. Kernel: set_cpu_partial(), 5.16+ (MODEL 6.4)."""
    if size >= PAGE_SIZE:
        return 6
    if size >= 1024:
        return 24
    if size >= 256:
        return 52
    return 120


def min_partial_slabs(size: int) -> int:
    """Partial slabs a node keeps. Kernel: set_min_partial() on ilog2(size) / 2, 5..10 (MODEL 6.9)."""
    return max(5, min(10, (size.bit_length() - 1) // 2))
