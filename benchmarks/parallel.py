"""
How much sooner is a study done with several processes?

    python benchmarks/parallel.py                     24 cells of equal size, -j 1 against -j 2
    python benchmarks/parallel.py --cells 8 --jobs 4  others

Seconds that somebody waits mean something on an idle machine only. CPU seconds are those of all processes together: how
many more there are with several processes is what the parallel way costs, however busy the machine is. Results must be
equal byte for byte; the script stops when they are not.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import ROOT, Child

from memtrace import compiled

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def run_whole(command: list[str]) -> Child:
    """Run a command and wait for all that it started: workers are children of a process that outlives it a little."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wall, cpu, peak = 0.0, 0.0, 0
    while True:
        try:
            pid, status, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return Child(wall, cpu, peak)
        if pid == process.pid:
            wall = time.perf_counter() - begin
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise SystemExit(f"{' '.join(command)}: exit {process.returncode}")
        cpu += usage.ru_utime + usage.ru_stime
        peak = max(peak, usage.ru_maxrss * 1024)


def results(study: Path) -> dict[str, str]:
    """SHA-256 of all that a study concludes."""
    files = [*sorted((study / "dataset").iterdir()), study / "report.html", study / "study.json"]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--trace", type=Path, default=ROOT / "traces" / "build-and-serve-6.18.parquet")
    parser.add_argument("--cells", type=int, default=24)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--runs", type=int, default=1, help="of each; the quickest counts")
    args = parser.parse_args()
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise SystemExit("prctl(PR_SET_CHILD_SUBREAPER) failed; this benchmark needs Linux")
    values = ",".join(str(10 + i) for i in range(args.cells))
    command = [sys.executable, "-m", "memtrace", "compare", str(args.trace), "--set", f"slub.cpu_partial={values}"]
    print(f"memtrace core: {compiled.status()}; trace: {args.trace.name}; {args.cells} cells; "
          f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    best: dict[int, Child] = {}
    said: dict[int, dict[str, str]] = {}
    with tempfile.TemporaryDirectory(prefix="memtrace-bench-") as name:
        for turn in range(args.runs):
            for jobs in (1, args.jobs):
                folder = Path(name, f"{jobs}-{turn}")
                child = run_whole([*command, "-j", str(jobs), "-o", str(folder)])
                best[jobs] = min(best.get(jobs, child), child, key=lambda c: c.wall)
                said[jobs] = results(folder)
                print(f"  -j {jobs:<3} {child.wall:>9.2f} s  CPU {child.cpu:>8.2f} s", flush=True)
    if said[1] != said[args.jobs]:
        raise SystemExit("the results differ: " + ", ".join(
            name for name in said[1] if said[1][name] != said[args.jobs].get(name)))
    one, many = best[1], best[args.jobs]
    print(f"\n  -j {args.jobs} against -j 1: {one.wall / many.wall:.2f} × as fast, "
          f"{many.cpu / one.cpu:.2f} × the CPU time")


if __name__ == "__main__":
    main()
