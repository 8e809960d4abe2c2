"""What is kept of a trace between replays is what would be read again, however often and by whom it was used."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace.errors import TraceError
from memtrace.run import REPLAYED
from memtrace.trace import kept
from memtrace.trace.census import take_census
from memtrace.trace.convert import convert
from memtrace.trace.fold import Fold
from memtrace.trace.kept import KeptTraces, ReadTrace
from memtrace.trace.pairing import RequestStream
from memtrace.trace.requests import REQUEST_COLUMNS, Census, Requests
from memtrace.trace.source import open_trace
from memtrace.trace.window import TraceWindow

PLENTY = 1 << 30
ROWS = 1000


def silent(*_: int) -> None:
    """Progress that nobody looks at."""


def columns_of(chunks: Any) -> dict[str, list[int]]:
    parts: list[Requests] = list(chunks)
    return {name: [value for part in parts for value in getattr(part, name).tolist()] for name, _ in REQUEST_COLUMNS}


def plain(value: Any) -> Any:
    """A census with its arrays as lists, so that two can be compared."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return [plain(part) for part in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def trace(bundled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The beginning of a real trace as text."""
    lines = (bundled / "build-and-serve-6.18-first20k.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    place = tmp_path_factory.mktemp("kept") / "trace.csv"
    place.write_text("".join(lines[:ROWS + 1]), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def parquet(trace: Path) -> Path:
    """The same as Parquet, which is read where it is."""
    with open_trace(trace) as reader:
        convert(reader, trace.with_suffix(".parquet"))
    return trace.with_suffix(".parquet")


def afresh(trace: Path, first_row: int, window: tuple[int, int] | None, cpus: int) -> tuple[Any, ...]:
    """Census, requests, their counts and the reader's problems, of a reader of their own."""
    with open_trace(trace, columns=REPLAYED) as reader:
        source = TraceWindow(reader, first_row, window)
        census = take_census(source)
        requests = RequestStream(source, census)
        return plain(census), columns_of(requests.folded(Fold(census, cpus, 1))), requests.counts, reader.problems


uses = st.tuples(st.sampled_from([0, 300]), st.sampled_from([None, (0, 1 << 62), (1_500_000, 3_000_000)]),
                 st.sampled_from([1, 2, 8]), st.booleans())


@given(used=st.lists(uses, min_size=2, max_size=6), keep_bytes=st.sampled_from([0, 1, 50_000, PLENTY]))
def test_each_use_sees_what_a_reader_of_its_own_would(
    parquet: Path, used: list[tuple[int, tuple[int, int] | None, int, bool]], keep_bytes: int
) -> None:
    with KeptTraces(keep_bytes) as traces:
        for first_row, window, cpus, spoils in used:
            read = traces.open(parquet, REPLAYED, "6.1", silent)
            census = read.census(first_row, window, silent)
            requests = read.requests()
            expected = afresh(parquet, first_row, window, cpus)
            assert expected[1]["row"]
            assert (plain(census), columns_of(requests.folded(Fold(census, cpus, 1))), requests.counts,
                    read.reader.problems) == expected
            for chunk in requests if spoils else ():
                chunk.cpu[:] = 77  # as moves of work to other CPUs do
                break  # and the rest is never asked for


def test_a_trace_is_read_once_while_its_requests_fit(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    whole = TraceWindow.chunks
    monkeypatch.setattr(TraceWindow, "chunks", lambda *args: passes.append(1) or whole(*args))
    for keep_bytes, again in ((PLENTY, 0), (20_000, 2)):
        with KeptTraces(keep_bytes) as traces:
            read = traces.open(trace, REPLAYED, "6.1", silent)
            read.census(0, None, silent)
            first = columns_of(read.requests())
            passes.clear()
            for _ in range(2):
                assert traces.open(trace, REPLAYED, "6.1", silent) is read
                read.census(0, None, silent)
                assert columns_of(read.requests()) == first
            assert len(passes) == again


def test_requests_that_were_not_all_asked_for_are_not_taken_for_all(trace: Path) -> None:
    with open_trace(trace, columns=REPLAYED) as reader:
        census = take_census(reader)
        stream = RequestStream(reader, census, rows_per_chunk=500, keep_bytes=PLENTY)
        next(iter(stream))
        assert columns_of(stream) == columns_of(stream) == columns_of(RequestStream(reader, census))


def test_who_gives_up_half_way_takes_no_room_from_the_next(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_trace(trace, columns=REPLAYED) as reader:
        census = take_census(reader)
        needed = sum(sum(getattr(chunk, name).nbytes for name, _ in REQUEST_COLUMNS) + 4 * len(chunk)
                     for chunk in RequestStream(reader, census, rows_per_chunk=500))  # fmt: skip
        stream = RequestStream(reader, census, rows_per_chunk=500, keep_bytes=needed + 1)
        next(iter(stream))
        whole = columns_of(stream)
        monkeypatch.setattr(stream, "_made", lambda: pytest.fail("made again"))
        assert columns_of(stream) == whole


def test_a_trace_that_has_changed_is_read_again(trace: Path, tmp_path: Path) -> None:
    place = tmp_path / "trace.csv"
    lines = trace.read_text(encoding="utf-8").splitlines(keepends=True)
    place.write_text("".join(lines[:800]), encoding="utf-8")
    with KeptTraces(PLENTY) as traces:
        def rows(gfp_era: str = "6.1") -> tuple[ReadTrace, int]:
            read = traces.open(place, REPLAYED, gfp_era, silent)
            return read, read.census(0, None, silent).rows

        first, n = rows()
        assert (n, rows()) == (799, (first, 799))
        other = rows("4.19")[0]
        assert other is not first and other.reader.vocab.gfp_era == "4.19"
        replacement = tmp_path / "new"
        replacement.write_text("".join(lines[:500]), encoding="utf-8")
        replacement.rename(place)
        assert rows()[1] == 499
        place.write_text("".join(lines[:700]), encoding="utf-8")
        os.utime(place, ns=(1, 1))
        assert rows()[1] == 699
        place.unlink()
        with pytest.raises(TraceError, match="no such file"):
            rows()
        place.write_text("".join(lines[:600]), encoding="utf-8")
        assert rows()[1] == 599


def test_what_can_be_read_once_is_not_kept(trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(kept, "open_trace", lambda path, **_: opened.append(path) or open_trace(trace))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with KeptTraces(PLENTY) as traces:
        for path in ("-", "-", fifo, fifo):
            traces.open(path, REPLAYED, "6.1", silent)
    assert opened == ["-", "-", fifo, fifo]


def test_a_census_that_failed_is_taken_again(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Census:
        raise TraceError("broken", "trace")

    with KeptTraces(PLENTY) as traces:
        read = traces.open(trace, REPLAYED, "6.1", silent)
        census = read.census(0, None, silent)
        monkeypatch.setattr(kept, "take_census", fail)
        with pytest.raises(TraceError):
            read.census(5, None, silent)
        with pytest.raises(TraceError):  # nor is the last one taken for it
            read.census(5, None, silent)
        monkeypatch.undo()
        assert plain(read.census(0, None, silent)) == plain(census)
