"""
How fast is it?

    python benchmarks/bench.py                        parse, pair, replay, naive design, end to end
    python benchmarks/bench.py --perf-data FILE       also how fast that is read, and `perf kmem stat` on it
    python benchmarks/bench.py --memory               also the peak memory of a 50 M-event trace (minutes)

Rates are events (or operations) per second of CPU time, the median of several runs, so that a busy machine does not
slow them; what somebody waits is noted as "wall", less than the CPU time where two threads share the work. Ratios
compare rows of the same run of this script.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import naive
from loop_trace import loop_trace
from perf_text import write_perf_text
from stage import NoRecorder, Stage

from memtrace import compiled
from memtrace.schedule.clock import play
from memtrace.schedule.costs import CostTable
from memtrace.trace.census import take_census
from memtrace.trace.pairing import RequestStream
from memtrace.trace.perf_data import PerfData
from memtrace.trace.schema import TraceVocab
from memtrace.trace.source import open_trace

ROOT = Path(__file__).resolve().parents[1]
CONVERT = [sys.executable, "-m", "memtrace", "convert"]
REPLAY = [sys.executable, "-m", "memtrace", "replay"]
SAMPLE_NS = 10_000_000
SLOW_LIMIT = 60_000  # operations for what plays some ten thousand a second


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    what: str
    events: int
    seconds: float
    note: str = ""

    @property
    def rate(self) -> float:
        return self.events / self.seconds


def median(what: str, runs: int, once: Callable[[], int], note: str = "") -> Result:
    """Run ``once`` several times; it returns how many events it worked on."""
    seconds, waited, events = [], [], 0
    for _ in range(runs):
        begin, wall = time.process_time(), time.perf_counter()
        events = once()
        seconds.append(time.process_time() - begin)
        waited.append(time.perf_counter() - wall)
    note = ", ".join(filter(None, (note, f"wall {statistics.median(waited):.2f} s")))
    return report(Result(what, events, statistics.median(seconds), note))


def report(result: Result) -> Result:
    print(f"  {result.what:<34} {result.events:>11,} {result.seconds:>9.3f} s "
          f"{result.rate / 1e6:>8.3f} M/s  {result.note}", flush=True)  # fmt: skip
    return result


@dataclass(frozen=True)
class Child:
    """A finished command: seconds of wall and CPU time, and the most memory it held."""

    wall: float
    cpu: float
    peak_bytes: int


def run(command: list[str], *, interpreted: bool = False) -> Child:
    """Run a command to its end; its output is thrown away."""
    env = dict(os.environ, MEMTRACE_INTERPRETED="1") if interpreted else dict(os.environ)
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}")
    return Child(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def parse(trace: Path, text: Path, runs: int) -> list[Result]:
    """Reading alone: all rows of all columns, as chunks."""

    def read(path: Path) -> int:
        with open_trace(path) as reader:
            return sum(len(chunk) for chunk in reader.chunks())

    return [
        median("parse perf script text", runs, lambda: read(text), f"{text.stat().st_size >> 20} MiB"),
        median("parse Parquet", runs, lambda: read(trace)),
    ]


def parse_perf_data(perf_data: Path, runs: int) -> list[Result]:
    """perf.data: its samples decoded, in the order of time; and as a command opens it, put down to be read again."""

    def decode() -> int:
        data = PerfData(perf_data, perf_data.name, TraceVocab())
        return sum(len(chunk) for chunk, _ in data.chunks())

    def opened() -> int:
        with open_trace(perf_data) as reader:
            return reader.rows or 0

    size = f"{perf_data.stat().st_size >> 20} MiB"
    return [median("decode perf.data", runs, decode, size), median("open perf.data", runs, opened, size)]


def converted(source: Path, runs: int, folder: Path, what: str) -> Result:
    """`memtrace convert` to Parquet as a user runs it, start-up included."""
    out = folder / "converted.parquet"
    children = [run([*CONVERT, str(source), str(out), "--force"]) for _ in range(runs)]
    with open_trace(out) as reader:
        rows = reader.rows or 0
    result = report(of_children(what, rows, children))
    out.unlink()
    return result


def pair(trace: Path, runs: int) -> Result:
    """Census and requests: both readings of the trace."""

    def once() -> int:
        with open_trace(trace) as reader:
            census = take_census(reader)
            for _ in RequestStream(reader, census):
                pass
            return census.rows

    return median("read, census and pair", runs, once)


def replay(what: str, stage: Stage, runs: int, engine: str) -> Result:
    """The engine alone: requests are in memory, the machine is ready."""
    seconds, operations = [], 0
    for _ in range(runs):
        dispatcher = stage.dispatcher()
        begin = time.process_time()
        if engine == "naive":
            operations, _ = naive.play(dispatcher, stage, CostTable.load())
        else:
            operations = play(
                dispatcher, stage, CostTable.load(), NoRecorder(), cpus=stage.cpus,
                nr_locks=dispatcher.machine.nr_locks(), sample_ns=SAMPLE_NS, end_ns=stage.end_ns, engine=engine,
            ).operations  # fmt: skip
        seconds.append(time.process_time() - begin)
    return report(Result(what, operations, statistics.median(seconds)))


def end_to_end(trace: Path, runs: int, folder: Path, what: str) -> Result:
    """`memtrace replay` as a user runs it, without the report, start-up included."""
    with open_trace(trace) as reader:
        rows = sum(len(chunk) for chunk in reader.chunks())
    command = [*REPLAY, str(trace), "-o", str(folder / "run"), "--no-report", "--force"]
    children = [run(command) for _ in range(runs)]
    return report(of_children(what, rows, children))


def of_children(what: str, events: int, children: list[Child]) -> Result:
    """Medians of a command's runs; its waiting time and memory go into the note."""
    wall = statistics.median(child.wall for child in children)
    peak = max(child.peak_bytes for child in children)
    cpu = statistics.median(child.cpu for child in children)
    return Result(what, events, cpu, f"wall {wall:.2f} s, peak {peak >> 20} MiB")


def against_perf(perf_data: Path, runs: int, folder: Path) -> tuple[Result, Result]:
    """`perf kmem stat` and `memtrace replay` on one recording."""
    text = folder / "perf.txt"
    script = ["perf", "script", "-i", str(perf_data), "--ns"]
    with open(text, "wb") as file:
        subprocess.run(script, stdout=file, stderr=subprocess.DEVNULL, check=True)
    ours = end_to_end(text, runs, folder, "memtrace replay, its perf script")
    children = [run(["perf", "kmem", "-i", str(perf_data), "--slab", "--page", "stat"]) for _ in range(runs)]
    return ours, report(of_children("perf kmem stat", ours.events, children))


def memory(trace: Path, folder: Path, events: int) -> Result:
    """Peak memory of a replay of a long trace."""
    long = folder / "long.parquet"
    rows = loop_trace(trace, long, events)
    child = run([*REPLAY, str(long), "-o", str(folder / "long-run"), "--no-report"])
    return report(of_children("end to end, long trace", rows, [child]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--trace", type=Path, default=ROOT / "traces" / "build-and-serve-6.18.parquet")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--perf-data", type=Path, help="a recording with kmem events, for `perf kmem stat`")
    parser.add_argument("--memory", action="store_true", help="replay a long trace and watch its memory")
    parser.add_argument("--long-events", type=int, default=50_000_000)
    parser.add_argument("--output", type=Path, help="also write the table here, as Markdown")
    parser.add_argument("--interpreted-part", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.interpreted_part:  # in a process of its own: which form of the core runs is decided at import
        result = replay("replay fused, interpreted", Stage(args.trace, SLOW_LIMIT), 1, "fused")
        print(json.dumps(asdict(result)))
        return
    compiled.check()
    print(f"memtrace core: {compiled.status()}; trace: {args.trace.name}; median of {args.runs}")
    with tempfile.TemporaryDirectory(prefix="memtrace-bench-") as name:
        results, ratios = measure(args, Path(name))
    print()
    for line in ratios:
        print(f"  {line}")
    if args.output:
        write_table(args.output, args.trace.name, results, ratios)


def measure(args: argparse.Namespace, folder: Path) -> tuple[list[Result], list[str]]:
    """All benchmarks, and the ratios between them."""
    text = folder / "trace.txt"
    write_perf_text(args.trace, text)
    results = [*parse(args.trace, text, args.runs), pair(args.trace, args.runs)]
    fused = replay("replay fused", Stage(args.trace), args.runs, "fused")
    short = Stage(args.trace, SLOW_LIMIT)
    reference = replay("replay reference", short, 1, "reference")
    simple = replay("replay naive SimPy design", short, args.runs, "naive")
    interpreted = interpreted_replay(args.trace)
    results += [fused, reference, simple, interpreted]
    ratios = [
        f"fused / naive design: {fused.rate / simple.rate:.1f}",
        f"fused / reference: {fused.rate / reference.rate:.1f}",
        f"compiled / interpreted: {fused.rate / interpreted.rate:.1f}",
    ]
    results.append(end_to_end(args.trace, args.runs, folder, "end to end, no report"))
    results.append(converted(text, args.runs, folder, "memtrace convert, perf script text"))
    if args.perf_data:
        results += parse_perf_data(args.perf_data, args.runs)
        results.append(converted(args.perf_data, args.runs, folder, "memtrace convert, perf.data"))
    if args.perf_data and shutil.which("perf"):
        ours, theirs = against_perf(args.perf_data, args.runs, folder)
        results += [ours, theirs]
        ratios.append(f"memtrace replay / perf kmem stat, same recording: {ours.rate / theirs.rate:.2f}")
    if args.memory:
        results.append(memory(args.trace, folder, args.long_events))
    return results, ratios


def interpreted_replay(trace: Path) -> Result:
    """The fused engine as plain Python."""
    command = [sys.executable, __file__, "--interpreted-part", "--trace", str(trace)]
    env = dict(os.environ, MEMTRACE_INTERPRETED="1")
    line = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    return report(Result(**json.loads(line)))


def write_table(path: Path, trace: str, results: list[Result], ratios: list[str]) -> None:
    lines = [f"Trace {trace}; core {compiled.status()}; Python {sys.version.split()[0]}.", "",
             "| what | events | seconds | M events/s | |", "|---|---|---|---|---|"]  # fmt: skip
    lines += [f"| {r.what} | {r.events:,} | {r.seconds:.3f} | {r.rate / 1e6:.3f} | {r.note} |" for r in results]
    path.write_text("\n".join([*lines, "", *(f"* {ratio}" for ratio in ratios)]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
