"""Broken, hostile and misplaced input: one clear line and exit code 1, or counted; never a traceback."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from memtrace.cli.main import cli, guarded
from memtrace.errors import TraceError
from memtrace.trace.source import open_trace

HEADER = "ts_ns,cpu,event,ptr,bytes_req,name,order,pfn,node\n"
GOOD = HEADER + "0,0,kmalloc,0x10,64,,,,\n5,1,kfree,0x10,,,,,\n"
LOG = "x-1 [000] .... 1.000000: kmalloc: call_site=f ptr=0x10 bytes_req=64 bytes_alloc=64 gfp_flags=GFP_KERNEL\n"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def memtrace(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line as ``main`` does: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = guarded(lambda: cli.main([str(a) for a in arguments], prog_name="memtrace", standalone_mode=False))
        out, err = capfd.readouterr()
        return code, out, err

    return run


def written(folder: Path, text: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def parquet(folder: Path, **columns: pa.Array | list) -> Path:
    path = folder / "t.parquet"
    base = {"ts_ns": [0, 5], "cpu": [0, 0], "event": ["kmalloc", "kfree"], "ptr": pa.array([16, 16], pa.uint64())}
    table = {name: column for name, column in {**base, **columns}.items() if column is not None}
    pq.write_table(pa.table(table), path)
    return path


def error_of(path: Path | str) -> str:
    with pytest.raises(TraceError) as caught, open_trace(path) as reader:
        for _ in reader.chunks():
            pass
    message = str(caught.value)
    assert "\n" not in message and message.startswith(str(path))
    return message.removeprefix(str(path))


# --------------------------------------------------------------------------- through the command line


@pytest.mark.parametrize("command", ["info", "convert"])
@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.csv", "", "the file is empty; expected a trace"),
        ("t.csv", HEADER, "no rows; expected at least one event"),
        ("t.csv", "# only a comment\n", "no header row; expected ts_ns,cpu,event,ptr"),
        ("t.csv", GOOD.replace("ts_ns", "time"), 't.csv:1: no column "ts_ns"; expected a header row'),
        ("t.csv", GOOD + "-5,0,kfree,0x10,,,,,\n", "t.csv:4: ts_ns is '-5'; expected nanoseconds"),
        ("t.csv", GOOD + "9,0,kmalloc,0x10,9223372036854775808,,,,\n", "t.csv:4: bytes_req is '9223372036854775808'"),
        ("t.csv", GOOD + "9,4096,kfree,0x10,,,,,\n", "t.csv:4: cpu is '4096'; expected 0..4095"),
        ("t.csv", GOOD.encode("utf-16"), "text in UTF-16; expected UTF-8"),
        ("t.txt", "nothing here\nat all\n", "t.txt:1: not a trace: none of its 2 lines is an event"),
        ("t.bin", b"\x7fELF\0\0\1\2" * 100, "not a trace: binary data"),
        ("perf.data", b"PERFILE2" + bytes(100), "perf record did not end in order, or the file was cut off"),
        ("trace.dat", b"\x17\x08Dtracing" + bytes(100), "; expected a whole trace.dat" if shutil.which("trace-cmd")
         else "trace.dat is read through trace-cmd, which is not installed"),
        ("t.parquet", b"PAR1" + bytes(100), "not a whole Parquet file"),
        ("t.txt.gz", gzip.compress(LOG.encode() * 999)[:-20], "cannot be read to its end"),
        ("t.txt", LOG + "x" * (5 << 20), "t.txt:2: not a trace: a line longer than 4 MiB"),
    ],
)
def test_one_line_and_exit_1(
    tmp_path: Path, memtrace: Run, command: str, name: str, content: str | bytes, expected: str
) -> None:
    path = written(tmp_path, content, name)
    arguments = [command, path] + ([tmp_path / "out.parquet"] if command == "convert" else [])
    code, out, err = memtrace(*arguments)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1 and err.startswith(f"memtrace: error: {path}") and expected in err
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [name]


def test_a_directory_a_missing_file_and_an_unreadable_one(
    tmp_path: Path, memtrace: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "a directory; expected a trace file" in memtrace("info", tmp_path)[2]
    written(tmp_path, GOOD, "boot-slub.csv")
    code, _, err = memtrace("info", tmp_path / "boot-slab.csv")
    assert code == 1 and "no such file; expected a trace. Near it: boot-slub.csv" in err
    assert "no such file" in memtrace("info", tmp_path / "no" / "folder.csv")[2]

    def refuse(path: str, mode: str = "r") -> io.BytesIO:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("builtins.open", refuse)
    code, _, err = memtrace("info", tmp_path / "boot-slub.csv")
    monkeypatch.undo()
    assert code == 1 and err.count("\n") == 1 and "no permission to read it" in err


def test_convert_refuses_a_bad_target_before_it_reads(tmp_path: Path, memtrace: Run) -> None:
    path = written(tmp_path, GOOD)
    assert 'cannot write ".txt"; expected a name ending in .parquet or .csv' in memtrace("convert", path, "x.txt")[2]
    assert "it is the input itself" in memtrace("convert", path, path)[2]
    assert "in an existing folder" in memtrace("convert", path, tmp_path / "no" / "x.csv")[2]
    assert path.read_text() == GOOD


def test_convert_replaces_files_only_when_told(tmp_path: Path, memtrace: Run) -> None:
    path, out, mapping = written(tmp_path, GOOD), tmp_path / "out.csv", tmp_path / "private.json"
    private = ("--anonymize", "--mapping", mapping)
    out.write_text("mine")
    assert "exists already" in memtrace("convert", path, out)[2] and out.read_text() == "mine"
    assert memtrace("convert", path, out, "--force")[0] == 0 and out.read_text() != "mine"
    out.unlink()
    mapping.write_text("mine")
    assert "private.json: exists already" in memtrace("convert", path, out, *private)[2] and not out.exists()
    assert memtrace("convert", path, out, *private, "--force")[0] == 0 and mapping.read_text() != "mine"
    assert "it is the trace" in memtrace("convert", path, out, "--anonymize", "--mapping", out, "--force")[2]


def test_an_address_is_told_from_a_missing_file(memtrace: Run) -> None:
    code, _, err = memtrace("info", "s3://bucket/trace.parquet")
    assert code == 1 and "an address; expected a file of this machine" in err


def test_compare_says_which_folder_is_no_run(tmp_path: Path, memtrace: Run) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text("{}")
    (tmp_path / "other").mkdir()
    code, _, err = memtrace("compare", tmp_path / "run", tmp_path / "other")
    assert code == 2 and f"{tmp_path / 'other'}: a folder without a manifest.json" in err
    code, _, err = memtrace("compare", tmp_path / "run", written(tmp_path, GOOD))
    assert code == 2 and f"{tmp_path / 'run'}: a run folder, and not one of two" in err


def test_what_is_counted_is_printed(tmp_path: Path, memtrace: Run) -> None:
    path = written(tmp_path, GOOD.replace("node\n", "node,pid\n").replace(",\n", ",,7\n") + "3,0,my_event,,,,,,,\n")
    code, out, err = memtrace("convert", path, tmp_path / "out.parquet")
    assert (code, err) == (0, "")
    assert "3 rows from csv" in out
    assert "time_backwards: 1, first at line 4" in out and "unknown_event: 1, first at line 4" in out
    assert "column_ignored: pid: 1" in out


# --------------------------------------------------------------------------- CSV values


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("x,0,kfree,1,,,,,", ":2: ts_ns is 'x'; expected nanoseconds since the trace began, 0 or more. Correct"),
        ("1.5,0,kfree,1,,,,,", ":2: ts_ns is '1.5'"),
        (",0,kfree,1,,,,,", ":2: kfree without ts_ns; expected a value"),
        ("9223372036854775808,0,kfree,1,,,,,", ":2: ts_ns is '9223372036854775808'"),
        ("0,-1,kfree,1,,,,,", ":2: cpu is '-1'; expected 0..4095"),
        ("0,,kfree,1,,,,,", ":2: kfree without cpu"),
        ("0,0,,1,,,,,", ":2: a row without event"),
        ("0,0,kfree,zz,,,,,", ":2: ptr is 'zz'; expected a decimal number, 0x"),
        ("0,0,kfree,0x12345678901234567,,,,,", ":2: ptr is '0x12345678901234567'"),
        ("0,0,kfree,18446744073709551616,,,,,", ":2: ptr is '18446744073709551616'"),
        ("0,0,kfree,-1,,,,,", ":2: ptr is '-1'"),
        ("0,0,kfree,,,,,,", ":2: kfree without ptr"),
        ("0,0,kmalloc,1,-1,,,,", ":2: bytes_req is '-1'; expected bytes, 0..2^63-1"),
        ("0,0,kmalloc,1,,,,,", ":2: kmalloc without bytes_req"),
        ("0,0,mm_page_alloc,,,,0,,", ":2: mm_page_alloc without pfn"),
        ("0,0,mm_page_alloc,1,,,,,", ":2: mm_page_alloc without order"),
        ("0,0,mm_page_alloc,1,,,31,,", ":2: order is '31'"),
        ("0,0,kmalloc,1,8,,,,-2", ":2: node is '-2'; expected a node number"),
        ("0,0,kfree,1,,,,", ":2: 8 values; expected 9, as in the header"),
        ("0,0,kfree,1,,,,,,7", ":2: more than 9 values; expected 9"),
    ],
)
def test_a_bad_value_is_named_with_its_line(tmp_path: Path, row: str, expected: str) -> None:
    assert error_of(written(tmp_path, HEADER + row + "\n")).startswith(expected)


def test_lines_are_counted_through_comments_blanks_and_quoted_newlines(tmp_path: Path) -> None:
    head = '# a "comment, with a quote\n\nts_ns,cpu,event,ptr,text\n  # x\n'
    text = head + '0,0,marker,,"a\nb\n""c"\r\n1,0,kfree,q,\n'
    assert error_of(written(tmp_path, text)).startswith(":8: ptr is 'q'")


def test_a_column_that_is_misspelt_gets_a_hint(tmp_path: Path) -> None:
    assert '(is "cpus" meant to be it?)' in error_of(written(tmp_path, GOOD.replace(",cpu,", ",cpus,")))
    assert 'column "cpu" stands twice' in error_of(written(tmp_path, GOOD.replace("bytes_req", "cpu")))


# --------------------------------------------------------------------------- Parquet values


@pytest.mark.parametrize("name", ["ts_ns", "cpu", "event", "ptr"])
def test_parquet_without_a_needed_column(tmp_path: Path, name: str) -> None:
    assert f'no column "{name}"; expected at least' in error_of(parquet(tmp_path, **{name: None}))


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("ts_ns", [0, -1], ":2: ts_ns is -1; expected nanoseconds"),
        ("ts_ns", [0, None], ":2: ts_ns is null"),
        ("cpu", [4096, 0], ":1: cpu is 4096; expected 0..4095"),
        ("cpu", [0, -1], ":2: cpu is -1"),
        ("event", ["kfree", None], ":2: event is null"),
        ("bytes_req", [1, -2], ":2: bytes_req is -2"),
        ("bytes_req", pa.array([1, 1 << 63], pa.uint64()), ":2: bytes_req is 9223372036854775808"),
        ("bytes_req", pa.array([None, 1 << 63], pa.uint64()), ":2: bytes_req is 9223372036854775808"),
        ("order", [0, 99], ":2: order is 99"),
        ("node", [0, 1024], ":2: node is 1024"),
        ("pfn", [0, 1 << 60], ":2: pfn is 1152921504606846976"),
        ("ptr", ["10", "xyz"], ":2: ptr is 'xyz'; expected hexadecimal"),
        ("ptr", [1.0, 2.0], ': column "ptr" is of type double; expected uint64'),
        ("pfn", [1.0, None], ': column "pfn" is of type double; expected integers'),
        ("event", [1, 2], ': column "event" is of type int64; expected strings'),
        ("ts_ns", pa.nulls(2), ': column "ts_ns" is of type null; expected integers'),
    ],
)
def test_parquet_with_a_bad_value(tmp_path: Path, column: str, values: list, expected: str) -> None:
    assert error_of(parquet(tmp_path, **{column: values})).startswith(expected)


def test_parquet_that_is_cut_off_or_damaged_in_the_middle(tmp_path: Path) -> None:
    path = parquet(tmp_path, bytes_req=list(range(2)))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "not a whole Parquet file" in error_of(path)
    n = 50_000
    columns = {"ts_ns": list(range(n)), "cpu": [0] * n, "event": ["kfree"] * n, "ptr": pa.array(range(n), pa.uint64())}
    damaged = bytearray(parquet(tmp_path, **columns).read_bytes())
    damaged[4 : len(damaged) // 2] = bytes(len(damaged) // 2 - 4)
    path.write_bytes(damaged)
    assert "damaged Parquet" in error_of(path)


def test_parquet_with_a_column_twice(tmp_path: Path) -> None:
    table = pq.read_table(parquet(tmp_path))
    pq.write_table(table.append_column("cpu", table.column("cpu")), tmp_path / "t.parquet")
    assert ': column "cpu" stands twice; expected once' in error_of(tmp_path / "t.parquet")


def test_parquet_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"ts_ns": [0], "cpu": [0], "event": ["x"], "ptr": [0]}).slice(0, 0), path)
    assert "no rows; expected at least one event" in error_of(path)


# --------------------------------------------------------------------------- what is counted


def test_time_that_goes_back_is_clamped_in_every_format(tmp_path: Path) -> None:
    rows = [(100, 0), (200, 0), (150, 1), (90, 0), (300, 0)]
    text = "".join(LOG.replace("1.000000", f"1.000{t:03d}").replace("[000]", f"[{cpu:03d}]") for t, cpu in rows)
    table = "ts_ns,cpu,event,ptr\n" + "".join(f"{t},{cpu},kfree,1\n" for t, cpu in rows)
    ts, cpus = ([row[i] for row in rows] for i in (0, 1))
    five = {"event": ["kfree"] * 5, "ptr": pa.array([1] * 5, pa.uint64())}
    for path, unit, first in (
        (written(tmp_path, text, "t.txt"), 1000, 3),
        (written(tmp_path, table), 1, 4),
        (parquet(tmp_path, ts_ns=ts, cpu=cpus, **five), 1, 3),
    ):
        for rows_per_chunk in (100, 1):
            with open_trace(path) as reader:
                found = [int(t) for chunk in reader.chunks(rows_per_chunk) for t in chunk.ts_ns]
                assert found == [0, 100 * unit, 100 * unit, 100 * unit, 200 * unit]
                assert reader.problems["time_backwards"] == 2 and reader.problem_rows["time_backwards"] == first


def test_bad_lines_of_a_log_are_counted_and_skipped(tmp_path: Path) -> None:
    text = (LOG + "garbage\n" + LOG.replace("=64 bytes_a", "=-64 bytes_a") + LOG.replace("0x10", "(____ptrval____)")
            + LOG.replace("ptr=0x10", "") + "CPU:0 [LOST 9 EVENTS]\n" + LOG)  # fmt: skip
    with open_trace(written(tmp_path, text, "t.txt")) as reader:
        assert reader.rows == 3
        assert reader.problems == {"unparsed_line": 1, "bad_number": 1, "unreadable_pointer": 1, "missing_field": 1,
                                   "lost_events": 9}  # fmt: skip
        assert reader.problem_rows == {"unparsed_line": 2, "bad_number": 3, "unreadable_pointer": 4,
                                       "missing_field": 5, "lost_events": 6}  # fmt: skip


def test_lost_events_survive_a_conversion(tmp_path: Path, memtrace: Run) -> None:
    path = written(tmp_path, LOG + "CPU:0 [LOST 9 EVENTS]\n" + LOG, "t.txt")
    memtrace("convert", path, tmp_path / "a.parquet")
    with open_trace(tmp_path / "a.parquet") as reader:
        for _ in range(2):
            assert sum(len(chunk) for chunk in reader.chunks()) == 3
            assert reader.problems == {"lost_events": 9} and reader.problem_rows == {"lost_events": 2}


# --------------------------------------------------------------------------- ways in


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gz", "zst"])
@pytest.mark.parametrize("kind", ["csv", "txt", "parquet"])
def test_standard_input_and_compression(tmp_path: Path, kind: str, compress: Callable[[bytes], bytes]) -> None:
    content = {"csv": GOOD.encode(), "txt": LOG.encode() * 2, "parquet": parquet(tmp_path).read_bytes()}[kind]
    raw = compress(content)
    program = "import sys; from memtrace.trace.source import open_trace\nr = open_trace('-')\n"
    program += "print(r.rows, [len(c) for _ in range(2) for c in r.chunks(1)], r.digest()); r.close()"
    done = subprocess.run([sys.executable, "-c", program], input=raw, capture_output=True, check=True)
    import hashlib

    assert done.stdout.decode().strip() == f"2 [1, 1, 1, 1] {hashlib.sha256(raw).hexdigest()}"
    path = written(tmp_path, raw, "x.bin")
    with open_trace(path) as reader:
        assert reader.rows == 2 and reader.digest() == hashlib.sha256(raw).hexdigest()
        assert reader.format == {"csv": "csv", "txt": "ftrace", "parquet": "parquet"}[kind]


def test_a_named_pipe_is_read_once_and_then_from_the_spool(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = subprocess.Popen(["sh", "-c", 'printf %s "$1" > "$2"', "sh", GOOD, str(pipe)])
    with open_trace(pipe) as reader:
        assert [sum(len(chunk) for chunk in reader.chunks()) for _ in range(2)] == [2, 2]
        assert len(reader.digest()) == 64
    assert writer.wait() == 0


def test_the_spool_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "spool"))
    (tmp_path / "spool").mkdir()
    with open_trace(written(tmp_path, GOOD)) as reader:
        assert len(list((tmp_path / "spool").iterdir())) == 1 and reader.rows == 2
    assert list((tmp_path / "spool").iterdir()) == []
    error_of(written(tmp_path, GOOD + "x\n", "bad.csv"))
    assert list((tmp_path / "spool").iterdir()) == []
