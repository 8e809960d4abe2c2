"""``memtrace convert``: a trace of any kind as Parquet or CSV."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("convert")
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option("--kallsyms", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Names the call sites of another machine's perf.data: a copy of its /proc/kallsyms, made as root.")
@click.option("--anonymize", is_flag=True, help="Leave out what is private: see below.")
@click.option("--mapping", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path),
              help="With --anonymize, write here what stands for what, as JSON.")
@click.option("--force", is_flag=True, help="Replace OUT, and the mapping, if they exist.")
def command(
    source: str, target: str, kallsyms: Path | None, anonymize: bool, mapping: Path | None, force: bool
) -> None:
    """Write the trace IN again as OUT.

    IN is Parquet, CSV, perf.data, trace.dat (read through trace-cmd), ftrace text or perf script text, plain or
    compressed with gzip or zstd; - is standard input. OUT ends in .parquet or .csv. What could not be used is counted
    and printed.

    --anonymize numbers call sites, markers, other subsystems' events, and caches that Linux itself does not have, and
    moves kernel addresses to those of a kernel that randomises nothing; other arguments of events are left out. OUT
    replays as IN does. Times, sizes, flags, CPUs, nodes, page frames and the names of Linux's own caches stay.
    Snapshots are not covered: they name caches, and say what memory the machine has.

    \b
    memtrace convert trace.txt.gz trace.parquet
    perf script | memtrace convert - trace.csv
    memtrace convert trace.parquet public.parquet --anonymize --mapping private.json
    """
    from memtrace import compiled
    from memtrace.progress import Progress
    from memtrace.trace.anonymize import Anonymiser
    from memtrace.trace.convert import check_mapping, check_target, convert
    from memtrace.trace.source import open_trace

    compiled.check()
    check_target(source, target, force)
    if mapping is not None:
        if not anonymize:
            raise click.UsageError("--mapping goes with --anonymize, which was not given.")
        check_mapping(mapping, source, target, force=force)
    # What is to become Parquet, and is not to be changed, can be written while it is read.
    keep = Path(target) if target.endswith(".parquet") and not anonymize else None
    with Progress("reading", unit="B") as reading:
        reader = open_trace(source, progress=reading, symbols=kallsyms, keep=keep)
    with reader:
        anonymiser = None
        if anonymize:
            with Progress("looking for what is private") as looking:
                anonymiser = Anonymiser(reader, looking)
        with Progress("writing") as writing:
            rows = convert(reader, target, writing, anonymiser, force)
        click.echo(f"{target}: {rows:,} rows from {reader.format} {source}")
        for cause, count in sorted(reader.problems.items()):
            place = reader.problem_rows.get(cause, 0)
            first = f", first at {'row' if reader.format == 'parquet' else 'line'} {place:,}" if place else ""
            click.echo(f"  {cause}: {count:,}{first}")
        if anonymiser is not None:
            click.echo(f"  renamed: {anonymiser.renamed()}")
            if mapping is not None:
                anonymiser.write_mapping(mapping)
                click.echo(f"{mapping}: what stands for what; keep it to yourself")
