"""
kfree_rcu(): objects wait for a grace period, in batches (MODEL 5.5, EXACT C5).

Each CPU collects pointers in arrays of one page (channel 1: slab and page memory, channel 2: vmalloc), or, when it
has no page, in a list through the objects themselves (channel 3). A monitor hands what was collected to one of two
batches; when the batch's grace period is over, each array is freed by one bulk free. This module decides; when
the monitor runs and a grace period ends is the schedule's business (``schedule/kfree_rcu.py``).
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from memtrace.mm.constants import NIL, PAGE_SIZE, WAKE_KFREE_RCU, WAKE_KFREE_RCU_PAGES
from memtrace.mm.gfp import GFP_BIT_NOMEMALLOC, GFP_BIT_NORETRY, GFP_BIT_NOWARN, GFP_KERNEL
from memtrace.mm.machine import Machine
from memtrace.mm.vmalloc import VMALLOC_START, Vmalloc

KFREE_N_BATCHES = 2
MIN_CACHED_OBJS = 5
"""Pages that a CPU keeps for arrays (rcu_min_cached_objs)."""
PAGE_GFP = GFP_KERNEL | GFP_BIT_NORETRY | GFP_BIT_NOMEMALLOC | GFP_BIT_NOWARN


@dataclass(slots=True)
class PointerArray:
    """One page of pointers (struct kvfree_rcu_bulk_data)."""

    pfn: int
    records: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Batch:
    """What waits for one grace period; each channel has its oldest member first, and is freed from its newest."""

    arrays: list[PointerArray] = field(default_factory=list)
    vmalloc_arrays: list[PointerArray] = field(default_factory=list)
    linked: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.arrays or self.vmalloc_arrays or self.linked)


@dataclass(slots=True)
class RcuCpu:
    """One CPU's part (struct kfree_rcu_cpu)."""

    collected: Batch = field(default_factory=Batch)
    batches: list[Batch] = field(default_factory=lambda: [Batch() for _ in range(KFREE_N_BATCHES)])
    pages: list[int] = field(default_factory=list)
    count: int = 0
    """Pointers collected since the monitor last took them."""


class KfreeRcu:
    """
    kfree_rcu() of a machine.

    Attributes
    ----------
    entries
        Pointers in one array: what a page holds less its header of two words.
    waiting
        Addresses that were given and are not freed yet.
    """

    def __init__(self, machine: Machine, vmalloc: Vmalloc) -> None:
        self.machine = machine
        self.vmalloc = vmalloc
        self.entries = PAGE_SIZE // machine.slab.word - 2
        self.cpus = [RcuCpu() for _ in range(machine.nr_cpus)]
        self.waiting: set[int] = set()

    def kfree_rcu(self, addr: int, cpu: int) -> None:
        """
        Free an object after the next grace period.

        Kernel: kvfree_call_rcu(), 6.1, with a head in the object; 6.18: kfree_rcu_sheaf() first
        """
        if addr < VMALLOC_START and self.machine.slab.free_rcu_sheaf(addr, cpu):
            return
        krc = self.cpus[cpu]
        self.waiting.add(addr)
        if not self._add_to_array(krc, addr):
            self.machine.it.wake(WAKE_KFREE_RCU_PAGES, cpu)
            krc.collected.linked.append(addr)
        krc.count += 1
        self.machine.it.wake(WAKE_KFREE_RCU, cpu)

    def _add_to_array(self, krc: RcuCpu, addr: int) -> bool:
        """Kernel: add_ptr_to_bulk_krc_lock(); no page is asked for here: the caller may be in an interrupt."""
        arrays = krc.collected.vmalloc_arrays if addr >= VMALLOC_START else krc.collected.arrays
        if not arrays or len(arrays[-1].records) == self.entries:
            if not krc.pages:
                return False
            arrays.append(PointerArray(krc.pages.pop()))
        arrays[-1].records.append(addr)
        return True

    def fill_pages(self, cpu: int) -> None:
        """Kernel: fill_page_cache_func(): fetch pages for arrays."""
        krc = self.cpus[cpu]
        while len(krc.pages) < MIN_CACHED_OBJS:
            pfn = self.machine.page_alloc(0, PAGE_GFP, -1, self.machine.runs_on[cpu])
            if pfn < 0:
                return
            krc.pages.append(pfn)

    def is_full(self, cpu: int) -> bool:
        """Has the CPU collected an array's worth, so that the monitor need not wait?"""
        return self.cpus[cpu].count >= self.entries

    def monitor(self, cpu: int) -> int:
        """
        Hand all that was collected to a batch that has nothing to wait for.

        Kernel: kfree_rcu_monitor()

        Returns
        -------
        The batch, whose grace period begins now, or -1 when there is none, or nothing to hand over.
        """
        krc = self.cpus[cpu]
        if not krc.collected:
            return NIL
        for number, batch in enumerate(krc.batches):
            if not batch:
                krc.batches[number], krc.collected = krc.collected, Batch()
                krc.count = 0
                return number
        return NIL

    def has_collected(self, cpu: int) -> bool:
        """Is something left that no batch could take?"""
        return bool(self.cpus[cpu].collected)

    def free_batch(self, cpu: int, number: int) -> None:
        """
        A batch's grace period is over: one bulk free an array, the newest array first.

        Kernel: kfree_rcu_work()
        """
        krc = self.cpus[cpu]
        cpu = self.machine.runs_on[cpu]
        batch, krc.batches[number] = krc.batches[number], Batch()
        for one in reversed(batch.arrays):
            addrs = array("q", one.records)
            self.machine.bulk_free(addrs, len(addrs), cpu)
            self._put_page(krc, one.pfn, cpu)
        for one in reversed(batch.vmalloc_arrays):
            for addr in one.records:
                self.vmalloc.vfree(addr, cpu)
            self._put_page(krc, one.pfn, cpu)
        for addr in reversed(batch.linked):
            self.vmalloc.kvfree(addr, cpu)
        for one in (*batch.arrays, *batch.vmalloc_arrays):
            self.waiting.difference_update(one.records)
        self.waiting.difference_update(batch.linked)

    def _put_page(self, krc: RcuCpu, pfn: int, cpu: int) -> None:
        """Kernel: put_cached_bnode()."""
        if len(krc.pages) < MIN_CACHED_OBJS:
            krc.pages.append(pfn)
        else:
            self.machine.page_free(pfn, 0, cpu)
