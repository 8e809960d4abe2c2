"""``memtrace show``: a sampled state in the kernel's own formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from memtrace.report.frames import RunFrames

FILES = ("slabinfo", "buddyinfo", "pagetypeinfo", "zoneinfo")


@click.command("show")
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.argument("file", type=click.Choice(FILES), required=False)
@click.option("--at", metavar="TIME", help="Simulated time, like 1.5s or 200ms: the last sample at or before it.  "
                                           "[default: the end]")
@click.option("--list", "list_tables", is_flag=True, help="Print the tables of DIR and their columns instead.")
def command(directory: Path, file: str | None, at: str | None, list_tables: bool) -> None:
    """Print what a file of /proc would have said, in the kernel's own format.

    Scripts that read the real file read this. The time of the sample is told on standard error.

    \b
    memtrace show runs/a slabinfo
    memtrace show runs/a buddyinfo --at 10ms
    memtrace show runs/a --list
    """
    from memtrace.report.frames import RunFrames
    from memtrace.units import format_time, parse_time

    if list_tables == (file is not None):
        raise click.UsageError(f"expected either one of {', '.join(FILES)} or --list.")
    run = RunFrames(directory)
    if list_tables:
        _list(run)
        return
    assert file is not None
    from memtrace.report.kernel_text import render

    t_ns, text = render(run, file, None if at is None else parse_time(at, "--at"))
    click.echo(f"sample at {format_time(t_ns)} ({t_ns} ns)", err=True)
    click.echo(text, nl=False)


def _list(run: RunFrames) -> None:
    """Print the tables of a run and their columns, with units and meanings."""
    from memtrace.metrics.schema import BY_NAME

    for name in run.folder.tables:
        table = run.folder.table(name)
        known = {column.name: column for column in BY_NAME[name].columns} if name in BY_NAME else {}
        per = f", one per {BY_NAME[name].row}" if name in BY_NAME else ""
        click.echo(f"{name}: {table.num_rows:,} rows{per}")
        for column in table.column_names:
            about = known.get(column)
            said = "" if about is None else f"  {about.meaning}" + (f" ({about.unit})" if about.unit else "")
            click.echo(f"    {column:<24}{said}".rstrip())
