"""
Files and scratch folders that are there whole or not at all.

What is being written lies under a temporary name in the folder of its target and gets its own name when it is
complete. Whoever reads a message is told of the target, never of the temporary name.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import OutputError

_NAME_BYTES = 100
"""Of a target's name in its temporary one, which must not be too long where the target's name is not."""


class NewFile:
    """
    A file that is being written.

    Attributes
    ----------
    target
        The file it will be; where a link points, so that the link stays one.
    part
        Where to write meanwhile.

    Raises
    ------
    OutputError
        ``path`` cannot be written: its folder is missing, or something that is no file has its name.
    """

    def __init__(self, path: str | Path) -> None:
        self._shown = path
        self.target = check_file(path)
        name = os.fsencode(self.target.name)[:_NAME_BYTES].decode("utf-8", "ignore")
        self.part = self.target.with_name(f".{name}.{os.getpid()}.part")

    @contextlib.contextmanager
    def writing(self) -> Iterator[Path]:
        """Around each step of writing: what raises in it leaves nothing behind, an OSError as OutputError."""
        try:
            with saying(self._shown):
                yield self.part
        except BaseException:
            self.discard()
            raise

    def put_in_place(self, part: Path | None = None) -> None:
        """Give the file, which has been closed, its name; a file that has that name is replaced."""
        with self.writing():
            os.replace(part or self.part, self.target)

    def discard(self, *more: Path) -> None:
        """Leave nothing behind, neither ``part`` nor what else was written beside it."""
        for part in (self.part, *more):
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


@contextlib.contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """
    Write a file in one block: the path to write to; it becomes ``path`` when the block ends, unless it raises.

    Raises
    ------
    OutputError
        The file cannot be written; also for an OSError of the block.
    """
    file = NewFile(path)
    with file.writing() as part:
        yield part
    file.put_in_place()


def write_text(path: str | Path, text: str) -> None:
    """
    Write a file whole or not at all; its bytes never depend on the platform's line ends.

    What is no character, as in file names that are not UTF-8, is written as JSON would write it: ``\\udcff``.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    with new_file(path) as part:
        part.write_bytes(text.encode("utf-8", "backslashreplace"))


def check_file(path: str | Path) -> Path:
    """
    The file that writing to ``path`` would make or replace.

    Raises
    ------
    OutputError
        There can be none: its folder is missing or not to be written to, or it is there and no ordinary file.
    """
    check_encoding(path)
    with saying(path):
        target = Path(os.path.realpath(path))
        folder = target.parent
        if not str(path) or target.name == "" or not folder.is_dir():
            raise OutputError(path, "cannot be written there", "a file in an existing folder. Give another name")
        try:
            kind = target.lstat().st_mode
        except FileNotFoundError:
            kind = stat.S_IFREG
        if not stat.S_ISREG(kind):
            raise OutputError(path, f"is {_kind(kind)}", "a file, which can be replaced as a whole. Give another name")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(path, f"no right to write to {folder}", "a folder that you may write to. "
                                    "Give another place, or change its permissions")
    return target


def check_encoding(path: str | Path) -> None:
    """Raise OutputError when a path is not UTF-8, since Arrow could not open it."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        raise OutputError(path, "a name that is not UTF-8", "one that is. Give another name") from None


def _kind(mode: int) -> str:
    for test, name in ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISLNK, "a link to itself")):
        if test(mode):
            return name
    return "a device or socket"


@contextlib.contextmanager
def saying(path: str | Path) -> Iterator[None]:
    """Turn an OSError of the block into an OutputError that names ``path``, where the user wanted something."""
    try:
        yield
    except OSError as error:
        raise OutputError.of(path, error) from error


def scratch_folder(prefix: str = "memtrace-") -> tempfile.TemporaryDirectory[str]:
    """
    A folder for temporary files, removed when it is left, cleaned up, or forgotten.

    Raises
    ------
    OutputError
        There is no place for temporary files.
    """
    with _saying_where():
        return tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)


@contextlib.contextmanager
def lasting_folder(prefix: str = "memtrace-") -> Iterator[Path]:
    """A folder among the temporary ones that stays, for a result that nobody named; it goes when the block raises."""
    with _saying_where():
        folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextlib.contextmanager
def place_for(out: str | Path | None, name: str) -> Iterator[str | Path]:
    """The path or address ``out``; ``name`` in a temporary folder that stays, when there is none."""
    if out is not None:
        yield out
    else:
        with lasting_folder() as folder:
            yield folder / name


@contextlib.contextmanager
def _saying_where() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = os.environ.get("TMPDIR", "") or os.path.join(os.sep, "tmp")
        raise OutputError.of(place, error, ROOM_FOR_SCRATCH) from error


ROOM_FOR_SCRATCH = "room for temporary files. Free some, or set TMPDIR to another folder"
