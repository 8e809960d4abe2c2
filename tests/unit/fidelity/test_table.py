"""The fidelity table: shares, differences and what is written."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from memtrace.fidelity.table import FORCED, FREE, Row, Table, shown_share


def a_table() -> Table:
    table = Table()
    table.decisions("pages", FORCED, "end", compared=200_000, equal=199_998)
    table.quantities("slabs", FREE, "end", {"a": 10, "b": 5, "c": 1}, {"a": 10, "b": 7, "d": 2})
    table.differ("pages", FORCED, "end", "DMA", "0x10", "0x20", row=7)
    table.repair("order", 2)
    table.repair("order")
    return table


def test_quantities_sum_absolute_differences() -> None:
    row = a_table().rows[1]
    assert (row.compared, row.wrong) == (16, 2 + 1 + 2)
    assert {d.item: (d.recorded, d.model) for d in a_table().differences if d.what == "slabs"} == {
        "b": ("5", "7"), "c": ("1", "0"), "d": ("0", "2"),
    }  # fmt: skip


def test_a_share_is_never_rounded_up_to_all() -> None:
    for compared in (10, 1_000, 100_000, 10_000_000):
        assert shown_share(Row("x", FORCED, "", compared, compared - 1)) != "100 %"
        assert not shown_share(Row("x", FORCED, "", compared, compared - 1)).startswith("100")
    assert shown_share(Row("x", FORCED, "", 5, 5)) == "100 %"
    assert shown_share(Row("x", FORCED, "", 0, 0)) == "–"


def test_text_names_rows_and_largest_differences() -> None:
    text = "\n".join(a_table().text())
    assert "199,998" not in text
    assert "200,000" in text
    assert "at row 7" in text
    assert text.index("forced:") < text.index("free-running:") < text.index("Largest differences")


def test_written_tables_hold_everything(tmp_path: Path) -> None:
    table = a_table()
    table.write(tmp_path)
    rows = pq.read_table(tmp_path / "fidelity.parquet").to_pylist()
    assert [(row["what"], row["compared"], row["equal"], row["wrong"]) for row in rows] == [
        ("pages", 200_000, 199_998, 2), ("slabs", 16, 11, 5),
    ]  # fmt: skip
    assert pq.read_table(tmp_path / "differences.parquet").num_rows == len(table.differences) == 4
    said = json.loads((tmp_path / "fidelity.json").read_text())
    assert said["repairs"] == {"order": 3}
    assert said["rows"][0]["share"] == 199_998 / 200_000
