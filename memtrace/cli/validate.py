"""``memtrace validate``: the model against a recorded kernel."""

from __future__ import annotations

import json
import sys

import click

DEFAULT_KERNEL = "6.1"
LEGEND = ("wrong: decisions that the model made otherwise or, of counts, the sum of all absolute differences; "
          "equal: 1 - wrong / compared.")  # fmt: skip


@click.command("validate")
@click.argument("trace")
@click.option("--snapshots", metavar="DIR",
              help="Folder of snapshot folders, or one of them. [default: what lies beside TRACE]")
@click.option("--start", "begin", metavar="NAME", help="Snapshot to start from. [default: the first after boot]")
@click.option("-o", "--out", metavar="DIR", help="Folder for the table and the free-running replay. [default: none]")
@click.option("--force", "--overwrite", is_flag=True, help="Replace what an earlier validation wrote to -o.")
@click.option("--forced", "ways", flag_value="forced", help="Only force the model along the recording.")
@click.option("--free-running", "ways", flag_value="free", help="Only let it run freely.")
@click.option("--allocator", metavar="NAME", help="Slab allocator that was recorded. [default: as the snapshots show]")
@click.option("--kernel", metavar="VERSION",
              help="Kernel that was recorded. [default: as the snapshots show, else 6.1]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a tunable: slub.cpu_partial=0.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def command(
    trace: str, snapshots: str | None, begin: str | None, out: str | None, force: bool, ways: str | None,
    allocator: str | None, kernel: str | None, settings: tuple[str, ...], as_json: bool,
) -> None:
    """Hold the model against the kernel that TRACE recorded, and print the fidelity table.

    In two ways. Forced: recorded requests at their recorded places drive the model, and after a wrong prediction the
    recorded outcome is put in its place, so that each decision is judged by itself; this needs an exact dump to start
    from, which only an instrumented kernel writes. Free-running: an ordinary replay, whose counts are compared at each
    snapshot; what `memtrace record` wrote is judged so.

    \b
    memtrace validate build.parquet
    memtrace validate trace.parquet --snapshots snapshots -o runs/check
    """
    from memtrace import compiled
    from memtrace.fidelity.recording import read_recording
    from memtrace.fidelity.validate import validate
    from memtrace.metrics.run_folder import check_destination
    from memtrace.progress import Stages
    from memtrace.snapshot.beside import found_beside, recorded_kernel

    compiled.check()
    if out is not None:
        check_destination(out, force)  # before anything is read, or said
    found = []
    if snapshots is None and (beside := found_beside(trace)) is not None:
        snapshots = str(beside)
        found.append(f"snapshots: those beside the trace, in {snapshots}")
    if kernel is None:
        known = recorded_kernel(snapshots) if snapshots is not None else None
        kernel = known.profile if known is not None else DEFAULT_KERNEL
        found.append(f"kernel: {kernel} ({known.why if known is not None else 'nothing shows which was recorded'})")
    recording = read_recording(trace, snapshots, allocator=allocator, kernel=kernel, settings=settings, begin=begin)
    click.echo("".join(f"{line}\n" for line in found), nl=False, err=True)
    with Stages() as progress:
        table = validate(
            recording, forced=ways != "free", free_running=ways != "forced", out=out, force=force,
            progress=progress, command=sys.argv[1:],
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps(table.as_dict(), indent=1, ensure_ascii=False))
    else:
        click.echo("\n".join([*table.text(), "", LEGEND]))
    if out is not None:
        click.echo(f"written to {out}", err=True)
    if notice := compiled.notice():
        click.echo(notice, err=True)
