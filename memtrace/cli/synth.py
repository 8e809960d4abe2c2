"""``memtrace synth``: a trace of a named workload."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("synth")
@click.argument("workload", required=False)
@click.option("--list", "listed", is_flag=True, help="Describe all workloads, or WORKLOAD with its parameters.")
@click.option("-o", "--out", metavar="FILE", help="File to write, .parquet or .csv. [default: WORKLOAD.parquet]")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@click.option("--events", type=click.IntRange(1), default=100_000, show_default=True, metavar="N",
              help="Rows: as many whole rounds as fit, and at least one.")
@click.option("--cpus", type=click.IntRange(1, 4096), metavar="N", help="CPUs. [default: the workload's own]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, metavar="S",
              help="Where chance begins: equal seeds give equal files.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Change a parameter of the workload.")
def command(
    workload: str | None, listed: bool, out: str | None, force: bool, events: int, cpus: int | None, seed: int,
    settings: tuple[str, ...],
) -> None:  # fmt: skip
    """Write a trace of WORKLOAD: a name from --list, or a Python file with a WORKLOAD (docs/workloads.md).

    Every free has its allocation, so a replay leaves nothing out. The result is a trace like any other.

    \b
    memtrace synth --list
    memtrace synth --list net-rx
    memtrace synth fork-storm -o forks.parquet --events 50000 --cpus 8 --seed 1 --set life=2ms
    """
    if listed:
        _describe(workload, cpus)
        return
    if workload is None:
        raise click.UsageError("no WORKLOAD; expected a name of `memtrace synth --list`, or a file ending in .py.",
                               click.get_current_context())  # fmt: skip
    from memtrace.progress import Progress
    from memtrace.synthetic.catalogue import load_workload
    from memtrace.synthetic.write import plan, write_trace
    from memtrace.units import format_time

    chosen = load_workload(workload)
    planned = plan(chosen, events, cpus, seed, _settings(settings))
    path = Path(out if out is not None else f"{chosen.name}.parquet")
    with Progress("writing") as progress:
        written = write_trace(planned, path, force, progress)
    click.echo(f"{path}: {written.rows:,} rows of {chosen.name}, {planned.rounds:,} rounds, "
               f"{format_time(written.span_ns)} on {planned.cpus} CPU{'s' if planned.cpus > 1 else ''}")  # fmt: skip


def _describe(name: str | None, cpus: int | None) -> None:
    from memtrace.synthetic.catalogue import NAMES, load_workload
    from memtrace.synthetic.workload import describe

    if name is None:
        for known in NAMES:
            click.echo(f"{known:<17} {load_workload(known).about}")
        click.echo("`memtrace synth --list WORKLOAD` explains one, with its parameters.")
        return
    workload = load_workload(name)
    for line in describe(workload, cpus if cpus is not None else workload.cpus):
        click.echo(line)


def _settings(pairs: tuple[str, ...]) -> dict[str, str | int]:
    """``name=value`` pairs; of a name given twice the last counts."""
    settings: dict[str, str | int] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise click.UsageError(f'--set "{pair}": expected NAME=VALUE, like --set gap=1us.',
                                   click.get_current_context())  # fmt: skip
        settings[name.strip()] = value.strip()
    return settings
