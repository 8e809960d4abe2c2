"""What ``memtrace info --kernel`` and ``--kernels`` print."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from memtrace.kernels import Profile, kernel_names, load_profile

_WIDTH = 100
_COMPONENTS = {
    "slub": "SLUB",
    "kmalloc": "kmalloc's caches",
    "pcp": "Per-CPU page lists",
    "vm": "Page allocator",
}


def list_lines() -> Iterator[str]:
    """One line for each profile."""
    for name in kernel_names():
        profile = load_profile(name)
        yield f"{name:<8} {', '.join(profile.allocators):<18} {profile.description}"


def profile_lines(profile: Profile) -> Iterator[str]:
    """Every switch of a profile, its value, what it means and where that comes from."""
    config = profile.config
    yield f"kernel {profile.name}: {profile.description}"
    yield f"allocators: {', '.join(profile.allocators)} (the first is what it is usually built with)"
    yield f"memcg = {shown(config.memcg)}: " + (
        "memory of tasks is accounted, kmalloc-cg-* caches exist" if config.memcg else "no kmalloc-cg-* caches"
    )
    yield 'Each setting can be changed with --set NAME=VALUE; "*" marks what differs from 6.1.'
    for part, params in config.components().items():
        yield f"\n{_COMPONENTS.get(part, (type(params).__doc__ or part).strip().splitlines()[0].rstrip('.'))}"
        for field in fields(params):
            name = f"{part}.{field.name}"
            yield from _setting(name, getattr(params, field.name), field.metadata, name in profile.changed)
    yield "\nOf this kernel, not modelled"
    for sentence in profile.not_modelled:
        yield from textwrap.wrap(sentence + ".", _WIDTH, initial_indent="  - ", subsequent_indent="    ")


def _setting(name: str, value: Any, about: Any, changed: bool) -> Iterator[str]:
    auto = about.get("auto", "")
    meant = f" ({auto})" if auto and value == -1 else ""
    yield f"{'*' if changed else ' '} {name} = {shown(value)}{meant}"
    text = about.get("meaning", "")
    if about.get("choices"):
        text += f"; one of {', '.join(about['choices'])}"
    if about.get("source"):
        text += f" [{about['source']}]"
    if text:
        yield from textwrap.wrap(text, _WIDTH, initial_indent="      ", subsequent_indent="      ")


def shown(value: Any) -> str:
    """A value as ``--set`` takes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ":".join(map(str, value))
    return str(value)


def as_dict(profile: Profile) -> dict[str, Any]:
    """The same as plain data."""
    settings = {
        f"{part}.{field.name}": {
            "value": getattr(params, field.name),
            "differs_from_6.1": f"{part}.{field.name}" in profile.changed,
            **{key: field.metadata[key] for key in ("meaning", "choices", "auto", "source") if key in field.metadata},
        }
        for part, params in profile.config.components().items()
        for field in fields(params)
    }
    return {
        "name": profile.name, "description": profile.description, "allocators": profile.allocators,
        "memcg": profile.config.memcg, "settings": settings, "not_modelled": profile.not_modelled,
    }  # fmt: skip
