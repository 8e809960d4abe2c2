"""trace-cmd's trace.dat, as the text that ``trace-cmd report`` prints of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from memtrace.errors import TraceError

TRACE_DAT = b"\x17\x08Dtracing"
"""What every version of the file begins with."""
TOOL = "trace-cmd"
OPTIONS = ("report", "-t", "-N", "-i")
"""All digits of times; no plugins, which print call sites twice and are code from the user's folders."""


class TraceCmdReport:
    """
    The events of a trace.dat as a stream of ftrace text; a context manager.

    Pointers are the true ones, whatever ``hash-ptr`` was: the file holds the kernel's own numbers.

    Parameters
    ----------
    file
        The trace.dat.
    shown
        Its name for messages.
    progress
        Called with (bytes of text read, 0).

    Raises
    ------
    TraceError
        When trace-cmd is not installed; and from `read` when it cannot read the file.
    """

    def __init__(self, file: Path, shown: str, progress: Callable[[int, int], None] | None = None) -> None:
        tool = shutil.which(TOOL)
        if tool is None:
            raise TraceError(f"trace.dat is read through {TOOL}, which is not installed. Install it (package {TOOL}), "
                             f"or where it is: {TOOL} report -t -N -i trace.dat > trace.txt", shown)  # fmt: skip
        self._shown = shown
        self._progress = progress
        self._done = 0
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (a pipe that nobody reads would stop it)
        try:
            self._run = subprocess.Popen(
                [tool, *OPTIONS, str(file.absolute())], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=self._said, env={**os.environ, "LC_ALL": "C"},
            )  # fmt: skip
        except BaseException:
            self._said.close()
            raise

    def read(self, size: int) -> bytes:
        """The next bytes of the text; none at its end."""
        assert self._run.stdout is not None
        data = self._run.stdout.read(size)
        if not data and (self._run.wait() or not self._done):
            raise TraceError(f"{TOOL} report cannot read it ({self._why()}); expected a whole trace.dat. "
                             "Copy or record it again.", self._shown)  # fmt: skip
        self._done += len(data)
        if self._progress is not None:
            self._progress(self._done, 0)
        return data

    def _why(self) -> str:
        """The first line that it said on standard error."""
        self._said.seek(0)
        lines = self._said.read(4096).decode("utf-8", "replace").split("\n")
        said = (" ".join(line.split()) for line in lines if line.strip())
        return next(said, f"it printed nothing; exit code {self._run.returncode}")

    def __enter__(self) -> TraceCmdReport:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._run.stdout is not None
        self._run.stdout.close()
        self._run.kill()
        self._run.wait()
        self._said.close()
