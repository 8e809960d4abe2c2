"""
Run folders: written whole or not at all, and opened with checks.

A run is written into a folder of its own beside its destination, ``.partial-NAME-PID``, and renamed when
everything in it is on the disk. A run that is killed leaves only that; the next one to the same destination
removes it.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ConfigError, MetricsError, OutputError
from ..files import check_encoding, saying, write_text
from .manifest import from_text, to_text
from .schema import TABLES

MANIFEST = "manifest.json"
METRICS = "metrics"
FIGURES = "figures"
REPORT = "report.html"
_COLUMNS = {table.name: tuple(column.name for column in table.columns) for table in TABLES}
PARTIAL = ".partial-"
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_PIDS = 1 << 22
"""Linux has no process number as large as that."""


class NoLocks(ConfigError):
    """A folder lies on a file system on which nothing can be held, such as some network file systems."""


class NewRun:
    """A run folder being written; made by ``create``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics = folder / METRICS
        self.metrics.mkdir()

    def write_manifest(self, content: Mapping[str, Any]) -> None:
        """Write manifest.json."""
        write_text(self.folder / MANIFEST, to_text(content))


def check_destination(path: str | Path, force: bool) -> Path:
    """
    Refuse, before a long run, a destination that could not be written at its end.

    Returns
    -------
    The destination, absolute.

    Raises
    ------
    ConfigError
        When it exists and ``force`` is not given, when it is something else than a run folder, or when the
        folder that it is to lie in is missing or not writable.
    """
    check_encoding(path)
    target = Path(os.path.abspath(path))
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ConfigError(f"{path}: exists and is not a folder; expected a new folder for -o. Give another name.")
    if target.is_dir():
        empty = not any(target.iterdir())
        if not empty and not (target / MANIFEST).is_file():
            # Not even with force: whatever this is, no run of ours made it.
            raise ConfigError(f"{path}: a folder that holds other things than a run; expected a new folder for -o. "
                              "Give another name.")
        if not empty and not force:
            raise ConfigError(f"{path}: holds a run already; expected a new folder for -o. Give another name, or "
                              "--force to replace it.")
    parent = target.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ConfigError(f"{path}: cannot be made, because {parent} is not a folder that you may write to. "
                          "Give another place for -o.")
    return target


@contextlib.contextmanager
def create(path: str | Path, force: bool = False) -> Iterator[NewRun]:
    """
    Write a run folder: it appears under its name when the block ends, and not at all when it raises.

    Parameters
    ----------
    path
        Destination.
    force
        Replace the run that is there; it stays until the new one is complete.

    Raises
    ------
    ConfigError
        See ``check_destination``.
    """
    target = check_destination(path, force)
    with saying(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(target.parent, target.name)
        partial, lock = _make_held(target)
    try:
        yield NewRun(partial)
        if not (partial / MANIFEST).is_file():
            raise MetricsError(f"{partial}: no {MANIFEST} was written; a run without one is not complete.")
        _sync(partial)
        _move_into_place(partial, target, force)
    except (OSError, OutputError) as error:
        if not _is_of(partial, error):
            raise
        cause = error.__cause__ if isinstance(error, OutputError) else error
        raise OutputError.of(path, cause if isinstance(cause, OSError) else OSError(str(error))) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # has another name, when all went well
        if lock is not None:
            os.close(lock)


def _is_of(partial: Path, error: OSError | OutputError) -> bool:
    """Whether an error is about a file in the folder being written; Arrow's and those of a full disk name none."""
    named = error.path if isinstance(error, OutputError) else error.filename
    return named is None or str(named).startswith(str(partial))


def _move_into_place(partial: Path, target: Path, force: bool) -> None:
    check_destination(target, force)  # it may have appeared meanwhile
    replaced = target.parent / f".replaced-{target.name}-{os.getpid()}"
    if target.exists():
        target.rename(replaced)
    try:
        partial.rename(target)
    except OSError:
        if replaced.exists():
            replaced.rename(target)
        raise
    _sync_entry(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _make_held(target: Path) -> tuple[Path, int | None]:
    """
    Make a folder to write a run in and hold it: one that was taken for abandoned before it was held is made again.

    Where nothing can be held nobody takes it for abandoned; what a killed run leaves there stays, under its own name.
    """
    number = os.getpid()
    while True:
        partial = target.parent / f"{PARTIAL}{target.name}-{number}"
        partial.mkdir(exist_ok=True)
        try:
            lock = hold(partial, wait=True)
            assert lock is not None
            if partial.is_dir() and os.path.samestat(os.stat(partial), os.fstat(lock)):
                return partial, lock
            os.close(lock)
        except FileNotFoundError:
            continue
        except NoLocks:
            if not any(partial.iterdir()):
                return partial, None
            number += _PIDS


def hold(folder: Path, *, wait: bool = False) -> int | None:
    """
    Hold a folder: no other process can until this one closes what is returned, or ends, however it ends.

    Returns
    -------
    A file descriptor; None when another process holds the folder and ``wait`` is False.

    Raises
    ------
    NoLocks
        The folder's file system has no locks.
    """
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(lock)
        return None
    except OSError as error:
        os.close(lock)
        if error.errno in _NO_LOCKS:
            raise NoLocks(f"{folder}: its file system has no locks ({os.strerror(error.errno)}), by which one process "
                          "makes sure to be the only one that writes there; expected a file system that has. Give a "
                          "folder on another disk for -o.") from None
        raise
    except BaseException:
        os.close(lock)
        raise
    return lock


def remove_abandoned(parent: Path, name: str = "") -> None:
    """
    Remove from a folder what killed runs left in it: half-written run folders that nobody holds.

    Parameters
    ----------
    name
        Only of runs to this destination; of all when empty.
    """
    for folder in parent.iterdir():
        whose, _, pid = folder.name.removeprefix(PARTIAL).rpartition("-")
        if not folder.name.startswith(PARTIAL) or not pid.isdigit() or name not in ("", whose):
            continue
        with contextlib.suppress(OSError, NoLocks):
            lock = hold(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _sync(folder: Path) -> None:
    """See that a folder and all in it is on the disk."""
    for root, _, files in os.walk(folder):
        for name in files:
            _sync_entry(Path(root) / name)
        _sync_entry(Path(root))


def _sync_entry(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class RunFolder:
    """
    A complete run folder, to read.

    Attributes
    ----------
    path
        The folder.
    manifest
        Its manifest.json.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """
        Open a run folder.

        Raises
        ------
        MetricsError
            When it is not one, is broken, or of another version.
        """
        folder = Path(path)
        place = folder / MANIFEST
        try:
            text = place.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise MetricsError(f"{path}: no readable {MANIFEST}; expected a folder that `memtrace replay -o` wrote. "
                               "Give that folder.") from None
        return cls(folder, from_text(text, str(place)))

    @property
    def tables(self) -> list[str]:
        """Names of its tables."""
        return sorted(file.stem for file in (self.path / METRICS).glob("*.parquet"))

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """
        Read a table.

        Parameters
        ----------
        name
            One of ``tables``.
        columns
            Those wanted; None means all.

        Raises
        ------
        MetricsError
            When there is no such table or column, or the file is broken.
        """
        with self._opened(name, columns) as file:
            return file.read(columns=None if columns is None else list(columns))

    def check(self, name: str, columns: Sequence[str] | None = None) -> None:
        """Raise MetricsError as ``table`` does, without reading more of the file than its footer."""
        with self._opened(name, columns):
            pass

    @contextlib.contextmanager
    def _opened(self, name: str, columns: Sequence[str] | None) -> Iterator[pq.ParquetFile]:
        place = self.path / METRICS / f"{name}.parquet"
        if name not in self.tables:
            raise MetricsError(f"{self.path}: no table {METRICS}/{name}.parquet{_near(name, self.tables)} "
                               f"`memtrace show {self.path} --list` prints all of them.")
        try:
            with pq.ParquetFile(place) as file:
                for column in columns if columns is not None else _COLUMNS.get(name, ()):
                    if column not in file.schema_arrow.names:
                        raise MetricsError(f'{place} has no column "{column}"{_near(column, file.schema_arrow.names)} '
                                           f"`memtrace show {self.path} --list` prints all of them.")
                yield file
        except (pa.ArrowException, OSError) as error:
            what = str(error).splitlines()[0]
            raise MetricsError(f"{place}: not readable as Parquet ({what}); expected the file that `memtrace replay` "
                               "wrote. Replay the trace again.") from None


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f'; did you mean "{near[0]}"?' if near else "."
