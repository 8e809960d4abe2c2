"""
Every error that memtrace raises on purpose.

A message says where, what (with the value and its unit), what was expected, and what to do. It is one
line, so that a terminal and a log can show it whole. They are caught once, at the click group.
"""

from __future__ import annotations

import errno
import os


class MemtraceError(Exception):
    """Base of all; never raised itself."""

    def _render_traceback_(self) -> list[str]:
        """What Jupyter and IPython show: one line, since the message says where, what and what to do."""
        line = " ".join(str(self).split())
        # A name from a trace may hold what would colour or turn around the rest.
        line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
        return [f"{type(self).__name__}: {line}"]


class ConfigError(MemtraceError, ValueError):
    """An option, a TOML file or a machine description is wrong."""


class MisuseError(MemtraceError, ValueError):
    """A call of ``Kernel`` that a kernel would not survive, such as a double free; nothing has been changed."""


class TraceError(MemtraceError, ValueError):
    """
    A trace cannot be used.

    Parameters
    ----------
    message
        What is wrong, what was expected and what to do; without the place.
    path
        The file, or ``-`` for standard input.
    line
        Line of a text file, or row of a table, counted from 1; 0 when it is about the whole file.
    """

    def __init__(self, message: str, path: object = "", line: int = 0) -> None:
        self.path = str(path)
        self.line = line
        place = f"{path}:{line}: " if line else (f"{path}: " if str(path) else "")
        super().__init__(place + message)


class OutputError(MemtraceError):
    """
    What was to be written cannot be: no room, no right, no such folder.

    Parameters
    ----------
    path
        What the user wanted to have, never the temporary name of it.
    what, expected
        What is wrong; what was expected, and what to do; both without a full stop.
    why
        The cause alone, in the system's words, where there is one.
    """

    def __init__(self, path: object, what: str, expected: str, why: str = "") -> None:
        self.path = str(path)
        self.why = why or what
        self._given = (self.path, what, expected, self.why)
        super().__init__(f"{path}: {what}; expected {expected}.")

    def __reduce__(self) -> tuple[type[OutputError], tuple[str, ...]]:
        return OutputError, self._given  # it also comes from other processes

    @classmethod
    def of(cls, path: object, error: OSError, expected: str = "") -> OutputError:
        """The error of a system call, which may name anything, as one about ``path``."""
        # pyarrow's have the number, and words of their own in which it stands once more.
        what = os.strerror(error.errno) if error.errno else str(error)
        usual = _EXPECTED.get(error.errno or 0, "a place that can be written to. Give another one")
        return cls(path, f"cannot be written ({what})", expected or usual, what)


_EXPECTED = {
    errno.ENOSPC: "room on that disk. Free some, or give another place",
    errno.EDQUOT: "room on that disk. Free some, or give another place",
    errno.ENAMETOOLONG: "a name that is short enough. Give a shorter one",
}


class MetricsError(MemtraceError):
    """A run folder or one of its tables is missing, broken or of another version."""


class ModelError(MemtraceError):
    """
    An invariant of the model broke: our bug, never the user's.

    Parameters
    ----------
    message
        Which invariant, with the values found and expected.
    row
        Trace row at which it was found, -1 when unknown.
    t_ns
        Simulated time, in ns since the trace began.
    """

    def __init__(self, message: str, row: int = -1, t_ns: int = 0) -> None:
        self.row = row
        self.t_ns = t_ns
        super().__init__(message if row < 0 else f"{message} (trace row {row}, t={t_ns} ns)")

    def _render_traceback_(self) -> list[str]:
        return [f"{super()._render_traceback_()[0]} -- a bug of memtrace; please report it, with the trace if you can."]
