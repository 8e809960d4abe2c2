"""
Objects, as the census follows them: who is alive at which address since when, and which of them share a page.

A pointer has a record as long as it means something: while its object is alive, and after that until the page is
freed, so that memory is needed for the objects of living pages only.
"""

from __future__ import annotations

import cython
import numpy as np

from memtrace.trace.arrays import doubled, filled
from memtrace.trace.ptrmap import PtrMap

NIL = -1
OBJECT_FREED = -2  # class of an object last seen being freed; >= 0 is the class of a live one


@cython.cclass
class ObjectsSeen:
    """
    Records of objects.

    Attributes
    ----------
    where
        Pointer -> record, NIL when it has none.
    cls
        By record: class of the live object, or OBJECT_FREED.
    ptr, site, cpu, ns, row
        By record: its pointer; call site and CPU of its allocation; time and row of what happened to it last.
    life
        By record: the page life that its list belongs to, NIL when addresses tell no pages.
    after
        By record: the next object of the same page, or the next unused record.
    """

    where: PtrMap
    cls: cython.int[:]
    ptr: cython.ulonglong[:]
    site: cython.int[:]
    cpu: cython.short[:]
    ns: cython.longlong[:]
    row: cython.longlong[:]
    life: cython.int[:]
    after: cython.int[:]
    n: cython.int
    unused: cython.int

    def __init__(self) -> None:
        n = 1024
        self.where = PtrMap(12)
        self.cls = filled(n, np.int32)
        self.ptr = filled(n, np.uint64)
        self.site = filled(n, np.int32)
        self.cpu = filled(n, np.int16)
        self.ns = filled(n, np.int64)
        self.row = filled(n, np.int64)
        self.life = filled(n, np.int32)
        self.after = filled(n, np.int32)
        self.n = 0
        self.unused = NIL

    @cython.cfunc
    def new(self, ptr: cython.ulonglong) -> cython.int:
        """A record for a pointer that has none."""
        record: cython.int = self.unused
        if record >= 0:
            self.unused = self.after[record]
        else:
            record = self.n
            if record == len(self.cls):
                self.grow()
            self.n += 1
        self.where.put(ptr, record)
        self.ptr[record] = ptr
        self.life[record] = NIL
        self.after[record] = NIL
        self.site[record] = NIL
        return record

    @cython.cfunc
    def grow(self) -> cython.void:
        self.cls = doubled(self.cls)
        self.ptr = doubled(self.ptr)
        self.site = doubled(self.site)
        self.cpu = doubled(self.cpu)
        self.ns = doubled(self.ns)
        self.row = doubled(self.row)
        self.life = doubled(self.life)
        self.after = doubled(self.after)

    @cython.cfunc
    def forget(self, record: cython.int) -> cython.void:
        """Its page is gone: the pointer means nothing any more."""
        self.where.put(self.ptr[record], NIL)
        self.cls[record] = OBJECT_FREED
        self.after[record] = self.unused
        self.unused = record
