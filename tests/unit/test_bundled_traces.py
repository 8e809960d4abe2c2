"""Are the bundled traces what their descriptions say, and fit to be published?"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest

REAL = "build-and-serve-6.18"
COLUMNS = ["ts_ns", "cpu", "task", "event", "call_site", "ptr", "name", "bytes_req", "bytes_alloc", "gfp_flags", "node",
           "order", "migratetype", "pfn", "text"]  # fmt: skip


@pytest.fixture(scope="module")
def table(bundled: Path) -> pa.Table:
    return pq.read_table(bundled / f"{REAL}.parquet")


def test_columns_and_order(table: pa.Table) -> None:
    assert table.column_names == COLUMNS
    times = table["ts_ns"].to_numpy()
    assert times[0] == 0
    assert (times[1:] >= times[:-1]).all()
    tasks = set(table["task"].to_pylist()) - {None}
    assert 0 <= min(tasks) <= max(tasks) < 2 * len(tasks), "tasks are numbered, not process ids"


def test_counts_are_those_of_the_description(table: pa.Table, bundled: Path) -> None:
    text = (bundled / f"{REAL}.md").read_text()
    said = {name: int(count.replace(",", "")) for name, count in re.findall(r"^\| (\w+) \| ([\d,]+) \|$", text, re.M)}
    found = {row["values"]: row["counts"] for row in table["event"].cast(pa.string()).value_counts().to_pylist()}
    assert said == found
    assert f"{len(table):,} in" in text
    events = table["event"].cast(pa.string()).to_pylist()
    markers = {table["text"][i].as_py(): i for i, event in enumerate(events) if event == "marker"}
    for name, row in markers.items():
        if name.startswith("SNAP_END") or name in ("WL_BEGIN", "WL_END", "PH compile", "PH serve", "PH pack"):
            assert f"{row:,}" in text, name


def test_csv_is_the_beginning_of_the_parquet(table: pa.Table, bundled: Path) -> None:
    types = {field.name: pa.string() if pa.types.is_dictionary(field.type) else field.type for field in table.schema}
    options = pc.ConvertOptions(column_types=types, strings_can_be_null=True, quoted_strings_can_be_null=False)
    read = pc.read_csv(bundled / f"{REAL}-first20k.csv", convert_options=options)
    assert read.equals(table.slice(0, 20_000).cast(read.schema))


def test_nothing_private_and_not_too_large(bundled: Path) -> None:
    files = [path for path in bundled.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files if REAL in str(path)) < 5_000_000
    for path in files:
        data = path.read_bytes()
        for word in (b"/home/", b"/root/", b"comm=", b"pid="):
            assert word not in data, (path, word)


def test_hello_rows_are_explained_one_by_one(bundled: Path) -> None:
    with open(bundled / "hello.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    text = (bundled / "hello.md").read_text()
    explained = re.findall(r"^\| (\d+) \| (\S+)", text, re.M)
    assert [int(number) for number, _ in explained] == list(range(1, len(rows) + 1))
    for (_, said), row in zip(explained, rows, strict=True):
        assert said == row["event"]
