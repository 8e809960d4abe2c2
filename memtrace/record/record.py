"""A recording from beginning to end: snapshot, events, snapshot, and the files put in place when all is there."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from memtrace.ending import Ended
from memtrace.errors import ConfigError
from memtrace.files import check_file, saying
from memtrace.snapshot.beside import recorded_kernel, snapshots_of
from memtrace.trace.convert import convert
from memtrace.trace.source import TraceReader, open_trace

from .recorders import PerfRecorder, TracefsRecorder
from .rights import Host, Plan, plan
from .snapshots import State

START, END = "start", "end"
Say = Callable[[str], None]


@dataclass
class Recorded:
    """
    What a recording left.

    Attributes
    ----------
    trace, snapshots
        The Parquet file, and the folder with the snapshot folders START and END.
    command_code
        What the command ended with; 0 without a command.
    warnings
        What the user should know, one sentence each.
    kernel
        The kernel profile that is nearest to this machine's kernel; "" when it is not known.
    """

    trace: Path
    snapshots: Path
    recorder: str
    rows: int
    command_code: int = 0
    warnings: list[str] = field(default_factory=list)
    kernel: str = ""

    def next_commands(self) -> list[tuple[str, str]]:
        """Commands that go on from here, each with what it answers."""
        trace, start = shlex.quote(str(self.trace)), shlex.quote(str(self.snapshots / START))
        kernel = f" --kernel {self.kernel}" if self.kernel else ""
        study = shlex.quote(f"{self.snapshots}-study")
        return [
            (f"memtrace info {trace}", "what is in it, and what it can tell"),
            (f"memtrace validate {trace}", "how near the model comes to this kernel"),
            (f"memtrace replay {trace} --from {start}{kernel}", "memory, hit rates, latency: a report"),
            (f"memtrace compare {trace} --allocator slub,slab,slob -o {study}", "the three allocators side by side"),
        ]


def record(
    out: Path, command: Sequence[str] = (), *, seconds: float | None = None, recorder: str = "auto",
    buffer_bytes: int = 16 << 20, force: bool = False, host: Host | None = None, say: Say = lambda _: None,
) -> Recorded:  # fmt: skip
    """
    Records this machine while a command runs, or for a time, or until interrupted.

    Parameters
    ----------
    out
        The trace; a name ending in ``.parquet``.
    command
        Program and arguments.
    seconds
        At most so long; without a command and a time, until the user interrupts.
    recorder
        ``auto``, ``perf`` or ``tracefs``.
    buffer_bytes
        Ring buffer of each CPU.
    force
        Replace what an earlier recording left.
    say
        Gets what is being done, as lines.

    Raises
    ------
    ConfigError
        Something is missing, or in the way.
    """
    host = host or Host()
    _check_target(out, force)
    if command and shutil.which(command[0]) is None:
        raise ConfigError(f"{command[0]}: no such program; expected a command that can be run. Check its name.")
    chosen = plan(host, recorder)
    check_file(out)
    with saying(out):
        scratch = tempfile.TemporaryDirectory(prefix=".memtrace-record-", dir=out.parent, ignore_cleanup_errors=True)
    with scratch as name:
        folder = Path(name)
        found = Recorded(out, snapshots_of(out), chosen.recorder, 0)
        path = _run(host, chosen, folder, command, seconds, buffer_bytes, found, say)
        say("writing the trace")
        made = folder / "made.parquet"
        with open_trace(path, keep=made) as reader:
            found.rows = convert(reader, made)
            found.warnings += _warnings(chosen, reader)
        _put_in_place(folder, made, found)
    kernel = recorded_kernel(found.snapshots)
    found.kernel = kernel.profile if kernel is not None else ""
    return found


def _check_target(out: Path, force: bool) -> None:
    if out.suffix != ".parquet":
        raise ConfigError(f'{out}: cannot write "{out.suffix}"; expected a name ending in .parquet.')
    if out.stem.strip(".") == "":
        raise ConfigError(f"{out}: a name that is only an ending; expected one like trace.parquet.")
    if not out.parent.is_dir():
        raise ConfigError(f"{out.parent}: no such directory; expected an existing one for the trace.")
    for path in (out, snapshots_of(out)):
        if path.exists() and not force:
            raise ConfigError(f"{path}: exists; expected a new name. Choose another with -o, or use --force.")
    old = snapshots_of(out)
    if old.exists() and not _is_ours(old):
        raise ConfigError(f"{old}: not the snapshots of a recording, so it is not replaced. Choose another name.")


def _is_ours(folder: Path) -> bool:
    return folder.is_dir() and {child.name for child in folder.iterdir()} <= {START, END}


def _run(
    host: Host, chosen: Plan, folder: Path, command: Sequence[str], seconds: float | None, buffer_bytes: int,
    found: Recorded, say: Say,
) -> Path:  # fmt: skip
    """The recording itself; the file that the recorder wrote."""
    made: PerfRecorder | TracefsRecorder
    if chosen.recorder == "perf":
        made = PerfRecorder(chosen, folder, buffer_bytes)
    else:
        made = TracefsRecorder(host, chosen, folder, buffer_bytes)
    with made as running:
        state = State(host)
        state.read_sys()
        state.read_proc()
        running.begin()
        with saying(folder.parent):
            state.write(folder / "snapshots" / START)
        found.warnings += state.problems
        say(f"recording with {chosen.recorder}" + ("" if command or seconds else "; Ctrl-C ends it"))
        try:
            found.command_code = _wait(command, seconds, say)
        finally:
            state = State(host)
            state.read_proc()
            running.end()
        state.read_sys()
        with saying(folder.parent):
            state.write(folder / "snapshots" / END)
        path = running.result()
    if isinstance(made, TracefsRecorder) and made.hashed:
        found.warnings.append("pointers are hashed (this kernel has no trace option hash-ptr): objects can be told "
                              "apart, but not where they lie. Boot with no_hash_pointers, or use perf.")  # fmt: skip
    return path


def _wait(command: Sequence[str], seconds: float | None, say: Say) -> int:
    """Until the command has ended, the time is over, or the user interrupts; the command's exit code."""
    if not command:
        try:
            threading.Event().wait(seconds)
        except (KeyboardInterrupt, Ended):
            say("interrupted: what was recorded until now is kept")
        return 0
    process = subprocess.Popen(list(command))
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        say(f"the time is over; {command[0]} is ended")
    except (KeyboardInterrupt, Ended):
        say("interrupted: what was recorded until now is kept")
    process.terminate()
    return process.wait()


def _warnings(chosen: Plan, reader: TraceReader) -> list[str]:
    said = []
    lost = reader.problems.get("lost_events", 0)
    if lost:
        share = 100 * lost / (lost + (reader.rows or 0))
        said.append(f"{lost:,} events were lost ({share:.2g} %): everything after the first loss is uncertain. "
                    "Record again with a larger --buffer.")  # fmt: skip
    if chosen.missing:
        said.append(f"this kernel has no {', '.join(chosen.missing)}; what only they show is not in the trace.")
    return said


def _put_in_place(folder: Path, made: Path, found: Recorded) -> None:
    """Old files go only now, when the new ones are whole."""
    with saying(found.trace):
        if found.snapshots.exists():
            shutil.rmtree(found.snapshots)
        (folder / "snapshots").rename(found.snapshots)
        made.replace(found.trace)
