"""``memtrace compare``: two runs side by side."""

from __future__ import annotations

import json

import click

EXIT_BOUND = 3
"""A condition of --fail-if holds; not 1, which is wrong input."""


@click.command("compare")
@click.argument("paths", nargs=-1, required=True, metavar="RUN_A RUN_B")
@click.option("--fail-if", "bounds", multiple=True, metavar="CONDITION",
              help="Exit with 3 when this holds of the change from A to B: 'waste_pct>+2%'.")
@click.option("--top", type=click.IntRange(0), default=10, show_default=True, metavar="N",
              help="Rows of each table to print.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(paths: tuple[str, ...], bounds: tuple[str, ...], top: int, as_json: bool) -> int:
    """Compare two run folders: what changed from A to B.

    Prints the numbers that a run is judged by, then caches, call sites, zones and latency paths, each sorted by how
    much changed. A condition of --fail-if is MEASURE>BOUND or MEASURE<BOUND; a bound with a sign is about the change
    from A to B (with %: in percent of A), one without about B.

    \b
    memtrace compare runs/a runs/b
    memtrace compare runs/a runs/b --fail-if 'waste_pct>+2%' --fail-if 'failures>+0' --json
    """
    if len(paths) != 2:
        raise click.UsageError(f"{len(paths)} path{'s' if len(paths) != 1 else ''}; expected two run folders.")
    return two_runs(paths[0], paths[1], bounds, top, as_json)


def two_runs(a: str, b: str, bounds: tuple[str, ...], top: int, as_json: bool) -> int:
    """Print the comparison of two run folders; the exit code."""
    from memtrace.compare.gate import parse_gate
    from memtrace.compare.two_runs import compare_runs
    from memtrace.report.frames import RunFrames

    gates = [parse_gate(bound) for bound in bounds]
    difference = compare_runs(RunFrames(a), RunFrames(b), (a, b))
    broken = [gate for gate in gates if gate.broken(difference.a[gate.measure.name], difference.b[gate.measure.name])]
    if as_json:
        content = {**difference.as_dict(), "failed": [gate.text for gate in broken]}
        click.echo(json.dumps(content, indent=1, ensure_ascii=False))
    else:
        click.echo("\n".join(difference.text(top)))
    for gate in broken:
        name = gate.measure.name
        click.echo(f"memtrace: failed: {gate.sentence(difference.a[name], difference.b[name])}", err=True)
    return EXIT_BOUND if broken else 0
