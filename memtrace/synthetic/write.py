"""From a workload to a trace: chunk after chunk, or a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memtrace.errors import ConfigError
from memtrace.trace.convert import check_target
from memtrace.trace.csv import CsvTraceWriter
from memtrace.trace.parquet_writer import ParquetTraceWriter
from memtrace.trace.schema import EventChunk, TraceVocab

from .catalogue import load_workload
from .tape import COLUMNS, LIVES, Tape
from .workload import MAX_PERIOD_NS, Rounds, Workload

ROWS_PER_BLOCK = 1 << 18
"""Rounds are played in blocks of about so many rows: large enough for numpy, small enough for memory."""
MAX_ROWS_PER_ROUND = 50_000_000
MAX_SPAN_NS = 1 << 61


@dataclass(frozen=True)
class Plan:
    """
    What will be generated: a workload with all its numbers; the same plan gives the same rows.

    Attributes
    ----------
    workload
        Which one.
    values
        Its parameters.
    cpus, seed
        CPUs of the machine, and where chance begins.
    rounds, rows_per_round, period_ns
        How long it is.
    """

    workload: Workload
    values: Mapping[str, int]
    cpus: int
    seed: int
    rounds: int
    rows_per_round: int
    period_ns: int


@dataclass(frozen=True)
class Written:
    """What `write_trace` wrote: rows, and the time from the first to the last."""

    rows: int
    span_ns: int


def plan(
    workload: Workload, events: int = 100_000, cpus: int | None = None, seed: int = 0,
    settings: Mapping[str, str | int] | None = None,
) -> Plan:  # fmt: skip
    """
    Checks all numbers, and counts rounds.

    Parameters
    ----------
    events
        Rows wanted: as many whole rounds are played as fit, and at least one.
    cpus
        The workload's own number when not given.
    settings
        Parameters by name, as ``--set`` has them.

    Raises
    ------
    ConfigError
        When a number makes no sense.
    """
    n_cpus = workload.cpus if cpus is None else cpus
    if not 1 <= n_cpus <= 4096:
        raise ConfigError(f"--cpus {n_cpus}: out of range; expected 1 to 4096.")
    if events < 1:
        raise ConfigError(f"--events {events}: too few; expected 1 or more.")
    if seed < 0:
        raise ConfigError(f"--seed {seed}: negative; expected 0 or more.")
    values = workload.values(settings or {})
    rows, period_ns = workload.rows(values, n_cpus), workload.period_ns(values, n_cpus)
    if rows > MAX_ROWS_PER_ROUND:
        raise ConfigError(f"one round of {workload.name} would have {rows:,} rows; expected at most "
                          f"{MAX_ROWS_PER_ROUND:,}. Make its counts smaller with --set.")  # fmt: skip
    if rows < 1 or not 1 <= period_ns <= MAX_PERIOD_NS:
        raise ConfigError(f"one round of {workload.name} has {rows:,} rows and lasts {period_ns:,} ns; expected at "
                          f"least 1 row, and 1 to {MAX_PERIOD_NS:,} ns.")  # fmt: skip
    rounds = max(1, events // rows)
    if rounds * period_ns > MAX_SPAN_NS:
        raise ConfigError(f"{rounds:,} rounds of {period_ns:,} ns do not fit into 64 bits; expected fewer --events.")
    return Plan(workload, values, n_cpus, seed, rounds, rows, period_ns)


def synth(
    workload: str | Workload, out: str | Path | None = None, *, events: int = 100_000, cpus: int | None = None,
    seed: int = 0, settings: Mapping[str, str | int] | None = None, force: bool = False,
) -> Path:  # fmt: skip
    """
    Writes a trace of a workload: what ``memtrace synth`` does.

    Parameters
    ----------
    workload
        A name of ``memtrace synth --list``, a Python file with a ``WORKLOAD``, or a `Workload`.
    out
        A file ending in .parquet or .csv; ``NAME.parquet`` when not given.
    events, cpus, seed
        As in `plan`.
    settings
        Parameters by name: text as for ``--set``, or a number in bytes, ns or pieces.
    force
        Replace the file if it exists.

    Returns
    -------
    The file.

    Raises
    ------
    ConfigError, TraceError, OutputError
        When something does not exist or makes no sense, or the file cannot be written.

    Examples
    --------
    >>> trace = synth("net-rx", cpus=2, settings={"gap": "200ns"})  # doctest: +SKIP
    """
    chosen = load_workload(workload) if isinstance(workload, str) else workload
    what = plan(chosen, events, cpus, seed, settings)
    path = Path(out) if out is not None else Path(f"{chosen.name}.parquet")
    write_trace(what, path, force)
    return path


def generate(what: Plan) -> Iterator[tuple[EventChunk, TraceVocab]]:
    """
    The rows of a plan, in order; memory is needed for what is alive and for one block of rounds.

    Yields
    ------
    Chunks that are not empty, with the vocabulary that they share; it grows.

    Raises
    ------
    ConfigError
        When the workload adds what makes no sense, such as a free before its allocation.
    """
    tape = Tape(what.cpus)
    rng = np.random.Generator(np.random.PCG64(what.seed))
    block = max(1, ROWS_PER_BLOCK // what.rows_per_round)
    for first in range(0, what.rounds, block):
        number = np.arange(first, min(first + block, what.rounds), dtype=np.int64)
        start_ns = number * what.period_ns
        try:
            what.workload.play(tape, Rounds(number, start_ns, what.rounds, what.cpus, rng, what.values))
        except OverflowError as error:
            raise ConfigError(f"workload {what.workload.name}: a time does not fit into 64 bits; expected parameters "
                              "that keep the trace below 146 years.") from error  # fmt: skip
        chunk = tape.rows_before((int(number[-1]) + 1) * what.period_ns)
        if len(chunk):
            yield chunk, tape.vocab
    chunk = tape.rows_before(LIVES)
    if len(chunk):
        yield chunk, tape.vocab


def write_trace(
    what: Plan, out: str | Path, force: bool = False, progress: Callable[[int, int], None] | None = None
) -> Written:
    """
    Writes the rows of a plan to a Parquet or CSV file; nothing is left behind when it fails.

    Parameters
    ----------
    out
        A file ending in .parquet or .csv.
    force
        Replace it if it exists.
    progress
        Called with (rows written, rows expected).

    Raises
    ------
    TraceError, OutputError
        When ``out`` cannot be written, or exists.
    """
    check_target("-", out, force)
    writer: ParquetTraceWriter | CsvTraceWriter | None = None
    rows = start_ns = end_ns = 0
    try:
        for chunk, vocab in generate(what):
            if writer is None:
                writer = _writer(what, Path(out), vocab)
                start_ns = int(chunk.ts_ns[0])
            chunk.ts_ns = chunk.ts_ns - start_ns  # a trace begins at 0
            writer.write(chunk)
            rows, end_ns = rows + len(chunk), int(chunk.ts_ns[-1])
            if progress is not None:
                progress(rows, max(rows, what.rounds * what.rows_per_round))
    except BaseException:
        if writer is not None:
            writer.abort()
        raise
    if writer is None:
        raise ConfigError(f"workload {what.workload.name} made no rows; expected some. Change its parameters.")
    writer.close()
    return Written(rows, end_ns)


def _writer(what: Plan, out: Path, vocab: TraceVocab) -> ParquetTraceWriter | CsvTraceWriter:
    if out.suffix == ".csv":
        return CsvTraceWriter(out, vocab, COLUMNS)
    origin = {"workload": what.workload.name, "cpus": what.cpus, "seed": what.seed, "rounds": what.rounds,
              "parameters": dict(what.values)}  # fmt: skip
    footer = {"memtrace.synthetic": json.dumps(origin, sort_keys=True)}
    return ParquetTraceWriter(out, vocab, footer, columns=COLUMNS)
