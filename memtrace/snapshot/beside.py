"""Where the snapshots of a trace lie, and which kernel they are of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

RELEASE = "osrelease"
"""File of a snapshot with what ``uname -r`` prints."""
_RELEASE = re.compile(r"(\d+)\.(\d+)")
_BOOK = (2, 6, "2.6.24")
_SHEAVES = (6, 15, "6.18")
_BETWEEN = "6.1"


@dataclass(frozen=True, slots=True)
class RecordedKernel:
    """
    The kernel that was recorded.

    Attributes
    ----------
    profile
        The kernel profile whose rules are nearest to its own.
    why
        How that is known, as a part of a sentence.
    """

    profile: str
    why: str


def snapshots_of(trace: str | Path) -> Path:
    """Where `memtrace record` puts the snapshots of a trace: beside it, under its name without its endings."""
    path = Path(trace)
    return path.with_name(path.name.split(".")[0] if path.suffix in (".gz", ".zst") else path.stem)


def found_beside(trace: str | Path) -> Path | None:
    """The folder of `snapshots_of` when snapshots are in it, else None."""
    folder = snapshots_of(trace)
    if folder == Path(trace) or not folder.is_dir():
        return None
    return folder if any(folder.glob("*/zoneinfo")) or any(folder.glob("*/gt_snap.txt*")) else None


def recorded_kernel(folder: str | Path) -> RecordedKernel | None:
    """
    Which kernel a snapshot, or the first of a folder of snapshots, is of; None when it does not show.

    By the release that `memtrace record` notes; without it, by what only later kernels tell of themselves: caches
    have a ``sheaf_capacity`` since 6.18.
    """
    for one in (Path(folder), *sorted(Path(folder).glob("*/"))):
        release = one / RELEASE
        if release.is_file():
            text = release.read_text(encoding="ascii", errors="replace").strip()
            found = _RELEASE.match(text)
            if found is not None:
                return RecordedKernel(_nearest(int(found[1]), int(found[2])), f"the snapshot is of Linux {text}")
        caches = one / "sys_kernel_slab.json"
        if caches.is_file() and '"sheaf_capacity"' in caches.read_text(encoding="utf-8", errors="replace"):
            return RecordedKernel(_SHEAVES[2], "the snapshot's caches have a sheaf_capacity")
    return None


def _nearest(major: int, minor: int) -> str:
    """2.6.24 for all of 2.6; 6.18 from 6.15 on, whose fallback it has; 6.1 for what lies between."""
    if (major, minor) <= _BOOK[:2]:
        return _BOOK[2]
    return _SHEAVES[2] if (major, minor) >= _SHEAVES[:2] else _BETWEEN
