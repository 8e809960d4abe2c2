"""One cell of a study: its name by content, and running it."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import ConfigError, MemtraceError, ModelError, OutputError
from ..files import scratch_folder
from ..metrics.manifest import versions
from ..metrics.run_folder import MANIFEST
from ..progress import silent
from ..run import keep_traces, replay
from .grid import Cell
from .measures import measure_run
from .places import Copies, Remote, base_name, is_remote

_PACKAGE = Path(__file__).resolve().parents[1]
_NOT_OF_A_RUN = ("cli", "compare", "report", "fidelity", "byhand")
"""Folders that do not change what a replay writes."""
KEY_LENGTH = 20
NO_MEMORY = "not enough memory on this computer for this replay. Run the same command again with fewer at a time."


@dataclass(frozen=True, slots=True)
class Done:
    """
    What became of a cell.

    ``measures`` is empty when the cell was refused; ``message`` then says why. ``ran`` is False when its run folder was
    there already. ``bug`` marks a broken rule of the model, ``lost`` a cell whose process died.
    """

    key: str
    measures: dict[str, float]
    message: str = ""
    ran: bool = True
    bug: bool = False
    lost: bool = False
    seconds: float = 0.0


def source_digest() -> str:
    """SHA-256 of every file of memtrace that can change a run's tables."""
    whole = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*")):
        inside = path.relative_to(_PACKAGE)
        if path.suffix in (".py", ".toml") and inside.parts[0] not in _NOT_OF_A_RUN:
            whole.update(f"{inside.as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return whole.hexdigest()


def path_digest(path: str | Path, folder: bool = True) -> str:
    """
    SHA-256 of a file, or of all files below a folder with their names.

    Parameters
    ----------
    folder
        It may be a folder.

    Raises
    ------
    ConfigError
        There is no such file or folder.
    """
    place = Path(path)
    if place.is_file():
        with open(place, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if place.is_dir() and not folder:
        raise ConfigError(f"{path}: a folder; expected a file. Name the file in it.")
    if not place.is_dir():
        what = "neither a file nor a folder" if place.exists() else "no such file or folder"
        raise ConfigError(f"{path}: {what}; expected one that each replay can read. Check the path, or "
                          "write what comes through a pipe to a file first.")
    whole = hashlib.sha256()
    for below in sorted(place.rglob("*")):
        if below.is_file():
            whole.update(f"{below.relative_to(place).as_posix()}\0{path_digest(below)}\0".encode())
    return whole.hexdigest()


class Namer:
    """Names cells by all that their results depend on; files are read once, what lies elsewhere from a copy."""

    def __init__(self, copies: Copies) -> None:
        self._copies = copies
        self._digests: dict[str, str] = {}
        self._fixed = {"source": source_digest(), "versions": versions(__version__)}

    def key(self, cell: Cell) -> str:
        """The cell's name: equal for equal content, wherever the files lie."""
        trace = self._digest(cell.value("trace"), folder=False)
        content: dict[str, Any] = {**cell.arguments(), **self._fixed, "trace": trace}
        for name in ("machine", "start"):
            if content.get(name) is not None and (is_remote(content[name]) or Path(content[name]).exists()):
                content[name] = self._digest(content[name], folder=name == "start")
        # A name of a trace's cell tells its trace's name too: the run folder's manifest holds it.
        content["trace_name"] = base_name(cell.value("trace"))
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:KEY_LENGTH]

    def _digest(self, path: str, folder: bool) -> str:
        if path not in self._digests:
            here = self._copies.local(path) if is_remote(path) else path.removeprefix("file://")
            self._digests[path] = path_digest(here, folder)
        return self._digests[path]


class Bench:
    """
    What one cell after the other is run with, so that files are not copied and traces not read for each of them.

    A context manager, for one thread.

    Parameters
    ----------
    copies
        Of what lies elsewhere; they may be shared.
    """

    def __init__(self, copies: Copies) -> None:
        self.copies = copies
        self.traces = keep_traces()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.traces.close()


def run_cell(cell: Cell, key: str, cells: str, bench: Bench, source: str = "") -> Done:
    """
    Run a cell unless its folder is there, and measure it.

    The folder ``cells``/``key`` appears whole or not at all, so that a cell that was killed is simply run again.

    Parameters
    ----------
    cells
        Folder or address of all cells.
    source
        ``source_digest()`` of the memtrace that named the cell, when this one may be another.

    Raises
    ------
    ConfigError
        This is another memtrace.
    MetricsError, OutputError
        ``cells`` cannot be read or written.
    """
    if source and source != source_digest():
        raise ConfigError(f"a worker on {platform.node()} has another memtrace than the study's; expected the same "
                          "source everywhere. Install this one there.")
    if not is_remote(cells):
        return _run(cell, key, Path(cells) / key, None, bench)
    with scratch_folder("memtrace-cell-") as scratch:
        return _run(cell, key, Path(scratch, key), Remote(cells), bench)


def _run(cell: Cell, key: str, folder: Path, remote: Remote | None, bench: Bench) -> Done:
    from ..report.frames import RunFrames

    begun = time.perf_counter()
    ran = not ((folder / MANIFEST).is_file() if remote is None else remote.exists(f"{key}/{MANIFEST}"))
    if remote is not None and not ran:
        remote.get(key, folder)
    try:
        if ran:
            _replay(cell, folder, bench)
        measures = measure_run(RunFrames(folder))
    except ModelError as error:
        return Done(key, {}, str(error), bug=True)
    except OutputError:
        raise  # no other cell will find more room
    except MemtraceError as error:
        return Done(key, {}, str(error))
    except MemoryError:
        bench.traces.close()
        return Done(key, {}, NO_MEMORY, lost=True)
    if remote is not None and ran:
        remote.put_run(folder, key)
    return Done(key, measures, ran=ran, seconds=time.perf_counter() - begun)


def _replay(cell: Cell, folder: Path, bench: Bench) -> None:
    """Replay a cell, its trace and its other files copied here first where they lie elsewhere."""
    arguments = cell.arguments()
    for name in ("start", "machine"):
        if arguments.get(name) is not None and is_remote(arguments[name]):
            arguments[name] = bench.copies.local(arguments[name])
    try:
        replay(bench.copies.local(cell.value("trace")), **arguments, out=folder, report=False, progress=silent,
               traces=bench.traces)
    except ConfigError:
        if (folder / MANIFEST).is_file():
            return  # somebody else has written the same cell meanwhile
        raise
