"""
A simulated kernel to be called by hand: for teaching, for trying things out, for tests.

``Kernel`` has the functions of the book's figure under their kernel names. Every call is decided at once; time
passes only when ``advance`` lets it, and with it whatever runs beside the CPUs.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING
from warnings import warn

from ..config import ReplayConfig
from ..kernels import check_allocator, load_kernel
from ..machines import load_machine
from ..mm.boot import boot
from ..mm.constants import MAX_ORDER, PAGE_SHIFT, ZERO_SIZE_PTR
from ..mm.gfp import GFP_BIT_ZERO, GFP_KERNEL
from ..mm.shrinker import DEFAULT_SEEKS, SHRINK_BATCH, Shrinker
from ..mm.vmalloc import VMALLOC_START
from ..report.wording import for_notebook, shorten, visible
from ..schedule.daemons import make_daemons
from ..units import format_size
from . import views
from .blocks import Block
from .blocks import blocks as find_blocks
from .caller import ANY_NODE, NULL, Address, Cache, Caller, Page
from .slabs import SlabView
from .slabs import slabs as find_slabs

if TYPE_CHECKING:
    import pandas as pd

    from .plot import KernelPlot

_BASE = "vm-512m-4cpu"


class Kernel(Caller):
    """
    A freshly booted machine and its kernel.

    Parameters
    ----------
    cpus, memory, nodes
        Of the machine; ``memory`` in bytes or like ``64M``, over all nodes.
    allocator
        slub, slab or slob.
    kernel
        Profile: whose rules and tunables.
    machine
        A preset or TOML file, instead of one laid out by rule; what is said besides it changes it.
    settings
        ``component.name=value``, as ``--set`` on the command line.
    seed
        Of the model's dice.

    Raises
    ------
    ConfigError
        There is no such machine, kernel or setting.
    MisuseError
        From any call that a kernel would not survive, such as a double free; nothing has been changed then.

    Examples
    --------
    >>> import memtrace as mt
    >>> k = mt.Kernel(cpus=2, memory="64M")
    >>> p = k.kmalloc(100, mt.GFP_KERNEL)
    >>> k.ksize(p)
    128
    >>> k.kfree(p)
    """

    def __init__(
        self, cpus: int | None = None, memory: str | int | None = None, nodes: int | None = None, *,
        allocator: str = "slub", kernel: str = "6.1", machine: str | Path | None = None, settings: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        if machine is None:
            cpus, memory = cpus or 2, memory or "64M"
        check_allocator(kernel, allocator)
        config = load_machine(machine if machine is not None else _BASE, cpus, memory, nodes)
        check_allocator(kernel, allocator)
        rules = load_kernel(kernel)
        for setting in settings:
            key, _, value = setting.partition("=")
            rules = rules.with_setting(key.strip(), value.strip())
        self.config = ReplayConfig(config, rules, allocator, seed=seed)
        machine_booted = boot(config, rules, seed, allocator)
        super().__init__(machine_booted, make_daemons(machine_booted, self.config))

    # -- kmalloc ----------------------------------------------------------------------------------

    def kmalloc(self, size: int, gfp: int = GFP_KERNEL, *, node: int = ANY_NODE, cpu: int | None = None) -> Address:
        """Kernel: kmalloc_node(): an object of at least ``size`` bytes, or NULL. Size 0 gives ZERO_SIZE_PTR."""
        here = self._begin(cpu)
        if size < 0 or size >> 8 * self.slab.word:
            self._bug("kmalloc", f"size {size}", f"0 to 2**{8 * self.slab.word} - 1 bytes")
        addr = self.machine.kmalloc(min(size, 1 << 40), gfp, self._known_node(node), here)
        return self._given(addr)

    def kzalloc(self, size: int, gfp: int = GFP_KERNEL, *, node: int = ANY_NODE, cpu: int | None = None) -> Address:
        """Kernel: kzalloc(): kmalloc, cleared."""
        return self.kmalloc(size, gfp | GFP_BIT_ZERO, node=node, cpu=cpu)

    def kmalloc_array(self, n: int, size: int, gfp: int = GFP_KERNEL, *, cpu: int | None = None) -> Address:
        """Kernel: kmalloc_array(): NULL when ``n * size`` overflows."""
        if n < 0 or size < 0:
            self._bug("kmalloc_array", f"{n} times {size} bytes", "no negative numbers")
        if n * size >> 8 * self.slab.word:
            self._begin(cpu)
            return NULL
        return self.kmalloc(n * size, gfp, cpu=cpu)

    def kcalloc(self, n: int, size: int, gfp: int = GFP_KERNEL, *, cpu: int | None = None) -> Address:
        """Kernel: kcalloc(): kmalloc_array, cleared."""
        return self.kmalloc_array(n, size, gfp | GFP_BIT_ZERO, cpu=cpu)

    def krealloc(self, p: int, size: int, gfp: int = GFP_KERNEL, *, cpu: int | None = None) -> Address:
        """
        Kernel: krealloc(): the same object when it is large enough, else a new one with the old one freed.

        Size 0 frees and gives ZERO_SIZE_PTR; NULL leaves the old object as it is.
        """
        if size == 0:
            self.kfree(p, cpu=cpu)
            return Address(ZERO_SIZE_PTR)
        if self.ksize(p) >= size:
            self._begin(cpu)
            return Address(p)
        new = self.kmalloc(size, gfp, cpu=cpu)
        if new != NULL:
            self.kfree(p, cpu=cpu)
        return new

    def kfree(self, p: int, *, cpu: int | None = None) -> None:
        """Kernel: kfree(); NULL and ZERO_SIZE_PTR are no-ops. Objects of any cache may be freed so."""
        here = self._begin(cpu)
        if p > ZERO_SIZE_PTR:
            self._check_object("kfree", p)
        self.machine.kfree(p, here)
        self._large.discard(p)
        self._end()

    def ksize(self, p: int) -> int:
        """Kernel: ksize(): bytes that may be used at ``p``; 0 for NULL."""
        if p > ZERO_SIZE_PTR:
            self._check_object("ksize", p)
        return int(self.slab.ksize(p))

    def kfree_rcu(self, p: int, *, cpu: int | None = None) -> None:
        """Kernel: kfree_rcu(): free after a grace period; see ``advance``. NULL is a no-op."""
        here = self._begin(cpu)
        if p == 0:
            return
        if p >= VMALLOC_START:
            self._check_area("kfree_rcu", p)
        else:
            self._check_object("kfree_rcu", p)
        self.rcu.kfree_rcu(p, here)
        self._large.discard(p)
        self._end()

    # -- vmalloc ----------------------------------------------------------------------------------

    def vmalloc(self, size: int, gfp: int = GFP_KERNEL, *, node: int = ANY_NODE, cpu: int | None = None) -> Address:
        """Kernel: vmalloc(): single pages that look contiguous, or NULL."""
        addr = self.vmalloc_area.vmalloc(size, gfp, self._known_node(node), self._begin(cpu))
        self._end()
        return Address(addr)

    def vfree(self, p: int, *, cpu: int | None = None) -> None:
        """Kernel: vfree(); NULL is a no-op."""
        here = self._begin(cpu)
        if p:
            self._check_area("vfree", p)
            self.vmalloc_area.vfree(p, here)
        self._end()

    def kvmalloc(self, size: int, gfp: int = GFP_KERNEL, *, node: int = ANY_NODE, cpu: int | None = None) -> Address:
        """Kernel: kvmalloc_node(): kmalloc if that is easy, else vmalloc when ``gfp`` allows to sleep, else NULL."""
        addr = self.vmalloc_area.kvmalloc(size, gfp, self._known_node(node), self._begin(cpu))
        return self._given(addr)

    def kvfree(self, p: int, *, cpu: int | None = None) -> None:
        """Kernel: kvfree()."""
        if p >= VMALLOC_START:
            self.vfree(p, cpu=cpu)
        else:
            self.kfree(p, cpu=cpu)

    # -- caches -----------------------------------------------------------------------------------

    def kmem_cache_create(
        self, name: str, size: int, align: int = 0, flags: int = 0, ctor: bool = False, *, cpu: int | None = None
    ) -> Cache | None:
        """
        Kernel: kmem_cache_create(): a cache of objects of ``size`` bytes, or None where the kernel returns NULL.

        It may be an existing one of the same needs. ``ctor`` says that its objects have a constructor.
        """
        self._begin(cpu)
        if align < 0 or align & (align - 1):
            self._bug("kmem_cache_create", f"cache {name}: align {align}", "a power of two, or 0")
        index = self.slab.kmem_cache_create(name, size, align, flags, bool(ctor))
        return None if index < 0 else Cache(name, index)

    def kmem_cache_destroy(self, cache: Cache | None, *, cpu: int | None = None) -> bool:
        """
        Kernel: kmem_cache_destroy(); None is a no-op.

        False, with a warning, when objects of it are alive: then the cache stays for good.
        """
        here = self._begin(cpu)
        if cache is None:
            return True
        s = self._open("kmem_cache_destroy", cache)
        gone = bool(self.slab.kmem_cache_destroy(s, cache.name, here))
        if not gone:
            warn(f"kmem_cache_destroy {cache.name}: Slab cache still has objects ({s.live} alive)", stacklevel=2)
        self._end()
        return gone

    def kmem_cache_shrink(self, cache: Cache, *, cpu: int | None = None) -> int:
        """Kernel: kmem_cache_shrink(): give empty slabs back; how many."""
        here = self._begin(cpu)
        freed = self.slab.shrink_cache(self._open("kmem_cache_shrink", cache), here)
        self._end()
        return int(freed)

    def register_shrinker(
        self, count_objects: Callable[[], int], scan_objects: Callable[[int], int], seeks: int = DEFAULT_SEEKS,
        batch: int = SHRINK_BATCH,
    ) -> Shrinker:
        """
        Kernel: register_shrinker(): have a cache asked when memory is short.

        Parameters
        ----------
        count_objects
            How many objects could be freed now.
        scan_objects
            Look at so many objects, free what is not in use (by calls of this kernel); how many, or -1 to stop.
        seeks, batch
            What an object is worth, and objects looked at in one call (``Shrinker``).
        """
        shrinker = Shrinker(count_objects, scan_objects, seeks, batch)
        self.machine.pages.shrinkers.append(shrinker)
        return shrinker

    def unregister_shrinker(self, shrinker: Shrinker) -> None:
        """Kernel: unregister_shrinker()."""
        if shrinker not in self.machine.pages.shrinkers:
            self._bug("unregister_shrinker", "a shrinker", "one that is registered")
        self.machine.pages.shrinkers.remove(shrinker)

    def kmem_cache_alloc(
        self, cache: Cache, gfp: int = GFP_KERNEL, *, node: int = ANY_NODE, cpu: int | None = None
    ) -> Address:
        """Kernel: kmem_cache_alloc_node(): an object, or NULL."""
        here = self._begin(cpu)
        s = self._open("kmem_cache_alloc", cache)
        addr = self.machine.cache_alloc(s.index, gfp, self._known_node(node), here)
        return self._given(addr)

    def kmem_cache_zalloc(self, cache: Cache, gfp: int = GFP_KERNEL, *, cpu: int | None = None) -> Address:
        """Kernel: kmem_cache_zalloc(): an object, cleared."""
        return self.kmem_cache_alloc(cache, gfp | GFP_BIT_ZERO, cpu=cpu)

    def kmem_cache_free(self, cache: Cache, p: int, *, cpu: int | None = None) -> None:
        """Kernel: kmem_cache_free()."""
        here = self._begin(cpu)
        self._check_member("kmem_cache_free", cache, p)
        self.machine.cache_free(p, here)
        self._end()

    def kmem_cache_alloc_bulk(
        self, cache: Cache, gfp: int = GFP_KERNEL, n: int = 1, *, cpu: int | None = None
    ) -> list[Address]:
        """Kernel: kmem_cache_alloc_bulk(): ``n`` objects, or none when there are not so many."""
        here = self._begin(cpu)
        s = self._open("kmem_cache_alloc_bulk", cache)
        addrs: list[Address] = []
        while len(addrs) < n:
            addr = self.machine.bulk_alloc_one(s.index, gfp, here)
            if addr == 0:
                self.machine.bulk_free(array("q", addrs), len(addrs), here)
                addrs = []
                break
            addrs.append(Address(addr))
        self._end()
        return addrs

    def kmem_cache_free_bulk(self, cache: Cache, objects: Sequence[int], *, cpu: int | None = None) -> None:
        """Kernel: kmem_cache_free_bulk()."""
        here = self._begin(cpu)
        for p in objects:
            self._check_member("kmem_cache_free_bulk", cache, p)
        if len(set(objects)) < len(objects):
            self._bug("kmem_cache_free_bulk", f"cache {cache.name}: an object twice", "each once")
        self.machine.bulk_free(array("q", objects), len(objects), here)
        self._end()

    # -- pages ------------------------------------------------------------------------------------

    def alloc_pages(
        self, gfp: int = GFP_KERNEL, order: int = 0, *, node: int = ANY_NODE, cpu: int | None = None
    ) -> Page:
        """Kernel: alloc_pages_node(): a block of ``2**order`` pages, or NULL."""
        here = self._begin(cpu)
        if order < 0:
            self._bug("alloc_pages", f"order {order}", f"0 to {MAX_ORDER}")
        pfn = self.machine.page_alloc(min(order, MAX_ORDER + 1), gfp, self._known_node(node), here)
        self._end()
        if pfn < 0:
            return Page(0)
        self._blocks[pfn] = order
        return Page(pfn)

    def free_pages(self, page: int, order: int = 0, *, cpu: int | None = None) -> None:
        """Kernel: __free_pages(): a block that ``alloc_pages`` gave, whole."""
        here = self._begin(cpu)
        if self._blocks.get(page) != order:
            known = f"it was given with order {self._blocks[page]}" if page in self._blocks else "it is not allocated"
            self._bug("free_pages", f"pfn {page:#x}, order {order}", f"a block that alloc_pages gave; {known}")
        del self._blocks[page]
        self.machine.page_free(page, order, here)
        self._end()

    def page_address(self, page: int) -> Address:
        """Kernel: page_address()."""
        return Address(page << PAGE_SHIFT)

    # -- per-CPU areas ----------------------------------------------------------------------------

    def alloc_percpu(self, size: int, align: int = 8, gfp: int = GFP_KERNEL, *, cpu: int | None = None) -> Address:
        """Kernel: __alloc_percpu_gfp(): an area with a copy for each possible CPU, or NULL; see ``per_cpu_ptr``."""
        addr = self.machine.alloc_percpu(size, align, gfp, self._begin(cpu))
        if addr:
            self._percpu.add(addr)
        self._end()
        return Address(addr)

    def free_percpu(self, p: int, *, cpu: int | None = None) -> None:
        """Kernel: free_percpu(): all copies; NULL is a no-op."""
        here = self._begin(cpu)
        if p == 0:
            return
        if p not in self._percpu:
            self._bug("free_percpu", f"{p:#x}", "what alloc_percpu gave, once")
        self._percpu.remove(p)
        self.machine.free_percpu(p, here)
        self._end()

    def per_cpu_ptr(self, p: int, cpu: int) -> Address:
        """Kernel: per_cpu_ptr(): where a CPU's own copy lies."""
        if p not in self._percpu:
            self._bug("per_cpu_ptr", f"{p:#x}", "what alloc_percpu gave")
        return Address(self.machine.percpu_ptr(p, cpu))

    # -- looking at it ----------------------------------------------------------------------------

    def buddyinfo(self) -> pd.DataFrame:
        """/proc/buddyinfo: free blocks by zone and order."""
        return views.buddyinfo(self.machine)

    def slabinfo(self) -> pd.DataFrame:
        """/proc/slabinfo: the caches that have slabs."""
        return views.slabinfo(self.machine)

    def zoneinfo(self) -> pd.DataFrame:
        """Of /proc/zoneinfo: pages and watermarks by zone."""
        return views.zoneinfo(self.machine)

    def free_lists(self) -> pd.DataFrame:
        """The buddy system's lists, head first: pfns by zone, order and migratetype; empty lists are left out."""
        return views.free_lists(self.machine)

    def pcp_lists(self) -> pd.DataFrame:
        """The CPUs' page lists, head first: pfns by CPU, zone, order and migratetype; empty ones are left out."""
        return views.pcp_lists(self.machine)

    def counters(self) -> pd.DataFrame:
        """The slab allocator's own statistics by cache and CPU."""
        return views.counters(self.machine)

    def percpu_areas(self) -> pd.DataFrame:
        """What alloc_percpu() has given: pointer, chunk, and which bytes of every CPU's unit it takes."""
        return views.percpu_areas(self.machine)

    def blocks(self, pfn: int, order: int = MAX_ORDER) -> list[Block]:
        """The ``2**order`` page frames around ``pfn`` as blocks of the buddy system, by address."""
        if not 0 <= order <= MAX_ORDER or not 0 <= pfn < self.machine.frames.nr_frames:
            last = self.machine.frames.nr_frames - 1
            self._bug("blocks", f"pfn {int(pfn):#x}, order {order}",
                      f"a pfn of 0 to {last:#x}, an order of 0 to {MAX_ORDER}")
        return find_blocks(self.machine, int(pfn) & -(1 << order), order)

    def slabs(self, cache: Cache | str | None = None) -> list[SlabView]:
        """
        The slabs of a cache (or the cache of this name; None: of all), by address, byte by byte.

        SLOB has no slabs of one cache: its pages are given in which an object of that cache lies.
        """
        if cache is None:
            return find_slabs(self.machine)
        name = cache if isinstance(cache, str) else cache.name
        index = self.slab.find_cache(name)
        if index < 0:
            self._bug("slabs", f"cache {name}", "one that exists, by the name that slabinfo() or its creator gives it")
        return find_slabs(self.machine, index)

    @property
    def plot(self) -> KernelPlot:
        """Pictures: ``plot.buddy(pfn)``, ``plot.slabs(cache)`` and ``plot.percpu()``."""
        from .plot import KernelPlot

        return KernelPlot(self)

    def validate(self) -> None:
        """Recount everything; raises ModelError at the first broken invariant."""
        self.machine.validate()

    def __repr__(self) -> str:
        m = self.config.machine
        return (f"<memtrace.Kernel {self.config.kernel.name}, {self.config.allocator}: {m.cpus} CPUs, "
                f"{m.nodes} node(s), {format_size(m.managed_pages << PAGE_SHIFT)} managed, t = {self.now} ns>")

    def _repr_html_(self) -> str:
        caches = self.slabinfo().rename(index=lambda name: shorten(visible(name), 64))
        return for_notebook(f"<p>{escape(repr(self))}</p>", self.buddyinfo().to_html(), caches.to_html())
