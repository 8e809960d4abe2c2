"""Every command's help has examples that run as written; whatever is wrong with a command ends in one clear line."""

from __future__ import annotations

import gzip
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from memtrace.cli import main as cli_main
from memtrace.run import replay

COMMANDS = {name: cli_main.cli.get_command(click.Context(cli_main.cli), name) for name in cli_main.COMMANDS}
NOT_RUN = {
    "--dask tcp://": "needs a cluster and a store; tests/unit/compare has both, of their own",
    "perf script": "needs a recording of perf",
}
QUICK = {"make -j4": "true", "--duration 10s": "--duration 100ms"}
"""What an example of `record` waits for is not what is tested."""
SHELL = frozenset("|<>;&$*?~`#")
"""Examples with one of these are for a shell; the others run in this process, which is quicker than one for each."""
NONSENSE = "non\x1bsense"
FTRACE = (
    "   make-1 [000] .....  1.000000: kmalloc: call_site=f+0x1/0x9 ptr=00000000deadbeef bytes_req=8 bytes_alloc=8 "
    "gfp_flags=GFP_KERNEL node=-1 accounted=false\n"
)


def examples(name: str) -> list[str]:
    """The lines of a command's help that call memtrace."""
    text = COMMANDS[name].get_help(click.Context(COMMANDS[name], info_name=name, max_content_width=10_000))
    return [line.strip() for line in text.splitlines() if f"memtrace {name}" in line and "Usage:" not in line]


EXAMPLES = [(name, line) for name in COMMANDS for line in examples(name)]


def call(arguments: list[str]) -> int:
    """Exit code of a command in this process."""
    return cli_main.guarded(lambda: cli_main.cli.main(arguments, prog_name="memtrace", standalone_mode=False))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, bundled: Path) -> Path:
    """A folder in which what the examples name is there."""
    where = tmp_path_factory.mktemp("help")
    shutil.copytree(bundled, where / "traces", ignore=shutil.ignore_patterns("*.parquet"))
    (where / "trace.txt.gz").write_bytes(gzip.compress(FTRACE.encode()))
    real = bundled / "build-and-serve-6.18-first20k.csv"
    for name, trace in (("trace", real), ("build", real), ("a", bundled / "hello.csv"), ("b", bundled / "hello.csv")):
        assert call(["convert", str(trace), str(where / f"{name}.parquet")]) == 0
    for name in ("snapshots", "build"):
        shutil.copytree(bundled / "build-and-serve-6.18", where / name)
    for name in ("snap-a", "snap-b"):
        shutil.copytree(bundled / "build-and-serve-6.18" / "start", where / name)
    for name, settings in (("a", ()), ("b", ("slub.cpu_partial=0",))):
        replay(bundled / "hello.csv", out=where / "runs" / name, settings=settings, report=False)
    return where


@pytest.fixture
def linked(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the template's files, which are not to be changed."""
    for entry in template.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def folder(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The template's copy, as the working folder."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def remove_target(name: str, words: list[str], folder: Path) -> None:
    """What an example writes is not there yet, though another example reads it."""
    targets = [words[i + 1] for i, word in enumerate(words) if word == "-o"] + words[-1:] * (name == "convert")
    for path in (folder / target for target in targets):
        path.unlink(missing_ok=True) if path.is_file() else shutil.rmtree(path, ignore_errors=True)
        if name == "record":
            shutil.rmtree(path.with_suffix(""))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example(name: str) -> None:
    assert examples(name)


@pytest.mark.parametrize(("name", "line"), EXAMPLES, ids=lambda value: value)
def test_example_of_the_help_runs(
    name: str, line: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for words, reason in NOT_RUN.items():
        if words in line:
            pytest.skip(reason)
    for words, instead in QUICK.items():
        line = line.replace(words, instead)
    words = shlex.split(line)
    remove_target(name, words, folder)
    if set(line) & SHELL:
        command = line.replace("memtrace", f"{shlex.quote(sys.executable)} -m memtrace", 1)
        ended = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True)
        code, err = ended.returncode, ended.stderr
    else:
        code, err = call(words[1:]), capfd.readouterr().err
    cannot = ("cannot record on this machine", "perf has ended", "perf ended with")
    if name == "record" and code == 1 and any(words in err for words in cannot):
        pytest.skip(err.strip())
    # That a run got worse is what --fail-if is there to say.
    assert code in ((0, 3) if "--fail-if" in line else (0,)), err
    assert "Traceback" not in err


RIGHT: dict[str, list[str]] = {
    "replay": ["trace.parquet"], "validate": ["trace.parquet"], "compare": ["runs/a", "runs/b"], "synth": ["net-rx"],
    "info": ["trace.parquet"], "record": ["--", "true"], "stat": ["trace.parquet"],
    "convert": ["trace.parquet", "out.csv"], "report": ["runs/a"], "show": ["runs/a", "slabinfo"],
}
"""A right call of each command, to which one thing is added that is wrong."""
STUDY = ["trace.parquet", "-o", "study"]
OF_TWO_RUNS = {"--fail-if", "--top"}
FREE_TEXT = {"out", "mapping"}
"""Parameters for which any text will do."""


VALUES = [
    (name, option.opts[-1]) for name, command in COMMANDS.items() for option in command.params
    if isinstance(option, click.Option) and not option.is_flag and option.name not in FREE_TEXT
]


def one_line(code: int, err: str) -> str:
    assert code in (cli_main.EXIT_INPUT, cli_main.EXIT_USAGE), err
    lines = [line for line in err.splitlines() if line.startswith("memtrace: error: ")]
    assert len(lines) == 1 and err.endswith(lines[0] + "\n"), err
    return lines[0]


def test_every_command_is_called_wrongly() -> None:
    assert set(RIGHT) == set(COMMANDS)


@pytest.mark.parametrize(("name", "option"), VALUES, ids=lambda value: value)
def test_a_value_that_is_nonsense_is_one_line(
    name: str, option: str, linked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = STUDY if name == "compare" and option not in OF_TWO_RUNS else RIGHT[name]
    code = call([name, option, NONSENSE, *right])
    line = one_line(code, capsys.readouterr().err)
    assert option in line or "sense" in line
    assert "\x1b" not in line


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("wrong", [["--nope"], ["one-too-many", "two", "three"]], ids=["option", "arguments"])
def test_wrong_usage_of_each_command_is_one_line(
    name: str, wrong: list[str], linked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # `record` takes a command of any words, and `compare` any number of traces: those are files that are not there.
    before = [name, *wrong] if name == "record" else [name, *RIGHT[name], *wrong]
    line = one_line(call(before), capsys.readouterr().err)
    assert wrong[0] in line or "argument" in line or "two" in line


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("synth", "record")])
def test_a_file_that_is_not_there_is_named(name: str, linked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["absent.parquet", *(STUDY if name == "compare" else RIGHT[name])[1:]]
    code = call([name, *arguments])
    assert code == cli_main.EXIT_INPUT
    assert "absent.parquet" in one_line(code, capsys.readouterr().err)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "record"])
def test_nothing_at_all_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = one_line(call([name]), capsys.readouterr().err)
    assert "expected" in line or "Missing argument" in line


