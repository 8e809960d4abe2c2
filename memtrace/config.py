"""
What a replay is configured with: frozen, validated once, and stored whole in the manifest.

``MachineConfig`` says what hardware there is, ``KernelConfig`` which kernel runs on it (one dataclass a
component, see ``kernel_params.py``), ``ReplayConfig`` what this run does. ``machines.py`` and ``kernels.py``
make them from presets and TOML files.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from itertools import pairwise
from typing import Any

from .errors import ConfigError
from .hotplug import HotplugEvent, check_hotplug
from .kernel_params import AUTO, KmallocParams, PcpParams, PercpuParams, SlabParams, SlobParams, SlubParams, VmParams

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
class KernelConfig:
    """
    Which kernel runs: a named bundle of tunables and feature switches (MODEL 14).

    A field whose value is a dataclass is a *component*; its fields are what ``--set component.name=value`` sets.
    """

    name: str = "6.1"
    memcg: bool = False
    """Memory of tasks is accounted to control groups: kmalloc-cg-* caches exist."""
    slub: SlubParams = field(default_factory=SlubParams)
    slob: SlobParams = field(default_factory=SlobParams)
    slab: SlabParams = field(default_factory=SlabParams)
    kmalloc: KmallocParams = field(default_factory=KmallocParams)
    pcp: PcpParams = field(default_factory=PcpParams)
    vm: VmParams = field(default_factory=VmParams)
    percpu: PercpuParams = field(default_factory=PercpuParams)

    def components(self) -> dict[str, Any]:
        """Components by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if is_dataclass(getattr(self, f.name))}

    def with_setting(self, key: str, value: str) -> KernelConfig:
        """
        Return a copy with ``--set key=value`` applied; ``key`` is ``component.name``, or ``memcg``.

        Raises
        ------
        ConfigError
            There is no such setting, or it cannot have that value.
        """
        where = f"--set {key}={value}"
        if key == "memcg":
            return replace(self, memcg=parse_setting(where, value, self.memcg, {}))
        component, _, name = key.partition(".")
        parts = self.components()
        known = {f"{part}.{f.name}": f for part, params in parts.items() for f in fields(params)}
        if key not in known:
            raise ConfigError(
                f"{where}: no such setting; {self._nearest(key, known)} "
                f"`memtrace info --kernel {self.name}` explains all settings."
            )
        params = parts[component]
        old = getattr(params, name)
        new = parse_setting(where, value, old, known[key].metadata)
        return replace(self, **{component: replace(params, **{name: new})})

    def _nearest(self, key: str, known: Iterable[str]) -> str:
        """What somebody who wrote ``key`` may have meant."""
        near = difflib.get_close_matches(key, known, 1)
        if near:
            return f"did you mean {near[0]}?"
        component = key.partition(".")[0]
        inside = [name for name in known if name.startswith(f"{component}.")]
        if inside:
            return f"expected one of {', '.join(inside)}."
        return f"expected memcg, or the name of a setting of {', '.join(self.components())}, like slub.cpu_partial."


_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def parse_setting(where: str, text: str, old: Any, about: Mapping[str, Any]) -> Any:
    """
    The value of a setting from its text, of the type of ``old``.

    Parameters
    ----------
    where
        What the user wrote; begins the message of an error.
    about
        The field's metadata (``kernel_params.setting``).

    Raises
    ------
    ConfigError
        The text is not such a value.
    """
    new: Any
    expected = "a whole number"
    try:
        if isinstance(old, bool):
            expected = "yes or no"
            new = _WORDS[text.lower()]
        elif isinstance(old, tuple):
            one: type = type(old[0]) if old else int
            expected = f"a list like {':'.join(map(str, old))}"
            new = tuple(one(part.strip()) for part in text.split(":"))
            if one is int and len(new) != len(old):
                raise ValueError
        elif isinstance(old, str):
            new = text
        else:
            if not text.isascii() or "_" in text:
                raise ValueError
            new = int(text)
    except (KeyError, ValueError):
        raise ConfigError(f'{where}: "{text}" is not {expected}; it is {old} now.') from None
    check_setting(where, new, about)
    return new


def check_setting(where: str, value: Any, about: Mapping[str, Any]) -> None:
    """Raise ConfigError when a setting cannot have this value."""
    choices = about.get("choices", ())
    if choices and value not in choices:
        near = difflib.get_close_matches(str(value), choices, 1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise ConfigError(f'{where}: "{value}" is not one of {", ".join(choices)}{hint}')
    least = about.get("least")
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
        if isinstance(number, str | bool) or least is None:
            continue
        if not least <= number <= about["most"]:
            auto = f" ({about['auto']})" if about.get("auto") and least < 0 else ""
            raise ConfigError(f"{where}: {number} is out of range; expected {least}{auto} to {about['most']}.")
        if about.get("power_of_two") and number != AUTO and (number <= 0 or number & (number - 1)):
            raise ConfigError(f"{where}: {number} is not a power of two; expected one, like 4096 or 8192.")


@dataclass(frozen=True, slots=True)
class ReplayConfig:
    """Everything that decides what a replay does; equal configs and traces give equal bytes."""

    machine: MachineConfig
    kernel: KernelConfig = field(default_factory=KernelConfig)
    allocator: str = "slub"
    timing: str = "recorded"
    speed: float = 1.0
    """Of closed timing: gaps between a CPU's operations are multiplied by it."""
    engine: str = "fused"
    sample_ns: int = 0
    """Simulated ns between samples; 0 picks a round step that gives about 200 samples."""
    check_every: int = 0
    """Run the validators every so many operations and at the end; 0 never."""
    seed: int = 0
    time_window_ns: tuple[int, int] | None = None
    hotplug: tuple[HotplugEvent, ...] = ()
    """CPUs that go offline or come online besides those of the trace, by time."""

    def __post_init__(self) -> None:
        check_hotplug(self.hotplug, self.machine.cpus)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for the manifest."""
        return asdict(self)
