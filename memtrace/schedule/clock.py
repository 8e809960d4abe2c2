"""
The driver: SimPy owns the clock, an engine plays the CPUs, the sampler is a SimPy process.

``play`` runs all requests of a trace through a decider. A sample at time t sees every decision with
ts_ns <= t and nothing later, whichever engine plays.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import simpy

from ..errors import ConfigError, ModelError
from ..trace.requests import Requests
from .closed import ClosedOrder, gather
from .closed_plane import ClosedPlane
from .closed_reference import ClosedReference
from .costs import CostTable
from .daemons import Daemon, Daemons
from .data_plane import DataPlane
from .decider import Decider
from .exits import EXIT_CHECK, EXIT_CHUNK, EXIT_HORIZON, EXIT_MARKER
from .latency import LatencyTable
from .locks import LockTable
from .reference import Reference
from .simtime import PRIORITY_SAMPLE, at

NEVER_NS = (1 << 63) - 1
FOREVER_NS = 1 << 62
SAMPLES = 200
"""About how many samples a run takes when nobody says how often."""


class Recorder(Protocol):
    """What the clock tells: samples are due, markers were met."""

    def sample(self, t_ns: int) -> None: ...

    def marker(self, t_ns: int, row: int, text: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Played:
    """What playing a trace measured, beyond what the recorder sampled."""

    operations: int
    end_ns: int
    latency: LatencyTable
    locks: LockTable
    left_out: dict[str, int]
    """By cause what closed timing does not play."""


def round_sample_ns(span_ns: int) -> int:
    """The step of 1, 2 or 5 times a power of ten that divides ``span_ns`` into about ``SAMPLES``; at least 1 ns."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if span_ns <= step * factor * SAMPLES:
                return step * factor
        step *= 10


def play(
    decider: Decider,
    chunks: Iterable[Requests],
    costs: CostTable,
    recorder: Recorder,
    *,
    cpus: int,
    nr_locks: int,
    sample_ns: int,
    end_ns: int,
    engine: str = "fused",
    check_every: int = 0,
    check: Callable[[], None] | None = None,
    progress: Callable[[int], None] | None = None,
    daemons: Sequence[Daemon] = (),
    speed: float | None = None,
) -> Played:
    """
    Play all requests.

    Parameters
    ----------
    decider
        Decides them; ``Dispatcher`` in a replay.
    chunks
        The requests, in row order.
    recorder
        Told of samples and markers.
    cpus, nr_locks
        Of the machine.
    sample_ns
        Simulated ns between samples, which lie at its multiples; at least 1.
    end_ns
        When the trace ends; no request is later.
    engine
        ``fused`` or ``reference``.
    check_every, check
        Call ``check`` after every so many operations, and at the end; 0 never.
    progress
        Called with the last row of each chunk when it has been played.
    daemons
        What runs beside the CPUs.
    speed
        Closed timing, with the gaps between operations multiplied by this; None is recorded timing. Then all requests
        are kept in memory, and the end is when the last of them has ended.

    Raises
    ------
    ModelError
        When the model broke one of its invariants; with the row and time at which it was found.
    """
    if sample_ns < 1:
        raise ConfigError(f"a sample every {sample_ns} ns; expected at least 1 ns.")
    if engine not in ("fused", "reference"):
        raise ConfigError(f'engine "{engine}"; expected fused or reference.')
    chunks = (requests for requests in chunks if len(requests))
    first = next(chunks, None)
    begin = int(first.ts_ns[0]) // sample_ns * sample_ns if first is not None else 0
    run = _Run(simpy.Environment(begin), decider, recorder, Daemons(daemons, decider), check, check_every)
    latency = LatencyTable(cpus)
    locks = LockTable(nr_locks)
    if speed is not None:
        end_ns = FOREVER_NS
    run.env.process(run.sampler(begin, sample_ns, end_ns))
    run.daemons.start(run.env, end_ns)
    rows = run.reported(first, chunks, end_ns, progress)
    left_out: dict[str, int] = {}
    try:
        if speed is not None:
            requests, left_out = gather(rows)
            order = ClosedOrder(requests, cpus, speed)
            decider.load(requests)
            if engine == "fused":
                end_ns = run.closed_fused(
                    ClosedPlane(order, decider, costs, latency, locks, cpus, check_every if check else 0))
            else:
                end_ns = run.closed_reference(
                    ClosedReference(run.env, order, requests, decider, costs, latency, locks, cpus, run))
        elif engine == "fused":
            run.fused(rows, DataPlane(decider, costs, latency, locks, cpus, check_every if check else 0))
        else:
            run.reference(rows, Reference(run.env, decider, costs, latency, locks, cpus, run))
        flush = getattr(decider, "flush", None)
        if flush is not None:
            flush()
        if check is not None and check_every:
            check()
    except ModelError as error:
        if error.row >= 0 or run.row < 0:
            raise
        raise ModelError(str(error), run.row, run.t_ns) from error
    recorder.sample(end_ns)
    return Played(run.operations, end_ns, latency, locks, left_out)


class _Run:
    """One call of ``play``: the clock, what it calls back, and how far it is."""

    def __init__(self, env: simpy.Environment, decider: Decider, recorder: Recorder, daemons: Daemons,
                 check: Callable[[], None] | None, check_every: int) -> None:
        self.env = env
        self.decider = decider
        self.recorder = recorder
        self.daemons = daemons
        self.check = check
        self.check_every = check_every
        self.until_check = check_every
        self.operations = 0
        self.at = -1
        """Request of the loaded chunk that is being decided, or was last."""

    @property
    def row(self) -> int:
        """Trace row of the request decided last, -1 before the first."""
        return self.decider.row[self.at] if self.at >= 0 else -1

    @property
    def t_ns(self) -> int:
        """Its recorded time."""
        return self.decider.ts_ns[self.at] if self.at >= 0 else 0

    def reported(self, first: Requests | None, rest: Iterator[Requests], end_ns: int,
                 progress: Callable[[int], None] | None) -> Iterator[Requests]:
        """The chunks, telling of each when it has been played."""
        requests = first
        while requests is not None:
            if int(requests.ts_ns[-1]) > end_ns:
                raise ModelError(f"a request at {int(requests.ts_ns[-1])} ns, after the trace's end at {end_ns} ns",
                                 int(requests.row[-1]), int(requests.ts_ns[-1]))
            yield requests
            if progress is not None:
                progress(int(requests.row[-1]))
            requests = next(rest, None)

    def sampler(self, begin: int, sample_ns: int, end_ns: int) -> Generator[simpy.Event, Any, None]:
        """Take a sample at every multiple of ``sample_ns`` that the trace reaches."""
        t = begin
        while t <= end_ns:
            yield at(self.env, t, PRIORITY_SAMPLE)
            self.recorder.sample(t)
            t += sample_ns

    def marker(self, i: int) -> None:
        """Note a marker; its sample is due when all requests of its instant are decided."""
        t_ns = int(self.decider.ts_ns[i])
        requests = self.decider.requests
        assert requests is not None
        self.recorder.marker(t_ns, int(requests.row[i]), int(requests.size[i]))
        at(self.env, t_ns, PRIORITY_SAMPLE).callbacks.append(lambda _: self.recorder.sample(t_ns))

    def decided(self) -> None:
        """Count an operation; daemons may have been woken, the validators may be due."""
        self.operations += 1
        if self.decider.it.woken:
            self.daemons.pass_on(self.t_ns)
        if self.check is not None and self.check_every and self.operations % self.check_every == 0:
            self.check()

    def follow(self, reason: int, at_request: int) -> None:
        """Do what the fused engine has returned for."""
        if self.decider.it.woken:
            self.daemons.pass_on(self.t_ns)
        if reason == EXIT_HORIZON:
            self.env.step()
        elif reason == EXIT_MARKER:
            self.marker(at_request)
        elif reason == EXIT_CHECK and self.check is not None:
            self.check()

    def closed_fused(self, plane: ClosedPlane) -> int:
        """Play closed with the fused engine; when the last operation ended."""
        reason = EXIT_HORIZON
        while reason != EXIT_CHUNK:
            horizon = self.env.peek()
            try:
                reason = plane.run_until(NEVER_NS if horizon == simpy.core.Infinity else int(horizon))
            finally:
                self.at = plane.at
                self.operations = plane.operations
            self.follow(reason, plane.at)
        return self.until(plane.last_ns)

    def closed_reference(self, engine: ClosedReference) -> int:
        """Play closed with the reference engine; when the last operation ended."""
        while engine.running:
            self.env.step()
        return self.until(engine.last_ns)

    def until(self, end_ns: int) -> int:
        """Let what runs beside the CPUs go on until ``end_ns``, and return that."""
        while self.env.peek() <= end_ns:
            self.env.step()
        return end_ns

    def fused(self, chunks: Iterator[Requests], plane: DataPlane) -> None:
        """Play with the fused engine: it runs to SimPy's next event, then SimPy runs that."""
        env = self.env
        for requests in chunks:
            self.decider.load(requests)
            plane.load()
            while True:
                horizon = env.peek()
                try:
                    reason = plane.run_until(NEVER_NS if horizon == simpy.core.Infinity else int(horizon))
                finally:
                    self.at = plane.next_i - 1
                    self.operations = plane.operations
                self.follow(reason, plane.next_i - 1)
                if reason == EXIT_CHUNK:
                    break
        env.run()
        plane.finish()

    def reference(self, chunks: Iterator[Requests], engine: Reference) -> None:
        """Play with the reference engine: everything is a SimPy process."""
        self.env.process(engine.feed(chunks))
        self.env.run()
