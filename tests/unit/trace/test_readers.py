"""Reading: the same rows whatever the form of the file, and what real recordings hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memtrace.trace.schema import CHUNK_COLUMNS, EV_KMALLOC, NO_NODE
from memtrace.trace.source import TraceReader, open_trace

VOCABS = {"event_name": "event", "call_site": "call_site", "name": "name", "gfp_flags": "gfp", "ctx": "ctx"}
RECORDINGS = ("debcloud_std_512m", "i386_slub_std_1536m", "slab_std_512m", "slob_std_512m", "slub_press_256m",
              "slub_std_512m", "slub_std_numa2_1g")  # fmt: skip


def strings(reader: TraceReader, name: str, codes: np.ndarray) -> np.ndarray:
    return np.array([*getattr(reader.vocab, VOCABS[name]).names, None], object)[codes]


def columns(reader: TraceReader, limit: int = 1 << 62) -> dict[str, np.ndarray]:
    """All columns of the first ``limit`` rows, strings as strings."""
    parts, texts, rows = [], [], 0
    for chunk, text in reader.chunks_with_text(4096):
        parts.append(chunk)
        texts += text.to_pylist()
        rows += len(chunk)
        if rows >= limit:
            break
    found = {name: np.concatenate([getattr(part, name) for part in parts])[:limit] for name, _, _ in CHUNK_COLUMNS}
    for name in VOCABS:
        found[name] = strings(reader, name, found[name])
    return found | {"text": np.array(texts, object)[:limit]}


# --------------------------------------------------------------------------- real recordings


@pytest.mark.parametrize("name", RECORDINGS)
def test_ftrace_text_equals_the_parquet_made_of_it(ground_truth: Path, name: str) -> None:
    """sample.txt.gz is the beginning of the text of trace.parquet, without what only the lab kernels have."""
    with open_trace(ground_truth / name / "sample.txt.gz") as reader:
        assert (reader.format, reader.problems) == ("ftrace", {})
        text = columns(reader)
    n = len(text["ts_ns"])
    assert n == 1988
    with open_trace(ground_truth / name / "trace.parquet") as reader:
        parquet = columns(reader, 2 * n)
    lab = [event.startswith("gt_") or (said or "").startswith("GT_SNAP")
           for event, said in zip(parquet["event_name"], parquet["text"], strict=True)]  # fmt: skip
    kept = ~np.array(lab)
    for column in text:
        if column != "gt_name":
            assert (parquet[column][kept][:n] == text[column]).all(), column


@pytest.mark.parametrize(("allocator", "rows"), [("SLAB", 10458), ("SLUB", 11540), ("SLOB", 10472)])
def test_boot_logs_of_3_x_are_read_without_an_unexplained_line(ground_truth: Path, allocator: str, rows: int) -> None:
    with open_trace(ground_truth / "linux-3.x_boot" / f"kmem_{allocator}.log.gz") as reader:
        assert (reader.rows, reader.format, reader.problems) == (rows, "ftrace", {})
        found = columns(reader)
    assert set(found["event_name"]) == {"kmalloc", "kfree", "kmem_cache_alloc", "kmem_cache_free"}
    assert found["ts_ns"][0] == 0 and (np.diff(found["ts_ns"]) >= 0).all()
    if allocator == "SLAB":  # the published account of this log
        allocs = found["bytes_req"] >= 0
        live: dict[int, tuple[int, int]] = {}
        for ptr, asked, got in zip(found["ptr"], found["bytes_req"], found["bytes_alloc"], strict=True):
            if asked >= 0:
                live[int(ptr)] = (int(asked), int(got))
            else:
                live.pop(int(ptr), None)
        assert sum(asked for asked, _ in live.values()) == 618_823
        assert sum(got for _, got in live.values()) == 669_696
        assert np.count_nonzero(allocs) == 7649 and len(set(found["call_site"][allocs])) == 115


def test_a_recording_of_perf_has_its_own_tasks_and_nulls(ground_truth: Path) -> None:
    with open_trace(ground_truth / "linux-6.18_find_tar" / "trace.parquet") as reader:
        chunk = next(reader.chunks(2000))
        assert reader.rows == 993082
        kinds = chunk.event_name == reader.vocab.event.codes["mm_page_alloc"]
        assert (chunk.node[kinds] == NO_NODE).all() and (chunk.bytes_req[kinds] == -1).all()
        assert (chunk.pfn[kinds] > 0).all() and (chunk.ptr[kinds] == 0).all() and (chunk.call_site[kinds] == -1).all()
        assert (chunk.pfn[chunk.event == EV_KMALLOC] == -1).all()


def test_pids_become_small_numbers(ground_truth: Path) -> None:
    source = ground_truth / "slub_std_512m" / "trace.parquet"
    pids = pq.ParquetFile(source).read_row_group(0, columns=["pid"])["pid"].to_numpy()[:300_000]
    expected = {pid: i for i, pid in enumerate(dict.fromkeys(pids.tolist()))}
    with open_trace(source, columns=["task"]) as reader:
        tasks = np.concatenate([chunk.task for chunk in reader.chunks(50_000)])[:300_000]
    assert (tasks == [expected[pid] for pid in pids.tolist()]).all()


# --------------------------------------------------------------------------- forms of Parquet


def table(**changes: object) -> pa.Table:
    base: dict[str, object] = {
        "ts_ns": pa.array([0, 5, 5, 9], pa.int64()), "cpu": pa.array([0, 1, 0, 1], pa.int16()),
        "event": ["kmalloc", "kmalloc_node", "mm_page_alloc", "my_event"],
        "call_site": ["a", "b", None, None], "ptr": pa.array([2**64 - 4096, 64, None, 0], pa.uint64()),
        "bytes_req": pa.array([8, None, None, None], pa.int64()), "node": pa.array([-1, 0, None, -2], pa.int16()),
        "pfn": pa.array([None, None, 77, -1], pa.int64()), "migratetype": pa.array([None, -2, 1, -1], pa.int16()),
    }  # fmt: skip
    return pa.table({name: column for name, column in (base | changes).items() if column is not None})


EXPECTED = {
    "ts_ns": [0, 5, 5, 9], "cpu": [0, 1, 0, 1], "event": [2, 2, 6, 0],
    "event_name": ["kmalloc", "kmalloc", "mm_page_alloc", "my_event"], "call_site": ["a", "b", None, None],
    "ptr": [2**64 - 4096, 64, 0, 0], "bytes_req": [8, -1, -1, -1], "node": [-1, 0, -2, -2],
    "pfn": [-1, -1, 77, -1], "migratetype": [-1, -1, 1, -1], "order": [-1] * 4, "task": [-1] * 4, "name": [None] * 4,
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ptr": pa.array([-4096, 64, None, 0], pa.int64())},
        {"ptr": ["0xfffffffffffff000", "40", None, "(null)"]},
        {"event": pa.array(["kmalloc", "kmalloc_node", "mm_page_alloc", "my_event"]).dictionary_encode()},
        {"event": pa.array(["kmalloc", "kmalloc_node", "mm_page_alloc", "my_event"], pa.large_string())},
        {"call_site": pa.array(["a", "b", None, None]).dictionary_encode()},
        {"ts_ns": pa.array([0, 5, 5, 9], pa.uint32()), "cpu": pa.array([0, 1, 0, 1], pa.uint8())},
        {"pfn": pa.array([None, None, 77, None], pa.uint64())},
        {"bytes_req": pa.array([8, None, None, None], pa.uint16())},
        {"ts_ns": pa.array([1000, 1005, 1005, 1009], pa.int64())},
        {"order": pa.nulls(4), "name": pa.nulls(4, pa.string()), "extra": [1, 2, 3, 4], "comm": ["a"] * 4},
        {"task": ["bash"] * 4},
    ],
    ids=lambda changes: " ".join(changes) or "none",
)
@pytest.mark.parametrize("rows_per_group", [4, 1])
def test_the_same_rows_whatever_the_types(tmp_path: Path, changes: dict[str, object], rows_per_group: int) -> None:
    pq.write_table(table(**changes), tmp_path / "t.parquet", row_group_size=rows_per_group)
    with open_trace(tmp_path / "t.parquet") as reader:
        for _ in range(2):
            found = columns(reader)
            for name, values in EXPECTED.items():
                assert found[name].tolist() == values, name
            assert reader.problems == {"unknown_event": 1} and reader.problem_rows == {"unknown_event": 4}


def test_only_a_pid(tmp_path: Path) -> None:
    pids = pa.array([900, 3, None, 900], pa.int32())
    pq.write_table(table(pid=pids, task=["bash"] * 4), tmp_path / "t.parquet")
    with open_trace(tmp_path / "t.parquet") as reader:
        assert columns(reader)["task"].tolist() == [0, 1, -1, 0]
    pq.write_table(table(pid=pids, task=pa.array([5, 6, 7, 8], pa.int8())), tmp_path / "t.parquet")
    with open_trace(tmp_path / "t.parquet") as reader:
        assert columns(reader)["task"].tolist() == [5, 6, 7, 8]


def test_columns_that_are_not_needed_are_not_read(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "t.parquet")
    with open_trace(tmp_path / "t.parquet", columns=["pfn"]) as reader:
        chunk = next(reader.chunks())
        assert chunk.pfn.tolist() == [-1, -1, 77, -1] and chunk.bytes_req.tolist() == [-1] * 4
        assert len(reader.vocab.call_site) == 0


def test_two_readings_at_once_and_one_that_is_given_up(bundled: Path) -> None:
    """The next rows are decompressed ahead, in the order in which each reading wants them."""
    with open_trace(bundled / "build-and-serve-6.18.parquet") as reader:
        whole = np.concatenate([chunk.ptr for chunk in reader.chunks()])
        given_up = reader.chunks(1000)
        next(given_up)
        pairs = list(zip(reader.chunks(7_000), reader.chunks(7_000), strict=True))
        for side in (0, 1):
            assert (np.concatenate([pair[side].ptr for pair in pairs]) == whole).all()
        assert next(given_up).row0 == 1000


def test_text_is_kept_only_where_it_is_used(tmp_path: Path) -> None:
    events = ["marker", "gt_slab", "percpu_alloc_percpu", "mm_page_alloc_zone_locked"]
    pq.write_table(table(event=events, text=["m", "new objects=4", None, "page=1 pfn=2"]), tmp_path / "t.parquet")
    with open_trace(tmp_path / "t.parquet") as reader:
        chunk = next(reader.chunks())
        texts = [reader.vocab.text.names[code] if code >= 0 else None for code in chunk.text]
        assert texts == ["m", "new objects=4", None, None]
        assert columns(reader)["text"].tolist() == ["m", "new objects=4", None, "page=1 pfn=2"]


# --------------------------------------------------------------------------- forms of CSV and text

HAND_WRITTEN = """# A page and an object.
event , ts_ns,ptr,cpu, bytes_req,order,colour

kmalloc,      0,  0x10, 0, 100,  ,red
mm_page_alloc,7,  55,   1,    , 2,
kfree,        9,  16,   0,    ,  ,
kfree,        9,(null), 0,    ,  ,"x,y"
"""


def test_a_hand_written_trace(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(HAND_WRITTEN)
    with open_trace(tmp_path / "t.csv") as reader:
        found = columns(reader)
        assert reader.format == "csv" and reader.problems == {"column_ignored: colour": 1}
    assert found["event_name"].tolist() == ["kmalloc", "mm_page_alloc", "kfree", "kfree"]
    assert found["ptr"].tolist() == [16, 55, 16, 0] and found["pfn"].tolist() == [-1] * 4
    assert found["bytes_req"].tolist() == [100, -1, -1, -1] and found["order"].tolist() == [-1, 2, -1, -1]
    assert found["ts_ns"].tolist() == [0, 7, 9, 9] and found["cpu"].tolist() == [0, 1, 0, 0]


def test_perf_script_text(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text(
        "# cmdline : perf record -e kmem:*\n"
        "            perf  7502 [000]  1187.409321:                          kmem:kmalloc: call_site=a+0x1 "
        "ptr=0xffff88810308dca0 bytes_req=32 bytes_alloc=32 gfp_flags=GFP_KERNEL node=-1 accounted=false\n"
        "\tffffffff81634d4d __kmalloc+0x20d ([kernel.kallsyms])\n\n"
        "     Web Content  12/7502  [001]  1187.409400:          1     kmem:mm_page_free: page=0x14f835 "
        "pfn=0x14f835 order=0\n"
    )
    with open_trace(tmp_path / "p.txt") as reader:
        found = columns(reader)
        assert (reader.format, reader.problems) == ("perf-script", {})
    assert found["ts_ns"].tolist() == [0, 79_000] and found["task"].tolist() == [0, 0]
    assert found["ptr"].tolist() == [0xFFFF88810308DCA0, 0] and found["pfn"].tolist() == [-1, 0x14F835]


def test_blocks_and_chunks_may_end_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "x-1 [000] .... 1.{:06d}: kfree: call_site=f ptr=0x{:x}\n"
    (tmp_path / "t.txt").write_text("".join(line.format(i, i) for i in range(1000)))
    monkeypatch.setattr("memtrace.trace.text.BLOCK_BYTES", 17)
    monkeypatch.setattr("memtrace.trace.source.ROWS_PER_CHUNK", 7)
    with open_trace(tmp_path / "t.txt") as reader:
        assert [int(ptr) for chunk in reader.chunks(13) for ptr in chunk.ptr] == list(range(1000))


def test_progress_is_told_in_bytes(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(HAND_WRITTEN)
    told: list[tuple[int, int]] = []
    with open_trace(path, progress=lambda done, total: told.append((done, total))):
        assert told[-1] == (len(HAND_WRITTEN), len(HAND_WRITTEN))
