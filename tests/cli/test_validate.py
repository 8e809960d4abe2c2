"""``memtrace validate`` on the bundled traces: with nothing but a trace, and with /proc files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from memtrace.cli.main import cli
from memtrace.snapshot.beside import recorded_kernel

SNAPSHOT = Path(__file__).resolve().parents[2] / "traces" / "build-and-serve-6.18" / "start"


def validated(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["validate", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_bare_trace(bundled: Path, tmp_path: Path) -> None:
    """What can be judged is, and the table says what is missing."""
    shown = validated(str(bundled / "hello.csv"), "-o", str(tmp_path / "out"))
    assert "kmalloc bytes_alloc" in shown
    assert "needs an exact dump" in shown
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "fidelity.json", "fidelity.parquet", "differences.parquet", "manifest.json", "run",
    }  # fmt: skip
    assert json.loads((tmp_path / "out" / "fidelity.json").read_text())["rows"]


def test_what_lies_beside_the_trace_is_found_and_its_kernel_told(tmp_path: Path) -> None:
    """`memtrace record` leaves t.parquet and t/start, t/end; nothing more has to be said."""
    trace = tmp_path / "t.csv"
    trace.write_text("ts_ns,cpu,event,ptr,bytes_req,order,pfn\n0,0,kmalloc,0x1000,8,,\n9,0,kfree,0x1000,,,\n")
    for name in ("start", "end"):
        (tmp_path / "t" / name).mkdir(parents=True)
        (tmp_path / "t" / name / "osrelease").write_text("6.18.3-test\n")
        for file in ("zoneinfo", "buddyinfo"):
            (tmp_path / "t" / name / file).write_bytes((SNAPSHOT / file).read_bytes())
    result = CliRunner().invoke(cli, ["validate", str(trace), "--free-running"], catch_exceptions=False)
    assert f"snapshots: those beside the trace, in {tmp_path / 't'}" in result.stderr
    assert "kernel: 6.18 (the snapshot is of Linux 6.18.3-test)" in result.stderr
    assert "free pages by zone and order" in result.stdout
    said = CliRunner().invoke(cli, ["replay", str(trace), "--from", str(tmp_path / "t" / "start"), "--no-report",
                                    "-o", str(tmp_path / "run")], catch_exceptions=False).stdout  # fmt: skip
    assert "rules are those of Linux 6.1, but the snapshot is of Linux 6.18.3-test; --kernel 6.18 is" in said


@pytest.mark.parametrize(
    ("release", "profile"), [("2.6.32", "2.6.24"), ("4.19.0-27-amd64", "6.1"), ("6.12.1", "6.1"), ("7.0", "6.18")]
)
def test_the_nearest_profile_is_taken(tmp_path: Path, release: str, profile: str) -> None:
    assert recorded_kernel(tmp_path) is None
    (tmp_path / "osrelease").write_text(release)
    found = recorded_kernel(tmp_path)
    assert found is not None and found.profile == profile and release in found.why


def test_without_a_release_caches_tell_the_kernel() -> None:
    found = recorded_kernel(SNAPSHOT.parent)
    assert found is not None and (found.profile, "sheaf" in found.why) == ("6.18", True)


def test_proc_snapshots(bundled: Path) -> None:
    table = json.loads(validated(
        str(bundled / "build-and-serve-6.18.parquet"), "--snapshots", str(bundled / "build-and-serve-6.18"),
        "--kernel", "6.18", "--free-running", "--json",
    ))  # fmt: skip
    rows = {(row["what"], row["where"]): row for row in table["rows"]}
    sizes = rows["kmalloc bytes_alloc", "whole trace"]
    assert sizes["compared"] == sizes["equal"] > 100


def test_unknown_allocator_is_refused(bundled: Path) -> None:
    result = CliRunner().invoke(cli, ["validate", str(bundled / "hello.csv"), "--allocator", "slib"])
    assert result.exit_code != 0
