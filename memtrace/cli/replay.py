"""``memtrace replay``: run a trace through the model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click


# Each option is called as the argument of `memtrace.replay` that it becomes.
@click.command("replay")
@click.argument("trace")
@click.option("-o", "--out", metavar="DIR", help="Run folder to write. [default: run-NAME beside you, numbered]")
@click.option("--force", is_flag=True, help="Replace the run folder if it exists.")
@click.option("--allocator", default="slub", show_default=True, metavar="NAME",
              help="Slab allocator to model: slub, slab or slob.")
@click.option("--kernel", default="6.1", show_default=True, metavar="VERSION", help="Kernel whose rules to follow.")
@click.option("--machine", metavar="PRESET|FILE", help="Machine preset or TOML file. [default: as the trace shows]")
@click.option("--cpus", type=click.IntRange(1, 4096), metavar="N", help="Number of CPUs.")
@click.option("--memory", metavar="SIZE", help="Memory, like 512M.")
@click.option("--nodes", type=click.IntRange(1, 64), metavar="N", help="Number of NUMA nodes.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a tunable: slub.cpu_partial=0.")
@click.option("--from", "start", metavar="DIR", help="Start at this snapshot instead of at a fresh boot.")
@click.option("--sample", metavar="TIME", help="Simulated time between samples: 10ms. [default: about 200 samples]")
@click.option("--time", "window", metavar="A,B", help="Replay only rows between these times, like 1s,2.5s.")
@click.option("--gfp-bits", default="6.1", show_default=True, metavar="VERSION",
              help="Kernel that numeric gfp flags come from: 2.6.24, 4.19, 6.1, 6.18.")
@click.option("--hotplug", multiple=True, metavar="EVENTS", help="Take CPUs offline and online: 'cpu3 off @1.5s'.")
@click.option("--timing", default="recorded", show_default=True, metavar="MODE",
              help="When operations start: as recorded, or closed.")
@click.option("--speed", type=float, default=1.0, show_default=True, metavar="X",
              help="With --timing closed: multiply the gaps between operations; 0 leaves none.")
@click.option("--engine", default="fused", show_default=True, metavar="NAME", help="fused, or the slow reference.")
@click.option("--check", is_flag=True, help="Run the model's validators every 100,000 operations and at the end.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of what the model leaves to chance.")
@click.option("--no-report", "report", is_flag=True, flag_value=False, default=True, help="Write the tables only.")
def command(trace: str, out: str | None, **options: Any) -> None:
    """Replay TRACE through the model and write a run folder.

    TRACE is Parquet, CSV, ftrace text or perf script text, plain or compressed; - is standard input. Prints the
    numbers that matter and where the report lies.

    \b
    memtrace replay traces/hello.csv
    memtrace replay trace.parquet --from snapshots/start -o runs/a
    memtrace replay trace.parquet --cpus 8 --memory 1G --set slub.cpu_partial=0 -o runs/b
    """
    from memtrace import compiled
    from memtrace.progress import Stages
    from memtrace.run import replay

    compiled.check()
    folder = Path(out) if out is not None else _free_name(trace)
    with Stages() as progress:
        run = replay(trace, out=folder, progress=progress, command=sys.argv[1:], **options)
    for line in summary(run.path, report=options["report"]):
        click.echo(line)
    if notice := compiled.notice():
        click.echo(notice, err=True)


def _free_name(trace: str) -> Path:
    """``run-NAME``, or with the first number that is free."""
    stem = Path(trace).name.split(".")[0] if trace != "-" else "stdin"
    name = f"run-{stem}"
    number = 1
    while Path(name).exists():
        number += 1
        name = f"run-{stem}-{number}"
    return Path(name)


def summary(folder: Path, report: bool) -> list[str]:
    """What to tell about a finished run: the headline, what was left out, and where to look."""
    from memtrace.report.frames import RunFrames
    from memtrace.report.headline import headline
    from memtrace.run import UNUSED

    run = RunFrames(folder)
    manifest = run.manifest
    timings = manifest["timings"]
    seconds = sum(timings.values())
    lines = [f"{manifest['operations']:,} operations of {manifest['trace']['rows']:,} rows, from {manifest['start']}"]
    lines += [f"  {card.what + ':':<32} {card.value:<12} {card.more}" for card in headline(run)]
    lines += [f"    {n:,}: {manifest['causes'].get(cause, cause)}"
              for cause, n in manifest["counts"].items() if cause in UNUSED]
    lines += [f"  note: {note}" for note in manifest["notes"]]
    lines.append(f"in {seconds:.1f} s; written to {folder}")
    if report:
        lines.append(f"report: {folder / 'report.html'}")
    return lines
