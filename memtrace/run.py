"""
replay(): the only place that knows trace, schedule, model and metrics together. Read it and you know the system.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__, compiled
from .config import KernelConfig, ReplayConfig
from .errors import ConfigError
from .files import place_for
from .hotplug import HotplugEvent, parse_hotplug
from .kernels import check_allocator, load_kernel
from .progress import Told, silent, told
from .report.result import Run
from .start import Start, choose_start, complete, lay_out_start
from .units import format_time, parse_size, parse_time

if TYPE_CHECKING:
    from .schedule.clock import Played
    from .schedule.dispatch import Dispatcher
    from .trace.kept import KeptTraces, ReadTrace
    from .trace.requests import Census

CHECK_EVERY = 100_000
REPLAYED = ("ts_ns", "cpu", "task", "event", "call_site", "ptr", "name", "bytes_req", "bytes_alloc", "gfp_flags",
            "node", "order", "migratetype", "pfn", "ctx", "text")
"""Columns of a trace that a replay reads: requests, and what tells what belongs together."""
MAX_SPEED = 1e6
MAX_SEED = (1 << 31) - 1
KEPT_BYTES = 128 << 20
"""Memory for the requests of a trace that replays have in common: about two million of them."""
MAP_SAMPLES = 60
"""The map of physical memory looks at every page, so it is taken less often than the rest."""


def replay(
    trace: str | Path,
    *,
    allocator: str = "slub",
    kernel: str = "6.1",
    machine: str | Path | None = None,
    cpus: int | None = None,
    memory: str | int | None = None,
    nodes: int | None = None,
    settings: Sequence[str] = (),
    start: str | Path | None = None,
    out: str | Path | None = None,
    force: bool = False,
    sample: str | int | None = None,
    timing: str = "recorded",
    speed: float = 1.0,
    engine: str = "fused",
    check: bool = False,
    window: str | None = None,
    hotplug: Sequence[str] = (),
    gfp_bits: str = "6.1",
    seed: int = 0,
    report: bool = True,
    progress: Told | None = None,
    command: Sequence[str] = (),
    traces: KeptTraces | None = None,
) -> Run:
    """
    Replay a trace through the model and write a run folder.

    Parameters
    ----------
    trace
        Any format of docs/trace-formats.md; ``-`` is standard input.
    machine, cpus, memory, nodes
        A preset or TOML file, or sizes; as the trace shows when none is given.
    settings
        ``component.name=value``, as ``--set``.
    start
        A snapshot folder to start from, instead of a freshly booted machine.
    out
        The run folder; a temporary one when not given.
    sample
        Simulated time between samples, like ``10ms``; about 200 samples when not given.
    timing, speed
        ``recorded``: operations are decided in the trace's order, at its times. ``closed``: a CPU's next one begins
        when its last has ended and the recorded gap, times ``speed``, has passed; 0 leaves no gaps.
    check
        Run the validators every 100,000 operations and at the end.
    window
        ``A,B``: only rows between these times.
    hotplug
        CPUs that go offline or come online besides those of the trace: ``cpu3 off @1.5s``.
    gfp_bits
        Kernel whose bits the trace's gfp flags are, where they are numbers: 2.6.24, 4.19, 6.1 or 6.18.
    progress
        Called with (what is being done, rows done, rows in all). Without it a notebook shows a bar.
    traces
        Of ``keep_traces()``: what replays have in common that read the same trace one after the other.

    Raises
    ------
    ConfigError, TraceError
        The input is wrong.
    ModelError
        The model broke one of its rules (``check``).
    """
    from .metrics.run_folder import check_destination, create
    from .trace.kept import KeptTraces

    compiled.check()
    kernel_config = kernel_with(kernel, settings)
    check_allocator(kernel, allocator)
    _check_choices(allocator, timing, engine, gfp_bits)
    _check_speed(timing, speed, hotplug)
    sample_ns = parse_time(sample, "--sample") if sample is not None else None
    bytes_in_all = parse_size(memory, "--memory") if memory is not None else None
    _check_numbers(seed, sample_ns, bytes_in_all)
    job = _Job(
        trace=trace, kernel=kernel_config, allocator=allocator, engine=engine, check=check, seed=seed,
        sample_ns=sample_ns or 0, window=_window(window),
        hotplug=parse_hotplug(hotplug), gfp_bits=gfp_bits, timing=timing, speed=speed,
        cpus=cpus, memory=bytes_in_all, nodes=nodes,
        command=command,
    )
    with place_for(out, "run") as place:
        folder = Path(place)
        check_destination(folder, force)
        with create(folder, force) as new_run, told(progress) as job.progress:
            with nullcontext(traces) if traces is not None else KeptTraces() as kept:
                job.run(kept, new_run, start, machine)
            if report:
                from .report.page import write_report

                job.phase("report")
                write_report(new_run.folder)
        return Run(folder)


def keep_traces() -> KeptTraces:
    """
    What ``replay`` reads of a trace, kept for the next replay of it; close it, or use it as a context manager.

    >>> with keep_traces() as traces:  # doctest: +SKIP
    ...     runs = [replay("trace.parquet", settings=[f"pcp.batch={n}"], traces=traces) for n in (1, 31, 63)]
    """
    from .trace.kept import KeptTraces

    return KeptTraces(KEPT_BYTES)


def kernel_with(name: str, settings: Sequence[str]) -> KernelConfig:
    """A kernel profile with some of its tunables set (``component.name=value``)."""
    config = load_kernel(name)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f'--set {setting}: no "="; expected KEY=VALUE, like slub.cpu_partial=0.')
        config = config.with_setting(key.strip(), value.strip())
    return config


def _check_choices(allocator: str, timing: str, engine: str, gfp_bits: str) -> None:
    from .mm.boot import ALLOCATORS
    from .trace.gfp_eras import GFP_ERAS

    for option, value, known in (
        ("--allocator", allocator, ALLOCATORS),
        ("--timing", timing, ("recorded", "closed")),
        ("--engine", engine, ("fused", "reference")),
        ("--gfp-bits", gfp_bits, tuple(GFP_ERAS)),
    ):
        if value not in known:
            raise ConfigError(f'{option} "{value}": not modelled; this version knows {", ".join(known)}.')


def _check_numbers(seed: int, sample_ns: int | None, memory: int | None) -> None:
    if not -MAX_SEED <= seed <= MAX_SEED:
        raise ConfigError(f"--seed {seed}: expected -{MAX_SEED} to {MAX_SEED}.")
    if sample_ns == 0:
        raise ConfigError("--sample 0: expected 1 ns at least; leave it out for about 200 samples.")
    if memory == 0:
        raise ConfigError("--memory 0: expected the machine's memory, like 512M; leave it out for as much as recorded.")


def _check_speed(timing: str, speed: float, hotplug: Sequence[str]) -> None:
    if not 0 <= speed <= MAX_SPEED:
        raise ConfigError(f"--speed {speed:g}: expected 0 to {MAX_SPEED:g}, by which gaps are multiplied.")
    if timing != "closed" and speed != 1:
        raise ConfigError(f"--speed {speed:g}: recorded timing has the trace's own times; use --timing closed.")
    if timing == "closed" and hotplug:
        raise ConfigError("--hotplug with --timing closed: not modelled together; leave one of them away.")


def _window(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    begin, comma, end = text.partition(",")
    if not comma:
        raise ConfigError(f'--time "{text}": one time; expected two with a comma, like 1s,2.5s.')
    window = (parse_time(begin or "0s", "--time"), parse_time(end, "--time") if end else (1 << 62))
    if window[0] >= window[1]:
        raise ConfigError(f'--time "{text}": ends before it begins; expected the earlier time first.')
    return window


class _Job:
    """One call of ``replay``: the phases, one after the other, and the time each took."""

    def __init__(self, **given: Any) -> None:
        self.trace: str | Path = given["trace"]
        self.kernel: KernelConfig = given["kernel"]
        self.allocator: str = given["allocator"]
        self.engine: str = given["engine"]
        self.timing: str = given["timing"]
        self.speed: float = given["speed"]
        self.check: bool = given["check"]
        self.seed: int = given["seed"]
        self.sample_ns: int = given["sample_ns"]
        self.window: tuple[int, int] | None = given["window"]
        self.cpus: int | None = given["cpus"]
        self.memory: int | None = given["memory"]
        self.nodes: int | None = given["nodes"]
        self.hotplug: tuple[HotplugEvent, ...] = given["hotplug"]
        self.gfp_bits: str = given["gfp_bits"]
        self.progress: Told = silent
        self.command: Sequence[str] = given["command"]
        self.timings: dict[str, float] = {}
        self._phase = ""
        self._since = time.perf_counter()

    def phase(self, name: str) -> None:
        """Begin a phase; the time since the last beginning belongs to the last one."""
        now = time.perf_counter()
        if self._phase:
            self.timings[self._phase] = self.timings.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = name, now

    def run(
        self, traces: KeptTraces, new_run: Any, start_folder: str | Path | None, machine: str | Path | None
    ) -> None:
        self.phase("open")
        trace = traces.open(self.trace, REPLAYED, self.gfp_bits,
                            lambda done, total: self.progress("reading", done, total))
        start = choose_start(trace.reader, start_folder, machine, self.cpus, self.memory, self.nodes)
        self.phase("census")
        rows = trace.reader.rows or 0
        census = trace.census(start.row, self.window, lambda done: self.progress("reading", done, rows))
        if self.window is not None and not census.rows:
            begin, end = self.window
            raise ConfigError(f"--time {format_time(begin)},{format_time(end)}: no row of the trace is that late; "
                              "expected a time within it. `memtrace info` says how long it is.")
        self.phase("layout")
        machine_config = complete(start, census, self.cpus, self.memory, self.nodes)
        model, cache_map, notes = lay_out_start(start, census, self.kernel, self.seed, self.allocator)
        config = ReplayConfig(
            machine=machine_config, kernel=self.kernel, allocator=self.allocator, timing=self.timing,
            speed=self.speed, engine=self.engine, sample_ns=self.sample_ns,
            check_every=CHECK_EVERY if self.check else 0, seed=self.seed,
            time_window_ns=self.window, hotplug=self.hotplug,
        )
        self._play(new_run, trace, start, census, model, cache_map, notes, config)

    def _play(
        self, new_run: Any, trace: ReadTrace, start: Start, census: Census, model: Any, cache_map: Any,
        notes: list[str], config: ReplayConfig,
    ) -> None:
        from .metrics.recorder import Recorder
        from .metrics.tables import TableWriters
        from .mm.vmstat import VmStat
        from .schedule.clock import play, round_sample_ns
        from .schedule.costs import CostTable
        from .schedule.daemons import make_daemons
        from .schedule.dispatch import Dispatcher
        from .schedule.hotplug import Hotplug
        from .trace.fold import Fold

        reader = trace.reader
        dispatcher = Dispatcher(model, cache_map, [cache.name for cache in census.caches])
        dispatcher.create_start_objects(census)
        model.reset_statistics()
        fold = Fold(census, config.machine.cpus, config.machine.nodes)
        requests = trace.requests()
        costs = CostTable.load()
        sample_ns = config.sample_ns or round_sample_ns(census.span_ns)
        config = replace(config, sample_ns=sample_ns)
        self.phase("play")
        with TableWriters(new_run.metrics) as writers:
            recorder = Recorder(
                writers, model, VmStat(model), dispatcher, reader.vocab.text.names, reader.vocab.call_site.names,
                map_ns=max(1, census.span_ns // MAP_SAMPLES),
            )
            played = play(
                dispatcher, requests.folded(fold), costs, recorder, cpus=config.machine.cpus, nr_locks=model.nr_locks(),
                sample_ns=sample_ns, end_ns=census.end_ns, engine=self.engine, check_every=config.check_every,
                check=model.validate if self.check else None,
                progress=lambda row: self.progress("replaying", row + 1, reader.rows or 0),
                daemons=[Hotplug(dispatcher, config.hotplug), *make_daemons(model, config, self._followed(census))],
                speed=config.speed if config.timing == "closed" else None,
            )
            self.phase("write")
            recorder.finish(played.latency.columns(), played.locks.columns(), dispatcher.sites.columns())
        moved = dispatcher.counts()["moved_to_online_cpu"]
        if moved:
            notes = [*notes, f"{moved:,} operations of offline CPUs were done by the next online CPU of the same node, "
                             "or by the next online one where the node had none."]
        self._write_manifest(new_run, reader, start, census, notes + fold.notes, config, played, dispatcher,
                             requests.counts, costs, writers.rows)

    def _followed(self, census: Census) -> set[int]:
        """Nodes whose kswapd ran in the trace: its runs are requests, unless timing is closed."""
        return {node for _, node, _ in census.kswapd} if self.timing == "recorded" else set()

    def _write_manifest(
        self, new_run: Any, reader: Any, start: Start, census: Census, notes: list[str], config: ReplayConfig,
        played: Played, dispatcher: Dispatcher, paired: dict[str, int], costs: Any, rows: dict[str, int],
    ) -> None:
        from .metrics.manifest import manifest, versions
        from .schedule.causes import CAUSES as MODEL_CAUSES
        from .trace.causes import CAUSES as TRACE_CAUSES
        from .trace.causes import NOTED

        counts = {**reader.problems, **census.counts, **paired, **dispatcher.counts(), **played.left_out}
        causes = {**dict(TRACE_CAUSES), **NOTED, **dict(MODEL_CAUSES)}
        shown = str(self.trace)
        self.phase("manifest")
        new_run.write_manifest(manifest(
            config=config.as_dict(),
            command=self.command,
            versions=versions(__version__),
            compiled=compiled.status() == "compiled",
            trace={"path": Path(shown).name if shown != "-" else "-", "digest": reader.digest(), "rows": reader.rows,
                   "first_row": start.row, "span_ns": census.span_ns, "format": reader.format, "cpus": census.cpus,
                   "object_parted_row": dispatcher.object_parted_row,
                   "page_parted_row": dispatcher.page_parted_row},
            start=start.sentence,
            counts={cause: n for cause, n in counts.items() if n},
            causes={cause: causes[cause] for cause, n in counts.items() if n and cause in causes},
            unused_rows=sum(n for cause, n in counts.items() if cause in UNUSED),
            notes=[*census.notes, *notes],
            costs=costs.as_rows(),
            operations=played.operations,
            rows=rows,
            timings=self.timings,
        ))


UNUSED = frozenset({
    "double_free", "free_of_untraced_alloc", "failed_alloc", "failed_page_alloc", "page_free_of_free",
    "impossible_order", "free_of_nothing",
})
"""Causes for which a row that asked for something could not be replayed."""
