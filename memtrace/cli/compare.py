"""``memtrace compare``: two runs side by side, or a study over a grid of replays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from memtrace.compare.grid import Grid
    from memtrace.compare.study import Study

EXIT_BOUND = 3
"""A condition of --fail-if holds; not 1, which is wrong input."""
SENTENCES = 24
"""Printed; all of them are in the report."""
EXIT_INCOMPLETE = 1
"""A replay's process died, so that the same command has something left to do."""
EXIT_BUG = 70


@click.command("compare")
@click.argument("paths", nargs=-1, required=True, metavar="RUN_A RUN_B | TRACE... | STUDY.toml")
@click.option("--fail-if", "bounds", multiple=True, metavar="CONDITION",
              help="Of two runs: exit with 3 when this holds of the change from A to B: 'waste_pct>+2%'.")
@click.option("--top", type=click.IntRange(0), default=10, show_default=True, metavar="N",
              help="Of two runs: rows of each table to print.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--allocator", metavar="LIST", help="Slab allocators, like slub,slab,slob. [default: slub]")
@click.option("--kernel", metavar="LIST", help="Kernels, like 2.6.24,6.1,6.18. [default: 6.1]")
@click.option("--machine", metavar="LIST", help="Machine presets or TOML files. [default: as each trace shows]")
@click.option("--cpus", metavar="LIST", help="Numbers of CPUs, like 1,4.")
@click.option("--memory", metavar="LIST", help="Memory sizes, like 256M,512M.")
@click.option("--set", "settings", multiple=True, metavar="KEY=LIST", help="Tunable values: slub.cpu_partial=0,30.")
@click.option("--from", "starts", multiple=True, metavar="[TRACE=]DIR",
              help="Start at this snapshot instead of at a fresh boot; with TRACE= this trace only.")
@click.option("--sample", metavar="TIME", help="Simulated time between samples. [default: about 200 samples]")
@click.option("--time", "window", metavar="A,B", help="Replay only rows between these times, like 1s,2.5s.")
@click.option("--timing", metavar="MODE", help="recorded or closed. [default: recorded]")
@click.option("--speed", type=float, metavar="X", help="With --timing closed: multiply the gaps. [default: 1]")
@click.option("--gfp-bits", metavar="VERSION", help="Kernel that numeric gfp flags come from. [default: 6.1]")
@click.option("--replications", type=click.IntRange(1, 1000), metavar="N",
              help="Seeds of replays that leave something to chance; others run once. [default: 5]")
@click.option("--least", multiple=True, metavar="[MEASURE=]AMOUNT",
              help="Smallest difference that counts: 2%, or of one measure peak_slab_bytes=64K. [default: 1%, and see "
                   "docs/studies.md]")
@click.option("--pool-traces", is_flag=True, help="The traces are recordings of one workload: replications.")
@click.option("-j", "--jobs", type=click.IntRange(1, 1024), default=1, show_default=True, metavar="N",
              help="Replays at a time, each in a process.")
@click.option("--dask", "cluster", metavar="ADDRESS|FILE",
              help="Replay on the workers of a Dask scheduler: tcp://host:8786, or its file.")
@click.option("-o", "--out", metavar="DIR",
              help="The study's folder, or s3://…. Needed for a study; replays in it are kept.")
@click.option("--force", is_flag=True, help="Put this study in the place of another one in the folder.")
def command(paths: tuple[str, ...], bounds: tuple[str, ...], top: int, as_json: bool, jobs: int, cluster: str | None,
            out: str | None, force: bool, **given: Any) -> int:
    """Compare two run folders, or replay traces under every combination of lists and compare those.

    Two runs: prints the numbers that a run is judged by, then caches, call sites, zones and latency paths, each sorted
    by how much changed from A to B. A condition of --fail-if is MEASURE>BOUND or MEASURE<BOUND; a bound with a sign is
    about the change from A to B (with %: in percent of A), one without about B.

    A study: lists have commas, a study file (TOML) says the same and more. Replays are kept in the study's folder by
    their content; the same command, run again after whatever stopped it, runs only what is missing. Writes
    DIR/report.html and DIR/dataset/*.parquet and prints what follows.

    \b
    memtrace compare runs/a runs/b
    memtrace compare runs/a runs/b --fail-if 'waste_pct>+2%' --fail-if 'failures>+0' --json
    memtrace compare traces/hello.csv --allocator slub,slab,slob -o study
    memtrace compare a.parquet b.parquet --set slub.cpu_partial=0,30 --cpus 1,4 --memory 512M -j 2 -o study
    memtrace compare a.parquet b.parquet --from a.parquet=snap-a --from b.parquet=snap-b --kernel 6.1,6.18 -o study
    memtrace compare s3://traces/a.parquet --allocator slub,slab --dask tcp://head:8786 -o s3://results/study
    """
    from memtrace.metrics.run_folder import MANIFEST

    asked = {key: value for key, value in given.items() if value not in (None, (), False)}
    study = bool(asked) or out is not None or any(path.endswith(".toml") for path in paths)
    if not study and all(Path(path, MANIFEST).is_file() for path in paths):
        if len(paths) != 2:
            raise click.UsageError(f"{len(paths)} run folder{'s' if len(paths) != 1 else ''}; expected two.")
        return two_runs(paths[0], paths[1], bounds, top, as_json)
    folders = {path: Path(path, MANIFEST).is_file() for path in paths if Path(path).is_dir()}
    if folders:
        path = min(folders, key=lambda folder: folders[folder])  # first what is not even a run
        what = "run folder, and not one of two" if folders[path] else f"folder without a {MANIFEST}"
        raise click.UsageError(f"{path}: a {what}; expected two run folders without options of a study, or traces.")
    if bounds:
        raise click.UsageError("--fail-if is for two run folders; a study's verdicts are in DIR/study.json.")
    if out is None:
        raise click.UsageError("a study needs -o DIR, where its replays are kept; for two runs, give two run folders.")
    return run_a_study(paths, asked, jobs, cluster, out, force, as_json)


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


def run_a_study(paths: tuple[str, ...], asked: dict[str, Any], jobs: int, cluster: str | None, out: str, force: bool,
                as_json: bool) -> int:
    """Run a study and print what follows; the exit code."""
    from memtrace.compare.pool import prepare
    from memtrace.ending import Ended
    from memtrace.progress import Progress

    if jobs > 1 and cluster is None:
        prepare()
    from memtrace.compare.study import run_study

    grid = _grid(paths, asked)
    try:
        with Progress("replaying", unit="cells") as bar:
            study = run_study(grid, out, jobs=jobs, cluster=cluster, force=force,
                              progress=lambda doing, done, total: bar(done, total) if doing == "replaying" else None)
    except (KeyboardInterrupt, Ended):
        click.echo(f"memtrace: finished replays are in {out}; the same command runs only what is missing.", err=True)
        raise
    if as_json:
        click.echo((study.path / "study.json").read_text(encoding="utf-8"), nl=False)
    else:
        click.echo("\n".join(_text(study)))
    for refused in study.refused:
        click.echo(f"memtrace: not replayed: {refused.cell}: {refused.message}", err=True)
    if any(refused.bug for refused in study.refused):
        return EXIT_BUG
    return EXIT_INCOMPLETE if any(refused.lost for refused in study.refused) else 0


def _grid(paths: tuple[str, ...], asked: dict[str, Any]) -> Grid:
    from memtrace.compare.grid import COMMON, Grid, read_study, split_settings, split_starts

    if any(path.endswith(".toml") for path in paths):
        if len(paths) > 1 or asked:
            raise click.UsageError("a study file says everything; only -j, -o, --force and --json go with it.")
        return read_study(paths[0])
    lists: dict[str, Any] = {axis: tuple(part.strip() for part in asked[axis].split(","))
                             for axis in ("allocator", "kernel", "machine", "memory") if axis in asked}
    if "cpus" in asked:
        try:
            lists["cpus"] = tuple(int(part) for part in asked["cpus"].split(","))
        except ValueError:
            raise click.UsageError(f"--cpus {asked['cpus']}: expected whole numbers with commas, like 1,4.") from None
    common = {key: asked[key] for key in COMMON if key in asked}
    start, starts = split_starts(asked.get("starts", ()), paths)
    if start is not None:
        common["start"] = start
    return Grid(paths, **lists, settings=split_settings(asked.get("settings", ())),
                replications=asked.get("replications", 5), pool_traces=asked.get("pool_traces", False),
                common=common, starts=starts, least=asked.get("least", ()))


def _text(study: Study) -> list[str]:
    """The study in a few lines."""
    from memtrace.compare.conclusions import table_text

    cells, replays = len(study.measures), len(set(study.measures["key"]))
    what = f"{cells} replays" if cells == replays else f"{cells} cells, {replays} different replays"
    said = study.conclusions
    left = [f"{len(said) - SENTENCES} more sentences in the report"] if len(said) > SENTENCES else []
    place = study.url or study.path
    return [f"{what}: {study.ran} run now, {replays - study.ran} were there, {len(study.refused)} refused", "",
            *table_text(study.winner_list), "", *said[:SENTENCES], *left, "",
            f"dataset: {place}/dataset", f"report: {place}/report.html"]
