"""
``%load_ext memtrace``: the magics ``%%memtrace``, which replays the cell, and ``%memtrace``, the command line.

The one module that needs IPython; whoever loads the extension has it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, magics_class

from . import compiled
from .cli import replay as replay_command
from .cli.main import cli
from .errors import ConfigError, TraceError
from .files import scratch_folder
from .report.result import Run
from .run import replay

CELL = "cell.csv"
"""What the trace of a cell is called, in reports too."""


def load_ipython_extension(shell: InteractiveShell) -> None:
    """What ``%load_ext memtrace`` calls."""
    shell.register_magics(MemtraceMagics)


@magics_class
class MemtraceMagics(Magics):
    """The magics of memtrace."""

    @line_cell_magic
    def memtrace(self, line: str, cell: str | None = None) -> Run | None:
        """
        Replay a trace, and return and show the run.

        In a cell::

            %%memtrace -n run --cpus 2 --memory 64M
            ts_ns,cpu,event,ptr,bytes_req
            0,0,kmalloc,1,100
            1000,0,kfree,1,

        replays the cell, a trace in CSV, with the options of ``memtrace replay``. In a line, ``%memtrace replay TRACE``
        does it with a file; ``%memtrace info TRACE`` and the other commands print what they print in a terminal.
        ``-n NAME`` keeps the run under a name. Without ``-o DIR`` it is written to a temporary folder.
        """
        with one_line_errors():
            words = split(line)
            if cell is None and words[:1] != ["replay"]:
                cli.main(words or ["--help"], prog_name="%memtrace", standalone_mode=False)
                return None
            options = parse(words[cell is None :], of_cell=cell is not None)
            if options is None:
                return None
            name = options.pop("name")
            run = replay_cell(cell, **options) if cell is not None else replay(**options)
            if name is not None and self.shell is not None:
                self.shell.user_ns[name] = run
            if notice := compiled.notice():
                click.echo(notice, err=True)
            return run


def split(line: str) -> list[str]:
    """The words of a line, as in a shell."""
    try:
        return shlex.split(line)
    except ValueError as error:
        raise ConfigError(f"%memtrace {line}: {error}; expected words as in a shell. Close the quotation.") from None


def replay_cell(cell: str, **options: Any) -> Run:
    """Replay a trace that is the text of a cell; the arguments of ``replay``."""
    with scratch_folder("memtrace-cell-") as folder:
        trace = Path(folder) / CELL
        trace.write_text(cell, encoding="utf-8")
        try:
            return replay(trace, **options)
        except TraceError as error:
            # Where the cell was kept is gone by now, and nobody asked for it.
            raise TraceError(str(error).replace(str(trace), CELL)) from None


def parse(words: list[str], of_cell: bool) -> dict[str, Any] | None:
    """Arguments of ``replay``, and ``name``, from the words of a magic's line; None when help was asked for."""
    known = [option for option in replay_command.command.params if not (of_cell and option.name == "trace")]
    name = click.Option(["-n", "name"], metavar="NAME", callback=_identifier, help="Keep the run under this name.")
    text = "Replay the cell, a trace in CSV." if of_cell else "Replay TRACE."
    command = click.Command("replay", params=[*known, name], help=f"{text} Without -o, into a temporary folder.")
    try:
        return dict(command.make_context("%%memtrace" if of_cell else "%memtrace replay", words).params)
    except click.exceptions.Exit:
        return None


def _identifier(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    if value is not None and not value.isidentifier():
        raise click.UsageError(f"-n {value}: no name of a variable; expected one like run.", context)
    return value


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Whatever the user got wrong, as an error of ours: a notebook shows its one line and no traceback."""
    try:
        yield
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else "%memtrace"
        raise ConfigError(f"{error.format_message()} (`{where} --help` explains)") from None
    except click.ClickException as error:
        raise ConfigError(error.format_message()) from None
    except OSError as error:
        place = f"{error.filename}: " if error.filename is not None else ""
        raise ConfigError(f"{place}{error.strerror or error}") from None
