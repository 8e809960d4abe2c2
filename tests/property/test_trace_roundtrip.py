"""Parquet to CSV to Parquet loses nothing, whatever the strings and numbers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace.trace.convert import convert
from memtrace.trace.csv import quote
from memtrace.trace.parquet import ParquetTraceWriter
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
        assert list(rows_of(between)) == rows
        assert list(rows_of(last)) == rows
        assert sorted(path.name for path in Path(folder).iterdir()) == ["a.parquet", "b.csv", "c.parquet"]


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
