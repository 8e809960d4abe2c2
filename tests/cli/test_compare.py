"""Does ``memtrace compare`` of two runs say what changed, and fail when told to?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from memtrace.cli.compare import command
from memtrace.run import replay


@pytest.fixture(scope="module")
def runs(bundled: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The same small trace under two allocators."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("slub", "slab"):
        replay(bundled / "hello.csv", allocator=name, out=folder / name, report=False)
    return [str(folder / name) for name in ("slub", "slab")]


def compare(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, standalone_mode=False)


def test_deltas_are_b_minus_a_and_add_up_to_the_runs_own_tables(runs: list[str]) -> None:
    import pandas as pd

    said = json.loads(compare(*runs, "--json").stdout)
    for table, value in (("callsites", "waste_bytes"), ("latency", "sum_ns"), ("callsites", "allocs")):
        frame = pd.DataFrame(said["tables"][table])
        assert ((frame[f"{value}_b"] - frame[f"{value}_a"]) == frame[f"{value}_delta"]).all()
        for side, run in zip("ab", runs, strict=True):
            own = pd.read_parquet(f"{run}/metrics/{table}.parquet")
            whole = own["bytes_allocated"] - own["bytes_requested"] if value == "waste_bytes" else own[value]
            assert frame[f"{value}_{side}"].sum() == whole.sum()
    leading = [abs(row["sum_ns_delta"]) for row in said["tables"]["latency"]]
    assert leading == sorted(leading, reverse=True) and leading[0] > 0


def test_a_run_and_itself_do_not_differ(runs: list[str]) -> None:
    result = compare(runs[0], runs[0], "--fail-if", "waste_pct>+0", "--fail-if", "peak_slab_bytes>+0%")
    assert result.return_value == 0
    assert result.stdout.count("no change") == 4 and "worse" not in result.stdout


def test_exchanged_runs_have_opposite_signs(runs: list[str]) -> None:
    there, back = (json.loads(compare(*order, "--json").stdout) for order in (runs, runs[::-1]))
    for one, other in zip(there["measures"], back["measures"], strict=True):
        assert one["delta"] == (None if other["delta"] is None else -other["delta"])


def test_a_broken_bound_is_code_3_and_says_both_values(runs: list[str]) -> None:
    result = compare(*runs, "--fail-if", "alloc_mean_ns>1ns", "--fail-if", "failures>+0")
    assert result.return_value == 3
    assert result.stderr.startswith("memtrace: failed: alloc_mean_ns>1ns: ") and result.stderr.count("\n") == 1


def test_hostile_names_are_spelled_out(tmp_path: Path, root: Path) -> None:
    import runpy

    made_up = runpy.run_path(str(root / "tests/report/synthetic_run.py"))
    for name in ("HOSTILE", "EMPTY"):
        made_up["write_run"](tmp_path / name, made_up[name])
    result = compare(str(tmp_path / "EMPTY"), str(tmp_path / "HOSTILE"), "--top", "1000")
    assert result.return_value == 0
    assert "\x1b" not in result.stdout and "\u202e" not in result.stdout and "\\u202e" in result.stdout
    assert max(map(len, result.stdout.splitlines())) < 200
    assert compare(str(tmp_path / "EMPTY"), str(tmp_path / "EMPTY"), "--json").return_value == 0
