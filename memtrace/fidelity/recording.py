"""What a validation has to go by: a trace, and the snapshots that were taken while it was recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from memtrace.config import KernelConfig
from memtrace.errors import ConfigError
from memtrace.run import kernel_with
from memtrace.snapshot.exact import find_start, read_exact
from memtrace.snapshot.exact_dump import ExactDump
from memtrace.trace.source import TraceReader, open_trace

_BEGINNINGS = ("boot", "start", "begin", "before")


@dataclass(slots=True)
class Snapshot:
    """
    One folder of snapshots and its place in the trace.

    Attributes
    ----------
    row
        Row of its marker: of the exact dump's when there is one, else of ``SNAP_BEGIN``; -1 when there is none.
    dump
        The exact dump, or None.
    proc
        Whether there are /proc files to read.
    """

    name: str
    folder: Path
    row: int
    dump: ExactDump | None
    proc: bool


@dataclass(slots=True)
class Recording:
    """
    A trace with its snapshots.

    Attributes
    ----------
    kernel, settings
        The profile with ``settings`` (``component.name=value``) applied, and these.
    start
        Where to start from: the first snapshot that can be; None for a bare trace.
    later
        The snapshots behind ``start``, in order of their rows.
    """

    trace: Path
    allocator: str
    kernel: KernelConfig
    settings: tuple[str, ...] = ()
    start: Snapshot | None = None
    later: list[Snapshot] = field(default_factory=list)

    @property
    def first_row(self) -> int:
        """First row to replay."""
        return self.start.row + 1 if self.start is not None else 0

    def open(self, columns: tuple[str, ...]) -> TraceReader:
        """The trace, open for reading of these columns."""
        return open_trace(self.trace, columns=columns)


def read_recording(
    trace: str | Path, folder: str | Path | None = None, *, allocator: str | None = None, kernel: str = "6.1",
    settings: Sequence[str] = (), begin: str | None = None,
) -> Recording:
    """
    Find a trace's snapshots and say which allocator ran.

    Parameters
    ----------
    folder
        A folder of snapshot folders, or one snapshot folder; None for a bare trace.
    allocator
        As the user says, else as the dump shows, else by the files that only one allocator has, else "slub".
    begin
        Name of the snapshot to start from; the first behind the boot when None, since what boot did shows in no trace.

    Raises
    ------
    ConfigError
        There is no such snapshot, or none at all in the folder.
    """
    path = Path(trace)
    snapshots = _snapshots(path, Path(folder)) if folder is not None else []
    at = 0
    if begin is not None:
        at = next((i for i, snapshot in enumerate(snapshots) if snapshot.name == begin), -1)
        if at < 0:
            if folder is None:
                raise ConfigError(f"--start {begin}: without --snapshots; expected the folder that it is in.")
            raise ConfigError(f'{folder}: no snapshot "{begin}" in it; expected one of '
                              f"{', '.join(s.name for s in snapshots)}.")  # fmt: skip
    elif snapshots and snapshots[0].name == "boot" and len(snapshots) > 1:
        at = 1
    start = snapshots[at] if snapshots else None
    return Recording(path, allocator or _allocator(snapshots), kernel_with(kernel, settings), tuple(settings), start,
                     snapshots[at + 1 :])  # fmt: skip


def _snapshots(trace: Path, folder: Path) -> list[Snapshot]:
    """Every snapshot in a folder, or the folder itself, in the order of their markers."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; expected a folder of snapshots for --snapshots.")
    folders = [child for child in sorted(folder.iterdir()) if child.is_dir() and _holds_one(child)]
    if not folders:
        folders = [folder]
    found = []
    with open_trace(trace, columns=("ts_ns", "cpu", "event", "text")) as reader:
        for one in folders:
            files = find_start(one)
            dump = read_exact(files.exact) if files.exact is not None else None
            texts = (dump.marker,) if dump is not None else (files.proc_marker,)
            found.append(Snapshot(one.resolve().name, one, reader.find_marker(texts), dump, files.proc))
    return sorted(found, key=_place)


def _place(snapshot: Snapshot) -> int:
    """Its row; without a marker, what is called the beginning stands before the trace, anything else behind it."""
    if snapshot.row >= 0:
        return snapshot.row
    return -1 if snapshot.name in _BEGINNINGS else 1 << 62


def _holds_one(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("gt_snap.txt.gz", "gt_snap.txt", "zoneinfo"))


def _allocator(snapshots: list[Snapshot]) -> str:
    for snapshot in snapshots:
        if snapshot.dump is not None and snapshot.dump.allocator:
            return snapshot.dump.allocator
    for snapshot in snapshots:
        slabinfo = snapshot.folder / "slabinfo"
        if (snapshot.folder / "sys_kernel_slab.json").is_file():
            return "slub"
        if slabinfo.is_file() and "globalstat" in slabinfo.read_text(encoding="utf-8", errors="replace"):
            return "slab"
    return "slub"
