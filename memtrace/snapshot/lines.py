"""Reading the kernel's small text files, and what to say when a line is not one of theirs."""

from __future__ import annotations

from pathlib import Path

from memtrace.errors import TraceError


def read_lines(path: Path) -> list[str]:
    """Lines of a text file, or a TraceError that says why it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError as error:
        raise TraceError(f"cannot be read: {error.strerror}. Check the path and its permissions.", path) from None


def bad_line(path: Path, line: int, text: str, expected: str) -> TraceError:
    """The error for a line that is not in the file's format."""
    return TraceError(
        f'"{text.strip()[:60]}" is not a line of {path.name}; expected {expected}. Record the file again, unedited.',
        path,
        line,
    )
