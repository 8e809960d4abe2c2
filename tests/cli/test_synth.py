"""`memtrace synth`: its example works, what is wrong is one line, and the documented workload of one's own runs."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from memtrace.cli.main import cli
from memtrace.cli.synth import command
from memtrace.errors import ConfigError, TraceError
from memtrace.synthetic.catalogue import NAMES


def synth(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["synth", *arguments])


def test_examples_of_the_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"^ *memtrace (synth .*)$", command.help or "", re.M)
    assert len(examples) == 3
    for example in examples:
        result = CliRunner().invoke(cli, example.split())
        assert result.exit_code == 0, result.exception
    assert result.stdout.startswith("forks.parquet: ") and "8 CPUs" in result.stdout


def test_list_names_all_and_explains_each() -> None:
    listed = synth("--list").stdout
    for name in NAMES:
        assert f"\n{name} " in f"\n{listed}"
        told = synth("--list", name).stdout
        assert told.startswith(f"{name}: ") and "source: " in told and "=" in told


def test_an_existing_file_stays(tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    out.write_text("mine")
    refused = synth("ping-pong", "-o", str(out))
    assert isinstance(refused.exception, TraceError) and "exists already" in str(refused.exception)
    assert out.read_text() == "mine"
    assert synth("ping-pong", "-o", str(out), "--force", "--events", "300").exit_code == 0
    assert out.read_text().startswith("ts_ns,cpu,event,")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["pingpong"], ConfigError, "did you mean ping-pong"),
        (["net-rx", "--set", "gapp=1us"], ConfigError, "did you mean gap"),
        (["net-rx", "--set", "gap=x"], ConfigError, '"x" is not a time'),
        (["net-rx", "--set", "gap=0ns"], ConfigError, "expected 1 to"),
        (["net-rx", "--set", "dropped=101"], ConfigError, "expected 0 to 100 %"),
        (["net-rx", "--set", "budget=1.5"], ConfigError, "not a whole number"),
        (["fork-storm", "--set", "vmas=10000", "--set", "gap=9999999s"], ConfigError, "out of range"),
        (["long-lived-pins", "--set", "pinned=1000000", "--set", "gap=1000s"], ConfigError, "64 bits"),
        (["net-rx", "-o", "a.txt"], TraceError, "expected a name ending in .parquet or .csv"),
        (["nowhere.py"], ConfigError, "no such file"),
    ],
)
def test_wrong_input_is_told(
    arguments: list[str], error: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = synth(*arguments)
    assert isinstance(result.exception, error) and words in str(result.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["net-rx", "--set", "gap"], ["net-rx", "--events", "0"]])
def test_wrong_usage(arguments: list[str]) -> None:
    with pytest.raises(click.UsageError):
        cli.main(["synth", *arguments], standalone_mode=False)


@pytest.mark.parametrize(
    ("text", "words"),
    [("x = 1", "no WORKLOAD in it"), ("1 / 0", "ZeroDivisionError"), ("WORKLOAD = 3", "no WORKLOAD in it")],
)
def test_a_file_without_a_workload(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    result = synth(str(path))
    assert isinstance(result.exception, ConfigError) and words in str(result.exception)


def test_the_documented_workload_runs(root: Path, tmp_path: Path) -> None:
    """docs/workloads.md: its file is written, generated and replayed with the commands that stand there."""
    text = (root / "docs" / "workloads.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.S)
    assert code is not None and len(code[1].splitlines()) <= 40
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        Path("log_lines.py").write_text(code[1])
        commands = re.findall(r"^    memtrace (.*)$", text, re.M)
        assert len(commands) >= 4
        for line in commands:
            result = CliRunner().invoke(cli, line.split())
            assert result.exit_code == 0, (line, result.exception, result.stderr)
            assert "unused" not in result.stdout
