"""``memtrace validate`` on the bundled traces: with nothing but a trace, and with /proc files."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from memtrace.cli.main import cli


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
