"""``memtrace show``: a sampled state in the kernel's own formats."""

from __future__ import annotations

from pathlib import Path

import click

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
    """
    from memtrace.report.frames import RunFrames
    from memtrace.units import format_time, parse_time

    if list_tables == (file is not None):
        raise click.UsageError(f"expected either one of {', '.join(FILES)} or --list.")
    run = RunFrames(directory)
    if list_tables:
        for table in run.table_names():
            with run.file(table) as parquet:
                schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
            click.echo(f"{table}  ({rows:,} rows): {' '.join(schema.names)}")
        return
    assert file is not None
    from memtrace.report.kernel_text import render

    t_ns, text = render(run, file, None if at is None else parse_time(at, "--at"))
    click.echo(f"sample at {format_time(t_ns)} ({t_ns} ns)", err=True)
    click.echo(text, nl=False)
