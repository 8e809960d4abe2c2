"""perf.data read directly: against ``perf script`` on the same file, and broken files."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from perf_recording import EVENT_TYPE, perf, record, same_place, sorted_wholly

from memtrace.cli.main import cli
from memtrace.errors import TraceError
from memtrace.trace.event_format import constant, flag_names, parse_format
from memtrace.trace.kallsyms import Symbols
from memtrace.trace.perf_header import TIME, PerfHeader, read_header
from memtrace.trace.perf_spec import RECORD_LOST, RECORD_LOST_SAMPLES, RECORD_ROUND, RECORD_SAMPLE
from memtrace.trace.source import open_trace

NUMBERS = ("ts_ns", "cpu", "task", "event", "ptr", "bytes_req", "bytes_alloc", "node", "order", "migratetype", "pfn")
STRINGS = {"event_name": "event", "name": "name", "gfp_flags": "gfp"}


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A perf.data, and what perf script prints of it."""
    folder = tmp_path_factory.mktemp("perf")
    data = record(folder)
    text = folder / "perf.txt"
    text.write_text(perf("script", "-i", sorted_wholly(data), "--ns"), encoding="utf-8")
    return data, text


def columns(path: Path) -> dict[str, Any]:
    """The columns of a trace, strings as strings, without the rows that stand for losses."""
    with open_trace(path) as reader:
        chunks = list(reader.chunks())
        found = {name: np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in NUMBERS}
        for column, vocab in (STRINGS | {"call_site": "call_site"}).items():
            names = [*getattr(reader.vocab, vocab).names, ""]
            codes = np.concatenate([getattr(chunk, column) for chunk in chunks])
            found[column] = np.array([names[code] for code in codes], object)
    kept = found["event_name"] != "lost_events"
    return {name: values[kept] for name, values in found.items()}


def test_equals_perf_script(recording: tuple[Path, Path]) -> None:
    data, text = recording
    ours, theirs = columns(data), columns(text)
    assert len(ours["ts_ns"]) == len(theirs["ts_ns"]) > 1000
    for name in (*NUMBERS, *STRINGS):
        assert (ours[name] == theirs[name]).all(), (name, np.flatnonzero(ours[name] != theirs[name])[:5])
    pairs = set(zip(ours["call_site"].tolist(), theirs["call_site"].tolist(), strict=True))
    assert [pair for pair in pairs if not same_place(*pair)] == []


@pytest.mark.parametrize("packed", [False, True])
def test_convert_writes_what_is_read(recording: tuple[Path, Path], tmp_path: Path, packed: bool) -> None:
    """Written at once, while it is decoded, or from the temporary file that replays read: the same."""
    data, out, by_csv = recording[0], tmp_path / "out.parquet", tmp_path / "by.csv"
    if packed:
        data = tmp_path / "perf.data.gz"
        data.write_bytes(gzip.compress(recording[0].read_bytes(), 1))
    said = [CliRunner().invoke(cli, ["convert", str(data), str(target)]) for target in (out, by_csv)]
    assert all(run.exit_code == 0 for run in said), said
    assert said[0].stdout.replace(str(out), "OUT") == said[1].stdout.replace(str(by_csv), "OUT")
    again, read = columns(by_csv), columns(recording[0])
    for name, values in columns(out).items():
        assert (values == read[name]).all() and (values == again[name]).all(), name
    with open_trace(recording[0]) as reader, open_trace(out) as written:
        assert reader.columns() == written.columns()
        for (_, one), (_, two) in zip(reader.chunks_with_text(), written.chunks_with_text(), strict=True):
            assert one.equals(two)
        for cause in ("unknown_event", "lost_events"):
            assert reader.problems.get(cause) == written.problems.get(cause)
    assert sorted(path.name for path in tmp_path.iterdir() if path != data) == ["by.csv", "out.parquet"]


def samples_of(data: bytes) -> tuple[PerfHeader, list[tuple[int, int]]]:
    """The header, and (place, bytes) of each sample."""
    header = read_header(memoryview(data), "x")
    at, samples = header.begin, []
    while at < header.end:
        kind, _, size = struct.unpack_from("<IHH", data, at)
        if kind == RECORD_SAMPLE:
            samples.append((at, size))
        at += size
    return header, samples


def test_an_event_that_came_late_is_put_in_its_place(recording: tuple[Path, Path], tmp_path: Path) -> None:
    """perf itself handles it where it happens to be; see `sorted_wholly` in perf_recording.py."""
    data = recording[0].read_bytes()
    header, samples = samples_of(data)
    at, size = samples[len(samples) // 3]
    path = tmp_path / "late.data"
    path.write_bytes(data[:at] + data[at + size : header.end] + data[at : at + size] + data[header.end :])
    late, plain = columns(path), columns(recording[0])
    for name in ("ts_ns", "cpu", "ptr", "pfn", "event_name"):
        assert (late[name] == plain[name]).all(), name


def in_rounds(data: bytes, rounds: list[list[bytes]]) -> bytes:
    """The recording with these samples instead of its own, behind each list of them the mark that a round ends."""
    header = read_header(memoryview(data), "x")
    at, kept = header.begin, b""
    while at < header.end:
        kind, _, size = struct.unpack_from("<IHH", data, at)
        if kind not in (RECORD_SAMPLE, RECORD_ROUND):
            kept += data[at : at + size]
        at += size
    kept += b"".join(b"".join(samples) + struct.pack("<IHH", RECORD_ROUND, 0, 8) for samples in rounds)
    while left := header.end - header.begin - len(kept):
        size = min(left, 1 << 15)
        kept += struct.pack("<IHH", EVENT_TYPE, 0, size) + bytes(size - 8)
    return data[: header.begin] + kept + data[header.end :]


def test_a_small_window_is_enough_for_what_perf_promises(
    recording: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a round brings is not older than the round before it; what is, is kept, told late and counted."""
    data, path, out = recording[0].read_bytes(), tmp_path / "x.data", tmp_path / "out.parquet"
    header, places = samples_of(data)
    samples = [data[at : at + size] for at, size in places[:3000]]
    samples.sort(key=lambda sample: struct.unpack_from("<Q", sample, header.sample_offset(TIME)))
    rounds = [samples[at : at + 50] for at in range(0, 3000, 50)]
    path.write_bytes(in_rounds(data, rounds))
    right = columns(path)
    random = np.random.default_rng(3)
    shuffled = [[some[i] for i in random.permutation(len(some))] for some in rounds]
    # Neighbours share their samples, as when a CPU's buffer is emptied late in one round and early in the next.
    for one, two in zip(shuffled[::2], shuffled[1::2], strict=True):
        one[:25], two[:25] = two[:25], one[:25]
    late = [list(some) for some in shuffled]
    late[40].append(late[10].pop())
    # The window: all of it, one round, and a few samples where rounds are longer than that.
    for window, room in ((1 << 18, 1 << 20), (1, 1 << 20), (1, 7)):
        monkeypatch.setattr("memtrace.trace.perf_data.BATCH", window)
        monkeypatch.setattr("memtrace.trace.perf_data._FULL", room)
        for content, backwards in ((shuffled, 0), (late, int(window == 1))):
            path.write_bytes(in_rounds(data, content))
            with open_trace(path, keep=out) as reader:
                assert reader.problems.get("time_backwards", 0) == backwards and reader.rows == 3000
            found = columns(out)
            assert (np.diff(found["ts_ns"]) >= 0).all()
            for name in () if backwards else ("ts_ns", "cpu", "ptr", "pfn", "event_name"):
                # Of equal times the order is the file's, which is another one here.
                assert (found[name][by_time(found)] == right[name][by_time(right)]).all(), (name, window)
            assert sorted(found["ptr"].tolist()) == sorted(right["ptr"].tolist())


def by_time(found: dict[str, Any]) -> np.ndarray:
    return np.lexsort((found["event"], found["pfn"], found["ptr"], found["cpu"], found["ts_ns"]))


@pytest.mark.parametrize(("summed", "told"), [(5, 5), (9, 9), (0, 5)])
def test_losses_are_counted_once(recording: tuple[Path, Path], tmp_path: Path, summed: int, told: int) -> None:
    """perf says of losses where they happened, and may sum them up once more at its end, without a time."""
    data = bytearray(recording[0].read_bytes())
    header, samples = samples_of(bytes(data))
    for (place, size), kind, body, time in (
        (samples[len(samples) // 2], RECORD_LOST, (0, 5), None), (samples[-1], RECORD_LOST_SAMPLES, (summed, 0), 0)
    ):  # fmt: skip
        when = struct.unpack_from("<Q", data, place + header.sample_offset(TIME))[0] if time is None else time
        data[place : place + size] = struct.pack("<IHHQQ", kind, 0, size, *body) + bytes(size - 24)
        struct.pack_into("<Q", data, place + size - header.trailer_offset(TIME), when)
    path = tmp_path / "lost.data"
    path.write_bytes(data)
    with open_trace(path) as reader:
        assert reader.problems == {**reader.problems, "lost_events": told}
        assert "time_backwards" not in reader.problems
        rows = sum(len(chunk) for chunk in reader.chunks())
    assert rows == len(samples) - 2 + (2 if told > 5 else 1)
    for keep in (tmp_path / "kept.parquet", None):  # while it is converted, and when that is read again
        with open_trace(path, keep=keep) as reader:
            assert sum(len(chunk) for chunk in reader.chunks()) == rows
            assert reader.problems["lost_events"] == told
        path = tmp_path / "kept.parquet"


def test_compressed_and_standard_input_are_the_same(recording: tuple[Path, Path], tmp_path: Path) -> None:
    packed = tmp_path / "perf.data.gz"
    packed.write_bytes(gzip.compress(recording[0].read_bytes(), 1))
    with open_trace(recording[0]) as plain, open_trace(packed) as other:
        assert plain.format == other.format == "perf.data"
        for one, two in zip(plain.chunks(), other.chunks(), strict=True):
            assert (one.ts_ns == two.ts_ns).all() and (one.ptr == two.ptr).all()


def test_symbols_can_be_given(recording: tuple[Path, Path], tmp_path: Path) -> None:
    symbols = tmp_path / "kallsyms"
    symbols.write_text("0000000000000001 T low\nffffffff81000000 T only\nffffffffff000000 T last\n")
    with open_trace(recording[0], symbols=symbols) as reader:
        next(iter(reader.chunks()))
        assert any(name.startswith(("only+0x", "0xffffffff")) for name in reader.vocab.call_site.names)
        assert reader.problems["unnamed_call_site"] > 0
    symbols.write_text("0000000000000000 T a\n0000000000000000 T b\n")
    with pytest.raises(TraceError, match="as root"):
        open_trace(recording[0], symbols=symbols)


@pytest.mark.parametrize("cut", [8, 60, 104, 150, 3000])
def test_cut_off_files_are_refused_in_one_line(recording: tuple[Path, Path], tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.data"
    path.write_bytes(recording[0].read_bytes()[:cut])
    with pytest.raises(TraceError) as error:
        open_trace(path)
    assert "expected" in str(error.value) and "\n" not in str(error.value)


def test_damaged_bytes_never_crash(recording: tuple[Path, Path], tmp_path: Path) -> None:
    whole = recording[0].read_bytes()
    path = tmp_path / "damaged.data"
    random = np.random.default_rng(5)
    for _ in range(15):
        data = bytearray(whole)
        for place in random.integers(8, len(data), 40).tolist() + random.integers(8, 3000, 2).tolist():
            data[place] = int(random.integers(256))
        path.write_bytes(data)
        try:
            with open_trace(path) as reader:
                sum(len(chunk) for chunk in reader.chunks())
        except TraceError as error:
            assert "\n" not in str(error)


def test_other_kinds_of_perf_data_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "x.data"
    path.write_bytes(b"2ELIFREP" + bytes(200))
    with pytest.raises(TraceError, match="big-endian"):
        open_trace(path)
    path.write_bytes(b"PERFILE2" + struct.pack("<Q", 16) + bytes(200))
    with pytest.raises(TraceError, match="pipe"):
        open_trace(path)


def test_event_descriptions() -> None:
    format = parse_format(
        "name: kmalloc\nID: 12\nformat:\n\tfield:unsigned long call_site;\toffset:8;\tsize:8;\tsigned:0;\n"
        "\tfield:__data_loc char[] name;\toffset:16;\tsize:4;\tsigned:0;\n"
        "\tfield:int node;\toffset:20;\tsize:4;\tsigned:1;\n"
        'print fmt: "%s order=0", __print_flags(REC->gfp_flags, "|", '
        '{( unsigned long)((( gfp_t)((1UL) << (5)))|(( gfp_t)0x800u)), "GFP_A"}, {0x20u, "B"}, { 0, ((void *)0) })'
    )
    assert (format.name, format.id, format.flags) == ("kmalloc", 12, ((0x820, "GFP_A"), (0x20, "B")))
    assert format.printed_order == 0
    name = format.field("name")
    assert name is not None and name.place == 1 and name.is_text and format.field("node").signed  # type: ignore[union-attr]
    assert flag_names(format.flags, 0x820 | 1) == "GFP_A|0x1" and flag_names(format.flags, 0) == "none"
    assert constant("1 << 99999999") == 0 and constant("__import__('os')") == 0 and constant("~1") == 2**64 - 2


def test_symbols() -> None:
    symbols = Symbols("1000 T _text\n1000 T startup\n2000 t __a\n2000 T a\n3000 t in_module\t[ext4]\n4000 D data\n")
    assert [symbols.name(at) for at in (0xFFF, 0x1001, 0x2010, 0x3000)] == [
        "", "startup+0x1", "a+0x10", "in_module+0x0 [ext4]"
    ]  # fmt: skip
