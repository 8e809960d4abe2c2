"""``memtrace show``."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from memtrace.cli.show import FILES, command
from memtrace.errors import ConfigError, MetricsError
from memtrace.metrics.schema import TABLES
from memtrace.report import kernel_text
from memtrace.report.frames import RunFrames

SYNTHETIC = runpy.run_path(str(Path(__file__).parents[1] / "report" / "synthetic_run.py"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = SYNTHETIC["write_run"](tmp_path_factory.mktemp("show") / "run", SYNTHETIC["TINY"])
    return made


def show(*args: object) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args])


@pytest.mark.parametrize("file", FILES)
def test_text_to_stdout_and_time_to_stderr(folder: Path, file: str) -> None:
    result = show(folder, file)
    assert result.exit_code == 0
    assert result.stdout == kernel_text.render(RunFrames(folder), file, None)[1]
    assert result.stderr == "sample at 900 ns (900 ns)\n"


def test_at(folder: Path) -> None:
    result = show(folder, "slabinfo", "--at", "0.0000006s")
    assert (result.exit_code, result.stderr) == (0, "sample at 540 ns (540 ns)\n")
    assert show(folder, "slabinfo", "--at", "500ns").stdout != result.stdout
    assert isinstance(show(folder, "slabinfo", "--at", "1ns").exception, MetricsError)
    assert isinstance(show(folder, "slabinfo", "--at", "noon").exception, ConfigError)


def test_list_names_every_table_and_column(folder: Path) -> None:
    result = show(folder, "--list")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines if not line.startswith(" ")] == sorted(table.name for table in TABLES)
    assert {line.split()[0] for line in lines if line.startswith(" ")} == {
        column.name for table in TABLES for column in table.columns}
    assert "caches: 5 rows, one per sample × cache" in lines


def test_usage(folder: Path) -> None:
    assert show(folder).exit_code == 2
    assert show(folder, "slabinfo", "--list").exit_code == 2
    assert show(folder, "meminfo").exit_code == 2


def test_the_files_offered_are_those_there_are() -> None:
    assert set(FILES) == set(kernel_text.FILES)
