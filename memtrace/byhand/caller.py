"""
What stands between a caller and the simulated kernel: which CPU, what time it is, and whether the call makes sense.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn, Self

from ..errors import MisuseError
from ..mm.constants import PAGE_SHIFT, ZERO_SIZE_PTR
from ..mm.hotplug import cpu_offline, cpu_online, online_cpus
from ..mm.kfree_rcu import KfreeRcu
from ..mm.kmem_cache import KmemCache
from ..mm.machine import Machine
from ..mm.paths import PATHS
from ..mm.vmalloc import VMALLOC_START, Vmalloc
from ..schedule.costs import CostTable
from ..schedule.daemons import Daemon
from ..schedule.hand_clock import HandClock
from ..schedule.kfree_rcu import KfreeRcuWork
from ..units import parse_time

ANY_NODE = -1


class Address(int):
    """An address; it is an int that prints in hexadecimal."""

    def __repr__(self) -> str:
        return "NULL" if self == 0 else f"{int(self):#x}"

    __str__ = __repr__


class Page(int):
    """A block of pages, by the number of its first one (pfn)."""

    def __repr__(self) -> str:
        return "NULL" if self == 0 else f"pfn {int(self):#x}"

    __str__ = __repr__


NULL = Address(0)


@dataclass(frozen=True, slots=True)
class Cache:
    """
    What kmem_cache_create() returned.

    Attributes
    ----------
    name
        What its creator called it.
    index
        The cache that serves it; two names of equal index have been merged.
    """

    name: str
    index: int


@dataclass(frozen=True, slots=True)
class Step:
    """What the last call did: its path, what that costs on an idle machine, and the locks it took."""

    operation: str
    path: str
    ns: int
    locks: tuple[str, ...]


class Caller:
    """
    The caller of a machine: its CPU, its clock, and what it was given.

    Parameters
    ----------
    machine
        The model.
    daemons
        What its kernel runs beside the CPUs; the work of kfree_rcu() is added.
    """

    def __init__(self, machine: Machine, daemons: list[Daemon]) -> None:
        self.machine = machine
        self.slab = machine.slab
        self.vmalloc_area = Vmalloc(machine)
        self.rcu = KfreeRcu(machine, self.vmalloc_area)
        self._clock = HandClock([*daemons, KfreeRcuWork(self.rcu)], machine.it)
        self._costs = CostTable.load()
        self._cpu = 0
        self._blocks: dict[int, int] = {}
        """Order of each block that alloc_pages gave, by pfn."""
        self._large: set[int] = set()
        """Objects that are whole pages, which no slab knows."""
        self._percpu: set[int] = set()

    # -- CPU and time -----------------------------------------------------------------------------

    @contextmanager
    def on(self, cpu: int) -> Iterator[Self]:
        """Within a ``with``: calls are made on this CPU. (Each call also takes ``cpu=``.)"""
        before, self._cpu = self._cpu, self._known_cpu(cpu)
        try:
            yield self
        finally:
            self._cpu = before

    def cpu_offline(self, cpu: int) -> None:
        """What is kept for a CPU goes back, and no call is made on it any more; its per-CPU areas stay."""
        if online_cpus(self.machine) == [self._known_cpu(cpu)]:
            raise MisuseError(f"cpu_offline: CPU {cpu} is the last one online; expected another one online first.")
        if not self.machine.online[cpu]:
            raise MisuseError(f"cpu_offline: CPU {cpu} is offline already.")
        cpu_offline(self.machine, cpu)
        self._end()

    def cpu_online(self, cpu: int) -> None:
        """A CPU comes back, with empty lists."""
        if self.machine.online[self._known_cpu(cpu)]:
            raise MisuseError(f"cpu_online: CPU {cpu} is online already.")
        cpu_online(self.machine, cpu)
        self._end()

    @property
    def now(self) -> int:
        """Simulated ns since boot."""
        return self._clock.now_ns

    def advance(self, duration: str | int) -> int:
        """
        Let time pass: ``10ms``, or ns. Daemons do what is due, up to and including the new time, which is returned.
        """
        step = duration if isinstance(duration, int) else parse_time(duration, "advance")
        if step < 0:
            raise MisuseError(f"advance: {step} ns; time only goes forward.")
        self._clock.advance(step)
        return self.now

    @property
    def last(self) -> Step:
        """What the last call did."""
        it = self.machine.it
        operation, path = PATHS[it.path]
        return Step(
            operation, path, sum(self._costs.step_ns(it.cls[i], it.count[i]) for i in range(it.n)),
            tuple(self.machine.lock_name(it.lock[i]) for i in range(it.n) if it.lock[i] >= 0),
        )

    def _begin(self, cpu: int | None) -> int:
        """Every call begins here: the CPU it is made on, whose deferred work comes first."""
        here = self._cpu if cpu is None else self._known_cpu(cpu)
        if not self.machine.online[here]:
            raise MisuseError(f"CPU {here} is offline; expected one of {online_cpus(self.machine)}.")
        if self.machine.nr_deferred and self.machine.deferred[here]:
            self.machine.run_deferred(here, self.now)
        self.machine.it.reset()
        return here

    def _end(self) -> None:
        """And ends here: daemons that it woke are told."""
        self._clock.pass_on()

    def _given(self, addr: int) -> Address:
        """An object was handed out, or not."""
        if ZERO_SIZE_PTR < addr < VMALLOC_START and not self.slab.is_live(addr):
            self._large.add(addr)
        self._end()
        return Address(addr)

    def _known_cpu(self, cpu: int) -> int:
        if not 0 <= cpu < self.machine.nr_cpus:
            raise MisuseError(f"CPU {cpu}; the machine has CPUs 0 to {self.machine.nr_cpus - 1}.")
        return cpu

    def _known_node(self, node: int) -> int:
        if not -1 <= node < self.machine.nr_nodes:
            raise MisuseError(f"node {node}; the machine has nodes 0 to {self.machine.nr_nodes - 1}, -1 is any.")
        return node

    # -- misuse -----------------------------------------------------------------------------------

    def _bug(self, function: str, what: str, expected: str) -> NoReturn:
        raise MisuseError(f"{function}: {what}; expected {expected}.")

    def _open(self, function: str, cache: Cache) -> KmemCache:
        s = self.slab.caches[cache.index]
        if s.gone or self.slab.find_cache(cache.name) != cache.index:
            self._bug(function, f"cache {cache.name}", "a cache that has not been destroyed")
        return s

    def _check_object(self, function: str, p: int) -> None:
        """Raise MisuseError unless a live object begins at ``p``."""
        if p >= VMALLOC_START:
            self._bug(function, f"{p:#x}, an address of vmalloc", "one of kmalloc; use kvfree")
        if p in self.rcu.waiting:
            self._bug(function, f"{p:#x} of {self._owner(p)}, which was given to kfree_rcu",
                      "an object in use (double free)")
        pfn = p >> PAGE_SHIFT
        frames = self.machine.frames
        if pfn >= frames.nr_frames:
            self._bug(function, f"{p:#x}", f"an address below {frames.nr_frames << PAGE_SHIFT:#x}, the end of memory")
        if p in self._large or self.slab.is_live(p):
            return
        if frames.slab[pfn] >= 0:
            self._bug(function, f"{p:#x} in {self._owner(p)}, where no live object begins",
                      "an object in use (a double free, or an address within an object)")
        what = ", of a block that alloc_pages gave" if pfn in self._blocks else ", on a page that holds no object"
        self._bug(function, f"{p:#x}{what}", "an object in use")

    def _check_member(self, function: str, cache: Cache, p: int) -> None:
        """Raise MisuseError unless ``p`` is a live object of the cache."""
        s = self._open(function, cache)
        if p <= ZERO_SIZE_PTR:
            self._bug(function, f"{p:#x}", f"an object of cache {cache.name}")
        self._check_object(function, p)
        if p in self._large or self.slab.cache_of(p).index != s.index:
            self._bug(function, f"{p:#x} of {self._owner(p)}", f"an object of cache {cache.name}")

    def _check_area(self, function: str, p: int) -> None:
        if p in self.rcu.waiting or p not in self.vmalloc_area.areas:
            self._bug(function, f"{p:#x}", "the start of a vmalloc area in use")

    def _owner(self, p: int) -> str:
        """Whose object lies, or lay, at an address of kmalloc's or a cache's."""
        if p in self._large:
            return "a large kmalloc"
        if self.slab.name == "slob" and not self.slab.is_live(p):
            return "a SLOB page"
        return f"cache {self.slab.cache_of(p).name}"
