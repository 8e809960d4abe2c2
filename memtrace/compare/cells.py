"""One cell of a study: its name by content, and running it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import ConfigError, MemtraceError, ModelError
from ..metrics.manifest import versions
from ..metrics.run_folder import MANIFEST
from .grid import Cell
from .measures import measure_run

_PACKAGE = Path(__file__).resolve().parents[1]
_NOT_OF_A_RUN = ("cli", "compare", "report", "fidelity", "byhand")
"""Folders that do not change what a replay writes."""
KEY_LENGTH = 20


@dataclass(frozen=True, slots=True)
class Done:
    """
    What became of a cell.

    ``measures`` is empty when the cell was refused; ``message`` then says why. ``ran`` is False when its run folder was
    there already. ``bug`` marks a broken rule of the model.
    """

    key: str
    measures: dict[str, float]
    message: str = ""
    ran: bool = True
    bug: bool = False
    seconds: float = 0.0


def source_digest() -> str:
    """SHA-256 of every file of memtrace that can change a run's tables."""
    whole = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*")):
        inside = path.relative_to(_PACKAGE)
        if path.suffix in (".py", ".toml") and inside.parts[0] not in _NOT_OF_A_RUN:
            whole.update(f"{inside.as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return whole.hexdigest()


def path_digest(path: str | Path) -> str:
    """
    SHA-256 of a file, or of all files below a folder with their names.

    Raises
    ------
    ConfigError
        There is no such file or folder.
    """
    place = Path(path)
    if place.is_file():
        with open(place, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not place.is_dir():
        raise ConfigError(f"{path}: no such file or folder; expected one that can be read.")
    whole = hashlib.sha256()
    for below in sorted(place.rglob("*")):
        if below.is_file():
            whole.update(f"{below.relative_to(place).as_posix()}\0{path_digest(below)}\0".encode())
    return whole.hexdigest()


class Namer:
    """Names cells by all that their results depend on; files are read once."""

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}
        self._fixed = {"source": source_digest(), "versions": versions(__version__)}

    def key(self, cell: Cell) -> str:
        """The cell's name: equal for equal content, wherever the files lie."""
        content: dict[str, Any] = {**cell.arguments(), **self._fixed, "trace": self._digest(cell.value("trace"))}
        for name in ("machine", "start"):
            if content.get(name) is not None and Path(content[name]).exists():
                content[name] = self._digest(content[name])
        # A name of a trace's cell tells its trace's name too: the run folder's manifest holds it.
        content["trace_name"] = Path(cell.value("trace")).name
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:KEY_LENGTH]

    def _digest(self, path: str) -> str:
        if path not in self._digests:
            self._digests[path] = path_digest(path)
        return self._digests[path]


def run_cell(cell: Cell, key: str, cells: str) -> Done:
    """
    Run a cell unless its folder is there, and measure it.

    The folder ``cells``/``key`` appears whole or not at all, so that a cell that was killed is simply run again.
    """
    from ..report.frames import RunFrames
    from ..run import replay

    begun = time.perf_counter()
    folder = Path(cells) / key
    ran = not (folder / MANIFEST).is_file()
    try:
        if ran:
            replay(cell.value("trace"), **cell.arguments(), out=folder, report=False)
        return Done(key, measure_run(RunFrames(folder)), ran=ran, seconds=time.perf_counter() - begun)
    except ModelError as error:
        return Done(key, {}, str(error), bug=True)
    except MemtraceError as error:
        return Done(key, {}, str(error))


def stop_with_parent() -> None:
    """In a worker process: end when whoever started it ends, however that ends; and leave other CPUs to others."""
    import multiprocessing
    import threading
    from multiprocessing.connection import wait

    import pyarrow as pa

    parent = multiprocessing.parent_process()
    if parent is not None:
        def watch() -> None:
            wait([parent.sentinel])
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
    pa.set_cpu_count(1)


def as_plain(cell: Cell) -> dict[str, Any]:
    """A cell as plain data."""
    return asdict(cell)
