"""compare(): a grid of replays, run as far as they are not there yet, and what they say side by side."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from .. import __version__, compiled
from ..errors import ConfigError, MetricsError
from ..files import lasting_folder, place_for
from ..progress import Told, silent, told
from ..report.wording import for_notebook
from .cells import Done, Namer, source_digest
from .cluster import run_cells_on
from .conclusions import basis, findings
from .dataset import MEASURES_TABLE, write_dataset, write_measures
from .effect import parse_least
from .folder import CELLS, DATASET, STUDY, STUDY_FORMAT, alone, claim, replace_json, unfinished
from .grid import Cell, Grid, read_study
from .labels import Labels
from .measures import MEASURES
from .places import Copies, Remote, is_remote, local
from .pool import process_beside, run_cells
from .verdict import Winner, winners

if TYPE_CHECKING:
    from ..report.result import Run
    from .study_plots import StudyPlots



@dataclass(frozen=True, slots=True)
class Refused:
    """A cell that has no result, and why."""

    cell: str
    message: str
    bug: bool
    lost: bool = False
    """Its process died or found no memory: another time it may have one."""


class Study:
    """
    A finished study.

    Attributes
    ----------
    path
        Its folder; of a study at an address, a copy of it here.
    url
        Its address, if it has one.
    grid
        What was varied.
    ran
        Cells that had to be replayed now; the others were there.
    refused
        Cells without a result.

    Examples
    --------
    >>> study = compare("trace.parquet", allocator=["slub", "slab"], out="study")  # doctest: +SKIP
    >>> study.measures  # doctest: +SKIP
    """

    def __init__(self, path: Path, grid: Grid, cells: pd.DataFrame, refused: Sequence[Refused], ran: int) -> None:
        self.path, self.grid, self.refused, self.ran = path, grid, list(refused), ran
        self.url = ""
        self.measures = cells
        """One row a cell: cell, key, its axes, circumstance, choice, seed, random, and every measure."""
        self.least = parse_least(grid.least)
        self.winner_list: list[Winner] = winners(cells, grid, self.least)

    @property
    def winners(self) -> pd.DataFrame:
        """The table of winners: circumstance, measure, best, also, second, their values, margin_pct, p, verdict."""
        columns = ["circumstance", "measure", "best", "also", "second", "value", "second_value", "margin_pct", "p",
                   "verdict"]
        return pd.DataFrame([[w.circumstance, w.measure.name, w.best, list(w.also), w.second, w.value, w.second_value,
                              w.margin_pct, w.p, w.verdict] for w in self.winner_list], columns=columns)

    @property
    def conclusions(self) -> list[str]:
        """What follows, in plain sentences."""
        return [*findings(self.winner_list), *self.basis]

    @property
    def basis(self) -> list[str]:
        """What the conclusions rest on; they end with it."""
        return basis(self.measures, self.grid, self.least)

    def table(self, name: str) -> pd.DataFrame:
        """One table of docs/metrics.md over all cells, the cell's number and axes in front."""
        place = self.path / DATASET / f"{name}.parquet"
        if not place.is_file():
            known = ", ".join(sorted(file.stem for file in place.parent.glob("*.parquet")))
            raise MetricsError(f"{place}: no such table; expected one of {known}.")
        return pd.read_parquet(place)

    def run(self, cell: int) -> Run:
        """The run folder of one cell, by its number in ``measures``."""
        from ..report.result import Run

        keys = self.measures.loc[self.measures["cell"] == cell, "key"]
        if keys.empty:
            raise MetricsError(f"{self.path}: no cell {cell} with a result; `measures` lists them.")
        return Run(self.path / CELLS / str(keys.iloc[0]))

    @property
    def plot(self) -> StudyPlots:
        """The report's figures: ``study.plot.slab_memory()``, ``study.plot.measure("hit_pct", ax=axes)``."""
        from .study_plots import StudyPlots

        return StudyPlots(self)

    def __repr__(self) -> str:
        varied = ", ".join(f"{len(self.grid.axes()[axis])} of {axis}" for axis in self.grid.varied())
        return f"<memtrace.Study of {len(self.measures)} replays{': ' if varied else ''}{varied}; {self.path}>"

    def _repr_html_(self) -> str:
        """For Jupyter: the sentences, the table of winners, and where the report is."""
        from .page import winner_table

        said = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.conclusions)
        report = self.path / "report.html"
        where = f"<p>Report: <code>{html.escape(str(report))}</code></p>" if report.is_file() else ""
        return for_notebook(said, winner_table(self), where)


def compare(
    traces: str | Path | Sequence[str | Path],
    *,
    allocator: str | Sequence[str] = "slub",
    kernel: str | Sequence[str] = "6.1",
    machine: str | Sequence[str] | None = None,
    cpus: int | Sequence[int] | None = None,
    memory: str | Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    start: str | Path | Mapping[str | Path, str | Path] | None = None,
    timing: str = "recorded",
    speed: float = 1.0,
    window: str | None = None,
    gfp_bits: str = "6.1",
    sample: str | None = None,
    replications: int = 5,
    pool_traces: bool = False,
    least: Sequence[str] = (),
    jobs: int = 1,
    cluster: str | None = None,
    out: str | Path | None = None,
    force: bool = False,
    report: bool = True,
    progress: Told | None = None,
) -> Study:
    """
    Replay traces under every combination of what is given as a list, and compare.

    Parameters
    ----------
    traces
        One trace or several; or a study file (``.toml``), which then says all but ``jobs``, ``out`` and ``force``.
    settings
        By ``component.name`` one value or a list, as ``--set``.
    start
        A snapshot that all traces start at, or by trace its own; traces not named start at a fresh boot.
    least
        Smallest differences that count: ``2%`` for all measures, ``peak_slab_bytes=64K`` for one.
    replications
        Seeds of cells that leave something to chance (``slub.freelist_random``); other cells run once.
    pool_traces
        The traces are recordings of one workload.
    jobs
        Processes; a script that asks for several needs ``if __name__ == "__main__":`` around what it does.
    cluster
        Address or file of a Dask scheduler, whose workers replay instead of processes here.
    out
        The study's folder, or an address such as s3://bucket/name; a temporary folder when not given. Cells that are in
        it already are not run again.
    force
        Put this study in the place of another one there; its cells stay where they fit.

    Raises
    ------
    ConfigError, TraceError
        The input is wrong; or no cell at all can be replayed.
    MetricsError
        The folder cannot be read or written.
    """
    paths = [traces] if isinstance(traces, str | Path) else list(traces)
    if len(paths) == 1 and str(paths[0]).endswith(".toml"):
        grid = read_study(paths[0])
    else:
        starts = {str(trace): str(place) for trace, place in start.items()} if isinstance(start, Mapping) else {}
        common = None if start is None or isinstance(start, Mapping) else str(start)
        given = {"start": common, "timing": timing, "speed": speed, "window": window,
                 "gfp_bits": gfp_bits, "sample": sample}
        usual = {"start": None, "timing": "recorded", "speed": 1.0, "window": None, "gfp_bits": "6.1", "sample": None}
        grid = Grid(
            tuple(map(str, paths)), _many(allocator), _many(kernel), _many(machine), _many(cpus), _many(memory),
            {key: tuple(map(_setting, _many(value))) for key, value in (settings or {}).items()},
            replications, pool_traces, {key: value for key, value in given.items() if value != usual[key]}, starts,
            tuple(least),
        )  # fmt: skip
    with place_for(out, "study") as place, told(progress, "cells") as telling:
        return run_study(grid, place, jobs=jobs, cluster=cluster, force=force, report=report, progress=telling)


def run_study(grid: Grid, out: str | Path, *, jobs: int = 1, cluster: str | None = None, force: bool = False,
              report: bool = True, progress: Told | None = None) -> Study:
    """Run what is missing of a grid's cells, then write dataset, study.json and report; see ``compare``."""
    if is_remote(out):
        return _run_remote(grid, str(out), jobs=jobs, cluster=cluster, force=force, report=report, progress=progress)
    folder = Path(str(out).removeprefix("file://"))
    return _run(grid, folder, str(folder / CELLS), jobs, cluster, force, report, progress)


def _run_remote(grid: Grid, url: str, **how: Any) -> Study:
    """A study at an address: cells go there as they are done, the rest when all of it is complete."""
    with lasting_folder("memtrace-study-") as folder:
        return _run_mirrored(grid, Remote(url), folder / "study", **how)


def _run_mirrored(grid: Grid, remote: Remote, mirror: Path, **how: Any) -> Study:
    """A study at an address, whose other results than cells are written here first."""
    if remote.exists(STUDY):
        remote.get(STUDY, mirror / STUDY)
    elif not remote.empty():
        raise ConfigError(f"{remote.url}: holds other things than a study; expected an empty place for -o. "
                          "Give another name.")
    claim(mirror, grid, how["force"])
    remote.put({STUDY: mirror / STUDY})
    study = _run(grid, mirror, f"{remote.url}/{CELLS}", how["jobs"], how["cluster"], how["force"], how["report"],
                 how["progress"])
    files = {path.relative_to(mirror).as_posix(): path for path in sorted(mirror.rglob("*")) if path.is_file()}
    remote.put({name: path for name, path in files.items() if not name.startswith(f"{CELLS}/") and name != STUDY})
    remote.put({STUDY: mirror / STUDY})
    study.url = remote.url
    return study


def _run(grid: Grid, folder: Path, place: str, jobs: int, cluster: str | None, force: bool, report: bool,
         progress: Told | None) -> Study:
    """Run a study whose cells are at ``place``; all else is written to ``folder``."""
    if jobs < 1:
        raise ConfigError(f"-j {jobs}: expected one process at least.")
    parse_least(grid.least)  # what is wrong there is said before anything is run
    compiled.check()
    with Copies() as copies:
        namer = Namer(copies)
        work = [(cell, namer.key(cell)) for cell in grid.cells()]
        with alone(folder):
            claim(folder, grid, force)
            found = _results(grid, work, folder, place, jobs, cluster, progress or silent, copies)
            study = Study(folder, grid, *found)
            unfinished(folder)
            write_results(study, jobs, report)
    return study


def _results(grid: Grid, work: Sequence[tuple[Cell, str]], folder: Path, place: str, jobs: int, cluster: str | None,
             progress: Told, copies: Copies) -> tuple[pd.DataFrame, list[Refused], int]:
    """Run what is missing; the measures of all cells, those without a result, and how many were run."""
    once = {key: cell for cell, key in work}
    finished = 0

    def told(_: Done) -> None:
        nonlocal finished
        finished += 1
        progress("replaying", finished, len(once))

    progress("replaying", 0, len(once))
    todo = [(cell, key) for key, cell in once.items()]
    if cluster is not None:
        # The workers may stand elsewhere in the file system than we do.
        done = run_cells_on(cluster, [(cell.rooted(), key) for cell, key in todo], local(place), told)
    else:
        done = run_cells(todo, place, jobs, told, copies)
    refused = [Refused(name_cell(grid, cell), done[key].message, done[key].bug, done[key].lost)
               for cell, key in work if not done[key].measures]
    if len(refused) == len(work):
        raise ConfigError(f"no cell could be replayed; the first, {refused[0].cell}: {refused[0].message}")
    frame = measure_frame(grid, work, done)
    if is_remote(place):
        for key in dict.fromkeys(frame["key"]):
            Remote(place).get(str(key), folder / CELLS / str(key))
    progress("writing", 0, 1)
    return frame, refused, sum(d.ran and bool(d.measures) for d in done.values())


def name_cell(grid: Grid, cell: Cell) -> str:
    """A cell in a few words, by what varies."""
    said = [f"{axis} {cell.value(axis)}" for axis in grid.varied()] or [str(cell.value("trace"))]
    return ", ".join(said) + (f", seed {cell.seed}" if cell.random else "")


def measure_frame(grid: Grid, work: Sequence[tuple[Cell, str]], done: Mapping[str, Done]) -> pd.DataFrame:
    """One row a cell with a result."""
    rows = [{"cell": number, "key": key, **dict(cell.axes), "seed": cell.seed, "random": cell.random,
             **done[key].measures} for number, (cell, key) in enumerate(work) if done[key].measures]
    axes = list(grid.axes())
    frame = pd.DataFrame(rows, columns=["cell", "key", *axes, "seed", "random", *(m.name for m in MEASURES)])
    by_number = {number: cell for number, (cell, _) in enumerate(work)}
    names = Labels(grid)
    frame.insert(2, "circumstance", [names.circumstance(by_number[number]) for number in frame["cell"]])
    frame.insert(3, "choice", [names.choice(by_number[number]) for number in frame["cell"]])
    return frame


def write_results(study: Study, jobs: int = 1, report: bool = True) -> None:
    """Write dataset and page, with ``jobs`` > 1 at once; study.json last: it says that the rest is complete."""
    if report and jobs > 1:
        with process_beside() as beside:
            page = beside.submit(_write_page, study)
            _write_data(study, jobs)
            try:
                page.result()
            except BrokenProcessPool:  # the system kills a process when memory runs out
                _write_page(study)
    else:
        _write_data(study, jobs)
        if report:
            _write_page(study)
    replace_json(study.path / STUDY, {
        "memtrace_study": STUDY_FORMAT, "grid": json.loads(json.dumps(study.grid.as_dict())), "complete": True,
        "memtrace": __version__, "source": source_digest(), "cells": [str(key) for key in study.measures["key"]],
        "refused": [[refused.cell, refused.message] for refused in study.refused],
        "winners": [{key: _none(value) for key, value in row.items()} for row in study.winners.to_dict("records")],
        "conclusions": study.conclusions, "measures": f"{DATASET}/{MEASURES_TABLE}.parquet",
    })


def _write_page(study: Study) -> None:
    from .page import write_report

    write_report(study)


def _write_data(study: Study, jobs: int) -> None:
    axes = list(study.grid.axes())
    cells = study.measures.to_dict("records")
    columns = [{"cell": int(row["cell"]), **{axis: _none(row[axis]) for axis in axes}, "seed": int(row["seed"])}
               for row in cells]
    write_dataset(study.path / DATASET, study.path / CELLS, columns, [str(row["key"]) for row in cells], jobs)
    write_measures(study.path / DATASET, [{key: _none(value) for key, value in row.items()} for row in cells])


def _none(value: Any) -> Any:
    """Missing values as None, whatever pandas made of them."""
    return None if value is None or value != value else value


def _many(value: Any) -> tuple[Any, ...]:
    """One value or several, as several."""
    if value is None or isinstance(value, str | Path | int | float):
        return (value,)
    return tuple(value)


def _setting(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
