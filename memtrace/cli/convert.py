"""``memtrace convert``: a trace of any kind as Parquet or CSV."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("convert")
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option("--kallsyms", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Names the call sites of another machine's perf.data: a copy of its /proc/kallsyms, made as root.")
def command(source: str, target: str, kallsyms: Path | None) -> None:
    """Write the trace IN again as OUT.

    IN is Parquet, CSV, perf.data, ftrace text or perf script text, plain or compressed with gzip or zstd; - is standard
    input. OUT ends in .parquet or .csv. What could not be used is counted and printed.

    \b
    memtrace convert trace.txt.gz trace.parquet
    perf script | memtrace convert - trace.csv
    """
    from memtrace import compiled
    from memtrace.progress import Progress
    from memtrace.trace.convert import check_target, convert
    from memtrace.trace.source import open_trace

    compiled.check()
    check_target(source, target)
    with Progress("reading", unit="B") as reading:
        reader = open_trace(source, progress=reading, symbols=kallsyms)
    with reader:
        with Progress("writing") as writing:
            rows = convert(reader, target, writing)
        click.echo(f"{target}: {rows:,} rows from {reader.format} {source}")
        for cause, count in sorted(reader.problems.items()):
            place = reader.problem_rows.get(cause, 0)
            first = f", first at {'row' if reader.format == 'parquet' else 'line'} {place:,}" if place else ""
            click.echo(f"  {cause}: {count:,}{first}")
