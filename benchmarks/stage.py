"""What the benchmarks play: a trace's requests, and a fresh machine that decides them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from memtrace.kernels import load_kernel
from memtrace.schedule.dispatch import Dispatcher
from memtrace.start import choose_start, complete, lay_out_start
from memtrace.trace.census import take_census
from memtrace.trace.pairing import RequestStream
from memtrace.trace.requests import Census, Requests
from memtrace.trace.source import open_trace


class NoRecorder:
    """A recorder that keeps nothing: what remains is the engine."""

    def __init__(self) -> None:
        self.samples = 0

    def sample(self, t_ns: int) -> None:
        self.samples += 1

    def marker(self, t_ns: int, row: int, text: int) -> None:
        pass


class Stage:
    """A trace's census and its first ``limit`` requests (about), read once and kept."""

    def __init__(self, trace: Path, limit: int = 1 << 62) -> None:
        with open_trace(trace) as reader:
            self.start = choose_start(reader, None, None, None, None, None)
            self.census: Census = take_census(reader)
            self.cpus = complete(self.start, self.census, None, None, None).cpus
            self.chunks: list[Requests] = []
            self.operations = 0
            for requests in RequestStream(reader, self.census, rows_per_chunk=1 << 16):
                self.chunks.append(requests)
                self.operations += len(requests)
                if self.operations >= limit:
                    break

    def __iter__(self) -> Iterator[Requests]:
        return iter(self.chunks)

    @property
    def end_ns(self) -> int:
        return int(self.chunks[-1].ts_ns[-1])

    def dispatcher(self) -> Dispatcher:
        """A freshly booted machine with the trace's caches, and what pre-dates the trace in its place."""
        machine, cache_map, _ = lay_out_start(self.start, self.census, load_kernel("6.1"), 0)
        dispatcher = Dispatcher(machine, cache_map)
        dispatcher.create_start_objects(self.census)
        return dispatcher
