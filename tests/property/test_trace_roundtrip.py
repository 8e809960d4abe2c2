"""Parquet to CSV to Parquet loses nothing, whatever the strings and numbers."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace.errors import TraceError
from memtrace.trace.convert import convert
from memtrace.trace.csv import quote
from memtrace.trace.parquet import ARROW_TYPES
from memtrace.trace.parquet_writer import ParquetTraceWriter
from memtrace.trace.schema import CHUNK_COLUMNS, EVENT_CODES, NO_NODE, EventChunk, TraceVocab
from memtrace.trace.source import open_trace

VOCABS = {"event_name": "event", "call_site": "call_site", "name": "name", "gfp_flags": "gfp", "ctx": "ctx",
          "gt_name": "name"}  # fmt: skip

hostile = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["", " ", '"', '""', ",", "\n", "\r\n", "#", "# x", '\n"#,', "a,b", " lead", "trail ", "(null)",
                     "0", "nan", "None", "µ→\U0001f40b", "\0", "\x1a", "'", "\u2028"]),
)  # fmt: skip
maybe_string = st.one_of(st.none(), hostile)
size = st.one_of(st.just(-1), st.integers(0, 2**63 - 1))
row = st.fixed_dictionaries(
    {
        "step": st.integers(0, 10**12),
        "cpu": st.integers(0, 4095),
        "task": st.integers(-1, 2**31 - 1),
        "event_name": st.one_of(st.sampled_from(sorted(EVENT_CODES)), hostile),
        "ptr": st.integers(0, 2**64 - 1),
        "bytes_req": size,
        "bytes_alloc": size,
        "node": st.integers(NO_NODE, 1023),
        "order": st.integers(-1, 30),
        "migratetype": st.integers(-1, 30),
        "pfn": st.integers(-1, 2**52 - 1),
        **{name: maybe_string for name in ("call_site", "name", "gfp_flags", "ctx", "gt_name", "text")},
    }
)


def completed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Times from 0 on, and what each event must have."""
    t_ns = 0
    done = []
    for i, values in enumerate(rows):
        values = dict(values)
        t_ns += values.pop("step") if i else 0 * values.pop("step")
        event = values["event_name"]
        if event == "kmalloc":
            values["bytes_req"] = max(values["bytes_req"], 0)
        if event in ("mm_page_alloc", "mm_page_free"):
            values["pfn"], values["order"] = max(values["pfn"], 0), max(values["order"], 0)
        done.append(values | {"ts_ns": t_ns, "event": EVENT_CODES.get(event, 0)})
    return done


def chunk_of(rows: list[dict[str, Any]], vocab: TraceVocab) -> tuple[EventChunk, pa.Array]:
    chunk = EventChunk.empty(len(rows))
    for i, values in enumerate(rows):
        for name, value in values.items():
            if name in VOCABS:
                value = -1 if value is None else getattr(vocab, VOCABS[name]).code(value)
            if name != "text":
                getattr(chunk, name)[i] = value
    return chunk, pa.array([values["text"] for values in rows], pa.string())


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    with open_trace(path) as reader:
        for chunk, text in reader.chunks_with_text(3):
            for i in range(len(chunk)):
                values: dict[str, Any] = {"text": text[i].as_py()}
                for name, _, _ in CHUNK_COLUMNS:
                    value = getattr(chunk, name)[i].item()
                    if name in VOCABS:
                        value = getattr(reader.vocab, VOCABS[name]).names[value] if value >= 0 else None
                    if name != "text":
                        values[name] = value
                yield values


@given(st.lists(row, min_size=1, max_size=12))
def test_parquet_to_csv_to_parquet(rows: list[dict[str, Any]]) -> None:
    rows = completed(rows)
    with tempfile.TemporaryDirectory() as folder:
        first, between, last = (Path(folder) / name for name in ("a.parquet", "b.csv", "c.parquet"))
        vocab = TraceVocab()
        writer = ParquetTraceWriter(first, vocab)
        for at in range(0, len(rows), 5):
            writer.write(*chunk_of(rows[at : at + 5], vocab))
        writer.close()
        assert list(rows_of(first)) == rows
        for source, target in ((first, between), (between, last)):
            with open_trace(source) as reader:
                assert convert(reader, target) == len(rows)
        kept = Path(folder) / "d.parquet"
        with open_trace(between, keep=kept) as reader:
            assert convert(reader, kept) == reader.rows == len(rows) and reader.kept == kept
        assert list(rows_of(between)) == list(rows_of(kept)) == rows
        assert list(rows_of(last)) == rows
        columns = [pa.parquet.read_schema(path).names for path in (first, last, kept)]
        assert columns[0] == columns[1] == columns[2]
        names = ["a.parquet", "b.csv", "c.parquet", "d.parquet"]
        assert sorted(path.name for path in Path(folder).iterdir()) == names


@given(hostile)
def test_quoting_is_what_python_reads(text: str) -> None:
    import csv
    import io

    assert bool(quote(text)) and quote(None) == ""
    line = f"1,{quote(text)},2\n"
    if "\0" not in text:
        assert next(csv.reader(io.StringIO(line, newline=""))) == ["1", text, "2"]


def test_optional_columns_that_are_empty_are_left_out(tmp_path: Path) -> None:
    vocab = TraceVocab()
    writer = ParquetTraceWriter(tmp_path / "a.parquet", vocab, {"kernel": "6.1"})
    chunk = EventChunk.empty(3)
    chunk.event_name[:] = vocab.event.code("kfree")
    chunk.task[1] = 4
    writer.write(chunk)
    writer.close()
    schema = pa.parquet.read_schema(tmp_path / "a.parquet")
    assert {"task"} == {"task", "ctx", "text", "gt_name"} & set(schema.names)
    assert schema.metadata[b"kernel"] == b"6.1"
    assert schema.field("event").type == pa.dictionary(pa.int32(), pa.string())
    assert schema.field("ptr").type == pa.uint64() and schema.field("node").type == pa.int16()


def test_an_optional_column_may_turn_up_late(tmp_path: Path) -> None:
    """Each at a time of its own, so that what is written already is written again, and again."""
    vocab = TraceVocab()
    writer = ParquetTraceWriter(tmp_path / "a.parquet", vocab, {"kernel": "6.1"})
    for turn in range(4):
        chunk = EventChunk.empty(3)
        chunk.event_name[:] = vocab.event.code(f"event{turn}")
        chunk.name[1] = vocab.name.code(f"cache{turn}")
        if turn == 1:
            chunk.text[2] = vocab.text.code("late")
        if turn == 3:
            chunk.task[0], chunk.ctx[0] = 7, vocab.ctx.code("d.h1")
        writer.write(chunk)
    writer.close()
    table = pa.parquet.read_table(tmp_path / "a.parquet")
    assert table.column_names == [name for name in ARROW_TYPES if name != "gt_name"]
    assert table.column("task").to_pylist() == [None] * 9 + [7, None, None]
    assert table.column("text").to_pylist() == [None] * 5 + ["late"] + [None] * 6
    assert table.column("ctx").to_pylist() == [None] * 9 + ["d.h1", None, None]
    assert table.column("event").to_pylist() == [f"event{i // 3}" for i in range(12)]
    assert table.column("name").to_pylist() == [f"cache{i // 3}" if i % 3 == 1 else None for i in range(12)]
    assert table.schema.metadata[b"kernel"] == b"6.1"
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_nothing_is_left_of_a_kept_file_that_does_not_become_whole(tmp_path: Path) -> None:
    good = "ts_ns,cpu,event,ptr\n" + "".join(f"{i},0,kfree,1\n" for i in range(140_000))
    for name, text in (("bad.csv", good + "0,0,kfree,x\n"), ("empty.csv", "ts_ns,cpu,event,ptr\n"), ("x.txt", "x\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / "out.parquet").write_text("as before")
        with pytest.raises(TraceError):
            open_trace(tmp_path / name, keep=tmp_path / "out.parquet")
        (tmp_path / name).unlink()
        assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]
        assert (tmp_path / "out.parquet").read_text() == "as before"


@pytest.mark.parametrize("keep", [True, False])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, keep: bool) -> None:
    """A limit of the size of files stands for the full disk, in a process of its own."""
    source, out = tmp_path / "a.csv", tmp_path / "out"
    random = np.random.default_rng(1).integers(0, 1 << 62, 150_000)
    rows = (f"{i},0,kfree,{ptr}\n" for i, ptr in enumerate(random.tolist()))
    source.write_text("ts_ns,cpu,event,ptr\n" + "".join(rows))
    out.mkdir()
    program = (
        "import resource, sys, tempfile; from pathlib import Path; from memtrace.trace.source import open_trace\n"
        "from memtrace.errors import MemtraceError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 17, 1 << 17)); tempfile.tempdir = sys.argv[2]\n"
        "try: open_trace(sys.argv[1], keep=Path(sys.argv[2], 'out.parquet') if len(sys.argv) > 3 else None)\n"
        "except MemtraceError as error: print(error)\n"
    )
    command = [sys.executable, "-c", program, str(source), str(out), *(["keep"] if keep else [])]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.count("\n") == 1 and "(File too large)" in run.stdout, run.stdout + run.stderr
    assert ("TMPDIR" in run.stdout) is not keep
    assert list(out.iterdir()) == []


def test_a_recording_survives(ground_truth: Path, tmp_path: Path) -> None:
    source = ground_truth / "linux-6.18_find_tar" / "trace.parquet"
    with open_trace(source) as reader:
        convert(reader, tmp_path / "b.csv")
    with open_trace(source) as a, open_trace(tmp_path / "b.csv") as b:
        assert a.rows == b.rows
        for left, right in zip(a.chunks_with_text(), b.chunks_with_text(), strict=True):
            assert left[1].equals(right[1].cast(pa.string()))
            for name, _, _ in CHUNK_COLUMNS:
                x, y = getattr(left[0], name), getattr(right[0], name)
                if name in VOCABS:
                    x, y = (
                        np.array([*getattr(vocab, VOCABS[name]).names, None], object)[codes]
                        for vocab, codes in ((a.vocab, x), (b.vocab, y))
                    )
                if name != "text":
                    assert (x == y).all(), name


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_failed_conversion_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "a.csv").write_text("ts_ns,cpu,event,ptr\n0,0,kfree,1\n")
    with open_trace(tmp_path / "a.csv") as reader:
        def stop(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            convert(reader, tmp_path / f"out.{suffix}", stop)
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
