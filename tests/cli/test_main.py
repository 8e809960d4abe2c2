"""Does every way to fail end in one clear line and the right exit code?"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from memtrace import compiled
from memtrace.cli import main as cli_main
from memtrace.errors import ConfigError, ModelError, TraceError


def raiser(error: BaseException) -> Callable[[], object]:
    def call() -> object:
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (TraceError("no column ptr; expected one.", "a.csv", 3), 1, "a.csv:3: no column ptr"),
        (ConfigError("--cpus 0: too few; expected 1."), 1, "--cpus 0"),
        (PermissionError(13, "Permission denied", "a.csv"), 1, "a.csv: Permission denied"),
        (IsADirectoryError(21, "Is a directory", "traces"), 1, "traces: Is a directory"),
        (click.UsageError("no such option"), 2, "no such option (`memtrace --help` explains)"),
        (click.Abort(), 130, "interrupted"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ModelError("free list of zone 0 has 3 pages, its count says 4", 17, 99), 70, "trace row 17, t=99 ns"),
        (RuntimeError("first line\nsecond line"), 70, "RuntimeError: first line second line"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_error_is_one_line_and_a_code(
    error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli_main.guarded(raiser(error)) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("memtrace: error: ") and err.count("\n") == 1
    assert words in err


def test_bug_says_what_to_report_and_shows_the_traceback_on_request(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cli_main.guarded(raiser(ZeroDivisionError("x")))
    quiet = capsys.readouterr().err
    assert "bug of memtrace" in quiet and "MEMTRACE_TRACEBACK=1" in quiet and "Traceback" not in quiet
    monkeypatch.setenv("MEMTRACE_TRACEBACK", "1")
    cli_main.guarded(raiser(ZeroDivisionError("x")))
    assert "Traceback" in capsys.readouterr().err


def test_good_end_is_zero_and_a_command_may_choose_its_code() -> None:
    assert cli_main.guarded(lambda: None) == 0
    assert cli_main.guarded(lambda: 3) == 3


def test_closed_pipe_is_quiet() -> None:
    code = "import sys; from memtrace.cli import main as m; sys.exit(m.guarded(lambda: print('x' * 10**7)))"
    run = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "{code}" | head -c 1; exit ${{PIPESTATUS[0]}}'],
        capture_output=True, text=True,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "x", "")


def test_help_lists_every_command_and_imports_none() -> None:
    code = (
        "import sys\nfrom memtrace.cli.main import cli\n"
        "cli.main(['--help'], standalone_mode=False)\n"
        "heavy = {'numpy', 'pandas', 'pyarrow', 'simpy', 'matplotlib', 'cython'} & set(sys.modules)\n"
        "mine = [name for name in sys.modules if name.startswith('memtrace.cli.') and name != 'memtrace.cli.main']\n"
        "sys.exit(f'imported {heavy} {mine}' if heavy or mine else 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for name, (_, line) in cli_main.COMMANDS.items():
        assert name in run.stdout and line in run.stdout


@pytest.mark.parametrize("name", cli_main.COMMANDS)
def test_every_command_has_help(name: str) -> None:
    result = CliRunner().invoke(cli_main.cli, [name, "--help"])
    assert result.exit_code == 0, result.exception
    assert "Usage: " in result.stdout


def test_module_of_each_command_is_named_for_it() -> None:
    for name, (module, _) in cli_main.COMMANDS.items():
        assert module == f"memtrace.cli.{name}"


@pytest.mark.parametrize("arguments", [["nope"], ["--nope"], ["replay", "--nope"], ["replay"]])
def test_wrong_usage_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "memtrace", *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1 and "--help" in run.stderr


def test_public_names_load_when_asked_for() -> None:
    code = (
        "import sys, memtrace\n"
        "assert not {'numpy', 'pandas', 'pyarrow', 'simpy'} & set(sys.modules), 'heavy import'\n"
        "assert issubclass(memtrace.TraceError, memtrace.MemtraceError)\n"
        "missing = [name for name in memtrace.__all__ if not hasattr(memtrace, name)]\n"
        "sys.exit(f'{missing}' if missing else 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("arguments", [["info"], ["convert", "x.csv"], ["replay", "--no-report"]])
def test_stale_core_is_refused_before_it_runs(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, bundled: Path
) -> None:
    def refuse() -> None:
        raise ConfigError("stale")

    monkeypatch.setattr(compiled, "check", refuse)
    result = CliRunner().invoke(cli_main.cli, [arguments[0], str(bundled / "hello.csv"), *arguments[1:]])
    assert isinstance(result.exception, ConfigError)


def test_interpreted_core_is_said_once_on_stderr(
    monkeypatch: pytest.MonkeyPatch, bundled: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(compiled, "notice", lambda: "memtrace: slow")
    arguments = ["replay", str(bundled / "hello.csv"), "-o", str(tmp_path / "run"), "--no-report"]
    result = CliRunner().invoke(cli_main.cli, arguments)
    assert result.exit_code == 0
    assert result.stderr.count("memtrace: slow") == 1 and "slow" not in result.stdout
