"""A study's grid: what is varied, and the cells that follow from it."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..kernels import allocators
from ..run import kernel_with
from ..units import parse_size
from .places import base_name, local

AXES = ("trace", "allocator", "kernel", "machine", "cpus", "memory")
"""What a study can vary besides settings, which are axes of their own."""
COMMON = ("start", "sample", "timing", "speed", "window", "gfp_bits")
"""What holds for all cells; a start may be each trace's own."""
_FILE_KEYS = ("traces", "allocator", "kernel", "machine", "cpus", "memory", "set", "replications", "pool_traces",
              "least", *COMMON)


@dataclass(frozen=True, slots=True)
class Cell:
    """
    One replay of a study.

    ``axes`` are the values by axis, in the order of the study's axes; ``None`` means as the trace shows. ``seed`` is
    of what the model leaves to chance; ``random`` whether there is any: of a cell without, one run says all.
    ``unread`` are the settings that its allocator does not look at: cells that differ in nothing else are one replay.
    """

    axes: tuple[tuple[str, Any], ...]
    common: tuple[tuple[str, Any], ...]
    seed: int = 0
    random: bool = False
    unread: frozenset[str] = frozenset()

    def value(self, axis: str) -> Any:
        return dict(self.axes)[axis]

    def paths(self) -> list[str]:
        """What it reads: its trace, and the machine file and the snapshot where there are any."""
        return [str(path) for path in (self.value("trace"), self.value("machine"), dict(self.common).get("start"))
                if path is not None]

    def rooted(self) -> Cell:
        """The same with paths that hold from any folder."""
        axes = {axis: local(value) if axis == "trace" or (axis == "machine" and str(value).endswith(".toml")) else value
                for axis, value in self.axes}
        common = {name: local(value) if name == "start" else value for name, value in self.common}
        return replace(self, axes=tuple(axes.items()), common=tuple(common.items()))

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of ``replay``, the trace left out."""
        axes = dict(self.axes)
        settings = tuple(f"{key}={value}" for key, value in self.axes if key not in AXES and key not in self.unread)
        return {**{axis: axes[axis] for axis in AXES if axis != "trace"}, "settings": settings, "seed": self.seed,
                **dict(self.common)}


@dataclass(frozen=True)
class Grid:
    """
    What is varied.

    Attributes
    ----------
    settings
        By ``component.name`` the values to try, as ``--set`` takes them.
    replications
        Seeds to run of each cell that leaves something to chance.
    pool_traces
        The traces are recordings of one workload: each other's replications, not different circumstances.
    common
        Of ``COMMON``, what is the same for all cells.
    starts
        Snapshot folder by trace, for those that do not start at a fresh boot; instead of a common one.
    least
        Smallest differences that count, as ``--least`` takes them. No replay depends on it.
    """

    traces: tuple[str, ...]
    allocator: tuple[str, ...] = ("slub",)
    kernel: tuple[str, ...] = ("6.1",)
    machine: tuple[str | None, ...] = (None,)
    cpus: tuple[int | None, ...] = (None,)
    memory: tuple[str | None, ...] = (None,)
    settings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    replications: int = 5
    pool_traces: bool = False
    common: Mapping[str, Any] = field(default_factory=dict)
    starts: Mapping[str, str] = field(default_factory=dict)
    least: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.traces:
            raise ConfigError("compare: no trace; expected one at least.")
        for axis, values in self.axes().items():
            if not values or len(set(values)) != len(values):
                said = ", ".join(map(str, values)) or "nothing"
                raise ConfigError(f"--{axis} {said}: expected each value once, and one at least.")
        for path in (*self.traces, *(machine for machine in self.machine if machine is not None)):
            if not _is_text(path):
                raise ConfigError(f"{path!a}: a name that is not UTF-8; expected text, which a study's tables hold. "
                                  "Give the file another name.")
        if not 1 <= self.replications <= 1000:
            raise ConfigError(f"--replications {self.replications}: expected 1 to 1000.")
        for trace in self.starts:
            if trace not in self.traces:
                raise ConfigError(f"--from {trace}={self.starts[trace]}: {trace} is not a trace of this study; "
                                  f"expected one of {', '.join(self.traces)}.")
        if self.starts and "start" in self.common:
            raise ConfigError(f"--from {self.common['start']}: for all traces, beside one for some; expected either "
                              "one for all, or TRACE=DIR for each.")
        for memory in self.memory:
            if memory is not None:
                parse_size(memory, "--memory")
        for cpus in self.cpus:
            if cpus is not None and not 1 <= cpus <= 4096:
                raise ConfigError(f"--cpus {cpus}: expected 1 to 4096.")

    def axes(self) -> dict[str, tuple[Any, ...]]:
        """All axes in order: name -> values."""
        return {"trace": self.traces, "allocator": self.allocator, "kernel": self.kernel, "machine": self.machine,
                "cpus": self.cpus, "memory": self.memory, **self.settings}

    def varied(self) -> list[str]:
        """Axes with more than one value."""
        return [axis for axis, values in self.axes().items() if len(values) > 1]

    def cells(self) -> list[Cell]:
        """
        Every cell, in the order of the axes, seeds last.

        Raises
        ------
        ConfigError
            A kernel or a setting does not exist, or cannot have such a value.
        """
        out = []
        axes = self.axes()
        known = allocators()
        chancy: dict[tuple[str, ...], bool] = {}
        for values in itertools.product(*axes.values()):
            chosen = dict(zip(axes, values, strict=True))
            which = (chosen["kernel"], *(f"{key}={chosen[key]}" for key in self.settings))
            if which not in chancy:
                chancy[which] = kernel_with(which[0], which[1:]).slub.freelist_random
            # The one thing the model leaves to chance: the order of the objects in SLUB's new slabs.
            chance = chosen["allocator"] == "slub" and chancy[which]
            start = {"start": self.starts[chosen["trace"]]} if chosen["trace"] in self.starts else {}
            out += [Cell(tuple(chosen.items()), tuple(sorted({**self.common, **start}.items())), seed, chance,
                         # slub.cpu_partial says nothing to SLAB; pcp.batch does to all.
                         frozenset(key for key in self.settings
                                   if key.partition(".")[0] in known - {chosen["allocator"]}))
                    for seed in range(self.replications if chance else 1)]
        return out

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for study.json: all that replays follow from."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
                if key != "least"}


def _is_text(path: str) -> bool:
    """Whether a name has only characters; the bytes of others stand in it as lone surrogates."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_study(path: str | Path) -> Grid:
    """
    A grid from a study file (TOML). Paths in it are relative to it.

    Raises
    ------
    ConfigError
        The file is not TOML, has an unknown key, or a value of the wrong type.
    """
    place = Path(path)
    try:
        data = tomllib.loads(place.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML ({error}); expected a study file, see docs/studies.md.") from None
    for key in data:
        if key not in _FILE_KEYS:
            raise ConfigError(f'{path}: unknown key "{key}"; expected one of {", ".join(_FILE_KEYS)}.')
    settings = data.get("set", {})
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: set = {settings!r}; expected a table [set] of lists.")
    traces = [_beside(place, text) for text in _values(path, data, "traces", str)]
    machines = [_beside(place, text) if text.endswith(".toml") else text
                for text in _values(path, data, "machine", str)]
    common = {key: data[key] for key in COMMON if key in data}
    starts = common.pop("start", {})
    if isinstance(starts, str):
        common["start"], starts = _beside(place, starts), {}
    if not isinstance(starts, dict) or not all(isinstance(folder, str) for folder in starts.values()):
        raise ConfigError(f"{path}: start = {starts!r}; expected a folder, or a table [start] of them by trace.")
    pool, replications = data.get("pool_traces", False), data.get("replications", 5)
    if not isinstance(pool, bool) or isinstance(replications, bool) or not isinstance(replications, int):
        raise ConfigError(f"{path}: pool_traces must be true or false, replications a whole number.")
    return Grid(
        tuple(traces), tuple(_values(path, data, "allocator", str) or ["slub"]),
        tuple(_values(path, data, "kernel", str) or ["6.1"]), tuple(machines or [None]),
        tuple(_values(path, data, "cpus", int) or [None]), tuple(_values(path, data, "memory", str) or [None]),
        {key: tuple(map(_text, _values(path, settings, key, object))) for key in settings},
        replications, pool, common, {_beside(place, trace): _beside(place, start) for trace, start in starts.items()},
        tuple(_values(path, data, "least", str)),
    )  # fmt: skip


def _text(value: object) -> str:
    """A setting's value as ``--set`` takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _values(path: str | Path, data: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    """A list from a study file; one value stands for a list of one."""
    values = data.get(key, [])
    values = values if isinstance(values, list) else [values]
    for value in values:
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ConfigError(f"{path}: {key} holds {value!r}; expected {'numbers' if kind is int else 'texts'}.")
    return values


def _beside(study: Path, text: str) -> str:
    """A path of a study file, as seen from here; whole addresses stay."""
    return text if "://" in text else str(study.parent / text)


def split_settings(settings: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """``slub.cpu_partial=0,30`` as an axis of two values."""
    out: dict[str, tuple[str, ...]] = {}
    for setting in settings:
        key, equals, values = setting.partition("=")
        if not equals:
            raise ConfigError(f'--set {setting}: no "="; expected KEY=VALUE,VALUE, like slub.cpu_partial=0,30.')
        if key.strip() in out:
            raise ConfigError(f"--set {setting}: {key.strip()} is set twice; give its values at once, with commas.")
        out[key.strip()] = tuple(value.strip() for value in values.split(","))
    return out


def split_starts(starts: Sequence[str], traces: Sequence[str]) -> tuple[str | None, dict[str, str]]:
    """
    ``--from DIR``, or ``--from TRACE=DIR`` for each trace: the one for all, and those by trace.

    A trace is named as it was given, or by its last part where that tells it from the others.

    Raises
    ------
    ConfigError
        Several are for all, one trace has two, or a name fits several traces.
    """
    common: list[str] = []
    by_trace: dict[str, str] = {}
    for text in starts:
        name, equals, folder = text.partition("=")
        named = [name] if name in traces else [trace for trace in traces if base_name(trace) == name]
        if not equals or not named:
            common.append(text)
            continue
        if len(named) > 1 or named[0] in by_trace:
            what = f"{name} is {len(named)} traces" if len(named) > 1 else f"{name} has two starts"
            raise ConfigError(f"--from {text}: {what}; expected TRACE=DIR once for a trace, named as it was given.")
        by_trace[named[0]] = folder
    if len(common) > 1:
        raise ConfigError(f"--from {common[1]}: a second start for all traces, and \"{common[1].partition('=')[0]}\" "
                          "is none of them; expected one DIR, or TRACE=DIR for each trace.")
    return (common[0] if common else None), by_trace
