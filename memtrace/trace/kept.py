"""What was read of a trace, kept for the next replay of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .census import take_census
from .pairing import RequestStream
from .requests import Census
from .source import Progress, TraceReader, open_trace
from .window import TraceWindow


class ReadTrace:
    """
    An open trace with its census and its requests, which the next replay of it need not take again.

    They depend on the trace's bytes, on the rows that are replayed and on what its gfp flags mean; on nothing of the
    machine, kernel or allocator that it is replayed under.

    Attributes
    ----------
    reader
        The trace.
    """

    def __init__(self, reader: TraceReader, keep_bytes: int) -> None:
        self.reader = reader
        self._keep_bytes = keep_bytes
        self._of: tuple[int, tuple[int, int] | None] | None = None
        self._census = Census()
        self._requests: RequestStream | None = None

    def census(self, first_row: int, window_ns: tuple[int, int] | None, progress: Callable[[int], None]) -> Census:
        """
        The census of a part of the trace, as ``TraceWindow`` takes it; that of the last part is kept.

        Raises
        ------
        TraceError
            See ``take_census``.
        """
        if self._of != (first_row, window_ns):
            self._of = self._requests = None
            source = TraceWindow(self.reader, first_row, window_ns)
            self._census = take_census(source, progress=progress)
            self._requests = RequestStream(source, self._census, keep_bytes=self._keep_bytes)
            self._of = (first_row, window_ns)
        return self._census

    def requests(self) -> RequestStream:
        """The requests of the part that ``census`` was asked for last."""
        assert self._requests is not None, "no census was taken"
        return self._requests


class KeptTraces:
    """
    Opens traces, and keeps the last one for who asks for the same again. A context manager.

    Only one, since replays of one trace come one after the other. A file that has changed is opened again. Not for
    several threads at once.

    Parameters
    ----------
    keep_bytes
        Memory for the requests of the trace; those of a longer one are made of it again each time.
    """

    def __init__(self, keep_bytes: int = 0) -> None:
        self._keep_bytes = keep_bytes
        self._trace: ReadTrace | None = None
        self._identity: tuple[Any, ...] | None = None

    def open(self, path: str | Path, columns: Sequence[str], gfp_era: str, progress: Progress) -> ReadTrace:
        """
        A trace; it is closed when another one is opened, or this object is.

        Parameters
        ----------
        path, columns, progress
            As ``open_trace`` takes them.
        gfp_era
            Kernel whose bits numeric gfp_flags are.

        Raises
        ------
        TraceError
            See ``open_trace``.
        """
        wanted = _identity(path, columns, gfp_era)
        if self._trace is None or wanted is None or wanted != self._identity:
            self.close()
            reader = open_trace(path, columns=columns, progress=progress)
            reader.vocab.gfp_era = gfp_era
            self._trace, self._identity = ReadTrace(reader, self._keep_bytes), wanted
        return self._trace

    def close(self) -> None:
        """Close the trace and forget it."""
        if self._trace is not None:
            self._trace.reader.close()
        self._trace = self._identity = None

    def __enter__(self) -> KeptTraces:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _identity(path: str | Path, columns: Sequence[str], gfp_era: str) -> tuple[Any, ...] | None:
    """What is equal when the same would be read again; None for what can be read only once, or not at all."""
    if str(path) == "-":
        return None
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return (str(path), tuple(columns), gfp_era, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
