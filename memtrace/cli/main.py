"""
The ``memtrace`` command: a click group whose commands are imported when they run, and the one place where
errors are caught.

Exit codes: 0 good, 1 the input is wrong, 2 wrong usage, 70 a bug of ours, 130 interrupted, 143 told to end.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import traceback
from collections.abc import Callable

import click

from memtrace import __version__
from memtrace.ending import Ended, end_in_order, ending
from memtrace.errors import MemtraceError, ModelError
from memtrace.report.wording import visible

COMMANDS: dict[str, tuple[str, str]] = {
    "replay": ("memtrace.cli.replay", "Replay a trace through the simulated machine and report on it."),
    "validate": ("memtrace.cli.validate", "Hold the model against a recorded kernel."),
    "compare": ("memtrace.cli.compare", "Compare two runs, or a grid of replays."),
    "synth": ("memtrace.cli.synth", "Write a trace of a named workload."),
    "info": ("memtrace.cli.info", "Say what a trace holds."),
    "record": ("memtrace.cli.record", "Record the memory events of this machine."),
    "stat": ("memtrace.cli.stat", "Print perf kmem's tables of a trace."),
    "convert": ("memtrace.cli.convert", "Convert a trace to Parquet or CSV."),
    "report": ("memtrace.cli.report", "Draw the report of a run folder again."),
    "show": ("memtrace.cli.show", "Print a sampled state in the kernel's own formats."),
}
"""Name -> (module with the click command ``command``, its one line in ``memtrace --help``)."""

EXIT_INPUT = 1
EXIT_USAGE = 2
EXIT_BUG = 70
EXIT_INTERRUPTED = 130
TRACEBACK_VARIABLE = "MEMTRACE_TRACEBACK"
_REPORT = "Please report this line, the command and, if you can, the trace"


class LazyGroup(click.Group):
    """A group that imports a command's module only when that command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            raise click.UsageError(f'no command "{cmd_name}"; expected one of {", ".join(COMMANDS)}.', ctx)
        command = importlib.import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="memtrace")
def cli() -> None:
    """Replay Linux kernel memory traces through a simulated machine.

    \b
    memtrace info TRACE               what is in it
    memtrace replay TRACE -o DIR      run it; DIR/report.html tells what happened
    memtrace show DIR slabinfo        what /proc/slabinfo would have said
    memtrace compare DIR-A DIR-B      what differs between two runs
    memtrace validate TRACE           how far the model can be trusted
    """


def main() -> None:
    """Run the command line and exit."""
    end_in_order()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # A name or a dash that this terminal's encoding lacks is written as \u2013, not an end to all of it.
        sys.stdout.reconfigure(errors="backslashreplace")
    code = guarded(lambda: cli.main(prog_name="memtrace", standalone_mode=False))
    ending()
    sys.exit(code)


def guarded(call: Callable[[], object]) -> int:
    """Exit code of a call, every error turned into one line on standard error."""
    try:
        result = call()
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return EXIT_USAGE
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else "memtrace"
        return _say(f"{error.format_message()} (`{where} --help` explains)", EXIT_USAGE)
    except click.ClickException as error:
        return _say(error.format_message(), EXIT_INPUT)
    except (KeyboardInterrupt, click.Abort):
        return _say("interrupted", EXIT_INTERRUPTED)
    except Ended as ended:
        return _say(f"ended by {ended.signal}", int(str(ended.code)))
    except BrokenPipeError:
        # The reader has gone, as with `| head`.
        _drop_output()
        return 0
    except ModelError as error:
        return _bug(f"the model broke one of its own rules: {error}")
    except MemtraceError as error:
        return _say(str(error), EXIT_INPUT)
    except OSError as error:
        place = f"{error.filename}: " if error.filename is not None else ""
        try:
            sys.stdout.flush()
        except OSError:
            # It is standard output that can take no more.
            _drop_output()
        return _say(f"{place}{error.strerror or error}; expected what can be read, and written. Check whether it is "
                    "there, its permissions, and the room on its disk.", EXIT_INPUT)
    except MemoryError:
        return _say("not enough memory on this computer for this run", EXIT_INPUT)
    except Exception as error:
        return _bug(f"{type(error).__name__}: {error}")


def _drop_output() -> None:
    """Let go of what is buffered for standard output, so that Python does not complain of it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(message: str, code: int) -> int:
    click.echo(f"memtrace: error: {visible(' '.join(message.split()))}", err=True)
    if os.environ.get(TRACEBACK_VARIABLE) == "1":
        traceback.print_exc()
    return code


def _bug(message: str) -> int:
    hint = "." if os.environ.get(TRACEBACK_VARIABLE) == "1" else f"; {TRACEBACK_VARIABLE}=1 shows where it happened."
    return _say(f"{message} -- a bug of memtrace {__version__}. {_REPORT}{hint}", EXIT_BUG)
