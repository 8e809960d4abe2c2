"""``memtrace info``: what a trace holds, or what a kernel profile says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from memtrace.trace.summary import TraceInfo


@click.command("info")
@click.argument("trace", metavar="TRACE", required=False)
@click.option("--kernel", metavar="VERSION", help="Explain a kernel profile instead: every switch and its value.")
@click.option("--kernels", is_flag=True, help="List the kernel profiles instead.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(trace: str | None, kernel: str | None, kernels: bool, as_json: bool) -> None:
    """Say what TRACE holds, and what can and cannot be concluded from it.

    TRACE is any trace that `memtrace convert --help` lists, plain or compressed; - is standard input. Snapshots are
    looked for beside it, in the folder of its name.

    \b
    memtrace info trace.parquet
    memtrace info --kernels
    memtrace info --kernel 6.18
    """
    if [trace is not None, kernel is not None, kernels].count(True) != 1:
        raise click.UsageError("expected one of TRACE, --kernel VERSION and --kernels.")
    if trace is None:
        _explain_kernels(kernel, as_json)
        return
    from memtrace import compiled
    from memtrace.progress import Progress
    from memtrace.trace.source import open_trace
    from memtrace.trace.summary import summarise

    compiled.check()
    with Progress("reading", unit="B") as reading:
        reader = open_trace(trace, progress=reading)
    with reader, Progress("counting", reader.rows or 0) as counting:
        info = summarise(reader, counting)
    _look_beside(info)
    if as_json:
        click.echo(json.dumps(info.as_dict(), indent=1))
    else:
        from memtrace.report.wording import visible

        from .info_lines import lines

        click.echo("\n".join(visible(line) if line else "" for line in lines(info)))


def _look_beside(info: TraceInfo) -> None:
    """Adds what the snapshots beside a trace say: where it starts, and which kernel it is of."""
    from memtrace.snapshot.beside import found_beside, recorded_kernel
    from memtrace.trace.evidence import Guess

    folder = found_beside(info.path) if info.path != "-" else None
    if folder is None:
        info.cannot.append("No snapshot beside the trace: what memory held before its first event is guessed from the "
                           "frees in it (memtrace record takes snapshots; replay --from names them).")  # fmt: skip
        return
    info.snapshots = str(folder)
    info.can.append(f"Its start: snapshots lie in {folder}, for replay --from and validate.")
    known = recorded_kernel(folder)
    if known is not None:
        guessed = [f"the trace itself: {info.kernel.what}"] if info.kernel.what != "unknown" else []
        info.kernel = Guess(known.profile, "sure", [known.why, *guessed])


def _explain_kernels(kernel: str | None, as_json: bool) -> None:
    from memtrace.cli import kernel_info
    from memtrace.kernels import kernel_names, load_profile

    if as_json:
        found = [kernel_info.as_dict(load_profile(name)) for name in ([kernel] if kernel else kernel_names())]
        click.echo(json.dumps(found[0] if kernel else found, indent=1))
    elif kernel is not None:
        click.echo("\n".join(kernel_info.profile_lines(load_profile(kernel))))
    else:
        click.echo("\n".join(kernel_info.list_lines()))
