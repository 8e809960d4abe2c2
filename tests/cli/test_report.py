"""``memtrace report``."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from click.testing import CliRunner

from memtrace.cli.report import command
from memtrace.errors import MetricsError

SYNTHETIC = runpy.run_path(str(Path(__file__).parents[1] / "report" / "synthetic_run.py"))


def test_report_is_written_and_named(tmp_path: Path) -> None:
    folder = SYNTHETIC["write_run"](tmp_path / "run", SYNTHETIC["TINY"])
    result = CliRunner().invoke(command, [str(folder)])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{folder / 'report.html'}\n", "only the path goes to stdout"
    assert result.stderr.count("drawing: ") == len(list((folder / "figures").glob("*.svg"))) == 9
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("where", ["nowhere", "."])
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, where: str) -> None:
    result = CliRunner().invoke(command, [str(tmp_path / where)])
    assert isinstance(result.exception, MetricsError)
    assert "no readable manifest.json; expected a folder" in str(result.exception)
    assert list(tmp_path.iterdir()) == []
