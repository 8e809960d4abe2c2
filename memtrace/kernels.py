"""Kernel profiles: which kernel's rules and default tunables the model follows."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from .config import KernelConfig, check_setting
from .errors import ConfigError

PROFILES = Path(__file__).parent / "data" / "kernels"

@dataclass(frozen=True, slots=True)
class Profile:
    """
    A kernel as its file describes it.

    Attributes
    ----------
    allocators
        Slab allocators that this kernel could be built with, its default first.
    not_modelled
        What of this kernel the model leaves out, one sentence each.
    changed
        Settings, as ``component.name``, in which it differs from 6.1.
    """

    name: str
    description: str
    allocators: tuple[str, ...]
    not_modelled: tuple[str, ...]
    config: KernelConfig
    changed: frozenset[str]


def kernel_names() -> list[str]:
    """Profiles that exist, sorted by version."""
    return sorted((path.stem for path in PROFILES.glob("*.toml")), key=lambda name: [int(n) for n in name.split(".")])


def load_kernel(name: str) -> KernelConfig:
    """
    Load a kernel profile's settings.

    Raises
    ------
    ConfigError
        There is no such profile, or its file has an unknown key or a value of the wrong type.
    """
    return load_profile(name).config


def load_profile(name: str) -> Profile:
    """Load a kernel profile with all that its file says; raises ConfigError as ``load_kernel`` does."""
    names = kernel_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        raise ConfigError(
            f'kernel "{name}": no such profile{f"; did you mean {near[0]}?" if near else ";"} '
            f"this version has {', '.join(names)}. A trace of another kernel replays under one of these: its requests "
            f"are the same, its rules may differ."
        )
    return read_profile(PROFILES / f"{name}.toml")


def read_profile(path: Path) -> Profile:
    """Read a profile's file. What it does not name is as in 6.1."""
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    base = KernelConfig(name=str(data.get("name", path.stem)))
    parts = base.components()
    _check_key(path, data, ("name", "description", "allocators", "not_modelled", "memcg", *parts))
    changed = frozenset(f"{part}.{key}" for part in parts for key in data.get(part, {}))
    config = replace(
        base, memcg=bool(data.get("memcg", False)),
        **{part: _component(path, part, parts[part], data[part]) for part in parts if part in data},
    )
    return Profile(
        config.name, str(data["description"]), tuple(data["allocators"]), tuple(data["not_modelled"]), config, changed
    )


def check_allocator(kernel: str, allocator: str) -> None:
    """
    Raise ConfigError when a kernel never had a slab allocator that others had.

    Examples
    --------
    >>> check_allocator("6.18", "slob")
    Traceback (most recent call last):
    memtrace.errors.ConfigError: --allocator slob with --kernel 6.18: Linux 6.18 has only slub. ...
    """
    profile = load_profile(kernel)
    others = [name for name in kernel_names() if allocator in load_profile(name).allocators]
    if allocator in profile.allocators or not others:
        return
    raise ConfigError(
        f"--allocator {allocator} with --kernel {kernel}: Linux {kernel} has only {', '.join(profile.allocators)}. "
        f"Use --kernel {' or '.join(others)} for {allocator}."
    )


def allocators() -> frozenset[str]:
    """Slab allocators that any kernel had: the settings named after one are read by no other."""
    return frozenset(name for kernel in kernel_names() for name in load_profile(kernel).allocators)


def _check_key(path: Path, data: dict[str, Any], known: tuple[str, ...]) -> None:
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise ConfigError(
                f'{path}: unknown key "{key}"{f"; did you mean {near[0]}?" if near else ";"} '
                f"expected {', '.join(known)}."
            )


def _component(path: Path, name: str, params: Any, table: dict[str, Any]) -> Any:
    """A component with what the table says changed."""
    assert is_dataclass(params) and not isinstance(params, type)
    about = {f.name: f.metadata for f in fields(params)}
    _check_key(path, table, tuple(about))
    changes = {}
    for key, value in table.items():
        new = tuple(value) if isinstance(value, list) else value
        old = getattr(params, key)
        if type(new) is not type(old):
            raise ConfigError(f"{path}: {name}.{key} = {new!r}; expected a value like {old!r}.")
        check_setting(f"{path}: {name}.{key}", new, about[key])
        changes[key] = new
    changed: Any = replace(params, **changes)
    return changed
