"""
What a replay is configured with: frozen, validated once, and stored whole in the manifest.

``MachineConfig`` says what hardware there is, ``KernelConfig`` which kernel runs on it (one dataclass a
component), ``ReplayConfig`` what this run does. ``machines.py`` and ``kernels.py`` make them from presets
and TOML files.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from typing import Any

from .errors import ConfigError

MAX_ORDER = 10
LOCAL_DISTANCE = 10  # ACPI SLIT, as the kernel assumes without a table (MODEL 1.2)
REMOTE_DISTANCE = 20
ZONE_NAMES_64 = ("DMA", "DMA32", "Normal", "Movable")
ZONE_NAMES_32 = ("DMA", "Normal", "HighMem", "Movable")


@dataclass(frozen=True, slots=True)
class ZoneConfig:
    """One populated zone of one node; page counts, and pfns as the kernel numbers them (MODEL 1.1).

    ``min``/``low``/``high``, ``lowmem_reserve``, ``pcp_batch`` and ``pcp_high`` are -1 or empty when the
    model is to compute them; values read from a kernel's zoneinfo win (EXACT B 4.9).
    """

    node: int
    name: str
    index: int
    start_pfn: int
    spanned: int
    present: int
    managed: int
    min: int = -1
    low: int = -1
    high: int = -1
    lowmem_reserve: tuple[int, ...] = ()
    pcp_batch: int = -1
    pcp_high: int = -1

    @property
    def end_pfn(self) -> int:
        return self.start_pfn + self.spanned


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """The simulated machine: CPUs, nodes and zones.

    ``node_cpus[n]`` lists the CPUs of node n; ``distance[n][m]`` is the SLIT distance (10 local).
    ``zones`` is sorted by (node, index). ``holes`` are pfn ranges [start, end) inside zones that are
    not memory. ``source`` says where this description came from, for the report.
    """

    name: str
    cpus: int
    node_cpus: tuple[tuple[int, ...], ...]
    zones: tuple[ZoneConfig, ...]
    possible_cpus: int = 0
    distance: tuple[tuple[int, ...], ...] = ()
    holes: tuple[tuple[int, int], ...] = ()
    pageblock_order: int = 9
    bits: int = 64
    min_free_kbytes: int = -1
    source: str = "preset"

    def __post_init__(self) -> None:
        if self.cpus < 1 or self.cpus > 4096:
            raise ConfigError(f"machine {self.name}: {self.cpus} CPUs; expected 1 to 4096.")
        if not self.zones:
            raise ConfigError(f"machine {self.name}: no zones; expected at least one populated zone.")
        covered = sorted(cpu for cpus in self.node_cpus for cpu in cpus)
        if covered != list(range(self.cpus)):
            raise ConfigError(
                f"machine {self.name}: node_cpus names CPUs {covered}; expected each of 0..{self.cpus - 1} once."
            )
        # What is left out has one meaning only, so every reader finds it filled in.
        object.__setattr__(self, "possible_cpus", max(self.possible_cpus, self.cpus))
        if not self.distance:
            rows = tuple(
                tuple(LOCAL_DISTANCE if n == m else REMOTE_DISTANCE for m in range(self.nodes))
                for n in range(self.nodes)
            )
            object.__setattr__(self, "distance", rows)
        self._check_zones()

    def _check_zones(self) -> None:
        """Raise ConfigError when zones or distances do not fit together."""
        if len(self.distance) != self.nodes or any(len(row) != self.nodes for row in self.distance):
            raise ConfigError(f"machine {self.name}: distance is not {self.nodes} rows of {self.nodes} numbers.")
        last_key = (-1, -1)
        for zone in self.zones:
            where = f"machine {self.name}: node {zone.node} zone {zone.name}"
            if not 0 <= zone.node < self.nodes or not 0 <= zone.index < len(self.zone_names):
                raise ConfigError(f"{where}: node or index {zone.index} does not exist; expected {self.nodes} node(s).")
            if not 0 < zone.managed <= zone.present <= zone.spanned:
                raise ConfigError(
                    f"{where}: managed {zone.managed}, present {zone.present}, spanned {zone.spanned} pages; "
                    "expected 0 < managed <= present <= spanned."
                )
            if (zone.node, zone.index) <= last_key:
                raise ConfigError(f"{where}: out of order; expected zones sorted by node and index, each once.")
            last_key = (zone.node, zone.index)
        by_pfn = sorted(self.zones, key=lambda zone: zone.start_pfn)
        for below, above in pairwise(by_pfn):
            if above.start_pfn < below.end_pfn:
                raise ConfigError(
                    f"machine {self.name}: node {above.node} zone {above.name} starts at pfn {above.start_pfn}, inside "
                    f"node {below.node} zone {below.name}, which ends at {below.end_pfn}; expected no overlap."
                )
        for start, end in self.holes:
            if not 0 <= start < end:
                raise ConfigError(f"machine {self.name}: hole {start}..{end}; expected a first pfn and a larger end.")

    @property
    def nodes(self) -> int:
        return len(self.node_cpus)

    @property
    def managed_pages(self) -> int:
        return sum(zone.managed for zone in self.zones)

    @property
    def zone_names(self) -> tuple[str, ...]:
        return ZONE_NAMES_64 if self.bits == 64 else ZONE_NAMES_32


@dataclass(frozen=True, slots=True)
class SlubParams:
    """SLUB's tunables; -1 means the kernel's own rule (MODEL 6.3, 6.4)."""

    max_order: int = 3
    min_order: int = 0
    min_objects: int = 0
    cpu_partial: int = -1
    min_partial: int = -1
    remote_node_defrag_ratio: int = 1000
    freelist_random: bool = False


@dataclass(frozen=True, slots=True)
class PcpParams:
    """Per-CPU page lists; -1 means the kernel's own rule (MODEL 3.2)."""

    batch: int = -1
    high: int = -1
    percpu_pagelist_high_fraction: int = 0


@dataclass(frozen=True, slots=True)
class VmParams:
    """Sysctls of the page allocator (MODEL 2.8)."""

    min_free_kbytes: int = -1
    watermark_scale_factor: int = 10
    watermark_boost_factor: int = 15000
    lowmem_reserve_ratio: tuple[int, ...] = (256, 256, 32, 0, 0)


@dataclass(frozen=True, slots=True)
class KernelConfig:
    """Which kernel runs: a named bundle of component parameters and feature switches (MODEL 14)."""

    name: str = "6.1"
    memcg: bool = False
    slub: SlubParams = field(default_factory=SlubParams)
    pcp: PcpParams = field(default_factory=PcpParams)
    vm: VmParams = field(default_factory=VmParams)

    def with_setting(self, key: str, value: str) -> KernelConfig:
        """Return a copy with ``--set component.name=value`` applied."""
        component, _, name = key.partition(".")
        known = {f"{c.name}.{f.name}" for c in fields(self) if c.name in ("slub", "pcp", "vm")
                 for f in fields(getattr(self, c.name))}
        if key not in known:
            raise ConfigError(f'--set {key}={value}: no such setting; expected one of {", ".join(sorted(known))}.')
        params = getattr(self, component)
        old = getattr(params, name)
        try:
            new: Any
            if isinstance(old, bool):
                new = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[value.lower()]
            elif isinstance(old, tuple):
                new = tuple(int(part) for part in value.split(":"))
            else:
                new = int(value)
        except (KeyError, ValueError):
            raise ConfigError(
                f'--set {key}={value}: "{value}" is not {type(old).__name__}; the default is {old}.'
            ) from None
        return replace(self, **{component: replace(params, **{name: new})})


@dataclass(frozen=True, slots=True)
class ReplayConfig:
    """Everything that decides what a replay does; equal configs and traces give equal bytes."""

    machine: MachineConfig
    kernel: KernelConfig = field(default_factory=KernelConfig)
    allocator: str = "slub"
    timing: str = "recorded"
    engine: str = "fused"
    sample_ns: int = 0
    """Simulated ns between samples; 0 picks a round step that gives about 200 samples."""
    check_every: int = 0
    """Run the validators every so many operations and at the end; 0 never."""
    seed: int = 0
    time_window_ns: tuple[int, int] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for the manifest."""
        return asdict(self)
