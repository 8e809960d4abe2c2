"""Copies of /proc and /sys files that say how memory stands, as ``memtrace replay --from`` reads them."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from memtrace.snapshot.beside import RELEASE

from .rights import Host

PROC_FILES = ("meminfo", "vmstat", "slabinfo", "pagetypeinfo", "buddyinfo", "zoneinfo")
"""Those that change fastest last."""
_WRITE_ONLY = frozenset(("shrink", "validate"))


@dataclass
class State:
    """
    How memory stands: read without writing, which would change it.

    Reading /sys takes hundreds of pages, and writing thousands. So ``read_proc`` comes right before the recording is
    switched on, and right before it is switched off: a recorder that has been told to stop writes its buffers.

    Attributes
    ----------
    files
        Contents by name; `memtrace.snapshot.proc` reads them.
    problems
        What could not be read, one sentence each.
    """

    host: Host
    files: dict[str, bytes] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def read_proc(self) -> None:
        """What changes with every request."""
        for name in PROC_FILES:
            try:
                self.files[name] = (self.host.proc / name).read_bytes()
            except OSError as error:
                self.problems.append(f"{self.host.proc / name}: {error.strerror}; that part of the state is not known.")

    def read_sys(self) -> None:
        """What changes little."""
        with suppress(OSError):  # it needs CONFIG_PERCPU_STATS, which is rare
            self.files["percpu_stats"] = (self.host.sys / "kernel/debug/percpu_stats").read_bytes()
        with suppress(OSError):
            self.files[RELEASE] = (self.host.proc / "sys/kernel/osrelease").read_bytes()
        caches, links = _slab_folders(self.host.sys / "kernel/slab")
        if caches:
            self.files["sys_kernel_slab.json"] = json.dumps(caches, indent=0).encode()
            self.files["sys_kernel_slab_links.txt"] = "".join(f"{alias} -> {to}\n" for alias, to in links).encode()

    def write(self, folder: Path) -> None:
        """Make the folder and put the files into it."""
        folder.mkdir(parents=True)
        for name, data in self.files.items():
            (folder / name).write_bytes(data)


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
