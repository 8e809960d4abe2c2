"""Kernel profiles: which kernel's rules and default tunables the model follows."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from .config import KernelConfig, PcpParams, SlubParams, VmParams
from .errors import ConfigError

PROFILES = Path(__file__).parent / "data" / "kernels"

_COMPONENTS: dict[str, type] = {"slub": SlubParams, "pcp": PcpParams, "vm": VmParams}


def kernel_names() -> list[str]:
    """Profiles that exist, sorted by version."""
    return sorted((path.stem for path in PROFILES.glob("*.toml")), key=lambda name: [int(n) for n in name.split(".")])


def load_kernel(name: str) -> KernelConfig:
    """
    Load a kernel profile.

    Raises
    ------
    ConfigError
        There is no such profile, or its file has an unknown key or a value of the wrong type.
    """
    names = kernel_names()
    if name not in names:
        raise ConfigError(
            f'kernel "{name}": no such profile; this version has {", ".join(names)}. '
            f"A trace of another kernel replays under one of these: its requests are the same, its rules may differ."
        )
    path = PROFILES / f"{name}.toml"
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    _check(path, data, ("name", "memcg", *_COMPONENTS))
    return KernelConfig(
        name=str(data["name"]),
        memcg=bool(data["memcg"]),
        **{key: _component(path, kind, data.get(key, {})) for key, kind in _COMPONENTS.items()},
    )


def _check(path: Path, data: dict[str, Any], known: tuple[str, ...]) -> None:
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise ConfigError(
                f'{path}: unknown key "{key}"{f"; did you mean {near[0]}?" if near else ";"} '
                f"expected {', '.join(known)}."
            )


def _component(path: Path, kind: type, table: dict[str, Any]) -> Any:
    defaults = {field.name: field.default for field in fields(kind)}
    _check(path, table, tuple(defaults))
    for key, value in table.items():
        if isinstance(value, list):
            table[key] = tuple(value)
        if type(table[key]) is not type(defaults[key]):
            raise ConfigError(f"{path}: {key} = {value!r}; expected a value like {defaults[key]!r}.")
    return kind(**table)
