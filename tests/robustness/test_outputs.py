"""What is in the way of a result, and what ends the work: one line that names the result, nothing left behind."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memtrace import OutputError, replay
from memtrace.cli.main import cli, guarded
from memtrace.config import KernelConfig
from memtrace.errors import ConfigError
from memtrace.files import NewFile, lasting_folder, write_text
from memtrace.metrics.tables import TableWriters

Run = Callable[..., tuple[int, str]]
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def memtrace(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line as ``main`` does: exit code, standard error."""

    def run(*arguments: object) -> tuple[int, str]:
        code = guarded(lambda: cli.main([str(a) for a in arguments], prog_name="memtrace", standalone_mode=False))
        return code, capfd.readouterr().err

    return run


def program(text: str, folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a process of its own, ``folder``/tmp its place for temporary files."""
    (folder / "tmp").mkdir()
    return subprocess.run(
        [sys.executable, "-c", text, *map(str, arguments)], cwd=folder, capture_output=True, text=True,
        errors="replace", timeout=60, check=False, env={**os.environ, "TMPDIR": str(folder / "tmp"), **environment},
    )  # fmt: skip


# --------------------------------------------------------------------------- what is in the way

IN_THE_WAY: dict[str, tuple[Callable[[Path], object], str]] = {
    "a folder": (lambda path: path.mkdir(), "is a folder; expected a file"),
    "a pipe": (os.mkfifo, "is a pipe; expected a file"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "is a link to itself; expected a file"),
    "a device": (lambda path: path.symlink_to(os.devnull), "is a device or socket; expected a file"),
}


@pytest.mark.parametrize("what", IN_THE_WAY)
@pytest.mark.parametrize("command", [["convert", "{trace}", "{out}"],
                                     ["synth", "net-rx", "--events", "9", "-o", "{out}"]])  # fmt: skip
def test_what_is_no_file_is_not_replaced(
    tmp_path: Path, memtrace: Run, bundled: Path, what: str, command: list[str]
) -> None:
    out = tmp_path / "o.parquet"
    make, expected = IN_THE_WAY[what]
    make(out)
    before = out.lstat()
    code, err = memtrace(*(word.format(trace=bundled / "hello.csv", out=out) for word in command), "--force")
    assert code == 1 and err.count("\n") == 1 and f"{out}: {expected}" in err
    assert os.path.samestat(before, out.lstat()) and os.listdir(tmp_path) == [out.name]


def test_a_link_to_a_file_stays_one(tmp_path: Path, memtrace: Run, bundled: Path) -> None:
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("real.csv")
    assert memtrace("convert", bundled / "hello.csv", tmp_path / "link.csv", "--force") == (0, "")
    assert (tmp_path / "link.csv").is_symlink() and "kmalloc" in (tmp_path / "real.csv").read_text()


def test_a_name_may_be_as_long_as_the_system_lets_it(tmp_path: Path, memtrace: Run, bundled: Path) -> None:
    out = tmp_path / ("n" * 247 + ".parquet")
    assert memtrace("convert", bundled / "hello.csv", out) == (0, "") and out.is_file()
    code, err = memtrace("convert", bundled / "hello.csv", tmp_path / ("n" * 300 + ".csv"))
    assert code == 1 and err.count("\n") == 1 and "expected a name that is short enough" in err


@pytest.mark.parametrize("command", [["convert", "{trace}", "{out}/x.csv"], ["replay", "{trace}", "-o", "{out}/x"],
                                     ["compare", "{trace}", "-o", "{out}/x"]])  # fmt: skip
def test_a_name_that_is_not_utf8(tmp_path: Path, memtrace: Run, bundled: Path, command: list[str]) -> None:
    out = tmp_path / os.fsdecode(b"caf\xe9")
    out.mkdir()
    code, err = memtrace(*(word.format(trace=bundled / "hello.csv", out=out) for word in command))
    assert code == 1 and err.count("\n") == 1 and "a name that is not UTF-8; expected one that is" in err
    assert os.listdir(out) == []


@pytest.mark.parametrize("name", ["..parquet", "x.txt"])
def test_a_recording_is_not_begun_without_a_place_for_it(tmp_path: Path, memtrace: Run, name: str) -> None:
    code, err = memtrace("record", "-o", tmp_path / name, "--duration", "1ms")
    assert code == 1 and err.count("\n") == 1 and f"{tmp_path / name}: " in err and "expected" in err
    assert os.listdir(tmp_path) == []


def test_a_validation_says_nothing_before_it_refuses(tmp_path: Path, memtrace: Run, bundled: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    code, err = memtrace("validate", bundled / "hello.csv", "-o", tmp_path)
    assert code == 1 and err.count("\n") == 1 and "holds other things than a run" in err
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_study_needs_files(tmp_path: Path, memtrace: Run, kind: str) -> None:
    trace = tmp_path / "trace"
    trace.mkdir() if kind == "folder" else os.mkfifo(trace)
    code, err = memtrace("compare", trace, "-o", tmp_path / "study")
    assert code in (1, 2) and err.count("\n") == 1 and f"{trace}: " in err and "expected" in err


# --------------------------------------------------------------------------- no room


def test_a_full_disk_leaves_no_run(
    tmp_path: Path, memtrace: Run, bundled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise FULL

    monkeypatch.setattr(TableWriters, "add", full)
    for command in (["replay"], ["compare"]):
        code, err = memtrace(*command, bundled / "hello.csv", "-o", tmp_path / command[0])
        assert code == 1 and err.strip().count("\n") == 0 and str(tmp_path / command[0]) in err
        assert "cannot be written (No space left on device); expected room on that disk" in err
        assert ".part" not in err and not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
    assert not (tmp_path / "replay").exists()


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a", "old")
    with pytest.raises(ZeroDivisionError), NewFile(tmp_path / "a").writing() as part:
        part.write_text("half")
        raise ZeroDivisionError

    def full(path: Path, data: bytes) -> None:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        raise FULL

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left") as caught:
        write_text(tmp_path / "a", "new")
    assert caught.value.path == str(tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.path, again.why) == (str(caught.value), caught.value.path, caught.value.why)


def test_nothing_stays_of_a_result_without_a_name_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ValueError, match="no such file"):
        replay(tmp_path / "gone.csv")
    assert os.listdir(tmp_path) == []
    with lasting_folder() as folder:
        pass
    assert folder.is_dir()


# --------------------------------------------------------------------------- told to end

ENDED_WHILE_IT_PLAYS = """
import os, shutil, sys
import memtrace.run
from memtrace.cli.main import main
def play(*_):
    os.kill(os.getpid(), {number})
def rmtree(*arguments, remove=shutil.rmtree, **how):
    if {number} != 2:  # as `timeout` does, while all is cleaned up
        os.kill(os.getpid(), {number})
    remove(*arguments, **how)
memtrace.run._Job._play = play
shutil.rmtree = rmtree
sys.argv = ["memtrace", "replay", sys.argv[1], "-o", "run"]
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_replay_that_is_told_to_end_leaves_nothing(tmp_path: Path, bundled: Path, number: signal.Signals) -> None:
    done = program(ENDED_WHILE_IT_PLAYS.format(number=int(number)), tmp_path, bundled / "hello.csv")
    assert done.returncode == 128 + number
    assert done.stderr.strip().count("\n") == 0 and ("interrupted" in done.stderr or number.name in done.stderr)
    assert os.listdir(tmp_path) == ["tmp"] and os.listdir(tmp_path / "tmp") == []


def test_a_signal_that_python_drops_comes_again(tmp_path: Path) -> None:
    done = program(
        "import os, signal, threading, weakref\n"
        "from memtrace.ending import end_in_order\n"
        "end_in_order()\n"
        "class Thing: pass\n"
        "thing = Thing()\n"
        "seen = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGTERM))\n"
        "del thing\n"
        "print('dropped', flush=True)\n"
        "threading.Event().wait(30)\n", tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (143, "dropped\n", "")


# --------------------------------------------------------------------------- terminals, values


def test_what_a_terminal_cannot_show_is_numbered(tmp_path: Path, bundled: Path) -> None:
    text = "import sys; from memtrace.cli.main import main; sys.argv = ['memtrace', 'info', sys.argv[1]]; main()"
    done = program(text, tmp_path, bundled / "hello.csv", PYTHONIOENCODING="latin-1")
    assert done.returncode == 0 and "\\u2026" in done.stdout and done.stderr == ""


@pytest.mark.parametrize(
    ("key", "value"),
    [("kmalloc.largest", "1_024"), ("kmalloc.largest", "1000"), ("kmalloc.largest", "\u0661\u0666"),
     ("pcp.batch", 1 << 30), ("vm.watermark_scale_factor", 1 << 30), ("percpu.atom_size", 0), ("percpu.atom_size", 3),
     ("percpu.dyn_size", (1 << 31) - 1)],
)  # fmt: skip
def test_numbers_that_no_kernel_takes(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key):
        KernelConfig().with_setting(key, str(value))
