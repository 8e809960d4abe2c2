"""Both engines, and compiled and interpreted code, write the same bytes for requests to a real machine."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from memtrace.compiled import status
from memtrace.metrics.recorder import Recorder
from memtrace.metrics.schema import TABLES
from memtrace.metrics.tables import TableWriters
from memtrace.mm.vmstat import VmStat
from memtrace.schedule.clock import play
from memtrace.schedule.costs import CostTable
from memtrace.schedule.dispatch import Dispatcher

MACHINES = Path(__file__).parents[1] / "unit" / "schedule" / "machines.py"
_spec = importlib.util.spec_from_file_location("small_machines", MACHINES)
assert _spec is not None and _spec.loader is not None
machines = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(machines)


def replay(folder: Path, engine: str, seed: int, n: int = 1500) -> dict[str, int]:
    """Random requests to a small machine, as the tables of a run."""
    folder.mkdir(parents=True)
    machine, cache_map = machines.small_machine()
    dispatcher = Dispatcher(machine, cache_map)
    requests = machines.random_requests(seed, n)
    with TableWriters(folder) as writers:
        recorder = Recorder(writers, machine, VmStat(machine), dispatcher, ["a marker"], [f"site{i}" for i in range(6)],
                            50_000)
        played = play(dispatcher, [requests], CostTable.load(), recorder, cpus=machine.nr_cpus,
                      nr_locks=machine.nr_locks(), sample_ns=20_000, end_ns=int(requests.ts_ns[-1]) + 5, engine=engine,
                      check_every=500, check=machine.validate)
        recorder.finish(played.latency.columns(), played.locks.columns(), dispatcher.sites.columns())
        assert writers.rows["locks"] > 0
        assert writers.rows["buddy"] > 0
    return dispatcher.counts()


def assert_equal_bytes(a: Path, b: Path) -> None:
    for table in TABLES:
        name = f"{table.name}.parquet"
        assert (a / name).read_bytes() == (b / name).read_bytes(), table.name


@pytest.mark.parametrize("seed", range(4))
def test_fused_equals_reference(tmp_path: Path, seed: int) -> None:
    counts = replay(tmp_path / "fused", "fused", seed)
    assert counts == replay(tmp_path / "reference", "reference", seed)
    assert_equal_bytes(tmp_path / "fused", tmp_path / "reference")


@pytest.mark.skipif(status() != "compiled", reason="the core is not compiled, so there is nothing to compare")
def test_compiled_equals_interpreted(tmp_path: Path) -> None:
    replay(tmp_path / "compiled", "fused", 11)
    code = (f"import sys, importlib.util\nfrom pathlib import Path\n"
            f"spec = importlib.util.spec_from_file_location('t', {__file__!r})\n"
            f"t = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(t)\n"
            f"assert t.status() == 'interpreted'\nt.replay(Path(sys.argv[1]), 'fused', 11)\n")
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "interpreted")], check=True,
                   env={**os.environ, "MEMTRACE_INTERPRETED": "1"})
    assert_equal_bytes(tmp_path / "compiled", tmp_path / "interpreted")
