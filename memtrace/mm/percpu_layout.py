"""How per-CPU memory is divided: one unit for each possible CPU, grouped by node (MODEL 9.2, EXACT B 2.13)."""

from __future__ import annotations

from dataclasses import dataclass

from memtrace.config import MachineConfig
from memtrace.kernel_params import PercpuParams
from memtrace.mm.constants import PAGE_SIZE

PERCPU_DYNAMIC_EARLY_SIZE = 12 << 10  # least dynamic space of the first chunk, 6.1
PCPU_MIN_ALLOC_SHIFT = 2
PCPU_MIN_ALLOC_SIZE = 4
BLOCK_BITS = 1024  # bits of a page, one for PCPU_MIN_ALLOC_SIZE bytes
PCPU_EMPTY_POP_PAGES_LOW = 2  # with fewer empty populated pages the worker is asked for more
PCPU_EMPTY_POP_PAGES_HIGH = 4  # as many as it keeps
PCPU_MIN_UNIT_SIZE = 32 << 10
STATIC_SIZE_64 = 171_432  # measured on small 6.1 configurations (EXACT B 1.4)
STATIC_SIZE_32 = 91_860
DYNAMIC_RESERVE_64 = 28 << 10
DYNAMIC_RESERVE_32 = 20 << 10
ATOM_SIZE_64 = 2 << 20  # x86-64 with large pages; others take a page


@dataclass(frozen=True, slots=True)
class PercpuLayout:
    """
    Sizes in bytes.

    Attributes
    ----------
    static_size, reserved_size, dyn_size
        What the first chunk holds of each unit: the kernel's own variables, those of modules, the rest.
    unit_size
        One CPU's share of a chunk.
    nr_units
        Units of a chunk; some may belong to no CPU.
    unit_of
        By possible CPU: its unit.
    node_of
        By possible CPU: its node.
    """

    static_size: int
    reserved_size: int
    dyn_size: int
    atom_size: int
    alloc_size: int
    unit_size: int
    nr_units: int
    unit_of: tuple[int, ...]
    node_of: tuple[int, ...]

    @property
    def possible_cpus(self) -> int:
        return len(self.unit_of)


def percpu_layout(config: MachineConfig, params: PercpuParams) -> PercpuLayout:
    """
    Divide the per-CPU memory of a machine.

    Kernel: pcpu_build_alloc_info(), 6.1 (MODEL 9.2)
    """
    wide = config.bits == 64
    static = _known(params.static_size, STATIC_SIZE_64 if wide else STATIC_SIZE_32)
    reserved = params.reserved_size
    dyn = _known(params.dyn_size, DYNAMIC_RESERVE_64 if wide else DYNAMIC_RESERVE_32)
    atom = _known(params.atom_size, ATOM_SIZE_64 if wide else PAGE_SIZE)
    possible = max(config.cpus, params.possible_cpus or config.possible_cpus)
    size_sum = _round_up(static + reserved + max(dyn, PERCPU_DYNAMIC_EARLY_SIZE), PAGE_SIZE)
    groups = _groups(config, possible)
    alloc = _round_up(max(size_sum, PCPU_MIN_UNIT_SIZE), atom)
    upa = _units_per_alloc(alloc, max(size_sum, PCPU_MIN_UNIT_SIZE), [len(cpus) for cpus in groups])
    unit_of = [0] * possible
    node_of = [0] * possible
    unit = 0
    for node, cpus in enumerate(groups):
        for k, cpu in enumerate(cpus):
            unit_of[cpu] = unit + k
            node_of[cpu] = node
        unit += _round_up(len(cpus), upa)
    return PercpuLayout(static, reserved, size_sum - static - reserved, atom, alloc, alloc // upa, unit,
                        tuple(unit_of), tuple(node_of))


def _known(value: int, otherwise: int) -> int:
    return value if value >= 0 else otherwise


def _round_up(n: int, step: int) -> int:
    return -(-n // step) * step


def _groups(config: MachineConfig, possible: int) -> list[list[int]]:
    """Possible CPUs by node; those that the machine does not have yet would be plugged into its first node."""
    groups = [list(cpus) for cpus in config.node_cpus]
    groups[0].extend(range(config.cpus, possible))
    return groups


def _units_per_alloc(alloc: int, min_unit: int, sizes: list[int]) -> int:
    """How many units share one allocation: as many as possible, but at most a third of the CPUs wasted."""
    possible = sum(sizes)
    best = 1
    last = -1
    for upa in range(alloc // min_unit, 0, -1):
        if alloc % upa or (alloc // upa) % PAGE_SIZE:
            continue
        allocs = sum(-(-size // upa) for size in sizes)
        if allocs * upa - possible > possible // 3:
            continue
        if 0 <= last < allocs:
            break
        last = allocs
        best = upa
    return best
