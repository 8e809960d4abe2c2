"""Copies of /proc and /sys files that say how memory stands, as ``memtrace replay --from`` reads them."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from memtrace.snapshot.beside import RELEASE

from .rights import Host

PROC_FILES = ("buddyinfo", "zoneinfo", "pagetypeinfo", "slabinfo", "vmstat", "meminfo")
_WRITE_ONLY = frozenset(("shrink", "validate"))


def take(host: Host, folder: Path) -> list[str]:
    """
    Writes a snapshot folder.

    Parameters
    ----------
    folder
        Is made; what it holds is read by `memtrace.snapshot.proc`.

    Returns
    -------
    What could not be read, one sentence each.
    """
    folder.mkdir(parents=True)
    contents: dict[str, bytes] = {}
    problems = []
    for name in PROC_FILES:  # all are read before anything is written: writing takes memory
        try:
            contents[name] = (host.proc / name).read_bytes()
        except OSError as error:
            problems.append(f"{host.proc / name}: {error.strerror}; that part of the state is not known.")
    percpu = host.sys / "kernel/debug/percpu_stats"
    with suppress(OSError):  # it needs CONFIG_PERCPU_STATS, which is rare
        contents["percpu_stats"] = percpu.read_bytes()
    with suppress(OSError):
        contents[RELEASE] = (host.proc / "sys/kernel/osrelease").read_bytes()
    caches, links = _slab_folders(host.sys / "kernel/slab")
    if caches:
        contents["sys_kernel_slab.json"] = json.dumps(caches, indent=0).encode()
        contents["sys_kernel_slab_links.txt"] = "".join(f"{alias} -> {to}\n" for alias, to in links).encode()
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return problems


def _slab_folders(root: Path) -> tuple[dict[str, dict[str, str]], list[tuple[str, str]]]:
    """SLUB's caches, {folder: {attribute: text}}, and its other names for them."""
    caches: dict[str, dict[str, str]] = {}
    links = []
    try:
        entries = sorted(root.iterdir())
    except OSError:
        return {}, []
    for entry in entries:
        with suppress(OSError):  # a cache may have been destroyed since
            if entry.is_symlink():
                links.append((entry.name, entry.readlink().name))
            elif entry.is_dir():
                caches[entry.name] = _attributes(entry)
    return caches, links


def _attributes(folder: Path) -> dict[str, str]:
    found = {}
    for file in sorted(folder.iterdir()):
        if file.name in _WRITE_ONLY or not file.is_file():
            continue
        try:
            found[file.name] = file.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            continue  # not for this user, or not for this cache
    return found
