"""``memtrace record``: the memory events of this machine, with what /proc and /sys said before and after."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("record", context_settings={"ignore_unknown_options": False})
@click.argument("program", metavar="[-- COMMAND...]", nargs=-1, type=click.UNPROCESSED)
@click.option("-o", "--out", default="memtrace.parquet", show_default=True, metavar="FILE", help="The trace.")
@click.option("--duration", metavar="TIME", help="Record so long, like 10s. [default: until COMMAND ends, or Ctrl-C]")
@click.option("--recorder", type=click.Choice(["auto", "perf", "tracefs"]), default="auto", show_default=True,
              help="With perf, or the kernel's own tracing; auto takes perf when it can.")  # fmt: skip
@click.option("--buffer", default="16M", show_default=True, metavar="SIZE", help="Memory for each CPU's events.")
@click.option("--force", is_flag=True, help="Replace an earlier recording.")
def command(
    program: tuple[str, ...], out: str, duration: str | None, recorder: str, buffer: str, force: bool
) -> None:
    """Record the memory events of all CPUs while COMMAND runs, or for a time.

    Needs root, or the rights that it names. Writes FILE, and beside it a folder of its name without .parquet with
    what /proc and /sys said before (start) and after (end). No names or numbers of processes are kept.

    \b
    memtrace record -o build.parquet -- make -j4
    memtrace record --duration 10s
    memtrace validate build.parquet
    """
    from memtrace import compiled
    from memtrace.record.record import record
    from memtrace.units import parse_size, parse_time

    compiled.check()
    seconds = parse_time(duration, "--duration") / 1e9 if duration is not None else None
    found = record(
        Path(out), program, seconds=seconds, recorder=recorder, buffer_bytes=parse_size(buffer, "--buffer"),
        force=force, say=lambda line: click.echo(f"memtrace: {line}", err=True),
    )  # fmt: skip
    for warning in found.warnings:
        click.echo(f"memtrace: warning: {warning}", err=True)
    if found.command_code:
        click.echo(f"memtrace: warning: {program[0]} ended with {found.command_code}", err=True)
    click.echo(f"{found.trace}: {found.rows:,} rows, recorded with {found.recorder}; snapshots in {found.snapshots}")
    click.echo("next:")
    commands = found.next_commands()
    width = max(len(line) for line, _ in commands)
    for line, answers in commands:
        click.echo(f"  {line:<{width}}  # {answers}")
