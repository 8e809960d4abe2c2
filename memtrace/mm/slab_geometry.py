"""SLAB's arithmetic: objects in a slab, where its index array lies, array limits (MODEL 7.2, 7.3). Pure functions."""

from __future__ import annotations

from typing import NamedTuple

from memtrace.mm.constants import MAX_ORDER, PAGE_SIZE

OBJFREELIST = 0  # the index array lies in a free object of the slab
OFF_SLAB = 1  # ... in memory of its own, from a kmalloc cache
ON_SLAB = 2  # ... at the end of the slab

SLAB_OBJ_MIN_SIZE = 16
SLAB_OBJ_MAX_NUM = 255
CACHE_LINE = 64

EARLY_CACHES = frozenset((
    "kmem_cache", "vmap_area", "mm_struct", "radix_tree_node", "maple_node", "ftrace_event_field", "trace_event_file",
    "perf_event", "numa_policy", "shared_policy_node", "Acpi-State", "Acpi-Operand", "pid", "anon_vma", "cred_jar",
    "task_struct", "sighand_cache", "signal_cache", "files_cache", "fs_cache", "vm_area_struct", "names_cache",
    "dentry", "inode_cache", "mnt_cache", "kernfs_iattrs_cache", "shmem_inode_cache", "bdev_cache", "seq_file",
    "proc_inode_cache", "pde_opener", "proc_dir_entry",
))  # fmt: skip
"""Caches beside kmalloc's that a 6.1 kernel makes before it starts its secondary CPUs (EXACT D C1)."""


class Geometry(NamedTuple):
    """``num`` objects in a slab of 2**order pages, ``left`` bytes over; ``kind`` says where the index array is."""

    kind: int
    order: int
    num: int
    left: int


def kmalloc_size(size: int) -> int:
    """Bytes of SLAB's smallest kmalloc class that holds ``size`` <= 8192 bytes (MODEL 5.1)."""
    if 128 < size <= 192:
        return 192
    return max(32, 1 << (size - 1).bit_length())


def stride(object_size: int, align: int, word: int) -> int:
    """Distance of two objects in bytes, a multiple of ``align``. Kernel: __kmem_cache_create(), 6.1."""
    size = -(-(-(-object_size // word) * word) // align) * align
    return size if size >= SLAB_OBJ_MIN_SIZE else -(-SLAB_OBJ_MIN_SIZE // align) * align


def calculate_slab_order(
    kind: int, size: int, object_size: int, reclaimable: bool, max_order: int
) -> Geometry:
    """
    Order and number of objects for one kind of index array; ``num`` 0 when no order serves.

    Kernel: calculate_slab_order(), cache_estimate(), 6.1 (MODEL 7.2, EXACT D C4)
    """
    found = Geometry(kind, 0, 0, 0)
    for order in range(MAX_ORDER + 1):
        slab = PAGE_SIZE << order
        # On the slab, each object brings one byte of the index array with it.
        num = slab // (size + 1 if kind == ON_SLAB else size)
        if num == 0:
            continue
        if num > SLAB_OBJ_MAX_NUM:
            break
        if kind == OFF_SLAB and kmalloc_size(num) > object_size // 2:
            continue
        left = slab - num * (size + 1 if kind == ON_SLAB else size)
        found = Geometry(kind, order, num, left)
        if reclaimable or order >= max_order or left * 8 <= slab:
            break
    return found


def geometry(
    size: int, object_size: int, keeps_content: bool, noleaktrace: bool, reclaimable: bool, max_order: int
) -> Geometry:
    """
    Layout of a cache's slabs.

    Kernel: set_objfreelist_slab_cache(), set_off_slab_cache(), set_on_slab_cache(), 6.1 (MODEL 7.2; EXACT D 1.1:
    1,372 of 1,372 caches)

    Parameters
    ----------
    size
        Stride in bytes.
    object_size
        As the creator gave it, before alignment.
    keeps_content
        Free objects may not be written to: there is a constructor, or readers under RCU.
    """
    if not keeps_content:
        found = calculate_slab_order(OBJFREELIST, size, object_size, reclaimable, max_order)
        if 0 < found.num <= object_size:
            return found
    if not noleaktrace:
        found = calculate_slab_order(OFF_SLAB, size, object_size, reclaimable, max_order)
        if found.num > 0 and found.left < found.num:
            return found
    return calculate_slab_order(ON_SLAB, size, object_size, reclaimable, max_order)


def array_limit(size: int) -> int:
    """Objects in a CPU's array, by stride. Kernel: enable_cpucache() (MODEL 7.3)."""
    for above, limit in ((131072, 1), (PAGE_SIZE, 8), (1024, 24), (256, 54)):
        if size > above:
            return limit
    return 120


def shared_factor(size: int, cpus: int) -> int:
    """Batches that a node's shared array holds, 0 for none. Kernel: enable_cpucache() (MODEL 7.3)."""
    return 8 if size <= PAGE_SIZE and cpus > 1 else 0


def free_limit(cpus: int, batchcount: int, num: int, early: bool) -> int:
    """
    Free objects that a node keeps (MODEL 7.3, EXACT D C1).

    ``cpus`` of the node; ``early``: the cache is older than the machine's secondary CPUs, so the last of them was not
    counted when the limit was set for the last time.
    """
    return (cpus + (not early)) * batchcount + num


def is_early(name: str) -> bool:
    """Whether a cache of this name is older than a 6.1 kernel's secondary CPUs."""
    return name in EARLY_CACHES or name.startswith(("kmalloc-", "dma-kmalloc-"))
